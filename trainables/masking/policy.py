"""The contract of a masking policy: select what is predicted, observe the answers, learn from them at a refresh.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, V vocabulary entries, S index slots.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.data.word_forms import WordForms
from trainables.masking.audit import AllReduce, Audit, State
from trainables.masking.budget import Selection
from trainables.noise import StepNoise

Floats = NDArray[np.float64]


class Vocabulary(NamedTuple):
    """What a policy knows about the tokens, by id.

    The last four come from the text. Without them the entries say where words begin (under byte-level schemes they miss
    a word that no space precedes), every word is a unit of its own, and every token is as relevant as the others.

    Args:
        forms: the tokens as text.
        eligible: [V] bool, whether a token may be predicted.
        unigram: [V] float64, probabilities in the train part.
        initial: [V] float64, the share of a token's occurrences in the train part that begin a word.
        word_start: (noise, device) to [B, T] bool, where words begin in a step's batch.
        collocation_start: the same, where collocations begin, and words outside of them (collocations.py).
        relevance: [V] float64, 0 or more, how much a token tells of its sentence (relevance.py).
    """

    forms: WordForms
    eligible: NDArray[np.bool_]
    unigram: Floats
    initial: Floats | None = None
    word_start: Callable[[StepNoise, torch.device], torch.Tensor] | None = None
    collocation_start: Callable[[StepNoise, torch.device], torch.Tensor] | None = None
    relevance: Floats | None = None

    @property
    def size(self) -> int:
        """V."""
        return len(self.eligible)


class Answers(NamedTuple):
    """The model's answers at the selected positions, [S] each.

    Args:
        labels: the tokens that stood there.
        predictions: the top-1.
        losses: cross-entropy in nats.
        masked: bool, whether the input had [MASK] there.
        entropies: of the predicted distribution, in nats; None unless the settings want them.
    """

    labels: torch.Tensor
    predictions: torch.Tensor
    losses: torch.Tensor
    masked: torch.Tensor
    entropies: torch.Tensor | None = None


class MaskingPolicy(Protocol):
    """Selects what is predicted, observes the answers, and learns from them at a refresh.

    Selection depends on the global batch, the noise and what was learned: bitwise the same for any number of ranks.
    """

    audit: Audit

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        """What to predict of this rank's rows of the global batch, within the budget."""
        ...

    def observe(self, selection: Selection, answers: Answers, all_reduce: AllReduce) -> None:
        """Take in the answers to a selection. Every rank calls it."""
        ...

    def refresh(self, all_reduce: AllReduce) -> None:
        """Update the scores from the observations of all ranks. Every rank calls it."""
        ...

    def scores(self) -> dict[str, Floats]:
        """The scores behind a selection: `token`, [V]; and `trigram`, by trigram, if trigrams have scores."""
        ...

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        """The mask audit. Every rank calls it. RuntimeError if a batch broke the budget."""
        ...

    def state(self, all_reduce: AllReduce) -> State:
        """Everything that later selections depend on, with all ranks' pending observations. Every rank calls it."""
        ...

    def load(self, state: State, rank: int) -> None:
        """Restore `state()`."""
        ...
