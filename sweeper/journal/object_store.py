"""A storage folder in an object store, for nodes that share no disk: s3://… or gs://…, through pyarrow's file systems.

Trials put their checkpoints there and fetch them from there. The driver also keeps a local folder, its mirror: an
object store cannot append, so the journal is written there and sent whole after every event that decides something.
`--resume` brings it back, on any machine. Keys come from the environment of each machine.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl

from sweeper.journal import checkpoints
from sweeper.journal.checkpoints import KEEP, MANIFEST
from sweeper.journal.events import Report
from sweeper.journal.journal import Journal
from sweeper.system import files
from sweeper.system.secrecy import redact

_NAME = re.compile(r"key|secret|token|password|credential|signature|\bsig\b", re.IGNORECASE)
_LOGIN = re.compile(r"(?:[^/:]*:.*|[^/]*)@")  # a secret with a slash in it follows a colon
ADDRESS = ".address"  # in a mirror: the address that it mirrors
JOURNAL, SPEC = "journal.jsonl", "spec.yaml"
POLL_S, REPORTS_S = 0.2, 5.0
_NOWHERE = Path("/nonexistent")  # to check names as if they were below a folder
_LOCAL_ONLY = ("trials", "optuna.log")


class Address:
    """SCHEME://BUCKET/PATH?OPTIONS without a secret: it may be printed, stored and handed on."""

    def __init__(self, text: str) -> None:
        """Raises ValueError, in one line without the secret, for an address that holds one."""
        place, question_mark, query = text.partition("?")
        self._place, self._query = place.rstrip("/"), question_mark + query
        login = _LOGIN.match(text.partition("://")[2])
        keys = [key for key, _ in parse_qsl(query, keep_blank_values=True) if _NAME.search(key)]
        if keys or (login and login[0] != "anonymous@"):
            raise ValueError(
                f"{self._place.partition('://')[0]}://…: the address holds a secret, {keys[0] if keys else 'a login'}, "
                "which would be stored and printed: set it in the environment of every machine, as "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )

    def __str__(self) -> str:
        return self._place + self._query

    def __truediv__(self, name: str) -> Address:
        below = copy.copy(self)
        below._place = f"{self._place}/{name}"
        return below

    def split(self) -> tuple[str, str]:
        """The address of the folder above, and the name in it. Raises ValueError if it has no folder above."""
        parent, _, name = self._place.rpartition("/")
        if not name or parent.endswith("/"):
            raise ValueError(f"{self} is not an address of a run: name the run's own folder below the bucket")
        return parent + self._query, name


class Remote:
    """A file or folder at an address.

    Methods raise OSError if the store cannot be reached, and files.Unsafe, which is one, for keys that lead elsewhere
    and for links in what is sent.
    """

    def __init__(self, address: str) -> None:
        """Raises ValueError, in one line, for a text that is no address, or that holds a secret."""
        from pyarrow import fs

        self._address = Address(address)
        try:
            self._system, self._path = fs.FileSystem.from_uri(self.address)
        except (ValueError, OSError) as error:  # pyarrow's errors are these
            raise ValueError(f"{self.address} is not an address of a folder: {_line(error)}") from error

    @property
    def address(self) -> str:
        """As text."""
        return str(self._address)

    def __truediv__(self, name: str) -> Remote:
        files.inside(_NOWHERE, name)
        below = copy.copy(self)  # shares the file system, since each has connections of its own
        below._address, below._path = self._address / name, f"{self._path}/{name}"
        return below

    def names(self) -> list[str]:
        """The names directly below, sorted; empty if the folder is not there."""
        from pyarrow import fs

        listed = self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(entry.base_name for entry in listed)

    def exists(self) -> bool:
        """Whether the file or folder is there."""
        from pyarrow import fs

        return self._system.get_file_info(self._path).type != fs.FileType.NotFound

    def bucket_exists(self) -> bool:
        """Whether its bucket is there."""
        from pyarrow import fs

        return self._system.get_file_info(self._path.partition("/")[0]).type != fs.FileType.NotFound

    def push(self, path: Path) -> None:
        """Send a file, or all files of a folder; a checkpoint's manifest last, which makes it whole."""
        files.refuse_links(path)
        if path.is_file():
            with files.reading(path) as source, self._system.open_output_stream(self._path) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            return
        found = sorted((each for each in path.rglob("*") if each.is_file()), key=lambda each: each.name == MANIFEST)
        for each in found:
            (self / each.relative_to(path).as_posix()).push(each)

    def pull(self, path: Path) -> None:
        """Fetch the file, or all files below, to this machine; nothing if there is none."""
        from pyarrow import fs

        if self._system.get_file_info(self._path).type == fs.FileType.File:
            self._copy(self._path, path)
            return
        for entry in self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True, recursive=True)):
            if entry.is_file:
                self._copy(entry.path, files.inside(path, entry.path.removeprefix(self._path).removeprefix("/")))

    def read(self) -> bytes:
        """The file's content."""
        with self._system.open_input_stream(self._path) as source:
            return source.read()

    def delete(self) -> None:
        """Delete the file or the folder, if it is there."""
        from pyarrow import fs

        kind = self._system.get_file_info(self._path).type
        if kind == fs.FileType.File:
            self._system.delete_file(self._path)
        elif kind == fs.FileType.Directory:
            self._system.delete_dir(self._path)

    def _copy(self, source: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}")
        with self._system.open_input_stream(source) as reader, partial.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
        partial.replace(path)


def is_address(text: str) -> bool:
    """Whether a text names an object store and not a folder."""
    return "://" in text


def mirror(address: str) -> Path:
    """The folder on this machine that mirrors one in a store. Raises ValueError, in one line, if it is unreachable."""
    place = Remote(address)
    try:
        there = place.bucket_exists()
    except OSError as error:
        raise ValueError(f"--storage {place.address}: {_line(error)}") from error
    if not there:
        raise ValueError(f"--storage {place.address}: there is no such bucket; create it first")
    folder = files.cache_root() / "runs" / hashlib.sha256(place.address.encode()).hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.put(folder / ADDRESS, place.address)
    except OSError as error:
        raise ValueError(f"cannot write the cache {folder}: {_line(error)}: set SWEEPER_CACHE to a folder") from error
    return folder


def of(run_dir: Path) -> Remote | None:
    """A run's place in the store, if its folder is in a mirror."""
    address = _address(run_dir.parent)
    return Remote(address) / run_dir.name if address else None


def names(parent: Path) -> list[str]:
    """The runs in the store that a folder mirrors; none for any other folder."""
    address = _address(parent)
    return Remote(address).names() if address else []


def _address(folder: Path) -> str | None:
    """The address that a folder mirrors. Raises ValueError outside the cache: a stranger's would say where to send."""
    try:
        with files.reading(folder / ADDRESS) as file:
            address = file.read().decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if folder.resolve().parent != (files.cache_root() / "runs").resolve():
        raise ValueError(f"{folder / ADDRESS} names an object store, but is not in the cache: move it away")
    return address


def fetch(run_dir: Path) -> None:
    """Fetch a run's spec and its journal, unless the journal here has all of the other and more.

    Raises ValueError, in one line, if each has lines that the other lacks. A torn last line does not count.
    """
    place = of(run_dir)
    if place is None or SPEC not in place.names():
        return
    there = (place / JOURNAL).read() if (place / JOURNAL).exists() else b""
    here = (run_dir / JOURNAL).read_bytes() if (run_dir / JOURNAL).exists() else b""
    if not here.startswith(_whole(there)):
        if not there.startswith(_whole(here)):
            raise ValueError(
                f"the journals of {place.address} and of {run_dir} have both gone on: move away the one that you do "
                "not want to resume"
            )
        files.put(run_dir / JOURNAL, there)
    (place / SPEC).pull(run_dir / SPEC)


def _whole(journal: bytes) -> bytes:
    return journal[: journal.rfind(b"\n") + 1]


def push_checkpoint(trial: Remote, checkpoint: Path) -> None:
    """Send a checkpoint to the trial's folder in the store, which keeps the newest few."""
    folder = trial / "checkpoints"
    (folder / checkpoint.name).push(checkpoint)
    for old in sorted(folder.names(), reverse=True)[KEEP:]:
        (folder / old).delete()


def end(trial: Remote, step: int, folder: Path) -> str | None:
    """Fetch the bundle of a trial that ended; the name of the checkpoint of that step, if it is there."""
    name = f"checkpoints/{checkpoints.folder_name(step)}"
    (trial / name / "bundle").pull(folder / name / "bundle")
    return name if (trial / name / MANIFEST).exists() else None


@contextlib.contextmanager
def mirrored(run_dir: Path, journal: Journal, say: Callable[[str], None]) -> Iterator[None]:
    """Keep the store's copy of a run up to date until the block ends; does nothing for a run on a disk."""
    place = of(run_dir)
    if place is None:
        yield
        return
    sender = _Sender(place, journal, say)
    sender.start()
    try:
        yield
    finally:
        sender.over.set()
        sender.join()
        try:
            for path in run_dir.iterdir():
                if path.name not in _LOCAL_ONLY and not path.name.startswith("."):
                    (place / path.name).push(path)
        except OSError as error:
            say(f"cannot send the last files to {place.address}: {_line(error)}; they are in {run_dir}")


class _Sender(threading.Thread):
    """Sends the journal: right after an event that decides something, and now and then after reports."""

    def __init__(self, place: Remote, journal: Journal, say: Callable[[str], None]) -> None:
        super().__init__(name="journal sender", daemon=True)
        self.place, self.journal, self.say = place, journal, say
        self.over = threading.Event()

    def run(self) -> None:
        sent, when, lost = 0, 0.0, False
        while not self.over.wait(POLL_S):
            count = len(self.journal.events)
            fresh = self.journal.events[sent:count]
            decided = any(not isinstance(event, Report) for event in fresh)
            if not fresh or not (decided or time.monotonic() - when > REPORTS_S):
                continue
            try:
                (self.place / JOURNAL).push(self.journal.path)
            except OSError as error:
                if not lost:
                    self.say(f"cannot reach {self.place.address} ({_line(error)}); the journal waits here")
                lost = True
                self.over.wait(REPORTS_S)
                continue
            sent, when, lost = count, time.monotonic(), False


def _line(error: Exception) -> str:
    return redact(" ".join(str(error).split()))[:200]
