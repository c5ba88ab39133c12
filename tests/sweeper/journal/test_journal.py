"""The record survives what happens to a driver: torn lines, second tellings, restarts, readers at work."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.events import Event, Verdict
from sweeper.journal.journal import Journal, nested
from tests.sweeper.samples import ask, end, report, session, toy_spec, written

SAID: Any = {
    **{"look": 1, "metric": "test/loss", "baseline": "baseline", "alpha": 0.05, "rule": ["t"], "worthwhile": 0.01},
    **{"seeds": [11, 12], "fresh": True, "comparisons": [], "told": {}, "documents": {}, "champion": None, "notes": []},
}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return written(tmp_path, toy_spec())


def reopened(journal: Journal) -> Journal:
    journal.close()
    return Journal(journal.path)


def test_reopened_it_equals_what_was_in_memory(journal: Journal) -> None:
    journal.append(Verdict(data=SAID))
    again = reopened(journal)
    assert again.events == journal.events
    assert again.trials == journal.trials
    assert again.torn is None
    assert again.append(end(5, "completed", 20))
    assert reopened(again).trials["t0005"].state == "completed"


def test_a_line_torn_anywhere_is_cut_off_and_kept(journal: Journal) -> None:
    journal.close()
    data = journal.path.read_bytes()
    begin = data.rstrip(b"\n").rindex(b"\n") + 1
    for size in range(begin + 1, len(data)):
        journal.path.write_bytes(data[:size])
        torn = Journal(journal.path)
        assert torn.torn == data[begin:size].decode()
        assert torn.events == journal.events[:-1]
        assert journal.path.read_bytes() == data[:begin]
        assert torn.append(journal.events[-1])
        torn.close()
        assert journal.path.read_bytes() == data


def test_a_torn_first_line_leaves_an_empty_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "sess', "utf-8")
    journal = Journal(path)
    assert (journal.events, journal.trials, path.read_bytes()) == ([], {}, b"")


@pytest.mark.parametrize(
    "line", ["not json", "[]", '{"event": "rumour"}', '{"event": "end", "trial": "t0"}', '{"a": 1}', ""]
)
def test_a_broken_line_before_the_last_is_an_error_that_names_it(journal: Journal, line: str) -> None:
    journal.close()
    lines = journal.path.read_text("utf-8").splitlines()
    journal.path.write_text("\n".join([*lines[:2], line, *lines[2:]]) + "\n", "utf-8")
    with pytest.raises(ValueError, match="journal line 3: "):
        Journal(journal.path)


@pytest.mark.parametrize("step", [5, 10])
def test_a_step_told_twice_is_dropped(journal: Journal, step: int) -> None:
    size = journal.path.stat().st_size
    assert not journal.append(report(5, step, 99.0, 30))
    assert journal.path.stat().st_size == size
    assert journal.trials["t0005"].score("val/loss") == 1.7
    assert journal.append(report(5, 11, 1.6, 30))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_refused_and_leaves_no_trace(journal: Journal, value: float) -> None:
    before, size = list(journal.events), journal.path.stat().st_size
    with pytest.raises(ValueError, match="JSON"):
        journal.append(report(5, 20, value, 30))
    assert (journal.events, journal.path.stat().st_size) == (before, size)
    assert journal.append(report(5, 20, 1.0, 30))
    assert reopened(journal).trials["t0005"].score("val/loss") == 1.0


def test_an_interrupted_trial_is_open_and_goes_on_with_a_report(journal: Journal) -> None:
    record = journal.trials["t0005"]
    assert (record.state, record.open) == ("running", True)
    journal.append(end(5, "interrupted", 30))
    assert (record.state, record.open) == ("interrupted", True)
    journal.append(report(5, 20, 1.5, 40))
    assert (record.state, record.end) == ("running", None)
    journal.append(end(5, "completed", 41))
    assert not reopened(journal).trials["t0005"].open


@pytest.mark.parametrize(("number", "state"), [(0, "completed"), (3, "stopped"), (4, "failed")])
def test_what_has_ended_is_not_open(journal: Journal, number: int, state: str) -> None:
    record = journal.trials[f"t{number:04d}"]
    assert (record.state, record.open) == (state, False)


def test_the_score_is_the_last_one_never_the_lowest(journal: Journal) -> None:
    assert journal.trials["t0002"].score("val/loss") == 1.25
    assert journal.trials["t0004"].score("val/loss") is None
    assert journal.trials["t0002"].score("val/other") is None
    assert (journal.trials["t0002"].step, journal.trials["t0004"].step) == (20, 0)


def test_an_event_is_on_disk_when_append_returns(journal: Journal) -> None:
    event = end(5, "completed", 30)
    journal.append(event)
    last = json.loads(journal.path.read_text("utf-8").splitlines()[-1])
    assert last.pop("digest") == journal.digests[-1]
    assert last == {"event": "end", **dataclasses.asdict(event)}


def test_readers_see_a_prefix_of_what_is_written(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    spec = toy_spec()
    events: list[Event] = [session()]
    for number in range(20):
        events += [ask(spec, number, number, "baseline"), *(report(number, step, 1.0, step) for step in (1, 2, 3))]
    done = threading.Event()
    wrong: list[str] = []

    def follow() -> None:
        seen: list[Event] = []
        while not (done.is_set() and len(seen) == len(events)):
            seen += journal.events[len(seen) :]
            steps = {trial: record.step for trial, record in list(journal.trials.items())}
            if seen != events[: len(seen)] or any(step not in (0, 1, 2, 3) for step in steps.values()):
                wrong.append(str(steps))
                return
            time.sleep(0.001)

    readers = [threading.Thread(target=follow) for _ in range(3)]
    for reader in readers:
        reader.start()
    for event in events:
        journal.append(event)
    done.set()
    for reader in readers:
        reader.join(20)
        assert not reader.is_alive()
    assert wrong == []


def test_nested_metrics_are_a_tree() -> None:
    metrics = {"audit/rate": 0.15, "audit/shares/random": 0.8, "audit/shares/token": 0.2, "val/loss": 1.0}
    assert nested(metrics, "audit/") == {"rate": 0.15, "shares": {"random": 0.8, "token": 0.2}}
    assert nested(metrics, "test/") == {}


def test_a_full_disk_leaves_the_journal_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The system takes what fits of a line, then refuses; later there is room again."""
    spec = toy_spec()
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(session())
    journal.append(ask(spec, 0, 1, "baseline"))
    whole, write = journal.path.read_bytes(), os.write

    def crammed(file: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(file, data[:10])

    monkeypatch.setattr(os, "write", crammed)
    with pytest.raises(OSError, match="No space"):
        journal.append(report(0, 10, 2.0, 2))
    assert journal.path.read_bytes() == whole
    assert journal.trials["t0000"].rows == []
    monkeypatch.setattr(os, "write", write)
    assert journal.append(report(0, 10, 2.0, 2))
    journal.close()
    assert [len(one.rows) for one in Journal(journal.path).trials.values()] == [1]
