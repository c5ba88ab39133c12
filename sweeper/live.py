"""What people watch on stderr while a sweep runs, painted from the journal alone.

On a terminal a table that is redrawn; elsewhere one line for each trial's start and end, and now and then one of
progress. Nothing in here may stop a sweep: whatever goes wrong in painting stays in here.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from rich import box
from rich import live as rich_live
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sweeper.journal import Ask, End, Journal, Session, TrialRecord
from sweeper.report import best, describe, settings

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec

PAINT_S = 0.5
LINE_S = 30.0
WIDE = 100
_ENDED = ("completed", "stopped", "failed")
_STYLES = {"completed": "green", "stopped": "yellow", "failed": "bold red", "interrupted": "magenta", "running": "cyan"}
# Heading -> share of the free width (None: as wide as the content), justification.
_COLUMNS: dict[str, tuple[int | None, Literal["left", "right"]]] = {
    "trial": (None, "left"),
    "arm or settings": (3, "left"),
    "seed": (None, "right"),
    "step": (None, "right"),
    "steps/s": (None, "right"),
    "score": (None, "right"),
    "state": (None, "left"),
    "why": (2, "left"),
}
_WIDE = tuple(_COLUMNS)
_NARROW = ("trial", "arm or settings", "step", "score", "state")


@dataclass(frozen=True)
class Progress:
    """How far the sweep is. done: of 1. seconds_left: None before this session has done any work."""

    counts: Counter[str]
    total: int
    done: float
    seconds_left: float | None

    @staticmethod
    def of(records: Sequence[TrialRecord], total: int, since: float, now: float) -> Progress:
        """since, now: in s, when this driver's session began, and the present."""
        work = sum(_work(record, math.inf) for record in records)
        fresh = work - sum(_work(record, since) for record in records)
        left = (total - work) * (now - since) / fresh if fresh > 0 and now > since else None
        return Progress(Counter(_state(record) for record in records), total, min(1.0, work / max(1, total)), left)

    def __str__(self) -> str:
        ended = [f"{self.counts[state]} {state}" for state in _ENDED if self.counts[state]]
        others = [f"{count} {state}" for state, count in self.counts.items() if state not in _ENDED]
        count = sum(self.counts[state] for state in _ENDED)
        text = f"{count} of {self.total} trials ended" + (f": {', '.join(ended)}" if ended else "")
        text = "; ".join([text, *others, f"{100 * self.done:.0f} %"])
        left = self.seconds_left is not None and self.done < 1
        return f"{text}, about {_duration(self.seconds_left or 0)} left" if left else text


def speed(record: TrialRecord, since: float) -> float | None:
    """Steps a second in the session that began at `since`, from the first report on: what precedes it is start-up."""
    points = [(row.step, row.time) for row in record.rows if row.time >= since]
    if len(points) == 1 and record.ask.time >= since:
        points.insert(0, (0, record.ask.time))
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    return (points[-1][0] - points[0][0]) / (points[-1][1] - points[0][1])


class Screen(Console):
    """A console whose reader may go away: then it is silent, where rich would end the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class Live:
    """A context in which the sweep is shown. `say` prints a line, above the table where there is one.

    total: trials that the sweep is to run.
    """

    def __init__(self, spec: SweepSpec, journal: Journal, total: int, *, console: Console | None = None) -> None:
        # Not a terminal is not a terminal, whatever FORCE_COLOR says: a log file wants no cursor movements.
        self._console = console or Screen(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
        self._spec, self._journal, self._total = spec, journal, total
        self._table: rich_live.Live | None = None
        self._cursor = 0
        self._next_line = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)

    def __enter__(self) -> Self:
        self._cursor = len(self._journal.events)
        self._next_line = time.monotonic() + LINE_S
        profile = f", profile {self._spec.profile}" if self._spec.profile else ""
        known = f", {len(self._journal.trials)} of them begun" if self._journal.trials else ""
        self.say(f"{self._spec.name}: {self._total} trials{known}{profile}")
        with contextlib.suppress(Exception):
            if self._console.is_terminal and not self._console.is_dumb_terminal:
                table = rich_live.Live(console=self._console, auto_refresh=False, redirect_stdout=False)
                table.start()
                self._table = table
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2 * PAINT_S)
        self._paint()
        with contextlib.suppress(Exception):
            if self._table:
                self._table.stop()

    def say(self, text: str) -> None:
        """Print a line."""
        with contextlib.suppress(Exception):
            self._console.print(Text(text), soft_wrap=True)

    def _follow(self) -> None:
        while not self._stop.wait(PAINT_S):
            self._paint()

    def _paint(self) -> None:
        with contextlib.suppress(Exception):
            self._news()
            if self._table:
                width, height = self._console.size
                self._table.update(picture(self._spec, self._journal, self._total, width, height), refresh=True)

    def _news(self) -> None:
        """A line for what has happened since; beside a table, which cuts reasons short, only for failures."""
        for event in self._journal.events[self._cursor :]:
            self._cursor += 1
            if isinstance(event, Ask) and not self._table:
                self.say(f"{event.trial} starts: {describe(event)}, seed {event.seed}")
            elif isinstance(event, End) and (event.state == "failed" or not self._table):
                self.say(_ending(self._journal.trials[event.trial], event, self._spec.objective))
        if time.monotonic() >= self._next_line and not self._table:
            self._next_line = time.monotonic() + LINE_S
            self.say(_progress(self._spec, self._journal, self._total))


def picture(spec: SweepSpec, journal: Journal, total: int, width: int, height: int) -> Group:
    """The table and the line of progress under it, for a terminal of that many columns and lines."""
    records = list(journal.trials.values())
    found = best(records, spec.objective)
    shown = _shown(records, found, max(3, height - 6))
    wide = width >= WIDE
    rows = [_cells(record, spec, _since(journal), wide) for record in shown]
    keys = [
        key for key in _COLUMNS if key in (_WIDE if wide else _NARROW) and (key != "why" or any(map(_reason, shown)))
    ]
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, expand=True)
    for key in keys:
        ratio, justify = _COLUMNS[key]
        ratio = 2 if key == "state" and not wide else ratio  # where it tells the reason, too
        head = spec.objective if key == "score" else key
        table.add_column(head, ratio=ratio, justify=justify, no_wrap=True, overflow="ellipsis")
    for record, cells in zip(shown, rows, strict=True):
        table.add_row(*(cells[key] for key in keys), style="bold" if record is found else "")
    lines: list[Table | Text] = [table] if records else []
    if len(shown) < len(records):
        lines.append(Text(f"{len(records) - len(shown)} more trials are not shown", style="dim"))
    return Group(*lines, Text(_progress(spec, journal, total)))


def _cells(record: TrialRecord, spec: SweepSpec, since: float, wide: bool) -> dict[str, Text]:
    score, state, reason, rate = record.score(spec.objective), _state(record), _reason(record), speed(record, since)
    steps = record.ask.config.get("steps")
    what = Text(describe(record.ask))
    if wide and record.ask.arm:
        what.append(f"  {settings(record.ask)}", "dim")
    return {
        "trial": Text(record.id),
        "arm or settings": what,
        "seed": Text(str(record.ask.seed)),
        "step": Text(f"{record.step:,}/{steps:,}" if isinstance(steps, int) else f"{record.step:,}"),
        "steps/s": Text("" if rate is None else f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"),
        "score": Text("" if score is None else f"{score:.4f}"),
        "state": Text(state if wide or not reason else f"{state}: {reason}", _STYLES.get(state, "dim")),
        "why": Text(reason),
    }


def _reason(record: TrialRecord) -> str:
    return " ".join((record.end.reason or "").split()) if record.end else ""


def _shown(records: Sequence[TrialRecord], found: TrialRecord | None, room: int) -> list[TrialRecord]:
    """The trials that fit, in order: those that run, the best, and the latest."""
    first = [record for record in records if record.end is None or record is found]
    latest = [record for record in reversed(records) if record.end is not None and record is not found]
    return sorted((first + latest)[:room], key=lambda record: record.ask.number)


def _progress(spec: SweepSpec, journal: Journal, total: int) -> str:
    records = list(journal.trials.values())
    found = best(records, spec.objective)
    text = str(Progress.of(records, total, _since(journal), time.time()))
    return f"{text}; best {found.id}, {spec.objective} {found.score(spec.objective):.4f}" if found else text


def _ending(record: TrialRecord, event: End, objective: str) -> str:
    score = record.score(objective)
    told = f", {objective} {score:.4f}" if score is not None else ""
    why = f": {_reason(record)}" if event.reason else ""
    return f"{record.id} {event.state} at step {record.step:,}{told}{why}"


def _since(journal: Journal) -> float:
    """When the last session began, in s."""
    return max((event.time for event in journal.events if isinstance(event, Session)), default=0.0)


def _state(record: TrialRecord) -> str:
    return "starting" if record.state == "running" and not record.rows else record.state


def _work(record: TrialRecord, at: float) -> float:
    """The share of the trial that was done at a time; one that ended early needs no more."""
    if record.end and not record.open and record.end.time <= at:
        return 1.0
    step = max((row.step for row in record.rows if row.time <= at), default=0)
    steps = record.ask.config.get("steps")
    return min(1.0, step / steps) if isinstance(steps, int) and steps > 0 else 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
