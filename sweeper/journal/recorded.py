"""A run folder read as data: its spec and its journal, without importing what they name.

A trainable that comes with sweeper is part of it and is imported as usual. For any other, reports use what the driver
noted while it ran: `FACT` in every session, and each run's `Ask` and `End`.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sweeper.journal import budget, provenance
from sweeper.journal.budget import TOKENS
from sweeper.journal.events import Doubt, Session
from sweeper.journal.journal import Journal
from sweeper.spec.load import probes
from sweeper.spec.recorded import TrainableStub
from sweeper.trainable import Budget, Trainable

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

FACT = "trainable"  # of a session
SETUP, VARIED = "setup", "varied"  # in it
TOLD = "Sweeper did not train the trials of this run: a launcher of its own told their results."


def told(journal: Journal) -> bool:
    """Whether trials were asked for and told: then sessions say nothing of where they were trained, or how long."""
    return any(isinstance(event, Doubt) and event.text == TOLD for event in journal.events)


def trainable_facts(spec: SweepSpec, facts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a session records of the trainable. facts: of its `prepare`. Raises ValueError as `SweepSpec.settings`."""
    return {
        FACT: {
            "budgets": {name: budget.to_dict(spec.budget_of(params)) for name, params in spec.arms.items()},
            TOKENS: spec.settings(spec.baseline_params).tokens_per_step,
            "stuck": Trainable.load(spec.trainable).stuck is not None,
            "code": provenance.code(spec.trainable.partition(":")[0]),
            **_setup(spec, facts or {}),
        }
    }


def _setup(spec: SweepSpec, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the baseline trains, label -> text, and the labels whose text is another for some arm or corner."""
    trainable, seen = Trainable.load(spec.trainable), defaultdict[str, set[str]](set)

    def said(params: Mapping[str, Any]) -> dict[str, str]:
        config = spec.settings(params)
        length = {"steps": f"{config.steps:,}", "tokens a run": f"{config.steps * config.tokens_per_step:,}"}
        return {**length, **{str(label): str(text) for label, text in trainable.setup(config, facts).items()}}

    own: dict[str, str] = {}
    with contextlib.suppress(Exception):  # a report does without it, and no sweep ends for want of it
        own = said(spec.baseline_params)
        for _, params in probes(spec, spec.arms):
            with contextlib.suppress(ValueError):  # a corner that does not go with the other settings
                for label, text in said(params).items():
                    seen[label].add(text)
    return {SETUP: own, VARIED: [label for label, text in own.items() if seen[label] - {text}]}


def trainable_stub(journal: Journal) -> TrainableStub:
    """What a journal says of its trainable; a value of another type than a driver writes counts as absent."""
    asked = {str(one.ask.arm): one.ask.budget for one in journal.trials.values() if one.ask.arm}
    first = next((event for event in journal.events if isinstance(event, Session)), None)
    noted = first.facts.get(FACT) if first else None  # of the first: what an earlier version began lacks some ends
    if not isinstance(noted, Mapping):
        return TrainableStub(_budgets(asked))
    tokens, stuck = noted.get(TOKENS), noted.get("stuck")
    return TrainableStub(
        _budgets({**asked, **(noted["budgets"] if isinstance(noted.get("budgets"), Mapping) else {})}),
        tokens if type(tokens) is int else None,
        stuck if type(stuck) is bool else None,
    )


def _budgets(by_arm: Mapping[str, Any]) -> dict[str, Budget]:
    return {name: found for name, one in by_arm.items() if (found := budget.from_dict(one)) is not None}
