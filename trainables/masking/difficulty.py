"""What the model finds hard: counts of wrong predictions or high losses, and the two score vectors made from them.

A step only adds to a window of counts by vocabulary id. Everything else (keys shared by ids, trigrams, decay, sketches,
scores) happens at a refresh, on the host, in float64: the same bits on every device.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.word_forms import WordForms
from trainables.settings.config import MaskingConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Keys:
    """Which keys a token counts for: `key[i]` for vocabulary id `token[i]`, as a sparse incidence matrix."""

    def __init__(self, names_by_token: list[list[str]]) -> None:
        pairs = [(token, name) for token, names in enumerate(names_by_token) for name in names]
        self.names = sorted({name for _, name in pairs})
        index = {name: i for i, name in enumerate(self.names)}
        self.vocab_size = len(names_by_token)
        self.token: Ints = np.array([token for token, _ in pairs], dtype=np.int64)
        self.key: Ints = np.array([index[name] for _, name in pairs], dtype=np.int64)
        self.number: Ints = np.bincount(self.token, minlength=self.vocab_size)  # keys of a token, [V]
        self.begin: Ints = np.cumsum(self.number) - self.number  # where they lie in `token` and `key`

    def counts(self, by_token: Floats) -> Floats:
        """Counts by key, [keys], from counts by vocabulary id, [V]. Cheap when few tokens have counts."""
        tokens = np.flatnonzero(by_token)
        number = self.number[tokens]
        before = np.cumsum(number) - number
        places = np.arange(number.sum()) + np.repeat(self.begin[tokens] - before, number)
        weights = np.repeat(by_token[tokens], number)
        return np.bincount(self.key[places], weights=weights, minlength=len(self.names)).astype(np.float64)

    def mean(self, by_key: Floats, zeros: bool) -> Floats:
        """[V] the mean of each token's values by key, with or without zeros; 0 where there are none."""
        values = by_key[self.key]
        total = np.bincount(self.token, weights=values, minlength=self.vocab_size)
        number = self.number if zeros else np.bincount(self.token, weights=values > 0, minlength=self.vocab_size)
        return total / np.maximum(number, 1)


def trigrams(key: str) -> list[str]:
    """Character trigrams of `<key>`, with repetition (Accuracy-Morph, BabyLM 2026).

    Bracketed special tokens and keys of fewer than two letters have none. The study's code also requires one of a to z,
    which leaves other scripts without trigrams; for keys with one, the two rules agree.
    """
    if re.fullmatch(r"\[.*\]", key) or sum(map(str.isalpha, key)) < 2:
        return []
    marked = f"<{key}>"
    return [marked[i : i + 3] for i in range(len(marked) - 2)]


class DifficultyStore(Protocol):
    """Settled counts by key. Additive: the sum of two tables is that of one store that was given both their counts."""

    def decay(self, factor: float) -> None:
        """Multiply every count by a factor."""
        ...

    def add(self, seen: Floats, wrong: Floats) -> None:
        """Add counts by key, [keys] each."""
        ...

    def counts(self) -> tuple[Floats, Floats]:
        """(seen, wrong) by key, [keys] each, with wrong <= seen."""
        ...

    @property
    def table(self) -> Floats:
        """The state: one array, which may be written into."""
        ...


class ExactStore:
    """One pair of counts a key: table [2, keys]."""

    def __init__(self, keys: Keys) -> None:
        self.table: Floats = np.zeros((2, len(keys.names)))

    def decay(self, factor: float) -> None:
        self.table *= factor

    def add(self, seen: Floats, wrong: Floats) -> None:
        self.table += np.stack([seen, wrong])

    def counts(self) -> tuple[Floats, Floats]:
        return self.table[0], self.table[1]


class CountMinStore:
    """Count-Min sketch (Cormode & Muthukrishnan 2005), plain update, table [2, depth, width].

    Seen and wrong share their hashes, so that their ratio never exceeds 1. A count is never underestimated; the
    ratio of two estimates can err both ways. Conservative update is left out because it cannot be merged.
    """

    def __init__(self, keys: Keys, width: int, depth: int) -> None:
        digests = [hashlib.blake2b(name.encode(), digest_size=8 * depth).digest() for name in keys.names]
        words = np.frombuffer(b"".join(digests), dtype="<u8").reshape(len(keys.names), depth)
        self.column: Ints = (words % np.uint64(width)).astype(np.int64).T
        self.table: Floats = np.zeros((2, depth, width))

    def decay(self, factor: float) -> None:
        self.table *= factor

    def add(self, seen: Floats, wrong: Floats) -> None:
        width = self.table.shape[2]
        for row, column in enumerate(self.column):
            self.table[0, row] += np.bincount(column, weights=seen, minlength=width)
            self.table[1, row] += np.bincount(column, weights=wrong, minlength=width)

    def counts(self) -> tuple[Floats, Floats]:
        seen, wrong = np.take_along_axis(self.table, self.column[None], axis=2).min(axis=1)
        return seen, wrong


def token_keys(forms: WordForms) -> Keys:
    """One key a token."""
    return Keys([[key] for key in forms.keys])


def trigram_keys(forms: WordForms) -> Keys:
    """A token's character trigrams, with repetition; none if part of it is not a whole character."""
    return Keys([trigrams(key) if whole else [] for key, whole in zip(forms.keys, forms.whole, strict=True)])


def error_rate(seen: Floats, wrong: Floats, config: MaskingConfig) -> Floats:
    """(wrong + a) / (seen + 2a); 0 below `min_seen` (Accuracy-Morph's released configuration).

    The paper prints another rule, (wrong + 0.5) / (seen + 1) with 0.5 for the unseen: smoothing 0.5, min_seen 0.
    """
    a = config.smoothing
    return np.where(seen < config.min_seen, 0.0, (wrong + a) / (seen + 2 * a))


def log_count(seen: Floats, high: Floats, config: MaskingConfig) -> Floats:
    """log(1 + high); 0 below `min_seen` (CMS-Morph, BabyLM 2026)."""
    return np.where(seen < config.min_seen, 0.0, np.log1p(high))


class Difficulty:
    """The counts of a run, and the scores by vocabulary id that follow from them.

    window: [2, V] float64 on the device, seen and hard since the last refresh. token_score, trigram_score: [V].
    """

    def __init__(self, forms: WordForms, config: MaskingConfig, device: str = "cpu") -> None:
        self.config = config
        self.rule = log_count if config.signal == "loss" else error_rate
        self.token_keys, self.trigram_keys = token_keys(forms), trigram_keys(forms)
        self.token_store = self._store(self.token_keys)
        self.trigram_store = self._store(self.trigram_keys)
        self.window = torch.zeros(2, len(forms.texts), dtype=torch.float64, device=device)
        self._score()

    def _store(self, keys: Keys) -> DifficultyStore:
        if self.config.sketch == "exact":
            return ExactStore(keys)
        return CountMinStore(keys, self.config.sketch_width, self.config.sketch_depth)

    def observe(self, labels: torch.Tensor, hard: torch.Tensor, weight: torch.Tensor) -> None:
        """Count predictions, [S] each. hard: bool. weight: 0 in padding slots, else 1."""
        weight = weight.double()
        self.window[0].index_add_(0, labels, weight)
        self.window[1].index_add_(0, labels, weight * hard)

    def refresh(self, all_reduce: Callable[[torch.Tensor], object]) -> None:
        """Add the window, summed over the ranks, to the counts and rescore: count = ema_decay * count + window."""
        all_reduce(self.window)
        seen, wrong = self.window.cpu().numpy()
        for keys, store in ((self.token_keys, self.token_store), (self.trigram_keys, self.trigram_store)):
            store.decay(self.config.ema_decay)
            store.add(keys.counts(seen), keys.counts(wrong))
        self.window.zero_()
        self._score()

    def _score(self) -> None:
        """Accuracy-Morph caps each trigram and their mean; CMS-Morph (`trigram_mean: all`) the mean alone."""
        every, cap = self.config.trigram_mean == "all", self.config.cap
        by_key = np.minimum(self.rule(*self.token_store.counts(), self.config), cap)
        self.token_score: Floats = self._in_band(by_key[self.token_keys.key])
        by_trigram = self.rule(*self.trigram_store.counts(), self.config)
        self.by_trigram = by_trigram if every else np.minimum(by_trigram, cap)
        by_token = np.minimum(self.trigram_keys.mean(self.by_trigram, zeros=every), cap)
        self.trigram_score: Floats = self._in_band(by_token)

    def _in_band(self, score: Floats) -> Floats:
        high = np.inf if self.config.band_high is None else self.config.band_high
        return np.where((score < self.config.band_low) | (score > high), 0.0, score)

    @property
    def capped(self) -> float:
        """Share of the non-zero token scores that are at the cap."""
        scored = self.token_score > 0
        return float((self.token_score[scored] >= self.config.cap).mean()) if scored.any() else 0.0

    def state(self, all_reduce: Callable[[torch.Tensor], object]) -> dict[str, torch.Tensor]:
        """Settled counts, and pending ones summed over the ranks."""
        window = self.window.clone()
        all_reduce(window)
        return {
            "window": window.cpu(),
            "token": torch.from_numpy(self.token_store.table),
            "trigram": torch.from_numpy(self.trigram_store.table),
        }

    def load(self, state: dict[str, torch.Tensor], rank: int) -> None:
        """Restore `state()`. Rank 0 takes the pending counts of all ranks, so that their sum stays the same."""
        self.window.copy_(state["window"] if rank == 0 else torch.zeros_like(state["window"]))
        self.token_store.table[...] = state["token"].numpy()
        self.trigram_store.table[...] = state["trigram"].numpy()
        self._score()
