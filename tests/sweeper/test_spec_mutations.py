"""Specs with any subtree deleted, renamed or replaced: they load, or are refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper import yaml_input
from sweeper.spec import SpecError, SweepSpec, resolve
from tests.sweeper.test_spec import EXPLICIT, TOY

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "no", "1:30", "017", "5e-4", "tpe", "a.b", "x", "trainables.toy:train", "val/loss", "☃\n"]),
    st.lists(st.integers(-1, 3), max_size=3),
    st.dictionaries(st.sampled_from(["uniform", "choice", "simplex", "x", "steps", "a.b", ""]), st.integers(0, 2)),
    st.sampled_from(
        [{"uniform": [0, 1]}, {"choice": ["a", None]}, {"simplex": {"a": 0.1, "b": 0}}, {"randint": [1, 9]}]
    ),
)


def nodes(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of every key below the top."""
    for key in tree if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ():
        yield (*path, key)
        yield from nodes(tree[key], (*path, key))


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    tree = copy.deepcopy(draw(st.sampled_from([TOY, EXPLICIT])))
    for _ in range(draw(st.integers(1, 3))):
        *parents, leaf = draw(st.sampled_from(list(nodes(tree))))
        parent: Any = tree
        for key in parents:
            parent = parent[key]
        match draw(st.sampled_from(["replace", "delete", "rename"])):
            case "replace":
                parent[leaf] = copy.deepcopy(draw(JUNK))
            case "delete":
                del parent[leaf]
            case "rename" if isinstance(parent, dict):
                parent[draw(st.text("abexy._-/ ", max_size=6))] = parent.pop(leaf)
        if not list(nodes(tree)):
            break
    return tree


def taken(tree: dict[str, Any], *sets: str) -> SweepSpec | str:
    """The spec, or why it was refused."""
    try:
        return resolve(tree, None, sets, "spec.yaml")
    except SpecError as error:
        return str(error)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(mutated())
def test_a_mutated_spec_loads_or_is_refused_in_one_line(tree: dict[str, Any]) -> None:
    spec = taken(yaml_input.parse(yaml_input.dump(tree)))
    if isinstance(spec, str):
        assert spec.startswith("spec.yaml")
        assert "\n" not in spec
        return
    assert resolve(yaml_input.parse(spec.to_yaml())).spec_hash == spec.spec_hash
    json.dumps([spec.trainable_config(arm) for arm in spec.arms.values()], allow_nan=False)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(
    st.sampled_from(
        ["", "x", "config.", "config.steps", "space.", "space.x", "arms.", "arms.baseline.", "search.trials"]
    ),
    st.text(max_size=8),
    JUNK.map(json.dumps) | st.text(max_size=8),
)
def test_any_set_is_taken_or_refused_in_one_line(path: str, more: str, value: str) -> None:
    spec = taken(TOY, f"{path}{more}={value}")
    assert isinstance(spec, SweepSpec) or "\n" not in spec
