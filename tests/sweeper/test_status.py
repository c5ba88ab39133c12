"""What status says of a run folder, for people and for scripts, and that it changes nothing there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from sweeper import status
from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.spec.spec import SweepSpec
from tests.chain import rechained
from tests.sweeper.samples import ask, end, report, session, toy_spec


def made(tmp_path: Path, *events: Any, spec: SweepSpec | None = None) -> Path:
    run_dir = run_folders.new(tmp_path / "runs", spec or toy_spec())
    journal = Journal(run_dir / "journal.jsonl")
    for event in events:
        journal.append(event)
    journal.close()
    (run_dir / run_folders.LOCK).touch()
    return run_dir


def two(state: Any, second: Any, reason: str | None = None) -> list[Any]:
    """Both trials of a sweep of two, ended."""
    spec = toy_spec(search={"method": "tpe", "trials": 2})
    first = [session(), ask(spec, 1, 1, "baseline"), report(1, 20, 1.5, 2), end(1, state, 3, reason)]
    return [*first, ask(spec, 2, 1, "published"), report(2, 20, 1.25, 2), end(2, second, 3, reason)]


def begun() -> list[Any]:
    spec = toy_spec()
    asked = [ask(spec, 1, 1, "baseline"), ask(spec, 2, 1, "published"), ask(spec, 3, 4, x=0.2)]
    return [session(), *asked, report(1, 20, 1.5, 2), end(1, "completed", 3), report(2, 10, 1.25, 3)]


@pytest.mark.parametrize(
    ("first", "second", "state", "exit_status"),
    [
        ("completed", "completed", "completed", 0),
        ("completed", "failed", "completed", 0),
        ("stopped", "completed", "completed", 0),
        ("failed", "failed", "failed", 1),
        ("completed", "interrupted", "open", 4),
    ],
)
def test_an_ended_sweep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], first: str, second: str, state: str, exit_status: int
) -> None:
    run_dir = made(tmp_path, *two(first, second), spec=toy_spec(search={"method": "tpe", "trials": 2}))
    assert status.main([str(run_dir), "--json"]) == exit_status
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["driver"], found["total"]) == (state, False, 2)
    assert (found["resume"] is None) == (state != "open")


def test_a_running_sweep_says_what_runs_and_what_waits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = made(tmp_path, *begun())
    with FileLock(run_dir / run_folders.LOCK):
        assert status.main([str(run_dir), "--json"]) == 3
        found = json.loads(capsys.readouterr().out)
        assert status.main([str(run_dir)]) == 3
    text = capsys.readouterr().out
    assert found["driver"]
    assert found["counts"] == {"completed": 1, "running": 2}
    assert found["best"] == "t0001"
    assert [(trial["id"], trial["state"], trial["step"], trial["steps"]) for trial in found["trials"]] == [
        ("t0001", "completed", 20, 20),
        ("t0002", "running", 10, 20),
        ("t0003", "running", 0, 20),
    ]
    assert found["trials"][2]["why"] == "has not reported yet"
    assert found["waiting"]["trials"] == 3
    assert "toy: running, a driver works on it" in text
    assert "1 completed, 2 running, of 6; best t0001" in text


def test_how_many_run_at_a_time_is_why_the_others_wait(tmp_path: Path) -> None:
    run_dir = made(tmp_path, *begun())
    lines = (run_dir / "journal.jsonl").read_bytes().replace(b'"cpus": 2', b'"cpus": 2, "concurrency": 2')
    (run_dir / "journal.jsonl").write_bytes(rechained(lines.splitlines()))
    with FileLock(run_dir / run_folders.LOCK):
        assert status.status(run_dir)["waiting"] == {"trials": 3, "why": "2 run at a time"}
    assert status.status(run_dir)["waiting"] == {"trials": 3, "why": "no driver is running the sweep"}


def test_an_open_sweep_without_a_driver_names_the_command_that_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made(tmp_path, *begun())
    assert status.main([str(run_dir)]) == 4
    text = capsys.readouterr().out
    assert "toy: open, no driver" in text
    assert "goes on from step 10 when the sweep is resumed" in text
    assert f"resume with python -m sweeper.run --resume {run_dir}" in text


def test_a_failed_trial_says_why_without_secrets(tmp_path: Path) -> None:
    spec = toy_spec(search={"method": "tpe", "trials": 2})
    run_dir = made(tmp_path, *two("failed", "failed", "RuntimeError: https://me:secret@host\n  refused"), spec=spec)
    (why, _) = (trial["why"] for trial in status.status(run_dir)["trials"])
    assert why == "RuntimeError: https://***@host refused"


def test_a_line_that_is_being_written_is_left_alone(tmp_path: Path) -> None:
    run_dir = made(tmp_path, *begun())
    journal = run_dir / "journal.jsonl"
    journal.write_bytes(journal.read_bytes() + b'{"event": "report", "tri')
    before = {path: path.read_bytes() for path in run_dir.iterdir()}
    assert len(status.status(run_dir)["trials"]) == 3
    assert {path: path.read_bytes() for path in run_dir.iterdir()} == before


def test_a_sweep_that_has_not_begun_is_open(tmp_path: Path) -> None:
    run_dir = run_folders.new(tmp_path, toy_spec())
    found = status.status(run_dir)
    assert (found["state"], found["trials"], found["silent_s"]) == ("open", [], None)
    assert [path.name for path in run_dir.iterdir()] == [run_folders.SPEC]


def test_asking_does_not_keep_a_driver_from_starting(tmp_path: Path) -> None:
    run_dir = made(tmp_path, *begun())
    assert not status.driven(run_dir)
    with FileLock(run_dir / run_folders.LOCK, timeout=0):
        assert status.driven(run_dir)


def test_the_newest_run_is_shown_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = made(tmp_path, *begun()), made(tmp_path, *begun())
    os.utime(old / "journal.jsonl", (0, 0))
    monkeypatch.chdir(tmp_path)
    assert status.main(["--json"]) == 4
    assert json.loads(capsys.readouterr().out)["run_dir"] == str(new)


def test_bad_input_is_one_line_and_status_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = made(tmp_path, *begun())
    (broken / "journal.jsonl").write_text("nonsense\n", "utf-8")
    for arguments in ([str(tmp_path)], ["no/such"], ["--nonsense"], [str(broken)]):
        assert status.main(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert status.main([]) == 2
    assert "there is no run in" in capsys.readouterr().err


def test_it_needs_neither_ray_nor_torch() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(('ray', 'torch', 'mlflow', 'optuna'))); import sweeper.status"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
