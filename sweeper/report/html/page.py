"""`report.html`: the report with figures, in one file that loads nothing and needs no network.

The words and tables are those of `report.md`. A content policy forbids the page to fetch anything and to run any
script but two fixed ones: the one here, which unpacks Plotly and draws the figures from their data, and Plotly.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from plotly.io.json import to_json_plotly

from sweeper.journal.budget import Common
from sweeper.journal.journal import AUDIT, Journal
from sweeper.report import over_time, tables
from sweeper.report.html import library
from sweeper.report.html.gallery import CURVES, DIFFERENCES, FACTORS, MASKED, Drawing, gallery
from sweeper.report.sections import APART, FRONT, JUDGED, METHODS, SETUP, Outcome, sections
from sweeper.system.files import printable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

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
figure button { float: right; font: inherit; font-size: .84rem; margin-left: 12px; padding: 1px 8px; cursor: pointer; }
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
@media print { figure button { display: none; } .pair { display: block; }
  body { font-size: 10pt; max-width: none; padding: 0; }
  figure, tr, .answer { break-inside: avoid; } h2 { break-after: avoid; } .scroll { overflow: visible; }
  table { font-size: 7pt; } th, td { white-space: normal; padding: 1px 3px; } }
"""
# On paper a figure as wide as the window would be cut off.
_DRAW = """
const figures = () => document.querySelectorAll(".plotly-graph-div");
const library = async () => {
  const packed = atob(JSON.parse(document.querySelector("script.library").textContent));
  const bytes = Uint8Array.from(packed, letter => letter.charCodeAt(0));
  const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(plain).text();
  document.head.append(script);
};
const draw = figure => {
  const {data, layout, config, name} = JSON.parse(figure.nextElementSibling.textContent);
  Plotly.newPlot(figure, data, layout, config);
  figure.parentElement.querySelector("button").addEventListener("click", () => {
    Plotly.downloadImage(figure, {format: "svg", filename: name, width: figure.clientWidth, height: layout.height});
  });
};
library().then(() => figures().forEach(draw)).catch(error => figures().forEach(figure => {
  if (!figure.childElementCount) {
    figure.textContent = `This browser cannot draw the figure (${error}); the folder figures/ has it as SVG and PDF.`;
  }
}));
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
    last = {title: texts.pop(title) for title in (SETUP, METHODS, "Go on from here", "What ran")}
    parts = list(_parts(spec, journal, gallery(spec, journal, importance), texts))
    parts += [_Part(title, text, folded=True) for title, text in texts.items()]
    parts += [_Part(SETUP, last[SETUP]), _Part(METHODS, last[METHODS])]
    parts += [_Part("Reproduce and extend", last["Go on from here"]), _Part("What ran", last["What ran"])]
    body = "\n".join(part.html() for part in parts)
    name = _plain(spec.name)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy((_DRAW, library.source()))}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{name}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f'<body>\n<h1>{name}</h1>\n<div class="answer">{answer}</div>\n{body}\n'
        f'<script class="library" type="application/json">"{library.as_text()}"</script>\n'
        f"<script>{_DRAW}</script>\n</body>\n</html>\n"
    )


def _policy(scripts: Sequence[str]) -> str:
    """Forbids fetching anything and running other scripts. Plotly itself writes styles into the page."""
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    own = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {own}; {rest}"


def _parts(spec: SweepSpec, journal: Journal, drawings: Sequence[Drawing], texts: dict[str, str]) -> Iterator[_Part]:
    """The sections with figures and those that belong beside them; takes the texts it uses out of `texts`."""
    by_title: dict[str, list[Drawing]] = {}
    for drawing in drawings:
        by_title.setdefault(drawing.title, []).append(drawing)
    beside = {DIFFERENCES: texts.pop("Verdicts", ""), FRONT: texts.pop(FRONT, "")}
    judged = texts.pop(JUDGED, "")
    for title, found in by_title.items():
        if judged and title == CURVES:
            yield _Part(JUDGED, judged)
            judged = ""
        if title == CURVES:
            yield _Part(title, _curves(found))
        elif title == FACTORS:
            yield _Part(title, _side_by_side(found))
        elif title == MASKED:
            course = _folded("Over time, first and last interval", texts.pop(over_time.TITLE, ""))
            yield _Part(title, "".join(_masked(one, texts) for one in found) + course)
        else:
            yield _Part(title, "".join(map(_figure, found)) + beside.pop(title, ""))
    yield from (_Part(title, text) for title, text in ((JUDGED, judged), *beside.items()) if text)
    if kept := texts.pop("Mask audit", ""):
        yield _Part("Mask budget", f"<p>{_budget(spec, journal)}</p>{_Part('Every trial', kept, folded=True).html()}")
    if apart := texts.pop(APART, ""):
        yield _Part(APART, apart)
    yield _Part("Cost", _listed(tables.cost(spec, journal)))


def _curves(drawings: Sequence[Drawing]) -> str:
    note = (
        '<p class="note">In brackets the number of seeds; bands reach from the lowest seed to the highest. Thin '
        "lines are single trials; they may leave the frame of differences. Trials off budget are not shown, nor are "
        "trials of the search beside a confirmation.</p>"
    )
    return _side_by_side(drawings) + note


def _side_by_side(drawings: Sequence[Drawing]) -> str:
    return f'<div class="{"pair" * (len(drawings) > 1)}">{"".join(map(_figure, drawings))}</div>'


def _masked(drawing: Drawing, texts: dict[str, str]) -> str:
    table = texts.pop(f"Masked by {drawing.group} %", "")
    return _figure(drawing) + _folded(f"By {drawing.group}, every trial", table)


def _folded(title: str, table: str) -> str:
    return _Part(title, table, folded=True).html() if table else ""


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


def _figure(drawing: Drawing) -> str:
    """A place to draw in, and its data, in which `<` is escaped; a button saves what is drawn as SVG."""
    tree = {**drawing.figure.to_plotly_json(), "config": _CONFIG, "name": drawing.name}
    data = str(to_json_plotly(tree)).replace("<", "\\u003c")
    drawn = f'<div class="plotly-graph-div"></div><script type="application/json">{data}</script>'
    save = '<button type="button">Download SVG</button>'
    kind = f"{drawing.name.partition('-')[0]}{' wide' * drawing.wide}"
    return f'<figure class="{kind}">{drawn}{save}<figcaption>{_plain(drawing.caption)}</figcaption></figure>'


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
