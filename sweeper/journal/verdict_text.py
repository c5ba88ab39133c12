"""The verdict in words: a sentence that answers the question, and the table behind it, from the journal's `Verdict`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.journal.journal import Journal
from sweeper.journal.names import Names
from sweeper.spec.hints import confidence
from sweeper.system.markdown import ABSENT, between, code, number, table, text

ASSUMED = (
    "assumed: seeds are independent, and differences scatter evenly to both sides of their mean, as they do if the "
    "runs of both arms scatter alike; the intervals hold for seeds and documents like these, not for another corpus, "
    "model or length"
)

FEW = 5  # arms, of which a sentence speaks one by one


def headline(verdict: Mapping[str, Any], names: Names | None = None) -> str:
    """The verdict in a sentence or two, equally plain whether something is confirmed or nothing is.

    names: of the configurations, to stand beside what the verdict calls them.
    """
    labels, test, champion = verdict["told"], verdict["metric"], verdict["champion"]
    found = next((one for one in verdict["comparisons"] if one["arm"] == champion), None)
    seeds = found["n"] if found else f"{'up to ' * ('looks' in verdict)}{len(verdict['seeds'])}"
    fresh = "" if verdict["fresh"] else " Not all of those seeds were fresh."
    against = f"against {code(verdict['baseline'])} over {seeds} seeds by {text(test)}"
    if found is None:
        each = _each(labels, names)
        return f"**Nothing is confirmed** {against}. {each[:1].upper()}{each[1:]}.{_going_on(verdict)}{fresh}"
    low, high = found["interval"]
    interval = f"{_level(verdict, champion)} {low:+.4f} to {high:+.4f}"
    first = f"**Confirmed: {_named(champion, names)}** {against}: {found['mean']:+.4f} nats, {interval}."
    if challenge := verdict.get("challenge"):
        first += f" {text(challenge['said'][:1].upper() + challenge['said'][1:])}."
    others = {arm: words for arm, words in labels.items() if arm != champion}
    return first + f" The others: {_each(others, names)}." * bool(others) + _going_on(verdict) + fresh


def _each(labels: Mapping[str, str], names: Names | None) -> str:
    """What is said of each arm; many arms stand together by what is said of them."""
    if len(labels) <= FEW:
        return "; ".join(f"{_named(arm, names)}: {text(words)}" for arm, words in labels.items())
    by_words: dict[str, list[str]] = {}
    for arm, words in labels.items():
        by_words.setdefault(words, []).append(_named(arm, names))
    return "; ".join(f"{text(words)}: {', '.join(arms)}" for words, arms in by_words.items())


def _named(arm: str, names: Names | None) -> str:
    beside = names.label(arm).removeprefix(arm) if names else ""
    return f"{code(arm)} {text(beside)}" if beside else code(arm)


def going_on(verdict: Mapping[str, Any]) -> list[str]:
    """The arms that a further declared look runs again."""
    if verdict["look"] >= _declared_looks(verdict):
        return []
    arms = [one["arm"] for one in verdict["comparisons"] if one["verdict"] == "inconclusive"]
    return [arm for arm in arms if arm not in verdict["settled"]]


def _going_on(verdict: Mapping[str, Any]) -> str:
    going = [code(arm) for arm in going_on(verdict)]
    message = f" This was look {verdict['look']} of at most {_declared_looks(verdict)}: {', '.join(going)} go"
    return f"{message}{'es'[2 * (len(going) > 1) :]} on." if going else ""


def _declared_looks(verdict: Mapping[str, Any]) -> int:
    return sum(look["declared"] for look in verdict.get("looks", ()))


def section(verdict: Mapping[str, Any], names: Names | None = None) -> str:
    """A table of the comparisons, one of the arms' runs, then the rule and its qualifications."""
    rows, level = [], _level(verdict)
    for one in verdict["comparisons"]:
        interval, documents = one["interval"], verdict["documents"].get(one["arm"])
        both = (one.get("documents") or {}).get("combined")
        arm = names.label(one["arm"]) if names else one["arm"]
        row = [arm, str(one["n"]), number(one["mean"], "+"), between(interval), between(both)]
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
        f"{one['needed_range'][1]}, as the sd itself is uncertain)"
        for one in verdict["comparisons"]
        if one["needed"]
    ]
    joint = any(one.get("documents") for one in verdict["comparisons"])
    first = (
        f"Paired differences in {text(verdict['metric'])} from {code(verdict['baseline'])} on the same seeds ("
        f"{', '.join(map(str, verdict['seeds']))}), nats; negative is better. Look {verdict['look']}. The {level} "
        "shows what other seeds would give, unadjusted; the interval over documents what other documents would"
        f"{'; the one over both what other seeds and documents would' * joint}.\n\n"
    )
    caution = [f"**{text(verdict['unlearned'])}**"] if verdict.get("unlearned") else []
    lines = [*verdict["rule"], ASSUMED, *verdict.get("judged", ()), *verdict["notes"], *notes, *needed]
    bullets = "\n".join(f"* {line}" for line in [*caution, *map(text, lines)])
    return "\n\n".join(part for part in (f"{first}{compared}", _runs(verdict, names), bullets) if part)


def _runs(verdict: Mapping[str, Any], names: Names | None) -> str:
    """Stuck runs and spread of every arm beside the baseline's; empty if the record is of an earlier version."""
    rows = []
    for one in verdict["comparisons"]:
        if "spread" not in one:
            continue
        spread = one["spread"] or {}
        row = [
            names.label(one["arm"]) if names else one["arm"],
            *(_share(one[key], one["n"]) for key in ("stuck", "baseline_stuck")),
            _p(one["stuck_p"]),
        ]
        row += [number(spread.get("sd")), number(spread.get("baseline")), _ratio(spread), _p(spread.get("p"))]
        rows.append(row)
    if not rows:
        return ""
    first = (
        "How the runs of each arm came out on the seeds that it shares with the baseline. Stuck: runs that did not "
        "begin to learn, with McNemar's exact p that both arms are equally likely to get stuck; sd: over seeds, with "
        "the p of Pitman and Morgan that the two are equal. Neither p is adjusted."
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
    """Why there is no verdict."""
    families = journal.families()
    if not families:
        return "**Nothing is confirmed: no confirmation has run.**"
    ended = sum(not record.open for record in journal.stage("confirm"))
    return f"**No verdict yet:** {ended} of at most {declared(journal)} runs of the confirmation have ended."


def declared(journal: Journal) -> int:
    """Runs of the confirmation, at most: racing may drop some."""
    return sum(len(family.arms) * len(family.seeds) for family in journal.families())


def _level(verdict: Mapping[str, Any], arm: str | None = None) -> str:
    """The level of the intervals, or of one arm's, which an earlier look may have settled."""
    look = verdict.get("settled", {}).get(arm)
    return f"{confidence(verdict['looks'][look - 1]['alpha'] if look else verdict['alpha'])} % interval"
