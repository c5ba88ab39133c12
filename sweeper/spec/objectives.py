"""A spec's objectives: `objective: val/loss`, or a list whose first entry alone ranks, stops and confirms.

A loss (`val/…`) is minimised, a task's score is maximised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest

LOSS = r"val/\S*loss\S*"


def parse(given: Any) -> Any:
    """A text or a list of texts as a tuple; anything else unchanged, for pydantic to refuse."""
    if isinstance(given, str):
        return (given,)
    return tuple(given) if isinstance(given, list) else given


def to_plain(names: Sequence[str]) -> str | list[str]:
    """As a spec writes it: one objective is a text."""
    return names[0] if len(names) == 1 else list(names)


def maximised(name: str) -> bool:
    """Whether higher is better."""
    return not name.startswith("val/")


def check(names: Sequence[str], tasks: bool) -> None:
    """Raises ConfigError for objectives that no trial reports. tasks: whether search trials are scored by any."""
    first, *further = names
    if not re.fullmatch(LOSS, first):
        raise ConfigError(("objective",), f"{first!r} must be a validation loss, such as val/loss; it is minimised")
    for name in further:
        if names.count(name) > 1:
            raise ConfigError(("objective",), f"duplicate {name!r}")
        if not maximised(name) and not re.fullmatch(LOSS, name):
            raise ConfigError(
                ("objective",), f"{name!r} is neither a loss nor a task's score; only these can follow {first}"
            )
        if maximised(name) and not tasks:
            reason = f"no search trial reports {name!r}: add its task to evaluate.tasks"
            raise ConfigError(("objective",), reason)


def refuse_unknown(names: Sequence[str], scores: Collection[str]) -> None:
    """Raises ValueError, in one line, for a task's score that is not among `scores`."""
    for name in names:
        if maximised(name) and name not in scores:
            raise ValueError(f"objective: no task reports {name!r}; {nearest(name, scores)}")
