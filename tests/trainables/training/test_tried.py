"""What a plan says of starts where they were not tried, or are known to leave runs at word frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.preflight import check_prepared
from sweeper.spec.load import load, resolve
from trainables.settings.overrides import override
from trainables.training import tried

SHIPPED = sorted((Path(__file__).parents[3] / "search_spaces").glob("*.yaml"))
SPECS = [path for path in SHIPPED if "trainable: trainables.mlm:train" in path.read_text("utf-8")]
SMALL = ["model.hidden=64", "model.layers=2", "model.heads=2", "model.dropout=0", "data.block=32", "optimiser.lr=2e-3"]
NEIGHBOURS = [*SMALL, "steps=600", "model.start=neighbours"]


@pytest.mark.parametrize(
    ("sets", "vocabulary", "said"),
    [
        ([], 2048, None),
        (["optimiser.lr=1e-3", "model.hidden=256", "data.block=128"], 512, None),
        (["optimiser.lr=4e-3", "model.layers=4", "model.dropout=0.1"], 8192, None),
        (["optimiser.lr=5e-4"], 2048, "optimiser.lr 0.001 to 0.004, not 0.0005:"),
        (["model.hidden=512"], 2048, "model.hidden 64 to 256, not 512:"),
        (["model.layers=6"], 2048, "model.layers 1 to 4, not 6:"),
        (["model.dropout=0.2"], 2048, "model.dropout 0 to 0.1, not 0.2:"),
        (["data.block=256"], 2048, "data.block 16 to 128, not 256:"),
        ([], 30522, "data.tokenizer 512 to 8,192 pieces, not 30,522:"),
        (["model.layers=6", "data.block=8"], 2048, "model.layers 1 to 4, not 6; data.block 16 to 128, not 8:"),
    ],
)
def test_neighbours_where_it_was_not_tried_says_what_was(sets: list[str], vocabulary: int, said: str | None) -> None:
    lines = tried.cautions(override([*NEIGHBOURS, *sets]), vocabulary)
    assert len(lines) == (said is not None)
    assert all(f"model.start neighbours was tried with {said}" in line for line in lines)


def test_a_small_model_with_berts_start_and_few_steps_is_cautioned() -> None:
    (line,) = tried.cautions(override([*SMALL, "steps=1200"]), 2048)
    assert "model.start published with model.hidden 64" in line
    assert "these runs have 1,200 steps" in line
    for enough in (["steps=5000"], ["steps=1200", "model.hidden=256"]):
        assert tried.cautions(override([*SMALL, *enough]), 2048) == []


FACTS: dict[str, Any] = {"word_scheme": "wordpiece", "parts": {"train": {"collocations": 1}}, "vocabulary": 2048}


@pytest.mark.parametrize("profile", ["laptop", "small", "published"])
@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_the_shipped_profiles_lie_where_their_start_was_tried(path: Path, profile: str) -> None:
    assert check_prepared(load(path, profile), FACTS) == []


def test_arms_and_the_ends_of_the_space_are_asked_and_each_line_is_said_once() -> None:
    tree: dict[str, Any] = {
        "name": "rates",
        "config": {"steps": 600, "model": {"hidden": 64, "heads": 2, "start": "neighbours"}, "optimiser": {"lr": 2e-3}},
        "data": {"corpus": "embedded", "tokenizer": "train:2048", "block": 32},
        "space": {"optimiser.lr": {"loguniform": [5e-4, 4e-3]}},
        "arms": {"a": {"optimiser.lr": 2e-3}},
        "search": {"method": "random", "trials": 4},
    }
    (line,) = check_prepared(resolve(tree), FACTS)
    assert "optimiser.lr 0.001 to 0.004, not 0.0005:" in line
