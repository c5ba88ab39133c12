"""The tables of trials in reports: those of the search and of the confirmation apart, never ranked together.

A score of the search belongs to the best of many tries on one seed; the same configuration on fresh seeds has another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from sweeper.confirmation import design
from sweeper.journal import budget, learned
from sweeper.journal.budget import PREDICTED, Common
from sweeper.journal.journal import AUDIT, Journal, TrialRecord, nested
from sweeper.journal.names import Names
from sweeper.journal.records import breakdown, ended, is_shares, shown_value, state
from sweeper.system.markdown import ABSENT, code, number, table, text

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

SEARCH, CONFIRMATION, APART = "Search trials", "Confirmation runs", "Budget not matched"
RANKS = ("completed", "stopped", "interrupted", "failed")


def trials(spec: SweepSpec, journal: Journal, names: Names) -> dict[str, str]:
    """Heading -> table of the trials on budget, for each stage that has any: the search is ranked, runs are not."""
    common = Common.of(spec, journal.trials.values())
    searched, confirmed = (list(filter(common.kept, journal.stage(stage))) for stage in ("search", design.STAGE))
    found = {}
    if searched or not confirmed:
        found[SEARCH] = _ranked(spec, searched, names)
    if confirmed:
        found[CONFIRMATION] = _by_arm(spec, journal, confirmed, names)
    return found


def _ranked(spec: SweepSpec, records: Sequence[TrialRecord], names: Names) -> str:
    def order(record: TrialRecord) -> tuple[int, float, int]:
        score = record.score(spec.objective)
        return RANKS.index(state(record)), float("inf") if score is None else score, record.ask.number

    first = (
        f"Sorted by {text(spec.objective)} at the last step; a trial stopped early ranks below every completed one. "
        "Search scores: exploration, not a result."
    )
    return f"{first}\n\n{_table(spec, sorted(records, key=order), names, spec.objectives)}"


def _by_arm(spec: SweepSpec, journal: Journal, records: Sequence[TrialRecord], names: Names) -> str:
    arms = list(dict.fromkeys(arm for family in journal.families() for arm in family.arms))
    place = {arm: number for number, arm in enumerate(arms)}

    def order(record: TrialRecord) -> tuple[int, int]:
        return place.get(str(record.ask.arm), len(arms)), record.ask.seed

    first = "By arm and seed; the verdicts compare them in pairs of a seed. They are not comparable with search scores."
    metrics = (design.metric(spec), *spec.objectives)
    return f"{first}\n\n{_table(spec, sorted(records, key=order), names, metrics)}"


def _table(spec: SweepSpec, records: Sequence[TrialRecord], names: Names, metrics: Sequence[str]) -> str:
    paths = list(dict.fromkeys(path for record in records for path in record.ask.params))
    seen = {key for record in records for row in record.rows[-1:] for key in row.metrics}
    shown = [key for key in dict.fromkeys([*metrics, "val/loss_mask", "val/unigram_mask"]) if key in seen]
    rows = []
    for record in records:
        values = record.rows[-1].metrics if record.rows else {}
        row = [record.id, names.shown(record.ask), str(record.ask.seed)]
        row += [shown_value(path, record.ask.params[path]) if path in record.ask.params else ABSENT for path in paths]
        row += [number(values.get(key)) for key in shown]
        why = ended(record) or learned.stuck(spec, record) or ABSENT
        why = f"taken over from {text(record.reused_from)}" if record.reused_from and why == ABSENT else why
        row += [f"{record.step:,}", _masked(record), state(record), why]
        rows.append(row)
    heads = ["trial", "what", "seed", *(_head(path, records) for path in paths), *shown]
    heads += ["step", "masked %", "state", "reason"]
    return table(heads, rows, left=("trial", "what", "state", "reason"))


def _head(path: str, records: Sequence[TrialRecord]) -> str:
    """A parameter's heading; that of shares names their parts in order."""
    value = next(record.ask.params[path] for record in records if path in record.ask.params)
    return f"{path} ({'/'.join(value)}) %" if is_shares(value) else path


def _masked(record: TrialRecord) -> str:
    rate = record.rows[-1].metrics.get(f"{AUDIT}rate") if record.rows else None
    return ABSENT if rate is None else f"{100 * rate:.3f}"


def differences(spec: SweepSpec, records: Sequence[TrialRecord], names: Names) -> str:
    """The search's differences to the baseline on the same seed, in a table, or why there are none."""
    name, common = spec.baseline, Common.of(spec, records)
    done = [
        (score, record)
        for record in records
        if record.ask.stage == "search" and record.state == "completed" and common.kept(record)
        if (score := record.score(spec.objective)) is not None
    ]
    baseline = {record.ask.seed: score for score, record in done if record.ask.arm == name}
    if name is None or not baseline:
        if not any(record.ask.stage == "search" for record in records):
            return "There was no search. The confirmation's differences to the baseline stand with the verdict."
        return "No run of the baseline completed, so there is nothing to compare with."
    rows: list[list[str]] = []
    for score, record in sorted(done, key=lambda pair: (pair[0], pair[1].ask.number)):
        base = baseline.get(record.ask.seed)
        if record.ask.arm != name and base is not None:
            numbers = [number(score), number(base), number(score - base, "+")]
            rows.append([record.id, names.of(record.ask), str(record.ask.seed), *numbers])
    if not rows:
        return f"Only the baseline, {code(name)}, completed."
    first = (
        f"Difference in {text(spec.objective)} from the arm {code(name)} on the same seed; negative is better. "
        "Search scores: exploration, not a result. Each line is one pair of runs, and seeds alone move a loss as much."
        "\n\n"
    )
    heads = ["trial", "what", "seed", spec.objective, "baseline", "difference"]
    return first + table(heads, rows, left=("trial", "what"))


def audits(spec: SweepSpec, records: Sequence[TrialRecord], names: Names) -> dict[str, str]:
    """What was predicted; trials off budget in a table of their own."""
    common = Common.of(spec, records)
    kept, apart = ([one for one in records if common.kept(one) == each] for each in (True, False))
    parts: dict[str, str] = {}
    if audited := [one for one in kept if one.rows and nested(one.rows[-1].metrics, AUDIT)]:
        parts["Mask audit"] = _each_stage(audited, lambda found: _audit_table(spec, found, names))
    if apart:  # they are in no other table
        shown = _each_stage(apart, lambda found: _audit_table(spec, found, names, ending=True))
        parts[APART] = f"{_apart(spec, common)}\n\n{shown}"
    return parts


def breakdowns(records: Sequence[TrialRecord], names: Names) -> dict[str, str]:
    """A table for every breakdown of the masks that the trials report, such as by frequency."""
    found = [(record, nested(record.rows[-1].metrics, AUDIT)) for record in records if record.rows]
    groups = dict.fromkeys(key for _, audit in found for key, value in audit.items() if isinstance(value, Mapping))

    def shown(group: str, chosen: Sequence[TrialRecord]) -> str:
        shares = {record.id: breakdown(nested(record.rows[-1].metrics, AUDIT), group) for record in chosen}
        parts = list(dict.fromkeys(part for each in shares.values() for part in each))
        rows = [
            [record.id, names.shown(record.ask), *(f"{100 * shares[record.id].get(part, 0):.2f}" for part in parts)]
            for record in chosen
        ]
        return table(["trial", "what", *parts], rows, left=("trial", "what"))

    texts = {}
    for group in (key for key in groups if key != "shares"):
        chosen = [record for record, audit in found if breakdown(audit, group)]
        texts[f"Masked by {group} %"] = _each_stage(chosen, lambda records, group=group: shown(group, records))
    return texts


def _each_stage(records: Sequence[TrialRecord], shown: Callable[[Sequence[TrialRecord]], str]) -> str:
    """A table for the search and one for the confirmation, each under its name if there are both."""
    stages = [[one for one in records if (one.ask.stage == design.STAGE) == late] for late in (False, True)]
    if not all(stages):
        return shown(records)
    return "\n\n".join(
        f"**{title}**\n\n{shown(found)}" for title, found in zip((SEARCH, CONFIRMATION), stages, strict=True)
    )


def _apart(spec: SweepSpec, common: Common) -> str:
    due = f" ({common.predicted:,.0f} positions)" if common.predicted is not None else ""
    return (
        f"These trials do not predict as many positions as the baseline{due}, or not as exactly, or weigh their "
        f"predictions in the loss otherwise. Their "
        f"{text(spec.objective)} cannot be compared with the others, is not ranked and confirms nothing: "
        f"{budget.FREE}. `budget: free` in the spec compares them anyway."
    )


def _audit_table(spec: SweepSpec, records: Sequence[TrialRecord], names: Names, ending: bool = False) -> str:
    """ending: also show seed and how the trial ended."""
    keys = ("refreshes", "fallbacks", "cut", "whole_words", "capped")
    rows = []
    for record in records:
        metrics = record.rows[-1].metrics if record.rows else {}
        audit, predicted = nested(metrics, AUDIT), metrics.get(PREDICTED)
        row = [record.id, names.shown(record.ask)]
        row += [ABSENT if predicted is None else f"{predicted:,.0f}", _masked(record)]
        row += [_parts(breakdown(audit, "shares")) if "shares" in audit else ABSENT]
        row += [f"{audit[key]:,.6g}" if isinstance(audit.get(key), int | float) else ABSENT for key in keys]
        ends = [str(record.ask.seed), f"{record.step:,}", state(record)]
        ends.append(ended(record) or ABSENT)
        rows.append([*row, number(record.score(spec.objective)), _speed(record), *(ends if ending else ())])
    heads = ["trial", "what", "predicted", "masked %", "realised shares %", *keys, spec.objective, "steps/s"]
    heads += ["seed", "step", "state", "reason"] if ending else []
    return table(heads, rows, left=("trial", "what", "realised shares %", "state", "reason"))


def _parts(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.3g}" for name, share in shares.items() if share) or ABSENT


def _speed(record: TrialRecord) -> str:
    """Steps per second between the first report and the last, validation and checkpoints included."""
    if not record.rows:
        return ABSENT
    first, last = record.rows[0], record.rows[-1]
    return f"{(last.step - first.step) / (last.time - first.time):.3g}" if last.time > first.time else ABSENT
