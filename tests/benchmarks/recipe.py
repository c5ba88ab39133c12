"""Where small models leave word frequencies, by start, shape and learning rate: `python -m tests.benchmarks.recipe`.

Random masking of the embedded corpus, one thread. A run leaves them at the first report, one every 25 steps, at which
its loss at [MASK] lies 0.3 nats below the unigram distribution's; its gain is how far it lies below at the end.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sweeper.trainable import TrainContext
from trainables import mlm

EVERY, SEEDS = 25, 4
BASE: dict[str, Any] = {
    "steps": 600,
    "batch_size": 32,
    "report_every": EVERY,
    "data": {"tokenizer": "train:2048", "block": 32, "max_held_out": 20_000},
    "model": {"hidden": 64, "layers": 2, "heads": 2, "intermediate": 256, "max_positions": 128, "dropout": 0.0},
    "optimiser": {"lr": 2e-3},
    "masking": {"preset": "random"},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "hidden 64, 2 layers, 2 heads, block 32, 2,048 pieces, no dropout, lr 2e-3": {},
    "the same, 1,200 steps": {"steps": 1200},
    "1 layer": {"model": {"layers": 1}},
    "4 layers": {"model": {"layers": 4}},
    "4 heads": {"model": {"heads": 4}},
    "hidden 128": {"model": {"hidden": 128, "intermediate": 512}},
    "hidden 256, 4 heads, lr 1e-3": {
        "model": {"hidden": 256, "heads": 4, "intermediate": 1024},
        "optimiser": {"lr": 1e-3},
    },
    "dropout 0.1": {"model": {"dropout": 0.1}},
    "block 16": {"data": {"block": 16}},
    "block 128, 8 rows": {"data": {"block": 128}, "batch_size": 8},
    "512 pieces": {"data": {"tokenizer": "train:512"}},
    "8,192 pieces": {"data": {"tokenizer": "train:8192"}},
    "lr 1e-3": {"optimiser": {"lr": 1e-3}},
    "lr 4e-3": {"optimiser": {"lr": 4e-3}},
}


@dataclass(frozen=True)
class Course:
    """left: the step at which word frequencies were left, None for never. gain: nats, at the end. seconds: CPU's."""

    left: int | None
    gain: float
    seconds: float


def settings(start: str, changes: Mapping[str, Any]) -> mlm.Config:
    """The base with a variant's changes, section by section."""
    tree = {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in BASE.items()}
    tree |= {key: value for key, value in changes.items() if not isinstance(value, dict)}
    tree["model"] = {**tree["model"], "start": start}
    return mlm.Config.model_validate(tree)


def leaves(gains: Mapping[int, float]) -> int | None:
    """The first step at which a run has left word frequencies, by its gains; None for never."""
    return next((step for step, gain in gains.items() if gain > mlm.LEARNED), None)


def course(config: mlm.Config, seed: int) -> Course:
    """One run."""
    gains: dict[int, float] = {}

    def keep(row: Mapping[str, float], checkpoint: Path | None) -> None:
        gains[int(row["step"])] = row["val/unigram_mask"] - row["val/loss_mask"]
        if checkpoint:
            shutil.rmtree(checkpoint)

    begin = time.process_time()
    mlm.train(config, TrainContext(keep, seed))
    return Course(leaves(gains), gains[config.steps], time.process_time() - begin)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipe", description=__doc__)
    parser.add_argument("--starts", nargs="+", default=["neighbours"], choices=["published", "neighbours"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), metavar="NAME", help="as in the table; all")
    parser.add_argument("--json", action="store_true", help="one line a variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.json:
        print("| start | variant | leaves at step | gain, nats | processor s |\n|---|---|--:|--:|--:|", flush=True)
    for start in options.starts:
        for name in options.variants:
            found = [course(settings(start, VARIANTS[name]), seed) for seed in range(options.seeds)]
            if options.json:
                print(json.dumps({"start": start, "variant": name, "runs": [vars(one) for one in found]}), flush=True)
                continue
            left = ", ".join(str(one.left or "never") for one in found)
            gains = [one.gain for one in found]
            seconds = statistics.mean(one.seconds for one in found)
            print(f"| {start} | {name} | {left} | {min(gains):.2f} to {max(gains):.2f} | {seconds:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
