"""Do the model's surprisals tell how long people look at a word, beyond its length and frequency?

The reading data of de Varda et al. (2023), as the challenge's pipeline scores them (reading/run.py, see rules.py): the
share of the variance that a baseline leaves which the surprisal explains, (R2 with - R2 without) / (1 - R2 without), in
ordinary least squares. A column is the mean of eye tracking (four measures) and self-paced reading.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables import limits
from trainables.evaluation import rules
from trainables.evaluation.completions import too_long
from trainables.evaluation.pseudo_likelihood import Row

SINGULAR = 1e-10  # a predictor that others explain but for so much of it adds nothing
TEXTS = ("item", "word", "prev_item", "prev_word")
NUMBERS = (*rules.EYE_TRACKING, rules.SELF_PACED, *rules.PREDICTORS, "prev_length")
Prediction = tuple[str, str]  # a context, and the word after it


@dataclass(frozen=True)
class Words:
    """n words that people read.

    Args:
        predictions: what the model is asked, [n] words and then those before them that the file has.
        before: [n] where in `predictions` the word before is, or -1.
        numbers: [n] each, by column; nan where the file has none.
        path: the file, for messages.
    """

    predictions: list[Prediction]
    before: NDArray[np.int64]
    numbers: dict[str, NDArray[np.float64]]
    path: Path

    @property
    def fingerprint(self) -> str:
        """Hash of the content: 16 hex digits of a sha256."""
        digest = hashlib.sha256("\0".join(map("\0".join, self.predictions)).encode() + self.before.tobytes())
        for column in self.numbers.values():
            digest.update(column.tobytes())
        return digest.hexdigest()[:16]

    def rows(self, tokenizer: Any, rule: rules.Rule, most: int) -> tuple[list[Row], NDArray[np.int64]]:
        """(token rows, [rows] which of `predictions` each belongs to). ValueError for a row of more than `most`."""
        rows, owners = [], []
        for owner, (context, word) in enumerate(self.predictions):
            row_of = owner if owner < len(self.before) else int(np.flatnonzero(self.before == owner)[0])
            where = f"{self.path}, row {row_of + 1}"
            pieces = _pieces(tokenizer, context, word, rule)
            if not pieces:
                raise ValueError(f"{where}: the tokenizer makes nothing of the word {word!r}")
            for row in pieces:
                if len(row[0]) > most:
                    raise ValueError(too_long(where, len(row[0]), most))
                rows.append(row)
                owners.append(owner)
        return rows, np.array(owners)

    def surprisals(
        self, sums: NDArray[np.float64], owners: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """([n] of the words, [n] of those before, or nan), in nats. sums: [rows]. ValueError if one is not finite."""
        if not np.isfinite(sums).all():
            raise ValueError("the model's scores are not finite: it has diverged")
        found = -np.bincount(owners, sums).astype(np.float64)
        size = len(self.before)
        return found[:size], np.where(self.before >= 0, found[self.before], np.nan)


class Gain(NamedTuple):
    """Shares of the variance that the baseline leaves, from 0 to 1 (below 0 only by rounding).

    score: the mean of the other two. There is no interval: a further regressor never lowers the R2 of the words that it
    is fitted to, so resampled gains lie above 0 even where the surprisal tells nothing.
    """

    score: float
    eye_tracking: float
    self_paced: float


def read(path: Path) -> Words:
    """reading_data.csv of the pipeline, or the folder that has it. ValueError, in one line, for other data."""
    import pandas

    path = path / "reading_data.csv" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"there is no {path}")
    content = limits.read(path, limits.TASK)
    data = limits.fails(
        lambda: pandas.read_csv(io.BytesIO(content), dtype=dict.fromkeys(TEXTS, str)), f"{path} is not a CSV table"
    )
    missing = [name for name in (*TEXTS, *NUMBERS) if name not in data.columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(map(str, data.columns))}")
    if not len(data):
        raise ValueError(f"{path} has no rows")
    numbers = {}
    for name in NUMBERS:
        if data[name].dtype.kind not in "iuf":
            raise ValueError(f"{path}: the column {name!r} has something that is no number")
        numbers[name] = data[name].to_numpy(np.float64)
        if np.isinf(numbers[name]).any():
            raise ValueError(f"{path}: the column {name!r} has an infinite number")
    if data["word"].isna().any():
        raise ValueError(f"{path}, row {int(data['word'].isna().argmax()) + 1}: the word is missing")
    words = list(zip(data["item"].fillna(rules.NO_CONTEXT), data["word"], strict=True))
    has = data["prev_item"].notna().to_numpy()
    if data["prev_word"][has].isna().any():
        raise ValueError(f"{path}: a row has a prev_item and no prev_word")
    before = np.where(has, len(words) + has.cumsum() - 1, -1)
    words += list(zip(data["prev_item"][has], data["prev_word"][has], strict=True))
    found = Words(words, before, numbers, path)
    gains(found, np.ones(len(before)), np.where(has, 1.0, np.nan))  # whether there is enough of everything
    return found


def score(words: Words, surprisals: tuple[NDArray[np.float64], NDArray[np.float64]]) -> Gain:
    """The gain by surprisals of the words and of those before them, each [n]."""
    eye, paced = gains(words, *surprisals)
    return Gain((eye + paced) / 2, eye, paced)


def predictions(surprisals: tuple[NDArray[np.float64], NDArray[np.float64]]) -> dict[str, Any]:
    """The predictions in the pipeline's form; nan, as it writes it, where there is no word before."""
    told = zip(*(each.tolist() for each in surprisals), strict=True)
    return {"reading": {"predictions": [{"id": i, "pred": a, "prev_pred": b} for i, (a, b) in enumerate(told)]}}


def _pieces(tokenizer: Any, context: str, word: str, rule: rules.Rule) -> list[Row]:
    """A row for every piece of the word: masks follow the context, the piece stands for the first and is counted.

    In `official` a piece after the first is what the tokenizer makes of the first by itself once more, because the
    pipeline writes the pieces as text and reads them again: of WordPiece's `##ing` it scores `#`. In `ours` pieces stay
    what they are.
    """
    ids = tokenizer(word, add_special_tokens=False, verbose=False)["input_ids"]
    rows = []
    if rule == "ours":
        given = _with_masks(tokenizer, context)
        at = _first_mask(given, tokenizer.mask_token_id)
        return [_counted([*given[:at], *ids[:i], piece, *given[at + 1 :]], at + i) for i, piece in enumerate(ids)]
    for i, piece in enumerate(ids):
        text = tokenizer.decode(piece)
        told = [piece] if i == 0 else tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        if not told:
            raise ValueError(f"the tokenizer makes nothing of the piece {text!r} of the word {word!r}")
        given = _with_masks(tokenizer, context)
        at = _first_mask(given, tokenizer.mask_token_id)
        rows.append(_counted([*given[:at], told[0], *given[at + 1 :]], at))
        context += text
    return rows


def _with_masks(tokenizer: Any, context: str) -> list[int]:
    return tokenizer(context + tokenizer.mask_token * rules.MASKS, verbose=False)["input_ids"]


def _first_mask(ids: Sequence[int], mask: int) -> int:
    """Where the first of the added masks is: they are last, or before one token that the tokenizer ends with."""
    return len(ids) - rules.MASKS - (ids[-1] != mask)


def _counted(ids: Sequence[int], at: int) -> Row:
    return tuple(ids), tuple(int(i != at) for i in range(len(ids)))


class _Fit(NamedTuple):
    """A regression: what is predicted [m], and predictors [m, p], the surprisal last."""

    target: NDArray[np.float64]
    predictors: NDArray[np.float64]


def _fits(words: Words, surprisals: NDArray[np.float64], before: NDArray[np.float64]) -> list[_Fit]:
    """The regressions, eye tracking first, over the words that have everything."""
    data = words.numbers | {"prev_pred": before}
    fits = []
    for target in (*rules.EYE_TRACKING, rules.SELF_PACED):
        names = rules.PREDICTORS + (rules.SPILL_OVER if target == rules.SELF_PACED else ())
        main = [data[name] for name in names]
        columns = [np.ones(len(before)), *main, *(a * b for a, b in combinations(main, 2)), surprisals]
        table = np.stack([data[target], *columns], axis=1)
        rows = np.flatnonzero(np.isfinite(table).all(1))
        if len(rows) <= table.shape[1]:
            raise ValueError(f"{words.path}: only {len(rows)} rows have {target} and all of its predictors")
        if np.ptp(table[rows, 0]) == 0:
            raise ValueError(f"{words.path}: {target} is the same everywhere, so there is nothing to explain")
        fits.append(_Fit(table[rows, 0], table[rows, 1:]))
    return fits


def gains(words: Words, surprisals: NDArray[np.float64], before: NDArray[np.float64]) -> tuple[float, float]:
    """(of eye tracking, of self-paced reading), by surprisals of the words and of those before them, each [n]."""
    shares = []
    for target, predictors in _fits(words, surprisals, before):
        without, with_ = (_unexplained(target, each) for each in (predictors[:, :-1], predictors))
        if without <= SINGULAR**2 * float(target @ target):
            raise ValueError(f"{words.path}: length and frequency alone explain a measure wholly")
        shares.append((without - with_) / without)
    return float(np.mean(shares[:-1])), float(shares[-1])


def _unexplained(target: NDArray[np.float64], predictors: NDArray[np.float64]) -> float:
    """The sum of squares that is left, of predictors scaled alike, which changes nothing but the rounding."""
    scale = np.linalg.norm(predictors, axis=0)
    scaled = predictors / np.where(scale > 0, scale, 1)
    left = target - scaled @ np.linalg.lstsq(scaled, target, rcond=None)[0]
    return float(left @ left)
