"""Seeds that a confirmation may use: those that no earlier run of the same data has used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sweeper.journal import object_store
from sweeper.journal.journal import Journal
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import history, store
from sweeper.tracking import tags as tag

Say = Callable[[str], None]


def refuse_used(spec: SweepSpec, uri: str, facts: Mapping[str, Any], own: Mapping[str, str], say: Say) -> None:
    """Raises ValueError in one line where other runs of this data have used a seed of the confirmation.

    own: see `store.identity`. Where the store is away the sweep may begin: it is asked again before the confirmation.
    """
    try:
        used = spent(uri, facts, own) & {*spec.seeds.confirm} if spec.compared else set()
    except ValueError as error:
        return say(f"{error}; whether seeds.confirm are fresh is not known yet")
    if used:
        listed = ", ".join(map(str, sorted(used)))
        raise ValueError(
            f"seeds.confirm: runs of this data in the tracking store have used {listed}, so they confirm nothing: "
            f"choose others (--set seeds.confirm=[...]), or give --reuse-seeds and have the verdict marked as not fresh"
        )


def refuse_stale(journal: Journal, uri: str, run_dir: Path, say: Say) -> None:
    """Raises ValueError, in one line, where the store has events of this run that its record lacks.

    Then this folder is a copy, and the original, or another copy, has gone on since. A run in an object store may lack
    what its machine had no time to send before it was lost: that is said, and it goes on.
    """
    if not journal.run:
        return
    try:
        runs = store.found(uri, {tag.RUN_ID: journal.run}, history.ALL)
    except ValueError as error:
        return say(f"{error}; whether another copy of this run has gone on since is not known")
    if not {run.data.tags.get(tag.DIGEST) for run in runs} - {None, *journal.digests}:
        return
    if object_store.of(run_dir):
        return say(f"{run_dir.name}: the tracking store has events that were lost with the machine that ran it")
    raise ValueError(
        f"{run_dir}: the tracking store has events of run {journal.run} that this folder lacks: another copy of it "
        "has gone on, or this one lost lines: resume that one, or give --fork and have this one go on as another run"
    )


def spent(uri: str, facts: Mapping[str, Any], own: Mapping[str, str]) -> set[int]:
    """Seeds that other runs of this data have used; none where the trainable names no data."""
    data = facts.get("data_fingerprint")
    return history.used_seeds(uri, str(data), own) if data else set()
