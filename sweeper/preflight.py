"""What a start asks before it begins. A plan asks the same, so that it knows all that a start would be refused for."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import Any

from sweeper.confirmation import design, fresh_seeds
from sweeper.journal import run_folders, tasks
from sweeper.journal.events import Session, with_lines
from sweeper.journal.journal import Journal, fingerprints_in
from sweeper.journal.run_folders import BEGUN, JOURNAL
from sweeper.plan import capacity, probe
from sweeper.plan.estimate import Plan, above_limits
from sweeper.report.summary import sweep_state
from sweeper.spec.hints import naming
from sweeper.spec.load import probes
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, nodes
from sweeper.system.secrecy import redact
from sweeper.tracking.store import identity, sqlite_uri, store_uri
from sweeper.trainable import Trainable

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Admission:
    """A sweep that asks to start.

    Args:
        path: of its spec, as error messages name it.
        run_to_resume: the run folder, if one is resumed.
        fit: how many trials run at once here; None where that is not known.
        estimate: its plan, once made.
        prepare_info: what `prepare_shared` returned, once it was called.
    """

    path: Path
    spec: SweepSpec
    storage: Path
    run_to_resume: Path | None
    fit: int | None
    say: Say
    more_seeds: int = 0
    reuse_seeds: bool = False
    trust_record: bool = False
    fork: bool = False
    estimate: Plan | None = None
    prepare_info: dict[str, Any] | None = None

    def refusals(self) -> Iterator[list[str]]:
        """Why it may not begin, a line each, question by question: whoever asks no further has prepared nothing."""
        yield self._above_limits()
        yield self._short_of_room()
        for question in (self._prepare, self._more_seeds, self._same_data_and_fresh_seeds):
            refused = _refused(question)
            yield refused
            if self.prepare_info is None:
                return

    def same_data(self, run: Path) -> bool:
        """Whether a run had the data that are prepared now. Raises ValueError, in one line, where none can be had."""
        self._prepare()
        try:
            journal_to_resume(self.spec, run, self.prepare_info or {})
        except ValueError as error:
            self.say(f"a finished run does not answer, and this begins anew: {error}")
            return False
        return True

    def _above_limits(self) -> list[str]:
        limits = self.spec.limits
        if not (limits.hours or limits.gpu_hours):
            return []
        return above_limits(self.spec, self.estimate or probe.of(self.spec, self.fit, measure=True))

    def _short_of_room(self) -> list[str]:
        if nodes.configured() or (not self.fit and not self.estimate):
            return []
        there = capacity.free(self.storage)
        short = capacity.shortages(self.spec, self.fit or 1, there, run_folders.size(self.run_to_resume))
        for line in [] if short or self.estimate else capacity.notes(there):  # a plan ends with them
            self.say(line)
        return short

    def _prepare(self) -> None:
        if self.prepare_info is None:
            with naming(self.path):
                self.prepare_info = prepare_shared(self.spec, self.say)

    def _more_seeds(self) -> None:
        if self.more_seeds < 0 or (self.more_seeds and not (self.run_to_resume and self.spec.compared)):
            raise ValueError("--more-seeds: takes a number, with --resume of a run that has a confirmation")
        if self.more_seeds and self.run_to_resume:
            journal = Journal(self.run_to_resume / "journal.jsonl", read_only=True, trust=self.trust_record)
            if journal.families() and not design.unsettled(self.spec, journal):
                raise ValueError("--more-seeds: every comparison of this run is settled or dropped: none would run")

    def _same_data_and_fresh_seeds(self) -> None:
        facts = self.prepare_info or {}
        recorded: Journal | None = journal_to_resume(self.spec, self.run_to_resume, facts, self.trust_record)
        if recorded and self.run_to_resume and not self.fork:
            fresh_seeds.refuse_stale(recorded, store_uri(self.spec, self.storage), self.run_to_resume, self.say)
        if not self.reuse_seeds:
            refuse_used(self.path, self.spec, self.storage, facts, recorded, self.say)


def _refused(question: Callable[[], None]) -> list[str]:
    try:
        question()
    except ValueError as error:
        return [str(error)]
    return []


def refuse_store(spec: SweepSpec, run_dir: Path, trust: bool) -> None:
    """Raises ValueError, in one line, where a record that came from elsewhere says where results are to be sent."""
    uri, storage = spec.tracking.uri, run_dir.resolve().parent
    if uri in (None, os.environ.get("MLFLOW_TRACKING_URI"), sqlite_uri(storage / "mlflow.db")):
        return
    run = Journal(run_dir / JOURNAL, read_only=True, trust=trust).run
    if not (run and (files.cache_root() / BEGUN / run).exists()):
        raise ValueError(
            f"--resume {run_dir}: its record sends results to {redact(str(uri))}, and the run was not begun here: set "
            "MLFLOW_TRACKING_URI to that address to send them there"
        )


def prepare_shared(spec: SweepSpec, say: Say) -> dict[str, Any]:
    """Make what the trials share, and ask whether tasks can be scored; people hear of it where it takes a while.

    Returns the trainable's facts. Raises ValueError in one line.
    """
    waiting = Timer(2, say, [f"{spec.name}: preparing what its trials share"])
    waiting.start()
    try:
        facts = with_lines(Trainable.load(spec.trainable).prepare(spec.settings({})))
        if cautions := check_prepared(spec, facts):
            facts = {**facts, "warnings": [*facts.get("warnings", ()), *cautions]}
        return {**facts, **tasks.checked(spec)}
    finally:
        waiting.cancel()


def check_prepared(spec: SweepSpec, prepare_info: dict[str, Any]) -> list[str]:
    """Raises ValueError, in one line, for an arm or a corner of the space that what is prepared does not serve.

    Returns what there is to be said of those that it does.
    """
    trainable = Trainable.load(spec.trainable)
    told = [trainable.check(spec.settings(params), prepare_info) or () for _, params in probes(spec, spec.arms)]
    return [*dict.fromkeys(line for lines in told for line in lines)]


def finished(spec: SweepSpec, run_dir: Path) -> bool:
    """Whether a run of the spec has nothing left to do, and something came of it."""
    try:
        journal = Journal(run_dir / "journal.jsonl", read_only=True)
    except ValueError:
        return False
    return design.finished(spec, journal) and sweep_state(journal.trials.values(), False) == "completed"


def journal_to_resume(
    spec: SweepSpec, run_dir: Path | None, prepare_info: dict[str, Any], trust: bool = False
) -> Journal | None:
    """What is on record of the run to go on with. Raises ValueError where it had other data, or rules by its names.

    And where the record, or the spec beside it, is not what was written, unless people `trust` it all the same.
    """
    if run_dir is None:
        return None
    with naming(run_dir):
        journal = Journal(run_dir / "journal.jsonl", read_only=True, trust=trust)
        journal.refuse_other_spec(run_folders.own_hash(run_dir) or spec.spec_hash, trust)
        first = next((event for event in journal.events if isinstance(event, Session)), None)
        if first is None:
            return journal
        now = fingerprints_in(prepare_info)
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
        fresh_seeds.refuse_used(spec, store_uri(spec, storage), facts, own, say)
