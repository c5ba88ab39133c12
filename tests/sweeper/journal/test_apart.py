"""Two sweeps at once in one storage folder, with secrets in their environment: each ends as if it were alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from sweeper.journal.journal import Journal
from tests.drills.processes import marked

SPEC = {
    "name": "apart",
    "trainable": "trainables.toy:train",
    "config": {"run_sd": 0.1, "pause": 0.02},
    "space": {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}},
    "search": {"method": "tpe", "trials": 8},
    "resources": {"concurrency": 1},
}
SECRETS = ("AWS_SECRET_ACCESS_KEY", "HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN")


def told(folder: Path, secrets: list[bytes]) -> list[str]:
    """The files below that hold one of them."""
    found = []
    for path in folder.rglob("*"):
        try:
            data = path.read_bytes() if path.is_file() else b""
        except OSError:  # Ray's own come and go
            continue
        if any(secret in data for secret in secrets):
            found.append(str(path))
    return found


@pytest.mark.slow
def test_two_sweeps_at_once_are_as_one_after_the_other_and_tell_no_secret(tmp_path: Path) -> None:
    (tmp_path / "apart.yaml").write_text(json.dumps(SPEC), "utf-8")
    planted = {name: uuid.uuid4().hex for name in SECRETS}
    secrets = [value.encode() for value in planted.values()]
    mark = f"APART_TEST={uuid.uuid4()}"
    environment = {**os.environ, **planted, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"APART_TEST": mark.partition("=")[2]}
    for name in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "sweeper.run", "apart.yaml", "--json"]
    outputs = [tmp_path / f"output-{number}" for number in range(2)]
    sweeps = []
    for output in outputs:
        with output.open("wb") as file:
            sweeps.append(subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=file, stderr=file))
    in_logs: set[str] = set()
    deadline = time.monotonic() + 240
    while any(sweep.poll() is None for sweep in sweeps) and time.monotonic() < deadline:
        for logs in Path("/tmp").glob("sw-*/r/session_*/logs"):
            in_logs.update(told(logs, secrets))
        time.sleep(1)
    assert [sweep.wait(10) for sweep in sweeps] == [0, 0], [output.read_text("utf-8") for output in outputs]
    assert in_logs == set()
    assert told(tmp_path, secrets) == []
    summaries = [json.loads(output.read_text("utf-8").splitlines()[-1]) for output in outputs]
    assert len({summary["run_dir"] for summary in summaries}) == 2
    assert len({summary["parent_run_id"] for summary in summaries}) == 2
    one, two = (
        [(trial["params"], trial["score"], trial["state"]) for trial in summary["trials"]] for summary in summaries
    )
    assert one == two, "they have the same spec, so they have the same trials"
    assert len({trial["run_id"] for summary in summaries for trial in summary["trials"]}) == 16
    for summary in summaries:
        records = Journal(Path(summary["run_dir"]) / "journal.jsonl", read_only=True).trials.values()
        assert [record.state for record in records] == ["completed"] * 8
    deadline = time.monotonic() + 10
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == {}
