"""Seeds that a confirmation may use: those that no earlier run of the same data has used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sweeper.journal import object_store, warm_start
from sweeper.journal.events import WarmStart
from sweeper.journal.journal import Journal
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import history, store
from sweeper.tracking import tags as tag

Say = Callable[[str], None]


def refuse_used(spec: SweepSpec, uri: str, facts: Mapping[str, Any], own: Mapping[str, str], say: Say) -> None:
    """Raises ValueError in one line if other runs on this data have used a seed of the confirmation.

    own: see `store.identity`. If the store cannot be reached the sweep may start: the confirmation asks it again.
    """
    try:
        used = spent(uri, facts, own) & {*spec.seeds.confirm} if spec.compared else set()
    except ValueError as error:
        return say(f"{error}; cannot tell yet whether seeds.confirm are fresh")
    if used:
        listed = ", ".join(map(str, sorted(used)))
        raise ValueError(
            f"seeds.confirm: earlier runs on this data used {listed}, so they confirm nothing: choose others "
            f"(--set seeds.confirm=[...]), or give --reuse-seeds to have the verdict marked as not fresh"
        )


def refuse_told(spec: SweepSpec, warm: Sequence[WarmStart]) -> None:
    """The same of seeds whose losses `search.from` tells the sampler: the store need not have those runs."""
    if spec.compared and (told := warm_start.seeds(warm) & {*spec.seeds.confirm}):
        raise ValueError(
            f"seeds.confirm: runs of search.from used {', '.join(map(str, sorted(told)))}, and what they tell steers "
            f"the search, so they confirm nothing: choose others (--set seeds.confirm=[...]), or give --reuse-seeds to "
            f"have the verdict marked as not fresh"
        )


def refuse_stale(journal: Journal, uri: str, run_dir: Path, say: Say) -> None:
    """Raises ValueError, in one line, if the store has events of this run that its record lacks.

    Then this folder is a copy, and the original, or another copy, has gone on since. A run in an object store may lack
    what its machine had no time to send before it was lost: that gets a line, and the run continues.
    """
    if not journal.run:
        return
    try:
        runs = store.found(uri, {tag.RUN_ID: journal.run}, history.ALL)
    except ValueError as error:
        return say(f"{error}; cannot tell whether another copy of this run has gone on")
    if not {run.data.tags.get(tag.DIGEST) for run in runs} - {None, *journal.digests}:
        return
    if object_store.of(run_dir):
        return say(f"{run_dir.name}: the tracking store has events that were lost with the machine that ran it")
    raise ValueError(
        f"{run_dir}: the tracking store has events of run {journal.run} that this folder lacks: another copy has "
        "gone on, or this one lost lines: resume the other copy, or give --fork to continue this one as a new run"
    )


def spent(uri: str, facts: Mapping[str, Any], own: Mapping[str, str]) -> set[int]:
    """Seeds that other runs on this data have used; none if the trainable names no data."""
    data = facts.get("data_fingerprint")
    return history.used_seeds(uri, str(data), own) if data else set()
