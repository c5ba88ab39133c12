"""Cheap noise that is still dropout: the stated rate at every unit, streams that depend on the key alone."""

from __future__ import annotations

import pytest
import torch

from trainables.model import dropout

STREAM = [0, -1, -1, -1, -1, 0, -1, 0, -1, -1, -1, 0, -1, 0, -1, 0]  # of seed 0 at a rate of a half


def kept(site: dropout.DropoutMask, size: int) -> torch.Tensor:
    return site.apply(torch.ones(size), torch.empty(size))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_every_unit_of_a_word_is_dropped_at_the_stated_rate(rate: float) -> None:
    """By the index modulo 8, within 5 standard deviations of 250,000 draws."""
    (site,) = dropout.draw(rate, [2_000_000], seed=1)
    assert site is not None
    dropped = 1 - kept(site, 2_000_000).view(-1, 8).mean(0)
    assert dropped.sub(rate).abs().max().item() < 5 * (rate * (1 - rate) / 250_000) ** 0.5
    assert 1 - 1 / site.scale == pytest.approx(rate, abs=1e-5), "the rate itself, and so the expected value"


def test_units_are_independent_of_their_neighbours() -> None:
    (site,) = dropout.draw(0.5, [1_000_000], seed=2)
    assert site is not None
    signs = 2 * kept(site, 1_000_000) - 1
    for lag in (1, 2, 3, 4, 8, 256):
        assert (signs[lag:] * signs[:-lag]).mean().abs().item() < 5e-3, lag


def test_kept_units_are_left_as_they_are_and_dropped_ones_are_zero() -> None:
    (site,) = dropout.draw(0.3, [8 * 128], seed=3)
    assert site is not None
    x = torch.randn(8, 128)
    out = site.apply(x, torch.empty_like(x))
    assert set(torch.unique(out[out != x]).tolist()) == {0.0}
    part = site.part(128, 256)
    assert torch.equal(part.apply(x[1], torch.empty(128)), out[1])


def test_streams_depend_on_seed_and_site_alone() -> None:
    three, two = dropout.draw(0.1, [100, 60, 41], seed=4), dropout.draw(0.1, [100, 60], seed=4)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads % 2 + 1)
    again = dropout.draw(0.1, [100, 60, 41], seed=4)
    torch.set_num_threads(threads)
    other = dropout.draw(0.1, [100], seed=5)
    units = [[site.units for site in sites if site is not None] for sites in (three, two, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(units[0], units[2], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(units[0][:2], units[1], strict=True))
    assert not torch.equal(units[0][0], units[3][0])
    assert not torch.equal(units[0][0][:60], units[0][1])


def test_the_stream_is_the_one_it_was() -> None:
    """A run of an earlier version can be repeated."""
    (site,) = dropout.draw(0.5, [16], seed=0)
    assert site is not None
    assert site.units.tolist() == STREAM


def test_a_rate_of_zero_draws_nothing() -> None:
    assert dropout.draw(0.0, [10, 10], seed=0) == [None, None]
