"""What a start asks before it begins. A plan asks the same, so that it knows all that a start would be refused for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper import cluster, confirm, folders, ledger, plan, probe, room
from sweeper.journal import Journal
from sweeper.spec import SweepSpec
from sweeper.stages import begun, prepared, refuse_used
from sweeper.store import store_uri
from sweeper.wording import naming

Say = Callable[[str], None]


@dataclass(kw_only=True)
class Admission:
    """A sweep at the door. path: of its spec, as refusals name it. known: the run to go on with. fit: trials at once.

    estimate: its plan, where it has been made. facts: see `stages.prepared`; there once the last question was asked.
    """

    path: Path
    spec: SweepSpec
    storage: Path
    known: Path | None
    fit: int | None
    say: Say
    more_seeds: int = 0
    reuse_seeds: bool = False
    trust_record: bool = False
    fork: bool = False
    estimate: plan.Plan | None = None
    facts: dict[str, Any] | None = None

    def refusals(self) -> Iterator[list[str]]:
        """Why it may not begin, a line each, question by question: whoever asks no further has prepared nothing."""
        yield self._above_limits()
        yield self._short_of_room()
        for question in (self._prepare, self._more_seeds, self._same_data_and_fresh_seeds):
            refused = _refused(question)
            yield refused
            if self.facts is None:
                return

    def same_data(self, run: Path) -> bool:
        """Whether a run had the data that are prepared now. Raises ValueError, in one line, where none can be had."""
        self._prepare()
        try:
            begun(self.spec, run, self.facts or {})
        except ValueError as error:
            self.say(f"a finished run does not answer, and this begins anew: {error}")
            return False
        return True

    def _above_limits(self) -> list[str]:
        limits = self.spec.limits
        if not (limits.hours or limits.gpu_hours):
            return []
        return plan.above_limits(self.spec, self.estimate or probe.of(self.spec, self.fit, measure=True))

    def _short_of_room(self) -> list[str]:
        if cluster.configured() or (not self.fit and not self.estimate):
            return []
        there = room.free(self.storage)
        short = room.shortages(self.spec, self.fit or 1, there, folders.size(self.known))
        for line in [] if short or self.estimate else room.notes(there):  # a plan ends with them
            self.say(line)
        return short

    def _prepare(self) -> None:
        if self.facts is None:
            with naming(self.path):
                self.facts = prepared(self.spec, self.say)

    def _more_seeds(self) -> None:
        if self.more_seeds < 0 or (self.more_seeds and not (self.known and self.spec.compared)):
            raise ValueError("--more-seeds: takes a number, with --resume of a run that has a confirmation")
        if self.more_seeds and self.known:
            journal = Journal(self.known / "journal.jsonl", read_only=True, trust=self.trust_record)
            if journal.families() and not confirm.unsettled(self.spec, journal):
                raise ValueError("--more-seeds: every comparison of this run is settled or dropped: none would run")

    def _same_data_and_fresh_seeds(self) -> None:
        facts = self.facts or {}
        recorded: Journal | None = begun(self.spec, self.known, facts, self.trust_record)
        if recorded and self.known and not self.fork:
            ledger.refuse_stale(recorded, store_uri(self.spec, self.storage), self.known, self.say)
        if not self.reuse_seeds:
            refuse_used(self.path, self.spec, self.storage, facts, recorded, self.say)


def _refused(question: Callable[[], None]) -> list[str]:
    try:
        question()
    except ValueError as error:
        return [str(error)]
    return []
