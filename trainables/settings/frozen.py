"""What settings are made of: the base of every section, the kinds of numbers, and types with more fields."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Floor = Annotated[float, Field(ge=0, lt=0.5)]  # the least weight of AMLM
Own = TypeVar("Own", bound=BaseModel)


class Frozen(BaseModel):
    """Immutable settings; an unknown key, NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def absent(value: Any) -> bool:
    """For settings added later: left out where they are not set, so that hashes of older settings stay the same."""
    return value is None


def with_fields(model: type[Own], **fields: Any) -> type[Own]:
    """A type of settings with other or more fields, each (type, default)."""
    if not fields:
        return model
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, __module__=model.__module__, **fields)
