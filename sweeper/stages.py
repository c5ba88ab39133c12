"""A sweep from start to end: its journal is opened, the search and the confirmation run, then it is closed.

Ray, and what needs it, is imported once a cluster is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import Timeout

from sweeper import closing
from sweeper.confirmation import champion, conclusion, design
from sweeper.journal import learned, object_store, records, run_folders, warm_start
from sweeper.journal.events import Verdict
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.journal.limits import Limits
from sweeper.notify import LAST_S, Notifier, named, remember
from sweeper.preflight import Admission, prepare_shared
from sweeper.report import sections
from sweeper.report.summary import summary, sweep_state
from sweeper.spec.hints import naming
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.interrupts import Interrupts
from sweeper.system.nodes import Lost, Node, NoRoom, NotShared, NotStarted, configured, max_concurrent
from sweeper.tracking import tags as tag
from sweeper.tracking.store import sqlite_file, store_uri
from sweeper.tracking.tracker import DRAIN_S, Promotion, Tracker
from sweeper.trainable import imported_from
from sweeper.trials import cluster, reproduce, trunks
from sweeper.trials.reproduce import Reproduction

Say = Callable[[str], None]
FULL_S = 5.0  # to close the tracking store after an error: it may lie on the disk that is full


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a sweep ended.

    Args:
        outcome: where things lie.
        best: the best trial, if one completed.
        summary: what `--json` prints.
        whole: False where Ray was lost or a step of the closing failed.
        stopped: which limit of the spec ended it, in a line.
        answered: whether nothing was left to run.
    """

    outcome: sections.Outcome
    best: TrialRecord | None
    summary: dict[str, Any]
    whole: bool
    answered: bool
    stopped: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A sweep in its folder, and what is asked of it.

    Args:
        uri: of the tracking store.
        prepare_info: what `preflight.prepare_shared` returned.
        more_seeds: how many seeds a further look adds.
        reuse: take over trials that earlier runs in this storage completed.
        verbose: show Ray's own output.
        wait: minutes to wait for the nodes of a joined cluster.
        called: whether `on_event` is called: it is what this user wrote.
    """

    spec: SweepSpec
    run_dir: Path
    journal: Journal
    uri: str
    prepare_info: dict[str, Any]
    more_seeds: int = 0
    reuse: bool = False
    verbose: bool = False
    wait: float = 0.0
    called: bool = True

    @classmethod
    def opened(cls, admission: Admission, run_dir: Path, *, verbose: bool, wait: float) -> Stages:
        """An admitted sweep with its journal. Raises ValueError, in one line, for a record that may not be resumed."""
        spec, request, say = admission.spec, admission.request, admission.say
        with naming(run_dir):
            journal = Journal(run_dir / run_folders.JOURNAL, trust=request.trust_record)
            own = run_folders.own_hash(run_dir) or spec.spec_hash
            journal.refuse_other_spec(own, request.trust_record)
            journal.refuse_gaps()
            if own != spec.spec_hash and run_folders.extends(run_folders.recorded(run_dir / run_folders.SPEC), spec):
                run_folders.extend(run_dir, journal, spec)
                own = spec.spec_hash
            if own == spec.spec_hash:
                run_folders.note(run_dir, spec)
        journal.born(own)
        if request.fork:
            journal.fork()
        run_folders.begin_here(journal)
        if not journal.trials:  # a driver may have been killed between two of them
            for start in admission.warm[len(journal.warm_starts()) :]:
                journal.append(start)
        for line in warm_start.words(journal.warm_starts()):
            say(f"the sampler begins with {line}")
        if called := named(spec, request, journal.run):
            remember(spec, journal.run)
        for line in journal.doubts():
            say(f"caution: {line}")
        uri = store_uri(spec, run_dir.parent)
        if object_store.of(run_dir) and sqlite_file(uri):
            say("MLflow's store, which records the seeds used, is on this machine only: set MLFLOW_TRACKING_URI")
        return cls(
            spec=spec,
            run_dir=run_dir,
            journal=journal,
            uri=uri,
            prepare_info=admission.prepare_info or {},
            more_seeds=request.more_seeds,
            reuse=not (request.no_reuse or request.again),
            verbose=verbose,
            wait=wait,
            called=called,
        )

    def carry_out(self, signals: Interrupts) -> Ended:
        """Run what is left, with the live table and the tracker beside it, then close.

        Raises NoRoom, NotShared or NotStarted, which people were told of by then, where Ray does not start.
        """
        from sweeper.report.terminal import Live

        spec, journal, run_dir = self.spec, self.journal, self.run_dir
        answered, done, lost = self.over, False, False
        tags = {tag.PREFIX + key: value for key, value in fingerprints_in(self.prepare_info).items()}
        with (
            Live(spec, journal, self.trials) as live,
            object_store.mirrored(run_dir, journal, live.say),
            signals.saying(live.say),
        ):
            tracker = Tracker(journal, spec, run_dir, self.uri, tags=tags, say=live.say)
            tracker.start()
            notifier = Notifier(spec, run_dir, journal, live.say, self.called)
            if not answered:
                notifier.start()
            try:
                done = answered or self.run(signals)
            except (NoRoom, NotShared, NotStarted) as error:
                live.say(f"error: {error}")
                notifier.broke(str(error))
                self._discard(tracker, live.say)
                raise
            except Lost as error:
                live.say(f"error: {error}")
                lost = True
            except KeyboardInterrupt:
                pass
            except BaseException as error:
                tracker.close("interrupted", None, None, FULL_S)  # no run in the store stays RUNNING
                notifier.broke(str(error) or type(error).__name__)
                raise
            signals.close()
            stopped = None if done or lost or signals.happened else self.stopped()
            outcome, best, failed = self._close(tracker, done, signals)
            ids = {"parent_run_id": tracker.parent_run_id, "run_ids": tracker.run_ids}
            outcome = replace(outcome, **ids, page=tracker.page)
            found = summary(spec, journal, outcome) | {"stopped": stopped}
            notifier.close(found, signals.left(LAST_S))
        whole = not (lost or failed)
        return Ended(outcome=outcome, best=best, summary=found, whole=whole, answered=answered, stopped=stopped)

    def stopped(self) -> str | None:
        """Which limit of the spec ends the sweep here, in a line; None if none does. Asked once a session has begun."""
        return Limits(self.spec, self.journal).reached()

    def _discard(self, tracker: Tracker, say: Say) -> None:
        """Take back a start that Ray did not come to; a run that had trials stays."""
        if self.journal.has_session:
            tracker.close("interrupted", None, None, FULL_S)
        run_folders.discard(self.run_dir, self.journal)
        if self.run_dir.exists():
            say(f"resume with: {run_folders.resume(self.run_dir)}")

    def _close(
        self, tracker: Tracker, done: bool, signals: Interrupts
    ) -> tuple[sections.Outcome, TrialRecord | None, bool]:
        """The closing, step by step: where things lie, the best trial, and whether a step failed."""
        from sweeper.report.write import texts

        spec, journal, run_dir = self.spec, self.journal, self.run_dir
        steps, trials = closing.Steps(signals.say), list(journal.trials.values())
        best = steps.run("choosing the best trial", lambda: records.best(spec, trials), None)
        bundle = steps.run("keeping the best trial's bundle", lambda: closing.keep_bundle(run_dir, best), None)
        outcome = sections.Outcome(run_dir=run_dir, tracking_uri=self.uri, bundle=bundle, interrupted=not done)
        for name, write in texts(spec, journal, outcome):
            steps.run(f"writing {name}", write, None)
        if done:
            steps.run("taking trunks away", lambda: trunks.clear(run_dir), None)
        state, left = sweep_state(trials, not done), signals.left(DRAIN_S)
        promotion, tags = steps.run("choosing the champion", lambda: self.promotion(signals.say), (None, {}))
        steps.run("MLflow", lambda: tracker.close(state, best, bundle, left, promotion=promotion, tags=tags), 0)
        return outcome, best, bool(steps.failed)

    @property
    def over(self) -> bool:
        """Whether nothing is left to run, so that Ray need not start."""
        return design.finished(self.spec, self.journal) and not self.more_seeds

    @property
    def trials(self) -> int:
        """Of all stages, as far as they are known, with those that `more_seeds` adds."""
        families = self.journal.families()
        further = bool(families) and design.finished(self.spec, self.journal)
        more = self.more_seeds * (1 + len(design.unsettled(self.spec, self.journal))) if further else 0
        return design.expected(self.spec, self.journal) + more

    def run(self, signals: Interrupts) -> bool:
        """Run what is left: the search, then the confirmation; whether all of it has ended."""
        signals.say("joining the cluster" if configured() else "starting Ray on this machine")
        with cluster.session(_packages(self.spec), self.verbose) as nodes:
            signals.install()
            from sweeper.trials import tuner

            slots, begun = self._slots(nodes, signals.say), not design.searched(self.spec, self.journal)
            if begun:
                if not tuner.run(
                    self.spec,
                    self.run_dir,
                    self.journal,
                    slots,
                    facts=self.prepare_info,
                    reuse=self.reuse,
                    say=signals.say,
                ):
                    return False
                signals.install()  # Tune's handler is still there, and would take a signal to no effect
                if signals.happened:
                    return design.finished(self.spec, self.journal)
            return self._confirm(slots, None if begun else self.prepare_info, signals)

    def _slots(self, nodes: list[Node], say: Say) -> int:
        """Trials that there is room for, once all nodes have been seen to reach the run."""
        place = object_store.of(self.run_dir)
        cluster.shared((place / run_folders.SPEC).address if place else str(self.run_dir / run_folders.SPEC))
        if not self.wait:
            return max_concurrent(self.spec.resources, nodes)
        return cluster.awaited(self.spec.resources, self.spec.resources.concurrency or 1, self.wait, say)

    def _confirm(self, slots: int, prepare_info: dict[str, Any] | None, signals: Interrupts) -> bool:
        """prepare_info: for the journal, where no session of it has begun yet."""
        spec, journal, say = self.spec, self.journal, signals.say
        if prepare_info is None and self.stopped():  # before seeds are declared that nothing would run on
            return design.finished(spec, journal)
        if self.more_seeds and not design.finished(spec, journal):
            say("--more-seeds: the last look is not finished; resuming it, ask again for more seeds")
        if not journal.families():
            if reason := design.why_no_confirmation(spec, journal):
                say(reason)
                return True
            journal.append(champion.declare(spec, journal, self.uri, self.prepare_info, self.run_dir, say))
        elif self.more_seeds and design.finished(spec, journal) and design.unsettled(spec, journal):
            journal.append(
                champion.further(spec, journal, self.more_seeds, self.uri, self.prepare_info, self.run_dir, say)
            )
        while not design.finished(spec, journal):
            if prepare_info is None and self.stopped():
                return False
            if family := design.following(spec, journal):
                journal.append(family)
            if not self._look(slots, prepare_info, signals):
                return False
            prepare_info = None  # a further look is of the same session
        return True

    def _look(self, slots: int, prepare_info: dict[str, Any] | None, signals: Interrupts) -> bool:
        """Run what the last look lacks, and say what came of it; whether it has ended, and no signal came."""
        from sweeper.trials import tuner

        spec, journal, say = self.spec, self.journal, signals.say
        if not design.complete(spec, journal):
            if not tuner.confirm(spec, self.run_dir, journal, slots, facts=prepare_info, reuse=self.reuse, say=say):
                return False
            signals.install()  # Tune's handler is still there
        if reason := conclusion.missing_metric_note(spec, journal):
            say(reason)
        journal.append(Verdict(data=conclusion.conclude(spec, journal, self.run_dir).to_dict()))
        return design.finished(spec, journal) or not signals.happened

    def promotion(self, say: Say) -> tuple[Promotion | None, dict[str, str]]:
        """What the confirmation moves in the registry, and what the parent run's tags say of it."""
        spec, verdict = self.spec, self.journal.verdict()
        caution = {tag.CAUTION: learned.caution(spec, self.journal) or ""}
        if verdict is None or (spec.confirm.until and not design.finished(spec, self.journal)):
            return None, caution  # of several that are confirmed by the end, another may be the best
        baseline = spec.config_hash(spec.trainable_config(spec.baseline_params))
        tags = {tag.VERDICT: json.dumps(verdict["told"]), tag.BASELINE: baseline, **caution}
        try:
            return champion.promotion(spec, self.journal, self.uri, self.prepare_info, self.run_dir, say), tags
        except ValueError as error:
            say(f"{error}; no champion is registered")
            return None, tags


def repeated(
    run_dir: Path, trial: str | None, signals: Interrupts, verbose: bool, trust: bool = False
) -> tuple[SweepSpec, Reproduction]:
    """Train a trial of a run again, the best if none is named, beside its original. ValueError in one line."""
    spec, journal, record = reproduce.chosen(run_dir.resolve(), trial, trust)
    files.private(spec.shared)
    if line := imported_from(spec.trainable):
        signals.say(line)
    facts = prepare_shared(spec, signals.say)

    def again(spec: SweepSpec, folder: Path, open_trials: Journal) -> None:
        with cluster.session(_packages(spec), verbose) as nodes:
            signals.install()
            from sweeper.trials import tuner

            tuner.again(spec, folder, open_trials, max_concurrent(spec.resources, nodes), facts, signals.say)

    try:
        with files.locked(run_dir / run_folders.LOCK, 0.5):
            return spec, reproduce.reproduce(spec, run_dir.resolve(), journal, record, again)
    except Timeout:
        raise ValueError(f"--reproduce {run_dir}: a sweep is running in it") from None


def _packages(spec: SweepSpec) -> list[str]:
    """The folders of this package and of the trainable's, which a joined cluster's nodes need."""
    found = (find_spec(name.partition(".")[0]) for name in ("sweeper", spec.trainable.partition(":")[0]))
    return [folder for one in found if one for folder in one.submodule_search_locations or []]
