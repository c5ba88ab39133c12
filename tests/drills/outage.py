"""An MLflow server that goes away while a sweep runs, comes back, and is away again when the sweep ends.

Training must not notice; what the server lacks at the end, `--resume` delivers, once.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweeper.journal.journal import Journal, TrialRecord
from tests.drills.processes import until

ROOT = Path(__file__).parents[2]
PAUSE = 0.1  # seconds a step of the toy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--away", type=float, default=60.0, help="seconds without a server in mid-sweep (60)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """So often a sweep through two outages, then a resumed one; the figures of the last, or of the first that fails."""
    figures: dict[str, Any] = {"held": True}
    for _ in range(options.runs):
        if figures["held"]:
            figures = _once(options.away)
    return figures


def _once(away: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="outage-") as name:
        folder = Path(name)
        server = Server(folder)
        try:
            return _drill(folder, server, away)
        finally:
            server.stop()


class Server:
    """An `mlflow server` on loopback, in a process group of its own, that can be killed and started again.

    Its store is a SQLite file in the folder unless another is named, with what the environment must have for it.
    """

    def __init__(self, folder: Path, store: str = "", environment: Mapping[str, str] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._store = store or f"sqlite:///{folder}/server.db"
        self._environment = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._environment.update(environment or {})
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        store = ["--backend-store-uri", self._store]
        where = ["--artifacts-destination", str(self._folder / "artifacts")]
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--workers", "1", *store, *where],
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(self._answers, 120, "the server answers")

    def stop(self) -> None:
        """At once, as a machine that loses its power."""
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
                return answer.status == 200
        except OSError:
            return False


def _drill(folder: Path, server: Server, away: float) -> dict[str, Any]:
    server.start()
    trials = round(2 * (away + 60) / (20 * PAUSE))  # two at a time
    journal = _write(folder, server.uri, trials)
    sweep = _command(folder)
    until(lambda: _ended(journal()) >= 4, 120, "four trials have ended")
    server.stop()
    gone = time.time()
    time.sleep(away)
    server.start()
    back = time.time()
    until(lambda: _ended(journal()) >= trials - 6, 300, "the last trials run")
    server.stop()
    errors = sweep.communicate(timeout=300)[1]
    paths = list(folder.glob("runs/*"))
    records = list(Journal(paths[0] / "journal.jsonl").trials.values())
    said = [line for line in errors.splitlines() if line.startswith("MLflow")]

    server.start()
    resumed = _command(folder, "--resume", str(paths[0]))
    later = resumed.communicate(timeout=300)[1]
    found = delivered(server.uri, "outage")
    figures = {
        "trials": len(records),
        "completed": sum(record.state == "completed" for record in records),
        "status": [sweep.returncode, resumed.returncode],
        "seconds_a_trial": {
            "server_there": _pace(records, lambda at: not gone < at < back),
            "server_away": _pace(records, lambda at: gone < at < back),
        },
        "said": said,
        "said_on_resume": [line for line in later.splitlines() if line.startswith("MLflow")],
        "delivered": sum(found.get(trial) == ("FINISHED", rows) for trial, rows in wanted(records).items()),
        "runs": len(found),
    }
    held = figures["status"] == [0, 0] and figures["delivered"] == trials == figures["completed"] == figures["runs"]
    return {"held": held, "away_s": round(back - gone, 1), **figures}


def _write(folder: Path, uri: str, trials: int) -> Callable[[], str]:
    """The spec; what reads the journal of its run."""
    spec = {
        "name": "outage",
        "trainable": "trainables.toy:train",
        "config": {"steps": 20, "pause": PAUSE},
        "space": {"x": {"uniform": [0, 1]}},
        "search": {"method": "random", "trials": trials},
        "resources": {"concurrency": 2},
        "tracking": {"uri": uri},
    }
    (folder / "outage.yaml").write_text(json.dumps(spec), "utf-8")

    def text() -> str:
        path = next(folder.glob("runs/*/journal.jsonl"), None)
        return path.read_text("utf-8") if path else ""

    return text


def _command(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for ours in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(ours, None)
    command = [sys.executable, "-m", "sweeper.run", "outage.yaml", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def _ended(journal: str) -> int:
    return journal.count('"event": "end"')


def _pace(records: list[Any], counts: Callable[[float], bool]) -> float | None:
    """Median seconds from a trial's first report to its end, of trials that lie wholly where `counts` says."""
    took = sorted(
        record.end.time - record.rows[0].time
        for record in records
        if record.end and counts(record.rows[0].time) and counts(record.end.time)
    )
    return round(took[len(took) // 2], 3) if took else None


def wanted(records: list[TrialRecord]) -> dict[str, Counter[tuple[str, int, float]]]:
    """Trial -> how often each (metric, step, value) is in the journal."""
    return {
        record.id: Counter((key, row.step, value) for row in record.rows for key, value in row.metrics.items())
        for record in records
    }


def delivered(uri: str, title: str) -> dict[str, tuple[str, Counter[tuple[str, int, float]]]]:
    """The same with the run's status, as the experiment of that title tells it; a trial told twice counts as none."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(title)
    assert experiment is not None
    found: dict[str, tuple[str, Counter[tuple[str, int, float]]]] = {}
    for run in client.search_runs([experiment.experiment_id], "tags.`sweeper.kind` = 'trial'", max_results=1000):
        rows = [(key, row) for key in run.data.metrics for row in client.get_metric_history(run.info.run_id, key)]
        trial, metrics = run.data.tags["sweeper.trial"], Counter((key, row.step, row.value) for key, row in rows)
        found[trial] = ("twice", Counter()) if trial in found else (run.info.status, metrics)
    return found
