"""The start for small models: where its heads look, that it learns at once, and that nothing else changes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainables.tiny import config, run
from trainables.data import batches
from trainables.model import bert, initialisation
from trainables.model.initialisation import SHARPNESS
from trainables.settings.config import Config, ModelConfig

pytestmark = pytest.mark.usefixtures("own_cache")
SHAPES = [(64, 2, 1), (64, 4, 2), (128, 2, 4), (256, 4, 2)]


def settings(corpus: Path, **changes: object) -> Config:
    return config(corpus, model={"start": "neighbours", "max_positions": 64, **changes}, data={"block": 32})


def begun(corpus: Path, seed: int = 0, **changes: object) -> tuple[bert.CompactBert, batches.Prepared]:
    asked = settings(corpus, **changes)
    prepared = batches.prepare(asked.data)
    return initialisation.initial_model(asked.model, prepared, seed).eval(), prepared


def test_the_published_start_is_not_named_in_settings() -> None:
    """So that configurations have the hashes that they always had."""
    assert "start" not in ModelConfig().model_dump()
    assert ModelConfig(start="neighbours").model_dump()["start"] == "neighbours"
    assert Config.model_validate({"model": {"start": "neighbours"}}).model.start == "neighbours"


@pytest.mark.parametrize(("hidden", "heads", "layers"), SHAPES)
def test_every_head_of_the_first_layer_begins_at_one_neighbour(
    corpus: Path, hidden: int, heads: int, layers: int
) -> None:
    net, prepared = begun(corpus, hidden=hidden, heads=heads, layers=layers)
    ids = torch.from_numpy(prepared.tokens[:128].astype(np.int64)).view(4, 32)
    width = hidden // heads
    with torch.no_grad():
        x = net.norm(net.word[ids] + net.kind[0] + net.position[:32])
        qkv = net.layers[0].qkv(x).view(4, 32, 3, heads, width).permute(2, 0, 3, 1, 4)  # pyright: ignore[reportCallIssue]
        scores = qkv[0] @ qkv[1].transpose(-1, -2) / math.sqrt(width)
    for head, away in zip(range(heads), (-1, 1, -2, 2), strict=False):
        weight = scores.softmax(-1)[:, head].diagonal(away, dim1=-2, dim2=-1)
        assert weight.mean() > 0.7
        at = scores[:, head].diagonal(away, dim1=-2, dim2=-1).mean().item()
        assert at == pytest.approx(SHARPNESS, rel=0.1), "whatever the shape"


def test_it_begins_at_word_frequencies_and_as_its_first_attention(corpus: Path) -> None:
    net, prepared = begun(corpus, layers=3)
    logs = torch.from_numpy(np.log(prepared.unigram)).float()
    assert torch.allclose(net.decoder_bias, logs - logs.mean(), atol=1e-5)
    for i, layer in enumerate(net.layers):
        assert not layer.down.weight.any()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        assert bool(layer.attention_out.weight.any()) == (i == 0)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]


def test_draws_are_keyed_by_seed_and_name(corpus: Path) -> None:
    one, again, other = (dict(begun(corpus, seed)[0].named_parameters()) for seed in (0, 0, 1))
    deeper = dict(begun(corpus, layers=3)[0].named_parameters())
    spelled = dict(begun(corpus, embedding="nhot")[0].named_parameters())
    for name, parameter in one.items():
        assert torch.equal(parameter, again[name])
        assert torch.equal(parameter, deeper[name])
        assert torch.equal(parameter, spelled[name])
    assert not torch.equal(one["word"], other["word"])


def test_it_leaves_word_frequencies_where_the_published_start_does_not(corpus: Path, tmp_path: Path) -> None:
    found = {}
    for start in ("published", "neighbours"):
        asked = config(
            corpus,
            steps=120,
            report_every=120,
            model={"start": start, "hidden": 64, "dropout": 0.0},
            optimiser={"lr": 2e-3},
            masking={"shares": {"random": 1.0, "token": 0.0, "trigram": 0.0}},
        )
        row = run(asked, tmp_path / start).rows[-1]
        found[start] = row["val/unigram_mask"] - row["val/loss_mask"]
    assert found["neighbours"] > 0.3
    assert found["published"] < 0.3
