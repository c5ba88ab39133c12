"""Atomic files, the cache folder, locks, safe paths, and what is printed on the standard streams."""

from __future__ import annotations

import argparse
import contextlib
import errno
import glob
import io
import os
import pwd
import shutil
import stat
import sys
import tempfile
import time
import unicodedata
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from filelock import FileLock, Timeout

GIVEN = "utf-8-sig"  # of files that people bring: UTF-8, without the byte order mark that some editors add
_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # they turn the writing direction
_LONGEST = 100  # characters of a path in an error
_SHARED = "SWEEPER_SHARED"
_OURS, OWNER = "sweeper-", "owner.lock"
_BORN_S, OLD_S = (
    10.0,
    6 * 3600.0,
)  # ages: a folder's lock is surely held; a file without a lock is abandoned
_SOON_S, _STUCK_S = 2.0, 60.0


class Unsafe(OSError, ValueError):
    """A path that a stranger may have chosen, and that is therefore not followed; in one line that names it."""


def private(shared: bool = False) -> None:
    """From here on, make files of this process and its children private to its user, or to the user's group.

    shared: from the spec; SWEEPER_SHARED=1 does the same for commands without a spec. Existing files keep their mode.
    """
    os.umask(0o007 if shared or os.environ.get(_SHARED) == "1" else 0o077)


def mode() -> int:
    """The mode of new files under `private`, for libraries that would give the group less than the umask allows."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o660 & ~mask


def cache_root() -> Path:
    """$SWEEPER_CACHE, or `sweeper` in the user's cache folder. Raises ValueError, in one line, without a home."""
    if named := os.environ.get("SWEEPER_CACHE"):
        return expanded(named, "SWEEPER_CACHE")
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "sweeper"
    except RuntimeError:
        raise ValueError("there is no home folder for the cache: set SWEEPER_CACHE to a folder") from None


def at_home() -> None:
    """Set HOME to the cache folder if there is no home: Ray asks for one when it is imported."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = os.path.abspath(os.environ.get("SWEEPER_CACHE") or tempfile.gettempdir())


def expanded(path: str, what: str) -> Path:
    """A path with `~` expanded. what: names the path in errors. Raises ValueError in one line."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} {path}: there is no such home folder; write the path out") from None


def describe(error: OSError) -> str | None:
    """What is wrong with the path that an error names, in one line; None if it names none."""
    if isinstance(error, Unsafe):
        return str(error)
    given = error.filename if error.filename2 is None else error.filename2  # the file to be replaced, not the new one
    if given is None:
        return None
    name = os.fsdecode(given) if isinstance(given, str | bytes) else str(given)
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"{' '.join(shown.split())}: {error.strerror}"


def inside(root: Path, *parts: str) -> Path:
    """A path below `root`, from parts that come from outside: a record, a bundle, keys of an object store.

    Each part is a relative path with `/`. Raises Unsafe, a ValueError in one line, if a part is absolute or empty,
    contains `..`, or leads through a link: nothing a stranger wrote may lead out of `root`, which itself may be a link.
    """
    path = root
    for part in parts:
        steps = PurePosixPath(part).parts
        if not steps or part.startswith("/") or ".." in steps or "\0" in part or "\\" in part:
            raise Unsafe(f"{printable(part)!r} is not a path inside {root}")
        for step in steps:
            path = path / step
            if path.is_symlink():
                raise Unsafe(f"{path} is a link, and links in a run folder are not followed: put the file itself there")
    return path


def refuse_links(tree: Path) -> None:
    """Raises Unsafe, a ValueError in one line, for a link, pipe or device. tree: a file, or a folder to search."""
    _refuse(tree, tree.lstat().st_mode)
    below = [tree] if tree.is_dir() else []
    while below:
        with os.scandir(below.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    _refuse(Path(entry.path), entry.stat(follow_symlinks=False).st_mode)


def _refuse(path: Path, kind: int) -> None:
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        what = "a link" if stat.S_ISLNK(kind) else "neither a file nor a folder"
        raise Unsafe(f"{path} is {what}: it is not read, copied or sent; put the file itself there")


def refuse_record_links(path: Path) -> None:
    """Raises Unsafe if a link inside a run folder leads to this path; links outside are allowed."""
    whole = Path(os.path.abspath(path))
    for folder in whole.parents:
        if (folder / "journal.jsonl").exists():
            inside(folder, whole.relative_to(folder).as_posix())


def reading(path: Path) -> io.BufferedReader:
    """Open a file of a record for reading, but no link, and no pipe, which would block.

    Raises Unsafe for these, in one line, and OSError as `open` does. The caller checks the folders above.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):  # a link; a socket
            refuse_links(path)
        raise
    kind = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(kind):
        os.close(descriptor)
        _refuse(path, kind)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return os.fdopen(descriptor, "rb")


def printable(text: str) -> str:
    """The text with characters that control a terminal, or the direction of writing, as escapes such as \\x1b.

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
    """The text as `printable`, in one line: every run of white space becomes one space."""
    return printable(" ".join(text.split()))


def say(line: str) -> None:
    """Print a line for people on stderr: it stays one line and cannot control the terminal, whatever it contains.

    If the reader has gone, as `head` does, it and all later lines are dropped.
    """
    try:
        print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def refused(error: ValueError | OSError) -> int:
    """Print in one line why a command ends. Returns its exit status, 2."""
    what = describe(error) if isinstance(error, OSError) else None
    say(f"error: {' '.join((what or str(error)).split())}")
    return 2


class Parser(argparse.ArgumentParser):
    """An argument parser that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"{message}; see --help")


def standard_streams() -> None:
    """Make sure that stdin, stdout and stderr exist; those that a command was started without become empty.

    Otherwise the next opened file, such as the journal, would get the number of a closed stream, and with it what
    libraries print there. Characters that the terminal's encoding lacks are printed as escapes, such as \\u2026. A
    reader that goes away, as `head` does, is no error, not even at the end of the process.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):  # not a test's replacement
            stream = _unread_too(stream)
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Heedless(io.FileIO):
    """A stream whose reader may go away, as `head` does: the rest is dropped without an error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data) or 0
        except BrokenPipeError:
            return memoryview(data).nbytes


def _unread_too(stream: io.TextIOWrapper) -> io.TextIOWrapper:
    stream.flush()
    raw = _Heedless(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, line_buffering=stream.line_buffering or stream.isatty()
    )


def emit(text: str) -> None:
    """Print results on stdout, as `printable`. If the reader has gone, as `head` does, the rest is dropped."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def put(path: Path, content: bytes | str) -> None:
    """Create or replace a file atomically and durably, and its folder if it is missing. Text is UTF-8.

    Removes old leftovers of calls that were killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_old(path.parent, f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}")
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with partial.open("xb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def clear_old(folder: Path, pattern: str) -> None:
    """Remove our own files and folders that match and are hours old, which killed processes left. Follows no links."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > OLD_S:
                shutil.rmtree(path) if stat.S_ISDIR(found.st_mode) else path.unlink()


def leftovers(base: Path, prefix: str) -> Iterator[Path]:
    """Folders made by `owned` whose process is gone; each is removed once the caller asks for the next one.

    Only if folder and lock belong to this user and are no links: everybody can create names in a temporary folder.
    """
    for folder in base.glob(f"{prefix}*"):
        lock = folder / OWNER
        with contextlib.suppress(OSError):
            if not (_mine(folder, stat.S_ISDIR) and _mine(lock, stat.S_ISREG)):
                continue
            if time.time() - lock.lstat().st_mtime < _BORN_S:  # it may be about to be locked
                continue
            with FileLock(lock, timeout=0):
                yield folder
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def owned(base: Path, prefix: str) -> Iterator[Path]:
    """A new private folder with an unpredictable name, which is removed at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        with FileLock(folder / OWNER):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Put temporary files of this process and its children into one folder, which is removed afterwards.

    If the process is killed, the next one removes its folder. If the folder cannot be made, temporary files stay in
    their usual place.
    """
    with contextlib.ExitStack() as stack:
        before, named = tempfile.tempdir, os.environ.get("TMPDIR")
        with contextlib.suppress(OSError):
            base = Path(tempfile.gettempdir())
            if not base.name.startswith(_OURS):  # else the parent process has made one
                for _ in leftovers(base, _OURS):
                    pass
                tempfile.tempdir = os.environ["TMPDIR"] = str(stack.enter_context(owned(base, _OURS)))
        try:
            yield
        finally:
            tempfile.tempdir = before
            if named is None:
                os.environ.pop("TMPDIR", None)
            else:
                os.environ["TMPDIR"] = named


@contextlib.contextmanager
def locked(path: Path, wait_s: float, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Hold a lock file, with the mode that `private` sets. say: gets one line that names the holder, if this waits.

    A lock file is replaced if all its holders are users who cannot write it and so cannot be running a sweep. Raises
    filelock's Timeout after `wait_s` seconds, and Unsafe or OSError if the path cannot be locked.
    """
    with contextlib.suppress(FileNotFoundError):
        _refuse(path, path.lstat().st_mode)
    lock = FileLock(path, mode=mode())
    try:
        lock.acquire(timeout=min(wait_s, _SOON_S))
    except Timeout:
        _take_from_readers(path)
        if say and wait_s > _SOON_S:
            say(f"waiting for {path}, held by {held_by(path)}")
        lock.acquire(timeout=max(0.0, wait_s - _SOON_S))
    try:
        with contextlib.suppress(OSError):
            seen = path.lstat().st_mode
            if seen & 0o044 and not seen & 0o022:  # from an earlier version: whoever can open it can hold it
                path.chmod(0o600)
        yield
    finally:
        lock.release()


def held_by(path: Path) -> str:
    """Who holds a lock file, in words, as far as this machine knows."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        for process, user in _holders(found):
            return f"process {process} of {_named(user)}"
        return f"a process not visible here, perhaps on another machine; the file belongs to {_named(found.st_uid)}"
    return "another process"


def _take_from_readers(path: Path) -> None:
    """Replace our lock file if only processes of other users hold it, who cannot write it."""
    fresh = path.with_name(f"{path.name}.new")
    with contextlib.suppress(OSError):
        try:
            os.close(os.open(fresh, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # one process at a time looks
        except FileExistsError:
            if time.time() - fresh.lstat().st_mtime > _STUCK_S:
                fresh.unlink()
            return
        try:
            found = path.lstat()
            users = {user for _, user in _holders(found)}
            ours = found.st_uid == os.getuid() and not found.st_mode & 0o022
            if ours and users and not users & {None, 0, os.getuid()}:
                fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)


def holders(path: Path) -> list[tuple[int, int | None]]:
    """(process id, user id) of the holders of a lock file on this machine; a user is None if unknown."""
    try:
        return _holders(path.lstat())
    except OSError:
        return []


def _holders(file: os.stat_result) -> list[tuple[int, int | None]]:
    """As `holders`, for the status of a file."""
    device = f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"
    found = []
    for line in Path("/proc/locks").read_text("utf-8").splitlines():
        words = line.split()
        if "->" not in words and words[1] == "FLOCK" and words[5] == device:
            found.append((int(words[4]), _user(int(words[4]))))
    return found


def _user(process: int) -> int | None:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text("utf-8", "replace").splitlines():
            if line.startswith("Uid:"):
                return int(line.split()[2])  # the effective one
    return None


def _named(user: int | None) -> str:
    try:
        return "an unknown user" if user is None else pwd.getpwuid(user).pw_name
    except KeyError:
        return f"user {user}"


def _mine(path: Path, kind: Callable[[int], bool]) -> bool:
    found = path.lstat()
    return found.st_uid == os.getuid() and kind(found.st_mode)
