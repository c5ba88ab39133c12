"""What trials scored on tasks, as a section of the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal.budget import Common
from sweeper.journal.events import Ask
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.system.markdown import number, table

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec
from sweeper.journal.tasks import UNTRAINED, last, scores, task_of


def section(spec: SweepSpec, journal: Journal, what: Callable[[Ask], str]) -> str:
    """A row for each configuration: the means over its seeds. Empty if no trial was scored. what: a trial in words."""
    names = scores(journal)
    groups: dict[tuple[str, str], list[TrialRecord]] = {}
    for record in journal.trials.values():
        if any(name in last(record) for name in names):
            groups.setdefault((record.ask.stage, record.ask.arm or record.ask.config_hash), []).append(record)
    if not groups:
        return ""
    found = {key for records in groups.values() for record in records for key in last(record)}
    columns = [key for name in names for key in (name, f"{task_of(name)}/{UNTRAINED}") if key in found]
    columns = list(dict.fromkeys([*columns, spec.objective]))
    own, common = spec.baseline, Common.of(spec, journal.trials.values())

    def order(item: tuple[tuple[str, str], Sequence[TrialRecord]]) -> tuple[bool, bool, bool, float]:
        (stage, label), records = item
        loss = _mean(records, spec.objective)
        return stage == "search", not common.kept(records[0]), label != own, float("inf") if loss is None else loss

    rows = defaultdict[str, list[list[str]]](list)
    for (stage, _), records in sorted(groups.items(), key=order):
        means = [number(_mean(records, key)) for key in columns]
        apart = "" if common.kept(records[0]) else " (budget not matched)"
        rows[stage].append([what(records[0].ask) + apart, str(len(records)), *means])
    text = (
        "Means over the n seeds of a configuration, at the last step; higher scores are better. "
        f"`{UNTRAINED}` is the score of the same architecture before training: only what lies above it was learnt."
    )
    notes = {"search": "Of the search: exploration, not a result.", "confirm": "Of the confirmation:"}
    tables = [
        f"{notes.get(stage, stage)}\n\n{table(['what', 'n', *columns], found, left=('what',))}"
        for stage, found in rows.items()
    ]
    return "\n\n".join([text, *tables])


def _mean(records: Sequence[TrialRecord], metric: str) -> float | None:
    values = [last(record)[metric] for record in records if metric in last(record)]
    return fmean(values) if values else None
