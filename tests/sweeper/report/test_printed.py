"""Figures are drawn without a browser, as SVG and PDF with what Plotly shows, and names stay text."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from sweeper.journal.journal import Journal
from sweeper.report import printed, write
from sweeper.report.html import figures, setting_figures
from sweeper.report.html.figures import Group
from sweeper.report.html.gallery import FACTORS, Drawing, gallery
from sweeper.report.html.setting_figures import Point
from sweeper.report.sections import Outcome
from sweeper.spec.spec import SweepSpec
from tests.sweeper import confirmed, samples
from tests.sweeper.samples import end, report


@pytest.fixture(scope="module")
def won(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepSpec, Journal]:
    spec = confirmed.spec(trials=8)
    return spec, confirmed.written(tmp_path_factory.mktemp("won"), spec, {"t0005": -0.012, "published": 0.02})


def test_each_figure_is_drawn_with_the_numbers_of_the_page(won: tuple[SweepSpec, Journal]) -> None:
    drawn = {one.name: printed.draw(one.figure) for one in gallery(*won, {"x": 0.6, "y": 0.4})}
    assert list(drawn) == [
        "forest",
        "curves",
        "gaps",
        "mixture-shares",
        "loss-x",
        "loss-y",
        "loss-random",
        "loss-token",
        "loss-trigram",
        "importance",
        "parallel",
        "masked-decile",
        "masked-kind",
    ]
    verdict = won[1].verdict()
    assert verdict is not None
    (axes,) = drawn["forest"].axes
    dots = [x for x, _ in np.asarray(axes.collections[0].get_offsets())]
    assert dots == pytest.approx(verdict["comparisons"][0]["differences"])
    assert axes.get_yticklabels()[1].get_text() == "published\nworse"
    assert len(drawn["importance"].axes[0].patches) == 2
    assert "x" in drawn["loss-x"].axes[0].get_xlabel()


def test_the_files_are_whole_and_the_same_every_time(won: tuple[SweepSpec, Journal]) -> None:
    chosen = [one for one in gallery(*won) if one.name in ("forest", "mixture-shares")]
    made = dict(printed.files(chosen))
    assert sorted(made) == ["forest.pdf", "forest.svg", "mixture-shares.pdf", "mixture-shares.svg"]
    assert ET.fromstring(made["forest.svg"]).tag == "{http://www.w3.org/2000/svg}svg"
    assert made["forest.pdf"].startswith(b"%PDF-")
    assert dict(printed.files(chosen)) == made


@pytest.mark.parametrize(
    "evil", ["$x^2$ %{y} \\input", "--><script>alert(1)</script>", "\x1b[2J\u202efdp", "_a", "数 é 😀"]
)
def test_names_stay_text(evil: str) -> None:
    runs = [[(1, 2.0), (2, 1.0)]]
    groups = [Group("baseline", runs, baseline=True), Group(evil, runs)]
    points = [Point(evil, {evil: number, "y": 1.0}, 1.0 + number, False) for number in (1, 2, 3)]
    for figure in (figures.curves(groups, evil), setting_figures.factor(points, evil, evil)):
        (_, svg), (_, pdf) = printed.files([Drawing("one", "One", figure, "")])
        tags = {each.tag.rpartition("}")[2] for each in ET.fromstring(svg).iter()}
        assert not tags & {"script", "a", "image", "foreignObject"}
        assert pdf.startswith(b"%PDF-")


def test_the_loss_over_each_numeric_setting_of_a_grid(tmp_path: Path) -> None:
    space = {"x": {"choice": [0.1, 0.2, 0.3]}, "fail": {"choice": ["never", "raise"]}}
    spec = samples.toy_spec(space=space, arms={}, search={"method": "grid"})
    journal = Journal(tmp_path / "journal.jsonl")
    for number, arm in enumerate(spec.arms):
        journal.append(samples.ask(spec, number, number, arm))
        journal.append(report(number, 20, 1.0 + number, number))
        journal.append(end(number, "completed", number))
    drawn = [one for one in gallery(spec, journal) if one.title == FACTORS]
    assert [one.name for one in drawn] == ["loss-x"]
    (trace,) = drawn[0].figure.to_dict()["data"]
    assert sorted(trace["x"]) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert set(trace["marker"]["symbol"]) == {"circle"}


def test_a_folder_of_figures_that_is_a_link_is_refused(won: tuple[SweepSpec, Journal], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "figures").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="link"):
        write._figures(*won, Outcome(run_dir=tmp_path / "run", tracking_uri="sqlite:////s/mlflow.db"))
    assert not list((tmp_path / "elsewhere").iterdir())
