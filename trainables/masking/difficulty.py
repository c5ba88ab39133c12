"""What the model finds hard, or learns: sums over the predictions of a token, and the two score vectors made from them.

A step only adds to a window of counts by vocabulary id. Everything else (keys shared by ids, trigrams, decay, sketches,
scores) happens at a refresh, on the host, in float64: the same bits on every device.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.word_forms import WordForms
from trainables.settings.masking_rule import MaskingConfig

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

GRAIN = 2.0**-32  # of a nat: sums of its multiples are exact in any order, on any device, over any ranks


def grained(values: torch.Tensor) -> torch.Tensor:
    """Nats as multiples of the grain, in float64."""
    return torch.round(values.double() / GRAIN) * GRAIN


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
    """Settled counts by key. Additive: the sum of two tables is that of one store that was given both their counts.

    `wrong` stands for what the signal sums: wrong predictions, high losses, entropies or losses.
    """

    def decay(self, factor: float) -> None:
        """Multiply every count by a factor."""
        ...

    def add(self, seen: Floats, wrong: Floats) -> None:
        """Add counts by key, [keys] each."""
        ...

    def counts(self) -> tuple[Floats, Floats]:
        """(seen, wrong) by key, [keys] each, with wrong <= seen where no prediction adds more than 1."""
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


def mean_entropy(seen: Floats, total: Floats, config: MaskingConfig) -> Floats:
    """Nats a prediction; 0 below `min_seen`."""
    return _mean(seen, total, config.min_seen)


def progress(before: tuple[Floats, Floats], last: tuple[Floats, Floats], config: MaskingConfig) -> Floats:
    """By how many nats the mean loss fell; 0 where it rose, and below `min_seen` in either.

    before, last: (seen, sum of losses) of the windows up to the last one that saw a key, and of that one.
    """
    enough = np.minimum(before[0], last[0]) >= max(config.min_seen, 1)
    fall = _mean(*before, 0) - _mean(*last, 0)
    return np.where(enough, np.maximum(fall, 0.0), 0.0)


def _mean(seen: Floats, total: Floats, least: float) -> Floats:
    return np.divide(total, seen, out=np.zeros_like(total), where=(seen > 0) & (seen >= least))


class Memory:
    """What is remembered of keys of one kind, and the scores that follow.

    settled: count = ema_decay * count + window. The signal `progress` compares two: `last` has the last window that saw
    a key, and `settled` those before it, by the same rule and only where a window saw the key. A sketch does so cell
    by cell. So `ema_decay: 0` is the fall between the last two windows that saw it (Graves et al. 2017; Oudeyer et al.
    2007).
    """

    def __init__(self, keys: Keys, config: MaskingConfig) -> None:
        self.keys, self.signal = keys, config.signal
        self.unit = math.log(keys.vocab_size)  # nats: the entropy of a guess among all entries
        self.settled = _store(keys, config)
        self.last = _store(keys, config) if config.signal == "progress" else None
        self._window = _store(keys, config) if self.last else None  # reused: a sketch's hashes take time

    def add(self, seen: Floats, total: Floats, decay: float) -> None:
        """Add a window, [V] each."""
        by_key = self.keys.counts(seen), self.keys.counts(total)
        if self.last is None or self._window is None:
            self.settled.decay(decay)
            self.settled.add(*by_key)
            return
        window, last, settled = self._window.table, self.last.table, self.settled.table
        window[...] = 0
        self._window.add(*by_key)
        saw = window[0] > 0
        settled[:, saw] = decay * settled[:, saw] + last[:, saw]
        last[:, saw] = window[:, saw]

    def scores(self, config: MaskingConfig) -> Floats:
        """By key, not capped."""
        if self.last is not None:
            return progress(self.settled.counts(), self.last.counts(), config) / self.unit
        counts = self.settled.counts()
        if self.signal == "entropy":
            return mean_entropy(*counts, config) / self.unit
        return (log_count if self.signal == "loss" else error_rate)(*counts, config)

    @property
    def tables(self) -> dict[str, Floats]:
        """The state, by what is added to the name of the keys' kind."""
        return {"": self.settled.table, **({"_last": self.last.table} if self.last else {})}


def _store(keys: Keys, config: MaskingConfig) -> DifficultyStore:
    if config.sketch == "exact":
        return ExactStore(keys)
    return CountMinStore(keys, config.sketch_width, config.sketch_depth)


class Difficulty:
    """The counts of a run, and the scores by vocabulary id that follow from them.

    config: with the constants that are in force; whoever schedules them sets it before a refresh.
    window: [2, V] float64 on the device, since the last refresh: predictions, and what the signal sums over them.
    token_score, trigram_score: [V].
    """

    def __init__(self, forms: WordForms, config: MaskingConfig, device: str = "cpu") -> None:
        self.config = config
        self.token_keys, self.trigram_keys = token_keys(forms), trigram_keys(forms)
        self.token, self.trigram = Memory(self.token_keys, config), Memory(self.trigram_keys, config)
        self.token_store, self.trigram_store = self.token.settled, self.trigram.settled
        self.window = torch.zeros(2, len(forms.texts), dtype=torch.float64, device=device)
        self._score()

    def observe(self, labels: torch.Tensor, value: torch.Tensor, weight: torch.Tensor) -> None:
        """Count predictions, [S] each.

        Args:
            labels: the tokens.
            value: what the signal sums: bool, whether they are hard, or multiples of `GRAIN`.
            weight: 0 in padding slots, else 1.
        """
        weight = weight.double()
        self.window[0].index_add_(0, labels, weight)
        self.window[1].index_add_(0, labels, weight * value)

    def refresh(self, all_reduce: Callable[[torch.Tensor], object]) -> None:
        """Add the window, summed over the ranks, to the counts and rescore: count = ema_decay * count + window."""
        all_reduce(self.window)
        seen, total = self.window.cpu().numpy()
        for memory in (self.token, self.trigram):
            memory.add(seen, total, self.config.ema_decay)
        self.window.zero_()
        self._score()

    def _score(self) -> None:
        """Accuracy-Morph caps each trigram and their mean; CMS-Morph (`trigram_mean: all`) the mean alone."""
        every, cap = self.config.trigram_mean == "all", self.config.cap
        by_key = np.minimum(self.token.scores(self.config), cap)
        self.token_score: Floats = self._in_band(by_key[self.token_keys.key])
        by_trigram = self.trigram.scores(self.config)
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
        return {"window": window.cpu(), **{name: torch.from_numpy(table) for name, table in self._tables.items()}}

    def load(self, state: dict[str, torch.Tensor], rank: int) -> None:
        """Restore `state()`. Rank 0 takes the pending counts of all ranks, so that their sum stays the same."""
        self.window.copy_(state["window"] if rank == 0 else torch.zeros_like(state["window"]))
        for name, table in self._tables.items():
            table[...] = state[name].numpy()
        self._score()

    @property
    def _tables(self) -> dict[str, Floats]:
        kinds = {"token": self.token, "trigram": self.trigram}
        return {f"{kind}{more}": table for kind, memory in kinds.items() for more, table in memory.tables.items()}
