"""The compact BERT is BertForMaskedLM, and its start depends on the seed and the parameter's name alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM

from trainables.model.bert import CompactBert, hub_config, to_hub
from trainables.noise import StepNoise
from trainables.settings.config import Config, ModelConfig
from trainables.training.optimiser import Optimiser, schedule

SMALL = ModelConfig(hidden=32, layers=2, heads=4, intermediate=64, max_positions=16, dropout=0.1)


def small(seed: int = 0) -> CompactBert:
    return CompactBert(SMALL, vocab_size=50, pad_id=0).initialise(seed)


def hub_twin(model: CompactBert) -> BertForMaskedLM:
    twin = BertForMaskedLM(BertConfig(**hub_config(SMALL, 50, 0)))  # pyright: ignore[reportArgumentType]
    missing, unexpected = twin.load_state_dict(to_hub(model), strict=False)
    assert not unexpected
    assert set(missing) <= {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    return twin


def test_logits_equal_those_of_bert() -> None:
    model = small().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
        twin = hub_twin(model).eval()
        ids, positions = torch.randint(0, 50, (3, 16)), torch.tensor([0, 7, 20, 47])
        theirs = twin(input_ids=ids).logits.flatten(0, 1)[positions]
        torch.testing.assert_close(model.logits(ids, positions), theirs, atol=2e-6, rtol=1e-5)


def test_the_second_of_a_pair_of_sentences_is_read_as_the_first() -> None:
    """Training knows one kind of segment; tokenizers of the hub give a pair's second sentence another."""
    model = small()
    twin = hub_twin(model).eval()
    ids = torch.randint(0, 50, (2, 16))
    kinds = (torch.arange(16) >= 9).long().expand(2, -1)
    with torch.no_grad():
        assert torch.equal(twin(input_ids=ids, token_type_ids=kinds).logits, twin(input_ids=ids).logits)
    assert model.kind.shape == (1, 32)
    assert twin.bert.embeddings.token_type_embeddings.weight.shape == (2, 32)


def test_training_follows_the_plain_loop() -> None:
    """Same masks, dropout 0: loss of BertForMaskedLM with labels and torch's AdamW, to 1e-4 for 50 steps."""
    config = Config.model_validate(
        {"steps": 50, "model": {**SMALL.model_dump(), "dropout": 0.0}, "data": {"block": 16}}
    )
    model = CompactBert(config.model, 50, 0).initialise(0)
    twin = BertForMaskedLM(BertConfig(**hub_config(config.model, 50, 0)))  # pyright: ignore[reportArgumentType]
    twin.load_state_dict(to_hub(model), strict=False)
    ours, theirs = Optimiser(model, config), torch.optim.AdamW(twin.parameters(), lr=5e-4, weight_decay=0.01)
    for step in range(50):
        ids = torch.randint(0, 50, (4, 16), generator=torch.Generator().manual_seed(step))
        positions = torch.arange(step % 5, 64, 5)
        labels = torch.full((64,), -100).index_copy(0, positions, ids.flatten()[positions])
        losses, *_ = model.losses(ids, positions, ids.flatten()[positions])
        loss = losses.sum()
        plain = twin(input_ids=ids, labels=labels.view(4, 16)).loss
        assert loss.item() / len(positions) == pytest.approx(plain.item(), abs=1e-4)
        (loss / len(positions)).backward()
        plain.backward()
        ours.step(ours.rate(StepNoise(0, 0, step, (4, 16))), lambda _: None, alone=True)
        torch.nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        for group in theirs.param_groups:
            group["lr"] = 5e-4 * schedule(step, 3, 50)
        theirs.step()
        theirs.zero_grad()


def test_the_bundle_files_load_as_bert(tmp_path: Path) -> None:
    import json

    model = small().eval()
    save_file(to_hub(model), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps(hub_config(SMALL, 50, 0)), "utf-8")
    loaded = BertForMaskedLM.from_pretrained(tmp_path, local_files_only=True).eval()
    ids = torch.arange(16)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(input_ids=ids).logits[0], model.logits(ids, torch.arange(16)))


def test_the_published_shape_has_11_2_million_parameters() -> None:
    model = CompactBert(ModelConfig(), 30_522, 0)
    assert sum(parameter.numel() for parameter in model.parameters()) == 11_201_338


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    one, other = dict(small(1).named_parameters()), dict(small(2).named_parameters())
    deeper = CompactBert(SMALL.model_copy(update={"layers": 3}), 50, 0).initialise(1)
    assert not torch.equal(one["word"], other["word"])
    assert all(torch.equal(dict(deeper.named_parameters())[name], value) for name, value in one.items())
    assert one["word"].std().item() == pytest.approx(0.02, rel=0.1)


def test_padding_slots_have_no_gradient() -> None:
    model = small().eval()
    ids, labels = torch.arange(16)[None], torch.tensor([3, 9])
    both, *_ = model.losses(ids, torch.tensor([3, 16]), labels)
    alone, *_ = model.losses(ids, torch.tensor([3]), labels[:1])
    assert both[0].item() == pytest.approx(alone.item(), rel=1e-6)


def test_schedule_is_linear_up_then_linear_down() -> None:
    assert [schedule(step, 2, 10) for step in (0, 1, 2, 6, 10)] == [0.0, 0.5, 1.0, 0.5, 0.0]
