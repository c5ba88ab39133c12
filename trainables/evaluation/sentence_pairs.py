"""Reads pairs of sentences from a task's files, and gives the model's preference between the two."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sweeper.system.files import GIVEN
from trainables import limits
from trainables.evaluation.pseudo_likelihood import Progress, silent

Score = Callable[[Sequence[str], Progress], NDArray[np.float64]]  # [n] pseudo-log-likelihoods of sentences, in nats


@dataclass(frozen=True)
class Pairs:
    """n pairs of one task, in the order of the files by name.

    Args:
        options: [n] (option 0, option 1).
        where: [n] file and line, for messages.
        group: [n] the phenomenon of each pair.
        ratios: [n] share of people who chose option 0, if people were asked.
    """

    options: list[tuple[str, str]]
    where: list[str]
    group: list[str]
    ratios: list[float] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Hash of the pairs, wherever their files lie: 16 hex digits of a sha256."""
        content = json.dumps([self.options, self.group, self.ratios])
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def sentences(self) -> list[str]:
        """[2 n], the two of a pair next to each other."""
        return [sentence for pair in self.options for sentence in pair]

    def check(self, lengths: Sequence[int], positions: int) -> None:
        """ValueError for a sentence with more tokens than the model has positions. lengths: [2 n], in tokens."""
        longest = int(np.argmax(lengths))
        if lengths[longest] > positions:
            raise ValueError(
                f"{self.where[longest // 2]}: a sentence of {lengths[longest]} tokens, special ones included, exceeds "
                f"the model's {positions} positions: leave it out or take a model with more"
            )

    def preference(self, scorer: Score, progress: Progress = silent) -> NDArray[np.float64]:
        """[n] log p(option 0) - log p(option 1), pseudo-log-likelihoods in nats. ValueError if any is not finite."""
        first, second = scorer(self.sentences(), progress).reshape(-1, 2).T
        difference = first - second
        if not np.isfinite(difference).all():
            raise ValueError("the model's scores are not finite: it has diverged")
        return difference


def task_files(path: Path, suffix: str) -> list[Path]:
    """The file itself, or the files of a folder by name. ValueError if there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"there is no {path}")
    found = sorted(path.glob(f"*{suffix}"))
    if not found:
        raise ValueError(f"{path} has no {suffix} files")
    return found


def lines(path: Path) -> list[str]:
    """[n] lines without surrounding white space and without blank ones at the end. ValueError for an empty file."""
    try:
        text = limits.read(path, limits.TASK).decode(GIVEN).replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text") from None
    if not text.strip():
        raise ValueError(f"{path} is empty")
    return [line.strip() for line in text.rstrip().split("\n")]


def records(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, object) of every non-blank line. ValueError for a line that lacks a column."""
    for number, line in enumerate(lines(path), 1):
        if not line:
            continue
        where = f"{path}:{number}"
        try:
            record = limits.json_value(line)
        except ValueError as error:
            raise ValueError(f"{where} is not JSON: {error}") from None
        if not isinstance(record, dict):
            raise ValueError(f"{where} is not a JSON object")
        missing = [column for column in columns if column not in record]
        if missing:
            raise ValueError(f"{where} has no column {missing[0]!r}: it has {', '.join(record) or 'none'}")
        yield where, record


def sentence(text: Any, where: str) -> str:
    """The text, if it is a sentence. ValueError if it is missing or empty."""
    if not isinstance(text, str) or not text.strip():
        raise ValueError(f"{where}: a sentence is missing or empty")
    return text
