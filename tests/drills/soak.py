"""A long sweep of short trials, in process and through Ray Train: its driver's memory and files, and what is left.

Growth is from a tenth of the trials to the last one: before that, libraries are still being loaded.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.drills import processes

ROOT = Path(__file__).parents[2]
SAMPLE_S = 0.5
GROWTH = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", "--trials", type=int, default=1000, dest="trials", help="trials in process (1000)")
    parser.add_argument("--train", type=int, default=20, help="trials through Ray Train (20)")
    parser.add_argument("--method", default="tpe", choices=("tpe", "random"))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """A sweep of each kind."""
    kinds = {"in_process": (options.trials, 0), "ray_train": (options.train, 1)}
    figures = {name: _sweep(trials, workers, options.method) for name, (trials, workers) in kinds.items() if trials}
    return {"held": all(one["held"] for one in figures.values()), **figures}


def _sweep(trials: int, workers: int, method: str) -> dict[str, Any]:
    """One sweep of the toy, watched from outside."""
    shared = set(os.listdir("/dev/shm"))
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        scratch = folder / "tmp"
        scratch.mkdir()
        (folder / "soak.yaml").write_text(json.dumps(_spec(trials, workers, method)), "utf-8")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(scratch), "SOAK": name}
        for ours in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI"):
            environment.pop(ours, None)
        begin = time.monotonic()
        command = [sys.executable, "-m", "sweeper.run", "soak.yaml", "--json"]
        with (
            (folder / "errors").open("w", encoding="utf-8") as errors,
            (folder / "output").open("w", encoding="utf-8") as out,
        ):
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=errors)
            samples = _watched(process, folder)
        output = (folder / "output").read_text("utf-8")
        took = time.monotonic() - begin
        time.sleep(2)
        completed = sum(trial["state"] == "completed" for trial in json.loads(output)["trials"]) if output else 0
        figures = _figures(samples, trials)
        figures |= {
            "trials": completed,
            "status": process.returncode,
            "seconds": round(took, 1),
            "seconds_to_first_trial": round(next(s["s"] for s in samples if s["ended"]), 1),
            "seconds_after_last_trial": round(took - next(s["s"] for s in samples if s["ended"] >= completed), 1),
            "processes_left": marked(f"SOAK={name}"),
            "shared_memory_left": sorted(set(os.listdir("/dev/shm")) - shared),
            "scratch_left": sorted(path.name for path in scratch.iterdir()),
            "errors": (folder / "errors").read_text("utf-8").splitlines()[-3:] if process.returncode else [],
        }
    figures["held"] = bool(
        completed == trials
        and figures["growth"] < GROWTH
        and figures["files"][-1] <= figures["files"][0] + 5
        and not (figures["processes_left"] or figures["shared_memory_left"] or figures["scratch_left"])
    )
    return figures


def _spec(trials: int, workers: int, method: str) -> dict[str, Any]:
    return {
        "name": "soak",
        "trainable": "trainables.toy:train",
        "config": {"steps": 10, "report_every": 5},
        "space": {"x": {"uniform": [0, 1]}, "shares": {"simplex": {"random": 0, "token": 0, "trigram": 0}}},
        "search": {"method": method, "trials": trials},
        "resources": {"workers": workers, "concurrency": 1 if workers else len(os.sched_getaffinity(0))},
    }


def _watched(process: subprocess.Popen[bytes], folder: Path) -> list[dict[str, float]]:
    """Samples of the driver until it ends: seconds, trials ended, MB resident and proportional, open files, threads."""
    begin, samples = time.monotonic(), []
    while process.poll() is None:
        time.sleep(SAMPLE_S)
        journal = next(folder.glob("runs/*/journal.jsonl"), None)
        ended = journal.read_text("utf-8").count('"event": "end"') if journal else 0
        try:
            memory = _memory(process.pid)
            files = len(os.listdir(f"/proc/{process.pid}/fd"))
            threads = len(os.listdir(f"/proc/{process.pid}/task"))
        except (OSError, KeyError):
            break
        samples.append({"s": time.monotonic() - begin, "ended": ended, **memory, "files": files, "threads": threads})
    process.wait()
    return samples


def _memory(pid: int) -> dict[str, float]:
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text("utf-8").splitlines()[1:])
    kilobytes = {line[0].rstrip(":").lower(): int(line[1]) for line in lines}
    return {kind: kilobytes[kind] / 1000 for kind in ("rss", "pss")}


def _figures(samples: list[dict[str, float]], trials: int) -> dict[str, Any]:
    running = [sample for sample in samples if trials / 10 <= sample["ended"] < trials]
    if len(running) < 2:
        raise RuntimeError(f"only {len(running)} samples while trials ran: more trials are needed")
    first, last = running[0], running[-1]
    tenths = [next(s for s in samples if s["ended"] >= trials * n / 10) for n in range(1, 11)]
    return {
        "rss_mb": [round(first["rss"]), round(last["rss"])],
        "pss_mb": [round(first["pss"]), round(last["pss"])],
        "growth": round(last["rss"] / first["rss"] - 1, 3),
        "files": [int(first["files"]), int(last["files"])],
        "threads": [int(first["threads"]), int(last["threads"])],
        "seconds_per_tenth": [round(b["s"] - a["s"], 1) for a, b in pairwise(tenths)],
    }


def marked(mark: str) -> list[str]:
    """Commands of the processes that carry a variable of the environment, NAME=VALUE, since they began."""
    return [command[:100] for command in processes.marked(mark).values()]
