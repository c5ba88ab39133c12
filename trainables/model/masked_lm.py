"""The contract of a model that `training.run` trains: one method, and the rest follows.

Shapes: b rows, T tokens a row, S selected slots, V vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.data.batches import Prepared
from trainables.settings.config import Config


class Guesses(NamedTuple):
    """What a model makes of the selected positions, [S] each.

    Args:
        losses: cross-entropy, nats, float32; what training differentiates.
        predictions: the top-1.
        entropies: of the predicted distribution, nats, float32; None where nobody asked for them.
    """

    losses: Tensor
    predictions: Tensor
    entropies: Tensor | None


class MaskedLM(nn.Module):
    """A masked language model whose head runs at the selected positions alone.

    A model of your own implements `logits`, and `export` if a library can load it. Its initial weights must follow from
    the seed: the arms of a sweep are paired by them. `trainables.mlm.train(config, context, build)` takes a function
    that makes it.
    """

    title = "Masked language model"  # on the model card

    def logits(self, ids_bT: Tensor, positions: Tensor) -> Tensor:
        """Logits at flat positions of [b * T], [S, V]; a position past the end stands for padding: any number will do.

        Every number of the inputs may differ between two calls, but no shape: a CUDA graph may replay one.
        """
        raise NotImplementedError

    def export(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, for AutoModelForMaskedLM where it knows such a model."""
        (folder / "config.json").write_text(json.dumps({"architectures": [self.title]}) + "\n", "utf-8")
        state = {name: value.cpu().contiguous() for name, value in self.state().items()}
        save_file(state, folder / WEIGHTS, metadata={"format": "pt"})

    def take(self, folder: Path) -> None:
        """Take over the weights that a model of the same shape has exported. ValueError, in one line, for others."""
        state = load_file(folder / WEIGHTS)
        refuse_shapes(folder, *({name: each.shape for name, each in one.items()} for one in (state, self.state())))
        self.load(state)

    def losses(
        self, ids_bT: Tensor, positions: Tensor, labels: Tensor, seed: int = 0, entropies: bool = False
    ) -> Guesses:
        """Losses and predictions at the slots, and the entropies if they are wanted.

        seed: of a step's dropout, for a model that draws it by itself; torch's generator has it already.
        """
        logits = self.logits(ids_bT, positions).float()
        found = torch.special.entr(logits.detach().softmax(1)).sum(1) if entropies else None
        return Guesses(F.cross_entropy(logits, labels, reduction="none"), logits.detach().argmax(1), found)

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint holds: every tensor once, so tied weights under one name."""
        found, seen = dict[str, Tensor](), set[int]()
        for name, value in self.state_dict(keep_vars=True).items():
            if id(value) not in seen:
                seen.add(id(value))
                found[name] = value.detach()
        return found

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state()`."""
        self.load_state_dict(state, strict=False)


WEIGHTS = "model.safetensors"
Build = Callable[[Config, Prepared, int], MaskedLM]  # from the settings, the corpus and the seed


def refuse_shapes(folder: Path, found: Mapping[str, Any], due: Mapping[str, Any]) -> None:
    """Raises ValueError, in one line, for weights with other names or shapes than a model of this shape has."""
    if other := [name for name in sorted({*found, *due}) if found.get(name) != due.get(name)]:
        shapes = [None if each is None else list(each) for each in (found.get(other[0]), due.get(other[0]))]
        raise ValueError(f"{folder} has {other[0]} of shape {shapes[0]}, not {shapes[1]}")


def inside(positions: Tensor, ids_bT: Tensor) -> Tensor:
    """Positions with those past the end, which are padding, moved to the last one."""
    return positions.clamp(max=ids_bT.numel() - 1)


def sizes(model: Any) -> int:
    """Its parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
