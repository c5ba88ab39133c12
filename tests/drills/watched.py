"""One command in a forked child, under watch: what it opens, imports, changes and starts, and what it prints.

Python's own audit events tell what the child does; inotify, what anything at all does to the files that nobody may
touch, code below Python and processes of the child's included.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import select
import signal
import struct
import sys
import time
import traceback
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CPU_S, STILL_S, WALL_S, MEMORY = 30, 20.0, 300.0, 3 << 30  # of a CPU, asleep without any, in all; bytes
_NOW = 0o4000  # IN_NONBLOCK
_KINDS = {
    0x1: "read",  # IN_ACCESS
    0x2: "changed",  # IN_MODIFY
    0x4: "changed",  # IN_ATTRIB
    0x20: "opened",  # IN_OPEN
    0x40: "moved",  # IN_MOVED_FROM
    0x80: "made",  # IN_MOVED_TO
    0x100: "made",  # IN_CREATE
    0x200: "removed",  # IN_DELETE
    0x400: "removed",  # IN_DELETE_SELF
    0x800: "moved",  # IN_MOVE_SELF
}
# By whom a command may be helped, besides by another Python: what tells of the machine and of the code.
HELPERS = {"git", "uname", "lscpu", "ldconfig", "nvidia-smi"}
_CHANGES = {
    "os.remove": (0, 1),
    "os.rmdir": (0, 1),
    "os.mkdir": (0, 2),
    "os.truncate": (0, None),
    "os.chmod": (0, 2),
    "os.chown": (0, 3),
    "os.utime": (0, 3),
    "shutil.rmtree": (0, 1),
}
_PAIRS = {"os.rename": (2, 3), "os.link": (2, 3), "shutil.move": (None, None), "shutil.copyfile": (None, None)}


@dataclass(frozen=True)
class Bounds:
    """Below which folders a command may read and write, besides what Python and the system need.

    inside: the run folder, from which nothing is ever imported. writes are reads, too. ray: whether Ray may start.
    """

    inside: Path
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    ray: bool = False


@dataclass
class Outcome:
    """status: None where it did not end by itself in time. done: what it did that it must not, a line each."""

    status: int | None
    signal: int = 0
    out: str = ""
    err: str = ""
    seconds: float = 0.0
    done: list[str] = field(default_factory=list)


def command(
    call: Callable[[], Any], bounds: Bounds, scratch: Path, cwd: Path, wall_s: float = WALL_S, limited: bool = True
) -> Outcome:
    """Run `call` in a child of this process. limited: by memory and seconds of a CPU, which a Ray would not bear."""
    paths = [scratch / name for name in ("out", "err", "done")]
    begin, child = time.monotonic(), os.fork()
    if child == 0:
        _child(call, bounds, paths, cwd, limited)
    ready = _ends(child, wall_s, STILL_S if limited else wall_s)
    if not ready:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
    _, ended = os.waitpid(child, 0)
    out, err, done = (path.read_text("utf-8", errors="surrogateescape") for path in paths)
    number = os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0
    late = not ready or number in (signal.SIGXCPU, signal.SIGALRM)
    status = None if late or number else os.WEXITSTATUS(ended)
    return Outcome(
        status, 0 if late else number, out, err, time.monotonic() - begin, [*dict.fromkeys(done.splitlines())]
    )


def _ends(child: int, wall_s: float, still_s: float) -> bool:
    """Whether it ends within these seconds, and is never asleep for so long without a moment of a CPU."""
    end, pidfd = time.monotonic() + wall_s, os.pidfd_open(child)
    used, since = "", time.monotonic()
    try:
        while (now := time.monotonic()) < end:
            if select.select([pidfd], [], [], 1.0)[0]:
                return True
            _, _, told = Path(f"/proc/{child}/stat").read_text("utf-8").rpartition(") ")
            state, *numbers = told.split()
            spent = " ".join(numbers[10:12])  # in user code and in the system
            if state in "RD" or spent != used:
                used, since = spent, now
            elif now - since > still_s:
                return False
        return False
    finally:
        os.close(pidfd)


def _child(call: Callable[[], Any], bounds: Bounds, paths: Sequence[Path], cwd: Path, limited: bool) -> None:
    """Never comes back."""
    status = 70
    try:
        os.setsid()
        out, err, done = (os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in paths)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for new, old in ((nothing, 0), (out, 1), (err, 2)):
            os.dup2(new, old)
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        os.chdir(cwd)
        if limited:
            resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 5))
            most = _virtual() + MEMORY
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
        watch(bounds, done)
        try:
            status = int(call() or 0)
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        except BaseException:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(status)


def _virtual() -> int:
    """Bytes of addresses that this process has."""
    return int(Path("/proc/self/statm").read_text("utf-8").split()[0]) * resource.getpagesize()


def watch(bounds: Bounds, log: int) -> None:
    """From now on, write to a descriptor what this process does beyond its bounds; for good, as audit hooks are."""
    hook = _Hook(bounds, log)
    sys.addaudithook(hook)


class _Hook:
    def __init__(self, bounds: Bounds, log: int) -> None:
        self._log, self._busy, self._ray = log, False, bounds.ray
        self._inside = os.path.realpath(bounds.inside)
        self._writes = tuple(map(os.path.realpath, bounds.writes))
        system = ("/proc", "/sys", "/dev", "/etc", "/usr", "/lib", "/lib64", "/opt", "/bin", "/sbin", "/run")
        python = {sys.prefix, sys.base_prefix, *filter(None, sys.path[1:]), str(Path(__file__).parents[2])}
        self._reads = (*self._writes, *map(os.path.realpath, (*system, *python, *bounds.reads)))
        self._devices = ("/dev/null", "/dev/tty", "/dev/shm", "/proc/self")

    def __call__(self, event: str, given: tuple[Any, ...]) -> None:
        if self._busy:
            return
        self._busy = True
        try:
            if line := self._fault(event, given):
                os.write(self._log, line.encode("utf-8", "backslashreplace").replace(b"\n", b" ")[:500] + b"\n")
        finally:
            self._busy = False

    def _fault(self, event: str, given: tuple[Any, ...]) -> str | None:
        match event:
            case "open":
                return self._opened(*given[:3])
            case "exec":
                name = getattr(given[0], "co_filename", "<")
                inside = not name.startswith("<") and _below(os.path.realpath(name), (self._inside,))
                return f"imported from inside: {name}" if inside else None
            case "import":
                name = given[1] if isinstance(given[1], str) else ""
                inside = name and _below(os.path.realpath(name), (self._inside,))
                return f"imported from inside: {name}" if inside else None
            case "os.listdir" | "os.scandir":
                return None  # names of a storage are looked through; what nobody may look at has inotify on it
            case "subprocess.Popen":
                return self._started(given[0] or given[1][0])
            case "os.exec" | "os.posix_spawn" | "os.system":
                return self._started(given[0])
            case "os.symlink":
                return self._changed(event, given[1], given[2])
        if event in _CHANGES:
            path, folder = _CHANGES[event]
            return self._changed(event, given[path], given[folder] if folder and len(given) > folder else -1)
        if event in _PAIRS:
            folders = _PAIRS[event]
            first, second = (given[at] if at is not None and len(given) > at else -1 for at in folders)
            reads = event == "shutil.copyfile"
            return (None if reads else self._changed(event, given[0], first)) or self._changed(event, given[1], second)
        return None

    def _opened(self, path: Any, mode: Any, flags: Any) -> str | None:
        if isinstance(path, int) or path is None:
            return None
        name = os.fsdecode(path)
        flags = flags if isinstance(flags, int) else 0
        if not os.path.isabs(name) and flags & os.O_DIRECTORY:
            return None  # of a folder that is open, as rmtree does, which says so itself
        writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) or set(str(mode or "")) & set("wax+")
        if not writes and not os.path.isabs(name) and not os.path.lexists(name):
            return None  # below a folder that is open, as of rmtree, or nowhere
        real = _real(name)
        if writes:
            fine = _below(real, self._writes) or _below(real, self._devices)
            return None if fine else f"wrote outside: {real}"
        return None if _below(real, self._reads) else f"read outside: {real}"

    def _changed(self, event: str, path: Any, folder: Any) -> str | None:
        if isinstance(path, int):
            return None
        name = os.fsdecode(path)
        if isinstance(folder, int) and folder >= 0 and not os.path.isabs(name):
            name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)
        name = os.path.abspath(name)  # the thing itself, be it a link, in the real folder
        real = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if event == "os.mkdir" and os.path.isdir(real):
            return None  # which changes nothing
        return None if _below(real, self._writes) else f"{event} outside: {real}"

    def _started(self, program: Any) -> str | None:
        name = os.fsdecode(program)
        if (os.path.basename(name) in HELPERS or name == sys.executable) and not _below(_real(name), (self._inside,)):
            return None
        return None if self._ray and "/ray/" in _real(name) else f"started {name}"


def _real(name: str) -> str:
    try:
        return os.path.realpath(name)
    except ValueError:  # a NUL: the system will refuse it
        return "/dev/null"


def _below(path: str, folders: Iterable[str]) -> bool:
    """Of folders, or of names up to a `*`."""
    return any(
        path.startswith(folder[:-1]) if folder.endswith("*") else path == folder or path.startswith(f"{folder}/")
        for folder in folders
    )


class Untouchables:
    """Files and folders that nobody may open, change or remove; whoever does is seen, at whatever level it happens."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.inotify_init1(_NOW)
        self._names: dict[int, str] = {}
        for path in paths:
            mark = self._libc.inotify_add_watch(self._file, os.fsencode(path), sum(_KINDS))
            if mark < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
            self._names[mark] = str(path)

    def touched(self) -> list[str]:
        """What happened since it was last asked, a line each."""
        lines = []
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._file, 1 << 16):
                for mark, kinds, name in _events(data):
                    words = [word for bit, word in _KINDS.items() if kinds & bit]
                    if words:
                        lines.append(f"{words[0]} outside: {os.path.join(self._names.get(mark, '?'), name)}")
        return [*dict.fromkeys(lines)]

    def close(self) -> None:
        os.close(self._file)


def _events(data: bytes) -> Iterator[tuple[int, int, str]]:
    at = 0
    while at < len(data):
        mark, kinds, _, length = struct.unpack_from("iIII", data, at)
        yield mark, kinds, os.fsdecode(data[at + 16 : at + 16 + length].rstrip(b"\0"))
        at += 16 + length


_TURNS = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def steering(text: str) -> str | None:
    """The first character of a text that steers a terminal or turns the direction of writing, or None."""
    for each in set(text):
        if each not in "\n\t" and (unicodedata.category(each) in ("Cc", "Zl", "Zp") or _TURNS.match(each)):
            return repr(each)
    return None
