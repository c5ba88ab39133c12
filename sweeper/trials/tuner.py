"""A sweep's stages: each is one Tuner with one searcher, and the journal is the only state.

Resuming is a new Tuner over the old journal. Tune's own folder is scratch: it lies below the run folder because
every node must reach it, and it is removed when the stage ends.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import TuneError

from sweeper.confirmation import design as confirmation
from sweeper.journal import checkpoints, learned, object_store, provenance, recorded
from sweeper.journal.events import Doubt, End, Session
from sweeper.journal.journal import Journal
from sweeper.journal.limits import Limits, Reached
from sweeper.journal.object_store import Remote
from sweeper.journal.run_folders import SCRATCH
from sweeper.search.optuna_search import StudySearch
from sweeper.search.optuna_study import write_study
from sweeper.search.schedulers import Hooks, JournalScheduler, scheduler
from sweeper.search.searchers import Calls, ConfirmSearch, JournalSearch, ListSearch, OpenSearch, expected_rows
from sweeper.spec import asides
from sweeper.spec.spec import SweepSpec
from sweeper.system import faults, nodes
from sweeper.system.secrecy import command
from sweeper.trials import cluster, trial, trunks
from sweeper.trials.sharing import Sharing
from sweeper.trials.trunks import DROPPED

WATCH_S, GRACE_S = 3.0, 1.0
OPTUNA_LOG = "optuna.log"


class _Watch(tune.Callback):
    """Ends a sweep whose nodes are all gone, as Tune would wait forever; otherwise says what Tune waits for.

    free: called with the id of a trial that has ended, once its process has had time to release what it held. stopped:
    why the sweep is to end, if so: then it raises Reached.
    """

    def __init__(
        self,
        needs: nodes.Needs,
        say: Callable[[str], None],
        free: Callable[[str], None],
        stopped: Callable[[], str | None],
    ) -> None:
        self.needs, self.say, self.free, self.stopped = needs, say, free, stopped
        self.next, self.lacking = 0.0, ""
        self.ended: deque[tuple[float, str]] = deque()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.ended.append((time.monotonic() + GRACE_S, trial.config["id"]))

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        while self.ended and time.monotonic() >= self.ended[0][0]:
            self.free(self.ended.popleft()[1])
        if line := self.stopped():
            raise Reached(line)
        if time.monotonic() >= self.next:
            self.next = time.monotonic() + WATCH_S
            alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            if not alive:
                raise nodes.Lost("all nodes of the cluster are gone")
            before, self.lacking = self.lacking, nodes.missing(self.needs, alive)
            if self.lacking and not before:
                self.say(f"waiting for a node: {self.lacking}")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its arguments into a file that nothing reads."""
        return {}


class _Quiet(tune.ProgressReporter):
    """No table of Tune's own, which it would draw in a notebook whatever its verbosity."""

    def should_report(self, trials: list[Any], done: bool = False) -> bool:
        return False


def run(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    *,
    facts: dict[str, Any] | None = None,
    reuse: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Run the trials that the search stage still lacks. Returns whether all of it has ended.

    Args:
        spec: of the run.
        run_dir: the run folder.
        journal: of the run.
        slots: how many trials fit at once.
        facts: about what the trainable prepared, for the journal.
        reuse: take over trials that earlier runs in this storage completed.
        say: gets one line for each thing that people should know, such as a torn checkpoint.
    """
    concurrency = begin(spec, run_dir, journal, slots, facts or {}, say)
    search, rule = searching(spec, run_dir, journal, slots, concurrency, reuse, say)
    try:
        _stage(spec, run_dir, journal, search, rule, say)
    finally:
        write_study(spec, journal, run_dir / OPTUNA_LOG)
    return confirmation.searched(spec, journal)


def confirm(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    *,
    facts: dict[str, Any] | None = None,
    reuse: bool = False,
    say: Callable[[str], None] = print,
) -> bool:
    """Run the trials that the confirmation's declared looks still lack; none is stopped early.

    Arguments as for `run`; facts is None if this session has already run the search. Returns whether all has ended.
    """
    concurrency = begin(spec, run_dir, journal, slots, facts, say)
    search, rule = confirming(spec, run_dir, journal, slots, concurrency, reuse, say)
    _stage(spec, run_dir, journal, search, rule, say)
    return confirmation.complete(spec, journal)


def again(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    facts: dict[str, Any],
    say: Callable[[str], None] = print,
) -> None:
    """Run the open trials of the journal, and no others. Arguments as for `run`."""
    begin(spec, run_dir, journal, slots, facts, say)
    rule = JournalScheduler(journal, run_dir, _hooks(spec, run_dir, journal, say))
    search = OpenSearch(spec, journal, slots, run_dir / OPTUNA_LOG, Calls(reconcile=rule.reconcile_dropped))
    _stage(spec, run_dir, journal, search, rule, say)


def searching(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    concurrency: int,
    reuse: bool,
    say: Callable[[str], None],
) -> tuple[JournalSearch, JournalScheduler]:
    """What asks for the trials of the search, and what records and stops them. Arguments as for `run`."""
    # The rule first: the last session may have ended before it wrote down a stop.
    rule = scheduler(spec, journal, run_dir, _hooks(spec, run_dir, journal, say))
    calls, log = _calls(spec, run_dir, journal, rule, concurrency, reuse), run_dir / OPTUNA_LOG
    if spec.search.method == "arms":
        return ListSearch(spec, journal, min(slots, concurrency), log, calls), rule
    return StudySearch(spec, journal, slots, log, concurrency, calls), rule


def confirming(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    concurrency: int,
    reuse: bool,
    say: Callable[[str], None],
) -> tuple[JournalSearch, JournalScheduler]:
    """The same for the confirmation."""
    rule = JournalScheduler(journal, run_dir, _hooks(spec, run_dir, journal, say))
    calls, log = _calls(spec, run_dir, journal, rule, concurrency, reuse), run_dir / OPTUNA_LOG
    return ConfirmSearch(spec, journal, min(slots, concurrency), log, calls), rule


def _calls(
    spec: SweepSpec, run_dir: Path, journal: Journal, rule: JournalScheduler, concurrency: int, reuse: bool
) -> Calls:
    """What the searcher of a stage calls."""
    return replace(
        Sharing(spec, run_dir, journal, rule, concurrency, reuse).calls, stopped=Limits(spec, journal).reached
    )


def begin(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    slots: int,
    facts: dict[str, Any] | None,
    say: Callable[[str], None],
) -> int:
    """Record the session in the journal. Returns how many trials may run at once."""
    concurrency = _concurrency(spec, journal, slots)
    if facts is None:
        return concurrency
    journal.append(_session(spec, concurrency, slots, facts))
    if slots < concurrency:
        points = "same points, but later" if spec.scheduler == "none" else "this takes longer"
        say(f"only {slots} of {concurrency} trials fit at a time: {points}")
    _show_torn(spec, run_dir, journal, say)
    return concurrency


def _stage(
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    search: JournalSearch,
    rule: JournalScheduler,
    say: Callable[[str], None],
) -> None:
    _clear(run_dir)
    why: str | None = None
    try:
        if search.remaining:
            with _plainly():
                _tuner(spec, run_dir, search, rule, say).fit()
    except Reached as reached:
        why = str(reached)
    finally:
        if spec.resources.workers and ray.is_initialized():
            cluster.free(cluster.reserved(_train_scratch(run_dir)))
        _clear(run_dir)
        for record in journal.trials.values():
            if record.state == "running" or (why and record.open):  # a limit's reason replaces that of a retry
                journal.append(End(trial=record.id, state="interrupted", reason=why))


def _hooks(spec: SweepSpec, run_dir: Path, journal: Journal, say: Callable[[str], None]) -> Hooks:
    """What a stage's scheduler calls."""

    def unshared(line: str) -> None:
        say(f"caution: {line}")
        if line.startswith(DROPPED):
            return
        journal.append(Doubt(text=f"Nothing is shared any more: {line}."))
        trunks.close(run_dir)

    found = Hooks(
        outcome=lambda record: learned.ended(spec, record, journal.stage(record.ask.stage)), unshared=unshared
    )
    if not spec.resources.gpus_per_worker:  # on a GPU the same steps need not give the same bits again
        found = replace(found, on_mismatch=say)
    if spec.resources.workers:
        scratch = _train_scratch(run_dir)
        found = replace(found, release=lambda identity: cluster.free(cluster.reserved(scratch, identity)))
    return found


@contextmanager
def _plainly() -> Iterator[None]:
    """Raise system errors and Reached as they are: Tune wraps what its callbacks raise."""
    try:
        yield
    except TuneError as wrapped:
        error: BaseException | None = wrapped
        while isinstance(error, TuneError):
            error = error.__cause__ or error.__context__
        if found := faults.of(error) or (error if isinstance(error, OSError | Reached) else None):
            raise found from None
        raise


def _concurrency(spec: SweepSpec, journal: Journal, slots: int) -> int:
    """How many trials may run at once; a resumed sweep keeps the number, as its points depend on it."""
    for event in journal.events:
        if isinstance(event, Session):
            return event.machine["concurrency"]
    return min(spec.resources.concurrency or slots, max(spec.total_trials, spec.confirm_trials))


def _tuner(
    spec: SweepSpec, run_dir: Path, search: JournalSearch, rule: JournalScheduler, say: Callable[[str], None]
) -> tune.Tuner:
    held = spec.resources
    # The driver of a worker group holds no CPU: it would take one from its own workers, and both would wait forever.
    resources: dict[str, float] = {"cpu": held.cpus_per_worker, "gpu": held.gpus_per_worker}
    resources |= nodes.of_type(held)
    if held.workers:
        resources = {"node:__internal_head__": 0.001}
    return tune.Tuner(
        tune.with_resources(trial.run, resources),
        param_space=shared(spec, run_dir),
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=rule,
            num_samples=search.remaining,
            # A group's driver cannot leave fit() when its trial is stopped, so it cannot run a second one.
            reuse_actors=not held.workers,
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name="experiment",
            callbacks=[_Watch(held, say, rule.hooks.release, search.calls.stopped)],
            storage_path=_scratch(run_dir),
            failure_config=tune.FailureConfig(max_failures=held.max_failures, fail_fast=False),
            verbose=0,
            progress_reporter=_Quiet(),
        ),
    )


def shared(spec: SweepSpec, run_dir: Path) -> dict[str, Any]:
    """The sweep's part of a `TrialTask`, as plain data."""
    place = object_store.of(run_dir)
    return {
        "trainable": spec.trainable,
        "objective": spec.objective,
        "further": list(spec.objectives[1:]),
        "workers": spec.resources.workers,
        "cpus_per_worker": spec.resources.cpus_per_worker,
        "gpus_per_worker": spec.resources.gpus_per_worker,
        "placement": spec.resources.placement,
        "accelerator": spec.resources.accelerator,
        "cwd": str(Path.cwd()),
        "run_dir": str(run_dir),
        "shared": spec.shared,
        "remote": place.address if place else "",
        "scratch": _train_scratch(run_dir),
    }


def _train_scratch(run_dir: Path) -> str:
    """Ray Train's folder, which every node can reach."""
    return (Remote(_scratch(run_dir)) / "train").address if object_store.of(run_dir) else f"{_scratch(run_dir)}/train"


def _scratch(run_dir: Path) -> str:
    """Tune's folder, which every node can reach."""
    place = object_store.of(run_dir)
    return (place / SCRATCH).address if place else str(run_dir / SCRATCH)


def _clear(run_dir: Path) -> None:
    """Remove Tune's folder."""
    shutil.rmtree(run_dir / SCRATCH, ignore_errors=True)
    if place := object_store.of(run_dir):
        (place / SCRATCH).delete()


def _name(tune_trial: Any) -> str:
    return tune_trial.config["id"]


def _show_torn(spec: SweepSpec, run_dir: Path, journal: Journal, say: Callable[[str], None]) -> None:
    """Say which checkpoints the resumed trials will skip, and whether the journal's last line was torn."""
    if journal.torn is not None:
        say(f"the journal's last line was torn and is dropped: {journal.torn[:80]}")
    for record in journal.trials.values():
        if record.open:
            owner = checkpoints.owner(spec.trainable, record.id, record.ask.seed, record.ask.config)
            folder = run_dir / "trials" / record.id / "checkpoints"
            for line in checkpoints.newest(folder, owner, expected_rows(spec, record))[1]:
                say(line)


def _session(spec: SweepSpec, concurrency: int, slots: int, facts: dict[str, Any]) -> Session:
    machine = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "concurrency": concurrency,
        "slots": slots,
        "threads": spec.resources.cpus_per_worker,
        "device": _device(spec),
        "processor": provenance.processor(),
        "kernels": provenance.kernels(),
    }
    return Session(
        command=command(asides.veiled(sys.orig_argv)),
        versions=provenance.versions(),
        git_commit=provenance.commit(),
        machine=machine,
        facts={**facts, **recorded.trainable_facts(spec, facts)},
    )


def _device(spec: SweepSpec) -> str:
    """The kind of processor that trains."""
    if spec.resources.gpus_per_worker:
        there = ray.nodes() if ray.is_initialized() else []  # a launcher of its user's own needs no Ray
        kinds = {name for node in there for name in node["Resources"] if name.startswith("accelerator_type:")}
        return ", ".join(sorted(kind.partition(":")[2] for kind in kinds)) or "GPU"
    return platform.processor() or platform.machine()
