"""The toy with a clean-up that takes its time."""

from __future__ import annotations

import time

from sweeper.trainable import TrainContext
from trainables import toy

Config = toy.Config


def train(config: toy.Config, context: TrainContext) -> None:
    try:
        toy.train(config, context)
    finally:
        time.sleep(4)
