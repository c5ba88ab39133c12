"""Options are read as the challenge's pipeline has them, only completions count, and ties are broken as told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainables import challenge
from tests.trainables.challenge_slowly import completion
from tests.trainables.probes import write_rows
from trainables.evaluation import completions, minimal_pairs, pseudo_likelihood
from trainables.evaluation.completions import Items, by_group, choose
from trainables.evaluation.pseudo_likelihood import Batches, Scorer, completion_tokens
from trainables.noise import uniform


@pytest.fixture(scope="module")
def scored(bundle: Path) -> tuple[Any, Any]:
    return pseudo_likelihood.load(bundle)


def names(tokenizer: Any, sentence: str, after: str) -> list[str]:
    """The tokens of a sentence that count."""
    ((ids, left_out),) = completion_tokens(tokenizer, [(sentence, after)])
    return [tokenizer.convert_ids_to_tokens(i) for i, out in zip(ids, left_out, strict=True) if not out]


def test_the_tokens_that_end_after_the_completion_begins_count(scored: tuple[Any, Any]) -> None:
    whole = names(scored[1], "Ba ne lu.", "Ba ne lu.")
    assert whole[-1] == "."
    assert not {"[CLS]", "[SEP]"} & set(whole)
    assert names(scored[1], "Ba ne lu.", " lu.") == names(scored[1], "Ba ne lu.", "lu.") == whole[-2:]
    across = names(scored[1], "Ba ne lu.", "u.")  # the token `lu` lies across the border
    assert across == whole[-2:]


def test_a_completion_scores_as_one_mask_at_a_time_has_it(scored: tuple[Any, Any]) -> None:
    options = [("Ba ne", " lu ti."), ("Lu ti ro", " ba."), ("Lu ti ro", " ba."), ("", "Ba ne lu.")]
    rows = completion_tokens(scored[1], [(before + after, after) for before, after in options])
    batches = Batches(rows)
    assert batches.distinct == 3
    slow = [completion(*scored, before, after)[0] for before, after in options]
    assert Scorer(*scored).batches(batches) == pytest.approx(slow, abs=1e-5)
    assert batches.digest != Batches(rows[:3]).digest == Batches(rows[:3]).digest


def test_a_whole_sentence_scores_to_the_bit_as_a_sentence_does(scored: tuple[Any, Any]) -> None:
    text = [row["sentence_good"] for row in challenge.pairs(6, 3)]
    rows = completion_tokens(scored[1], [(each, each) for each in text])
    assert Scorer(*scored).batches(Batches(rows)).tolist() == Scorer(*scored)(text).tolist()


def made(right: list[int], options: int = 2) -> Items:
    items = Items()
    for number, each in enumerate(right):
        items.add("", [(f"a{i}", f"{i}") for i in range(options)], f"g{number % 2}", each, split=f"s{number % 2}")
    return items


def test_ties_are_drawn_or_shared() -> None:
    items = made([0, 1, 2, 0, 1], options=3)
    scores = np.array([[-1, -2, -3], [-1, -1, -4], [-2, -1, -1], [-1, -1, -1], [-5, -4, -9.0]])
    choice = choose(items, scores, "official", seed=4)
    draws = uniform(5, "ties", 4)
    drawn = [0, int(draws[1] * 2), 1 + int(draws[2] * 2), int(draws[3] * 3), 1]
    assert choice.chosen.tolist() == drawn
    assert choice.half.tolist() == pytest.approx([1, 1 / 2, 1 / 2, 1 / 3, 1])
    assert choice.ties == 3
    rows = by_group(items, choice)
    assert rows["g1"] == {
        "score": np.mean([drawn[1] == 1, drawn[3] == 0]), "half": pytest.approx(5 / 12), "ties": 2, "items": 2,
    }  # fmt: skip


def test_sums_that_differ_in_less_than_a_float_tie_by_the_pipelines_rule_alone() -> None:
    scores = np.array([[-100.0, -100.000001]])
    assert choose(made([0]), scores, "official").ties == 1
    assert choose(made([0]), scores, "ours").half.tolist() == [1]


def test_splits_weigh_the_same_whatever_their_groups() -> None:
    items = Items()
    for split, group, right in (("a", "a0", 0), ("a", "a1", 0), ("b", "b0", 1)):
        items.add("", [("x", "x"), ("y", "y")], group, right, split=split)
    found = completions.accuracy(items, choose(items, np.array([[0, -1.0]] * 3), "official"))
    assert found.drawn == found.half == 0.5


def test_the_interval_of_two_options_is_that_of_minimal_pairs() -> None:
    draw = np.random.Generator(np.random.Philox(5))
    items, scores = made([0] * 40), draw.normal(size=(40, 2)).round(1)
    items.split = [""] * 40
    found = completions.accuracy(items, choose(items, scores, "ours"), seed=3)
    pairs = minimal_pairs.Pairs([("", "")] * 40, [""] * 40, items.group)
    other = minimal_pairs.score(pairs, scores[:, 0] - scores[:, 1], seed=3)
    assert found.half == pytest.approx(other.score)
    assert found.interval == pytest.approx(other.interval, abs=0.02)


def test_every_task_is_read_as_published(tmp_path: Path) -> None:
    challenge.write_kind(tmp_path, 5, fast=False)
    ewok = completions.read_ewok(tmp_path / "ewok_filtered")
    (one, target), (other, same) = ewok.options[0]
    assert target == same
    assert one != other
    assert one.endswith(target)
    assert other.endswith(target)
    assert target.startswith(" ")
    entities = completions.read_entity_tracking(tmp_path / "entity_tracking")
    assert len(entities.options) == 4 * (2 + 3 + 4)  # every fifth is left out
    assert set(entities.split) == {"regular", "ambiref", "move_contents"}
    assert not any("nothing" in after for item in entities.options for _, after in item)
    assert sorted(set(completions.read_comps(tmp_path / "comps").group)) == [
        "base", "wugs", "wugs_dist_before", "wugs_dist_in_between",
    ]  # fmt: skip
    piqa = completions.read_global_piqa(tmp_path / "global_piqa_parallel")
    assert [len(item) for item in piqa.options] == [4] * 5
    assert piqa.per_token
    assert completions.read_blimp(tmp_path / "blimp_filtered").group[:5] == ["agreement"] * 5


def test_predictions_have_the_pipelines_form(tmp_path: Path) -> None:
    challenge.write_kind(tmp_path, 2, fast=False)
    items = completions.read_ewok(tmp_path / "ewok_filtered")
    told = items.predictions(np.array([0, 1, 1, 0]))
    row = json.loads((tmp_path / "ewok_filtered" / "physical-dynamics.jsonl").read_text("utf-8").splitlines()[1])
    assert told["physical-dynamics"]["predictions"][1] == {
        "id": "physical-dynamics_1", "pred": f"{row['Context2']} {row['Target1']}",
    }  # fmt: skip
    piqa = completions.read_global_piqa(tmp_path / "global_piqa_nonparallel")
    (subtask, first), _ = piqa.predictions(np.array([1, 0])).items()
    assert first == {"predictions": [{"id": f"{subtask}_0", "pred": piqa.options[0][1][1]}]}


BAD: list[tuple[Callable[[Path], Items], str, dict[str, Any], str]] = [
    (
        completions.read_ewok,
        "a",
        {"Domain": "x", "Context1": "a", "Context2": "b"},
        "a.jsonl:1 has no column 'Target1'",
    ),
    (
        completions.read_ewok,
        "a",
        {"Domain": 3, "Context1": "a", "Context2": "b", "Target1": "c"},
        "is missing or empty",
    ),
    (completions.read_entity_tracking, "other", {}, "expected only the files regular, ambiref, move_contents"),
    (completions.read_entity_tracking, "regular", {"input_prefix": "a", "options": "b", "numops": 1}, "must be a list"),
    (
        completions.read_entity_tracking,
        "regular",
        {"input_prefix": "a", "options": ["b", "c"], "numops": "x"},
        "numops",
    ),
    (
        completions.read_entity_tracking,
        "regular",
        {"input_prefix": "a", "options": ["b", "nothing"], "numops": 1},
        "none is left",
    ),
    (completions.read_comps, "base", {}, "expected only the files comps_base"),
    (
        completions.read_global_piqa,
        "a",
        {"prompt": "a", "solution0": "b", "solution1": "c", "label": 2, "example_id": 1},
        "'label' must be 0 to 1",
    ),
    (
        completions.read_global_piqa,
        "a",
        {"prompt": "a", "solution0": "b", "solution1": "c", "label": True, "example_id": 1},
        "'label' must be 0 to 1",
    ),
    (
        completions.read_global_piqa,
        "a",
        {"prompt": "a", "solution0": "b", "solution1": "c", "solution3": "d", "label": 2, "example_id": 1},
        "a.jsonl:1: 'solution3' is there and 'solution2' is not",
    ),
    (
        completions.read_entity_tracking,
        "regular",
        {"input_prefix": "a", "options": ["b", "c"], "numops": True},
        "numops",
    ),
]


@pytest.mark.parametrize(("read", "name", "row", "message"), BAD)
def test_bad_files_are_refused_in_a_line(
    tmp_path: Path, read: Callable[[Path], Items], name: str, row: dict[str, Any], message: str
) -> None:
    write_rows(tmp_path / f"{name}.jsonl", [row])
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        read(tmp_path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_option_beyond_the_positions_is_refused_with_its_line(scored: tuple[Any, Any], tmp_path: Path) -> None:
    row = {"Domain": "x", "Context1": "ba " * 40, "Context2": "b", "Target1": "c"}
    items = completions.read_ewok(write_rows(tmp_path / "a.jsonl", [row]))
    with pytest.raises(ValueError, match=r"a.jsonl:1: a sentence of .* exceeds the model's 32 positions"):
        items.rows(scored[1], 32)


def test_an_option_of_no_tokens_is_refused_and_does_not_win(scored: tuple[Any, Any]) -> None:
    items = Items()
    items.add("a.jsonl:7", [("Ba ne", " ne"), ("Ba \u200b", "\u200b")], "x")  # the tokenizer drops it
    with pytest.raises(ValueError, match=r"a.jsonl:7: the tokenizer makes nothing of an option, so it has no score"):
        items.rows(scored[1], 32)


def test_a_model_that_has_diverged_is_refused() -> None:
    with pytest.raises(ValueError, match="it has diverged"):
        made([0]).scores([], np.array([np.nan, 0.0]))
