"""Whether arms scatter alike and are stuck alike: against SciPy's own and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sweeper.confirmation.scatter import mcnemar, spread


@given(st.integers(0, 10**6), st.integers(3, 24), st.floats(0.1, 10))
def test_spreads_are_compared_by_the_correlation_of_sum_and_difference(key: int, n: int, wider: float) -> None:
    draw = np.random.default_rng(key)
    theirs = draw.normal(4, 0.01, n)
    ours = theirs + wider * draw.normal(0, 0.01, n)
    found = spread(ours, theirs)
    assert found
    assert found.p == pytest.approx(stats.pearsonr(ours + theirs, ours - theirs)[1], rel=1e-4, abs=1e-9)
    assert (found.sd, found.baseline) == (ours.std(ddof=1), theirs.std(ddof=1))
    assert found.ratio == pytest.approx(found.sd / found.baseline)
    for end in found.interval or ():  # a ratio at an end of the interval is just refused at 5 %
        assert stats.pearsonr(ours + end * theirs, ours - end * theirs)[1] == pytest.approx(0.05, abs=1e-4)


def test_equal_spreads_are_told_apart_as_often_as_the_level_says() -> None:
    draw = np.random.default_rng(0)
    runs = draw.normal(0, 1, (4000, 2, 8)) + draw.normal(0, 1, (4000, 1, 8))
    refused = [
        found is not None and found.p is not None and found.p < 0.05 for found in (spread(*each) for each in runs)
    ]
    assert np.mean(refused) == pytest.approx(0.05, abs=0.011)


def test_where_nothing_scatters_there_is_no_ratio() -> None:
    flat, some = np.full(8, 4.0), np.arange(8.0)
    assert spread(flat[:2], some[:2]) is None
    found = spread(some, flat)
    assert found
    assert (found.baseline, found.ratio, found.p) == (0.0, None, None)
    for twin in (some, some + 0.1):  # alike up to rounding
        found = spread(twin, some)
        assert found
        assert (found.ratio, found.p) == (pytest.approx(1), pytest.approx(1))


@given(st.sets(st.integers(0, 15)), st.sets(st.integers(0, 15)))
def test_stuck_runs_are_compared_by_the_pairs_of_which_one_is(ours: set[int], theirs: set[int]) -> None:
    alone, other = len(ours - theirs), len(theirs - ours)
    due = stats.binomtest(alone, alone + other).pvalue if alone + other else 1.0
    assert mcnemar(ours, theirs) == pytest.approx(due)
