"""The (Super)GLUE tasks of the BabyLM challenge: their files, measures and settings.

Texts and measures are from the challenge's evaluation pipeline of 2025 (github.com/babylm/evaluation-pipeline-2025,
evaluation_pipeline/finetune), and the same in 2026; the numbers are in rules.py. Its release `glue_filtered` has
NAME.train.jsonl and NAME.valid.jsonl, one object a line, `label` a number; MNLI and QQP with 10,000 training examples:
longer ones are cut to that.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sweeper.system.files import GIVEN
from trainables import limits
from trainables.evaluation import rules
from trainables.noise import uniform

Measure = Literal["accuracy", "f1"]
Pooling = Literal["cls", "last"]
Split = Literal["train", "valid"]
Place = tuple[str, Iterable[tuple[int, Any]]]  # where a split lies, and its numbered rows

HUB = "hub:"
FAST = "fast"
LAST = "-last"  # behind a task's name: as the pipeline of 2026 reads a sentence
FAST_TASKS = ("mnli", "qqp")
SPLITS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("valid", "validation", "dev", "validation_matched"),
}


@dataclass(frozen=True)
class Settings:
    """How a task is learned and scored. Defaults are the challenge's.

    Args:
        measure: accuracy or f1.
        labels: how many there are.
        epochs: over the training examples.
        batch: rows a step.
        valid_batch: rows at a time in validation.
        length: longer inputs are cut to so many tokens.
        lr: the largest learning rate.
        warmup: share of the steps in which it rises.
        final: factor of the learning rate at the end.
        weight_decay: of AdamW.
        dropout: of the head.
        norm_eps: of the head's norms.
        largest_train: with more examples so many are drawn, the same for every model and seed.
        largest_valid: the same for validation.
        pooling: which position the head reads: `cls`, the first, of rows padded on the right (the pipeline of 2025), or
            `last`, the last, of rows padded on the left (that of 2026).
    """

    measure: Measure = "accuracy"
    labels: int = 2
    epochs: int = rules.EPOCHS
    batch: int = rules.BATCH
    valid_batch: int = rules.VALID_BATCH
    length: int = rules.LENGTH
    lr: float = rules.RATE
    warmup: float = rules.WARMUP
    final: float = rules.FINAL
    weight_decay: float = rules.WEIGHT_DECAY
    dropout: float = rules.DROPOUT
    norm_eps: float = rules.NORM_EPS
    largest_train: int | None = None
    largest_valid: int | None = None
    pooling: Pooling = "cls"


@dataclass(frozen=True)
class Task:
    """One task. first, second: templates of an input's two segments, filled with columns."""

    first: str
    second: str
    settings: Settings = Settings()

    @property
    def columns(self) -> list[str]:
        """The columns that a row must have, `label` last."""
        return [name for _, name, _, _ in Formatter().parse(self.first + self.second) if name] + ["label"]


TASKS = {
    "boolq": Task("{question}", "{passage}", Settings(batch=rules.SMALL_BATCH)),
    "multirc": Task("Question: {question} Answer: {answer}", "{paragraph}", Settings(batch=rules.SMALL_BATCH)),
    "rte": Task("{sentence1}", "{sentence2}"),
    "wsc": Task(
        'Does "{span2_text}" refer to "{span1_text}" in this passage?', "{text}", Settings(epochs=rules.WSC_EPOCHS)
    ),
    "mrpc": Task("{sentence1}", "{sentence2}", Settings(measure="f1")),
    "qqp": Task("{question1}", "{question2}", Settings(measure="f1", largest_train=10_000)),
    "mnli": Task("{premise}", "{hypothesis}", Settings(labels=3, largest_train=10_000)),
}


@dataclass(frozen=True)
class Examples:
    """Inputs of two segments each, and their labels, [n]."""

    first: list[str]
    second: list[str]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def fingerprint(self) -> str:
        """sha256 of the content, hex."""
        content = json.dumps([self.first, self.second, self.labels.tolist()])
        return hashlib.sha256(content.encode()).hexdigest()

    def drawn(self, most: int | None, *key: str) -> Examples:
        """At most so many examples, in order; which ones is a function of the key."""
        if most is None or len(self) <= most:
            return self
        kept = np.sort(np.argsort(uniform(len(self), *key), kind="stable")[:most])
        return Examples([self.first[i] for i in kept], [self.second[i] for i in kept], self.labels[kept])


def names() -> list[str]:
    """What may stand behind `glue/`."""
    return [f"{name}{suffix}" for suffix in ("", LAST) for name in (*TASKS, FAST)]


def pooled(name: str) -> tuple[str, Pooling]:
    """A task's own name, and its pooling: ("rte", "last") of rte-last."""
    return name.removesuffix(LAST), "last" if name.endswith(LAST) else "cls"


def settings(name: str, fast: bool = False, pooling: Pooling = "cls") -> Settings:
    """The settings of a task; fast: as part of `glue/fast`.

    `glue/fast` is MNLI and QQP: the two of the release with thousands of validation examples (about 4,900 and 20,000;
    the standard error of an accuracy on 2,000 is 1 point, on WSC's and RTE's 52 and 139 it is 4 to 7), of short inputs
    (BoolQ's and MultiRC's paragraphs cost ten times as much). 5,000 training examples, 4 epochs, 2,000 validation
    examples, one seed; accuracy for both, so that their mean has one unit.
    """
    chosen = replace(TASKS[name].settings, pooling=pooling)
    if not fast:
        return chosen
    return replace(chosen, measure="accuracy", epochs=4, length=128, largest_train=5_000, largest_valid=2_000)


def measure(name: str) -> Measure:
    """The measure of a task, or of `fast`."""
    name, _ = pooled(name)
    return "accuracy" if name == FAST else TASKS[name].settings.measure


def check(name: str, data: str) -> str:
    """Read all data of a task, or of `fast`. Returns their fingerprint. ValueError, in one line, for unusable data."""
    found = [examples.fingerprint for part, place in parts(name, data) for examples in read(part, place).values()]
    return hashlib.sha256(" ".join(found).encode()).hexdigest()[:16]


def parts(name: str, data: str) -> list[tuple[str, str]]:
    """(task, where its data lie): one for a task; for `fast` each of its tasks that the folder has.

    Raises ValueError, in one line, for an unknown task or a missing folder.
    """
    name, _ = pooled(name)
    if name != FAST and name not in TASKS:
        near = difflib.get_close_matches(name, [*TASKS, FAST], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"glue/{name}: no such task; there are {', '.join(TASKS)} and {FAST}{hint}")
    if not data.startswith(HUB) and not Path(data).is_dir():
        raise ValueError(f"glue/{name}: {data} is not a folder; give one with train.jsonl and valid.jsonl")
    if name != FAST:
        return [(name, data)]
    if data.startswith(HUB):
        return [(task, data) for task in FAST_TASKS]
    found = [(task, str(Path(data) / task)) for task in FAST_TASKS if (Path(data) / task).is_dir()]
    found = found or [(task, data) for task in FAST_TASKS if (Path(data) / f"{task}.train.jsonl").is_file()]
    if not found:
        raise ValueError(f"glue/{name}: {data} has none of the folders {', '.join(FAST_TASKS)}")
    return found


def read(name: str, data: str) -> dict[Split, Examples]:
    """All examples of a task. Raises ValueError in one line.

    data: a folder with train.jsonl and valid.jsonl (or validation, or dev; or as the challenge releases them,
    NAME.train.jsonl and NAME.valid.jsonl), or `hub:OWNER/DATASET`, with the configuration named after the task if there
    is one (this part needs a network and is not covered by tests).
    """
    found = _from_hub(name, data.removeprefix(HUB)) if data.startswith(HUB) else _from_folder(name, Path(data))
    return {split: _examples(name, where, rows) for split, (where, rows) in found.items()}


def _examples(name: str, where: str, rows: Iterable[tuple[int, Any]]) -> Examples:
    task = TASKS[name]
    columns, labels = task.columns, range(task.settings.labels)
    first, second, found = [], [], []
    for number, row in rows:
        if problem := _problem(row, columns, labels):
            raise ValueError(f"glue/{name}: {where}, line {number}: {problem}")
        first.append(task.first.format_map(row))
        second.append(task.second.format_map(row))
        found.append(int(row["label"]))
    if not found:
        raise ValueError(f"glue/{name}: {where} is empty; it needs lines with {', '.join(columns)}")
    return Examples(first, second, np.array(found, np.int64))


def _problem(row: Any, columns: Sequence[str], labels: range) -> str | None:
    """What is wrong with a row."""
    if not isinstance(row, dict):
        return f"not an object with {', '.join(columns)}"
    missing = [column for column in columns if column not in row]
    if missing:
        return f"no column {', '.join(missing)}; there are {', '.join(map(str, row))}"
    for column in columns[:-1]:
        if not isinstance(row[column], str):
            return f"{column} is {json.dumps(row[column], default=str)[:40]}, not a string"
    label = row["label"]
    if not isinstance(label, int) or label not in labels:
        return f"label {json.dumps(label, default=str)[:40]} is not one of {', '.join(map(str, labels))}"
    return None


def _from_folder(name: str, folder: Path) -> dict[Split, Place]:
    return {split: _lines(name, _file(name, folder, split)) for split in SPLITS}


def _file(name: str, folder: Path, split: Split) -> Path:
    files = [folder / f"{prefix}{word}.jsonl" for word in SPLITS[split] for prefix in ("", f"{name}.")]
    for path in files:
        if path.is_file():
            return path
    raise ValueError(f"glue/{name}: {folder} has no {files[0].name} (nor {', '.join(path.name for path in files[1:])})")


def _lines(name: str, path: Path) -> Place:
    def rows() -> Iterator[tuple[int, Any]]:
        try:
            text = limits.read(path, limits.TASK).decode(GIVEN)
        except (OSError, ValueError) as error:
            raise ValueError(f"glue/{name}: {path} cannot be read: {error}") from error
        for number, line in enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1):
            if not line.strip():
                continue
            try:
                yield number, limits.json_value(line)
            except ValueError as error:
                reason = error.msg if isinstance(error, json.JSONDecodeError) else error
                raise ValueError(f"glue/{name}: {path}, line {number}: not JSON: {reason}") from error

    return str(path), rows()


def _from_hub(name: str, dataset: str) -> dict[Split, Place]:
    import datasets

    try:
        names = datasets.get_dataset_config_names(dataset)
        parts: Any = datasets.load_dataset(dataset, name if name in names else None)
    except Exception as error:  # whatever the client and its file readers raise
        raise ValueError(f"glue/{name}: hub:{dataset}: {' '.join(str(error).split())[:200]}") from error
    found: dict[Split, Place] = {}
    for split, words in SPLITS.items():
        word = next((word for word in words if word in parts), None)
        if word is None:
            raise ValueError(f"glue/{name}: hub:{dataset} has no split {words[0]}, only {', '.join(parts)}")
        found[split] = f"hub:{dataset} {word}", enumerate(parts[word], 1)
    return found
