"""The mask budget: how many positions every row and every source may take.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, S index slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.noise import StepNoise

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What one rank predicts in one step.

    positions: [S] flat indices into [b * T], ascending; b * T in the slots left over. weight: [S], 0 in those, else 1.
    total: positions predicted in the global batch; a tensor, [], where they are known on the device only.
    """

    positions: torch.Tensor
    weight: torch.Tensor
    total: int | torch.Tensor

    @staticmethod
    def of(chosen: torch.Tensor, slots: int, total: int | torch.Tensor) -> Selection:
        """From a mask, [b, T], which has at most `slots` positions."""
        positions = torch.nonzero_static(chosen.flatten(), size=slots, fill_value=chosen.numel()).squeeze(1)
        return Selection(positions, (positions < chosen.numel()).float(), total)


@dataclass(frozen=True)
class Budget:
    """Quotas which add up to the budget exactly, whatever the shares and the number of ranks.

    K = round(rate * B * T) positions a batch; rows, and sources within them, by systematic sampling (Madow 1949), so
    that each row, each run of rows and each source is within one of its part and shares act smoothly. by_row: every
    row and source rounded by itself instead, as Accuracy-Morph's code does (15 / 3 / 1 of 19 at T = 128).
    """

    rate: float
    by_row: bool
    rows: int
    length: int

    @property
    def total(self) -> int:
        """K, the positions predicted in a global batch."""
        if self.by_row:
            return self.rows * round(self.rate * self.length)
        return round(self.rate * self.rows * self.length)

    def largest(self, share: float = 1.0) -> int:
        """No row is given more than this for a share of the budget."""
        return min(self.length, math.ceil(share * self.total / self.rows) + 1)

    def slots(self, rows: slice) -> int:
        """S: what those rows can hold at this rate, a constant."""
        count = len(range(*rows.indices(self.rows)))
        return math.ceil(self.total * count / self.rows) + (count < self.rows)

    def quotas(self, shares: list[float], noise: StepNoise) -> Counts:
        """[1 + sources, B]: the total of each row, then what each share (their sum at most 1) has of it."""
        if self.by_row:
            return self._by_row(shares)
        starts = iter(noise.starts("quota", 1 + 2 * len(shares)))
        free = _spread(np.arange(self.rows + 1), self.total, self.rows, next(starts))
        left, quotas = self.total, [np.diff(free)]
        for share in shares:
            wanted = min(left, math.floor(share * self.total + next(starts)))
            taken = _spread(free, wanted, max(left, 1), next(starts))
            free, left = free - taken, left - wanted
            quotas.append(np.diff(taken))
        return np.stack(quotas)

    def _by_row(self, shares: list[float]) -> Counts:
        row = left = round(self.rate * self.length)
        parts = [row]
        for share in shares:
            parts.append(min(left, round(share * row)))
            left -= parts[-1]
        return np.repeat(np.array(parts)[:, None], self.rows, axis=1)


def _spread(upto: Counts, wanted: int, among: int, start: float) -> Counts:
    """How many of the first `upto` of `among` slots are taken, when `wanted` of them are, evenly, from a start."""
    return np.floor(upto * wanted / among + start).astype(np.int64)
