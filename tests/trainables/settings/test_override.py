"""`--set` of the training command reads values as a spec's `--set` does: one dialect, so one number."""

from __future__ import annotations

from typing import Any

import pytest

from sweeper.spec.layers import merge_all, stack
from trainables.settings.config import Config, override


def in_a_spec(assignment: str) -> Any:
    """What a spec's `--set` makes of it."""
    tree: Any = merge_all(stack({}, None, [f"config.{assignment}"], "spec.yaml"))
    return tree["config"]["steps"]


@pytest.mark.parametrize(
    ("text", "steps"), [("200", 200), ("+200", 200), ('!!int "200"', None), ("1_000", None), ("'200'", None)]
)
def test_both_commands_read_the_same_number(text: str, steps: int | None) -> None:
    if steps is None:
        with pytest.raises(ValueError, match="steps"):
            override([f"steps={text}"])
        return
    assert override([f"steps={text}"]).steps == in_a_spec(f"steps={text}") == steps


@pytest.mark.parametrize("text", ["017", "0x10", "1:30", "0b11", "yes"])
def test_what_yaml_1_1_would_take_for_another_number_is_refused(text: str) -> None:
    """`017` was 15 steps here and 17 there, `1:30` was 90."""
    assert in_a_spec(f"steps={text}") == text
    with pytest.raises(ValueError, match=r"^steps: "):
        override([f"steps={text}"])


def test_a_rate_may_have_an_exponent() -> None:
    assert override(["optimiser.lr=5e-4"], Config).optimiser.lr == 5e-4
