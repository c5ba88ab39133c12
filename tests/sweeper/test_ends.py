"""How a sweep ends when it is told to: in order at the first signal, at once at the second, and to be gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from sweeper.journal.journal import Journal
from sweeper.system import interrupts
from sweeper.system.interrupts import Interrupts
from tests.drills.processes import kill, until

SPEC = {
    "name": "ends",
    "trainable": "trainables.toy:train",
    "config": {"pause": 0.05},
    "space": {"x": {"uniform": [0, 1]}},
    "search": {"method": "random", "trials": 40},
    "resources": {"concurrency": 2},
}


class Left(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    def leave(status: int) -> None:
        raise Left(status)

    monkeypatch.setattr(os, "_exit", leave)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    yield []
    after = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert before == after, "a handler was left behind"


def send(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.1)


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_interrupts_and_the_second_leaves(
    first: signal.Signals, said: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupts(said.append, "resume with: X") as signals:
        assert signals.left(30) == 30
        with pytest.raises(KeyboardInterrupt):
            send(first)
        assert signals.happened
        assert signals.left(30) < interrupts.END_S
        assert signals.left(5) == 5
        with pytest.raises(Left, match="130"):
            send()
    assert said == ["Stopping cleanly; press Ctrl-C again to quit now"]
    assert capfd.readouterr().err == "ended at once; resume with: X\n"


def test_a_script_or_a_notebook_outlives_the_second_signal(said: list[str]) -> None:
    with Interrupts(said.append, "", ends=False):
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                send()
    assert said == ["Stopping cleanly; press Ctrl-C again to quit now"]


def test_tunes_loop_is_asked_to_end_and_not_torn(said: list[str]) -> None:
    asked: list[int] = []
    with Interrupts(said.append, "") as signals:
        signal.signal(signal.SIGUSR1, lambda number, _: asked.append(number))
        signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        send(signal.SIGTERM)
        assert asked == [signal.SIGINT]
        with pytest.raises(Left):
            send()
        signals.install()
        assert signal.getsignal(signal.SIGUSR1) == signal.SIG_DFL


def test_what_is_closing_goes_on_after_the_first_signal(said: list[str]) -> None:
    with Interrupts(said.append, "") as signals:
        signals.close()
        send()
        assert signals.happened


@pytest.fixture
def command(tmp_path: Path) -> Any:
    (tmp_path / "ends.yaml").write_text(json.dumps(SPEC), "utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)

    def start() -> subprocess.Popen[str]:
        arguments = [sys.executable, "-m", "sweeper.run", "ends.yaml", "--resume"]
        return subprocess.Popen(
            arguments, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    return start


def reports(folder: Path) -> int:
    return sum(path.read_text("utf-8").count('"event": "report"') for path in folder.glob("runs/*/journal.jsonl"))


def until_reported(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while reports(folder) < count:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_interrupted_then_ended_at_once_then_resumed(tmp_path: Path, command: Any) -> None:
    """Also: --resume without a folder starts a run where there is none, and goes on with the newest otherwise."""
    process = command()
    until_reported(process, tmp_path, 6)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert time.monotonic() - begin < 30
    assert "Stopping cleanly" in told
    assert "Traceback" not in told
    (run_dir,) = (tmp_path / "runs").glob("ends-*")
    assert told.splitlines()[-1].endswith(f"--resume {run_dir}")
    states = [record.state for record in Journal(run_dir / "journal.jsonl").trials.values()]
    assert set(states) == {"completed", "interrupted"}

    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("ends")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    closed = {"completed": "FINISHED", "interrupted": "KILLED"}
    assert sorted(run.info.status for run in runs) == sorted([*(closed[state] for state in states), "KILLED"])

    process, before = command(), reports(tmp_path)
    until_reported(process, tmp_path, before + 6)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130, told
    assert time.monotonic() - begin < 3
    assert told.splitlines()[-1].startswith("ended at once; resume with: python -m sweeper.run")
    assert "Traceback" not in told
    assert list((tmp_path / "runs").glob("ends-*")) == [run_dir]


@pytest.mark.slow
def test_a_sweep_whose_raylet_dies_ends_with_an_error_and_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "ends.yaml").write_text(json.dumps({**SPEC, "config": {"pause": 0.5}}), "utf-8")
    environment = {name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "RAY_AUTH_TOKEN")}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-m", "sweeper.run", "ends.yaml", "--resume"]
    options: dict[str, Any] = {"cwd": tmp_path, "env": environment, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, **options)
    until(
        lambda: any('"report"' in path.read_text("utf-8") for path in tmp_path.glob("runs/*/journal.jsonl")),
        120,
        "a row",
    )
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text("utf-8").split()
    (raylet,) = [
        pid for pid in map(int, children) if "raylet/raylet" in Path(f"/proc/{pid}/cmdline").read_text("utf-8")
    ]
    kill([raylet])
    _, told = process.communicate(timeout=200)
    assert process.returncode == 1, told
    assert "error: all nodes of the cluster are gone" in told
    assert "resume with: " in told
    journal = Journal(next(tmp_path.glob("runs/*/journal.jsonl")), read_only=True)
    assert {record.state for record in journal.trials.values()} <= {"completed", "interrupted"}
