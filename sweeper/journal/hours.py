"""What the sessions of a run took, and how long each trial ran in them, by its journal.

A session lasts from its `Session` to the last event of a trial in it. Others do not move its end: a driver writes some
before the `Session` of its own, an `Extend` or a `Family`, or a `Verdict` where nothing is left to train.
"""

from __future__ import annotations

from collections import deque

from sweeper.journal.events import Ask, End, Report, Session
from sweeper.journal.journal import Journal


class Hours:
    """Follows a journal as it grows. All times are seconds; a clock that is set back takes none away."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._cursor = journal, 0
        self._begin = 0.0  # of the session
        self._last: float | None = None  # the latest event that counts; None before the first session
        self._wall = self._held = 0.0  # up to the latest event; by trials that do not run now
        self._spent: dict[str, float] = {}  # by trial, without its present run
        self._running: dict[str, float] = {}  # since when
        self._open: dict[str, None] = {}  # in the order of asking
        self._waiting: deque[str] = deque()  # open ones, for a place in this session
        self._places = 0
        self._again: dict[str, float] = {}  # when a trial was interrupted in this session

    @property
    def last(self) -> float:
        """The latest event of a session, since 1970; 0 if there was no session."""
        self.follow()
        return self._last or 0.0

    def wall(self, now: float | None = None) -> float:
        """Of all sessions, up to `now` or the latest event."""
        self.follow()
        return self._wall + (0.0 if now is None or self._last is None else max(0.0, now - self._last))

    def of_trials(self, now: float | None = None) -> float:
        """Summed over all trials, up to `now` or the latest event."""
        last = self.last
        now = last if now is None else now
        return self._held + sum(max(0.0, now - begin) for begin in self._running.values())

    def by_trial(self) -> dict[str, float]:
        """Trial -> what it ran, over all sessions, up to the latest event."""
        last, found = self.last, dict(self._spent)
        for trial, begin in self._running.items():
            found[trial] = found.get(trial, 0.0) + max(0.0, last - begin)
        return found

    def follow(self) -> None:
        """Read what the journal has got since."""
        events = self._journal.events
        while self._cursor < len(events):
            event = events[self._cursor]
            self._cursor += 1
            if isinstance(event, Session):
                self._session(event)
            elif isinstance(event, Ask | Report | End):
                self._wall += max(0.0, event.time - (event.time if self._last is None else self._last))
                self._last = event.time
                self._trial(event)

    def _session(self, event: Session) -> None:
        """What ran in the session before had ended with its last event."""
        for trial in [*self._running]:
            self._stop(trial, self._last or 0.0)
        self._begin = self._last = event.time
        self._places = min(event.machine.get("concurrency", 0), event.machine.get("slots", 0))
        self._waiting, self._again = deque(self._open), {}
        self._fill(event.time)

    def _trial(self, event: Ask | Report | End) -> None:
        trial = event.trial
        if isinstance(event, Ask):
            self._running[trial] = event.time
            self._open[trial] = None
            return
        interrupted = isinstance(event, End) and event.state == "interrupted"
        if trial in self._open and trial not in self._running and not interrupted:
            if trial in self._waiting:
                self._waiting.remove(trial)
            self._running[trial] = self._again.get(trial, self._begin)
        if isinstance(event, End):
            self._stop(trial, event.time)
            if interrupted:  # it may be tried again
                self._again[trial] = event.time
            else:
                self._open.pop(trial, None)
            self._fill(event.time)

    def _fill(self, time: float) -> None:
        """Open trials go on in the order of asking, as places are free. Where these are not known, see `_trial`."""
        while self._waiting and len(self._running) < self._places:
            self._running[self._waiting.popleft()] = time

    def _stop(self, trial: str, time: float) -> None:
        ran = max(0.0, time - self._running.pop(trial, time))
        self._spent[trial] = self._spent.get(trial, 0.0) + ran
        self._held += ran


def pace(journal: Journal, trial: str) -> float | None:
    """Seconds of a trial for a step of its own, between reports of one session; None if there are too few.

    The last report is left out: tasks are scored before it.
    """
    last, seconds, steps = None, 0.0, 0
    kept = {id(row) for row in journal.trials[trial].rows[:-1]}
    for event in journal.events:
        if isinstance(event, Session) or (isinstance(event, End) and event.trial == trial):
            last = None
        elif id(event) in kept:
            assert isinstance(event, Report)
            if last and event.step > last.step:
                seconds, steps = seconds + max(0.0, event.time - last.time), steps + event.step - last.step
            last = event
    return seconds / steps if steps else None
