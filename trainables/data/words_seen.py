"""Words seen, counted exactly, and the steps at which a run has seen so many.

A word is what white space separates in the corpus, as BabyLM counts them; it is seen with the row that holds its first
piece. A row seen again is counted again. Shapes: R usable blocks.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sweeper.system import files
from trainables.data.batches import Batches, Prepared, is_prepared, prepare
from trainables.settings import word_amounts
from trainables.settings.config import BOTH_LENGTHS, DataConfig

SURE = 6.0  # standard deviations: an order of the rows that has fewer words than `rows_for` reckons with is one in 1e9


@dataclass(frozen=True)
class Mark:
    """One checkpoint of a series. words: seen after `step` steps, the first at which they reach `mark`."""

    mark: int
    step: int
    words: int

    @property
    def name(self) -> str:
        return word_amounts.folder_name(self.mark)


def reached(prepared: Prepared, batches: Batches, wanted: Sequence[int], steps: int) -> list[Mark]:
    """The marks that a run of so many steps reaches, ascending. Known before it starts: its order is."""
    total = seen(prepared, batches, steps)
    return [_reached(prepared, batches, mark) for mark in sorted(wanted) if mark <= total]


def seen(prepared: Prepared, batches: Batches, steps: int) -> int:
    """Words of the first so many steps."""
    epochs, rest = divmod(steps * batches.batch_size, len(prepared.rows))
    return epochs * _per_epoch(prepared) + int(prepared.words[batches.order(epochs)[:rest]].sum(dtype=np.int64))


def _per_epoch(prepared: Prepared) -> int:
    return int(prepared.words[prepared.rows].sum(dtype=np.int64))


def _reached(prepared: Prepared, batches: Batches, mark: int) -> Mark:
    per_epoch = _per_epoch(prepared)
    epoch = (mark - 1) // per_epoch
    cumulated = epoch * per_epoch + np.cumsum(prepared.words[batches.order(epoch)], dtype=np.int64)
    row = epoch * len(prepared.rows) + int(np.searchsorted(cumulated, mark))
    step = row // batches.batch_size + 1
    return Mark(mark, step, seen(prepared, batches, step))


def rows_for(prepared: Prepared, words: int) -> int:
    """Rows that have so many words in any order: exact for whole passes, with a small margin for a part of one.

    The mean and spread of a sum drawn without replacement; ValueError for a corpus without a word.
    """
    counts = prepared.words[prepared.rows].astype(np.float64)
    if not counts.any():
        raise ValueError("length.words: no usable block of the train part begins a word")
    passes, rest = divmod(words, int(counts.sum()))
    drawn = np.arange(len(counts) + 1)
    spread = np.sqrt(drawn * (1 - drawn / len(counts))) * counts.std()
    enough = drawn * counts.mean() - SURE * spread >= rest - 1e-6
    return passes * len(counts) + int(np.argmax(enough))


def counted(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings with `length.rows` counted in their corpus, which is prepared for it where no one has.

    What is no length or no corpus stays as it is, for the Config to refuse. ValueError for a corpus that cannot be had,
    and where `steps` are given, too.
    """
    length = tree.get("length")
    if not isinstance(length, Mapping) or "words" not in length:
        return tree
    if "rows" not in length and tree.get("steps") is not None:
        raise ValueError(BOTH_LENGTHS)
    try:
        corpus = DataConfig.model_validate(tree.get("data") or {}).model_dump_json()
        words = word_amounts.words(length["words"])
    except ValueError:
        return tree
    where = hashlib.sha256(f"{words} {corpus}".encode()).hexdigest()[:16]
    if length.get("rows") and length.get("counted_in") == where:
        return tree
    return {**tree, "length": {**length, "rows": _rows(corpus, words), "counted_in": where}}


@functools.cache
def _rows(corpus: str, words: int) -> int:
    """Of a DataConfig as JSON: a spec's check asks for the same many times."""
    config = DataConfig.model_validate_json(corpus)
    if not is_prepared(config):
        files.say(f"preparing {config.corpus}, to count its words")
    return rows_for(prepare(config), words)
