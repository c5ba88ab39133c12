"""Faults of the storage: every other trial would meet them too, so they end the sweep and fail no trial.

They are recognised by errno, where they occur: a trial sends it with its failure.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from typing import Literal

from sweeper.system import files

Kind = Literal["no room", "read-only", "I/O error", "no permission"]

_KINDS: dict[int, Kind] = {
    errno.ENOSPC: "no room",
    errno.EDQUOT: "no room",
    errno.EROFS: "read-only",
    errno.EIO: "I/O error",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
}
_WORDS: dict[Kind, tuple[str, str]] = {
    "no room": ("the disk is full", "make room: df -h tells of bytes, df -i of files, quota of what you may use"),
    "read-only": ("the file system is read-only", "mount it to be written; the system's log says why it is not"),
    "I/O error": ("the disk does not read or write", "look into the system's log, and copy the run elsewhere"),
    "no permission": ("this user may not do that there", "give the permission back"),
}
_AS_TEXT = re.compile(r"(?:\[Errno |\(os error )(\d+)[\])]")  # how Python and Rust print a number


def of(error: BaseException | None) -> OSError | None:
    """The fault that an error is, names in its text, or was explicitly raised from; None if there is none.

    The text counts because some libraries, such as safetensors, pass the errno only there.
    """
    causes = list(_causes(error))
    for one in causes:
        if isinstance(one, OSError) and one.errno in _KINDS:
            return one
    for one in causes:
        if not isinstance(one, OSError) or one.errno is None:
            numbers = [int(number) for number in _AS_TEXT.findall(str(one))]
            if faults := [number for number in numbers if number in _KINDS]:
                return OSError(faults[-1], os.strerror(faults[-1]))
    return None


def kind(error: BaseException | None) -> Kind | None:
    """The kind of fault; None if it is none."""
    fault = of(error)
    return None if fault is None or fault.errno is None else _KINDS[fault.errno]


def line(fault: OSError) -> str:
    """What is wrong, where, and what to do, in one line. fault: from `of`."""
    assert fault.errno is not None
    what, advice = _WORDS[_KINDS[fault.errno]]
    return f"{what} ({files.describe(fault) or fault.strerror}): {advice}"


def describe(error: OSError) -> str:
    """Any system error in one line: as a fault, or else with the path that it names."""
    if fault := of(error):
        return line(fault)
    return files.describe(error) or " ".join(str(error).split())[:200]


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, what it was raised from, and so on."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__
