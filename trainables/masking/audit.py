"""Counts what was really masked, on the device in every step; the host reads it only when a run reports.

Shapes: V vocabulary entries, S index slots.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainables.masking.budget import Selection

AllReduce = Callable[[torch.Tensor], object]
State = dict[str, torch.Tensor]

SD = 4  # standard deviations that independent draws may be away from their mean


@dataclass(frozen=True)
class Draw:
    """How a selection was drawn, counted on the device.

    Args:
        by_source: [sources] positions that each gave.
        broken: whether the number of positions is not the one that the policy guarantees.
        short: positions that the sources could not supply and random did.
        cut: groups, such as words, that a row's budget took only in part.
        expected: number of positions, if they are drawn independently; else 0.
        variance: of that number.
    """

    by_source: torch.Tensor
    broken: torch.Tensor
    short: torch.Tensor | int = 0
    cut: torch.Tensor | int = 0
    expected: torch.Tensor | float = 0.0
    variance: torch.Tensor | float = 0.0


class Audit:
    """Counts of one rank since the start of the run.

    Shares, shortfalls, words and the masked tokens count after the mask warm-up, when they mean something.
    """

    def __init__(self, sources: list[str], vocab_size: int, matched: bool, device: str) -> None:
        self.sources, self.matched = sources, matched
        self.refreshes = 0
        self.warm = False
        # positions seen and predicted, batches of the wrong number; shortfalls, cut groups, then by source
        self.counts = torch.zeros(5 + len(sources), dtype=torch.int64, device=device)
        self.moments = torch.zeros(2, dtype=torch.float64, device=device)  # expected, variance
        self.by_id = torch.zeros(vocab_size, dtype=torch.int64, device=device)  # predictions, by the label
        self.initial = torch.zeros_like(self.by_id)  # those of them that begin a word
        self.words = torch.zeros(2, dtype=torch.int64, device=device)  # of several pieces: touched, predicted whole
        self.corrupted = torch.zeros(2, dtype=torch.int64, device=device)  # positions; batches of the wrong number

    def count(self, selection: Selection, draw: Draw, positions: int, warm: bool) -> None:
        """Count a step's selection among so many positions of this rank. warm: past the mask warm-up."""
        self.warm = warm
        self.counts[0] += positions
        self.counts[1] += selection.weight.sum().long()
        self.counts[2] += draw.broken
        self.moments[0] += draw.expected
        self.moments[1] += draw.variance
        if warm:
            self.counts[3] += draw.short
            self.counts[4] += draw.cut
            self.counts[5:] += draw.by_source

    def tally(self, labels: torch.Tensor, weight: torch.Tensor) -> None:
        """Count the tokens at the selected positions, [S] each."""
        if self.warm:
            self.by_id.index_add_(0, labels, weight.long())

    def tally_corrupted(self, corrupted_bT: torch.Tensor, broken: torch.Tensor | bool) -> None:
        """Count the positions chosen for corruption, [b, T]; broken: their number is not the one that was due."""
        self.corrupted[0] += corrupted_bT.sum()
        self.corrupted[1] += broken

    def tally_words(self, labels: torch.Tensor, selection: Selection, word_start_bT: torch.Tensor) -> None:
        """Count predictions that begin a word, and words of several pieces: touched, and predicted whole.

        Words begin where the prepared text says, [b, T], not where the policy takes them to begin, or its mistakes
        would go unseen. The end of a row cuts words.
        """
        if not self.warm:
            return
        at = selection.positions.clamp(max=word_start_bT.numel() - 1)
        self.initial.index_add_(0, labels, (word_start_bT.flatten()[at] * selection.weight).long())
        begins = word_start_bT.clone()
        begins[:, 0] = True
        word = begins.flatten().cumsum(0) - 1
        predicted = torch.zeros(len(word) + 1, dtype=torch.int64, device=word.device)
        predicted[selection.positions] = 1
        counts = torch.zeros(2, len(word), dtype=torch.int64, device=word.device)
        counts.index_add_(1, word, torch.stack([torch.ones_like(word), predicted[:-1]]))
        pieces, taken = counts
        touched = (pieces > 1) & (taken > 0)
        self.words += torch.stack([touched.sum(), (touched & (taken == pieces)).sum()])

    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        """Metrics over all ranks; every rank calls it. RuntimeError if batches or draws missed their number."""
        positions, predicted, broken, short, cut, *by_source = summed(self.counts, all_reduce).tolist()
        expected, variance = summed(self.moments, all_reduce).tolist()
        touched, whole = summed(self.words, all_reduce).tolist()
        corrupted, miscorrupted = summed(self.corrupted, all_reduce).tolist()
        if broken:
            raise RuntimeError(f"mask audit: {broken} batches predicted the wrong number of positions")
        if miscorrupted:
            raise RuntimeError(f"mask audit: {miscorrupted} batches corrupted the wrong number of positions")
        if variance and abs(predicted - expected) > SD * variance**0.5:
            raise RuntimeError(
                f"mask audit: {predicted} positions predicted, {expected:.0f} +- {variance**0.5:.0f} expected"
            )
        drawn = sum(by_source)
        shares = [n / drawn for n in by_source] if drawn else [1.0, *[0.0] * (len(by_source) - 1)]
        return {
            "audit/rate": predicted / positions,
            "audit/corrupted": corrupted / positions,
            **{f"audit/shares/{name}": share for name, share in zip(self.sources, shares, strict=True)},
            "audit/fallbacks": float(short),
            "audit/short": short / drawn if drawn else 0.0,
            "audit/cut": float(cut),
            **({"audit/whole_words": whole / touched} if touched else {}),
            "audit/refreshes": float(self.refreshes),
            "audit/matched": float(self.matched),
            "train/predicted": float(predicted),
        }

    def state(self, all_reduce: AllReduce) -> State:
        """The counts, summed over the ranks."""
        return {
            "audit": summed(self.counts, all_reduce).cpu(),
            "moments": summed(self.moments, all_reduce).cpu(),
            "by_id": summed(self.by_id, all_reduce).cpu(),
            "initial": summed(self.initial, all_reduce).cpu(),
            "words": summed(self.words, all_reduce).cpu(),
            "corrupted": summed(self.corrupted, all_reduce).cpu(),
            "refreshes": torch.tensor(self.refreshes),
        }

    def load(self, state: State, rank: int) -> None:
        """Restore `state()`. Rank 0 takes the counts of all ranks, so that their sum stays the same."""
        own = {"audit": self.counts, "moments": self.moments, "by_id": self.by_id}
        own |= {"initial": self.initial, "words": self.words, "corrupted": self.corrupted}
        for name, counts in own.items():
            counts.copy_(state[name] if rank == 0 else torch.zeros_like(state[name]))
        self.refreshes = int(state["refreshes"])


def summed(tensor: torch.Tensor, all_reduce: AllReduce) -> torch.Tensor:
    """A copy, summed over the ranks."""
    total = tensor.clone()
    all_reduce(total)
    return total
