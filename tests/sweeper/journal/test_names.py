"""Configurations have names that people can read, and no two of a sweep share one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sweeper.journal.names import LONGEST, Names, readable
from tests.sweeper.samples import PUBLISHED, ask, toy_spec

SPACE = {
    "masking.shares": {"simplex": {"random": 0.5, "token": 0, "trigram": 0}},
    "masking.ema_decay": {"uniform": [0, 1]},
}


def shares(*parts: float) -> dict[str, float]:
    return dict(zip(("random", "token", "trigram"), parts, strict=True))


def searched(number: int, arm: str | None = None, **params: Any) -> Any:
    asked = ask(toy_spec(), number, 0, x=0.5, shares=PUBLISHED)
    return replace(asked, arm=arm, params={path.replace("__", "."): value for path, value in params.items()})


def test_a_name_says_what_was_varied_in_the_order_of_the_spec() -> None:
    spec = toy_spec(trainable="trainables.mlm:train", space=SPACE, arms={})
    backwards = {"masking.ema_decay": 0.5123, "masking.shares": {"trigram": 0.11, "token": 0.06, "random": 0.83}}
    assert readable(spec, backwards) == "83/6/11 ema 0.51"
    assert readable(spec, backwards, 4) == "83/6/11 ema 0.5123"
    assert readable(spec, {"masking.ema_decay": 0.5, "optimiser.lr": 3e-4}) == "ema 0.5 lr 0.0003"
    assert readable(spec, {}) == "-"


def test_words_are_as_short_as_tells_them_apart() -> None:
    spec = toy_spec(space={"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, arms={})
    given = {"lr_warmup": 1, "lr_peak": 2.0, "a.steps": True, "b.steps": None, "kind": "soft"}
    assert readable(spec, given) == "lr_warmup 1 lr_peak 2 a.steps true b.steps null kind soft"
    two = {"a.shares": shares(0.8, 0.2, 0), "b.mix": shares(0.5, 0.5, 0)}
    assert readable(spec, two) == "shares 80/20/0 mix 50/50/0"


def test_no_two_configurations_share_a_name_and_a_name_stays() -> None:
    spec = toy_spec()
    close = [0.3, 0.3001, 0.3000001, 0.30000000001, 0.300000000011]
    asks = [searched(number, x=x, shares=PUBLISHED) for number, x in enumerate(close)]
    names = Names(spec)
    first = [names.of(one) for one in asks]
    assert first == ["80/15/5 x 0.3", "80/15/5 x 0.3001", "80/15/5 x 0.3000001", "t0003", "t0004"]
    assert [names.of(one) for one in asks] == first
    assert [Names(spec, asks).of(one) for one in reversed(asks)] == first[::-1]


def test_a_candidate_that_only_rounds_to_an_arm_is_not_called_like_it() -> None:
    near = searched(0, x=0.0, shares=shares(0.998, 0.001, 0.001))
    arms = {"baseline": {"x": 0.0, "shares": shares(1, 0, 0)}, "published": {"x": 0.0, "shares": PUBLISHED}}
    assert Names(toy_spec(arms=arms)).of(near) == "99.8/0.1/0.1 x 0"
    assert Names(toy_spec(arms=arms)).of(searched(0, x=0.0, shares=PUBLISHED)) == "published"


def test_a_candidate_of_the_confirmation_has_the_name_of_its_trial() -> None:
    spec, found = toy_spec(), searched(7, x=0.25, shares=PUBLISHED)
    names = Names(spec, [found])
    assert names.of(replace(found, trial="c0001", stage="confirm", arm="t0007", seed=101)) == "80/15/5 x 0.25"
    assert names.label("t0007") == "t0007 (80/15/5 x 0.25)"
    assert names.label("baseline") == "baseline"
    assert names.label("never run") == "never run"


@pytest.mark.parametrize("evil", ["a" * 5000, "\x1b[31mred\n\u202eturned", "<script>", "**a** | b", "", " "])
def test_what_people_wrote_is_one_short_line(evil: str) -> None:
    spec = toy_spec(space={"x": {"uniform": [0, 1]}}, arms={})
    name = Names(spec).of(searched(0, x=0.5, kind=evil))
    assert len(name) <= LONGEST
    assert name.isprintable()
    assert name.startswith("x 0.5 kind")
    many = {f"{evil}{number}": evil for number in range(9)}
    assert len(Names(spec).of(searched(1, **many))) <= LONGEST


def test_a_secret_is_not_in_a_name() -> None:
    assert "hunter2" not in readable(toy_spec(), {"hub.password": "hunter2"})
