"""Morphology by made-up words: does the model prefer the forms that people prefer?

The wug tests of BabyLM's evaluation data: adjective nominalisation (Hofmann et al. 2025) and past tense (Weissweiler et
al. 2023). Each item has two sentences and the share of people who chose the first.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from trainables import noise
from trainables.evaluation.minimal_pairs import LEVEL
from trainables.evaluation.sentence_pairs import Pairs, records, sentence, task_files

RESAMPLES = 2_000


class Correlation(NamedTuple):
    """A correlation with people's choices.

    score: Spearman's, from -1 to 1. ties: items whose two sentences score the same. interval: 95 % bootstrap.
    """

    score: float
    ties: int
    interval: tuple[float, float]


def read_wug(path: Path) -> Pairs:
    """A .jsonl, or a folder of them, with `sentences` (two, separated by a tab) and `ratio`.

    ValueError, in one line, names file and line.
    """
    options, where, group, ratios = [], [], [], []
    for file in task_files(path, ".jsonl"):
        for place, record in records(file, ("sentences", "ratio")):
            parts = sentence(record["sentences"], place).split("\t")
            if len(parts) != 2:
                raise ValueError(f"{place}: 'sentences' must be two, separated by a tab, not {len(parts)}")
            options.append((sentence(parts[0], place), sentence(parts[1], place)))
            ratios.append(_ratio(record["ratio"], place))
            where.append(place)
            group.append(file.stem)
    if len(set(ratios)) < 2:
        raise ValueError(f"{path}: every ratio is the same, so there is nothing to correlate")
    return Pairs(options, where, group, ratios)


def score(pairs: Pairs, preference: NDArray[np.float64], seed: int = 0) -> Correlation:
    """Spearman's correlation of the preference for option 0 with the human ratio, with average ranks for ties.

    preference: [n] log p(option 0) - log p(option 1). BabyLM's pipeline correlates the softmax of the two, which orders
    items the same way, but in float32 ties all preferences above some 17 nats.
    """
    ratios = np.array(pairs.ratios)
    source = np.random.Generator(np.random.Philox(noise.derive(seed, "bootstrap of items")))
    chosen = source.integers(len(ratios), size=(RESAMPLES, len(ratios)))
    resampled = spearman(ratios[chosen], preference[chosen])
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    whole = float(spearman(ratios[None], preference[None])[0])
    return Correlation(whole, int((preference == 0).sum()), (float(low), float(high)))


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """[r] correlations of the rows of two [r, n]; 0 if a row is constant, which says nothing."""
    a, b = (ranks - ranks.mean(1, keepdims=True) for ranks in (rankdata(one, axis=1), rankdata(other, axis=1)))
    norm = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.divide((a * b).sum(1), norm, out=np.zeros(len(a)), where=norm > 0)


def _ratio(value: object, where: str) -> float:
    try:
        ratio = float(value)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError):
        ratio = np.nan
    if not 0 <= ratio <= 1:
        raise ValueError(f"{where}: ratio {value!r} must be a number from 0 to 1")
    return ratio
