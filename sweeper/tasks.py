"""What trials are judged by beside their losses: the tasks of a spec's `evaluate`, which the trainable scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeper import objectives
from sweeper.budget import Common
from sweeper.journal import Ask, Journal, Session, TrialRecord
from sweeper.markdown import number, table
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec

FACT = "scores"  # of a session: the tasks' main metrics
UNTRAINED = "untrained"


def checked(spec: SweepSpec) -> dict[str, Any]:
    """Ask the trainable whether it can score the tasks, and whether they give the objectives; facts for the record.

    Raises ValueError in one line.
    """
    if spec.evaluate is None:
        return {}
    check_tasks = Trainable.load(spec.trainable).check_tasks
    assert check_tasks is not None, spec.trainable
    try:
        scores = check_tasks(spec.settings({}), dict(spec.evaluate.tasks))
    except ValueError as error:
        raise ValueError(f"evaluate: {' '.join(str(error).split())}") from error
    objectives.refuse_unknown(spec.objectives, scores)
    return {FACT: list(scores), **{f"{_task(name)}_fingerprint": data for name, data in scores.items()}}


def words(spec: SweepSpec) -> str:
    """Which tasks are scored, and when; nothing where there are none."""
    if spec.evaluate is None:
        return ""
    when = "every trial" if spec.evaluate.at == "trials" else "every run of the confirmation"
    return f"{', '.join(spec.evaluate.tasks)} at the end of {when}"


def scores(journal: Journal) -> list[str]:
    """The tasks' main metrics, as the trainable named them to the last session."""
    sessions = [event for event in journal.events if isinstance(event, Session)]
    return list(sessions[-1].facts.get(FACT, ())) if sessions else []


def metrics(journal: Journal) -> list[str]:
    """All that trials report of the tasks, by task."""
    names = scores(journal)
    there = dict.fromkeys(key for record in journal.trials.values() for key in _last(record) if "/" in key)
    return [key for task in dict.fromkeys(map(_task, names)) for key in there if _task(key) == task]


def section(spec: SweepSpec, journal: Journal, what: Callable[[Ask], str]) -> str:
    """A row a configuration: the means over its seeds. Nothing where no trial was judged. what: a trial in words."""
    names = scores(journal)
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in journal.trials.values():
        if any(name in _last(record) for name in names):
            groups.setdefault((record.ask.stage, record.ask.arm or record.ask.config_hash), []).append(record)
    if not groups:
        return ""
    found = {key for records in groups.values() for record in records for key in _last(record)}
    columns = [key for name in names for key in (name, f"{_task(name)}/{UNTRAINED}") if key in found]
    columns = list(dict.fromkeys([*columns, spec.objective]))
    own, common = next(iter(spec.arms), None), Common.of(spec, journal.trials.values())

    def order(item: tuple[tuple[str, str], Sequence[TrialRecord]]) -> tuple[bool, bool, bool, float]:
        (stage, label), records = item
        loss = _mean(records, spec.objective)
        return stage == "search", not common.kept(records[0]), label != own, float("inf") if loss is None else loss

    rows = []
    for (stage, _), records in sorted(groups.items(), key=order):
        means = [number(_mean(records, key)) for key in columns]
        apart = "" if common.kept(records[0]) else " (budget not matched)"
        rows.append([stage, what(records[0].ask) + apart, str(len(records)), *means])
    text = (
        "Means over the n seeds of a configuration, at the last step; of a score more is better. What the same "
        f"architecture scores before it is trained is `{UNTRAINED}`: only what lies above that was learnt."
    )
    if any(stage == "search" for stage, _ in groups):
        text += " Scores of the search are exploration, not a result."
    return f"{text}\n\n{table(['stage', 'what', 'n', *columns], rows, left=('stage', 'what'))}"


def _last(record: TrialRecord) -> Mapping[str, float]:
    return record.rows[-1].metrics if record.rows else {}


def _task(metric: str) -> str:
    return metric.rpartition("/")[0]


def _mean(records: Sequence[TrialRecord], metric: str) -> float | None:
    values = [_last(record)[metric] for record in records if metric in _last(record)]
    return fmean(values) if values else None
