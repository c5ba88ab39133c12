"""Scores of token rows that lie in the cache, so that a finished (task, model) is never repeated."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.system import files
from trainables import limits, received
from trainables.evaluation import pseudo_likelihood
from trainables.evaluation.pseudo_likelihood import Batches, Progress, Scorer, silent


class Kept:
    """Scores of one model, which is loaded when first needed.

    Args:
        origin: what the scores depend on besides the rows.
        model: makes the model.
        tokenizer: of the rows.
        device: where to compute.
    """

    def __init__(self, origin: bytes, model: Callable[[], Any], tokenizer: Any, device: str) -> None:
        made = f"{device} {torch.__version__} {version('transformers')} {tokenizer.mask_token_id}"
        self._origin = hashlib.sha256(made.encode() + b"\0" + origin)
        self._model, self._tokenizer, self._device = model, tokenizer, device
        self._scorer: Scorer | None = None

    @classmethod
    def trained(cls, folder: Path, tokenizer: Any, device: str) -> Kept:
        """Of a bundle. Raises ValueError, in one line, for another folder."""
        received.check_bundle(folder)
        origin = hashlib.sha256()
        for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
            origin.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(origin.digest(), lambda: pseudo_likelihood.load(folder)[0], tokenizer, device)

    @classmethod
    def untrained(cls, folder: Path, tokenizer: Any, device: str, seed: int) -> Kept:
        """Of the same architecture with random weights of a seed."""
        origin = f"untrained {seed} ".encode() + (folder / "config.json").read_bytes()
        return cls(origin, lambda: pseudo_likelihood.untrained(folder, seed), tokenizer, device)

    def __call__(self, batches: Batches, progress: Progress = silent) -> NDArray[np.float64]:
        """[n] sums of log-probabilities, as `Scorer.batches` gives them."""
        key = self._origin.copy()
        key.update(batches.digest)
        path = files.cache_root() / "scored" / f"{key.hexdigest()[:32]}.npy"
        found = read(path, len(batches.place))
        if found is None:
            self._scorer = self._scorer or Scorer(self._model(), self._tokenizer, self._device)
            found = self._scorer.batches(batches, progress)
            write(path, found)
        progress(batches.total, batches.total)
        return found

    def forget(self) -> None:
        """Let go of the model, until it is needed again."""
        self._scorer = None


def read(path: Path, size: int) -> NDArray[np.float64] | None:
    """Scores from the cache, [size]; None if there are none, or the file is damaged."""
    try:
        scores = np.load(io.BytesIO(limits.read(path, limits.TASK)), allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return scores if scores.dtype == np.float64 and scores.shape == (size,) else None


def write(path: Path, scores: NDArray[np.float64]) -> None:
    """Put scores into the cache."""
    content = io.BytesIO()
    np.save(content, scores, allow_pickle=False)
    files.put(path, content.getvalue())
