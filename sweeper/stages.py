"""The stages of a sweep: what its trials share, the search, the confirmation, and the champion that comes of it.

Ray, and what needs it, is imported once a cluster is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from filelock import Timeout

from sweeper.confirmation import champion, design
from sweeper.journal import learned, object_store, run_folders
from sweeper.journal.events import Verdict
from sweeper.journal.journal import Journal
from sweeper.preflight import prepare_shared
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.interrupts import Interrupts
from sweeper.system.nodes import Node, configured, max_concurrent
from sweeper.tracking import tags as tag
from sweeper.tracking.tracker import Promotion
from sweeper.trainable import imported_from
from sweeper.trials import cluster, reproduce
from sweeper.trials.reproduce import Reproduction

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A sweep in its folder, and what is asked of it.

    Args:
        uri: of the tracking store.
        prepare_info: what `preflight.prepare_shared` returned.
        more_seeds: how many seeds a further look adds.
        verbose: show what Ray says.
        wait: minutes to wait for the nodes of a joined cluster.
    """

    spec: SweepSpec
    run_dir: Path
    journal: Journal
    uri: str
    prepare_info: dict[str, Any]
    more_seeds: int = 0
    verbose: bool = False
    wait: float = 0.0

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
                    self.spec, self.run_dir, self.journal, slots, facts=self.prepare_info, say=signals.say
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
        if self.more_seeds and not design.finished(spec, journal):
            say("--more-seeds: the look before is not finished; this goes on with it, ask again for more")
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
            if not tuner.confirm(spec, self.run_dir, journal, slots, facts=prepare_info, say=say):
                return False
            signals.install()  # Tune's handler is still there
        if reason := design.missing_metric_note(spec, journal):
            say(reason)
        journal.append(Verdict(data=design.conclude(spec, journal, self.run_dir).to_dict()))
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
        raise ValueError(f"--reproduce {run_dir}: a sweep works on it") from None


def _packages(spec: SweepSpec) -> list[str]:
    """The folders of this package and of the trainable's, which a joined cluster's nodes need."""
    found = (find_spec(name.partition(".")[0]) for name in ("sweeper", spec.trainable.partition(":")[0]))
    return [folder for one in found if one for folder in one.submodule_search_locations or []]
