"""What trials scored on tasks, and how arms compare there, as a section of the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sweeper.journal.budget import Common
from sweeper.journal.events import Ask
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.tasks import UNTRAINED, last, scores, task_of
from sweeper.spec.hints import confidence
from sweeper.system.markdown import ABSENT, between, code, number, table, text

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec


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


def compared(verdict: Mapping[str, Any] | None, names: Names) -> str:
    """The verdicts on tasks, by task: paired differences over seeds. Empty if the record has none."""
    said = (verdict or {}).get("tasks")
    if not (verdict and said):
        return ""
    heads = ["task", "arm", "pairs", "difference", f"{confidence(said['alpha'])} % interval", "sd", "p (Holm)"]
    rows = [_row(one, names) for one in said["comparisons"]]
    first = (
        f"Secondary to {text(verdict['metric'])}: paired differences in each task's score from "
        f"{code(verdict['baseline'])} on the same seeds; positive is better. The intervals show what other seeds would "
        "give, unadjusted; other sentences of a task are not in them."
    )
    drawn = table([*heads, "p (sign flip)", "detectable", "verdict"], rows, left=("task", "arm", "verdict"))
    earlier = {one["arm"]: one["alpha"] for one in said["comparisons"] if one["alpha"] != said["alpha"]}
    notes = [
        f"{arm}: settled at an earlier look, runs no further and keeps its {confidence(alpha)} % intervals"
        for arm, alpha in earlier.items()
    ]
    return "\n\n".join([first, drawn, "\n".join(f"* {text(line)}" for line in [*said["rule"], *notes])])


def _row(one: Mapping[str, Any], names: Names) -> list[str]:
    flip = ABSENT if one["flip"] is None else f"{one['flip']:.3g}"
    row = [one["metric"], names.label(one["arm"]), str(one["n"]), number(one["mean"], "+"), between(one["interval"])]
    return [*row, number(one["sd"]), f"{one['adjusted']:.3g}", flip, number(one["detectable"]), told(one)]


def told(one: Mapping[str, Any]) -> str:
    """A comparison's verdict as people read it."""
    return f"{one['verdict']}: {one['why']}" if one["why"] else one["verdict"]


def _mean(records: Sequence[TrialRecord], metric: str) -> float | None:
    values = [last(record)[metric] for record in records if metric in last(record)]
    return fmean(values) if values else None
