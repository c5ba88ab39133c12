"""What a record tells of a trainable that is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sweeper.trainable import Budget

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class TrainableStub:
    """What a record tells of a trainable that is not imported.

    budgets: of the arms by name, as far as they are told. tokens: of one step of the baseline, None where that is not
    on record. stuck: whether it tells which runs did not begin to learn, None where that is not on record.
    """

    budgets: Mapping[str, Budget] = field(default_factory=dict)
    tokens: int | None = None
    stuck: bool | None = None

    def left_out(self, trainable: str) -> str | None:
        """In a line, what is left out of what is shown; None where everything is on record."""
        if self.stuck is not None:
            return None
        return (
            f"left out, for an earlier version made this record and {trainable} is not imported to read it: tokens, "
            "budgets by settings, and which runs did not begin to learn"
        )
