"""The compact BERT: post-norm encoder, tied decoder applied at the selected positions only.

A plain module of our own rather than transformers': it starts without that import (2.6 s a trial), multiplies
queries, keys and values at once, and never forms logits that no loss needs. `to_hub` and `from_hub` map its
parameters to a `BertForMaskedLM`, which gives the same logits.

Shapes: b rows, T tokens a row, H hidden, V vocabulary, S selected slots.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import ModelConfig
from trainables.noise import normal

INIT_SD = 0.02
NORM_EPS = 1e-12


class Layer(nn.Module):
    """Self-attention and feed-forward block, normalised after each."""

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

    def forward(self, x_bTH: Tensor) -> Tensor:
        b, length, hidden = x_bTH.shape
        qkv = self.qkv(x_bTH).view(b, length, 3, self.heads, hidden // self.heads).permute(2, 0, 3, 1, 4)
        drop = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(*qkv.unbind(0), dropout_p=drop)
        mixed = self.attention_out(mixed.transpose(1, 2).reshape(b, length, hidden))
        x_bTH = self.attention_norm(x_bTH + F.dropout(mixed, drop))
        return self.norm(x_bTH + F.dropout(self.down(F.gelu(self.up(x_bTH))), drop))


class CompactBert(nn.Module):
    """Masked language model whose head runs at given positions."""

    def __init__(self, config: ModelConfig, vocab_size: int, pad_id: int) -> None:
        super().__init__()
        self.config, self.pad_id = config, pad_id
        hidden = config.hidden
        self.word = nn.Parameter(torch.empty(vocab_size, hidden))
        self.position = nn.Parameter(torch.empty(config.max_positions, hidden))
        self.kind = nn.Parameter(torch.empty(1, hidden))
        self.norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.transform = nn.Linear(hidden, hidden)
        self.transform_norm = nn.LayerNorm(hidden, eps=NORM_EPS)
        self.decoder_bias = nn.Parameter(torch.empty(vocab_size))

    def initialise(self, seed: int) -> CompactBert:
        """Draw every parameter from its own stream, keyed by (seed, name): a module more leaves the rest unchanged."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    parameter.zero_()
                elif "norm" in name:
                    parameter.fill_(1)
                else:
                    drawn = normal(parameter.numel(), seed, "init", name).astype(np.float32)
                    parameter.copy_(torch.from_numpy(drawn).view_as(parameter).mul_(INIT_SD))
            self.word[self.pad_id].zero_()
        return self

    def hidden(self, ids_bT: Tensor) -> Tensor:
        """Encoder output, [b, T, H]."""
        x = F.embedding(ids_bT, self.word, padding_idx=self.pad_id) + self.kind[0] + self.position[: ids_bT.shape[1]]
        x = F.dropout(self.norm(x), self.config.dropout, self.training)
        for layer in self.layers:
            x = layer(x)
        return x

    def logits(self, ids_bT: Tensor, positions: Tensor) -> Tensor:
        """Logits at flat positions of [b * T], [S, V]; a position past the end stands for padding."""
        x = self.hidden(ids_bT).flatten(0, 1)
        x = x[positions.clamp(max=x.shape[0] - 1)]
        x = self.transform_norm(F.gelu(self.transform(x)))
        return F.linear(x, self.word, self.decoder_bias)

    def loss(self, ids_bT: Tensor, positions: Tensor, labels: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the slots of weight * cross-entropy (nats, float32), and the top-1 predictions, [S]."""
        logits = self.logits(ids_bT, positions).float()
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * weight).sum(), logits.detach().argmax(1)


def _names(layers: int) -> dict[str, str]:
    """Our parameter names to those of BertForMaskedLM, but for queries, keys and values."""
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
    """The state dictionary of an equal `BertForMaskedLM`; the decoder's weight is tied, so left out."""
    names = _names(model.config.layers)
    state: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        head, _, kind = name.rpartition(".qkv.")
        if not head:
            state[names[name]] = value.contiguous()
            continue
        theirs = head.replace("layers", "bert.encoder.layer") + ".attention.self"
        for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
            state[f"{theirs}.{part}.{kind}"] = piece.contiguous()
    return state


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
        "type_vocab_size": 1,
        "initializer_range": INIT_SD,
        "layer_norm_eps": NORM_EPS,
        "pad_token_id": pad_id,
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }
