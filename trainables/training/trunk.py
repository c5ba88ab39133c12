"""The common beginning of runs that differ in their masking rule alone: trained once, then played to each of them.

Until its mask warm-up ends, every rule draws at random. So runs with the same seed and the same other settings take the
same steps, and only what their rules learn from the answers differs. A run leaves its state at such a step with all
answers so far. Another one starts from there: its rule selects, observes and refreshes as if it had been there, which
needs no pass through the model.

Shapes: N steps, S index slots of a step.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from trainables import limits
from trainables.masking.policy import Answers
from trainables.training import bundle

STATES = ("model", "optimiser", "answers")
ORIGIN = "origin.json"


class Log:
    """The answers of the steps so far, as they come."""

    def __init__(self) -> None:
        self._steps: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, answers: Answers) -> None:
        """Keep a step's answers."""
        self._steps.append((answers.predictions.to(torch.int32), answers.losses.float(), answers.masked))

    def tensors(self) -> dict[str, Tensor]:
        """[N, S] each."""
        predictions, losses, masked = (torch.stack(each) for each in zip(*self._steps, strict=True))
        return {"predictions": predictions, "losses": losses, "masked": masked.to(torch.uint8)}


class Trunk(NamedTuple):
    """The state after `step` steps of random masking.

    Args:
        step: N.
        model: the weights.
        optimiser: its state.
        answers: `Log.tensors`, and `losses_since`, [2]: the sum and the number of losses since the last report.
        rows: what was reported so far, without what depends on the masking rule.
        origin: the seed, and the fingerprint of the data.
    """

    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    answers: dict[str, Tensor]
    rows: list[bundle.Row]
    origin: dict[str, Any]

    def at(self, step: int, labels: Tensor) -> Answers:
        """The answers of a step, counted from 0. labels: [S], the tokens at its selected positions."""
        predictions, losses, masked = (self.answers[name][step] for name in ("predictions", "losses", "masked"))
        return Answers(labels, predictions.to(labels.dtype), losses, masked.bool())


def write(trunk: Trunk) -> Path:
    """A new temporary folder with all of it, in the layout of a checkpoint."""
    folder = Path(tempfile.mkdtemp(prefix="trunk-"))
    for name, state in zip(STATES, (trunk.model, trunk.optimiser, trunk.answers), strict=True):
        tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
        save_file(tensors, folder / f"{name}.safetensors")
    (folder / ORIGIN).write_text(json.dumps(trunk.origin) + "\n", "utf-8")
    rows: Sequence[bundle.Row] = trunk.rows
    if not rows or rows[-1]["step"] != trunk.step:
        rows = [*rows, {"step": trunk.step}]  # the last row of a checkpoint names its step
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


def read(folder: Path) -> Trunk:
    """What `write` wrote. Raises ValueError, in one line, for anything else."""
    states, rows = bundle.read_checkpoint(folder, STATES)
    if not rows:
        raise ValueError(f"{folder} has no rows")
    step = int(rows[-1]["step"])
    answers = states["answers"]
    shapes = {tuple(answers[name].shape) for name in ("predictions", "losses", "masked") if name in answers}
    if len(shapes) != 1 or next(iter(shapes))[0] != step or "losses_since" not in answers:
        raise ValueError(f"{folder} does not have the answers of {step} steps")
    kept = [row for row in rows if len(row) > 1]
    return Trunk(step, states["model"], states["optimiser"], answers, kept, limits.json_file(folder / ORIGIN))
