"""Scores of token rows that lie in the cache, so that a finished (task, model) is never repeated."""

from __future__ import annotations

import hashlib
import io
import platform
from collections.abc import Callable
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

TaskProgress = Callable[[str, int, int], None]  # what is being done, how much is done, and in all; 0 of 0 if unknown


@dataclass(frozen=True)
class Source:
    """Where a model comes from: a bundle or, with a seed, its architecture with random weights.

    Args:
        folder: its absolute path, as another process may work elsewhere.
        content: what of the folder its scores depend on; from `of`.
        seed: of the random weights.
    """

    folder: Path
    content: bytes
    seed: int | None = None

    @classmethod
    def of(cls, folder: Path, seed: int | None = None) -> Source:
        """What the folder holds now."""
        folder = folder.absolute()
        if seed is not None:
            return cls(folder, f"untrained {seed} ".encode() + (folder / "config.json").read_bytes(), seed)
        content = hashlib.sha256()
        for path in (folder / "config.json", *sorted(folder.glob("*.safetensors"))):
            content.update(hashlib.sha256(path.read_bytes()).digest())
        return cls(folder, content.digest())

    def model(self) -> Any:
        """The model, in float32. ValueError, in one line, if the folder no longer holds it, or another one here."""
        if self.seed is None:
            model = pseudo_likelihood.load(self.folder)[0]
        else:
            model = pseudo_likelihood.untrained(self.folder, self.seed)
        if Source.of(self.folder, self.seed) != self:
            raise ValueError(
                f"{self.folder} on {platform.node()} is not the model that was asked for: leave the folder as it is "
                "while it is scored, and let every node see the same one"
            )
        return model


def libraries() -> str:
    """The libraries that scores depend on in their last bits."""
    return f"torch {torch.__version__}, transformers {version('transformers')}"


class Kept:
    """Scores of one model, which is loaded when first needed.

    Args:
        source: of the model.
        tokenizer: of the rows.
        device: where to compute.

    Attributes:
        mask: the id that hides a token, of the tokenizer.
    """

    def __init__(self, source: Source, tokenizer: Any, device: str) -> None:
        made = f"{device} {torch.__version__} {version('transformers')} {tokenizer.mask_token_id}"
        made += f" {pseudo_likelihood.ARITHMETIC}"
        self._origin = hashlib.sha256(made.encode() + b"\0" + source.content)
        self.source, self._tokenizer, self._device = source, tokenizer, device
        self.mask: int = tokenizer.mask_token_id
        self._scorer: Scorer | None = None

    @classmethod
    def trained(cls, folder: Path, tokenizer: Any, device: str) -> Kept:
        """Of a bundle. Raises ValueError, in one line, for another folder."""
        received.check_bundle(folder)
        return cls(Source.of(folder), tokenizer, device)

    @classmethod
    def untrained(cls, folder: Path, tokenizer: Any, device: str, seed: int) -> Kept:
        """Of the same architecture with random weights of a seed."""
        return cls(Source.of(folder, seed), tokenizer, device)

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
