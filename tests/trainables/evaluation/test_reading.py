"""Words are asked for as the challenge's pipeline asks, and gains are those of plain least squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainables import challenge, challenge_slowly
from trainables.evaluation import pseudo_likelihood, reading, rules
from trainables.evaluation.pseudo_likelihood import Batches, Scorer


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reading") / "reading_data.csv"
    challenge.write_reading(path, 60)
    return path


@pytest.mark.parametrize("rule", ["official", "ours"])
def test_surprisals_and_gains_are_those_of_the_rules(bundle: Path, table: Path, rule: rules.Rule) -> None:
    model, tokenizer = pseudo_likelihood.load(bundle)
    words = reading.read(table.parent)
    rows, owners = words.rows(tokenizer, rule, 32)
    found = words.surprisals(Scorer(model, tokenizer).batches(Batches(rows)), owners)
    slow = challenge_slowly.reading_rows(model, tokenizer, table, rule == "ours")
    assert len(rows) > len(words.predictions)  # some words have several pieces
    for name, values in zip(("pred", "prev_pred"), found, strict=True):
        assert values == pytest.approx([row[name] for row in slow], abs=1e-5, nan_ok=True)
    gain = reading.score(words, found)
    expected = challenge_slowly.reading(model, tokenizer, table, rule == "ours")
    assert (gain.eye_tracking, gain.self_paced) == pytest.approx(expected, abs=1e-6)
    assert gain.score == pytest.approx(sum(expected) / 2)
    told = reading.predictions(found)["reading"]["predictions"]
    assert told[1] == {"id": 1, "pred": found[0][1], "prev_pred": found[1][1]}


def test_a_later_piece_is_read_again_by_the_pipelines_rule_and_stays_what_it_is_by_ours(bundle: Path) -> None:
    _, tokenizer = pseudo_likelihood.load(bundle)
    mask = tokenizer.mask_token_id
    pieces = tokenizer("hyhyhy", add_special_tokens=False)["input_ids"]
    assert len(pieces) > 1
    words = reading.Words([("Ba ne", "hyhyhy")], np.array([-1]), {}, Path("x.csv"))
    counted = {}
    for rule in ("official", "ours"):
        rows, owners = words.rows(tokenizer, rule, 32)
        assert owners.tolist() == [0] * len(pieces)
        counted[rule] = [[i for i, out in zip(*row, strict=True) if not out] for row in rows]
        assert [ids[-3:-1] for ids, _ in rows] == [(mask, mask)] * len(pieces)
    assert counted["ours"] == [[piece] for piece in pieces]
    again = tokenizer(tokenizer.decode(pieces[1]), add_special_tokens=False)["input_ids"]
    assert counted["official"][:2] == [[pieces[0]], [again[0]]]
    assert again[0] != pieces[1]


def test_a_surprisal_that_tells_nothing_gains_something_so_that_a_score_has_no_interval(table: Path) -> None:
    words = reading.read(table)
    draw = np.random.Generator(np.random.Philox(1))
    for _ in range(20):
        before = np.where(words.before >= 0, draw.normal(size=60), np.nan)
        gain = reading.score(words, (draw.normal(size=60), before))
        assert min(gain.eye_tracking, gain.self_paced) > 0
        assert gain._fields == ("score", "eye_tracking", "self_paced")


def without(table: str, column: str) -> str:
    rows = [line.split(",") for line in table.splitlines()]
    at = rows[0].index(column)
    return "\n".join(",".join(row[:at] + row[at + 1 :]) for row in rows)


def with_a_word_for_a_time(table: str) -> str:
    names, first, *rows = table.splitlines()
    cells = first.split(",")
    cells[names.split(",").index(rules.SELF_PACED)] = "slow"
    return "\n".join([names, ",".join(cells), *rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: without(table, "length"), "has no column 'length'"),
        (lambda table: table.split("\n")[0], "has no rows"),
        (lambda table: "\n".join(table.split("\n")[:12]), "rows have self_paced_reading_time and all of its"),
        (with_a_word_for_a_time, "the column 'self_paced_reading_time' has something that is no number"),
        (lambda _: '"\n', "is not a CSV table"),
    ],
)
def test_bad_tables_are_refused_in_a_line(table: Path, tmp_path: Path, change: Any, message: str) -> None:
    path = tmp_path / "reading_data.csv"
    path.write_text(change(table.read_text("utf-8")), "utf-8")
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        reading.read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
