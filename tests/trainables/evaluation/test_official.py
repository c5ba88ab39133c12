"""The challenge's table and its file have their form, what is finished is not repeated, and tasks serve a sweep."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainables import challenge, challenge_slowly
from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from trainables import evaluate
from trainables.data.wordpiece import Trained
from trainables.evaluation import completions, kept, official, pseudo_likelihood, rules, tasks
from trainables.evaluation.official import Request

pytestmark = pytest.mark.usefixtures("own_cache")

THREADS = str(torch.get_num_threads())


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with 128 positions, and a series of checkpoints."""
    text = sentences(320)
    made = make_bundle(
        tmp_path_factory.mktemp("roomy") / "bundle", Trained(300).obtain(text), max_position_embeddings=128
    )
    fit(made, text, steps=8)
    challenge.write_series(made, pseudo_likelihood.untrained(made, 0), made / "series")
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return challenge.write_challenge(tmp_path_factory.mktemp("challenge"), items=4)


def judge(bundle: Path, *arguments: str) -> int:
    return evaluate.main([str(bundle), "--threads", THREADS, *arguments])


def test_the_command_gives_the_table_and_the_file(
    roomy: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    given = ["--task", f"official={data}", "--fast", "--predictions", str(tmp_path / "all.json")]
    assert judge(roomy, *given) == 0
    out, err = capsys.readouterr()
    heads = [line for line in out.splitlines() if not line.startswith(" ")]
    assert [line.startswith(name) for line, name in zip(heads[1:], rules.COLUMNS.values(), strict=True)] == [True] * 9
    assert "caution: (Super)GLUE has no score" in err
    assert "its collation would set the task aside" in err
    told = json.loads((tmp_path / "all.json").read_text("utf-8"))
    assert list(told) == [*rules.PARTS, "aoa_surprisals", "aoa", "glue", "fast_eval_results"]
    assert list(told["comps"]) == ["base", "wugs", "wugs_dist_before", "wugs_dist_in_between"]
    assert {row["step"] for row in told["aoa_surprisals"]["results"]} == set(rules.CHECKPOINTS)
    assert set(told["aoa"]) == {"aoa"}
    assert [len(column) for column in told["fast_eval_results"].values()] == [19] * 7
    assert set(told["fast_eval_results"]["reading"][3]) == {"spr", "rt"}
    assert set(told["fast_eval_results"]["global_piqa_parallel"][3]) == {"global_piqa_parallel"}


def test_the_score_is_what_the_file_says_of_the_data(roomy: Path, data: Path) -> None:
    found = official.evaluate(Request(roomy, data, ("entity_tracking", "comps")), lambda *_: None)
    right = {}
    for path in sorted((data / rules.FULL / "comps").glob("*.jsonl")):
        told = found.submission["comps"][rules.COMPS[path.stem]]["predictions"]
        answers = [f"{row['prefix_acceptable']} {row['property_phrase']}" for row in challenge_slowly.lines(path)]
        right[path.stem] = sum(a == each["pred"] for a, each in zip(answers, told, strict=True)) / len(answers)
    column = found.columns["comps"]
    assert column is not None
    assert column.score == pytest.approx(sum(right.values()) / 4)
    assert column.ci is not None
    assert found.columns["blimp"] is None
    assert found.total is None
    assert found.submission["blimp"] is None


def test_a_column_that_lacks_a_part_is_empty_and_only_that_part_is_named(
    roomy: Path, data: Path, tmp_path: Path
) -> None:
    full = tmp_path / rules.FULL
    shutil.copytree(data / rules.FULL / "global_piqa_parallel", full / "global_piqa_parallel")
    found = official.evaluate(Request(roomy, tmp_path, ("global_piqa",)), lambda *_: None)
    assert found.columns["global_piqa"] is None
    assert found.submission["global_piqa_parallel"] is not None
    assert found.submission["global_piqa_nonparallel"] is None
    lack = full / "global_piqa_nonparallel"
    assert found.notes[-1] == f"GlobalPIQA has no score: there is no {lack}"


def test_ages_alone_without_all_checkpoints_are_refused_for_the_series(roomy: Path, data: Path, tmp_path: Path) -> None:
    shutil.copytree(roomy / "series" / "chck_2M", tmp_path / "chck_2M")
    with pytest.raises(ValueError, match=r"^AoA: the series lacks 18 of 19 checkpoints, such as chck_1M, and it needs"):
        official.evaluate(Request(roomy, data, ("aoa",), series=tmp_path), lambda *_: None)


def test_sizes_are_compared_by_subtask_as_the_collation_does() -> None:
    for key, sizes in rules.SIZES.items():
        assert sum(sizes.values()) == rules.PARTS[key].items
    for key, sizes in rules.FAST_SIZES.items():
        assert sum(sizes.values()) == rules.PARTS[key].fast_items
    assert len(rules.SIZES["blimp"]) == 67

    part, sizes = official._Choices.__new__(official._Choices), rules.SIZES["blimp_supplement"]
    part.items, part._shown = completions.Items(), "x"

    def notes(held: dict[str, int]) -> list[str]:
        part.items.subtask = [name for name, many in held.items() for _ in range(many)]
        part.items.options = [(("a", "a"), ("b", "b"))] * len(part.items.subtask)
        return part.notes(rules.PARTS["blimp_supplement"].items, sizes)

    assert notes(sizes) == notes({name.title(): many for name, many in sizes.items()}) == []
    moved = notes(sizes | {"hypernym": 840, "turn_taking": 282})
    assert [note.partition(":")[0] for note in moved] == [
        "x, hypernym, has 840 items, the challenge's 842",
        "x, turn_taking, has 282 items, the challenge's 280",
    ]


def test_what_is_finished_is_not_repeated(roomy: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request(roomy, data, ("ewok", "aoa", "reading"), fast=True)
    first = official.evaluate(request, lambda *_: None)
    monkeypatch.setattr(kept.Scorer, "batches", lambda *_: pytest.fail("something was scored again"))
    again = official.evaluate(request, lambda *_: None)
    assert again.columns == first.columns
    assert json.dumps(again.submission) == json.dumps(first.submission)


def test_by_our_rule_ties_are_shares(roomy: Path, data: Path) -> None:
    theirs, ours = (
        official.evaluate(Request(roomy, data, ("blimp", "reading"), rule), lambda *_: None)
        for rule in ("official", "ours")
    )
    column, other = theirs.columns["blimp"], ours.columns["blimp"]
    assert column is not None
    assert other is not None
    assert column.ties is not None
    assert column.ties >= 3  # a sentence twice in every file
    assert other.score == other.half == column.half
    reading, read_whole = theirs.columns["reading"], ours.columns["reading"]
    assert reading is not None
    assert reading != read_whole  # later pieces of words
    assert reading.ci is None


def test_the_untrained_score_is_that_of_random_weights(roomy: Path, data: Path, tmp_path: Path) -> None:
    column = official.evaluate(Request(roomy, data, ("ewok",)), lambda *_: None).columns["ewok"]
    shutil.copytree(roomy, tmp_path / "bundle", ignore=shutil.ignore_patterns("series"))
    pseudo_likelihood.untrained(roomy, 0).save_pretrained(tmp_path / "bundle")
    blank = official.evaluate(Request(tmp_path / "bundle", data, ("ewok",)), lambda *_: None).columns["ewok"]
    assert column is not None
    assert blank is not None
    assert column.untrained == blank.score == blank.untrained


def test_a_series_that_lacks_some_has_gaps_and_no_ages(roomy: Path, data: Path, tmp_path: Path) -> None:
    for name in ("chck_2M", "chck_100M"):
        shutil.copytree(roomy / "series" / name, tmp_path / name)
    request = Request(roomy, data, ("ewok", "aoa"), series=tmp_path, fast=True)
    found = official.evaluate(request, lambda *_: None)
    told = found.submission["fast_eval_results"]["ewok"]
    assert [at for at, each in enumerate(told) if each] == [1, 18]
    assert found.columns["aoa"] is None
    assert any("the series lacks 17 of 19 checkpoints, such as chck_1M" in note for note in found.notes)
    assert any("AoA has no score: it needs every checkpoint" in note for note in found.notes)
    (tmp_path / "chck_2M" / "tokenizer.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="chck_2M has another tokenizer than"):
        official.evaluate(request, lambda *_: None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "official=/none"], "there is no /none"),
        (["--task", "official=DATA", "--task", "ewok=x"], "--task official=DIR goes alone"),
        (["--task", "official=DATA", "--columns", "ewok,wug"], "--columns wug: there are blimp, supplement, ewok"),
        (["--task", "official=DATA", "--fast"], "--fast needs --predictions FILE"),
        (["--task", "official=DATA", "--series", "/none"], "there is no /none"),
        (["--task", "official=DATA", "--predictions", "/none/x"], "name a file in a folder that exists"),
        (["--task", "official=DATA", "--predictions", "x", "--rule", "ours"], "leave out --rule ours"),
        (["--task", "official=DATA/full_eval"], "has nothing to score: expected full_eval/blimp_filtered"),
        (["--task", "zorro=x", "--rule", "ours"], "--rule goes with --task official=DIR"),
    ],
)
def test_bad_input_is_refused_in_a_line(
    roomy: Path, data: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(roomy, *(each.replace("DATA", str(data)) for each in arguments)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_the_tasks_serve_a_sweep(roomy: Path, data: Path, bundle: Path) -> None:
    full = data / rules.FULL
    wanted = {
        "ewok": full / "ewok_filtered", "entity_tracking": full / "entity_tracking", "comps": full / "comps",
        "global_piqa": full / "global_piqa_parallel", "reading": full / "reading",
    }  # fmt: skip
    given = {name: str(path) for name, path in wanted.items()}
    fingerprints = tasks.check(given, roomy, 128)
    assert len(set(fingerprints.values())) == 5
    with pytest.raises(ValueError, match=r"entity_tracking.*exceeds the model's 9 positions"):
        tasks.check({"entity_tracking": given["entity_tracking"]}, bundle, 9)
    scores = tasks.evaluate(roomy, given)
    flat = tasks.metrics(scores)
    assert {tasks.main_metric(name) for name in given} <= set(flat)
    assert tasks.main_metric("reading") == "reading/gain"
    whole: Any = official.evaluate(Request(roomy, data), lambda *_: None).columns
    for name in ("ewok", "entity_tracking", "comps"):
        assert scores[name].score == pytest.approx(whole[name].half)
    assert scores["reading"].score == pytest.approx(whole["reading"].score)
    assert scores["reading"].untrained == pytest.approx(whole["reading"].untrained)
    assert scores["reading"].ci is None
    assert scores["ewok"].by.keys() == whole["ewok"].by.keys()
