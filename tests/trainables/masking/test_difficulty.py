"""Stores and scores against the obvious dictionaries, and the contract that every store keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch

from trainables.data.word_forms import WORDPIECE
from trainables.masking.difficulty import (
    CountMinStore,
    Difficulty,
    DifficultyStore,
    ExactStore,
    Keys,
    grained,
    trigrams,
)
from trainables.settings.config import Config
from trainables.settings.masking_rule import MaskingConfig

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "##ing",
    "ing",
    "In",
    "a",
    "##a",
    "1990",
    "b2b",
    "aaaa",
    "é",
]
KEYS = Keys([[word] for word in WORDS])
STORES: dict[str, Callable[[], DifficultyStore]] = {
    "exact": lambda: ExactStore(KEYS),
    "count_min": lambda: CountMinStore(KEYS, width=8, depth=3),
}


def nobody(_tensor: torch.Tensor) -> None:
    """One rank."""


def counts(seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    seen = random.integers(0, 50, len(KEYS.names)).astype(float)
    return seen, np.floor(seen * random.random(len(seen)))


@pytest.mark.parametrize("make", STORES.values(), ids=STORES.keys())
class TestEveryStore:
    def test_the_sum_of_two_equals_adding_both(self, make: Callable[[], DifficultyStore]) -> None:
        one, other, both = make(), make(), make()
        one.add(*counts(1))
        other.add(*counts(2))
        both.add(*counts(1))
        both.add(*counts(2))
        one.table[...] += other.table
        np.testing.assert_array_equal(one.counts(), both.counts())

    def test_never_underestimates_and_wrong_never_exceeds_seen(self, make: Callable[[], DifficultyStore]) -> None:
        store = make()
        store.add(*counts(3))
        seen, wrong = store.counts()
        assert (seen >= counts(3)[0]).all()
        assert (wrong >= counts(3)[1]).all()
        assert (wrong <= seen).all()

    def test_decay_scales_counts(self, make: Callable[[], DifficultyStore]) -> None:
        store = make()
        store.add(*counts(4))
        before = np.stack(store.counts())
        store.decay(0.25)
        np.testing.assert_array_equal(store.counts(), before / 4)

    def test_the_table_is_the_whole_state(self, make: Callable[[], DifficultyStore]) -> None:
        store, copy = make(), make()
        store.add(*counts(5))
        copy.table[...] = store.table
        np.testing.assert_array_equal(copy.counts(), store.counts())


def test_a_wide_sketch_is_exact() -> None:
    exact, sketch = ExactStore(KEYS), CountMinStore(KEYS, 65_536, 4)
    exact.add(*counts(6))
    sketch.add(*counts(6))
    np.testing.assert_array_equal(exact.counts(), sketch.counts())


def test_trigrams() -> None:
    assert trigrams("ing") == ["<in", "ing", "ng>"]
    assert trigrams("aaaa") == ["<aa", "aaa", "aaa", "aa>"]
    assert trigrams("b2b") == ["<b2", "b2b", "2b>"]
    assert all(trigrams(word) == [] for word in ("[mask]", "a", "1990", "é", "कु"))
    assert trigrams("été") == ["<ét", "été", "té>"]
    assert trigrams("по") == ["<по", "по>"]
    assert trigrams("कुल") == ["<कु", "कुल", "ुल>"], "vowel signs are no letters, but part of the text"


@pytest.mark.parametrize(("decay", "smoothing", "min_seen"), [(1.0, 1.0, 3), (0.3, 1.0, 3), (0.0, 0.5, 0)])
def test_scores_equal_the_obvious_dictionaries(decay: float, smoothing: float, min_seen: float) -> None:
    config = MaskingConfig(ema_decay=decay, smoothing=smoothing, min_seen=min_seen)
    difficulty = Difficulty(WORDPIECE.forms(WORDS), config)
    random = np.random.default_rng(0)
    settled: dict[str, Counter[str]] = {"seen": Counter(), "wrong": Counter()}
    for _ in range(3):
        pending: dict[str, Counter[str]] = {"seen": Counter(), "wrong": Counter()}
        for _ in range(4):
            labels = random.integers(5, len(WORDS), 40)
            guesses = np.where(random.random(40) < 0.6, labels, 5)
            difficulty.observe(torch.from_numpy(labels), torch.from_numpy(guesses != labels), torch.ones(40))
            for label, guess in zip(labels, guesses, strict=True):
                key = WORDS[label].lower().removeprefix("##")
                for x in (f"token {key}", *trigrams(key)):
                    pending["seen"][x] += 1
                    pending["wrong"][x] += int(label != guess)
        difficulty.refresh(nobody)
        for kind, counter in pending.items():
            keys = counter.keys() | settled[kind].keys()
            settled[kind] = Counter({x: decay * settled[kind][x] + counter[x] for x in keys})  # type: ignore[misc]

    def error(x: str) -> float:
        seen, wrong = settled["seen"][x], settled["wrong"][x]
        return 0.0 if seen < min_seen else min((wrong + smoothing) / (seen + 2 * smoothing), 0.9)

    for word, token, trigram in zip(WORDS, difficulty.token_score, difficulty.trigram_score, strict=True):
        assert token == pytest.approx(error(f"token {word.lower().removeprefix('##')}"), abs=1e-12)
        rates = [rate for rate in map(error, trigrams(word.lower().removeprefix("##"))) if rate]
        assert trigram == pytest.approx(min(float(np.mean(rates)), 0.9) if rates else 0.0, abs=1e-12)


def test_padding_slots_are_not_counted() -> None:
    difficulty = Difficulty(WORDPIECE.forms(WORDS), MaskingConfig())
    difficulty.observe(torch.tensor([5, 5]), torch.tensor([False, True]), torch.tensor([1.0, 0.0]))
    assert difficulty.window.sum(1).tolist() == [1.0, 0.0]


def test_state_holds_settled_and_pending_counts() -> None:
    difficulty, copy = (
        Difficulty(WORDPIECE.forms(WORDS), MaskingConfig()),
        Difficulty(WORDPIECE.forms(WORDS), MaskingConfig()),
    )
    labels = torch.arange(5, len(WORDS)).repeat(5)
    difficulty.observe(labels, labels != 6, torch.ones(len(labels)))
    difficulty.refresh(nobody)
    difficulty.observe(labels, labels < 0, torch.ones(len(labels)))
    copy.load(difficulty.state(nobody), rank=0)
    np.testing.assert_array_equal(copy.token_score, difficulty.token_score)
    for one in (difficulty, copy):
        one.refresh(nobody)
    np.testing.assert_array_equal(copy.token_score, difficulty.token_score)
    np.testing.assert_array_equal(copy.trigram_score, difficulty.trigram_score)


def test_learning_progress_does_not_rank_tokens_by_the_noise_of_a_few_losses() -> None:
    """Losses that do not fall: with 3 losses in the last window, no token has a score by the preset."""
    preset = Config.model_validate({"masking": {"preset": "learning_progress"}}).masking
    forms = WORDPIECE.forms([*WORDS[:5], *(a + b + "x" for a in "bcdfghklmn" for b in "aeiou")])
    draw, found = np.random.default_rng(0), {}
    for name, config in (("preset", preset), ("3", preset.model_copy(update={"ema_decay": 0.0, "min_seen": 3.0}))):
        difficulty = Difficulty(forms, config)
        for seen in (40, 40, 40, 40, 3):
            labels = torch.arange(5, len(forms.texts)).repeat(seen)
            losses = torch.from_numpy(draw.gamma(4.0, 1.0, len(labels)))
            difficulty.observe(labels, grained(losses), torch.ones(len(labels)))
            difficulty.refresh(nobody)
        found[name] = difficulty.token_score
    assert (found["preset"] == 0).all()
    assert (found["3"] > 0).sum() > len(forms.texts) / 4
