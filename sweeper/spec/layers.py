"""Which source of a spec wins: file < profile < `--set`.

Mappings are merged; lists, scalars and domains are replaced as a whole; null deletes. The layers are kept apart so
that an error can name where the refused value was written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sweeper.spec.hints import nearest
from sweeper.system import yaml_reader

Tree = dict[str, Any]

_LONGEST = 120


class Layer(NamedTuple):
    """One source of a spec: its name in errors, and the part of the spec that it sets."""

    label: str
    tree: Mapping[str, Any]


def stack(tree: Mapping[str, Any], profile: str | None, sets: Iterable[str], source: str) -> list[Layer]:
    """The layers of a spec, lowest first. Raises ValueError in one line."""
    own = {key: value for key, value in tree.items() if key != "profiles"}
    layers = [Layer(source, own)]
    profiles = tree.get("profiles") or {}
    if not isinstance(profiles, Mapping):
        raise ValueError(f"{source}: profiles: must be a mapping of names to partial specs")
    for name, part in profiles.items():
        _check_profile(f"{source}: profiles.{name}", part)
    chosen = profile if profile is not None else tree.get("profile")
    # A resolved spec keeps the name of its profile but no profiles: there the name is a label.
    if chosen is not None and (profiles or profile is not None):
        if chosen not in list(profiles):  # a list: the value from the file may not be hashable
            where = f"--profile {chosen}" if profile is not None else f"{source}: profile: {chosen!r}"
            raise ValueError(f"{where}: there is no such profile; {nearest(str(chosen), profiles)}")
        layers.append(Layer(f"{source}, profile {chosen}", {**(profiles[chosen] or {}), "profile": chosen}))
    below = merge_all(layers)
    for text in sets:
        layers.append(Layer(_label(text), _assignment(text, below)))
        below = _onto(below, layers[-1])
    return layers


def _label(text: str) -> str:
    """A `--set` in an error, shortened so that the reason still fits."""
    return f"--set {text if len(text) <= _LONGEST else text[: _LONGEST - 1] + '…'}"


def merge_all(layers: Iterable[Layer]) -> Tree:
    """The layers as one tree. Raises ValueError in one line."""
    merged: Tree = {}
    for layer in layers:
        merged = _onto(merged, layer)
    return merged


def _onto(below: Tree, layer: Layer) -> Tree:
    try:
        return merge(below, layer.tree)
    except ValueError as error:
        raise ValueError(f"{layer.label}: {error}") from None


def merge(base: Mapping[str, Any], over: Mapping[str, Any], at: tuple[str, ...] = ()) -> Tree:
    """`over` on top of `base`; `at` is the location of both in the spec.

    Raises ValueError, in one line, for an arm's null that deletes nothing: it would look as if it undid config.
    """
    merged = dict(base)
    for key, value in over.items():
        path = (*at, key)
        if value is None:
            if path[0] == "arms" and len(path) == 3 and key not in merged:
                raise ValueError(
                    f"{'.'.join(map(str, path))}: null leaves the arm as config has it, and no layer below gives it a "
                    "value: for the default, take the setting out of config and give it to the arms that have it"
                )
            merged.pop(key, None)
        elif isinstance(value, Mapping) and not _replaced_whole(path):
            below = merged.get(key)
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value, path)
        else:
            merged[key] = value
    return merged


def origin(layers: list[Layer], location: tuple[Any, ...]) -> str:
    """The label of the topmost layer that sets a location; of the file for the spec as a whole."""
    if not location:
        return layers[0].label
    return next((layer.label for layer in reversed(layers) if touches(layer.tree, location)), layers[0].label)


def touches(tree: Any, location: Sequence[Any]) -> bool:
    """Whether a tree sets a location or, with a value that is no mapping, something above it."""
    for key in location:
        if not isinstance(tree, Mapping):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True


def _replaced_whole(path: tuple[str, ...]) -> bool:
    """Whether this is a domain or a condition of the space, or an arm's value for a path."""
    return (path[0] in ("space", "conditions") and len(path) == 2) or (path[0] == "arms" and len(path) == 3)


def _check_profile(where: str, part: Any) -> None:
    if part is not None and not isinstance(part, Mapping):
        raise ValueError(f"{where}: must be a mapping, a partial spec")
    for key in ("profile", "profiles"):
        if part and key in part:
            raise ValueError(f"{where}: a profile cannot hold {key!r}")


def _assignment(text: str, below: Mapping[str, Any]) -> Tree:
    """`PATH=VALUE` as a partial spec, to be merged over `below`."""
    path, equals, value_text = text.partition("=")
    keys, label = _keys(path.strip()), _label(text)
    if len(keys) > yaml_reader.MAX_DEPTH:
        raise ValueError(f"{label}: is nested deeper than {yaml_reader.MAX_DEPTH} levels")
    if not equals or not value_text.strip() or not all(keys):
        raise ValueError(f"{label}: write PATH=VALUE, such as search.trials=4 or config.steps=200")
    if keys[0] in ("profile", "profiles"):
        raise ValueError(f"{label}: choose a profile with --profile NAME")
    try:
        value = yaml_reader.parse(value_text)
    except ValueError as error:
        raise ValueError(f"{label}: cannot read the value: {error}") from None
    if value is None and not touches(below, keys):
        raise ValueError(f"{label}: there is nothing at {path.strip()} to delete")
    *parents, leaf = keys
    assignment: Tree = {leaf: value}
    for key in reversed(parents):
        assignment = {key: assignment}
    return assignment


def _keys(path: str) -> list[str]:
    """The keys of a `--set` path. Keys of `space`, `conditions` and an arm are themselves dotted paths of settings."""
    root, _, rest = path.partition(".")
    if root in ("space", "conditions") and rest:
        return [root, rest]
    if root == "arms" and rest:
        arm, dot, setting = rest.partition(".")
        return [root, arm, setting] if dot else [root, arm]
    return path.split(".")
