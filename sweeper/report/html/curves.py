"""The learning curves of the report: the confirmation's runs by arm, else the search's, single trials thin."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean
from typing import TYPE_CHECKING

from sweeper.journal.budget import Common
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.report.html.figures import COLOURS, Group

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

MOST_THIN = 200  # more thin lines would show nothing new

Curve = list[tuple[int, float]]


def curves_of(spec: SweepSpec, journal: Journal, names: Names | None = None) -> list[Group]:
    """The objective by step. names: of the configurations, in place of what the verdict calls them."""
    return _grouped(spec, names, [(record, _curve(record, spec.objective)) for record in _comparable(spec, journal)])


def gaps_of(spec: SweepSpec, journal: Journal, names: Names | None = None) -> list[Group]:
    """As `curves_of`, the objective minus the baseline's of the same stage, seed and step."""
    own, comparable = spec.baseline, _comparable(spec, journal)
    baselines = {
        (record.ask.stage, record.ask.seed): dict(_curve(record, spec.objective))
        for record in comparable
        if record.ask.arm == own
    }
    gaps: list[tuple[TrialRecord, Curve]] = []
    for record in comparable:
        base = baselines.get((record.ask.stage, record.ask.seed), {})
        if record.ask.arm != own:
            curve = _curve(record, spec.objective)
            gaps.append((record, [(step, value - base[step]) for step, value in curve if step in base]))
    return _grouped(spec, names, gaps)


def _comparable(spec: SweepSpec, journal: Journal) -> list[TrialRecord]:
    """The trials on budget."""
    records = list(journal.trials.values())
    common = Common.of(spec, records)
    return [record for record in records if common.kept(record)]


def _curve(record: TrialRecord, objective: str) -> Curve:
    return [(row.step, row.metrics[objective]) for row in record.rows if objective in row.metrics]


def _grouped(spec: SweepSpec, names: Names | None, curves: Iterable[tuple[TrialRecord, Curve]]) -> list[Group]:
    """Thin lines first; then as many arms as there are colours: the baseline and those that end lowest."""
    curves = [(record, curve) for record, curve in curves if curve]
    confirmed = any(record.ask.stage == "confirm" for record, _ in curves)
    arms: dict[str, list[Curve]] = {}
    thin: list[Curve] = []
    for record, curve in curves:
        if confirmed and record.ask.stage != "confirm":
            continue  # a search's curve is of another seed, and the best of many
        if record.ask.arm:
            arms.setdefault(record.ask.arm, []).append(curve)
        else:
            thin.append(curve)
    own = spec.baseline
    shown = sorted((name for name in arms if name != own), key=lambda name: fmean(run[-1][1] for run in arms[name]))
    thin += [run for name in shown[len(COLOURS) :] for run in arms[name]]
    named = [Group(names.name(name) if names else name, arms[name]) for name in shown[: len(COLOURS)]]
    if own in arms:
        named.insert(0, Group(str(own), arms[str(own)], baseline=True))
    return [*([Group("single trials", thin[:MOST_THIN], thin=True)] if thin else []), *named]
