"""PMI masking's units (Levine et al. 2021, sections 3 and 4): words that belong together are masked together.

A collocation is a sequence of 2 to 5 words of one line that occurs more than 10 times in the train part, and more often
than every way to split it would have it. Words are the tokenizer's, so punctuation marks are words, too; a word with a
token that may not be predicted, such as [UNK], is in no collocation. The best by PMI of each length are taken, two,
three, four and five words as 4 : 2 : 1 : 1, and as many as it takes for half of the tokens to lie in one: so the paper
chose its 800,000, and so the number grows with the text.

Shapes: n tokens, W words, P places where a sequence begins, D distinct sequences, V vocabulary entries.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables.data.loss_slices import edges, forms

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

OVER = 10  # occurrences
ONE_IN = {2: 2, 3: 4, 4: 8, 5: 8}  # of so many collocations one has so many words
COVERED = 0.5  # of the tokens
DECIMALS = 9  # of a PMI that count for its rank: the last bits may differ from machine to machine


class Sequences(NamedTuple):
    """Every frequent sequence of one length.

    Args:
        places: [P] the words where one begins, ascending.
        kind: [P] which of the distinct ones it is.
        pmi: [D] PMI_n, equation 3 of the paper: log of p(sequence) / p(its parts), for the least favourable split.
    """

    places: Ints
    kind: Ints
    pmi: Floats


class Units(NamedTuple):
    """What is masked together.

    Args:
        start: [n] whether a unit begins there: a collocation, or a word outside of all.
        collocations: distinct ones.
        inside: the share of tokens in one.
    """

    start: Bools
    collocations: int
    inside: float


def units(ids: NDArray[Any], word_start: Bools, line_start: Bools, eligible: Bools) -> Units:
    """The units of a text. Longer collocations go first, then those further left (the paper draws one at random).

    Args:
        ids: [n] its tokens.
        word_start: [n] whether a word begins there.
        line_start: [n] whether a line begins there.
        eligible: [V] whether a token may be predicted.
    """
    begins = edges(word_start)
    sizes = np.diff(begins, append=len(ids))
    found = sequences(ids, word_start, line_start, eligible)
    levels = {words: _levels(one.pmi, ONE_IN[words]) for words, one in found.items()}
    limit = _limit(found, levels, sizes)
    inside, goes_on = np.zeros((2, len(begins)), np.bool_)
    for words, one in sorted(found.items(), reverse=True):
        at = one.places[levels[words][one.kind] <= limit]
        at = at[~np.any([inside[at + place] for place in range(words)], axis=0)]
        at = at[from_left(at, words)]
        for place in range(words):
            inside[at + place] = True
            goes_on[at + place] = place > 0
    start = np.zeros(len(ids), np.bool_)
    start[begins[~goes_on]] = True
    taken = sum(int((level <= limit).sum()) for level in levels.values())
    return Units(start, taken, float(sizes[inside].sum() / len(ids)))


def sequences(ids: NDArray[Any], word_start: Bools, line_start: Bools, eligible: Bools) -> dict[int, Sequences]:
    """The frequent sequences of two words, of three, ... A probability is a count over that of all of the length."""
    begins = edges(word_start)
    room = _room(line_start[begins], np.logical_or.reduceat(~eligible[ids], begins))
    word = _words(ids, word_start, len(eligible))
    counts = np.bincount(word, weights=room > 0)
    kinds = {1: np.where((counts > OVER)[word] & (room > 0), word, -1).astype(np.int32)}  # by length, [W]; -1: rare
    with np.errstate(divide="ignore"):
        whole = {1: np.log(counts / max(1, counts.sum()))}  # by length, [D]: the largest log p, split or not
    found: dict[int, Sequences] = {}
    for words in ONE_IN:
        left, right = kinds[words - 1], kinds[1]
        last = max(0, len(begins) - words + 1)
        places = np.flatnonzero((room[:last] >= words) & (left[:last] >= 0) & (left[1 : last + 1] >= 0))
        key = left[places].astype(np.int64) * len(counts) + right[places + words - 1]
        distinct, number = np.unique(key, return_counts=True)
        often = number > OVER
        kind = np.searchsorted(distinct[often], key)
        kept = np.append(distinct[often], -1)[kind] == key
        places, kind = places[kept], kind[kept]
        one = np.zeros(often.sum(), np.int64)
        one[kind] = places  # any of its places: they have the same parts
        log_p = np.log(number[often] / max(1, (room >= words).sum()))
        splits = [
            whole[part][kinds[part][one]] + whole[words - part][kinds[words - part][one + part]]
            for part in range(1, words)
        ]
        likeliest = np.max(splits, axis=0)
        found[words] = Sequences(places, kind, log_p - likeliest)
        whole[words] = np.maximum(log_p, likeliest)
        kinds[words] = np.full(len(begins), -1, np.int32)
        kinds[words][places] = kind
    return found


def _words(ids: NDArray[Any], word_start: Bools, size: int) -> Ints:
    """[W] which word each is: the id of its one token, or from `size` on a number for its pieces."""
    begins = edges(word_start)
    word = ids[begins].astype(np.int64)
    several = np.flatnonzero(np.diff(begins, append=len(ids)) > 1)
    word[several] = size + np.unique(forms(ids, word_start)[several], return_inverse=True)[1]
    return word


def _room(line_start: Bools, apart: Bools) -> NDArray[np.int8]:
    """[W] how many words follow one another from each on, itself included, up to the end of its line or to one apart.

    0 at those apart; at most as many as a collocation may have.
    """
    begins = line_start | apart
    begins[1:] |= apart[:-1]
    begins[0] = True
    at = np.flatnonzero(begins)
    lengths = np.diff(at, append=len(begins))
    left = np.repeat(at + lengths, lengths) - np.arange(len(begins))
    return np.where(apart, 0, np.minimum(left, max(ONE_IN))).astype(np.int8)


def _levels(pmi: Floats, one_in: int) -> Ints:
    """[D] how many collocations there must be, of all lengths, for each to be one of them. Never without a PMI > 0."""
    order = np.argsort(-np.round(pmi, DECIMALS), kind="stable")
    level = np.empty(len(pmi), np.int64)
    level[order] = one_in * np.arange(1, len(pmi) + 1)
    return np.where(pmi > 0, level, _NEVER)


_NEVER = np.iinfo(np.int64).max


def _limit(found: dict[int, Sequences], levels: dict[int, Ints], sizes: Ints) -> int:
    """How many collocations it takes until they have COVERED of the tokens; all, if that is not enough."""
    level = np.full(len(sizes), _NEVER)  # from which on each word lies in one
    for words, one in found.items():
        own = levels[words][one.kind]
        for place in range(words):
            level[one.places + place] = np.minimum(level[one.places + place], own)
    reached = level < _NEVER
    covered = np.cumsum(np.bincount(level[reached], weights=sizes[reached]))
    return int(np.searchsorted(covered, COVERED * sizes.sum()))


def from_left(at: Ints, words: int) -> Bools:
    """[P] which of some places, ascending, are taken from the left, if each takes so many words."""
    after = np.append(np.searchsorted(at, at + words), len(at))  # the next that could be taken
    taken = np.append(np.diff(at, prepend=-words) >= words, True)  # those that nothing overlaps from the left
    while not taken[after[taken]].all():  # twice as far in each round
        taken[after[taken]] = True
        after = after[after]
    return taken[:-1]
