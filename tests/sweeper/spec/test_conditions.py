"""Paths that exist only where a choice has a value: what a spec may say, which points there are, what a search does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.report.sections import Outcome, markdown
from sweeper.search.optuna_study import importance
from sweeper.spec import conditions
from sweeper.spec.errors import SpecError
from sweeper.spec.load import load, probes
from sweeper.spec.spec import SweepSpec
from tests.sweeper import in_process
from tests.sweeper.samples import toy_spec

SPACE: dict[str, Any] = {
    "report_every": {"choice": [5, 10]},
    "fail": {"choice": ["never", "nan"]},
    "x": {"randint": [0, 1]},
    "y": {"choice": [0, 1]},
}
CONDITIONS: dict[str, Any] = {"fail": {"report_every": 10}, "y": {"fail": ["never"], "report_every": 10}}
POINTS = [
    {"report_every": 5, "x": 0},
    {"report_every": 5, "x": 1},
    *({"report_every": 10, "fail": "never", "x": x, "y": y} for x in (0, 1) for y in (0, 1)),
    {"report_every": 10, "fail": "nan", "x": 0},
    {"report_every": 10, "fail": "nan", "x": 1},
]


def spec(method: str = "tpe", trials: int | None = 20, **changes: Any) -> SweepSpec:
    search = {"method": method, "trials": trials} if trials else {"method": method}
    given = {"space": SPACE, "conditions": CONDITIONS, "arms": {}, "search": search, "config": {"report_every": 10}}
    return toy_spec(**(given | changes))


def test_a_space_has_each_point_once() -> None:
    found = spec()
    assert list(conditions.every(found.space, found.conditions)) == POINTS
    assert [conditions.point(found.space, found.conditions, index) for index in range(8)] == POINTS
    assert found.points == found.total_trials == 8
    with pytest.raises(IndexError):
        conditions.point(found.space, found.conditions, 8)
    assert spec(space={**SPACE, "x": {"uniform": [0, 1]}}).points is None


def test_a_grid_has_no_cell_twice() -> None:
    found = spec("grid", None, arms={"baseline": {"report_every": 5, "x": 1}})
    assert list(found.arms.values()) == [POINTS[1], POINTS[0], *POINTS[2:]]
    assert list(found.arms)[2] == "report_every_10-fail_never-x_0-y_0"
    assert len({found.config_hash(found.trainable_config(arm)) for arm in found.arms.values()}) == len(found.arms)


def test_no_condition_is_no_change() -> None:
    plain = toy_spec()
    assert plain.spec_hash == toy_spec(conditions={}).spec_hash
    assert "conditions" not in plain.to_yaml()
    assert spec().spec_hash != spec(conditions={}).spec_hash


def test_a_spec_is_read_again_as_it_was_written(tmp_path: Path) -> None:
    for one in (spec(), spec("grid", None), spec(conditions={"y": {"fail": ["never", "nan"]}})):
        (tmp_path / "spec.yaml").write_text(one.to_yaml(), "utf-8")
        again = load(tmp_path / "spec.yaml")
        assert (again, again.spec_hash) == (one, one.spec_hash)
    changed = load(tmp_path / "spec.yaml", sets=["conditions.y={fail: nan}"])
    assert changed.conditions == {"y": {"fail": ("nan",)}}
    assert load(tmp_path / "spec.yaml", sets=["conditions.y=null"]).conditions == {}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"z": {"fail": "never"}}, "conditions.z: is not in the space; "),
        ({"y": {"steps": 5}}, "conditions.y.steps: is not in the space, so no point chooses it; "),
        ({"y": {"x": 0}}, "conditions.y.x: is 0 to 1, integer: a condition names a choice and its values"),
        ({"y": {"fail": "nowhere"}}, "conditions.y.fail: 'nowhere' is not one of 'never', 'nan'"),
        ({"y": {"fail": True}}, "conditions.y.fail: True is not one of 'never', 'nan'"),
        ({"fail": {"fail": "never"}}, "conditions.fail: depends on itself"),
        ({"fail": {"report_every": 5}, "report_every": {"fail": "nan"}}, "conditions.fail: depends on itself"),
        ({"fail": {"report_every": 5}, "y": {"fail": "nan", "report_every": 10}}, "conditions.y: y exists only where"),
        ({"y": {}}, "conditions.y: {} is not a condition: write {PATH: VALUE}"),
        ({"y": "never"}, "conditions.y: 'never' is not a condition: write {PATH: VALUE}"),
        ({"y": {"fail": []}}, "conditions.y: [] is not a value that fail may have"),
        ({"y": {"fail": [["never"]]}}, "conditions.y: [['never']] is not a value that fail may have"),
    ],
)
def test_a_condition_that_means_nothing_is_refused_in_a_line(given: Any, line: str) -> None:
    with pytest.raises(SpecError) as refused:
        spec(conditions=given)
    assert f"spec: {line}" in str(refused.value)


@pytest.mark.parametrize("method", ["gp", "cmaes"])
def test_a_sampler_that_needs_the_same_paths_everywhere_is_refused(method: str) -> None:
    with pytest.raises(SpecError, match=f"conditions: {method} needs the same paths at every point: use tpe, random"):
        spec(method)


def test_an_arm_sets_only_what_exists_for_it() -> None:
    found = spec(arms={"baseline": {"x": 0, "y": 1}, "other": {"report_every": 5, "x": 1}})
    assert found.arms["baseline"] == {"report_every": 10, "fail": "never", "x": 0, "y": 1}
    assert found.arms["other"] == {"report_every": 5, "x": 1}
    for method, trials in (("tpe", 9), ("grid", None), ("arms", None)):
        with pytest.raises(SpecError, match=r"arms.one.y: exists only where fail is 'never' and report_every is 10; "):
            spec(method, trials, arms={"one": {"x": 1, "fail": "nan", "y": 0}})


def test_corners_are_tried_where_they_exist() -> None:
    found = spec()
    tried = [params for where, params in probes(found, {}) if where == ("space", "y")]
    assert tried == [{"report_every": 10, "fail": "never", "y": value} for value in (0, 1)]
    assert {"report_every": 10, "fail": "never", "x": 1, "y": 1} in [params for _, params in probes(found, {})]
    with pytest.raises(SpecError, match=r"space.steps: .* is refused"):
        spec(space={**SPACE, "steps": {"choice": [-1, 20]}}, conditions={"steps": {"fail": "nan"}})


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_a_search_tries_every_point_once(tmp_path: Path, method: str) -> None:
    journal = in_process.sweep(spec(method), tmp_path)
    asked = [record.ask.params for record in journal.trials.values()]
    assert sorted(map(str, asked)) == sorted(map(str, POINTS))
    assert all(record.ask.raw == record.ask.params for record in journal.trials.values())
    resolved = {record.ask.config["y"] for record in journal.trials.values() if "y" not in record.ask.params}
    assert resolved == {0.5}, "a path that does not exist has the base's value"


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_points_are_the_same_when_a_search_is_cut_off(tmp_path: Path, method: str) -> None:
    one = spec(method, 15, space={**SPACE, "y": {"uniform": [0, 1]}})
    whole = in_process.sweep(one, tmp_path / "whole")
    cut = in_process.sweep(one, tmp_path / "cut", stop_after=6)
    assert 0 < len(cut.trials) < 15
    in_process.go_on(one, cut.path.parent, cut)
    assert [r.ask.params for r in cut.trials.values()] == [r.ask.params for r in whole.trials.values()]
    assert len(whole.trials) == 15
    found = importance(one, whole)
    assert "y" not in found
    assert "fail" not in found


def test_people_see_where_a_path_exists(tmp_path: Path) -> None:
    from sweeper.plan.estimate import plan, shown
    from sweeper.trainable import Pace

    found = spec()
    text = "\n".join(shown(found, plan(found, 1, Pace(0.1, 0.0))))
    assert "y one of 0, 1, only where fail is 'never' and report_every is 10; 8 points" in text
    journal = in_process.sweep(found, tmp_path)
    report = markdown(found, journal, Outcome(run_dir=journal.path.parent, tracking_uri="sqlite:///x.db"))
    (row,) = [line for line in report.splitlines() if line.startswith("| t0001 ")][:1]
    without = journal.trials["t0001"].ask.params
    assert [cell.strip() for cell in row.split("|")].count("-") >= 4 - len(without)


def test_a_search_space_of_too_many_parts_is_refused() -> None:
    many = {f"shares.{name}": {"choice": [0.0, *(0.001 * n for n in range(1, 40))]} for name in ("token", "trigram")}
    tree = {**many, "y": {"choice": [0, 1]}}
    with pytest.raises(SpecError, match="conditions: the choices that they name have 1,600 combinations or more"):
        spec(space=tree, conditions={"y": dict.fromkeys(many, 0.0)})
