"""Files that are there whole or not at all, and the folder for what outlives a run."""

from __future__ import annotations

import io
import os
import sys
import uuid
from pathlib import Path

GIVEN = "utf-8-sig"  # of what people bring: UTF-8, less the byte order mark that some editors put before it


def cache_root() -> Path:
    """$SWEEPER_CACHE, else `sweeper` in the user's cache folder."""
    if named := os.environ.get("SWEEPER_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sweeper"


def standard_streams() -> None:
    """Have stdout and stderr print, as an escape such as \\u2026, what their encoding has no character for."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


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
