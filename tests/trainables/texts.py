"""Text for tests: sentences of made-up words, some frequent and some rare."""

from __future__ import annotations

import random
from pathlib import Path

SYLLABLES = ["ba", "ne", "lu", "ti", "ro", "ka", "mo", "se", "di", "fa", "gu", "hy"]


def sentences(count: int, seed: int = 0) -> list[str]:
    """[count] sentences of 4 to 12 words."""
    draw = random.Random(seed)
    lexicon = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 3))) for _ in range(300)]
    weights = [1 / rank for rank in range(1, 301)]
    return [" ".join(draw.choices(lexicon, weights, k=draw.randint(4, 12))).capitalize() + "." for _ in range(count)]


def write_documents(path: Path, count: int = 400, seed: int = 0) -> list[str]:
    """A .txt of [count] documents of three sentences, a blank line between."""
    lines = sentences(3 * count, seed)
    documents = ["\n".join(lines[3 * index : 3 * index + 3]) for index in range(count)]
    path.write_text("\n\n".join(documents) + "\n", encoding="utf-8")
    return documents
