"""What was masked in the course of the runs: by configuration, from one report to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.confirmation import design
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.system.markdown import ABSENT, table
from sweeper.trainable import COUNTED, Interval, intervals

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

TITLE = "Masked over time %"
MOST_ROWS = 30  # configurations of a figure or table
MOST_INTERVALS = 10
SOURCES = "shares"  # the group of the sources' shares
ENDS_ONLY = 6  # of a group with more parts than these, a table shows the first and the last
DECILES = " Decile 1 holds the most frequent tokens of the text, decile 10 the rarest."

Course = Sequence[Interval]


def records_shown(spec: SweepSpec, journal: Journal) -> list[TrialRecord]:
    """The confirmation's trials if any has reported, else the search's: the baseline's first, then the lowest loss."""
    records = journal.stage(design.STAGE)
    if not any(record.rows for record in records):
        records = journal.stage("search")
    own = spec.baseline

    def order(record: TrialRecord) -> tuple[bool, float]:
        score = record.score(spec.objective)
        return record.ask.arm != own, float("inf") if score is None else score

    return sorted(records, key=order)


def courses(spec: SweepSpec, journal: Journal, names: Names) -> dict[str, Course]:
    """By configuration, in order: the means over its trials in at most MOST_INTERVALS intervals.

    Empty for records of versions that did not count the predictions behind the shares.
    """
    by_name: dict[str, list[TrialRecord]] = {}
    for record in _counting(spec, journal):
        by_name.setdefault(names.of(record.ask), []).append(record)
    shown = dict(list(by_name.items())[:MOST_ROWS])
    counted = {row.step for found in shown.values() for one in found for row in one.rows if row.metrics.get(COUNTED)}
    ends = _spread(sorted(counted))
    found = {name: _mean([_intervals(record, ends) for record in records]) for name, records in shown.items()}
    return {name: course for name, course in found.items() if course}


def section(spec: SweepSpec, journal: Journal, names: Names) -> dict[str, str]:
    """Heading -> table of the first and the last interval of each configuration; empty without any."""
    found = courses(spec, journal, names)
    if not groups(found):
        return {}
    columns = [f"{group}/{part}" for group in groups(found) if group != SOURCES for part in _ends(parts(found, group))]
    sources = {f"{SOURCES}/{part}": part for part in parts(found, SOURCES)}
    rows = []
    for name, course in found.items():
        steps = "; ".join(f"{one.since + 1:,} to {one.step:,}" for one in (course[0], course[-1]))
        drew = [key for key in sources if any(one.shares.get(key) for one in course)]
        drawn = ", ".join(f"{sources[key]} {_movement(course, key)}" for key in drew) or ABSENT
        rows.append([name, steps, *(_movement(course, key) for key in columns), *([drawn] if sources else [])])
    first = (
        "Percent of the masks within an interval between reports, after the mask warm-up: in the first interval → in "
        "the last one. Means over the seeds."
    )
    first += DECILES * ("decile" in groups(found))
    every = {names.of(record.ask) for record in _counting(spec, journal)}
    first += f" Only the first {MOST_ROWS} configurations are shown." * (len(every) > MOST_ROWS)
    heads = ["what", "steps", *(key.replace("/", " ", 1) for key in columns), *(["by source"] if sources else [])]
    return {TITLE: f"{first}\n\n{table(heads, rows, left=('what', 'steps', 'by source'))}"}


def label(group: str) -> str:
    """What its parts are: the shares are those of the sources."""
    return "source" if group == SOURCES else group


def groups(found: Mapping[str, Course]) -> list[str]:
    """The breakdowns that there are, in order."""
    return list(
        dict.fromkeys(key.partition("/")[0] for course in found.values() for one in course for key in one.shares)
    )


def parts(found: Mapping[str, Course], group: str) -> list[str]:
    """The parts of a group that anybody masked, in order."""
    every = [one.shares for course in found.values() for one in course]
    masked = {key for shares in every for key, share in shares.items() if share}
    keys = dict.fromkeys(key for shares in every for key in shares if key in masked)
    return [key.removeprefix(f"{group}/") for key in keys if key.startswith(f"{group}/")]


def _counting(spec: SweepSpec, journal: Journal) -> list[TrialRecord]:
    return [one for one in records_shown(spec, journal) if one.rows and one.rows[-1].metrics.get(COUNTED)]


def _intervals(record: TrialRecord, ends: set[int]) -> Course:
    """Those that end at these steps, or begin at the end of the mask warm-up."""
    rows = [row for row in record.rows if row.step in ends or not row.metrics.get(COUNTED)]
    return list(intervals({**row.metrics, "step": row.step} for row in rows))


def _spread(steps: Sequence[int]) -> set[int]:
    """At most MOST_INTERVALS of the steps, evenly, with the last one."""
    number = min(len(steps), MOST_INTERVALS)
    return {steps[-1 - place * len(steps) // number] for place in range(number)}


def _mean(trials: Sequence[Course]) -> Course:
    """Over the trials that have an interval, for each interval."""
    by_ends: dict[tuple[int, int], list[Interval]] = {}
    for one in (one for course in trials for one in course):
        by_ends.setdefault((one.since, one.step), []).append(one)
    return [_pooled(found) for _, found in sorted(by_ends.items(), key=lambda pair: pair[0][::-1])]


def _pooled(found: Sequence[Interval]) -> Interval:
    keys = dict.fromkeys(key for one in found for key in one.shares)
    shares = {key: fmean(one.shares.get(key, 0.0) for one in found) for key in keys}
    return Interval(found[0].since, found[0].step, sum(one.counted for one in found), shares)


def _ends(parts: Sequence[str]) -> Sequence[str]:
    return parts if len(parts) <= ENDS_ONLY else (parts[0], parts[-1])


def _movement(course: Course, key: str) -> str:
    ends = [one.shares.get(key) for one in (course[0], course[-1])]
    first, last = (ABSENT if share is None else f"{100 * share:.1f}" for share in ends)
    return f"{first} → {last}" if len(course) > 1 else first
