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


class Site:
    """Which units of one place are dropped in one step."""

    def __init__(self, units: Tensor, limit: int) -> None:
        """units: int16, flat; those from limit upwards are dropped."""
        self.units, self.limit = units, limit
        self.scale = LEVELS / (limit + LEVELS // 2)

    def part(self, begin: int, end: int) -> Site:
        """The units from one index to another."""
        return Site(self.units[begin:end], self.limit)

    def keep(self, x: Tensor, out: Tensor) -> Tensor:
        """x with its dropped units at 0, unscaled, into other memory, both contiguous float32.

        Kept units have a negative difference to the limit, whose sign bit, spread over 32, leaves a number as it is.
        """
        mask = out.view(torch.int32)
        mask.copy_(self.units.view_as(x)).sub_(self.limit)
        torch.bitwise_right_shift(mask, 31, out=mask)
        torch.bitwise_and(mask, x.view(torch.int32), out=mask)
        return out


def draw(rate: float, sizes: Sequence[int], seed: int) -> list[Site | None]:
    """A site for each size, all of one step; None where nothing is dropped."""
    dropped = round(rate * LEVELS)
    if not dropped:
        return [None] * len(sizes)

    def units(number: int) -> Tensor:
        words = np.random.SFC64([seed, number]).random_raw(-(-sizes[number] // 4))
        return torch.from_numpy(words.view(np.int16)[: sizes[number]])

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return [Site(drawn, LEVELS // 2 - dropped) for drawn in threads.map(units, range(len(sizes)))]
