"""What the command does last: keep the best trial's bundle, and say in a few lines what came out and where it lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from sweeper.confirmation.verdict_text import headline
from sweeper.journal import checkpoints, object_store, records, run_folders
from sweeper.journal.journal import TrialRecord
from sweeper.plan import probe
from sweeper.report import sections
from sweeper.spec.errors import SpecError
from sweeper.spec.load import load
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.markdown import plain
from sweeper.system.secrecy import redact
from sweeper.tracking.artifacts import Artifacts

T = TypeVar("T")
LONGEST = 300  # characters of a line


def keep_bundle(run_dir: Path, best: TrialRecord | None) -> Path | None:
    """Keep the best trial's bundle apart from its checkpoints; where it then lies.

    Raises files.Unsafe, in one line, for a record that names a place outside the run folder, or a bundle with links.
    """
    checkpoint = best.end.checkpoint if best and best.end else None
    if best is None or checkpoint is None:
        return None
    target, source = files.inside(run_dir, "bundles", best.id), checkpoints.bundle(run_dir, checkpoint)
    if source is None and (place := object_store.of(run_dir)):  # another machine's driver ended it
        (place / checkpoint / "bundle").pull(files.inside(run_dir, checkpoint, "bundle"))
        source = checkpoints.bundle(run_dir, checkpoint)
    if source is None:
        return None
    target.parent.mkdir(exist_ok=True)
    checkpoints.publish(source, target)
    return target


class Steps:
    """The steps of a sweep's end: one that fails is told in a line, and the others still happen.

    failed: what could not be done.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.failed: list[str] = []
        self._say = say

    def run(self, what: str, step: Callable[[], T], otherwise: T) -> T:
        try:
            return step()
        except Exception as error:  # whatever it is, trials have ended and are on record
            why = files.describe(error) if isinstance(error, OSError) else None
            line = redact(" ".join((why or f"{type(error).__name__}: {error}").split()))[:LONGEST]
            self._say(f"{what} failed: {line}; the other closing steps still ran, and --resume repeats this one")
            self.failed.append(what)
            return otherwise


def lines(
    path: Path,
    spec: SweepSpec,
    outcome: sections.Outcome,
    best: TrialRecord | None,
    verdict: Mapping[str, Any] | None,
    caution: str | None = None,
) -> list[str]:
    """For people. path: of the spec as it was given, with all its profiles. caution: what stands beside the verdict."""
    shown = []
    if verdict:
        shown.append(f"verdict        {plain(headline(verdict))}")
    if caution:
        shown.append(f"caution        {caution}")
    if best:
        score = best.score(spec.objective)
        what = records.describe(best.ask)
        shown.append(f"best trial     {best.id} ({what}): {spec.objective} {score:.4f} at step {best.step:,}")
    elif spec.total_trials:
        shown.append("best trial     none: no trial completed within the baseline's budget")
    shown.append(f"run folder     {outcome.run_dir} (report.md lists the trials)")
    if outcome.bundle:
        shown.append(f"bundle         {outcome.bundle}")
    shown.append(f"tracking store {redact(outcome.tracking_uri)}")
    shown.append(f"browse it with {sections.ui_command(outcome.tracking_uri, outcome.run_dir.parent)}")
    if outcome.page:
        shown.append(f"then open      {sections.ui_address(outcome.tracking_uri)}{outcome.page}")
    shown += _scale(path, spec)
    if outcome.interrupted:
        shown.append(f"interrupted; resume with: {run_folders.resume(outcome.run_dir)}")
    return shown


def leave(status: int) -> NoReturn:
    """End the process, at once where an upload hangs: its threads would hold it up for minutes."""
    if Artifacts.hang():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _scale(path: Path, spec: SweepSpec) -> list[str]:
    """How far this profile is from the published runs, and what those would cost."""
    if spec.profile in (None, "published") or "published" not in spec.profiles:
        return []
    try:
        full = load(path, "published")
    except SpecError:
        return []
    seen, published = (one.settings({}).steps * one.settings({}).tokens_per_step for one in (spec, full))
    cost = probe.of(full, 1, measure=False)
    return [
        f"profile {spec.profile}: a trial saw {seen / 1e6:.1f} M tokens, {seen / published:.1%} of the "
        f"{published / 1e6:.1f} M of published",
        f"published: {cost.trials} trials, about {cost.gpu_hours:,.0f} GPU-hours, if {'; '.join(cost.assumed[:1])}",
    ]
