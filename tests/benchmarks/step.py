"""The training step against what one writes first: `python -m tests.benchmarks.step [--device cpu] [--json]`.

At the published shape (64 rows of 128 tokens, hidden 256, 4 layers, 30,522 pieces, dropout 0.1), past every warm-up:
(a) `ours`, the step of `trainables.mlm`; (b) `plain`, `BertForMaskedLM` with labels, logits at all positions,
`DataCollatorForLanguageModeling` and AdamW as torch gives it; (c) `adaptive`, the same with a collator for
Accuracy-Morph that goes token by token through dictionaries, and the argmax over all logits that it learns from.

The three take turns with a 2048-cube float32 product in one process, and medians are compared, so that others' work
falls on all alike. The product's rate is the best of the rounds' medians; the fraction of it that (a) reaches counts
the analytic operations of the shape, whatever was executed. Peaks of memory are those of one process each (on a GPU,
what torch held of the device). Masking is timed by itself.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from sweeper.trainable import TrainContext
from tests.benchmarks.masking import nobody, zipfian
from tests.trainables.obvious import Morph
from trainables.masking.policy import Answers
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.training.probe import SPECIALS, MadeUp
from trainables.training.run import Run

CUBE, PRODUCTS = 2048, 5
ROUNDS, PER_ROUND = 10, 2
BEGIN = 3000  # the first step past the mask warm-up
Loop = Callable[[], object]


class Plain:
    """(b): what Hugging Face's documentation shows."""

    def __init__(self, config: Config, prepared: MadeUp, device: str) -> None:
        self.device, self.batch_size = device, config.batch_size
        self.model = self.made(config, prepared).to(device).train()
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=config.optimiser.lr, weight_decay=0.01)
        self.rows = prepared.tokens.reshape(-1, config.data.block).tolist()
        self.collate: Callable[[list[dict[str, list[int]]]], Any] = self.collator(prepared)
        self.done = 0

    def made(self, config: Config, prepared: MadeUp) -> Any:
        from transformers import BertConfig, BertForMaskedLM

        from trainables.model.bert import hub_config

        settings: Any = hub_config(config.model, prepared.vocab_size, prepared.pad_id)
        return BertForMaskedLM(BertConfig(**settings))

    def collator(self, prepared: MadeUp) -> Callable[[list[dict[str, list[int]]]], Any]:
        from tokenizers import Tokenizer, models
        from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

        names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        names += [f"piece{i}" for i in range(SPECIALS, prepared.vocab_size)]
        entries = {name: i for i, name in enumerate(names)}
        specials: dict[str, Any] = {f"{name[1:-1].lower()}_token": name for name in names[:SPECIALS]}
        words = Tokenizer(models.WordLevel(entries, unk_token="[UNK]"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **specials)
        return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)

    def __call__(self) -> None:
        first = self.done * self.batch_size % len(self.rows)
        self.done += 1
        examples = [{"input_ids": row} for row in self.rows[first : first + self.batch_size]]
        batch = {key: value.to(self.device) for key, value in self.collate(examples).items()}
        out = self.model(input_ids=batch["input_ids"], labels=batch["labels"])
        out.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.learn(batch["labels"], out.logits)

    def learn(self, labels: torch.Tensor, logits: torch.Tensor) -> None:
        """The plain loop learns nothing of what to mask."""


class Adaptive(Plain):
    """(c): 15 positions a row at random, 3 by token score, 1 by trigram score; scores from dictionaries."""

    def __init__(self, config: Config, prepared: MadeUp, device: str) -> None:
        self.strings, self.mask_id = prepared.token_strings, prepared.mask_id
        self.morph, self.draws, self.update_every = Morph(1.0, 1.0, 3, 0.9), random.Random(0), config.update_every
        super().__init__(config, prepared, device)

    def collator(self, prepared: MadeUp) -> Callable[[list[dict[str, list[int]]]], Any]:
        return self._collate

    def _collate(self, examples: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        inputs, labels = [], []
        for example in examples:
            ids = example["input_ids"]
            given, wanted = list(ids), [-100] * len(ids)
            for position in self._chosen(ids):
                wanted[position] = ids[position]
                chance = self.draws.random()
                if chance < 0.8:
                    given[position] = self.mask_id
                elif chance < 0.9:
                    given[position] = self.draws.randrange(len(self.strings))
            inputs.append(given)
            labels.append(wanted)
        return {"input_ids": torch.tensor(inputs), "labels": torch.tensor(labels)}

    def _chosen(self, ids: list[int]) -> list[int]:
        free, chosen = set(range(len(ids))), []
        for score, count in ((self.morph.token_score, 3), (self.morph.trigram_score, 1)):
            weight = {position: score(self.strings[ids[position]]) for position in free}
            keys = {p: math.log(self.draws.random()) / w for p, w in weight.items() if w > 0}
            taken = sorted(keys, key=keys.__getitem__, reverse=True)[:count]
            chosen += taken
            free -= set(taken)
        return chosen + self.draws.sample(sorted(free), 19 - len(chosen))

    def learn(self, labels: torch.Tensor, logits: torch.Tensor) -> None:
        predictions = logits.argmax(-1)
        selected = labels != -100
        ids = labels[selected].tolist()
        right = [a == b for a, b in zip(ids, predictions[selected].tolist(), strict=True)]
        self.morph.observe([self.strings[i] for i in ids], right)
        if self.done == 1 or self.done % self.update_every == 0:  # once at the start, that there be scores
            self.morph.refresh()


class Ours:
    """(a): the step of a run."""

    def __init__(self, config: Config, prepared: MadeUp, device: str) -> None:
        self.run = Run(config, TrainContext(lambda *_: None, device=device), prepared)
        self.at = BEGIN

    def __call__(self) -> None:
        self.run.step(self.at)
        self.at += 1

    def masking(self, clock: Callable[[Loop], float]) -> float:
        """Seconds a step of selection, replacement, what is learned of the answers, and the refreshes' share."""
        run, config = self.run, self.run.config
        shape = (config.batch_size, config.data.block)
        ids = torch.from_numpy(run.batches.tokens(0)).to(run.context.device)
        selection = run.policy.select(ids, StepNoise(0, 0, BEGIN, shape))
        labels = ids.flatten()[selection.positions.clamp(max=ids.numel() - 1)]
        answers = Answers(labels, labels.roll(1), torch.rand_like(labels, dtype=torch.float32), labels > 0)

        def select() -> None:
            self.at += 1
            noise = StepNoise(0, 0, self.at, shape)
            corrupted, _ = run.corruption(ids, run.policy.select(ids, noise), noise)
            run.replacement(ids, corrupted, noise)

        def observe() -> None:
            run.policy.observe(selection, answers, nobody)

        parts = [_median(part, clock) for part in (select, observe, lambda: run.policy.refresh(nobody))]
        return parts[0] + parts[1] + parts[2] / config.update_every


LOOPS: dict[str, Callable[[Config, MadeUp, str], Loop]] = {"ours": Ours, "plain": Plain, "adaptive": Adaptive}


def clock_of(device: str) -> Callable[[Loop], float]:
    """Seconds of a call; on a CUDA device by events."""

    def on_host(call: Loop) -> float:
        begin = time.perf_counter()
        call()
        return time.perf_counter() - begin

    def on_device(call: Loop) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1000

    return on_host if device == "cpu" else on_device


def _median(call: Loop, clock: Callable[[Loop], float], repeats: int = 15) -> float:
    call()
    return statistics.median(clock(call) for _ in range(repeats))


def measure(config: Config, device: str, rounds: int) -> dict[str, Any]:
    """Seconds a step of the three, in turns, and the rate of the product between them."""
    prepared, clock = zipfian(config), clock_of(device)
    loops = {name: make(config, prepared, device) for name, make in LOOPS.items()}
    for loop in loops.values():
        loop()
        loop()
    left, right = torch.rand(2, CUBE, CUBE, device=device)
    result = torch.empty_like(left)
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    products: list[float] = []
    for _ in range(rounds):
        for name, loop in loops.items():
            products.append(_median(lambda: torch.mm(left, right, out=result), clock, PRODUCTS))
            seconds[name] += [clock(loop) for _ in range(PER_ROUND if name == "ours" else 1)]
    ours, plain, adaptive = (statistics.median(seconds[name]) for name in LOOPS)
    first = loops["ours"]
    assert isinstance(first, Ours)
    # One median a round: the best of ten is not the best of thirty.
    rate = 2 * CUBE**3 / min(products[:: len(loops)])
    return {
        "ours_s": ours,
        "plain_s": plain,
        "adaptive_s": adaptive,
        "gemm_gflops": rate / 1e9,
        "gemm_fraction": config.flops_per_step / ours / rate,
        "masking_fraction": first.masking(clock) / ours,
    }


def peak(name: str, config: Config, device: str) -> float:
    """GB that three steps of one loop take, all its process holds included; run in a process of its own."""
    return peak_of(LOOPS[name](config, zipfian(config), device), device)


def peak_of(loop: Loop, device: str) -> float:
    """GB of this process after three steps."""
    for _ in range(3):
        loop()
    if device != "cpu":
        return torch.cuda.max_memory_reserved(device) / 1e9
    # Not getrusage, whose peak a child takes over from the process that started it.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
    return int(status["VmHWM"].split()[0]) * 1024 / 1e9


def _peak_apart(name: str, options: argparse.Namespace) -> float:
    common = ["--threads", str(options.threads), "--device", options.device, "--precision", options.precision]
    command = [sys.executable, "-m", "tests.benchmarks.step", *common, "--peak", name]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.step", description=__doc__)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda:0")
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"], help="of ours")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", action="store_true", help="one line more, for programs")
    parser.add_argument("--peak", choices=LOOPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = Config.model_validate({"precision": options.precision, "data": {"tokenizer": "bert-base-uncased"}})
    if options.peak:
        print(peak(options.peak, config, options.device))
        return
    found = measure(config, options.device, options.rounds)
    for name in LOOPS:
        found[f"peak_gb_{name}"] = _peak_apart(name, options)
    found["device"] = options.device if options.device == "cpu" else torch.cuda.get_device_name(options.device)
    print("loop        s a step   times ours   peak GB")
    for name in LOOPS:
        step, memory = found[f"{name}_s"], found[f"peak_gb_{name}"]
        print(f"{name:10}{step:10.4f}{step / found['ours_s']:13.2f}{memory:10.2f}")
    share = f"{found['gemm_gflops']:.0f} GFLOP/s, of which ours reaches {100 * found['gemm_fraction']:.1f} %"
    print(f"product of this machine: {share}; masking: {100 * found['masking_fraction']:.2f} % of the step")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
