"""The report's figures, one at a time, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from sweeper.journal.journal import Journal
from sweeper.report.html import figures, page
from sweeper.report.html.curves import curves_of, gaps_of
from sweeper.report.pareto import trades
from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest
from sweeper.spec.space import LogUniform, Simplex

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec


Importance = Callable[[], Mapping[str, float]]


def figure(spec: SweepSpec, journal: Journal, name: str, importance: Importance) -> go.Figure:
    """One figure. importance: of the search's settings, asked for only where it is drawn.

    Raises ConfigError for a name that this run has none of, with those that it has.
    """
    there = available(spec, journal, importance)
    if name not in there:
        raise ConfigError(("figure",), f"this run has no {name!r}; {nearest(name, there)}")
    return there[name]()


def available(spec: SweepSpec, journal: Journal, importance: Importance) -> dict[str, Callable[[], go.Figure]]:
    """Name -> what draws it, for all figures that this run has. `forest` is of the confirmation, else of the search."""
    found: dict[str, Callable[[], go.Figure]] = {}
    searched, verdict = journal.stage("search"), journal.verdict()
    if verdict and verdict["comparisons"]:
        found["forest"] = partial(figures.forest, verdict["comparisons"], verdict)
    elif not verdict and (pairs := page.explored(spec, searched)):
        row = {"metric": spec.objective, "baseline": spec.baseline, "worthwhile": spec.confirm.worthwhile}
        found["forest"] = partial(figures.forest, pairs[: page.MOST_ROWS], row)
    if groups := curves_of(spec, journal):
        found["curves"] = partial(figures.curves, groups, spec.objective)
    if gaps := gaps_of(spec, journal):
        found["gaps"] = partial(figures.curves, gaps, f"{spec.objective} to baseline", zero=True)
    for group, shares in page.breakdowns(spec, journal).items():
        found.setdefault("shares", partial(figures.shares, shares, group))
        found[f"shares/{group}"] = partial(figures.shares, shares, group)
    if len(spec.objectives) > 1 and (front := trades(spec, journal)):
        found["pareto"] = partial(figures.pareto, front, spec.objectives, 1)
    return found | _of_settings(spec, journal, importance)


def _of_settings(spec: SweepSpec, journal: Journal, importance: Importance) -> dict[str, Callable[[], go.Figure]]:
    """Figures of the settings that a search tried: the mixture, the memory, all at once, what mattered."""
    found: dict[str, Callable[[], go.Figure]] = {}
    points, axes = page.points_of(spec, journal.stage("search")), dict(page.axes_of(spec))
    if len(points) < 3 or not spec.space:
        return found
    for path, domain in spec.space.items():
        if isinstance(domain, Simplex) and len(domain.parts) == 3:
            parts = {f"{path}.{part}": low for part, low in zip(domain.parts, domain.minima, strict=True)}
            found["ternary"] = partial(figures.ternary, points, parts, spec.objective)
    every, decay = (next((path for path in spec.space if path.endswith(end)), None) for end in page.MEMORY)
    if every and decay:
        logarithmic = [path for path, domain in spec.space.items() if isinstance(domain, LogUniform)]
        found["memory"] = partial(figures.pairwise, points, every, decay, spec.objective, logarithmic)
    if len(axes) > 1:
        found["parallel"] = partial(figures.parallel, points, axes)
    found["importance"] = lambda: figures.bars(importance())
    return found
