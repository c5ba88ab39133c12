"""The budget is exact whatever the shares, the shape and the number of ranks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainables.obvious import row_parts
from trainables.masking.audit import Audit, Draw
from trainables.masking.budget import Budget, RowBudget, Selection
from trainables.noise import StepNoise
from trainables.settings.row_rates import RowRates


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Budget, list[float], int]:
    budget = Budget(draw(st.floats(0.02, 0.5)), draw(st.integers(1, 70)), draw(st.integers(8, 130)))
    token = draw(st.floats(0, 1))
    return budget, [token, draw(st.floats(0, 1)) * (1 - token)], draw(st.integers(0, 10_000))


@given(mixtures())
def test_quotas_add_up_exactly_and_stay_within_one_of_their_part(case: tuple[Budget, list[float], int]) -> None:
    budget, shares, step = case
    row, *parts = budget.quotas(shares, StepNoise(1, 0, step, (budget.rows, budget.length)))
    assert row.sum() == budget.total
    assert np.abs(row - budget.total / budget.rows).max() <= 1
    assert all((part >= 0).all() for part in parts)
    assert (sum(parts) <= row).all()
    for part, share in zip(parts, shares, strict=True):
        assert abs(part.sum() - share * budget.total) <= 1
        assert part.max() <= budget.largest(share)
    assert row.max() <= budget.largest()


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.floats(0.001, 1), min_size=4, max_size=8),
    rate=st.floats(0.02, 0.5),
    rows=st.integers(1, 70),
    kind=st.sampled_from([None, "uniform", "cosine"]),
    step=st.integers(0, 1_000_000),
)
def test_no_row_gets_more_of_any_of_many_sources_than_is_sorted(
    parts: list[float], rate: float, rows: int, kind: RowRates | None, step: int
) -> None:
    shares = [part / sum(parts) for part in parts]
    budget = Budget(rate, rows, 128, kind, len(shares))
    _, *taken = budget.quotas(shares, StepNoise(1, 0, step, (rows, 128)))
    assert all(part.max() <= budget.largest(share) for part, share in zip(taken, shares, strict=True))


def test_seven_sources_may_take_three_more_than_their_share_of_a_row() -> None:
    """What each before left of a row was rounded, too."""
    shares = [0.017, 0.144, 0.018, 0.178, 0.608, 0.018, 0.017]
    budget = Budget(0.396, 34, 128, None, len(shares))
    _, *taken = budget.quotas(shares, StepNoise(1, 0, 67, (34, 128)))
    more = [part.max() - math.ceil(share * budget.total / 34) for part, share in zip(taken, shares, strict=True)]
    assert max(more) == 3
    assert all(part.max() <= budget.largest(share) for part, share in zip(taken, shares, strict=True))


@given(mixtures(), st.integers(1, 8))
def test_a_rank_never_needs_more_slots_than_it_has(case: tuple[Budget, list[float], int], ranks: int) -> None:
    budget, shares, step = case
    row = budget.quotas(shares, StepNoise(1, 0, step, (budget.rows, budget.length)))[0]
    cuts = [budget.rows * rank // ranks for rank in range(ranks + 1)]
    for begin, end in itertools.pairwise(cuts):
        if end > begin:
            assert row[begin:end].sum() <= budget.slots(slice(begin, end))


def test_shares_act_smoothly_on_average() -> None:
    budget = Budget(0.15, 64, 128)
    taken = [budget.quotas([0.03, 0.07], StepNoise(0, 0, step, (64, 128)))[1:].sum(1) for step in range(2_000)]
    assert budget.total == 1229
    assert np.mean(taken, axis=0) == pytest.approx([0.03 * 1229, 0.07 * 1229], abs=0.05)


ELIGIBLE = torch.tensor([128, 127, 64, 50, 30, 15, 8, 3])  # 7.5 and 4.5 of them are due: halves go to the even one


@pytest.mark.parametrize(
    ("random", "shares", "remainder", "expected"),
    [
        (0.8, [0.15, 0.05], 1, [[3, 3, 2, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]]),
        (0.7, [0.2, 0.1], 1, [[4, 4, 2, 2, 1, 0, 0, 0], [2, 2, 1, 0, 0, 1, 0, 0]]),
        (0.5, [0.5, 0.0], 1, [[10, 10, 5, 4, 2, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 0]]),  # 10 + 10 of 19: at least 0
        (0.5, [0.0, 0.0, 0.5], None, [[0] * 8, [0] * 8, [10, 10, 5, 4, 2, 1, 0, 0]]),
        (0.4, [0.0, 0.3, 0.3], 1, [[0] * 8, [5, 5, 3, 3, 1, 0, 1, 0], [6, 6, 3, 2, 1, 1, 0, 0]]),
        (0.0, [0.5, 0.0, 0.5], None, [[10, 10, 5, 4, 2, 1, 0, 0], [0] * 8, [9, 9, 5, 4, 2, 1, 0, 0]]),  # what is left
        (1.0, [0.0, 0.0], 1, [[0] * 8, [0] * 8]),
    ],
)
def test_row_apportionment_rounds_eligible_positions_and_leaves_one_source_the_remainder(
    random: float, shares: list[float], remainder: int | None, expected: list[list[int]]
) -> None:
    budget = RowBudget(0.15, 8, 128)
    total, *parts = budget.quotas(ELIGIBLE, random, shares, remainder)
    assert total.tolist() == [19, 19, 10, 8, 4, 2, 1, 0]
    assert [part.tolist() for part in parts] == expected
    assert (total <= budget.largest()).all()
    assert budget.slots(slice(0, 8)) == 8 * 19
    assert budget.slots(slice(2, 5)) == 3 * 19


def test_rows_have_the_published_counts_for_every_random_share() -> None:
    """In steps of 1 %, in rows of 15 to 128 eligible positions. Of 19, trigrams that were rounded like the others would
    be another number under 36 of the shares."""
    eligible, other = list(range(15, 129)), 0
    budget = RowBudget(0.15, len(eligible), 128)
    for percent in range(101):
        random = percent / 100
        token = 0.75 * (1 - random)
        shares = [token, 1 - random - token]
        total, by_token, by_trigram = budget.quotas(torch.tensor(eligible), random, shares, 1)
        by_random = total - by_token - by_trigram
        expected = [row_parts(one, random, token) for one in eligible]
        assert list(zip(by_random.tolist(), by_token.tolist(), by_trigram.tolist(), strict=True)) == expected
        other += expected[-1][2] != round(shares[1] * 19)
    assert other == 36


def test_the_audit_fails_loudly_when_a_batch_is_off() -> None:
    audit = Audit(["random"], 10, True, "cpu")
    selection = Selection(torch.arange(5), torch.ones(5), 5)
    audit.count(selection, Draw(torch.tensor([5]), torch.tensor(False)), 40, warm=True)
    assert audit.metrics(lambda _: None)["audit/rate"] == 5 / 40
    audit.count(selection, Draw(torch.tensor([5]), torch.tensor(True)), 40, warm=True)
    with pytest.raises(RuntimeError, match="mask audit: 1 batches"):
        audit.metrics(lambda _: None)


@pytest.mark.parametrize(("expected", "fails"), [(50.0, False), (41.0, False), (39.0, True), (61.0, True)])
def test_the_audit_fails_independent_draws_that_are_far_from_their_mean(expected: float, fails: bool) -> None:
    audit = Audit(["amlm"], 10, False, "cpu")
    selection = Selection(torch.arange(50), torch.ones(50), torch.tensor(50))
    audit.count(selection, Draw(torch.tensor([50]), torch.tensor(False), expected=expected, variance=6.25), 400, True)
    if fails:
        with pytest.raises(RuntimeError, match="50 positions predicted"):
            audit.metrics(lambda _: None)
    else:
        assert audit.metrics(lambda _: None)["audit/matched"] == 0
