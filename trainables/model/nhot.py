"""N-hot sub-token embeddings: the substrings of a token add to its input embedding.

The substrings of a token that are vocabulary entries form an n-hot vector, which a linear layer without bias maps to
the embedding's size (Edman & Fraser 2025). The [V, V] matrix N of these vectors is sparse and fixed; the layer's weight
W, [V, H], is trained.

Word marks (`##`, `Ġ`, `▁`) are not part of the spelling: `##ing` has the substrings of `ing`. The entries `ing` and
`##ing` are the same substring, which counts once, in the column of the smaller id; the other column stays empty. A
token is a substring of itself, so every token has at least one; a token that is not a whole character has no other.
Upper and lower case differ, as in the vocabulary. Special tokens, and bracketed placeholders such as [unused7], neither
have substrings nor are any.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.data.word_forms import WordForms
from trainables.model import cpu_kernels

LONGEST = 128

_BRACKETED = re.compile(r"\[.+\]", re.DOTALL)


def substrings(forms: WordForms, eligible: NDArray[np.bool_]) -> list[list[int]]:
    """Columns of N by token, ascending; [V] lists. 0.3 s for BERT's 30,522 entries."""
    texts = [text or label for text, label in zip(forms.texts, forms.labels, strict=True)]
    has = [bool(usable) and not _BRACKETED.fullmatch(text) for text, usable in zip(texts, eligible, strict=True)]
    column: dict[str, int] = {}
    for token, text in enumerate(texts):
        if has[token] and forms.whole[token]:
            column.setdefault(text, token)
    lengths = sorted({len(text) for text in column})

    def of(token: int) -> list[int]:
        if not has[token]:
            return []
        return _within(texts[token], column, lengths) if forms.whole[token] else [token]

    return [of(token) for token in range(len(texts))]


def _within(spelling: str, column: dict[str, int], lengths: list[int]) -> list[int]:
    parts = {spelling[i : i + n] for n in lengths for i in range(len(spelling) - n + 1)}
    return sorted(column[part] for part in parts if part in column)


class Lists(nn.Module):
    """A fixed sparse binary matrix, as a list of columns for each row: `forward(x)` is its product with x, [rows, H].

    Sums go in the order of the lists, the same on every run of a device. A list longer than LONGEST is summed in
    pieces, because a GPU sums a list serially (the letter e is in half of a vocabulary). Shapes are fixed.
    """

    index: Tensor
    offsets: Tensor
    pieces: Tensor
    joints: Tensor

    def __init__(self, index: NDArray[np.int64], lengths: NDArray[np.int64]) -> None:
        super().__init__()
        count = np.maximum(-(-lengths // LONGEST), 1)
        starts, joints = _offsets(lengths), _offsets(count)
        within = np.arange(joints[-1]) - np.repeat(joints[:-1], count)
        buffers = {
            "index": index,
            "offsets": np.append(np.repeat(starts[:-1], count) + LONGEST * within, len(index)),
            "pieces": np.arange(joints[-1]),
            "joints": joints,
        }
        self.cut = bool(count.max() > 1)
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values.astype(np.int32)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """The product with x, [rows, H]."""
        sums = F.embedding_bag(self.index, x, self.offsets, mode="sum", include_last_offset=True)
        if self.cut:
            sums = F.embedding_bag(self.pieces, sums, self.joints, mode="sum", include_last_offset=True)
        return sums

    def of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The lists of some rows: their columns one after another, and the length of each. The shape varies."""
        ends = self.offsets[self.joints.long()].long()
        lengths = (ends[1:] - ends[:-1])[rows]
        skip = ends[rows] - (lengths.cumsum(0) - lengths)
        return self.index[torch.arange(int(lengths.sum())) + skip.repeat_interleave(lengths)], lengths


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


class _Product(torch.autograd.Function):
    """N·W, with the transpose's product as backward pass: EmbeddingBag's own sorts, and adds row by row."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, matrix: Lists, transpose: Lists) -> Tensor:
        ctx.transpose = transpose
        return matrix(weight.detach())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        return ctx.transpose(grads[0].contiguous()), None, None


class _Rows(torch.autograd.Function):
    """Rows of N·W at ids, [n, H], computed for the tokens present: for a CPU, where shapes may vary."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Tensor, matrix: Lists) -> Tensor:
        present, place = ids.unique(return_inverse=True)
        index, lengths = matrix.of(present)
        ctx.saved = (weight, place, index, lengths)
        return _sums(weight.detach(), index, lengths).index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        weight, place, index, lengths = ctx.saved
        by_token = grads[0].new_zeros(len(lengths), weight.shape[1]).index_add_(0, place, grads[0])
        tokens = torch.arange(len(lengths), dtype=torch.int32).repeat_interleave(lengths)
        order = index.argsort(stable=True)
        columns, counts = index[order].unique_consecutive(return_counts=True)
        cpu_kernels.gradient(weight).index_add_(0, columns, _sums(by_token, tokens[order], counts))
        return None, None, None


def _sums(x: Tensor, index: Tensor, lengths: Tensor) -> Tensor:
    """Sums of rows of x, by lists of the given lengths one after another."""
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(index.dtype)
    return F.embedding_bag(index, x, offsets, mode="sum", include_last_offset=True)


class NHot(nn.Module):
    """The layer: `forward()` is N·W, [V, H]. Only W is a parameter; N is not part of a checkpoint."""

    def __init__(self, columns: list[list[int]], hidden: int) -> None:
        super().__init__()
        size = len(columns)
        self.weight = nn.Parameter(torch.empty(size, hidden))
        lengths = np.array([len(listed) for listed in columns])
        index = np.array([column for listed in columns for column in listed], dtype=np.int64)
        rows = np.repeat(np.arange(size), lengths)[np.argsort(index, kind="stable")]
        self.matrix = Lists(index, lengths)
        self.transpose = Lists(rows, np.bincount(index, minlength=size))
        self.mean_substrings = len(index) / max(1, np.count_nonzero(lengths))

    def forward(self) -> Tensor:
        """N·W, [V, H]."""
        return _Product.apply(self.weight, self.matrix, self.transpose)  # pyright: ignore[reportReturnType]

    def rows(self, ids: Tensor) -> Tensor:
        """`forward()` at ids, [n, H]; W's gradient is added to its `.grad`."""
        return _Rows.apply(self.weight, ids, self.matrix)  # pyright: ignore[reportReturnType]
