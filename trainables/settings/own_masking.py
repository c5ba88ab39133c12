"""Settings with a masking policy of one's own, or with a share for a source of one's own."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field

from trainables.settings.catalogue import OWN_DRAWS, POLICIES, SOURCES, Entry
from trainables.settings.config import Config
from trainables.settings.frozen import Fraction, absent, with_fields
from trainables.settings.schedule import Schedule, no_schedule
from trainables.settings.shares import Moments, with_shares

Whole = TypeVar("Whole", bound=Config)


def with_source(config: type[Whole], name: str, words: str, made_by: str) -> type[Whole]:
    """A trainable's settings with a share for a masking source of one's own, which enters the catalogue.

    Call it where the module of that trainable is imported, as every worker imports it. At 0 the share is left out, so
    hashes stay the same. ValueError where another source has the name, or a draw of the step itself.

    Args:
        config: the settings without it, such as `trainables.mlm.Config`.
        name: of the source and its share.
        words: as in `Entry`.
        made_by: module:callable, as in `Entry`.
    """
    if name in OWN_DRAWS:
        raise ValueError(f"the source {name!r} must have another name: a step draws something else under this one")
    _enter(SOURCES, "source", name, Entry(words, made_by))
    masking: Any = config.model_fields["masking"].annotation
    shares: Any = with_shares(type(masking().shares), name)
    moments = Annotated[tuple[tuple[Fraction, shares], ...] | None, Moments]
    changing = with_fields(Schedule, shares=(moments, None))
    changing.sources = tuple(shares.model_fields)
    schedule: Any = Annotated[changing | None, BeforeValidator(no_schedule)]
    usual = shares.model_validate(masking().shares.model_dump())
    masking = with_fields(masking, shares=(shares, usual), schedule=(schedule, Field(default=None, exclude_if=absent)))
    return with_fields(config, masking=(masking, masking()))


def with_policy(config: type[Whole], name: str, words: str, made_by: str) -> type[Whole]:
    """A trainable's settings in which `masking.policy` may be a policy of one's own, which enters the catalogue.

    Call it where the module of that trainable is imported, as every worker imports it. Hashes of settings without the
    policy stay the same. Its runs share no steps with others: `masking.mask_warmup` means what the policy makes of it.
    ValueError where another policy has the name.

    Args:
        config: the settings without it, such as `trainables.mlm.Config`.
        name: what `masking.policy` is set to.
        words: as in `Entry`.
        made_by: module:callable, which takes (config, vocabulary, rows, seed, device) and returns a `MaskingPolicy`.
    """
    _enter(POLICIES, "policy", name, Entry(words, made_by))
    masking: Any = config.model_fields["masking"].annotation
    usual = masking.model_fields["policy"]
    masking = with_fields(masking, policy=(Literal[(*get_args(usual.annotation), name)], usual.default))
    return with_fields(config, masking=(masking, masking()))


def _enter(catalogue: dict[str, Entry], kind: str, name: str, entry: Entry) -> None:
    """Enter it, once. ValueError, in one line, for a name that another has or that Python does not allow."""
    if not name.isidentifier():
        raise ValueError(f"the {kind} {name!r} must have a name that Python allows, such as late")
    if (other := catalogue.setdefault(name, entry).made_by) != entry.made_by:
        raise ValueError(f"the {kind} {name!r} is there already, made by {other}: give {entry.made_by} another name")
