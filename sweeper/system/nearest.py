"""The nearest legal word to one that is not, for error messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

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
