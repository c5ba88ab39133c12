"""Several objectives at once: the configurations of a search that no other one beats in all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal.budget import Common
from sweeper.journal.events import Ask
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec.objectives import maximised
from sweeper.system.markdown import ABSENT, number, table, text

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

Values = Sequence[float]


@dataclass(frozen=True)
class Trade:
    """A configuration of the search by its objectives.

    Args:
        ask: of its first trial.
        values: of each objective, the mean over its seeds.
        front: no other is as good in all objectives and better in one.
    """

    ask: Ask
    seeds: int
    values: Values
    front: bool
    baseline: bool

    @property
    def name(self) -> str:
        """Its arm, or the first of its trials."""
        return self.ask.arm or self.ask.trial


def trades(spec: SweepSpec, journal: Journal) -> list[Trade]:
    """The search's completed configurations on budget, in the order of the first objective."""
    common = Common.of(spec, journal.stage("search"))
    done = [record for record in journal.stage("search") if record.state == "completed" and common.kept(record)]
    groups: dict[str, list[tuple[TrialRecord, list[float]]]] = {}
    for record in done:
        values = [value for name in spec.objectives if (value := record.score(name)) is not None]
        if len(values) == len(spec.objectives):
            groups.setdefault(record.ask.arm or record.ask.config_hash, []).append((record, values))
    means = [tuple(map(fmean, zip(*(values for _, values in group), strict=True))) for group in groups.values()]
    best, own = front([cost(spec.objectives, values) for values in means]), spec.baseline
    found = []
    for place, (group, values) in enumerate(zip(groups.values(), means, strict=True)):
        ask = group[0][0].ask
        found.append(Trade(ask, len(group), values, place in best, own is not None and ask.arm == own))
    return sorted(found, key=lambda one: cost(spec.objectives, one.values))


def cost(names: Sequence[str], values: Values) -> tuple[float, ...]:
    """The same values, signed so that lower is better in all."""
    return tuple(-value if maximised(name) else value for name, value in zip(names, values, strict=True))


def front(costs: Sequence[tuple[float, ...]]) -> set[int]:
    """The places of the points that no other dominates: none is as low in all and lower in one. Equals stay."""
    found: list[int] = []
    # In lexicographic order only an earlier point can dominate, and then one of the front does.
    for place in sorted(range(len(costs)), key=costs.__getitem__):
        if not any(dominates(costs[one], costs[place]) for one in found):
            found.append(place)
    return set(found)


def dominates(ours: tuple[float, ...], theirs: tuple[float, ...]) -> bool:
    """Whether ours is as low in all and lower in one."""
    return ours != theirs and all(our <= their for our, their in zip(ours, theirs, strict=True))


def section(spec: SweepSpec, journal: Journal, what: Callable[[Ask], str]) -> str:
    """The front in a table, and where the baseline lies. Empty if there is one objective, or no trial completed.

    what: a trial in words.
    """
    found = trades(spec, journal) if len(spec.objectives) > 1 else []
    if not found:
        return ""
    rows = []
    for one in found:
        note = "baseline" if one.front else "baseline, not on the front"
        if one.front or one.baseline:
            row = [one.name, what(one.ask), str(one.seeds), *map(number, one.values)]
            rows.append([*row, note if one.baseline else ABSENT])
    aims = ", ".join(f"{text(name)} {'more' if maximised(name) else 'less'}" for name in spec.objectives)
    first = (
        f"{sum(one.front for one in found)} of {len(found)} configurations are on the front ({aims} is better): no "
        "other is as good in all and better in one. Search scores: exploration, not a result; between neighbours only "
        f"seeds decide. The best of the search and the verdicts depend on {text(spec.objective)} alone."
    )
    heads = ["trial", "what", "n", *spec.objectives, "note"]
    return f"{first}\n\n{table(heads, rows, left=('trial', 'what', 'note'))}"
