"""A step of each family by `trainables.mlm` against a plain loop: `python -m tests.benchmarks.families`.

The plain loop trains the same model as in `tests.benchmarks.step`: labels, logits at all positions,
`DataCollatorForLanguageModeling`, AdamW as torch gives it; both predict 15 % of as many positions. They take turns in
one process, and medians are compared. `by_rule` is the step of the default rule, Accuracy-Morph, past its mask warm-up;
`random` masks at random. planned_GB is the plan's figure, with 0.5 for the libraries; the other two are the peaks of
one process each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

import torch

from tests.benchmarks.masking import zipfian
from tests.benchmarks.step import Ours, Plain, clock_of, peak_of
from trainables import mlm
from trainables.model.family import FAMILIES, Encoder
from trainables.settings.config import Config
from trainables.training.probe import MadeUp


class PlainFamily(Plain):
    def made(self, config: Config, prepared: MadeUp) -> Any:
        return Encoder(config.model, prepared.vocab_size, prepared.pad_id).hub


def settings(name: str, options: argparse.Namespace, preset: str = "accuracy_morph") -> mlm.Config:
    model = {"architecture": name, "hidden": options.hidden, "layers": options.layers}
    model |= {"heads": options.heads, "intermediate": 4 * options.hidden}
    tokenizer = f"train:{options.vocabulary}"
    return mlm.Config.model_validate(
        {
            "model": model,
            "batch_size": options.rows,
            "data": {"block": options.block, "tokenizer": tokenizer},
            "masking": {"preset": preset},
        }
    )


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of a step, by medians of turns."""
    rule, random = settings(name, options), settings(name, options, "random")
    prepared, clock = zipfian(rule), clock_of("cpu")
    loops = {
        "by_rule": Ours(rule, prepared, "cpu"),
        "random": Ours(random, prepared, "cpu"),
        "plain": PlainFamily(rule, prepared, "cpu"),
    }
    for loop in loops.values():
        loop()
    seconds: dict[str, list[float]] = {each: [] for each in loops}
    for _ in range(options.rounds):
        for each, loop in loops.items():
            seconds[each].append(clock(loop))
    medians = {each: statistics.median(found) for each, found in seconds.items()}
    ratios = {f"{each}_to_plain": medians[each] / medians["plain"] for each in ("by_rule", "random")}
    return {"family": name, **{f"{each}_s": value for each, value in medians.items()}, **ratios}


def peak_apart(name: str, options: argparse.Namespace, which: str) -> float:
    """GB that three steps of one loop take, all its process holds included; in a process of its own."""
    shape = [f"--{key}={getattr(options, key)}" for key in ("rows", "block", "vocabulary", "hidden", "layers", "heads")]
    command = [sys.executable, "-m", "tests.benchmarks.families", "--family", name, "--peak", which, *shape]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--family", action="append", choices=FAMILIES, help="the first six by default")
    for name, default in (("rows", 16), ("block", 128), ("vocabulary", 8192), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("hidden", 256), ("layers", 4), ("heads", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--peak", choices=["ours", "plain"], help="what `memory_GB` starts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if options.peak:
        config = settings(options.family[0], options)
        loop = (Ours if options.peak == "ours" else PlainFamily)(config, zipfian(config), "cpu")
        print(peak_of(loop, "cpu"))
        return
    found = []
    for name in options.family or FAMILIES[:6]:
        row = measure(name, options)
        row["planned_GB"] = settings(name, options).memory_bytes / 1e9 + 0.5
        row |= {"ours_GB": peak_apart(name, options, "ours"), "plain_GB": peak_apart(name, options, "plain")}
        found.append(row)
        print(json.dumps({key: round(one, 3) if isinstance(one, float) else one for key, one in row.items()}))


if __name__ == "__main__":
    main()
