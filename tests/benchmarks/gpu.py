"""What a GPU makes of the published recipe: `python -m tests.benchmarks.gpu [--device cuda:0] [--json]`.

Profile `published` of search_spaces/mix_ratios.yaml and its arm of that name, on the embedded corpus with 30,522 pieces
trained on it: the published shape on other text, so that no hub is needed. Seconds depend on the shape alone, and two
precisions can be compared by their losses, which otherwise say nothing about the published one. There are three parts,
each training of which is a process of its own; `--only NAME` runs one and may be given again:

`steps`   each seed in bfloat16 and in float32, the same masks and batches: the seconds of all steps in one go, with
          refreshes, without validations and checkpoints; then `val/loss`, which is always validated in float32.
`packing` four seeds through `python -m sweeper.run`, four at a time on a quarter of the device each, and one at a time
          on all of it: seconds of the whole commands, with Ray's start, validations and checkpoints. On a CPU it is two
          at a time against one, of one thread each.
`ratio`   a step of ours in bfloat16 against the adaptive loop of `tests.benchmarks.step`, as measured there: in turns,
          each step waited for, on made-up tokens. Steps that follow one another without a wait are those of `steps`.

--json adds a last line, one object: `device` and `steps`, the length of a training; of part `steps` `seconds` and
`val_loss`, each by precision in the order of the seeds, `per_10000_s` (the median of bfloat16's seconds, for so many
steps) and `loss_difference` (nats, the mean over the seeds of bfloat16's less float32's); of part `packing` `packed_s`,
`in_a_row_s`, `packed_ratio` and `trial_s` (the median of a trial alone on the device); of part `ratio` `ours_s`,
`adaptive_s` and `ratio`. --tiny, with --device cpu and few --steps, shows that the command runs, and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from sweeper.spec.load import load, resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import TrainContext
from tests.benchmarks import step, sweep
from trainables.data import batches
from trainables.settings.config import Config
from trainables.training.run import Run

PRECISIONS = ("bfloat16", "float32")
FULL = 10_000  # published steps
TRIALS = 4
TINY_MODEL = {"hidden": 32, "layers": 1, "heads": 2, "intermediate": 64}
TINY_DATA = {"tokenizer": "train:2048", "block": 32, "max_held_out": 40_000}


def published(options: argparse.Namespace, precision: str, steps: int, at_a_time: int = 1) -> SweepSpec:
    """The recipe as a sweep over seeds; where it is shorter, its other intervals in proportion."""
    tree = load(sweep.SPEC, "published").model_dump(mode="json")
    setting, value = sweep.ARM
    gpus = 0 if options.device == "cpu" else 1 / at_a_time
    tree |= {
        "name": f"{at_a_time}-at-a-time",
        "space": {},
        "arms": {"published": {setting: value}},
        "search": {"method": "arms"},
        "seeds": {"search": list(range(1, TRIALS + 1)), "confirm": []},
        "resources": {"workers": 0, "cpus_per_worker": 1, "gpus_per_worker": gpus, "concurrency": at_a_time},
        "profile": None,
    }
    tree["config"] |= {"steps": steps, "precision": precision, "report_every": max(1, steps // 10)}
    tree["config"]["masking"]["update_every"] = max(1, steps // 50)
    tree["data"] |= {"corpus": "embedded", "tokenizer": "train:30522"}
    if options.tiny:
        tree["config"]["model"] |= TINY_MODEL
        tree["data"] |= TINY_DATA
    return resolve(tree)


def recipe(spec: SweepSpec) -> Config:
    """The settings of the one arm."""
    return Config.model_validate(spec.trainable_config(spec.arms["published"]))


def train(config: Config, device: str, seed: int) -> dict[str, Any]:
    """All steps in one go, and the loss that comes of them."""
    context = TrainContext(lambda *_: None, seed=seed, device=device)
    run = Run(config, context, batches.prepare(config.data))

    def every_step() -> None:
        for at in range(config.steps):
            run.step(at)

    seconds = step.clock_of(device)(every_step)
    run.policy.metrics(context.all_reduce)  # raises where a batch left the budget
    return {"seconds": seconds, "val_loss": run.validation(run.model, context.all_reduce)["val/loss"]}


def steps(options: argparse.Namespace) -> dict[str, Any]:
    seconds, losses = ({precision: list[float]() for precision in PRECISIONS} for _ in range(2))
    for seed in range(1, options.seeds + 1):
        for precision in PRECISIONS:
            found = _apart(options, "steps", precision, str(seed))
            seconds[precision].append(found["seconds"])
            losses[precision].append(found["val_loss"])
            print(f"seed {seed}  {precision:9}{found['seconds']:9.1f} s  val/loss {found['val_loss']:.4f}", flush=True)
    difference = statistics.fmean(low - high for low, high in zip(*losses.values(), strict=True))
    full = statistics.median(seconds["bfloat16"]) * FULL / options.steps
    print(f"{FULL:,} steps in bfloat16: {full:.1f} s (wanted: at most 60)")
    print(f"bfloat16 less float32: {difference:+.4f} nats (wanted: at most 0.01 either way)", flush=True)
    return {"seconds": seconds, "val_loss": losses, "per_10000_s": full, "loss_difference": difference}


def packing(options: argparse.Namespace) -> dict[str, Any]:
    seconds, alone = [], 0.0
    together = 2 if options.device == "cpu" else TRIALS
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for at_a_time in (together, 1):
            spec, storage = published(options, "bfloat16", options.steps, at_a_time), Path(folder) / str(at_a_time)
            batches.prepare(recipe(spec).data)  # found by both
            written = storage.with_suffix(".yaml")
            written.write_text(spec.to_yaml(), "utf-8")
            journal, took = sweep._sweep(written, storage)
            records = list(journal.trials.values())
            assert [record.state for record in records] == ["completed"] * TRIALS
            seconds.append(took)
            alone = statistics.median(record.end.time - record.ask.time for record in records if record.end)
    packed, in_a_row = seconds
    print(f"{TRIALS} trials, {together} at a time: {packed:.0f} s; in a row: {in_a_row:.0f} s ({alone:.1f} s a trial)")
    print(f"packed over in a row: {packed / in_a_row:.2f} (wanted: at most 0.6)", flush=True)
    return {"packed_s": packed, "in_a_row_s": in_a_row, "packed_ratio": packed / in_a_row, "trial_s": alone}


def ratio(options: argparse.Namespace) -> dict[str, Any]:
    measured = _apart(options, "ratio", "bfloat16", "1")
    ours, adaptive = measured["ours_s"], measured["adaptive_s"]
    print(f"a step of ours {1000 * ours:.2f} ms, of the adaptive loop {1000 * adaptive:.2f} ms:", end=" ")
    print(f"{adaptive / ours:.1f} times (wanted: at least 25)", flush=True)
    return {"ours_s": ours, "adaptive_s": adaptive, "ratio": adaptive / ours}


PARTS = {part.__name__: part for part in (steps, packing, ratio)}


def _apart(options: argparse.Namespace, *what: str) -> dict[str, Any]:
    """What `_process` finds, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.gpu", "--device", options.device, "--steps", str(options.steps)]
    command += ["--tiny"] * options.tiny + ["--apart", *what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _process(options: argparse.Namespace, part: str, precision: str, seed: str) -> dict[str, Any]:
    if part == "steps":
        return train(recipe(published(options, precision, options.steps)), options.device, int(seed))
    config = recipe(published(options, precision, FULL))  # the loops begin past the mask warm-up of that many steps
    return step.measure(config, options.device, 2 if options.tiny else step.ROUNDS)


def _one_device(device: str) -> str:
    """Have this process and those it starts, Ray's included, see one GPU: what they then call it."""
    if device == "cpu":
        return device
    number, there = int(device.partition(":")[2] or 0), os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = there.split(",")[number] if there else str(number)
    return "cuda:0"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda:0", help="cuda:0 (default), another, or cpu")
    parser.add_argument("--steps", type=int, default=FULL, help="of a training; at least 10")
    parser.add_argument("--seeds", type=int, default=3, help="of part steps")
    parser.add_argument("--only", choices=PARTS, action="append", help="this part; may be given again")
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, whose figures mean nothing")
    parser.add_argument("--json", action="store_true", help="one line more, for programs")
    parser.add_argument("--apart", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        print(json.dumps(_process(options, *options.apart)))
        return
    options.device = _one_device(options.device)
    if options.device != "cpu" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here: --device cpu --tiny --steps 40 shows that the command runs")
    found: dict[str, Any] = {"steps": options.steps}
    for name in PARTS:
        if name in (options.only or PARTS):
            found |= PARTS[name](options)
    if options.json:
        device = "cpu" if options.device == "cpu" else torch.cuda.get_device_name(options.device)
        print(json.dumps({"device": device, **found}))


if __name__ == "__main__":
    main()
