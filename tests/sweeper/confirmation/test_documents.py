"""Other documents: their error against the jackknife by hand, coverage by simulation, what they do to a verdict."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from sweeper.confirmation.documents import Documents, Seen, by_arm, error
from sweeper.confirmation.paired_tests import Array, holm
from sweeper.confirmation.verdicts import DOCUMENTS, Comparison, Rule, verdicts

SEEDS = range(101, 109)
TOKENS = np.array([400.0, 30.0, 80.0, 10.0, 55.0, 120.0])


def test_the_error_is_the_jackknifes() -> None:
    differences = TOKENS * np.random.default_rng(0).normal(-0.02, 0.1, len(TOKENS))
    without = [
        np.delete(differences, i).sum() / np.delete(TOKENS, i).sum() - differences.sum() / TOKENS.sum()
        for i in range(len(TOKENS))
    ]
    found = error(differences, TOKENS)
    assert found.variance == pytest.approx(5 / 6 * np.square(without).sum())
    assert found.freedom == max(1.0, TOKENS.sum() ** 2 / (TOKENS**2).sum() - 1)
    same = error(np.array([0.1, 0.2, 0.4, 0.1]), np.ones(4))
    assert (same.variance, same.freedom) == (pytest.approx(np.var([0.1, 0.2, 0.4, 0.1], ddof=1) / 4), 3.0)


def drawn(draw: np.random.Generator, weights: Array, families: int) -> Array:
    """(families, seeds, documents) differences per token of mean 0: one part by seed, one by document, equal errors."""
    over = draw.standard_normal((families, 1, len(weights)))
    error = math.sqrt((weights**2).sum())
    return over + error * math.sqrt(len(SEEDS)) * draw.standard_normal((families, len(SEEDS), 1))


@pytest.mark.parametrize("largest", [1 / 55, 0.23])
def test_intervals_over_seeds_and_documents_cover_as_they_say(largest: float) -> None:
    """At equal errors, 8 seeds, 55 documents, one of which may have much of the text. Over seeds alone 86 % would."""
    weights = np.array([largest, *[(1 - largest) / 54] * 54])
    tokens, both, alone = 1000 * weights, 0, 0
    families = drawn(np.random.default_rng(1), weights, 2000)
    for differences in families:
        by_seed = differences @ weights
        seen = Seen(float(by_seed.mean()), float(by_seed.std(ddof=1)), len(SEEDS), 0.5, 0.5)
        runs = [(np.stack([one * tokens, tokens]), np.stack([0 * tokens, tokens])) for one in differences]
        low, high = by_arm({"new": seen}, {"new": runs}, 0.0, 0.05)["new"].combined
        both += low < 0 < high
        alone += abs(seen.mean) < 2.3646 * seen.sd / math.sqrt(len(SEEDS))
    assert both / len(families) == pytest.approx(0.953, abs=0.015)
    assert alone / len(families) < 0.89


def sums(by_document: Array, extra: float, seed: int) -> Array:
    """A run's losses by document: of the seed, of the document, and what the arm adds."""
    tokens = np.full(len(by_document), 50.0)
    return np.stack([tokens * (4.0 + 0.01 * (seed % 3) + by_document + extra), tokens])


def compared(mean: float, documents_sd: float, sd: float = 0.002, number: int = 40, **more: Any) -> Comparison:
    """An arm whose pairs differ by this mean and sd, and whose documents differ by that sd of their own."""
    draw = np.random.default_rng(7)
    shape = np.array([-1.5, -1.0, -0.5, -0.2, 0.2, 0.5, 1.0, 1.5])
    own = draw.normal(0, 1, number)
    own = documents_sd * (own - own.mean()) / own.std(ddof=1)
    base = {seed: sums(np.zeros(number), 0.0, seed) for seed in SEEDS}
    pairs = zip(SEEDS, mean + sd * shape / shape.std(ddof=1), strict=True)
    new = {seed: sums(own, extra, seed) for seed, extra in pairs}
    losses = {
        arm: {seed: float(s[0].sum() / s[1].sum()) for seed, s in by.items()}
        for arm, by in {"base": base, "new": new}.items()
    }
    return verdicts(losses, "base", documents={"base": base, "new": new}, **more).comparisons[0]


@pytest.mark.parametrize("mean", [-0.01, 0.01])
def test_documents_turn_what_seeds_alone_would_say(mean: float) -> None:
    sure, unsure = compared(mean, 0.01), compared(mean, 0.06)
    said = "confirmed" if mean < 0 else "worse"
    assert (sure.verdict, sure.label, sure.why) == (said, said, None)
    assert unsure.adjusted < 0.05, "the seeds alone are sure"
    assert (unsure.verdict, unsure.label) == ("inconclusive", f"inconclusive: {DOCUMENTS}")
    assert unsure.documents
    assert unsure.documents.adjusted > 0.05
    assert unsure.documents.error == pytest.approx(0.06 / math.sqrt(40))
    assert [note for note in unsure.notes if note.startswith(DOCUMENTS)]
    assert unsure.needed is None, "more seeds are not what it lacks"


def test_where_no_number_of_seeds_would_do_that_is_said() -> None:
    note = "no number of seeds can show 0.01 nats on these documents"
    assert not any(note in each for each in compared(0.005, 0.01, sd=0.02).notes)
    found = compared(0.005, 0.06, sd=0.02)
    assert found.needed
    assert [each for each in found.notes if each.startswith(note) and "their own error is 0.0095" in each]


def test_the_three_intervals_are_about_one_mean() -> None:
    found = compared(-0.01, 0.03)
    assert found.documents and found.interval and found.mean  # noqa: PT018
    for low, high in (found.interval, found.documents.interval, found.documents.combined):
        assert (low + high) / 2 == pytest.approx(found.mean)
    assert found.documents.combined[0] < min(found.interval[0], found.documents.interval[0])
    assert (found.documents.number, found.documents.effective) == (40, pytest.approx(40))


def test_what_is_not_worthwhile_must_hold_for_other_documents_too() -> None:
    assert compared(0.001, 0.01, sd=0.005).label == "no worthwhile difference"
    assert compared(0.001, 0.06, sd=0.005).label == f"inconclusive: {DOCUMENTS}"


def test_a_margin_must_be_beaten_over_documents_too() -> None:
    assert compared(-0.02, 0.03, rule=Rule(worthwhile=0.02)).label == "confirmed"
    rule = Rule(worthwhile=0.02, margin=0.012)
    assert compared(-0.02, 0.03, rule=rule).label == f"inconclusive: {DOCUMENTS}"
    assert compared(-0.02, 0.01, rule=rule).label == "confirmed"


def test_documents_without_predictions_and_runs_without_documents_count_for_nothing() -> None:
    tokens = np.array([*TOKENS, 0.0])
    new = np.stack([tokens * np.array([3.9, 4.0, 4.1, 3.8, 4.2, 4.0, 0.0]), tokens])
    base = np.stack([tokens * 4.0, tokens])
    seen = {name: Seen(-0.01, 0.01, 8, p, 0.9) for name, p in (("new", 0.5), ("mute", 0.02))}
    found = by_arm(seen, {"new": [(new, base)]}, 0.0, 0.05)
    assert list(found) == ["new"]
    assert found["new"].number == len(TOKENS)
    alone = by_arm({"new": seen["new"]}, {"new": [(new, base)]}, 0.0, 0.05)["new"].adjusted
    assert found["new"].adjusted == holm(np.array([alone, 0.02]))[0], "p of the other is that over its seeds"
    assert by_arm({"new": seen["new"]}, {"new": [(base[:, :1], base[:, :1])]}, 0.0, 0.05) == {}


def test_without_any_error_the_mean_itself_decides() -> None:
    twin = np.stack([TOKENS * 4.0, TOKENS])
    found = by_arm({"twin": Seen(0.0, 0.0, 8, 0.5, 0.5)}, {"twin": [(twin, twin)]}, 0.0, 0.05)["twin"]
    assert isinstance(found, Documents)
    assert (found.adjusted, found.combined, found.error) == (1.0, (0.0, 0.0), 0.0)
