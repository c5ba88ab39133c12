"""The contract between the sweep and what it trains.

A trainable is a module with two names: `Config`, a pydantic model that satisfies `Settings`, and a function
`train(config, context)`. Eleven are optional: `expand(params)` replaces settings by dotted path which stand for others,
such as a preset, by those, the other params winning; `prepare(config)` makes what all trials share (the tokenised
corpus), raises ValueError for what cannot be had, and returns facts to keep in the record, among them `notes` and
`warnings`, lists of lines for people; `check(config, facts)`, called after it for every arm and every corner of the
space, raises ValueError, in one line, for settings that what is prepared does not serve, and may return lines that join
the `warnings`; `preparing(config)` says how many seconds `prepare` would take here and now, about, and makes nothing;
`probe(config, device, world_size)` trains a few steps on made-up data, as the first of that many ranks, and returns
their `Pace`; `check_tasks(config, tasks)`, called after `prepare`, raises ValueError, in one line, for tasks that
cannot be scored, and returns the names of the main metrics that they will give, such as `zorro/accuracy`, each with a
fingerprint of the task's data; `at_end()` names losses that the last row alone has; `past(config, step)` returns the
settings on which the first so many steps of a run depend, or None if no other configuration can share them: runs with
the same past and seed are the same up to there, to the last bit, and later ones start from what the first one left
(`fork_from`, `leave_at`); `stuck(metrics)` says of one run, by its last row, that it did not begin to learn, in words
that follow "2 runs", such as "stayed at word frequencies", and returns None where it did: no mean hides such a run, for
a comparison with one is inconclusive; `unlearned(metrics)` says in a sentence, for people, why runs that end with such
metrics, the means over the baseline's, have learned too little for a comparison with them to mean anything, and returns
None where they have not, or where the metrics do not tell; `setup(config, facts)` says what a configuration trains,
label -> text, such as "corpus" and "model", for "Setup" in reports and papers; it is asked of every arm and every
corner of the space, and what differs between them is said to vary; what a run `BEGAN` with is in the methods, too.
Among the facts of `prepare` may be `judged`, lines for people to stand beside every verdict: what the losses that it
goes by were measured on. `Config.budget`, a `Budget`, is optional, too: without it the settings tell nothing of the
budget, and two metrics may (see `TrainContext`). A spec names a trainable as text (`trainables.mlm:train`); the text
crosses to the workers and is imported there. The driver imports the module too, to validate settings, so the module
must import nothing heavy: torch belongs inside the functions.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel

Report = Callable[[Mapping[str, float], Path | None], None]

_NOT_RUN = "what a record brings along is not run: read it, then put it elsewhere on the path"
BEGAN = "began with"  # a label of `setup`
FEW_DOCUMENTS = 20  # with fewer, what other documents would give cannot be told from their spread
AUDIT, COUNTED = "audit/", "audit/counted"


@runtime_checkable
class Settings(Protocol):
    """What the sweep asks of a trainable's `Config` beyond being a pydantic model."""

    @property
    def steps(self) -> int:
        """Optimiser steps of the full length."""
        ...

    @property
    def warmup_steps(self) -> int:
        """Steps in which every configuration of a sweep is the same run, so that nothing may be judged by them."""
        ...

    @property
    def tokens_per_step(self) -> int:
        """Input tokens of one step, over all ranks."""
        ...

    @property
    def flops_per_step(self) -> float:
        """Floating-point operations of one step, forward and backward, over all ranks."""
        ...

    @property
    def validation_flops(self) -> float:
        """Floating-point operations of all validations of a run of the full length; an upper bound will do."""
        ...

    @property
    def checkpoint_bytes(self) -> int:
        """Size of one checkpoint, about."""
        ...

    @property
    def memory_bytes(self) -> int:
        """What training holds at its peak on one rank, beyond the libraries, about."""
        ...


def _alone(_tensor: Any) -> None:
    """One rank has nothing to sum."""


def _keep_nothing(_step: int, folder: Path | None) -> None:
    """Nobody starts from here."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _nothing(_config: Any) -> dict[str, Any]:
    """Nothing to prepare."""
    return {}


def _anything(_config: Any, _facts: Any) -> None:
    """Every setting is served, and nothing is to be said of it."""


def _nothing_said(_config: Any, _facts: Any) -> dict[str, str]:
    """Reports say of the setup what the sweep itself knows."""
    return {}


def _none() -> tuple[str, ...]:
    """Every row has the same metrics."""
    return ()


def _silent(_metrics: Mapping[str, float]) -> None:
    """Nothing is known of what a run should have learned."""


def _at_once(_config: Any) -> float:
    """Nothing to prepare takes no time."""
    return 0.0


class Pace(NamedTuple):
    """How fast a trial goes, in s. step: of one optimiser step. reports: of all validations of a run's full length."""

    step: float
    reports: float


class Budget(NamedTuple):
    """What a run of the full length predicts, by its settings: runs are comparable where the two are equal.

    predicted: positions; on average, where chance or the text has a part in it. exact: whether every batch predicts the
    same number, whatever the text. usual: whether that is what the trainable's defaults predict of as many tokens: then
    a sweep's budget_hash is the one that it had before there were budgets. way: how it comes about where it is not
    exact; two ways are two budgets, even at one number.
    """

    predicted: int
    exact: bool = True
    usual: bool = False
    way: str = ""

    def same(self, other: Budget) -> bool:
        return (self.predicted, self.exact, self.way) == (other.predicted, other.exact, other.way)


class Interval(NamedTuple):
    """What a run masked after the report at step `since`, up to the one at `step`.

    counted: predictions in it. shares: of them, by GROUP/PART.
    """

    since: int
    step: int
    counted: int
    shares: dict[str, float]


def intervals(rows: Iterable[Mapping[str, float]]) -> Iterator[Interval]:
    """The intervals of a run, from its rows of metrics in order, whose shares are of all it has masked so far.

    None for those without a prediction that counts, and none that a row without `audit/counted` begins or ends.
    """
    before: Mapping[str, float] | None = {"step": 0, COUNTED: 0.0}
    for row in rows:
        if not math.isfinite(row.get(COUNTED, math.nan)):
            before = None
            continue
        counted = round(row[COUNTED]) - round(before[COUNTED]) if before else 0
        if before and counted > 0:
            keys = [key for key in row if key.startswith(AUDIT) and key.count("/") > 1]
            shares = {key.removeprefix(AUDIT): (_count(row, key) - _count(before, key)) / counted for key in keys}
            yield Interval(int(before["step"]), int(row["step"]), counted, shares)
        before = row


def _count(row: Mapping[str, float], key: str) -> int:
    """The predictions behind a share; whole, so that differences are exact."""
    count = row[COUNTED] * row.get(key, 0.0)
    return round(count) if math.isfinite(count) else 0


@dataclass(frozen=True)
class TrainContext:
    """What a trainable may know of where it runs.

    report: called on every rank at the same steps with metrics (floats; `step` is required) and, on rank 0, a
        checkpoint folder which the receiver then owns, else None. Only rank 0's metrics are kept. The folder holds
        `history.jsonl`, one JSON object for each row of metrics reported so far, this one included; the last one of
        a run holds a `bundle/` folder, too; files in its `analysis/` are logged with the trial. The metric
        `audit/matched` is 0 where a run did not predict the same number in every batch, and `train/predicted` is how
        many positions it has predicted: by them, too, a run has left the budget that makes it comparable or has not.
        `audit/GROUP/PART` are shares of what was masked since the start; with `audit/counted`, how many predictions
        they are of, in every row, reports show what was masked from one report to the next (`intervals`).
    seed: pairs runs: the same initial weights, batch order and noise.
    device: a torch device, "cpu" or "cuda:0".
    restore_from: a checkpoint folder which an earlier call reported, or None.
    fork_from: a folder that a run with the same `past` left, or None: start from its step, not from 0, and report the
        rows on the way, on rank 0 with None in place of a checkpoint.
    leave_at: the steps after which every rank calls `leave(step, folder)`: rank 0 with a folder from which others may
        start, which the receiver then owns, or with None if the disk has no room for it; the others with None. Its
        `history.jsonl` ends with a row of that step. Only where `past` is not None.
    all_reduce: sums a tensor over the ranks in place.
    test: whether the last row has metrics of the part that no search may see, too, called `test/...`; the bundle then
        may have `analysis/documents.json`, `{"loss": [...], "predictions": [...]}` by document of that part.
    evaluate: tasks by name and where their data lies: the last row has their scores, too; the higher the better. Beside
        `TASK/accuracy`, or whatever it is, may stand `TASK/untrained`, the same before any training.
    """

    report: Report
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    restore_from: Path | None = None
    fork_from: Path | None = None
    leave_at: frozenset[int] = frozenset()
    leave: Callable[[int, Path | None], object] = _keep_nothing
    all_reduce: Callable[[Any], object] = _alone
    test: bool = False
    evaluate: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trainable:
    """A trainable by name: its settings' type and its functions. Made by `load`."""

    name: str
    config: Any
    train: Callable[[Any, TrainContext], None]
    prepare: Callable[[Any], dict[str, Any]]
    check: Callable[[Any, Mapping[str, Any]], Sequence[str] | None]
    preparing: Callable[[Any], float]
    expand: Callable[[Mapping[str, Any]], dict[str, Any]]
    probe: Callable[[Any, str, int], Pace] | None
    check_tasks: Callable[[Any, Mapping[str, str]], Mapping[str, str]] | None
    at_end: Callable[[], Sequence[str]]
    past: Callable[[Any, int], Mapping[str, Any] | None] | None
    unlearned: Callable[[Mapping[str, float]], str | None]
    stuck: Callable[[Mapping[str, float]], str | None] | None
    setup: Callable[[Any, Mapping[str, Any]], Mapping[str, str]]

    @staticmethod
    def load(name: str, outside: Path | None = None) -> Trainable:
        """Import `module:function`. Raises ValueError, in one line, where there is no such thing.

        outside: of a run's folder, which may be a stranger's: nothing in there is imported, now or later.
        """
        module_name, _, function = name.partition(":")
        if not function:
            raise ValueError(f"{name!r} must have the form module:function, such as trainables.mlm:train")
        if outside is not None:
            _refuse_inside(module_name, outside.resolve())
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            hint = f" It is not looked for in the run's folder, for {_NOT_RUN}" if outside else ""
            raise ValueError(f"no module {error.name!r}: is {module_name!r} on the Python path?{hint}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # foreign code may raise anything, SystemExit too
            raise ValueError(f"importing {name!r} raised {type(error).__name__}: {str(error)[:200]}") from error
        try:
            train, config = (getattr(module, key, None) for key in (function, "Config"))
            others = {key: getattr(module, key, default) for key, default in _OTHERS.items()}
        except (Exception, SystemExit) as error:  # a module may have a __getattr__
            raise ValueError(f"looking into {name!r} raised {type(error).__name__}: {str(error)[:200]}") from error
        if train is None or config is None:
            raise ValueError(f"{module_name!r} must have {function!r} and 'Config'")
        if not (isinstance(config, type) and issubclass(config, BaseModel)):
            raise ValueError(f"the Config of {name!r} is not a pydantic model")
        for key, one in {function: train, **others}.items():
            if not (callable(one) or (one is None and _OTHERS.get(key, one) is None)):
                raise ValueError(f"{key!r} of {module_name!r} must be a function, not {type(one).__name__}")
        return Trainable(name=name, config=config, train=train, **others)


_OTHERS: dict[str, Any] = {
    "prepare": _nothing,
    "check": _anything,
    "preparing": _at_once,
    "expand": dict,
    "probe": None,
    "check_tasks": None,
    "at_end": _none,
    "past": None,
    "unlearned": _silent,
    "stuck": None,
    "setup": _nothing_said,
}


def shipped(name: str) -> bool:
    """Whether it is of the package that comes with this one, and so no stranger's. Imports nothing."""
    package = name.partition(":")[0].partition(".")[0]
    if package != "trainables":
        return False
    own = Path(__file__).resolve().parent.parent / package
    return [own] == [path.resolve() for path in _places(package)]


def imported_from(name: str) -> str | None:
    """In a line, which code a record's trainable is; None of one that comes with sweeper."""
    module = sys.modules.get(name.partition(":")[0])
    return None if shipped(name) else f"{name} is imported from {getattr(module, '__file__', None) or 'no file'}"


def _places(module: str) -> list[Path]:
    """A package's folders, or a module's file. Imports the packages above it. Nothing where it is not found."""
    try:
        found = importlib.util.find_spec(module)
    except KeyboardInterrupt:
        raise
    except BaseException:  # of foreign code, or of no name of a module: `load` says what is wrong
        return []
    if found is None:
        return []
    return [Path(place) for place in found.submodule_search_locations or filter(None, [found.origin])]


def _refuse_inside(module: str, folder: Path) -> None:
    """Have no module be found in a folder from now on. Raises ValueError, in one line, where this one is, even so."""
    sys.path[:] = [entry for entry in sys.path if not _within(Path(entry), folder)]
    parts = module.split(".")
    for name in (".".join(parts[: n + 1]) for n in range(len(parts))):  # each before `_places` of the next imports it
        for place in _places(name):
            if _within(place, folder):
                raise ValueError(f"{name!r} lies in the run's folder, {place}, and {_NOT_RUN}")


def _within(path: Path, folder: Path) -> bool:
    return any(folder in (one, *one.parents) for one in (path.resolve(), path.absolute()))
