"""The mask budget: how many positions every row and every source may take, and the audit of what was taken.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, S index slots.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.noise import StepNoise

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Selection:
    """What one rank predicts in one step.

    positions: [S] flat indices into [b * T], ascending; b * T in the slots left over. weight: [S], 0 in those, else 1.
    by_source: [sources + 1] how many each source supplied, then how many they fell short of in all.
    """

    positions: torch.Tensor
    weight: torch.Tensor
    by_source: torch.Tensor


@dataclass(frozen=True)
class Budget:
    """Quotas which add up to the budget exactly, whatever the shares and the number of ranks.

    `batch`: K = round(rate * B * T) positions a batch; rows, and sources within them, by systematic sampling (Madow
    1949), so that each row, each run of rows and each source is within one of its part and shares act smoothly.
    `row`: every row and source rounded by itself, as the published code does (15 / 3 / 1 of 19 at T = 128).
    """

    rate: float
    apportion: Literal["batch", "row"]
    rows: int
    length: int

    @property
    def total(self) -> int:
        """K, the positions predicted in a global batch."""
        if self.apportion == "row":
            return self.rows * round(self.rate * self.length)
        return round(self.rate * self.rows * self.length)

    def largest(self, share: float = 1.0) -> int:
        """No row is given more than this for a share of the budget."""
        return min(self.length, math.ceil(share * self.total / self.rows) + 1)

    def slots(self, rows: slice) -> int:
        """S: what those rows can hold at any step, a constant of the run."""
        count = len(range(*rows.indices(self.rows)))
        return math.ceil(self.total * count / self.rows) + (count < self.rows)

    def quotas(self, shares: list[float], noise: StepNoise) -> Counts:
        """[1 + sources, B]: the total of each row, then what each share (their sum at most 1) has of it."""
        if self.apportion == "row":
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


class Audit:
    """What was really masked: counted on the device, read only when a run reports.

    Shares and shortfalls are counted after the mask warm-up, where they mean something.
    """

    def __init__(self, sources: list[str], device: str) -> None:
        self.sources = sources
        self.refreshes = 0
        # positions seen, positions predicted, batches off their promise, then by source, then what they fell short of
        self.counts = torch.zeros(3 + len(sources) + 1, dtype=torch.int64, device=device)

    def count(self, selection: Selection, positions: int, promised: int, warm: bool) -> None:
        predicted = selection.weight.sum().long()
        self.counts[0] += positions
        self.counts[1] += predicted
        self.counts[2] += predicted != promised
        if warm:
            self.counts[3:] += selection.by_source

    def metrics(self, total: torch.Tensor) -> dict[str, float]:
        """Audit metrics from the counts summed over the ranks. RuntimeError where a batch broke its promise."""
        positions, predicted, broken, *by_source, short = total.tolist()
        if broken:
            raise RuntimeError(f"mask audit: {broken} batches did not predict the number of positions they promise")
        drawn = sum(by_source)
        shares = [n / drawn for n in by_source] if drawn else [1.0, *[0.0] * (len(by_source) - 1)]
        return {
            "audit/rate": predicted / positions,
            **{f"audit/shares/{name}": share for name, share in zip(self.sources, shares, strict=True)},
            "audit/fallbacks": float(short),
            "audit/refreshes": float(self.refreshes),
            "train/predicted": float(predicted),
        }
