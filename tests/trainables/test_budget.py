"""The budget is exact whatever the shares, the shape and the number of ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainables.audit import Audit, Draw
from trainables.budget import Budget, Selection
from trainables.noise import StepNoise


@st.composite
def mixtures(draw: st.DrawFn) -> tuple[Budget, list[float], int]:
    budget = Budget(draw(st.floats(0.02, 0.5)), False, draw(st.integers(1, 70)), draw(st.integers(8, 130)))
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


@given(mixtures(), st.integers(1, 8))
def test_a_rank_never_needs_more_slots_than_it_has(case: tuple[Budget, list[float], int], ranks: int) -> None:
    budget, shares, step = case
    row = budget.quotas(shares, StepNoise(1, 0, step, (budget.rows, budget.length)))[0]
    cuts = [budget.rows * rank // ranks for rank in range(ranks + 1)]
    for begin, end in itertools.pairwise(cuts):
        if end > begin:
            assert row[begin:end].sum() <= budget.slots(slice(begin, end))


def test_shares_act_smoothly_on_average() -> None:
    budget = Budget(0.15, False, 64, 128)
    taken = [budget.quotas([0.03, 0.07], StepNoise(0, 0, step, (64, 128)))[1:].sum(1) for step in range(2_000)]
    assert budget.total == 1229
    assert np.mean(taken, axis=0) == pytest.approx([0.03 * 1229, 0.07 * 1229], abs=0.05)


def test_row_apportionment_is_the_published_rounding() -> None:
    budget = Budget(0.15, True, 64, 128)
    quotas = budget.quotas([0.15, 0.05], StepNoise(0, 0, 0, (64, 128)))
    assert budget.total == 1216
    assert (quotas == np.array([19, 3, 1])[:, None]).all()


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
