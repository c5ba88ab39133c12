"""What the ranks of a trial agree on, by sums over them: each sees other files, or sees them at another moment."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Together:
    """The ranks of a trial. Every rank calls each method, with what it has; each gets the same answer.

    Args:
        rank: of this process.
        world_size: number of ranks.
        all_reduce: sums a tensor over the ranks in place.
    """

    rank: int = 0
    world_size: int = 1
    all_reduce: Callable[[Any], object] = lambda tensor: None

    def all(self, here: bool) -> bool:
        """Whether it holds on every rank."""
        return sum(self._each(int(here))) == self.world_size

    def texts(self, text: str) -> int:
        """A number that stands for the texts of all ranks, in their order."""
        own = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7])
        return int.from_bytes(hashlib.sha256(str(self._each(own)).encode()).digest()[:7])

    def _each(self, number: int) -> list[int]:
        if self.world_size == 1:
            return [number]
        import torch

        numbers = torch.zeros(self.world_size, dtype=torch.int64)
        numbers[self.rank] = number
        self.all_reduce(numbers)
        return numbers.tolist()
