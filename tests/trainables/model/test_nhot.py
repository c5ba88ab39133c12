"""The n-hot layer: which substrings a token has, its gradient, and a bundle in which nothing of it is left to see."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sweeper.trainable import TrainContext
from tests.trainables.tiny import Recorder, Stopped, config, run
from trainables import mlm
from trainables.data import batches
from trainables.data.word_forms import WORDPIECE
from trainables.model import nhot
from trainables.model.bert import CompactBert, for_vocabulary
from trainables.model.nhot import NHot, substrings
from trainables.settings import described
from trainables.settings.config import Config, ModelConfig
from trainables.training import bundle

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TOKENS = [*SPECIALS, "##g", "g", "i", "n", "##ing", "in", "king", "##king", "Ki", "[unused0]", "[", "##", "##]", "##un"]
ELIGIBLE = np.arange(len(TOKENS)) >= len(SPECIALS)


def made_up(size: int, seed: int = 0) -> list[str]:
    """A vocabulary over few letters, so that much is within much, half of it continuations."""
    source = random.Random(seed)
    words = {"".join(source.choices("abcd", k=source.randint(1, 6))) for _ in range(3 * size)}
    return [*SPECIALS, *[source.choice(["", "##"]) + word for word in sorted(words)][: size - len(SPECIALS)]]


def dense(columns: list[list[int]]) -> torch.Tensor:
    matrix = torch.zeros(len(columns), len(columns))
    for token, listed in enumerate(columns):
        matrix[token, listed] = 1
    return matrix


def by_hand(tokens: list[str]) -> torch.Tensor:
    """The rule, slowly: entry j is in token i as a string without `##`, and the first entry of that string."""
    texts = ["" if token.startswith("[") and len(token) > 1 else token for token in tokens]
    texts = [text[2:] if text.startswith("##") and len(text) > 2 else text for text in texts]
    matrix = torch.zeros(len(tokens), len(tokens))
    for i, text in enumerate(texts):
        for j, part in enumerate(texts):
            matrix[i, j] = float(part != "" and part in text and texts.index(part) == j)
    return matrix


pytestmark = pytest.mark.usefixtures("own_cache")


def n_hot(corpus: Path, **changes: object) -> Config:
    model = {"embedding": "nhot", **(changes.pop("model", {}))}  # pyright: ignore[reportGeneralTypeIssues]
    return config(corpus, model=model, **changes)


def test_substrings_by_hand() -> None:
    found = dict(zip(TOKENS, substrings(WORDPIECE.forms(TOKENS), ELIGIBLE), strict=True))
    named = {token: {TOKENS[column] for column in columns} for token, columns in found.items()}
    assert named["king"] == named["##king"] == {"king", "##ing", "in", "i", "n", "##g"}
    assert named["##ing"] == {"##ing", "in", "i", "n", "##g"}
    assert named["g"] == named["##g"] == {"##g"}, "one substring, one column: the smaller id's"
    assert named["Ki"] == {"Ki", "i"}
    assert named["##un"] == {"##un", "n"}
    assert named["##"] == {"##"}
    assert named["##]"] == {"##]"}
    assert named["["] == {"["}
    assert all(named[special] == set() for special in [*SPECIALS, "[unused0]"])
    assert all(columns == sorted(set(columns)) for columns in found.values())


def test_substrings_are_those_of_the_slow_rule() -> None:
    for tokens in (TOKENS, made_up(300)):
        eligible = np.arange(len(tokens)) >= len(SPECIALS)
        assert torch.equal(dense(substrings(WORDPIECE.forms(tokens), eligible)), by_hand(tokens))


def test_thirty_thousand_entries_take_a_moment() -> None:
    source = random.Random(0)
    tokens = ["".join(source.choices("abcdefghijklmnopqrst", k=source.randint(1, 12))) for _ in range(30_522)]
    begin = time.process_time()
    substrings(WORDPIECE.forms(tokens), np.ones(len(tokens), bool))
    assert time.process_time() - begin < 5


@pytest.mark.parametrize("longest", [1, 3, 128])
def test_the_layer_is_the_matrix_product_and_so_is_its_gradient(longest: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nhot, "LONGEST", longest)
    tokens = made_up(300)
    columns = substrings(WORDPIECE.forms(tokens), np.arange(300) >= len(SPECIALS))
    layer, matrix = NHot(columns, 8), dense(columns)
    assert layer.transpose.cut == (matrix.sum(0).max() > longest)
    with torch.no_grad():
        layer.weight.normal_()
    weight = layer.weight.detach().clone().requires_grad_()
    upstream = torch.randn(300, 8)
    layer().backward(upstream)
    (matrix @ weight).backward(upstream)
    torch.testing.assert_close(layer(), matrix @ weight, atol=1e-5, rtol=1e-5)
    assert layer.weight.grad is not None
    assert weight.grad is not None
    torch.testing.assert_close(layer.weight.grad, weight.grad, atol=1e-5, rtol=1e-5)
    assert list(layer.state_dict()) == ["weight"], "the fixed matrix is no part of a checkpoint"


def test_other_initial_weights_are_unchanged_bitwise() -> None:
    tokens = made_up(300)
    columns = substrings(WORDPIECE.forms(tokens), np.arange(300) >= len(SPECIALS))
    small = ModelConfig(hidden=32, layers=2, intermediate=64, max_positions=16)
    plain = dict(CompactBert(small, 300, 0).initialise(3).named_parameters())
    model = CompactBert(small.model_copy(update={"embedding": "nhot"}), 300, 0, columns).initialise(3)
    ours = dict(model.named_parameters())
    assert set(ours) - set(plain) == {"nhot.weight"}
    assert all(torch.equal(ours[name], value) for name, value in plain.items())
    other = dict(CompactBert(model.config, 300, 0, columns).initialise(4).named_parameters())
    assert not torch.equal(other["nhot.weight"], ours["nhot.weight"])
    with torch.no_grad():
        assert model.nhot is not None
        added = model.nhot()
        assert added[columns.index([]) :][0].abs().max() == 0
        assert (model.table()[:5] == model.word[:5]).all(), "specials have no substrings"
        assert model.table()[0].abs().max() == 0, "padding stays zero"
        assert added[5:].std().item() == pytest.approx(0.02, rel=0.25)


def test_it_trains_and_the_decoder_keeps_its_own_embedding(corpus: Path, tmp_path: Path) -> None:
    one = run(n_hot(corpus), tmp_path / "one")
    plain = run(config(corpus), tmp_path / "plain")
    assert one.rows[-1]["val/loss"] != plain.rows[-1]["val/loss"]
    states, _ = bundle.read_checkpoint(one.checkpoint)
    settings = n_hot(corpus)
    fresh = for_vocabulary(settings.model, batches.prepare(settings.data)).initialise(0)
    moved = {name for name, value in fresh.state_dict().items() if not torch.equal(value, states["model"][name])}
    assert {"word", "nhot.weight"} <= moved


def test_stopped_and_resumed_is_never_stopped_bitwise(corpus: Path, tmp_path: Path) -> None:
    settings = n_hot(corpus)
    whole = run(settings, tmp_path / "whole")
    first, second = Recorder(tmp_path / "cut", 10), Recorder(tmp_path / "cut")
    with pytest.raises(Stopped):
        mlm.train(settings, TrainContext(first))
    mlm.train(settings, TrainContext(second, restore_from=first.checkpoint))
    assert first.rows + second.rows == whole.rows
    assert second.weights() == whole.weights()


@pytest.mark.parametrize("embedding", ["nhot", "plain"])
def test_the_folded_bundle_is_an_ordinary_bert(corpus: Path, tmp_path: Path, embedding: str) -> None:
    """Loaded by AutoModelForMaskedLM with nothing missing: equal logits to 1e-5, and it fills masks."""
    settings = config(corpus, steps=60, report_every=60, model={"embedding": embedding})
    recorder = run(settings, tmp_path)
    folder, prepared = recorder.checkpoint / "bundle", batches.prepare(settings.data)
    states, _ = bundle.read_checkpoint(recorder.checkpoint)
    model = for_vocabulary(settings.model, prepared)
    model.load_state_dict(states["model"])
    model.eval()
    loaded, info = AutoModelForMaskedLM.from_pretrained(folder, local_files_only=True, output_loading_info=True)
    assert type(loaded).__name__ == "BertForMaskedLM"
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert json.loads((folder / "config.json").read_text("utf-8"))["tie_word_embeddings"] == (embedding == "plain")
    untied = loaded.get_input_embeddings().weight.data_ptr() != loaded.get_output_embeddings().weight.data_ptr()
    assert untied == (embedding == "nhot")
    ids = torch.from_numpy(prepared.evaluation("val").inputs[:8].astype(np.int64))
    with torch.no_grad():
        ours = model.logits(ids, torch.arange(ids.numel()))
        theirs = loaded.eval()(input_ids=ids).logits.flatten(0, 1)
        assert ours.std() > 0.1, "a model that learned nothing shows nothing"
        assert model.decoder_bias.abs().max() > 1e-3
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
        print("largest logit difference", (theirs - ours).abs().max().item())
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    asked = tokenizer(f"ba {tokenizer.mask_token} do", return_tensors="pt")
    with torch.no_grad():
        logits = loaded(input_ids=asked.input_ids).logits[asked.input_ids == tokenizer.mask_token_id]
    assert tokenizer.convert_ids_to_tokens(logits.argmax(1).tolist())[0] not in tokenizer.all_special_tokens


def test_the_card_says_so_and_the_estimates_count_the_layer(corpus: Path, tmp_path: Path) -> None:
    plain, ours = Config(), Config.model_validate({"model": {"embedding": "nhot"}})
    rows = ours.vocabulary * ours.model.hidden
    assert ours.checkpoint_bytes - plain.checkpoint_bytes == 12 * rows
    assert ours.memory_bytes - plain.memory_bytes == 16 * rows + 8 * rows
    assert 0 < ours.flops_per_step - plain.flops_per_step < 0.01 * plain.flops_per_step
    folder = run(n_hot(corpus), tmp_path).checkpoint / "bundle"
    parameters = json.loads((folder / "metadata.json").read_text("utf-8"))["parameters"]
    without = json.loads(
        (run(config(corpus), tmp_path / "plain").checkpoint / "bundle/metadata.json").read_text("utf-8")
    )
    assert parameters - without["parameters"] == batches.prepare(config(corpus).data).vocab_size * 32
    cards = [(path / "README.md").read_text("utf-8") for path in (folder, tmp_path / "plain/checkpoint/bundle")]
    assert ["N-hot" in card for card in cards] == [True, False]
    assert all("predicted: 50.0% at random, 30.0% by token score, 20.0% by trigram score" in card for card in cards)


def test_the_cards_words_on_masking() -> None:
    every = {"random": 0.25, "whole_word": 0.25, "span": 0.25, "rarity": 0.25}
    for masking, words in [
        ({"policy": "amlm", "score": "soft", "mask_warmup": 0}, "15% of the positions predicted: drawn by AMLM's soft"),
        ({"rate_schedule": "linear"}, "40% falling to 15% of"),
        ({"shares": every}, "25.0% at random, 25.0% as whole words, 25.0% as spans, 25.0% by rarity"),
        ({"signal": "frequency"}, "(scores of frequency)"),
    ]:
        assert words in described.masking(Config.model_validate({"masking": masking}).masking)
