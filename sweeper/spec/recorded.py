"""What a run folder records about a trainable that is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sweeper.trainable import Budget


@dataclass(frozen=True)
class TrainableStub:
    """What a run folder records about a trainable that is not imported.

    budgets: arm name -> its budget, for those on record. tokens: of one step of the baseline, None if not on record.
    stuck: whether the trainable tells which runs did not begin to learn, None if not on record.
    """

    budgets: Mapping[str, Budget] = field(default_factory=dict)
    tokens: int | None = None
    stuck: bool | None = None

    def left_out(self, trainable: str) -> str | None:
        """One line that says what a report leaves out; None if everything is on record."""
        if self.stuck is not None:
            return None
        return (
            f"left out, because an earlier version made this record and {trainable} is not imported to read it: "
            "tokens, budgets by settings, and which runs did not begin to learn"
        )
