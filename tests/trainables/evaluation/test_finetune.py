"""Fine-tuning learns, with the challenge's head and schedule, and what is finished is not done again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.trainables.one_by_one import make_bundle
from tests.trainables.texts import sentences
from trainables.data.wordpiece import Trained
from trainables.evaluation import finetune as module
from trainables.evaluation import glue
from trainables.evaluation.classifier import Classifier, Rows, load, measured, optimiser, schedule
from trainables.evaluation.finetune import GlueScore, finetune
from trainables.evaluation.glue import Examples, Settings
from trainables.noise import words

WORDS = ["bane", "luti", "roka", "mose", "difa", "guhy", "tiro", "kamo"]
QUICK = Settings(epochs=4, batch=16, lr=0.004)


def examples(count: int, seed: int, labels: int = 2) -> list[dict[str, Any]]:
    """Label and first word of the second segment go together."""
    drawn = words(count * 5, "examples", seed).reshape(count, 5)
    rows = []
    for row in drawn:
        label = int(row[0] % labels)
        first, *rest = (WORDS[3 + int(number) % 5] for number in row[1:])
        pair = (first, " ".join([WORDS[label], *rest]))
        rows.append({"sentence1": pair[0], "sentence2": pair[1], "label": label})
    return rows


def write(folder: Path, train: list[dict[str, Any]], valid: list[dict[str, Any]]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("valid", valid)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(folder)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    text = [" ".join(WORDS)] * 50 + sentences(200)
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle", Trained(300).obtain(text), initializer_range=0.3)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("data"), examples(200, 0), examples(60, 1))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """RTE and MRPC as above, in four epochs at a rate that a model of this size needs."""
    for name, measure in (("rte", "accuracy"), ("mrpc", "f1")):
        settings = replace(QUICK, measure=measure)
        monkeypatch.setitem(glue.TASKS, name, replace(glue.TASKS[name], settings=settings))


@pytest.fixture(scope="module")
def learned(bundle: Path, data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[GlueScore, Path, list[str]]:
    """RTE for two seeds, its work folder and what was told."""
    work, told = tmp_path_factory.mktemp("work"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(glue.TASKS, "rte", replace(glue.TASKS["rte"], settings=QUICK))
        return finetune(bundle, "rte", data, work, [0, 1], told.append), work, told


def records(work: Path) -> dict[str, Any]:
    return {path.name: json.loads(path.read_text("utf-8")) for path in sorted(work.iterdir())}


def forbidden(*_: Any) -> Any:
    raise AssertionError("it learned again")


def test_a_separable_task_is_learned(learned: tuple[GlueScore, Path, list[str]], data: str) -> None:
    score, work, told = learned
    valid = [json.loads(line)["label"] for line in (Path(data) / "valid.jsonl").read_text("utf-8").splitlines()]
    train = [json.loads(line)["label"] for line in (Path(data) / "train.jsonl").read_text("utf-8").splitlines()]
    frequent = int(2 * sum(train) > len(train))
    assert score.majority == valid.count(frequent) / len(valid)
    assert set(score.by_seed) == {0, 1}
    assert score.score == pytest.approx(np.mean(list(score.by_seed.values())))
    assert score.score > 0.9 > score.majority + 0.2
    assert score.measure == "accuracy"
    assert score.score == pytest.approx(np.mean([record["score"] for record in records(work).values()]))
    assert len(told) == 8
    assert told[0].startswith("glue/rte, seed 0: epoch 1 of 4, accuracy ")
    for record in records(work).values():
        accuracies = [epoch["accuracy"] for epoch in record["epochs"]]
        assert (record["score"], record["last"]) == (max(accuracies), accuracies[-1])
        assert (record["steps"], record["examples"]) == (4 * (200 // 16), {"train": 200, "valid": 60})
    one, other = records(work).values()
    assert one["epochs"] != other["epochs"]


def test_a_finished_seed_is_not_repeated(
    learned: tuple[GlueScore, Path, list[str]], bundle: Path, data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, work, _ = learned
    monkeypatch.setattr(module, "learn", forbidden)
    assert finetune(bundle, "rte", data, work, [0, 1]) == score
    assert finetune(bundle, "rte", data, work, [1]).by_seed == {1: score.by_seed[1]}
    with pytest.raises(AssertionError, match="learned again"):
        finetune(bundle, "rte", data, work, [2])


def test_an_interrupted_seed_starts_over_and_ends_with_the_same_bits(
    learned: tuple[GlueScore, Path, list[str]], bundle: Path, data: str, tmp_path: Path
) -> None:
    def stop(line: str) -> None:
        if "epoch 2" in line:
            raise KeyboardInterrupt

    before = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt):
        finetune(bundle, "rte", data, tmp_path, [0], stop)
    assert not list(tmp_path.iterdir())
    torch.rand(3)
    finetune(bundle, "rte", data, tmp_path, [0])
    (name, again), whole = next(iter(records(tmp_path).items())), records(learned[1])
    assert again["epochs"] == whole[name]["epochs"]
    torch.set_rng_state(before)


def test_the_callers_generator_is_left_alone(
    bundle: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(glue.TASKS, "rte", replace(glue.TASKS["rte"], settings=replace(QUICK, epochs=1)))
    before = torch.get_rng_state()
    finetune(bundle, "rte", data, tmp_path, [0])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_record_stands_for_its_model_data_and_settings(
    bundle: Path, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def learn(*given: Any) -> dict[str, Any]:
        calls.append(given[4])
        answers = [0] * len(given[3]["valid"])
        return {"score": 0.5, "last": 0.25, "majority": 0.125, "answers": answers}

    monkeypatch.setattr(module, "learn", learn)
    work = tmp_path / "work"

    def learned_again(folder: Path = bundle, where: str = data) -> int:
        calls.clear()
        finetune(folder, "rte", where, work, [7])
        return len(calls)

    assert [learned_again(), learned_again()] == [1, 0]
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    (copy / "README.md").write_text("a card changes nothing", "utf-8")
    assert learned_again(copy) == 0
    (path,) = work.iterdir()
    path.write_text(path.read_text("utf-8")[:20], "utf-8")
    assert [learned_again(), learned_again()] == [1, 0]
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert learned_again(copy) == 1
    assert learned_again(where=write(tmp_path / "data", examples(200, 0), examples(60, 2))) == 1
    monkeypatch.setitem(glue.TASKS, "rte", replace(glue.TASKS["rte"], settings=replace(QUICK, lr=0.01)))
    assert learned_again() == 1


def test_fast_is_the_mean_over_its_tasks_for_one_seed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def learn(_folder: Path, name: str, settings: Settings, parts: Any, seed: int, _tell: Any) -> dict[str, Any]:
        assert settings == glue.settings(name, fast=True)
        assert (len(parts["train"]), len(parts["valid"])) == (5000, 2000)
        return {"score": {"mnli": 0.5, "qqp": 0.75}[name] + seed, "last": 0.25, "majority": 0.125}

    monkeypatch.setattr(module, "learn", learn)
    for name, columns in (("mnli", ("premise", "hypothesis")), ("qqp", ("question1", "question2"))):
        rows = [{columns[0]: str(i), columns[1]: "b", "label": i % 2} for i in range(5100)]
        write(tmp_path / "data" / name, rows, rows[:2100])
    score = finetune(bundle, "fast", str(tmp_path / "data"), tmp_path / "work", [0, 1])
    assert score == GlueScore("accuracy", 0.625, {0: 0.625}, 0.125, 0.25)
    kept = records(tmp_path / "work").values()
    assert {record["task"]: record["score"] for record in kept} == {"mnli": 0.5, "qqp": 0.75}


def test_the_head_is_the_challenges() -> None:
    model = Classifier(nn.Linear(1, 1), 16, glue.settings("mnli"))
    kinds = [nn.LayerNorm, nn.Linear, nn.GELU, nn.LayerNorm, nn.Dropout, nn.Linear]
    assert [type(part) for part in model.head] == kinds
    assert [tuple(each.shape) for each in model.head.parameters()] == [(16, 16), (16,), (3, 16), (3,)]
    assert [part.eps for part in model.head if isinstance(part, nn.LayerNorm)] == [1e-5, 1e-5]
    assert [part.p for part in model.head if isinstance(part, nn.Dropout)] == [0.1]


def test_the_head_reads_the_first_position_of_the_hubs_encoder(bundle: Path) -> None:
    from transformers import AutoModel

    encoder, tokenizer, length = load(bundle, 512)
    assert length == 32
    model = Classifier(encoder, 16, Settings()).eval()
    rows = Rows.of(Examples(["bane", "luti roka"], ["mose", "difa guhy"], np.array([0, 1])), tokenizer, length)
    ids, mask, labels = rows.batch(np.array([1, 0]))
    plain = tokenizer(["luti roka", "bane"], ["difa guhy", "mose"], padding=True, return_tensors="pt")
    assert torch.equal(ids, plain["input_ids"])
    assert torch.equal(mask, plain["attention_mask"])
    assert labels.tolist() == [1, 0]
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(bundle).eval()(ids, attention_mask=mask).last_hidden_state
        torch.testing.assert_close(model(ids, mask), model.head(hidden[:, 0]))


def test_the_rate_rises_over_6_percent_and_falls_to_a_tenth() -> None:
    settings = glue.settings("wsc")
    rates = [schedule(step, int(settings.warmup * 100), 100, settings.final) for step in (0, 3, 6, 53, 100)]
    assert rates == pytest.approx([0, 0.5, 1, 0.55, 0.1])
    # a quarter of the way down: 0.1 + 0.9 * (1 + cos(pi / 4)) / 2
    assert schedule(30, 10, 90, 0.1) == pytest.approx(0.8681980515339464)
    assert schedule(0, 0, 5, 0.1) == 1


def test_all_parameters_decay_alike() -> None:
    model = Classifier(nn.LayerNorm(16), 16, Settings())
    (group,) = optimiser(model, glue.settings("wsc")).param_groups
    assert len(group["params"]) == len(list(model.parameters()))
    assert (group["lr"], group["weight_decay"], group["betas"], group["eps"]) == (3e-5, 0.01, (0.9, 0.999), 1e-8)


def test_rates_of_a_run_are_those_of_the_schedule(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables.evaluation.classifier import _Training

    encoder, tokenizer, length = load(bundle, 32)
    rows = Rows.of(Examples(["bane"] * 37, ["luti"] * 37, np.zeros(37, np.int64)), tokenizer, length)
    training = _Training(Classifier(encoder, 16, Settings()), Settings(batch=2, epochs=3, lr=1.0), rows, ("rte", 0))
    seen: list[float] = []
    monkeypatch.setattr(training.optimiser, "step", lambda: seen.append(training.optimiser.param_groups[0]["lr"]))
    for epoch in range(3):
        training.epoch(epoch)
    assert seen == [schedule(step, 3, 54, 0.1) for step in range(54)]  # 37 // 2 = 18 an epoch; int(0.06 * 54) = 3


def test_long_inputs_are_cut_and_counted(bundle: Path) -> None:
    _, tokenizer, _ = load(bundle, 32)
    long = " ".join(WORDS * 5)
    rows = Rows.of(Examples(["bane luti", "bane", long], [long, "luti", long], np.zeros(3, np.int64)), tokenizer, 20)
    assert rows.truncated == 2
    whole = [len(tokenizer(*pair)["input_ids"]) for pair in (("bane luti", long), ("bane", "luti"))]
    assert rows.lengths.tolist() == [20, whole[1], 20]
    ids, _, _ = rows.batch(np.array([0]))
    assert tokenizer.decode(ids[0]).startswith("[CLS] bane luti [SEP] bane luti")  # the longer segment alone was cut
    assert ids[0, -1] == tokenizer.sep_token_id


def test_measures() -> None:
    answers, labels = np.array([1, 1, 0, 0, 1]), np.array([1, 0, 1, 0, 1])
    assert measured(answers, labels, "accuracy") == pytest.approx(3 / 5)
    assert measured(answers, labels, "f1") == pytest.approx(2 / 3)  # precision 2/3, recall 2/3
    assert measured(np.zeros(3, np.int64), np.zeros(3, np.int64), "f1") == 0
    assert measured(np.ones(4, np.int64), np.array([1, 1, 1, 0]), "f1") == pytest.approx(6 / 7)


def test_f1_tasks_are_scored_by_f1(bundle: Path, data: str, tmp_path: Path) -> None:
    score = finetune(bundle, "mrpc", data, tmp_path, [0])
    (record,) = records(tmp_path).values()
    assert score.measure == "f1"
    assert score.score == max(epoch["f1"] for epoch in record["epochs"])
    assert score.score > 0.85


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def _not_finite(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"].fill_(float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _unheard_of(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "unheard_of"}), "utf-8")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_weights, "is not a bundle: it needs config.json and model.safetensors"),
        (_without_tokenizer, "has no tokenizer of its own"),
        (_not_finite, "the loss is nan; are the weights of"),
        (_unheard_of, "config.json cannot be read"),
    ],
)
def test_bad_bundles_are_one_line(spoil: Any, said: str, bundle: Path, data: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundle, tmp_path / "bundle"))
    spoil(folder)
    with pytest.raises(ValueError, match=said) as caught:
        finetune(folder, "rte", data, tmp_path / "work", [0])
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert not (tmp_path / "work").exists()
