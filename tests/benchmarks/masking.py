"""What masking costs, timed directly: `python -m tests.benchmarks.masking [--threads 2] [--json]`.

At the published shape (64 rows of 128 tokens, 30,522 pieces) on a CPU: selection, with what is corrupted; the
observation of the answers with its top-1 over the logits; and the refresh divided by the steps between two, in
milliseconds a step; and the whole step of the training loop, measured in the same run, of which that is so many
percent. Tokens follow Zipf's law. Entropies are made in the model's own step: last comes how much longer that takes
with them, the median ratio of pairs of steps.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from sweeper.trainable import TrainContext
from trainables.masking import mixture
from trainables.masking.policy import Answers, Vocabulary
from trainables.masking.replacement import Corruption
from trainables.noise import StepNoise
from trainables.settings import presets
from trainables.settings.config import Config
from trainables.training import probe
from trainables.training.run import Run

REPEATS = 15
STEPS = 8
PAIRS = 21
PARTS = ("select", "observe", "refresh")


def nobody(_: torch.Tensor) -> None:
    """One rank has nothing to sum."""


def milliseconds(call: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Median time of a call after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


def zipfian(config: Config) -> probe.MadeUp:
    """Made-up tokens of which few are frequent, and a vocabulary a third of which continues words."""
    plain = probe.made_up(config)
    draws = np.random.default_rng(0)
    size = plain.vocab_size - probe.SPECIALS
    weight = 1 / np.arange(1, size + 1)
    tokens = probe.SPECIALS + draws.choice(size, len(plain.tokens), p=weight / weight.sum())
    unigram = np.full(plain.vocab_size, 1e-9)
    unigram[probe.SPECIALS :] = weight / weight.sum()
    strings = ["##" + token if i % 3 == 2 else token for i, token in enumerate(plain.token_strings)]
    return dataclasses.replace(plain, tokens=tokens.astype(np.uint32), unigram=unigram, token_strings=strings)


def cost(name: str, prepared: probe.MadeUp) -> dict[str, float]:
    """Milliseconds a step of one preset's policy, past its warm-up."""
    config = Config.model_validate({"masking": {"preset": name, "mask_warmup": 0.0}})
    rows = slice(0, config.batch_size)
    vocabulary = Vocabulary(prepared.forms, prepared.eligible, prepared.unigram)
    policy = mixture.build(config, vocabulary, rows, 0, "cpu")
    block = config.data.block
    ids = torch.from_numpy(prepared.tokens[: config.batch_size * block].astype(np.int64)).view(-1, block)
    noise = StepNoise(0, 0, 1, (config.batch_size, block))
    selection = policy.select(ids, noise)
    labels = ids.flatten()[selection.positions.clamp(max=ids.numel() - 1)]
    logits = torch.randn(len(labels), prepared.vocab_size)
    losses, masked = torch.rand(len(labels)), torch.rand(len(labels)) < 0.8
    entropies = losses if config.masking.wants_entropies else None

    def observe() -> None:
        policy.observe(selection, Answers(labels, logits.argmax(1), losses, masked, entropies), nobody)

    def refresh() -> None:
        policy.refresh(nobody)

    refreshed = milliseconds(refresh)
    observe()
    refresh()
    # A fresh StepNoise each time, as a step draws its own.
    step = iter(range(10_000))
    corruption = Corruption(config.masking.corrupt, torch.from_numpy(prepared.eligible), rows)

    def select() -> None:
        noise = StepNoise(0, 0, next(step), (config.batch_size, block))
        corruption(ids, policy.select(ids, noise), noise)

    selected = milliseconds(select)
    return {"select": selected, "observe": milliseconds(observe), "refresh": refreshed / config.update_every}


def entropies() -> tuple[float, float]:
    """Percent that a step of the preset `entropy` takes beyond one without; and half the spread of the pairs."""
    prepared = zipfian(Config())
    plain = Run(Config(), TrainContext(lambda *_: None), prepared)
    other = Run(Config.model_validate({"masking": {"preset": "entropy"}}), TrainContext(lambda *_: None), prepared)
    ratios = []
    for step in range(3000, 3000 + PAIRS):
        taken = {}
        for run in (plain, other) if step % 2 else (other, plain):
            begin = time.perf_counter()
            run.step(step)
            taken[run is other] = time.perf_counter() - begin
        ratios.append(100 * (taken[True] / taken[False] - 1))
    low, _, high = statistics.quantiles(ratios[1:])
    return statistics.median(ratios[1:]), (high - low) / 2


def measured(threads: int, names: Iterable[str] = presets.MASKING) -> tuple[float, dict[str, dict[str, float]]]:
    """Milliseconds of a whole step; and by preset those of its policy's parts, and how many percent of it they are."""
    torch.set_num_threads(threads)
    prepared = zipfian(Config())
    run = Run(Config(), TrainContext(lambda *_: None), prepared)
    steps = iter(range(3000, 9000))
    before = milliseconds(lambda: run.step(next(steps)), STEPS)
    costs = {name: cost(name, prepared) for name in names}
    step = statistics.median([before, milliseconds(lambda: run.step(next(steps)), STEPS)])
    return step, {name: {**parts, "percent": 100 * sum(parts.values()) / step} for name, parts in costs.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    step, table = measured(options.threads)
    print(f"a step: {step:.0f} ms on {options.threads} threads\n")
    print("policy                      select  observe  refresh  % of the step   (ms a step)")
    for name, parts in table.items():
        numbers = "".join(f"{parts[key]:9.2f}" for key in PARTS)
        print(f"{name:26}{numbers}{parts['percent']:10.2f}")
    more, spread = entropies()
    print(f"\nentropies: {more:.1f} % of a step (half the quartiles' distance: {spread:.1f})")
    if options.json:
        print(json.dumps({"step_ms": step, "policies": table, "entropies_percent": more}))


if __name__ == "__main__":
    main()
