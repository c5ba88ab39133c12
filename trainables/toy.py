"""A closed-form learning curve with a known optimum: whole sweeps in seconds, for tests and for the statistics.

The loss falls to `floor + curvature * |x - optimum|^2 + effect` as the run goes on, plus noise that seeds share. The
task `toy` wants x elsewhere, so that between the two lies a front: y 0.7, token 0.2 and x from 0.3 to 0.8.
"""

from __future__ import annotations

import json
import math
import random
import tempfile
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from sweeper.trainable import Pace, TrainContext
from trainables.settings.config import Frozen, Shares


class Config(Frozen):
    """x, y in [0, 1] and `shares.token` are what to search: the best are 0.3, 0.7 and 0.2, at loss 1.

    seed_sd: noise common to all trials of a seed. run_sd: noise of one configuration and seed. fail: what goes
    wrong at half of the length, on purpose. pause: seconds a step. stays: seeds on which nothing is learned.
    """

    steps: Annotated[int, Field(gt=0)] = 20
    report_every: Annotated[int, Field(gt=0)] = 5
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    x: Annotated[float, Field(ge=0, le=1)] = 0.5
    y: Annotated[float, Field(ge=0, le=1)] = 0.5
    shares: Shares = Shares(random=1.0)
    effect: float = 0.0
    seed_sd: Annotated[float, Field(ge=0)] = 0.0
    run_sd: Annotated[float, Field(ge=0)] = 0.0
    pause: Annotated[float, Field(ge=0)] = 0.0
    fail: Literal["never", "raise", "nan"] = "never"
    stays: tuple[int, ...] = Field(default=(), exclude_if=lambda seeds: not seeds)

    @property
    def warmup_steps(self) -> int:
        return round(self.warmup * self.steps)

    @property
    def tokens_per_step(self) -> int:
        return 1

    @property
    def flops_per_step(self) -> float:
        return 1.0

    @property
    def validation_flops(self) -> float:
        return 0.0

    @property
    def checkpoint_bytes(self) -> int:
        return 1_000

    @property
    def memory_bytes(self) -> int:
        return 1_000

    @property
    def optimum_distance(self) -> float:
        """Squared distance from the optimum."""
        return (self.x - 0.3) ** 2 + (self.y - 0.7) ** 2 + (self.shares.token - 0.2) ** 2

    @property
    def accuracy(self) -> float:
        """The score at the task, at most 1, without noise."""
        return 1 - (self.x - 0.8) ** 2 - (self.y - 0.7) ** 2 - (self.shares.token - 0.2) ** 2


def train(config: Config, context: TrainContext) -> None:
    """Report the curve; a checkpoint is the step alone."""
    history: list[dict[str, float]] = []
    if context.restore_from:
        history = [
            json.loads(line) for line in (context.restore_from / "history.jsonl").read_text("utf-8").splitlines()
        ]
    begin = int(history[-1]["step"]) if history else 0
    noise = config.seed_sd * random.Random(f"seed {context.seed}").gauss(0, 1)
    noise += config.run_sd * random.Random(f"run {context.seed} {config.model_dump_json()}").gauss(0, 1)
    for step in range(begin + 1, config.steps + 1):
        time.sleep(config.pause)
        if step == max(1, config.steps // 2) and config.fail == "raise":
            raise RuntimeError("the toy fails on purpose")
        if step % config.report_every and step != config.steps:
            continue
        begun = 0 if context.seed in config.stays else step / config.steps
        loss = 1 + config.optimum_distance + config.effect + noise + math.exp(-5 * begun)
        if config.fail == "nan" and step > config.steps // 2:
            loss = math.nan
        row = {"step": step, "val/loss": loss} | ({"val/begun": begun} if config.stays else {})
        if context.test and step == config.steps:
            row["test/loss"] = loss
        if context.evaluate and step == config.steps:
            for name in context.evaluate:
                row |= {f"{name}/accuracy": config.accuracy - noise, f"{name}/untrained": 0.5, f"{name}/ties": 0.0}
        history.append(row)
        context.report(row, _checkpoint(history, step == config.steps) if context.rank == 0 else None)


def stuck(metrics: Mapping[str, float]) -> str | None:
    """By `val/begun`, which only runs of configurations with `stays` have."""
    return "stayed at the start" if metrics.get("val/begun", 1.0) == 0 else None


def check_tasks(_config: Config, tasks: Mapping[str, str]) -> dict[str, str]:
    """`toy`, or `toy/` and any name, are the same; the file is not scored, but must be there."""
    for name, path in tasks.items():
        if name.partition("/")[0] != "toy":
            raise ValueError(f"there is no task {name!r}; legal are toy")
        if not Path(path).exists():
            raise ValueError(f"{name}={path}: there is no such file")
    return {f"{name}/accuracy": sha256(Path(path).read_bytes()).hexdigest() for name, path in tasks.items()}


def probe(config: Config, device: str = "cpu", world_size: int = 1) -> Pace:
    """It is known: a step is a pause."""
    return Pace(config.pause, 0.0)


def _checkpoint(history: list[dict[str, float]], last: bool) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="toy-"))
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    if last:
        (folder / "bundle").mkdir()
        (folder / "bundle" / "metadata.json").write_text(json.dumps(history[-1]), "utf-8")
    return folder
