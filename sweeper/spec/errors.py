"""Turn pydantic's complaints into one line that names the key, the value and what is legal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sweeper.spec.hints import key_path, nearest, nearest_path, shown

_WHOLE = {"int_type", "int_parsing", "int_parsing_size", "int_from_float"}
_NUMBERS = _WHOLE | {"float_type", "float_parsing", "finite_number"}
_MANY = 10  # legal words: with more, only the nearest is shown
_KINDS = {  # pydantic's words are JSON's; a spec is YAML
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_type": "text",
    "bool_type": "true or false",
}


class ConfigError(ValueError):
    """A refused value: its location and the reason. A validator may raise it with a location relative to its own."""

    def __init__(self, location: tuple[Any, ...], reason: str) -> None:
        super().__init__(f"{key_path(location)}: {reason}" if location else reason)
        self.location = location
        self.reason = reason


def refusal(error: ValidationError, model: type[BaseModel]) -> ConfigError:
    """The first complaint of a validation, with the number of further ones."""
    first, *others = error.errors(include_url=False)
    location, reason = tuple(first["loc"]), _reason(first, model)
    if location[-1:] == ("[key]",):  # how pydantic marks a refused key of a mapping
        location = location[:-2]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        location, reason = (*location, *cause.location), cause.reason
    return ConfigError(location, reason + (f" (and {len(others)} more)" if others else ""))


def setting_paths(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted path of a settings model, sections included."""
    for own, field in model.model_fields.items():
        name = field.alias or own
        yield prefix + name
        section = _section(field.annotation)
        if section is not None:
            yield from setting_paths(section, f"{prefix}{name}.")


def _reason(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    kind, value = error["type"], error["input"]
    if kind == "extra_forbidden":
        return _unknown(error["loc"], model)
    if kind == "missing":
        return "is missing"
    if kind in ("value_error", "assertion_error"):
        return str(error["ctx"]["error"])
    if kind in _NUMBERS:
        if isinstance(value, str):
            return f"the text {shown(value)} is not a number; write it plainly, such as 90, 0.5 or 5e-4"
        return f"{shown(value)} is not {'a whole number' if kind in _WHOLE else 'a number'}"
    if kind == "too_long":
        return f"{error['ctx']['actual_length']:,} are too many: use at most {error['ctx']['max_length']:,}"
    if kind == "too_short":
        return f"{shown(value)} is too short: it needs at least {error['ctx']['min_length']}"
    if kind == "literal_error" and len(words := re.findall("'(.*?)'", error["ctx"]["expected"])) > _MANY:
        return f"{shown(value)} is not one of the {len(words)} legal values; {nearest(str(value), words)}"
    if kind in _KINDS:
        return f"{shown(value)} should be {_KINDS[kind]}"
    return f"{shown(value)} {error['msg'].removeprefix('Input ')}"


def _unknown(location: tuple[Any, ...], model: type[BaseModel]) -> str:
    if "." in str(location[-1]):
        return "keys cannot have dots here; nest them: section: {key: value}"
    paths = list(setting_paths(model))
    section = key_path(location[:-1])
    siblings = [path for path in paths if path.rpartition(".")[0] == section]
    hint = nearest_path(key_path(location), paths)
    return f"unknown key; {hint if hint.startswith('did') else nearest(key_path(location), siblings)}"


def _section(annotation: Any) -> type[BaseModel] | None:
    """The model behind `Model`, `Model | None` or `Annotated[Model, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) not in (Union, UnionType, Annotated):
        return None
    return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)


MAX_LINE = 400


class SpecError(ValueError):
    """What is wrong with a spec, in one line of at most MAX_LINE characters."""

    def __init__(self, message: object) -> None:
        line = " ".join(str(message).split())
        super().__init__(line if len(line) <= MAX_LINE else line[: MAX_LINE - 1] + "…")
