"""Which positions are predicted, and what stands there instead: sources, their mixture, replacement.

Tensors and integers only; everything happens in the step, on the device, without a loop over tokens. Shapes: B rows
of the global batch, b rows of this rank, T tokens a row, V vocabulary entries, S index slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from trainables.budget import Audit, Budget, Selection
from trainables.config import Config
from trainables.difficulty import Difficulty
from trainables.noise import StepNoise

AllReduce = Callable[[torch.Tensor], object]
State = dict[str, torch.Tensor]
NEVER = -torch.inf


class MaskingPolicy(Protocol):
    """Selects what is predicted, observes the answers, and at a refresh learns from them.

    total: positions predicted in a global batch.
    """

    total: int

    def select(self, ids_bT: torch.Tensor, noise: StepNoise) -> Selection:
        """What to predict of this rank's rows, within the budget."""
        ...

    def observe(self, labels: torch.Tensor, predictions: torch.Tensor, weight: torch.Tensor) -> None:
        """Take in the top-1 predictions at the selected positions, [S] each."""
        ...

    def refresh(self, all_reduce: AllReduce) -> None:
        """Renew what selection goes by, from the observations of all ranks. Every rank calls it."""
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


class Source(Protocol):
    """Gives every position a key: the largest of a row are drawn, -inf never."""

    name: str

    def keys(self, ids_bT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        """[b, T] float64, so that ties do not happen and every device agrees on the order."""
        ...

    def renew(self, difficulty: Difficulty) -> None:
        """Take over new scores."""
        ...


class Random:
    """Every position alike."""

    name = "random"

    def keys(self, ids_bT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return _to(noise.uniform("random")[rows], ids_bT.device)

    def renew(self, difficulty: Difficulty) -> None:
        """Nothing to learn."""


class _Weighted:
    """Positions without replacement, with probability proportional to the score of their token.

    The largest of log(score) + Gumbel noise are such a draw (the Plackett-Luce law; Kool et al. 2019).
    """

    name: str

    def __init__(self, vocab_size: int, device: str) -> None:
        self.log_score = torch.full((vocab_size,), NEVER, dtype=torch.float64, device=device)

    def keys(self, ids_bT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return self.log_score[ids_bT] + _to(noise.gumbel(self.name)[rows], ids_bT.device)

    def _set(self, score_V: NDArray[np.float64]) -> None:
        with np.errstate(divide="ignore"):
            self.log_score.copy_(torch.from_numpy(np.log(score_V)))


class TokenDifficulty(_Weighted):
    """By the error rate of the token (Accuracy-Morph, BabyLM 2026)."""

    name = "token"

    def renew(self, difficulty: Difficulty) -> None:
        self._set(difficulty.token_score)


class TrigramDifficulty(_Weighted):
    """By the mean error rate of the token's character trigrams (Accuracy-Morph, BabyLM 2026)."""

    name = "trigram"

    def renew(self, difficulty: Difficulty) -> None:
        self._set(difficulty.trigram_score)


class Mixture:
    """[(share, source), ...] under one budget: random masking, Accuracy-Morph and its ablations are all mixtures.

    Sources draw within each row, in order, without replacement. Random comes first in the list and draws last: its
    own share and what the others could not supply. In the mask warm-up it draws everything, while counts gather.
    """

    def __init__(
        self,
        parts: list[tuple[float, Source]],
        config: Config,
        difficulty: Difficulty,
        eligible: torch.Tensor,
        rows: slice,
    ) -> None:
        (_, self.random), *self.others = parts
        self.difficulty, self.eligible_V, self.rows = difficulty, eligible, rows
        masking = config.masking
        self.budget = Budget(masking.rate, masking.apportion, config.batch_size, config.data.block)
        self.total, self.slots, self.warmup_steps = self.budget.total, self.budget.slots(rows), config.warmup_steps
        self.audit = Audit([source.name for _, source in parts], str(eligible.device))

    def select(self, ids_bT: torch.Tensor, noise: StepNoise) -> Selection:
        warm = noise.step >= self.warmup_steps
        quotas = self.budget.quotas([share if warm else 0.0 for share, _ in self.others], noise)[:, self.rows]
        left, *wanted = _to(quotas, ids_bT.device)
        free = eligible = self.eligible_V[ids_bT]
        supplied = []
        for (share, source), quota in zip(self.others, wanted, strict=True):
            if warm and share:
                taken = self._draw(source, share, ids_bT, free, quota, noise)
                free, left = free & ~taken, left - taken.sum(1)
                supplied.append(taken.sum())
            else:
                supplied.append(left.new_zeros(()))
        rest = self._draw(self.random, 1.0, ids_bT, free, left, noise)
        chosen = (eligible & ~free) | rest
        positions = torch.nonzero_static(chosen.flatten(), size=self.slots, fill_value=ids_bT.numel()).squeeze(1)
        short = torch.stack(wanted).sum() - torch.stack(supplied).sum() if wanted else left.new_zeros(())
        by_source = torch.stack([rest.sum(), *supplied, short])
        selection = Selection(positions, (positions < ids_bT.numel()).float(), by_source)
        self.audit.count(selection, ids_bT.numel(), int(quotas[0].sum()), warm)
        return selection

    def _draw(
        self,
        source: Source,
        share: float,
        ids_bT: torch.Tensor,
        free: torch.Tensor,
        quota: torch.Tensor,
        noise: StepNoise,
    ) -> torch.Tensor:
        """[b, T] bool: the `quota` largest keys of each row among its free positions, fewer where there are fewer."""
        keys = source.keys(ids_bT, noise, self.rows).masked_fill(~free, NEVER)
        values, index = keys.topk(self.budget.largest(share), dim=1)
        rank = torch.arange(values.shape[1], device=values.device)
        return torch.zeros_like(free).scatter_(1, index, (rank < quota[:, None]) & (values > NEVER))

    def observe(self, labels: torch.Tensor, predictions: torch.Tensor, weight: torch.Tensor) -> None:
        self.difficulty.observe(labels, predictions, weight)

    def refresh(self, all_reduce: AllReduce) -> None:
        self.difficulty.refresh(all_reduce)
        self.audit.refreshes += 1
        self._renew()

    def _renew(self) -> None:
        for _, source in self.others:
            source.renew(self.difficulty)

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        audit = self.audit.metrics(_summed(self.audit.counts, all_reduce))
        return {**audit, "audit/capped": self.difficulty.capped}

    def state(self, all_reduce: AllReduce) -> State:
        audit = _summed(self.audit.counts, all_reduce).cpu()
        refreshes = torch.tensor(self.audit.refreshes)
        return {"audit": audit, "refreshes": refreshes, **self.difficulty.state(all_reduce)}

    def load(self, state: State, rank: int) -> None:
        self.audit.counts.copy_(state["audit"] if rank == 0 else torch.zeros_like(state["audit"]))
        self.audit.refreshes = int(state["refreshes"])
        self.difficulty.load(state, rank)
        self._renew()


def build(
    config: Config, token_strings: list[str], eligible: NDArray[np.bool_], rows: slice, device: str
) -> MaskingPolicy:
    """The policy that the settings describe, for this rank's rows."""
    size, shares = len(token_strings), config.masking.shares
    parts: list[tuple[float, Source]] = [
        (shares.random, Random()),
        (shares.token, TokenDifficulty(size, device)),
        (shares.trigram, TrigramDifficulty(size, device)),
    ]
    difficulty = Difficulty(token_strings, config.masking, device)
    return Mixture(parts, config, difficulty, torch.tensor(eligible, device=device), rows)


@dataclass(frozen=True)
class Replacement:
    """What stands at the selected positions: 80 % [MASK], 10 % a uniform vocabulary id, 10 % the token itself (BERT).

    Noise is indexed by position: two policies which select the same position do the same to it.
    """

    mask_id: int
    vocab_size: int
    rows: slice

    def __call__(self, ids_bT: torch.Tensor, selection: Selection, noise: StepNoise) -> torch.Tensor:
        """The model's input, [b, T]."""
        chance = _to(noise.uniform("replace")[self.rows], ids_bT.device)
        other = _to(noise.integers("other", self.vocab_size)[self.rows], ids_bT.device)
        instead = torch.where(chance < 0.8, self.mask_id, torch.where(chance < 0.9, other, ids_bT))
        selected = torch.zeros(ids_bT.numel() + 1, dtype=torch.bool, device=ids_bT.device)
        selected[selection.positions] = True
        return torch.where(selected[:-1].view_as(ids_bT), instead, ids_bT)


def _to(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(device, non_blocking=True)


def _summed(tensor: torch.Tensor, all_reduce: AllReduce) -> torch.Tensor:
    """The sum over the ranks, in a copy."""
    total = tensor.clone()
    all_reduce(total)
    return total
