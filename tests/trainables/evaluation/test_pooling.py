"""The last position of rows padded on the left, as the challenge's pipeline of 2026 reads them, and their answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.evaluation.test_finetune import QUICK, bundle, data, records
from trainables import evaluate
from trainables.evaluation import classifier, glue, tasks
from trainables.evaluation.classifier import Classifier, Rows, load
from trainables.evaluation.finetune import finetune, predictions
from trainables.evaluation.glue import Examples, Pooling, Settings

__all__ = ["bundle", "data"]  # fixtures

PAIR = Examples(["bane", "luti roka", "mose"], ["mose", "difa guhy kamo tiro", "bane luti"], np.array([0, 1, 0]))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, measure in (("rte", "accuracy"), ("mrpc", "f1")):
        task = glue.TASKS[name]
        monkeypatch.setitem(glue.TASKS, name, replace(task, settings=replace(QUICK, measure=measure, epochs=3)))


def test_rows_are_those_of_a_tokenizer_that_pads_on_the_left(bundle: Path) -> None:
    _, tokenizer, length = load(bundle, 512)
    rows = Rows.of(PAIR, tokenizer, length, "last")
    tokenizer.padding_side = "left"
    for which in ([0, 1, 2], [2, 0], [1]):
        texts = [PAIR.first[i] for i in which], [PAIR.second[i] for i in which]
        plain = tokenizer(*texts, padding=True, return_tensors="pt")
        ids, mask, labels = rows.batch(np.array(which))
        assert torch.equal(ids, plain["input_ids"])
        assert torch.equal(mask, plain["attention_mask"])
        assert labels.tolist() == PAIR.labels[which].tolist()
        assert (ids[:, -1] == tokenizer.sep_token_id).all(), "the last position is a token of every row"


def test_the_head_reads_the_last_position(bundle: Path) -> None:
    encoder, tokenizer, length = load(bundle, 512)
    model = Classifier(encoder, 16, Settings(pooling="last")).eval()
    ids, mask, _ = Rows.of(PAIR, tokenizer, length, "last").batch(np.arange(3))
    with torch.no_grad():
        hidden = encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        assert torch.equal(model(ids, mask), model.head(hidden[:, ids.shape[1] - 1]))


def encoder(kind: str) -> Any:
    """A small encoder at random, in eval mode."""
    from transformers import (
        BertConfig,
        BertModel,
        DebertaV2Config,
        DebertaV2Model,
        ModernBertConfig,
        ModernBertModel,
        RobertaConfig,
        RobertaModel,
    )

    shape: dict[str, Any] = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"intermediate_size": 32, "initializer_range": 0.3, "pad_token_id": 0}
    relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
    torch.manual_seed(0)
    made: dict[str, Any] = {
        "bert": lambda: BertModel(BertConfig(**shape), add_pooling_layer=False),
        "roberta": lambda: RobertaModel(RobertaConfig(**shape), add_pooling_layer=False),
        "modernbert": lambda: ModernBertModel(ModernBertConfig(**shape, bos_token_id=1, eos_token_id=2)),
        "deberta": lambda: DebertaV2Model(DebertaV2Config(**shape, **relative)),
    }
    return made[kind]().eval()


@pytest.mark.parametrize(
    ("kind", "pooling", "moves"),
    [
        ("bert", "cls", False),
        ("bert", "last", True),  # absolute positions, counted from the first padding: as in the pipeline
        ("roberta", "last", False),  # counted from the first token
        ("modernbert", "last", False),
        ("deberta", "last", False),
    ],
)
def test_what_padding_moves(kind: str, pooling: Pooling, moves: bool, bundle: Path) -> None:
    """A row alone, and beside one of six tokens more: only an encoder of absolute positions tells the two apart."""
    _, tokenizer, _ = load(bundle, 512)
    rows = Rows.of(PAIR, tokenizer, 512, pooling)
    assert rows.lengths[1] > rows.lengths[0]
    model = Classifier(encoder(kind), 16, Settings(pooling=pooling)).eval()
    with torch.no_grad():
        alone, beside = (model(*rows.batch(np.array(which))[:2])[0] for which in ([0], [0, 1]))
        difference = float((alone - beside).abs().max())
    assert difference > 1e-3 if moves else difference < 1e-5


def test_validation_batches_are_those_of_the_pipeline(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of `last` in the order of the file, so that each is padded as there; rows of `cls` by length."""
    _, tokenizer, length = load(bundle, 512)
    seen: list[list[int]] = []
    batch = Rows.batch
    monkeypatch.setattr(Rows, "batch", lambda self, which: seen.append(which.tolist()) or batch(self, which))
    model = Classifier(encoder("bert"), 16, Settings())
    for pooling in ("last", "cls"):
        rows = Rows.of(PAIR, tokenizer, length, pooling)
        classifier._answers(model, rows, Settings(valid_batch=2))
    assert seen == [[0, 1], [2], [0, 2], [1]]


def test_answers_are_those_of_a_plain_loop(bundle: Path, data: str) -> None:
    """As the pipeline of 2026 has it: the file in order, batches padded on the left by the tokenizer, position -1."""
    from transformers import AutoModel, AutoTokenizer

    valid = glue.read("rte", data)["valid"]
    encoder, tokenizer, length = load(bundle, 512)
    torch.manual_seed(1)
    model = Classifier(encoder, 16, Settings(pooling="last")).eval()
    rows = Rows.of(valid, tokenizer, length, "last")
    with torch.no_grad():  # a head that gives both answers
        first, second = model(*rows.batch(np.arange(len(valid)))[:2]).T
        list(model.head.parameters())[-1][1] -= (second - first).median()
    ours = classifier._answers(model, rows, Settings(valid_batch=7))

    plain, left = AutoModel.from_pretrained(bundle).eval(), AutoTokenizer.from_pretrained(bundle, padding_side="left")
    slow: list[int] = []
    for begin in range(0, len(valid), 7):
        texts = valid.first[begin : begin + 7], valid.second[begin : begin + 7]
        batch = left(*texts, return_tensors="pt", padding=True, truncation=True, max_length=length)
        with torch.no_grad():
            states = plain(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
            slow += model.head(states[:, -1]).argmax(-1).tolist()
    assert ours.tolist() == slow
    assert {*slow} == {0, 1}


def test_answers_are_those_of_the_first_best_epoch_in_the_order_of_the_file(
    bundle: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = [np.array(each) for each in ([0] * 60, [1] * 60, [1] * 59 + [0], [0] * 60)]
    labels = [json.loads(line)["label"] for line in (Path(data) / "valid.jsonl").read_text("utf-8").splitlines()]
    told, left = [np.mean(each == np.array(labels)) for each in scored[:3]], iter(scored)
    monkeypatch.setattr(classifier, "_answers", lambda *_: next(left))
    found = predictions(bundle, "rte-last", data, tmp_path)
    best = scored[int(np.argmax(told))]
    assert found == {"rte": {"predictions": [{"id": f"rte_{n}", "pred": int(best[n])} for n in range(60)]}}
    assert json.loads(json.dumps(found)) == found
    (record,) = records(tmp_path).values()
    assert record["score"] == max(told)


@pytest.mark.parametrize("name", ["mrpc", "mrpc-last"])
def test_predictions_have_the_score_that_the_task_has(name: str, bundle: Path, data: str, tmp_path: Path) -> None:
    score = finetune(bundle, name, data, tmp_path, [0])
    ((own, answers),) = predictions(bundle, name, data, tmp_path).items()
    labels = [json.loads(line)["label"] for line in (Path(data) / "valid.jsonl").read_text("utf-8").splitlines()]
    given = np.array([each["pred"] for each in answers["predictions"]])
    assert own == "mrpc"
    assert classifier.measured(given, np.array(labels), "f1") == score.score
    assert len(records(tmp_path)) == 1, "nothing was learned twice"
    (kept,) = tmp_path.glob("*.json")
    whole = json.loads(kept.read_text("utf-8"))
    for spoilt in (whole["answers"][1:], [*whole["answers"][1:], "yes"], None):
        kept.write_text(json.dumps(whole | {"answers": spoilt}), "utf-8")
        assert predictions(bundle, name, data, tmp_path) == {own: answers}, "a record without all answers is no record"


def test_the_two_poolings_are_two_tasks(bundle: Path, data: str, tmp_path: Path) -> None:
    for name in ("rte", "rte-last"):
        finetune(bundle, name, data, tmp_path, [0])
    one, other = records(tmp_path).values()
    assert {one["settings"]["pooling"], other["settings"]["pooling"]} == {"cls", "last"}
    assert one["epochs"][0]["loss"] != other["epochs"][0]["loss"]
    assert [tasks.main_metric(f"glue/{name}") for name in ("rte", "rte-last", "mrpc-last", "fast-last")] == [
        "glue/rte/accuracy",
        "glue/rte-last/accuracy",
        "glue/mrpc-last/f1",
        "glue/fast-last/accuracy",
    ]
    assert glue.check("rte-last", data) == glue.check("rte", data)


def test_the_command_asks_for_it(
    bundle: Path, data: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    arguments = [str(bundle), "--threads", "1", "--json", "--task", f"glue/rte={data}"]
    assert evaluate.main([*arguments, "--pooling", "last"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["glue/rte-last"]
    assert evaluate.main([*arguments[:-1], f"glue/rte-last={data}"]) == 0
    assert list(json.loads(capsys.readouterr().out)) == ["glue/rte-last"]
    assert evaluate.main([*arguments, "--pooling", "mean"]) == 2
    assert "--pooling" in capsys.readouterr().err
