"""The blocks of the model on a CPU, forward and backward by hand.

On a CPU, autograd adds memory traffic to the matrix products: fresh pages for every activation, masks, copies of
queries, keys and values, a second pass over every weight's gradient, five over the logits. Here buffers are kept from
step to step, on huge pages where the system has them (numpy asks for them); attention and the softmax over the
vocabulary run in pieces that fit the cache; and the product that computes a weight's gradient adds it to `.grad`
itself, so a parameter that these functions use needs no gradient from autograd.

Shapes: b rows, T tokens a row, n = b * T, H hidden, V vocabulary, S selected slots.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from trainables.model.dropout import DropoutMask

PIECE = 2**20  # attention weights at a time: 4 MB
COLUMNS = 4096  # of the vocabulary at a time
ROWS = 32  # of a piece of logits at a time, where a second look at them must come from the cache
SKEW = 16  # floats of padding between rows of logits, so that a column does not fall into one set of the cache


class Block(Protocol):
    """The parameters of an encoder layer."""

    heads: int
    qkv: nn.Linear
    attention_out: nn.Linear
    attention_norm: nn.LayerNorm
    up: nn.Linear
    down: nn.Linear
    norm: nn.LayerNorm


class Workspace:
    """Buffers by name, kept from step to step. Each forward pass must be followed by its backward pass."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}
        self.passes = 0

    def begin(self) -> None:
        """Begin a forward pass, which invalidates what an earlier one left for its backward pass."""
        self.passes += 1

    def __call__(self, name: str, *shape: int) -> Tensor:
        """Float32 memory of that shape, uninitialised."""
        found = self.buffers.get(name)
        if found is None or found.numel() < math.prod(shape):
            found = self.buffers[name] = torch.from_numpy(np.zeros(math.prod(shape), np.float32))
        return found[: math.prod(shape)].view(shape)


class LayerContext(NamedTuple):
    """One layer in one pass.

    Args:
        name: of its buffers.
        block: its parameters.
        work: the buffers.
        rows: b.
        sites: the dropout of the attention weights, of the attention's output, and of the feed-forward half.
    """

    name: str
    block: Block
    work: Workspace
    rows: int
    sites: list[DropoutMask | None]


def gradient(parameter: Tensor) -> Tensor:
    """The parameter's `.grad`, made if missing."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _linear(linear: nn.Linear, x: Tensor, out: Tensor) -> Tensor:
    return torch.addmm(linear.bias, x, linear.weight.t(), out=out)


def _learn(linear: nn.Linear, upstream: Tensor, x: Tensor) -> None:
    """Add the gradients of a linear layer's parameters."""
    gradient(linear.weight).addmm_(upstream.t(), x)
    gradient(linear.bias).add_(upstream.sum(0))


class _Sum(NamedTuple):
    """A residual connection with its normalisation, and what the backward pass needs of it."""

    total: Tensor
    mean: Tensor
    deviation: Tensor

    @staticmethod
    def forward(
        place: LayerContext, half: str, x: Tensor, y: Tensor, site: DropoutMask | None, norm: nn.LayerNorm
    ) -> Any:
        """The normalised sum of x and y after dropout, [n, H]; y is overwritten."""
        total = place.work(f"{place.name}/{half}", *x.shape)
        if site is not None:
            site.apply(y, total)
        torch.add(x, y if site is None else total, alpha=1.0 if site is None else site.scale, out=total)
        out, mean, deviation = torch.native_layer_norm(total, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
        return out, _Sum(total, mean, deviation)

    def backward(
        self, place: LayerContext, upstream: Tensor, site: DropoutMask | None, norm: nn.LayerNorm
    ) -> tuple[Tensor, Tensor]:
        """The gradients of x, in new memory, and of y, maybe the same tensor; the norm's are added to `.grad`."""
        to_x, to_weight, to_bias = torch.ops.aten.native_layer_norm_backward(
            upstream.contiguous(), self.total, norm.normalized_shape, self.mean, self.deviation, norm.weight, norm.bias,
            [True, True, True],
        )  # fmt: skip
        gradient(norm.weight).add_(to_weight)
        gradient(norm.bias).add_(to_bias)
        if site is None:
            return to_x, to_x
        to_y = site.apply(to_x, place.work("to_y", *to_x.shape))
        return to_x, to_y.mul_(site.scale)


class _Attention(torch.autograd.Function):
    """Multi-head self-attention with its residual connection and normalisation, [n, H] to [n, H], or to [S, H].

    With P the attention weights and P' = P after dropout, O = P'V and the gradient of the scores is
    P' * dP' - P * rowsum(dO * O) (Dao et al. 2022): P is kept, and P' computed again.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: LayerContext, at: Tensor | None) -> Tensor:
        block, work, name = place.block, place.work, place.name
        count, hidden = x.shape
        length, width = count // place.rows, hidden // block.heads
        qkv = _linear(block.qkv, x, work(f"{name}/qkv", count, 3 * hidden)).view(place.rows, length, 3, block.heads, -1)
        shares = work(f"{name}/shares", block.heads, place.rows, length, length)
        mixed = work(f"{name}/mixed", count, hidden)
        for head, rows, site in _pieces(place, length):
            q, k, v = qkv[rows, :, :, head].unbind(2)
            share = shares[head, rows]
            torch.baddbmm(share, q, k.transpose(1, 2), beta=0, alpha=width**-0.5, out=share)
            torch.softmax(share, -1, out=share)
            keep = _kept(site, share, work)
            part = work("piece", *q.shape)
            torch.baddbmm(part, keep, v, beta=0, alpha=_scale(site), out=part)
            mixed.view(place.rows, length, block.heads, width)[rows, :, head] = part
        here, chosen = (x, mixed) if at is None else (x.index_select(0, at), mixed.index_select(0, at))
        y = _linear(block.attention_out, chosen, work("y", *here.shape))
        out, ctx.sum = _Sum.forward(place, "sum_a", here, y, place.sites[1], block.attention_norm)
        ctx.place, ctx.passes, ctx.saved = place, work.passes, (x, qkv, shares, mixed, chosen, at)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        place: LayerContext = ctx.place
        block, work = place.block, place.work
        assert ctx.passes == work.passes, "another forward pass came between"
        x, qkv, shares, mixed, chosen, at = ctx.saved
        to_x, to_y = ctx.sum.backward(place, grads[0], place.sites[1], block.attention_norm)
        _learn(block.attention_out, to_y, chosen)
        rows, length, heads = place.rows, shares.shape[2], block.heads
        to_mixed = torch.mm(to_y, block.attention_out.weight, out=work("to_chosen", *to_y.shape))
        if at is not None:
            to_x = torch.zeros_like(x).index_add_(0, at, to_x)
            to_mixed = work("to_mixed", *x.shape).zero_().index_add_(0, at, to_mixed)
        delta = torch.mul(mixed, to_mixed, out=mixed).view(rows, length, heads, -1).sum(-1).permute(2, 0, 1)
        to_mixed = to_mixed.view(rows, length, heads, -1)
        to_qkv = work("to_qkv", *qkv.shape)
        for head, part, site in _pieces(place, length):
            q, k, v = qkv[part, :, :, head].unbind(2)
            share, above = shares[head, part], to_mixed[part, :, head]
            keep = _kept(site, share, work)
            down = work("to_share", *share.shape)
            torch.baddbmm(down, above, v.transpose(1, 2), beta=0, alpha=_scale(site), out=down)
            down.mul_(keep).addcmul_(share, delta[head, part].unsqueeze(2), value=-1)
            into, factor = work("piece", *q.shape), q.shape[2] ** -0.5
            for i, (left, right, alpha) in enumerate(
                ((down, k, factor), (down.transpose(1, 2), q, factor), (keep.transpose(1, 2), above, _scale(site)))
            ):
                torch.baddbmm(into, left, right, beta=0, alpha=alpha, out=into)
                to_qkv[part, :, i, head] = into
        to_qkv = to_qkv.view(x.shape[0], -1)
        _learn(block.qkv, to_qkv, x)
        return to_x.addmm_(to_qkv, block.qkv.weight), None, None


class _FeedForward(torch.autograd.Function):
    """The feed-forward half with its residual connection and normalisation, [n, H] to [n, H].

    The wide activations are kept only before GELU, which is computed again: a hundredth of the step for 100 MB.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, place: LayerContext) -> Tensor:
        block, work, name = place.block, place.work, place.name
        wide = (x.shape[0], block.up.out_features)
        before = _linear(block.up, x, work(f"{name}/before", *wide))
        after = torch.ops.aten.gelu.out(before, out=work("after", *wide))
        y = _linear(block.down, after, work("y", *x.shape))
        out, ctx.sum = _Sum.forward(place, "sum_f", x, y, place.sites[2], block.norm)
        ctx.place, ctx.passes, ctx.saved = place, work.passes, (x, before)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        place: LayerContext = ctx.place
        block, work = place.block, place.work
        assert ctx.passes == work.passes, "another forward pass came between"
        x, before = ctx.saved
        to_x, to_y = ctx.sum.backward(place, grads[0], place.sites[2], block.norm)
        after = torch.ops.aten.gelu.out(before, out=work("after", *before.shape))
        _learn(block.down, to_y, after)
        wide = torch.mm(to_y, block.down.weight, out=after)
        torch.ops.aten.gelu_backward.grad_input(wide, before, grad_input=wide)
        _learn(block.up, wide, x)
        return to_x.addmm_(wide, block.up.weight), None


class _CrossEntropy(torch.autograd.Function):
    """Losses, top-1 predictions and, if wanted, entropies, [S] each, of the decoder at hidden states [S, H].

    The vocabulary goes through the cache in pieces of columns. Logits l are stored as exp(l - m), with m the row's
    largest in the piece. The softmax is that times a factor by row and piece, which the backward pass applies to the
    smaller operand of its products. The top-1 is where exp(l - m) is largest in the piece with the largest m. A piece
    adds to the entropy the sum of exp(l - m) (l - m), taken while both are in the cache.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, labels: Tensor, word: Tensor, bias: Tensor, work: Workspace, entropies: bool
    ) -> Any:
        count, size = len(x), len(word)
        pieces = list(_columns(size))
        powers = work("powers", len(pieces), count, min(COLUMNS, size) + SKEW)
        largest, sums = x.new_empty(len(pieces), count), x.new_empty(len(pieces), count)
        spread = x.new_empty(len(pieces), count) if entropies else None
        right = torch.empty_like(x[:, 0])
        for i, columns in enumerate(pieces):
            logits = powers[i, :, : columns.stop - columns.start]
            torch.addmm(bias[columns], x, word[columns].t(), out=logits)
            torch.amax(logits, 1, out=largest[i])
            here = ((labels >= columns.start) & (labels < columns.stop)).nonzero().squeeze(1)
            right[here] = logits[here, labels[here] - columns.start]
            logits.sub_(largest[i, :, None])
            if spread is None:
                logits.exp_()
            else:
                _exponentiate(logits, spread[i])
            torch.sum(logits, 1, out=sums[i])
        total = torch.logsumexp(largest + sums.log(), 0)
        ctx.factor = torch.exp(largest - total)
        predictions = _top(powers, largest, size)
        ctx.powers, ctx.passes, ctx.work, ctx.saved = powers, work.passes, work, (x, labels, word, bias)
        ctx.mark_non_differentiable(predictions)
        if spread is None:
            return total - right, predictions, None
        found = ((total - largest) * sums - spread).mul_(ctx.factor).sum(0).clamp_(min=0)
        ctx.mark_non_differentiable(predictions, found)
        return total - right, predictions, found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        assert ctx.passes == ctx.work.passes, "another forward pass came between"
        x, labels, word, bias = ctx.saved
        to_word, to_bias, upstream = gradient(word), gradient(bias), grads[0].contiguous()
        to_x = word[labels].mul_(-upstream[:, None])
        for i, columns in enumerate(_columns(len(word))):
            power = ctx.powers[i, :, : columns.stop - columns.start]
            factor = ctx.factor[i] * upstream
            to_x.addcmul_(torch.mm(power, word[columns]), factor[:, None])
            to_word[columns].addmm_(power.t(), x * factor[:, None])
            to_bias[columns].addmv_(power.t(), factor)
        to_word.index_add_(0, labels, x * upstream[:, None], alpha=-1)
        to_bias.index_add_(0, labels, upstream, alpha=-1)
        return to_x, None, None, None, None, None


class _Rows(torch.autograd.Function):
    """The rows of a parameter at ids, [n, H]; the gradient of one row, `fixed`, is left as it is."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, fixed: int) -> Tensor:
        ctx.saved = (table, ids, fixed)
        return table.index_select(0, ids)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None]:
        table, ids, fixed = ctx.saved
        into = gradient(table)
        before = into[fixed].clone()
        into.index_add_(0, ids, grads[0])
        into[fixed] = before
        return None, None, None


class _Drop(torch.autograd.Function):
    """Dropout on its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, site: DropoutMask) -> Tensor:
        ctx.site = site
        return site.apply(x, torch.empty_like(x)).mul_(site.scale)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        given = grads[0].contiguous()
        return ctx.site.apply(given, torch.empty_like(given)).mul_(ctx.site.scale), None


def rows(table: Tensor, ids: Tensor, fixed: int) -> Tensor:
    """The embeddings of ids, [n, H]; the row `fixed`, the padding's, gets no gradient."""
    return _Rows.apply(table, ids, fixed)  # pyright: ignore[reportReturnType]


def drop(x: Tensor, site: DropoutMask | None) -> Tensor:
    """Apply the dropout of one site."""
    return x if site is None else _Drop.apply(x, site)  # pyright: ignore[reportReturnType]


def layer(x: Tensor, place: LayerContext, at: Tensor | None = None) -> Tensor:
    """An encoder layer, [n, H] to [n, H]; or to [S, H] at positions `at` of [n], alone past the attention."""
    if at is not None:
        shares, *others = place.sites
        place = place._replace(sites=[shares, *(site and site.rows(at, x.shape[1]) for site in others)])
    return _FeedForward.apply(_Attention.apply(x, place, at), place)  # pyright: ignore[reportReturnType]


def cross_entropy(
    x: Tensor, labels: Tensor, word: Tensor, bias: Tensor, work: Workspace, entropies: bool = False
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Losses (nats), top-1 predictions and, if wanted, entropies (nats) of the decoder, [S] each.

    Args:
        x: [S, H] hidden states.
        labels: [S].
        word: [V, H], the decoder's weight.
        bias: [V], the decoder's bias.
        work: the buffers.
        entropies: whether they are wanted.
    """
    return _CrossEntropy.apply(x, labels, word, bias, work, entropies)  # pyright: ignore[reportReturnType]


def _pieces(place: LayerContext, length: int) -> Iterator[tuple[int, slice, DropoutMask | None]]:
    """(head, rows, their dropout) of the attention, some rows at a time."""
    at_once = max(1, PIECE // length**2)
    site, size = place.sites[0], length**2
    for head, begin in itertools.product(range(place.block.heads), range(0, place.rows, at_once)):
        end = min(begin + at_once, place.rows)
        first = head * place.rows * size
        part = None if site is None else site.part(first + begin * size, first + end * size)
        yield head, slice(begin, end), part


def _kept(site: DropoutMask | None, share: Tensor, work: Workspace) -> Tensor:
    """Attention weights after dropout, unscaled."""
    return share if site is None else site.apply(share, work("keep", *share.shape))


def _scale(site: DropoutMask | None) -> float:
    return 1.0 if site is None else site.scale


def _columns(size: int) -> Iterator[slice]:
    for begin in range(0, size, COLUMNS):
        yield slice(begin, min(begin + COLUMNS, size))


def _exponentiate(shifted: Tensor, spread: Tensor) -> None:
    """Replace l - m, [S, columns], by its exponential, and write the sum of both's product by row, [S]."""
    for begin in range(0, len(shifted), ROWS):
        part = shifted[begin : begin + ROWS]
        before = part.clone()
        spread[begin : begin + ROWS] = before.mul_(part.exp_()).sum(1)


def _top(powers: Tensor, largest: Tensor, size: int) -> Tensor:
    """The column of each row's largest logit, [S]. powers: [pieces, S, columns and padding]."""
    width, winner = powers.shape[2] - SKEW, largest.argmax(0)
    powers[-1, :, size - (len(powers) - 1) * COLUMNS : width] = 0
    return winner * COLUMNS + powers[winner, torch.arange(len(winner)), :width].argmax(1)
