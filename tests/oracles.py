"""Every masking rule against its slow and obvious version: `python -m tests.oracles [--json]` prints the differences.

Made-up answers, real text: the first conversations of the embedded corpus, through the package's own preparation.
Exit status 0 where every difference is within what is allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch

from tests.trainables import obvious
from trainables import amlm, corpus, data, masking
from trainables.config import Config, DataConfig
from trainables.noise import StepNoise
from trainables.policy import Answers, MaskingPolicy, Vocabulary

EXACT, SDS = 1e-9, 5.0
BATCHES, ROWS, LENGTH = 1_000, 4, 32
DRAWN_ROWS, DRAWN_STEPS = 200, 100
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["the", "then", "hen", "##ing", "ring", "sing", "##ten", "tent", "oven", "over", "##er", "vent"]
Row = list[str]
Frequencies = Mapping[Any, float]


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


def prepared_slice(folder: Path) -> data.Prepared:
    """400 conversations with a WordPiece of 1,000 entries, prepared in $SWEEPER_CACHE."""
    path = folder / "slice.txt"
    path.write_text("\n\n".join(islice(corpus.Embedded().texts(), 400)), "utf-8")
    settings = DataConfig(corpus=f"files:{path}", tokenizer="train:1000", block=LENGTH, held_out=0.1)
    return data.prepare(settings)


def answered(draw: np.random.Generator, labels: torch.Tensor) -> Answers:
    """As a model might that finds some ids harder than others."""
    ids = labels.numpy()
    right = draw.random(len(ids)) < 1 / (1 + ids % 7)
    losses = (draw.exponential(1 + ids % 5)).astype(np.float32)
    predictions = np.where(right, ids, 0)
    return Answers(labels, *map(torch.from_numpy, (predictions, losses, draw.random(len(ids)) < 0.8)))


def settled(prepared: data.Prepared, **settings: Any) -> Iterator[tuple[int, MaskingPolicy, Row, Answers]]:
    """1,000 batches of real text; after each: the step, the policy, the batch, and the answers of what it selected."""
    config = Config.model_validate({"steps": BATCHES, "batch_size": ROWS, "data": {"block": LENGTH}, "masking": settings})
    strings = prepared.token_strings
    vocabulary = Vocabulary(strings, np.asarray(prepared.eligible), np.asarray(prepared.unigram))
    policy = masking.build(config, vocabulary, slice(0, ROWS), 7, "cpu")
    batches, draw = data.Batches(prepared, ROWS, 7), np.random.default_rng(7)
    for step in range(BATCHES):
        ids = torch.from_numpy(batches.tokens(step))
        selection = policy.select(ids, StepNoise(7, 0, step, (ROWS, LENGTH)))
        answers = answered(draw, ids.flatten()[selection.positions[selection.weight > 0]])
        slots = [torch.nn.functional.pad(part, (0, len(selection.weight) - len(part))) for part in answers]
        policy.observe(selection, Answers(*slots), alone)
        if (step + 1) % config.update_every == 0:
            policy.refresh(alone)
        yield step, policy, [strings[i] for i in ids.flatten().tolist()], answers
    policy.metrics(alone)


def alone(_tensor: torch.Tensor) -> None:
    """One rank."""


def furthest(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).max())


def morph(name: str, settings: Mapping[str, Any], slow: obvious.Morph, prepared: data.Prepared) -> list[Compared]:
    """Counts and scores after every refresh in 1,000 batches. Shuffled scores are compared in order of size."""
    strings, every = prepared.token_strings, 100
    low, high = settings.get("band_low", 0.0), settings.get("band_high", np.inf)
    differences = dict.fromkeys(("counts by token and trigram", "scores by token", "scores by trigram"), 0.0)
    for step, policy, _, answers in settled(prepared, **settings, update_every=every):
        assert isinstance(policy, masking.Mixture)
        right = (answers.predictions == answers.labels).tolist()
        slow.observe([strings[i] for i in answers.labels.tolist()], right, answers.losses.tolist())
        if (step + 1) % every:
            continue
        slow.refresh()
        counts, found = [], policy.difficulty
        for kind, keys, store in (
            ("token ", found.token_keys, found.token_store),
            ("trigram ", found.trigram_keys, found.trigram_store),
        ):
            for key, seen, hard in zip(keys.names, *store.counts(), strict=True):
                counts += [seen - slow.seen.get(kind + key, 0.0), hard - slow.hard.get(kind + key, 0.0)]
        fast = [np.exp(source.log_score.numpy()) for source in (policy.token, policy.trigram)]
        scores = [[one(token) for token in strings] for one in (slow.token_score, slow.trigram_score)]
        scores = [[score if low <= score <= high else 0.0 for score in part] for part in scores]
        if settings["preset"] == "random_sketch_control":
            assert furthest(fast[0], scores[0]) > 0.1
            fast, scores = ([sorted(part) for part in parts] for parts in (fast, scores))
        new = [furthest(counts, 0), *map(furthest, fast, scores)]
        differences = dict(zip(differences, map(max, differences.values(), new), strict=True))
    assert sum(slow.seen.values()) > 19 * BATCHES / 2
    return [Compared(name, what, difference, EXACT) for what, difference in differences.items()]


def frequency(prepared: data.Prepared) -> list[Compared]:
    worst = [0.0, 0.0]
    index = {token: i for i, token in enumerate(prepared.token_strings)}
    for _, policy, batch, _ in settled(prepared, preset="frequency", mask_warmup=0):
        assert isinstance(policy, masking.Mixture)
        for i, (source, slow) in enumerate(
            zip((policy.token, policy.trigram), obvious.frequency_weights(batch), strict=True)
        ):
            fast = np.exp(source.log_score.numpy()[[index[token] for token in slow]])
            worst[i] = max(worst[i], furthest(fast, list(slow.values())))
    return [
        Compared("frequency", f"weights by {what} in 1,000 batches", difference, EXACT)
        for what, difference in zip(("token", "trigram"), worst, strict=True)
    ]


def weights(name: str, settings: Mapping[str, Any], prepared: data.Prepared) -> list[Compared]:
    """AMLM's weights after each of 5 updates, one every 200 of 1,000 batches."""
    options = {key: settings[key] for key in ("floor", "pseudo_count", "renormalise") if key in settings}
    linear = settings["preset"].endswith("decay")
    soft = settings["preset"].endswith("soft")
    slow = obvious.Amlm(len(prepared.token_strings), 0.40 if linear else 0.15, 0.2, soft, **options)
    differences: list[float] = []
    for step, policy, _, answers in settled(prepared, **settings, update_every=200):
        right = (answers.predictions == answers.labels).tolist()
        slow.observe(answers.labels.tolist(), right, answers.losses.tolist(), answers.masked.tolist())
        if (step + 1) % 200 == 0:
            slow.rate = 0.40 - 0.25 * step / (BATCHES - 1) if linear else 0.15
            slow.refresh()
            differences.append(furthest(policy.scores()["token"], slow.weight))
    assert len(differences) == 5
    return [Compared(name, "weights after each of 5 updates", max(differences), EXACT)]


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


def policy_of(rate: float, words: Row, shares: Mapping[str, float], rows: int = DRAWN_ROWS, **settings: Any) -> Any:
    """A policy over some words, unseen so far, and the noiseless batch of one row of them again and again."""
    strings = [*SPECIALS, *words]
    masks = {"rate": rate, "mask_warmup": 0, **({"shares": {"random": 0, **shares}} if shares else {}), **settings}
    tree = {"steps": 1000, "batch_size": rows, "data": {"block": len(words)}, "masking": masks}
    unigram = np.array([1.0] * len(SPECIALS) + [2.0 + i // 2 for i in range(len(words))])
    vocabulary = Vocabulary(strings, np.arange(len(strings)) >= len(SPECIALS), unigram / unigram.sum())
    row = torch.arange(len(SPECIALS), len(strings))
    return masking.build(Config.model_validate(tree), vocabulary, slice(0, rows), 0, "cpu"), row.repeat(rows, 1)


def draws(policy: MaskingPolicy, ids: torch.Tensor, steps: int = DRAWN_STEPS) -> np.ndarray:
    """[steps, B, T] bool: 20,000 rows at 200 rows and 100 steps."""
    chosen = torch.zeros(steps, ids.numel() + 1, dtype=torch.bool)
    for step in range(steps):
        chosen[step, policy.select(ids, StepNoise(1, 0, step, (len(ids), ids.shape[1]))).positions] = True
    policy.metrics(alone)
    return chosen[:, :-1].reshape(steps, *ids.shape).numpy()


def taught(policy: masking.Mixture, words: Row) -> obvious.Morph:
    """Answers from which every word has a score of its own, to the policy and to the obvious version."""
    slow = obvious.Morph(1.0, 1.0, 3.0, 0.9)
    labels = torch.arange(len(SPECIALS), len(SPECIALS) + len(words)).repeat(30)
    answers = answered(np.random.default_rng(5), labels)
    policy.difficulty.observe(labels, answers.predictions != labels, torch.ones(len(labels)))
    policy.refresh(alone)
    right = (answers.predictions == labels).tolist()
    slow.observe([words[i - len(SPECIALS)] for i in labels.tolist()], right, answers.losses.tolist())
    slow.refresh()
    return slow


def sets(chosen: np.ndarray) -> list[frozenset[int]]:
    return [frozenset(np.flatnonzero(row).tolist()) for row in chosen.reshape(-1, chosen.shape[-1])]


def deviation(drawn: Sequence[frozenset[int]], due: obvious.Probabilities) -> float:
    """Largest deviation of a set's frequency, and of a position's, in sd; infinite for a set that cannot be."""
    number, places = len(drawn), {place for taken in due for place in taken}
    pairs = [(sum(taken == one for one in drawn), chance) for taken, chance in due.items() if number * chance >= 10]
    for place in places:
        chance = sum(part for taken, part in due.items() if place in taken)
        pairs.append((sum(place in one for one in drawn), chance))
    if not set(drawn) <= due.keys():
        return np.inf
    return max(abs(n - number * p) / max((number * p * (1 - p)) ** 0.5, 1e-9) for n, p in pairs if p < 1 - 1e-12)


def mixture_draws() -> list[Compared]:
    """Frequencies of the sets that a row's draws give, over 20,000 rows, against what they are due."""
    row, every = WORDS[:8], frozenset(range(8))
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
    return compared


def span_draws() -> list[Compared]:
    """Spans of 10 and of 24 tokens against 20,000 rows of the sequential draw."""
    compared = []
    for length, number in ((10, 4), (24, 10)):
        words = [f"{a}{b}" for a in "abcde" for b in "vwxyz"][:length]
        fast = sets(draws(*policy_of(number / length, words, {"span": 1})))
        draw = Random(2)
        slow = [frozenset(obvious.spans(length, number, draw)) for _ in fast]
        for what, of in (("sets", lambda taken: taken), ("longest run", longest_run), ("first", min), ("last", max)):
            difference = two_samples(list(map(of, fast)), list(map(of, slow)))
            compared.append(Compared("span", f"{number} of {length}, {what}, 20,000 rows, sd", difference, SDS))
    return compared


def longest_run(taken: frozenset[int]) -> int:
    best = run = 0
    for place in range(max(taken) + 1):
        run = run + 1 if place in taken else 0
        best = max(best, run)
    return best


def two_samples(one: Sequence[Any], other: Sequence[Any]) -> float:
    """Largest difference of two frequencies out of as many draws, in sd."""
    counts = {value: [0, 0] for value in (*one, *other)}
    for which, sample in enumerate((one, other)):
        for value in sample:
            counts[value][which] += 1
    return max(abs(a - b) / (a + b) ** 0.5 for a, b in counts.values() if a + b >= 20)


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
    words, rows, steps = [f"{a}{b}" for a in "abcd" for b in "wxyz"], 20, 1_000
    policy, ids = policy_of(0.15, words, {}, rows, preset="amlm", draw="bernoulli")
    ids[::2, :3] = 1
    weight = torch.linspace(0.05, 0.15, len(SPECIALS) + 16, dtype=torch.float64)
    policy.load({**policy.state(alone), "weight": weight}, 0)
    due = np.zeros((2, 16))
    for kind, start in ((0, 3), (1, 0)):
        due[kind, start:] = obvious.inclusion(weight[ids[kind, start:]].tolist(), 0.15 * (16 - start))
    chosen = draws(policy, ids, steps)
    counts = chosen.sum((1, 2))
    expected, variance = rows / 2 * due.sum(), rows / 2 * (due * (1 - due)).sum()
    mean_off = abs(counts.mean() - expected) / (variance / steps) ** 0.5
    variance_off = abs(counts.var(ddof=1) - variance) / (variance * (2 / (steps - 1)) ** 0.5)
    named = [("inclusion, 20,000 rows", marginal(chosen, due)), ("mean of K", mean_off), ("variance of K", variance_off)]
    return [Compared("amlm bernoulli", f"{what}, sd", float(difference), SDS) for what, difference in named]


def published_rounding() -> list[Compared]:
    """15 random, 3 token, 1 trigram of 19 in every row of the published shape, seen row by row."""
    words, worst = [f"{a}{b}{c}" for a in "abcd" for b in "efgh" for c in "ijklmnop"], 0.0
    for row in range(4):
        policy, ids = policy_of(0.15, words, {}, 4, preset="published/accuracy-morph", apportion="row", mask_warmup=0)
        taught(policy, words)
        policy.rows = slice(row, row + 1)
        for step in range(5):
            before = policy.audit.counts.clone()
            policy.select(ids, StepNoise(1, 0, step, (4, 128)))
            worst = max(worst, furthest((policy.audit.counts - before)[5:8], [15, 3, 1]))
    return [Compared("accuracy-morph", "row apportionment, 15 / 3 / 1 in every row", worst, 0)]


PUBLISHED, CMS = "published/accuracy-morph", "published/cms-morph"
MORPHS: dict[str, tuple[dict[str, Any], Callable[[], obvious.Morph]]] = {
    "accuracy-morph": ({"preset": PUBLISHED}, lambda: obvious.Morph(1.0, 1.0, 3, 0.9)),
    "accuracy-morph, count_min": ({"preset": PUBLISHED, "sketch": "count_min"}, lambda: obvious.Morph(1.0, 1.0, 3, 0.9)),
    "accuracy-morph, ema_decay 0.7": ({"preset": PUBLISHED, "ema_decay": 0.7}, lambda: obvious.Morph(0.7, 1.0, 3, 0.9)),
    "accuracy-morph, as printed": (
        {"preset": PUBLISHED, "smoothing": 0.5, "min_seen": 0},
        lambda: obvious.Morph(1.0, 0.5, 0, 0.9),
    ),
    "cms-morph": ({"preset": CMS}, lambda: obvious.Morph(1.0, 1.0, 0, 5.0, loss=True)),
    "difficulty band": (
        {"preset": "difficulty_band", "band_low": 0.3, "band_high": 0.8},
        lambda: obvious.Morph(1.0, 1.0, 3, 0.9),
    ),
    "random_sketch_control": ({"preset": "random_sketch_control"}, lambda: obvious.Morph(1.0, 1.0, 3, 0.9)),
}
AMLMS: dict[str, dict[str, Any]] = {
    "amlm hard": {"preset": "published/amlm-hard"},
    "amlm soft": {"preset": "published/amlm-soft"},
    "amlm soft, pseudo_count 1": {"preset": "published/amlm-soft", "pseudo_count": 1},
    "amlm hard, floor, renormalised": {"preset": "published/amlm-hard", "floor": 0.06, "renormalise": True},
    "amlm hard, bernoulli": {"preset": "published/amlm-hard", "replicate": True},
    "amlm hard, rate decay": {"preset": "published/amlm-hard-decay"},
}
DRAWS = (mixture_draws, span_draws, amlm_draws, published_rounding, inclusions)


def table(prepared: data.Prepared) -> list[Compared]:
    """All comparisons."""
    rows = [row for name, (settings, slow) in MORPHS.items() for row in morph(name, settings, slow(), prepared)]
    rows += frequency(prepared)
    rows += [row for name, settings in AMLMS.items() for row in weights(name, settings, prepared)]
    return rows + [row for compare in DRAWS for row in compare()]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.oracles", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SWEEPER_CACHE"] = folder
        rows = table(prepared_slice(Path(folder)))
    if options.json:
        print(json.dumps([{**asdict(row), "held": row.held} for row in rows]))
    else:
        print("| policy | what was compared | largest difference | allowed |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row.policy} | {row.what} | {row.difference:.2g} | {row.allowed:g} |")
    return 0 if all(row.held for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
