"""Random numbers that are addressed, not consumed: each is a function of (seed, purpose, step).

Drawn on the host by numpy's Philox for the global batch and sliced by rank: bitwise the same on every device and
for every number of ranks, the same for every policy, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive(*parts: object) -> int:
    """64 bits from any values whose text identifies them."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, index: int = 0) -> np.random.Generator:
    """The stream of one purpose at one index, such as a step or an epoch."""
    key = np.array([derive(seed, purpose), index], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


class StepNoise:
    """The noise of one step for a global batch of [B, T] positions."""

    def __init__(self, seed: int, salt: int, step: int, shape: tuple[int, int]) -> None:
        self.seed = derive(seed, salt)
        self.step = step
        self.shape = shape

    def starts(self, purpose: str, number: int) -> NDArray[np.float64]:
        """[number] uniform in [0, 1), multiples of 2^-32: added to a count below 2^20 they never round it up."""
        return generator(self.seed, purpose, self.step).integers(2**32, size=number) / 2**32

    def uniform(self, purpose: str) -> NDArray[np.float64]:
        """Uniform in [0, 1), [B, T]."""
        return generator(self.seed, purpose, self.step).random(self.shape)

    def gumbel(self, purpose: str) -> NDArray[np.float64]:
        """Standard Gumbel, [B, T]: taken here, because logarithms differ in their last bits between devices."""
        tiny = np.finfo(np.float64).tiny
        return -np.log(-np.log(np.maximum(self.uniform(purpose), tiny)))

    def integers(self, purpose: str, high: int) -> NDArray[np.int64]:
        """Uniform in 0 .. high - 1, [B, T]."""
        return generator(self.seed, purpose, self.step).integers(high, size=self.shape)
