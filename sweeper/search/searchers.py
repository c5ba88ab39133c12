"""Which trial to start next: Tune's searchers over the journal.

Tune reports a result or an end first to its scheduler, then to its searcher, then to its callbacks. So the scheduler
writes the journal (schedulers.py), and the searcher has no state: it reads from the journal each time which trial to
start, and what has ended. A resumed sweep takes the same path as an uninterrupted one.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from sweeper.confirmation import design, verdicts
from sweeper.journal import budget, checkpoints
from sweeper.journal.events import Ask, End
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.search.optuna_study import write_study
from sweeper.spec.spec import SweepSpec


@dataclass(frozen=True)
class Point:
    """What the search chose. raw: the sampler's parameters; empty if no sampler was involved."""

    arm: str | None
    seed: int
    params: dict[str, Any]
    raw: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What a searcher calls.

    reconcile: before each answer; may write ends into the journal. take_over: with a trial that is to be trained;
    returns whether it was recorded as an earlier run's. sharing: with such a trial; returns the fields of its
    `TrialTask` on trunks. stopped: why no trial is to start any more, if so.
    """

    reconcile: Callable[[], None] = lambda: None
    take_over: Callable[[TrialRecord], bool] = lambda record: False
    sharing: Callable[[TrialRecord], dict[str, Any]] = lambda record: {}
    stopped: Callable[[], str | None] = lambda: None


class JournalSearch(Searcher, ABC):
    """Serves the open trials of an earlier session first, then new ones, at most `slots` at once.

    Every trial is in the journal before Tune gets it. Tune's own trial ids have no meaning here.

    Args:
        spec: of the run.
        journal: of the run.
        slots: how many trials may run at once in this session.
        log: path of Optuna's journal, for its dashboard.
        calls: what it calls on the way.
    """

    stage, prefix = "search", "t"

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        slots: int,
        log: Path,
        calls: Calls | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.journal, self.slots, self.log = spec, journal, slots, log
        self._waiting = deque(record.id for record in self._records() if record.open)
        self._running: list[TrialRecord] = []
        self.calls = calls or Calls()
        self._log_after = 0.0

    @abstractmethod
    def point(self, number: int) -> Point | None:
        """The point of trial `number`, from 0. None if it is not known yet, or if the search is over (`Over`)."""

    @property
    def remaining(self) -> int:
        """How many trials this session still has to start."""
        if self.calls.stopped():
            return 0
        fresh = 0 if self.journal.over(self.stage) else max(0, self.total - len(self._records()))
        return len(self._waiting) + fresh

    @property
    def total(self) -> int:
        """How many trials the stage has."""
        return self.spec.total_trials

    def suggest(self, trial_id: str) -> Any:
        """A trial's task, None for "not now", or FINISHED."""
        self.calls.reconcile()
        if self.calls.stopped():
            return Searcher.FINISHED
        self._running = [record for record in self._running if record.open]
        if len(self._running) >= self.slots:
            return None
        if self._waiting:
            return self._task(self._waiting.popleft())
        number = len(self._records())
        if number >= self.total or self.journal.over(self.stage):
            return Searcher.FINISHED
        point = self.point(number)
        return None if point is None else self._asked(number, point)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Rewrite the dashboard's file, in at most a hundredth of the sweep's time."""
        begin = time.monotonic()
        if begin >= self._log_after:
            write_study(self.spec, self.journal, self.log)
            self._log_after = begin + 100 * (time.monotonic() - begin)

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
        """Never called: the journal is the state."""
        raise AssertionError("a sweep is resumed from its journal")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its arguments into a file that nothing reads."""
        return {}

    def _records(self) -> Sequence[TrialRecord]:
        """This stage's trials in order of number."""
        return self.journal.stage(self.stage)

    def _asked(self, number: int, point: Point) -> dict[str, Any] | None:
        identity = f"{self.prefix}{number + 1:04d}"
        common = {"trial": identity, "number": number, "stage": self.stage, **vars(point)}
        try:
            config = self.spec.trainable_config(point.params)
            tokens = self.spec.settings(point.params).tokens_per_step
            planned = budget.to_dict(self.spec.budget_of(point.params), tokens)
        except ValueError as error:  # the corners of the space are legal, but not this point between them
            self.journal.append(Ask(**common, config={}, config_hash=""))
            self.journal.append(End(trial=identity, state="failed", reason=f"refused: {error}"))
            return None
        self.journal.append(Ask(**common, config=config, config_hash=self.spec.config_hash(config), budget=planned))
        return self._task(identity)

    def _task(self, identity: str) -> dict[str, Any] | None:
        """The trial's own fields of a `TrialTask`; None if an earlier run has trained it, which is recorded then."""
        record = self.journal.trials[identity]
        if self.calls.take_over(record):
            return None
        self._running.append(record)
        ask = record.ask
        confirming = ask.stage == design.STAGE
        return {
            "id": identity,
            "seed": ask.seed,
            "config": ask.config,
            "expected": expected_rows(self.spec, record),
            "test": confirming,
            "evaluate": self.spec.tasks(confirming),
            **self.calls.sharing(record),
        }


class ListSearch(JournalSearch):
    """Methods arms and grid: each arm on each search seed, seed by seed so that the arms can be compared early."""

    def point(self, number: int) -> Point:
        seed, arm = divmod(number, len(self.spec.arms))
        name = list(self.spec.arms)[arm]
        return Point(name, self.spec.seeds.search[seed], self.spec.arms[name], {})


class ConfirmSearch(JournalSearch):
    """The declared looks of the confirmation: each arm on each seed, scored on the part `test`."""

    stage, prefix = design.STAGE, "c"

    @property
    def total(self) -> int:
        return len(design.runs(self.spec, self.journal))

    def point(self, number: int) -> Point | None:
        family = self.journal.families()[0]
        if (
            family.racing
            and number >= len(family.arms) * verdicts.RACING_PAIRS
            and not design.racing_complete(self.journal)
        ):
            return None
        label, seed = design.runs(self.spec, self.journal)[number]
        return Point(label, seed, self.journal.families()[-1].arms[label], {})


class OpenSearch(JournalSearch):
    """The open trials of the journal, of any stage, and no new ones."""

    def _records(self) -> list[TrialRecord]:
        return list(self.journal.trials.values())

    @property
    def total(self) -> int:
        return len(self._records())

    def point(self, number: int) -> None:
        """None: there are no new trials."""


def expected_rows(spec: SweepSpec, record: TrialRecord) -> list[checkpoints.ExpectedRow]:
    """The rows that a trial must reproduce: all in the journal; none on a GPU, where results may differ in bits."""
    rows = record.rows if not spec.resources.gpus_per_worker else []
    return [({"step": row.step, **row.metrics}, row.checkpoint) for row in rows]
