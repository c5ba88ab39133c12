"""The report's figures as SVG and PDF, for a paper: what Plotly shows, drawn by Matplotlib, which needs no browser.

It reads the figures that figures.py makes, so that page and paper show the same numbers. Names are drawn letter by
letter: no text is read as mathematics or markup.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import plotly.graph_objects as go
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sweeper.report.html.gallery import Drawing

FORMATS = ("svg", "pdf")
WIDTH = 6.3  # inches: the text of a page
INCH, POINT = 100, 0.75  # pixels of a figure's height to an inch; points of a pixel in sizes
_STYLE: dict[Any, Any] = {
    "text.parse_math": False,
    "svg.hashsalt": "sweeper",  # the same figure gives the same bytes
    "pdf.fonttype": 42,
    "font.size": 8,
    "axes.linewidth": 0.6,
    "axes.unicode_minus": False,
}
_SYMBOLS = {"circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P", "star": "*", "x": "X"}
_SYMBOLS |= {"line-ns": "|"}
_DASHES: dict[str, Any] = {"solid": "-", "dash": "--", "dot": ":", "dashdot": "-."}
_DASHES |= {"longdash": (0, (8, 3)), "longdashdot": (0, (8, 3, 1, 3))}
_HEIGHT = 3**0.5 / 2  # of a triangle with sides of 1

Tree = Mapping[str, Any]


def files(drawings: Sequence[Drawing]) -> Iterator[tuple[str, bytes]]:
    """(name, content) of each figure in each format."""
    for drawing in drawings:
        with mpl.rc_context(_STYLE), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of letters that the font lacks
            drawn = draw(drawing.figure)
            if engine := drawn.get_layout_engine():
                engine.execute(drawn)
            drawn.set_layout_engine("none")  # once is enough for both formats
            for kind in FORMATS:
                content, dates = io.BytesIO(), {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
                drawn.savefig(content, format=kind, metadata=dates[kind])
                yield f"{drawing.name}.{kind}", content.getvalue()


def draw(figure: go.Figure) -> Figure:
    """What a figure of figures.py shows: points, lines, bands, bars, a table of colours, or a triangle of shares."""
    tree = figure.to_dict()
    layout: Tree = tree.get("layout", {})
    drawn = Figure(figsize=(WIDTH, max(1.6, layout.get("height", 400) / INCH)), layout="constrained")
    axes = drawn.add_subplot()
    keys: list[tuple[Any, str]] = []
    for trace in tree.get("data", ()):
        kind = trace.get("type", "scatter")
        handle = {"heatmap": _table, "bar": _bars, "scatterternary": _triangle}.get(kind, _scatter)(axes, trace, layout)
        if kind == "scatter" and layout.get("showlegend", True) and trace.get("showlegend", True) and trace.get("name"):
            keys.append((handle, f" {_words(trace['name'])}"))  # a name that begins with _ would be left out
    for shape in layout.get("shapes", ()):
        _shape(axes, shape)
    for note in layout.get("annotations", ()):
        up = {"top": "top", "bottom": "bottom"}.get(note.get("yanchor", ""), "center")
        white = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        axes.text(note["x"], note["y"], _words(note["text"]), ha="center", va=up, fontsize=7, bbox=white)
    if not any(trace.get("type") == "scatterternary" for trace in tree.get("data", ())):
        _axis(axes, "x", layout.get("xaxis", {}))
        _axis(axes, "y", layout.get("yaxis", {}))
        axes.spines[["top", "right"]].set_visible(False)
    if len(keys) > 1 or (keys and "legend" in layout):
        handles, names = zip(*keys, strict=True)
        drawn.legend(handles, names, loc="outside lower center", ncols=min(3, len(keys)), frameon=False)
    return drawn


def _scatter(axes: Axes, trace: Tree, _layout: Tree) -> Any:
    """Points, lines, both, or a filled band; the artist that stands for it in a legend."""
    x, y = ([float("nan") if value is None else value for value in trace[key]] for key in "xy")
    line, mode = trace.get("line", {}), trace.get("mode", "lines")
    if trace.get("fill") == "toself":
        return axes.fill(x, y, color=trace["fillcolor"], alpha=trace.get("opacity", 1), linewidth=0)[0]
    handle = None
    if "lines" in mode:
        step = "steps-post" if line.get("shape") == "hv" else "default"
        style = {"color": line.get("color", "black"), "linewidth": POINT * line.get("width", 2)}
        handle = axes.plot(x, y, linestyle=_DASHES[line.get("dash", "solid")], drawstyle=step, **style)[0]
    if "markers" in mode:
        points = _points(axes, x, y, {"color": line.get("color", "black"), **trace.get("marker", {})})
        handle = handle or points
    return handle


def _points(axes: Axes, x: Sequence[Any], y: Sequence[Any], marker: Tree) -> Any:
    """Marks of one kind or of several; where colours are numbers, with their scale below."""
    symbols, colours = marker.get("symbol", "circle"), marker.get("color", "black")
    symbols = [symbols] * len(x) if isinstance(symbols, str) else list(symbols)
    numbers = not isinstance(colours, str)
    scale = {"cmap": "cividis", "vmin": min(colours), "vmax": max(colours)} if numbers and len(colours) else {}
    handle = None
    for symbol in dict.fromkeys(symbols):
        where = [place for place, one in enumerate(symbols) if one == symbol]
        shown = _SYMBOLS.get(symbol.removesuffix("-open"), "o")
        own = [colours[place] for place in where] if numbers else colours
        hollow = symbol.endswith("-open") and shown != "|"
        paint: dict[str, Any] = {"c": own, **scale} if numbers else {"color": own}
        if hollow:
            paint = {"facecolors": "none", "edgecolors": own}
        elif shown != "|":
            paint |= {"edgecolors": marker.get("line", {}).get("color", "none")}
        width = POINT * marker.get("line", {}).get("width", 1.5 if hollow else 0)
        handle = axes.scatter(
            [x[place] for place in where],
            [y[place] for place in where],
            s=(POINT * marker.get("size", 6)) ** 2,
            marker=shown,
            alpha=marker.get("opacity"),
            linewidths=max(width, 0.4),
            zorder=3,
            clip_on=False,
            **paint,
        )
    if handle is not None and scale:
        _scale(axes, handle, marker)
    return handle


def _scale(axes: Axes, drawn: Any, tree: Tree) -> None:
    """The scale of colours below, if it has a title."""
    title = tree.get("colorbar", {}).get("title", {}).get("text")
    if title and axes.figure is not None:
        bar = axes.figure.colorbar(drawn, ax=axes, orientation="horizontal", shrink=0.7, aspect=40)
        bar.set_label(_words(title))


def _bars(axes: Axes, trace: Tree, _layout: Tree) -> None:
    names = [_words(name) for name in trace["y"]]
    drawn = axes.barh(range(len(names)), trace["x"], color=trace["marker"]["color"])
    axes.set_yticks(range(len(names)), names)
    axes.bar_label(drawn, [_words(text) for text in trace["text"]], padding=2)


def _table(axes: Axes, trace: Tree, layout: Tree) -> None:
    """Numbers on colours, a row for each name, or the colours alone with their scale below; None is a gap."""
    values = [[float("nan") if value is None else value for value in row] for row in trace["z"]]
    scale = LinearSegmentedColormap.from_list("scale", [(place, colour) for place, colour in trace["colorscale"]])
    drawn = axes.imshow(values, cmap=scale, vmin=trace["zmin"], vmax=trace["zmax"], aspect="auto")
    axes.set_facecolor(layout.get("plot_bgcolor", "white"))
    if "tickvals" not in layout.get("xaxis", {}):
        axes.set_xticks(range(len(trace["x"])), [_words(name) for name in trace["x"]])
    axes.set_yticks(range(len(trace["y"])), [_words(name) for name in trace["y"]])
    if trace.get("showscale", True):
        _scale(axes, drawn, trace)
    for row, texts in enumerate(trace["text"] if "texttemplate" in trace else ()):
        for column, text in enumerate(texts):
            strong = abs(values[row][column]) > 0.85 * trace["zmax"]
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if strong else "black")


def _triangle(axes: Axes, trace: Tree, layout: Tree) -> None:
    """Shares of three parts between their minima: the first at the top, the second at the left."""
    parts = [layout["ternary"][f"{letter}axis"] for letter in "abc"]
    least = [part.get("min", 0) for part in parts]
    room = 100 - sum(least)
    shares = [[(value - low) / room for value in trace[letter]] for letter, low in zip("abc", least, strict=True)]
    axes.plot([0, 1, 0.5, 0], [0, 0, _HEIGHT, 0], color="black", linewidth=0.8)
    for fraction in (0.2, 0.4, 0.6, 0.8):
        for ends in _grid(fraction):
            axes.plot(*zip(*map(_flat, ends), strict=True), color="#dddddd", linewidth=0.6, zorder=0)
    places = ((1, 0, 0), (0, 1, 0), (0, 0, 1))
    for part, low, place, at in zip(parts, least, places, ("bottom", "top", "top"), strict=True):
        words = f"{_words(part['title']['text'])}\n{low + room:g}, opposite side {low:g}"
        axes.annotate(words, _flat(place), ha="center", va=at, xytext=(0, 5 if at == "bottom" else -5),
                      textcoords="offset points")  # fmt: skip
    flat = [_flat(point) for point in zip(*shares, strict=True)]
    _points(axes, [x for x, _ in flat], [y for _, y in flat], trace["marker"])
    axes.set_aspect("equal")
    axes.set_axis_off()
    axes.set_xlim(-0.25, 1.25)
    axes.set_ylim(-0.15, 1.0)


def _grid(fraction: float) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """The lines on which one of three shares is a fraction."""
    rest = 1 - fraction
    yield (fraction, rest, 0), (fraction, 0, rest)
    yield (rest, fraction, 0), (0, fraction, rest)
    yield (rest, 0, fraction), (0, rest, fraction)


def _flat(point: Sequence[float]) -> tuple[float, float]:
    """Where three shares lie in a triangle of side 1."""
    first, _, third = point
    return third + first / 2, first * _HEIGHT


def _shape(axes: Axes, shape: Tree) -> None:
    """A band or a line over the whole of an axis."""
    line = shape.get("line", {})
    style = {"color": line.get("color", "black"), "linewidth": POINT * line.get("width", 1), "zorder": 1}
    if shape["type"] == "rect":
        axes.axvspan(shape["x0"], shape["x1"], color=shape["fillcolor"], alpha=shape.get("opacity", 1), linewidth=0)
    elif shape.get("xref", "").endswith("domain"):
        axes.axhline(shape["y0"], **style)
    else:
        axes.axvline(shape["x0"], **style)


def _axis(axes: Axes, which: str, axis: Tree) -> None:
    shown = axes.xaxis if which == "x" else axes.yaxis
    title = axis.get("title", {}).get("text")
    if title:
        shown.set_label_text(_words(title))
    if axis.get("type") == "log":
        (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    limits = axis.get("range")
    if axis.get("tickvals") is not None:
        low, high = shown.get_view_interval()
        kept = [
            (value, _words(text))
            for value, text in zip(axis["tickvals"], axis["ticktext"], strict=True)
            if axis.get("type") != "log" or low <= value <= high
        ]
        shown.set_ticks([value for value, _ in kept], [text for _, text in kept])
        if axis.get("type") == "log":
            shown.set_ticks([], minor=True)
            limits = limits or None
    if axis.get("showticklabels") is False:
        shown.set_ticks([])
    elif axis.get("showgrid", True):
        shown.grid(visible=True, color=axis.get("gridcolor", "#e4e4e4"), linewidth=0.6)
        axes.set_axisbelow(True)
    if limits is not None:
        (axes.set_xlim if which == "x" else axes.set_ylim)(*limits)


def _words(text: str) -> str:
    """A text of Plotly's as it is read: its few tags and entities undone."""
    lines = re.sub(r"<br>", "\n", str(text))
    return html.unescape(re.sub(r"</?b>", "", lines))
