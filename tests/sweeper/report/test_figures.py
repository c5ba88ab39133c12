"""Figures are what Plotly accepts, hold the numbers they are given, and tell arms apart without colour."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.report.html import figures, setting_figures
from sweeper.report.html.figures import Group
from sweeper.report.html.setting_figures import Axis, Point

TOLD = {"metric": "test/loss", "baseline": "b", "worthwhile": 0.01, "told": {"a": "confirmed"}}
COMPARISON = {
    "arm": "a",
    "verdict": "confirmed",
    "seeds": [1, 2, 3],
    "differences": [-0.03, -0.02, -0.01],
    "mean": -0.02,
    "interval": [-0.045, 0.005],
}


def traces(figure: Any) -> list[dict[str, Any]]:
    return figure.to_dict()["data"]


def test_every_seed_is_a_dot() -> None:
    figure = figures.forest([COMPARISON], {**TOLD, "documents": {"a": [-0.06, -0.01]}})
    dots, seeds, documents, mean = traces(figure)
    assert list(dots["x"]) == COMPARISON["differences"]
    assert list(dots["text"]) == ["seed 1", "seed 2", "seed 3"]
    assert (seeds["x"], documents["x"], mean["x"]) == ([-0.045, 0.005], [-0.06, -0.01], [-0.02])
    layout = figure.to_dict()["layout"]
    assert [(shape["x0"], shape["x1"]) for shape in layout["shapes"]] == [(-0.01, 0.01), (0, 0)]
    assert layout["yaxis"]["ticktext"] == ["a<br><b>confirmed</b>"]
    low, high = layout["xaxis"]["range"]
    assert low < -0.06
    assert high > 0.01


def test_too_few_pairs_for_an_interval_are_dots_alone() -> None:
    lone = {**COMPARISON, "seeds": [1], "differences": [0.5], "mean": 0.5, "interval": None}
    assert len(traces(figures.forest([lone], TOLD))) == 1


def test_a_band_reaches_from_the_lowest_seed_to_the_highest() -> None:
    runs = [[(1, 2.0), (2, 1.0)], [(1, 4.0), (2, 3.0)]]
    band, line = traces(figures.curves([Group("a", runs)], "val/loss"))
    assert list(band["y"]) == [4.0, 3.0, 1.0, 2.0]
    assert (list(line["y"]), line["name"]) == ([3.0, 2.0], "a (2)")


def test_lines_differ_in_more_than_their_colour() -> None:
    groups = [Group(f"a{i}", [[(1, float(i))]]) for i in range(len(figures.COLOURS))]
    lines = traces(figures.curves([Group("b", [[(1, 0.0)]], baseline=True), *groups], "val/loss"))
    assert len({line["line"]["color"] for line in lines}) == len(lines)
    assert len({(line["line"]["dash"], line["marker"]["symbol"]) for line in lines[1:]}) == len(groups)


def test_thin_lines_do_not_join() -> None:
    (thin,) = traces(figures.curves([Group("s", [[(1, 2.0), (2, 1.0)], [(1, 3.0)]], thin=True)], "val/loss"))
    assert list(thin["x"]) == [1, 2, None, 1, None]


def test_a_mixture_lies_between_its_minima() -> None:
    points = [
        Point("t1", {"s.r": 0.8, "s.t": 0.15, "s.g": 0.05}, 1.5, False),
        Point("b", {"s.r": 1, "s.t": 0, "s.g": 0}, 2, True),
    ]
    figure = setting_figures.ternary(points, {"s.r": 0.5, "s.t": 0.0, "s.g": 0.0}, "val/loss")
    (trace,) = traces(figure)
    assert (list(trace["a"]), list(trace["marker"]["color"])) == ([80.0, 100], [1.5, 2.0])
    assert list(trace["marker"]["symbol"]) == ["circle", "square"]
    assert figure.to_dict()["layout"]["ternary"]["aaxis"]["min"] == 50


@pytest.mark.parametrize(
    ("axis", "value", "position"),
    [
        (Axis(0, 10), 5, 0.5),
        (Axis(1, 100, True), 10, 0.5),
        (Axis(choices=("a", "b", "c")), "b", 0.5),
        (Axis(choices=("a", "b", "c")), "z", None),
        (Axis(choices=(True,)), True, 0.0),
        (Axis(0, 10), None, None),
    ],
)
def test_where_a_value_lies_on_its_axis(axis: Axis, value: Any, position: float | None) -> None:
    assert axis.position(value) == position


def test_the_best_trial_is_drawn_last() -> None:
    points = [Point(f"t{i}", {"x": i / 10, "y": i / 10}, 1 + i, False) for i in range(7)]
    lines = traces(setting_figures.parallel(points, {"x": Axis(), "y": Axis()}))
    assert lines[-1]["name"] == "best: t0"
    assert list(lines[-1]["y"]) == [0, 0, None]
    assert [len(list(line["x"])) // 3 for line in lines] == [1, 3, 3, 1]


def test_shares_are_compared_with_the_first_row() -> None:
    (trace,) = traces(figures.shares({"b": {"x": 0.5, "y": 0.5}, "a": {"x": 0.75}}, "kind"))
    assert [list(row) for row in trace["z"]] == [[0, 0], [25, -50]]
    assert [list(row) for row in trace["text"]] == [["50.0", "50.0"], ["75.0", "0.0"]]
    assert (trace["zmin"], trace["zmax"]) == (-50, 50)
