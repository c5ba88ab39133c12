"""How long a step takes here: made-up tokens of the right shape, and a clock that waits for the device."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from trainables.data.batches import Prepared
from trainables.data.preparation import EvaluationSet
from trainables.data.word_forms import WORDPIECE
from trainables.settings.config import Config
from trainables.training.validation import ROWS_AT_ONCE

# At least so many calls and seconds; the first calls make buffers and fill caches.
WARMUP, TIMED = (1, 0.3), (3, 1.2)
SPECIALS = 5


@dataclass(frozen=True, eq=False)
class MadeUp(Prepared):
    """Uniform tokens. Each held-out part is one validation batch."""

    def evaluation(self, part: Literal["val", "test"]) -> EvaluationSet:
        inputs = self.tokens[: ROWS_AT_ONCE * self.block].reshape(ROWS_AT_ONCE, self.block).astype(np.int64)
        positions = np.arange(0, inputs.size, 7)[: round(0.15 * inputs.size)]
        masked = np.arange(len(positions)) % 5 > 0
        labels, document = inputs.flatten()[positions], np.zeros(len(positions), np.int32)
        seen = np.ones(len(positions), np.bool_)
        return EvaluationSet(inputs, positions, labels, masked, document, seen, initial=seen)


def made_up(config: Config) -> MadeUp:
    """A made-up corpus over a vocabulary of the settings' size, with words of 2 to 9 letters."""
    draws = np.random.default_rng(0)
    block, size = config.data.block, max(config.vocabulary, SPECIALS + 1)
    rows = max(ROWS_AT_ONCE, 4 * config.batch_size)
    letters = [bytes(draws.integers(97, 123, length, np.uint8)).decode() for length in draws.integers(2, 10, size)]
    return MadeUp(
        folder=Path(),
        fingerprint="",
        block=block,
        vocab_size=size,
        tokens=draws.integers(SPECIALS, size, rows * block).astype(np.uint32),
        word_start=np.ones(rows * block, bool),
        document=np.zeros(rows * block, np.int32),
        rows=np.arange(rows, dtype=np.int32),
        words=np.full(rows, block, np.int32),
        eligible=np.arange(size) >= SPECIALS,
        token_strings=letters,
        scheme=WORDPIECE,
        mask_id=4,
        pad_id=0,
        unigram=np.full(size, 1 / size),
        initial=np.ones(size),
        collocation_start=np.arange(rows * block) % 2 == 0,
        relevance=np.ones(size),
        facts={},
    )


def validation_share(config: Config) -> float:
    """All validations of a run in units of the made-up one, for the largest validation part allowed."""
    rows = config.data.max_held_out / config.data.block
    return math.ceil(config.steps / config.reporting_every) * rows / ROWS_AT_ONCE


def seconds(call: Callable[[], object], device: str) -> float:
    """Mean seconds of a call: on one CPU thread its processor time, which other processes do not lengthen."""
    clock = time.process_time if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    _repeat(call, device, clock, WARMUP)
    return _repeat(call, device, clock, TIMED)


def _repeat(call: Callable[[], object], device: str, clock: Callable[[], float], least: tuple[int, float]) -> float:
    fewest, at_least = least
    begin, calls = clock(), 0
    while calls < fewest or clock() - begin < at_least:
        call()
        if device != "cpu":
            torch.cuda.synchronize(device)
        calls += 1
    return (clock() - begin) / calls
