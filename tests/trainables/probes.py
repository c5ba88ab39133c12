"""Files of tasks, as they are published, of made-up sentences."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.trainables.texts import sentences


def reversed_words(sentence: str) -> str:
    """The bad one of a pair."""
    return " ".join(reversed(sentence.rstrip(".").lower().split())) + "."


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_blimp(folder: Path, pairs: int = 12) -> Path:
    """Two paradigms in one field, and a file of the supplement without any."""
    good = sentences(3 * pairs, seed=5)
    for index, name in enumerate(("across", "between", "supplement")):
        told = {"field": "syntax", "linguistics_term": "order", "UID": f"order_{name}"} if index < 2 else {}
        rows = [
            {"sentence_good": each, "sentence_bad": reversed_words(each), **told}
            for each in good[index * pairs : (index + 1) * pairs]
        ]
        write_rows(folder / f"{name}.jsonl", rows)
    return folder


def write_zorro(folder: Path, pairs: int = 10) -> Path:
    """Two files of sentences, bad and good by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    good = [each.rstrip(".").lower() + " ." for each in sentences(2 * pairs, seed=6)]
    for index, name in enumerate(("case-subject", "order-verb")):
        turns = [line for each in good[index * pairs : (index + 1) * pairs] for line in (reversed_words(each), each)]
        (folder / f"{name}.txt").write_text("\n".join(turns) + "\n", "utf-8")
    return folder


def write_wug(path: Path, items: int = 15) -> Path:
    """Two forms of a word, and the share of people for the first."""
    words = [each.split()[0].lower() for each in sentences(items, seed=7)]
    return write_rows(path, [
        {"sentences": f"A noun: {word}ba.\tA noun: {word}ne.", "ratio": index / items}
        for index, word in enumerate(words)
    ])  # fmt: skip
