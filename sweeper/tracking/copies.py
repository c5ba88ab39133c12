"""Copies of a sweep's trials for other trackers than MLflow: `tracking: [mlflow, tensorboard, wandb]`.

A trial is copied from the journal once it has ended, as a whole, and again if a resumed sweep went on with it. So no
point is there twice. Copies are for people: nothing reads them back, and one that fails costs a line and no trial.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from sweeper.journal.events import Ask, End
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.system.secrecy import redact
from sweeper.tracking import shared_settings, wording
from sweeper.tracking.tensorboard import EventFiles
from sweeper.tracking.trial_runs import TrialRun
from sweeper.tracking.wandb_runs import WandbRuns

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

POLL_S = 1.0
KINDS: dict[str, type[Copier]] = {"tensorboard": EventFiles, "wandb": WandbRuns}


class Copier(Protocol):
    """Writes trials into another tracker's files below a run's folder. PACKAGE: what it needs to be installed."""

    PACKAGE: ClassVar[str]

    def __init__(self, spec: SweepSpec, run_dir: Path) -> None: ...

    def write(self, record: TrialRecord, title: str, params: dict[str, str]) -> None:
        """Write an ended trial, in place of what is there of it; nothing if it is there as it ended.

        Args:
            record: the trial.
            title: what people call it.
            params: its arm, its seed and what the spec varies, as texts.
        """
        ...


def lacking(spec: SweepSpec) -> list[str]:
    """The lines with which a start is refused: trackers that the spec names and that are not installed."""
    needed = {kind: KINDS[kind].PACKAGE for kind in spec.tracking.to if kind in KINDS}
    return [
        f"tracking: {kind} needs the package {package}: pip install {package}, or leave {kind} out"
        for kind, package in needed.items()
        if find_spec(package) is None
    ]


class Copies:
    """Follows a journal into the trackers that the spec names beside MLflow, in a thread of its own, if any."""

    def __init__(self, journal: Journal, spec: SweepSpec, run_dir: Path, say: Callable[[str], None]) -> None:
        self._journal, self._spec, self._say = journal, spec, say
        self._copiers = {kind: KINDS[kind](spec, run_dir) for kind in spec.tracking.to if kind in KINDS}
        self._names, self._cursor = Names(spec), 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="copies", daemon=True)

    def start(self) -> None:
        """Start to follow, if there is anything to write."""
        if self._copiers:
            self._thread.start()

    def close(self, seconds: float) -> None:
        """Write what has ended by now, within so many seconds."""
        self._over.set()
        if self._copiers:
            self._thread.join(seconds)
            if self._thread.is_alive():
                self._say(f"{' and '.join(self._copiers)} lack some trials: --resume writes them")

    def _follow(self) -> None:
        common: dict[str, str] = {}
        while True:
            over = self._over.is_set()  # read before the events, so that all appended before close() are written
            for record in self._ended():
                common = common or shared_settings.shared(self._spec)
                self._write(record, common)
            if over:
                return
            self._over.wait(POLL_S)

    def _ended(self) -> Iterator[TrialRecord]:
        """The trials that have ended since the last call, each once, as it is now."""
        events = self._journal.events[self._cursor :]
        self._cursor += len(events)
        for event in events:
            if isinstance(event, Ask):
                self._names.of(event)  # in the order of the journal
        ended = {event.trial: event for event in events if isinstance(event, End)}
        for trial in ended:
            record = self._journal.trials[trial]
            if record.end is not None:  # or it goes on already
                yield record

    def _write(self, record: TrialRecord, common: dict[str, str]) -> None:
        params = shared_settings.own(TrialRun(record.ask, None).params(), common)
        title = wording.run_name(self._names.of(record.ask), record.ask)
        for kind, copier in list(self._copiers.items()):
            try:
                copier.write(record, title, params)
            except Exception as error:  # whatever it is, the sweep goes on
                del self._copiers[kind]
                why = redact(" ".join(f"{type(error).__name__}: {error}".split()))[:200]
                self._say(f"cannot write {kind}'s files: {why}; training continues, and --resume writes the rest")
