"""Grammar by minimal pairs: does the model find the good sentence likelier than the bad one?

BLiMP (Warstadt et al. 2020), its filtered and supplement forms in BabyLM's evaluation data, and Zorro (Huebner et al.
2021). Option 0 is the good sentence in both, as in BabyLM's pipeline, which takes the first of equals and so counts a
tie as right. Zorro's own scorer requires a strict difference and counts a tie as wrong. `score` counts it as half.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables import noise
from trainables.evaluation.sentence_pairs import Pairs, lines, records, sentence, task_files

RESAMPLES = 10_000
LEVEL = 0.95


class PairScore(NamedTuple):
    """Shares from 0 to 1, macro averages over phenomena.

    Args:
        score: a tie counts as half.
        first: a tie counts as right.
        ties: how many there are.
        interval: 95 % bootstrap of `score`.
        by: the same for each phenomenon.
    """

    score: float
    first: float
    ties: int
    interval: tuple[float, float]
    by: dict[str, dict[str, float]]


def read_blimp(path: Path) -> Pairs:
    """A .jsonl or a folder of them, with `sentence_good` and `sentence_bad`.

    A phenomenon is a `UID` (BLiMP's 67 paradigms); without a `field`, as in the supplement, it is the file. ValueError,
    in one line, names file and line.
    """
    options, where, group = [], [], []
    for file in task_files(path, ".jsonl"):
        for place, record in records(file, ("sentence_good", "sentence_bad")):
            options.append((sentence(record["sentence_good"], place), sentence(record["sentence_bad"], place)))
            where.append(place)
            group.append(str(record.get("UID", file.stem)) if "field" in record else file.stem)
    return Pairs(options, where, group)


def read_zorro(path: Path) -> Pairs:
    """A .txt or a folder of them, bad and good sentences in turn. A phenomenon is a file (a paradigm of Zorro's)."""
    options, where, group = [], [], []
    for file in task_files(path, ".txt"):
        text = lines(file)
        if len(text) % 2:
            raise ValueError(f"{file} has {len(text)} lines: bad and good sentences must alternate")
        for number in range(0, len(text), 2):
            bad, good = (sentence(text[i], f"{file}:{i + 1}") for i in (number, number + 1))
            options.append((good, bad))
            where.append(f"{file}:{number + 1}")
            group.append(file.stem)
    return Pairs(options, where, group)


def score(pairs: Pairs, preference: NDArray[np.float64], seed: int = 0) -> PairScore:
    """How often option 0 is preferred. preference: [n], of `Pairs.preference`."""
    names, of = np.unique(pairs.group, return_inverse=True)
    kinds = np.sign(preference).astype(np.int64) + 1  # 0 wrong, 1 tie, 2 right
    counts = np.zeros((len(names), 3), np.int64)
    np.add.at(counts, (of, kinds), 1)
    size = counts.sum(1)
    half, first = (counts @ np.array(weights) / size for weights in ([0, 0.5, 1], [0, 1, 1]))
    by: dict[str, dict[str, float]] = {
        str(name): {
            "score": float(half[i]),
            "score_first": float(first[i]),
            "ties": int(counts[i, 1]),
            "pairs": int(size[i]),
        }
        for i, name in enumerate(names)
    }
    return PairScore(float(half.mean()), float(first.mean()), int(counts[:, 1].sum()), bootstrap(counts, seed), by)


def bootstrap(
    counts: NDArray[np.int64],
    seed: int = 0,
    credits: Sequence[float] | NDArray[np.float64] = (0, 0.5, 1),
    weights: NDArray[np.float64] | None = None,
) -> tuple[float, float]:
    """95 % percentile interval of the macro average, pairs resampled within each phenomenon.

    The counts of a resample of n pairs are multinomial, so counts are drawn, not pairs.

    Args:
        counts: [phenomena, kinds], such as wrong, tie, right.
        seed: of the draws.
        credits: [kinds] what one of a kind counts.
        weights: [phenomena], adding up to 1; None if they weigh the same.
    """
    source = np.random.Generator(np.random.Philox(noise.derive(seed, "bootstrap of pairs")))
    size = counts.sum(1)
    drawn = source.multinomial(size, counts / size[:, None], (RESAMPLES, len(size)))
    each = drawn @ np.array(credits) / size
    means = each.mean(1) if weights is None else each @ weights
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
