"""What is trained: plain PyTorch, which runs without Ray."""

import sweeper as sweeper  # first of all: it looks for no modules in a run's folder

# isort: split
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainables.masking.audit import Audit, Draw
    from trainables.masking.budget import Selection
    from trainables.masking.policy import Answers, MaskingPolicy, Vocabulary
    from trainables.masking.sources import Scored, Source
    from trainables.noise import StepNoise
    from trainables.settings.config import Config
    from trainables.settings.own_masking import with_policy, with_source

__all__ = [
    "Answers",
    "Audit",
    "Config",
    "Draw",
    "MaskingPolicy",
    "Scored",
    "Selection",
    "Source",
    "StepNoise",
    "Vocabulary",
    "with_policy",
    "with_source",
]

_MODULES = {
    "masking.audit": ("Audit", "Draw"),
    "masking.budget": ("Selection",),
    "masking.policy": ("Answers", "MaskingPolicy", "Vocabulary"),
    "masking.sources": ("Scored", "Source"),
    "noise": ("StepNoise",),
    "settings.config": ("Config",),
    "settings.own_masking": ("with_policy", "with_source"),
}


def __getattr__(name: str) -> object:
    """What the author of a source or policy imports, only when it is asked for, as most of it needs torch."""
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"trainables.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
