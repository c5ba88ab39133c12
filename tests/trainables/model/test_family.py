"""Encoders of transformers: the same batches and masks, their own weights and heads."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sweeper.trainable import Trainable, TrainContext
from tests.trainables.tiny import Recorder, Stopped, config, run
from trainables import mlm, received
from trainables.masking.audit import AllReduce
from trainables.model import family, initialisation
from trainables.model.bert import CompactBert
from trainables.model.family import FAMILIES, Encoder
from trainables.model.masked_lm import MaskedLM
from trainables.settings.config import ModelConfig
from trainables.testing import in_threads

pytestmark = pytest.mark.usefixtures("own_cache")

SIX = FAMILIES[:6]
SHAPE: dict[str, Any] = {"hidden": 32, "layers": 2, "heads": 2, "intermediate": 64, "max_positions": 16}


def shape(name: str, **changes: Any) -> ModelConfig:
    return ModelConfig.model_validate({**SHAPE, "architecture": name, **changes})


def settings(corpus: Path, name: str, preset: str = "accuracy_morph", **changes: Any) -> mlm.Config:
    model = {"architecture": name, "dropout": changes.pop("dropout", 0.1)}
    masking = {"preset": preset, "update_every": 2}
    tree = {**config(corpus, model=model, **changes).model_dump(exclude={"masking"}), "masking": masking}
    return mlm.Config.model_validate(tree)


def weights(model: MaskedLM) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state().items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_runs_at_the_selected_positions_alone(name: str) -> None:
    """The slots have the logits that the family's own model has there, and the losses are theirs."""
    model = Encoder(shape(name), 300, 0).initialise(1).eval()
    ids = torch.randint(5, 300, (4, 16), generator=torch.Generator().manual_seed(0))
    at = torch.tensor([1, 5, 17, 40, 63, 64])  # the last one is padding
    with torch.inference_mode():
        whole = model.hub(input_ids=ids).logits.flatten(0, 1)
        found = model.logits(ids, at)
        assert found.shape == (6, 300)
        torch.testing.assert_close(found, whole[at.clamp(max=63)], rtol=0, atol=1e-5)
        losses, guesses, entropies = model.losses(ids, at, torch.arange(6), entropies=True)
    expected = torch.nn.functional.cross_entropy(whole[at.clamp(max=63)], torch.arange(6), reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-5)
    assert torch.equal(guesses, whole[at.clamp(max=63)].argmax(1))
    assert entropies is not None
    expected = torch.distributions.Categorical(logits=whole[at.clamp(max=63)]).entropy()
    torch.testing.assert_close(entropies, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SIX)
def test_weights_are_drawn_by_seed_and_name(name: str) -> None:
    """Runs pair: another layer leaves the rest as it was, whatever torch's generator has drawn before."""
    first = weights(Encoder(shape(name), 300, 0).initialise(3))
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, deeper = Encoder(shape(name), 300, 0).initialise(3), Encoder(shape(name, layers=3), 300, 0).initialise(3)
    assert torch.equal(torch.get_rng_state(), before), "torch's own generator goes on as if nothing had been drawn"
    assert all(torch.equal(value, first[key]) for key, value in again.state().items())
    # ModernBERT draws the outputs of its blocks with a spread that falls with the depth.
    of_depth = ("attn.Wo", "mlp.Wo", "head.dense") if name == "modernbert" else ()
    for key, value in deeper.state().items():
        if key in first and not any(part in key for part in of_depth):
            assert torch.equal(value, first[key]), key
    other = weights(Encoder(shape(name), 300, 0).initialise(4))
    drawn = [key for key, value in first.items() if value.unique().numel() > 3]
    assert drawn
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_have_the_spread_of_the_familys_own_start(name: str) -> None:
    """By tensor, beside those that transformers draws; the embedding of padding is 0 in both."""
    from transformers import AutoModelForMaskedLM

    wide = shape(name, hidden=64, layers=4, intermediate=128)
    own = Encoder(wide, 300, 0).initialise(0).hub
    theirs = AutoModelForMaskedLM.from_config(family.hub_config(wide, 300, 0))
    expected = dict(theirs.named_parameters())
    assert expected.keys() == dict(own.named_parameters()).keys()
    for key, value in own.named_parameters():
        if value.numel() >= 1000:
            assert float(value.std()) == pytest.approx(float(expected[key].std()), rel=0.15), key
        elif value.ndim == 1:
            assert torch.equal(value, expected[key]), key
    words = own.get_input_embeddings().weight
    assert torch.equal(words[0] == 0, theirs.get_input_embeddings().weight[0] == 0)


@pytest.mark.parametrize("name", SIX)
def test_it_trains_within_the_budget_and_leaves_a_bundle(name: str, corpus: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    chosen = settings(corpus, name)
    found = run(chosen, tmp_path)
    last = found.rows[-1]
    assert last["train/predicted"] == chosen.budget.predicted == chosen.steps * round(0.15 * 8 * 16)
    assert last["audit/matched"] == 1
    losses = [row["val/loss"] for row in found.rows]
    assert losses == sorted(losses, reverse=True)
    bundle = found.checkpoint / "bundle"
    received.check_bundle(bundle)
    loaded = AutoModelForMaskedLM.from_pretrained(bundle, dtype=torch.float32).eval()
    own = Encoder(chosen.model, loaded.config.vocab_size, 0).eval()
    own.hub.load_state_dict(loaded.state_dict())
    ids = torch.randint(5, loaded.config.vocab_size, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = own.logits(ids, torch.arange(32))
        torch.testing.assert_close(loaded(input_ids=ids).logits.flatten(0, 1), logits, rtol=0, atol=1e-5)
    metadata = json.loads((bundle / "metadata.json").read_text("utf-8"))
    assert metadata["architecture"] == type(loaded).__name__
    assert metadata["parameters"] == sum(each.numel() for each in loaded.parameters())
    assert f"# {type(loaded).__name__}, " in (bundle / "README.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["random", "accuracy_morph"])
@pytest.mark.parametrize("name", SIX)
def test_sixty_steps(name: str, preset: str, corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, name, preset, steps=60)
    found = run(chosen, tmp_path)
    assert found.rows[-1]["train/predicted"] == chosen.budget.predicted
    assert found.rows[-1]["val/loss"] < found.rows[0]["val/loss"] - 0.5


@pytest.mark.parametrize("name", SIX)
def test_resumed_it_is_the_run_that_was_never_stopped(name: str, corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, name, steps=16, report_every=4)
    for each in ("whole", "cut", "rest"):
        (tmp_path / each).mkdir()
    whole = run(chosen, tmp_path / "whole")
    cut = Recorder(tmp_path / "cut", 8)
    with pytest.raises(Stopped):
        mlm.train(chosen, TrainContext(cut))
    rest = run(chosen, tmp_path / "rest", restore_from=cut.checkpoint)
    assert [*cut.rows, *rest.rows] == whole.rows
    assert rest.weights() == whole.weights()


@pytest.mark.parametrize("name", ["modernbert", pytest.param("deberta-v2", marks=pytest.mark.slow)])
def test_it_starts_where_another_rule_has_trained(name: str, corpus: Path, tmp_path: Path) -> None:
    found: dict[int, Path] = {}

    def leave(step: int, made: Path | None) -> None:
        assert made is not None
        found[step] = Path(shutil.move(made, tmp_path / "trunk"))

    for each in ("first", "whole", "fork"):
        (tmp_path / each).mkdir()
    at = settings(corpus, name, "random").warmup_steps
    run(settings(corpus, name, "random"), tmp_path / "first", leave_at=frozenset({at}), leave=leave)
    whole = run(settings(corpus, name), tmp_path / "whole")
    fork = run(settings(corpus, name), tmp_path / "fork", fork_from=found[at])
    assert fork.rows == whole.rows
    assert fork.weights() == whole.weights()


@pytest.mark.parametrize("name", ["bert", "modernbert"])
def test_two_ranks_are_one(name: str, corpus: Path, tmp_path: Path) -> None:
    chosen = settings(corpus, name, dropout=0.0, steps=16)
    for each in ("one", "0", "1"):
        (tmp_path / each).mkdir()
    one, recorders = run(chosen, tmp_path / "one"), [Recorder(tmp_path / f"{rank}") for rank in range(2)]
    # Ranks are processes; these threads have one generator, which a build and a step both seed.
    in_turn, built = threading.Lock(), threading.Barrier(2, timeout=60)

    def build(*given: Any) -> MaskedLM:
        with in_turn:
            model = initialisation.build(*given)
        built.wait()
        return model

    def act(rank: int, all_reduce: AllReduce) -> None:
        mlm.train(chosen, TrainContext(recorders[rank], 0, rank, 2, all_reduce=all_reduce), build)

    in_threads(2, act)
    for alone, together in zip(one.rows, recorders[0].rows, strict=True):
        assert together["val/loss"] == pytest.approx(alone["val/loss"], abs=1e-5)
        assert together["train/predicted"] == alone["train/predicted"]


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ({"architecture": "modernbrt"}, "'modernbrt' is no family with a masked-LM head; did you mean modernbert?"),
        ({"architecture": "os:system"}, "use compact-bert or one of bert, roberta"),
        ({"architecture": "bart"}, "bart has a decoder"),
        ({"architecture": "bert", "options": {"layer_norm_epsilon": 1}}, "did you mean layer_norm_eps?"),
        (
            {"architecture": "bert", "options": {"hidden_size": 8}},
            "model.options.hidden_size: set model.hidden instead",
        ),
        ({"architecture": "bert", "options": {"vocab_size": 8}}, "it follows from the tokenizer"),
        ({"architecture": "bert", "options": {"auto_map": {}}}, "has no option 'auto_map'"),
        ({"architecture": "bert", "options": {"_attn_implementation": "x"}}, "has no option '_attn_implementation'"),
        ({"architecture": "mpnet"}, "it counts positions by what is not padding"),
        ({"architecture": "fnet"}, "fnet has no setting for model.heads"),
        ({"layers": 10**6}, "should be less than or equal to 512"),
        ({"architecture": "bert", "options": {"hidden_act": "no"}}, "cannot be trained with this shape"),
        ({"architecture": "bert", "start": "neighbours"}, "start belongs to compact-bert alone"),
        ({"architecture": "bert", "embedding": "nhot"}, "embedding belongs to compact-bert alone"),
        ({"options": {"layer_norm_eps": 1e-6}}, "options belongs to a family of transformers"),
        ({"gradient_checkpointing": True}, "gradient_checkpointing belongs to a family of transformers"),
    ],
)
def test_what_cannot_be_is_one_line(model: dict[str, Any], told: str) -> None:
    def admitted() -> None:
        found = mlm.Config.model_validate({"model": {**SHAPE, **model}, "data": {"block": 16}})
        family.cost(found.model, 300, 1, 16)  # as `check` does, before a sweep starts

    with pytest.raises(ValueError) as caught:  # noqa: PT011
        admitted()
    message = str(caught.value).partition("Value error, ")[2] or str(caught.value)
    message = message.split(" [type=")[0].removeprefix("1 validation error for Config\nmodel.layers\n  ")
    assert told in message
    assert "\n" not in message


def test_options_reach_the_family() -> None:
    model = Encoder(shape("modernbert", options={"local_attention": 8}), 300, 0)
    assert model.hub.config.local_attention == 8
    assert model.hub.config.attention_dropout == model.hub.config.mlp_dropout == 0.1


def test_gradient_checkpointing_changes_no_number(corpus: Path, tmp_path: Path) -> None:
    rows = []
    for given in (False, True):
        chosen = settings(corpus, "bert", steps=16, report_every=8)
        model = chosen.model.model_copy(update={"gradient_checkpointing": given})
        (tmp_path / f"{given}").mkdir()
        rows.append(run(chosen.model_copy(update={"model": model}), tmp_path / f"{given}").rows)
    assert rows[0] == rows[1]
    kept = [family.cost(shape("bert", gradient_checkpointing=given), 300, 0, 16).row_bytes for given in (False, True)]
    assert 0.5 < kept[1] / kept[0] < 0.9, "what is kept, and a layer that is computed again"


@pytest.mark.parametrize("architecture", ["compact", "bert"])
def test_a_step_on_short_rows_costs_less(corpus: Path, architecture: str) -> None:
    """A tenth of the run at 4 tokens and the rest at 16, against runs on blocks of 4 and of 16 alone."""
    whole = mlm.Config.model_validate(config(corpus).model_dump()).model_copy(update={"steps": 30})
    whole = whole if architecture == "compact" else settings(corpus, "bert").model_copy(update={"steps": 30})
    mixed = whole.model_copy(update={"sequence_lengths": ((0.0, 4), (0.1, 16))})
    data = whole.data.model_copy(update={"block": 4})
    short = whole.model_copy(update={"data": data, "batch_size": 4 * whole.batch_size})
    assert whole.data.block == 16
    assert short.flops_per_step < 0.98 * whole.flops_per_step
    assert mixed.flops_per_step == pytest.approx(0.1 * short.flops_per_step + 0.9 * whole.flops_per_step)
    assert mixed.validation_flops == pytest.approx(whole.validation_flops), "on whole blocks"


def test_what_a_step_costs_is_counted(corpus: Path) -> None:
    """A BERT by either way has about the same products; parameters are the model's own."""
    plain, compact = settings(corpus, "bert"), mlm.Config.model_validate(config(corpus).model_dump())
    assert plain.flops_per_step == pytest.approx(compact.flops_per_step, rel=0.1)
    model = Encoder(plain.model, plain.vocabulary, 0)
    assert plain.checkpoint_bytes == 12 * sum(parameter.numel() for parameter in model.parameters())
    assert plain.memory_bytes > plain.checkpoint_bytes


def test_the_compact_model_is_hashed_as_before() -> None:
    assert "architecture" not in ModelConfig().model_dump()
    assert "architecture" in shape("bert").model_dump()
    assert isinstance(CompactBert(ModelConfig(), 30, 0), MaskedLM)


def test_a_model_of_ones_own_is_twenty_lines(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's: not in transformers, each layer reads all outputs below it, as in GPT-BERT."""
    text = (Path(mlm.__file__).parent / "README.md").read_text("utf-8")
    source = text.split("## A model of your own")[1].split("```python\n")[1].split("```")[0]
    (tmp_path / "dense.py").write_text(source, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    own = Trainable.load("dense:train")
    chosen = own.config.model_validate(config(corpus).model_dump())
    recorders = {name: Recorder(tmp_path / name, stop) for name, stop in (("whole", None), ("cut", 10), ("rest", None))}
    for recorder in recorders.values():
        recorder.checkpoint.parent.mkdir()
    own.train(chosen, TrainContext(recorders["whole"], 3))
    with pytest.raises(Stopped):
        own.train(chosen, TrainContext(recorders["cut"], 3))
    own.train(chosen, TrainContext(recorders["rest"], 3, restore_from=recorders["cut"].checkpoint))
    rows = recorders["whole"].rows
    assert [*recorders["cut"].rows, *recorders["rest"].rows] == rows
    assert rows[-1]["train/predicted"] == chosen.budget.predicted
    assert rows[-1]["val/loss"] < rows[0]["val/loss"]
    assert "# Dense encoder, " in (recorders["whole"].checkpoint / "bundle" / "README.md").read_text("utf-8")
    assert own.probe is not None
    assert own.probe(chosen, "cpu", 1).step > 0


@pytest.mark.parametrize("name", ["compact-bert", "bert"])
def test_rows_are_shown_in_parts_before_they_are_shown_whole(name: str, corpus: Path, tmp_path: Path) -> None:
    """The first half of the run in rows of 4 tokens: the same masks and budget, another loss, the same bits resumed."""
    given = settings(corpus, name, steps=16, report_every=4).model_dump()
    short = mlm.Config.model_validate({**given, "sequence_lengths": [[0, 4], [0.5, 16]]})
    assert [short.sequence_length(step) for step in (0, 7, 8, 15)] == [4, 4, 16, 16]
    for each in ("whole", "short", "cut", "rest"):
        (tmp_path / each).mkdir()
    whole, found = run(mlm.Config.model_validate(given), tmp_path / "whole"), run(short, tmp_path / "short")
    assert found.rows[-1]["train/predicted"] == whole.rows[-1]["train/predicted"]
    assert found.rows[0]["val/loss"] != whole.rows[0]["val/loss"]
    cut = Recorder(tmp_path / "cut", 4)
    with pytest.raises(Stopped):
        mlm.train(short, TrainContext(cut))
    assert [*cut.rows, *run(short, tmp_path / "rest", restore_from=cut.checkpoint).rows] == found.rows


def test_a_short_row_sees_nothing_beside_it() -> None:
    """The loss at a position depends on its own part of the row alone."""
    model = Encoder(shape("modernbert"), 300, 0).initialise(0).eval()
    ids = torch.randint(5, 300, (2, 16), generator=torch.Generator().manual_seed(0))
    other = ids.clone()
    other[:, 8:] = 7
    with torch.inference_mode():
        first, second = (model.logits(each.view(-1, 8), torch.tensor([1, 18])) for each in (ids, other))
        assert torch.equal(first, second)
        assert not torch.allclose(model.logits(ids, torch.tensor([1])), model.logits(other, torch.tensor([1])))


@pytest.mark.parametrize("given", [[[0.1, 4]], [[0, 4], [0, 16]], [[0, 5]]])
def test_lengths_that_cannot_be_are_refused(given: list[Any], corpus: Path) -> None:
    with pytest.raises(ValueError, match="sequence_lengths"):
        mlm.Config.model_validate({**config(corpus).model_dump(), "sequence_lengths": given})


def test_deberta_is_the_published_one() -> None:
    """The defaults of transformers leave the relative attention out."""
    made = Encoder(shape("deberta-v2", options={"position_buckets": 8}), 300, 0).hub
    assert made.config.relative_attention
    assert made.config.pos_att_type == ["p2c", "c2p"]
    assert made.deberta.encoder.rel_embeddings.weight.shape == (16, 32)
    plain = Encoder(shape("deberta-v2", options={"relative_attention": False}), 300, 0).hub
    assert not hasattr(plain.deberta.encoder, "rel_embeddings")


@pytest.mark.parametrize("name", ["modernbert", "camembert", "nomic_bert"])
def test_it_goes_on_from_a_bundle_of_its_family(name: str, corpus: Path, tmp_path: Path) -> None:
    from trainables.data.batches import prepare
    from trainables.training.run import Run

    given = settings(corpus, name, steps=16, report_every=8)
    bundle = run(given, tmp_path).checkpoint / "bundle"
    again = mlm.Config.model_validate({**given.model_dump(), "init_from": str(bundle)})
    assert "SHA-256" in mlm.check(again, mlm.prepare(again))[-1]
    begun = Run(again, TrainContext(lambda *_: None), prepare(again.data))
    before = Run(given, TrainContext(lambda *_: None), prepare(given.data))
    assert any(not torch.equal(value, before.model.state()[key]) for key, value in begun.model.state().items())
    option = {"hidden_activation": "relu"} if name == "modernbert" else {"layer_norm_eps": 1e-3}
    other = mlm.Config.model_validate({**again.model_dump(), "model": {**given.model.model_dump(), "options": option}})
    with pytest.raises(ValueError, match="the same architecture alone"):
        mlm.check(other, mlm.prepare(other))


def test_a_model_that_no_task_reads_is_refused_before_it_is_trained(corpus: Path, tmp_path: Path) -> None:
    class Bare(MaskedLM):
        def __init__(self) -> None:
            super().__init__()
            self.words = torch.nn.Parameter(torch.zeros(300, 300))

        def logits(self, ids_bT: Tensor, positions: Tensor) -> Tensor:
            return self.words[ids_bT.flatten()[positions.clamp(max=ids_bT.numel() - 1)]]

    from trainables.data.batches import prepare
    from trainables.training.run import Run

    chosen = config(corpus)
    made = Run(chosen, TrainContext(lambda *_: None), prepare(chosen.data), lambda *_: Bare())
    with pytest.raises(ValueError, match="evaluate needs a model whose bundle transformers loads"):
        made.refuse_unscored()
