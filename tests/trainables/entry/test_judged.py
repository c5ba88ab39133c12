"""An entry with the challenge's data: predictions, the fast evaluation of every revision, and the checklist of both."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables.challenge import write_challenge, write_series
from tests.trainables.evaluation.test_finetune import QUICK, examples
from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from trainables import entry
from trainables.data.wordpiece import Trained
from trainables.evaluation import glue, official, pseudo_likelihood, rules

KEYS = {*rules.PARTS, "aoa_surprisals", "aoa", "glue", "fast_eval_results"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The challenge's layout with made-up items, and two of its tasks of (Super)GLUE in one folder, as released."""
    folder = write_challenge(tmp_path_factory.mktemp("data"), items=4)
    place = folder / rules.FULL / rules.GLUE
    place.mkdir()
    for name in ("rte", "mrpc"):
        for split, rows in (("train", examples(40, 0)), ("valid", examples(20, 1))):
            (place / f"{name}.{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with all 19 revisions."""
    text = sentences(320)
    folder = tmp_path_factory.mktemp("whole") / "mine"
    make_bundle(folder, Trained(300).obtain(text), max_position_embeddings=128)
    fit(folder, text, steps=8)
    write_series(folder, pseudo_likelihood.untrained(folder, 0), folder / "series")
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    torch.set_num_threads(1)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    for name, measure in (("rte", "accuracy"), ("mrpc", "f1")):
        settings = replace(QUICK, measure=measure, epochs=2)
        monkeypatch.setitem(glue.TASKS, name, replace(glue.TASKS[name], settings=settings))


def test_all_that_the_challenge_asks_for_in_one_folder(whole: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "entry"
    arguments = [str(whole), "--out", str(out), "--threads", "1", "--task", f"official={data}"]
    assert entry.main(arguments) == 0
    found = json.loads((out / "predictions.json").read_text("utf-8"))
    request = official.Request(whole, data, series=whole / "series", fast=True)
    judged = official.evaluate(request, lambda *_: None)
    assert found == json.loads(json.dumps(judged.submission))
    assert set(found) == KEYS
    for key, results in found["fast_eval_results"].items():
        assert len(results) == 19
        assert all(0 <= score <= 1 for one in results for score in one.values()), key
    assert set(found["glue"]) == {"rte", "mrpc"}
    for name, told in found["glue"].items():
        assert [each["id"] for each in told["predictions"]] == [f"{name}_{n}" for n in range(20)]
        assert {each["pred"] for each in told["predictions"]} <= {0, 1}
    assert {each["step"] for each in found["aoa_surprisals"]["results"]} == set(rules.CHECKPOINTS)

    tree: dict[str, Any] = json.loads((out / "entry.json").read_text("utf-8"))
    states = {item["what"]: item["state"] for item in tree["checklist"]}
    assert states["revisions of the track"] == states["fast evaluation of the revisions"] == "there"
    for key, label in rules.COLUMNS.items():
        assert states[f"predictions, {label}"] == ("missing" if key == "glue" else "there")
    note = next(item["note"] for item in tree["checklist"] if item["what"] == "predictions, (Super)GLUE")
    assert not note.startswith("(Super)GLUE")
    assert "boolq" in note
    assert "boolq, " in note
    assert "rte" not in note.rpartition("no data of")[2]
    assert tree["scores"]["BLiMP"] == 100 * (judged.columns["blimp"] or pytest.fail("no score")).score
    assert tree["scores"]["(Super)GLUE"] is None
    assert list(tree["revisions"]) == ["main", *rules.CHECKPOINTS]
    page = (out / "ENTRY.md").read_text("utf-8")
    assert "| BLiMP" in page.split("## Scores")[1]


def test_data_without_a_fast_part_leave_the_fast_evaluation_open(whole: Path, data: Path, tmp_path: Path) -> None:
    place = tmp_path / "data" / rules.FULL
    shutil.copytree(data / rules.FULL / "blimp_filtered", place / "blimp_filtered")
    out = tmp_path / "entry"
    assert entry.main([str(whole), "--out", str(out), "--threads", "1", "--task", f"official={tmp_path / 'data'}"]) == 0
    tree: dict[str, Any] = json.loads((out / "entry.json").read_text("utf-8"))
    items = {item["what"]: item for item in tree["checklist"]}
    assert items["predictions, BLiMP"]["state"] == "there"
    assert items["predictions, EWoK"]["state"] == "missing"
    fast = items["fast evaluation of the revisions"]
    assert fast["state"] == "missing"
    assert fast["note"].startswith("0 of 19 revisions by every task, lacking blimp, ")
    data_lack = [item for item in tree["checklist"] if item["what"] == "the challenge's data"]
    assert {item["state"] for item in data_lack} == {"missing"}
    fewer = [str(whole), "--out", str(tmp_path / "fewer"), "--threads", "1", "--columns", "blimp"]
    assert entry.main([*fewer, "--task", f"official={tmp_path / 'data'}"]) == 0
    tree = json.loads((tmp_path / "fewer" / "entry.json").read_text("utf-8"))
    notes = {item["what"]: (item["state"], item["note"]) for item in tree["checklist"]}
    assert notes["predictions, BLiMP"][0] == "there"
    assert notes["predictions, EWoK"] == ("missing", "not asked for: --columns leaves it out")
    aside = "the challenge's 59,875: its collation would set the task aside"
    assert any(item["note"].endswith(aside) for item in data_lack)
