"""AMLM: every position is predicted with a probability that follows its token's weight (Edman & Fraser 2025).

Shapes: B rows of the global batch, T tokens a row, V vocabulary entries, S index slots.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from trainables.masking.audit import AllReduce, Audit, Draw, State, summed
from trainables.masking.budget import Budget, Counts, Selection
from trainables.masking.difficulty import grained
from trainables.masking.policy import Answers, Floats, Vocabulary
from trainables.masking.sources import Random, largest
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.settings.masking_rule import MaskingConfig

NEARLY_NEVER = 1e-9  # in place of a weight of 0, so that a row of such tokens can still fill its quota
SPARE_SDS = 8  # index slots for independent draws, beyond their mean


class Amlm:
    """One weight per vocabulary id, updated every `update_every` steps: w = d * w + (1 - d) * rate * (1 - score).

    score is the smoothed top-1 accuracy (hard), or 1 - the mean cross-entropy, scaled to [0, 1] over the vocabulary
    (soft), of the last window only. In a row, probabilities are proportional to the weights and `rate` on average.

    In a mask warm-up, which published AMLM does not have, positions are drawn as a mixture draws them in its own: up to
    its end a run equals that of any mixture on the seed, bit for bit. Answers count from the first step on.

    `replicate` draws as its code does: independently, over special tokens as well (the code leaves out padding alone,
    and the blocks hold none), and what a probability has above 1 is lost.
    """

    def __init__(self, config: Config, vocabulary: Vocabulary, rows: slice, seed: int, device: str) -> None:
        size = vocabulary.size
        self.config, self.rows = config, rows
        self.eligible_V = torch.tensor(vocabulary.eligible | config.masking.as_coded, device=device)
        self.rate = config.rate_at(0)
        self.random = Random(config, vocabulary, device)
        self.weight = torch.full((size,), self.rate, dtype=torch.float64, device=device)
        self.window = torch.zeros(2, size, dtype=torch.float64, device=device)  # answers; right ones, or their losses
        self.audit = Audit(["amlm"], size, config.masking.on_budget, device)

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        warm = noise.step >= self.config.warmup_steps
        self.rate = self.config.rate_at(noise.step)
        eligible = self.eligible_V[ids_BT]
        independent = self.config.masking.independent
        if not warm and not independent:
            selection, draw = self._random(ids_BT, eligible[self.rows], noise)
        else:
            weight = (
                self.weight[ids_BT].clamp(min=NEARLY_NEVER) if warm else torch.ones_like(eligible, dtype=torch.float64)
            )
            weight = torch.where(eligible, weight, 0.0)
            selection, draw = (self._independent if independent else self._exact)(weight, eligible, noise)
        self.audit.count(selection, draw, ids_BT[self.rows].numel(), warm)
        return selection

    def _random(self, ids_BT: torch.Tensor, free: torch.Tensor, noise: StepNoise) -> tuple[Selection, Draw]:
        """Draw as a mixture does in its mask warm-up."""
        config, (rows, length) = self.config, ids_BT.shape

        def drawn(noise: StepNoise) -> Counts:  # for the step of that noise: the rate may change
            return Budget(config.rate_at(noise.step), rows, length).quotas([], noise)[0]

        budget, by_row = Budget(self.rate, rows, length), noise.get_or_draw("row totals", drawn, ids_BT.device)
        due = by_row[self.rows]
        taken, _ = largest(self.random.priorities(ids_BT, noise, self.rows), free, due, budget.largest(), False)
        selection = Selection.of(taken, budget.slots(self.rows), budget.total, by_row)
        return selection, Draw(taken.sum()[None], selection.weight.sum() != due.sum())

    def _exact(self, weight: torch.Tensor, eligible: torch.Tensor, noise: StepNoise) -> tuple[Selection, Draw]:
        budget = Budget(self.rate, len(weight), weight.shape[1])
        due = weight.new_full((len(weight),), budget.total / len(weight))
        chosen = systematic(inclusion(weight, due), budget.total, noise) & eligible
        mine = chosen[self.rows]
        every = len(mine) == len(chosen)
        slots = budget.total if every else min(budget.total, len(mine) * math.ceil(budget.total / len(chosen)))
        selection = Selection.of(mine, slots, budget.total, chosen.sum(1))
        return selection, Draw(mine.sum()[None], chosen.sum() != budget.total)

    def _independent(self, weight: torch.Tensor, eligible: torch.Tensor, noise: StepNoise) -> tuple[Selection, Draw]:
        as_coded, due = self.config.masking.as_coded, self.rate * eligible.sum(1)
        chance = proportional(weight, due) if as_coded else inclusion(weight, due)
        chosen = noise.get_or_draw("amlm", lambda noise: noise.uniform("amlm"), weight.device) < chance
        mine, chance = chosen[self.rows], chance[self.rows]
        mean = self.rate * mine.numel()
        slots = min(mine.numel(), math.ceil(mean + SPARE_SDS * math.sqrt(mean)))
        selection = Selection.of(mine, slots, chosen.sum(), chosen.sum(1))
        broken = selection.weight.sum() != mine.sum()
        expected = chance.sum() if as_coded else self.rate * eligible[self.rows].sum()
        variance = (chance - chance**2).sum()
        draw = Draw(mine.sum()[None], broken, expected=expected, variance=variance)
        return selection, draw

    def observe(self, selection: Selection, answers: Answers, all_reduce: AllReduce) -> None:
        self.audit.tally(answers.labels, selection.weight)
        weight = selection.weight.double()
        if self.config.masking.score == "soft":
            weight = weight * answers.masked
            value = grained(answers.losses)
        else:
            value = (answers.predictions == answers.labels).double()
        self.window[0].index_add_(0, answers.labels, weight)
        self.window[1].index_add_(0, answers.labels, weight * value)

    def refresh(self, all_reduce: AllReduce) -> None:
        all_reduce(self.window)
        number, total = self.window.cpu().numpy()
        self.audit.refreshes += 1
        masking = self.config.masking_since(self.audit.refreshes)
        easy = accuracy(number, total) if masking.score == "hard" else ease(number, total, masking)
        self.window.zero_()
        weight = masking.ema_decay * self.weight.cpu().numpy() + (1 - masking.ema_decay) * self.rate * (1 - easy)
        weight = np.maximum(weight, masking.floor)
        if masking.renormalise:
            weight *= self.rate / weight.mean()
        self.weight.copy_(torch.from_numpy(weight))

    def scores(self) -> dict[str, Floats]:
        return {"token": self.weight.cpu().numpy().copy()}

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        return self.audit.metrics(all_reduce)

    def state(self, all_reduce: AllReduce) -> State:
        window = summed(self.window, all_reduce)
        return {**self.audit.state(all_reduce), "window": window.cpu(), "weight": self.weight.cpu()}

    def load(self, state: State, rank: int) -> None:
        self.audit.load(state, rank)
        self.window.copy_(state["window"] if rank == 0 else torch.zeros_like(state["window"]))
        self.weight.copy_(state["weight"])


def accuracy(number: Floats, right: Floats) -> Floats:
    """[V] smoothed accuracy of a window, 0.5 for ids that it did not see (`hard`)."""
    return (right + 0.5) / (number + 1)


def ease(number: Floats, loss: Floats, config: MaskingConfig) -> Floats:
    """[V] 1 - the mean cross-entropy of a window, scaled to [0, 1] over the vocabulary (`soft`).

    Ids that it did not see have ln V. pseudo_count adds so many observations of ln V to every id.
    """
    unseen, extra = math.log(len(number)), config.pseudo_count
    mean = np.where(number + extra > 0, (extra * unseen + loss) / np.maximum(number + extra, 1e-300), unseen)
    spread = mean.max() - mean.min()
    return 1 - (mean - mean.min()) / spread if spread > 0 else np.zeros_like(mean)


def inclusion(weight_BT: torch.Tensor, due_B: torch.Tensor) -> torch.Tensor:
    """[B, T] probabilities, proportional to the weights and at most 1, that add up to `due` in each row.

    What a clipped position has above 1 is spread over the rest of its row until none exceeds 1: with the k largest
    clipped, the others are scaled by (due - k) / (their sum). The smallest k for which that fits is taken.
    """
    largest = weight_BT.sort(dim=1, descending=True).values
    rest = largest.flip(1).cumsum(1).flip(1)
    clipped = torch.arange(weight_BT.shape[1], device=weight_BT.device)
    scale = (due_B[:, None] - clipped) / rest
    fits = (scale * largest <= 1) | (rest == 0)
    first = fits.int().argmax(1, keepdim=True)
    return (weight_BT * scale.gather(1, first).nan_to_num(posinf=0.0)).clamp(max=1)


def proportional(weight_BT: torch.Tensor, due_B: torch.Tensor) -> torch.Tensor:
    """[B, T] probabilities, proportional to the weights, `due` in each row less what any has above 1."""
    return (weight_BT * (due_B / weight_BT.sum(1))[:, None]).clamp(max=1)


def systematic(chance_BT: torch.Tensor, total: int, noise: StepNoise) -> torch.Tensor:
    """[B, T] bool: exactly `total` positions with exactly these inclusion probabilities (Madow 1949).

    One pass over the batch from one uniform start, rows in random order and positions permuted within each. If rows
    have equal quotas, each gets the floor or the ceiling of its own.
    """
    order = noise.get_or_draw("amlm order", _order, chance_BT.device)
    upto = chance_BT.flatten()[order].cumsum(0)
    upto[-1] = total
    counted = torch.floor(
        upto + noise.get_or_draw("amlm start", lambda noise: noise.starts("amlm start", 1), upto.device)
    )
    taken = torch.diff(counted, prepend=counted.new_zeros(1)) > 0
    return torch.zeros_like(taken).index_copy_(0, order, taken).view_as(chance_BT)


def _order(noise: StepNoise) -> Counts:
    """[B * T] all positions of the batch, row after row."""
    rows, length = noise.shape
    row = np.argsort(noise.starts("amlm rows", rows), kind="stable")
    place = np.argsort(noise.uniform("amlm places"), axis=1, kind="stable")
    return (row[:, None] * length + place[row]).ravel()
