"""A run folder read as data: its spec and its journal, and nothing imported of what they name.

A trainable that comes with sweeper is part of it and is asked as ever. Of any other, what a report says is what the
driver noted while it ran: `noted` in every session, and of each run in its `Ask` and its `End`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.machinery import all_suffixes
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper import budget, in_record
from sweeper.budget import TOKENS
from sweeper.journal import Journal, Session
from sweeper.trainable import Budget, Trainable

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec

FACT = "trainable"  # of a session


@dataclass(frozen=True)
class Known:
    """What a record tells of a trainable that is not imported.

    budgets: of the arms by name, as far as they are told. tokens: of one step of the baseline, None where that is not
    on record. stuck: whether it tells which runs did not begin to learn, None where that is not on record.
    """

    budgets: Mapping[str, Budget] = field(default_factory=dict)
    tokens: int | None = None
    stuck: bool | None = None

    def lacking(self, trainable: str) -> str | None:
        """In a line, what is left out of what is shown; None where everything is on record."""
        if self.stuck is not None:
            return None
        return (
            f"left out, for an earlier version made this record and {trainable} is not imported to read it: tokens, "
            "budgets by settings, and which runs did not begin to learn"
        )


def refuse_modules_here(run_dir: Path | None) -> None:
    """Raises ValueError, in one line, where the current folder lies in a run's, such as `run_dir`, and holds code.

    What a sweep starts looks for modules in the current folder, whatever is done about that in this process: Ray's
    workers do.
    """
    here = Path.cwd()
    if not (in_record(str(here)) or (run_dir and run_dir.resolve() in (here, *here.parents))):
        return
    suffixes = tuple(all_suffixes())
    code = next((Path(at, name) for at, _, names in os.walk(here) for name in names if name.endswith(suffixes)), None)
    if code:
        raise ValueError(f"{here} is a run's folder and holds code, {code.name}, which would be run: start elsewhere")


def noted(spec: SweepSpec) -> dict[str, Any]:
    """What a session keeps of the trainable. Raises ValueError as `SweepSpec.settings`."""
    return {
        FACT: {
            "budgets": {name: budget.told(spec.budget_of(params)) for name, params in spec.arms.items()},
            TOKENS: spec.settings(next(iter(spec.arms.values()), {})).tokens_per_step,
            "stuck": Trainable.load(spec.trainable).stuck is not None,
        }
    }


def known(journal: Journal) -> Known:
    """What a journal tells; what is not of the type that a driver writes counts as not told."""
    told = {str(one.ask.arm): one.ask.budget for one in journal.trials.values() if one.ask.arm}
    begun = next((event for event in journal.events if isinstance(event, Session)), None)
    noted = begun.facts.get(FACT) if begun else None  # of the first: what an earlier version began lacks some ends
    if not isinstance(noted, Mapping):
        return Known(_budgets(told))
    tokens, stuck = noted.get(TOKENS), noted.get("stuck")
    return Known(
        _budgets({**told, **(noted["budgets"] if isinstance(noted.get("budgets"), Mapping) else {})}),
        tokens if type(tokens) is int else None,
        stuck if type(stuck) is bool else None,
    )


def _budgets(told: Mapping[str, Any]) -> dict[str, Budget]:
    return {name: found for name, one in told.items() if (found := budget.read(one)) is not None}
