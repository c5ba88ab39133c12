"""What a run has used so far, by its journal, and whether the spec's `limits` end it there.

Hours are those of the run's sessions: what lies between two sessions does not count (hours.py). GPU-hours are the GPUs
that a trial holds, times the hours from its start in a session to its end there. Failures are counted by a trial's
number, so the clock does not matter, and anew in each session: whoever resumes a run has seen what failed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import TYPE_CHECKING

from sweeper.journal.events import End, Session
from sweeper.journal.hours import Hours
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.system.files import one_line
from sweeper.system.secrecy import redact

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

HOUR = 3600.0


class Reached(Exception):
    """A limit of the spec ends the sweep in order; in one line."""


class Limits:
    """Follows a run's journal and says when one of its limits is reached. now: the time, in s since 1970."""

    def __init__(self, spec: SweepSpec, journal: Journal, now: Callable[[], float] = time.time) -> None:
        self.spec, self.journal, self.now = spec, journal, now
        self._hours, self._cursor, self._begun = Hours(journal), 0, False
        self._failed: dict[str, set[int]] = defaultdict(set)  # by stage, in this session
        self._never_ran: dict[str, set[int]] = defaultdict(set)
        self._in_a_row: str | None = None

    def reached(self) -> str | None:
        """Which limit is reached, in a line; None if none is."""
        self._follow()
        return self.used_up() or self._in_a_row

    def used_up(self) -> str | None:
        """The same of hours and GPU-hours alone."""
        limits, gpus = self.spec.limits, self.spec.resources.processes * self.spec.resources.gpus_per_worker
        if limits.hours is not None and (hours := self.hours) >= limits.hours:
            return f"limits.hours: the sweep has run for {hours:.3g} hours, the limit is {limits.hours:g}"
        if limits.gpu_hours is not None and (hours := self.trial_hours * gpus) >= limits.gpu_hours:
            return f"limits.gpu_hours: the trials have used {hours:.3g} GPU-hours, the limit is {limits.gpu_hours:g}"
        return None

    @property
    def hours(self) -> float:
        """Wall clock of all sessions so far, in hours."""
        return self._hours.wall(self.now()) / HOUR

    @property
    def trial_hours(self) -> float:
        """Hours for which trials held their resources, over all trials."""
        return self._hours.of_trials(self.now()) / HOUR

    def ended(self) -> Limits:
        """The same at the run's last event: of a run that nobody works on now."""
        self.now = lambda: self._hours.last
        return self

    def _follow(self) -> None:
        events = self.journal.events
        while self._cursor < len(events):
            event = events[self._cursor]
            self._cursor += 1
            if isinstance(event, Session):
                self._begun, self._in_a_row = True, None
                self._failed.clear()
            elif isinstance(event, End) and event.state == "failed":
                self._fail(self.journal.trials[event.trial], event)

    def _fail(self, record: TrialRecord, end: End) -> None:
        """A trial failed: count those beside it. One whose settings were refused never ran and counts for nothing."""
        stage, number, most = record.ask.stage, record.ask.number, self.spec.limits.failures
        if not record.ask.config_hash:
            self._never_ran[stage].add(number)
            return
        failed, skipped = self._failed[stage], self._never_ran[stage]
        failed.add(number)
        row = 1
        for step in (-1, 1):
            at = number + step
            while at in failed or at in skipped:
                row += at in failed
                at += step
        if most is not None and row >= most and self._begun:
            why = redact(one_line(end.reason or "no reason on record"))
            self._in_a_row = f"limits.failures: {row} trials failed in a row, the last, {record.id}: {why}"


def refuse_used_up(spec: SweepSpec, journal: Journal) -> None:
    """Raises ValueError, in one line, for a run that has used all that its limits allow: nothing of it would run."""
    if line := Limits(spec, journal).ended().used_up():
        raise ValueError(f"{line}; resume with a higher one, --set {line.partition(':')[0]}=MORE")
