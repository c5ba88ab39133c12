"""What the command does last: keep the best trial's bundle, and say in a few lines what came out and where it lies."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import NoReturn, TypeVar

from sweeper.confirmation import design, fresh_seeds
from sweeper.journal import checkpoints, object_store, run_folders
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.verdict_text import headline
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
MOST_SEEDS = 32  # that a line proposes at a time


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
    journal: Journal,
    outcome: sections.Outcome,
    best: TrialRecord | None,
    caution: str | None = None,
    stopped: str | None = None,
) -> list[str]:
    """For people.

    Args:
        path: of the spec as it was given, with all its profiles.
        spec: of the run.
        journal: of the run.
        outcome: where things lie.
        best: the best trial.
        caution: what stands beside the verdict.
        stopped: which limit of the spec ended the sweep.
    """
    shown, names = [], Names(spec, (record.ask for record in journal.trials.values()))
    if verdict := journal.verdict():
        shown.append(f"verdict        {plain(headline(verdict, names))}")
    if caution:
        shown.append(f"caution        {caution}")
    if best:
        score = best.score(spec.objective)
        what = f"{best.id} ({names.of(best.ask)})"
        shown.append(f"best trial     {what}: {spec.objective} {score:.4f} at step {best.step:,}; exploration")
    elif spec.total_trials:
        shown.append("best trial     none: no trial completed within the baseline's budget")
    shown.append(f"run folder     {outcome.run_dir}")
    if outcome.bundle:
        shown.append(f"bundle         {outcome.bundle}")
    shown.append(f"tracking store {redact(outcome.tracking_uri)}")
    shown.append(f"browse it with {sections.ui_command(outcome.tracking_uri, outcome.run_dir.parent)}")
    if outcome.page:
        shown.append(f"then open      {sections.ui_address(outcome.tracking_uri)}{outcome.page}")
    shown += _scale(path, spec)
    if stopped:
        shown.append(f"stopped by {stopped}")
    shown.append(f"report         {outcome.run_dir / 'report.html'} (as text: report.md; for a paper: figures/, *.tex)")
    return [*shown, f"next           {next_step(spec, journal, outcome, best, stopped)}"]


def next_step(
    spec: SweepSpec,
    journal: Journal,
    outcome: sections.Outcome,
    best: TrialRecord | None,
    stopped: str | None = None,
) -> str:
    """What to type next, with why.

    Args:
        spec: of the run.
        journal: of the run.
        outcome: where things lie.
        best: the best trial.
        stopped: which limit of the spec ended the sweep.
    """
    folder = outcome.run_dir
    if stopped:
        again, key = run_folders.resume(folder), stopped.partition(":")[0]
        if key == "limits.failures":
            return f"mend what fails, then resume with: {again} (failures are counted anew)"
        limit = getattr(spec.limits, key.partition(".")[2])
        return f"resume with a higher limit: {again} --set {key}={2 * limit:g}"
    if outcome.interrupted:
        return f"interrupted; resume with: {run_folders.resume(folder)}"
    verdict, again = journal.verdict(), f"{run_folders.resume(folder)} --more-seeds"
    if verdict and design.unsettled(spec, journal):
        open_ = [one for one in verdict["comparisons"] if one["verdict"] == "inconclusive"]
        lacking = [one["needed"] - one["n"] for one in open_ if one["needed"]]
        if lacking:
            more = min(max(8, *lacking), MOST_SEEDS)
            return f"not decided yet; {more} more seeds, as a further look: {again} {more}"
    if verdict is None and len(spec.arms) > 0 and len(spec.seeds.confirm) < 2 and best and _sources_there(spec, folder):
        # The record and not the spec as it was given: it has the profile and every --set, so its trials are the same.
        record, place = str(folder / run_folders.SPEC), object_store.of(folder)
        storage = object_store.Address(place.address).split()[0] if place else str(folder.parent)
        seeds = f"seeds.confirm={_fresh(spec, journal, outcome.tracking_uri)}".replace(" ", "")
        command = shlex.join(["python", "-m", "sweeper.run", record, "--storage", storage, "--set", seeds])
        return f"nothing is confirmed; the same trials, which are taken over, and a confirmation: {command}"
    done = [one.id for one in journal.trials.values() if one.state == "completed"]
    if best or done:
        which = [] if best else ["--trial", done[0]]
        command = shlex.join(["python", "-m", "sweeper.run", "--reproduce", str(folder), *which])
        return f"train {'the best trial' if best else 'a trial'} again and compare the bits: {command}"
    return f"see why no trial completed: {shlex.join(['python', '-m', 'sweeper.status', str(folder)])}"


def _fresh(spec: SweepSpec, journal: Journal, uri: str) -> list[int]:
    """Eight seeds that neither this run nor, as far as its store can say, another on the same data has used."""
    told = (one["seed"] for start in journal.warm_starts() for one in start.trials)
    taken = {*spec.seeds.search, *spec.seeds.confirm, *(one.ask.seed for one in journal.trials.values()), *told}
    with contextlib.suppress(ValueError):  # a store out of reach; the start asks it again
        taken |= fresh_seeds.spent(uri, journal.facts(), {})
    return list(islice((seed for seed in count(101) if seed not in taken), 8))


def _sources_there(spec: SweepSpec, folder: Path) -> bool:
    """Whether the runs that its record names as `search.from`, without their folder, lie beside it."""
    return all((folder.parent / one.rpartition("@")[0]).is_dir() for one in spec.search.sources)


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
