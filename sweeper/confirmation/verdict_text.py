"""The verdict in words: a sentence that answers the question, and the table behind it, from the journal's `Verdict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.journal.journal import Journal
from sweeper.spec.hints import confidence
from sweeper.system.markdown import ABSENT, between, code, number, table, text

ASSUMED = (
    "assumed: seeds are independent, and differences scatter evenly to both sides of their mean, as they do where the "
    "runs of both arms scatter alike; the intervals are of these seeds and these documents, and speak for others like "
    "them, not for another corpus, model or length"
)


def headline(verdict: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two, as plain where nothing is confirmed as where something is."""
    told, test, champion = verdict["told"], verdict["metric"], verdict["champion"]
    found = next((one for one in verdict["comparisons"] if one["arm"] == champion), None)
    seeds = found["n"] if found else f"{'up to ' * ('looks' in verdict)}{len(verdict['seeds'])}"
    fresh = "" if verdict["fresh"] else " Not all of those seeds were fresh."
    against = f"against {code(verdict['baseline'])} over {seeds} seeds by {text(test)}"
    if found is None:
        verdicts = "; ".join(f"{code(arm)}: {text(words)}" for arm, words in told.items())
        return f"**Nothing is confirmed** {against}. {verdicts}.{_going_on(verdict)}{fresh}"
    low, high = found["interval"]
    interval = f"{_level(verdict, champion)} {low:+.4f} to {high:+.4f}"
    first = f"**Confirmed: {code(champion)}** {against}: {found['mean']:+.4f} nats, {interval}."
    if challenge := verdict.get("challenge"):
        first += f" {text(challenge['said'][:1].upper() + challenge['said'][1:])}."
    others = [f"{code(arm)}: {text(words)}" for arm, words in told.items() if arm != champion]
    return (
        " ".join([first, *(["The others: " + "; ".join(others) + "."] if others else [])]) + _going_on(verdict) + fresh
    )


def going_on(verdict: Mapping[str, Any]) -> list[str]:
    """The arms that a further declared look asks again."""
    if verdict["look"] >= _declared_looks(verdict):
        return []
    arms = [one["arm"] for one in verdict["comparisons"] if one["verdict"] == "inconclusive"]
    return [arm for arm in arms if arm not in verdict["settled"]]


def _going_on(verdict: Mapping[str, Any]) -> str:
    going = [code(arm) for arm in going_on(verdict)]
    told = f" This was look {verdict['look']} of at most {_declared_looks(verdict)}: {', '.join(going)} run"
    return f"{told}{'s'[len(going) > 1 :]} on." if going else ""


def _declared_looks(verdict: Mapping[str, Any]) -> int:
    return sum(look["declared"] for look in verdict.get("looks", ()))


def section(verdict: Mapping[str, Any]) -> str:
    """Every comparison in a table, the arms' runs in another, then the rule and what qualifies it."""
    rows, level = [], _level(verdict)
    for one in verdict["comparisons"]:
        interval, documents = one["interval"], verdict["documents"].get(one["arm"])
        both = (one.get("documents") or {}).get("combined")
        row = [one["arm"], str(one["n"]), number(one["mean"], "+"), between(interval), between(both)]
        row += [between(documents), number(one["sd"]), _p(one["adjusted"]), _p(one["flip"])]
        rows.append([*row, number(one["detectable"]), verdict["told"][one["arm"]]])
    heads = ["arm", "pairs", "difference", level, "over seeds and documents", "over documents", "sd", "p (Holm)"]
    compared = table([*heads, "p (sign flip)", "detectable", "verdict"], rows, left=("arm", "verdict"))
    notes = [f"{one['arm']}: {note}" for one in verdict["comparisons"] for note in one["notes"]]
    for arm, look in verdict.get("settled", {}).items():
        n = next(one["n"] for one in verdict["comparisons"] if one["arm"] == arm)
        own = (
            "" if look == verdict["look"] else f", runs no further and keeps its verdict and its {_level(verdict, arm)}"
        )
        notes.append(f"{arm}: settled at look {look}, after {n} pairs{own}")
    notes += [
        f"look {number}, {'declared' if look['declared'] else 'asked for later'}: "
        f"{look['pairs']} pairs at a level of {look['alpha']:.2g}"
        for number, look in enumerate(verdict.get("looks", ()), 1)
    ]
    needed = [
        f"{one['arm']}: {one['needed']} pairs would show {verdict['worthwhile']:g} nats ({one['needed_range'][0]} to "
        f"{one['needed_range'][1]}, for the sd itself is uncertain)"
        for one in verdict["comparisons"]
        if one["needed"]
    ]
    joint = any(one.get("documents") for one in verdict["comparisons"])
    first = (
        f"Paired differences in {text(verdict['metric'])} to {code(verdict['baseline'])} under the same seeds ("
        f"{', '.join(map(str, verdict['seeds']))}), nats; negative is better. Look {verdict['look']}. The {level} "
        "answers what other seeds would give, unadjusted; the interval over documents what other documents would"
        f"{'; the one over both what other seeds with other documents would' * joint}.\n\n"
    )
    caution = [f"**{text(verdict['unlearned'])}**"] if verdict.get("unlearned") else []
    lines = [*verdict["rule"], ASSUMED, *verdict.get("judged", ()), *verdict["notes"], *notes, *needed]
    told = "\n".join(f"* {line}" for line in [*caution, *map(text, lines)])
    return "\n\n".join(part for part in (f"{first}{compared}", _runs(verdict), told) if part)


def _runs(verdict: Mapping[str, Any]) -> str:
    """Stuck runs and spread of every arm beside the baseline's; nothing where the record is of an earlier version."""
    rows = []
    for one in verdict["comparisons"]:
        if "spread" not in one:
            continue
        spread = one["spread"] or {}
        row = [one["arm"], *(_share(one[key], one["n"]) for key in ("stuck", "baseline_stuck")), _p(one["stuck_p"])]
        row += [number(spread.get("sd")), number(spread.get("baseline")), _ratio(spread), _p(spread.get("p"))]
        rows.append(row)
    if not rows:
        return ""
    first = (
        "How the runs of each arm came out over the seeds that it shares with the baseline. Stuck: runs that did not "
        "begin to learn, with the p of McNemar's exact test that both arms are as likely to; sd: over seeds, with the "
        "p of Pitman and Morgan that the two are equal. Neither p is adjusted."
    )
    heads = ["arm", "stuck", "baseline stuck", "p (stuck)", "sd of runs", "baseline's", "ratio (95 %)", "p (spread)"]
    return f"{first}\n\n{table(heads, rows, left=('arm',))}"


def _share(stuck: Sequence[int] | None, pairs: int) -> str:
    return ABSENT if stuck is None else f"{len(stuck)} of {pairs}"


def _ratio(spread: Mapping[str, Any]) -> str:
    if spread.get("ratio") is None:
        return ABSENT
    low, high = spread["interval"]
    return f"{spread['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _p(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3g}"


def unsaid(journal: Journal) -> str:
    """Where there is no verdict, why."""
    families = journal.families()
    if not families:
        return "**Nothing is confirmed: no confirmation has run.**"
    ended = sum(not record.open for record in journal.stage("confirm"))
    return f"**No verdict yet:** of at most {declared(journal)} runs of the confirmation {ended} have ended."


def declared(journal: Journal) -> int:
    """Runs of the confirmation, at most: racing may drop some."""
    return sum(len(family.arms) * len(family.seeds) for family in journal.families())


def _level(verdict: Mapping[str, Any], arm: str | None = None) -> str:
    """Of the intervals, or of one arm's, which may have been settled at an earlier look."""
    look = verdict.get("settled", {}).get(arm)
    return f"{confidence(verdict['looks'][look - 1]['alpha'] if look else verdict['alpha'])} % interval"
