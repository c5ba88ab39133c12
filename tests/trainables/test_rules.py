"""The table of rules says of every preset what holds it, and fails for what does not hold."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest

from tests import oracles
from tests.benchmarks import masking, rules
from tests.benchmarks.rules import Masked, Rule
from tests.trainables.drawn import Compared
from trainables.settings.presets import MASKING, ORIGINS, Preset

pytestmark = pytest.mark.usefixtures("own_cache")

HELD = [Compared("random", "scores", 1e-16, 1e-9), Compared("random", "3 of 8, sd", 2.3, 5.0)]
RIGHT = Masked(rate=0.15, rate_due=0.15, shares={"random": 0.8, "token": 0.2}, asked={"random": 0.8, "token": 0.2},
               short=0.0, matched=True, matched_due=True)  # fmt: skip


def rule(**changes: Any) -> Rule:
    given = {"preset": "random", "source": "ours", "oracles": ("random",), "compared": HELD, "masked": RIGHT}
    return Rule(**{**given, "grouped": False, **changes})


def cost(percent: float) -> dict[str, float]:
    return {**dict.fromkeys(masking.PARTS, 1.5), "percent": percent}


def test_every_preset_has_an_origin_and_an_oracle() -> None:
    assert get_args(Preset) == tuple(MASKING)
    assert MASKING.keys() == ORIGINS.keys() == oracles.ORACLES_OF.keys()
    assert all(oracles.ORACLES_OF.values())
    assert all(origin.source for origin in ORIGINS.values())


def test_a_row_shows_the_largest_of_each_kind() -> None:
    found = rule(cost=cost(1.2))
    assert found.failing == []
    assert found.line() == "| `random` | ours | 1e-16 | 2.3 | random 80.0, token 20.0 | 15.000 | 4.5 | 1.20 |"
    assert rule(oracles=(), compared=[]).line().startswith("| `random` | ours | none | none |")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"source": ""}, "no source"),
        ({"oracles": (), "compared": []}, "no oracle"),
        ({"oracles": ("random", "other")}, "compares no other"),
        ({"compared": [*HELD, Compared("random", "weights", 2e-9, 1e-9)]}, "weights: 2e-09, allowed 1e-09"),
        ({"masked": replace(RIGHT, rate=0.1501)}, "15.0100 % of the positions predicted, 15.0000 % due"),
        ({"masked": replace(RIGHT, matched=False)}, "audit/matched"),
        ({"masked": replace(RIGHT, shares={"random": 0.9, "token": 0.1})}, "token has 10.0 %"),
        ({"cost": cost(2.01)}, "2.01 % of a step, allowed 2 %"),
        ({"cost": cost(5.01), "grouped": True}, "5.01 % of a step, allowed 5 %"),
    ],
)
def test_what_does_not_hold_is_listed(changes: dict[str, Any], why: str) -> None:
    assert any(why in line and line.startswith("random: ") for line in rule(**changes).failing)


def test_what_is_allowed_is_not() -> None:
    assert rule(cost=cost(4.9), grouped=True).failing == []
    short = replace(RIGHT, shares={"random": 0.85, "token": 0.15}, short=0.05)
    assert rule(masked=short).failing == [], "random took what the source could not supply"


@pytest.mark.parametrize("options", [["--quick"], pytest.param(["--quick", "--json"], marks=pytest.mark.slow)])
def test_the_command_trains_every_preset_and_says_what_fails(
    options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    held = {**{name: MASKING[name] for name in ("published/random", "whole_word")}}
    monkeypatch.setattr(rules, "MASKING", held)
    rows = [Compared("random", "3 of 8, sd", 2.3, 5.0), Compared("whole-word", "3 of 8, sd", 2.1, 5.0)]
    monkeypatch.setattr(oracles, "all_rows", lambda: rows)
    assert rules.main(options) == 0
    out = capsys.readouterr().out
    if "--json" in options:
        found = {one["preset"]: one for one in json.loads(out)["rules"]}
        assert found["whole_word"]["grouped"]
        assert found["whole_word"]["masked"]["shares"] == {
            "random": 0.0,
            "token": 0.0,
            "trigram": 0.0,
            "whole_word": 1.0,
        }
        assert not found["published/random"]["grouped"]
        return
    table = [line for line in out.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert [line.split("|")[1].strip() for line in table[2:]] == ["`published/random`", "`whole_word`"]
    assert "Everything held." in out
    monkeypatch.setattr(oracles, "all_rows", lambda: rows[:1])
    assert rules.main(options) == 1
    assert "* whole_word: tests.oracles compares no whole-word" in capsys.readouterr().out
