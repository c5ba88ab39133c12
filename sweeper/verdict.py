"""The verdict in words: a sentence that answers the question, and the table behind it, from the journal's `Verdict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.journal import Journal
from sweeper.markdown import ABSENT, between, number, table
from sweeper.wording import confidence


def headline(said: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two, as plain where nothing is confirmed as where something is."""
    told, test, champion = said["told"], said["metric"], said["champion"]
    found = next((one for one in said["comparisons"] if one["arm"] == champion), None)
    seeds = found["n"] if found else f"{'up to ' * ('looks' in said)}{len(said['seeds'])}"
    fresh = "" if said["fresh"] else " Not all of those seeds were fresh."
    against = f"against `{said['baseline']}` over {seeds} seeds by {test}"
    if found is None:
        verdicts = "; ".join(f"`{arm}`: {text}" for arm, text in told.items())
        return f"**Nothing is confirmed** {against}. {verdicts}.{_going_on(said)}{fresh}"
    low, high = found["interval"]
    interval = f"{_level(said, champion)} {low:+.4f} to {high:+.4f}"
    text = f"**Confirmed: `{champion}`** {against}: {found['mean']:+.4f} nats, {interval}."
    others = [f"`{arm}`: {verdict}" for arm, verdict in told.items() if arm != champion]
    return " ".join([text, *(["The others: " + "; ".join(others) + "."] if others else [])]) + _going_on(said) + fresh


def _going_on(said: Mapping[str, Any]) -> str:
    """Which arms a further declared look asks again."""
    declared = sum(look["declared"] for look in said.get("looks", ()))
    arms = [one["arm"] for one in said["comparisons"] if one["verdict"] == "inconclusive"]
    going = [f"`{arm}`" for arm in arms if arm not in said.get("settled", ())]
    if said["look"] >= declared or not going:
        return ""
    return f" This was look {said['look']} of at most {declared}: {', '.join(going)} run{'s'[len(going) > 1 :]} on."


def section(said: Mapping[str, Any]) -> str:
    """Every comparison in a table, then the rule and what qualifies it."""
    rows = []
    for one in said["comparisons"]:
        interval, documents = one["interval"], said["documents"].get(one["arm"])
        row = [one["arm"], str(one["n"]), number(one["mean"], "+"), between(interval), between(documents)]
        row += [number(one["sd"]), f"{one['adjusted']:.3g}", ABSENT if one["flip"] is None else f"{one['flip']:.3g}"]
        rows.append([*row, number(one["detectable"]), said["told"][one["arm"]]])
    heads = ["arm", "pairs", "difference", _level(said), "over documents", "sd", "p (Holm)", "p (sign flip)"]
    compared = table([*heads, "detectable", "verdict"], rows, left=("arm", "verdict"))
    notes = [f"{one['arm']}: {note}" for one in said["comparisons"] for note in one["notes"]]
    for arm, look in said.get("settled", {}).items():
        n = next(one["n"] for one in said["comparisons"] if one["arm"] == arm)
        own = "" if look == said["look"] else f", runs no further and keeps its verdict and its {_level(said, arm)}"
        notes.append(f"{arm}: settled at look {look}, after {n} pairs{own}")
    notes += [
        f"look {number}, {'declared' if look['declared'] else 'asked for later'}: "
        f"{look['pairs']} pairs at a level of {look['alpha']:.2g}"
        for number, look in enumerate(said.get("looks", ()), 1)
    ]
    needed = [
        f"{one['arm']}: {one['needed']} pairs would show {said['worthwhile']:g} nats ({one['needed_range'][0]} to "
        f"{one['needed_range'][1]}, for the sd itself is uncertain)"
        for one in said["comparisons"]
        if one["needed"]
    ]
    text = (
        f"Paired differences in {said['metric']} to `{said['baseline']}` under the same seeds ("
        f"{', '.join(map(str, said['seeds']))}), nats; negative is better. Look {said['look']}. The {_level(said)} "
        "answers what other seeds would give, unadjusted; the interval over documents what other documents would.\n\n"
    )
    caution = [f"**{said['unlearned']}**"] if said.get("unlearned") else []
    told = "\n".join(f"* {line}" for line in [*caution, *said["rule"], *said["notes"], *notes, *needed])
    return f"{text}{compared}\n\n{told}"


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


def _level(said: Mapping[str, Any], arm: str | None = None) -> str:
    """Of the intervals, or of one arm's, which may have been settled at an earlier look."""
    look = said.get("settled", {}).get(arm)
    return f"{confidence(said['looks'][look - 1]['alpha'] if look else said['alpha'])} % interval"
