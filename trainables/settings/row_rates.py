"""Rates that differ from row to row of a batch: how they are drawn, and how uneven they can become. Free of torch.

B rows have t = (k + u) / B, k = 0 .. B - 1 in random order and one u in (0, 1) for all: each t is uniform, and their
mean stays within 1 / 2B of 1/2. A row's rate is proportional to t (`uniform`: masked diffusion, Austin et al. 2021) or
to cos(pi t / 2) (`cosine`: MaskGIT, Chang et al. 2022), and the rows' rates add up to the batch's.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

RowRates = Literal["uniform", "cosine"]


def weight(kind: RowRates, t: float) -> float:
    """What a row's rate is proportional to."""
    return t if kind == "uniform" else math.cos(math.pi * t / 2)


@lru_cache(maxsize=1024)
def largest_part(kind: RowRates, rows: int, count: int) -> float:
    """The largest part of a batch's predictions that any `count` of its rows can get; of one, at most 2 / B.

    It changes with u one way only, so it is the larger of those at both ends.
    """
    if count == rows:
        return 1.0
    parts = []
    for u in (0.0, 1.0):
        weights = sorted((weight(kind, (k + u) / rows) for k in range(rows)), reverse=True)
        parts.append(math.fsum(weights[:count]) / math.fsum(weights))
    return min(1.0, max(parts))
