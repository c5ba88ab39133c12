"""The YAML of a spec: plain trees and YAML 1.2 scalars, without surprises.

PyYAML keeps the last of two equal keys, and reads `1:30` as 90, `017` as 15 and `5e-4` as text. Here equal keys are
refused; numbers are decimal (`90`, `0.5`, `5e-4`) and finite, booleans are `true` and `false`, and everything else
is text, which is refused where a number is expected. Anchors, aliases, tags and merge keys are refused: a spec does
not need them, and they can make a small file huge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

MAX_BYTES = 1024 * 1024  # a resolved grid of 2,000 arms takes a third of this
MAX_NODES = 50_000  # keys, values, lists and mappings: a few seconds of reading
MAX_DEPTH = 24
MAX_INTEGER = 2**63 - 1

_SCALARS = (
    ("null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789")),
    (
        "float",
        re.compile(r"^[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """SafeLoader narrowed to mappings with text keys, lists, and the scalars above."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own shape)

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth, self.nodes = 0, 0

    def compose_node(self, parent: Any, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _refusal("anchors and aliases (& and *) are not allowed; quote text that starts with one", event)
        if getattr(event, "tag", None):
            raise _refusal(f"tags ({event.tag}) are not allowed", event)
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.nodes > MAX_NODES:
            raise _refusal(f"more than {MAX_NODES:,} keys and values", event)
        if self.depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH} levels", event)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        tree: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _refusal(f"the key {key!r} is not text; quote it", key_node)
            if key in tree:
                raise _refusal(f"duplicate key {key!r}", key_node)
            tree[key] = self.construct_object(value_node, deep=True)
        return tree

    def construct_map(self, node: Any) -> dict[Hashable, Any]:
        return self.construct_mapping(node)

    def construct_number(self, node: Any) -> int | float:
        # Count digits first: Python itself refuses integers with thousands of digits.
        if node.tag.endswith("int"):
            number: int | float = int(node.value) if len(node.value) <= 20 else math.inf
            legal = abs(number) <= MAX_INTEGER
        else:
            number = float(node.value)
            legal = math.isfinite(number)
        if not legal:
            raise _refusal(f"the number {node.value[:24]} is too large", node)
        return number

    def construct_text(self, node: Any) -> str:
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise _refusal("a text holds half of a surrogate pair", node) from None
        return node.value


class _Dumper(yaml.SafeDumper):
    """Quotes text that this reader or a YAML 1.1 reader would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _name, _pattern, _first in _SCALARS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, _first)
for _name in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_name}", _Loader.construct_number)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)
_Loader.add_constructor("tag:yaml.org,2002:map", _Loader.construct_map)


def parse(text: str) -> Any:
    """The tree that a YAML text describes. Raises ValueError in one line, with line and column."""
    try:
        return _Loader(text).get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError in one line, without the file's name."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"cannot be read: {error.strerror or error}") from None
    if len(data) > MAX_BYTES:
        raise ValueError(f"is larger than {MAX_BYTES // 1024} KiB, too large for a spec")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    try:
        tree = parse(text)
    except ValueError as error:
        raise ValueError(f"cannot be read as a spec: {error}") from None
    if tree is None:
        raise ValueError("is empty; a spec begins with name:")
    if not isinstance(tree, dict):
        raise ValueError(f"holds a {'list' if isinstance(tree, list) else 'single value'} at the top, not a mapping")
    return tree


def dump(tree: dict[str, Any]) -> str:
    """YAML text that `parse` turns back into this tree, in the same order."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def _refusal(problem: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)
