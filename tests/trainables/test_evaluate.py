"""The command scores what it is given or refuses it in one line; a run's last row has the same scores."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sweeper.trainable import TrainContext
from tests.trainables.one_by_one import one_by_one
from tests.trainables.probes import write_blimp, write_rows, write_wug, write_zorro
from tests.trainables.tiny import config, run
from trainables import evaluate, mlm
from trainables.evaluation import finetune, minimal_pairs, pseudo_likelihood, tasks

pytestmark = pytest.mark.usefixtures("own_cache")

THREADS = str(torch.get_num_threads())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    write_blimp(folder / "blimp")
    write_zorro(folder / "zorro")
    write_wug(folder / "wug.jsonl")
    return folder


def judge(bundle: Path, *arguments: str) -> int:
    given = [part for argument in arguments for part in (("--task", argument) if "=" in argument else (argument,))]
    return evaluate.main([str(bundle), "--threads", THREADS, *given])


def test_json_has_every_task_with_the_untrained_score_beside_it(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = [f"blimp={data / 'blimp'}", f"zorro={data / 'zorro'}", f"wug_adj={data / 'wug.jsonl'}"]
    assert judge(bundle, *wanted, "--json") == 0
    out, err = capsys.readouterr()
    assert err == "Positions beyond 16 and [CLS] were never trained.\n"
    found = json.loads(out)
    assert list(found) == ["blimp", "zorro", "wug_adj"]
    for score in found.values():
        assert set(score) == {"measure", "score", "untrained", "score_first", "ties", "ci", "by"}
        assert score["ci"][0] <= score["score"] <= score["ci"][1]
        assert score["untrained"] != score["score"]
    assert set(found["blimp"]["by"]) == {"order_across", "order_between", "supplement"}
    assert set(found["zorro"]["by"]["order-verb"]) == {"score", "score_first", "ties", "pairs", "untrained"}
    assert found["blimp"]["score_first"] >= found["blimp"]["score"]
    assert found["wug_adj"]["score_first"] is None


def test_the_score_is_what_the_obvious_scorer_prefers(bundle: Path, tmp_path: Path) -> None:
    pairs = minimal_pairs.read_zorro(write_zorro(tmp_path, pairs=6))
    model, tokenizer = pseudo_likelihood.load(bundle)
    slow = one_by_one(model, tokenizer, pairs.sentences())
    right = [0.5 + 0.5 * np.sign(good - bad) for good, bad in zip(slow[::2], slow[1::2], strict=True)]
    score = tasks.evaluate(bundle, {"zorro": str(tmp_path)})["zorro"]
    assert score.score == pytest.approx(sum(right) / len(right))
    assert 0 < score.score < 1
    assert score.ties == 1  # the good one is a palindrome


def test_an_untrained_model_scores_a_tasks_sentences_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = {"zorro": str(write_zorro(tmp_path, pairs=3))}
    first = tasks.evaluate(bundle, wanted)
    asked: list[int] = []
    scored = pseudo_likelihood.Scorer.__call__
    monkeypatch.setattr(
        pseudo_likelihood.Scorer, "__call__", lambda self, *more: asked.append(1) or scored(self, *more)
    )
    assert tasks.evaluate(bundle, wanted) == first
    assert len(asked) == 1  # the bundle itself
    tasks.evaluate(bundle, wanted, seed=1)
    assert len(asked) == 3


def test_a_pair_of_the_same_tokens_is_a_tie(bundle: Path, tmp_path: Path) -> None:
    rows = [{"sentence_good": "Ba ne.", "sentence_bad": "ba  ne."}]
    score = tasks.evaluate(bundle, {"blimp": str(write_rows(tmp_path / "a.jsonl", rows))})["blimp"]
    assert (score.score, score.score_first, score.ties, score.untrained) == (0.5, 1.0, 1, 0.5)


def test_the_table_has_a_row_for_every_phenomenon(
    bundle: Path, data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    assert judge(bundle, f"zorro={data / 'zorro'}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["task", "measure", "score", "95", "%", "interval", "ties", "to", "option", "0", "ties",
                                "untrained"]  # fmt: skip
    assert [line.split()[0] for line in lines[1:]] == ["zorro", "case-subject", "order-verb"]


def long_sentence(folder: Path) -> str:
    rows = [{"sentence_good": "ba", "sentence_bad": "ba " * 31}]
    return f"blimp={write_rows(folder / 'long.jsonl', rows)}"


def missing_column(folder: Path) -> str:
    return f"blimp={write_rows(folder / 'rows.jsonl', [{'sentence_good': 'ba'}])}"


def empty_file(folder: Path) -> str:
    return f"wug_past={write_rows(folder / 'wug.jsonl', [])}"


def no_files(folder: Path) -> str:
    return f"zorro={folder}"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (missing_column, "rows.jsonl:1 has no column 'sentence_bad': it has sentence_good"),
        (empty_file, "wug.jsonl is empty"),
        (
            long_sentence,
            "long.jsonl:1: a sentence of 33 tokens, special ones included, exceeds the model's 32 positions",
        ),
        (no_files, "has no .txt files"),
        (lambda _: "blimpp=x", "there is no task 'blimpp': did you mean blimp?"),
        (lambda _: "glue/bool=x", "there is no task 'glue/bool': did you mean glue/boolq?"),
        (lambda _: "wug_adj=/none/such", "there is no /none/such"),
        (lambda _: "wug_adj=", "--task wug_adj=: write NAME=PATH"),
    ],
)
def test_a_bad_task_is_refused_before_any_is_scored(
    bundle: Path, data: Path, tmp_path: Path, task: Any, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(tasks, "evaluate", lambda *_: pytest.fail("something was scored"))
    others = [f"zorro={data / 'zorro'}"] if not task(tmp_path).startswith("zorro") else []
    before = sorted(os.listdir(tmp_path))
    assert judge(bundle, *others, task(tmp_path), "--json") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


def test_a_bundle_without_a_tokenizer_and_no_tasks_are_refused(
    bundle: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(bundle, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*"))
    assert judge(tmp_path / "bare", f"zorro={data / 'zorro'}") == 2
    assert judge(tmp_path / "none", f"zorro={data / 'zorro'}") == 2
    assert judge(bundle) == 2
    assert judge(bundle, f"zorro={data / 'zorro'}", f"zorro={data / 'zorro'}") == 2
    assert judge(bundle, f"zorro={data / 'zorro'}", "--device", "cuda:77") == 2
    messages = capsys.readouterr().err.splitlines()
    expected = ["no tokenizer", "is not a bundle", "no task: give --task NAME=PATH", "twice", "no such device"]
    assert [part for message, part in zip(messages, expected, strict=True) if part not in message] == []


def test_fine_tuning_is_given_the_bundle_and_its_untrained_like(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def learned(folder: Path, name: str, data: str, work: Path, seeds: Any, _progress: Any) -> finetune.GlueScore:
        given.append((next(pseudo_likelihood.load(folder)[0].parameters()), name, data))
        values = {seed: 0.9 - 0.2 * len(given) for seed in seeds}
        return finetune.GlueScore("accuracy", values[0], values, 0.5, 0.4)

    monkeypatch.setattr(finetune, "finetune", learned)
    scores = tasks.evaluate(bundle, {"glue/rte": "rte", "glue/mnli": "mnli"}, seeds=range(2))
    (trained, *one), (blank, *same) = given[:2]
    assert one == same == ["rte", "rte"]
    assert torch.equal(blank, next(pseudo_likelihood.untrained(bundle, 0).parameters()))
    assert not torch.equal(trained, blank)
    assert scores["glue/rte"].by["seed 1"] == pytest.approx({"score": 0.7, "untrained": 0.5})
    expected = {"accuracy": 0.7, "untrained": 0.5}
    assert tasks.metrics({"glue/rte": scores["glue/rte"]}) == pytest.approx(
        {f"glue/rte/{name}": value for name, value in expected.items()}
    )
    assert [tasks.main_metric(name) for name in ("glue/rte", "glue/qqp")] == ["glue/rte/accuracy", "glue/qqp/f1"]


def test_a_runs_last_row_has_the_scores_that_its_bundle_gets(corpus: Path, data: Path, tmp_path: Path) -> None:
    settings = config(corpus, model={"max_positions": 64})
    wanted = {"zorro": str(data / "zorro"), "wug_past": str(data / "wug.jsonl")}
    found = mlm.check_tasks(settings, wanted)
    assert list(found) == ["zorro/accuracy", "wug_past/spearman"]
    shutil.copytree(data, tmp_path / "moved")
    moved = {name: value.replace(str(data), str(tmp_path / "moved")) for name, value in wanted.items()}
    assert mlm.check_tasks(settings, moved) == found, "what is judged by is the same, wherever it lies"
    text = (tmp_path / "moved" / "wug.jsonl").read_text("utf-8")
    (tmp_path / "moved" / "wug.jsonl").write_text(text.replace('"ratio": 0.0', '"ratio": 0.01', 1), "utf-8")
    assert [same == found[name] for name, same in mlm.check_tasks(settings, moved).items()] == [True, False]
    recorder = run(settings, tmp_path, evaluate=wanted)
    *others, last = recorder.rows
    assert not any(name.startswith(("zorro/", "wug_past/")) for row in others for name in row)
    bundle = recorder.checkpoint / "bundle"
    again = tasks.evaluate(bundle, wanted)
    assert {name: value for name, value in last.items() if name.startswith(("zorro", "wug_past"))} == tasks.metrics(
        again
    )
    assert set(tasks.metrics(again)) == {
        "zorro/accuracy", "zorro/untrained", "zorro/first", "zorro/ties",
        "wug_past/spearman", "wug_past/untrained", "wug_past/ties",
    }  # fmt: skip
    details = json.loads((bundle / "analysis" / "evaluation.json").read_text("utf-8"))
    assert details == json.loads(json.dumps(tasks.details(again)))
    history = [json.loads(line) for line in (recorder.checkpoint / "history.jsonl").read_text("utf-8").splitlines()]
    assert history[-1] == last
    with pytest.raises(ValueError, match="exceeds the model's 16 positions"):
        mlm.check_tasks(config(corpus), wanted)


def test_a_node_that_lacks_a_tasks_data_says_so_before_it_trains(corpus: Path, tmp_path: Path) -> None:
    reported: list[Any] = []
    context = TrainContext(lambda row, _: reported.append(row), evaluate={"zorro": str(tmp_path / "elsewhere")})
    with pytest.raises(ValueError, match=r"there is no .*elsewhere"):
        mlm.train(config(corpus), context)
    assert reported == []
