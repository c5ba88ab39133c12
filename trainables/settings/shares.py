"""How the mask budget is divided among the sources of catalogue.py."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.settings.catalogue import SOURCES
from trainables.settings.frozen import Fraction, Frozen, Own, with_fields


def with_shares(model: type[Own], *names: str) -> type[Own]:
    """A type of shares with further ones. At 0 they are left out, so that older hashes stay."""
    return with_fields(model, **{name: (Fraction, Field(0.0, exclude_if=lambda share: not share)) for name in names})


def _with_later_sources(model: type[Own]) -> type[Own]:
    """Add a share for every source of the catalogue without one."""
    if stray := {*model.model_fields} - {*SOURCES}:
        raise TypeError(f"catalogue.py has no entry for the share {', '.join(sorted(stray))}")
    return with_shares(model, *(name for name in SOURCES if name not in model.model_fields))


@_with_later_sources
class Shares(Frozen):
    """How the mask budget is divided among the sources of catalogue.py; the shares sum to 1.

    Those below are part of the hash of every configuration.
    """

    random: Fraction = 1.0
    token: Fraction = 0.0
    trigram: Fraction = 0.0
    whole_word: Fraction = 0.0
    span: Fraction = 0.0
    rarity: Fraction = 0.0

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = sum(share for _, share in self)
        if not math.isclose(total, 1, abs_tol=1e-6):
            named = ", ".join(f"{name} {share:g}" for name, share in self if share)
            raise ValueError(
                f"shares must sum to 1, these sum to {total:g} ({named}): once one is named, the others are 0, random 1"
            )
        return self


def _with_the_rest(value: Any) -> Any:
    """Shares by moment, random with what the others leave where it is not named."""
    if isinstance(value, list):
        return tuple(map(_with_the_rest, value))
    numbers = isinstance(value, Mapping) and all(isinstance(share, int | float) for share in value.values())
    if not numbers or "random" in value:
        return value
    return {**value, "random": max(0.0, round(1 - sum(value.values()), 9))}


Moments = BeforeValidator(_with_the_rest)
