"""The tasks of a spec's `evaluate`, which the trainable scores beside the losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec import objectives
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

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
    return {FACT: list(scores), **{f"{task_of(name)}_fingerprint": data for name, data in scores.items()}}


def words(spec: SweepSpec) -> str:
    """Which tasks are scored, and when; empty if there are none."""
    if spec.evaluate is None:
        return ""
    searched = spec.tasks(confirming=False)
    later = [name for name in spec.evaluate.tasks if name not in searched]
    said = {"every trial": list(searched), "every run of the confirmation": later}
    return "; ".join(f"{', '.join(names)} at the end of {when}" for when, names in said.items() if names)


def scores(journal: Journal) -> list[str]:
    """The tasks' main metrics, as the trainable named them to the last session."""
    sessions = [event for event in journal.events if isinstance(event, Session)]
    return list(sessions[-1].facts.get(FACT, ())) if sessions else []


def metrics(journal: Journal) -> list[str]:
    """All metrics of the tasks that trials report, by task."""
    names = scores(journal)
    there = dict.fromkeys(key for record in journal.trials.values() for key in last(record) if "/" in key)
    return [key for task in dict.fromkeys(map(task_of, names)) for key in there if task_of(key) == task]


def last(record: TrialRecord) -> Mapping[str, float]:
    """The metrics of its last row; empty before the first."""
    return record.rows[-1].metrics if record.rows else {}


def task_of(metric: str) -> str:
    """The task of a metric, TASK/NAME."""
    return metric.rpartition("/")[0]
