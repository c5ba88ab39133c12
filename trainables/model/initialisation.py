"""Where training begins: BERT's start, or one for small models and short runs, `neighbours`.

BERT's start (every weight N(0, 0.02), Devlin et al. 2019) is made for 768 channels and a million steps. At 64 channels
what attention adds to the residual stream is 1.4 % of it, a fifth of that depends on the tokens, and every head weighs
all tokens alike, while AdamW's first steps, as large as its later ones, move all embeddings the same way by more than
what tells them apart. Such a model predicts by word frequencies until it happens on its neighbours, after thousands of
steps, at a random moment. `neighbours` changes numbers, not the architecture: the bundle is an ordinary BERT.

Shapes: H hidden, V vocabulary, W channels of a head.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from trainables.data.batches import Prepared
from trainables.model.bert import INIT_SD, CompactBert, for_vocabulary
from trainables.settings.config import ModelConfig

# Over the root of H: a spread of 0.05 at 64 channels, which AdamW's first steps of 0.002 do not drown.
EMBEDDING_SD = 0.4
# Radians a token: a wave of 63 tokens tells far from near, one of 2.5 tells the next token from the one after it.
SLOWEST, FASTEST = 0.1, 2.5
# Of a head's scores, the neighbour's above that of a token out of step: most of the weight, and enough left for the
# others to be found. At 4 some shapes stay longer at word frequencies, or for good; 5 to 7 are alike.
SHARPNESS = 6.0


def initial_model(config: ModelConfig, prepared: Prepared, seed: int) -> CompactBert:
    """A model for the vocabulary of a corpus, as `config.start` has it begin."""
    model = for_vocabulary(config, prepared).initialise(seed)
    if config.start == "neighbours":
        neighbours(model, INIT_SD, torch.from_numpy(np.array(prepared.unigram)))
    return model


@torch.no_grad()
def neighbours(model: CompactBert, drawn_sd: float, unigram_V: Tensor) -> None:
    """Have every head of the first layer begin at one neighbouring token, of a model drawn with N(0, drawn_sd).

    The draws stay those of (seed, parameter name), scaled. The first W channels are the positions' alone to begin with:
    what tokens would add to them blurs where a head looks (at 64 channels and 2 heads, 0.40 of its weight at the
    neighbour instead of nearly all, and word frequencies left after 350 steps instead of 150). Matrices get
    N(0, 1 / inputs), which keeps the size of what they multiply; feed-forward outputs and later layers' attention
    outputs begin at 0, so that the model begins as what its first attention finds; the decoder's bias is the log of the
    word frequencies, so that no step is spent on learning them.

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
    """Waves in the first W channels of the positions; the first layer's keys are they, its queries they turned.

    Head 0 begins at the token before, head 1 at the one after, heads 2 and 3 two tokens away, and so on: a wave turned
    by d tokens agrees best with itself d tokens away.
    """
    config = model.config
    width, waves = config.hidden // config.heads, _waves(model)
    rates = torch.linspace(SLOWEST, FASTEST, waves, dtype=torch.float64)
    angles = torch.arange(config.max_positions, dtype=torch.float64)[:, None] * rates
    cosines, sines = slice(0, waves), slice(waves, 2 * waves)
    # As large as the embeddings, whose spread is per channel: the mean square of a wave is a half.
    model.position[:, 2 * waves :] = 0
    model.position[:, : 2 * waves] = (torch.cat([angles.cos(), angles.sin()], 1) * math.sqrt(2) * spread).float()
    # The norm brings the channels to a mean square of 1; those of the waves have half of what the others have, where
    # token and kind add up. A head's score at its neighbour is the sum of a wave's squared amplitude over its waves, by
    # the root of W: queries and keys make it SHARPNESS.
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
    """As many as a head can hold, each in a channel for its cosine and one for its sine."""
    return model.config.hidden // model.config.heads // 2
