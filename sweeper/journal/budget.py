"""Which runs of a sweep share a budget: those that predict as many positions as the baseline, and as exactly.

More predictions lower a loss by themselves, whatever is masked. So a run that predicts another number, for whatever
reason, is not ranked, compared or shown to the sampler, unless the spec says `budget: free`. Before a run its settings
give the number (`Config.budget`), after it the metrics `train/predicted` and `audit/matched`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sweeper.journal.journal import AUDIT, TrialRecord
from sweeper.spec import conditions
from sweeper.trainable import Budget

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

PREDICTED, TOKENS = "train/predicted", "tokens_per_step"
FREE = "a larger budget lowers the loss by itself, whatever is masked"
WEIGHTS = "weights"  # the way of a budget whose predictions have unequal parts in the loss
WEIGHTED = "predictions weighted in the loss"
NAMED = 6  # arms in a line


@dataclass(frozen=True)
class Common:
    """The budget that the runs of a sweep must share: the baseline's.

    Args:
        predicted: positions; None while unknown.
        exact: whether every batch predicts the same number.
        free: whether the spec compares runs on any budget.
        way: how the number comes about, if it is not exact.
        counted: how many the baseline's run predicted, if it is not exact.
    """

    predicted: float | None
    exact: bool
    free: bool = False
    way: str = ""
    counted: float | None = None

    @staticmethod
    def of(spec: SweepSpec, records: Iterable[TrialRecord] = ()) -> Common:
        """From the baseline's settings; if those do not say, from the first of these trials that is the baseline's."""
        own, params = spec.baseline, spec.baseline_params
        due, free = spec.budget_of(params), spec.budget == "free"
        if due and due.exact:  # no need to look at the runs, of which the sampler has thousands
            return Common(due.predicted, True, free)
        reported = [record for record in records if record.rows and record.ask.arm == own]
        first = next((record for record in reported if record.state == "completed"), next(iter(reported), None))
        if due:
            return Common(due.predicted, False, free, due.way, _counted(first) if first and own else None)
        if first is None:
            return Common(None, True, free)
        return Common(_counted(first) if own else None, _exact(first) is not False, free)

    def kept(self, record: TrialRecord) -> bool:
        """Whether the trial is ranked and compared."""
        return self.free or self.same(record)

    def same(self, record: TrialRecord) -> bool:
        """Whether the trial has the baseline's budget, as far as known by now."""
        if not self.foretold(record.ask.budget):
            return False
        counted = _counted(record)
        if _exact(record) not in (None, self.exact):
            return False
        if self.exact:
            return counted is None or self.predicted in (None, counted)
        if counted is None or self.counted is None:
            return True
        # Chance and the text matter: allow 4 sd of independent draws, or as much as the batches of two seeds differ.
        return abs(counted - self.counted) <= max(0.01 * self.counted, 4 * (2 * self.counted) ** 0.5)

    def foretold(self, budget: Mapping[str, Any] | None) -> bool:
        """The same from a trial's settings alone, as its Ask has them: known before it runs."""
        asked = from_dict(budget)
        return asked is None or self.predicted is None or asked == (self.predicted, self.exact, False, self.way)


def to_dict(budget: Budget | None, tokens: int | None = None) -> dict[str, Any] | None:
    """A budget as the journal keeps it, `{"predicted": 184800, "exact": true}`; tokens: of a step, beside it."""
    found: dict[str, Any] = {}
    if budget is not None:
        found = {"predicted": budget.predicted, "exact": budget.exact, **({"way": budget.way} if budget.way else {})}
    return found | ({} if tokens is None else {TOKENS: tokens}) or None


def from_dict(kept: object) -> Budget | None:
    """A budget from the journal's dict; None if it holds none."""
    if not isinstance(kept, Mapping):
        return None
    predicted, exact, way = kept.get("predicted"), kept.get("exact", True), kept.get("way", "")
    if type(predicted) is not int or type(exact) is not bool or not isinstance(way, str):
        return None
    return Budget(predicted, exact, way=way)


def stray(spec: SweepSpec, params: Mapping[str, Any]) -> bool:
    """Whether settings are off the baseline's budget; never if budgets are free or the trainable does not say."""
    return spec.budget != "free" and not Common.of(spec).foretold(to_dict(spec.budget_of(params)))


def differ(spec: SweepSpec, records: Iterable[TrialRecord]) -> str:
    """If budgets are free and these runs use that, a sentence on what it means; else empty."""
    records = list(records)
    common = Common.of(spec, records)
    others = sum(not common.same(record) for record in records) if common.free else 0
    if not others:
        return ""
    runs = f"{others} of {len(records)} runs do not predict what the baseline does"
    return f"Budgets differ, as the spec allows (`budget: free`): {runs}, and {FREE}."


def planned(spec: SweepSpec) -> Iterator[tuple[str, str]]:
    """(heading, text) of lines of the plan: which arms and points of the space are off budget."""
    base = spec.baseline_params
    budget = spec.budget_of(base)
    if budget is None:
        return
    found = {name: spec.budget_of(params) for name, params in spec.arms.items()}
    off = {name: one for name, one in found.items() if one and not one.same(budget)}
    why = {name: _count(one) if one.exact else _inexact(one.way) for name, one in off.items()}
    parts = [f"{name} ({why[name]})" for name in list(off)[:NAMED]]
    parts += [f"{len(off) - NAMED} more arms"] * (len(off) > NAMED)
    if spec.search.method != "arms":
        parts += [f"points of the space that change {path}" for path in _leaving(spec, base, budget)]
    if not parts:
        return
    if spec.budget == "free":
        yield "caution", f"budgets differ, as budget: free allows: {', '.join(parts)}; {FREE}"
    else:
        consequence = "reported apart, not ranked, confirming nothing; budget: free would compare them"
        yield "caution", f"budget not matched: {', '.join(parts)}: {consequence}"


def _leaving(spec: SweepSpec, base: Mapping[str, Any], budget: Budget) -> list[str]:
    """The settings of which some corner is off budget, with all else as in the baseline."""
    paths: dict[str, None] = {}
    for path, corner in conditions.corners(spec.space, spec.conditions):
        try:
            found = spec.budget_of({**base, **corner})
        except ValueError:  # the corner does not go with the baseline
            continue
        if found and not found.same(budget):
            paths[path] = None
    return list(paths)


def _inexact(way: str) -> str:
    """What is not exact about a budget. `weights`: as many predictions in every batch, which weigh differently."""
    ways = way.split("+")
    said = ["not the same number in every batch"] * (ways != [WEIGHTS]) + [WEIGHTED] * (WEIGHTS in ways)
    return ", ".join(said)


def _count(budget: Budget) -> str:
    return f"{'' if budget.exact else 'about '}{budget.predicted:,} positions"


def _exact(record: TrialRecord) -> bool | None:
    """A run's own metric `audit/matched`, if it reports it."""
    matched = record.rows[-1].metrics.get(f"{AUDIT}matched") if record.rows else None
    return None if matched is None else matched != 0


def _counted(record: TrialRecord) -> float | None:
    """How many positions a run of the full length predicted."""
    return record.rows[-1].metrics.get(PREDICTED) if record.rows and record.state == "completed" else None
