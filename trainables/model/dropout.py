"""Dropout's noise on a CPU: 16 bits a unit, from streams addressed by (seed, site), applied as integer masks.

Torch draws a mask unit by unit on one thread, and multiplies by a mask of another type without vector instructions;
at the published shape that is a tenth of a step. Here each place in the model that drops (a site) has a stream of its
own, SFC64 keyed by the step's seed and the site's number, drawn as raw words; several sites are drawn at once, and
what they hold does not depend on how many. A unit is dropped where its 16 bits, as a signed number, reach a limit, so
all units of a word are dropped at the same rate: the multiple of 2^-16 nearest to the stated one.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

LEVELS = 2**16


class DropoutMask:
    """The dropped units of one site in one step: int8, flat, 0 if dropped and -1, all bits set, if kept.

    scale: the factor for kept units.
    """

    def __init__(self, units: Tensor, scale: float) -> None:
        self.units, self.scale = units, scale

    def part(self, begin: int, end: int) -> DropoutMask:
        """The mask of the units from `begin` to `end`."""
        return DropoutMask(self.units[begin:end], self.scale)

    def rows(self, at: Tensor, width: int) -> DropoutMask:
        """The mask of some rows, `width` units each."""
        return DropoutMask(self.units.view(-1, width).index_select(0, at).flatten(), self.scale)

    def apply(self, x: Tensor, out: Tensor) -> Tensor:
        """Write x to `out` with dropped units at 0, unscaled. Both are contiguous float32 and do not overlap."""
        bits = out.view(torch.int32).copy_(self.units.view_as(x))
        torch.bitwise_and(bits, x.view(torch.int32), out=bits)
        return out


def draw(rate: float, sizes: Sequence[int], seed: int) -> list[DropoutMask | None]:
    """A mask for each site of a step, by its number of units; None if nothing is dropped."""
    dropped = round(rate * LEVELS)
    if not dropped:
        return [None] * len(sizes)
    limit, scale = LEVELS // 2 - dropped, LEVELS / (LEVELS - dropped)

    def units(number: int) -> Tensor:
        words = np.random.SFC64([seed, number]).random_raw(-(-sizes[number] // 4))
        kept = np.less(words.view(np.int16)[: sizes[number]], limit).view(np.int8)
        return torch.from_numpy(np.negative(kept, out=kept))

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return [DropoutMask(drawn, scale) for drawn in threads.map(units, range(len(sizes)))]
