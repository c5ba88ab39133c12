"""What the trials of a stage share: trunks with each other, whole trials with earlier runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sweeper.journal import object_store
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.reuse import Reuse, place
from sweeper.plan.shared_steps import fork_steps
from sweeper.search.optuna_search import derive
from sweeper.search.schedulers import JournalScheduler
from sweeper.search.searchers import Calls
from sweeper.spec.spec import SweepSpec
from sweeper.system.nodes import configured


class Sharing:
    """Which trials of a stage are taken over from earlier runs, and where the others start.

    For CPUs: on a GPU and in an object store every trial is trained from step 0. A joined cluster may have several
    kinds of processors, so there nothing is taken over from earlier runs. A state that differs from the one that
    another trial left, or code that changes meanwhile, ends all sharing.

    Args:
        spec: of the run.
        run_dir: the run folder.
        journal: of the run, whose newest session is this one.
        rule: records what is taken over.
        concurrency: how many trials may run at once.
        reuse: whether anything is shared.
    """

    def __init__(
        self,
        spec: SweepSpec,
        run_dir: Path,
        journal: Journal,
        rule: JournalScheduler,
        concurrency: int,
        reuse: bool,
    ) -> None:
        self.spec, self.journal, self.rule = spec, journal, rule
        self.steps, self.stage, self.verified, self.earlier = list[int](), "", -1, None
        session = next((event for event in reversed(journal.events) if isinstance(event, Session)), None)
        self.place = (place(session) if session else None) or ""
        if not (reuse and self.place) or object_store.of(run_dir):
            return
        if spec.resources.gpus_per_worker:
            return
        self.earlier = Reuse(spec, run_dir, journal, self.place) if spec.reuse.trials and not configured() else None
        self.steps = fork_steps(spec)
        self.stage, total = ("search", spec.total_trials) if spec.total_trials else ("confirm", spec.confirm_trials)
        if spec.reuse.verify and total > concurrency:
            seed = (*spec.seeds.search, *spec.seeds.confirm)[0]
            self.verified = concurrency + derive(seed, 0) % (total - concurrency)

    @property
    def calls(self) -> Calls:
        """What the searcher of the stage calls."""
        return Calls(reconcile=self.rule.reconcile_dropped, take_over=self.take_over, sharing=self.task_fields)

    def take_over(self, record: TrialRecord) -> bool:
        """Record a trial as an earlier run's, if one has it. Returns whether it did."""
        found = self.earlier.find(record) if self.earlier else None
        manifest = self.earlier.adopt(record, found) if self.earlier and found else None
        if not (found and manifest):
            return False
        rows = [{**row.metrics, "step": row.step} for row in found.rows]
        self.rule.take_over(record, rows, manifest, found.name)
        return True

    def task_fields(self, record: TrialRecord) -> dict[str, Any]:
        """The fields of a trial's task that say where it may start."""
        if self.journal.doubted:
            return {}
        due = record.ask.stage == self.stage and record.ask.number >= self.verified >= 0
        # Until one was compared in this session, whose code and processor may be other ones: a trial may share nothing.
        verify = due and not self.rule.compared
        shared = self.place if self.steps or self.earlier else ""
        return {"provenance": shared, "trunk_steps": self.steps, "trunk_verify": verify}
