"""What a search by Optuna's samplers tries next: Tune's searcher, which has no state of its own (searchers.py).

What the sampler may see it reads from the journal each time (optuna_study.py).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, Over, Repeat
from sweeper.journal.journal import Journal, TrialRecord, apply
from sweeper.search.optuna_study import Key, Shown, directions, distributions, frozen_trial, known_trials, latest
from sweeper.search.searchers import Calls, JournalSearch, Point
from sweeper.spec import conditions
from sweeper.spec.spec import SweepSpec

MEMORY = 1000  # trials that the sampler sees: multivariate TPE is quadratic in them
REPEATS = 10  # how often the sampler may repeat a point before one is chosen without it
LOOKED_AT = 10_000  # points of the space that a search for an untried one visits

warnings.filterwarnings("ignore", message="Argument ``group`` is an experimental feature")


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
        self._distributions = distributions(spec)
        self._frozen: dict[Key, FrozenTrial] = {}  # of trials that have ended
        self._known: tuple[list[float] | None, list[FrozenTrial]] = (None, [])  # told at which level of the baseline
        if spec.search.sources:
            self._known = None, known_trials(spec, journal, None, self._distributions)
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
            for shown in latest(records, repeats, MEMORY)
            if on_budget(shown.record)
        ]
        seed = derive(self.spec.seeds.search[0], number, count)
        sampler = _sampler(self.spec, seed) if count < REPEATS else RandomSampler(seed)
        study = optuna.create_study(sampler=sampler, directions=directions(self.spec))
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
            self._known = level, known_trials(self.spec, self.journal, level, self._distributions)
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
        trial = frozen_trial(shown, self.spec.objectives, self._distributions, running)
        trial.system_attrs = dict(self._sampler_attrs.get(shown.key, {}))
        if trial.state.is_finished():
            self._frozen[shown.key] = trial
        return trial


def derive(seed: int, number: int, count: int = 0) -> int:
    """The sampler's seed for a trial; a different one for each repeat."""
    again = f" {count}" if count else ""
    return int.from_bytes(hashlib.sha256(f"{seed} {number}{again}".encode()).digest()[:4])


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


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    match distribution:
        case CategoricalDistribution():
            trial.suggest_categorical(name, distribution.choices)
        case IntDistribution():
            trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
        case FloatDistribution():
            trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _count(repeats: Sequence[Repeat], number: int) -> int:
    """How many repeats the sampler gave for trial `number`, the newest."""
    return sum(1 for _ in itertools.takewhile(lambda one: one.number >= number, reversed(repeats)))
