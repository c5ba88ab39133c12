"""Trials of earlier runs that need not be trained again.

A run is a function of its settings, seed, data, code, processor and number of ranks and threads; nothing else moves
its numbers. So a trial that any run of this storage completed under the same of all these is taken over: its rows and
its checkpoint are what training again would give, to the last bit.

Only runs that began on this machine under this user count: a record from elsewhere may say what it likes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.journal import checkpoints, recorded, run_folders
from sweeper.journal.events import End, Fork, Report, Session, Trust
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.system import files

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

HERE = "127.0.0.1"
LIBRARIES = ("torch", "numpy", "transformers", "tokenizers", "datasets")


@dataclass(frozen=True)
class Completed:
    """A completed trial of another run, and its last checkpoint.

    Args:
        name: RUN/ID, for people.
        rows: all that it reported, oldest first.
        checkpoint: its folder.
        owner: the mark that its manifest has.
    """

    name: str
    rows: list[Report]
    checkpoint: Path
    owner: str


def trusted(run_dir: Path) -> tuple[SweepSpec, Journal]:
    """Spec and journal of a run from which others may take. Raises ValueError, in one line, for any other."""
    spec, journal = run_folders.opened(run_dir)
    if journal.doubted or any(isinstance(event, Trust | Fork) for event in journal.events):
        raise ValueError("its record is in doubt, so nothing is taken from it; its report says why")
    if not run_folders.began_here(journal):
        raise ValueError("this user did not begin it on this machine, so nothing is taken from its record")
    return spec, journal


def place(session: Session) -> str | None:
    """What a session's numbers depend on beside a trial's own settings; None if the record does not say it all.

    The data, the code that trains, the processor, and the libraries that compute.
    """
    trainable = session.facts.get(recorded.FACT)
    code = trainable.get("code") if isinstance(trainable, Mapping) else None
    processor = session.machine.get("processor")
    libraries, prints = [session.versions.get(name) for name in LIBRARIES], fingerprints_in(session.facts)
    if not (code and processor and all(libraries[:2]) and prints):
        return None  # without a fingerprint nothing says that the data are the same
    machine = [processor, session.machine.get("device"), session.machine.get("kernels")]
    return json.dumps([code, machine, libraries, prints], sort_keys=True)


def keys(spec: SweepSpec, journal: Journal) -> Iterator[tuple[str, TrialRecord]]:
    """(key, record) of each completed trial of a run. Trials with the same key have the same numbers.

    A trial that two sessions with different code, data or libraries worked on has no key.
    """
    places: dict[str, set[str | None]] = {}
    now: str | None = None
    opened: set[str] = set()
    for event in journal.events:
        if isinstance(event, Session):
            now = place(event)
            for trial in opened:
                places[trial].add(now)
        elif trial := getattr(event, "trial", None):
            places.setdefault(trial, {now})
            ended = isinstance(event, End) and event.state != "interrupted"
            (opened.discard if ended else opened.add)(trial)
    for trial, found in places.items():
        record, (one, *others) = journal.trials[trial], found
        if record.state == "completed" and record.ask.config_hash and one and not others:
            yield _key(spec, record, one), record


def _key(spec: SweepSpec, record: TrialRecord, where: str) -> str:
    confirming = record.ask.stage == "confirm"
    asked = [spec.objectives, record.ask.config_hash, record.ask.seed, confirming, spec.tasks(confirming)]
    return hashlib.sha256(json.dumps([asked, where], sort_keys=True).encode()).hexdigest()


class Reuse:
    """Completed trials of the other runs in a storage, by key; read when first asked. where: its `place`."""

    def __init__(self, spec: SweepSpec, run_dir: Path, journal: Journal, where: str) -> None:
        self.spec, self.run_dir, self.journal, self.where = spec, run_dir, journal, where
        self._found: dict[str, Completed] | None = None

    def find(self, record: TrialRecord) -> Completed | None:
        """A completed trial with the numbers that this one will have, if any run of the storage has one."""
        if not record.ask.config_hash:
            return None
        if record.ask.stage == "confirm" and self.journal.families()[-1].fresh:
            return None  # declared on seeds that nothing has used, so nothing may have
        if self._found is None:
            self._found = dict(self._others())
        return self._found.get(_key(self.spec, record, self.where))

    def adopt(self, record: TrialRecord, found: Completed) -> str | None:
        """Store its checkpoint as this trial's last one. Returns the manifest's hash; None if it fails to verify."""
        owner = checkpoints.owner(self.spec.trainable, record.id, record.ask.seed, record.ask.config)
        folder = files.inside(self.run_dir, "trials", record.id) / "checkpoints"
        rows = [({"step": row.step, **row.metrics}, row.checkpoint) for row in found.rows]
        return checkpoints.adopt(folder, found.checkpoint, found.owner, owner, rows)

    def _others(self) -> Iterator[tuple[str, Completed]]:
        for path in sorted(self.run_dir.parent.glob(f"*/{run_folders.JOURNAL}")):
            run_dir = path.parent
            if run_dir == self.run_dir or run_dir.is_symlink():
                continue
            try:
                run_folders.refuse_strange(run_dir)
                if run_folders.recorded(run_dir / run_folders.SPEC).trainable != self.spec.trainable:
                    continue  # before its journal is read, which may be long
                spec, journal = trusted(run_dir)
            except (ValueError, OSError):
                continue  # unreadable, changed since it was written, in doubt or from elsewhere
            for key, record in keys(spec, journal):
                if (one := _whole(spec, run_dir, record)) is not None:
                    yield key, one


def _whole(spec: SweepSpec, run_dir: Path, record: TrialRecord) -> Completed | None:
    """The trial with its last checkpoint, if that is still there."""
    stored = record.end.checkpoint if record.end else None
    if not stored or any(row.node not in (None, HERE) for row in record.rows) or not record.rows:
        return None  # another node's processor is not on record
    path = files.inside(run_dir, stored)
    if not path.is_dir():
        return None
    owner = checkpoints.owner(spec.trainable, record.id, record.ask.seed, record.ask.config)
    return Completed(f"{run_dir.name}/{record.id}", record.rows, path, owner)
