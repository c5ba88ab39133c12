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
from trainables.settings.row_rates import RowRates, largest_part, weight

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What one rank predicts in one step.

    positions: [S] flat indices into [b * T], ascending; b * T in unused slots. weight: [S], 0 in those, else 1.
    total: positions predicted in the global batch; a tensor, [], if only the device knows. by_row: [B], those in each
    row of the global batch, which corruption apart from prediction needs. loss_weight: [S], of each position in the
    loss, 0 in unused slots; `weight` where it is None.
    """

    positions: torch.Tensor
    weight: torch.Tensor
    total: int | torch.Tensor
    by_row: torch.Tensor | None = None
    loss_weight: torch.Tensor | None = None

    @staticmethod
    def of(
        chosen: torch.Tensor, slots: int, total: int | torch.Tensor, by_row: torch.Tensor | None = None
    ) -> Selection:
        """From a mask, [b, T], which has at most `slots` positions."""
        positions = torch.nonzero_static(chosen.flatten(), size=slots, fill_value=chosen.numel()).squeeze(1)
        return Selection(positions, (positions < chosen.numel()).float(), total, by_row)

    def chosen(self, shape: torch.Size) -> torch.Tensor:
        """[b, T] bool, the predicted positions of so many rows and tokens."""
        chosen = torch.zeros(shape.numel() + 1, dtype=torch.bool, device=self.positions.device)
        chosen[self.positions] = True
        return chosen[:-1].view(shape)


@dataclass(frozen=True)
class Budget:
    """Quotas that add up to the budget exactly, whatever the shares and the number of ranks.

    K = round(rate * B * T) positions a batch, divided among rows, and among sources within them, by systematic sampling
    (Madow 1949): each row, each run of rows and each source is within one of its part, and shares act smoothly. Rows
    have equal parts, or those of `row_rates`, drawn for the batch. sources: how many it is divided among, if any.
    """

    rate: float
    rows: int
    length: int
    row_rates: RowRates | None = None
    sources: int = 0

    @property
    def total(self) -> int:
        """K, the positions predicted in a global batch."""
        return round(self.rate * self.rows * self.length)

    def largest(self, share: float = 1.0) -> int:
        """The most that any row gets of a share of the budget: what is free may be rounded up by each source before."""
        each, rounded = 1 / self.rows, 2 + self.sources
        if self.row_rates:
            each, rounded = largest_part(self.row_rates, self.rows, 1), rounded + 2
        return min(self.length, math.ceil(share * self.total * each) + rounded)

    def slots(self, rows: slice) -> int:
        """S, index slots for some rows: a constant, enough for the most that they can get."""
        count = len(range(*rows.indices(self.rows)))
        if self.row_rates:
            most = math.ceil(self.total * largest_part(self.row_rates, self.rows, count)) + (count < self.rows)
            return min(most, self.total, count * self.length)
        return math.ceil(self.total * count / self.rows) + (count < self.rows)

    def _row_totals(self, noise: StepNoise, start: float) -> Counts:
        """[B + 1] positions that the first rows take together: each row's own part of the total."""
        if self.row_rates is None:
            return _spread(np.arange(self.rows + 1), self.total, self.rows, start)
        own = noise.starts("row rates", self.rows + 1)
        u, order = own[0] + 2.0**-33, np.argsort(own[1:], kind="stable")  # u is never 0
        parts = np.array([0.0, *(weight(self.row_rates, (k + u) / self.rows) for k in order.tolist())]).cumsum()
        return np.floor(parts / parts[-1] * self.total + start).astype(np.int64)

    def quotas(self, shares: list[float], noise: StepNoise) -> Counts:
        """[1 + sources, B]: the total of each row, then the part of each share. Shares sum to at most 1."""
        starts = iter(noise.starts("quota", 1 + 2 * len(shares)))
        free = self._row_totals(noise, next(starts))
        left, quotas = self.total, [np.diff(free)]
        for share in shares:
            wanted = min(left, math.floor(share * self.total + next(starts)))
            taken = _spread(free, wanted, max(left, 1), next(starts))
            free, left = free - taken, left - wanted
            quotas.append(np.diff(taken))
        return np.stack(quotas)


@dataclass(frozen=True)
class RowBudget:
    """Rounds each row and source on its own, as Accuracy-Morph's code does: 15 / 3 / 1 of 19 at T = 128.

    A row predicts n = round(rate * its eligible positions), halves to even. Each source, random included, gets
    round(share * n), and one takes the remainder: the trigrams among random, token and trigram; in a mixture with other
    sources, which that code does not have, the trigrams if they have a share, else random. No source gets less than 0,
    or more than those before it left.
    """

    rate: float
    rows: int
    length: int

    def largest(self, share: float = 1.0) -> int:
        """The most that any row gets, whatever the share of the budget."""
        return round(self.rate * self.length)

    def slots(self, rows: slice) -> int:
        """S, index slots for some rows: a constant, enough for the most that they can get."""
        return len(range(*rows.indices(self.rows))) * self.largest()

    def quotas(self, eligible: torch.Tensor, random: float, shares: list[float], remainder: int | None) -> torch.Tensor:
        """[1 + sources, B]: the total of each row, then the part of each source.

        The same bits as Python's `round`, on any device, without waiting for the device.

        Args:
            eligible: [B] eligible positions.
            random: the share of random.
            shares: of the other sources, in order.
            remainder: which of them takes the remainder; None for random.
        """
        total = torch.round(self.rate * eligible.double())
        parts = [torch.round(share * total) for share in shares]
        if remainder is not None:
            others = [part for i, part in enumerate(parts) if i != remainder]
            parts[remainder] = total - torch.stack([torch.round(random * total), *others]).sum(0)
        left, quotas = total, [total]
        for part in parts:
            quotas.append(torch.minimum(part.clamp(min=0), left))
            left = left - quotas[-1]
        return torch.stack(quotas).long()


def _spread(upto: Counts, wanted: int, among: int, start: float) -> Counts:
    """How many of the first `upto` of `among` slots are taken, if `wanted` are taken evenly from a start."""
    return np.floor(upto * wanted / among + start).astype(np.int64)
