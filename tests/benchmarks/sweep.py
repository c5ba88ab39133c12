"""What the sweep costs over the bare trials, and how long a trial with a worker group takes to begin.

`python -m tests.benchmarks.sweep [--quick] [--only-startup] [--json]`. The same configurations and seed twice, as many
at a time and with as many threads: as one `python -m sweeper.run`, and as one `python -m trainables.mlm` each. Both
times are of whole processes, Ray's start, the tracking store and all checkpoints included; both find the corpus
prepared.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec.load import load
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Trainable

SPEC = Path(__file__).parents[2] / "search_spaces" / "mix_ratios.yaml"
ARM = ("masking.shares", {"random": 0.8, "token": 0.15, "trigram": 0.05})
TRIALS = 8


@dataclass(frozen=True)
class Figures:
    """Seconds; overhead is sweep_s over bare_s.

    sweep_s: of the whole command. sweep_trials_s: from the first trial's start to the last one's end, without Ray's
    start and the end of the sweep. startup_s: from the ask to the report of the first step of a trial with one worker,
    median of those after the first one.
    """

    trials: int
    concurrency: int
    steps: int
    sweep_s: float
    bare_s: float
    overhead: float
    sweep_trials_s: float
    overhead_trials: float
    startup_s: float | None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.sweep", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twelfth of the steps, too short for a verdict")
    parser.add_argument("--concurrency", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--no-startup", action="store_true", help="leave the trials with workers out")
    parser.add_argument("--only-startup", action="store_true", help="nothing but those")
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        if options.only_startup:
            figures: dict[str, Any] = {"startup_s": _startup(Path(folder))}
        else:
            figures = asdict(measure(Path(folder), 100 if options.quick else 1200, options))
    print(json.dumps(figures, indent=None if options.json else 1))


def measure(folder: Path, steps: int, options: argparse.Namespace) -> Figures:
    """Run both, the bare ones first."""
    spec = _spec(folder / "inside.yaml", TRIALS, steps, options.concurrency, 0)
    Trainable.load(spec.trainable).prepare(spec.settings({}))
    bare = _bare(spec, folder / "bare", options.concurrency)
    journal, whole = _sweep(folder / "inside.yaml", folder / "inside")
    records = list(journal.trials.values())
    assert [record.state for record in records] == ["completed"] * TRIALS
    inside = max(record.end.time for record in records if record.end) - min(record.ask.time for record in records)
    return Figures(
        trials=TRIALS,
        concurrency=options.concurrency,
        steps=steps,
        sweep_s=whole,
        bare_s=bare,
        overhead=whole / bare,
        sweep_trials_s=inside,
        overhead_trials=inside / bare,
        startup_s=None if options.no_startup else _startup(folder),
    )


def _spec(path: Path, trials: int, steps: int, concurrency: int, workers: int) -> SweepSpec:
    """A laptop-profile sweep of one configuration on several seeds, as a file."""
    tree = load(SPEC, "laptop").model_dump(mode="json")
    setting, value = ARM
    tree |= {
        "name": path.stem,
        "space": {},
        "arms": {"published": {setting: value}},
        "search": {"method": "arms"},
        "seeds": {"search": list(range(trials)), "confirm": []},
        "resources": {"workers": workers, "cpus_per_worker": 1, "concurrency": concurrency},
        "profile": None,
    }
    tree["config"] |= {"steps": steps, "report_every": max(1, steps // 4) if not workers else 1}
    tree["config"]["masking"]["update_every"] = max(1, steps // 50)
    if workers:
        tree["data"]["max_held_out"] = 4000  # the first report is to come as soon after the first step as it can
    path.write_text(json.dumps(tree), encoding="utf-8")
    return load(path)


def _sweep(spec: Path, storage: Path) -> tuple[Journal, float]:
    """The journal of a sweep and the seconds of its command."""
    begin = time.monotonic()
    _run([sys.executable, "-m", "sweeper.run", str(spec), "--storage", str(storage)])
    took = time.monotonic() - begin
    return Journal(next(storage.glob("*/journal.jsonl"))), took


def _bare(spec: SweepSpec, folder: Path, concurrency: int) -> float:
    """Seconds for the same configuration on the same seeds, one command each."""
    settings = _flat({**spec.config, "data": spec.data}) | {ARM[0]: ARM[1]}
    sets = [f"--set={path}={json.dumps(value)}" for path, value in settings.items()]
    command = [sys.executable, "-m", "trainables.mlm", "--threads", "1", *sets]

    def one(seed: int) -> None:
        _run([*command, "--seed", str(seed), "--output", str(folder / str(seed))])

    begin = time.monotonic()
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(one, spec.seeds.search))
    return time.monotonic() - begin


def _startup(folder: Path) -> float:
    """Seconds from a nested trial's ask to its first report, past the first, which also waits for Ray's own start.

    The report comes after one step, a short validation and a checkpoint.
    """
    _spec(folder / "nested.yaml", 6, 10, 1, 1)
    journal, _ = _sweep(folder / "nested.yaml", folder / "nested")
    waits = sorted(_wait(record) for record in list(journal.trials.values())[1:])
    return waits[len(waits) // 2]


def _wait(record: TrialRecord) -> float:
    return record.rows[0].time - record.ask.time


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted paths of a tree's leaves; the shares stay together, for they must sum to 1 at any time."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and prefix + key != ARM[0]:
            found |= _flat(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = value
    return found


def _run(command: list[str]) -> None:
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=SPEC.parents[1])
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:4])} ended with {done.returncode}: {done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
