"""The blocks by hand are the plain modules: losses, predictions and every gradient, with the same units dropped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from trainables.model import cpu_kernels, dropout
from trainables.model.bert import CompactBert, Layer
from trainables.settings.config import ModelConfig

ROWS, LENGTH, VOCABULARY = 5, 16, 300


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several pieces of everything, the last one smaller."""
    monkeypatch.setattr(cpu_kernels, "PIECE", 2 * LENGTH**2)
    monkeypatch.setattr(cpu_kernels, "COLUMNS", 64)


def model(rate: float, embedding: str = "plain") -> CompactBert:
    settings = {"hidden": 32, "layers": 2, "heads": 4, "intermediate": 64, "max_positions": LENGTH, "dropout": rate}
    config = ModelConfig.model_validate({**settings, "embedding": embedding})
    listed = [[i, i // 2] for i in range(1, VOCABULARY)] if embedding == "nhot" else None
    made = CompactBert(config, VOCABULARY, 0, listed and [[], *listed]).initialise(0)
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draws), alpha=0.2)
    return made


def masks(config: ModelConfig, seed: int) -> Iterator[Tensor]:
    """What each site multiplies by, in the model's order."""
    wide = ROWS * LENGTH * config.hidden
    sizes = [wide, *[config.heads * ROWS * LENGTH**2, wide, wide] * config.layers]
    for site, size in zip(dropout.draw(config.dropout, sizes, seed), sizes, strict=True):
        yield torch.ones(size) if site is None else site.apply(torch.ones(size), torch.empty(size)) * site.scale


def obvious_layer(layer: Layer, x: Tensor, sites: Iterator[Tensor]) -> Tensor:
    b, length, hidden = x.shape
    q, k, v = layer.qkv(x).view(b, length, 3, layer.heads, -1).permute(2, 3, 0, 1, 4)  # each [heads, b, T, width]
    shares = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
    mixed = (shares * next(sites).view_as(shares)) @ v
    y = layer.attention_out(mixed.permute(1, 2, 0, 3).reshape(b, length, hidden))
    x = layer.attention_norm(x + y * next(sites).view_as(y))
    y = layer.down(F.gelu(layer.up(x)))
    return layer.norm(x + y * next(sites).view_as(y))


def obvious(made: CompactBert, ids: Tensor, positions: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """The same arithmetic by autograd."""
    sites = masks(made.config, seed)
    x = F.embedding(ids, made.table(), padding_idx=0) + made.kind[0] + made.position[: ids.shape[1]]
    x = made.norm(x)
    x = x * next(sites).view_as(x)
    for layer in made.layers:
        assert isinstance(layer, Layer)
        x = obvious_layer(layer, x, sites)
    x = x.flatten(0, 1)[positions.clamp(max=ids.numel() - 1)]
    logits = F.linear(made.transform_norm(F.gelu(made.transform(x))), made.word, made.decoder_bias)
    return F.cross_entropy(logits, labels, reduction="none"), logits.argmax(1)


@pytest.mark.parametrize("embedding", ["plain", "nhot"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_losses_predictions_and_gradients_are_those_of_autograd(rate: float, embedding: str) -> None:
    draws = torch.Generator().manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (ROWS, LENGTH), generator=draws)
    ids[2, 3:5] = 0
    positions = torch.tensor([0, 7, 20, 47, 63, ROWS * LENGTH])
    labels, weight = torch.randint(0, VOCABULARY, (6,), generator=draws), torch.tensor([1, 1, 0.5, 1, 2, 0])
    found = []
    for by_hand in (True, False):
        made = model(rate, embedding).train()
        how = made.losses if by_hand else partial(obvious, made)
        losses, top, *_ = how(ids, positions, labels, 7)
        (losses * weight).sum().backward()
        found.append((losses.detach(), top, {name: p.grad for name, p in made.named_parameters()}))
    (losses, top, gradients), (losses_2, top_2, gradients_2) = found
    torch.testing.assert_close(losses, losses_2, atol=1e-5, rtol=1e-5)
    assert torch.equal(top, top_2)
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, gradients_2[name], atol=2e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("scale", [0.0, 1.0, 60.0])
def test_entropies_are_those_of_the_softmax_and_change_nothing_else(scale: float) -> None:
    """Uniform, in between and nearly certain; with more rows and columns than one piece has."""
    size = cpu_kernels.COLUMNS + 100
    draws = torch.Generator().manual_seed(5)
    x = torch.randn(cpu_kernels.ROWS + 9, 8, generator=draws)
    word, bias = torch.randn(size, 8, generator=draws) * scale, torch.randn(size, generator=draws) * min(scale, 1)
    labels, found = torch.arange(len(x)), []
    for wanted in (False, True):
        leaves = [each.clone().requires_grad_() for each in (x, word, bias)]
        losses, top, entropies = cpu_kernels.cross_entropy(
            leaves[0], labels, leaves[1], leaves[2], cpu_kernels.Workspace(), wanted
        )
        losses.sum().backward()
        found.append((losses.detach(), top, *(each.grad for each in leaves)))
        assert (entropies is not None) == wanted
    assert entropies is not None
    assert not entropies.requires_grad
    for one, other in zip(*found, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    chances = (x.double() @ word.double().t() + bias.double()).softmax(1)
    torch.testing.assert_close(entropies.double(), torch.special.entr(chances).sum(1), atol=2e-4, rtol=1e-5)


def test_gradients_add_up_until_they_are_cleared() -> None:
    made = model(0.0).train()
    ids, positions = torch.arange(LENGTH)[None], torch.tensor([1, 5])
    sums = []
    for _ in range(2):
        made.losses(ids, positions, positions)[0].sum().backward()
        sums.append({name: p.grad.clone() for name, p in made.named_parameters() if p.grad is not None})
    assert set(sums[0]) == dict(made.named_parameters()).keys()
    for name, once in sums[0].items():
        torch.testing.assert_close(sums[1][name], 2 * once, msg=name)


def test_a_backward_pass_whose_buffers_are_overwritten_is_refused() -> None:
    made = model(0.1).train()
    ids, positions = torch.arange(LENGTH)[None], torch.tensor([1, 5])
    first = made.losses(ids, positions, positions)[0].sum()
    made.losses(ids, positions, positions)
    with pytest.raises(AssertionError, match="another forward pass"):
        first.backward()


def test_large_logits_neither_overflow_nor_vanish() -> None:
    x = torch.randn(9, 8, generator=torch.Generator().manual_seed(3)).mul_(60).requires_grad_()
    word = torch.randn(VOCABULARY, 8, generator=torch.Generator().manual_seed(4)).requires_grad_()
    bias, labels = torch.zeros(VOCABULARY, requires_grad=True), torch.arange(9) * 30
    losses, top, _ = cpu_kernels.cross_entropy(x, labels, word, bias, cpu_kernels.Workspace())
    logits = (x @ word.t()).detach()
    torch.testing.assert_close(losses, F.cross_entropy(logits, labels, reduction="none"), atol=1e-4, rtol=1e-6)
    assert torch.equal(top, logits.argmax(1))
