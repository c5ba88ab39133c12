"""Which configurations no other beats, against the obvious way to find out, and how the report shows them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from sweeper.journal.journal import Journal
from sweeper.journal.records import describe
from sweeper.report import pareto
from sweeper.report.html import figures
from sweeper.report.pareto import front, trades
from sweeper.spec.spec import SweepSpec
from tests.sweeper.samples import ask, end, report, session, toy_spec
from tests.sweeper.spec.test_objectives import BOTH, TASKS

# Loss and accuracy by x; the baseline, of two seeds, is beaten by x = 0.3.
POINTS = {0.1: (1.30, 0.5), 0.3: (1.00, 0.7), 0.5: (1.05, 0.9), 0.6: (1.40, 0.9), 0.7: (1.20, 0.95)}


@pytest.fixture
def spec() -> SweepSpec:
    arms = {"baseline": {"x": 0.2}, **{f"x{10 * x:.0f}": {"x": x} for x in POINTS}}
    return toy_spec(
        objective=BOTH, evaluate=TASKS, arms=arms, space={}, search={"method": "arms"}, seeds={"search": [0, 1]}
    )


def written(folder: Path, spec: SweepSpec) -> Journal:
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    first = session()
    journal.append(type(first)(**{**vars(first), "facts": {"scores": ["toy/accuracy"]}}))
    values = {"baseline": (1.1, 0.6), **{f"x{10 * x:.0f}": value for x, value in POINTS.items()}}
    for number, (seed, (arm, (loss, accuracy))) in enumerate(itertools.product((0, 1), values.items())):
        asked = ask(spec, number, number, arm)
        journal.append(type(asked)(**{**vars(asked), "seed": seed}))
        away = 0.01 if seed else -0.01
        scores = {"toy/accuracy": accuracy - away, "toy/untrained": 0.5, "toy/ties": 0.0}
        if (arm, seed) != ("x6", 1):
            journal.append(report(number, 10, loss + 1, number))
            journal.append(report(number, 20, loss + away, number, scores))
        journal.append(end(number, "failed" if (arm, seed) == ("x6", 1) else "completed", number + 1))
    return journal


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_front_is_what_comparing_all_with_all_leaves(dimensions: int) -> None:
    chance = random.Random(dimensions)
    for _ in range(50):
        points = [tuple(float(chance.randrange(6)) for _ in range(dimensions)) for _ in range(chance.randrange(1, 30))]
        expected = {
            i
            for i, ours in enumerate(points)
            if not any(
                all(a <= b for a, b in zip(theirs, ours, strict=True))
                and any(a < b for a, b in zip(theirs, ours, strict=True))
                for theirs in points
            )
        }
        assert front(points) == expected


def test_trials_of_a_configuration_count_as_one_and_a_score_is_to_be_high(tmp_path: Path, spec: SweepSpec) -> None:
    found = {one.name: one for one in trades(spec, written(tmp_path, spec))}
    assert [name for name, one in found.items() if one.front] == ["x3", "x5", "x7"]
    assert [name for name, one in found.items() if one.baseline] == ["baseline"]
    assert found["baseline"].values == pytest.approx((1.1, 0.6))
    assert {name: one.seeds for name, one in found.items()} == dict.fromkeys(found, 2) | {"x6": 1}


def test_the_report_lists_the_front_and_says_where_the_baseline_lies(tmp_path: Path, spec: SweepSpec) -> None:
    text = pareto.section(spec, written(tmp_path, spec), describe)
    assert "3 of 6 configurations are on the front (val/loss less, toy/accuracy more is better)" in text
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["trial", "what", "n", *BOTH, "note"]
    assert rows[2:] == [
        ["x3", "x3", "2", "1.0000", "0.7000", "-"],
        ["x5", "x5", "2", "1.0500", "0.9000", "-"],
        ["baseline", "baseline", "2", "1.1000", "0.6000", "baseline, not on the front"],
        ["x7", "x7", "2", "1.2000", "0.9500", "-"],
    ]
    assert pareto.section(toy_spec(), Journal(tmp_path / "journal.jsonl", read_only=True), describe) == ""
    assert pareto.section(spec, Journal(tmp_path / "none"), describe) == ""


def test_the_figure_joins_the_front_of_two_objectives_and_marks_the_baseline(tmp_path: Path, spec: SweepSpec) -> None:
    found = trades(spec, written(tmp_path, spec))
    others, best, ring = figures.pareto(found, BOTH, 1).to_dict()["data"]
    assert (list(best["x"]), list(best["y"])) == ([1.0, 1.05, 1.2], [0.7, 0.9, 0.95])
    assert (best["mode"], best["line"]["shape"]) == ("lines+markers", "hv")
    assert sorted(others["x"]) == [1.1, 1.3, 1.39]
    assert (list(ring["x"]), ring["mode"]) == ([1.1], "markers")
    assert len({(one["marker"]["symbol"], one["marker"]["color"]) for one in (others, best, ring)}) == 3
    layout = figures.pareto(found, BOTH, 1).to_dict()["layout"]
    assert layout["xaxis"]["title"]["text"] == "val/loss<br>less is better"
    assert layout["yaxis"]["title"]["text"] == "toy/accuracy<br>more is better"
    three = [*BOTH, "val/loss_mask"]
    assert {one["mode"] for one in figures.pareto(found, three, 1).to_dict()["data"]} == {"markers"}
