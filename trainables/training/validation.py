"""Validation: the loss on fixed masks, in float32, as a whole and in slices."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from trainables.data import loss_slices
from trainables.data.batches import Prepared
from trainables.data.preparation import EvaluationSet
from trainables.model.masked_lm import MaskedLM
from trainables.settings import slice_names

ROWS_AT_ONCE = 64


class Validation:
    """Cross-entropy on the fixed blocks, masks and replacements of one part: the same for every trial and seed.

    Metrics of the part `val`; those of `test` are called `test/...`:
        val/loss: nats per predicted token, sum over sum, at all selected positions (80 % [MASK], 10 % random, 10 %
            kept, as in training). A test part of so few tokens that none is [MASK] has this metric alone.
        val/loss_mask: the same at [MASK] positions only, where copying does not help.
        val/accuracy_mask: the top-1 accuracy there.
        val/unigram_mask: the cross-entropy there of the train part's unigram distribution, the best that a model can do
            without context.
        val/accuracy_unigram: the accuracy there of always guessing that distribution's most frequent token.

    After a call, by_document: [documents, 2] float64, sum of the losses and number of predictions; by_slice: [S]
    float64, sums of the losses by slice. in_slice: [S], predictions by slice.

    Args:
        prepared: the corpus.
        device: where to compute.
        rank: of this process; it takes its share of the rows.
        world_size: number of ranks.
        part: `val` or `test`.
    """

    def __init__(
        self,
        prepared: Prepared,
        device: str,
        rank: int = 0,
        world_size: int = 1,
        part: Literal["val", "test"] = "val",
    ) -> None:
        chosen = prepared.evaluation(part)
        answers = chosen.labels[chosen.masked]
        self.part = part
        self.unigram = (
            {
                f"{part}/unigram_mask": -float(np.log(prepared.unigram[answers]).mean()),
                f"{part}/accuracy_unigram": float((answers == prepared.unigram.argmax()).mean()),
            }
            if len(answers)
            else {}
        )
        documents = int(chosen.document.max(initial=0)) + 1
        self.by_document = torch.zeros(documents, 2, dtype=torch.float64, device=device)
        members = _members(prepared, chosen)
        self.in_slice: list[int] = members.sum(0).tolist()
        self.by_slice = torch.zeros(len(slice_names.NAMES), dtype=torch.float64, device=device)
        self.batches = [_on(batch, device) for batch in _batches(chosen, members, rank, world_size)]

    def __call__(self, model: MaskedLM, all_reduce: Callable[[torch.Tensor], object]) -> dict[str, float]:
        """Metrics over the whole part. Every rank calls it and adds its share."""
        sums = torch.zeros(5, dtype=torch.float64, device=self.by_slice.device)
        self.by_document.zero_()
        self.by_slice.zero_()
        training = model.training
        model.eval()
        with torch.inference_mode():
            for inputs, positions, labels, masked, document, members in self.batches:
                logits = model.logits(inputs, positions).float()
                losses = F.cross_entropy(logits, labels, reduction="none").double()
                right = (logits.argmax(1) == labels).double()
                count = torch.ones_like(masked)
                sums += torch.stack([losses, count, losses * masked, masked, right * masked]).sum(1)
                self.by_document.index_add_(0, document, torch.stack([losses, count], 1))
                self.by_slice += (losses[:, None] * members).sum(0)
        model.train(training)
        all_reduce(sums)
        all_reduce(self.by_document)
        all_reduce(self.by_slice)
        loss, count, loss_mask, masks, right = sums.tolist()
        at_masks = (
            {f"{self.part}/loss_mask": loss_mask / masks, f"{self.part}/accuracy_mask": right / masks} if masks else {}
        )
        return {f"{self.part}/loss": loss / count, **at_masks, **self.unigram}

    def sliced(self) -> dict[str, float]:
        """`val/loss_freq_0` and so on: nats per prediction of the last call, for slices with predictions."""
        return loss_slices.metrics(self.part, self.by_slice.tolist(), self.in_slice)


def write_documents(folder: Path, validation: Validation) -> None:
    """Write `documents.json`: loss sum and number of predictions of every document, in a fixed order."""
    sums, counts = validation.by_document.T.tolist()
    content = {"part": validation.part, "loss": sums, "predictions": counts}
    (folder / "documents.json").write_text(json.dumps(content) + "\n", "utf-8")


def write_slices(folder: Path, validation: Validation) -> None:
    """Write `slices.json`: loss sum and number of predictions of every slice."""
    sums = validation.by_slice.tolist()
    found = zip(slice_names.NAMES, sums, validation.in_slice, strict=True)
    by_name = {name: {"loss": total, "predictions": count} for name, total, count in found}
    content = {"part": validation.part, "slices": by_name}
    (folder / "slices.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def _members(prepared: Prepared, chosen: EvaluationSet) -> np.ndarray:
    """[m, S] bool, the slices that each prediction lies in."""
    counts = loss_slices.counts_of(prepared.unigram, len(prepared.tokens))
    return loss_slices.members(counts[chosen.labels], chosen.initial, chosen.seen)


def _batches(chosen: EvaluationSet, members: np.ndarray, rank: int, world_size: int) -> list[tuple[np.ndarray, ...]]:
    """This rank's (inputs [n, T], positions, labels, masked, document [m], members [m, S]), some rows at a time."""
    rows, length = chosen.inputs.shape
    begin, end = rows * rank // world_size, rows * (rank + 1) // world_size
    batches: list[tuple[np.ndarray, ...]] = []
    for first in range(begin, end, ROWS_AT_ONCE):
        last = min(first + ROWS_AT_ONCE, end)
        part = slice(*np.searchsorted(chosen.positions, [first * length, last * length]))
        positions = chosen.positions[part] - first * length
        there = (chosen.labels[part], chosen.masked[part], chosen.document[part], members[part])
        batches.append((chosen.inputs[first:last], positions, *there))
    return batches


def _on(batch: tuple[np.ndarray, ...], device: str) -> tuple[torch.Tensor, ...]:
    inputs, positions, labels, masked, document, members = batch
    ids, at, answers, where = (
        torch.from_numpy(array.astype(np.int64)).to(device) for array in (inputs, positions, labels, document)
    )
    weights = (torch.from_numpy(array.astype(np.float64)).to(device) for array in (masked, members))
    return ids, at, answers, next(weights), where, next(weights)
