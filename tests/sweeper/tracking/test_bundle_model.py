"""A registered bundle is a model that MLflow's own commands load, without pickle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pandas
import pytest
import torch
from mlflow.models import Model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from sweeper.tracking import bundle_model

WORDS = ["[PAD]", "[UNK]", "[MASK]", "the", "cat", "sat"]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A masked language model of a few weights, as trainables.mlm leaves one."""
    folder = tmp_path / "bundle"
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(WORDS), intermediate_size=8, max_position_embeddings=16, **sizes)
    torch.manual_seed(0)
    BertForMaskedLM(config).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=words, **marks).save_pretrained(folder)
    return folder


def test_mlflow_loads_a_bundle_beside_which_its_file_lies_and_fills_a_gap(bundle: Path) -> None:
    described = bundle_model.description("0" * 32, "2026-01-01T00:00:00")
    (bundle / bundle_model.FILE).write_text(described, "utf-8")
    assert Model.load(str(bundle)).flavors["python_function"]["loader_module"] == "sweeper.tracking.bundle_model"
    loaded = mlflow.pyfunc.load_model(str(bundle))
    (one,) = loaded.predict(pandas.DataFrame({"text": ["the [MASK] sat"]}))
    assert len(one) == bundle_model.TOP
    assert {answer["token_str"] for answer in one} <= {*WORDS}


def test_no_bundle_of_another_kind_and_no_pickle_is_loaded(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no masked language model"):
        bundle_model._load_pyfunc(str(tmp_path))
    (bundle / "model.safetensors").unlink()
    (bundle / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(OSError, match="safetensors"):
        bundle_model._load_pyfunc(str(bundle))
