"""Parts of error messages: the file, the nearest legal word, a key, a value."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeper.system.nearest import nearest, nearest_path

__all__ = ["confidence", "key_path", "naming", "nearest", "nearest_path", "shown"]

_LONGEST = 80


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix ValueErrors of the block with the path of the spec or the run folder."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def key_path(location: tuple[Any, ...]) -> str:
    """("seeds", "search", 0) -> "seeds.search[0]"."""
    text = ""
    for key in location:
        text += f"[{key}]" if isinstance(key, int) else "." + (key or "''")
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value for an error message: null, true and false as in YAML, anything else shortened."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def confidence(alpha: float) -> str:
    """The coverage 1 - alpha in per cent, with enough digits to differ from 100: 95, 99.98."""
    return f"{100 * (1 - alpha):.{max(4, 2 - math.floor(math.log10(alpha)))}g}"
