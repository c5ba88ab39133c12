"""The stages of a sweep: what its trials share, the search, the confirmation, and the champion that comes of it.

Ray, and what needs it, is imported once a cluster is there.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import Any

from filelock import Timeout

from sweeper import check, cluster, confirm, files, folders, learned, ledger, remote, reproduce, tasks
from sweeper.events import with_lines
from sweeper.interrupts import Interrupts
from sweeper.journal import Journal, Session, Verdict, fingerprints_in
from sweeper.reproduce import Reproduction
from sweeper.spec import SweepSpec
from sweeper.store import identity, store_uri
from sweeper.summary import sweep_state
from sweeper.tracking import Crowned
from sweeper.trainable import Trainable, imported_from
from sweeper.wording import naming

Say = Callable[[str], None]


def prepared(spec: SweepSpec, say: Say) -> dict[str, Any]:
    """Make what the trials share, and ask whether tasks can be scored; people hear of it where it takes a while.

    Returns the trainable's facts. Raises ValueError in one line.
    """
    waiting = Timer(2, say, [f"{spec.name}: preparing what its trials share"])
    waiting.start()
    try:
        facts = with_lines(Trainable.load(spec.trainable).prepare(spec.settings({})))
        if cautions := unserved(spec, facts):
            facts = {**facts, "warnings": [*facts.get("warnings", ()), *cautions]}
        return {**facts, **tasks.checked(spec)}
    finally:
        waiting.cancel()


def unserved(spec: SweepSpec, facts: dict[str, Any]) -> list[str]:
    """Raises ValueError, in one line, for an arm or a corner of the space that what is prepared does not serve.

    Returns what there is to be said of those that it does.
    """
    trainable = Trainable.load(spec.trainable)
    told = [trainable.check(spec.settings(params), facts) or () for _, params in check.probes(spec, spec.arms)]
    return [*dict.fromkeys(line for lines in told for line in lines)]


def finished(spec: SweepSpec, run_dir: Path) -> bool:
    """Whether a run of the spec has nothing left to do, and something came of it."""
    try:
        journal = Journal(run_dir / "journal.jsonl", read_only=True)
    except ValueError:
        return False
    return confirm.finished(spec, journal) and sweep_state(journal.trials.values(), False) == "completed"


def begun(spec: SweepSpec, known: Path | None, facts: dict[str, Any], trust: bool = False) -> Journal | None:
    """What is on record of the run to go on with. Raises ValueError where it had other data, or rules by its names.

    And where the record, or the spec beside it, is not what was written, unless people `trust` it all the same.
    """
    if known is None:
        return None
    with naming(known):
        journal = Journal(known / "journal.jsonl", read_only=True, trust=trust)
        journal.refuse_other_spec(folders.own_hash(known) or spec.spec_hash, trust)
        first = next((event for event in journal.events if isinstance(event, Session)), None)
        if first is None:
            return journal
        now = fingerprints_in(facts)
        for key, then in fingerprints_in(first.facts).items():
            if now.get(key, then) != then:
                raise ValueError(
                    f"its trials would not be comparable, for the data, or what prepares it, is not as it was ({key} "
                    f"{then} then, {now[key]} now): put it back, or start a new run; versions then: {first.versions}"
                )
        journal.refuse_gaps()
        if journal.respecified:
            return journal  # knowingly
        for one in {record.ask.config_hash: record for record in journal.trials.values()}.values():
            if one.ask.config_hash and one.ask.config_hash != spec.config_hash(spec.trainable_config(one.ask.params)):
                raise ValueError(
                    f"its trials would not be comparable, for {one.ask.arm or one.id} stands for other settings now: "
                    f"start a new run, or go on with the version that began it; versions then: {first.versions}"
                )
    return journal


def refuse_used(
    path: Path, spec: SweepSpec, storage: Path, facts: dict[str, Any], journal: Journal | None, say: Say
) -> None:
    """Raises ValueError where other runs of this data have used a seed of the confirmation.

    path: of the spec, which the refusal names. journal: of the run to go on with.
    """
    if not spec.compared or not facts.get("data_fingerprint"):
        return
    own: dict[str, str] = {}
    if journal:
        if journal.families():
            return  # declared: what is known of their freshness is on record
        own = identity(journal, journal.path.parent)
    with naming(path):
        ledger.refuse_used(spec, store_uri(spec, storage), facts, own, say)


@dataclass(frozen=True, kw_only=True)
class Stages:
    """A sweep in its folder, and what is asked of it.

    uri: of the tracking store. facts: see `prepared`. more_seeds: of a further look. verbose: show what Ray says. wait:
    minutes that nodes may take to come.
    """

    spec: SweepSpec
    run_dir: Path
    journal: Journal
    uri: str
    facts: dict[str, Any]
    more_seeds: int = 0
    verbose: bool = False
    wait: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing is left to run, so that Ray need not start."""
        return confirm.finished(self.spec, self.journal) and not self.more_seeds

    @property
    def trials(self) -> int:
        """Of all stages, as far as they are known, with those that `more_seeds` adds."""
        families = self.journal.families()
        further = bool(families) and confirm.finished(self.spec, self.journal)
        more = self.more_seeds * (1 + len(confirm.unsettled(self.spec, self.journal))) if further else 0
        return confirm.expected(self.spec, self.journal) + more

    def run(self, signals: Interrupts) -> bool:
        """Run what is left: the search, then the confirmation; whether all of it has ended."""
        signals.say("joining the cluster" if cluster.configured() else "starting Ray on this machine")
        with cluster.session(_packages(self.spec), self.verbose) as nodes:
            signals.install()
            from sweeper import sweep

            slots, begun = self._slots(nodes, signals.say), not confirm.searched(self.spec, self.journal)
            if begun:
                if not sweep.run(self.spec, self.run_dir, self.journal, slots, facts=self.facts, say=signals.say):
                    return False
                signals.install()  # Tune's handler is still there, and would take a signal to no effect
                if signals.happened:
                    return confirm.finished(self.spec, self.journal)
            return self._confirm(slots, None if begun else self.facts, signals)

    def _slots(self, nodes: list[cluster.Node], say: Say) -> int:
        """Trials that there is room for, once all nodes have been seen to reach the run."""
        place = remote.of(self.run_dir)
        cluster.shared((place / folders.SPEC).address if place else str(self.run_dir / folders.SPEC))
        if not self.wait:
            return cluster.room(self.spec.resources, nodes)
        return cluster.awaited(self.spec.resources, self.spec.resources.concurrency or 1, self.wait, say)

    def _confirm(self, slots: int, facts: dict[str, Any] | None, signals: Interrupts) -> bool:
        """facts: for the journal, where no session of it has begun yet."""
        spec, journal, say = self.spec, self.journal, signals.say
        if self.more_seeds and not confirm.finished(spec, journal):
            say("--more-seeds: the look before is not finished; this goes on with it, ask again for more")
        if not journal.families():
            if reason := confirm.lacking(spec, journal):
                say(reason)
                return True
            journal.append(ledger.declare(spec, journal, self.uri, self.facts, self.run_dir, say))
        elif self.more_seeds and confirm.finished(spec, journal) and confirm.unsettled(spec, journal):
            journal.append(ledger.further(spec, journal, self.more_seeds, self.uri, self.facts, self.run_dir, say))
        while not confirm.finished(spec, journal):
            if family := confirm.following(spec, journal):
                journal.append(family)
            if not self._look(slots, facts, signals):
                return False
            facts = None  # a further look is of the same session
        return True

    def _look(self, slots: int, facts: dict[str, Any] | None, signals: Interrupts) -> bool:
        """Run what the last look lacks, and say what came of it; whether it has ended, and no signal came."""
        from sweeper import sweep

        spec, journal, say = self.spec, self.journal, signals.say
        if not confirm.complete(spec, journal):
            if not sweep.confirm(spec, self.run_dir, journal, slots, facts=facts, say=say):
                return False
            signals.install()  # Tune's handler is still there
        if reason := confirm.untold(spec, journal):
            say(reason)
        journal.append(Verdict(data=confirm.conclude(spec, journal, self.run_dir)))
        return confirm.finished(spec, journal) or not signals.happened

    def crowned(self, say: Say) -> tuple[Crowned | None, dict[str, str]]:
        """What the confirmation moves in the registry, and what the parent run's tags say of it."""
        spec, said = self.spec, self.journal.verdict()
        caution = {learned.TAG: learned.caution(spec, self.journal) or ""}
        if said is None or (spec.confirm.until and not confirm.finished(spec, self.journal)):
            return None, caution  # of several that are confirmed by the end, another may be the best
        baseline = spec.config_hash(spec.trainable_config(next(iter(spec.arms.values()))))
        tags = {"sweeper.verdict": json.dumps(said["told"]), "sweeper.baseline": baseline, **caution}
        try:
            return ledger.crowned(spec, self.journal, self.uri, self.facts, self.run_dir, say), tags
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
    facts = prepared(spec, signals.say)

    def again(spec: SweepSpec, folder: Path, open_trials: Journal) -> None:
        with cluster.session(_packages(spec), verbose) as nodes:
            signals.install()
            from sweeper import sweep

            sweep.again(spec, folder, open_trials, cluster.room(spec.resources, nodes), facts, signals.say)

    try:
        with files.locked(run_dir / folders.LOCK, 0.5):
            return spec, reproduce.reproduce(spec, run_dir.resolve(), journal, record, again)
    except Timeout:
        raise ValueError(f"--reproduce {run_dir}: a sweep works on it") from None


def _packages(spec: SweepSpec) -> list[str]:
    """The folders of this package and of the trainable's, which a joined cluster's nodes need."""
    found = (find_spec(name.partition(".")[0]) for name in ("sweeper", spec.trainable.partition(":")[0]))
    return [folder for one in found if one for folder in one.submodule_search_locations or []]
