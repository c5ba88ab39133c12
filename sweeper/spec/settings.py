"""The trainable settings that a spec asks for, read by the trainable's Config, with secrets from the environment."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from sweeper.spec import layers
from sweeper.spec.errors import ConfigError, refusal
from sweeper.spec.recorded import TrainableStub
from sweeper.system import secrecy
from sweeper.trainable import Trainable


class Described(Protocol):
    """The part of a spec that says which trainable runs with which settings: `SweepSpec` is one."""

    @property
    def trainable(self) -> str:
        """`module:function` of the trainable."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """The trainable's settings."""
        ...

    @property
    def data(self) -> Mapping[str, Any]:
        """The `data` section of these settings."""
        ...

    @property
    def stub(self) -> TrainableStub | None:
        """What a record tells about the trainable, if it must not be imported."""
        ...


def config_model(spec: Described) -> type[BaseModel]:
    """The trainable's Config. Raises ConfigError."""
    if spec.stub is not None:
        raise ConfigError(("trainable",), f"{spec.trainable} is not imported to read a record")
    try:
        return Trainable.load(spec.trainable).config
    except ValueError as error:
        raise ConfigError(("trainable",), str(error)) from None


def settings(spec: Described, params: Mapping[str, Any]) -> BaseModel:
    """The trainable's Config: config < data < params (by path), secrets from the environment. Raises ConfigError."""
    model = config_model(spec)
    kinds, tree = secrecy.declared(model), _tree(spec, params)
    try:
        tree = secrecy.given(tree, kinds)
    except ValueError as error:
        raise ConfigError(("config",), str(error)) from None
    try:
        # Through JSON: there, strictness lets a list be a tuple, but no text be a number.
        return model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        found = refusal(error, model)
        secret = secrecy.is_secret(".".join(map(str, found.location)), kinds) and isinstance(_input(error), str)
        reason = "is refused; it is a secret and not shown" if secret else secrecy.redact(found.reason)
        below_data = found.location[:1] == ("data",) and layers.touches(spec.data, found.location[1:2])
        raise ConfigError(found.location if below_data else ("config", *found.location), reason) from None
    except SystemExit as error:  # it would end the process silently, with status 0
        raise ConfigError(("trainable",), f"the Config of {spec.trainable} raised SystemExit: {error}") from None


def _input(error: ValidationError) -> Any:
    """The first refused value."""
    return error.errors(include_url=False)[0]["input"]


def dumped(spec: Described, params: Mapping[str, Any]) -> dict[str, Any]:
    """As `settings`, but as a plain tree, with references in place of secrets."""
    kinds = secrecy.declared(config_model(spec))
    return secrecy.returned(settings(spec, params).model_dump(mode="json"), _tree(spec, params), kinds)


def with_defaults(model: BaseModel, tree: Mapping[str, Any]) -> dict[str, Any]:
    """A settings' plain tree with what the dump leaves out at its default, so that an arm can be asked for it."""
    found = dict(tree)
    for name in type(model).model_fields:
        value = getattr(model, name)
        if isinstance(value, BaseModel):
            below = found.get(name)
            found[name] = with_defaults(value, below if isinstance(below, Mapping) else {})
        elif name not in found and isinstance(value, bool | int | float | str):
            found[name] = value
    return found


def _tree(spec: Described, params: Mapping[str, Any]) -> dict[str, Any]:
    model, tree = config_model(spec), copy.deepcopy(dict(spec.config))
    if spec.data:
        if "data" not in model.model_fields:
            raise ConfigError(("data",), f"{spec.trainable} has no data settings; leave data out")
        below = tree.get("data")
        tree["data"] = layers.merge(below if isinstance(below, Mapping) else {}, spec.data, ("data",))
    for path, value in Trainable.load(spec.trainable).expand(params).items():
        _place(tree, path.split("."), value)
    return tree


def _place(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = tree.get(key)
        tree[key] = below if isinstance(below, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value
