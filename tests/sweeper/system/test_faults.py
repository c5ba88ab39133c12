"""Faults of the place where files lie: told by number, through wrappers and text, and put into one line."""

from __future__ import annotations

import errno

import pytest

from sweeper.system import faults


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, "no room"),
        (errno.EDQUOT, "no room"),
        (errno.EROFS, "read-only"),
        (errno.EIO, "I/O error"),
        (errno.EACCES, "no permission"),
        (errno.EPERM, "no permission"),
        (errno.ENOENT, None),
        (errno.EPIPE, None),
        (None, None),
    ],
)
def test_a_fault_is_told_by_its_number(number: int | None, kind: str | None) -> None:
    assert faults.kind(OSError(number, "what it says", "/a/file") if number else OSError("no number")) == kind


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("I/O error: No space left on device (os error 28)", "no room"),
        ("Traceback\nOSError: [Errno 122] Disk quota exceeded", "no room"),
        ("Error while serializing: IoError(Os): Read-only file system (os error 30)", "read-only"),
        ("[Errno 2] No such file", None),
        ("step 28", None),
    ],
)
def test_a_library_that_hands_it_on_as_text_is_understood(said: str, kind: str | None) -> None:
    assert faults.kind(RuntimeError(said)) == kind


def test_what_an_error_was_raised_from_counts_and_what_it_was_raised_after_does_not() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/a/file")
    wrapped = RuntimeError("could not save: [Errno 28] No space left on device")
    wrapped.__cause__ = full
    assert faults.of(wrapped) is full
    after = RuntimeError("diverged")
    after.__context__ = full
    assert faults.of(after) is None
    full.__cause__ = wrapped  # a ring
    assert faults.of(wrapped) is full


def test_a_fault_is_one_line_that_says_where_and_what_to_do() -> None:
    assert faults.line(OSError(errno.ENOSPC, "No space left on device", "/a/file")) == (
        "the disk is full (/a/file: No space left on device): "
        "make room: df -h tells of bytes, df -i of files, quota of what you may use"
    )
    for number in (errno.EROFS, errno.EIO, errno.EACCES):
        told = faults.line(OSError(number, "said"))
        assert "(said): " in told
        assert "\n" not in told
