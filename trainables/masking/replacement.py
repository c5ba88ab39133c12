"""What the model sees in place of the text: which positions are corrupted, and what stands there.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, V vocabulary entries.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from trainables.masking.budget import Selection
from trainables.masking.sources import largest
from trainables.noise import StepNoise
from trainables.settings.masking_rule import Replacements


@dataclass(frozen=True)
class Corruption:
    """Corrupts the predicted positions, or another number than those: C = round(share * B * T) in every batch.

    With more than are predicted, all of these are corrupted, and others that may be predicted, all with the same
    chance; with fewer, so many of the predicted ones, all with the same chance. Rows get theirs by systematic sampling.
    So corruption and prediction have rates of their own (Wettig et al. 2023, section 5). Where more is predicted than
    corrupted, they repeat the sequence so that every prediction is of a corrupted position; here the rest of the
    predicted positions is shown as it is.

    Args:
        share: of all positions; None corrupts what is predicted.
        eligible: [V] bool, which tokens may be corrupted.
        rows: of the global batch that are this rank's.
    """

    share: float | None
    eligible: torch.Tensor
    rows: slice

    def __call__(
        self, ids_BT: torch.Tensor, selection: Selection, noise: StepNoise
    ) -> tuple[torch.Tensor, torch.Tensor | bool]:
        """[b, T] bool, what is corrupted of this rank's rows; and whether the batch had too little to corrupt."""
        predicted = selection.chosen(ids_BT[self.rows].shape)
        if self.share is None:
            return predicted, False
        assert selection.by_row is not None, "the policy does not say how many positions of each row it predicts"
        number = round(self.share * ids_BT.shape[0] * ids_BT.shape[1])
        device = ids_BT.device
        eligible = self.eligible[ids_BT]
        rest = eligible.sum(1) - selection.by_row
        total = selection.by_row.sum()
        starts = noise.get_or_draw("corrupt rows", lambda noise: noise.starts("corrupt rows", 2), device)
        quota = _spread(selection.by_row, total.clamp(max=number), starts[0])
        quota = quota + _spread(rest, (number - total).clamp(min=0), starts[1])
        own = quota[self.rows]
        chance = noise.get_or_draw("corrupt", lambda noise: noise.uniform("corrupt")[self.rows], device)
        # Predicted positions come first: a row gets others only where all predicted ones of the batch are corrupted.
        taken, _ = largest(chance + predicted, eligible[self.rows] | predicted, own, ids_BT.shape[1], False)
        return taken, taken.sum() != own.sum()


def _spread(room_B: torch.Tensor, wanted: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """[B] how many of each row's positions are taken, if `wanted` of all are taken evenly from a start."""
    upto = room_B.cumsum(0)
    counted = torch.floor((upto * wanted).double() / upto[-1].clamp(min=1).double() + start).long()
    return torch.diff(counted, prepend=counted.new_zeros(1))


@dataclass(frozen=True)
class Replacement:
    """Replaces corrupted positions, by chance: by [MASK], by a uniform vocabulary id, or by themselves.

    Noise is indexed by position: two policies that select the same position do the same to it.
    """

    mask_id: int
    vocab_size: int
    rows: slice
    chances: Replacements = field(default_factory=Replacements)

    def __call__(self, ids_bT: torch.Tensor, corrupted_bT: torch.Tensor, noise: StepNoise) -> torch.Tensor:
        """The model's input, [b, T], from the token ids and the positions to replace."""
        chance = noise.get_or_draw("replace", lambda noise: noise.uniform("replace")[self.rows], ids_bT.device)
        other = noise.get_or_draw(
            "other", lambda noise: noise.integers("other", self.vocab_size)[self.rows], ids_bT.device
        )
        mask, changed = self.chances.mask, self.chances.mask + self.chances.random
        instead = torch.where(chance < mask, self.mask_id, torch.where(chance < changed, other, ids_bT))
        return torch.where(corrupted_bT, instead, ids_bT)
