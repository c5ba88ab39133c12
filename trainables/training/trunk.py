"""The common beginning of runs that differ in their masking rule alone: trained once, then played to each of them.

Until its mask warm-up ends, every rule draws at random. So runs with the same seed and the same other settings take the
same steps, and only what their rules learn from the answers differs. A run leaves its state at such a step with all
answers so far. Another one starts from there: its rule selects, observes and refreshes as if it had been there, which
needs no pass through the model.

Shapes: N steps, W ranks, S index slots of a step on the rank that has most.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from trainables import limits
from trainables.masking.policy import Answers
from trainables.training import bundle

AllReduce = Callable[[Tensor], object]

STATES = ("model", "optimiser", "answers")
LOGGED = ("predictions", "losses", "masked")
ENTROPIES = "entropies"  # logged by runs whose rule wants them, and only such runs start from there
ORIGIN = "origin.json"


class Log:
    """The answers of the steps so far, as they come."""

    def __init__(self) -> None:
        self._steps: list[dict[str, Tensor]] = []

    def add(self, answers: Answers) -> None:
        """Keep a step's answers."""
        kept = (answers.predictions.to(torch.int32), answers.losses.float(), answers.masked.to(torch.uint8))
        entropies = {} if answers.entropies is None else {ENTROPIES: answers.entropies.float()}
        self._steps.append({**dict(zip(LOGGED, kept, strict=True)), **entropies})

    def tensors(self, losses_since: Tensor, rank: int, world_size: int, all_reduce: AllReduce) -> dict[str, Tensor]:
        """The answers of all ranks, [W, N, S] each, and `losses_since`, [W, 2]. Every rank calls it."""
        own = {name: torch.stack([step[name] for step in self._steps]) for name in self._steps[0]}
        slots = torch.zeros(world_size, dtype=torch.int64, device=losses_since.device)
        slots[rank] = own["losses"].shape[1]
        all_reduce(slots)
        padded = {name: functional.pad(each, (0, int(slots.max()) - each.shape[1])) for name, each in own.items()}
        return {
            name: _gathered(each, rank, world_size, all_reduce)
            for name, each in {**padded, "losses_since": losses_since}.items()
        }


def _gathered(own: Tensor, rank: int, world_size: int, all_reduce: AllReduce) -> Tensor:
    """What every rank has, by rank. Summed as whole numbers, so that no bit changes."""
    bits = own.view({4: torch.int32, 8: torch.int64}.get(own.element_size(), own.dtype))
    ranks = torch.zeros(world_size, *bits.shape, dtype=bits.dtype, device=bits.device)
    ranks[rank] = bits
    all_reduce(ranks)
    return ranks.view(own.dtype)


class Trunk(NamedTuple):
    """The state after `step` steps of random masking.

    Args:
        step: N.
        model: the weights.
        optimiser: its state.
        answers: `Log.tensors`. `losses_since` has the sum and the number of losses since the last report.
        rows: what was reported so far, without what depends on the masking rule.
        origin: the seed, and the fingerprint of the data.
    """

    step: int
    model: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    answers: dict[str, Tensor]
    rows: list[bundle.Row]
    origin: dict[str, Any]

    def at(self, rank: int, step: int, labels: Tensor) -> Answers:
        """A rank's answers of a step, counted from 0. labels: the tokens at its selected positions."""
        own = {
            name: each[rank, step, : labels.numel()] for name, each in self.answers.items() if name != "losses_since"
        }
        predictions = own["predictions"].to(labels.dtype)
        return Answers(labels, predictions, own["losses"], own["masked"].bool(), own.get(ENTROPIES))


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
    shapes = {tuple(answers[name].shape) for name in (*LOGGED, ENTROPIES) if name in answers}
    since = tuple(answers["losses_since"].shape) if "losses_since" in answers else ()
    if len(shapes) != 1 or not {*LOGGED} <= {*answers} or next(iter(shapes))[:2] != (*since[:1], step):
        raise ValueError(f"{folder} does not have the answers of {step} steps")
    kept = [row for row in rows if len(row) > 1]
    return Trunk(step, states["model"], states["optimiser"], answers, kept, limits.json_file(folder / ORIGIN))
