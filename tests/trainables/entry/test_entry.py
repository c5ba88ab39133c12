"""An entry's folder: its revisions, the form from the record, the checklist, and what is refused."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sweeper.confirmation import conclusion
from sweeper.journal import hours
from sweeper.journal.events import End, Report, Session, Verdict
from sweeper.journal.journal import Journal
from sweeper.spec.load import resolve
from tests.sweeper import conftest, in_process  # noqa: F401 # the first keeps Ray to this machine
from tests.trainables.tiny import write_corpus
from trainables import entry, mlm
from trainables.entry import checklist, form, runs
from trainables.evaluation import rules
from trainables.settings import word_amounts

SETS = ["data.tokenizer=train:300", "data.block=16", "data.held_out=0.1", "length.words=700", "batch_size=4"]
SETS += ["model.hidden=16", "model.layers=1", "model.intermediate=16", "model.heads=2", "model.max_positions=32"]
SERIES = ["chck_200", "chck_700"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    """A folder of `trainables.mlm --output` with a series; to be read only."""
    folder = tmp_path_factory.mktemp("alone") / "run.of.mine"
    sets = [f"data.corpus=files:{corpus}", "series=[200, 700]", *SETS]
    arguments = [part for setting in sets for part in ("--set", setting)]
    assert mlm.main([*arguments, "--threads", "1", "--output", str(folder)]) == 0
    return folder


def enter(folder: Path, out: Path, *arguments: str) -> int:
    return entry.main([str(folder), "--out", str(out), "--threads", "1", *arguments])


def read(out: Path) -> dict[str, Any]:
    return json.loads((out / "entry.json").read_text("utf-8"))


def values(tree: dict[str, Any]) -> dict[str, Any]:
    return {answer["question"]: answer["value"] for answer in tree["form"]}


def states(tree: dict[str, Any]) -> dict[str, str]:
    return {item["what"]: item["state"] for item in tree["checklist"]}


def test_a_run_alone_becomes_a_folder_of_revisions_that_load(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    out = tmp_path / "entry"
    assert enter(run, out) == 0
    assert sorted(path.name for path in out.iterdir()) == sorted(["main", *SERIES, "ENTRY.md", "entry.json"])
    told = capsys.readouterr()
    assert told.err.splitlines()[-1] == f"entry: {out / 'ENTRY.md'}"
    assert f"there    further checkpoints: {', '.join(SERIES)}" in told.out
    tree = read(out)
    assert tree["model"] == "run-of-mine", "the challenge's scripts cut a folder's name at its last dot"
    assert list(tree["revisions"]) == ["main", *SERIES]
    for name, place in tree["revisions"].items():
        assert place == f"{name}/run-of-mine", "the same last name everywhere: results are filed under it"
        folder = out / place
        whole = run / ("checkpoint/bundle" if name == "main" else f"series/{name}")
        for path in folder.iterdir():
            assert path.read_bytes() == (whole / path.name).read_bytes()
        assert {path.name for path in folder.iterdir()} <= set(runs.FILES)
        model = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True)
        assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    assert enter(run, tmp_path / "again") == 0
    assert read(tmp_path / "again") == tree


def test_the_form_has_what_the_record_has(run: Path, tmp_path: Path) -> None:
    assert enter(run, tmp_path / "entry") == 0
    found = values(read(tmp_path / "entry"))
    bundle = run / "checkpoint" / "bundle"
    metadata = json.loads((bundle / "metadata.json").read_text("utf-8"))
    settings = mlm.Config.model_validate(_settings(bundle))
    parts = metadata["data"]["parts"]
    assert found["words seen in training"] == metadata["words"] >= 700
    assert found["words of the corpus"] == sum(part["words"] for part in parts.values())
    assert found["epochs"] == round(settings.steps * 4 / parts["train"]["blocks"], 2)
    assert found["parameters"] == sum(each.numel() for each in load_file(bundle / "model.safetensors").values())
    assert found["steps"] == metadata["step"] == settings.steps
    flops = found["FLOPs of training"]
    assert type(flops) is int
    entries = metadata["data"]["vocabulary"]
    layer = 2 * (4 * 16**2 + 2 * 16 * 16) + 4 * 16 * 16  # products of a token: attention and feed-forward
    head = 2 * (16**2 + 16 * entries)
    assert flops == 3 * settings.steps * (64 * layer + settings.predicted_per_step * head)
    assert 0 < found["hours of training"] < 0.1
    assert found["GPU hours"] == 0
    assert found["seed"] == 0
    assert "learning rate 0.0005" in found["optimiser"]
    assert found["masking"].startswith("with 15% of the positions predicted")
    page = (tmp_path / "entry" / "ENTRY.md").read_text("utf-8")
    assert f"- FLOPs of training: **{flops}**" in page


def _settings(bundle: Path) -> dict[str, Any]:
    import yaml

    return yaml.safe_load((bundle / "training_config.yaml").read_text("utf-8"))


def test_the_checklist_of_a_short_run(run: Path, tmp_path: Path) -> None:
    assert enter(run, tmp_path / "entry") == 0
    tree = read(tmp_path / "entry")
    found = states(tree)
    assert found["model and tokenizer"] == found["choice of the run"] == found["words seen"] == "there"
    assert found["revisions of the track"] == found["predictions"] == "missing"
    assert found["further checkpoints"] == "there"
    assert found["repository"] == found["authors and paper"] == found["licence"] == "person"
    note = next(item["note"] for item in tree["checklist"] if item["what"] == "revisions of the track")
    assert note.startswith("none is asked for below 1,000,000 words, and the run saw 7")
    page = (tmp_path / "entry" / "ENTRY.md").read_text("utf-8")
    for item in tree["checklist"]:
        mark = "x" if item["state"] == "there" else " "
        assert f"- [{mark}] {item['what']}: " in page


def test_each_revision_is_pushed_as_a_branch_by_commands_that_the_client_knows(run: Path, tmp_path: Path) -> None:
    assert enter(run, tmp_path / "entry") == 0
    page = (tmp_path / "entry" / "ENTRY.md").read_text("utf-8")
    commands = [shlex.split(line) for line in page.splitlines() if line.startswith("    hf ")]
    uploads = [command[3:] for command in commands if command[1] == "upload"]
    expected = [[f"{name}/run-of-mine", ".", "--revision", name] for name in SERIES]
    assert uploads == [["main/run-of-mine", "."], *expected]
    branches = [command[5] for command in commands if command[1:4] == ["repos", "branch", "create"]]
    assert branches == SERIES
    for place, *_ in uploads:
        assert (tmp_path / "entry" / place).is_dir(), "as seen from the entry's own folder"


def test_the_revisions_that_are_asked_for() -> None:
    assert tuple(map(word_amounts.folder_name, word_amounts.PUBLISHED)) == rules.CHECKPOINTS
    assert word_amounts.PUBLISHED == rules.WORDS
    assert len(checklist.required(None)) == len(checklist.required(100_000_000)) == 19
    ten = [f"chck_{n}M" for n in range(1, 11)]
    assert checklist.required(20_000_000) == [*ten, "chck_20M"], "1M, 2M, ..., 10M, 20M, as the challenge says"
    assert checklist.required(19_999_999) == ten
    assert checklist.required(999_999) == []


def listed(seen: int | None, series: list[str], **metadata: Any) -> dict[str, checklist.Item]:
    chosen = runs.Chosen("mine", Path("x"), dict.fromkeys(series, Path("y")))
    found = form.Facts(None, {"words": seen, **metadata}, 1, 1)
    return {item.what: item for item in checklist.items(chosen, found, form.answers(chosen, found), None)}


def test_what_lacks_is_named() -> None:
    whole = listed(100_000_100, list(rules.CHECKPOINTS))
    assert whole["revisions of the track"].state == "there"
    assert "length" not in whole
    some = listed(5_100_000, ["chck_1M", "chck_3M", "chck_500K"])
    assert some["revisions of the track"].state == "missing"
    lacking = "2 of 5 for 5,100,000 words seen; chck_2M, chck_4M, chck_5M are missing"
    assert some["revisions of the track"].note.startswith(lacking)
    assert some["length"].state == "person"
    assert some["further checkpoints"].note.startswith("chck_500K: ")
    assert listed(100_000_000, [])["words seen"].state == "there"
    assert listed(100_004_000, [])["words seen"].state == "person", "the last step passed it"
    assert listed(100_300_000, [])["words seen"].state == "missing"
    assert listed(None, [])["words seen"].state == "person"
    parts = {"train": {"words": 9_000_000}, "val": {"words": 600_000}, "test": {"words": 500_000}}
    large = listed(1, [], data={"parts": parts})["words of the corpus"]
    assert (large.state, large.note.partition(",000")[0]) == ("missing", "10,100")
    config = mlm.Config.model_construct(**dict(mlm.Config(steps=100, batch_size=8)))
    for blocks, state in ((81, "there"), (80, "there"), (79, "missing")):
        data = {"parts": {"train": {"blocks": blocks}}}
        facts = form.Facts(config, {"step": 100, "data": data}, 1, 1)
        chosen = runs.Chosen("mine", Path("x"), cautions=["it is odd"])
        items = {item.what: item for item in checklist.items(chosen, facts, form.answers(chosen, facts), None)}
        assert items["epochs"].state == state, "at most ten passes"
        assert items["caution"].note == "it is odd"
    unknown = listed(None, [])
    assert unknown["form, FLOPs of training"].state == unknown["form, hours of training"].state == "person"


ROW = dict.fromkeys(("step", "train/loss", "val/loss", "val/loss_mask", "val/unigram_mask"), 1)


def test_the_clock_goes_on_over_sessions(tmp_path: Path) -> None:
    path = tmp_path / "clock.json"
    for device, gpu_seconds in (("cuda:0", 101), ("cpu", 50)):
        before = mlm.Spent(100.0, 100.0 if device == "cuda:0" else 50.0)
        (tmp_path / "new").mkdir()
        mlm._reporter(tmp_path / "checkpoint", device, before)(ROW, tmp_path / "new")
        told = mlm._spent(path)
        assert told is not None
        assert 100 <= told.seconds < 101
        assert gpu_seconds - 1 <= told.gpu_seconds <= gpu_seconds, "a session on a CPU adds none"
    clock = runs._own_clock(tmp_path)
    assert (clock.hours or 0) * (clock.gpus or 0) == pytest.approx(50 / 3600)


@pytest.mark.parametrize(
    "content",
    [None, "[", "{}", '{"seconds": 12.5}', '{"seconds": "x", "gpu_seconds": 0}', '{"seconds": -1, "gpu_seconds": 0}'],
)
def test_a_clock_that_lost_earlier_sessions_is_kept_no_longer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    path = tmp_path / "clock.json"
    if content is not None:
        path.write_text(content, "utf-8")
    before = mlm._spent(path)
    assert before is None
    assert "does not say how long the earlier sessions took" in capsys.readouterr().err
    (tmp_path / "new").mkdir()
    mlm._reporter(tmp_path / "checkpoint", "cpu", before)(ROW, tmp_path / "new")
    assert not path.exists()
    assert runs._own_clock(tmp_path).hours is None


# --- a sweep ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sweep(corpus: Path, tmp_path_factory: pytest.TempPathFactory, cache: None) -> Path:
    """A run folder: a search of three arms, of which the last is best, and a confirmation; its champion is `slow`."""
    model = {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 16, "max_positions": 32, "dropout": 0.0}
    tree = {
        "name": "tiny",
        "trainable": "trainables.mlm:train",
        "config": {"steps": 30, "batch_size": 4, "report_every": 30, "model": model, "series": [100, 400]},
        "data": {"corpus": f"files:{corpus}", "tokenizer": "train:300", "block": 16, "held_out": 0.1},
        "arms": {"baseline": {}, "slow": {"optimiser.lr": 1e-4}, "fast": {"optimiser.lr": 1e-2}},
        "search": {"method": "arms"},
        "seeds": {"search": [1], "confirm": [5, 4]},
        "tracking": {"uri": f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"},
    }
    torch.set_num_threads(1)
    spec = resolve(tree)
    storage = tmp_path_factory.mktemp("runs")
    journal = in_process.sweep(spec, storage, confirm=True)
    run_dir = journal.path.parent
    data = conclusion.conclude(spec, journal, run_dir).to_dict()
    journal.append(Verdict(data=data | {"champion": "slow", "unlearned": None}))
    journal.close()
    return run_dir


def test_a_sweeps_entry_is_its_champion_on_its_first_declared_seed(sweep: Path, tmp_path: Path) -> None:
    assert enter(sweep, tmp_path / "entry") == 0
    tree = read(tmp_path / "entry")
    journal = Journal(sweep / "journal.jsonl", read_only=True)
    record = next(one for one in journal.stage("confirm") if (one.ask.arm, one.ask.seed) == ("slow", 5))
    assert tree["model"] == f"tiny-{record.id}"
    assert values(tree)["seed"] == 5
    assert "learning rate 0.0001" in values(tree)["optimiser"]
    assert states(tree)["choice of the run"] == "there"
    note = next(item["note"] for item in tree["checklist"] if item["what"] == "choice of the run")
    assert note == (
        f"trial {record.id}, the first declared run of slow, which is confirmed: slow, seed 5, of the confirm of tiny"
    )
    assert list(tree["revisions"]) == ["main", "chck_100", "chck_400"]
    weights = sweep / str(record.end and record.end.checkpoint) / "bundle" / "model.safetensors"
    assert (tmp_path / "entry" / "main" / tree["model"] / "model.safetensors").read_bytes() == weights.read_bytes()
    seconds = next(one.time for one in journal.events if getattr(one, "trial", "") == record.id and one is record.end)
    hours = (seconds - record.ask.time) / 3600
    assert values(tree)["hours of training"] == pytest.approx(hours, rel=0.02), "three digits, of rounded seconds"
    assert values(tree)["GPU hours"] == 0


def test_without_a_champion_it_is_the_best_of_the_search_and_says_that_this_is_exploration(
    sweep: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(sweep, tmp_path / sweep.name))
    lines = (copy / "journal.jsonl").read_text("utf-8").splitlines(keepends=True)
    assert '"event": "verdict"' in lines[-1]
    (copy / "journal.jsonl").write_text("".join(lines[:-1]), "utf-8")
    assert enter(copy, tmp_path / "entry") == 0
    tree = read(tmp_path / "entry")
    assert values(tree)["seed"] == 1
    assert "learning rate 0.01" in values(tree)["optimiser"]
    assert states(tree)["choice of the run"] == "person"
    page = (tmp_path / "entry" / "ENTRY.md").read_text("utf-8")
    assert "a score of a search is exploration" in page


def test_a_record_that_was_changed_is_refused_or_the_checklist_says_so(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(sweep, tmp_path / sweep.name))
    path = copy / "journal.jsonl"
    path.write_text(path.read_text("utf-8").replace('"val/loss": ', '"val/loss": 1', 1), "utf-8")
    assert enter(copy, tmp_path / "entry") == 2
    assert "--trust-record goes on anyway" in capsys.readouterr().err
    assert enter(copy, tmp_path / "entry", "--trust-record") == 0
    caution, *_, stuck = (item for item in read(tmp_path / "entry")["checklist"] if item["what"] == "caution")
    assert caution["state"] == "person"
    assert "The record is not what was written" in caution["note"]
    assert stuck["note"] == "this run did not begin to learn"


def judged_again(sweep: Path, folder: Path, **changed: Any) -> Path:
    """A copy whose last verdict says something else."""
    copy = Path(shutil.copytree(sweep, folder / sweep.name))
    journal = Journal(copy / "journal.jsonl")
    journal.append(Verdict(data={**(journal.verdict() or {}), **changed}))
    journal.close()
    return copy


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"unlearned": "All guess."}, "slow is confirmed, but the runs learned too little to mean anything"),
        ({"challenge": {"crowned": None, "said": "the old champion stays"}}, "the old champion stays"),
    ],
)
def test_what_is_not_promoted_is_no_champion_here_either(
    sweep: Path, tmp_path: Path, changed: dict[str, Any], said: str
) -> None:
    found = runs.find(judged_again(sweep, tmp_path, **changed), None)
    assert found.exploration
    assert "the best of the search" in found.why
    assert any(line.startswith(said) for line in found.cautions)
    assert ("All guess." in found.cautions) == ("unlearned" in changed)


def test_the_challenger_that_was_crowned_is_the_champion_with_what_qualifies_it(sweep: Path, tmp_path: Path) -> None:
    journal = Journal(sweep / "journal.jsonl", read_only=True)
    compared = [one | {"verdict": "confirmed"} for one in (journal.verdict() or {})["comparisons"]]
    challenge = {"crowned": "fast", "said": "it is replaced"}
    found = runs.find(judged_again(sweep, tmp_path, comparisons=compared, challenge=challenge, fresh=False), None)
    assert "the first declared run of fast, which is confirmed" in found.why
    assert not found.exploration
    notes = "\n".join(found.cautions)
    assert "the champion is the best of 2 confirmed, so its estimate is optimistic" in notes
    assert "not fresh: earlier runs on this data" in notes
    plain = "\n".join(runs.find(sweep, None).cautions)
    assert "optimistic" not in plain


def test_a_failed_run_of_the_champion_is_passed_over(sweep: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(sweep, tmp_path / sweep.name))
    journal = Journal(copy / "journal.jsonl")
    runs_of = {one.ask.seed: one.id for one in journal.stage("confirm") if one.ask.arm == "slow"}
    journal.append(End(trial=runs_of[5], state="failed", reason="diverged"))
    journal.close()
    found = runs.find(copy, None)
    assert found.why.startswith(f"trial {runs_of[4]}, the first declared run of slow")
    assert "the run of slow on seed 5 did not complete" in found.cautions


def test_any_trial_by_name(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = Journal(sweep / "journal.jsonl", read_only=True)
    record = next(one for one in journal.stage("search") if one.ask.arm == "baseline")
    assert enter(sweep, tmp_path / "entry", "--trial", record.id) == 0
    assert read(tmp_path / "entry")["model"] == f"tiny-{record.id}"
    capsys.readouterr()
    assert enter(sweep, tmp_path / "none", "--trial", "t9999") == 2
    assert "has no completed trial of that name" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def clocked(gpus: float, reports: dict[int, float] | None = None) -> Any:
    """A run of three processes, in which t0002 reported at these steps and seconds."""
    from types import SimpleNamespace

    events = [Report(trial="t0002", step=step, metrics={}, time=at) for step, at in (reports or {}).items()]
    journal: Any = SimpleNamespace(trials={"t0002": SimpleNamespace(rows=events)}, events=events)
    spec = SimpleNamespace(resources=SimpleNamespace(gpus_per_worker=gpus, processes=3))
    return SimpleNamespace(spec=spec, pace=lambda trial: hours.pace(journal, trial))


def test_a_trained_trial_is_not_taken_over_because_another_was() -> None:
    import pandas as pd

    common = {"trial": "t0002", "seconds": 3600.0, "steps": 100, "started_from": None, "started_at": 0}
    rows = pd.DataFrame([common | {"reused_from": None}, common | {"reused_from": "other/t0003"}]).to_dict("records")
    assert [runs._clock(clocked(1), row).hours for row in rows] == [1.0, None]


def test_a_pause_between_sessions_is_no_pace() -> None:
    from types import SimpleNamespace

    rows = [Report(trial="t1000", step=step, metrics={}, time=at) for step, at in ((10, 0), (20, 50), (30, 9e4))]
    last = [Report(trial="t1000", step=step, metrics={}, time=at) for step, at in ((50, 9.02e4), (60, 1e6))]
    session = Session(command="", versions={}, git_commit=None, machine={}, time=8e4)
    journal: Any = SimpleNamespace(
        trials={"t1000": SimpleNamespace(rows=[*rows, *last])}, events=[*rows[:2], session, rows[2], *last]
    )
    assert hours.pace(journal, "t1000") == pytest.approx((50 + 200) / 30)


def test_shared_steps_are_counted_at_the_trials_own_pace() -> None:
    row: dict[str, Any] = {"seconds": 7200.0, "steps": 100, "reused_from": None, "started_from": None, "started_at": 0}
    row["trial"] = "t0002"
    assert runs._clock(clocked(2), row) == runs.Clock(2.0, 6, runs._clock(clocked(2), row).note)
    forked = row | {"started_from": "t0001", "started_at": 60}
    shared = runs._clock(clocked(2, {70: 1000, 80: 2800, 100: 9999}), forked)
    assert shared.hours == pytest.approx(2 + 60 * 180 / 3600), "10 steps in 1800 s; the tasks of the last report aside"
    assert "the first 60 were trained once for several trials (t0001)" in shared.note
    seldom = runs._clock(clocked(2, {80: 2800, 100: 9999}), forked)
    assert seldom.hours is None
    assert "not counted, as the trial reported too seldom" in seldom.note
    taken = runs._clock(clocked(2), row | {"reused_from": "other/t0003"})
    assert (taken.hours, taken.gpus) == (None, 6)
    assert runs._clock(clocked(0.25), row).gpus == 0.75
    chosen = runs.Chosen("mine", Path("x"), clock=shared)
    found = {answer.question: answer.value for answer in form.answers(chosen, form.Facts(None, {}, 1, 1))}
    assert (found["hours of training"], found["GPU hours"]) == (5.0, 30.0)


# --- what is refused -------------------------------------------------------------------------------------------------

Harm = Callable[[Path], Any]


def linked(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("/etc/passwd")

    return harm


def pickled(folder: Path) -> None:
    bundle = folder / "checkpoint" / "bundle"
    (bundle / "model.safetensors").rename(bundle / "pytorch_model.bin")


def other_tokenizer(folder: Path) -> None:
    path = folder / "series" / "chck_200" / "tokenizer.json"
    path.write_text(path.read_text("utf-8") + " ", "utf-8")


def told(name: str, **changed: Any) -> Harm:
    """Metadata of a checkpoint that say something else."""

    def harm(folder: Path) -> None:
        path = folder / name / "metadata.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changed), "utf-8")

    return harm


def piped(folder: Path) -> None:
    os.mkfifo(folder / "series" / "chck_200" / "more")


def written(name: str, content: str) -> Harm:
    return lambda folder: (folder / name).write_text(content, "utf-8")


BUNDLE = "checkpoint/bundle"


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (linked(f"{BUNDLE}/README.md"), "is a link"),
        (linked("series/chck_200/model.safetensors"), "is a link"),
        (linked("clock.json"), "is a link"),
        (piped, "neither a file nor a folder"),
        (pickled, "no model.safetensors"),
        (other_tokenizer, "has another tokenizer than"),
        (told("series/chck_200", seed=7), "its seed is another"),
        (told("series/chck_200", data_fingerprint="x"), "its data_fingerprint is another"),
        (told("series/chck_200", mark=300), "has a model after 300 words: its folder's name says 200"),
        (told("series/chck_700", step=10**6), "is of a later step than"),
        (written(f"{BUNDLE}/training_config.yaml", "a: [" * 50), "training_config.yaml cannot be read"),
        (written(f"{BUNDLE}/training_config.yaml", "steps: many\n"), "training_config.yaml: steps: "),
        (written(f"{BUNDLE}/training_config.yaml", "- 1\n"), "training_config.yaml"),
        (written(f"{BUNDLE}/config.json", "{"), "is not JSON"),
        (written("clock.json", '{"seconds": 1e300}'), "clock.json does not say how long training took"),
        (lambda folder: shutil.rmtree(folder / BUNDLE), "its run has not come to its end"),
    ],
)
def test_a_strangers_folder_is_refused_in_one_line(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], harm: Harm, said: str
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    harm(copy)
    assert enter(copy, tmp_path / "entry") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["copy"], "nothing is left behind"


def test_metadata_that_no_run_wrote_gives_no_numbers(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    path = copy / BUNDLE / "metadata.json"
    told = json.loads(path.read_text("utf-8"))
    for number, data in enumerate(({"parts": 7}, [1], {"parts": {"train": {"blocks": 1e400, "words": -5}}})):
        path.write_text(json.dumps(told | {"words": "many", "step": -4, "data": data}), "utf-8")
        assert enter(copy, tmp_path / str(number)) == 0
        found = values(read(tmp_path / str(number)))
        assert found["words seen in training"] is found["FLOPs of training"] is found["epochs"] is None
        assert found["words of the corpus"] is None
        assert found["tokenizer"].startswith("train:300"), "from the settings"


def test_a_series_without_metadata_is_taken_with_a_caution(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert runs.find(copy, None).cautions == ()
    (copy / "series" / "chck_700" / "metadata.json").unlink()
    (caution,) = runs.find(copy, None).cautions
    assert caution.startswith("1 of 2 checkpoints, such as chck_700, ")


def test_code_and_analysis_stay_behind(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    (copy / BUNDLE / "modeling.py").write_text("raise SystemExit(1)\n", "utf-8")
    (copy / "series" / "chck_200" / "evil.py").write_text("raise SystemExit(1)\n", "utf-8")
    assert enter(copy, tmp_path / "entry") == 0
    assert not list((tmp_path / "entry").rglob("*.py"))
    assert not list((tmp_path / "entry").rglob("analysis"))


def test_bad_arguments(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "empty").mkdir()
    cases: list[tuple[Path, str, tuple[str, ...], str]] = [
        (tmp_path / "none", "out", (), "none is not a folder"),
        (tmp_path / "empty", "out", (), "is neither a sweep's run folder, nor one of `trainables.mlm --output`"),
        (run, "there", (), "there exists: name a new folder"),
        (run, "out", ("--trial", "t0001"), "is not a sweep's run folder, so it has no trials"),
        (run, "out", ("--task", "blimp=x"), "write official=DATA"),
        (run, "out", ("--task", "official=/none/such"), "there is no folder /none/such"),
        (run, "out", ("--task", f"official={tmp_path / 'empty'}"), "has nothing to score"),
        (run, "out", ("--columns", "blimp"), "--columns goes with --task official=DATA"),
        (
            run,
            "out",
            ("--task", f"official={tmp_path / 'empty'}", "--columns", "wug"),
            "--columns wug: there are blimp",
        ),
    ]
    for folder, out, arguments, said in cases:
        assert enter(folder, tmp_path / out, *arguments) == 2, said
        err = capsys.readouterr().err
        assert said in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "there"]


def test_a_bundle_by_itself(run: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(run / BUNDLE, tmp_path / "t0007"))
    (folder / "training_config.yaml").unlink()
    (folder / "metadata.json").unlink()
    (folder / "README.md").unlink()
    assert enter(folder, tmp_path / "entry") == 0
    tree = read(tmp_path / "entry")
    assert tree["revisions"] == {"main": "main/t0007"}
    assert values(tree)["parameters"] > 0
    assert states(tree)["form, FLOPs of training"] == "person"
    assert states(tree)["revisions of the track"] == "missing"
