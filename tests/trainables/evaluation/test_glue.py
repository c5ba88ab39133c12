"""What a (Super)GLUE task's files may hold, and what is said where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.evaluation import glue
from trainables.evaluation.glue import FAST_TASKS, TASKS, check, measure, parts, read, settings

ROWS = {
    "boolq": {"question": "is it", "passage": "it is {so}", "idx": 0, "label": 1},
    "multirc": {"question": "who", "answer": "he", "paragraph": "he did", "idx": {"answer": 1}, "label": 0},
    "rte": {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 48},
    "wsc": {
        "text": "He ate.",
        "span1_index": 0,
        "span2_index": 1,
        "span1_text": "Mark",
        "span2_text": "He",
        "label": 0,
    },
    "mrpc": {"sentence1": "a", "sentence2": "b", "label": 1, "idx": 77},
    "qqp": {"question1": "a", "question2": "b", "label": 0, "idx": 1},
    "mnli": {"premise": "a", "hypothesis": "b", "label": 2, "idx": 4},
}


def write(folder: Path, train: list[Any], valid: list[Any], names: tuple[str, str] = ("train", "valid")) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in zip(names, (train, valid), strict=True):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(folder)


@pytest.mark.parametrize("name", TASKS)
def test_the_columns_of_the_release_are_read(name: str, tmp_path: Path) -> None:
    data = write(tmp_path, [ROWS[name]] * 2, [ROWS[name]])
    check(name, data)
    found = read(name, data)
    assert found["train"].labels.tolist() == [ROWS[name]["label"]] * 2
    assert len(found["valid"]) == 1


def test_segments_are_as_the_challenge_makes_them(tmp_path: Path) -> None:
    made = {name: read(name, write(tmp_path / name, [row], [row]))["train"] for name, row in ROWS.items()}
    assert {name: (each.first[0], each.second[0]) for name, each in made.items()} == {
        "boolq": ("is it", "it is {so}"),
        "multirc": ("Question: who Answer: he", "he did"),
        "rte": ("a", "b"),
        "wsc": ('Does "He" refer to "Mark" in this passage?', "He ate."),
        "mrpc": ("a", "b"),
        "qqp": ("a", "b"),
        "mnli": ("a", "b"),
    }


def test_settings_are_the_challenges() -> None:
    assert {name for name in TASKS if measure(name) == "f1"} == {"mrpc", "qqp"}
    assert {name for name in TASKS if settings(name).batch == 16} == {"boolq", "multirc"}
    assert {name: settings(name).epochs for name in TASKS if settings(name).epochs != 10} == {"wsc": 30}
    assert {name for name in TASKS if settings(name).largest_train == 10_000} == {"mnli", "qqp"}
    assert all(settings(name).length == 512 and settings(name).largest_valid is None for name in TASKS)
    assert all(settings(name, fast=True).measure == measure("fast") == "accuracy" for name in FAST_TASKS)


@pytest.mark.parametrize("names", [("train", "validation"), ("train", "dev"), ("rte.train", "rte.valid")])
def test_file_names_that_are_taken(names: tuple[str, str], tmp_path: Path) -> None:
    check("rte", write(tmp_path, [ROWS["rte"]], [ROWS["rte"]], names))


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    data = write(tmp_path, [ROWS["rte"]], [ROWS["rte"]])
    plain = check("rte", data)
    for path in tmp_path.iterdir():
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert check("rte", data) == plain


def test_fast_takes_what_the_folder_has(tmp_path: Path) -> None:
    write(tmp_path / "mnli", [ROWS["mnli"]], [ROWS["mnli"]])
    assert parts("fast", str(tmp_path)) == [("mnli", str(tmp_path / "mnli"))]
    flat = tmp_path / "glue_filtered"
    for name in ("qqp", "mnli", "rte"):
        write(flat, [ROWS[name]], [ROWS[name]], (f"{name}.train", f"{name}.valid"))
    assert parts("fast", str(flat)) == [("mnli", str(flat)), ("qqp", str(flat))]
    check("fast", str(flat))


def test_examples_are_drawn_alike_and_in_their_order() -> None:
    many = glue.Examples([str(i) for i in range(100)], [""] * 100, np.arange(100) % 3)
    some = many.drawn(10, "glue", "mnli", "train")
    assert some.fingerprint == many.drawn(10, "glue", "mnli", "train").fingerprint
    assert some.fingerprint != many.drawn(10, "glue", "qqp", "train").fingerprint
    numbers = [int(text) for text in some.first]
    assert numbers == sorted(set(numbers))
    assert some.labels.tolist() == [number % 3 for number in numbers]
    assert many.drawn(100, "a") is many.drawn(None, "a") is many


GOOD = ROWS["rte"]
BAD = [
    ({"sentence1": "a", "label": 1}, "line 2: no column sentence2; there are sentence1, label"),
    ({**GOOD, "label": 2}, "line 2: label 2 is not one of 0, 1"),
    ({**GOOD, "label": -1}, "line 2: label -1 is not one of 0, 1"),
    ({**GOOD, "label": "1"}, 'line 2: label "1" is not one of 0, 1'),
    ({**GOOD, "sentence1": None}, "line 2: sentence1 is null, not a string"),
    (["a", "b", 1], "line 2: not an object with sentence1, sentence2, label"),
]


@pytest.mark.parametrize(("row", "said"), BAD)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_a_bad_row_is_named_with_its_file_and_line(row: Any, said: str, split: str, tmp_path: Path) -> None:
    rows = {"train": [GOOD, GOOD], "valid": [GOOD, GOOD], split: [GOOD, row]}
    with pytest.raises(ValueError, match="glue/rte") as caught:
        check("rte", write(tmp_path, rows["train"], rows["valid"]))
    assert str(caught.value) == f"glue/rte: {tmp_path / split}.jsonl, {said}"


def test_other_bad_input_is_one_line(tmp_path: Path) -> None:
    write(tmp_path / "empty", [GOOD], [])
    write(tmp_path / "half", [GOOD], [GOOD])
    (tmp_path / "half" / "valid.jsonl").unlink()
    write(tmp_path / "text", [GOOD], [GOOD])
    (tmp_path / "text" / "train.jsonl").write_text('{"sentence1": \n', "utf-8")
    write(tmp_path / "binary", [GOOD], [GOOD])
    (tmp_path / "binary" / "train.jsonl").write_bytes(b"\xff\xfe\x00")
    cases = {
        ("rte", "empty"): "valid.jsonl is empty; it needs lines with sentence1, sentence2, label",
        ("rte", "half"): "has no valid.jsonl (nor rte.valid.jsonl",
        ("rte", "text"): "train.jsonl, line 1: not JSON",
        ("rte", "binary"): "train.jsonl cannot be read",
        ("rte", "absent"): "absent is not a folder",
        ("rt", "half"): "no such task; there are boolq, multirc, rte, wsc, mrpc, qqp, mnli and fast; did you mean rte?",
        ("fast", "half"): "has none of the folders mnli, qqp",
    }
    for (name, folder), said in cases.items():
        with pytest.raises(ValueError, match=r"^glue/") as caught:
            check(name, str(tmp_path / folder))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
