"""Deleting a run, and moving one to another storage.

A folder may be a stranger's: no link in it is followed, and its record does not choose which store is changed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import Timeout

from sweeper import status
from sweeper.journal import object_store, records, run_folders
from sweeper.journal.journal import Journal, fingerprints_in
from sweeper.report.sections import Outcome
from sweeper.report.summary import sweep_state
from sweeper.report.write import write_all
from sweeper.spec.hints import nearest
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.secrecy import redact
from sweeper.tracking import removal, store
from sweeper.tracking import tags as tag
from sweeper.tracking.removal import Held
from sweeper.tracking.tracker import Tracker

Say = Callable[[str], None]
DELIVER_S = 120.0
_GONE = ".deleted-"


def chosen(storage: Path, given: str) -> Path:
    """A run folder of the storage, by its name or its path. Raises ValueError, in one line, for anything else."""
    path = Path(given)
    if path.name in ("", "..") or (len(path.parts) > 1 and path.parent.resolve() != storage.resolve()):
        raise ValueError(f"{given} does not lie in {storage}: name a run folder of it, or give its own storage")
    folder = files.inside(storage.resolve(), path.name)
    if not folder.is_dir():
        there = [one.name for one in folders(storage)]
        raise ValueError(f"there is no run {path.name} in {storage}; {nearest(path.name, there)}")
    if not any((folder / name).is_file() for name in (run_folders.SPEC, run_folders.JOURNAL)):
        raise ValueError(f"{folder} is not a run folder: it has neither {run_folders.SPEC} nor {run_folders.JOURNAL}")
    return folder


def folders(storage: Path) -> list[Path]:
    """All that a storage has of run folders; a link is none of them."""
    names = (run_folders.SPEC, run_folders.JOURNAL)
    found = {path.parent for name in names for path in storage.glob(f"*/{name}")}
    return sorted(path for path in found if not path.is_symlink() and not path.name.startswith("."))


@dataclass(frozen=True)
class Users:
    """The other runs of a storage that build on a run, by their folders' names.

    Args:
        borrowers: they took trials over from it.
        beginners: their settings name a place in it, as `init_from` names a bundle.
        told: their search began with its trials, by `search.from`.
    """

    borrowers: list[str] = field(default_factory=list)
    beginners: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What deleting a run would take away. Made by `planned`, done by `carry_out`.

    Args:
        size: bytes in its folder.
        uri: of the store.
        held: what the store has of it.
        left: why MLflow is left alone, if it is.
        users: the other runs of the storage that build on it.
        seeds: that its confirmation used.
    """

    run_dir: Path
    size: int
    name: str
    uri: str
    held: Held = field(default_factory=lambda: Held([], [], None))
    left: str | None = None
    users: Users = field(default_factory=Users)
    seeds: list[int] = field(default_factory=list)

    def lines(self) -> list[str]:
        """For people, before they are asked."""
        store_has = f"{len(self.held.runs)} MLflow runs" + (
            f" and version {', '.join(self.held.versions)} of the model {self.name}" if self.held.versions else ""
        )
        store_has += f" in {redact(self.uri)}" if self.held.runs else ""
        shown = [f"deletes {self.run_dir} ({self.size / 1e6:,.1f} MB), {store_has}"]
        if self.left:
            shown.append(f"MLflow is left as it is: {self.left}")
        if self.users.borrowers:
            shown.append(
                f"{', '.join(self.users.borrowers)} took trials over from it: they keep rows and checkpoints, but the "
                "run that they name is gone"
            )
        if self.users.beginners:
            shown.append(
                f"{', '.join(self.users.beginners)} name a place in it, as init_from names a bundle: without that they "
                "cannot be resumed, and none of their trials can be trained again"
            )
        if self.users.told:
            shown.append(
                f"the search of {', '.join(self.users.told)} began with its trials: what was told is on their record, "
                "but nobody can look it up"
            )
        if self.seeds and self.held.runs:
            listed = ", ".join(map(str, self.seeds[:12])) + " …" * (len(self.seeds) > 12)
            shown.append(
                f"its confirmation has seen the seeds {listed}, and nothing will remember that: they would be called "
                "fresh again, so confirm this data on others"
            )
        return shown


def planned(storage: Path, given: str, champion: str | None = None) -> Deletion:
    """What a deletion takes away. Raises ValueError, in one line, for a run that may not be deleted.

    champion: the model whose champion may go, too.
    """
    run_dir = chosen(storage, given)
    _refuse_remote(run_dir)
    _refuse_running(run_dir)
    size = run_folders.size(run_dir)[0]
    try:
        run_folders.refuse_strange(run_dir)
        spec, journal = run_folders.opened(run_dir, trust=True)
    except (ValueError, OSError):
        left = "the record cannot be read, so nothing says which runs are its own"
        return Deletion(run_dir=run_dir, size=size, name=run_dir.name, uri="", left=left)
    uri, left = store.store_uri(spec, storage), _not_ours(storage, run_dir, journal)
    found = Held([], [], None) if left or not journal.run else removal.held(uri, spec.name, journal.run)
    if {run.data.tags.get(tag.DIGEST) for run in found.runs} - {None, *journal.digests}:
        found, left = Held([], [], None), "it has events that this folder lacks, so they are of another copy of the run"
    if found.champion and champion != spec.name:
        raise ValueError(
            f"{run_dir.name} has the champion of {spec.name}, version {found.champion}: give --champion {spec.name} to "
            "delete that, too"
        )
    return Deletion(
        run_dir=run_dir,
        size=size,
        name=spec.name,
        uri=uri,
        held=found,
        left=left,
        users=_users(storage, run_dir, journal.run),
        seeds=sorted({seed for family in journal.families() for seed in family.seeds}),
    )


def carry_out(deletion: Deletion) -> None:
    """Delete a run: what the store has of it first, so that a failure there leaves the folder for another attempt.

    Raises ValueError, in one line, where the store fails, and OSError.
    """
    run_dir = deletion.run_dir
    with _held(run_dir):
        removal.remove(deletion.uri, deletion.name, deletion.held, run_dir.parent / "mlartifacts")
        gone = run_dir.with_name(f"{_GONE}{uuid.uuid4().hex}")  # half a run must not look like one
        run_dir.rename(gone)
    shutil.rmtree(gone)


def move(storage: Path, given: str, target: Path, say: Say, trust: bool = False) -> Path:
    """Move a run into another storage; where it lies then. Raises ValueError, in one line, or OSError.

    Args:
        storage: where it lies.
        given: its name there, or its path.
        target: the folder of the new storage, which is made if it is missing.
        say: gets lines for people.
        trust: also move a record that was changed since it was written.

    Everything in a run folder is named relative to it, and a run goes by its id, so it goes on there as itself. Its
    reports are written anew, and where the tracking store lies beside the runs, that of the new storage gets its runs,
    too; the old store keeps its own, with the seeds that they have seen.
    """
    run_dir = chosen(storage, given)
    _refuse_remote(run_dir)
    _refuse_running(run_dir)
    files.refuse_links(run_dir)
    target = target.resolve()
    if run_dir in (target, *target.parents):
        raise ValueError(f"--move {target}: lies inside the run itself")
    if (target / run_folders.JOURNAL).exists() or (target / run_folders.SPEC).exists():
        raise ValueError(f"--move {target}: is a run folder; name the storage that the run is to lie in")
    there = target / run_dir.name
    if os.path.lexists(there):
        raise ValueError(f"--move {target}: {there.name} is there already")
    spec, journal = run_folders.opened(run_dir, trust)
    if beginners := _users(storage, run_dir, journal.run).beginners:
        say(
            f"caution: {', '.join(beginners)} name a place in {run_dir}, as init_from names a bundle, and look for it "
            "there alone: put a copy there before they are resumed"
        )
    target.mkdir(parents=True, exist_ok=True)
    with _held(run_dir):
        _moved(run_dir, there)
    _written_anew(spec, journal, run_dir.parent, there, say)
    return there


def _moved(run_dir: Path, there: Path) -> None:
    """As a whole or not at all, also from one disk to another."""
    try:
        run_dir.rename(there)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    partial = there.with_name(f".moving-{uuid.uuid4().hex}")
    try:
        shutil.copytree(run_dir, partial, symlinks=True)
        partial.rename(there)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    gone = run_dir.with_name(f"{_GONE}{uuid.uuid4().hex}")
    run_dir.rename(gone)
    shutil.rmtree(gone)


def _written_anew(spec: SweepSpec, journal: Journal, before: Path, there: Path, say: Say) -> None:
    """Reports and store of a moved run: what they say of places is of the new one."""
    best = records.best(spec, journal.trials.values())
    bundle = there / "bundles" / best.id if best else None
    bundle = bundle if bundle and bundle.is_dir() else None
    uri, verdict = store.store_uri(spec, there.parent), journal.verdict()
    over = status.state_of(spec, journal, False) != "open"
    with contextlib.suppress(ValueError, OSError):
        write_all(spec, journal, Outcome(run_dir=there, tracking_uri=uri, bundle=bundle, interrupted=not over))
    if uri == store.store_uri(spec, before) or not journal.has_session:
        return
    tags = {}
    if verdict:
        own = (one.ask.config_hash for one in journal.trials.values() if one.ask.arm == verdict["baseline"])
        tags = {tag.VERDICT: json.dumps(verdict["told"]), tag.BASELINE: next(own, "")}
    data = {tag.PREFIX + key: value for key, value in fingerprints_in(journal.facts()).items()}
    tracker = Tracker(journal, spec, there, uri, tags=data, say=say)
    tracker.start()
    tracker.close(sweep_state(journal.trials.values(), not over), best, bundle, DELIVER_S, tags=tags)
    say(f"MLflow: {redact(uri)} has its runs now, too; {redact(store.store_uri(spec, before))} keeps what it had")


def _users(storage: Path, run_dir: Path, run: str | None) -> Users:
    """Who builds on a run. A run that cannot be read is none of them. run: its id."""
    found = Users()
    for path in folders(storage):
        with contextlib.suppress(ValueError, OSError):
            if path.name == run_dir.name:
                continue
            run_folders.refuse_strange(path)
            journal = Journal(path / run_folders.JOURNAL, read_only=True, trust=True)
            if any((one.reused_from or "").rpartition("/")[0] == run_dir.name for one in journal.trials.values()):
                found.borrowers.append(path.name)
            if any(run in (None, one.run) and one.source == run_dir.name for one in journal.warm_starts()):
                found.told.append(path.name)
            tree = run_folders.recorded(path / run_folders.SPEC).model_dump(include={"config", "arms", "data", "space"})
            if any(_lies_in(run_dir, text) for text in _texts(tree)):
                found.beginners.append(path.name)
    return found


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for below in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(below)


def _lies_in(run_dir: Path, text: str) -> bool:
    """Whether a text is a path into a run's folder."""
    return run_dir.name in text and Path(text).expanduser().resolve().is_relative_to(run_dir)


def _not_ours(storage: Path, run_dir: Path, journal: Journal) -> str | None:
    """Why the store's runs with this run's id are not to be touched: a record may name any id."""
    if not journal.run:
        return "the run has no id, or nothing had begun"
    if not (files.cache_root() / run_folders.BEGUN / journal.run).exists():
        return "the run was not begun on this machine by this user"
    for path in folders(storage):
        with contextlib.suppress(ValueError, OSError):
            run_folders.refuse_strange(path)
            other = Journal(path / run_folders.JOURNAL, read_only=True, trust=True).run
            if path.name != run_dir.name and other == journal.run:
                return f"{path.name} is a copy of the same run and goes by the same runs there"
    return None


def _refuse_remote(run_dir: Path) -> None:
    if object_store.of(run_dir):
        raise ValueError(f"{run_dir.name} lies in an object store: delete or move it there, with the store's own tools")


def _refuse_running(run_dir: Path) -> None:
    if status.driven(run_dir):
        raise ValueError(f"{run_dir.name} is running: stop its sweep first, with Ctrl-C or SIGTERM")


@contextlib.contextmanager
def _held(run_dir: Path) -> Iterator[None]:
    """Hold the run's lock, so that no sweep begins in it meanwhile."""
    try:
        with files.locked(run_dir / run_folders.LOCK, 0.5):
            yield
    except Timeout:
        raise ValueError(f"{run_dir.name} is running: stop its sweep first, with Ctrl-C or SIGTERM") from None
