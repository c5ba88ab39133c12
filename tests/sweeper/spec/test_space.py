"""Domains: values and raw parameters are two views of one point, and bad domains are refused in one line."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.spec.space import Choice, Dimension, Domain, LogUniform, RandInt, Simplex, Uniform, parse, point, points

PUBLISHED = {"random": 0.8, "token": 0.15, "trigram": 0.05}
MASKING = Simplex(("random", "token", "trigram"), (0.5, 0.0, 0.0))

steady = settings(deadline=None, derandomize=True)

finite = st.floats(-1e6, 1e6, allow_nan=False)
positive = st.floats(1e-6, 1e6)
whole = st.integers(-(10**6), 10**6)


def pairs(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.tuples(numbers, numbers).filter(lambda pair: pair[0] < pair[1])


@st.composite
def simplexes(draw: st.DrawFn) -> Simplex:
    parts = draw(st.integers(2, 5))
    minima = draw(st.lists(st.integers(0, 90 // parts), min_size=parts, max_size=parts))
    return Simplex(tuple(f"part{index}" for index in range(parts)), tuple(low / 100 for low in minima))


domains = st.one_of(
    pairs(finite).map(lambda bounds: Uniform(*bounds)),
    pairs(positive).map(lambda bounds: LogUniform(*bounds)),
    pairs(st.integers(1, 10**6)).map(lambda bounds: LogUniform(*bounds, integer=True)),
    pairs(whole).map(lambda bounds: RandInt(*bounds)),
    st.lists(st.text(max_size=4), min_size=1, max_size=5, unique=True).map(lambda texts: Choice(tuple(texts))),
    simplexes(),
)


def sample(data: st.DataObject, dimension: Dimension) -> Any:
    if dimension.choices is not None:
        return data.draw(st.sampled_from(dimension.choices))
    if dimension.integer:
        return data.draw(st.integers(int(dimension.low), int(dimension.high)))
    return data.draw(st.floats(dimension.low, dimension.high))


def close(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(math.isclose(one[key], other[key], abs_tol=1e-6) for key in one)
    return one == other and type(one) is type(other)


@steady
@given(domains, st.data())
def test_every_raw_point_is_a_value_that_inverts_to_itself(domain: Domain, data: st.DataObject) -> None:
    raw = {name: sample(data, dimension) for name, dimension in domain.sampler_params("a.b").items()}
    value = domain.value("a.b", raw)
    back = domain.to_sampler("a.b", value)
    assert back.keys() == raw.keys()
    for name, dimension in domain.sampler_params("a.b").items():
        assert dimension.choices is not None or dimension.low <= back[name] <= dimension.high
    assert close(value, domain.value("a.b", back))


@steady
@given(domains)
def test_every_corner_lies_inside(domain: Domain) -> None:
    corners = domain.corners()
    assert len(corners) >= (1 if isinstance(domain, Choice) else 2)
    for corner in corners:
        assert close(corner, domain.value("x", domain.to_sampler("x", corner)))


@steady
@given(domains)
def test_a_domain_reads_back_what_it_writes(domain: Domain) -> None:
    assert parse(json.loads(json.dumps(domain.to_dict()))) == domain


@steady
@given(simplexes(), st.data())
def test_shares_sum_to_one_and_keep_their_minima(simplex: Simplex, data: st.DataObject) -> None:
    raw = {name: data.draw(st.floats(0, 1)) for name in simplex.sampler_params("s")}
    shares = simplex.value("s", raw)
    assert tuple(shares) == simplex.parts
    assert math.isclose(sum(shares.values()), 1, abs_tol=1e-8)
    assert all(shares[part] >= low for part, low in zip(simplex.parts, simplex.minima, strict=True))


@steady
@given(st.integers(5000, 10000), st.data())
def test_hand_written_shares_come_back_to_the_digit(random: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, 10000 - random))
    shares = {"random": random / 10000, "token": token / 10000, "trigram": (10000 - random - token) / 10000}
    assert MASKING.value("s", MASKING.to_sampler("s", shares)) == shares


def test_raw_parameters_are_named_by_path_and_number() -> None:
    assert Uniform(0, 1).sampler_params("masking.ema_decay") == {"masking.ema_decay": Dimension(0, 1)}
    assert LogUniform(25, 1000, True).sampler_params("n") == {"n": Dimension(25, 1000, log=True, integer=True)}
    assert MASKING.sampler_params("masking.shares") == {
        "masking.shares/0": Dimension(0, 1),
        "masking.shares/1": Dimension(0, 1),
    }
    assert Choice(("a", None)).sampler_params("c")["c"].choices == ("a", None)


def test_the_vertices_of_a_simplex_are_reached_by_raw_parameters_at_the_ends() -> None:
    assert MASKING.corners() == [
        {"random": 1.0, "token": 0.0, "trigram": 0.0},
        {"random": 0.5, "token": 0.5, "trigram": 0.0},
        {"random": 0.5, "token": 0.0, "trigram": 0.5},
    ]
    assert [MASKING.to_sampler("s", corner) for corner in MASKING.corners()] == [
        {"s/0": 1.0, "s/1": 0.0},
        {"s/0": 0.0, "s/1": 1.0},
        {"s/0": 0.0, "s/1": 0.0},
    ]


def test_uniform_raw_parameters_are_uniform_on_the_simplex() -> None:
    simplex = Simplex(("a", "b", "c", "d"), (0.0, 0.2, 0.0, 0.1))
    rows = np.random.default_rng(0).random((20_000, 3))
    values = [simplex.value("s", {f"s/{index}": u for index, u in enumerate(row)}) for row in rows]
    free = (np.array([list(value.values()) for value in values]) - simplex.minima) / simplex.free
    # Each part of a uniform point of a simplex with four parts is Beta(1, 3): P(x > t) = (1 - t)^3.
    for threshold in (0.1, 0.25, 0.5):
        np.testing.assert_allclose((free > threshold).mean(0), (1 - threshold) ** 3, atol=0.015)


def test_a_part_that_is_not_named_has_no_share() -> None:
    both = Simplex(("random", "token"), (0.0, 0.0))
    assert both.to_sampler("s", {"random": 1}) == {"s/0": 1.0}
    assert both.to_sampler("s", {"random": 0.75, "token": 0.25, "trigram": 0.0}) == {"s/0": 0.75}


@pytest.mark.parametrize(
    ("domain", "value", "reason"),
    [
        (Uniform(0, 1), 1.5, "1.5 lies outside [0, 1]"),
        (Uniform(0, 1), "0.5", "the value must be a number such as 90, 0.5 or 5e-4, not the text '0.5'"),
        (Uniform(0, 1), True, "the value must be a number such as 90, 0.5 or 5e-4, not True"),
        (RandInt(1, 8), 2.0, "2.0 is not an integer"),
        (LogUniform(1, 8, True), 9, "9 lies outside [1, 8]"),
        (Choice((1, 2)), True, "True is not one of 1, 2"),
        (MASKING, PUBLISHED | {"token": 0.2}, "shares must sum to 1, these sum to 1.05"),
        (MASKING, {"random": 0.4, "token": 0.6}, "random 0.4 lies below its minimum 0.5"),
        (MASKING, {"random": 0.9, "tokn": 0.1}, "unknown part 'tokn': did you mean 'token'?"),
        (MASKING, 0.5, "0.5 is not a mapping of random, token, trigram to their shares"),
    ],
)
def test_a_value_outside_has_no_raw_parameters(domain: Domain, value: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        domain.to_sampler("x", value)


@pytest.mark.parametrize(
    ("node", "reason"),
    [
        ({"uniform": [1, 0]}, "the bounds [1, 0] are the wrong way round: write [0, 1]"),
        ({"uniform": [1, 1]}, "the bounds [1, 1] leave one value: set it in config instead"),
        ({"uniform": [1]}, "uniform takes two bounds, [low, high], not 1"),
        ({"uniform": 3}, "3 is not a list: write uniform: [low, high]"),
        ({"uniform": ["no", 1]}, "a bound must be a number such as 90, 0.5 or 5e-4, not the text 'no'"),
        ({"uniform": [0, math.inf]}, "a bound must be a number such as 90, 0.5 or 5e-4, not inf"),
        ({"uniform": [0, 1], "integer": True}, "uniform cannot be combined with integer: use randint for integers"),
        ({"uniform": [0, 1], "choice": [1]}, "uniform cannot be combined with choice: keep one of them"),
        ({"unifrom": [0, 1]}, "unknown domain 'unifrom': did you mean 'uniform'?"),
        ({"loguniform": [0, 1]}, "loguniform needs a low bound above 0, not 0"),
        ({"loguniform": [1.5, 3], "integer": True}, "loguniform of integers takes whole bounds, not [1.5, 3]"),
        ({"loguniform": [1, 3], "integer": "yes"}, "integer must be true or false, not 'yes'"),
        ({"randint": [1, 2.5]}, "randint of integers takes whole bounds, not [1, 2.5]"),
        ({"choice": []}, "choice is empty: name at least one value"),
        ({"choice": [1, 1.0]}, "choice names 1.0 twice"),
        ({"choice": [[1]]}, "choice takes texts, numbers, true, false and null, not [1]"),
        ({"simplex": {"random": 0}}, "simplex needs at least two parts, not 1"),
        ({"simplex": {"a": 0.6, "b": 0.6}}, "simplex minima sum to 1.2: they must sum to less than 1"),
        ({"simplex": {"a": 0.5, "b": 0.5}}, "simplex minima sum to 1: they must sum to less than 1"),
        ({"simplex": {"a": -0.1, "b": 0}}, "simplex part 'a' has the minimum -0.1: it must lie in [0, 1)"),
        ({"simplex": ["a", "b"]}, "simplex takes a mapping of parts to their minima, not ['a', 'b']"),
        ([0, 1], "[0, 1] is not a domain: write {uniform: [low, high]} or another of "),
        ({}, "{} is not a domain: write {uniform: [low, high]} or another of "),
    ],
)
def test_a_bad_domain_is_refused_in_one_line(node: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(reason)}.*\Z"):
        parse(node)


def test_points_are_counted_where_they_are_finite_and_each_has_a_place() -> None:
    space = {"a": Choice(("x", None)), "b": RandInt(3, 5), "c": LogUniform(7, 8, integer=True)}
    assert points(space) == 12
    found = [point(space, index) for index in range(12)]
    assert found[:3] == [{"a": "x", "b": 3, "c": 7}, {"a": "x", "b": 3, "c": 8}, {"a": "x", "b": 4, "c": 7}]
    assert len({str(each) for each in found}) == 12
    assert [list(each) for each in found] == [["a", "b", "c"]] * 12
    for endless in (Uniform(0, 1), LogUniform(1, 2), MASKING):
        assert points({**space, "d": endless}) is None
