"""`--set` of the training command reads values as a spec's `--set` does: one dialect, so one number."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.spec.layers import merge_all, stack
from trainables.settings.config import Config
from trainables.settings.overrides import override


def in_a_spec(assignment: str) -> Any:
    """What a spec's `--set` makes of it."""
    tree: Any = merge_all(stack({}, None, [f"config.{assignment}"], "spec.yaml"))
    return tree["config"]["steps"]


@pytest.mark.parametrize(("text", "steps"), [("200", 200), ("+200", 200)])
def test_both_commands_read_the_same_number(text: str, steps: int) -> None:
    assert override([f"steps={text}"]).steps == in_a_spec(f"steps={text}") == steps


@pytest.mark.parametrize("text", ["017", "0x10", "1:30", "0b11", "1_000", "yes"])
def test_what_another_reader_takes_for_a_number_is_refused(text: str) -> None:
    """By YAML 1.1 `017` would be 15 steps and `1:30` 90."""
    assert in_a_spec(f"steps={text}") == text
    with pytest.raises(ValueError, match=r"^steps: "):
        override([f"steps={text}"])


def test_a_rate_may_have_an_exponent() -> None:
    assert override(["optimiser.lr=5e-4"], Config).optimiser.lr == 5e-4
