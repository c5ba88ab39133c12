"""`ray job submit` on a head without CPUs and two nodes of one CPU each, in network namespaces where that is allowed.

A trial of two workers spans both nodes; one node is killed and comes back; the sweep ends complete. A second job is
stopped in mid-trial: its processes go, its CPUs are free again, its runs in the tracking store are closed; the same
command with `--resume` goes on. The first trial, with dropout 0, is compared with the same two ranks on one node.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sweeper.journal.events import End
from sweeper.journal.journal import Journal
from tests.drills import nodes
from tests.drills.hosts import Hosts
from tests.drills.outage import ROOT
from tests.drills.processes import until

STEPS, EQUAL, AGREE = 60, 20, 1e-5
LIMIT_S = 600


def add_arguments(_: argparse.ArgumentParser) -> None:
    """None."""


def run(_: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="job-") as name:
        folder = Path(name)
        environment = {**nodes.environment(), "SWEEPER_CACHE": str(folder / "cache")}
        spec = _spec(folder)
        alone = _alone(folder, spec, environment)
        with Hosts(2, 1, environment) as hosts:
            submitted = _submitted(folder, spec, hosts)
            stopped = _stopped(folder, spec, hosts)
        found = {"namespaces": hosts.apart, "upload_bytes": upload(folder).stat().st_size, **submitted, **stopped}
        found |= _compared(alone, Journal(_journal(folder / "runs"), read_only=True))
    found["held"] = bool(
        found["job"] == "SUCCEEDED"
        and found["spans"]
        and found["completed"] == found["trials"] == 2
        and found["largest_difference"] <= AGREE
        and found["upload_bytes"] < 2e6
        and found["stopped_job"] == "STOPPED"
        and not found["left_running"]
        and found["resumed_job"] == "SUCCEEDED"
        and not found["repeated_steps"]
    )
    return found


def _spec(folder: Path) -> Path:
    from tests.trainables.tiny import config, write_corpus

    write_corpus(folder)
    settings = config(
        folder / "corpus.txt", steps=STEPS, report_every=1, model={"dropout": 0.0}, masking={"mask_warmup": 0.1}
    )
    tree = settings.model_dump(mode="json")
    written = folder / "job.yaml"
    content = {
        "name": "job",
        "trainable": "trainables.mlm:train",
        "data": tree.pop("data"),
        "config": tree,
        "arms": {"first": {}, "second": {"optimiser.lr": 0.004}},
        "search": {"method": "arms"},
        "resources": {"workers": 2, "concurrency": 1, "max_failures": 3, "placement": "spread"},
    }
    written.write_text(json.dumps(content), "utf-8")
    return written


def _alone(folder: Path, spec: Path, environment: dict[str, str]) -> Journal:
    """The same sweep with both ranks on this machine, where there are two CPUs."""
    command = [sys.executable, "-m", "sweeper.run", str(spec), "--storage", str(folder / "alone")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, timeout=LIMIT_S)
    return Journal(_journal(folder / "alone"), read_only=True)


# As `ray job status` words them.
STATES = {
    "SUCCEEDED": "' succeeded",
    "STOPPED": "' was stopped",
    "FAILED": "' failed",
    "RUNNING": "': RUNNING",
    "PENDING": "': PENDING",
}


class Job:
    """A submitted sweep."""

    def __init__(self, hosts: Hosts, spec: Path, storage: Path) -> None:
        self.environment = hosts.environment
        self.given = json.dumps({"env_vars": {"MLFLOW_TRACKING_URI": f"sqlite:///{storage.parent}/mlflow.db"}})
        command = ["python", "-m", "sweeper.run", str(spec), "--storage", str(storage), "--resume"]
        until(lambda: self._submit(command), 90, "the head takes a job", 1.0)

    def _submit(self, command: list[str]) -> bool:
        """Whether the head's agent was there to take it."""
        self.begun = time.time()
        try:
            told = self._ray(
                "submit", "--no-wait", "--working-dir", ".", "--runtime-env-json", self.given, "--", *command
            )
        except RuntimeError as error:
            if "No available agent" in str(error):
                return False
            raise
        self.name = next(word for word in told.replace("'", " ").split() if word.startswith("raysubmit_"))
        return True

    @property
    def state(self) -> str:
        told = self._ray("status", self.name)
        for state, words in STATES.items():
            if words in told:
                return state
        raise RuntimeError(f"ray job status tells no state: {told[-500:]}")

    def stop(self) -> None:
        self._ray("stop", self.name)

    def ended(self) -> str:
        until(lambda: self.state not in ("RUNNING", "PENDING"), LIMIT_S, "the job ends", 1.0)
        if self.state == "FAILED":
            print(self._ray("logs", self.name)[-3000:], file=sys.stderr)
        return self.state

    def _ray(self, verb: str, *arguments: str) -> str:
        command = [sys.executable, str(Path(sys.executable).with_name("ray")), "job", verb, *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise RuntimeError(f"ray job {verb}: {done.stderr[-500:]}")
        return done.stdout + done.stderr


def _submitted(folder: Path, spec: Path, hosts: Hosts) -> dict[str, Any]:
    job = Job(hosts, spec, folder / "runs")
    _at(folder / "runs", "t0001", 5)
    where = {one["address"]: one["runs"].get("workers", 0) for one in _nodes(hosts)}
    first = next(record for record in Journal(_journal(folder / "runs"), read_only=True).trials.values()).rows[0].time
    _at(folder / "runs", "t0002", 5)
    hosts.kill(1)
    time.sleep(5)
    hosts.begin(1)
    state = job.ended()
    journal = Journal(_journal(folder / "runs"), read_only=True)
    return {
        "job": state,
        "to_first_step_s": round(first - job.begun, 1),
        "workers_by_node": where,
        "spans": sorted(where.values())[-2:] == [1, 1],
        "trials": len(journal.trials),
        "completed": sum(record.state == "completed" for record in journal.trials.values()),
        "after_the_kill": [event.reason for event in journal.events if isinstance(event, End) and event.reason],
    }


def _stopped(folder: Path, spec: Path, hosts: Hosts) -> dict[str, Any]:
    storage = folder / "stopped"
    job = Job(hosts, spec, storage)
    _at(storage, "t0001", 5)
    begin = time.monotonic()
    job.stop()
    state = job.ended()
    until(lambda: not any(one["runs"] for one in _nodes(hosts)), 120, "the trial's processes go", 1.0)
    seconds = time.monotonic() - begin
    left = _running(f"sqlite:///{folder}/mlflow.db")
    resumed = Job(hosts, spec, storage).ended()
    journal = Journal(_journal(storage), read_only=True)
    steps = [row.step for record in journal.trials.values() for row in record.rows]
    return {
        "stopped_job": state,
        "gone_after_s": round(seconds, 1),
        "left_running": left,
        "resumed_job": resumed,
        "repeated_steps": len(steps) - STEPS * 2,
    }


def _compared(alone: Journal, spread: Journal) -> dict[str, float]:
    """The first trial's training losses, on one node and on two."""
    one, two = (
        {row.step: row.metrics["train/loss"] for row in journal.trials["t0001"].rows} for journal in (alone, spread)
    )
    return {
        "largest_difference": max(abs(one[step] - two[step]) for step in range(1, EQUAL + 1)),
        "difference_at_the_end": abs(one[STEPS] - two[STEPS]),
    }


def upload(folder: Path) -> Path:
    """What `ray job submit --working-dir .` sends from the project's folder, as a zip in `folder`."""
    import logging

    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    target, left_out = folder / "upload.zip", get_runtime_env_default_excludes()
    create_package(str(ROOT), target, True, excludes=left_out, logger=logging.getLogger("upload"))
    return target


def _nodes(hosts: Hosts) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "sweeper.status", "--address", hosts.address, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=hosts.environment, capture_output=True, text=True, timeout=120)
    return [one for one in json.loads(done.stdout.splitlines()[-1]) if one["alive"]]


def _running(uri: str) -> int:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [one.experiment_id for one in client.search_experiments()]
    return sum(run.info.status == "RUNNING" for run in client.search_runs(experiments))


def _journal(storage: Path) -> Path:
    return next(storage.glob("*/journal.jsonl"), storage / "none")


def _at(storage: Path, trial: str, reports: int) -> None:
    def there() -> bool:
        path = _journal(storage)
        record = Journal(path, read_only=True).trials.get(trial) if path.exists() else None
        if record and record.state == "failed":
            raise RuntimeError(f"{trial} failed: {record.end and record.end.reason}")
        return record is not None and len(record.rows) >= reports

    until(there, LIMIT_S, f"{trial} reports {reports} times")
