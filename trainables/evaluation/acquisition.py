"""Does the model learn words in the order in which children do?

Age of acquisition after Chang and Bergen (2022), as the challenge's pipeline has it (AoA_word and utils.py, see
rules.py). A word's surprisal, averaged over contexts, falls over the checkpoints; the model acquires it where a sigmoid
fitted to the curve is halfway between chance and its least. A child's age is where a sigmoid fitted to the share of
children who say the word reaches a half. The score is Pearson's correlation of the two over words, or 0 if its p is
above 0.1 or fewer than 3 words have both.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trainables import limits, noise
from trainables.evaluation import pseudo_likelihood, rules
from trainables.evaluation.completions import too_long
from trainables.evaluation.minimal_pairs import LEVEL

RESAMPLES = 2_000
SETTLED = 1e-15  # a relative change that is no more than rounding
MOST_STEPS = 1_000  # in which a fit that has stopped settles; 30 are usual
Curve = Callable[..., NDArray[np.float64]]


@dataclass(frozen=True)
class Lexicon:
    """n contexts of words, and when children say the words.

    Args:
        words: [n] the word of each context.
        contexts: [n].
        ids: [n] the number of the context among those of its word.
        children: [ages] shares of children, nan where unknown, by word.
        path: the file of contexts, for messages.
    """

    words: list[str]
    contexts: list[str]
    ids: list[int]
    children: dict[str, NDArray[np.float64]]
    path: Path

    @property
    def fingerprint(self) -> str:
        """Hash of the content: 16 hex digits of a sha256."""
        children = {word: np.nan_to_num(shares, nan=-1).tolist() for word, shares in self.children.items()}
        return hashlib.sha256(json.dumps([self.words, self.contexts, children]).encode()).hexdigest()[:16]

    def rows(self, tokenizer: Any, most: int) -> list[pseudo_likelihood.Row]:
        """[n] rows: the word after its context. ValueError for one of more than `most` tokens."""
        options = [
            (f"{context.strip()} {word.strip()}", word.strip())
            for context, word in zip(self.contexts, self.words, strict=True)
        ]
        rows = pseudo_likelihood.completion_tokens(tokenizer, options)
        for (ids, _), word, number in zip(rows, self.words, self.ids, strict=True):
            if len(ids) > most:
                raise ValueError(too_long(f"{self.path}: context {number} of {word!r}", len(ids), most))
        return rows

    def told(self, surprisals: NDArray[np.float64]) -> dict[str, Any]:
        """Surprisals [checkpoints, n] in the pipeline's form."""
        results = [
            {
                "step": step, "word_count": count, "target_word": word, "context_id": number, "context": context,
                "surprisal": value,
            }
            for step, count, row in zip(rules.CHECKPOINTS, rules.WORDS, surprisals.tolist(), strict=True)
            for word, number, context, value in zip(self.words, self.ids, self.contexts, row, strict=True)
        ]  # fmt: skip
        many = len(rules.CHECKPOINTS)
        about = {"use_bos_only": False, "total_steps": many, "completed_steps": many}
        return {"metadata": about, "results": results}


class Order(NamedTuple):
    """How alike the orders are.

    Args:
        official: the correlation, or 0 by the pipeline's rule.
        correlation: Pearson's; 0 if fewer than three words have both ages.
        p: of it; 1 if there is none.
        words: how many have both ages.
        interval: 95 % bootstrap of the correlation, over words.
    """

    official: float
    correlation: float
    p: float
    words: int
    interval: tuple[float, float] | None


def read(contexts: Path, children: Path) -> Lexicon:
    """cdi_childes.json and cdi_human.csv of the pipeline. ValueError, in one line, for other data."""
    found = limits.json_file(contexts, limits.TASK)
    words, texts, ids = [], [], []
    for word, given in found.items():
        if len(word) < rules.SHORTEST_WORD:
            continue
        if not word.strip():
            raise ValueError(f"{contexts}: a word is blank")
        if not isinstance(given, list):
            raise ValueError(f"{contexts}: {word!r} must have a list of contexts")
        for number, each in enumerate(given):
            text = each.get("context") if isinstance(each, dict) else None
            if not isinstance(text, str):
                raise ValueError(f"{contexts}: context {number} of {word!r} has no text 'context'")
            words.append(word)
            texts.append(text)
            ids.append(number)
    if not words:
        raise ValueError(f"{contexts} has no contexts")
    return Lexicon(words, texts, ids, _children(children), contexts)


def _children(path: Path) -> dict[str, NDArray[np.float64]]:
    import pandas

    content = limits.read(path, limits.TASK)
    data = limits.fails(lambda: pandas.read_csv(io.BytesIO(content)), f"{path} is not a CSV table")
    ages = [str(age) for age in rules.AGES]
    missing = [name for name in ("word", *ages) if name not in data.columns]
    if missing:
        raise ValueError(f"{path} has no column {missing[0]!r}: it has {', '.join(map(str, data.columns))}")
    wrong = [name for name in ages if data[name].dtype.kind not in "iuf"]
    if wrong:
        raise ValueError(f"{path}: the column {wrong[0]!r} has something that is no number")
    shares = data[ages].to_numpy(np.float64)
    if np.isinf(shares).any():
        raise ValueError(f"{path} has an infinite number")
    found: dict[str, NDArray[np.float64]] = {}
    for word, row in zip(data["word"], shares, strict=True):
        found.setdefault(word, row)  # of several rows of a word, the first
    return found


def score(
    lexicon: Lexicon, surprisals: NDArray[np.float64], tokenizer: Any, seed: int = 0, rule: rules.Rule = "official"
) -> Order:
    """The agreement of the order by surprisals [checkpoints, n], in nats, with children's.

    Args:
        lexicon: words, and when children say them.
        surprisals: of every context.
        tokenizer: for what chance is: the logarithm of its entries, added ones aside, times the pieces of the word.
        seed: of the bootstrap.
        rule: `official` takes a fit where the pipeline's solver stops, once a step lowers the sum of squares by less
            than 1e-8 of it; `ours` goes on from there until it falls no more. For most curves an age moves by some
            1e-6; where a curve drops between two checkpoints, its place between them is open, and by more.
    """
    if not np.isfinite(surprisals).all():
        raise ValueError("the model's scores are not finite: it has diverged")
    chance, words = float(np.log(tokenizer.vocab_size)), np.array(lexicon.words)
    ages = []
    for word in dict.fromkeys(lexicon.words):
        if word not in lexicon.children or (child := child_age(lexicon.children[word], rule)) is None:
            continue
        curve = surprisals[:, words == word].mean(1)
        model = model_age(curve, pieces(tokenizer, word) * chance, rule)
        if model is not None:
            ages.append((model, child))
    return _order(np.array(ages).reshape(-1, 2), seed)


def pieces(tokenizer: Any, word: str) -> int:
    """Tokens of a word after another one, at least 1."""
    alone, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("The", f"The {word}"))
    return max(1, len(after) - len(alone))


def child_age(shares: NDArray[np.float64], rule: rules.Rule = "official") -> float | None:
    """Months at which half of the children say a word, by their shares at `rules.AGES`; None if it cannot be told."""
    known = ~np.isnan(shares)
    ages, told = np.array(rules.AGES)[known], shares[known]
    if len(ages) < rules.FEWEST:
        return None
    bounds = ([0, 0, ages[0], -0.5], [2.0, 1.0, ages[-1], 0.5])
    fit = _fitted(ages, told, [1.0, 0.1, ages.mean(), 0.0], bounds, 1_000, rule)
    if fit is None or fit[0] <= 0 or fit[1] <= 0:
        return None
    return _crossing(fit, rules.ACQUIRED, (ages[0], ages[-1]))


def model_age(surprisals: NDArray[np.float64], chance: float, rule: rules.Rule = "official") -> float | None:
    """log10 of 1 + the words after which a word is acquired, by its surprisal at each checkpoint; None as above."""
    seen = np.array(rules.WORDS)
    rising, logs = -surprisals, np.log10(seen + 1)
    low, high = rising.min(), rising.max()
    wide = high - low
    bounds = ([0, 0, logs.min() - 1, low - 2 * wide - 1], [10 * wide + 1, 100.0, logs.max() + 1, high + 1])
    fit = _fitted(logs, rising, [wide, 1.0, logs.mean(), low], bounds, 20_000, rule)
    if fit is None or min(fit[:2]) <= 1e-6:
        return None
    halfway = chance - rules.ACQUIRED * (chance + high)
    return _crossing(fit, -halfway, (np.log10(seen[0] + 1), np.log10(seen[-1] + 1)))


def sigmoid(x: NDArray[np.float64], a: float, b: float, c: float, d: float) -> NDArray[np.float64]:
    """a / (1 + exp(-b (x - c))) + d."""
    return a / (1 + np.exp(-b * (x - c))) + d


def _fitted(
    x: NDArray[Any],
    y: NDArray[np.float64],
    start: Sequence[float],
    bounds: tuple[Any, Any],
    most: int,
    rule: rules.Rule,
) -> NDArray[np.float64] | None:
    """The a, b, c, d of least squares, from the pipeline's start and by its solver; None if it does not converge.

    In `ours` that is where a search without its tolerance begins.
    """
    from scipy.optimize import curve_fit, least_squares

    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of parameters without a covariance, which nobody asks for
        try:
            fit = curve_fit(sigmoid, x, y, p0=start, bounds=bounds, maxfev=most)[0]
        except (RuntimeError, ValueError):
            return None
        if rule == "official":
            return fit
        exact = dict.fromkeys(("ftol", "xtol", "gtol"), SETTLED)
        found: Any = least_squares(
            lambda fit: sigmoid(x, *fit) - y, fit, jac="3-point", bounds=bounds, max_nfev=MOST_STEPS, **exact
        )
        return found.x


def _crossing(fit: NDArray[np.float64], height: float, within: tuple[float, float]) -> float | None:
    """Where the sigmoid has a height; None if it never has, or only outside."""
    a, b, c, d = map(float, fit)
    if not d < height < a + d:
        return None
    found = c - float(np.log(a / (height - d) - 1)) / b
    return found if within[0] <= found <= within[1] else None


def _order(ages: NDArray[np.float64], seed: int) -> Order:
    """ages: [w, 2] of the model and of children."""
    from scipy.stats import pearsonr

    if len(ages) < rules.FEWEST or 0 in np.ptp(ages, axis=0):
        return Order(0.0, 0.0, 1.0, len(ages), None)
    found: Any = pearsonr(*ages.T)
    correlation, p = float(found.statistic), float(found.pvalue)
    source = np.random.Generator(np.random.Philox(noise.derive(seed, "bootstrap of words")))
    chosen = ages[source.integers(len(ages), size=(RESAMPLES, len(ages)))]
    centred = chosen - chosen.mean(1, keepdims=True)
    norm = np.sqrt((centred**2).sum(1).prod(1))
    resampled = np.divide(centred.prod(2).sum(1), norm, out=np.zeros(RESAMPLES), where=norm > 0)
    low, high = np.quantile(resampled, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Order(correlation if p <= rules.LARGEST_P else 0.0, correlation, p, len(ages), (float(low), float(high)))
