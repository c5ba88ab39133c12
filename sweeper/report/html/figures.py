"""The report's figures, by Plotly, readable in print and in shades of grey.

Colours are those of Okabe & Ito (2008); each line also has its own dashes and each point its own mark. The scale for
losses is Cividis, that for differences runs from orange to blue. All are vectors: no WebGL.

Plotly reads every text as simple HTML with links, and fills in `%{...}`: names go through `as_text`, `short` or
`last`.
"""

from __future__ import annotations

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import plotly.graph_objects as go

from sweeper.journal.names import Names
from sweeper.report.over_time import Course, label
from sweeper.report.pareto import Trade
from sweeper.report.tables import Verdict, interval, nats
from sweeper.spec.objectives import maximised
from sweeper.system.files import one_line

BLACK, GREY = "#000000", "#9a9a9a"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKS = ("circle", "square", "diamond", "triangle-up", "cross", "star")
_OF_VERDICT = {
    "confirmed": ("#009E73", "diamond"),
    "worse": ("#D55E00", "x"),
    "no worthwhile difference": ("#0072B2", "square"),
    "inconclusive": (BLACK, "circle-open"),
    "dropped": (GREY, "line-ns-open"),
}
_AWAY = [[0, "#B35806"], [0.25, "#FDB863"], [0.5, "#ffffff"], [0.75, "#B2ABD2"], [1, "#542788"]]  # from a row
_NOTHING = "#e4e4e4"  # where a table of colours has no number
_LABEL, _LEGEND = 26, 40  # characters of a line
UNDER = {"yref": "container", "yanchor": "bottom", "y": 0}
BELOW = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0, "x": 0}


@dataclass(frozen=True)
class Group:
    """Curves of one arm, or of the unnamed trials of a search: by run, (step, value)."""

    name: str
    runs: Sequence[Sequence[tuple[int, float]]]
    thin: bool = False
    baseline: bool = False


def forest(comparisons: Sequence[Verdict], verdict: Verdict, names: Names | None = None) -> go.Figure:
    """Mean paired differences with their intervals, and every seed's difference as a dot below.

    names: of the configurations, in place of what the verdict calls them.
    """
    figure = go.Figure()
    documents = verdict.get("documents", {})
    plain = not any(one["interval"] for one in comparisons)
    labels = []
    for row, one in enumerate(comparisons):
        colour, symbol = _OF_VERDICT.get(one["verdict"], (BLACK, "circle"))
        label = verdict.get("told", {}).get(one["arm"], one["verdict"])
        verdict_text = as_text(label).replace("worthwhile ", "worthwhile<br>")
        name = names.name(one["arm"]) if names else one["arm"]
        labels.append(f"{wrapped(name)}<br><b>{verdict_text}</b>" if label else wrapped(name))
        whole = names.label(one["arm"]) if names else one["arm"]
        differences = one["differences"]
        spread = [row if plain else row + 0.18 + 0.16 * (i % 2) for i in range(len(differences))]
        figure.add_scatter(
            x=differences,
            y=spread,
            mode="markers",
            marker={"size": 9 if plain else 6, "color": colour, "opacity": 0.55},
            text=[f"seed {seed}" for seed in one["seeds"]],
            hovertemplate=f"{as_text(whole)}, %{{text}}: %{{x:+.4f}}<extra></extra>",
        )
        if one["interval"] is not None:
            _add_bar(figure, one["interval"], row - 0.04, {"color": colour, "width": 3}, "seeds")
            if bounds := documents.get(one["arm"]):
                _add_bar(figure, bounds, row - 0.24, {"color": colour, "width": 1.5, "dash": "dot"}, "documents")
            figure.add_scatter(
                x=[one["mean"]],
                y=[row - 0.04],
                mode="markers",
                marker={"size": 12, "symbol": symbol, "color": colour, "line": {"width": 2, "color": colour}},
                hovertemplate=f"{as_text(whole)}: {nats(one['mean'])}<extra></extra>",
            )
    if (worthwhile := verdict.get("worthwhile")) is not None:
        figure.add_vrect(x0=-worthwhile, x1=worthwhile, fillcolor=GREY, opacity=0.18, line_width=0, layer="below")
    figure.add_vline(x=0, line={"color": BLACK, "width": 1.5})
    title = f"{as_text(verdict['metric'])} to {short(verdict['baseline'])}, nats<br>← better · worse →"
    least = 26 if plain else 58 if len(comparisons) <= 8 else 46
    height = max([least, *(17 * (label.count("<br>") + 1) + 6 for label in labels)])
    laid_out(figure, 120 + height * len(comparisons), x=title)
    figure.update_yaxes(
        tickvals=list(range(len(comparisons))),
        ticktext=labels,
        range=[len(comparisons) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    drawn = [[*one["differences"], *(one["interval"] or ()), *documents.get(one["arm"], ())] for one in comparisons]
    band = (-worthwhile, worthwhile) if worthwhile else (0.0,)
    figure.update_xaxes(range=_padded([*band, *(value for values in drawn for value in values)], 0.06))
    return figure.update_layout(showlegend=False)


def curves(groups: Sequence[Group], y: str, zero: bool = False) -> go.Figure:
    """Curves by step: thin lines for unnamed runs; for an arm the mean of its runs, with a band from lowest to highest.

    zero: these are differences; the frame fits the arms, and thin lines may leave it.
    """
    figure = go.Figure()
    thin = [group for group in groups if group.thin]
    if thin:
        lines = [run for group in thin for run in group.runs]
        xs = [x for run in lines for x in (*(step for step, _ in run), None)]
        ys = [y for run in lines for y in (*(rounded(value) for _, value in run), None)]
        name = "search trials" if len(thin) > 1 else as_text(thin[0].name)
        figure.add_scatter(x=xs, y=ys, mode="lines", line={"width": 0.8, "color": GREY}, name=name, hoverinfo="skip")
    styled = 0
    for group in (group for group in groups if not group.thin):
        colour, dash, mark = BLACK, "solid", "circle"
        if not group.baseline:
            colour, dash, mark = (part[styled % len(COLOURS)] for part in (COLOURS, DASHES, MARKS))
            styled += 1
        _add_band(figure, group, colour, dash, mark)
    named = [value for group in groups if not group.thin for run in group.runs for _, value in run]
    if zero:
        figure.add_hline(y=0, line={"color": BLACK, "width": 1})
    if zero and named:
        figure.update_yaxes(range=_padded([0.0, *named], 0.3))
    laid_out(figure, 400, x="step", y=as_text(y))
    return figure.update_layout(legend=BELOW)


def pareto(trades: Sequence[Trade], objectives: Sequence[str], number: int) -> go.Figure:
    """The first objective against the one of that number; with two objectives, a line joins the front."""
    figure, joined = go.Figure(), len(objectives) == 2
    ring = {"symbol": "square-open", "size": 17, "color": BLACK, "line": {"width": 2.5}}
    for name, chosen, marker in (
        ("others", [one for one in trades if not one.front], {"symbol": "circle", "size": 7, "color": GREY}),
        ("front", [one for one in trades if one.front], {"symbol": "diamond", "size": 11, "color": COLOURS[1]}),
        ("baseline", [one for one in trades if one.baseline], ring),
    ):
        if chosen:
            figure.add_scatter(
                x=[rounded(one.values[0]) for one in chosen],
                y=[rounded(one.values[number]) for one in chosen],
                mode="lines+markers" if joined and name == "front" else "markers",
                line={"shape": "hv", "color": COLOURS[1], "width": 2},
                marker=marker,
                name=name,
                text=[as_text(one.name) for one in chosen],
                hovertemplate="%{text}<br>%{x:.4f}, %{y:.4f}<extra></extra>",
                cliponaxis=False,
            )
    titles = [f"{as_text(name)}<br>{'more' if maximised(name) else 'less'} is better" for name in objectives]
    return laid_out(figure, 440, x=titles[0], y=titles[number]).update_layout(legend=BELOW)


def shares(rows: Mapping[str, Mapping[str, float]], x: str) -> go.Figure:
    """What was masked, in percent by part: a row for each arm, the baseline first; coloured by difference from it."""
    names, parts = list(rows), list(dict.fromkeys(part for row in rows.values() for part in row))
    values = [[100 * row.get(part, 0.0) for part in parts] for row in rows.values()]
    away = [[value - base for value, base in zip(row, values[0], strict=True)] for row in values]
    most = max((abs(value) for row in away for value in row), default=0) or 1
    figure = go.Figure(
        go.Heatmap(
            z=[[rounded(value) for value in row] for row in away],
            x=[as_text(part) for part in parts],
            y=[wrapped(name) for name in names],
            text=[[f"{value:.1f}" for value in row] for row in values],
            texttemplate="%{text}",
            textfont={"size": 11},
            zmin=-most,
            zmax=most,
            colorscale=_AWAY,
            showscale=False,
            hovertemplate="%{y}, %{x}: %{text} %, %{z:+.2f} to the first row<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    laid_out(figure, 110 + 24 * len(names), x=as_text(x))
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure.update_xaxes(type="category", showgrid=False)


def courses(found: Mapping[str, Course], group: str, parts: Sequence[str]) -> go.Figure:
    """How the shares of a group's parts move: a row for each arm, a block for each part, a strip for each interval.

    Coloured by the difference from the first row's share of the part over its whole run.
    """
    keys = [f"{group}/{part}" for part in parts]
    ends = sorted({one.step for course in found.values() for one in course})
    by_end = [{one.step: one.shares for one in course} for course in found.values()]
    first = next(iter(found.values()))
    masked = sum(one.counted for one in first)
    base = {key: sum(100 * one.shares.get(key, 0.0) * one.counted for one in first) / masked for key in keys}

    def block(row: Mapping[int, Mapping[str, float]], key: str) -> list[float | None]:
        """Percent by interval, and a gap."""
        return [*(100 * row[end].get(key, 0.0) if end in row else None for end in ends), None]

    values = [[(value, base[key]) for key in keys for value in block(row, key)][:-1] for row in by_end]
    away = [[None if value is None else rounded(value - usual) for value, usual in row] for row in values]
    most = max((abs(value) for row in away for value in row if value is not None), default=0) or 1
    strips = [text for part in parts for text in (*(f"{part}, up to step {end:,}" for end in ends), f"{part}, gap")]
    title = {"text": "percentage points", "side": "top"}
    bar = {"title": title, "orientation": "h", "thickness": 12, "len": 1, "nticks": 5, "tickangle": 0}
    figure = go.Figure(
        go.Heatmap(
            z=away,
            x=[as_text(text) for text in strips[:-1]],
            y=[wrapped(name) for name in found],
            text=[["" if value is None else f"{value:.1f}" for value, _ in row] for row in values],
            zmin=-most,
            zmax=most,
            colorscale=_AWAY,
            colorbar=bar | UNDER,
            hoverongaps=False,
            hovertemplate="%{y}<br>%{x}: %{text} %, %{z:+.2f} to the first row's usual<extra></extra>",
            ygap=2,
        )
    )
    laid_out(figure, 210 + 24 * len(found), x=f"{as_text(label(group))}, and the first row's share in %")
    figure.update_layout(plot_bgcolor=_NOTHING)
    figure.update_yaxes(autorange="reversed", showgrid=False)
    width = len(ends) + 1
    middles = [width * place + (len(ends) - 1) / 2 for place in range(len(parts))]
    labels = [f"{short(part, 12)}<br>{base[key]:.1f}" for part, key in zip(parts, keys, strict=True)]
    line = {"type": "line", "yref": "paper", "y0": 0, "y1": 1, "line": {"color": BLACK, "width": 1}}
    gaps = [width * place - 1 for place in range(1, len(parts))]
    figure.update_layout(shapes=[{**line, "x0": gap, "x1": gap} for gap in gaps])
    figure.update_xaxes(type="category", tickvals=middles, ticktext=labels, tickangle=0, tickfont={"size": 11})
    return figure.update_xaxes(ticks="", showgrid=False, showline=False)


def as_text(name: str) -> str:
    """A name that Plotly shows letter by letter, in one line."""
    return html.escape(one_line(name), quote=False).replace("%", "&#37;")


def short(name: str, length: int = _LABEL) -> str:
    """As `as_text`, cut to a label's length."""
    return as_text(name if len(name) <= length else f"{name[: length - 1]}…")


def wrapped(name: str) -> str:
    """As `as_text`, in a few lines of a label's length."""
    lines = textwrap.wrap(one_line(name), _LABEL, max_lines=3, placeholder="…") or [""]
    return "<br>".join(map(as_text, lines))


def last(path: str) -> str:
    """A setting's own name, as `as_text`."""
    return as_text(leaf(path))


def leaf(path: str) -> str:
    return path.rpartition(".")[2]


def _add_bar(figure: go.Figure, bounds: Sequence[float], y: float, line: Mapping[str, Any], what: str) -> None:
    name = f"{interval(bounds)}, {what}"
    figure.add_scatter(x=list(bounds), y=[y, y], mode="lines", line=dict(line), name=name, hoverinfo="name+x")


def _add_band(figure: go.Figure, group: Group, colour: str, dash: str, mark: str) -> None:
    by_step: dict[int, list[float]] = {}
    for run in group.runs:
        for step, value in run:
            by_step.setdefault(step, []).append(value)
    steps = sorted(by_step)
    if len(group.runs) > 1:
        edges = [rounded(max(by_step[s])) for s in steps] + [rounded(min(by_step[s])) for s in reversed(steps)]
        figure.add_scatter(
            x=[*steps, *reversed(steps)],
            y=edges,
            fill="toself",
            fillcolor=colour,
            opacity=0.16,
            line={"width": 0},
            mode="lines",
            hoverinfo="skip",
            showlegend=False,
            legendgroup=as_text(group.name),
        )
    figure.add_scatter(
        x=steps,
        y=[rounded(fmean(by_step[s])) for s in steps],
        mode="lines+markers",
        line={"color": colour, "dash": dash, "width": 2},
        marker={"symbol": mark, "size": 6},
        name=short(group.name, _LEGEND) + (f" ({len(group.runs)})" if len(group.runs) > 1 else ""),
        legendgroup=as_text(group.name),
        hovertemplate=f"{as_text(group.name)}, step %{{x}}: %{{y:.4f}}<extra></extra>",
    )


def _padded(values: Sequence[float], share: float) -> list[float]:
    """A range with room at both ends."""
    low, high = min(values), max(values)
    room = share * (high - low) or 1e-3
    return [low - room, high + room]


def rounded(value: float) -> float:
    """Five digits are more than a figure can show."""
    return float(f"{value:.5g}")


def laid_out(figure: go.Figure, height: int, x: str = "", y: str = "") -> go.Figure:
    figure.update_layout(
        template="none",
        height=height,
        autosize=True,
        font={"family": "system-ui, sans-serif", "size": 13},
        margin={"l": 10, "r": 10, "t": 20, "b": 10},
        paper_bgcolor="white",
        plot_bgcolor="white",
        dragmode=False,
    )
    figure.update_xaxes(title={"text": x, "standoff": 8}, automargin=True, gridcolor="#e4e4e4", zeroline=False)
    return figure.update_yaxes(title={"text": y, "standoff": 8}, automargin=True, gridcolor="#e4e4e4", zeroline=False)
