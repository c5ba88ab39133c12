"""Sentences score as the obvious way has it, one sentence and one mask at a time; what is no bundle is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMaskedLM

from tests.trainables.one_by_one import one_by_one
from tests.trainables.texts import sentences
from trainables.evaluation import pseudo_likelihood
from trainables.evaluation.pseudo_likelihood import Scorer, load, load_tokenizer, tokens, untrained

ODD = ["Xyz §§ ba.", "ba [MASK] ne ti", "Ba", "ba ba ba ba", "ne, lu; (ti)!"]  # [UNK], a literal mask, a single token
SOME = [*sentences(8), *ODD, *sentences(2)]


@pytest.fixture(scope="module")
def scored(bundle: Path) -> tuple[Any, Any]:
    return load(bundle)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("at_once", [4096, 40])
def test_scores_are_those_of_one_at_a_time(
    bundle: Path, trained: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(pseudo_likelihood.TOKENS_AT_ONCE, "cpu", at_once)
    model, tokenizer = load(bundle)
    model = model if trained else untrained(bundle, 0)
    slow = one_by_one(model, tokenizer, SOME)
    ours = Scorer(model, tokenizer)(SOME)
    assert ours == pytest.approx(slow, abs=1e-4)
    assert len(np.unique(ours)) == len(SOME) - 2


def test_scores_stand_in_the_order_of_the_sentences(scored: tuple[Any, Any]) -> None:
    scorer = Scorer(*scored)
    order = np.random.Generator(np.random.Philox(1)).permutation(len(SOME))
    assert scorer([SOME[i] for i in order]) == pytest.approx(scorer(SOME)[order], abs=1e-5)


def test_what_has_the_same_tokens_is_scored_once(scored: tuple[Any, Any]) -> None:
    seen: list[tuple[int, int]] = []
    twice = ["ba ne lu.", "ba ne  lu.", "Ba ne lu."]  # alike once lower-cased and split
    scores = Scorer(*scored)(twice, lambda done, total: seen.append((done, total)))
    alone = len(scored[1](twice[0])["input_ids"]) - 2
    assert scores[0] == scores[1] == scores[2] < 0
    assert seen[-1] == (alone, alone)


def test_special_tokens_of_the_tokenizers_own_are_not_scored(scored: tuple[Any, Any]) -> None:
    (ids, special), *_ = tokens(scored[1], ["ba § [MASK]"])
    names = scored[1].convert_ids_to_tokens(list(ids))
    assert [name for name, own in zip(names, special, strict=True) if own] == ["[CLS]", "[SEP]"]
    assert names[2:-1] == ["[UNK]", "[MASK]"]


def test_no_sentences_have_no_scores(scored: tuple[Any, Any]) -> None:
    assert Scorer(*scored)([]).shape == (0,)


def test_an_untrained_model_is_a_function_of_its_seed_and_leaves_the_generator_alone(bundle: Path) -> None:
    before = torch.random.get_rng_state()
    one, same, other = (next(untrained(bundle, seed).parameters()) for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_sentence_beyond_the_positions_is_refused(scored: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="a sentence of 42 tokens exceeds 32 positions"):
        Scorer(*scored)(["ba " * 40])


@pytest.mark.parametrize(
    "kind", ["bert", "distilbert", "electra", "roberta", "xlm-roberta", "camembert", "mpnet", "data2vec-text"]
)
def test_as_many_positions_as_a_model_can_hold(kind: str) -> None:
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    alike = {"dim": 8, "n_layers": 1, "n_heads": 1, "hidden_dim": 8} if kind == "distilbert" else shape
    config = AutoConfig.for_model(kind, vocab_size=20, max_position_embeddings=12, pad_token_id=1, **alike)
    model = AutoModelForMaskedLM.from_config(config).eval()
    most = pseudo_likelihood.positions(model)
    assert most == (12 if kind in ("bert", "distilbert", "electra") else 10)
    model(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.full((1, most + 1), 5))


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def without_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def with_nothing_but_the_tokenizers_settings(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}), "utf-8")


def with_anothers_tokenizer(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"vocab_size": 5000}), "utf-8")


def without_some_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    state = load_file(path)
    save_file({name: value for name, value in state.items() if "LayerNorm" not in name}, path, {"format": "pt"})


def without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (without_config, "is not a bundle: no config.json"),
        (without_tokenizer, "has no tokenizer of its own"),
        (with_nothing_but_the_tokenizers_settings, "has no tokenizer of its own"),
        (with_anothers_tokenizer, r"word_embeddings.weight of shape \[5000, 16\], model.safetensors of \[248, 16\]"),
        (without_some_weights, "lacks weights of its model"),
        (without_weights, "is not a bundle: no model.safetensors"),
    ],
)
def test_what_is_no_bundle_is_refused_in_a_line(bundle: Path, tmp_path: Path, harm: Any, message: str) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(bundle, folder)
    harm(folder)
    with pytest.raises(ValueError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_a_mask_is_refused(bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(bundle, tmp_path / "bundle")
    path = tmp_path / "bundle" / "tokenizer_config.json"
    path.write_text(
        json.dumps({key: value for key, value in json.loads(path.read_text("utf-8")).items() if "mask" not in key}),
        "utf-8",
    )
    with pytest.raises(ValueError, match="no mask token"):
        load_tokenizer(tmp_path / "bundle")
