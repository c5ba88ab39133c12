"""Items with several options, one of which the model should find the likeliest, as the challenge's pipeline has them.

BLiMP and its supplement, EWoK (Ivanova et al. 2024), entity tracking (Kim & Schuster 2023), COMPS (Misra et al. 2023)
and Global PIQA. An option is a sentence and the completion that it ends with; only the tokens of the completion are
masked and counted (read_files.py and dataset.py of the pipeline, see rules.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables import noise
from trainables.evaluation import minimal_pairs, pseudo_likelihood, rules
from trainables.evaluation.sentence_pairs import records, sentence, task_files

_SOLUTION = re.compile(r"solution[0-9]+")
Option = tuple[str, str]  # a sentence, and the completion that it ends with


@dataclass
class Items:
    """n items of one task, in the order of the files by name.

    Args:
        per_token: whether an option's log-probability is divided by the number of its completion's tokens.
        whole: whether a prediction is told by its sentence; else by its completion.
        options: [n] two or more for each item.
        right: [n] which option is right.
        group: [n] whose accuracies are averaged.
        split: [n] within which groups are averaged first.
        subtask: [n] under which the predictions file has the item.
        where: [n] file and line, for messages.
    """

    per_token: bool = False
    whole: bool = False
    options: list[tuple[Option, ...]] = field(default_factory=list)
    right: list[int] = field(default_factory=list)
    group: list[str] = field(default_factory=list)
    split: list[str] = field(default_factory=list)
    subtask: list[str] = field(default_factory=list)
    where: list[str] = field(default_factory=list)

    def add(
        self, where: str, options: Sequence[Option], group: str, right: int = 0, split: str = "", subtask: str = ""
    ) -> None:
        """Add an item. subtask: the group, unless given."""
        self.options.append(tuple(options))
        self.right.append(right)
        self.group.append(group)
        self.split.append(split)
        self.subtask.append(subtask or group)
        self.where.append(where)

    @property
    def fingerprint(self) -> str:
        """Hash of the items, wherever their files lie: 16 hex digits of a sha256."""
        content = json.dumps([self.options, self.right, self.group, self.split, self.subtask])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def rows(self, tokenizer: Any, most: int) -> list[pseudo_likelihood.Row]:
        """[all options] token rows, item by item. ValueError for one of more than `most` tokens."""
        rows = pseudo_likelihood.completion_tokens(tokenizer, [option for item in self.options for option in item])
        owners = np.repeat(np.arange(len(self.options)), [len(item) for item in self.options])
        for owner, (ids, left_out) in zip(owners, rows, strict=True):
            if len(ids) > most:
                raise ValueError(too_long(self.where[owner], len(ids), most))
            if all(left_out):  # a sum over nothing is 0, the largest log-probability
                raise ValueError(f"{self.where[owner]}: the tokenizer makes nothing of an option, so it has no score")
        return rows

    def scores(self, rows: Sequence[pseudo_likelihood.Row], sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """[n, k] what the options are compared by, -inf where an item has fewer than k; sums: [all options], in nats.

        ValueError if any is not finite. (The pipeline counts one that is no number as the least likely.)
        """
        if not np.isfinite(sums).all():
            raise ValueError("the model's scores are not finite: it has diverged")
        if self.per_token:
            sums = sums / np.maximum([len(left_out) - sum(left_out) for _, left_out in rows], 1)
        sizes = np.array([len(item) for item in self.options])
        found = np.full((len(sizes), sizes.max()), -np.inf)
        found[np.arange(sizes.max()) < sizes[:, None]] = sums
        return found

    def predictions(self, chosen: NDArray[np.int64]) -> dict[str, dict[str, list[dict[str, str]]]]:
        """The predictions in the pipeline's form, by subtask. chosen: [n] options."""
        found: dict[str, list[dict[str, str]]] = {}
        for item, option, subtask in zip(self.options, chosen, self.subtask, strict=True):
            told = found.setdefault(subtask, [])
            told.append({"id": f"{subtask}_{len(told)}", "pred": item[option][0 if self.whole else 1]})
        return {subtask: {"predictions": told} for subtask, told in found.items()}


class Choice(NamedTuple):
    """What a model chose of each item.

    Args:
        chosen: [n] options.
        half: [n] 1 if the right option is the likeliest, 1/m if m options are equally likely and it is one of them.
        ties: items with several likeliest options.
    """

    chosen: NDArray[np.int64]
    half: NDArray[np.float64]
    ties: int


class Accuracy(NamedTuple):
    """Means over groups, within splits first; from 0 to 1.

    Args:
        drawn: of the options that were chosen, ties broken at random.
        half: with ties as their share.
        interval: 95 % bootstrap of `half`, items resampled within each group.
        by: `drawn` (as score), `half`, ties and items of each group.
    """

    drawn: float
    half: float
    interval: tuple[float, float]
    by: dict[str, dict[str, float]]


def choose(items: Items, scores: NDArray[np.float64], rule: rules.Rule, seed: int = 0) -> Choice:
    """The likeliest option of every item, drawn at random among equals.

    rule: `official` compares in float32, as the pipeline does, where sums closer than its last bit tie; `ours` in
    float64, where none but options of the same tokens do. seed: of the draws, which the pipeline leaves to chance.
    """
    compared = scores.astype(np.float32) if rule == "official" else scores
    best = compared == compared.max(1, keepdims=True)
    many = best.sum(1)
    place = (noise.uniform(len(many), "ties", seed) * many).astype(np.int64)
    chosen = np.argmax(best.cumsum(1) > place[:, None], axis=1)
    return Choice(chosen, best[np.arange(len(many)), items.right] / many, int((many > 1).sum()))


def by_group(items: Items, choice: Choice) -> dict[str, dict[str, float]]:
    """The `by` of `Accuracy`, groups by name."""
    names, of = np.unique(items.group, return_inverse=True)
    right = choice.chosen == np.array(items.right)
    tied = (choice.half > 0) & (choice.half < 1)
    size = np.bincount(of)
    drawn, half, ties = (np.bincount(of, values.astype(np.float64)) for values in (right, choice.half, tied))
    return {
        str(name): {
            "score": float(drawn[i] / size[i]),
            "half": float(half[i] / size[i]),
            "ties": int(ties[i]),
            "items": int(size[i]),
        }
        for i, name in enumerate(names)
    }


def accuracy(items: Items, choice: Choice, seed: int = 0) -> Accuracy:
    """How often the right option was chosen. seed: of the bootstrap."""
    by = by_group(items, choice)
    names, first, of = np.unique(items.group, return_index=True, return_inverse=True)
    weights = np.array(rules.subtasks_weigh(names.tolist(), [items.split[i] for i in first]))
    credits, kind = np.unique(choice.half, return_inverse=True)
    counts = np.zeros((len(names), len(credits)), np.int64)
    np.add.at(counts, (of, kind), 1)
    drawn, half = (float(weights @ np.array([row[key] for row in by.values()])) for key in ("score", "half"))
    return Accuracy(drawn, half, minimal_pairs.bootstrap(counts, seed, credits, weights), by)


def joined(parts: Sequence[Items]) -> Items:
    """The items of several parts, of one kind."""
    found = Items(parts[0].per_token, parts[0].whole)
    for name in ("options", "right", "group", "split", "subtask", "where"):
        setattr(found, name, [each for part in parts for each in getattr(part, name)])
    return found


def joined_choices(parts: Sequence[Choice]) -> Choice:
    """The choices of several parts."""
    chosen, half, ties = zip(*parts, strict=True)
    return Choice(np.concatenate(chosen), np.concatenate(half), sum(ties))


def too_long(where: str, tokens: int, most: int) -> str:
    """The message for a row beyond the model's positions."""
    return (
        f"{where}: a sentence of {tokens} tokens, special ones included, exceeds the model's {most} positions: leave "
        "it out or take a model with more"
    )


def read_blimp(path: Path) -> Items:
    """A .jsonl or a folder of them, with `sentence_good` and `sentence_bad`, as `minimal_pairs.read_blimp` has it."""
    pairs, items = minimal_pairs.read_blimp(path), Items()
    for options, where, group in zip(pairs.options, pairs.where, pairs.group, strict=True):
        items.add(where, [(text, text) for text in options], group)
    return items


def read_ewok(path: Path) -> Items:
    """A .jsonl or a folder of them: is Target1 likelier after Context1 than after Context2? Groups are domains."""
    items = Items(whole=True)
    for where, record in _records(path, ("Domain", "Context1", "Context2", "Target1")):
        one, other, target = (sentence(record[name], where) for name in ("Context1", "Context2", "Target1"))
        group = sentence(record["Domain"], where)
        items.add(where, [(f"{context} {target}", f" {target}") for context in (one, other)], group)
    return items


def read_entity_tracking(path: Path) -> Items:
    """regular.jsonl, ambiref.jsonl, move_contents.jsonl or some of them: option 0 of `options` is right.

    Items with an option that contains `nothing` are left out. Groups are numbers of operations within a file.
    """
    items = Items()
    for file in task_files(path, ".jsonl"):
        if file.stem not in rules.SPLITS:
            raise ValueError(f"{file}: expected only the files {', '.join(rules.SPLITS)} (.jsonl)")
        for where, record in records(file, ("input_prefix", "options", "numops")):
            given, prefix, steps = record["options"], record["input_prefix"], record["numops"]
            if not isinstance(given, list) or len(given) < 2 or not isinstance(prefix, str):
                raise ValueError(f"{where}: 'options' must be a list of two or more after the text 'input_prefix'")
            if type(steps) is not int:
                raise ValueError(f"{where}: 'numops' must be a whole number")
            options = [sentence(option, where) for option in given]
            if not any(rules.LEFT_OUT in option for option in options):
                group = f"{file.stem}_{steps}_ops"
                items.add(where, [(prefix + option, option) for option in options], group, split=file.stem)
    return _some(items, path)


def read_comps(path: Path) -> Items:
    """The files of COMPS: is the property likelier after the acceptable prefix? Groups are files."""
    items = Items(whole=True)
    for file in task_files(path, ".jsonl"):
        if file.stem not in rules.COMPS:
            raise ValueError(f"{file}: expected only the files {', '.join(rules.COMPS)} (.jsonl)")
        for where, record in records(file, ("prefix_acceptable", "prefix_unacceptable", "property_phrase")):
            columns = ("prefix_acceptable", "prefix_unacceptable", "property_phrase")
            good, bad, told = (sentence(record[name], where) for name in columns)
            items.add(where, [(f"{prefix} {told}", told) for prefix in (good, bad)], rules.COMPS[file.stem])
    return items


def read_global_piqa(path: Path) -> Items:
    """A .jsonl or a folder of them: `label` says which of solution0, solution1, ... continues the prompt.

    Options are compared by log-probability per token.
    """
    items, seen = Items(per_token=True), Counter()
    for where, record in _records(path, ("prompt", "solution0", "solution1", "label", "example_id")):
        names = list(takewhile(record.__contains__, (f"solution{i}" for i in count())))
        prompt, label = sentence(record["prompt"], where), record["label"]
        if other := next((name for name in record if _SOLUTION.fullmatch(name) and name not in names), None):
            raise ValueError(f"{where}: {other!r} is there and 'solution{len(names)}' is not")
        if type(label) is not int or not 0 <= label < len(names):
            raise ValueError(f"{where}: 'label' must be 0 to {len(names) - 1}")
        subtask = str(record["example_id"])
        seen[subtask] += 1
        if seen[subtask] > 1:
            raise ValueError(f"{where}: the example_id {subtask!r} is given twice")
        options = [sentence(record[name], where) for name in names]
        items.add(where, [(f"{prompt} {each}", f" {each}") for each in options], "items", label, subtask=subtask)
    return items


def _records(path: Path, columns: Sequence[str]) -> list[tuple[str, dict[str, Any]]]:
    return [found for file in task_files(path, ".jsonl") for found in records(file, columns)]


def _some(items: Items, path: Path) -> Items:
    if not items.options:
        raise ValueError(f"{path}: every item has an option with {rules.LEFT_OUT!r}, so none is left")
    return items


READERS: dict[str, Callable[[Path], Items]] = {
    "blimp": read_blimp,
    "ewok": read_ewok,
    "entity_tracking": read_entity_tracking,
    "comps": read_comps,
    "global_piqa": read_global_piqa,
}
