"""What is said of a trial that was run again, and of a run that is gone on with on other data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.events import End, Report
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.preflight import journal_to_resume
from sweeper.trials import reproduce
from tests.sweeper.samples import ask, session, toy_spec

SPEC = toy_spec()


def record(*rows: dict[str, float], state: Any = "completed") -> TrialRecord:
    found = TrialRecord(ask(SPEC, 1, 0, "baseline"))
    found.rows += [Report(trial="t0001", step=10 * i, metrics=row) for i, row in enumerate(rows, 1)]
    found.end = End(trial="t0001", state=state, reason="it broke")
    return found


ROWS = {"val/loss": 2.0, "val/accuracy": 0.5}, {"val/loss": 1.0, "val/accuracy": 0.75}


@pytest.mark.parametrize(
    ("again", "equal", "line"),
    [
        (ROWS, True, "bitwise equal: every metric of 2 rows"),
        ([ROWS[0], {**ROWS[1], "b": 1, "a": 2}], True, "bitwise equal: every metric of 2 rows; new since then: a, b"),
        ([ROWS[0], {**ROWS[1], "val/loss": 1 + 2**-52}], False, "not equal: val/loss by up to 2.22e-16"),
        ([ROWS[0], {"val/loss": 1.0}], False, "not equal: val/accuracy is gone"),
        (ROWS[:1], False, "not equal: other rows"),
        ([*ROWS, ROWS[1]], False, "not equal: other rows"),
        ([], False, "not equal: other rows"),
    ],
)
def test_one_bit_a_row_or_a_metric_that_is_gone_tells_the_two_apart(
    again: list[dict[str, float]], equal: bool, line: str
) -> None:
    found = reproduce.compared(SPEC, record(*ROWS), record(*again), ["torch was 1, is 2"])
    assert found.equal is equal
    assert reproduce.lines(SPEC, found)[1:] == [line, "differs: torch was 1, is 2"]


def test_a_trial_that_fails_the_second_time_says_so() -> None:
    found = reproduce.compared(SPEC, record(*ROWS), record(ROWS[0], state="failed"), [])
    assert not found.equal
    assert reproduce.lines(SPEC, found)[-1] == "differs: it failed: it broke"


def told(folder: Path, **facts: str) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    first = session()
    journal.append(type(first)(**{**vars(first), "facts": facts}))
    return journal


def test_a_run_does_not_go_on_where_a_name_stands_for_other_settings_by_now(tmp_path: Path) -> None:
    """A spec keeps an arm's preset by its name, so that its hash stays where the preset's rule changes."""
    journal = told(tmp_path)
    journal.append(ask(SPEC, 0, 1, next(iter(SPEC.arms))))
    assert journal_to_resume(SPEC, tmp_path, {})
    then = ask(SPEC, 1, 2, next(iter(SPEC.arms)))
    journal.append(type(then)(**{**vars(then), "config_hash": "0" * 64}))
    journal.close()
    with pytest.raises(
        ValueError, match=r"has other settings now, so its trials would not be comparable: start a new run"
    ):
        journal_to_resume(SPEC, tmp_path, {})


def test_a_run_goes_on_with_its_own_data_alone(tmp_path: Path) -> None:
    told(tmp_path, data_fingerprint="a", zorro_fingerprint="b", words="100").close()
    for same in ({"data_fingerprint": "a", "zorro_fingerprint": "b", "words": "101"}, {"data_fingerprint": "a"}, {}):
        found = journal_to_resume(SPEC, tmp_path, same)
        assert found
        assert len(found.events) == 1
    for other, key in (({"data_fingerprint": "x"}, "data"), ({"zorro_fingerprint": "x"}, "zorro")):
        with pytest.raises(ValueError, match=rf"preprocessing changed \({key}_fingerprint was ., is x\): restore it"):
            journal_to_resume(SPEC, tmp_path, other)
    assert journal_to_resume(SPEC, None, {}) is None
    empty = tmp_path / "empty"
    told(empty).close()
    (empty / "journal.jsonl").write_text("", "utf-8")
    assert journal_to_resume(SPEC, empty, {"data_fingerprint": "x"})
    spec, journal = SPEC, Journal(tmp_path / "none.jsonl")
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    assert not journal.events
    with pytest.raises(ValueError, match="no such completed trial"):
        reproduce.chosen(tmp_path, "t0009")
    with pytest.raises(ValueError, match=r"not a run folder, it has no spec\.yaml"):
        reproduce.chosen(empty, None)
