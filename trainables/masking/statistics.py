"""Statistics of what was masked: by frequency, kind of word piece, token and trigram, and how scores drifted.

Shapes: V vocabulary entries.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sweeper.trainable import COUNTED, Interval, intervals
from trainables.data.word_forms import WordForms
from trainables.masking.difficulty import trigram_keys
from trainables.masking.policy import Floats, Vocabulary

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Ints = NDArray[np.int64]

DECILES = 10
KINDS = ("word", "continuation", "number", "punctuation")
SORTS = ("letters", "number", "punctuation")  # of entries; whether letters begin a word depends on their place
SHOWN = 20
LEAST_EXPECTED = 20.0  # with fewer expected predictions, a ratio says little


class MaskStatistics:
    """Summarises the predictions by vocabulary id.

    Deciles are tenths of the running text, with tokens in order of frequency, the most frequent first: random masking
    gives each about a tenth. Kinds: a whole word or its first piece, a continuation, a number (any digit in it),
    punctuation (neither letters nor digits).
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        probability = np.where(vocabulary.eligible, vocabulary.unigram, 0.0)
        self.probability: Floats = probability / probability.sum()
        order = np.argsort(-self.probability, kind="stable")
        middle = np.cumsum(self.probability[order]) - self.probability[order] / 2
        self.decile: Ints = np.empty(len(order), dtype=np.int64)
        self.decile[order] = np.minimum((middle * DECILES).astype(np.int64), DECILES - 1)
        self.sort: Ints = np.array([SORTS.index(sort) for sort in _sorts(vocabulary.forms)])
        begins = vocabulary.forms.begins.astype(np.float64)
        self.initial: Floats = begins if vocabulary.initial is None else vocabulary.initial

    def metrics(self, by_id: Ints, initial: Ints) -> dict[str, float]:
        """How many predictions, by_id [V], and their shares; initial: [V], those that begin a word."""
        counted = int(by_id.sum())
        found = {COUNTED: float(counted)}
        if not counted:
            return found
        deciles = np.bincount(self.decile, weights=by_id, minlength=DECILES) / counted
        kinds = self.kinds(by_id, initial) / counted
        found |= {f"audit/decile/{i + 1}": float(share) for i, share in enumerate(deciles)}
        return found | {f"audit/kind/{name}": float(share) for name, share in zip(KINDS, kinds, strict=True)}

    def kinds(self, by_id: Ints | Floats, initial: Ints | Floats) -> Floats:
        """[kinds] amount of each, from the amount of every token, [V], and how much of that begins a word, [V]."""
        letters, *others = np.bincount(self.sort, weights=by_id, minlength=len(SORTS))
        words = initial[self.sort == 0].sum()
        return np.array([words, letters - words, *others], dtype=np.float64)

    def drift(self, before: Floats, now: Floats) -> float:
        """Mean absolute change of a token's score, weighted by its frequency."""
        return float(np.abs(now - before) @ self.probability)

    def table(self, by_id: Ints, scores: dict[str, Floats]) -> dict[str, Any]:
        """The most and the least masked tokens and trigrams: predictions over those expected at random."""
        due = self.probability * by_id.sum()
        forms = self.vocabulary.forms
        keys = trigram_keys(forms)
        by_trigram, due_by_trigram = keys.counts(by_id.astype(np.float64)), keys.counts(due)
        tokens = _ranked(forms.labels, by_id, due, scores.get("token"))
        return {"tokens": tokens, "trigrams": _ranked(keys.names, by_trigram, due_by_trigram, scores.get("trigram"))}


def write(
    folder: Path,
    statistics: MaskStatistics,
    counts: tuple[Ints, Ints],
    scores: dict[str, Floats],
    history: Sequence[Any],
) -> None:
    """Write `masked.json` and `masked.svg`, a table and a plot, both over the run and between its reports.

    Args:
        folder: is made.
        statistics: of the run's vocabulary.
        counts: [V] each, predictions by label, and those of them that begin a word.
        scores: of the policy, at the end.
        history: rows of metrics.
    """
    folder.mkdir()
    by_id = counts[0]
    shares = {key.removeprefix("audit/"): value for key, value in statistics.metrics(*counts).items() if key != COUNTED}
    drift = [[row["step"], row["audit/drift"]] for row in history if "audit/drift" in row]
    course = list(intervals(history))
    over_time = [one._asdict() for one in course]
    content = {"predictions": int(by_id.sum()), "shares": shares, "over_time": over_time, "drift": drift}
    content |= statistics.table(by_id, scores)
    (folder / "masked.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    _plot(folder / "masked.svg", statistics, shares, drift, course)


def _sorts(forms: WordForms) -> Iterator[str]:
    """The sort of every entry. Part of a character, which may be a letter, counts as one; so does a bare word mark."""
    for key, begins, whole in zip(forms.keys, forms.begins, forms.whole, strict=True):
        if not whole or (begins and not key):
            yield "letters"
        elif any(map(str.isdigit, key)):
            yield "number"
        else:
            yield "letters" if any(map(str.isalpha, key)) else "punctuation"


def _ranked(names: Sequence[str], counts: Any, due: Floats, score: Floats | None) -> dict[str, list[dict[str, Any]]]:
    """The names with the largest and smallest counts / due, among those with enough due."""
    enough = np.flatnonzero(due >= LEAST_EXPECTED)
    order = enough[np.argsort(-(counts[enough] / due[enough]), kind="stable")]

    def rows(chosen: NDArray[np.intp]) -> list[dict[str, Any]]:
        return [
            {
                "name": names[i],
                "masked": int(counts[i]),
                "due": round(float(due[i]), 1),
                "ratio": round(float(counts[i] / due[i]), 4),
                **({} if score is None else {"score": round(float(score[i]), 6)}),
            }
            for i in chosen.tolist()
        ]

    return {"most": rows(order[:SHOWN]), "least": rows(order[::-1][:SHOWN])}


def _plot(
    path: Path,
    statistics: MaskStatistics,
    shares: dict[str, float],
    drift: list[list[float]],
    course: Sequence[Interval],
) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    deciles = [100 * shares.get(f"decile/{i + 1}", 0.0) for i in range(DECILES)]
    kinds = [100 * shares.get(f"kind/{name}", 0.0) for name in KINDS]
    due = 100 * statistics.kinds(statistics.probability, statistics.probability * statistics.initial)
    figure = Figure(figsize=(10, 6), layout="constrained")
    (left, middle, right), below = figure.subplots(2, 3)
    left.bar(range(1, DECILES + 1), deciles, color="#4477aa")
    due_by_decile = 100 * np.bincount(statistics.decile, weights=statistics.probability, minlength=DECILES)
    left.plot(range(1, DECILES + 1), due_by_decile, "k_", markersize=12, label="at random")
    left.set(title="Masks by frequency", xlabel="tenth of the text, frequent first", ylabel="% of masks")
    left.legend()
    middle.bar(KINDS, kinds, color="#4477aa")
    middle.plot(KINDS, due, "k_", markersize=20)
    middle.set(title="Masks by kind of piece")
    middle.tick_params(axis="x", labelrotation=20)
    if drift:
        right.plot(*zip(*drift, strict=True), "o-", color="#4477aa")
    right.set(title="Change of the scores between reports", xlabel="step")
    for axes, group in zip(below, ("decile", "kind", "shares"), strict=True):
        _plot_course(axes, group, course)
    below[0].set(title="Tenths of the text between reports", ylabel="% of masks")
    below[1].set(title="Kinds of piece between reports")
    below[2].set(title="Sources between reports")
    with rc_context({"svg.hashsalt": "masked"}):  # the same run gives the same bytes
        figure.savefig(path, format="svg", metadata={"Date": None})


def _plot_course(axes: Axes, group: str, course: Sequence[Interval]) -> None:
    """A line for each part of a group, from dark to light, over the ends of the intervals."""
    from matplotlib import colormaps

    parts = list(dict.fromkeys(key for one in course for key in one.shares if key.startswith(f"{group}/")))
    for place, part in enumerate(parts):
        shares = [100 * one.shares.get(part, 0.0) for one in course]
        colour = colormaps["viridis"](0.95 * place / max(1, len(parts) - 1))
        label = part.removeprefix(f"{group}/")
        axes.plot([one.step for one in course], shares, "o-", markersize=3, color=colour, label=label)
    axes.set(xlabel="step", ylim=(0, None))
    if parts:
        axes.legend(ncols=2, fontsize="x-small")
