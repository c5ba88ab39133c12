"""The compact BERT: post-norm encoder, tied decoder applied at the selected positions only.

A plain module of our own rather than transformers': it starts without that import (2.6 s a trial), multiplies queries,
keys and values in one product, and skips what no loss needs: the last layer, past its attention, and the decoder run at
the selected positions alone. `to_hub` maps its parameters to a `BertForMaskedLM` with the same logits. Training in
float32 on a CPU goes through cpu_kernels.py, the same arithmetic by hand; everything else through torch's modules.

Shapes: b rows, T tokens a row, H hidden, V vocabulary, S selected slots, n = b * T.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from trainables.data.batches import Prepared
from trainables.model import cpu_kernels, dropout
from trainables.model.masked_lm import WEIGHTS, Guesses, MaskedLM, inside, refuse_shapes
from trainables.model.nhot import NHot, substrings
from trainables.noise import normal
from trainables.settings.config import ModelConfig

INIT_SD = 0.02
NORM_EPS = 1e-12
TYPES = 2  # in the published model, for pairs of sentences: both have the one embedding that was trained


class Layer(nn.Module):
    """An encoder layer: self-attention and feed-forward block, normalised after each."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        hidden = config.hidden
        self.heads, self.dropout = config.heads, config.dropout
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.attention_out = nn.Linear(hidden, hidden)
        self.attention_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.up = nn.Linear(hidden, config.intermediate)
        self.down = nn.Linear(config.intermediate, hidden)
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)

    def forward(self, x_bTH: Tensor, at: Tensor | None = None) -> Tensor:
        """[b, T, H] to the same, or to [S, H] at flat positions of [b * T]."""
        b, length, hidden = x_bTH.shape
        qkv = self.qkv(x_bTH).view(b, length, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0), dropout_p=drop).transpose(1, 2).reshape(x_bTH.shape)
        x = x_bTH
        if at is not None:
            x, mixed = (each.flatten(0, 1).index_select(0, at) for each in (x, mixed))
        x = self.attention_norm(x + F.dropout(self.attention_out(mixed), drop))
        return self.norm(x + F.dropout(self.down(F.gelu(self.up(x))), drop))


class CompactBert(MaskedLM):
    """Masked language model whose head runs at given positions.

    Args:
        config: its shape.
        vocab_size: V.
        pad_id: the padding token, whose embedding stays 0.
        listed: the substrings of every token, for `embedding: nhot` alone.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, pad_id: int, listed: list[list[int]] | None = None
    ) -> None:
        super().__init__()
        assert (listed is not None) == (config.embedding == "nhot")
        self.config, self.pad_id, self.title = config, pad_id, "Compact BERT"
        hidden = config.hidden
        self.word = nn.Parameter(torch.empty(vocab_size, hidden))
        self.position = nn.Parameter(torch.empty(config.max_positions, hidden))
        self.kind = nn.Parameter(torch.empty(1, hidden))
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.transform = nn.Linear(hidden, hidden)
        self.transform_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.decoder_bias = nn.Parameter(torch.empty(vocab_size))
        self.nhot = None if listed is None else NHot(listed, hidden)
        self.work = cpu_kernels.Workspace()

    def initialise(self, seed: int) -> CompactBert:
        """Draw every parameter from its own stream, keyed by (seed, name): adding a module leaves the rest unchanged.

        The spread of the n-hot layer is chosen so that the sum over a token's substrings has that of its embedding.
        """
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif "norm" in name:
                    parameter.fill_(1)
                else:
                    drawn = normal(parameter.numel(), seed, "init", name).astype(np.float32)
                    parameter.copy_(torch.from_numpy(drawn).view_as(parameter).mul_(INIT_SD))
            if self.nhot is not None:
                self.nhot.weight.div_(self.nhot.mean_substrings**0.5)
            self.word[self.pad_id].zero_()
        return self

    def table(self) -> Tensor:
        """The input embeddings by token, [V, H]: the decoder's, plus the n-hot layer's."""
        return self.word if self.nhot is None else self.word + self.nhot()

    def hidden(self, ids_bT: Tensor, at: Tensor) -> Tensor:
        """Encoder output at flat positions of [b * T], [S, H]."""
        x = F.embedding(ids_bT, self.table(), padding_idx=self.pad_id)
        x = x + self.kind[0] + self.position[: ids_bT.shape[1]]
        x = F.dropout(self.norm(x), self.config.dropout, self.training)
        for layer in self.layers[:-1]:
            x = layer(x)
        return self.layers[-1](x, at)

    def logits(self, ids_bT: Tensor, positions: Tensor) -> Tensor:
        """Logits at flat positions of [b * T], [S, V]; a position past the end stands for padding."""
        return F.linear(self._head(self.hidden(ids_bT, inside(positions, ids_bT))), self.word, self.decoder_bias)

    def losses(
        self, ids_bT: Tensor, positions: Tensor, labels: Tensor, seed: int = 0, entropies: bool = False
    ) -> Guesses:
        """Losses and predictions at the slots, and the entropies if they are wanted.

        seed: of the dropout done by hand, on a CPU; elsewhere torch's generator draws it.
        """
        if self.training and ids_bT.device.type == "cpu" and not torch.is_autocast_enabled("cpu"):
            head = self._head(self._by_hand(ids_bT, inside(positions, ids_bT), seed))
            return Guesses(*cpu_kernels.cross_entropy(head, labels, self.word, self.decoder_bias, self.work, entropies))
        return super().losses(ids_bT, positions, labels, seed, entropies)

    def export(self, folder: Path) -> None:
        """Write the `config.json` and the `model.safetensors` of an equal `BertForMaskedLM`."""
        described = hub_config(self.config, len(self.word), self.pad_id)
        (folder / "config.json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")
        save_file(to_hub(self), folder / "model.safetensors", metadata={"format": "pt"})

    def take(self, folder: Path) -> None:
        """Take over the weights of a `BertForMaskedLM`, in a model without n-hot layer."""
        state = load_file(folder / WEIGHTS)
        refuse_shapes(folder, *({name: each.shape for name, each in one.items()} for one in (state, to_hub(self))))
        self.load_state_dict(from_hub(state, self.config.layers))

    def _head(self, x_SH: Tensor) -> Tensor:
        """The decoder's input, [S, H]."""
        return self.transform_norm(F.gelu(self.transform(x_SH)))

    def _by_hand(self, ids_bT: Tensor, at: Tensor, seed: int) -> Tensor:
        """The same as `hidden`, through cpu_kernels.py, with its own dropout."""
        config, (b, length) = self.config, ids_bT.shape
        wide = b * length * config.hidden
        sizes = [wide, *[config.heads * b * length**2, wide, wide] * config.layers]
        first, *sites = dropout.draw(config.dropout, sizes, seed)
        self.work.begin()
        ids = ids_bT.flatten()
        x = cpu_kernels.rows(self.word, ids, self.pad_id)
        x = (x if self.nhot is None else x + self.nhot.rows(ids)).view(b, length, -1)
        x = cpu_kernels.drop(self.norm(x + (self.kind[0] + self.position[:length])).flatten(0, 1), first)
        for i, layer in enumerate(self.layers):
            place = cpu_kernels.LayerContext(f"{i}", layer, self.work, b, sites[3 * i : 3 * i + 3])  # pyright: ignore[reportArgumentType]
            x = cpu_kernels.layer(x, place, at if i == config.layers - 1 else None)
        return x


def for_vocabulary(config: ModelConfig, prepared: Prepared) -> CompactBert:
    """An uninitialised model for the vocabulary of a corpus."""
    listed = substrings(prepared.forms, prepared.eligible) if config.embedding == "nhot" else None
    return CompactBert(config, prepared.vocab_size, prepared.pad_id, listed)


def _names(layers: int) -> dict[str, str]:
    """Our parameter names to those of BertForMaskedLM, except queries, keys and values."""
    names = {
        "word": "bert.embeddings.word_embeddings.weight",
        "position": "bert.embeddings.position_embeddings.weight",
        "kind": "bert.embeddings.token_type_embeddings.weight",
        "decoder_bias": "cls.predictions.bias",
    }
    modules = {
        "norm": "bert.embeddings.LayerNorm",
        "transform": "cls.predictions.transform.dense",
        "transform_norm": "cls.predictions.transform.LayerNorm",
    }
    for i in range(layers):
        ours, theirs = f"layers.{i}", f"bert.encoder.layer.{i}"
        modules[f"{ours}.attention_out"] = f"{theirs}.attention.output.dense"
        modules[f"{ours}.attention_norm"] = f"{theirs}.attention.output.LayerNorm"
        modules[f"{ours}.up"] = f"{theirs}.intermediate.dense"
        modules[f"{ours}.down"] = f"{theirs}.output.dense"
        modules[f"{ours}.norm"] = f"{theirs}.output.LayerNorm"
    for ours, theirs in modules.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = f"{theirs}.{kind}"
    return names


def to_hub(model: CompactBert) -> dict[str, Tensor]:
    """The state dictionary of an equal `BertForMaskedLM`.

    A tied decoder's weight is left out. An n-hot layer is folded into the input embedding, which unties them.
    """
    names = _names(model.config.layers)
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if name.startswith("nhot."):
            continue
        head, _, kind = name.rpartition(".qkv.")
        if not head:
            state[names[name]] = (value.expand(TYPES, -1) if name == "kind" else value).contiguous()
            continue
        theirs = head.replace("layers", "bert.encoder.layer") + ".attention.self"
        for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
            state[f"{theirs}.{part}.{kind}"] = piece.contiguous()
    if model.nhot is not None:
        # If untied, transformers ties neither the weight nor the bias, which would then start at random.
        state["cls.predictions.decoder.weight"] = state[names["word"]]
        state["cls.predictions.decoder.bias"] = state[names["decoder_bias"]].clone()
        state[names["word"]] = model.table().detach()
    return state


def from_hub(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The state dictionary of a `CompactBert` without n-hot layer: what `to_hub` turns into this one.

    Raises KeyError for a tensor that is missing.
    """
    found: dict[str, Tensor] = {}
    for ours, theirs in _names(layers).items():
        found[ours] = state[theirs][:1] if ours == "kind" else state[theirs]  # all rows are one in a model of ours
    for i in range(layers):
        own = f"bert.encoder.layer.{i}.attention.self"
        for kind in ("weight", "bias"):
            parts = [state[f"{own}.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"layers.{i}.qkv.{kind}"] = torch.cat(parts)
    return found


def hub_config(config: ModelConfig, vocab_size: int, pad_id: int) -> dict[str, object]:
    """The `config.json` of an equal `BertForMaskedLM`."""
    return {
        "architectures": ["BertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": vocab_size,
        "hidden_size": config.hidden,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "intermediate_size": config.intermediate,
        "hidden_act": "gelu",
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "max_position_embeddings": config.max_positions,
        "type_vocab_size": TYPES,
        "initializer_range": INIT_SD,
        "layer_norm_eps": NORM_EPS,
        "pad_token_id": pad_id,
        "tie_word_embeddings": config.embedding == "plain",
        "torch_dtype": "float32",
    }
