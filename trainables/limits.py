"""Limits on a file that somebody else made: how far it may unpack, how long and how deeply nested it may be.

No real file comes near them; a file made to do harm meets them in seconds.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

DEPTH = 100  # of nesting
RATIO = 100  # a file may unpack to so many times its size, once beyond FREE
FREE = 100 * 2**20  # bytes; text packs to a tenth, one character repeated to a hundredth
LONGEST_WORD = 10_000  # characters; to tokenizers a word of 100 is unknown already
SETTINGS = 2**20  # bytes of a file of settings in JSON
YAML = 2**16  # bytes, because it is slow to read; the settings of a run take some 2,000
TASK = 2**29  # bytes of a file of a task; GLUE's largest is a fifth of that
TOKENIZER = 2**26  # bytes of a tokenizer's file; with 250,000 entries it has some 20 to 35 million
ENTRIES = 2**21  # of a vocabulary

_AT_ONCE = 2**20


def memory() -> int:
    """Bytes of memory of this machine, or of the container."""
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(there, int(Path("/sys/fs/cgroup/memory.max").read_text("utf-8")))
    except (OSError, ValueError):  # no such group, or `max`
        return there


class Room:
    """How much text may be read, all files together: a third of the memory, because working on it takes as much again.

    Raises ValueError, in one line, as soon as the text, or what one file unpacks to, exceeds its limit.
    """

    def __init__(self) -> None:
        self.most = self._left = memory() // 3
        self._from: dict[str, int] = {}

    def add(self, path: Path, size: int, packed: int | None = None) -> None:
        """Take in `size` more bytes or characters of a file; packed: how many bytes of it were read so far."""
        self._left -= size
        if self._left < 0:
            most = f"{self.most / 2**30:.1f} GiB"
            raise ValueError(f"{path}: the text exceeds {most}, a third of the memory here: give less text")
        total = self._from[str(path)] = self._from.get(str(path), 0) + size
        if packed is not None and total > max(FREE, RATIO * packed):
            raise ValueError(f"{path} unpacks to more than {RATIO} times its size: it is not text, leave it out")

    def all(self, file: Any, path: Path, raw: BinaryIO | None = None) -> bytes:
        """All of an open file. raw: the packed file below it, whose position says how much was read."""
        parts = []
        while part := file.read(_AT_ONCE):
            self.add(path, len(part), raw.tell() if raw else None)
            parts.append(part)
        return b"".join(parts)


def read(path: Path, most: int) -> bytes:
    """The content of a file. Raises ValueError, in one line, for more than `most` bytes and for anything but a file."""
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # a pipe would have us wait
        about = os.fstat(file.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise ValueError(f"{path} is not a file")
        content = file.read(most + 1) if about.st_size <= most else b""
    if max(len(content), about.st_size) > most:
        raise ValueError(f"{path} exceeds {most / 2**20:g} MiB, the limit for a file of its kind")
    return content


def json_value(content: str | bytes) -> Any:
    """The value of a JSON text. Raises ValueError, in one line, for other text and for nesting too deep."""
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
    """A JSON object. Raises ValueError, in one line with the file's name; OSError if it cannot be opened."""
    content = read(path, most)
    try:
        found = json_value(content)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object")
    return found


def one_line(error: BaseException) -> str:
    """An error's text, or its name if it has none."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def fails(call: Callable[[], Any], errors: str) -> Any:
    """Call a library on a file. Raises ValueError, `errors` and the reason, for whatever it raises.

    That includes a panic of its Rust code, which is not an Exception.
    """
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ValueError(f"{errors} ({one_line(error)})") from None


def metadata(folder: Path) -> dict[str, Any]:
    """What a bundle says of its own training; empty if it says nothing that can be read."""
    try:
        return json_file(folder / "metadata.json")
    except (OSError, ValueError):
        return {}
