"""Files that are there whole or not at all, the folder for what outlives a run, and paths and streams that are not."""

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

GIVEN = "utf-8-sig"  # of what people bring: UTF-8, less the byte order mark that some editors put before it
_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # of the direction of writing
_LONGEST = 100  # characters of a path in an error
_SHARED = "SWEEPER_SHARED"
_OURS, OWNER = "sweeper-", "owner.lock"
_BORN_S, OLD_S = 10.0, 6 * 3600.0  # until a folder's lock is held for sure; until what has no lock is nobody's
_SOON_S, _STUCK_S = 2.0, 60.0


class Unsafe(OSError, ValueError):
    """A path that a stranger may have chosen, and that is not followed; in one line that names it."""


def private(shared: bool = False) -> None:
    """Have what this process, and those that it starts, make from here on be its user's alone, or the group's, too.

    shared: of a spec; SWEEPER_SHARED=1 says so to commands that read none. What is there already keeps its mode.
    """
    os.umask(0o007 if shared or os.environ.get(_SHARED) == "1" else 0o077)


def mode() -> int:
    """Of a file that is made here, as `private` has it: some libraries give the group less than the umask lets them."""
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o660 & ~mask


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


def describe(error: OSError) -> str | None:
    """What is wrong with the path that an error names, in one line; None where it names none."""
    if isinstance(error, Unsafe):
        return str(error)
    given = error.filename if error.filename2 is None else error.filename2  # what was to be replaced, not by what
    if given is None:
        return None
    name = os.fsdecode(given) if isinstance(given, str | bytes) else str(given)
    shown = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    return f"{' '.join(shown.split())}: {error.strerror}"


def inside(root: Path, *parts: str) -> Path:
    """A path below a folder, of parts that come from outside: a record, a bundle, an object store's keys.

    Each part is a relative path with `/`. Raises Unsafe, a ValueError in one line, where one is absolute, is empty,
    climbs with `..`, or leads through a link: nothing of a stranger's is followed out of `root`, which itself may be a
    link.
    """
    path = root
    for part in parts:
        steps = PurePosixPath(part).parts
        if not steps or part.startswith("/") or ".." in steps or "\0" in part or "\\" in part:
            raise Unsafe(f"{printable(part)!r} is not a path inside {root}")
        for step in steps:
            path = path / step
            if path.is_symlink():
                raise Unsafe(f"{path} is a link, and links of a record are not followed: put the file itself there")
    return path


def refuse_links(tree: Path) -> None:
    """Raises Unsafe, a ValueError in one line that names it, for a link, a pipe or a device in a folder or a file."""
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
    """Raises Unsafe where a link of a run folder leads to this path; links that people made elsewhere are theirs."""
    whole = Path(os.path.abspath(path))
    for folder in whole.parents:
        if (folder / "journal.jsonl").exists():
            inside(folder, whole.relative_to(folder).as_posix())


def reading(path: Path) -> io.BufferedReader:
    """A file of a record, to be read: never through a link, nor from a pipe, which would wait for its writer.

    Raises Unsafe for these, in one line, and OSError as `open` does. Folders above it are the caller's to check.
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
    """A line for people on stderr, that stays one line and steers no terminal, whatever names are in it.

    Where its reader has gone, as `head` does, it and the rest are for nobody.
    """
    try:
        print(printable(line).replace("\n", "\\n"), file=sys.stderr, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def refused(error: ValueError | OSError) -> int:
    """Says in one line why a command ends. Returns its exit status, 2."""
    what = describe(error) if isinstance(error, OSError) else None
    say(f"error: {' '.join((what or str(error)).split())}")
    return 2


class Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def standard_streams() -> None:
    """Have stdin, stdout and stderr be there, empty ones for those that a command was started without.

    The next file to be opened, such as the record, would take the number of a closed one, and what libraries write
    to it. What the terminal's encoding has no character for is printed as an escape, such as \\u2026. A reader that
    goes, as `head` does, is no error, not at the process's end either.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if type(stream) is io.TextIOWrapper and stream is getattr(sys, f"__{name}__"):  # no test's own
            stream = _unread_too(stream)
            setattr(sys, name, stream)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Heedless(io.FileIO):
    """A stream whose reader may go, as `head` does: the rest is for nobody, and no error."""

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
    """Results on stdout, steering no terminal. Where their reader has gone, as `head` does, the rest is for nobody."""
    try:
        print(printable(text), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def put(path: Path, content: bytes | str) -> None:
    """Make or replace a file, at once and on disk; its folder is made where there is none. Text is UTF-8.

    What calls that were killed left of it goes, once it is old.
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
    """Take away what is ours, of such a name, and hours old: what a killed process left. Links are not followed."""
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > OLD_S:
                shutil.rmtree(path) if stat.S_ISDIR(found.st_mode) else path.unlink()


def leftovers(base: Path, prefix: str) -> Iterator[Path]:
    """The folders of ours, made by `owned`, whose process is gone; each goes once the caller asks for the next one.

    Only where folder and lock are this user's and no links: below a temporary folder everybody can make names.
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
    """A new folder, this user's alone and of a name that nobody foresees, for the length of the block."""
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    try:
        with FileLock(folder / OWNER):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def temporary() -> Iterator[None]:
    """Have temporary files of this process, and of those that it starts, lie in one folder, and away with it.

    So nothing lasts of a process that is killed: whoever comes next takes its folder away. Where there is no room for
    one, temporary files lie where they would have lain.
    """
    with contextlib.ExitStack() as stack:
        before, named = tempfile.tempdir, os.environ.get("TMPDIR")
        with contextlib.suppress(OSError):
            base = Path(tempfile.gettempdir())
            if not base.name.startswith(_OURS):  # else that of the process which started this one
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
    """Hold a lock file, which is made as `private` has it. say: told in one line for whom this waits.

    One that only others hold who may not write it, and so cannot be at work, is replaced. Raises filelock's Timeout
    after `wait_s` seconds, and Unsafe or OSError for what is no file that can be locked.
    """
    with contextlib.suppress(FileNotFoundError):
        _refuse(path, path.lstat().st_mode)
    lock = FileLock(path, mode=mode())
    try:
        lock.acquire(timeout=min(wait_s, _SOON_S))
    except Timeout:
        _take_from_readers(path)
        if say and wait_s > _SOON_S:
            say(f"waiting for {path}, which {held_by(path)} holds")
        lock.acquire(timeout=max(0.0, wait_s - _SOON_S))
    try:
        with contextlib.suppress(OSError):
            seen = path.lstat().st_mode
            if seen & 0o044 and not seen & 0o022:  # of an earlier version: who can open it can hold it
                path.chmod(0o600)
        yield
    finally:
        lock.release()


def held_by(path: Path) -> str:
    """Who holds a lock file, in words, as far as this machine tells."""
    with contextlib.suppress(OSError):
        found = path.lstat()
        for process, user in _holders(found):
            return f"process {process} of {_named(user)}"
        return f"a process that is not seen here, perhaps on another machine; the file is {_named(found.st_uid)}'s"
    return "another process"


def _take_from_readers(path: Path) -> None:
    """Put a new lock file in the place of ours, where processes of other users alone hold it, who cannot write it."""
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
    """(process, its user) of those on this machine that hold a lock file; a user is None where it is not told."""
    try:
        return _holders(path.lstat())
    except OSError:
        return []


def _holders(file: os.stat_result) -> list[tuple[int, int | None]]:
    """(process, its user) of those on this machine that hold a lock of a file; a user is None where it is not told."""
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
