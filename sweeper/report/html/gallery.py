"""The figures of a report, each with its name, section and caption: for the page, for files and for Python."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go

from sweeper.journal.budget import Common
from sweeper.journal.journal import AUDIT, Journal, TrialRecord, nested
from sweeper.journal.names import Names
from sweeper.journal.records import breakdown
from sweeper.report import over_time
from sweeper.report.html import figures, setting_figures
from sweeper.report.html.curves import curves_of, gaps_of
from sweeper.report.html.setting_figures import Axis, Point
from sweeper.report.over_time import MOST_ROWS
from sweeper.report.pareto import trades
from sweeper.report.sections import FRONT
from sweeper.spec.space import Choice, LogUniform, Simplex
from sweeper.spec.spec import flat

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

FEW_TRIALS = 20
MOST_POINTS = 2000
DIFFERENCES, OF_SEARCH, CURVES = "Paired differences", "Paired differences of the search", "Learning curves"
FACTORS, MASKED = "Loss over each setting", "What was masked"
_MEMORY = ("update_every", "ema_decay")
_EXPLORATION = "Search scores: exploration, not a result."


@dataclass(frozen=True)
class Drawing:
    """A figure of the report.

    Args:
        name: unique among them, in characters that a file's name may have.
        title: of its section.
        figure: by Plotly.
        caption: plain text; it may hold a stranger's words.
        wide: needs more room than a telephone has.
        group: what it breaks down, as in "Masked by kind %"; empty for other figures.
    """

    name: str
    title: str
    figure: go.Figure
    caption: str
    wide: bool = False
    group: str = ""


def gallery(spec: SweepSpec, journal: Journal, importance: Mapping[str, float] | None = None) -> list[Drawing]:
    """All figures that the record supports, in the order of the report. importance: of settings, by path."""
    names = Names(spec, (record.ask for record in journal.trials.values()))
    points, found = _points(spec, journal.stage("search"), names), list[Drawing]()
    for parts in (
        _forest(spec, journal, names),
        _pareto(spec, journal),
        _curves(spec, journal, names),
        _settings(spec, points, importance or {}),
        _masked(spec, journal, names),
        _masked_over_time(spec, journal, names),
    ):
        found += parts
    return found


def _forest(spec: SweepSpec, journal: Journal, names: Names) -> Iterator[Drawing]:
    verdict = journal.verdict()
    if verdict:
        caption = (
            "Each dot is one seed: candidate minus baseline. The mark is their mean, the thick line its interval over "
            "seeds, the dotted line one over documents alone. Differences in the grey band are not worthwhile."
        )
        if verdict["comparisons"]:
            figure = figures.forest(verdict["comparisons"], verdict, names)
            yield Drawing("forest", DIFFERENCES, figure, caption)
        return
    pairs = _explored(spec, journal.stage("search"))
    if pairs:
        caption = (
            "Exploration, not a result: one dot is one trial of the search minus the baseline on the same seed. Seeds "
            "alone move a loss as much, and the best of many looks good by luck alone. Differences in the grey band "
            "are not worthwhile."
        )
        row = {"metric": spec.objective, "baseline": spec.baseline, "worthwhile": spec.confirm.worthwhile}
        yield Drawing("forest", OF_SEARCH, figures.forest(pairs[:MOST_ROWS], row, names), caption)


def _pareto(spec: SweepSpec, journal: Journal) -> Iterator[Drawing]:
    """The first objective against each further one."""
    found = trades(spec, journal) if len(spec.objectives) > 1 else []
    shown = [one for place, one in enumerate(found) if place < MOST_POINTS or one.front or one.baseline]
    caption = (
        "A mark is a configuration of the search, diamonds are the front, the open square is the baseline. "
        f"{_EXPLORATION}"
    )
    for number in range(1, len(spec.objectives) if shown else 1):
        yield Drawing(f"pareto-{number}", FRONT, figures.pareto(shown, spec.objectives, number), caption)


def _explored(spec: SweepSpec, searched: Sequence[TrialRecord]) -> list[dict[str, Any]]:
    """The search's differences to the baseline in the shape of a comparison, the lowest mean first."""
    common = Common.of(spec, searched)
    done = [
        (record, score)
        for record in searched
        if record.state == "completed" and common.kept(record) and (score := record.score(spec.objective)) is not None
    ]
    own = spec.baseline
    baseline = {record.ask.seed: score for record, score in done if record.ask.arm == own}
    found: dict[str, list[tuple[int, float]]] = {}
    for record, score in done:
        seed = record.ask.seed
        if seed in baseline and record.ask.arm != own:
            found.setdefault(record.ask.arm or record.id, []).append((seed, score - baseline[seed]))
    rows = [
        {
            "arm": name,
            "verdict": "",
            "seeds": [seed for seed, _ in pairs],
            "differences": [away for _, away in pairs],
            "mean": fmean(away for _, away in pairs),
            "interval": None,
        }
        for name, pairs in found.items()
    ]
    return sorted(rows, key=lambda row: row["mean"])


def _curves(spec: SweepSpec, journal: Journal, names: Names) -> Iterator[Drawing]:
    if groups := curves_of(spec, journal, names):
        figure = figures.curves(groups, spec.objective)
        yield Drawing("curves", CURVES, figure, "By arm: the mean of its seeds.")
        if gaps := gaps_of(spec, journal, names):
            caption = "Minus the baseline on the same seed at the same step: the ends of the other figure, magnified."
            figure = figures.curves(gaps, f"{spec.objective} to baseline", zero=True)
            yield Drawing("gaps", CURVES, figure, caption)


def _settings(spec: SweepSpec, points: Sequence[Point], importance: Mapping[str, float]) -> Iterator[Drawing]:
    """The settings that the search tried. Needs three trials to show anything."""
    if len(points) < 3 or not spec.space:
        return
    own = " Squares are the spec's own arms." * any(point.arm for point in points)
    named = f"{own} {_EXPLORATION}"
    if len(points) == MOST_POINTS:
        named += f" The best {MOST_POINTS:,} trials are shown."
    taken = set[str]()
    for path, domain in spec.space.items():
        if isinstance(domain, Simplex) and len(domain.parts) == 3:
            parts = {f"{path}.{part}": low for part, low in zip(domain.parts, domain.minima, strict=True)}
            if not (with_it := _having(points, parts)):
                continue
            figure = setting_figures.ternary(with_it, parts, spec.objective)
            caption = f"Each mark is a trial; dark is a low loss.{named}"
            yield Drawing(_file("mixture", path, taken), f"Mixture: {_leaf(path)}", figure, caption)
    axes = dict(_axes(spec))
    for path, axis in axes.items():
        with_it = _having(points, (path,))
        values = [point.values.get(path) for point in with_it]
        numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        if len({*numbers}) > 1 and len(numbers) == sum(value is not None for value in values):
            figure = setting_figures.factor(with_it, path, spec.objective, logarithmic=axis.logarithmic)
            yield Drawing(_file("loss", path, taken), FACTORS, figure, f"Each mark is a trial.{named}")
    every, decay = (next((path for path in spec.space if path.endswith(end)), None) for end in _MEMORY)
    if every and decay and (with_it := _having(points, (every, decay))):
        logarithmic = [path for path, domain in spec.space.items() if isinstance(domain, LogUniform)]
        figure = setting_figures.pairwise(with_it, every, decay, spec.objective, logarithmic)
        caption = f"Steps between refreshes, and how much of the past each keeps; dark is a low loss.{named}"
        yield Drawing("memory", "Memory: update_every × ema_decay", figure, caption)
    if importance:
        caution = f"Caution: only {len(points)} trials, so this is little more than a guess. " * (
            len(points) < FEW_TRIALS
        )
        caption = (
            f"{caution}By Optuna (PED-ANOVA, Watanabe et al. 2023): what sets the best trials apart from the rest."
        )
        yield Drawing("importance", "Importance of the settings", setting_figures.bars(importance), caption)
    if len(axes) > 1:
        caption = f"Each line is a trial, by thirds of {spec.objective}. {_EXPLORATION}"
        yield Drawing("parallel", "All settings at once", setting_figures.parallel(points, axes), caption)


def _having(points: Sequence[Point], paths: Iterable[str]) -> list[Point]:
    """The points for which these paths exist: under conditions not all of them have every path."""
    return [point for point in points if all(path in point.values for path in paths)]


def _axes(spec: SweepSpec) -> Iterator[tuple[str, Axis]]:
    for path, domain in spec.space.items():
        if isinstance(domain, Simplex):
            for part, low in zip(domain.parts, domain.minima, strict=True):
                yield f"{path}.{part}", Axis(low, low + domain.free)
        elif isinstance(domain, Choice):
            yield path, Axis(choices=domain.choices)
        else:
            yield path, Axis(domain.low, domain.high, isinstance(domain, LogUniform))


def _points(spec: SweepSpec, searched: Sequence[TrialRecord], names: Names) -> list[Point]:
    """The search's completed trials on budget, the best MOST_POINTS of them; the best last, to be drawn on top."""
    common, sampled = Common.of(spec, searched), spec.search.method != "arms"
    points = [
        Point(names.of(record.ask), dict(flat(record.ask.params)), score, sampled and record.ask.arm is not None)
        for record in searched
        if record.state == "completed" and common.kept(record) and (score := record.score(spec.objective)) is not None
    ]
    return sorted(points, key=lambda point: -point.loss)[-MOST_POINTS:]


def _masked(spec: SweepSpec, journal: Journal, names: Names) -> Iterator[Drawing]:
    """What was masked, by each breakdown that trials report: those of the confirmation, if there are any."""
    by: dict[str, list[dict[str, Any]]] = {}
    for record in over_time.records_shown(spec, journal):
        if record.rows and (audit := nested(record.rows[-1].metrics, AUDIT)):
            by.setdefault(names.of(record.ask), []).append(audit)
    groups = dict.fromkeys(key for audits in by.values() for audit in audits for key in audit)
    taken = set[str]()
    for group in groups:
        rows = {
            name: _mean([found for audit in audits if (found := breakdown(audit, group))])
            for name, audits in list(by.items())[:MOST_ROWS]
        }
        rows = {name: row for name, row in rows.items() if row}
        if rows and group != "shares":
            caption = f"Percent of the masked positions by {group}; colour: the difference from the first row."
            name = _file("masked", group, taken)
            yield Drawing(name, MASKED, figures.shares(rows, group), caption, wide=True, group=group)


def _masked_over_time(spec: SweepSpec, journal: Journal, names: Names) -> Iterator[Drawing]:
    """How that moved through the runs, by each breakdown that trials report."""
    found, taken = over_time.courses(spec, journal, names), set[str]()
    for group in over_time.groups(found):
        parts = over_time.parts(found, group)
        if not any(len(course) > 1 for course in found.values()) or len(parts) < 2:
            continue
        caption = (
            f"By {over_time.label(group)}, through the run: each strip of a block is an interval between two reports "
            "after the mask warm-up, from left to right, the mean over the seeds. Colour: percentage points above "
            "(violet) or below (orange) the first row's share over its whole run, which stands below the block; grey: "
            f"no masks counted.{over_time.DECILES * (group == 'decile')}"
        )
        figure = figures.courses(found, group, parts)
        yield Drawing(_file("masked-over-time", group, taken), MASKED, figure, caption, wide=True)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    parts = dict.fromkeys(part for row in rows for part in row)
    return {part: fmean(row.get(part, 0.0) for row in rows) for part in parts}


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _file(kind: str, path: str, taken: set[str]) -> str:
    """A name for a figure's files, which no other of this kind has."""
    word = re.sub(r"[^A-Za-z0-9]+", "_", _leaf(path))[:40].strip("_") or "setting"
    name, number = f"{kind}-{word}", 2
    while name in taken:
        name, number = f"{kind}-{word}-{number}", number + 1
    taken.add(name)
    return name
