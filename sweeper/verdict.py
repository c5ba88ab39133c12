"""The verdict in words: a sentence that answers the question, and the table behind it, from the journal's `Verdict`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.journal import Journal
from sweeper.markdown import ABSENT, between, number, table


def headline(said: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two, as plain where nothing is confirmed as where something is."""
    told, seeds, test = said["told"], len(said["seeds"]), said["metric"]
    fresh = "" if said["fresh"] else " Not all of those seeds were fresh."
    against = f"against `{said['baseline']}` over {seeds} seeds by {test}"
    champion = said["champion"]
    if champion is None:
        verdicts = "; ".join(f"`{arm}`: {text}" for arm, text in told.items())
        return f"**Nothing is confirmed** {against}. {verdicts}.{fresh}"
    found = next(one for one in said["comparisons"] if one["arm"] == champion)
    low, high = found["interval"]
    text = (
        f"**Confirmed: `{champion}`** {against}: {found['mean']:+.4f} nats, {_level(said)} {low:+.4f} to {high:+.4f}."
    )
    others = [f"`{arm}`: {verdict}" for arm, verdict in told.items() if arm != champion]
    return " ".join([text, *(["The others: " + "; ".join(others) + "."] if others else [])]) + fresh


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


def _level(said: Mapping[str, Any]) -> str:
    return f"{100 * (1 - said['alpha']):.4g} % interval"
