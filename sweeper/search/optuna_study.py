"""The journal as Optuna has it: the study that a sampler sees, the dashboard's file, and what sets trials apart."""

from __future__ import annotations

import copy
import itertools
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from sweeper.confirmation import design
from sweeper.journal import warm_start
from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, Repeat
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.records import shown_value
from sweeper.spec.objectives import maximised
from sweeper.spec.space import Dimension
from sweeper.spec.spec import SweepSpec
from sweeper.system import files

optuna.logging.set_verbosity(optuna.logging.ERROR)

Key = tuple[int, int]
_STATES = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}


@dataclass(frozen=True)
class Shown:
    """A point that the sampler asked for, as the study shows it.

    key: the number of the requested trial, and how many repeats the sampler had asked for before. record: the trial
    with this point. raw: the sampler's parameters.
    """

    key: Key
    record: TrialRecord
    raw: Mapping[str, Any]


def write_study(spec: SweepSpec, journal: Journal, path: Path) -> None:
    """The journal as an Optuna journal file, for optuna-dashboard. Nothing reads it back."""
    lines = _Lines()
    study = optuna.create_study(storage=JournalStorage(lines), study_name=spec.name, directions=directions(spec))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        study.set_metric_names(list(spec.objectives))
    study.set_user_attr("question", spec.question)
    records, repeats = journal.stage("search"), journal.repeats("search")
    names, shown = Names(spec), list(latest(records, repeats))
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
    shown = _frozen_all(latest(records, ()), spec, spec.objectives[:1])
    study.add_trials([trial for trial in shown if trial.state == TrialState.COMPLETE])
    if len({trial.value for trial in study.trials}) < 2:
        return {}
    by_raw = optuna.importance.get_param_importances(study)
    return {
        path: sum(by_raw.get(name, 0.0) for name in domain.sampler_params(path))
        for path, domain in spec.space.items()
        if path not in spec.conditions
    }


def directions(spec: SweepSpec) -> list[StudyDirection]:
    return [StudyDirection.MAXIMIZE if maximised(name) else StudyDirection.MINIMIZE for name in spec.objectives]


def distributions(spec: SweepSpec) -> dict[str, BaseDistribution]:
    dimensions = [domain.sampler_params(path) for path, domain in spec.space.items()]
    return {name: _distribution(part[name]) for part in dimensions for name in part}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if dimension.choices is not None:
        return CategoricalDistribution(dimension.choices)
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


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


def latest(records: Sequence[TrialRecord], repeats: Sequence[Repeat], most: int | None = None) -> list[Shown]:
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
    shown, known = list(shown), distributions(spec)
    common = Common.of(spec, [each.record for each in shown])
    frozen = [frozen_trial(each, objectives, known) for each in shown]
    for trial, each in zip(frozen, shown, strict=True):
        if trial.state == TrialState.COMPLETE and not common.kept(each.record):
            trial.state, trial.values = TrialState.FAIL, None  # never the best
            trial.user_attrs["note"] = design.APART
    return frozen


def known_trials(
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


def frozen_trial(
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
