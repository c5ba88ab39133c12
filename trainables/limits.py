"""How much a file that somebody else made may ask of this machine: what it unpacks to, how long and how deep it is.

Limits that no real file comes near, and that one made to do harm meets in seconds.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

DEPTH = 100  # of what is nested
RATIO = 100  # to so many times its size may a file unpack, beyond the first
FREE = 100 * 2**20  # bytes; text packs to a tenth, a hundred times is one character over and over
LONGEST_WORD = 10_000  # characters; tokenizers take one of 100 for unknown
SETTINGS = 2**20  # bytes of a file of settings in JSON
YAML = 2**16  # bytes, for it is slow to read; the settings of a run are some 2,000
TASK = 2**29  # bytes of a file of a task; GLUE's largest is a fifth of that
TOKENIZER = 2**26  # bytes of a tokenizer's file; those of 250,000 entries are some 20 to 35 million
ENTRIES = 2**21  # of a vocabulary

_AT_ONCE = 2**20


def memory() -> int:
    """Bytes that this machine, or the container, has."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    except (OSError, ValueError):  # no such group, or `max`
        return there


class Room:
    """What may be taken in of text, all files together: a third of the memory, for as much again goes on work with it.

    Raises ValueError, in one line, as soon as it is more, or as what unpacks from a file is.
    """

    def __init__(self) -> None:
        self.most = self._left = memory() // 3
        self._from: dict[str, int] = {}

    def add(self, path: Path, size: int, packed: int | None = None) -> None:
        """size: bytes or characters more of a file. packed: the bytes that it takes up so far."""
        self._left -= size
        if self._left < 0:
            most = f"{self.most / 2**30:.1f} GiB"
            raise ValueError(f"{path}: the text is more than {most}, a third of the memory here: give less of it")
        total = self._from[str(path)] = self._from.get(str(path), 0) + size
        if packed is not None and total > max(FREE, RATIO * packed):
            raise ValueError(f"{path} unpacks to more than {RATIO} times its size: that is no text, leave it out")

    def all(self, file: Any, path: Path, raw: BinaryIO | None = None) -> bytes:
        """All that an open file gives. raw: what it unpacks, which says how much of it that took so far."""
        parts = []
        while part := file.read(_AT_ONCE):
            self.add(path, len(part), raw.tell() if raw else None)
            parts.append(part)
        return b"".join(parts)


def read(path: Path, most: int) -> bytes:
    """A file of at most so many bytes. Raises ValueError, in one line, for a larger one and for what is no file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would have us wait
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path} is no file")
        content = file.read(most + 1) if about.st_size <= most else b""
    if max(len(content), about.st_size) > most:
        raise ValueError(f"{path} has more than {most / 2**20:g} MiB, which is too much for what it is")
    return content


def json_value(content: str | bytes) -> Any:
    """What JSON says. Raises ValueError, in one line, for what is no JSON or is nested too deep."""
    try:
        found = json.loads(content)
    except RecursionError:
        found = None
        deep = True
    else:
        few = content.count("[" if isinstance(content, str) else b"[")  # pyright: ignore[reportArgumentType]
        few += content.count("{" if isinstance(content, str) else b"{")  # pyright: ignore[reportArgumentType]
        deep = few > DEPTH and _deeper(found)
    if deep:
        raise ValueError(f"it is nested more than {DEPTH} deep")
    return found


def _deeper(tree: Any) -> bool:
    level = [tree]
    for _ in range(DEPTH + 1):
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return False
    return True


def json_file(path: Path, most: int = SETTINGS) -> dict[str, Any]:
    """An object in JSON. Raises ValueError, in one line with the file's name; OSError where it cannot be opened."""
    content = read(path, most)
    try:
        found = json_value(content)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not an object in JSON")
    return found


def one_line(error: BaseException) -> str:
    """An error's text, or its name where it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def fails(call: Callable[[], Any], errors: str) -> Any:
    """What a library makes of a file. Raises ValueError, `errors` and the reason, for whatever it raises.

    Also for what the Rust in it raises as it panics, which is no Exception.
    """
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ValueError(f"{errors} ({one_line(error)})") from None
