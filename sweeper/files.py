"""Files that are there whole or not at all, the folder for what outlives a run, and paths and streams that are not."""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import uuid
from pathlib import Path
from typing import NoReturn

GIVEN = "utf-8-sig"  # of what people bring: UTF-8, less the byte order mark that some editors put before it
_LONGEST = 100  # characters of a path in an error


def cache_root() -> Path:
    """$SWEEPER_CACHE, else `sweeper` in the user's cache folder. Raises ValueError, in one line, without a home."""
    if named := os.environ.get("SWEEPER_CACHE"):
        return expanded(named, "SWEEPER_CACHE")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sweeper"
    except RuntimeError:
        raise ValueError("there is no home folder for the cache: set SWEEPER_CACHE to a folder") from None


def at_home() -> None:
    """Have there be a home folder, for Ray asks for one when it is imported: where there is none, that of the cache."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.path.abspath(os.environ.get("SWEEPER_CACHE") or tempfile.gettempdir())


def expanded(path: str, what: str) -> Path:
    """A path with its `~` as the home that it stands for. Raises ValueError, in one line that names `what` it is."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} {path}: there is no such home folder; write the path out") from None


def told(error: OSError) -> str | None:
    """What is wrong with the path that an error names, in one line; None where it names none."""
    if error.filename is None:
        return None
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"{' '.join(shown.split())}: {error.strerror}"


class Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def standard_streams() -> None:
    """Have stdin, stdout and stderr be there, empty ones for those that a command was started without.

    The next file to be opened, such as the record, would take the number of a closed one, and what libraries write
    to it. What the terminal's encoding has no character for is printed as an escape, such as \\u2026.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def emit(text: str) -> None:
    """Results on stdout. Where their reader has gone, as `head` does, the rest is for nobody."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def put(path: Path, content: bytes | str) -> None:
    """Make or replace a file, at once and on disk; its folder is made where there is none. Text is UTF-8."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
