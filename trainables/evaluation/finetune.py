"""Fine-tunes a bundle on (Super)GLUE as the BabyLM challenge does, and scores it.

The score is the best epoch's on the validation data, as in the challenge's evaluation pipeline of 2025
(github.com/babylm/evaluation-pipeline-2025, evaluation_pipeline/finetune). The epoch is chosen on the data that it is
measured on, which flatters, more so on small data; `GlueScore.last` is free of that. `NAME-last` is the task as the
pipeline of 2026 reads it: the last position, padded on the left (classifier.py says what that does).

A finished (task, seed), for one model, data, settings, device and versions, lies as JSON in a work folder and is not
repeated; an interrupted one starts over. On a CPU its bits depend on these alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sweeper.system import files
from trainables import limits, received
from trainables.evaluation.classifier import Progress, learn
from trainables.evaluation.glue import (
    FAST,
    Examples,
    Measure,
    Pooling,
    Settings,
    Split,
    check,
    measure,
    parts,
    pooled,
    read,
    settings,
)

__all__ = ["GlueScore", "check", "finetune", "predictions"]

READ = ("config.json", "*.safetensors", "tokenizer*", "vocab*", "merges.txt", "*special*.json", "added_tokens.json")
RECORD = 2  # raise it when the meaning of a record, or the way to its numbers, changes


@dataclass(frozen=True)
class GlueScore:
    """A bundle's score on a task, from 0 to 1.

    Args:
        measure: accuracy or f1.
        score: mean over `by_seed`.
        by_seed: the best epoch's score for each seed.
        majority: the score of always answering the most frequent training label.
        last: as `score`, after the last epoch instead of the best.
    """

    measure: Measure
    score: float
    by_seed: Mapping[int, float]
    majority: float
    last: float


def finetune(
    model_folder: Path, name: str, data: str, work: Path, seeds: Sequence[int], progress: Progress | None = None
) -> GlueScore:
    """Fine-tune a bundle on a task once for each seed, or on each task of `fast` for the first seed alone.

    It runs on torch's default device and threads. Raises ValueError, in one line, for unusable data and folders.

    Args:
        model_folder: the bundle.
        name: of the task, or `fast`; either may end in `-last`.
        data: see `glue.read`.
        work: where finished seeds are kept.
        seeds: at least one.
        progress: told of every epoch in a line.
    """
    assert seeds
    (own, pooling), tell = pooled(name), progress or (lambda _: None)
    fast = own == FAST
    found = [_task(model_folder, part, place, work, fast, pooling) for part, place in parts(name, data)]
    records = [[task.record(seed, tell) for seed in seeds[: 1 if fast else None]] for task in found]
    scores = np.array([[record["score"] for record in row] for row in records])  # [tasks, seeds]
    return GlueScore(
        measure(name),
        float(scores.mean()),
        dict(zip(seeds, scores.mean(0).tolist(), strict=False)),
        float(np.mean([row[0]["majority"] for row in records])),
        float(np.mean([[record["last"] for record in row] for row in records])),
    )


def predictions(
    model_folder: Path, name: str, data: str, work: Path, seed: int = 0, progress: Progress | None = None
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """A task's answers on its validation data after the best epoch, as the challenge's submission has them.

    {"rte": {"predictions": [{"id": "rte_0", "pred": 1}, ...]}}, in the order of the file. Fine-tuning is that of
    `finetune`, whose record it shares. Raises ValueError, in one line, for unusable data and folders.

    Args:
        model_folder: the bundle.
        name: of the task; it may end in `-last`.
        data: see `glue.read`.
        work: where finished seeds are kept.
        seed: of fine-tuning.
        progress: told of every epoch in a line.
    """
    own, pooling = pooled(name)
    record = _task(model_folder, own, data, work, False, pooling).record(seed, progress or (lambda _: None))
    return {own: {"predictions": [{"id": f"{own}_{n}", "pred": answer} for n, answer in enumerate(record["answers"])]}}


@dataclass(frozen=True)
class _Task:
    """One task with its data, for one model."""

    name: str
    settings: Settings
    examples: Mapping[Split, Examples]
    model_folder: Path
    work: Path
    fingerprint: str

    def record(self, seed: int, tell: Progress) -> dict[str, Any]:
        """The record of a seed: from the work folder, or made and put there."""
        path = self.work / f"{self.name}-{seed}-{self.fingerprint}.json"
        kept = _kept(path, len(self.examples["valid"]))
        if kept is None:
            learned = learn(self.model_folder, self.name, self.settings, self.examples, seed, tell)
            kept = {"task": self.name, "seed": seed, "fingerprint": self.fingerprint, **learned}
            files.put(path, json.dumps(kept, indent=2) + "\n")
        return kept


def _task(model_folder: Path, name: str, data: str, work: Path, fast: bool, pooling: Pooling) -> _Task:
    chosen, found = settings(name, fast, pooling), read(name, data)
    examples: dict[Split, Examples] = {
        "train": found["train"].drawn(chosen.largest_train, "glue", name, "train"),
        "valid": found["valid"].drawn(chosen.largest_valid, "glue", name, "valid"),
    }
    computed = [str(torch.get_default_device()), torch.get_num_threads(), torch.__version__, version("transformers")]
    learned = [_model_fingerprint(model_folder), *(each.fingerprint for each in examples.values())]
    content = [RECORD, asdict(chosen), *computed, *learned]
    fingerprint = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
    return _Task(name, chosen, examples, model_folder, work, fingerprint)


def _model_fingerprint(folder: Path) -> str:
    """Hash of the files that model and tokenizer are read from. Raises ValueError in one line."""
    files = sorted({path for pattern in READ for path in folder.glob(pattern)})
    if not {"config.json", "model.safetensors"} <= {path.name for path in files}:
        raise ValueError(f"{folder} is not a bundle: it needs config.json and model.safetensors")
    received.check_bundle(folder)
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.name} {path.stat().st_size} ".encode() + path.read_bytes())
    return digest.hexdigest()


def _kept(path: Path, size: int) -> dict[str, Any] | None:
    """A finished record; None if there is none, or it cannot be read. size: of the validation data."""
    try:
        record = limits.json_file(path)
    except (FileNotFoundError, ValueError):
        return None
    scores = [record.get(name) for name in ("score", "last", "majority")]
    if not all(isinstance(score, int | float) and 0 <= score <= 1 for score in scores):
        return None
    answers = record.get("answers")
    whole = isinstance(answers, list) and len(answers) == size and all(type(answer) is int for answer in answers)
    return record if whole else None
