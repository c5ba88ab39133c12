"""The command as people and scripts see it: exit status, one line for a mistake, one line of JSON, going on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from filelock import FileLock

from sweeper import run
from sweeper.journal import run_folders
from sweeper.journal.events import Ask, End, State
from sweeper.journal.journal import Journal
from sweeper.plan import capacity
from sweeper.spec import load
from sweeper.system import nodes
from sweeper.trials import cluster
from tests.sweeper import samples
from tests.sweeper.bad_inputs import FILE, ROWS, Row
from tests.sweeper.mutations import idle_machine

TREE: dict[str, Any] = {
    "name": "toy",
    "trainable": "trainables.toy:train",
    "config": {"run_sd": 0.1, "pause": 0.03},
    "space": {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}},
    "arms": {"baseline": {"x": 0.5}},
    "search": {"method": "tpe", "trials": 5},
    "resources": {"concurrency": 1},
}
KEYS = [
    *("state", "name", "spec_hash", "run_dir", "tracking_uri", "experiment", "parent_run_id"),
    *("best", "trials", "bundle", "report", "verdict", "caution"),
    *("warm_start", "stopped"),
]
TRIAL_KEYS = [
    *("id", "stage", "arm", "seed", "state", "step", "score"),
    *("params", "metrics", "audit", "run_id", "start", "reason", "stuck"),
]

Start = Callable[..., "subprocess.Popen[str]"]


def written(folder: Path, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**TREE, **changes}, sort_keys=False), "utf-8")
    return str(path)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A Ray for the commands of this file to join, since each would start its own otherwise."""
    with cluster.session():
        import ray

        yield ray.get_runtime_context().gcs_address


@pytest.fixture(scope="module")
def start(address: str, tmp_path_factory: pytest.TempPathFactory) -> Start:
    store = tmp_path_factory.mktemp("store") / "mlflow.db"
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{store}", "PYTHONPATH": os.pathsep.join(sys.path)}

    def start(*arguments: str, joining: bool = True) -> subprocess.Popen[str]:
        own = {**environment, **({"RAY_ADDRESS": address} if joining else {})}
        command = [sys.executable, "-m", "sweeper.run", *arguments]
        return subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, Any, str]:
    """Exit status, the object on stdout's last line, and stderr."""
    output, errors = process.communicate(timeout=200)
    lines = output.splitlines()
    return process.returncode, json.loads(lines[-1]) if lines else None, errors


def at_trial(path: Path, identity: str) -> None:
    """Wait until a trial has reported."""
    for _ in range(1000):
        if path.exists() and f'"event": "report", "trial": "{identity}"' in path.read_text("utf-8"):
            return
        time.sleep(0.1)
    raise AssertionError(f"{identity} never reported")


def results(journal: Path) -> list[Any]:
    return [
        (record.id, record.ask.params, [(row.step, row.metrics) for row in record.rows])
        for record in Journal(journal).trials.values()
    ]


def test_interrupted_then_killed_then_resumed_is_as_if_nothing_had_happened(tmp_path: Path, start: Start):
    from sweeper.trials import tuner

    spec = written(tmp_path, config={**TREE["config"], "pause": 0.08})  # t0002 must not end before it is interrupted
    whole, storage = tmp_path / "whole", tmp_path / "runs"
    whole.mkdir()
    assert tuner.run(load.load(spec), whole, Journal(whole / "journal.jsonl"), 1), "the undisturbed one"
    run_dir = storage / f"toy-{load.load(spec).spec_hash[:8]}"
    journal = run_dir / "journal.jsonl"

    process = start(spec, "--storage", str(storage), "--json")
    at_trial(journal, "t0002")
    process.send_signal(signal.SIGTERM)
    status, interrupted, told = ended(process)
    assert status == 130
    assert (interrupted["state"], interrupted["trials"][1]["state"]) == ("interrupted", "interrupted")
    assert f"--resume {run_dir}" in told

    process = start(spec, "--storage", str(storage), "--resume", joining=False)
    at_trial(journal, "t0004")
    process.kill()
    assert ended(process)[0] == -signal.SIGKILL

    status, summary, told = ended(start(spec, "--storage", str(storage), "--resume", str(run_dir), "--json"))
    assert status == 0, told
    assert results(journal) == results(whole / "journal.jsonl")
    events = Journal(journal).events
    assert [event.trial for event in events if isinstance(event, Ask)] == [f"t000{n}" for n in range(1, 6)]
    finished = [event.trial for event in events if isinstance(event, End) and event.state == "completed"]
    assert finished == [f"t000{n}" for n in range(1, 6)], "a finished trial was run again"

    assert list(summary) == KEYS
    assert [list(trial) for trial in summary["trials"]] == [TRIAL_KEYS] * 5
    assert summary["best"]["score"] == min(trial["score"] for trial in summary["trials"])
    assert (summary["state"], summary["run_dir"]) == ("completed", str(run_dir))
    assert summary["parent_run_id"] == interrupted["parent_run_id"]
    bundle = Path(summary["bundle"])
    assert bundle == run_dir / "bundles" / summary["best"]["id"]
    assert (bundle / "metadata.json").exists()
    assert list(storage.glob("toy-*")) == [run_dir]
    left = {path.name for path in run_dir.iterdir()} - {run_folders.LOCK}
    assert left == {
        "spec.yaml",
        "journal.jsonl",
        "optuna.log",
        "trials",
        "bundles",
        run_folders.FIGURES,
        *run_folders.REPORTS,
    }

    before = journal.read_text("utf-8")
    status, again, _ = ended(start(spec, "--storage", str(storage), "--resume", "--json"))
    assert (status, again) == (0, summary)
    assert journal.read_text("utf-8") == before, "a finished sweep was begun again"

    status, again, told = ended(start(spec, "--storage", str(storage), "--json"))
    assert (status, again) == (0, summary)
    assert told.splitlines()[0] == f"toy has already finished; nothing is trained again: {run_dir}"
    assert told.splitlines()[-1].endswith(f"--resume {run_dir}; to train it again: --again")
    assert journal.read_text("utf-8") == before, "a finished sweep was begun again"
    assert list(storage.glob("toy-*")) == [run_dir]

    status, found, told = ended(start("--reproduce", str(run_dir), "--trial", "t0003", "--json"))
    assert (status, found["trial"], found["equal"], found["rows"]) == (0, "t0003", True, 4), told
    assert found["again"] == summary["trials"][2]["score"]
    assert "bitwise equal: every metric of 4 rows" in told
    assert journal.read_text("utf-8") == before
    assert not (run_dir / "reproduced").exists()


def test_all_trials_failed(tmp_path: Path, start: Start):
    arms = {"nan": {"fail": "nan"}, "raise": {"fail": "raise"}}
    spec = written(tmp_path, arms=arms, space={}, search={"method": "arms"}, resources={})
    status, summary, told = ended(start(spec, "--storage", str(tmp_path / "runs"), "--json"))
    assert status == 1, told
    assert (summary["state"], summary["best"], summary["bundle"]) == ("failed", None, None)
    assert [trial["reason"] for trial in summary["trials"]] == [
        "RuntimeError: diverged: val/loss is nan at step 15",
        "RuntimeError: the toy fails on purpose",
    ]
    assert "RuntimeError: diverged" in told
    assert "Traceback" not in told


@pytest.mark.parametrize(
    ("changes", "arguments", "told"),
    [
        ({"spase": {}}, [], "space"),
        ({}, ["--set", "config.stpes=5"], "steps"),
        ({}, ["--profile", "laptop"], "laptop"),
        ({}, ["--nonsense"], "--nonsense"),
        ({}, ["--set", "resources.workers=1000"], "set resources.workers to"),
        ({}, ["--set", "limits.hours=0.000001"], "limits.hours"),
        ({}, ["--storage", __file__], "is not a folder"),
        ({}, ["--resume", "no/such/run"], "not a run folder"),
        ({}, ["--again", "--resume"], "give only one"),
        ({}, ["--trial", "t0001"], "--trial names the trial of --reproduce"),
        ({}, ["--reproduce", "."], "--reproduce trains a trial as the run's record has it: SPEC does not go with it"),
        ({}, ["--set", "arms.published.x=0.5"], "arms.published: is the same configuration as baseline"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, Any],
    arguments: list[str],
    told: str,
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert run.main([written(tmp_path, **changes), *arguments]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert told in output.err
    assert [path.name for path in tmp_path.iterdir()] == ["toy.yaml"], "something was written"


def test_bad_input_is_refused_before_anything_heavy_is_imported(tmp_path: Path):
    heavy = ("ray", "torch", "mlflow", "optuna", "transformers", "datasets")
    code = (
        f"import sys; from sweeper.run import main; status = main([{written(tmp_path)!r}, '--set', 'config.x=7']); "
        f"print(status, [name for name in {heavy} if name in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split("\n")[0] == "2 []", done.stderr


def test_a_run_of_another_spec_or_driver_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    spec = written(tmp_path)
    run_dir = run_folders.new(tmp_path / "runs", load.load(spec))
    with FileLock(run_dir / run_folders.LOCK):
        assert run.main([spec, "--storage", str(tmp_path / "runs"), "--resume"]) == 2
    assert "another sweep is running in" in capsys.readouterr().err
    assert run.main([spec, "--set", "config.steps=40", "--resume", str(run_dir)]) == 2
    assert "it holds another run" in capsys.readouterr().err


def test_without_a_gpu_it_asks_or_needs_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setattr(nodes, "this_machine", lambda: {"CPU": 2, "GPU": 0})
    wanting = [written(tmp_path, resources={"gpus_per_worker": 1}), "--storage", str(tmp_path / "runs")]
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert run.main(wanting) == 2
    output = capsys.readouterr().err
    assert "wants a GPU and there is none: on 2 CPUs it takes about 0 hours" in output
    assert "--yes" in output
    assert not (tmp_path / "runs").exists()


def test_a_plan_is_shown_and_nothing_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run.main([written(tmp_path), "--storage", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["trials"] == 5
    assert "hours" in output.err
    assert not (tmp_path / "runs").exists()


def test_a_plan_says_what_the_trainable_says_of_its_data_and_what_it_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    told = {"notes": ["the tokenizer has 9 entries"], "warnings": ["much is unknown: more of it"], "more": 1}
    monkeypatch.setattr("trainables.toy.prepare", lambda config: told, raising=False)
    command = [written(tmp_path), "--storage", str(tmp_path / "runs"), "--dry-run", "--json"]
    assert run.main(command) == 0
    output = capsys.readouterr()
    said = json.loads(output.out)
    assert (said["notes"], said["warnings"]) == (told["notes"], told["warnings"])
    assert "  data        the tokenizer has 9 entries" in output.err.splitlines()
    assert "  caution     much is unknown: more of it" in output.err.splitlines()

    def refuse(config: Any) -> None:
        raise ValueError("data.tokenizer has no mask token")

    monkeypatch.setattr("trainables.toy.prepare", refuse, raising=False)
    assert run.main(command) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == [f"{command[0]}: data.tokenizer has no mask token"]


def test_a_start_says_what_the_trainable_warns_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr("trainables.toy.prepare", lambda config: {"warnings": ["much is unknown"]}, raising=False)
    monkeypatch.setattr(run, "_carry_out", lambda *_: 0)
    assert run.main([written(tmp_path), "--storage", str(tmp_path / "runs")]) == 0
    assert "caution: much is unknown" in capsys.readouterr().err.splitlines()


def test_a_plan_names_all_that_would_be_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(nodes, "this_machine", lambda: {"CPU": 2, "GPU": 0})
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    monkeypatch.setattr(capacity, "free", lambda storage: capacity.Free(memory=1e6, disk=1e6, shared=2**20))
    spec = written(tmp_path, resources={"gpus_per_worker": 1, "cpus_per_worker": 3}, limits={"hours": 1e-6})
    assert run.main([spec, "--storage", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    output = capsys.readouterr()
    refused = json.loads(output.out)["refused"]
    begins = ["without a GPU it needs --yes", "resources: a trial needs 3 CPU", "limits.hours: ", "memory: ", "disk: "]
    assert [line[: len(begin)] for line, begin in zip(refused, begins, strict=True)] == begins
    assert [line for line in output.err.splitlines() if "refused" in line] == [
        f"would be refused: {line}" for line in refused
    ]
    assert output.err.splitlines()[-1].startswith("/dev/shm has 1 MiB free")
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    assert run.main([written(tmp_path), "--storage", str(tmp_path / "runs"), "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["refused"] == []


@pytest.mark.parametrize(("error", "status"), [(nodes.NotStarted, 1), (nodes.NoRoom, 2)])
def test_where_ray_does_not_start_one_line_says_so_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, error: type[Exception], status: int
):
    @contextmanager
    def session(*_: Any) -> Iterator[None]:
        raise error("Ray did not start: so it is")
        yield

    monkeypatch.setattr(cluster, "session", session)
    assert run.main([written(tmp_path), "--storage", str(tmp_path / "runs")]) == status
    output = capsys.readouterr()
    assert output.err.splitlines()[2:] == ["error: Ray did not start: so it is"]
    assert not list((tmp_path / "runs").glob("toy-*"))


def test_in_a_submitted_job_the_storage_must_outlive_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert run.main([written(tmp_path)]) == 2
    assert "a submitted job's own folder is temporary" in capsys.readouterr().err


def test_a_storage_whose_name_is_not_utf8_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert run.main([written(tmp_path), "--storage", str(tmp_path / "r\udcfcns")]) == 2
    assert "r\\udcfcns: its name is not UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "r\udcfcns").exists()


def test_run_folders_are_numbered_and_the_newest_is_found(tmp_path: Path):
    spec, other = load.load(written(tmp_path)), load.load(written(tmp_path / "other", name="toy2"))
    made = [run_folders.new(tmp_path, spec) for _ in range(11)]
    assert [folder.name.removeprefix(f"toy-{spec.spec_hash[:8]}") for folder in (*made[:2], made[-1])] == [
        "",
        "-2",
        "-11",
    ]
    assert run_folders.find_run(tmp_path, spec, run_folders.NEWEST) == made[-1]
    (made[-1] / run_folders.SPEC).unlink()  # by a crash before it was written: nothing had begun
    assert run_folders.find_run(tmp_path, spec, run_folders.NEWEST) == made[-2]
    (made[-2] / run_folders.SPEC).write_text("torn", "utf-8")
    with pytest.raises(ValueError, match=rf"{made[-2].name}/spec\.yaml: .*fix it, or move its folder away"):
        run_folders.find_run(tmp_path, spec, run_folders.NEWEST)
    assert run_folders.find_run(tmp_path, other, run_folders.NEWEST) is None


@pytest.mark.parametrize(
    "beside", [["--set", "config.steps=3"], ["--profile", "x"], ["--resume"], ["--more-seeds", "2"], ["--dry-run"]]
)
def test_a_repetition_takes_nothing_that_would_change_it(tmp_path: Path, beside: list[str], capsys: Any):
    assert run.main(["--reproduce", str(tmp_path), *beside]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{beside[0]} does not go with it" in told


def held(storage: Path, spec: str, state: State = "completed", facts: dict[str, Any] | None = None) -> Path:
    """A run of the spec in which every trial has ended so."""
    loaded = load.load(spec)
    folder = run_folders.new(storage, loaded)
    journal = Journal(folder / "journal.jsonl")
    journal.append(replace(samples.session(), facts=facts or {}))
    for number in range(loaded.total_trials):
        journal.append(samples.ask(loaded, number, 1, x=number / 10, y=0.5))
        if state == "completed":
            journal.append(samples.report(number, 20, 2.0 + number, 2))
        journal.append(samples.end(number, state, 3))
    journal.close()
    return folder


@pytest.fixture
def carried(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The run folders that the command would have worked on."""
    found: list[Path] = []
    monkeypatch.setattr(run, "_carry_out", lambda args, admission, run_dir, *_: found.append(run_dir) or 0)
    return found


def test_a_spec_that_has_finished_is_answered_with_its_newest_run(tmp_path: Path, carried: list[Path], capsys: Any):
    spec, storage = written(tmp_path), tmp_path / "runs"
    plain = [spec, "--storage", str(storage)]
    first, second = (held(storage, spec) for _ in range(2))
    assert run.main(plain) == 0
    assert carried == [second]
    assert f"toy has already finished; nothing is trained again: {second}" in capsys.readouterr().err
    assert run.main([*plain, "--again"]) == 0
    assert carried[1] not in (first, second)
    assert run.main([*plain, "--set", "config.steps=40"]) == 0
    assert not carried[2].name.startswith(first.name), "another spec is another question"
    assert run.main(plain) == 0
    assert carried[3] == second, "one that has not finished is not the newest that has"
    capsys.readouterr()
    assert run.main([*plain, "--dry-run", "--json"]) == 0
    told = capsys.readouterr()
    assert f"a start would return the finished run {second}; --again" in told.err
    assert json.loads(told.out)["refused"] == []


def test_a_run_that_did_not_complete_or_had_other_data_is_no_answer(
    tmp_path: Path, carried: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    spec, storage = written(tmp_path), tmp_path / "runs"
    plain = [spec, "--storage", str(storage)]
    failed = held(storage, spec, "failed")
    assert run.main(plain) == 0
    assert carried[0] != failed
    told = capsys.readouterr().err
    assert (
        "an earlier run of this spec is unfinished; this starts a new one. To resume it: python -m sweeper.run --resume"
        in told
    )
    other = held(storage, spec, facts={"data_fingerprint": "then"})
    monkeypatch.setattr("sweeper.preflight.prepare_shared", lambda *_: {"data_fingerprint": "now"})
    assert run.main(plain) == 0
    assert carried[1] not in (failed, carried[0], other)
    monkeypatch.setattr("sweeper.preflight.prepare_shared", lambda *_: {"data_fingerprint": "then"})
    assert run.main(plain) == 0
    assert carried[2] == other


def test_a_baseline_that_changes_is_said(tmp_path: Path, capsys: Any):
    spec = written(tmp_path, arms={"one": {"x": 0.5}, "two": {"x": 0.1}})
    plan = [spec, "--storage", str(tmp_path / "runs"), "--dry-run"]
    for arguments, told in (
        ([], None),
        (["--set", "arms.two=null"], None),
        (["--set", "arms.one=null"], f"the baseline changes: one, the first arm of {spec}, is deleted; it is two now"),
        (["--set", "arms=null"], "is deleted; there is none now"),
    ):
        assert run.main([*plan, *arguments]) == 0
        lines = [line for line in capsys.readouterr().err.splitlines() if "baseline changes" in line]
        assert lines == [] if told is None else told in lines[0]


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_a_plan_refuses_what_a_start_would(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """With the same words: at once, or in its list of what would be refused."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    with idle_machine():
        status = run.main([*row.write(tmp_path), "--dry-run"])
    lines = [line for line in capsys.readouterr().err.splitlines() if "refused: " in line or line.startswith("error: ")]
    assert status == 2 or lines[0].startswith("would be refused: ")
    told = row.told if status == 2 else [word for word in row.told if word != FILE]
    assert [word for word in told if word not in lines[0]] == []
    assert not (tmp_path / "runs").exists()


def test_a_plan_refuses_seeds_that_were_used_as_a_start_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
):
    def used(*_: Any) -> None:
        raise ValueError("seeds.confirm: earlier runs on this data used 2")

    monkeypatch.setattr("sweeper.preflight.refuse_used", used)
    spec = written(tmp_path, seeds={"search": [1], "confirm": [2, 3]})
    for more, status in ((["--dry-run"], 0), ([], 2)):
        assert run.main([spec, "--storage", str(tmp_path / "runs"), *more]) == status
        assert "seeds.confirm: earlier runs on this data used 2" in capsys.readouterr().err
    assert run.main([spec, "--storage", str(tmp_path / "runs"), "--dry-run", "--more-seeds", "2"]) == 0
    assert "would be refused: --more-seeds: takes a positive number, with --resume" in capsys.readouterr().err
