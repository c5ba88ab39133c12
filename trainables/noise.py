"""Random numbers that are addressed, not consumed: each is a function of its key, such as (seed, purpose, step).

They are made on the host for the global batch, from Philox's raw words, which no release of numpy may change, and
sliced by rank: bitwise the same on every device, for every number of ranks and for every policy. A resumed run needs no
generator state.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Key = str | int
Draw = Callable[["StepNoise"], NDArray[Any]]


def derive(*key: Key) -> int:
    """64 bits that identify a key."""
    return int.from_bytes(hashlib.blake2b(json.dumps(key).encode(), digest_size=8).digest(), "little")


def words(count: int, *key: Key) -> NDArray[np.uint64]:
    """[count] of Philox's 64-bit words."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return np.random.Philox(key=int.from_bytes(digest, "little")).random_raw(count)


def uniform(count: int, *key: Key) -> NDArray[np.float64]:
    """[count] multiples of 2^-53 in [0, 1)."""
    return (words(count, *key) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def normal(count: int, *key: Key) -> NDArray[np.float64]:
    """[count] standard normal numbers (Box & Muller 1958)."""
    half = -(-count // 2)
    radius = np.sqrt(-2 * np.log(1 - uniform(half, *key, "radius")))
    angle = 2 * math.pi * uniform(half, *key, "angle")
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


class StepNoise:
    """The noise of one step for a global batch of [B, T] positions."""

    def __init__(self, seed: int, salt: int, step: int, shape: tuple[int, int]) -> None:
        self.step = step
        self.shape = shape
        self._key = (seed, salt, step)
        self.draws: dict[str, Draw] = {}  # that it was asked for
        self.given: Mapping[str, torch.Tensor] = {}

    def get_or_draw(self, name: str, draw: Draw, device: torch.device) -> torch.Tensor:
        """The result of `draw`, which runs on the host, on a device. Everything that a step is given comes this way.

        A name stands for one draw: on a GPU those of later steps are made ahead (cuda_graph.py).
        """
        import torch  # here, because preparing a corpus needs this module without torch

        self.draws[name] = draw
        if name in self.given:
            return self.given[name]
        return torch.from_numpy(np.require(draw(self), requirements="C")).to(device)

    def starts(self, purpose: str, number: int) -> NDArray[np.float64]:
        """[number] multiples of 2^-32 in [0, 1): added to a count below 2^20 they never round it up."""
        return (words(number, *self._key, purpose) >> np.uint64(32)).astype(np.float64) * 2.0**-32

    def uniform(self, purpose: str) -> NDArray[np.float64]:
        """[B, T] in [0, 1)."""
        return uniform(math.prod(self.shape), *self._key, purpose).reshape(self.shape)

    def gumbel(self, purpose: str) -> NDArray[np.float64]:
        """[B, T] standard Gumbel: taken here, because logarithms differ in their last bits between devices."""
        return -np.log(-np.log(np.maximum(self.uniform(purpose), 2.0**-54)))

    def integers(self, purpose: str, high: int) -> NDArray[np.int64]:
        """[B, T] in 0 .. high - 1."""
        drawn = words(math.prod(self.shape), *self._key, purpose) % np.uint64(high)
        return drawn.astype(np.int64).reshape(self.shape)
