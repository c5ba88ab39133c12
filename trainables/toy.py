"""A closed-form learning curve with a known optimum: whole sweeps in seconds, for tests and for the statistics.

The loss falls to `floor + curvature * |x - optimum|^2 + effect` over the run, plus noise that trials of a seed share.
The task `toy` has its optimum at another x, so that the two span a front: y 0.7, token 0.2 and x from 0.3 to 0.8.
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
from trainables.settings.frozen import Frozen
from trainables.settings.shares import Shares


class Config(Frozen):
    """Settings of the curve. Search x, y and `shares.token`: the best are 0.3, 0.7 and 0.2, at loss 1.

    Args:
        steps: length of the run.
        report_every: steps between reports.
        warmup: share of the steps that count as mask warm-up.
        x: 0 to 1; the best is 0.3.
        y: 0 to 1; the best is 0.7.
        shares: `token` is searched; the best is 0.2.
        effect: added to the loss.
        seed_sd: noise common to all trials of a seed.
        run_sd: noise of one configuration and seed.
        pause: seconds a step.
        fail: how to fail at half of the length, on purpose.
        stays: seeds on which nothing is learned.
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
        """Steps of the mask warm-up."""
        return round(self.warmup * self.steps)

    @property
    def tokens_per_step(self) -> int:
        """One: there are no tokens."""
        return 1

    @property
    def flops_per_step(self) -> float:
        """One: nothing is computed."""
        return 1.0

    @property
    def validation_flops(self) -> float:
        """Zero: nothing is validated."""
        return 0.0

    @property
    def checkpoint_bytes(self) -> int:
        """About what a history takes."""
        return 1_000

    @property
    def memory_bytes(self) -> int:
        """Next to nothing."""
        return 1_000

    @property
    def optimum_distance(self) -> float:
        """Squared distance from the optimum."""
        return (self.x - 0.3) ** 2 + (self.y - 0.7) ** 2 + (self.shares.token - 0.2) ** 2

    @property
    def accuracy(self) -> float:
        """The score of the task without noise, at most 1."""
        return 1 - (self.x - 0.8) ** 2 - (self.y - 0.7) ** 2 - (self.shares.token - 0.2) ** 2


def train(config: Config, context: TrainContext) -> None:
    """Report the curve. A checkpoint is the history alone."""
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
        progress = 0 if context.seed in config.stays else step / config.steps
        loss = 1 + config.optimum_distance + config.effect + noise + math.exp(-5 * progress)
        if config.fail == "nan" and step > config.steps // 2:
            loss = math.nan
        row = {"step": step, "val/loss": loss} | ({"val/begun": progress} if config.stays else {})
        if context.test and step == config.steps:
            row["test/loss"] = loss
        if context.evaluate and step == config.steps:
            for name in context.evaluate:
                row |= {f"{name}/accuracy": config.accuracy - noise, f"{name}/untrained": 0.5, f"{name}/ties": 0.0}
        history.append(row)
        context.report(row, _checkpoint(history, step == config.steps) if context.rank == 0 else None)


def stuck(metrics: Mapping[str, float]) -> str | None:
    """Whether a run learned nothing: by `val/begun`, which only configurations with `stays` report."""
    return "stayed at the start" if metrics.get("val/begun", 1.0) == 0 else None


def check_tasks(_config: Config, tasks: Mapping[str, str]) -> dict[str, str]:
    """Accepts `toy` and `toy/NAME`, which are the same task. The file is not scored, but must exist."""
    for name, path in tasks.items():
        if name.partition("/")[0] != "toy":
            raise ValueError(f"there is no task {name!r}; use toy")
        if not Path(path).exists():
            raise ValueError(f"{name}={path}: there is no such file")
    return {f"{name}/accuracy": sha256(Path(path).read_bytes()).hexdigest() for name, path in tasks.items()}


def probe(config: Config, device: str = "cpu", world_size: int = 1) -> Pace:
    """Nothing to measure: a step takes its pause."""
    return Pace(config.pause, 0.0)


def _checkpoint(history: list[dict[str, float]], last: bool) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="toy-"))
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history), "utf-8")
    if last:
        (folder / "bundle").mkdir()
        (folder / "bundle" / "metadata.json").write_text(json.dumps(history[-1]), "utf-8")
    return folder
