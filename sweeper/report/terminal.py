"""What people watch on stderr while a sweep runs, made from the journal alone.

On a terminal, and in a notebook, a table that is redrawn; elsewhere one line for each trial's start and end, and now
and then one of progress. Nothing in here may stop a sweep: errors in painting stay in here.
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich import box
from rich import live as rich_live
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from sweeper.journal.events import Ask, End, Family, Over, Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.records import best, ended, is_shares, settings
from sweeper.journal.verdict_text import declared
from sweeper.report import notebook
from sweeper.system.files import one_line
from sweeper.system.markdown import ABSENT
from sweeper.system.secrecy import veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

PAINT_S = 0.5
SHARE = 0.02  # of a processor that painting may take, which is slow for thousands of trials
LINE_S = 30.0
WHY = 12  # columns that a reason needs to be worth showing: failures also get a line above the table
_ENDED = ("completed", "stopped", "failed")
_STYLES = {"completed": "green", "stopped": "yellow", "failed": "bold red", "interrupted": "magenta", "running": "cyan"}
_GAP = 2


@dataclass(frozen=True)
class Column:
    """A heading of one line or two, and a cell for each trial that is shown."""

    head: str
    cells: list[Text]
    right: bool = False

    @property
    def width(self) -> int:
        """Of its longest line."""
        return max(len(text) for text in (*self.head.split("\n"), *(cell.plain for cell in self.cells)))


@dataclass(frozen=True)
class Progress:
    """How far the sweep is. done: a share of 1. seconds_left: None until this session has done some work."""

    counts: Counter[str]
    total: int
    done: float
    seconds_left: float | None

    @staticmethod
    def of(records: Sequence[TrialRecord], total: int, since: float, now: float) -> Progress:
        """since: when this driver's session began, in s. now: in s. The pace leaves out Ray's start."""
        begun = (time for record in records for time in (record.ask.time, *(row.time for row in record.rows)))
        since = min((time for time in begun if time >= since), default=since)
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
    """Steps a second in the session that began at `since`, from the first report on: before it is start-up."""
    points = [(row.step, row.time) for row in record.rows if row.time >= since]
    if len(points) == 1 and record.ask.time >= since:
        points.insert(0, (0, record.ask.time))
    if len(points) < 2 or points[-1][1] <= points[0][1]:
        return None
    return (points[-1][0] - points[0][0]) / (points[-1][1] - points[0][1])


class Screen(Console):
    """A console whose reader may go away: then it falls silent, while rich would end the process."""

    def on_broken_pipe(self) -> None:  # overrides rich's
        self.quiet = True


class Live:
    """A context in which the sweep is shown. `say` prints a line, above the table if there is one.

    total: trials that the sweep will run.
    """

    def __init__(self, spec: SweepSpec, journal: Journal, total: int, *, console: Console | None = None) -> None:
        # Ignore FORCE_COLOR if stderr is no terminal: a log file wants no cursor movements.
        self._notebook = console is None and notebook.here()
        cell = Screen(file=sys.stdout, force_jupyter=False, force_terminal=False) if self._notebook else None
        self._console = console or cell or Screen(stderr=True, force_terminal=None if sys.stderr.isatty() else False)
        self._spec, self._journal, self._total = spec, journal, total
        self._names = Names(spec, (record.ask for record in journal.trials.values()))
        self._table: rich_live.Live | notebook.Cell | None = None
        self._cursor = 0
        self._next_line = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="live", daemon=True)
        self._painting = threading.Lock()  # the last paint is this thread's, and another may be under way

    def __enter__(self) -> Self:
        self._cursor = len(self._journal.events)
        self._next_line = time.monotonic() + LINE_S
        profile = f", profile {self._spec.profile}" if self._spec.profile else ""
        started = f", {len(self._journal.trials)} of them started" if self._journal.trials else ""
        told = sum(len(start.trials) for start in self._journal.warm_starts())
        known = f", the sampler knows {told} of other runs" if told else ""
        self.say(f"{self._spec.name}: {self._total} trials{started}{known}{profile}")
        with contextlib.suppress(Exception):
            if self._notebook:
                self._table = notebook.Cell()
            elif self._console.is_terminal and not self._console.is_dumb_terminal:
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
            # Beside a table words stay whole; in a log a line stays a line.
            self._console.print(_text(text), soft_wrap=self._table is None or self._notebook)

    def _follow(self) -> None:
        pause = least = notebook.PAINT_S if self._notebook else PAINT_S
        while not self._stop.wait(pause):
            begin = time.thread_time()
            self._paint()
            pause = max(least, (time.thread_time() - begin) / SHARE)

    def _paint(self) -> None:
        with contextlib.suppress(Exception), self._painting:
            self._news()
            if self._table:
                width, height = (notebook.WIDTH, notebook.HEIGHT) if self._notebook else self._console.size
                self._table.update(picture(self._spec, self._journal, self._total, width, height), refresh=True)

    def _news(self) -> None:
        """A line for each new event; beside a table only for failures, since a table cuts reasons short."""
        for event in self._journal.events[self._cursor :]:
            self._cursor += 1
            if isinstance(event, Family):  # the total was a guess until now: a champion may have joined
                self._total = len(self._journal.stage("search")) + declared(self._journal)
            elif isinstance(event, Over):
                self.say(f"the {event.stage} is over: {event.reason}")
            elif isinstance(event, Ask) and not self._table:
                self.say(f"{event.trial} starts: {self._names.shown(event)}, seed {event.seed}")
            elif isinstance(event, End) and (event.state == "failed" or not self._table):
                self.say(_ending(self._journal.trials[event.trial], event, self._spec.objective))
        if time.monotonic() >= self._next_line and not self._table:
            self._next_line = time.monotonic() + LINE_S
            self.say(_progress(self._spec, self._journal, self._total))


def picture(spec: SweepSpec, journal: Journal, total: int, width: int, height: int) -> Group:
    """The table and the line of progress under it, for a terminal of that many columns and lines."""
    # A confirmation's runs stand alone: beside the search's scores they would be ranked with them.
    records = journal.stage("confirm") or list(journal.trials.values())
    found = best(spec, records)
    shown = _shown(records, found, max(3, height - 7))
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), width=width)
    columns = _columns(spec, shown, _since(journal), width) if shown else []
    for column in columns:
        # The last column takes the room that is left; a column that does not fit is cut.
        ratio = 1 if column is columns[-1] else None
        justify = "right" if column.right else "left"
        table.add_column(
            Text(column.head), ratio=ratio, justify=justify, no_wrap=True, overflow="ellipsis", vertical="bottom"
        )
    for index, record in enumerate(shown):
        table.add_row(*(column.cells[index] for column in columns), style="bold" if record is found else "")
    lines: list[Table | Text] = [table] if records else []
    if len(shown) < len(records):
        lines.append(Text(f"{len(records) - len(shown)} more trials are not shown", style="dim"))
    return Group(*lines, _text(_progress(spec, journal, total)))


def _columns(spec: SweepSpec, shown: Sequence[TrialRecord], since: float, width: int) -> list[Column]:
    """As many columns as fit. Names of shares, reason and speed go first; then all settings share one column."""
    trial = [Column("trial", [_text(record.id) for record in shown])]
    if any(record.ask.arm for record in shown):
        trial.append(Column("arm", [_text(record.ask.arm or "") for record in shown]))
    chosen, named = _settings(shown), _settings(shown, named=True)
    seeds = [Column("seed", [Text(str(record.ask.seed)) for record in shown], right=True)]
    speeds = [Column("steps/s", [Text(_rate(speed(record, since))) for record in shown], right=True)]
    states = [(state, _STYLES.get(state, "dim")) for state in map(_state, shown)]
    done = [
        _steps(shown),
        Column(one_line(spec.objective), [Text(_score(record, spec.objective)) for record in shown], right=True),
        Column("state", [Text(one_line(state), style) for state, style in states]),
    ]
    why = [Column("why", [_text(_reason(record)) for record in shown])] if any(map(_reason, shown)) else []
    seeds = seeds if len({record.ask.seed for record in shown}) > 1 else []
    for columns in (
        [*trial, *named, *seeds, *done[:1], *speeds, *done[1:], *why],
        [*trial, *chosen, *seeds, *done[:1], *speeds, *done[1:]],
        [*trial, *chosen, *seeds, *done],
    ):
        used = sum(column.width + _GAP for column in columns) - _GAP
        if used <= width:
            return [*columns, *why] if columns[-1:] != why and used + _GAP + WHY <= width else columns
    left = width - sum(column.width + _GAP for column in (*trial, *done))
    cells = [_text(settings(record.ask)) for record in shown]
    for cell in cells:
        cell.truncate(max(8, left), overflow="ellipsis")
    return [*trial, Column("settings", cells), *done]


def _settings(shown: Sequence[TrialRecord], named: bool = False) -> list[Column]:
    """One column for each path that a trial sets, under the last part of its name if that is unambiguous.

    named: a heading of shares lists their parts.
    """
    paths = list(dict.fromkeys(path for record in shown for path in record.ask.params))
    leaves = [path.rpartition(".")[2] for path in paths]
    columns = []
    for path, leaf in zip(paths, leaves, strict=True):
        values = [record.ask.params.get(path) for record in shown]
        head = (leaf if leaves.count(leaf) == 1 else path.replace(".", "_")).replace("_", "\n", 1)
        head = "\n".join(map(one_line, head.split("\n", 1)))
        parts = next((value for value in values if is_shares(value)), None)
        if named and parts:
            head = f"{one_line(leaf)}\n{one_line('/'.join(parts))}"
        texts = [_value(veiled(path, value), _decimals(values)) for value in values]
        cells = [_text(one if path in each.ask.params else ABSENT) for one, each in zip(texts, shown, strict=True)]
        columns.append(Column(head, cells, right=not any(isinstance(value, str | Mapping) for value in values)))
    return columns


def _decimals(values: Sequence[object]) -> int | None:
    """Decimals that align the points of a column's numbers; None if their sizes differ too much."""
    numbers = [abs(value) for value in values if isinstance(value, float)]
    if any(number and not 0.01 <= number < 100 for number in numbers):
        return None
    return min(3, max((len(f"{number:.3g}".partition(".")[2]) for number in numbers), default=0))


def _value(value: object, decimals: int | None) -> str:
    """A setting; shares as whole percentages, since the report has them exactly."""
    if is_shares(value):
        return "/".join(f"{100 * share:.0f}" for share in value.values())
    if isinstance(value, float):
        return f"{value:.3g}" if decimals is None else f"{value:.{decimals}f}"
    return "" if value is None else str(value)


def _steps(shown: Sequence[TrialRecord]) -> Column:
    """The steps; the length is in the heading if it is the same for all."""
    lengths = [record.steps for record in shown]
    if len(set(lengths)) == 1 and isinstance(lengths[0], int):
        return Column(f"step\nof {lengths[0]:,}", [Text(f"{record.step:,}") for record in shown], right=True)
    totals = [f"/{length:,}" if isinstance(length, int) else "" for length in lengths]
    pairs = zip(shown, totals, strict=True)
    return Column("step", [Text(f"{record.step:,}{length}") for record, length in pairs], right=True)


def _text(text: str) -> Text:
    """Text as it is: no markup, no colours, one line."""
    return Text(one_line(text))


def _rate(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.3g}" if rate < 1000 else f"{rate:,.0f}"


def _score(record: TrialRecord, objective: str) -> str:
    score = record.score(objective)
    return "" if score is None else f"{score:.4f}"


def _reason(record: TrialRecord) -> str:
    return ended(record) or ""


def _shown(records: Sequence[TrialRecord], found: TrialRecord | None, room: int) -> list[TrialRecord]:
    """The trials that fit, in order: the running ones, the best, and the latest."""
    first = [record for record in records if record.end is None or record is found]
    latest = [record for record in reversed(records) if record.end is not None and record is not found]
    return sorted((first + latest)[:room], key=lambda record: record.ask.number)


def _progress(spec: SweepSpec, journal: Journal, total: int) -> str:
    records = list(journal.trials.values())
    found = best(spec, records)
    text = str(Progress.of(records, total, _since(journal), time.time()))
    return f"{text}; best {found.id}, {spec.objective} {found.score(spec.objective):.4f}" if found else text


def _ending(record: TrialRecord, event: End, objective: str) -> str:
    score = record.score(objective)
    text = f", {objective} {score:.4f}" if score is not None else ""
    why = f": {_reason(record)}" if event.reason else ""
    return f"{record.id} {event.state} at step {record.step:,}{text}{why}"


def _since(journal: Journal) -> float:
    """When the last session began, in s."""
    return max((event.time for event in journal.events if isinstance(event, Session)), default=0.0)


def _state(record: TrialRecord) -> str:
    return "starting" if record.state == "running" and not record.rows else record.state


def _work(record: TrialRecord, at: float) -> float:
    """The share of the trial that was done at a time; 1 for one that ended early."""
    if record.end and not record.open and record.end.time <= at:
        return 1.0
    step = max((row.step for row in record.rows if row.time <= at), default=0)
    steps = record.steps
    return min(1.0, step / steps) if isinstance(steps, int) and steps > 0 else 0.0


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
