"""What a sweep is judged by: `objective: val/loss`, or a list, of which the first alone ranks, stops and confirms.

A loss (`val/…`) is minimised, what a task gives is maximised.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest

LOSS = r"val/\S*loss\S*"


def parse(given: Any) -> Any:
    """A text or a list of texts as a tuple; anything else as it is, to be refused."""
    if isinstance(given, str):
        return (given,)
    return tuple(given) if isinstance(given, list) else given


def to_plain(names: Sequence[str]) -> str | list[str]:
    """As a spec writes it: one objective is a text."""
    return names[0] if len(names) == 1 else list(names)


def maximised(name: str) -> bool:
    """Whether more of it is better."""
    return not name.startswith("val/")


def check(names: Sequence[str], tasks: bool) -> None:
    """Raises ConfigError for what no trainable gives. tasks: whether every trial is scored by tasks."""
    first, *further = names
    if not re.fullmatch(LOSS, first):
        raise ConfigError(
            ("objective",), f"{first!r} must be a loss of the validation part, as val/loss; it is minimised"
        )
    for name in further:
        if names.count(name) > 1:
            raise ConfigError(("objective",), f"duplicate {name!r}")
        if not maximised(name) and not re.fullmatch(LOSS, name):
            raise ConfigError(
                ("objective",), f"{name!r} is no loss: beside {first} go other losses and scores of tasks"
            )
        if maximised(name) and not tasks:
            reason = f"no trial of the search gives {name!r}: name its task under evaluate.tasks, with at: trials"
            raise ConfigError(("objective",), reason)


def refuse_unknown(names: Sequence[str], scores: Collection[str]) -> None:
    """Raises ValueError, in one line, for a task's score that is none of these."""
    for name in names:
        if maximised(name) and name not in scores:
            raise ValueError(f"objective: the tasks do not give {name!r}; {nearest(name, scores)}")
