"""What to try next: Tune's searcher over the journal.

Tune tells its scheduler of a result or an end first, then its searcher, then its callbacks. So the scheduler writes
the journal (schedulers.py), and the searcher keeps nothing: whom to start, what has ended and what the sampler may
know are read from the journal at every question. A resumed sweep takes the same path as one that was never
interrupted.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from sweeper.confirmation import design, verdicts
from sweeper.journal import budget, checkpoints
from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, End, Over, Repeat
from sweeper.journal.journal import Journal, TrialRecord, apply
from sweeper.spec.objectives import maximised
from sweeper.spec.space import Dimension, point
from sweeper.spec.spec import SweepSpec
from sweeper.system import files

MEMORY = 1000  # trials that the sampler sees: multivariate TPE is quadratic in them
REPEATS = 10  # times that the sampler may ask for what there is already, before a point is found without it
LOOKED_AT = 10_000  # points of the space, on the way to one that was not tried

Key = tuple[int, int]

_STATES = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}

optuna.logging.set_verbosity(optuna.logging.ERROR)


@dataclass(frozen=True)
class Point:
    """What the search chose. raw: the sampler's own parameters, none where it had no part."""

    arm: str | None
    seed: int
    params: dict[str, Any]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A point that the sampler asked for, as a study shows it. record: the trial that has it.

    key: the number of the trial to be asked for, and how often before the sampler had asked for what there was already.
    raw: the parameters that it gave.
    """

    key: Key
    record: TrialRecord
    raw: Mapping[str, Any]


class JournalSearch(Searcher, ABC):
    """Serves the open trials of an earlier session first, then new ones, at most `slots` at once.

    Every trial is in the journal before Tune hears of it. Tune's own trial ids mean nothing here.

    Args:
        slots: how many trials may run at once in this session.
        log: of Optuna's journal, for its dashboard.
        reconcile: called before each answer; may write ends into the journal.
    """

    stage, prefix = "search", "t"

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        slots: int,
        log: Path,
        reconcile: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.spec, self.journal, self.slots, self.log = spec, journal, slots, log
        self._waiting = deque(record.id for record in self._records() if record.open)
        self._running: list[TrialRecord] = []
        self._reconcile = reconcile
        self._log_after = 0.0

    @abstractmethod
    def point(self, number: int) -> Point | None:
        """The point of a trial by its number from 0, or None while it cannot be known yet, or never will be: Over."""

    @property
    def remaining(self) -> int:
        """Trials that this session has still to start."""
        fresh = 0 if self.journal.over(self.stage) else max(0, self.total - len(self._records()))
        return len(self._waiting) + fresh

    @property
    def total(self) -> int:
        """Trials of the stage."""
        return self.spec.total_trials

    def suggest(self, trial_id: str) -> Any:
        """A trial's task, None for "not now", or FINISHED."""
        self._reconcile()
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
        """Renew the dashboard's file, in no more than a hundredth of the sweep's time."""
        begin = time.monotonic()
        if begin >= self._log_after:
            write_study(self.spec, self.journal, self.log)
            self._log_after = begin + 100 * (time.monotonic() - begin)

    def save(self, checkpoint_path: str) -> None:
        """The journal is the state."""

    def restore(self, checkpoint_path: str) -> None:
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
            told = budget.to_dict(self.spec.budget_of(point.params), tokens)
        except ValueError as error:  # the corners of the space are legal, this point between them is not
            self.journal.append(Ask(**common, config={}, config_hash=""))
            self.journal.append(End(trial=identity, state="failed", reason=f"refused: {error}"))
            return None
        self.journal.append(Ask(**common, config=config, config_hash=self.spec.config_hash(config), budget=told))
        return self._task(identity)

    def _task(self, identity: str) -> dict[str, Any]:
        """What a trial is told of itself."""
        record = self.journal.trials[identity]
        self._running.append(record)
        ask = record.ask
        told = {"id": identity, "seed": ask.seed, "config": ask.config, "expected": expected_rows(self.spec, record)}
        confirming = ask.stage == design.STAGE
        return {**told, "test": confirming, "evaluate": self.spec.tasks(confirming)}


class ListSearch(JournalSearch):
    """Methods arms and grid: each arm on each search seed, seed by seed so that the arms can be compared early."""

    def point(self, number: int) -> Point:
        seed, arm = divmod(number, len(self.spec.arms))
        name = list(self.spec.arms)[arm]
        return Point(name, self.spec.seeds.search[seed], self.spec.arms[name], {})


class ConfirmSearch(JournalSearch):
    """The declared looks of the confirmation, each arm on each seed, judged on the part `test`."""

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
    """What the journal holds open, of whatever stage, and nothing new."""

    def _records(self) -> list[TrialRecord]:
        return list(self.journal.trials.values())

    @property
    def total(self) -> int:
        return len(self._records())

    def point(self, number: int) -> None:
        """There is none."""


class StudySearch(JournalSearch):
    """Methods tpe, random, gp and cmaes: the arms first, then what an Optuna sampler asks for.

    The sampler is made anew for each trial, seeded by the sweep's seed and the trial's number n. `concurrency` is how
    many trials may run at once.

    Where every trial runs to its end, trial n is asked for once all trials up to n - concurrency have ended, and the
    sampler then sees just these as finished and the later ones as running, whatever the clock did: the points of a
    sweep depend on its spec and `concurrency` alone. Fewer `slots` than that slow it down and change nothing.

    Under a rule that stops trials, which ones stop depends on the order of their reports, and so do the points. There
    trial n is asked for at once, on all that the journal holds by then: what has ended as it ended, the rest as
    running. With one trial at a time the two are the same.

    No point is trained twice. What the sampler asks for again goes into the journal, is shown to it from then on as
    the trial that has that point, and it is asked anew. Where that leads to nothing new, any point will do that has not
    been tried; where there is none, the search is over.
    """

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        slots: int,
        log: Path,
        concurrency: int,
        reconcile: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(spec, journal, min(slots, concurrency), log, reconcile)
        self.concurrency = concurrency
        self._marks: dict[Key, dict[str, Any]] = {}  # what CMA-ES keeps with a trial: its generation
        self._distributions = _distributions(spec)
        self._frozen: dict[Key, FrozenTrial] = {}  # of trials that have ended
        self._tried: dict[str, str] = {}  # which trial has a point, by its settings and by its configuration's hash
        self._ended = self._noted = 0  # so many trials, the first ones, have ended, or are in `_tried`
        if spec.search.method == "cmaes":
            self._ask_again()

    def point(self, number: int) -> Point | None:
        seed, arms = self.spec.seeds.search[0], list(self.spec.arms)
        records = self._records()
        if self._waits and not self._all_ended(records, self._settled(number)):
            return None
        if number < len(arms):
            params = self.spec.arms[arms[number]]
            raw = [self.spec.space[path].to_sampler(path, value) for path, value in params.items()]
            return Point(arms[number], seed, params, {name: part[name] for part in raw for name in part})
        return self._fresh(records, number)

    @property
    def _waits(self) -> bool:
        """Whether the points are to be independent of the clock."""
        return self.spec.scheduler == "none"

    def _settled(self, number: int) -> int:
        """So many trials, the first ones, are shown to the sampler of this one as the journal has them."""
        return max(0, number - self.concurrency + 1) if self._waits else number

    def _fresh(self, records: Sequence[TrialRecord], number: int) -> Point | None:
        """A point that no trial has, or None once the journal says that the search is over."""
        repeats, space = self.journal.repeats(self.stage), self.spec.space
        while not self._exhausted(count := _count(repeats, number)):
            raw = self._sample(records, repeats, number)
            params = {path: domain.value(path, raw) for path, domain in space.items()}
            trial = self._trial_with(records, params)
            if trial is None:
                return Point(None, self.spec.seeds.search[0], params, raw)
            self.journal.append(Repeat(stage=self.stage, number=number, of=trial, raw=raw))
        return self._untried(records, number, count)

    def _exhausted(self, repeats: int) -> bool:
        """Whether the sampler is asked no more after so many points that there were. The second half is at random."""
        return repeats >= (REPEATS if self.spec.points else 2 * REPEATS)

    def _untried(self, records: Sequence[TrialRecord], number: int, count: int) -> Point | None:
        """The first point without a trial from some place on; where none is found, the search is over."""
        size, space, seed = self.spec.points or 0, self.spec.space, self.spec.seeds.search[0]
        begin = derive(seed, number, count)
        for offset in range(min(size, LOOKED_AT)):
            params = point(space, (begin + offset) % size)
            if self._trial_with(records, params) is None:
                raw = [space[path].to_sampler(path, value) for path, value in params.items()]
                return Point(None, seed, params, {name: part[name] for part in raw for name in part})
        every = f"all {size:,} points of the space have been tried"
        reason = every if 0 < size <= LOOKED_AT else "the sampler asks for nothing but what has been tried"
        self.journal.append(Over(stage=self.stage, reason=reason))
        return None

    def _trial_with(self, records: Sequence[TrialRecord], params: Mapping[str, Any]) -> str | None:
        """The trial that has a point, whatever became of it; all are of one seed."""
        for record in records[self._noted :]:
            for key in (json.dumps(record.ask.params, sort_keys=True), record.ask.config_hash):
                self._tried.setdefault(key, record.id)
        self._noted = len(records)
        if found := self._tried.get(json.dumps(params, sort_keys=True)):
            return found
        try:
            return self._tried.get(self.spec.config_hash(self.spec.trainable_config(params)))
        except ValueError:
            return None

    def _ask_again(self) -> None:
        """Make the marks of earlier sessions' trials again, each on what the journal held when it was asked for."""
        past: dict[str, TrialRecord] = {}
        repeats: list[Repeat] = []
        for event in self.journal.events:
            sampled = event if isinstance(event, Repeat) or (isinstance(event, Ask) and event.arm is None) else None
            if sampled and sampled.stage == self.stage and not self._exhausted(_count(repeats, sampled.number)):
                records = [record for record in past.values() if record.ask.stage == self.stage]
                self._sample(records, repeats, sampled.number)
            if isinstance(event, Repeat):
                repeats.append(event)
            apply(past, event)

    def _all_ended(self, records: Sequence[TrialRecord], count: int) -> bool:
        """Whether the first `count` trials have. What has ended stays so, and is not looked at again."""
        while self._ended < count and not records[self._ended].open:
            self._ended += 1
        return self._ended >= count

    def _sample(self, records: Sequence[TrialRecord], repeats: Sequence[Repeat], number: int) -> dict[str, Any]:
        """The raw parameters that the sampler gives trial `number` after these."""
        settled, count = self._settled(number), _count(repeats, number)
        common = Common.of(self.spec, records[:settled])  # what left the budget would draw the sampler out of it

        def on_budget(record: TrialRecord) -> bool:
            if record.ask.number < settled:
                return common.kept(record)
            return common.free or common.foretold(record.ask.budget)

        trials = [
            self._shown(shown, running=shown.record.ask.number >= settled)
            for shown in _latest(records, repeats, MEMORY)
            if on_budget(shown.record)
        ]
        seed = derive(self.spec.seeds.search[0], number, count)
        sampler = _sampler(self.spec, seed) if count < REPEATS else RandomSampler(seed)
        study = optuna.create_study(sampler=sampler, directions=_directions(self.spec))
        study.add_trials(trials)
        raw = study.ask(fixed_distributions=self._distributions).params
        if self.spec.search.method == "cmaes":
            self._marks[number, count] = study.get_trials(deepcopy=False)[-1].system_attrs
        return raw

    def _shown(self, shown: Shown, running: bool = False) -> FrozenTrial:
        """A trial as the sampler sees it, made once where it has ended."""
        if not running and shown.key in self._frozen:
            return self._frozen[shown.key]
        trial = _frozen_trial(shown, self.spec.objectives, self._distributions, running)
        trial.system_attrs = dict(self._marks.get(shown.key, {}))
        if trial.state.is_finished():
            self._frozen[shown.key] = trial
        return trial


def expected_rows(spec: SweepSpec, record: TrialRecord) -> list[checkpoints.ExpectedRow]:
    """What a trial must repeat: all rows of the journal; none on a GPU, where the same steps may give other bits."""
    rows = record.rows if not spec.resources.gpus_per_worker else []
    return [({"step": row.step, **row.metrics}, row.checkpoint) for row in rows]


def derive(seed: int, number: int, count: int = 0) -> int:
    """A sampler's seed for one trial; another for each time that it is asked again."""
    again = f" {count}" if count else ""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}{again}".encode()).digest()[:4])


def write_study(spec: SweepSpec, journal: Journal, path: Path) -> None:
    """The journal as an Optuna journal file, for optuna-dashboard. Nothing reads it back."""
    lines = _Lines()
    study = optuna.create_study(storage=JournalStorage(lines), study_name=spec.name, directions=_directions(spec))
    records, repeats = journal.stage(JournalSearch.stage), journal.repeats(JournalSearch.stage)
    study.add_trials(_frozen_all(_latest(records, repeats), spec, spec.objectives))
    files.put(path, "".join(lines.lines))


def importance(spec: SweepSpec, journal: Journal) -> dict[str, float]:
    """How much each setting of the space sets the best trials apart, by path, 1 in all; empty where nothing does.

    PED-ANOVA (Watanabe, Bansal & Hutter 2023), Optuna's own choice. A simplex has the sum of its parameters. Of several
    objectives the first counts.
    """
    common = Common.of(spec, journal.stage("search"))
    records = [record for record in journal.stage("search") if record.ask.raw and common.kept(record)]
    study = optuna.create_study()
    shown = _frozen_all(_latest(records, ()), spec, spec.objectives[:1])
    study.add_trials([trial for trial in shown if trial.state == TrialState.COMPLETE])
    if len({trial.value for trial in study.trials}) < 2:
        return {}
    by_raw = optuna.importance.get_param_importances(study)
    return {
        path: sum(by_raw.get(name, 0.0) for name in domain.sampler_params(path)) for path, domain in spec.space.items()
    }


def _sampler(spec: SweepSpec, seed: int) -> BaseSampler:
    if spec.search.method == "random":
        return RandomSampler(seed)
    if spec.search.method == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    # At least a few points at random, at most Optuna's own ten, and in a short sweep a third of it.
    startup = max(3, min(10, spec.total_trials // 3))
    if spec.search.method == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    return TPESampler(seed=seed, multivariate=True, constant_liar=True, n_startup_trials=startup)


def _directions(spec: SweepSpec) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if maximised(name) else StudyDirection.MINIMIZE for name in spec.objectives]


def _distributions(spec: SweepSpec) -> dict[str, BaseDistribution]:
    dimensions = [domain.sampler_params(path) for path, domain in spec.space.items()]
    return {name: _distribution(part[name]) for part in dimensions for name in part}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


class _Lines(BaseJournalBackend):
    """The lines of a JournalFileBackend's file, which would open, lock and sync it anew for every trial."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]


class _Shared(FrozenTrial):
    """One that a storage may keep without a copy of its contents, which nobody changes: copies were 90 % of a question
    to the sampler."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy.copy(self)


def _count(repeats: Sequence[Repeat], number: int) -> int:
    """How often the sampler asked for what there was already in place of the newest trial, which has this number."""
    return sum(1 for _ in itertools.takewhile(lambda one: one.number >= number, reversed(repeats)))


def _latest(records: Sequence[TrialRecord], repeats: Sequence[Repeat], most: int | None = None) -> list[Shown]:
    """Trials, and what was asked for again as the trials that have it, in the order of asking; the latest `most`."""
    begin = max(0, len(records) - most) if most else 0
    again = list(itertools.takewhile(lambda one: one.number >= begin, reversed(repeats)))[::-1]
    by_number: dict[int, list[Repeat]] = {}
    for one in again:
        by_number.setdefault(one.number, []).append(one)
    trials = {record.id: record for record in records} if again else {}
    found = []
    for number in range(begin, len(records) + 1):
        asked = by_number.get(number, [])
        found += [Shown((number, count), trials[one.of], one.raw) for count, one in enumerate(asked)]
        if number < len(records):
            found.append(Shown((number, len(asked)), records[number], records[number].ask.raw))
    return found[-most:] if most else found


def _frozen_all(shown: Iterable[Shown], spec: SweepSpec, objectives: Sequence[str]) -> list[FrozenTrial]:
    distributions, shown = _distributions(spec), list(shown)
    common = Common.of(spec, [each.record for each in shown])
    frozen = [_frozen_trial(each, objectives, distributions) for each in shown]
    for trial, each in zip(frozen, shown, strict=True):
        if trial.state == TrialState.COMPLETE and not common.kept(each.record):
            trial.state, trial.values = TrialState.FAIL, None  # never the best
            trial.user_attrs["note"] = design.APART
    return frozen


def _frozen_trial(
    shown: Shown, objectives: Sequence[str], distributions: Mapping[str, BaseDistribution], running: bool = False
) -> FrozenTrial:
    """A trial as Optuna keeps it. A stopped one has its curve and no value: it never ran to a comparable end.

    Under several objectives there are no curves, which Optuna has for one alone.
    """
    record = shown.record
    state = TrialState.RUNNING if running or record.open else _STATES[record.state]
    values = [value for name in objectives if (value := record.score(name)) is not None]
    if state == TrialState.COMPLETE and len(values) < len(objectives):
        state = TrialState.FAIL
    curve = ((row.step, row.metrics.get(objectives[0])) for row in record.rows if len(objectives) == 1)
    return _Shared(
        number=-1,  # this and the id are the storage's to give
        trial_id=-1,
        state=state,
        value=None,
        values=values if state == TrialState.COMPLETE else None,
        datetime_start=datetime.fromtimestamp(record.ask.time),
        datetime_complete=datetime.fromtimestamp(record.end.time) if state.is_finished() and record.end else None,
        params=dict(shown.raw),
        distributions={name: distributions[name] for name in shown.raw},
        user_attrs={"id": record.id, "arm": record.ask.arm, "seed": record.ask.seed, "params": record.ask.params},
        system_attrs={},
        intermediate_values={step: value for step, value in curve if value is not None},
    )
