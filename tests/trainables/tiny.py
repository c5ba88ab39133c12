"""A corpus made on the spot, a run of seconds over it, and a recorder of what the run reports."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sweeper.trainable import TrainContext
from trainables import mlm
from trainables.settings.config import Config


def write_corpus(folder: Path, documents: int = 120) -> Path:
    """Text with a grammar: a word decides the next, nine times of ten."""
    source = random.Random(0)
    syllables = [a + b for a in "bdfgklmnprst" for b in "aeiou"]
    words = ["".join(source.choices(syllables, k=source.randint(1, 3))) for _ in range(60)]
    follower = {word: source.choice(words) for word in words}
    text = []
    for _ in range(documents):
        word, sentence = source.choice(words), []
        for _ in range(source.randint(20, 60)):
            word = follower[word] if source.random() < 0.9 else source.choice(words)
            sentence.append(word)
        text.append(" ".join(sentence))
    path = folder / "corpus.txt"
    path.write_text("\n\n".join(text), "utf-8")
    return path


def config(corpus: Path, **changes: Any) -> Config:
    """Twenty steps of a model of some thousand parameters. changes: sections to update, or top-level settings."""
    tree: dict[str, Any] = {
        "steps": 20,
        "batch_size": 8,
        "report_every": 5,
        "data": {"corpus": f"files:{corpus}", "tokenizer": "train:300", "block": 16, "held_out": 0.1},
        "model": {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 64, "max_positions": 16},
        "masking": {"shares": {"random": 0.5, "token": 0.3, "trigram": 0.2}, "update_every": 2, "ema_decay": 0.5},
        "optimiser": {"lr": 0.003},
    }
    for key, change in changes.items():
        tree[key] = {**tree[key], **change} if isinstance(change, dict) else change
    return Config.model_validate(tree)


class Stopped(Exception):
    """The recorder was told to stop the run here."""


class Recorder:
    """Keeps every row and the newest checkpoint; raises at a step to stop the run there."""

    def __init__(self, folder: Path, stop_at: int | None = None) -> None:
        self.rows: list[dict[str, float]] = []
        self.checkpoint = folder / "checkpoint"
        self.stop_at = stop_at

    def __call__(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        if checkpoint is not None:
            shutil.rmtree(self.checkpoint, ignore_errors=True)
            shutil.move(checkpoint, self.checkpoint)
        self.rows.append(dict(metrics))
        if metrics["step"] == self.stop_at:
            raise Stopped

    def weights(self) -> dict[str, bytes]:
        """The checkpoint's files but the history, byte for byte."""
        return {path.name: path.read_bytes() for path in sorted(self.checkpoint.glob("*.safetensors"))}


def run(settings: Config, folder: Path, seed: int = 0, **context: Any) -> Recorder:
    """Train in this process on one thread."""
    torch.set_num_threads(1)
    recorder = Recorder(folder)
    mlm.train(settings, TrainContext(recorder, seed, **context))
    return recorder


def run_rank(rank: int, world_size: int, settings: Config, folder: Path) -> None:
    """One of several gloo ranks, in a process of its own; rank 0 leaves `rows.json`."""
    torch.set_num_threads(1)
    init = f"file://{folder / 'rendezvous'}"
    torch.distributed.init_process_group("gloo", init_method=init, rank=rank, world_size=world_size)
    all_reduce = torch.distributed.all_reduce
    recorder = Recorder(folder)
    mlm.train(settings, TrainContext(recorder, 0, rank, world_size, all_reduce=all_reduce))
    if rank == 0:
        (folder / "rows.json").write_text(json.dumps(recorder.rows), "utf-8")
    torch.distributed.destroy_process_group()
