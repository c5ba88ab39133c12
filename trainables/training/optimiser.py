"""The update: AdamW or LAMB, the learning-rate schedule, clipping, and the sum of gradients over the ranks."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.optim.adamw import adamw

from trainables.noise import StepNoise
from trainables.settings.config import Config, Fall

EPS = 1e-8
KEYS = ("exp_avg", "exp_avg_sq", "step")  # as torch.optim names them


def schedule(step: int, warmup: int, steps: int, kind: Fall = "linear", decay: int = 0) -> float:
    """Factor of the learning rate at a step, counted from 0: linear from 0 over the warm-up, then down to 0.

    Args:
        step: counted from 0.
        warmup: steps of the warm-up.
        steps: of the run.
        kind: how it falls.
        decay: steps of the fall, of the kinds that stay first.
    """
    if step < warmup:
        return step / warmup
    if kind in ("trapezoid", "warmup-stable-decay"):
        left = min(1.0, (steps - step) / max(1, decay))
        return left if kind == "trapezoid" else 1 - math.sqrt(1 - left)
    left = (steps - step) / max(1, steps - warmup)
    return left if kind == "linear" else (1 - math.cos(math.pi * left)) / 2


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) on all parameters alike, weight decay included, or LAMB (You et al. 2020).

    Torch's function rather than its class, whose first instance imports the compiler: a second at each start.
    """

    def __init__(self, model: torch.nn.Module, config: Config) -> None:
        self.config = config.optimiser
        self.steps, self.warmup = config.steps, config.lr_warmup_steps
        self.decay = round(config.optimiser.lr_decay * config.steps)
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        self.gradient = self._together()
        self.means = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.counts = [torch.zeros((), device=parameter.device) for parameter in self.parameters]

    def _together(self) -> torch.Tensor:
        """One tensor for all gradients, so that one operation clears, sums or clips them; each `.grad` is a view."""
        sizes = [parameter.numel() for parameter in self.parameters]
        whole = torch.zeros(sum(sizes), device=self.parameters[0].device)
        for parameter, part in zip(self.parameters, whole.split(sizes), strict=True):
            parameter.grad = part.view_as(parameter)
        return whole

    def rate(self, noise: StepNoise) -> torch.Tensor:
        """The learning rate of a step, []: a tensor, because it differs between replays of a graph."""
        device = self.gradient.device
        kind = np.float64 if device.type == "cpu" else np.float32  # what each kernel reads
        return noise.get_or_draw("rate", lambda noise: np.array(self._rate(noise.step), kind), device)

    def _rate(self, step: int) -> float:
        return self.config.lr * schedule(step, self.warmup, self.steps, self.config.schedule, self.decay)

    def step(self, rate: torch.Tensor, all_reduce: Callable[[torch.Tensor], object], alone: bool) -> None:
        """Sum the gradients over the ranks, update at a learning rate, and clear them.

        Each rank's loss is already divided by the global count. alone: there is one rank, so nothing is summed.
        """
        if not alone:
            all_reduce(self.gradient)
        norm = torch.linalg.vector_norm(self.gradient)
        self.gradient.mul_((self.config.clip / (norm + 1e-6)).clamp_(max=1))  # as clip_grad_norm_ does
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        with torch.no_grad():
            if self.config.name == "lamb":
                self._lamb(gradients, rate)
            else:
                self._adamw(gradients, rate)
        self.gradient.zero_()

    def _adamw(self, gradients: list[torch.Tensor], rate: torch.Tensor) -> None:
        adamw(
            list[torch.Tensor](self.parameters),
            gradients,
            self.means,
            self.squares,
            [],
            self.counts,
            fused=True,
            amsgrad=False,
            beta1=self.config.beta1,
            beta2=self.config.beta2,
            lr=rate,
            weight_decay=self.config.weight_decay,
            eps=EPS,
            maximize=False,
        )

    def _lamb(self, gradients: list[torch.Tensor], rate: torch.Tensor) -> None:
        """Algorithm 2 of You et al. 2020: Adam's direction with weight decay, for each matrix as long as the matrix.

        Biases and norms take Adam's step without decay, as in the authors' code, and so does a matrix of zeros: one
        that starts at 0 would stay there.
        """
        config = self.config
        slots = zip(self.parameters, gradients, self.means, self.squares, self.counts, strict=True)
        for weight, gradient, mean, square, count in slots:
            count += 1
            mean.lerp_(gradient, 1 - config.beta1)
            square.mul_(config.beta2).addcmul_(gradient, gradient, value=1 - config.beta2)
            spread = (square / (1 - config.beta2**count)).sqrt_().add_(EPS)
            direction = (mean / (1 - config.beta1**count)).div_(spread)
            pace = rate
            if weight.ndim > 1:
                direction.add_(weight, alpha=config.weight_decay)
                own, step = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(direction)
                pace = rate * torch.where((own > 0) & (step > 0), own / step, 1.0)
            weight.sub_(direction.mul_(pace.to(weight.dtype)))

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and counts, by parameter name."""
        slots = zip(self.names, self.means, self.squares, self.counts, strict=True)
        return {f"{name}/{key}": value for name, *values in slots for key, value in zip(KEYS, values, strict=True)}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Restore `state()`."""
        for key, value in self.state().items():
            value.copy_(state[key])
