"""Settings with a share for a masking source of one's own."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field

from trainables.settings.catalogue import OWN_DRAWS, SOURCES, Entry
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
    if not name.isidentifier():
        raise ValueError(f"the source {name!r} must have a name that Python allows, such as late")
    if name in OWN_DRAWS:
        raise ValueError(f"the source {name!r} must have another name: a step draws something else under this one")
    if (other := SOURCES.setdefault(name, Entry(words, made_by)).made_by) != made_by:
        raise ValueError(f"the source {name!r} is there already, made by {other}: give {made_by} another name")
    masking: Any = config.model_fields["masking"].annotation
    shares: Any = with_shares(type(masking().shares), name)
    moments = Annotated[tuple[tuple[Fraction, shares], ...] | None, Moments]
    changing = with_fields(Schedule, shares=(moments, None))
    changing.sources = tuple(shares.model_fields)
    schedule: Any = Annotated[changing | None, BeforeValidator(no_schedule)]
    usual = shares.model_validate(masking().shares.model_dump())
    masking = with_fields(masking, shares=(shares, usual), schedule=(schedule, Field(default=None, exclude_if=absent)))
    return with_fields(config, masking=(masking, masking()))
