"""What to try next: Tune's searcher over the journal.

Tune reports a result or an end first to its scheduler, then to its searcher, then to its callbacks. So the scheduler
writes the journal (schedulers.py), and the searcher has no state: it reads from the journal each time which trial to
start, what has ended and what the sampler may see. A resumed sweep takes the same path as an uninterrupted one.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import time
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search import Searcher

from sweeper.confirmation import design, verdicts
from sweeper.journal import budget, checkpoints, warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, End, Over, Repeat
from sweeper.journal.journal import Journal, TrialRecord, apply
from sweeper.journal.names import Names
from sweeper.journal.records import shown_value
from sweeper.spec import conditions
from sweeper.spec.objectives import maximised
from sweeper.spec.space import Dimension
from sweeper.spec.spec import SweepSpec
from sweeper.system import files

MEMORY = 1000  # trials that the sampler sees: multivariate TPE is quadratic in them
REPEATS = 10  # how often the sampler may repeat a point before one is chosen without it
LOOKED_AT = 10_000  # points of the space that a search for an untried one visits

Key = tuple[int, int]

_STATES = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}

optuna.logging.set_verbosity(optuna.logging.ERROR)
warnings.filterwarnings("ignore", message="Argument ``group`` is an experimental feature")


@dataclass(frozen=True)
class Point:
    """What the search chose. raw: the sampler's parameters; empty if no sampler was involved."""

    arm: str | None
    seed: int
    params: dict[str, Any]
    raw: dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """A point that the sampler asked for, as the study shows it.

    key: the number of the requested trial, and how many repeats the sampler had asked for before. record: the trial
    with this point. raw: the sampler's parameters.
    """

    key: Key
    record: TrialRecord
    raw: Mapping[str, Any]


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


class StudySearch(JournalSearch):
    """Methods tpe, random, gp and cmaes: the arms first, then what an Optuna sampler asks for.

    Each trial has a new sampler, seeded by the sweep's seed and the trial's number n. `concurrency` is how many trials
    may run at once.

    If every trial runs to its end, trial n is requested once all trials up to n - concurrency have ended. The sampler
    then sees exactly these as finished and the later ones as running, whatever the timing was: the points of a sweep
    depend only on its spec and `concurrency`. Fewer `slots` than that only slow it down.

    Under a rule that stops trials, the order of reports decides which trials stop, and so which points follow. Then
    trial n is requested at once, from everything in the journal: ended trials as they ended, the rest as running.
    With one trial at a time both ways are the same.

    No point is trained twice. If the sampler repeats a point, the repeat goes into the journal, the sampler sees it
    from then on as the trial with that point, and it is asked again. If that yields nothing new, an untried point is
    taken; if there is none, the search is over.

    With `search.from` the sampler sees the trials of other runs before those of this one, and they shorten its random
    start. They are no trials of this run: a point that one of them has may be trained here. Raises ValueError if the
    journal does not have them.
    """

    def __init__(
        self,
        spec: SweepSpec,
        journal: Journal,
        slots: int,
        log: Path,
        concurrency: int,
        calls: Calls | None = None,
    ) -> None:
        super().__init__(spec, journal, min(slots, concurrency), log, calls)
        self.concurrency = concurrency
        self._sampler_attrs: dict[Key, dict[str, Any]] = {}  # what CMA-ES stores with a trial: its generation
        self._distributions = _distributions(spec)
        self._frozen: dict[Key, FrozenTrial] = {}  # of trials that have ended
        self._known: tuple[list[float] | None, list[FrozenTrial]] = (None, [])  # told at which level of the baseline
        if spec.search.sources:
            self._known = None, _known_trials(spec, journal, None, self._distributions)
        self._tried: dict[str, str] = {}  # settings, or hash of the configuration -> the trial with it
        self._ended = self._noted = 0  # how many of the first trials have ended; how many are in `_tried`
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
        """Whether the points must not depend on timing."""
        return self.spec.scheduler == "none"

    def _settled(self, number: int) -> int:
        """How many of the first trials this one's sampler sees as the journal has them; the rest count as running."""
        return max(0, number - self.concurrency + 1) if self._waits else number

    def _fresh(self, records: Sequence[TrialRecord], number: int) -> Point | None:
        """A point that no trial has; None once the journal says that the search is over."""
        repeats = self.journal.repeats(self.stage)
        while not self._exhausted(count := _count(repeats, number)):
            raw = self._sample(records, repeats, number)
            params = self._params(raw)
            trial = self._trial_with(records, params)
            if trial is None:
                return Point(None, self.spec.seeds.search[0], params, raw)
            self.journal.append(Repeat(stage=self.stage, number=number, of=trial, raw=raw))
        return self._untried(records, number, count)

    def _exhausted(self, repeats: int) -> bool:
        """Whether the sampler is given up after this many repeats. The second half is sampled at random."""
        return repeats >= (REPEATS if self.spec.points else 2 * REPEATS)

    def _untried(self, records: Sequence[TrialRecord], number: int, count: int) -> Point | None:
        """The first untried point from a derived index on; if there is none, records the end of the search."""
        size, space, seed = self.spec.points or 0, self.spec.space, self.spec.seeds.search[0]
        begin = derive(seed, number, count)
        for offset in range(min(size, LOOKED_AT)):
            params = conditions.point(space, self.spec.conditions, (begin + offset) % size)
            if self._trial_with(records, params) is None:
                raw = [space[path].to_sampler(path, value) for path, value in params.items()]
                return Point(None, seed, params, {name: part[name] for part in raw for name in part})
        every = f"all {size:,} points of the space have been tried"
        reason = every if 0 < size <= LOOKED_AT else "the sampler asks for nothing but what has been tried"
        self.journal.append(Over(stage=self.stage, reason=reason))
        return None

    def _trial_with(self, records: Sequence[TrialRecord], params: Mapping[str, Any]) -> str | None:
        """The trial with this point, in any state, or None; all trials have the same seed."""
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
        """Rebuild the sampler attributes of earlier trials, each from the journal as it was at the trial's request."""
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
        """Whether the first `count` trials have ended. Those that have are not looked at again."""
        while self._ended < count and not records[self._ended].open:
            self._ended += 1
        return self._ended >= count

    def _sample(self, records: Sequence[TrialRecord], repeats: Sequence[Repeat], number: int) -> dict[str, Any]:
        """The sampler's parameters for trial `number`, after these trials and repeats."""
        settled, count = self._settled(number), _count(repeats, number)
        # Trials off the budget are left out: they would draw the sampler away from it.
        common = Common.of(self.spec, records[:settled])

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
        study.add_trials([*self._history(records[:settled], MEMORY - len(trials)), *trials])
        raw = self._suggested(study)
        if self.spec.search.method == "cmaes":
            self._sampler_attrs[number, count] = study.get_trials(deepcopy=False)[-1].system_attrs
        return raw

    def _history(self, settled: Sequence[TrialRecord], most: int) -> list[FrozenTrial]:
        """The trials of other runs, the latest `most`, at the level of this run's baseline once it has ended."""
        if not self.spec.search.sources or most <= 0:
            return []
        first = settled[0] if settled and self.spec.arms and settled[0].state == "completed" else None
        scores = [first.score(name) for name in self.spec.objectives] if first else []
        own = [score for score in scores if score is not None]
        level = own if own and len(own) == len(scores) else None
        if not self._known[1] or self._known[0] != level:
            self._known = level, _known_trials(self.spec, self.journal, level, self._distributions)
        return self._known[1][-most:]

    def _suggested(self, study: optuna.Study) -> dict[str, Any]:
        """The parameters of a new trial; with conditions of those paths alone that exist for it."""
        if not self.spec.conditions:
            return study.ask(fixed_distributions=self._distributions).params
        trial = study.ask()

        def value(path: str) -> Any:
            for name in (domain := self.spec.space[path]).sampler_params(path):
                _suggest(trial, name, self._distributions[name])
            return domain.value(path, trial.params)

        conditions.active(self.spec.space, self.spec.conditions, value)
        return trial.params

    def _params(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The point, by path, for the sampler's parameters."""
        space = self.spec.space
        return conditions.active(space, self.spec.conditions, lambda path: space[path].value(path, raw))

    def _shown(self, shown: Shown, running: bool = False) -> FrozenTrial:
        """A trial as the sampler sees it; cached once the trial has ended."""
        if not running and shown.key in self._frozen:
            return self._frozen[shown.key]
        trial = _frozen_trial(shown, self.spec.objectives, self._distributions, running)
        trial.system_attrs = dict(self._sampler_attrs.get(shown.key, {}))
        if trial.state.is_finished():
            self._frozen[shown.key] = trial
        return trial


def expected_rows(spec: SweepSpec, record: TrialRecord) -> list[checkpoints.ExpectedRow]:
    """The rows that a trial must reproduce: all in the journal; none on a GPU, where results may differ in bits."""
    rows = record.rows if not spec.resources.gpus_per_worker else []
    return [({"step": row.step, **row.metrics}, row.checkpoint) for row in rows]


def derive(seed: int, number: int, count: int = 0) -> int:
    """The sampler's seed for a trial; a different one for each repeat."""
    again = f" {count}" if count else ""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}{again}".encode()).digest()[:4])


def write_study(spec: SweepSpec, journal: Journal, path: Path) -> None:
    """The journal as an Optuna journal file, for optuna-dashboard. Nothing reads it back."""
    lines = _Lines()
    study = optuna.create_study(storage=JournalStorage(lines), study_name=spec.name, directions=_directions(spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr("question", spec.question)
    records, repeats = journal.stage(JournalSearch.stage), journal.repeats(JournalSearch.stage)
    names, shown = Names(spec), list(_latest(records, repeats))
    frozen = _frozen_all(shown, spec, spec.objectives)
    for trial, each in zip(frozen, shown, strict=True):
        trial.user_attrs = _readable(names, each.record.ask) | {
            key: note for key, note in trial.user_attrs.items() if key == "note"
        }
    study.add_trials(frozen)
    files.put(path, "".join(lines.lines))


def _readable(names: Names, ask: Ask) -> dict[str, Any]:
    """What optuna-dashboard shows beside a trial's parameters, which are the sampler's own."""
    own = {path: shown_value(path, value) for path, value in ask.params.items()}
    arm = {"arm": ask.arm} if ask.arm else {}
    return {"name": names.of(ask), "id": ask.trial, **arm, "seed": ask.seed, **own}


def importance(spec: SweepSpec, journal: Journal) -> dict[str, float]:
    """How much each setting of the space sets the best trials apart, by path, 1 in total; empty if nothing does.

    PED-ANOVA (Watanabe, Bansal & Hutter 2023), Optuna's default. A simplex gets the sum over its parameters. Only the
    first objective counts. Paths with conditions are left out: few trials have them, and not the same ones.
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
        path: sum(by_raw.get(name, 0.0) for name in domain.sampler_params(path))
        for path, domain in spec.space.items()
        if path not in spec.conditions
    }


def _sampler(spec: SweepSpec, seed: int) -> BaseSampler:
    if spec.search.method == "random":
        return RandomSampler(seed)
    if spec.search.method == "cmaes":
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)
    # Random points at first: three, however long the search, so that a longer one begins with the points of a shorter
    # one (at 18 and 40 trials no worse than a third of them). A rule that stops trials makes points depend on the clock
    # anyway; there a third of the trials, but at least three and at most ten, Optuna's default.
    startup = 3 if spec.scheduler == "none" else max(3, min(10, spec.total_trials // 3))
    if spec.search.method == "gp":
        return GPSampler(seed=seed, n_startup_trials=startup)
    # Paths that come and go are sampled in groups of those that trials have together; one by one otherwise.
    groups = bool(spec.conditions)
    return TPESampler(seed=seed, multivariate=True, group=groups, constant_liar=True, n_startup_trials=startup)


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


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    match distribution:
        case CategoricalDistribution():
            trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
        case FloatDistribution():
            trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


class _Lines(BaseJournalBackend):
    """The lines of a JournalFileBackend's file. That backend opens, locks and syncs its file for every trial."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in self.lines[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self.lines += [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]


class _Shared(FrozenTrial):
    """A trial that a storage may keep without a deep copy, as nobody changes it: copies took 90 % of the sampler's
    time."""

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTrial:
        return copy.copy(self)


def _count(repeats: Sequence[Repeat], number: int) -> int:
    """How many repeats the sampler gave for trial `number`, the newest."""
    return sum(1 for _ in itertools.takewhile(lambda one: one.number >= number, reversed(repeats)))


def _latest(records: Sequence[TrialRecord], repeats: Sequence[Repeat], most: int | None = None) -> list[Shown]:
    """The latest `most` trials and repeats, in the order of asking; a repeat is shown as the trial with its point."""
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


def _known_trials(
    spec: SweepSpec, journal: Journal, level: Sequence[float] | None, distributions: Mapping[str, BaseDistribution]
) -> list[FrozenTrial]:
    """The trials of other runs as the sampler sees them. level: what this run's baseline scored, if it is known.

    Raises ValueError, in one line, if the journal does not have them as points of this space.
    """
    starts, found = journal.warm_starts(), list[FrozenTrial]()
    if warm_start.recorded(spec, journal) is None:
        raise ValueError("search.from: the record does not have what the other runs told: start a new run")
    lengths = {len(one[key]) for start in starts for one in start.trials for key in ("values", "baseline") if one[key]}
    paths = {path for start in starts for one in start.trials for path in one["params"]}
    if lengths != {len(spec.objectives)} or not paths <= spec.space.keys():
        raise ValueError("search.from: what the record says that other runs told does not fit this spec")
    for params, values in warm_start.told(starts, level):
        parts = [spec.space[path].to_sampler(path, value) for path, value in params.items()]
        raw, then = {name: part[name] for part in parts for name in part}, datetime.fromtimestamp(starts[0].time)
        found.append(
            _Shared(
                number=-1,  # the storage assigns this and the id
                trial_id=-1,
                state=TrialState.COMPLETE,
                value=None,
                values=values,
                datetime_start=then,
                datetime_complete=then,
                params=raw,
                distributions={name: distributions[name] for name in raw},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
            )
        )
    return found


def _frozen_trial(
    shown: Shown, objectives: Sequence[str], distributions: Mapping[str, BaseDistribution], running: bool = False
) -> FrozenTrial:
    """A trial as Optuna stores it. A stopped one has its curve but no value, as it has no comparable end.

    With several objectives there are no curves: Optuna supports them for one only.
    """
    record = shown.record
    state = TrialState.RUNNING if running or record.open else _STATES[record.state]
    values = [value for name in objectives if (value := record.score(name)) is not None]
    if state == TrialState.COMPLETE and len(values) < len(objectives):
        state = TrialState.FAIL
    curve = ((row.step, row.metrics.get(objectives[0])) for row in record.rows if len(objectives) == 1)
    return _Shared(
        number=-1,  # the storage assigns this and the id
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
