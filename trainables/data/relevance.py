"""InforMask's relevance of a token (Sadeq et al. 2022): how much it tells of the other tokens of its sentence.

Sentences are the lines of the text, in pieces of at most 128 tokens. Two tokens occur together once for each pair of
their places in one. Shapes: n tokens, V vocabulary entries, S sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]

LONGEST = 128  # tokens of a sentence: the products grow with its square
AT_ONCE = 64  # entries whose pairs are held at once


def relevance(ids: NDArray[Any], line_start: Bools, eligible: Bools) -> Floats:
    """[V] nats: the mean over a token's occurrences of the sum of its PMI with the other tokens of the sentence.

    PMI is log of p(both) / (p(one) p(other)), all three from the ordered pairs of the text. 0 for a token that occurs
    with no other. Tokens that may not be predicted, such as [UNK], count as not there.

    Args:
        ids: [n] tokens.
        line_start: [n] whether a line begins there.
        eligible: [V] whether a token may be predicted.
    """
    size = len(eligible)
    occurs = _occurrences(ids, line_start, eligible)
    number = np.asarray(occurs.sum(axis=0, dtype=np.float64))
    pairs = occurs.T @ (np.asarray(occurs.sum(axis=1, dtype=np.float64)) - 1)  # of each token with any other
    if (pairs + number).max(initial=0) > np.iinfo(occurs.dtype).max:  # no entry of a product is larger
        occurs = occurs.astype(np.int64)
    log_pairs = np.log(np.maximum(pairs, 1))
    log_total = np.log(max(1.0, pairs.sum()))
    by_token = occurs.T.tocsr()
    found = np.zeros(size)
    for begin in range(0, size, AT_ONCE):
        block = by_token[begin : begin + AT_ONCE]
        own = np.arange(block.shape[0])
        themselves = sparse.csr_array((number[begin : begin + AT_ONCE], (own, begin + own)), shape=(len(own), size))
        both = (block @ occurs - themselves).tocoo()
        counts = np.maximum(both.data, 1)  # a pair of a place with itself was taken off: 0 may be left
        pmi = np.log(counts) + log_total - log_pairs[begin + both.row] - log_pairs[both.col]
        found[begin : begin + AT_ONCE] = np.bincount(both.row, weights=both.data * pmi, minlength=len(own))
    return found / np.maximum(number, 1)


def _occurrences(ids: NDArray[Any], line_start: Bools, eligible: Bools) -> sparse.csr_array:
    """[S, V] how often each token is in each sentence, as int32: with by_token, 16 bytes a token."""
    there = eligible[ids]
    line = np.cumsum(line_start, dtype=np.int32)[there]
    begins = np.flatnonzero(np.diff(line, prepend=np.int32(-1)))
    del line
    tokens = ids[there].astype(np.int32)
    lengths = np.diff(begins, append=len(tokens))
    parts = -(-lengths // LONGEST)  # sentences of a line
    within = np.arange(parts.sum()) - np.repeat(np.cumsum(parts) - parts, parts)
    bounds = np.append(np.repeat(begins, parts) + within * LONGEST, len(tokens))
    occurs = sparse.csr_array((np.ones_like(tokens), tokens, bounds), shape=(len(bounds) - 1, len(eligible)))
    occurs.sum_duplicates()
    return occurs
