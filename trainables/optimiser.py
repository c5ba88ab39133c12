"""How gradients become an update: AdamW, the learning-rate schedule, clipping, and the sum over the ranks."""

from __future__ import annotations

from collections.abc import Callable

import torch

from trainables.config import Config


def schedule(step: int, warmup: int, steps: int) -> float:
    """Factor of the learning rate at a 0-based step: linear from 0 over the warm-up, then linear to 0 at the end."""
    if step < warmup:
        return step / warmup
    return (steps - step) / max(1, steps - warmup)


class Optimiser:
    """AdamW (Loshchilov & Hutter 2019) on all parameters alike, weight decay included."""

    def __init__(self, model: torch.nn.Module, config: Config) -> None:
        self.config = config.optimiser
        self.steps, self.warmup = config.steps, config.lr_warmup_steps
        self.names = [name for name, _ in model.named_parameters()]
        self.parameters = list(model.parameters())
        betas = (self.config.beta1, self.config.beta2)
        self.adamw = torch.optim.AdamW(
            self.parameters, lr=self.config.lr, betas=betas, weight_decay=self.config.weight_decay, fused=True
        )

    def step(self, step: int, all_reduce: Callable[[torch.Tensor], object], alone: bool) -> None:
        """Update from the gradients of a 0-based step, summed over the ranks, and clear them."""
        if not alone:
            self._sum_gradients(all_reduce)
        torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.adamw.param_groups:
            group["lr"] = self.config.lr * schedule(step, self.warmup, self.steps)
        self.adamw.step()
        self.adamw.zero_grad()

    def _sum_gradients(self, all_reduce: Callable[[torch.Tensor], object]) -> None:
        """One collective for all gradients: each rank's loss is already divided by the global count."""
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        all_reduce(flat)
        for gradient, piece in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(piece.view_as(gradient))

    def state(self) -> dict[str, torch.Tensor]:
        """Moments and counts, by parameter name."""
        slots = zip(self.names, self.parameters, strict=True)
        return {f"{n}/{key}": value for n, p in slots for key, value in self.adamw.state[p].items()}

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from `state()`."""
        for name, parameter in zip(self.names, self.parameters, strict=True):
            prefix = f"{name}/"
            self.adamw.state[parameter] = {
                key.removeprefix(prefix): value.to(parameter.device)
                for key, value in state.items()
                if key.startswith(prefix)
            }
