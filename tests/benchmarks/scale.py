"""What many trials cost the driver of a sweep: `python -m tests.benchmarks.scale [--trials N ...] [--json]`.

Recorded learning curves are replayed through the real search, scheduler, journal and tracking, on the simulated clock
of `regret` (its `play`): no training, no Ray session. Every report is delivered to MLflow, on a SQLite file, before
the clock goes on, as in a sweep whose reports lie further apart than the tracker's half a second; so a trial costs it
a call for each of its reports. Each size is a process of its own.

The curves: `curves.json` holds the validation losses that the 20 arms of `search_spaces/ablation.yaml` reported (laptop
profile, seed 1, steps 300, 600, 900, 1,200). From them come 1,000 recorded configurations, at fixed points of the
toy's space: each ends above the lowest recorded end by its distance from the toy's optimum, scaled so that the ends
spread as the recorded ones do, and comes down to its end as one of the arms did. So curves cross as those of the arms
do, and the best of the configurations is known. A trial replays the curve of the configuration nearest to its point.

Seconds are CPU seconds of the driver. sampler_s: asking Optuna, the trials' translation for it included. tracking_s:
the tracker's thread. The rest, driver_cpu_s less these two, is the search, the rule, the journal, optuna.log, and the
replay itself. Counted from when the libraries are loaded and the store is made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sweeper.journal.events import Repeat, Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.records import best
from sweeper.search.optuna_search import StudySearch
from sweeper.search.optuna_study import write_study
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import store
from sweeper.tracking.tracker import Tracker
from tests.benchmarks.regret import Curve, Ours, play, spec
from trainables import toy

SIZES = (100, 1_000, 10_000)
SLOTS = 8
CONFIGURATIONS = 1_000
ARMS: dict[str, Curve] = json.loads(Path(__file__).with_name("curves.json").read_text("utf-8"))
REPORTS = [step for step, _ in next(iter(ARMS.values()))]
CONFIG = {"steps": REPORTS[-1], "report_every": REPORTS[0]}
RULES: dict[str, Any] = {
    "none": "none",
    "halving, reduction 2": {"halving": {"first": 300, "reduction": 2}},
    "halving, reduction 3": {"halving": {"first": 300, "reduction": 3}},
    "halving, reduction 4": {"halving": {"first": 300, "reduction": 4}},
    "halving, reduction 2, from 600": {"halving": {"first": 600, "reduction": 2}},
    "halving, reduction 4, from 600": {"halving": {"first": 600, "reduction": 4}},
    "median": {"median": {"first": 300, "trials": 5}},
}
MEASURED = "halving, reduction 3"
GOOD = CONFIGURATIONS // 100
FULL_RUNS = 200  # how long a rule may search, in runs of the full length


class Recorded:
    """The recorded configurations, from the best to the worst."""

    def __init__(self) -> None:
        points = np.random.default_rng(0).random((CONFIGURATIONS, 3)) * (1, 1, 0.5)
        away = np.square(points - (0.3, 0.7, 0.2)).sum(1)
        ends = [curve[-1][1] for curve in ARMS.values()]
        order = np.argsort(away)
        self.points = points[order]
        self.ends = min(ends) + away[order] * (statistics.stdev(ends) / away.std())

    def rank(self, config: toy.Config) -> int:
        """Of the configuration nearest to this point; 0 is the best."""
        point = (config.x, config.y, config.shares.token)
        return int(np.square(self.points - point).sum(1).argmin())

    def curve(self, config: toy.Config) -> Curve:
        rank = self.rank(config)
        arms = list(ARMS.values())
        arm = arms[rank % len(arms)]
        return [(step, float(self.ends[rank]) + loss - arm[-1][1]) for step, loss in arm]


class TimedSearch(StudySearch):
    """sampler_s: CPU seconds of asking."""

    sampler_s = 0.0

    def _sample(self, records: Sequence[TrialRecord], repeats: Sequence[Repeat], number: int) -> dict[str, Any]:
        begin = time.thread_time()
        raw = super()._sample(records, repeats, number)
        self.sampler_s += time.thread_time() - begin
        return raw


class TimedTracker(Tracker):
    """tracking_s: CPU seconds of its thread."""

    tracking_s = 0.0

    def __init__(self, journal: Journal, spec: SweepSpec, run_dir: Path, uri: str) -> None:
        super().__init__(journal, spec, run_dir, uri, tags={"sweeper.data_fingerprint": "0" * 64})
        self._level = threading.Event()

    def deliver(self) -> None:
        """Wait until the store has all that the journal has."""
        self._level.clear()
        self._wake.set()
        if not self._level.wait(60):
            raise RuntimeError("the tracker does not deliver")

    def _pass(self, closing: Any) -> None:
        super()._pass(closing)
        self.tracking_s = time.thread_time()
        if not self._unread():
            self._level.set()


@dataclass(frozen=True)
class Mark:
    """What it took to come to so many trials. MB are resident."""

    trials: int
    driver_cpu_s: float
    sampler_s: float
    tracking_s: float
    mb: float

    @property
    def rest_s(self) -> float:
        return self.driver_cpu_s - self.sampler_s - self.tracking_s


def measure(trials: int, rule: str = MEASURED, marks: int = 10) -> dict[str, Any]:
    """Replay a sweep of so many trials; the last of the marks are its totals."""
    recorded, told = Recorded(), spec("tpe", RULES[rule], trials, 0, CONFIG)
    found: list[Mark] = []
    with _store() as (folder, uri):
        begin, wall = time.process_time(), time.monotonic()
        one = Ours(told, folder, SLOTS, TimedSearch)
        searcher = one.search
        assert isinstance(searcher, TimedSearch)
        one.journal.append(Session(command=" ".join(sys.orig_argv), versions={}, git_commit=None, machine={}))
        tracker = TimedTracker(one.journal, told, folder, uri)
        tracker.start()

        def mark(ended: int) -> None:
            spent = time.process_time() - begin
            found.append(Mark(ended, spent, searcher.sampler_s, tracker.tracking_s, _resident()))
            print(found[-1], file=sys.stderr, flush=True)  # the largest size takes its time

        mark(0)
        ended = 0
        for tick in play(one, recorded.curve, SLOTS):
            tracker.deliver()
            ended += tick.last
            if tick.last and ended < trials and (ended in SIZES or ended % max(1, trials // marks) == 0):
                mark(ended)
        write_study(told, one.journal, folder / "optuna.log")
        winner = best(told, one.journal.trials.values())
        assert tracker.close("completed", winner, None, 60) == 0
        mark(trials)
        assert winner is not None
        total = found[-1]
        return {
            "trials": trials,
            "scheduler": rule,
            "slots": SLOTS,
            "reports": sum(len(record.rows) for record in one.journal.trials.values()),
            "driver_cpu_s": round(total.driver_cpu_s, 2),
            "sampler_s": round(total.sampler_s, 2),
            "tracking_s": round(total.tracking_s, 2),
            "rest_s": round(total.rest_s, 2),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            "start_mb": round(found[0].mb, 1),
            "wall_s": round(time.monotonic() - wall, 1),
            "best_found": round(winner.score(told.objective) or 0, 5),
            "best_recorded": round(float(recorded.ends[0]), 5),
            "marks": [{**asdict(one), "rest_s": one.rest_s} for one in found],
        }


@contextmanager
def _store() -> Iterator[tuple[Path, str]]:
    """A run folder and a new tracking store."""
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        folder, uri = Path(name, "run"), f"sqlite:///{name}/mlflow.db"
        folder.mkdir()
        store.configure()
        store.connection(uri).search_experiments()
        yield folder, uri


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def soonest(rule: str, seed: int, full_runs: int = FULL_RUNS) -> dict[str, float | None]:
    """When a trial of the best recorded configuration, and of one of the best 1 %, was first complete; None if never.

    In the time of a run of the full length, on the simulated clock; the search ends after `full_runs` of them.
    """
    recorded, length = Recorded(), REPORTS[-1]
    steps = full_runs * length
    told = spec("tpe", RULES[rule], steps // REPORTS[0], seed, CONFIG)
    found: dict[str, float | None] = {"best": None, "good": None}
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        one = Ours(told, Path(folder), SLOTS)
        for tick in play(one, recorded.curve, SLOTS):
            steps -= REPORTS[0]
            if tick.completed:
                config = toy.Config.model_validate(one.journal.trials[tick.trial].ask.config)
                rank = recorded.rank(config)
                for name, within in (("best", 1), ("good", GOOD)):
                    if rank < within and found[name] is None:
                        found[name] = tick.now / length
            if steps <= 0 or found["best"] is not None:
                return found
    return found


def compare(seeds: int) -> dict[str, Any]:
    """For each rule, the median over the seeds, never counting as longer than any, and how many found it."""
    figures: dict[str, Any] = {}
    for rule in RULES:
        found = [soonest(rule, seed) for seed in range(seeds)]
        figures[rule] = {}
        for name in ("good", "best"):
            times = [float("inf") if one[name] is None else float(one[name] or 0) for one in found]
            middle = statistics.median(times)
            figures[rule][name] = None if middle == float("inf") else round(middle, 2)
            figures[rule][f"{name}_found"] = sum(time < float("inf") for time in times)
    return figures


def apart(trials: int) -> dict[str, Any]:
    """`measure` in a process of its own, whose peak of memory is its own, too."""
    command = [sys.executable, "-m", "tests.benchmarks.scale", "--trials", str(trials), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    if done.returncode:
        raise RuntimeError(f"{trials} trials: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def table(sizes: Sequence[dict[str, Any]]) -> list[str]:
    """For people: of each size the totals, of the largest the cost of a trial on the way."""
    lines = [
        "  trials  reports  driver s  sampler s  tracking s  rest s  tracking, rest ms a trial  peak MB  best found"
    ]
    for one in sizes:
        each = 1000 / one["trials"]
        lines.append(
            f"{one['trials']:8,} {one['reports']:8,} {one['driver_cpu_s']:9.1f} {one['sampler_s']:10.1f} "
            f"{one['tracking_s']:11.1f} {one['rest_s']:7.1f} {one['tracking_s'] * each:14.1f} "
            f"{one['rest_s'] * each:11.2f} {one['peak_mb']:8.0f}  {one['best_found']:.4f} of {one['best_recorded']:.4f}"
        )
    lines += [
        "",
        "of the largest, ms a trial and MB per 1,000 trials between",
        "      to  sampler  tracking   rest     MB",
    ]
    marks = sizes[-1]["marks"]
    for before, after in pairwise(marks):
        each = 1000 / (after["trials"] - before["trials"])
        sampler, tracking, rest, mb = (
            each * (after[key] - before[key]) for key in ("sampler_s", "tracking_s", "rest_s", "mb")
        )
        lines.append(f"{after['trials']:8,} {sampler:8.1f} {tracking:9.1f} {rest:6.2f} {mb:6.1f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", help="sizes of sweeps; the schedulers are then left out")
    parser.add_argument("--only-schedulers", action="store_true", help="compare the schedulers and nothing else")
    parser.add_argument("--seeds", type=int, default=20, help="searches with each scheduler (20)")
    parser.add_argument("--json", action="store_true", help="a last line with one object")
    options = parser.parse_args()
    sizes, rules = [], {}
    if not options.only_schedulers:
        wanted = options.trials or SIZES
        sizes = [measure(wanted[0])] if len(wanted) == 1 else [apart(trials) for trials in wanted]
    if not options.trials:
        rules = compare(options.seeds)
    if options.json:
        print(json.dumps(sizes[0] if len(sizes) == 1 else {"sizes": sizes, "schedulers": rules}))
        return
    print("\n".join(table(sizes) if sizes else []))
    if rules:
        print(
            f"full runs until one of the best {GOOD} of {CONFIGURATIONS:,}, and the best, was complete; median, found"
        )
    for rule, found in rules.items():
        told = (f"{found[name] or '-':>7} {found[f'{name}_found']:3} of {options.seeds}" for name in ("good", "best"))
        print(f"  {rule:<32}{'  '.join(told)}")


if __name__ == "__main__":
    main()
