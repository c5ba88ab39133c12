"""Draws by the thousand, and how far their frequencies are from what they are due: a part of tests/oracles.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
import torch

from tests.trainables import obvious
from trainables.data.word_forms import WORDPIECE
from trainables.masking import amlm, mixture
from trainables.masking.policy import Answers, MaskingPolicy, Vocabulary
from trainables.noise import StepNoise
from trainables.settings.config import Config

EXACT, SDS = 1e-9, 5.0
DRAWN_ROWS, DRAWN_STEPS = 200, 100
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "then", "hen", "##ing", "ring", "sing", "##ten", "tent"]
Row = list[str]


@dataclass(frozen=True)
class Compared:
    """The largest difference found; `allowed` in the same unit, or in standard deviations of the draws."""

    policy: str
    what: str
    difference: float
    allowed: float

    @property
    def held(self) -> bool:
        return self.difference <= self.allowed


def answered(draw: np.random.Generator, labels: torch.Tensor) -> Answers:
    """As a model might that finds some ids harder than others."""
    ids = labels.numpy()
    right = draw.random(len(ids)) < 1 / (1 + ids % 7)
    losses = (draw.exponential(1 + ids % 5)).astype(np.float32)
    predictions = np.where(right, ids, 0)
    masked, entropies = draw.random(len(ids)) < 0.8, (draw.random(len(ids)) * (1 + ids % 5)).astype(np.float32)
    return Answers(labels, *map(torch.from_numpy, (predictions, losses, masked, entropies)))


def alone(_tensor: torch.Tensor) -> None:
    """One rank."""


def furthest(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max())


def inclusions() -> list[Compared]:
    """Clipped and rescaled probabilities of made-up rows, by row."""
    draw, worst, clipped = np.random.default_rng(0), 0.0, 0
    for due in (1.5, 4.0, 6.3):
        rows = draw.exponential(1, (100, 16)) ** 3 + 1e-3
        fast = amlm.inclusion(torch.from_numpy(rows), torch.full((100,), due, dtype=torch.float64)).numpy()
        slow = [obvious.inclusion(row.tolist(), due) for row in rows]
        clipped += (fast == 1).sum()
        worst = max(worst, furthest(fast, slow), furthest(fast.sum(1), due))
    assert clipped > 100
    return [Compared("amlm", "inclusion probabilities of 300 rows", worst, EXACT)]


def policy_of(
    rate: float,
    words: Row,
    shares: Mapping[str, float],
    rows: int = DRAWN_ROWS,
    text: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """A policy over some words, unseen so far, and the noiseless batch of one row of them again and again.

    text: what the vocabulary knows from the text.
    """
    strings = [*SPECIALS, *words]
    masks = {"rate": rate, "mask_warmup": 0, **({"shares": {"random": 0, **shares}} if shares else {}), **settings}
    tree = {"steps": 1000, "batch_size": rows, "data": {"block": len(words)}, "masking": masks}
    unigram = np.array([1.0] * len(SPECIALS) + [2.0 + i // 2 for i in range(len(words))])
    known = (WORDPIECE.forms(strings), np.arange(len(strings)) >= len(SPECIALS), unigram / unigram.sum())
    vocabulary = Vocabulary(*known, **(text or {}))
    row = torch.arange(len(SPECIALS), len(strings))
    return mixture.build(Config.model_validate(tree), vocabulary, slice(0, rows), 0, "cpu"), row.repeat(rows, 1)


def draws(policy: MaskingPolicy, ids: torch.Tensor, steps: int = DRAWN_STEPS) -> np.ndarray:
    """[steps, B, T] bool: 20,000 rows at 200 rows and 100 steps."""
    chosen = torch.zeros(steps, ids.numel() + 1, dtype=torch.bool)
    for step in range(steps):
        chosen[step, policy.select(ids, StepNoise(1, 0, step, (len(ids), ids.shape[1]))).positions] = True
    policy.metrics(alone)
    return chosen[:, :-1].reshape(steps, *ids.shape).numpy()


def taught(policy: mixture.Mixture, words: Row) -> obvious.Morph:
    """Answers from which every word has a score of its own, to the policy and to the obvious version."""
    slow = obvious.Morph(1.0, 1.0, 3.0, 0.9)
    labels = torch.arange(len(SPECIALS), len(SPECIALS) + len(words)).repeat(30)
    answers = answered(np.random.default_rng(5), labels)
    policy.difficulty.observe(labels, answers.predictions != labels, torch.ones(len(labels)))
    policy.refresh(alone)
    right = (answers.predictions == labels).tolist()
    slow.observe([words[i - len(SPECIALS)] for i in labels.tolist()], right)
    slow.refresh()
    return slow


def sets(chosen: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(np.flatnonzero(row).tolist()) for row in chosen.reshape(-1, chosen.shape[-1])]


def deviation(drawn: Sequence[frozenset[int]], due: obvious.Probabilities) -> float:
    """Largest deviation of a set's frequency, and of a position's, in sd; infinite for a set that cannot be."""
    number, counts = len(drawn), Counter(drawn)
    if not counts.keys() <= due.keys():
        return np.inf
    pairs = [(counts[taken], chance) for taken, chance in due.items() if number * chance >= 10]
    for place in frozenset().union(*due):
        chance = sum(part for taken, part in due.items() if place in taken)
        pairs.append((sum(n for taken, n in counts.items() if place in taken), chance))
    return max(abs(n - number * p) / max((number * p * (1 - p)) ** 0.5, 1e-9) for n, p in pairs if p < 1 - 1e-12)


def mixture_draws() -> list[Compared]:
    """Frequencies of the sets that a row's draws give, over 20,000 rows, against what they are due."""
    row, every = WORDS, frozenset(range(8))
    compared = []

    def add(policy: str, what: str, fast: Any, due: obvious.Probabilities) -> None:
        compared.append(Compared(policy, f"{what}, 20,000 rows, sd", deviation(sets(draws(*fast)), due), SDS))

    add("random", "3 of 8", policy_of(3 / 8, row, {"random": 1}), obvious.sequential([([1] * 8, 3)], every))
    for shares, stages in (({"token": 1}, (3, 0)), ({"trigram": 1}, (0, 3)), ({"token": 0.5, "trigram": 0.5}, (2, 2))):
        fast = policy_of(sum(stages) / 8, row, shares)
        slow = taught(fast[0], row)
        scores = [[one(token) for token in row] for one in (slow.token_score, slow.trigram_score)]
        due = obvious.sequential(list(zip(scores, stages, strict=True)), every)
        add("accuracy-morph", f"{stages[0]} by token, {stages[1]} by trigram of 8", fast, due)
    # Frequent first: the words come in pairs of one frequency, the last pair the most frequent; then 5 specials.
    ranks = [1.5 + 2 * ((7 - i) // 2) for i in range(8)]
    for power in (1.0, 2.0):
        fast = policy_of(3 / 8, row, {"rarity": 1}, rarity_power=power)
        due = obvious.sequential([([(rank / 13) ** power for rank in ranks], 3)], every)
        add("rarity", f"3 of 8, power {power:g}", fast, due)
    pieces = ["##en", "the", "##n", "##ing", "ring", "over", "##er", "vent"]
    for number in (3, 4):
        fast = policy_of(number / 8, pieces, {"whole_word": 1})
        add("whole-word", f"{number} of 8 in 5 words", fast, obvious.whole_words(pieces, number))
        number_due, rows = obvious.cut_chance(pieces, number), DRAWN_ROWS * DRAWN_STEPS
        spread = (rows * number_due * (1 - number_due)) ** 0.5
        cut = abs(fast[0].metrics(alone)["audit/cut"] - rows * number_due) / spread
        compared.append(Compared("whole-word", f"{number} of 8 in 5 words, rows with a cut word, sd", cut, SDS))
    starts = torch.tensor([True, True, False, False, True, True, False, True])  # "the##n ##ing ring" is a collocation
    text = {"collocation_start": lambda noise, _: starts.expand(noise.shape)}
    for number in (3, 4):
        due = obvious.whole_units([[0], [1, 2, 3], [4], [5, 6], [7]], number)
        add("pmi", f"{number} of 8 in 5 units", policy_of(number / 8, pieces, {"pmi": 1}, text=text), due)
    weights = np.array([0.0] * len(SPECIALS) + [0, 0.5, 1, 2, 3, 5, 8, 13])
    due = obvious.sequential([(weights[len(SPECIALS) :].tolist(), 3)], frozenset(range(1, 8)))
    fast = policy_of(3 / 8, row, {"informask": 1}, text={"relevance": weights})
    add("informask", "3 of 8 by relevance, one of them 0", fast, due)
    return compared


def span_draws() -> list[Compared]:
    """Spans in rows of 10 to 24 tokens against 20,000 rows of the sequential draw."""
    compared = []
    for length, number, p, longest in ((10, 4, 0.2, 10), (24, 10, 0.2, 10), (12, 4, 0.4, 4), (10, 4, 0.7, 2)):
        words = [f"{a}{b}" for a in "abcde" for b in "vwxyz"][:length]
        fast = sets(draws(*policy_of(number / length, words, {"span": 1}, span_p=p, span_longest=longest)))
        draw = Random(2)
        slow = [frozenset(obvious.spans(length, number, draw, p, longest)) for _ in fast]
        for what, of in (("sets", lambda taken: taken), ("longest run", longest_run), ("first", min), ("last", max)):
            difference = two_samples(list(map(of, fast)), list(map(of, slow)))
            name = f"span, p {p:g}, at most {longest}"
            compared.append(Compared(name, f"{number} of {length}, {what}, 20,000 rows, sd", difference, SDS))
    return compared


def longest_run(taken: frozenset[int]) -> int:
    best = run = 0
    for place in range(max(taken) + 1):
        run = run + 1 if place in taken else 0
        best = max(best, run)
    return best


def two_samples(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest difference of two frequencies out of as many draws, in sd."""
    counts = Counter(one), Counter(other)
    pairs = [tuple(count[value] for count in counts) for value in counts[0] | counts[1]]
    return max(abs(a - b) / (a + b) ** 0.5 for a, b in pairs if a + b >= 40)


def amlm_draws() -> list[Compared]:
    """Two kinds of rows, one with [UNK] in it, with probabilities clipped and not."""
    compared = []
    for what, rate, heavy in (("unclipped", 0.15, 2.0), ("clipped at 1", 0.375, 40.0)):
        words = [f"{a}{b}" for a in "abcd" for b in "wxyz"]
        policy, ids = policy_of(rate, words, {}, preset="amlm")
        ids[::2, :3] = 1  # [UNK]
        weight = torch.linspace(0.05, 0.15, len(SPECIALS) + 16, dtype=torch.float64)
        weight[[10, 15]] *= heavy
        policy.load({**policy.state(alone), "weight": weight}, 0)
        total = round(rate * ids.numel())
        due = np.zeros((2, 16))
        for kind in (0, 1):
            start = 0 if kind else 3
            due[kind, start:] = obvious.inclusion(weight[ids[kind, start:]].tolist(), total / len(ids))
        assert (due == 1).any() == (what != "unclipped")
        chosen = draws(policy, ids)
        by_row = chosen.sum(2)
        part = total / len(ids)
        compared += [
            Compared("amlm exact", f"{what}: K of 100 batches", furthest(chosen.sum((1, 2)), total), 0),
            Compared("amlm exact", f"{what}: rows off floor and ceil", off(by_row, part), 0),
            Compared("amlm exact", f"{what}: inclusion, 20,000 rows, sd", marginal(chosen, due), SDS),
        ]
    return [*compared, *bernoulli_draws()]


def off(by_row: np.ndarray, part: float) -> float:
    return float(((by_row != np.floor(part)) & (by_row != np.ceil(part))).sum())


def marginal(chosen: np.ndarray, due: np.ndarray) -> float:
    """Largest deviation of a position's frequency in rows of alternating kinds, in sd."""
    counts = np.stack([chosen[:, kind::2].sum((0, 1)) for kind in (0, 1)])
    number = chosen.shape[0] * chosen.shape[1] / 2
    sure = (due == 0) | (due == 1)
    if not (counts[sure] == number * due[sure]).all():
        return np.inf
    spread = np.sqrt(np.maximum(number * due * (1 - due), 1e-9))
    return float((np.abs(counts - number * due) / spread)[~sure].max())


def bernoulli_draws() -> list[Compared]:
    """The paper's independent draw, and that of its code: special tokens too, and what is above 1 is lost."""
    weight = torch.linspace(0.05, 0.15, len(SPECIALS) + 16, dtype=torch.float64)
    policy, ids = independent(weight, draw="bernoulli")
    due = np.zeros((2, 16))
    for kind, start in ((0, 3), (1, 0)):
        due[kind, start:] = obvious.inclusion(weight[ids[kind, start:]].tolist(), 0.15 * (16 - start))
    compared = independent_draws("amlm bernoulli", policy, ids, due)
    weight[10] *= 40
    policy, ids = independent(weight, replicate=True)
    slow = obvious.AmlmCode(len(weight), False, False, 1_000)
    slow.weight = weight.tolist()
    due = np.array([slow.chances(row, 0) for row in ids[:2].tolist()])
    assert (due == 1).any()
    assert (due[0, :3] > 0).all()
    return [*compared, *independent_draws("amlm's code", policy, ids, due)]


def independent(weight: torch.Tensor, **settings: Any) -> tuple[MaskingPolicy, torch.Tensor]:
    """AMLM with some weights, and a batch of 20 rows of which every other has three [UNK]."""
    policy, ids = policy_of(0.15, [f"{a}{b}" for a in "abcd" for b in "wxyz"], {}, 20, preset="amlm", **settings)
    ids[::2, :3] = 1
    policy.load({**policy.state(alone), "weight": weight}, 0)
    return policy, ids


def independent_draws(name: str, policy: MaskingPolicy, ids: torch.Tensor, due: np.ndarray) -> list[Compared]:
    rows, steps = len(ids), 1_000
    chosen = draws(policy, ids, steps)
    counts = chosen.sum((1, 2))
    expected, variance = rows / 2 * due.sum(), rows / 2 * (due * (1 - due)).sum()
    mean_off = abs(counts.mean() - expected) / (variance / steps) ** 0.5
    variance_off = abs(counts.var(ddof=1) - variance) / (variance * (2 / (steps - 1)) ** 0.5)
    named = [
        ("inclusion, 20,000 rows", marginal(chosen, due)),
        ("mean of K", mean_off),
        ("variance of K", variance_off),
    ]
    return [Compared(name, f"{what}, sd", float(difference), SDS) for what, difference in named]


def published_rounding(every: int = 9) -> list[Compared]:
    """Counts by source for random shares in steps of 1 %, in rows of 15 to 128 eligible positions.

    The rest of a share is 3 to 1 by token and trigram, as published. every: only each so many of shares and rows.
    """
    words, worst = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijklmnop"], 0.0
    other = 0  # where rounding trigrams like the others would have given another number
    for percent in range(0, 101, every):
        random = percent / 100
        token = 0.75 * (1 - random)
        shares = {"random": random, "token": token, "trigram": 1 - random - token}
        rule = {"preset": "published/accuracy-morph", "replicate": True, "mask_warmup": 0}
        policy, ids = policy_of(0.15, words, shares, 1, **rule)
        taught(policy, words)
        for step, eligible in enumerate(range(15, 129, every)):
            row = torch.where(torch.arange(128) < eligible, ids, 1)
            before = policy.audit.counts.clone()
            policy.select(row, StepNoise(1, 0, step, (1, 128)))
            _, predicted, broken, short, _, *by_source = (policy.audit.counts - before).tolist()
            parts = obvious.row_parts(eligible, random, token)
            worst = max(worst, furthest(by_source, parts), abs(predicted - round(0.15 * eligible)), broken, short)
            other += parts[2] != round(shares["trigram"] * predicted)
    assert other > 5
    what = f"positions by source, {len(range(0, 101, every))} shares, {len(range(15, 129, every))} rows"
    return [Compared("accuracy-morph, replicate", what, worst, 0)]


DRAWS = (mixture_draws, span_draws, amlm_draws, published_rounding, inclusions)
