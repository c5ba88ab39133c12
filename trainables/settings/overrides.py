"""Settings set by their dotted paths, as on a command line: `--set optimiser.lr=5e-4`."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from sweeper.system import yaml_reader
from sweeper.system.nearest import nearest, nearest_path
from trainables.settings.config import Config

Whole = TypeVar("Whole", bound=Config)


def override(
    settings: list[str], model: type[Whole] = Config, given: Mapping[str, Any] | None = None, origin: str = ""
) -> Whole:
    """Settings with `PATH=VALUE` settings on top, the value as a spec writes it. ValueError in one line.

    Args:
        settings: the `PATH=VALUE` texts.
        model: their type.
        given: what they are set on top of; the defaults otherwise.
        origin: names `given` in errors.
    """
    legal = _paths(model)
    tree: dict[str, Any] = copy.deepcopy(dict(given or {}))
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write PATH=VALUE, such as steps=200")
        *parents, leaf = path.split(".")
        if len(parents) >= yaml_reader.MAX_DEPTH:
            raise ValueError(f"--set {setting:.100}: is nested deeper than {yaml_reader.MAX_DEPTH} levels")
        if path not in legal:
            raise ValueError(f"--set {setting:.100}: there is no such setting; {_hint(path, legal)}")
        node = tree
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ValueError(f"--set {setting}: an earlier --set gave {parent} a value")
        try:
            node[leaf] = yaml_reader.parse(value)
        except ValueError as error:
            raise ValueError(f"--set {setting:.100}: cannot read the value: {error}") from None
    try:
        return model.model_validate_json(json.dumps(tree), strict=True)  # as a spec's settings: no text is a number
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"there is no such setting; {_hint(where, legal)}"
        named = f"{origin}: " if origin and not any(text.startswith(f"{where}=") for text in settings) else ""
        raise ValueError(f"{named}{where}: {what}") from error


def _hint(path: str, legal: list[str]) -> str:
    """The nearest setting, or those of the section."""
    found = nearest_path(path, legal)
    section = path.rpartition(".")[0] if path.rpartition(".")[0] in legal else ""
    return (
        found if found.startswith("did") else nearest(path, [one for one in legal if one.rpartition(".")[0] == section])
    )


def _paths(model: type[BaseModel], at: str = "") -> list[str]:
    """Every dotted path of a type of settings, sections included."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(f"{at}{name}")
        parts = (field.annotation, *get_args(field.annotation))
        for section in (part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)):
            found += _paths(section, f"{at}{name}.")
    return found
