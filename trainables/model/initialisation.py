"""The weights that training begins with: BERT's, or `neighbours`, for small models and short runs.

BERT's start (every weight N(0, 0.02), Devlin et al. 2019) is made for 768 channels and a million steps. At 64 channels
attention adds only 1.4 % to the residual stream, a fifth of that depends on the tokens, and every head weighs all
tokens alike. AdamW's first steps, as large as its later ones, move all embeddings the same way, by more than they
differ. Such a model predicts by word frequencies until it happens to find its neighbours, after thousands of steps, at
a random moment. `neighbours` changes numbers, not the architecture: the bundle is an ordinary BERT.

Shapes: H hidden, V vocabulary, W channels of a head.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.data.batches import Prepared
from trainables.model.bert import INIT_SD, CompactBert, for_vocabulary, hub_config
from trainables.model.masked_lm import MaskedLM
from trainables.settings.config import Config, ModelConfig

# Divided by the root of H: a spread of 0.05 at 64 channels, which AdamW's first steps of 0.002 do not drown out.
EMBEDDING_SD = 0.4
# Radians a token: a wave of 63 tokens separates far from near, one of 2.5 the next token from the one after it.
SLOWEST, FASTEST = 0.1, 2.5
# How far a head's score for the neighbour is above that for a token out of phase: this gives it most of the weight and
# leaves enough to find the others. At 4 some shapes stay longer at word frequencies, or for good; 5 to 7 are alike.
SHARPNESS = 6.0


def build(config: Config, prepared: Prepared, seed: int) -> MaskedLM:
    """The model that the settings describe, with its initial weights."""
    if config.model.compact:
        return initial_model(config.model, prepared, seed)
    from trainables.model import family

    return family.Encoder(config.model, prepared.vocab_size, prepared.pad_id).initialise(seed)


def described(config: ModelConfig, prepared: Prepared) -> dict[str, Any]:
    """The `config.json` of the model that the settings describe."""
    if config.compact:
        return hub_config(config, prepared.vocab_size, prepared.pad_id)
    from trainables.model import family

    return family.hub_config(config, prepared.vocab_size, prepared.pad_id).to_dict()


def initial_model(config: ModelConfig, prepared: Prepared, seed: int) -> CompactBert:
    """The compact BERT for the vocabulary of a corpus, with the start that `config.start` names."""
    model = for_vocabulary(config, prepared).initialise(seed)
    if config.start == "neighbours":
        neighbours(model, INIT_SD, torch.from_numpy(np.array(prepared.unigram)))
    return model


@torch.no_grad()
def neighbours(model: CompactBert, drawn_sd: float, unigram_V: Tensor) -> None:
    """Make every head of the first layer attend to one neighbouring token, in a model drawn with N(0, drawn_sd).

    The draws stay those of (seed, parameter name), scaled. The first W channels start with positions alone, because
    tokens in them blur where a head looks (at 64 channels and 2 heads, the neighbour gets 0.40 of the weight instead of
    nearly all, and the model leaves word frequencies after 350 steps instead of 150). Matrices get N(0, 1 / inputs),
    which keeps the size of their inputs. Feed-forward outputs and later layers' attention outputs start at 0, so that
    the model starts with the output of its first attention. The decoder's bias is the log of the word frequencies, so
    that no step is spent on learning them.

    unigram_V: probabilities of the tokens in the train part.
    """
    spread = EMBEDDING_SD / model.config.hidden**0.5
    waves = slice(0, _waves(model) * 2)
    for name, parameter in model.named_parameters():
        if name in ("word", "position", "kind", "nhot.weight"):
            parameter.mul_(spread / drawn_sd)
            parameter[:, waves] = 0
        elif parameter.ndim == 2:
            parameter.mul_(1 / (drawn_sd * parameter.shape[1] ** 0.5))
    for i, layer in enumerate(model.layers):
        layer.down.weight.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
        if i:
            layer.attention_out.weight.zero_()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    logs = unigram_V.log()
    model.decoder_bias.copy_(logs - logs.mean())
    _look_beside(model, spread)


def _look_beside(model: CompactBert, spread: float) -> None:
    """Put waves into the first W channels of the positions: the first layer's keys, and, turned, its queries.

    Head 0 looks at the token before, head 1 at the one after, heads 2 and 3 two tokens away, and so on: a wave turned
    by d tokens agrees best with itself d tokens away.
    """
    config = model.config
    width, waves = config.hidden // config.heads, _waves(model)
    rates = torch.linspace(SLOWEST, FASTEST, waves, dtype=torch.float64)
    angles = torch.arange(config.max_positions, dtype=torch.float64)[:, None] * rates
    cosines, sines = slice(0, waves), slice(waves, 2 * waves)
    # As large as the embeddings, whose spread is per channel; the mean square of a wave is a half.
    model.position[:, 2 * waves :] = 0
    model.position[:, : 2 * waves] = (torch.cat([angles.cos(), angles.sin()], 1) * math.sqrt(2) * spread).float()
    # The norm brings the channels to a mean square of 1. Those of the waves have half of what the others have, where
    # token and kind add up. A head's score at its neighbour is the sum of its waves' squared amplitudes over the root
    # of W; queries and keys scale it to SHARPNESS.
    amplitude = 2 / (2 - 2 * waves / config.hidden)
    size = math.sqrt(SHARPNESS * math.sqrt(width) / (waves * amplitude))
    qkv = model.layers[0].qkv.weight.view(3, config.heads, width, config.hidden)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    qkv[:2].zero_()
    for head in range(config.heads):
        away = (head // 2 + 1) * (1 if head % 2 else -1)
        turn = rates * away
        queries, keys = qkv[0, head], qkv[1, head]
        queries[cosines, cosines] = torch.diag(turn.cos()).float() * size
        queries[cosines, sines] = torch.diag(-turn.sin()).float() * size
        queries[sines, cosines] = torch.diag(turn.sin()).float() * size
        queries[sines, sines] = torch.diag(turn.cos()).float() * size
        keys[: 2 * waves, : 2 * waves] = torch.eye(2 * waves) * size


def _waves(model: CompactBert) -> int:
    """How many waves a head can hold: each takes a channel for its cosine and one for its sine."""
    return model.config.hidden // model.config.heads // 2
