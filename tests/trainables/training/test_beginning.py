"""`init_from`: a run begins with a bundle's weights, which are part of what it is; all else begins afresh."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from sweeper.trainable import TrainContext
from tests.trainables.tiny import Recorder, Stopped, config, run
from tests.trainables.training.test_trunk import files, left
from trainables import mlm
from trainables.data.batches import prepare
from trainables.model.bert import CompactBert, from_hub, to_hub
from trainables.training import beginning
from trainables.training.run import Run

pytestmark = pytest.mark.usefixtures("own_cache")


def settings(corpus: Path, **changes: Any) -> mlm.Config:
    tree = config(corpus).model_dump(exclude={"init_from"})
    for key, change in changes.items():
        tree[key] = {**tree[key], **change} if isinstance(change, dict) and key in tree else change
    return mlm.Config.model_validate(tree)


@pytest.fixture(scope="module")
def first(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a run; to be read only."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        return run(settings(corpus), folder).checkpoint / "bundle"


def begun(settings: mlm.Config, **context: Any) -> Run:
    return Run(settings, TrainContext(lambda *_: None, **context), prepare(settings.data))


def checked(settings: mlm.Config) -> list[str]:
    return mlm.check(settings, mlm.prepare(settings))


def test_it_begins_with_the_weights_and_with_nothing_else(corpus: Path, first: Path, tmp_path: Path) -> None:
    further = settings(corpus, init_from=str(first))
    assert further.init_from
    assert len(str(further.init_from.weights)) == 64
    one, drawn = begun(further), begun(settings(corpus))
    weights = load_file(first / "model.safetensors")
    assert isinstance(one.model, CompactBert)
    assert all(torch.equal(value, weights[name]) for name, value in to_hub(one.model).items())
    assert not torch.equal(one.model.state()["word"], drawn.model.state()["word"])
    states = (one.policy.state(lambda _: None), drawn.policy.state(lambda _: None))
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), "the masking policy is fresh"
    for name, value in one.optimiser.state().items():
        assert torch.equal(value, drawn.optimiser.state()[name]), name

    rows = run(further, tmp_path).rows
    plain = json.loads((first / "metadata.json").read_text("utf-8"))["metrics"]
    assert rows[0]["val/loss"] < plain["val/loss"] + 0.2, "it goes on where the first one ended"
    (tmp_path / "again").mkdir()
    assert run(further, tmp_path / "again").rows == rows
    card = (tmp_path / "checkpoint" / "bundle" / "README.md").read_text("utf-8")
    assert f"Training began with the weights of `{first}`" in card
    assert "Training began" not in (first / "README.md").read_text("utf-8")


def test_stopped_and_resumed_it_ends_with_the_same_bits_without_the_bundle(
    corpus: Path, first: Path, tmp_path: Path
) -> None:
    kept = shutil.copytree(first, tmp_path / "kept")
    further = settings(corpus, init_from=str(kept))
    whole, stopped = (tmp_path / name for name in ("whole", "stopped"))
    whole.mkdir()
    stopped.mkdir()
    expected = run(further, whole)
    half = Recorder(stopped, stop_at=10)
    with pytest.raises(Stopped):
        mlm.train(further, TrainContext(half, 0))
    shutil.rmtree(kept)
    restored = shutil.move(half.checkpoint, tmp_path / "restored")
    assert run(further, stopped, restore_from=restored).rows == expected.rows[2:]


def test_a_fork_of_its_trunk_is_the_run_from_step_0(corpus: Path, first: Path, tmp_path: Path) -> None:
    further = settings(corpus, init_from=str(first), masking={"mask_warmup": 0.5})
    trunks = left(further, tmp_path / "trunk", 7)
    for name in ("whole", "fork"):
        (tmp_path / name).mkdir()
    whole = run(further, tmp_path / "whole")
    fork = run(further, tmp_path / "fork", fork_from=trunks[7])
    assert fork.rows == whole.rows
    assert files(fork.checkpoint) == files(whole.checkpoint)


def test_the_weights_are_part_of_the_configuration(corpus: Path, first: Path, tmp_path: Path) -> None:
    place = shutil.copytree(first, tmp_path / "bundle")
    before, plain = settings(corpus, init_from=str(place)), settings(corpus)
    assert "init_from" not in plain.model_dump()
    weights = load_file(place / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, place / "model.safetensors", {"format": "pt"})
    after = settings(corpus, init_from=str(place))
    assert before.init_from
    assert after.init_from
    assert before.init_from.bundle == after.init_from.bundle
    assert before.model_dump() != after.model_dump()
    pasts = [one.past(1) for one in (before, after, plain)]
    assert None not in pasts
    assert len({json.dumps(past) for past in pasts}) == 3, "a trunk is of one beginning"
    with pytest.raises(ValueError, match="its weights are not those that this run is of"):
        checked(before)
    with pytest.raises(ValueError, match="its weights are not those that this run is of"):
        begun(before)
    assert mlm.Config.model_validate(before.model_dump()) == before, "a record is read without the bundle"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"hidden": 64}}, "its hidden_size is 32, here it is 64 (model.hidden)"),
        ({"model": {"layers": 1}}, "its num_hidden_layers is 2, here it is 1 (model.layers)"),
        ({"model": {"heads": 4}}, "its num_attention_heads is 2, here it is 4 (model.heads)"),
        ({"data": {"tokenizer": "train:100"}}, "(data.tokenizer)"),
        ({"data": {"tokenizer": "train:300,cased"}}, "its tokenizer is not that of data.tokenizer"),
    ],
)
def test_another_architecture_or_tokenizer_is_refused(
    corpus: Path, first: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011
        checked(settings(corpus, init_from=str(first), **changes))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_dropout_may_differ_and_nhot_may_not(corpus: Path, first: Path) -> None:
    assert checked(settings(corpus, init_from=str(first), model={"dropout": 0.0}))
    with pytest.raises(ValidationError, match=r"does not go with model\.embedding nhot"):
        settings(corpus, init_from=str(first), model={"embedding": "nhot"})


def test_what_is_no_bundle_is_refused(corpus: Path, first: Path, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "absent", corpus):
        given = settings(corpus, init_from=str(path))
        for asked in (mlm.prepare, lambda config: mlm.check(config, mlm.prepare(settings(corpus))), begun):
            with pytest.raises(ValueError, match=r"is not a bundle: no model\.safetensors"):
                asked(given)
    cut = shutil.copytree(first, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((first / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged or not safetensors"):
        checked(settings(corpus, init_from=str(cut)))


def test_people_are_told_where_it_begins_and_whose_text_the_weights_saw(
    corpus: Path, first: Path, tmp_path: Path
) -> None:
    told = checked(settings(corpus, init_from=str(first)))
    assert len(told) == 1
    assert f"training begins with the weights of {first}" in told[0]
    assert "after 20 steps of their own run" in told[0]
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text("utf-8")[2000:], "utf-8")
    moved = settings(corpus, init_from=str(first), data={"corpus": f"files:{other}", "tokenizer": str(first)})
    told = checked(moved)
    assert "come from other text" in told[1]
    begun(moved)


def test_the_way_back_from_the_hubs_names(corpus: Path) -> None:
    model = begun(settings(corpus)).model
    assert isinstance(model, CompactBert)
    back = from_hub(to_hub(model), model.config.layers)
    assert back.keys() == model.state_dict().keys()
    assert all(torch.equal(back[name], value) for name, value in model.state_dict().items())


def test_a_pace_needs_no_weights(corpus: Path, first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beginning, "load", lambda *_: pytest.fail("not for a probe"))
    assert mlm.probe(settings(corpus, init_from=str(first))).step > 0
