"""The toy, which counts its tries in the working folder, and at the first one loses its process or meets a fault, if
it is told to."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

from sweeper.trainable import TrainContext
from trainables import toy


class Config(toy.Config):
    killed: bool = False
    fault: int = 0  # the system's number


def train(config: Config, context: TrainContext) -> None:
    tries = Path(f"tries-{config.x}")
    with tries.open("a", encoding="utf-8") as file:
        file.write("x")

    def report(metrics: Any, checkpoint: Path | None) -> None:
        context.report(metrics, checkpoint)
        if config.killed and len(tries.read_text("utf-8")) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if config.fault and len(tries.read_text("utf-8")) == 1:
            raise OSError(config.fault, os.strerror(config.fault), "/a/file")

    toy.train(config, replace(context, report=report))
