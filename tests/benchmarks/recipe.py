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

from sweeper.spec import load
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
LONGER: dict[str, Any] = {"steps": 1500, "batch_size": 64, "model": {"hidden": 128, "intermediate": 512}}
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
    "lr 3e-3": {"optimiser": {"lr": 3e-3}},
    "lr 4e-3": {"optimiser": {"lr": 4e-3}},
    "lr 6e-3": {"optimiser": {"lr": 6e-3}},
    "lr 3e-3, 1,200 steps": {"steps": 1200, "optimiser": {"lr": 3e-3}},
    "lr 4e-3, 1,200 steps": {"steps": 1200, "optimiser": {"lr": 4e-3}},
    "lr 4e-3, 1,200 steps, 1,024 pieces": {
        "steps": 1200,
        "optimiser": {"lr": 4e-3},
        "data": {"tokenizer": "train:1024"},
    },
    "lr 4e-3, 1,200 steps, 1 layer": {"steps": 1200, "optimiser": {"lr": 4e-3}, "model": {"layers": 1}},
    "hidden 128, lr 1.5e-3, 1,500 steps of 64 rows": {**LONGER, "optimiser": {"lr": 1.5e-3}},
    "hidden 128, lr 2e-3, 1,500 steps of 64 rows": LONGER,
    "hidden 128, lr 3e-3, 1,500 steps of 64 rows": {**LONGER, "optimiser": {"lr": 3e-3}},
    "hidden 128, lr 4e-3, 1,500 steps of 64 rows": {**LONGER, "optimiser": {"lr": 4e-3}},
    "hidden 128, lr 3e-3, 3,000 steps of 32 rows": {
        **LONGER,
        "steps": 3000,
        "batch_size": 32,
        "optimiser": {"lr": 3e-3},
    },
    "published shape, 8,192 pieces, 16 rows of 128, lr 5e-4": {
        "batch_size": 16,
        "data": {"tokenizer": "train:8192", "block": 128},
        "model": {"hidden": 256, "layers": 4, "heads": 4, "intermediate": 1024, "dropout": 0.1},
        "optimiser": {"lr": 5e-4},
    },
}


@dataclass(frozen=True)
class Course:
    """left: the step at which word frequencies were left, None for never. gain: nats, at the end. seconds: CPU's."""

    left: int | None
    gain: float
    seconds: float


def settings(start: str, changes: Mapping[str, Any]) -> mlm.Config:
    """The base with a variant's changes, section by section, or with its name that of a profile."""
    tree = {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in BASE.items()}
    tree |= {key: value for key, value in changes.items() if not isinstance(value, dict)}
    tree["model"] = {**tree["model"], "start": start}
    return mlm.Config.model_validate(tree)


def profiled(name: str) -> mlm.Config:
    """What the baseline of a shipped profile trains, reported as often as the variants."""
    question = load.load(Path("search_spaces/mix_ratios.yaml"), name)
    params = {**question.arms["baseline"], "report_every": EVERY}
    return mlm.Config.model_validate(question.trainable_config(params))


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
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), metavar="NAME", help="as in the table; all")
    parser.add_argument("--profiles", nargs="*", default=["laptop", "small"], choices=["laptop", "small"])
    parser.add_argument("--json", action="store_true", help="one line a variant")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = [(start, name, settings(start, VARIANTS[name])) for start in options.starts for name in options.variants]
    asked += [("neighbours", f"profile {name}", profiled(name)) for name in options.profiles]
    if not options.json:
        print("| start | variant | leaves at step | its sd | gain, nats | processor s |\n|---|---|--:|--:|--:|--:|")
    for start, name, config in asked:
        found = [course(config, seed) for seed in range(options.seeds)]
        if options.json:
            print(json.dumps({"start": start, "variant": name, "runs": [vars(one) for one in found]}), flush=True)
            continue
        left, known = ", ".join(str(one.left or "never") for one in found), [one.left for one in found if one.left]
        sd = f"{statistics.stdev(known):.0f}" if len(known) == len(found) > 1 else "-"
        gains, seconds = [one.gain for one in found], statistics.mean(one.seconds for one in found)
        span = f"{min(gains):.2f} to {max(gains):.2f}"
        print(f"| {start} | {name} | {left} | {sd} | {span} | {seconds:.0f} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
