"""Files that are there whole or not at all, the folder for what outlives a run, and paths and streams that are not."""

from __future__ import annotations

import argparse
import io
import os
import stat
import sys
import tempfile
import unicodedata
import uuid
from pathlib import Path, PurePosixPath
from typing import NoReturn

GIVEN = "utf-8-sig"  # of what people bring: UTF-8, less the byte order mark that some editors put before it
_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of writing
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


def inside(root: Path, *parts: str) -> Path:
    """A path below a folder, of parts that come from outside: a record, a bundle, an object store's keys.

    Each part is a relative path with `/`. Raises ValueError, in one line, where one is absolute, is empty, climbs with
    `..`, or leads through a link: nothing of a stranger's is followed out of `root`, which itself may be a link.
    """
    path = root
    for part in parts:
        steps = PurePosixPath(part).parts
        if not steps or part.startswith("/") or ".." in steps or "\0" in part or "\\" in part:
            raise ValueError(f"{printable(part)!r} is not a path inside {root}")
        for step in steps:
            path = path / step
            if path.is_symlink():
                raise ValueError(f"{path} is a link, and links of a record are not followed: put the file itself there")
    return path


def refuse_links(tree: Path) -> None:
    """Raises ValueError, in one line that names it, for a link, a pipe or a device in a folder or a file."""
    for path in [tree, *tree.rglob("*")] if not tree.is_symlink() else [tree]:
        kind = path.lstat().st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            what = "a link" if stat.S_ISLNK(kind) else "neither a file nor a folder"
            raise ValueError(f"{path} is {what}: it is not read, copied or sent; put the file itself there")


def printable(text: str) -> str:
    """The text with what steers a terminal, or turns the direction of writing, as escapes such as \\x1b.

    Line ends and tabs stay.
    """
    if text.isprintable():
        return text
    return "".join(
        each.encode("unicode_escape").decode()
        if each not in "\n\t" and (unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") or each in _TURNS)
        else each
        for each in text
    )


def one_line(text: str) -> str:
    """The text as `printable`, in one line: every run of white space is one space."""
    return printable(" ".join(text.split()))


def say(line: str) -> None:
    """A line for people on stderr, that stays one line and steers no terminal, whatever names are in it."""
    print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)


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
    """Results on stdout, steering no terminal. Where their reader has gone, as `head` does, the rest is for nobody."""
    try:
        print(printable(text), flush=True)
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
