"""Scores of token rows that lie in the cache, so that a finished (task, model) is never repeated."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a bundle or, with a seed, its architecture with random weights."""

    folder: Path
    seed: int | None = None

    def model(self) -> Any:
        """The model, in float32."""
        if self.seed is None:
            return pseudo_likelihood.load(self.folder)[0]
        return pseudo_likelihood.untrained(self.folder, self.seed)


class Kept:
    """Scores of one model, which is loaded when first needed.

    Args:
        origin: what the scores depend on besides the rows.
        source: of the model.
        tokenizer: of the rows.
        device: where to compute.
    """

    def __init__(self, origin: bytes, source: Source, tokenizer: Any, device: str) -> None:
        made = f"{device} {torch.__version__} {version('transformers')} {tokenizer.mask_token_id}"
        made += f" {pseudo_likelihood.ARITHMETIC}"
        self._origin = hashlib.sha256(made.encode() + b"\0" + origin)
        self.source, self._tokenizer, self._device = source, tokenizer, device
        self._scorer: Scorer | None = None

    @classmethod
    def trained(cls, folder: Path, tokenizer: Any, device: str) -> Kept:
        """Of a bundle. Raises ValueError, in one line, for another folder."""
        received.check_bundle(folder)
        origin = hashlib.sha256()
        for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
            origin.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(origin.digest(), Source(folder), tokenizer, device)

    @classmethod
    def untrained(cls, folder: Path, tokenizer: Any, device: str, seed: int) -> Kept:
        """Of the same architecture with random weights of a seed."""
        origin = f"untrained {seed} ".encode() + (folder / "config.json").read_bytes()
        return cls(origin, Source(folder, seed), tokenizer, device)

    def __call__(self, batches: Batches, progress: Progress = silent) -> NDArray[np.float64]:
        """[n] sums of log-probabilities, as `Scorer.batches` gives them."""
        path = self.path(batches)
        found = read(path, len(batches.place))
        if found is None:
            self._scorer = self._scorer or Scorer(self.source.model(), self._tokenizer, self._device)
            found = self._scorer.batches(batches, progress)
            write(path, found)
        progress(batches.total, batches.total)
        return found

    def path(self, batches: Batches) -> Path:
        """Where in the cache the scores of these rows lie, if they are known."""
        key = self._origin.copy()
        key.update(batches.digest)
        return files.cache_root() / "scored" / f"{key.hexdigest()[:32]}.npy"

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
