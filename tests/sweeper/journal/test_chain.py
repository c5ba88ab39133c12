"""A record that is not what was written is refused by the first bad line, and gone on with knowingly alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.journal import Damaged, Journal
from tests.chain import rechained
from tests.sweeper.samples import end, session, toy_spec, written

Change = Callable[[list[bytes]], list[bytes]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    journal = written(tmp_path, toy_spec())
    journal.close()
    return journal.path


def changed(path: Path, change: Change) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


def edited(number: int, old: bytes, new: bytes) -> Change:
    def change(lines: list[bytes]) -> list[bytes]:
        assert old in lines[number - 1]
        return [line.replace(old, new) if n == number else line for n, line in enumerate(lines, 1)]

    return change


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (edited(4, b"1.5", b"1.4"), 4),  # another digit in a loss
        (lambda lines: lines[:2] + lines[3:], 3),  # a lost report
        (lambda lines: lines[:1] + lines[2:], 2),  # a lost ask
        (lambda lines: lines[:3] + lines[2:], 4),  # a doubled report
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], 3),  # two that changed places
        (edited(1, b"abc123", b"abc124"), 1),
        (lambda lines: [*lines, lines[-1]], 21),
        (lambda lines: [*lines[:5], b"\n", *lines[5:]], 6),
        (lambda lines: [*lines[:5], lines[5][: lines[5].index(b', "digest"')] + b"}\n", *lines[6:]], 6),
    ],
)
def test_the_first_bad_line_is_named(path: Path, change: Change, first: int) -> None:
    changed(path, change)
    with pytest.raises(Damaged, match=rf"^journal line {first}: .*--trust-record"):
        Journal(path, read_only=True)


def test_a_record_that_is_trusted_says_so_for_good(path: Path) -> None:
    changed(path, lambda lines: edited(4, b"1.5", b"1.4")(lines[:10] + lines[11:]))
    journal = Journal(path, trust=True)
    assert next(line for line, _ in journal.faults) == 4
    journal.born("aa")
    assert not journal.respecified
    journal.append(end(5, "interrupted", 30))
    journal.close()
    again = Journal(path, read_only=True)  # no need to be trusted twice
    assert again.events == journal.events
    assert again.trials["t0000"].rows[-1].metrics["val/loss"] == 1.4
    assert "journal line 4" in again.doubts()[0]
    changed(path, lambda lines: [*lines[:-1], lines[-1].replace(b"interrupted", b"completed")])
    with pytest.raises(Damaged, match=r"^journal line 21: "):  # what comes after is held to the same rule
        Journal(path, read_only=True)


def test_a_record_without_a_chain_is_read_and_said_to_be(path: Path) -> None:
    whole = Journal(path, read_only=True)
    changed(path, lambda lines: [line[: line.index(b', "digest"')] + b"}\n" for line in lines])
    journal = Journal(path)
    assert journal.events == whole.events
    assert "earlier version" in journal.doubts()[0]
    journal.append(end(5, "completed", 30))  # from here on it is chained
    journal.close()
    assert Journal(path, read_only=True).trials["t0005"].state == "completed"
    changed(path, lambda lines: edited(4, b"1.5", b"1.4")(lines))  # which vouches for what was there
    with pytest.raises(Damaged):
        Journal(path, read_only=True)


def value(**changes: Any) -> Change:
    """The third line, a report, with other values; the chain fits, so that the values themselves are looked at."""

    def change(lines: list[bytes]) -> list[bytes]:
        lines[2] = json.dumps({**json.loads(lines[2]), **changes}).encode() + b"\n"
        return [rechained([line.rstrip(b"\n") for line in lines])]

    return change


@pytest.mark.parametrize(
    "changes",
    [
        {"trial": "../../victim/.ssh"},
        {"trial": "t0000/../x"},
        {"trial": "t9999"},
        {"trial": None},
        {"step": -1},
        {"step": "10"},
        {"step": 1.5},
        {"step": 10**30},
        {"step": 0},
        {"metrics": {"val/loss": "low"}},
        {"metrics": {"val/loss": float("nan")}},
        {"metrics": {"val/loss": float("inf")}},
        {"metrics": []},
        {"node": 5},
        {"time": 1e300},
        {"time": "now"},
        {"strange": 1},
        {"event": "rumour"},
        {"event": ["report"]},
        {"node": "\ud800"},
    ],
)
def test_a_line_that_we_do_not_write_is_refused(path: Path, changes: dict[str, Any]) -> None:
    changed(path, value(**changes))
    with pytest.raises(Damaged, match=r"^journal line 3: ") as caught:
        Journal(path, read_only=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("checkpoint", ["/etc", "../../x", "trials/../../x", "", "a/\x1b[2J"])
def test_a_checkpoint_lies_below_the_run(path: Path, checkpoint: str) -> None:
    def change(lines: list[bytes]) -> list[bytes]:
        lines[4] = json.dumps({**json.loads(lines[4]), "checkpoint": checkpoint}).encode() + b"\n"
        return [rechained([line.rstrip(b"\n") for line in lines])]

    changed(path, change)
    with pytest.raises(Damaged, match=r"^journal line 5: its checkpoint"):
        Journal(path, read_only=True)


def test_numbers_beyond_floats_and_deep_nests_are_refused(path: Path) -> None:
    changed(path, edited(3, b"2.0", b"1e999"))
    with pytest.raises(Damaged):
        Journal(path, read_only=True)
    path.write_bytes(b'{"event": "verdict", "data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n")
    with pytest.raises(Damaged, match="levels deep"):
        Journal(path, read_only=True)


def test_a_verdict_that_reports_cannot_show_is_refused(path: Path) -> None:
    for data in ({}, {"comparisons": 1}, {"told": "confirmed"}):
        line = json.dumps({"event": "verdict", "data": data, "time": 1.0}).encode()
        path.write_bytes(rechained([line]))
        with pytest.raises(Damaged, match=r"^journal line 1: its data\."):
            Journal(path, read_only=True)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_journal_is_a_file(path: Path, kind: str, tmp_path: Path) -> None:
    import os

    path.rename(tmp_path / "elsewhere")
    {
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "pipe": lambda: os.mkfifo(path),
        "folder": path.mkdir,
    }[kind]()
    with pytest.raises((ValueError, IsADirectoryError)):
        Journal(path, read_only=True)


def test_another_spec_is_refused_and_trusted_knowingly(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.born("a" * 64)
    first = journal.run
    journal.refuse_other_spec("a" * 64)
    with pytest.raises(ValueError, match=r"spec\.yaml is not the one"):
        journal.refuse_other_spec("b" * 64)
    journal.refuse_other_spec("b" * 64, trust=True)
    journal.born("b" * 64)
    journal.close()
    again = Journal(journal.path)
    again.refuse_other_spec("b" * 64)
    assert again.run == first
    assert "spec.yaml is not the one" in again.doubts()[0]
    again.fork()
    assert again.run not in (None, first)


def test_a_record_that_lost_its_digests_is_no_earlier_versions(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.born("a" * 64)
    journal.append(session())
    journal.close()
    changed(journal.path, lambda lines: [line[: line.index(b', "digest"')] + b"}\n" for line in lines])
    with pytest.raises(Damaged, match=r"^journal line 1: its digest is gone"):
        Journal(journal.path, read_only=True)
    journal.path.write_bytes(
        rechained([b'{"event": "begin", "run": "0123456789abcdef", "spec_hash": "a", "format": 99}'])
    )
    with pytest.raises(Damaged, match=r"^journal line 1: its format"):
        Journal(journal.path, read_only=True)


def test_an_event_that_cannot_follow_is_not_written(path: Path) -> None:
    journal, size = Journal(path), path.stat().st_size
    with pytest.raises(ValueError, match="asked for twice"):
        journal.append(journal.trials["t0001"].ask)
    assert path.stat().st_size == size


def test_nothing_goes_on_where_a_trial_is_lost(path: Path) -> None:
    changed(path, lambda lines: [line for line in lines if b"t0001" not in line])
    journal = Journal(path, read_only=True, trust=True)
    assert "t0001" not in journal.trials
    with pytest.raises(ValueError, match="trials of the stage search are lost"):
        journal.refuse_gaps()
    Journal(path.with_name("none"), read_only=True).refuse_gaps()


def test_facts_of_other_trainables_are_read_as_they_gave_them(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(replace(session(), facts={"data_fingerprint": 12, "notes": "one line", "warnings": None}))
    facts = Journal(journal.path, read_only=True).facts()
    assert facts == {"data_fingerprint": 12, "notes": ["one line"], "warnings": []}
