"""What a masking policy is: it selects what is predicted, observes the answers, and at a refresh learns from them.

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
    """What a policy knows of the tokens, by id.

    forms: what they are as text; eligible: [V] bool, may be predicted; unigram: [V] float64, probabilities in the train
    part. Of the text, where there is one: initial: [V] float64, the share of a token's occurrences there with which a
    word begins; word_start(noise, device): [B, T] bool, where words begin in a step's batch. Without them the entries
    tell, which under byte-level schemes know nothing of a word that no space precedes.
    """

    forms: WordForms
    eligible: NDArray[np.bool_]
    unigram: Floats
    initial: Floats | None = None
    word_start: Callable[[StepNoise, torch.device], torch.Tensor] | None = None

    @property
    def size(self) -> int:
        """V."""
        return len(self.eligible)


class Answers(NamedTuple):
    """What the model said at the selected positions, [S] each.

    labels; predictions: the top-1; losses: cross-entropy in nats; masked: bool, [MASK] stood there.
    """

    labels: torch.Tensor
    predictions: torch.Tensor
    losses: torch.Tensor
    masked: torch.Tensor


class MaskingPolicy(Protocol):
    """Selects what is predicted, observes the answers, and at a refresh learns from them.

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
        """Renew what selection goes by, from the observations of all ranks. Every rank calls it."""
        ...

    def scores(self) -> dict[str, Floats]:
        """What selection goes by, by id: `token`, [V]; and by trigram, where trigrams have scores: `trigram`."""
        ...

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        """The mask audit. Every rank calls it. RuntimeError where a batch broke the budget."""
        ...

    def state(self, all_reduce: AllReduce) -> State:
        """All that a later selection depends on, pending observations of all ranks included. Every rank calls it."""
        ...

    def load(self, state: State, rank: int) -> None:
        """Go on from `state()`."""
        ...
