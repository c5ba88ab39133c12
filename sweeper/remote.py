"""A storage folder in an object store, for nodes that share no disk: s3://… or gs://…, through pyarrow's file systems.

Trials put their checkpoints there and fetch them from there. The driver keeps a folder of its own all the same, its
mirror: an object store cannot append, so the journal is written there and sent whole after every event that decides
something. `--resume` brings it back, on whatever machine. Keys come from the environment of each machine.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from sweeper import checkpoints, files
from sweeper.checkpoints import KEEP, MANIFEST
from sweeper.journal import Journal, Report

ADDRESS = ".address"  # in a mirror: of what
JOURNAL, SPEC = "journal.jsonl", "spec.yaml"
POLL_S, REPORTS_S = 0.2, 5.0
_LOCAL_ONLY = ("trials", "optuna.log")


class Remote:
    """A file or folder at an address. Methods raise OSError where the store is not to be had."""

    def __init__(self, address: str) -> None:
        """Raises ValueError, in one line, for an address that is none."""
        from pyarrow import fs

        self.address = address.rstrip("/")
        try:
            self._system, self._path = fs.FileSystem.from_uri(self.address)
        except (ValueError, OSError) as error:  # pyarrow's errors are these
            raise ValueError(f"{address} is not an address of a folder: {_line(error)}") from error

    def __truediv__(self, name: str) -> Remote:
        base, mark, query = self.address.partition("?")
        below = copy.copy(self)  # of the same file system: each has connections of its own
        below.address, below._path = f"{base}/{name}{mark}{query}", f"{self._path}/{name}"
        return below

    def names(self) -> list[str]:
        """What lies directly below, sorted; nothing below what is not there."""
        from pyarrow import fs

        listed = self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return sorted(entry.base_name for entry in listed)

    def exists(self) -> bool:
        from pyarrow import fs

        return self._system.get_file_info(self._path).type != fs.FileType.NotFound

    def bucket_exists(self) -> bool:
        from pyarrow import fs

        return self._system.get_file_info(self._path.partition("/")[0]).type != fs.FileType.NotFound

    def push(self, path: Path) -> None:
        """Have a file, or all files of a folder, here; of a checkpoint its manifest last, which makes it whole."""
        if path.is_file():
            with path.open("rb") as source, self._system.open_output_stream(self._path) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            return
        files = sorted((each for each in path.rglob("*") if each.is_file()), key=lambda each: each.name == MANIFEST)
        for each in files:
            (self / each.relative_to(path).as_posix()).push(each)

    def pull(self, path: Path) -> None:
        """Have the file, or all below, on this machine; nothing where there is none."""
        from pyarrow import fs

        if self._system.get_file_info(self._path).type == fs.FileType.File:
            self._copy(self._path, path)
            return
        for entry in self._system.get_file_info(fs.FileSelector(self._path, allow_not_found=True, recursive=True)):
            if entry.is_file:
                self._copy(entry.path, path / Path(entry.path).relative_to(self._path))

    def read(self) -> bytes:
        with self._system.open_input_stream(self._path) as source:
            return source.read()

    def delete(self) -> None:
        """The file or the folder, if it is there."""
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
    """Whether it names an object store and not a folder."""
    return "://" in text


def mirror(address: str) -> Path:
    """The folder on this machine that stands for one in a store. Raises ValueError, in one line, if that is far off."""
    place = Remote(address)
    try:
        there = place.bucket_exists()
    except OSError as error:
        raise ValueError(f"--storage {place.address}: {_line(error)}") from error
    if not there:
        raise ValueError(f"--storage {place.address}: there is no such bucket; make it first")
    folder = files.cache_root() / "runs" / hashlib.sha256(place.address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ADDRESS).write_text(place.address, "utf-8")
    return folder


def of(run_dir: Path) -> Remote | None:
    """Where a run lies, if its folder is in a mirror."""
    try:
        return Remote((run_dir.parent / ADDRESS).read_text("utf-8")) / run_dir.name
    except FileNotFoundError:
        return None


def names(parent: Path) -> list[str]:
    """The runs in the store that a folder mirrors; none for any other folder."""
    address = parent / ADDRESS
    return Remote(address.read_text("utf-8")).names() if address.exists() else []


def fetch(run_dir: Path) -> None:
    """Have a run's spec and its journal here, unless the journal here has all of the other and goes on."""
    place = of(run_dir)
    if place is None or SPEC not in place.names():
        return
    (place / SPEC).pull(run_dir / SPEC)
    there = (place / JOURNAL).read() if (place / JOURNAL).exists() else b""
    here = (run_dir / JOURNAL).read_bytes() if (run_dir / JOURNAL).exists() else b""
    if not here.startswith(there):
        (run_dir / JOURNAL).write_bytes(there)


def push_checkpoint(trial: Remote, checkpoint: Path) -> None:
    """Have a stored checkpoint in the trial's folder there; the newest few stay."""
    folder = trial / "checkpoints"
    (folder / checkpoint.name).push(checkpoint)
    for old in sorted(folder.names(), reverse=True)[KEEP:]:
        (folder / old).delete()


def end(trial: Remote, step: int, folder: Path) -> str | None:
    """What the driver needs of a trial that ended: its bundle here, and the name of the checkpoint of that step."""
    name = f"checkpoints/{checkpoints.folder_name(step)}"
    (trial / name / "bundle").pull(folder / name / "bundle")
    return name if (trial / name / MANIFEST).exists() else None


@contextlib.contextmanager
def mirrored(run_dir: Path, journal: Journal, say: Callable[[str], None]) -> Iterator[None]:
    """Keep what the store has of a run what it is here, until the block ends; nothing for a run on a disk."""
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
            say(f"{place.address} lacks what the sweep ended with: {_line(error)}; it is in {run_dir}")


class _Sender(threading.Thread):
    """Sends the journal: at once after an event that decides something, and now and then after reports."""

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
                    self.say(f"{self.place.address} is out of reach ({_line(error)}); the journal waits here")
                lost = True
                self.over.wait(REPORTS_S)
                continue
            sent, when, lost = count, time.monotonic(), False


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
