"""Trials as rows of plain values, from the journal alone: what results.csv and the DataFrames of `sweeper.Run` hold.

A row has every setting that varied, resolved: what its arm or the sampler set, and what its configuration was where
they set nothing. The search and the confirmation stand apart: a score that chose an arm is not compared with one that
tested it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.journal import learned, tasks
from sweeper.journal.budget import Common
from sweeper.journal.hours import Hours
from sweeper.journal.journal import AUDIT, Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.records import ended, state
from sweeper.spec.spec import flat
from sweeper.system.secrecy import veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

Row = dict[str, Any]

STAGES = ("search", "confirm")
FIRST = ("stage", "trial", "candidate", "arm", "seed", "state", "steps", "seconds")
LAST = ("masked_share", "matched", "stuck", "reused_from", "started_from", "started_at", "reason", "config_hash")
JUDGED_AT_MASK = ("val/loss_mask", "val/unigram_mask")
NULL, DEFAULT = "null", "default"  # a setting that is null; one that its Config leaves out at its default
_ABSENT = object()


def trials(spec: SweepSpec, journal: Journal) -> list[Row]:
    """A row for each trial, all with the same keys: those of the search first, in the order of asking.

    steps: the last one reported. seconds: from the start of the trial to its end, over all sessions. Metrics are of the
    last step, None where there is none. matched: whether it has the baseline's budget. stuck: whether it began to
    learn, None if unknown. reused_from: the trial of an earlier run, as RUN/ID, whose result this is. started_from: the
    trial that trained the first `started_at` steps.
    """
    records = [record for stage in STAGES for record in journal.stage(stage)]
    common, spent = Common.of(spec, journal.trials.values()), Hours(journal).by_trial()
    paths, measured, called = varied(records), metrics(spec, journal), names(spec, journal)
    taken = {*FIRST, *LAST, *measured}
    heads = {path: f"config.{path}" if path in taken else path for path in paths}
    found = []
    for record in records:
        ask, last = record.ask, tasks.last(record)
        start, step = record.start
        found.append(
            {
                "stage": ask.stage,
                "trial": record.id,
                "candidate": called.of(ask),
                "arm": ask.arm,
                "seed": ask.seed,
                "state": state(record),
                "steps": record.step,
                "seconds": round(spent.get(record.id, 0.0), 3),
                **{key: last.get(key) for key in measured},
                **{heads[path]: value for path, value in resolved(spec, record, paths).items()},
                "masked_share": last.get(f"{AUDIT}rate"),
                "matched": common.same(record),
                "stuck": learned.was_stuck(spec, record),
                "reused_from": record.reused_from,
                "started_from": None if record.reused_from else start,
                "started_at": step,
                "reason": ended(record),
                "config_hash": ask.config_hash,
            }
        )
    return found


def curves(spec: SweepSpec, journal: Journal) -> Iterator[Row]:
    """All that trials reported: a row for each trial, step and metric, those of the search first."""
    called = names(spec, journal)
    for record in (record for stage in STAGES for record in journal.stage(stage)):
        ask = record.ask
        common = {"stage": ask.stage, "trial": record.id, "candidate": called.of(ask), "arm": ask.arm}
        for row in record.rows:
            for metric, value in row.metrics.items():
                yield {**common, "seed": ask.seed, "step": row.step, "metric": metric, "value": value}


def names(spec: SweepSpec, journal: Journal) -> Names:
    """The names of all configurations, of which those of the confirmation are the search's."""
    return Names(spec, (record.ask for record in journal.trials.values()))


def metrics(spec: SweepSpec, journal: Journal) -> list[str]:
    """The objectives, the first one on the part `test`, the losses at [MASK] if trials have them, and tasks' scores."""
    test = "test/" + spec.objective.partition("/")[2]
    there = {key for record in journal.trials.values() for key in tasks.last(record)}
    mask = [key for key in JUDGED_AT_MASK if key in there]
    return list(dict.fromkeys([spec.objective, test, *mask, *spec.objectives[1:], *tasks.metrics(journal)]))


def varied(records: Iterable[TrialRecord]) -> list[str]:
    """Paths of the settings that differ between trials: those that the space or an arm sets first; shares by part."""
    records = list(records)
    asked = dict.fromkeys(leaf for record in records for leaf, _ in flat(record.ask.params))
    trees = [dict(flat(record.ask.config)) for record in records if record.ask.config]
    leaves = dict.fromkeys(leaf for tree in trees for leaf in tree)
    differ = [leaf for leaf in leaves if len({_key(tree.get(leaf, _ABSENT)) for tree in trees}) > 1]
    return list(dict.fromkeys([*asked, *differ]))


def resolved(spec: SweepSpec, record: TrialRecord, paths: Iterable[str]) -> dict[str, Any]:
    """A trial's values of these settings: never blank, `null` for a null, `default` where its Config leaves it out.

    A preset has been replaced by what it stands for, so the configuration has a null there; then it is what was asked.
    """
    ask = record.ask
    asked, tree = dict(flat(ask.params)), ask.config or {**spec.config, "data": spec.data}
    found = {}
    for path in paths:
        value = _at(tree, path)
        if value is None or value is _ABSENT or not ask.config:
            value = value if asked.get(path) is None else asked[path]
        value = DEFAULT if value is _ABSENT else NULL if value is None else veiled(path, value)
        found[path] = json.dumps(value) if isinstance(value, list | tuple | Mapping) else value
    return found


def _at(tree: Mapping[str, Any], path: str) -> Any:
    value: Any = tree
    for key in path.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _key(value: Any) -> str:
    return "" if value is _ABSENT else json.dumps(value, sort_keys=True)


def columns(found: Sequence[Row]) -> list[str]:
    """The keys of the rows, in order; those that a table without trials has, if there are none."""
    return list(found[0]) if found else [*FIRST, *LAST]
