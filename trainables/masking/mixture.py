"""Which positions are predicted: the mixture of sources, and the policy of the settings.

Tensors and integers only: everything happens in the step, on the device, without a loop over tokens. Shapes: B rows
of the global batch, b rows of this rank, T tokens a row, V vocabulary entries, S index slots.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from trainables import noise as randomness
from trainables.masking import sources
from trainables.masking.audit import AllReduce, Audit, Draw, State
from trainables.masking.budget import Budget, Counts, RowBudget, Selection
from trainables.masking.difficulty import Difficulty, grained
from trainables.masking.policy import Answers, Floats, MaskingPolicy, Vocabulary
from trainables.masking.sources import Rarity, Scored, largest
from trainables.noise import StepNoise
from trainables.settings.catalogue import POLICIES
from trainables.settings.config import Config
from trainables.settings.masking_rule import MaskingConfig


class Mixture:
    """[(share, source), ...] under one budget: random masking, Accuracy-Morph and its ablations are all mixtures.

    Sources draw within each row, in order, without replacement. Random is first in the list and draws last: its own
    share, and what the others could not supply. In the mask warm-up it draws everything, while counts build up.
    """

    def __init__(self, config: Config, vocabulary: Vocabulary, rows: slice, seed: int, device: str) -> None:
        masking = config.masking
        self.config, self.rows, self.seed = config, rows, seed
        self.eligible_V = torch.tensor(vocabulary.eligible, device=device)
        eligible = np.where(vocabulary.eligible, vocabulary.unigram, 0.0)
        self.probability = eligible / eligible.sum()
        self.loss_weight_V = torch.ones(vocabulary.size, device=device)
        largest = masking.largest_shares.items()
        shares = {name: share for name, share in largest if share or name in ("random", "token", "trigram")}
        made = {name: sources.make(name, config, vocabulary, device) for name in shares}
        self.random, token, trigram = made.pop("random"), made["token"], made["trigram"]
        assert isinstance(token, Scored)
        assert isinstance(trigram, Scored)
        self.token, self.trigram = token, trigram
        self.others = [(shares[name], source) for name, source in made.items()]  # the largest of a run
        self.names = list(made)
        self.remainder = 1 if masking.shares.trigram or len(self.others) == 2 else None  # of rounding a row
        self.difficulty = Difficulty(vocabulary.forms, config.masking_since(0), device)
        rarity = made.get("rarity")
        self.rarity = rarity if isinstance(rarity, Rarity) and "rarity_power" in masking.changing else None
        names = [self.random.name, *(source.name for _, source in self.others)]
        self.audit = Audit(names, vocabulary.size, masking.on_budget, device)
        self._renew()

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        warm = noise.step >= self.config.warmup_steps
        budget, quotas, total = self._due(ids_BT, noise, warm)
        due, *wanted = quotas[:, self.rows]
        left = due
        free = eligible = self.eligible_V[ids_BT[self.rows]]
        supplied, cut = [], left.new_zeros(())
        for (share, source), quota in zip(self.others, wanted, strict=True):
            if warm and (share or self.config.masking.by_row):
                priorities = source.priorities(ids_BT, noise, self.rows)
                taken, cut_here = largest(priorities, free, quota, budget.largest(share), source.grouped)
                free, left, cut = free & ~taken, left - taken.sum(1), cut + cut_here
                supplied.append(taken.sum())
            else:
                supplied.append(left.new_zeros(()))
        rest, _ = largest(self.random.priorities(ids_BT, noise, self.rows), free, left, budget.largest(), False)
        selection = Selection.of((eligible & ~free) | rest, budget.slots(self.rows), total, quotas[0])
        short = torch.stack(wanted).sum() - torch.stack(supplied).sum()
        broken = selection.weight.sum() != due.sum()
        draw = Draw(torch.stack([rest.sum(), *supplied]), broken, short, cut)
        self.audit.count(selection, draw, eligible.numel(), warm)
        if not (warm and self.config.masking.loss_weight):
            return selection
        labels = ids_BT[self.rows].flatten()[selection.positions.clamp(max=eligible.numel() - 1)]
        return replace(selection, loss_weight=selection.weight * self.loss_weight_V[labels])

    def _due(
        self, ids_BT: torch.Tensor, noise: StepNoise, warm: bool
    ) -> tuple[Budget | RowBudget, torch.Tensor, int | torch.Tensor]:
        """The budget; the parts of all rows and of their sources, [1 + sources, B]; and the batch's total."""
        config = self.config
        shape = (config.batch_size, config.data.block)

        def budget_of(step: int) -> Budget:
            return Budget(config.rate_at(step), *shape, config.masking.row_rates, len(self.others))

        def shares_of(step: int) -> list[float]:
            shares = config.masking.shares_at(step, config.steps)
            return [shares[name] if warm else 0.0 for name in self.names]

        if config.masking.by_row:
            by_row = RowBudget(config.rate_at(noise.step), *shape)
            random = config.masking.shares.random if warm else 1.0
            quotas = by_row.quotas(self.eligible_V[ids_BT].sum(1), random, shares_of(noise.step), self.remainder)
            return by_row, quotas, quotas[0].sum()

        def drawn(noise: StepNoise) -> Counts:  # for the step of that noise: the rate and the shares may change
            return budget_of(noise.step).quotas(shares_of(noise.step), noise)

        budget = budget_of(noise.step)
        return budget, noise.get_or_draw("quotas", drawn, ids_BT.device), budget.total

    @property
    def _counting(self) -> bool:
        """Whether the answers to the last selection count."""
        return self.audit.warm or self.config.masking.counted is None

    def observe(self, selection: Selection, answers: Answers, all_reduce: AllReduce) -> None:
        self.audit.tally(answers.labels, selection.weight)
        if not self._counting:
            return
        self.difficulty.observe(answers.labels, self._value(selection, answers, all_reduce), selection.weight)

    def _value(self, selection: Selection, answers: Answers, all_reduce: AllReduce) -> torch.Tensor:
        """[S] what the signal sums over a token's predictions."""
        signal = self.config.masking.signal
        if signal == "loss":
            losses = answers.losses.double()
            return losses >= self._threshold(selection, losses, all_reduce)
        if signal == "entropy":
            assert answers.entropies is not None, "the settings want them"
            return grained(answers.entropies)
        return grained(answers.losses) if signal == "progress" else answers.predictions != answers.labels

    def _threshold(self, selection: Selection, losses: torch.Tensor, all_reduce: AllReduce) -> torch.Tensor:
        """The quantile of the global batch's losses, [], linear between two of them. losses: [S] float64."""
        config, total = self.config, selection.total
        every = losses.new_zeros(config.tokens_per_step + 1)
        end = config.tokens_per_step
        place = torch.where(selection.weight > 0, selection.positions + self.rows.start * config.data.block, end)
        every.index_copy_(0, place, losses + 1)  # 0 marks positions without a prediction: a loss is never below 0
        every[end] = 0
        all_reduce(every)
        below = 1 - config.masking.loss_quantile
        if isinstance(total, int):
            largest, at = every.topk(total).values - 1, below * (total - 1)
            low, part = int(at), at - int(at)
            return torch.lerp(largest[low], largest[min(low + 1, total - 1)], part)
        largest, at = every.sort(descending=True).values - 1, below * (total - 1).clamp(min=0).double()
        low = at.long()
        one, other = largest[torch.stack([low, torch.minimum(low + 1, total - 1)]).clamp(min=0)]
        return torch.lerp(one, other, at - low)

    def refresh(self, all_reduce: AllReduce) -> None:
        if not self._counting:
            return
        self.audit.refreshes += 1
        self.difficulty.config = self._constants
        self.difficulty.refresh(all_reduce)
        self._renew()

    @property
    def _constants(self) -> MaskingConfig:
        """The settings with the constants that are in force since the last refresh."""
        return self.config.masking_since(self.audit.refreshes)

    def _renew(self) -> None:
        masking, difficulty = self._constants, self.difficulty
        if self.rarity:
            self.rarity.follow(masking.rarity_power)
        if masking.signal == "frequency":
            return
        order = slice(None)
        if masking.signal == "permuted":
            order = np.argsort(randomness.words(len(difficulty.token_score), self.seed, "deal", self.audit.refreshes))
        self.token.set(difficulty.token_score[order])
        self.trigram.set(difficulty.trigram_score[order])
        if masking.loss_weight:
            weights = loss_weights(difficulty.token_score[order], self.probability, masking.loss_weight)
            self.loss_weight_V.copy_(torch.from_numpy(weights))

    def scores(self) -> dict[str, Floats]:
        scores = {"token": np.exp(self.token.log_score.cpu().numpy())}
        by_trigram = self.config.masking.signal not in ("frequency", "permuted")
        return {**scores, "trigram": self.difficulty.by_trigram} if by_trigram else scores

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        return {**self.audit.metrics(all_reduce), "audit/capped": self.difficulty.capped}

    def state(self, all_reduce: AllReduce) -> State:
        log_score = self.token.log_score.cpu()  # of the last batch, if scores come from batches
        return {**self.audit.state(all_reduce), **self.difficulty.state(all_reduce), "log_score": log_score}

    def load(self, state: State, rank: int) -> None:
        self.audit.load(state, rank)
        self.difficulty.config = self._constants
        self.difficulty.load(state, rank)
        self.token.log_score.copy_(state["log_score"])
        self._renew()


def loss_weights(score_V: Floats, probability_V: Floats, share: float) -> Floats:
    """[V] what a prediction's loss counts, by its token: 1 - share + share * score / mean score, 1 where all are 0.

    The mean is that of a position drawn at random from the train part, so the weights' own is 1 there.
    """
    mean = float(score_V @ probability_V)
    return 1 - share + share * score_V / mean if mean > 0 else np.ones_like(score_V)


def build(config: Config, vocabulary: Vocabulary, rows: slice, seed: int, device: str) -> MaskingPolicy:
    """The masking policy of the settings.

    Args:
        config: the settings.
        vocabulary: what policies know of the tokens.
        rows: of the global batch that are this rank's.
        seed: of the run.
        device: where the policy's tensors lie.
    """
    name = config.masking.policy
    policy: MaskingPolicy = sources.maker(POLICIES[name], f"the policy {name}")(config, vocabulary, rows, seed, device)
    return policy
