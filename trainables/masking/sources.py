"""The sources of the mask budget: each gives every position a priority, and a row's largest priorities are drawn.

catalogue.py names them. Its entry says what to call, with settings, vocabulary and device, to make a source.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, V vocabulary entries.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.masking.difficulty import Keys, token_keys, trigram_keys
from trainables.masking.policy import Vocabulary
from trainables.noise import StepNoise
from trainables.settings.catalogue import SOURCES, Entry
from trainables.settings.config import Config

Floats = NDArray[np.float64]
NEVER = -torch.inf

# Priorities in groups: the group's noise in multiples of 2^-40, less the place in the group in multiples of 2^-50.
GROUP_GRAIN, PLACE_GRAIN = 2.0**-40, 2.0**-50


class Source:
    """Gives every position a priority: the largest of a row are drawn, -inf never.

    name: its own in the catalogue. grouped: priorities belong to groups, such as words, to be drawn together.
    """

    name: str
    grouped = False

    def __init__(self, config: Config, vocabulary: Vocabulary, device: str) -> None:
        """Keeps nothing; sources that need the settings, the vocabulary or the device override this."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        """[b, T] float64, so that ties do not happen and every device agrees on the order."""
        raise NotImplementedError


def make(name: str, config: Config, vocabulary: Vocabulary, device: str) -> Source:
    """The source of that name. ValueError, in one line, for a wrong entry in the catalogue."""
    source: Source = maker(SOURCES[name], f"the source {name}")(config, vocabulary, device)
    if source.name != name:
        raise ValueError(f"catalogue.py: {SOURCES[name].made_by} is listed as {name} and calls itself {source.name}")
    return source


def maker(entry: Entry, what: str) -> Callable[..., Any]:
    """What an entry of the catalogue is made by. ValueError, in one line, if it cannot be imported.

    what: `the source late`, say, for the message.
    """
    module, _, attribute = entry.made_by.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"catalogue.py: cannot load {entry.made_by} for {what}: {error}") from error


def largest(
    priorities: torch.Tensor, free: torch.Tensor, quota: torch.Tensor, most: int, grouped: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw the largest priorities of each row.

    Args:
        priorities: [b, T] of the source.
        free: [b, T] bool, the positions that may be drawn.
        quota: [b], how many to draw in each row.
        most: no quota is larger.
        grouped: whether to count the groups that a quota cuts.

    Returns:
        [b, T] bool, the positions drawn; and the number of groups cut, [].
    """
    length = priorities.shape[1]
    values, index = priorities.masked_fill(~free, NEVER).topk(min(length, most + grouped), dim=1)
    rank = torch.arange(values.shape[1], device=values.device)
    taken = torch.zeros_like(free).scatter_(1, index, (rank < quota[:, None]) & (values > NEVER))
    if not grouped:
        return taken, quota.new_zeros(())
    same = values[:, :-1] - values[:, 1:] < GROUP_GRAIN / 2  # NaN where both are -inf: not the same
    return taken, (same & (rank[1:] == quota[:, None])).sum()


class Random(Source):
    """Every position alike."""

    name = "random"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return noise.get_or_draw("random", lambda noise: noise.uniform("random")[rows], ids_BT.device)


class Scored(Source):
    """Draws positions without replacement, with probability proportional to their token's score.

    Taking the largest of log(score) + Gumbel noise is such a draw (the Plackett-Luce law; Kool et al. 2019).
    """

    def __init__(self, name: str, vocab_size: int, device: str) -> None:
        self.name = name
        self.log_score = torch.full((vocab_size,), NEVER, dtype=torch.float64, device=device)

    def set(self, score_V: Floats) -> None:
        """Replace the scores, [V], each 0 or more."""
        with np.errstate(divide="ignore"):
            self.log_score.copy_(torch.from_numpy(np.log(score_V)))

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        gumbel = noise.get_or_draw(self.name, lambda noise: noise.gumbel(self.name)[rows], ids_BT.device)
        return self.log_score[ids_BT[rows]] + gumbel


class BatchFrequency(Scored):
    """By how often a key occurs in the global batch: weight 0.25 from 8 times, 2 from 2 to 5 times, else 1.

    A token's weight is the mean over its keys; without any it is never drawn. The weights are those of `frequency` in
    the study of Accuracy-Morph (BabyLM 2026), the rule is ours: there it counts ids, has no trigrams, and takes the
    whole budget from step 1.
    """

    def __init__(self, name: str, keys: Keys, device: str) -> None:
        super().__init__(name, keys.vocab_size, device)
        self.token, self.key = (torch.from_numpy(part).to(device) for part in (keys.token, keys.key))
        self.keys_total = len(keys.names)
        number = np.bincount(keys.token, minlength=keys.vocab_size)
        self.number = torch.from_numpy(number.astype(np.float64)).to(device)

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        ids = ids_BT.flatten()
        # Not bincount, which makes the host wait for the largest id on a GPU.
        present = torch.zeros_like(self.number).index_add_(0, ids, torch.ones_like(ids, dtype=torch.float64))
        by_key = present.new_zeros(self.keys_total).index_add_(0, self.key, present[self.token])
        weight = torch.where(by_key >= 8, 0.25, torch.where((by_key >= 2) & (by_key <= 5), 2.0, 1.0)).double()
        total = torch.zeros_like(self.number).index_add_(0, self.token, weight[self.key])
        self.log_score.copy_((total / self.number.clamp(min=1)).log())
        return super().priorities(ids_BT, noise, rows)


class WholeWord(Source):
    """All pieces of a word together, every word of a row with the same chance. Words are as the tokenizer splits text.

    A word that began in the row before counts from this row's first piece.
    """

    name = "whole_word"
    grouped = True

    def __init__(self, config: Config, vocabulary: Vocabulary, device: str) -> None:
        self.begins = torch.tensor(vocabulary.forms.begins, device=device)
        self.start = vocabulary.word_start

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        found = self.start
        begins = self.begins[ids_BT[rows]] if found is None else found(noise, ids_BT.device)[rows]
        place = torch.arange(begins.shape[1], device=begins.device).expand_as(begins)
        first = torch.where(begins, place, 0).cummax(1).values
        return _grain(noise, self.name, rows, begins.device).gather(1, first) - (place - first) * PLACE_GRAIN


class Pmi(WholeWord):
    """The same with a collocation as one word: all units alike (PMI-Masking, Levine et al. 2021; collocations.py)."""

    name = "pmi"

    def __init__(self, config: Config, vocabulary: Vocabulary, device: str) -> None:
        super().__init__(config, vocabulary, device)
        self.start = vocabulary.collocation_start or vocabulary.word_start


class Span(Source):
    """Runs of tokens of geometric length from uniform starts (SpanBERT, Joshi et al. 2020): p = 0.2, at most 10.

    Longer ones are drawn again, not cut: the paper's mean length, 3.8, shows it. `span_p` and `span_longest` set both.
    Every position of a row proposes one span; they come in random order. A span that overlaps an earlier one adds only
    the positions that one left.
    """

    name = "span"
    grouped = True

    def __init__(self, config: Config, vocabulary: Vocabulary, device: str) -> None:
        self.p, self.longest = config.masking.span_p, config.masking.span_longest

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        device = ids_BT.device
        order = _grain(noise, self.name, rows, device)
        length = noise.get_or_draw(
            "span length", lambda noise: _span_lengths(noise, self.p, self.longest)[rows], device
        )
        priorities = order
        for reach in range(1, min(self.longest, order.shape[1])):
            covered = torch.where(length[:, :-reach] > reach, order[:, :-reach] - reach * PLACE_GRAIN, NEVER)
            priorities = torch.cat([priorities[:, :reach], torch.maximum(priorities[:, reach:], covered)], dim=1)
        return priorities


def token(config: Config, vocabulary: Vocabulary, device: str) -> Scored:
    """The source that follows token scores, by `masking.signal`."""
    if config.masking.signal == "frequency":
        return BatchFrequency("token", token_keys(vocabulary.forms), device)
    return Scored("token", vocabulary.size, device)


def trigram(config: Config, vocabulary: Vocabulary, device: str) -> Scored:
    """The source that follows scores of character trigrams, by `masking.signal`."""
    if config.masking.signal == "frequency":
        return BatchFrequency("trigram", trigram_keys(vocabulary.forms), device)
    return Scored("trigram", vocabulary.size, device)


class Rarity(Scored):
    """Follows the `rarity` of the token."""

    def __init__(self, config: Config, vocabulary: Vocabulary, device: str) -> None:
        super().__init__("rarity", vocabulary.size, device)
        self.unigram = vocabulary.unigram
        self.follow(config.masking_since(0).rarity_power)

    def follow(self, power: float) -> None:
        """Set the power."""
        self.set(rarity(self.unigram, power))


def informask(config: Config, vocabulary: Vocabulary, device: str) -> Scored:
    """The source that follows the relevance of the token (InforMask, Sadeq et al. 2022; relevance.py).

    The weight is the relevance itself, which is 0 or more. The paper masks a token as often as the best of 30 candidate
    masks of its sentence had it; with an exact budget, and in proportion to the relevance, the rule is ours.
    """
    source = Scored("informask", vocabulary.size, device)
    given = vocabulary.relevance
    source.set(np.ones(vocabulary.size) if given is None else np.maximum(given, 0.0))  # below by a rounding at most
    return source


def rarity(unigram_V: Floats, power: float) -> Floats:
    """[V] weights: a token's rank by its frequency in the train part, the most frequent first, over V, to a power.

    Tokens of one frequency share the mean of their ranks.
    """
    _, group, number = np.unique(-unigram_V, return_inverse=True, return_counts=True)
    last = np.cumsum(number)
    return ((last - (number - 1) / 2)[group] / len(unigram_V)) ** power


def _grain(noise: StepNoise, name: str, rows: slice, device: torch.device) -> torch.Tensor:
    """[b, T] uniform multiples of the groups' grain."""
    return noise.get_or_draw(
        name, lambda noise: np.floor(noise.uniform(name)[rows] / GROUP_GRAIN) * GROUP_GRAIN, device
    )


def _span_lengths(noise: StepNoise, p: float, longest: int) -> Floats:
    """[B, T] geometric, given that it is at most the longest."""
    within = 1 - (1 - p) ** longest
    longer = np.log1p(-within * noise.uniform("span length")) / np.log1p(-p)
    return np.minimum(1 + np.floor(longer), longest)
