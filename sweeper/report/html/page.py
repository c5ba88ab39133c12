"""`report.html`: the report with figures, in one file that loads nothing and needs no network.

The words and tables are those of `report.md`. A content policy forbids the page to fetch anything and to run any
script but two fixed ones: Plotly, and the one here that draws the figures from their data.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

import plotly.graph_objects as go
from markdown_it import MarkdownIt
from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from sweeper.journal.budget import Common
from sweeper.journal.journal import AUDIT, Journal, TrialRecord, nested
from sweeper.journal.records import breakdown
from sweeper.report import tables
from sweeper.report.html import figures
from sweeper.report.html.curves import curves_of, gaps_of
from sweeper.report.html.figures import Axis, Point
from sweeper.report.pareto import trades
from sweeper.report.sections import APART, FRONT, JUDGED, Outcome, sections
from sweeper.spec.space import Choice, LogUniform, Simplex
from sweeper.system.files import printable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

FEW_TRIALS = 20
MOST_ROWS = 30  # of a figure
MOST_POINTS = 2000
MOST_LINES = 300  # of a table; results.csv has all

_CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False}
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #111; background: #fff; max-width: 1080px; margin: 0 auto;
  padding: 12px 16px 40px; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4em 0; }
h2 { font-size: 1.2rem; margin: 2em 0 .4em; border-top: 1px solid #bbb; padding-top: .6em; }
.answer { border: 2px solid #111; padding: 2px 16px; margin: 1em 0; }
.answer p:nth-child(-n+2) { font-size: 1.12rem; }
p.note, figcaption { color: #444; font-size: .92rem; max-width: 75ch; }
html { overflow-y: scroll; }
figure { margin: 12px 0; min-width: 0; overflow: auto hidden; }
.plotly-graph-div { width: 100%; }
.wide .plotly-graph-div { min-width: 560px; }
@media (min-width: 900px) { .pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 24px; } }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .84rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td { padding: 3px 8px; border-bottom: 1px solid #ddd; white-space: nowrap; text-align: left; }
th { border-bottom: 2px solid #111; vertical-align: bottom; }
td:last-child { white-space: normal; min-width: 15em; }
pre { background: #f4f4f4; padding: 8px 10px; white-space: pre-wrap; font-size: .84rem; }
code { font-size: .9em; }
summary { cursor: pointer; padding: 4px 0; }
dl { display: grid; grid-template-columns: minmax(8em, max-content) 1fr; gap: 2px 16px; margin: 0; }
dt { color: #444; } dd { margin: 0; }
@media (max-width: 520px) { body { font-size: 15px; padding: 8px 10px 32px; } .answer { padding: 2px 10px; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5em; } }
@page { margin: 14mm; }
@media print { body { font-size: 10pt; max-width: none; padding: 0; } .pair { display: block; }
  figure, tr, .answer { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7pt; } th, td { white-space: normal; padding: 1px 3px; } }
"""
# On paper a figure as wide as the window would be cut off.
_DRAW = """
const figures = () => document.querySelectorAll(".plotly-graph-div");
figures().forEach(figure => {
  const {data, layout, config} = JSON.parse(figure.nextElementSibling.textContent);
  Plotly.newPlot(figure, data, layout, config);
});
addEventListener("beforeprint", () => {
  figures().forEach(figure => Plotly.relayout(figure, {width: 660}));
});
addEventListener("afterprint", () => {
  figures().forEach(figure => Plotly.relayout(figure, {width: null, autosize: true}));
});
"""


@dataclass(frozen=True)
class _Part:
    """A section of the page. folded: closed until clicked, for a table that few will read."""

    title: str
    body: str
    folded: bool = False

    def html(self) -> str:
        title = _plain(self.title)
        if self.folded:
            return f"<details><summary>{title}</summary>{self.body}</details>"
        return f"<section><h2>{title}</h2>{self.body}</section>"


def page(spec: SweepSpec, journal: Journal, outcome: Outcome, importance: Mapping[str, float]) -> str:
    """The text of `report.html`. importance: of the search's settings, by path; empty if unknown."""
    texts = {title: _rendered(text) for title, text in sections(spec, journal, outcome).items()}
    answer = texts.pop("")
    last = {title: texts.pop(title) for title in ("Go on from here", "What ran")}
    parts = list(_parts(spec, journal, importance, texts))
    parts += [_Part(title, text, folded=True) for title, text in texts.items()]
    parts += [_Part("Reproduce and extend", last["Go on from here"]), _Part("What ran", last["What ran"])]
    body = "\n".join(part.html() for part in parts)
    scripts = get_plotlyjs(), _DRAW
    name = _plain(spec.name)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(scripts)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n<script>{scripts[0]}</script>\n</head>\n"
        f'<body>\n<h1>{name}</h1>\n<div class="answer">{answer}</div>\n{body}\n'
        f"<script>{scripts[1]}</script>\n</body>\n</html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    """Forbids fetching anything and running other scripts. Plotly itself writes styles into the page."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    own = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {own}; {rest}"


def _parts(
    spec: SweepSpec, journal: Journal, importance: Mapping[str, float], texts: dict[str, str]
) -> Iterator[_Part]:
    """The sections with figures and those that belong beside them; takes the texts it uses out of `texts`."""
    searched, verdict = journal.stage("search"), journal.verdict()
    points = _points(spec, searched)
    yield from _forest(spec, searched, verdict, texts.pop("Verdicts", ""))
    yield from _pareto(spec, journal, texts.pop(FRONT, ""))
    if judged := texts.pop(JUDGED, ""):
        yield _Part(JUDGED, judged)
    yield from _curves(spec, journal)
    yield from _settings(spec, points, importance)
    yield from _masked(spec, journal, texts)
    if kept := texts.pop("Mask audit", ""):
        yield _Part("Mask budget", f"<p>{_budget(spec, journal)}</p>{_Part('Every trial', kept, folded=True).html()}")
    if apart := texts.pop(APART, ""):
        yield _Part(APART, apart)
    yield _Part("Cost", _listed(tables.cost(spec, journal)))


def _forest(
    spec: SweepSpec, searched: Sequence[TrialRecord], verdict: Mapping[str, Any] | None, table: str
) -> Iterator[_Part]:
    if verdict:
        caption = (
            "Each dot is one seed: candidate minus baseline. The mark is their mean, the thick line its interval over "
            "seeds, the dotted line one over documents alone. Differences in the grey band are not worthwhile."
        )
        if verdict["comparisons"]:
            figure = _figure("forest", figures.forest(verdict["comparisons"], verdict), caption)
            yield _Part("Paired differences", figure + table)
        return
    pairs = _explored(spec, searched)
    if not pairs:
        return
    caption = (
        "Exploration, not a result: one dot is one trial of the search minus the baseline on the same seed. Seeds "
        "alone move a loss as much, and the best of many looks good by luck alone. Differences in the grey band are "
        "not worthwhile."
    )
    row = {"metric": spec.objective, "baseline": spec.baseline, "worthwhile": spec.confirm.worthwhile}
    yield _Part("Paired differences of the search", _figure("forest", figures.forest(pairs[:MOST_ROWS], row), caption))


def _pareto(spec: SweepSpec, journal: Journal, table: str) -> Iterator[_Part]:
    """The first objective against each further one."""
    if not table:
        return
    found = trades(spec, journal)
    shown = [one for place, one in enumerate(found) if place < MOST_POINTS or one.front or one.baseline]
    caption = (
        "A mark is a configuration of the search, diamonds are the front, the open square is the baseline. Search "
        "scores: exploration, not a result."
    )
    body = "".join(
        _figure("pareto", figures.pareto(shown, spec.objectives, number), caption)
        for number in range(1, len(spec.objectives))
    )
    yield _Part(FRONT, body + table)


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


def _curves(spec: SweepSpec, journal: Journal) -> Iterator[_Part]:
    groups = curves_of(spec, journal)
    if not groups:
        return
    both = _figure("curves", figures.curves(groups, spec.objective), "By arm: the mean of its seeds.")
    if gaps := gaps_of(spec, journal):
        caption = "Minus the baseline on the same seed at the same step: the ends of the left figure, magnified."
        both += _figure("gaps", figures.curves(gaps, f"{spec.objective} to baseline", zero=True), caption)
    note = (
        '<p class="note">In brackets the number of seeds; bands reach from the lowest seed to the highest. Thin '
        "lines are single trials of the search, exploration; they may leave the right frame. Trials off budget are "
        "not shown.</p>"
    )
    yield _Part("Learning curves", f'<div class="{"pair" if gaps else ""}">{both}</div>{note}')


def _settings(spec: SweepSpec, points: Sequence[Point], importance: Mapping[str, float]) -> Iterator[_Part]:
    """The settings that the search tried. Needs three trials to show anything."""
    if len(points) < 3 or not spec.space:
        return
    named = " Squares are the spec's own arms. Search scores: exploration, not a result."
    if len(points) == MOST_POINTS:
        named += f" The best {MOST_POINTS:,} trials are shown."
    for path, domain in spec.space.items():
        if isinstance(domain, Simplex) and len(domain.parts) == 3:
            parts = {f"{path}.{part}": low for part, low in zip(domain.parts, domain.minima, strict=True)}
            figure = figures.ternary(points, parts, spec.objective)
            title = f"Mixture: {figures.last(path)}"
            yield _Part(title, _figure("ternary", figure, f"Each mark is a trial; dark is a low loss.{named}"))
    every, decay = (next((path for path in spec.space if path.endswith(end)), None) for end in _MEMORY)
    if every and decay:
        logarithmic = [path for path, domain in spec.space.items() if isinstance(domain, LogUniform)]
        figure = figures.pairwise(points, every, decay, spec.objective, logarithmic)
        text = f"Steps between refreshes, and how much of the past each keeps; dark is a low loss.{named}"
        yield _Part("Memory: update_every × ema_decay", _figure("memory", figure, text))
    if importance:
        caution = f"Caution: only {len(points)} trials, so this is little more than a guess. " * (
            len(points) < FEW_TRIALS
        )
        text = f"{caution}By Optuna (PED-ANOVA, Watanabe et al. 2023): what sets the best trials apart from the rest."
        yield _Part("Importance of the settings", _figure("importance", figures.bars(importance), text))
    axes = dict(_axes(spec))
    if len(axes) > 1:
        text = f"Each line is a trial, by thirds of {spec.objective}. Search scores: exploration, not a result."
        yield _Part("All settings at once", _figure("parallel", figures.parallel(points, axes), text))


_MEMORY = ("update_every", "ema_decay")


def _axes(spec: SweepSpec) -> Iterator[tuple[str, Axis]]:
    for path, domain in spec.space.items():
        if isinstance(domain, Simplex):
            for part, low in zip(domain.parts, domain.minima, strict=True):
                yield f"{path}.{part}", Axis(low, low + domain.free)
        elif isinstance(domain, Choice):
            yield path, Axis(choices=domain.choices)
        else:
            yield path, Axis(domain.low, domain.high, isinstance(domain, LogUniform))


def _points(spec: SweepSpec, searched: Sequence[TrialRecord]) -> list[Point]:
    """The search's completed trials on budget, the best MOST_POINTS of them; the best last, to be drawn on top."""
    common = Common.of(spec, searched)
    points = [
        Point(record.ask.arm or record.id, dict(flat(record.ask.params)), score, record.ask.arm is not None)
        for record in searched
        if record.state == "completed" and common.kept(record) and (score := record.score(spec.objective)) is not None
    ]
    return sorted(points, key=lambda point: -point.loss)[-MOST_POINTS:]


def _masked(spec: SweepSpec, journal: Journal, texts: dict[str, str]) -> Iterator[_Part]:
    """What was masked, by each breakdown that the trials report."""
    by: dict[str, list[dict[str, Any]]] = {}
    for record in _ordered(spec, journal):
        if record.rows and (audit := nested(record.rows[-1].metrics, AUDIT)):
            by.setdefault(record.ask.arm or record.id, []).append(audit)
    groups = dict.fromkeys(key for audits in by.values() for audit in audits for key in audit)
    shown = ""
    for group in groups:
        rows = {
            name: _mean([found for audit in audits if (found := breakdown(audit, group))])
            for name, audits in list(by.items())[:MOST_ROWS]
        }
        rows = {name: row for name, row in rows.items() if row}
        if rows and group != "shares":
            caption = f"Percent of the masked positions by {group}; colour: the difference from the first row."
            shown += _figure("masked wide", figures.shares(rows, group), caption)
            if table := texts.pop(f"Masked by {group} %", ""):
                shown += _Part(f"By {group}, every trial", table, folded=True).html()
    if shown:
        yield _Part("What was masked", shown)


def _budget(spec: SweepSpec, journal: Journal) -> str:
    """A sentence on what the trials on budget have in common."""
    common = Common.of(spec, journal.trials.values())
    ends = [record.rows[-1].metrics for record in journal.trials.values() if record.rows and common.kept(record)]
    rates = [100 * end[f"{AUDIT}rate"] for end in ends if f"{AUDIT}rate" in end]
    text = f"{len(ends)} trials {'are compared whatever their budget' if common.free else 'kept the budget'}"
    if rates:
        low, high = (f"{rate:.3f}" for rate in (min(rates), max(rates)))
        text += f", {low if low == high else f'{low} to {high}'} % of the positions predicted"
    return f"{text}."


def _ordered(spec: SweepSpec, journal: Journal) -> list[TrialRecord]:
    """The baseline's trials first, then the others, the lowest loss first."""
    own = spec.baseline

    def order(record: TrialRecord) -> tuple[bool, float]:
        score = record.score(spec.objective)
        return record.ask.arm != own, float("inf") if score is None else score

    return sorted(journal.trials.values(), key=order)


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    parts = dict.fromkeys(part for row in rows for part in row)
    return {part: fmean(row.get(part, 0.0) for row in rows) for part in parts}


def _figure(kind: str, figure: go.Figure, caption: str) -> str:
    """A place to draw in, and its data, in which `<` is escaped. kind: CSS classes, never from a record."""
    data = str(to_json_plotly({**figure.to_plotly_json(), "config": _CONFIG})).replace("<", "\\u003c")
    drawn = f'<div class="plotly-graph-div"></div><script type="application/json">{data}</script>'
    return f'<figure class="{kind}">{drawn}<figcaption>{_plain(caption)}</figcaption></figure>'


def _listed(facts: Mapping[str, str]) -> str:
    return f"<dl>{''.join(f'<dt>{_plain(key)}</dt><dd>{_plain(text)}</dd>' for key, text in facts.items())}</dl>"


def _plain(text: str) -> str:
    """Text that HTML shows letter by letter."""
    return html.escape(printable(text))


def _rendered(text: str) -> str:
    """Markdown as HTML; long tables are cut, pictures and raw HTML stay text."""
    lines = text.splitlines()
    if len(lines) > MOST_LINES:
        lines = [*lines[:MOST_LINES], "", f"{len(lines) - MOST_LINES} more lines are in results.csv."]
    shown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image").render("\n".join(lines))
    return shown.replace("<table>", '<div class="scroll"><table>').replace("</table>", "</table></div>")
