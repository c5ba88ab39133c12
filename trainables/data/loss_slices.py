"""Slices of the predictions of a held-out part: by label frequency, kind of piece, and whether the word was seen.

Shapes: m predictions, S slices, V vocabulary entries, n tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.settings.slice_names import BANDS, NAMES

Bools = NDArray[np.bool_]
Forms = NDArray[np.uint64]

_CHUNK = 1 << 20


def members(counts: NDArray[Any], initial: Bools, seen: Bools) -> Bools:
    """[m, S] which slices each prediction lies in: one by frequency, one by kind of piece, one of seen and unseen.

    counts: [m] of the label in the train part. initial: [m] whether a word begins there, as the tokenizer splits text.
    seen: [m] whether the whole word form there occurs in the train part, too.
    """
    band = np.searchsorted(np.array([*BANDS.values()]), counts, side="right") - 1
    by_band = band[:, None] == np.arange(len(BANDS))
    return np.column_stack([by_band, initial, ~initial, seen, ~seen])


def counts_of(unigram: NDArray[np.float64], tokens: int) -> NDArray[np.int64]:
    """[V] occurrences in a train part of so many tokens, from its probabilities, where every count has one added."""
    return np.rint(unigram * (tokens + len(unigram))).astype(np.int64) - 1


def metrics(part: str, sums: Sequence[float], counts: Sequence[int]) -> dict[str, float]:
    """Nats per prediction by slice, `val/loss_freq_0` and so on, for slices with predictions."""
    found = zip(NAMES, sums, counts, strict=True)
    return {f"{part}/loss_{name}": total / count for name, total, count in found if count}


def known_forms(ids: NDArray[Any], word_start: Bools) -> Forms:
    """The distinct word forms of a text, ascending, each as 64 bits that identify its pieces."""
    parts = [np.unique(_forms(ids[part], word_start[part])) for part in _whole_words(word_start)]
    return np.unique(np.concatenate(parts))


def forms(ids: NDArray[Any], word_start: Bools) -> Forms:
    """Of every word of a text its form, as 64 bits that identify its pieces."""
    return np.concatenate([_forms(ids[part], word_start[part]) for part in _whole_words(word_start)])


def seen_forms(known: Forms, ids: NDArray[Any], word_start: Bools) -> Bools:
    """[n] whether each token's word is among the known forms."""
    own = _forms(ids, word_start)
    at = np.searchsorted(known, own).clip(max=len(known) - 1)
    return np.repeat(known[at] == own, np.diff(edges(word_start), append=len(ids)))


def _forms(ids: NDArray[Any], word_start: Bools) -> Forms:
    """A hash of each word: a sum over its pieces of 64 bits that (id, place in the word) determine (splitmix64)."""
    begins = edges(word_start)
    place = np.arange(len(ids)) - np.repeat(begins, np.diff(begins, append=len(ids)))
    bits = ids.astype(np.uint64) | (place.astype(np.uint64) << np.uint64(32))
    bits += np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.add.reduceat(bits ^ (bits >> np.uint64(31)), begins)


def edges(word_start: Bools) -> NDArray[np.intp]:
    """Where words begin. A word that was cut off at the front counts, too."""
    begins = np.flatnonzero(word_start)
    return begins if len(begins) and begins[0] == 0 else np.concatenate([[0], begins])


def _whole_words(word_start: Bools) -> Iterator[slice]:
    """Stretches of about a million tokens that end where words end."""
    total, cuts = len(word_start), [0]
    for near in range(_CHUNK, total, _CHUNK):
        later = np.flatnonzero(word_start[near : near + _CHUNK])
        if len(later) and near + later[0] > cuts[-1]:
            cuts.append(int(near + later[0]))
    yield from itertools.starmap(slice, itertools.pairwise([*cuts, total]))
