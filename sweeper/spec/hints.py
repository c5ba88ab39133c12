"""Parts of error messages: the file, the nearest legal word, a key, a value."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LONGEST = 80
_MOST_HINTS, _MISSPELT = 3, 0.9
# Other names for settings: the last words of paths that a trainable may have.
_SYNONYMS = {
    "learning_rate": ("lr",),
    "lr": ("learning_rate",),
    "max_lr": ("lr",),
    "epochs": ("steps",),
    "max_steps": ("steps",),
    "num_steps": ("steps",),
    "batch": ("batch_size",),
    "bs": ("batch_size",),
    "rows": ("batch_size",),
    "warmup": ("lr_warmup", "mask_warmup"),
    "warmup_steps": ("lr_warmup", "mask_warmup"),
    "warmup_ratio": ("lr_warmup",),
    "wd": ("weight_decay",),
    "max_grad_norm": ("clip",),
    "grad_clip": ("clip",),
    "mlm_probability": ("rate",),
    "mask_prob": ("rate",),
    "mask_rate": ("rate",),
    "hidden_size": ("hidden",),
    "d_model": ("hidden",),
    "intermediate_size": ("intermediate",),
    "seq_length": ("block",),
    "seq_len": ("block",),
    "max_length": ("block",),
    "max_seq_length": ("block",),
    "dataset": ("corpus",),
    "vocab": ("tokenizer",),
    "eval_every": ("report_every",),
    "eval_steps": ("report_every",),
}


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Prefix ValueErrors of the block with the path of the spec or the run folder."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def nearest(word: str, legal: Iterable[str]) -> str:
    """'did you mean X?', or the legal words if none is close."""
    words = list(legal)
    close = difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"use {'one of ' * (len(words) > 1)}{', '.join(words)}" if words else "there are none"


def nearest_path(path: str, legal: Iterable[str]) -> str:
    """As `nearest`, for dotted paths: prefers a path with the same last word, or a synonym of it, in any section."""
    words, paths = path.rpartition(".")[2], list(legal)
    leaves = {one: one.rpartition(".")[2] for one in paths}
    parts = set(words.split("_"))
    for near in (
        [one for one, leaf in leaves.items() if leaf == words],
        [one for one, leaf in leaves.items() if leaf in _SYNONYMS.get(words, ())],
        difflib.get_close_matches(path, paths, n=1, cutoff=_MISSPELT),
        [one for one, leaf in leaves.items() if words in leaf.split("_")],
        [one for one, leaf in leaves.items() if leaf in parts],
    ):
        if path not in near and 0 < len(near) <= _MOST_HINTS:
            return f"did you mean {' or '.join(map(repr, near))}?"
    return nearest(path, paths)


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
