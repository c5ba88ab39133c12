"""Two runs beside each other: what differs in their settings, and paired differences where they share seeds.

Exploration, and no verdict: nobody declared these comparisons before the runs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from sweeper.confirmation.design import STAGE, metric
from sweeper.confirmation.paired_tests import ALPHA, PAIRS, holm, sign_flip, t_tests
from sweeper.journal import budget, learned, records
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec.spec import SweepSpec
from sweeper.system.secrecy import redact, veiled

EXPLORATION = (
    "exploration, no verdict: nobody declared these comparisons before the runs; intervals are unadjusted, p is of the "
    "paired t by Holm over the rows that have one"
)
_PLACES = ("name", "question", "notes", "tags", "on_event", "profile")  # say nothing of what was trained
UNNAMED = "neither record names its data by a fingerprint: only their data settings are known to be the same"
DATA = "data_fingerprint"


@dataclass(frozen=True)
class Change:
    """A setting that differs, or a fact of the machine. None where a run has no such thing."""

    path: str
    first: Any
    second: Any


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One configuration in both runs, over the seeds that both completed: second - first, negative is better.

    Args:
        stage: search or confirm.
        what: the arm, or the settings of a point.
        metric: of the last step, in nats if it is a loss.
        same: whether all its settings are the same in both runs.
        seeds: that both completed.
        differences: by seed.
        mean: of the differences.
        stuck: seeds on which one of the two did not begin to learn: the row is not tested.
        alike: seeds on which both are the same run, taken over or trained again: nor is it then.
        interval: of the mean, at 95 %; None where it is not tested, or below two pairs.
        p: two-sided paired t, adjusted by Holm for the rows that are tested; None where interval is.
        flip: p of the sign-flip test, unadjusted; None below six pairs, which cannot show anything, or untested.
    """

    stage: str
    what: str
    metric: str
    same: bool
    seeds: list[int]
    differences: list[float]
    mean: float
    stuck: list[int] = field(default_factory=list)
    alike: list[int] = field(default_factory=list)
    interval: list[float] | None = None
    p: float | None = None
    flip: float | None = None


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What two runs share and where they differ.

    Args:
        settings: of the specs.
        circumstances: code, libraries, machine and data of the newest sessions.
        differences: by configuration.
        apart: why something cannot be compared, a line each.
        doubt: what speaks against the differences all the same; None if nothing is known.
    """

    settings: list[Change]
    circumstances: list[Change]
    differences: list[Difference]
    apart: list[str]
    doubt: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain data."""
        return {**asdict(self), "note": EXPLORATION}


def compared(first: tuple[SweepSpec, Journal], second: tuple[SweepSpec, Journal]) -> Comparison:
    """Two runs, as `run_folders.opened` gives them."""
    (spec, journal), (other_spec, other) = first, second
    apart = list(_apart(first, second))
    rows = [] if apart else list(_pairs(first, second, apart))
    return Comparison(
        settings=_settings(spec, other_spec),
        circumstances=_circumstances(journal, other),
        differences=_tested(rows),
        apart=apart,
        doubt=" ".join(_doubts(journal, other, bool(rows))) or None,
    )


def _doubts(journal: Journal, other: Journal, paired: bool) -> Iterator[str]:
    """What each record says against itself, and that nothing shows that the data of pairs are the same."""
    for letter, one in (("A", journal), ("B", other)):
        if doubts := one.doubts():
            yield f"{letter}: {' '.join(doubts)}"
    if paired and journal.facts().get(DATA) is None:
        yield UNNAMED


def _settings(spec: SweepSpec, other: SweepSpec) -> list[Change]:
    mine, theirs = (_flat(one.model_dump(mode="json")) for one in (spec, other))
    return [
        Change(path, _shown(path, mine.get(path)), _shown(path, theirs.get(path)))
        for path in dict.fromkeys([*mine, *theirs])
        if mine.get(path) != theirs.get(path) and path.partition(".")[0] not in _PLACES
    ]


def _flat(tree: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{at}{key}.") if isinstance(value, Mapping) and value else {f"{at}{key}": value}
    return found


def _shown(path: str, value: Any) -> Any:
    value = veiled(path, value)
    return redact(value) if isinstance(value, str) else value


def _circumstances(journal: Journal, other: Journal) -> list[Change]:
    mine, theirs = (_last(one) for one in (journal, other))
    return [
        Change(key, mine.get(key), theirs.get(key))
        for key in dict.fromkeys([*mine, *theirs])
        if mine.get(key) != theirs.get(key)
    ]


def _last(journal: Journal) -> dict[str, Any]:
    """What the newest session says of code, libraries, machine and data."""
    session = next((event for event in reversed(journal.events) if isinstance(event, Session)), None)
    if session is None:
        return {}
    machine = {key: session.machine.get(key) for key in ("processor", "device", "threads", "python")}
    data = journal.facts().get(DATA)
    return {DATA: data, "git commit": session.git_commit, **machine, **session.versions}


def _apart(first: tuple[SweepSpec, Journal], second: tuple[SweepSpec, Journal]) -> Iterator[str]:
    """Why two runs as a whole cannot be compared."""
    (spec, journal), (other_spec, other) = first, second
    if spec.trainable != other_spec.trainable:
        yield f"they train different things: {spec.trainable} and {other_spec.trainable}"
    if spec.objective != other_spec.objective:
        yield f"their objectives differ: {spec.objective} and {other_spec.objective}"
    data, others = (one.facts().get(DATA) for one in (journal, other))
    if data is None and others is None:
        if spec.data != other_spec.data:
            yield "neither record says which data it is of, and their data settings differ"
    elif data is None or others is None:
        yield "one of the records does not say which data it is of"
    elif data != others:
        yield f"their data differ: {data} and {others}"


def _pairs(
    first: tuple[SweepSpec, Journal], second: tuple[SweepSpec, Journal], apart: list[str]
) -> Iterator[Difference]:
    """Each configuration that both have, untested yet. Says in `apart` what they share and cannot be compared."""
    mine, theirs = (_by_configuration(*run) for run in (first, second))
    shared = [key for key in mine if key in theirs]
    off: list[str] = []
    for stage, key in shared:
        runs, others = mine[stage, key], theirs[stage, key]
        seeds = sorted(runs.keys() & others.keys())
        if not seeds:
            continue
        one, other = runs[seeds[0]], others[seeds[0]]
        what = records.describe(one.ask)
        if not _same_budget(one, other):
            off.append(what)
            continue
        by = metric(first[0]) if stage == STAGE else first[0].objective
        scores = {seed: (runs[seed].score(by), others[seed].score(by)) for seed in seeds}
        kept = {seed: b - a for seed, (a, b) in scores.items() if a is not None and b is not None}
        same = one.ask.config_hash == other.ask.config_hash
        if kept:
            yield Difference(
                stage=stage,
                what=what,
                metric=by,
                same=same,
                seeds=list(kept),
                differences=list(kept.values()),
                mean=float(np.mean([*kept.values()])),
                stuck=[
                    seed
                    for seed in kept
                    if learned.stuck(first[0], runs[seed]) or learned.stuck(second[0], others[seed])
                ],
                alike=[seed for seed, difference in kept.items() if same and difference == 0],
            )
    if off:
        apart.append(f"not the same budget, so not compared: {', '.join(off[:6])}{' …' * (len(off) > 6)}")
    if not shared:
        apart.append("no arm and no point of the space has completed trials in both, in the same stage")
    elif not any(mine[key].keys() & theirs[key].keys() for key in shared):
        apart.append("what both have ran on different seeds, so there are no pairs")


def _by_configuration(spec: SweepSpec, journal: Journal) -> dict[tuple[str, str], dict[int, TrialRecord]]:
    """(stage, configuration) -> seed -> the completed trial. An arm of the spec goes by its name, else by settings.

    Labels of a confirmation such as t0005 mean another point in another run.
    """
    found: dict[tuple[str, str], dict[int, TrialRecord]] = {}
    for record in journal.trials.values():
        ask = record.ask
        if record.state == "completed":
            named = ask.arm if ask.arm in spec.arms else None
            key = named or json.dumps(ask.params, sort_keys=True)
            found.setdefault((ask.stage, key), {}).setdefault(ask.seed, record)
    return found


def _same_budget(one: TrialRecord, other: TrialRecord) -> bool:
    asked, others = (budget.from_dict(record.ask.budget) for record in (one, other))
    if asked and others:
        return asked.same(others)
    counted, theirs = (record.rows[-1].metrics.get(budget.PREDICTED) for record in (one, other))
    return counted == theirs and one.step == other.step


def _tested(rows: list[Difference]) -> list[Difference]:
    """The rows with intervals and p. One run twice is no pair, and a stuck run's loss is not of what was asked."""
    pairs = [row for row in rows if len(row.differences) > 1 and not row.stuck and not row.alike]
    if not pairs:
        return rows
    tests = [t_tests(np.array(row.differences), 0.0, ALPHA) for row in pairs]
    adjusted = holm(np.array([float(test.p_better) for test in tests]))
    by_row = {id(row): (test, float(p)) for row, test, p in zip(pairs, tests, adjusted, strict=True)}
    found = []
    for row in rows:
        if id(row) not in by_row:
            found.append(row)
            continue
        test, p = by_row[id(row)]
        differences = np.array(row.differences)
        flip = float(sign_flip(differences, float(test.mean))) if len(differences) >= PAIRS else None
        bounds = [float(test.low), float(test.high)]
        found.append(replace(row, mean=float(test.mean), interval=bounds, p=p, flip=flip))
    return found
