"""Tune's schedulers over the journal: they record what trials report, and stop the trials that the spec's rule stops.

Ray's rule sees our trial ids and the rows of the journal, one at a time, each once. So it can be rebuilt: at every
start the journal is replayed to it from the beginning, which gives its state at the end of the last session, however
that ended.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeper.journal import checkpoints, object_store
from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, End, Report
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.spec import early_stopping
from sweeper.spec.spec import SweepSpec
from sweeper.system import faults


@dataclass(frozen=True)
class TrialStub:
    """A trial as Ray's rules see it: only our id."""

    trial_id: str


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a scheduler calls.

    on_mismatch: gets one line when a restarted trial reports a row that differs from the journal's. release: gets the
    id of a failed trial, to free what it held, as its process may be dead. outcome: gets the record of a completed
    trial; returns further fields of its `End`. unshared: gets one line when trials do not share what they should.
    """

    on_mismatch: Callable[[str], None] = lambda line: None
    release: Callable[[str], None] = lambda identity: None
    outcome: Callable[[TrialRecord], dict[str, Any]] = lambda record: {}
    unshared: Callable[[str], None] = lambda line: None


class JournalScheduler(FIFOScheduler):
    """Scheduler none: writes what Tune reports to the journal; every trial runs to its end.

    Rows that the journal already has, which a restarted trial sends again, were judged when they first came.
    """

    def __init__(self, journal: Journal, run_dir: Path, hooks: Hooks | None = None) -> None:
        super().__init__()
        self.journal, self.run_dir, self.place = journal, run_dir, object_store.of(run_dir)
        self.hooks = hooks or Hooks()
        self.compared = dict[str, int]()  # trial -> the step where its state was what another trial had left
        self._taken_up: list[Any] = []

    def reconcile_dropped(self) -> None:
        """Record ends that Tune does not report: it drops a trial if the one before has not left its process."""
        for trial in self._taken_up:
            record = self.journal.trials[trial.config["id"]]
            if trial.status == "ERROR" and record.state == "running":
                self._end(record, "failed", "dropped: the trial before it did not leave its process")
        self._taken_up = [trial for trial in self._taken_up if self.journal.trials[trial.config["id"]].open]

    def should_stop(self, identity: str, row: dict[str, Any]) -> bool:
        """Whether a trial stops here; called once for each row, in the order of the journal."""
        return False

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        if trial not in self._taken_up:  # a retried trial is added again
            self._taken_up.append(trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        record = self.journal.trials[trial.config["id"]]
        if "fault" in result:
            self._break_off(record, OSError(*result["fault"]))
        if line := result.get("unshared"):
            self.hooks.unshared(line)
        if step := result.get("compared"):
            self.compared[record.id] = step
        start = result.get("start")  # a list, for Tune takes dicts apart
        began = {"trial": start[0], "step": start[1]} if start else None
        where = {"node": result.get("node"), "start": began}
        stopped = self._record(record, result["rows"], result.get("checkpoint"), where)
        return TrialScheduler.STOP if stopped else TrialScheduler.CONTINUE

    def take_over(self, record: TrialRecord, rows: Sequence[dict[str, Any]], checkpoint: str, name: str) -> None:
        """Record a trial that an earlier run completed, as if it had just reported.

        Args:
            record: of the trial here.
            rows: all rows of the other, with their `step`.
            checkpoint: the hash of the last one's checkpoint, which the trial's folder has by now.
            name: the other trial, as RUN/ID.
        """
        self._begin(record.id)
        if not self._record(record, rows, checkpoint, {}):
            self._end(record, "completed", reused_from=name)

    def _begin(self, identity: str) -> None:
        """A trial begins."""

    def _record(
        self, record: TrialRecord, rows: Sequence[dict[str, Any]], checkpoint: str | None, where: dict[str, Any]
    ) -> bool:
        """Record rows, the last one with the hash of its checkpoint. Returns whether the trial stops.

        where: the `node` that they come from, and the `start` of the trial.
        """
        for row in rows:
            metrics = {key: value for key, value in row.items() if key != "step"}
            stored = checkpoint if row is rows[-1] else None
            report = Report(trial=record.id, step=row["step"], metrics=metrics, checkpoint=stored, **where)
            if not self.journal.append(report):
                self._compare(record, row["step"], metrics)
                continue
            if self.should_stop(record.id, row):
                self._stop(record)
                return True
        return False

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        record = self.journal.trials[trial.config["id"]]
        if record.open and record.rows:
            self._end(record, "completed")
        elif record.open:
            self._end(record, "failed", "it ended without a report")

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        """Record a failure. Tune calls this for each, and retries up to the spec's max_failures."""
        record = self.journal.trials[trial.config["id"]]
        self.hooks.release(record.id)  # before the retry, which needs the same resources
        if not record.open:
            return
        reason = self._noted(record.id)
        if not reason and checkpoints.no_room(self.run_dir):
            self._break_off(record, OSError(errno.ENOSPC, "No space left on device", str(self.run_dir)))
        reason = reason or "its process died; the machine may have run out of memory"
        if trial.status == "ERROR" and trial.should_recover():  # then Tune puts it back into its queue
            self._end(record, "interrupted", f"tried again after {reason}")
        else:
            self._end(record, "failed", reason)

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its arguments into a file that nothing reads."""
        return {}

    def _break_off(self, record: TrialRecord, fault: OSError) -> NoReturn:
        """Leave a trial with a fault open, and end the sweep, as other trials would meet it too. Raises the fault."""
        if record.open:
            self._end(record, "interrupted", faults.line(fault))
        raise fault

    def _stop(self, record: TrialRecord) -> None:
        self._end(record, "stopped", f"stopped by {type(self).__name__.lower()} at step {record.step}")

    def _end(self, record: TrialRecord, state: Any, reason: str | None = None, reused_from: str | None = None) -> None:
        folder = Path("trials", record.id)
        if self.place:
            name = object_store.end(self.place / folder.as_posix(), record.step, self.run_dir / folder)
        else:
            there = checkpoints.at(self.run_dir / folder / "checkpoints", record.step)
            name = there and f"checkpoints/{there.name}"
        path = str(folder / name) if name else None
        outcome = self.hooks.outcome(record) if state == "completed" else {}
        outcome |= {"reason": reason, "checkpoint": path, "reused_from": reused_from}
        outcome |= {"compared": self.compared.get(record.id)}
        self.journal.append(End(trial=record.id, state=state, **outcome))

    def _compare(self, record: TrialRecord, step: int, metrics: dict[str, float]) -> None:
        before = next((row.metrics for row in record.rows if row.step == step), metrics)
        for key in sorted(before.keys() | metrics):
            if before.get(key) != metrics.get(key):
                self.hooks.on_mismatch(
                    f"{record.id}: step {step} did not reproduce: {key} was {before.get(key)}, is {metrics.get(key)}; "
                    f"the journal keeps {before.get(key)}. Another machine, or other versions?"
                )
                return

    def _noted(self, identity: str) -> str:
        """The reason of a failure that the trial noted; empty if it did not get that far."""
        try:
            if self.place:
                (self.place / "trials" / identity / "error.txt").pull(self.run_dir / "trials" / identity / "error.txt")
            return (self.run_dir / "trials" / identity / "error.txt").read_text("utf-8").partition("\n")[0]
        except OSError:
            return ""


class RuleScheduler(JournalScheduler):
    """A rule of Ray's decides. At full length no trial is stopped, and nothing is recorded in a rung.

    The baseline, the first arm, is judged like the rest but never stopped: everything is compared with its end. A trial
    whose settings leave the budget is not judged, does not count for others, and runs to its end.
    """

    def __init__(self, spec: SweepSpec, journal: Journal, run_dir: Path, hooks: Hooks | None, rule: Any) -> None:
        super().__init__(journal, run_dir, hooks)
        self.steps, self.rule, self.budget = spec.steps, rule, Common.of(spec)
        self.baseline = spec.baseline
        self._replay()

    def should_stop(self, identity: str, row: dict[str, Any]) -> bool:
        apart = not self.budget.free and not self.budget.foretold(self.journal.trials[identity].ask.budget)
        if row["step"] >= self.steps or apart:
            return False
        stops = self.rule.on_trial_result(None, TrialStub(identity), dict(row)) == TrialScheduler.STOP
        arm = self.journal.trials[identity].ask.arm
        return stops and (arm is None or arm != self.baseline)

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        super().on_trial_add(tune_controller, trial)
        self._begin(trial.config["id"])

    def _begin(self, identity: str) -> None:
        self.rule.on_trial_add(None, TrialStub(identity))

    def _replay(self) -> None:
        """Replay the journal to the rule. The last session may have ended between a report and the resulting stop."""
        stopped = {}
        for event in list(self.journal.events):
            if isinstance(event, Ask):
                self.rule.on_trial_add(None, TrialStub(event.trial))
            elif isinstance(event, Report):
                stopped[event.trial] = self.should_stop(event.trial, {**event.metrics, "step": event.step})
        for identity, stop in stopped.items():
            if stop and self.journal.trials[identity].open:
                self._stop(self.journal.trials[identity])


class Halving(RuleScheduler):
    """Ray's ASHA. At a report, a trial is recorded only in the highest rung that it has reached; `stop_last_trials`
    off prevents a later judgement, by a better value, in a rung that it skipped."""

    def __init__(self, spec: SweepSpec, journal: Journal, run_dir: Path, hooks: Hooks | None = None) -> None:
        declared = spec.scheduler
        assert isinstance(declared, early_stopping.Halving)
        assert declared.first is not None
        rule = ASHAScheduler(
            time_attr="step",
            metric=spec.objective,
            mode="min",
            max_t=spec.steps + 1,  # Tune kills a trial that reaches it
            grace_period=declared.first,
            reduction_factor=declared.reduction,
            stop_last_trials=False,
        )
        super().__init__(spec, journal, run_dir, hooks, rule)


class Median(RuleScheduler):
    """Ray's median rule."""

    def __init__(self, spec: SweepSpec, journal: Journal, run_dir: Path, hooks: Hooks | None = None) -> None:
        declared = spec.scheduler
        assert isinstance(declared, early_stopping.Median)
        assert declared.first is not None
        rule = MedianStoppingRule(
            time_attr="step",
            metric=spec.objective,
            mode="min",
            grace_period=declared.first,
            min_samples_required=declared.trials,
            min_time_slice=math.inf,  # type: ignore[arg-type]  # otherwise it pauses trials while there are few
        )
        super().__init__(spec, journal, run_dir, hooks, rule)


def scheduler(spec: SweepSpec, journal: Journal, run_dir: Path, hooks: Hooks | None = None) -> JournalScheduler:
    """The spec's scheduler, in its state at the end of the journal."""
    match spec.scheduler:
        case early_stopping.Halving():
            return Halving(spec, journal, run_dir, hooks)
        case early_stopping.Median():
            return Median(spec, journal, run_dir, hooks)
    return JournalScheduler(journal, run_dir, hooks)
