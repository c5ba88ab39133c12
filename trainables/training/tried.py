"""Cautions about the starts of small models: settings at which they were not tried, or are known to get stuck.

The trials are in search_spaces/README.md, "A start for small models".
"""

from __future__ import annotations

from trainables.settings.config import Config

# By `python -m tests.benchmarks.recipe`: each alone, the others at 2 layers, hidden 64, blocks of 32, 2,048 pieces.
TRIED: dict[str, tuple[float, float]] = {
    "model.layers": (1, 4),
    "model.hidden": (64, 256),
    "model.dropout": (0, 0.1),
    "data.block": (16, 128),
    "data.tokenizer": (512, 8192),
    "optimiser.lr": (1e-3, 4e-3),
}
# BERT's start: hidden 64 had not left word frequencies after 1,200 steps, hidden 128 left them after 2,000 to 2,400 of
# 4,000, and the published hidden 256 in time.
SMALL, SHORT = 256, 5000


def cautions(config: Config, vocabulary: int) -> list[str]:
    """Cautions for people, at most one for each start. vocabulary: entries of the tokenizer."""
    if config.init_from:
        return []  # another start
    if config.model.start == "neighbours":
        return _neighbours(config, vocabulary)
    if config.model.hidden >= SMALL or config.steps >= SHORT:
        return []
    return _published(config) if config.model.compact else _family(config)


def _family(config: Config) -> list[str]:
    return [
        f"model.architecture {config.model.architecture} with model.hidden {config.model.hidden} was not tried: small "
        f"models that start at random may stay at word frequencies for thousands of steps, and these runs have "
        f"{config.steps:,}"
    ]


def _neighbours(config: Config, vocabulary: int) -> list[str]:
    model = config.model
    given = {
        "model.layers": model.layers,
        "model.hidden": model.hidden,
        "model.dropout": model.dropout,
        "data.block": config.data.block,
        "data.tokenizer": vocabulary,
        "optimiser.lr": config.optimiser.lr,
    }
    outside = [
        f"{path} {low:,g} to {high:,g}{' pieces' * (path == 'data.tokenizer')}, not {given[path]:,g}"
        for path, (low, high) in TRIED.items()
        if not low <= given[path] <= high
    ]
    if not outside:
        return []
    tried = "; ".join(outside)
    return [f"model.start neighbours was tried with {tried}: such runs may not leave word frequencies"]


def _published(config: Config) -> list[str]:
    return [
        f"model.start published with model.hidden {config.model.hidden}: models smaller than {SMALL} stay at word "
        f"frequencies for thousands of steps and leave them at a random moment, but these runs have {config.steps:,} "
        "steps; set model.start: neighbours to leave them within a few hundred"
    ]
