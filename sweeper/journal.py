"""The sweep's one record: append-only events in `journal.jsonl`, and the trials that are rebuilt from them.

Written by the driver alone. An event is on disk before anything acts on it. Optuna's study, the rungs, MLflow, the
live table and the report are projections of it: rebuilt at every start, never read back.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

State = Literal["completed", "stopped", "failed", "interrupted"]
AUDIT = "audit/"


@dataclass(frozen=True, kw_only=True)
class Session:
    """A driver began to work on the run.

    versions: package name to version. facts: what the trainable's `prepare` returned, such as `data_fingerprint`.
    """

    command: str
    versions: dict[str, str]
    git_commit: str | None
    machine: dict[str, Any]
    facts: dict[str, Any] = field(default_factory=dict)
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A trial was asked for. params: what the space set, by path. raw: the sampler's own parameters.

    budget: what it will predict by its settings, `{"predicted": 184800, "exact": true}`; None where they do not tell.
    """

    trial: str
    number: int
    stage: str
    arm: str | None
    seed: int
    config: dict[str, Any]
    config_hash: str
    params: dict[str, Any]
    raw: dict[str, Any]
    budget: dict[str, Any] | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The sampler asked for a point that a trial has: it is not trained again, and the sampler is told what came of it.

    number: of the trial that was to be asked for, which another point then got. of: the trial that has this one.
    """

    stage: str
    number: int
    of: str
    raw: dict[str, Any]
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Over:
    """A stage ends before all its trials were asked for. reason: why, in words."""

    stage: str
    reason: str
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A trial reported metrics at a step. checkpoint: the seal of the one that came with them. node: its address."""

    trial: str
    step: int
    metrics: dict[str, float]
    checkpoint: str | None = None
    node: str | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class End:
    """A trial ended. An interrupted one is open: a resumed sweep goes on with it."""

    trial: str
    state: State
    reason: str | None = None
    checkpoint: str | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a look of the confirmation compares, declared before the first run of it.

    arms: label -> settings by path, the baseline among them. seeds: of this look, each for every arm. fresh: no run of
    this data in the tracking store had used them. earlier: confirmations in the store against the same baseline.
    champion: the label of the arm that challenges on behalf of the standing champion.
    """

    look: int
    baseline: str
    arms: dict[str, dict[str, Any]]
    seeds: list[int]
    racing: bool = False
    fresh: bool = True
    earlier: int = 0
    champion: str | None = None
    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a look of the confirmation said."""

    data: dict[str, Any]
    time: float = field(default_factory=time.time)


Event = Session | Ask | Repeat | Over | Report | End | Family | Verdict
_KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind for kind in (Session, Ask, Repeat, Over, Report, End, Family, Verdict)
}


@dataclass
class TrialRecord:
    """One trial as the events tell it. `state` is "running" until an End says otherwise."""

    ask: Ask
    rows: list[Report] = field(default_factory=list)
    end: End | None = None

    @property
    def id(self) -> str:
        return self.ask.trial

    @property
    def state(self) -> str:
        return self.end.state if self.end else "running"

    @property
    def open(self) -> bool:
        """Whether a resumed sweep still has to run it."""
        return self.end is None or self.end.state == "interrupted"

    @property
    def step(self) -> int:
        return self.rows[-1].step if self.rows else 0

    def score(self, objective: str) -> float | None:
        """The objective at the last step reported (never its minimum), or None."""
        return self.rows[-1].metrics.get(objective) if self.rows else None


class Journal:
    """The events of one run folder, in memory and on disk. Safe to read from other threads.

    Opening cuts off a torn last line (a crash in mid-write) and keeps its text in `torn`. Any other line that does
    not parse raises ValueError. `read_only` leaves the file alone, for a driver may be writing that line.
    """

    def __init__(self, path: Path, read_only: bool = False) -> None:
        self.path = path
        self.events: list[Event] = []
        self.trials: dict[str, TrialRecord] = {}
        self._stages: dict[str, list[TrialRecord]] = {}
        self._repeats: dict[str, list[Repeat]] = {}
        self._over: dict[str, str] = {}
        self.torn: str | None = None
        self._lock = threading.Lock()
        for event in self._read(read_only):
            self._apply(event)
        self._file = None if read_only else path.open("ab", buffering=0)

    def append(self, event: Event) -> bool:
        """Put an event on disk, then into the picture. A report of a step already known is dropped: False.

        Raises OSError where the disk is full; the journal is then as it was.
        """
        assert self._file is not None, "opened to be read"
        with self._lock:
            if isinstance(event, Report) and event.step <= self.trials[event.trial].step:
                return False
            line = json.dumps({"event": type(event).__name__.lower(), **vars(event)}, allow_nan=False)
            self._put(self._file.fileno(), line.encode() + b"\n")
            self._apply(event)
            return True

    def stage(self, name: str) -> Sequence[TrialRecord]:
        """The trials of a stage, in the order in which they were asked for; it grows with the journal."""
        return self._stages.setdefault(name, [])

    def repeats(self, stage: str) -> Sequence[Repeat]:
        """The points of a stage that the sampler asked for again, in order; it grows with the journal."""
        return self._repeats.setdefault(stage, [])

    def over(self, stage: str) -> str | None:
        """Why a stage ended before all its trials were asked for; None where it did not."""
        return self._over.get(stage)

    def families(self) -> list[Family]:
        """The looks of the confirmation that were declared."""
        return [event for event in self.events if isinstance(event, Family)]

    def facts(self) -> Mapping[str, Any]:
        """The trainable's, of the newest session that has any."""
        sessions = (event for event in reversed(self.events) if isinstance(event, Session))
        return next((event.facts for event in sessions if event.facts), {})

    def verdict(self) -> dict[str, Any] | None:
        """The latest look's."""
        return next((event.data for event in reversed(self.events) if isinstance(event, Verdict)), None)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    @staticmethod
    def _put(file: int, line: bytes) -> None:
        """A line on disk as a whole, or nothing of it."""
        size = os.fstat(file).st_size
        try:
            while line:
                line = line[os.write(file, line) :]
            os.fsync(file)
        except OSError:
            os.ftruncate(file, size)
            raise

    def _apply(self, event: Event) -> None:
        apply(self.trials, event)
        if isinstance(event, Ask):
            self._stages.setdefault(event.stage, []).append(self.trials[event.trial])
        elif isinstance(event, Repeat):
            self._repeats.setdefault(event.stage, []).append(event)
        elif isinstance(event, Over):
            self._over[event.stage] = event.reason
        self.events.append(event)

    def _read(self, read_only: bool) -> list[Event]:
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole, _, rest = data.rpartition(b"\n")
        if rest:
            self.torn = rest.decode(errors="replace")
            if not read_only:
                os.truncate(self.path, len(data) - len(rest))
        return [_parse(line, number) for number, line in enumerate(whole.splitlines(), 1)]


def apply(trials: dict[str, TrialRecord], event: Event) -> None:
    """Bring the trials up to date with the next event."""
    match event:
        case Ask():
            trials[event.trial] = TrialRecord(event)
        case Report():
            record = trials[event.trial]
            record.rows.append(event)
            record.end = None
        case End():
            trials[event.trial].end = event
        case Session() | Repeat() | Over() | Family() | Verdict():
            pass


def fingerprints_in(facts: Mapping[str, Any]) -> dict[str, str]:
    """Of data and code, among facts for the record."""
    return {key: str(value) for key, value in facts.items() if "fingerprint" in key}


def _parse(line: bytes, number: int) -> Event:
    try:
        data = json.loads(line)
        return _KINDS[data.pop("event")](**data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"journal line {number} is not an event: {error}") from error


def nested(metrics: Mapping[str, float], prefix: str) -> dict[str, Any]:
    """The metrics under a prefix by group: {"audit/shares/random": 1.0}, "audit/" -> {"shares": {"random": 1.0}}.

    What is named after the first slash is one name, slashes and all. A number that is called like a group stays, and
    what the group has stands beside it under its whole name.
    """
    told = {key.removeprefix(prefix): value for key, value in metrics.items() if key.startswith(prefix)}
    tree: dict[str, Any] = {}
    for key, value in told.items():
        group, _, part = key.partition("/")
        if part and group not in told:
            tree.setdefault(group, {})[part] = value
        else:
            tree[key] = value
    return tree
