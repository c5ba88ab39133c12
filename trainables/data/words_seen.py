"""Counts the words that a run has seen, exactly, and finds the steps at which it has seen so many.

White space separates words, as in BabyLM's counts. A word is seen with the row that holds its first piece, and again
whenever the row is seen again.
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

SURE = 6.0  # standard deviations: one order of the rows in 1e9 has fewer words than `rows_for` expects


@dataclass(frozen=True)
class Milestone:
    """One checkpoint of a series: after `step` steps, the first with at least `target` words seen, namely `words`."""

    target: int
    step: int
    words: int

    @property
    def name(self) -> str:
        """Its folder, such as chck_1M."""
        return word_amounts.folder_name(self.target)


def reached(prepared: Prepared, batches: Batches, wanted: Sequence[int], steps: int) -> list[Milestone]:
    """The milestones that a run of so many steps reaches, ascending; known beforehand, as its order is."""
    total = seen(prepared, batches, steps)
    return [_milestone(prepared, batches, target) for target in sorted(wanted) if target <= total]


def seen(prepared: Prepared, batches: Batches, steps: int) -> int:
    """Words seen in the first so many steps."""
    epochs, rest = divmod(steps * batches.batch_size, len(prepared.rows))
    return epochs * _per_epoch(prepared) + int(prepared.words[batches.order(epochs)[:rest]].sum(dtype=np.int64))


def _per_epoch(prepared: Prepared) -> int:
    return int(prepared.words[prepared.rows].sum(dtype=np.int64))


def _milestone(prepared: Prepared, batches: Batches, target: int) -> Milestone:
    per_epoch = _per_epoch(prepared)
    epoch = (target - 1) // per_epoch
    cumulated = epoch * per_epoch + np.cumsum(prepared.words[batches.order(epoch)], dtype=np.int64)
    row = epoch * len(prepared.rows) + int(np.searchsorted(cumulated, target))
    step = row // batches.batch_size + 1
    return Milestone(target, step, seen(prepared, batches, step))


def rows_for(prepared: Prepared, words: int) -> int:
    """Rows that hold so many words in any order: exact for whole passes, with a small margin for part of one.

    The margin follows from the mean and spread of a sum drawn without replacement. ValueError for a corpus without
    words.
    """
    counts = prepared.words[prepared.rows].astype(np.float64)
    if not counts.any():
        raise ValueError("length.words: no word begins in a usable block of the train part")
    passes, rest = divmod(words, int(counts.sum()))
    drawn = np.arange(len(counts) + 1)
    spread = np.sqrt(drawn * (1 - drawn / len(counts))) * counts.std()
    enough = drawn * counts.mean() - SURE * spread >= rest - 1e-6
    return passes * len(counts) + int(np.argmax(enough))


def counted(tree: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings with `length.rows` counted in their corpus, which is prepared first if needed.

    An invalid length or corpus stays as it is, for the Config to refuse. ValueError for a corpus that is missing, and
    where `steps` is set, too.
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
    """Rows for so many words of a corpus, given as JSON. Cached: loading a spec asks for the same many times."""
    config = DataConfig.model_validate_json(corpus)
    if not is_prepared(config):
        files.say(f"preparing {config.corpus} to count its words")
    return rows_for(prepare(config), words)
