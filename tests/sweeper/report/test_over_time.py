"""What was masked from one report to the next: from cumulative shares, exactly, and in words that say so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from sweeper.journal.journal import Journal
from sweeper.journal.names import Names
from sweeper.report import over_time, printed
from sweeper.report.html.gallery import MASKED, gallery
from sweeper.report.over_time import courses, section
from sweeper.report.sections import Outcome, markdown
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Interval, intervals
from tests.sweeper import samples
from tests.sweeper.samples import end, report


def row(step: int, *counts: int, **more: float) -> dict[str, float]:
    """A row that has counted so many predictions of each part: words, continuations."""
    counted = sum(counts)
    shares = {
        f"audit/kind/{name}": n / counted for name, n in zip(("word", "continuation"), counts, strict=True) if counted
    }
    return {"step": step, "audit/counted": float(counted), **shares, **more}


def test_intervals_are_the_differences_of_the_counts() -> None:
    rows = [row(10, 0, 0), row(20, 3, 1), row(30, 3, 7), row(40, 10, 7)]
    assert list(intervals(rows)) == [
        Interval(10, 20, 4, {"kind/word": 0.75, "kind/continuation": 0.25}),
        Interval(20, 30, 6, {"kind/word": 0.0, "kind/continuation": 1.0}),
        Interval(30, 40, 7, {"kind/word": 1.0, "kind/continuation": 0.0}),
    ]
    assert list(intervals(rows[1:2])) == [Interval(0, 20, 4, {"kind/word": 0.75, "kind/continuation": 0.25})]


def test_intervals_are_exact_in_long_runs() -> None:
    """Thirds of a thousand million predictions, of which the last one is another."""
    whole = 333_333_333
    found = list(intervals([row(1, whole, 2 * whole), row(2, whole + 1, 2 * whole)]))
    assert found[1] == Interval(1, 2, 1, {"kind/word": 1.0, "kind/continuation": 0.0})


def test_rows_of_earlier_versions_begin_and_end_no_interval() -> None:
    old = {"step": 10, "audit/kind/word": 0.5, "audit/shares/random": 1.0}
    assert list(intervals([old, {**old, "step": 20}])) == []
    found = list(intervals([old, row(20, 30, 10), row(30, 30, 20)]))
    assert [(one.since, one.step, one.counted) for one in found] == [(20, 30, 10)], "what 20 holds since 10 is unknown"


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none_are_left_out(strange: float) -> None:
    rows = [row(10, 1, 1), row(20, 2, 2) | {"audit/counted": strange}, row(30, 3, 3), row(40, 4, 4)]
    assert [(one.since, one.step) for one in intervals(rows)] == [(0, 10), (30, 40)]
    shares = next(iter(intervals([row(10, 1, 1, **{"audit/kind/odd": strange})]))).shares
    assert shares == {"kind/word": 0.5, "kind/continuation": 0.5, "kind/odd": 0.0}


REPORTS = tuple(range(5, 85, 5))
Sweep = tuple[SweepSpec, Journal, Names]


def sweep(folder: Path, counting: bool = True) -> Sweep:
    """Two arms on two seeds, 16 reports: after a warm-up of 2 reports, 100 predictions each, in 10 intervals of 1 or 2.

    The baseline has words in 60 of them; the other arm in 50 + 2 for each report, and 4 more on the second seed.
    """
    arms = {"baseline": {"x": 0.0}, "moving": {"x": 1.0}}
    spec = samples.toy_spec(space={}, arms=arms, search={"method": "arms"}, seeds={"search": [0, 1]})
    journal = Journal(folder / "journal.jsonl")
    for number in range(4):
        arm, seed = ("baseline", "moving")[number // 2], number % 2
        asked = samples.ask(spec, number, 100 * number, arm)
        journal.append(type(asked)(**{**asked.__dict__, "seed": seed}))
        words = others = 0
        for place, step in enumerate(REPORTS):
            if place >= 2:
                here = 60 if arm == "baseline" else 50 + 2 * place + 4 * seed
                words, others = words + here, others + 100 - here
            metrics = {key: value for key, value in row(step, words, others).items() if key != "step"}
            if not counting:
                metrics.pop("audit/counted")
            journal.append(report(number, step, 1.0 + number, 100 * number + step, metrics))
        journal.append(end(number, "completed", 100 * number + 99))
    return spec, journal, Names(spec, (record.ask for record in journal.trials.values()))


def test_an_arms_course_is_the_mean_of_its_seeds(tmp_path: Path) -> None:
    found = courses(*sweep(tmp_path))
    assert [*found] == ["baseline", "moving"]
    course = found["moving"]
    assert len(course) == over_time.MOST_INTERVALS
    assert (course[0].since, course[-1].step) == (10, 80), "from the end of the warm-up to the end of the run"
    assert [one.since for one in course[1:]] == [one.step for one in course[:-1]]
    assert sum(one.counted for one in course) == 2 * 1400
    for one in course:
        places = range(one.since // 5, one.step // 5)
        due = sum(52 + 2 * place for place in places) / len(places)
        assert one.shares["kind/word"] == pytest.approx(due / 100, abs=1e-12)


def test_the_table_has_the_first_and_the_last_interval(tmp_path: Path) -> None:
    spec, journal, names = sweep(tmp_path)
    assert section(spec, journal, names).keys() == {over_time.TITLE}
    text = markdown(spec, journal, Outcome(run_dir=tmp_path, tracking_uri="sqlite:////s/mlflow.db"))
    table = text.split(f"## {over_time.TITLE}\n\n")[1].split("\n\n")[1]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    assert cells[0] == ["what", "steps", "kind word", "kind continuation"]
    assert cells[2] == ["baseline", "11 to 20; 76 to 80", "60.0 → 60.0", "40.0 → 40.0"]
    assert cells[3] == ["moving", "11 to 20; 76 to 80", "57.0 → 82.0", "43.0 → 18.0"]


def test_the_figure_shows_what_the_counts_say(tmp_path: Path) -> None:
    spec, journal, _ = sweep(tmp_path)
    (drawing,) = [one for one in gallery(spec, journal) if one.name.startswith("masked-over-time")]
    assert (drawing.title, drawing.name) == (MASKED, "masked-over-time-kind")
    heat = drawing.figure.to_dict()["data"][0]
    ends = over_time.MOST_INTERVALS
    assert [*heat["y"]] == ["baseline", "moving"]
    baseline, moving = (list(line) for line in heat["z"])
    assert baseline == [*[0.0] * ends, None, *[0.0] * ends]
    assert (moving[0], moving[ends - 1], moving[ends]) == (-3.0, 22.0, None)
    assert [-value for value in moving[ends + 1 :]] == moving[:ends]
    assert (heat["text"][1][0], heat["text"][1][ends - 1]) == ("57.0", "82.0")
    assert [*drawing.figure.layout.xaxis.ticktext] == ["word<br>60.0", "continuation<br>40.0"]
    once, again = ([content for _, content in printed.files([drawing])] for _ in range(2))
    assert once == again


def test_records_of_earlier_versions_have_neither(tmp_path: Path) -> None:
    spec, journal, names = sweep(tmp_path, counting=False)
    assert courses(spec, journal, names) == {}
    assert section(spec, journal, names) == {}
    assert not [one for one in gallery(spec, journal) if "over-time" in one.name]


def test_many_configurations_are_cut_and_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, journal, names = sweep(tmp_path)
    assert "configurations are shown" not in section(spec, journal, names)[over_time.TITLE]
    monkeypatch.setattr(over_time, "MOST_ROWS", 1)
    assert [*courses(spec, journal, names)] == ["baseline"]
    assert "Only the first 1 configurations are shown." in section(spec, journal, names)[over_time.TITLE]


def test_a_table_has_the_ends_of_many_parts_and_the_sources_in_one_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, journal, names = sweep(tmp_path)
    shares = {f"decile/{n}": n / 55 for n in range(1, 11)} | {
        "shares/random": 1.0,
        "shares/token": 0.0,
        "shares/x": 0.0,
    }
    later = {**shares, "decile/10": 0.5, "shares/random": 0.75, "shares/token": 0.25}
    found = {"a": [Interval(0, 10, 5, shares), Interval(10, 20, 5, later)]}
    assert over_time.groups(found) == ["decile", "shares"]
    assert over_time.parts(found, "decile") == [str(n) for n in range(1, 11)]
    assert over_time.parts(found, "shares") == ["random", "token"], "nobody drew by x"
    monkeypatch.setattr(over_time, "courses", lambda *_: found)
    text = section(spec, journal, names)[over_time.TITLE]
    assert "decile 10 the rarest" in text
    heads, _, line = ([cell.strip() for cell in one.strip("|").split("|")] for one in text.splitlines()[-3:])
    assert heads == ["what", "steps", "decile 1", "decile 10", "by source"]
    assert line[2:] == ["1.8 → 1.8", "18.2 → 50.0", "random 100.0 → 75.0, token 0.0 → 25.0"]
