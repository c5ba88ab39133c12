"""The report's figures of what a search tried: its settings, by Plotly, as in figures.py."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from sweeper.report.html.figures import (
    BELOW,
    BLACK,
    COLOURS,
    GREY,
    UNDER,
    as_text,
    laid_out,
    last,
    leaf,
    rounded,
    short,
)


@dataclass(frozen=True)
class Point:
    """A trial's settings and loss. values: setting -> number or text."""

    name: str
    values: Mapping[str, Any]
    loss: float
    arm: bool


@dataclass(frozen=True)
class Axis:
    """A setting's range: two bounds, or choices from the bottom up."""

    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False
    choices: tuple[Any, ...] = ()

    def position(self, value: Any) -> float | None:
        """A value's place between 0 and 1; None if the axis does not have it."""
        if self.choices:
            return self.choices.index(value) / max(1, len(self.choices) - 1) if value in self.choices else None
        if not isinstance(value, int | float):
            return None
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return rounded((at - low) / (high - low))

    def marks(self) -> list[tuple[float, str]]:
        """(position, label) of each choice, or of both bounds."""
        if self.choices:
            return [(self.position(choice) or 0.0, short(str(choice), 14)) for choice in self.choices]
        return [(0.0, f"{self.low:.4g}"), (1.0, f"{self.high:.4g}")]


def ternary(points: Sequence[Point], parts: Mapping[str, float], objective: str) -> go.Figure:
    """Shares of three parts, each axis from its minimum, coloured by loss; squares are the named arms."""
    a, b, c = parts
    shares = ", ".join(f"{last(part)} %{{{axis}:.1f}} %" for axis, part in zip("abc", parts, strict=True))
    figure = go.Figure(
        go.Scatterternary(
            a=[100 * point.values[a] for point in points],
            b=[100 * point.values[b] for point in points],
            c=[100 * point.values[c] for point in points],
            mode="markers",
            marker=_by_loss(points, objective),
            text=[f"{as_text(point.name)}: {point.loss:.4f}" for point in points],
            hovertemplate=f"%{{text}}<br>{shares}<extra></extra>",
            cliponaxis=False,
        )
    )
    axes = {
        f"{axis}axis": {
            "title": {"text": f"{last(name)} %"},
            "min": 100 * parts[name],
            "nticks": 6,
            "gridcolor": "#dddddd",
        }
        for axis, name in zip("abc", parts, strict=True)
    }
    laid_out(figure, 480)
    return figure.update_layout(ternary={"sum": 100, **axes}, margin={"l": 64, "r": 76, "t": 50, "b": 110})


def pairwise(points: Sequence[Point], x: str, y: str, objective: str, logarithmic: Iterable[str] = ()) -> go.Figure:
    """Two settings against each other, coloured by loss; squares are the named arms."""
    figure = go.Figure()
    figure.add_scatter(
        x=[point.values[x] for point in points],
        y=[point.values[y] for point in points],
        mode="markers",
        marker=_by_loss(points, objective),
        text=[f"{as_text(point.name)}: {point.loss:.4f}" for point in points],
        hovertemplate=f"%{{text}}<br>{last(x)} %{{x}}, {last(y)} %{{y:.3g}}<extra></extra>",
        cliponaxis=False,
    )
    laid_out(figure, 440, x=last(x), y=last(y))
    if x in logarithmic:
        _log(figure)
    return figure.update_layout(margin={"b": 120})


def factor(points: Sequence[Point], path: str, objective: str, *, logarithmic: bool = False) -> go.Figure:
    """The loss over one numeric setting: a mark for each trial, squares for the spec's own arms."""
    shown = [point for point in points if isinstance(point.values.get(path), int | float)]
    figure = go.Figure()
    figure.add_scatter(
        x=[point.values[path] for point in shown],
        y=[rounded(point.loss) for point in shown],
        mode="markers",
        marker={
            "size": 9,
            "symbol": ["square" if point.arm else "circle" for point in shown],
            "color": COLOURS[0],
            "opacity": 0.7,
            "line": {"width": 1, "color": BLACK},
        },
        text=[as_text(point.name) for point in shown],
        hovertemplate=f"%{{text}}<br>{last(path)} %{{x}}: %{{y:.4f}}<extra></extra>",
        cliponaxis=False,
    )
    laid_out(figure, 320, x=last(path), y=as_text(objective))
    return _log(figure) if logarithmic else figure


def _log(figure: go.Figure) -> go.Figure:
    ticks = [digit * 10**power for power in range(-9, 9) for digit in (1, 2, 5)]
    return figure.update_xaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])


def bars(values: Mapping[str, float]) -> go.Figure:
    """Importance by setting, the largest first."""
    ordered = sorted(values.items(), key=lambda item: item[1])
    figure = go.Figure(
        go.Bar(
            x=[value for _, value in ordered],
            y=[short(leaf(name)) for name, _ in ordered],
            orientation="h",
            marker={"color": COLOURS[0]},
            text=[f"{value:.2f}" for _, value in ordered],
            textposition="auto",
            hoverinfo="skip",
        )
    )
    return laid_out(figure, 110 + 36 * len(ordered), x="share of the importance")


def parallel(points: Sequence[Point], axes: Mapping[str, Axis]) -> go.Figure:
    """A line for each trial over all settings, each between its bounds; the best third and the best trial stand out."""
    figure = go.Figure()
    ranked = sorted(points, key=lambda point: point.loss)
    third = math.ceil(len(ranked) / 3)
    styles = [
        ("worst third", ranked[2 * third :], "#c0c0c0", 1, "solid"),
        ("middle third", ranked[third : 2 * third], COLOURS[5], 1.5, "dot"),
        ("best third", ranked[:third], COLOURS[0], 2, "solid"),
        (f"best: {short(ranked[0].name, 40)}", ranked[:1], COLOURS[1], 4, "solid"),
    ]
    names = list(axes)
    for name, chosen, colour, width, dash in styles:
        xs: list[int | None] = []
        ys: list[float | None] = []
        for point in chosen:
            xs += [*range(len(names)), None]
            ys += [*(axes[axis].position(point.values.get(axis)) for axis in names), None]
        line = {"color": colour, "width": width, "dash": dash}
        figure.add_scatter(x=xs, y=ys, mode="lines", line=line, name=name, hoverinfo="skip")
    laid_out(figure, 420)
    labels = [short(leaf(name), 14).replace("_", "<br>") for name in names]
    figure.update_xaxes(tickvals=list(range(len(names))), ticktext=labels, gridcolor=GREY)
    figure.update_xaxes(range=[-0.35, len(names) - 0.65])
    figure.update_yaxes(range=[-0.08, 1.08], showticklabels=False, showgrid=False)
    for i, axis in enumerate(axes.values()):
        for height, text in axis.marks():
            figure.add_annotation(
                x=i, y=height, text=text, showarrow=False, yanchor=_anchor(height), bgcolor="rgba(255,255,255,0.8)"
            )
    return figure.update_layout(legend=BELOW)


def _by_loss(points: Sequence[Point], objective: str) -> dict[str, Any]:
    return {
        "size": 12,
        "symbol": ["square" if point.arm else "circle" for point in points],
        "color": [rounded(point.loss) for point in points],
        "colorscale": "Cividis",
        "line": {"width": 1, "color": BLACK},
        "colorbar": {
            "title": {"text": as_text(objective)},
            "orientation": "h",
            "thickness": 12,
            "len": 0.8,
            "nticks": 4,
        }
        | UNDER,
    }


def _anchor(height: float) -> str:
    return "top" if height <= 0 else "bottom" if height >= 1 else "middle"
