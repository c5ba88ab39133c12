"""Any encoder of transformers with a masked-LM head, trained from random weights under the same masking rules.

Its head is not rewritten: a hook on the encoder keeps the hidden states of the selected positions alone, so the
family's own head runs on those (tests: the full head's logits, in every family of FAMILIES). Nothing is downloaded and
no remote code runs: the configuration class and the modules are those of the installed transformers.

Shapes: b rows, T tokens a row, H hidden, V vocabulary, S selected slots.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from trainables.model.masked_lm import MaskedLM, inside, refuse_shapes, sizes
from trainables.noise import derive
from trainables.settings.config import ModelConfig

# Trained by the tests. Others of transformers' masked-LM models may do as well.
FAMILIES = (
    *("bert", "roberta", "deberta-v2", "modernbert", "electra", "distilbert"),
    *("deberta", "albert", "camembert", "xlm-roberta", "roberta-prelayernorm", "nomic_bert"),
)
# Our words -> a family's own name, the first that its configuration has.
SIZES = {
    "hidden": ("hidden_size", "dim", "d_model", "emb_dim"),
    "layers": ("num_hidden_layers", "n_layers"),
    "heads": ("num_attention_heads", "n_heads"),
    "intermediate": ("intermediate_size", "hidden_dim"),
    "max_positions": ("max_position_embeddings",),
}
# Of the encoder are all settings with this in their names, but for those of heads that are not here.
DROP, HEADS = "drop", ("classif", "summary", "pooler", "qa_", "seq_")
# As their authors published them; the configuration's own defaults leave DeBERTa's relative attention out.
_RELATIVE = {"relative_attention": True, "position_biased_input": False}
_BUCKETS = {"position_buckets": 256, "share_att_key": True, "norm_rel_ebd": "layer_norm"}
PUBLISHED: dict[str, dict[str, Any]] = {
    "deberta": {**_RELATIVE, "pos_att_type": ["c2p", "p2c"]},
    "deberta-v2": {**_RELATIVE, "pos_att_type": ["p2c", "c2p"], **_BUCKETS},
}
# Options that a model reads without its configuration listing them.
UNLISTED = {"deberta-v2": {*_BUCKETS, "conv_kernel_size", "conv_act", "conv_groups"}}
MOST_PARAMETERS = 300_000_000  # of a model that cannot be counted without memory
# They number positions from behind the padding token's id.
FROM_PADDING = ("roberta", "camembert", "xlm-roberta", "roberta-prelayernorm", "data2vec-text", "ibert")


class Cost(NamedTuple):
    """What a row of T tokens and a selected slot cost, counted by running one.

    row, slot: floating-point operations forward. parameters: tied ones counted once. row_bytes, slot_bytes: what the
    backward pass keeps.
    """

    row: float
    slot: float
    parameters: int
    row_bytes: float
    slot_bytes: float


class Encoder(MaskedLM):
    """A family's own model for masked language modelling.

    Args:
        config: its shape; `architecture` names the family.
        vocab_size: V.
        pad_id: the padding token.
        device: `meta` makes one without memory.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, pad_id: int, device: str = "cpu") -> None:
        super().__init__()
        from transformers import AutoModelForMaskedLM

        # Says at the first replacement that happens to be [PAD] that there may be padding; our rows have none.
        logging.getLogger("transformers.modeling_utils").setLevel(logging.ERROR)
        described = hub_config(config, vocab_size, pad_id)
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(0)
            self.hub: Any = AutoModelForMaskedLM.from_config(described, dtype=torch.float32, trust_remote_code=False)
        if config.gradient_checkpointing:
            self.hub.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.title = f"{type(self.hub).__name__}"
        self.at: Tensor | None = None
        self.first = pad_id + 1 if config.architecture in FROM_PADDING else None
        self.hub.base_model.register_forward_hook(self._selected)

    def _selected(self, module: Any, given: Any, output: Any) -> Any:
        """The encoder's output with the hidden states at the selected positions alone, [1, S, H]."""
        if self.at is None:
            return output
        hidden = output[0].flatten(0, 1).index_select(0, self.at)[None]
        if isinstance(output, tuple):
            return (hidden, *output[1:])
        output[next(iter(output))] = hidden
        return output

    def logits(self, ids_bT: Tensor, positions: Tensor) -> Tensor:
        """Logits at flat positions of [b * T], [S, V]."""
        self.at = inside(positions, ids_bT)
        try:
            return self.hub(input_ids=ids_bT, **self._places(ids_bT)).logits[0]
        finally:
            self.at = None

    def _places(self, ids_bT: Tensor) -> dict[str, Tensor]:
        """Positions, told to those that count what is not padding: a random replacement may draw that token."""
        if self.first is None:
            return {}
        return {"position_ids": torch.arange(ids_bT.shape[1], device=ids_bT.device)[None] + self.first}

    def initialise(self, seed: int) -> Encoder:
        """The family's own start, each module drawn from a stream of its own, keyed by (seed, name).

        In transformers' order: a module after those in it, for it may draw theirs anew; a decoder apart from the
        embedding, whose weights it then shares again.
        """

        def within(name: str, module: Any) -> None:
            for key, child in module.named_children():
                within(f"{name}.{key}" if name else key, child)
            torch.manual_seed(derive(seed, "init", name))
            self.hub._init_weights(module)

        embedding, decoder = self.hub.get_input_embeddings(), self.hub.get_output_embeddings()
        sharing = [decoder] if decoder is not None and decoder.weight is embedding.weight else []
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            for each in sharing:
                each.weight = torch.nn.Parameter(embedding.weight.clone())
            within("", self.hub)
            for each in sharing:
                each.weight = embedding.weight
        return self

    def take(self, folder: Path) -> None:
        """Take over the weights of a bundle of this family."""
        from transformers import AutoModelForMaskedLM

        theirs = AutoModelForMaskedLM.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False
        )
        shapes, due = ({name: each.shape for name, each in one.state_dict().items()} for one in (theirs, self.hub))
        refuse_shapes(folder, shapes, due)
        self.hub.load_state_dict(theirs.state_dict())

    def export(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`."""
        from transformers.utils import logging as bars

        shown = bars.is_progress_bar_enabled()
        bars.disable_progress_bar()
        self.hub.save_pretrained(folder)
        if shown:
            bars.enable_progress_bar()
        (folder / "generation_config.json").unlink(missing_ok=True)


def hub_config(config: ModelConfig, vocab_size: int, pad_id: int) -> Any:
    """The family's configuration. ValueError, in one line, for a family or an option that there is not."""
    kind = _kind(config.architecture)
    known = {*kind().to_dict()}
    settings: dict[str, Any] = {"vocab_size": vocab_size, **PUBLISHED.get(config.architecture, {})}
    for word, names in SIZES.items():
        name = next((name for name in names if name in known), None)
        if name is None:
            raise ValueError(f"model.architecture {config.architecture} has no setting for model.{word}")
        settings[name] = getattr(config, word)
    drops = {name for name in known if DROP in name and not any(head in name for head in HEADS)}
    settings |= dict.fromkeys(drops, config.dropout)
    if config.architecture in FROM_PADDING:
        settings["max_position_embeddings"] = config.max_positions + pad_id + 1
    settings |= {name: None for name in known if name.endswith("_token_id")} | {"pad_token_id": pad_id}
    if "embedding_size" in known and config.architecture != "albert":
        settings["embedding_size"] = config.hidden
    _refuse_options(config, _own(kind) | UNLISTED.get(config.architecture, set()), settings, drops)
    try:
        return kind(**settings | dict(config.options))
    except Exception as error:  # each family validates in its own way
        raise ValueError(f"model: {config.architecture} refuses this shape: {_line(error)}") from None


def cost(config: ModelConfig, vocab_size: int, pad_id: int, length: int) -> Cost:
    """Count what a row takes. length: T. ValueError, in one line, for a model that cannot be made or run."""
    return _cost(config.model_dump_json(), vocab_size, pad_id, length)


@lru_cache(maxsize=256)
def _cost(model: str, vocab_size: int, pad_id: int, length: int) -> Cost:
    config = ModelConfig.model_validate_json(model)
    hub_config(config, vocab_size, pad_id)  # what it refuses, it says in one line
    try:
        made = Encoder(config, vocab_size, pad_id, "meta")
        _refuse_places(config, made)
        try:
            counted = _counted(made, vocab_size, length)
        except (RuntimeError, NotImplementedError):  # some families look at their numbers, so they need some
            if sizes(made) > MOST_PARAMETERS:
                raise ValueError(f"{sizes(made):,} weights are too many to count its cost") from None
            counted = _counted(Encoder(config, vocab_size, pad_id), vocab_size, length)
        if not config.gradient_checkpointing:
            return counted
        plain = config.model_copy(update={"gradient_checkpointing": False})
        once = cost(plain, vocab_size, pad_id, length).row_bytes - counted.row_bytes
        return counted._replace(row_bytes=counted.row_bytes + once / config.layers)  # a layer is there once again
    except Exception as error:  # foreign code may raise anything
        raise ValueError(
            f"model.architecture {config.architecture} cannot be trained with this shape: {_line(error)}; tested are "
            f"{', '.join(FAMILIES)}"
        ) from None


def _counted(made: Encoder, vocab_size: int, length: int) -> Cost:
    """Count operations, and bytes that the backward pass keeps, of one row with one and with two slots."""
    from torch.utils.flop_counter import FlopCounterMode

    device = next(made.parameters()).device
    ids, own = (
        torch.zeros(1, length, dtype=torch.long, device=device),
        {each.untyped_storage()._cdata for each in made.parameters()},
    )
    counts: list[tuple[float, int]] = []
    for slots in (1, 2):
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor, kept: dict[int, Tensor] = kept) -> Tensor:
            kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with (
            FlopCounterMode(display=False) as counter,
            torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each),
        ):
            logits = made.train().logits(ids, torch.zeros(slots, dtype=torch.long, device=device))
        if logits.shape != (slots, vocab_size):
            raise ValueError("its head does not run at selected positions alone")
        size = sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)
        counts.append((float(counter.get_total_flops()), size))
    (one, one_bytes), (two, two_bytes) = counts
    return Cost(2 * one - two, two - one, sizes(made), 2 * one_bytes - two_bytes, two_bytes - one_bytes)


def _kind(architecture: str) -> type[Any]:
    """The configuration class of a family."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    if architecture in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        kind = cast("type[Any]", CONFIG_MAPPING[architecture])
        if not getattr(kind(), "is_encoder_decoder", False):
            return kind
        raise ValueError(f"model.architecture {architecture} has a decoder, which no masked position needs")
    names = ["compact-bert", *MODEL_FOR_MASKED_LM_MAPPING_NAMES]
    close = get_close_matches(architecture, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"use compact-bert or one of {', '.join(FAMILIES)}"
    raise ValueError(f"model.architecture {architecture!r:.60} is no family with a masked-LM head; {hint}")


def _own(kind: type[Any]) -> set[str]:
    """The settings of a family that are not those of every configuration."""
    from transformers import PretrainedConfig

    return {*kind().to_dict()} - {*PretrainedConfig().to_dict()}


def _refuse_places(config: ModelConfig, made: Encoder) -> None:
    """A family that counts positions by what is not padding needs them told, which `_places` does for some."""
    for name, module in made.hub.named_modules():
        counts = isinstance(module, torch.nn.Embedding) and "position" in name and module.padding_idx is not None
        if counts and config.architecture not in FROM_PADDING:
            raise ValueError("it counts positions by what is not padding, which a random replacement may be")


def _refuse_options(config: ModelConfig, own: set[str], given: Mapping[str, Any], free: set[str]) -> None:
    words = {name: word for word, names in SIZES.items() for name in names}
    for name in config.options:
        if name in words and name in given:
            raise ValueError(f"model.options.{name}: set model.{words[name]} instead")
        if name in given and name not in {*free, *PUBLISHED.get(config.architecture, {}), "embedding_size"}:
            raise ValueError(f"model.options.{name}: it follows from the tokenizer")
        if name not in own:
            close = get_close_matches(name, sorted(own - words.keys()), 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(f"model.options: {config.architecture} has no option {name!r:.60}{hint}")


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text or type(error).__name__)[:200]
