"""`import sweeper`: light, callable whichever module came first; a run as DataFrames; refusals are ConfigErrors."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sweeper
from sweeper import api
from sweeper.journal.events import Verdict
from sweeper.journal.names import Names
from sweeper.preflight import Request
from sweeper.report import rows
from tests.sweeper import confirmed
from tests.sweeper.samples import toy_spec, written
from trainables import toy

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path) -> api.Run:
    """A search of eight trials and a confirmation of two candidates, in a folder called as a run's."""
    folder = tmp_path / "runs" / "toy-0123abcd"
    confirmed.written(folder, confirmed.spec(trials=8), {"t0005": -0.02, "published": 0.02}).close()
    return sweeper.load(folder)


# What is imported, and what can be called


@pytest.mark.parametrize("first", ["import sweeper", "import sweeper.run", "from sweeper import run"])
def test_run_can_be_called_whichever_was_imported_first(first: str) -> None:
    code = f"""
{first}
import sys, sweeper
light = {first!r} != "import sweeper" or not {{"pydantic", "numpy", "pandas", "ray", "torch"}} & sys.modules.keys()
assert light and callable(sweeper.run) and callable(sweeper.runs)
from sweeper import run
import sweeper.run as module
assert run is module is sweeper.run and callable(module.main)
try:
    sweeper.run({{"name": "x", "spce": 1}})
except sweeper.ConfigError as error:
    assert "did you mean 'space'?" in str(error), error
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_notebook_shows_the_arguments() -> None:
    assert list(inspect.signature(sweeper.run).parameters)[:4] == ["spec", "profile", "sets", "storage"]


def test_all_that_is_public_is_there() -> None:
    assert {name: getattr(sweeper, name) for name in vars(sweeper)["__all__"]}
    with pytest.raises(AttributeError, match="no attribute 'rum'"):
        getattr(sweeper, "rum")  # noqa: B009 # that it is absent is what is tried


# A run


def test_the_search_and_the_confirmation_are_apart(run: api.Run) -> None:
    trials, confirmation = run.trials(), run.confirmation()
    assert (len(trials), len(confirmation)) == (8, 3 * len(confirmed.SEEDS))
    assert list(trials) == list(confirmation)
    varied = ["x", "y", "shares.random", "shares.token", "shares.trigram"]
    assert trials[varied].notna().to_numpy().all()
    assert confirmation[varied].notna().to_numpy().all()
    assert {*trials["trial"]} == {*(one.id for one in run.journal.stage("search"))}
    best = run.best
    assert best
    completed = trials[trials["state"] == "completed"]
    assert best["val/loss"] == completed["val/loss"].min()
    curves = run.curves()
    assert len(curves) == sum(len(row.metrics) for one in run.journal.trials.values() for row in one.rows)
    assert {"trial", "seed", "stage", "arm", "step", "metric", "value"} < {*curves}


def test_pairs_are_the_differences_of_the_verdict(run: api.Run) -> None:
    verdicts, pairs = run.verdicts().set_index("arm"), run.pairs()
    said = run.journal.verdict()
    assert said
    for one in said["comparisons"]:
        own = pairs[pairs["arm"] == one["arm"]]
        assert own["seed"].tolist() == one["seeds"]
        assert own["difference"].tolist() == pytest.approx(one["differences"])
        row = verdicts.loc[one["arm"]]
        assert (row["pairs"], row["difference"], row["verdict"]) == (8, one["mean"], said["told"][one["arm"]])
        assert [row["low"], row["high"]] == one["interval"]
        assert row["level"] == pytest.approx(0.95)
    assert verdicts.loc["t0005", "candidate"] == run.trials().set_index("trial").loc["t0005", "candidate"] != "t0005"
    other = run.pairs("val/loss")
    assert not np.allclose(other["value"], pairs["value"])
    with pytest.raises(sweeper.ConfigError, match="no trial of the confirm reports 'val/los'"):
        run.pairs("val/los")


def test_pairs_without_a_confirmation_are_the_searchs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = toy_spec()
    written(tmp_path, spec).close()
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    run = sweeper.load(tmp_path)
    assert run.pairs()[["stage", "arm", "seed"]].values.tolist() == [["search", "published", 0], ["search", "t0002", 0]]
    assert run.pairs()["difference"].tolist() == pytest.approx([0.1, -0.25])
    assert run.pairs()["stuck"].tolist() == [False, False]
    monkeypatch.setattr(toy, "stuck", lambda metrics: "stayed" if metrics["val/loss"] == 1.6 else None)
    assert run.pairs()["stuck"].tolist() == [True, False]
    assert run.verdicts().empty
    assert run.confirmation().empty
    assert run.state == "open"


def test_a_run_is_read_anew_when_its_record_grows(tmp_path: Path) -> None:
    spec = toy_spec()
    journal = written(tmp_path, spec)
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    run = sweeper.load(tmp_path)
    assert run.trials()["state"].tolist()[-1] == "interrupted"
    assert run.journal is run.journal
    from tests.sweeper.samples import end, report

    journal.append(report(5, 20, 1.3, 20))
    journal.append(end(5, "completed", 21))
    assert run.trials()["state"].tolist()[-1] == "completed"


def test_figures_by_name(run: api.Run) -> None:
    for name in ("forest", "curves", "gaps", "mixture-shares", "loss-x", "parallel", "importance"):
        assert run.figure(name).to_plotly_json()["data"], name
    assert run.figure("shares").to_plotly_json() == run.figure("masked-decile").to_plotly_json()
    with pytest.raises(sweeper.ConfigError, match="this run has no 'forrest'; did you mean 'forest'"):
        run.figure("forrest")


def test_what_a_paper_says(run: api.Run) -> None:
    assert run.setup()["objective"] == "val/loss"
    assert "Holm" in run.methods()


def test_a_bundle_lies_in_the_run_folder(run: api.Run, tmp_path: Path) -> None:
    best = run.best
    assert best
    with pytest.raises(sweeper.ConfigError, match="left no bundle"):
        run.bundle()
    kept = run.run_dir / "bundles" / best["trial"]
    kept.mkdir(parents=True)
    assert run.bundle() == run.bundle(best["trial"]) == kept
    (kept / "config.json").symlink_to("/etc/passwd")
    with pytest.raises(ValueError, match="is a link"):
        run.bundle()
    for outside in ("../x", "t0099", "/etc"):
        with pytest.raises(sweeper.ConfigError, match="there is no trial"):
            run.bundle(outside)


def test_a_notebook_gets_no_markup_of_a_record(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>‮"
    spec = confirmed.spec(trials=8).model_copy(update={"question": evil})
    journal = confirmed.written(tmp_path, spec, {"t0005": -0.02})
    said = journal.verdict()
    assert said
    journal.append(Verdict(data={**said, "told": {"t0005": evil}, "baseline": evil}))
    journal.close()
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    text = sweeper.load(tmp_path)._repr_html_()
    assert "<script" not in text
    assert "‮" not in text
    assert text.count("&lt;script&gt;") >= 3
    assert {*re.findall(r"<(\w+)", text)} == {"div", "h3", "p", "strong", "table", "thead", "tbody", "tr", "th", "td"}
    (tmp_path / "journal.jsonl").write_text("<b>\n", "utf-8")
    assert "journal line 1" in sweeper.load(tmp_path)._repr_html_()


def test_a_notebook_names_a_configuration_as_reports_do(tmp_path: Path) -> None:
    journal = confirmed.written(tmp_path, spec := confirmed.spec(trials=8), {"t0005": -0.02})
    name = Names(spec, (one.ask for one in journal.trials.values())).name("t0005")
    assert name != "t0005"
    assert f"Confirmed: t0005 ({name}) against" in sweeper.load(tmp_path)._repr_html_()


# To find one


def test_a_run_is_found_by_its_folder_its_name_or_its_sweeps(run: api.Run) -> None:
    storage = run.run_dir.parent
    again = storage / "toy-0123abcd-2"
    confirmed.written(again, confirmed.spec(trials=8), {"published": 0.0}).close()
    os.utime(run.run_dir / "journal.jsonl", (1, 1))
    (storage / "no-run").mkdir()
    assert [one.run_dir for one in sweeper.runs(storage)] == [again, run.run_dir]
    for name, folder in (("toy", again), ("toy-0123abcd", run.run_dir), (str(run.run_dir), run.run_dir)):
        assert sweeper.load(name, storage=storage).run_dir == folder
    with pytest.raises(sweeper.ConfigError, match="did you mean 'toy'"):
        sweeper.load("tyo", storage=storage)
    with pytest.raises(sweeper.ConfigError, match="there is no such run"):
        sweeper.load("../runs/toy-0123abcd", storage=storage)
    assert sweeper.runs(storage / "none") == []


def test_a_record_that_was_changed_is_refused(run: api.Run) -> None:
    path = run.run_dir / "journal.jsonl"
    lines = path.read_text("utf-8").splitlines(keepends=True)
    path.write_text("".join([*lines[:5], *lines[6:]]), "utf-8")
    with pytest.raises(sweeper.ConfigError, match="journal line"):
        run.trials()
    assert len(sweeper.load(run.run_dir, trust_record=True).trials()) in (7, 8)


# What is refused


@pytest.mark.parametrize(
    ("spec", "more", "why"),
    [
        ({"name": "x", "spce": 1}, {}, "spec: spce: unknown key; did you mean 'space'"),
        ("none.yaml", {}, "none.yaml: cannot be read"),
        (3, {}, "a spec is a file or a mapping, not a int"),
        ({"name": "x", "arms": {1, 2}}, {}, "the spec is not plain data: set"),
        ({"name": "x"}, {"sets": ["config.steps=3"]}, "sets: is a mapping"),
        ({"name": "x"}, {"sets": {"config.steps": object()}}, "sets: is not plain data"),
        ({"name": "x"}, {"profile": "laptop"}, "no such profile"),
        (ROOT / "search_spaces" / "toy.yaml", {"sets": {"config.x": 7}}, "--set config.x=7: config.x: 7"),
        (ROOT / "search_spaces" / "toy.yaml", {"storage": __file__}, "is not a folder"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Any, more: dict[str, Any], why: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    before = os.umask(0o022)
    os.umask(0o022)
    try:
        with pytest.raises(sweeper.ConfigError, match=re.escape(why)) as caught:
            sweeper.run(spec, **more)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert not (tmp_path / "runs").exists()


def test_a_loaded_spec_is_the_same_spec_and_takes_no_profile(run: api.Run) -> None:
    from sweeper.spec.load import load

    given = api._spec(run.spec, None)
    assert given is run.spec  # so that it is known to be a record's, which calls nobody
    assert load(run.spec.model_dump(mode="json")).spec_hash == run.spec.spec_hash
    with pytest.raises(sweeper.ConfigError, match="profile"):
        sweeper.run(run.spec, profile="laptop")


def test_numbers_of_numpy_and_paths_are_plain(tmp_path: Path) -> None:
    assert api._spec({"a": np.float64(0.5), "b": [np.int64(3)], "c": tmp_path}, None) == {
        "a": 0.5,
        "b": [3],
        "c": str(tmp_path),
    }
    assert api._assigned({"config.lr": np.float32(0.5), "arms.x": None, "data.corpus": "a: b"}) == [
        "config.lr=0.5",
        "arms.x=null",
        'data.corpus="a: b"',
    ]


def test_extend_and_resume_are_what_the_command_would_be_given(run: api.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []
    monkeypatch.setattr(api, "_drive", lambda request, verbose: asked.append(request))
    assert run.extend(4) is run
    run.resume(more_seeds=2)
    assert [(one.resume, one.set, one.more_seeds) for one in asked] == [
        (run.run_dir, ["search.trials=12"], 0),
        (run.run_dir, [], 2),
    ]
    for bad in (0, -1, True, 1.5):
        with pytest.raises(sweeper.ConfigError, match="positive whole number"):
            run.extend(bad)  # pyright: ignore[reportArgumentType]


def test_ray_that_was_imported_before_is_refused(tmp_path: Path) -> None:
    code = "import sys, types; sys.modules['ray'] = types.ModuleType('ray'); import sweeper; sweeper.run('x.yaml')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "ConfigError: ray was imported before sweeper" in done.stderr.splitlines()[-1]


# With Ray


def paired(folder: Path, text: str) -> str:
    """What a script prints that reads `corpus.txt`: 30 nouns, each with an object of its own."""
    nouns = [one + two for one in ["ba", "do", "ki", "lu", "me", "po"] for two in ["bel", "nor", "vit", "sam", "tuk"]]
    verbs = [one + two for one in ["gli", "fra", "smo", "tre"] for two in ["ckt", "mpt", "ngt"]]
    lines = [f"the {nouns[i % 30]} {verb} the {nouns[(7 * i + i // 30) % 30]}." for i in range(200) for verb in verbs]
    (folder / "corpus.txt").write_text("\n\n".join(lines), "utf-8")
    (folder / "script.py").write_text(text, "utf-8")
    environment = {**os.environ, "SWEEPER_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run([sys.executable, "script.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_ten_lines_from_a_corpus_to_paired_differences(tmp_path: Path) -> None:
    block = re.search(
        r"## Python\n.*?```python\n(.*?)```", (ROOT / "sweeper" / "README.md").read_text("utf-8"), re.DOTALL
    )
    assert block
    script = block[1]
    assert len([line for line in script.splitlines() if line.strip()]) == 10
    small = script.replace('"steps": 400', '"steps": 20').replace("train:2048", "train:120,alphabet=30")
    small = small.replace("[1, 2, 3, 4, 5, 6, 7, 8]", "[1, 2]").replace('"block": 32', '"block": 16')
    small = small.replace('"hidden": 64', '"hidden": 32, "heads": 2')
    told = paired(tmp_path, small).splitlines()
    assert told[0].split() == ["stage", "candidate", "arm", "seed", "baseline", "value", "difference", "stuck"]
    assert [line.split()[1:5] for line in told[1:]] == [
        ["confirm", "half", "half", "1"],
        ["confirm", "half", "half", "2"],
    ]
    for line in told[1:]:
        baseline, value, difference = map(float, line.split()[5:8])
        assert difference == pytest.approx(value - baseline, abs=1e-5)
        assert line.split()[8] in ("True", "False")
    (made,) = sweeper.runs(tmp_path / "runs")
    assert (made.state, made.report.exists()) == ("completed", True)
    assert rows.STAGES == ("search", "confirm")


@pytest.mark.slow
def test_a_search_is_extended_and_ends_in_order(tmp_path: Path) -> None:
    script = """
import os, signal, threading, time, sweeper
spec = {"name": "more", "trainable": "trainables.toy:train", "space": {"x": {"uniform": [0, 1]}},
        "config": {"pause": 0.05}, "search": {"trials": 3}, "resources": {"concurrency": 1}}
def stop():
    while not any(one.journal.stage("search") for one in sweeper.runs()):
        time.sleep(0.1)
    time.sleep(2)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=stop).start()
run = sweeper.run(spec)
print(run.state, len(run.trials()) <= 3, signal.getsignal(signal.SIGINT) is signal.default_int_handler)
print(run.resume().state, len(run.trials()))
print(run.extend(trials=2) is run, len(run.trials()), run.trials()["state"].eq("completed").all())
"""
    assert paired(tmp_path, script).splitlines() == ["open True True", "completed 3", "True 5 True"]
