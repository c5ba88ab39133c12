"""Amounts of text in words, as people write them: 100000000 is 100M; and the amounts that the field publishes at."""

from __future__ import annotations

import re
from typing import Any

_UNITS = {"": 1, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
# Every million up to 10, then every ten up to 100: the BabyLM challenge's 19 (strict-small; strict goes on to 1,000M).
PUBLISHED = tuple(million * 1_000_000 for million in (*range(1, 11), *range(20, 101, 10)))


def words(value: Any) -> int:
    """A whole number of words, from a number or a text such as 100M. ValueError in one line."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]+)([KMB]?)", value)
        value = int(match[1]) * _UNITS[match[2]] if match else value
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ValueError(f"{value!r} is not a number of words: write 100000000, 100M or 500K, for example")
    return value


def series(value: Any) -> tuple[int, ...] | None:
    """Ascending word counts, from `published` or a list; None is no series. ValueError in one line."""
    if value is None:
        return None
    if value == "published":
        return PUBLISHED
    if not isinstance(value, list | tuple) or not value:
        raise ValueError(f"{value!r} is not a series: write published or a list of word counts such as [100K, 1M]")
    return tuple(sorted({words(each) for each in value}))


def text(count: int) -> str:
    """Words in the largest unit that divides them, without a dot: 100M, 1500K, 1234."""
    unit = max((unit for unit, size in _UNITS.items() if unit != "B" and count % size == 0), key=_UNITS.__getitem__)
    return f"{count // _UNITS[unit]}{unit}"


def folder_name(count: int) -> str:
    """The folder of a checkpoint at so many words, named as the challenge names its revisions: chck_100M.

    The challenge's scripts cut a model's folder at its last dot (`Path.stem`), so a dot would merge two runs. They ask
    for a revision by name, which transformers ignores for a local folder: give them each folder by its own path.
    """
    return f"chck_{text(count)}"
