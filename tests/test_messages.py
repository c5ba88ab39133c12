"""What people read is pinned: a change of words shows in one file, where a reviewer sees it."""

from __future__ import annotations

import re

from tests import messages

# Of the table of words in sweeper/README.md: what was said before, and by no one at the next desk.
ODD = re.compile(r"not to be had|by its own doing|\bis no name\b|once more ends|not to be written|is there twice")


def test_every_line_is_as_it_was_reviewed() -> None:
    """After a change of words: `python -m tests.messages`, and read the diff."""
    assert messages.collected() == messages.GOLDEN.read_text("utf-8")


def test_the_collection_finds_what_is_raised_said_and_returned() -> None:
    source = """
def told(path, say):
    say(f"cannot read {path}: no such file")
    if path:
        raise ValueError("invalid name " f"{path!r}: use letters")
    reason = "too long by far"
    return {"key": "short"} if path else "there is nothing here"
"""
    assert set(messages.messages(source)) == {
        "cannot read {path}: no such file",
        "invalid name {path}: use letters",
        "too long by far",
        "there is nothing here",
    }


def test_no_line_reads_as_translated() -> None:
    found = [line for line in messages.GOLDEN.read_text("utf-8").splitlines() if ODD.search(line)]
    assert found == []
