"""A sweep in this process, one trial after the other: the searcher, the scheduler and the trials, without Ray."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.schedulers import TrialScheduler
from ray.tune.utils import flatten_dict

from sweeper.confirmation import design
from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.spec.spec import SweepSpec
from sweeper.trials import trial, tuner


class Stopped(Exception):
    """The scheduler stops a trial here, as Tune does."""


def sweep(
    spec: SweepSpec,
    storage: Path,
    *,
    reuse: bool = True,
    confirm: bool = False,
    fresh: bool = False,
    stop_after: float = math.inf,
    say: Callable[[str], None] = lambda line: None,
    **facts: Any,
) -> Journal:
    """Run a spec in a new run folder, as the command makes it. facts: of `prepare`, over a data fingerprint.

    stop_after: trials of the search after which the session ends.
    """
    folder = run_folders.new(storage, spec)
    journal = Journal(folder / run_folders.JOURNAL)
    journal.born(spec.spec_hash)
    run_folders.begin_here(journal)
    more: dict[str, Any] = {"reuse": reuse, "confirm": confirm, "fresh": fresh, "say": say}
    go_on(spec, folder, journal, stop_after=stop_after, **more, **facts)
    return journal


def go_on(
    spec: SweepSpec,
    folder: Path,
    journal: Journal,
    *,
    reuse: bool = True,
    confirm: bool = False,
    fresh: bool = False,
    stop_after: float = math.inf,
    say: Callable[[str], None] = lambda line: None,
    **facts: Any,
) -> None:
    """A session of a run: what is left of its search, and then of its confirmation."""
    at_once = tuner.begin(spec, folder, journal, 1, {"data_fingerprint": "text"} | facts, say)
    through(*tuner.searching(spec, folder, journal, 1, at_once, reuse, say), folder, stop_after)
    if confirm:
        if not journal.families():
            journal.append(design.declared(spec, journal, fresh=fresh, earlier=0))
        through(*tuner.confirming(spec, folder, journal, 1, at_once, reuse, say), folder)


def through(search: Any, rule: Any, folder: Path, most: float = math.inf) -> None:
    """All trials that a searcher has, `most` at most."""
    while search.remaining and len(search.journal.trials) < most:
        task = search.suggest("tune's own id")
        if isinstance(task, dict):
            one(search.spec, rule, folder, task)


def one(spec: SweepSpec, rule: Any, folder: Path, task: dict[str, Any]) -> None:
    """One trial, to its end or to where the scheduler stops it."""
    tuned = SimpleNamespace(config=task, status="RUNNING")

    def report(row: dict[str, Any]) -> None:
        if rule.on_trial_result(None, tuned, flatten_dict(row)) == TrialScheduler.STOP:  # as Tune does
            raise Stopped

    rule.on_trial_add(None, tuned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial.tune, "report", report)
        patch.setattr(trial, "_here", lambda: {"node": "127.0.0.1"})
        try:
            trial.run({**tuner.shared(spec, folder), **task})
        except Stopped:
            return
        except Exception:
            tuned.status, tuned.should_recover = "ERROR", lambda: False
            rule.on_trial_error(None, tuned)
            return
    rule.on_trial_complete(None, tuned, {})
