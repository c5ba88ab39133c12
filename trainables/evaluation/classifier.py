"""A bundle's encoder with the BabyLM challenge's classification head, and how it learns a task.

Facts from the challenge's evaluation pipeline of 2025 (github.com/babylm/evaluation-pipeline-2025,
evaluation_pipeline/finetune): AdamW on all parameters alike, no clipping, the mean cross-entropy of a batch, a new
order every epoch without its last incomplete batch; every token of type 0; the longer segment is cut first. The head
reads the first position of rows padded on the right. In the pipeline of 2026 it reads the last one, of rows padded on
the left.

Left padding moves a row's tokens, and the pipeline of 2026 gives the encoder no positions of its own, nor do we: where
an encoder counts absolute positions from the start of a row, as BERT does, a row's answer then depends on the longest
row of its batch. So validation batches are the pipeline's: 64 rows in the order of the file. Encoders that count
positions from one token to another, or from the first that is not padding, answer as if there were no padding.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.evaluation import pseudo_likelihood
from trainables.evaluation.glue import Examples, Measure, Pooling, Settings, Split
from trainables.noise import derive, uniform

Progress = Callable[[str], None]


class Classifier(nn.Module):
    """An encoder with a head on its first or last position. The head's norms have no parameters."""

    def __init__(self, encoder: nn.Module, hidden: int, settings: Settings) -> None:
        super().__init__()
        self.encoder, self.read = encoder, 0 if settings.pooling == "cls" else -1
        self.head = nn.Sequential(
            nn.LayerNorm(hidden, settings.norm_eps, elementwise_affine=False),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden, settings.norm_eps, elementwise_affine=False),
            nn.Dropout(settings.dropout),
            nn.Linear(hidden, settings.labels),
        )

    def forward(self, ids_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Logits, [B, labels], of padded rows. mask: 1 for tokens, 0 for padding."""
        return self.head(self.encoder(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state[:, self.read])


@dataclass(frozen=True)
class Rows:
    """Tokenised examples.

    Args:
        ids: of all rows, one after the other.
        starts: [n] where each row starts in `ids`.
        lengths: [n] tokens of each row.
        labels: [n].
        pad: the id of the padding token.
        truncated: how many rows were cut.
        pooling: `last` pads on the left, `cls` on the right.
    """

    ids: NDArray[np.int64]
    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    labels: NDArray[np.int64]
    pad: int
    truncated: int
    pooling: Pooling

    @staticmethod
    def of(examples: Examples, tokenizer: Any, length: int, pooling: Pooling = "cls") -> Rows:
        """Tokenise examples, each cut to so many tokens, special ones included."""
        plain = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
        rows = tokenizer(examples.first, examples.second, **plain)["input_ids"]
        long = [index for index, row in enumerate(rows) if len(row) > length]
        if long:
            texts = [examples.first[index] for index in long], [examples.second[index] for index in long]
            cut = tokenizer(*texts, truncation=True, max_length=length, **plain)["input_ids"]
            for index, row in zip(long, cut, strict=True):
                rows[index] = row
        lengths = np.array([len(row) for row in rows], np.int64)
        ids = np.concatenate([np.asarray(row, np.int64) for row in rows])
        starts, pad = np.cumsum(lengths) - lengths, tokenizer.pad_token_id
        return Rows(ids, starts, lengths, examples.labels, pad, len(long), pooling)

    def batch(self, which: NDArray[np.int64]) -> tuple[Tensor, Tensor, Tensor]:
        """(ids [B, T], mask [B, T], labels [B]) of some rows, padded to the longest, on the default device."""
        lengths, most = self.lengths[which, None], self.lengths[which].max()
        place = np.arange(most) - (most - lengths if self.pooling == "last" else 0)  # in a row's own tokens
        inside = (place >= 0) & (place < lengths)
        ids = np.where(inside, self.ids[np.clip(self.starts[which, None] + place, 0, len(self.ids) - 1)], self.pad)
        device = torch.get_default_device()
        given = [torch.from_numpy(array) for array in (ids, inside.astype(np.int64), self.labels[which])]
        return given[0].to(device), given[1].to(device), given[2].to(device)


def learn(
    model_folder: Path, name: str, settings: Settings, examples: Mapping[Split, Examples], seed: int, tell: Progress
) -> dict[str, Any]:
    """Fine-tune from the bundle's weights. Torch's generator is left as it was.

    Raises ValueError, in one line, for a bundle that cannot be loaded or whose loss is not a number.

    Args:
        model_folder: the bundle.
        name: of the task.
        settings: how to learn it.
        examples: to learn from, and to be scored on.
        seed: of the head, the dropout and the order.
        tell: told of every epoch in a line.

    Returns:
        The record for JSON: scores by epoch, the answers on the validation data after the best, and what they depend
        on.
    """
    began, device = time.monotonic(), torch.get_default_device()
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        encoder, tokenizer, length = load(model_folder, settings.length)
        rows = {split: Rows.of(part, tokenizer, length, settings.pooling) for split, part in examples.items()}
        torch.manual_seed(derive("glue", name, seed))
        model = Classifier(encoder, encoder.config.hidden_size, settings).to(device)
        training = _Training(model, settings, rows["train"], (name, seed))
        epochs, best = list[dict[str, float]](), np.empty(0, np.int64)
        for epoch in range(settings.epochs):
            loss = training.epoch(epoch)
            if not math.isfinite(loss):
                raise ValueError(f"glue/{name}: the loss is {loss}; are the weights of {model_folder} sound?")
            answers = _answers(model, rows["valid"], settings)
            found = _scores(answers, rows["valid"].labels, settings)
            score = found[settings.measure]
            if score > max((each[settings.measure] for each in epochs), default=-1):  # the first of equals
                best = answers
            epochs.append({"loss": loss, **found})
            tell(f"glue/{name}, seed {seed}: epoch {epoch + 1} of {settings.epochs}, {settings.measure} {score:.3f}")
    frequent = np.full_like(rows["valid"].labels, np.bincount(rows["train"].labels).argmax())
    values = [each[settings.measure] for each in epochs]
    return {
        "measure": settings.measure,
        "score": max(values),
        "last": values[-1],
        "majority": measured(frequent, rows["valid"].labels, settings.measure),
        "epochs": epochs,
        "answers": best.tolist(),
        "steps": training.steps,
        "length": length,
        "examples": {split: len(part.labels) for split, part in rows.items()},
        "truncated": {split: part.truncated for split, part in rows.items()},
        "settings": asdict(settings),
        "seconds": round(time.monotonic() - began, 3),
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in ("torch", "transformers", "tokenizers", "numpy")},
    }


def load(folder: Path, length: int) -> tuple[Any, Any, int]:
    """(encoder, tokenizer, longest input) of a bundle, offline, in float32. Raises ValueError in one line."""
    model, tokenizer = pseudo_likelihood.load(folder)
    if tokenizer.pad_token_id is None:
        raise ValueError(f"{folder}: the tokenizer has no padding token, which batches need")
    return model.base_model, tokenizer, min(length, pseudo_likelihood.positions(model))


def schedule(step: int, warmup: int, steps: int, final: float) -> float:
    """Factor of the learning rate at a step, counted from 0: linear from 0, then a cosine down to `final`."""
    if step < warmup:
        return step / warmup
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def optimiser(model: nn.Module, settings: Settings) -> torch.optim.AdamW:
    """AdamW with one group of parameters: biases and norms decay, too."""
    return torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay, fused=True)


class _Training:
    """Training over some rows. key: what the order of the rows depends on, besides the epoch."""

    def __init__(self, model: Classifier, settings: Settings, rows: Rows, key: tuple[str, int]) -> None:
        self.model, self.settings, self.rows, self.key = model, settings, rows, key
        self.batch = min(settings.batch, len(rows.labels))
        self.per_epoch = len(rows.labels) // self.batch
        self.steps = self.per_epoch * settings.epochs
        self.optimiser = optimiser(model, settings)

    def epoch(self, epoch: int) -> float:
        """Train once over the rows. Returns the mean loss."""
        self.model.train()
        order = np.argsort(uniform(len(self.rows.labels), "glue", *self.key, epoch), kind="stable")
        batches = order[: self.per_epoch * self.batch].reshape(self.per_epoch, self.batch)
        total = torch.zeros((), dtype=torch.float64)
        for number, which in enumerate(batches):
            total += self._step(epoch * self.per_epoch + number, which)
        return total.item() / self.per_epoch

    def _step(self, step: int, which: NDArray[np.int64]) -> Tensor:
        warmup = int(self.settings.warmup * self.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * schedule(step, warmup, self.steps, self.settings.final)
        ids, mask, labels = self.rows.batch(which)
        loss = F.cross_entropy(self.model(ids, mask), labels)
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad()
        return loss.detach()


@torch.inference_mode()
def _answers(model: Classifier, rows: Rows, settings: Settings) -> NDArray[np.int64]:
    """The labels that the model gives, [n].

    Padded on the right, rows of similar length go together, which changes no answer. Padded on the left it may change
    some: they stay in the order of the file.
    """
    model.eval()
    answers = np.empty_like(rows.labels)
    order = np.argsort(rows.lengths, kind="stable") if rows.pooling == "cls" else np.arange(len(rows.labels))
    for begin in range(0, len(order), settings.valid_batch):
        which = order[begin : begin + settings.valid_batch]
        ids, mask, _ = rows.batch(which)
        answers[which] = model(ids, mask).argmax(-1).cpu().numpy()
    return answers


def _scores(answers: NDArray[np.int64], labels: NDArray[np.int64], settings: Settings) -> dict[Measure, float]:
    """Scores by each measure that applies."""
    fit: tuple[Measure, ...] = ("accuracy", "f1") if settings.labels == 2 else ("accuracy",)
    return {measure: measured(answers, labels, measure) for measure in fit}


def measured(answers: NDArray[np.int64], labels: NDArray[np.int64], measure: Measure) -> float:
    """Accuracy, or the F1 of label 1, which is 0 if that label is neither answered nor right."""
    if measure == "accuracy":
        return float(np.mean(answers == labels))
    both = np.sum(answers == 1) + np.sum(labels == 1)
    return float(2 * np.sum((answers == 1) & (labels == 1)) / both) if both else 0.0
