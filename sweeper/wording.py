"""How refusals put things: what they are of, the nearest legal word, a key, a value."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LONGEST = 80


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """A refusal in here names the spec or the run's folder."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def nearest(word: str, legal: Iterable[str]) -> str:
    """'did you mean X?', or the legal words where none is near."""
    words = list(legal)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"legal are {', '.join(words) or 'none'}"


def key_path(location: tuple[Any, ...]) -> str:
    """("seeds", "search", 0) -> "seeds.search[0]"."""
    text = ""
    for key in location:
        text += f"[{key}]" if isinstance(key, int) else "." + (key or "''")
    return text.removeprefix(".")


def shown(value: Any) -> str:
    """A value as an error shows it: null, true and false as YAML has them, the rest short."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
