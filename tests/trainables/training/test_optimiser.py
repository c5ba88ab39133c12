"""The update of the weights, beside an obvious version, and how the learning rate rises and falls."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from tests.trainables.tiny import config, run
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.training.optimiser import Optimiser, schedule


def alone(_tensor: torch.Tensor) -> None:
    """One rank."""


def lamb(w: torch.Tensor, g: torch.Tensor, m: torch.Tensor, v: torch.Tensor, t: int, lr: float) -> torch.Tensor:
    """Algorithm 2 of You et al. 2020, for one tensor; biases and norms as in the authors' code."""
    m.mul_(0.9).add_(g, alpha=0.1)
    v.mul_(0.999).add_(g * g, alpha=0.001)
    r = (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
    if w.ndim == 1:
        return w - lr * r
    r = r + 0.01 * w
    ratio = float(w.norm() / r.norm()) if float(w.norm()) > 0 else 1.0
    return w - lr * ratio * r


def test_lamb_is_the_published_algorithm() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 3, bias=False))
    torch.nn.init.zeros_(model[2].weight)  # pyright: ignore[reportArgumentType]
    settings = Config.model_validate({"steps": 100, "optimiser": {"name": "lamb", "lr": 0.007, "clip": 1e9}})
    found = Optimiser(model, settings)
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    states = [(torch.zeros_like(each), torch.zeros_like(each)) for each in expected]
    for step in range(1, 6):
        gradients = [torch.randn_like(parameter) for parameter in expected]
        for parameter, gradient in zip(model.parameters(), gradients, strict=True):
            assert parameter.grad is not None
            parameter.grad.copy_(gradient)
        rate = found.rate(StepNoise(0, 0, step, (1, 8)))
        found.step(rate, alone, alone=True)
        triples = zip(expected, gradients, states, strict=True)
        expected = [lamb(w, g, m, v, step, float(rate)) for w, g, (m, v) in triples]
        for parameter, wanted in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(parameter.detach(), wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.usefixtures("own_cache")
def test_lamb_trains(corpus: Path, tmp_path: Path) -> None:
    rows = run(config(corpus, optimiser={"name": "lamb", "lr": 0.05, "schedule": "cosine"}), tmp_path).rows
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]


@pytest.mark.parametrize(
    ("kind", "at"),
    [
        ("linear", {0: 0, 5: 0.5, 10: 1, 55: 0.5, 99: 1 / 90}),
        ("cosine", {0: 0, 5: 0.5, 10: 1, 55: 0.5, 32.5: (1 + math.cos(math.pi / 4)) / 2, 100: 0}),
        ("trapezoid", {5: 0.5, 10: 1, 79: 1, 80: 1, 90: 0.5, 99: 0.05}),
        ("warmup-stable-decay", {5: 0.5, 10: 1, 80: 1, 85: 0.5, 95: 1 - math.sqrt(0.75), 100: 0}),
    ],
)
def test_the_rate_rises_and_falls(kind: str, at: dict[float, float]) -> None:
    """100 steps, of which 10 rise; the kinds that stay first fall over the last 20."""
    for step, factor in at.items():
        assert schedule(step, 10, 100, kind, 20) == pytest.approx(factor), step  # pyright: ignore[reportArgumentType]


def test_defaults_are_hashed_as_before_and_a_share_belongs_to_its_schedule() -> None:
    assert {*Config().optimiser.model_dump()} == {"lr", "weight_decay", "beta1", "beta2", "clip", "lr_warmup"}
    with pytest.raises(ValueError, match="lr_decay belongs to schedule trapezoid"):
        Config.model_validate({"optimiser": {"lr_decay": 0.3}})
    with pytest.raises(ValueError, match="more than the run"):
        Config.model_validate({"optimiser": {"schedule": "trapezoid", "lr_warmup": 0.6, "lr_decay": 0.5}})
