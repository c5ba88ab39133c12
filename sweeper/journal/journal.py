"""The sweep's one record: append-only events in `journal.jsonl`, and the trials that are rebuilt from them.

Written by the driver alone. An event is on disk before anything acts on it. Optuna's study, the rungs, MLflow, the
live table and the report are projections of it: rebuilt at every start, never read back.

Every line ends with a digest of itself and of all lines before it. So a line that was changed, lost, doubled or moved
is found when the record is read. It is no signature: whoever makes all digests anew can write anything.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sweeper.journal.events import (
    Ask,
    Begin,
    Doubt,
    End,
    Event,
    Extend,
    Family,
    Fork,
    Over,
    Repeat,
    Report,
    Session,
    State,
    Trust,
    Verdict,
    WarmStart,
    parse,
    with_lines,
)
from sweeper.system import files
from sweeper.trainable import AUDIT

__all__ = ["Ask", "Begin", "End", "Event", "Extend", "Family", "Fork", "Over", "Repeat", "Report", "Session", "State"]
__all__ += ["AUDIT", "Journal", "TrialRecord", "Trust", "Verdict", "apply", "fingerprints_in", "nested"]

_MARK, _DIGITS = b', "digest": "', 32
_TRUST = b'{"event": "trust"'
TRUST = "--trust-record goes on anyway, and the report then says so"


@dataclass
class TrialRecord:
    """One trial, built from its events."""

    ask: Ask
    rows: list[Report] = field(default_factory=list)
    end: End | None = None

    @property
    def id(self) -> str:
        """The trial's id."""
        return self.ask.trial

    @property
    def state(self) -> str:
        """That of its End, or "running"."""
        return self.end.state if self.end else "running"

    @property
    def open(self) -> bool:
        """Whether a resumed sweep still has to run it."""
        return self.end is None or self.end.state == "interrupted"

    @property
    def reused_from(self) -> str | None:
        """The trial of an earlier run that this one was taken over from, as RUN/ID; None if it was trained."""
        return self.end.reused_from if self.end else None

    @property
    def start(self) -> tuple[str | None, int]:
        """Where its training began: which trial had trained up to there, if any, and the step.

        The step is the trial's own last one if nothing was trained for it.
        """
        if self.reused_from:
            return self.reused_from, self.step
        first = self.rows[0].start if self.rows else None
        return (first["trial"], first["step"]) if first else (None, 0)

    @property
    def step(self) -> int:
        """The last step reported; 0 before the first report."""
        return self.rows[-1].step if self.rows else 0

    @property
    def steps(self) -> int | None:
        """Its full length, if its settings have it."""
        steps = self.ask.config.get("steps")
        return steps if type(steps) is int else None

    def score(self, objective: str) -> float | None:
        """The objective at the last step reported (never its minimum), or None."""
        return self.rows[-1].metrics.get(objective) if self.rows else None


class Damaged(ValueError):
    """A record is not what was written; one line, which names the first bad line."""


class Journal:
    """The events of one run folder, in memory and on disk. Safe to read from other threads.

    Opening cuts off a torn last line (a crash in mid-write) and keeps its text in `torn`. Any other line that is not
    what was written raises Damaged, in one line that names it; with `trust`, such lines are left out and `faults`
    lists them: (line, why). `read_only` leaves the file alone, since a driver may be writing that line. `digests` are
    those of the events' lines, "" if an earlier version wrote the line. `run` is the run's id, None if an earlier
    version began it.
    """

    def __init__(self, path: Path, read_only: bool = False, trust: bool = False) -> None:
        self.path = path
        self.events: list[Event] = []
        self.digests: list[str] = []
        self.trials: dict[str, TrialRecord] = {}
        self._stages: dict[str, list[TrialRecord]] = {}
        self._repeats: dict[str, list[Repeat]] = {}
        self._over: dict[str, str] = {}
        self.run: str | None = None
        self.doubted = False  # whether a `Doubt` is on record
        self.torn: str | None = None
        self.faults: list[tuple[int, str]] = []
        self._lock = threading.Lock()
        self._seen = hashlib.sha256()  # over all that the file holds
        self._take(self._whole_lines(read_only), trust)
        self._file = None if read_only else path.open("ab", buffering=0)

    def append(self, event: Event) -> bool:
        """Put an event on disk, then into memory. A report of a step already known is dropped: False.

        Raises OSError if the disk is full; the journal is then as it was. Raises ValueError for an event that could
        not be read again.
        """
        assert self._file is not None, "opened read-only"
        with self._lock:
            if isinstance(event, Report) and event.step <= self.trials[event.trial].step:
                return False
            body = json.dumps({"event": type(event).__name__.lower(), **vars(event)}, allow_nan=False).encode()
            parse(body)
            self._check(event)
            line = _chained(self._seen, body)
            self._put(self._file.fileno(), line)
            self._seen.update(line)
            self._apply(event, _split(line[:-1])[1])
            return True

    @property
    def has_session(self) -> bool:
        """Whether a driver has started work on the run."""
        return any(isinstance(event, Session) for event in self.events)

    @property
    def respecified(self) -> bool:
        """Whether the run has gone on with another spec than it began with, or is about to."""
        before = any(isinstance(event, Trust) and event.line == 0 for event in self.events)
        return before or any(line == 0 for line, _ in self.faults)

    @property
    def chained(self) -> bool:
        """Whether all lines carry a digest; those of an earlier version do not."""
        return all(self.digests)

    def refuse_other_spec(self, spec_hash: str, trust: bool = False) -> None:
        """Raises ValueError, in one line, if the run began with another spec; with `trust`, notes a fault instead."""
        hashes = (event.spec_hash for event in reversed(self.events) if isinstance(event, Begin | Trust | Extend))
        own = next(hashes, spec_hash)
        if own == spec_hash:
            return
        why = f"spec.yaml is not the one that the run goes by: its hash is {spec_hash[:8]}, the journal has {own[:8]}"
        if not trust:
            raise ValueError(f"{why}; put the old spec back, or start a new run; {TRUST}")
        self.faults.insert(0, (0, why))

    def refuse_gaps(self) -> None:
        """Raises ValueError, in one line, if a trial's Ask is lost: the next one would take another's number."""
        for name, records in self._stages.items():
            if [one.ask.number for one in records] != list(range(len(records))):
                raise ValueError(
                    f"trials of the stage {name} are lost, so the run cannot go on; status and report read the rest "
                    "with --trust-record"
                )

    def doubts(self) -> list[str]:
        """What a reader must know of the record itself, a sentence each; empty if it is as it was written."""
        lines = list[str]()
        for event in self.events:
            if isinstance(event, Trust):
                day = f"{datetime.fromtimestamp(event.time, UTC):%Y-%m-%d}"
                lines.append(
                    f"On {day} --trust-record went on with a record that was not what was written ({event.why})."
                )
            elif isinstance(event, Doubt):
                lines.append(event.text)
        if self.faults:
            lines.append(f"The record is not what was written ({_place(*self.faults[0])}).")
        if not self.chained:
            lines.append("The record is from an earlier version, which wrote no digests: changes do not show.")
        return lines

    def extend(self, spec_hash: str, spec: str, changed: list[str]) -> None:
        """Go on with another spec, whose differences move no number of the trials so far."""
        self.append(Extend(changed=changed, spec_hash=spec_hash, spec=spec))

    def extended(self) -> tuple[str, Extend] | None:
        """The hash of the spec before its latest change, and that change; None where the spec was not extended last."""
        specs = [event for event in self.events if isinstance(event, Begin | Trust | Extend)]
        if len(specs) < 2 or not isinstance(last := specs[-1], Extend):
            return None
        return specs[-2].spec_hash, last

    def born(self, spec_hash: str) -> None:
        """Give a run its id, before all else; and if its record is trusted in spite of faults, write that down."""
        if not self.events:
            self.append(Begin(run=secrets.token_hex(8), spec_hash=spec_hash))
        if self.faults:
            (line, _), why = self.faults[0], _place(*self.faults[0])
            self.append(Trust(line=line, faults=len(self.faults), why=why, spec_hash=spec_hash))
            self.faults.clear()

    def fork(self) -> None:
        """Make a copy a run of its own, with an id that no store knows."""
        self.append(Fork(run=secrets.token_hex(8), of=self.run))

    def stage(self, name: str) -> Sequence[TrialRecord]:
        """The trials of a stage, in the order in which they were asked for; it grows with the journal."""
        return self._stages.setdefault(name, [])

    def repeats(self, stage: str) -> Sequence[Repeat]:
        """The points of a stage that the sampler asked for again, in order; it grows with the journal."""
        return self._repeats.setdefault(stage, [])

    def warm_starts(self) -> list[WarmStart]:
        """What the search's sampler was told of other runs before it began."""
        return [event for event in self.events if isinstance(event, WarmStart)]

    def over(self, stage: str) -> str | None:
        """Why a stage ended before all its trials were asked for; None if it did not."""
        return self._over.get(stage)

    def families(self) -> list[Family]:
        """The declared looks of the confirmation."""
        return [event for event in self.events if isinstance(event, Family)]

    def facts(self) -> Mapping[str, Any]:
        """The trainable's facts, of the newest session that has any."""
        sessions = (event for event in reversed(self.events) if isinstance(event, Session))
        return with_lines(next((event.facts for event in sessions if event.facts), {}))

    def verdict(self) -> dict[str, Any] | None:
        """The latest look's verdict."""
        return next((event.data for event in reversed(self.events) if isinstance(event, Verdict)), None)

    def close(self) -> None:
        """Close the file; nothing can be appended after that."""
        if self._file is not None:
            self._file.close()

    @staticmethod
    def _put(file: int, line: bytes) -> None:
        """Put a line on disk, as a whole or not at all."""
        size = os.fstat(file).st_size
        try:
            while line:
                line = line[os.write(file, line) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise

    def _take(self, data: bytes, trust: bool) -> None:
        """Read lines. Those before a `Trust` were trusted when it was written, and the bad ones among them left out."""
        lines = data.splitlines(keepends=True)
        sound = list(_sound(lines, self._seen))
        vouching = [line.startswith(_TRUST) and _MARK in line for line in lines]
        trusted = max((n for n, ours in enumerate(vouching, 1) if ours and sound[n - 1]), default=0)
        broken = False
        for number, line in enumerate(lines, 1):
            vouched, (body, digest) = number <= trusted, _split(line[:-1])
            try:
                if not (sound[number - 1] or vouched or broken):
                    broken = True
                    self._fault(
                        number, "it does not follow from the lines before: something was changed or lost", trust
                    )
                event = parse(body)
                if isinstance(event, Begin | Fork | Trust | Extend) and not (digest or broken or vouched):
                    broken = True
                    self._fault(number, "its digest is gone, and every version that writes it writes one", trust)
                self._check(event)
                self._apply(event, digest)
            except Damaged:
                raise
            except ValueError as error:
                if not vouched:
                    self._fault(number, str(error), trust)

    def _fault(self, number: int, why: str, trust: bool) -> None:
        if not trust:
            raise Damaged(f"{_place(number, why)}; {TRUST}")
        self.faults.append((number, why))

    def _check(self, event: Event) -> None:
        """Raises ValueError for an event that cannot follow."""
        if isinstance(event, Begin) and self.events:
            raise ValueError("a run begins once")
        check(self.trials, event)

    def _apply(self, event: Event, digest: str) -> None:
        apply(self.trials, event)
        if isinstance(event, Ask):
            self._stages.setdefault(event.stage, []).append(self.trials[event.trial])
        elif isinstance(event, Repeat):
            self._repeats.setdefault(event.stage, []).append(event)
        elif isinstance(event, Over):
            self._over[event.stage] = event.reason
        elif isinstance(event, Begin | Fork):
            self.run = event.run
        elif isinstance(event, Doubt):
            self.doubted = True
        self.digests.append(digest)
        self.events.append(event)

    def _whole_lines(self, read_only: bool) -> bytes:
        """The file without a torn last line."""
        if not os.path.lexists(self.path):
            return b""
        with files.reading(self.path) as file:
            data = file.read()
        whole, end, rest = data.rpartition(b"\n")
        if rest:
            self.torn = rest.decode(errors="replace")
            if not read_only:
                os.truncate(self.path, len(data) - len(rest))
        return whole + end


def check(trials: Mapping[str, TrialRecord], event: Event) -> None:
    """Raises ValueError for an event that cannot follow."""
    if isinstance(event, Report | End) and event.trial not in trials:
        raise ValueError(f"it is of trial {event.trial}, which was not asked for")
    if isinstance(event, WarmStart) and trials:
        raise ValueError("what the sampler knows from its first point on comes after a trial")
    if isinstance(event, Ask) and event.trial in trials:
        raise ValueError(f"trial {event.trial} is asked for twice")
    if isinstance(event, Report) and event.step <= (last := trials[event.trial].step):
        raise ValueError(f"trial {event.trial} reports step {event.step} after step {last}")


def apply(trials: dict[str, TrialRecord], event: Event) -> None:
    """Bring the trials up to date with the next event, which `check` has passed."""
    match event:
        case Ask():
            trials[event.trial] = TrialRecord(event)
        case Report():
            record = trials[event.trial]
            record.rows.append(event)
            record.end = None
        case End():
            trials[event.trial].end = event
        case _:
            pass


def _sound(lines: Iterable[bytes], seen: Any) -> Iterator[bool]:
    """Whether each line's digest fits. Lines before the first digest are from an earlier version and pass."""
    chained = False
    for line in lines:
        body, digest = _split(line[:-1])
        chained = chained or bool(digest)
        yield line == _chained(seen, body) if chained else True
        seen.update(line)


def _chained(seen: Any, body: bytes) -> bytes:
    """A line with the digest of itself and of all lines before it. seen: a hash over those."""
    due = seen.copy()
    due.update(body)
    return body[:-1] + _MARK + due.hexdigest()[:_DIGITS].encode() + b'"}\n'


def _split(line: bytes) -> tuple[bytes, str]:
    """A line without its digest, and the digest, "" if it has none."""
    head, found, digest = line.rpartition(_MARK)
    if not found or len(digest) != _DIGITS + 2 or not digest.endswith(b'"}'):
        return line, ""
    return head + b"}", digest[:-2].decode(errors="replace")


def _place(number: int, why: str) -> str:
    return f"journal line {number}: {why}" if number else why


def fingerprints_in(facts: Mapping[str, Any]) -> dict[str, str]:
    """The fingerprints of data and code among facts for the record."""
    return {key: str(value) for key, value in facts.items() if "fingerprint" in key}


def nested(metrics: Mapping[str, float], prefix: str) -> dict[str, Any]:
    """The metrics under a prefix by group: {"audit/shares/random": 1.0}, "audit/" -> {"shares": {"random": 1.0}}.

    All after the first slash is one name, slashes included. A number with the name of a group stays, and the group's
    members stand beside it under their whole names.
    """
    below = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
    tree: dict[str, Any] = {}
    for key, value in below.items():
        group, _, part = key.partition("/")
        if part and group not in below:
            tree.setdefault(group, {})[part] = value
        else:
            tree[key] = value
    return tree
