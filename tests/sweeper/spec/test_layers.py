"""File < profile < --set: what merges, what is replaced, what is deleted, and which source an error names."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.spec.layers import Tree, merge, merge_all, origin, stack

steady = settings(deadline=None, derandomize=True)

values = st.integers() | st.booleans() | st.lists(st.integers(), max_size=2)
keys = st.sampled_from(["a", "b", "c"])
trees = st.recursive(values, lambda below: st.dictionaries(keys, below, max_size=3), max_leaves=8)
sections = st.dictionaries(keys, trees, max_size=3)


@steady
@given(sections)
def test_merging_with_nothing_or_itself_changes_nothing(tree: Tree) -> None:
    assert merge(tree, {}) == tree == merge({}, tree) == merge(tree, tree)


@steady
@given(sections, sections)
def test_the_upper_tree_is_there_whole(base: Tree, over: Tree) -> None:
    merged = merge(base, over)
    assert merge(merged, over) == merged
    assert merged.keys() == base.keys() | over.keys()


@steady
@given(sections, sections)
def test_merging_changes_neither_tree(base: Tree, over: Tree) -> None:
    before = repr((base, over))
    merge(base, over)
    assert repr((base, over)) == before


def test_mappings_merge_and_lists_and_scalars_are_replaced() -> None:
    base = {"config": {"model": {"hidden": 64, "layers": 2}, "steps": 5}, "seeds": {"confirm": [1, 2]}}
    over = {"config": {"model": {"hidden": 128}}, "seeds": {"confirm": [3]}}
    expected = {"config": {"model": {"hidden": 128, "layers": 2}, "steps": 5}, "seeds": {"confirm": [3]}}
    assert merge(base, over) == expected


def test_domains_and_the_values_of_arms_are_replaced_whole() -> None:
    base = {
        "space": {"s": {"simplex": {"a": 0.5, "b": 0}}, "n": {"loguniform": [1, 9], "integer": True}},
        "arms": {"first": {"s": {"a": 1, "b": 0}, "n": 3}},
    }
    over = {"space": {"s": {"simplex": {"c": 0, "d": 0}}, "n": {"choice": [1]}}, "arms": {"first": {"s": {"c": 1}}}}
    assert merge(base, over) == {
        "space": {"s": {"simplex": {"c": 0, "d": 0}}, "n": {"choice": [1]}},
        "arms": {"first": {"s": {"c": 1}, "n": 3}},
    }


def test_null_deletes_at_every_depth_but_not_in_a_list_or_a_domain() -> None:
    base = {"config": {"steps": 5, "data": {"block": 8}}, "space": {"a": 1, "b": 2}, "limits": {"hours": 1}}
    over = {"config": {"steps": None, "data": {"block": None}}, "space": {"a": None, "c": {"choice": [None]}}}
    merged = {"config": {"data": {}}, "space": {"b": 2, "c": {"choice": [None]}}, "limits": {"hours": 1}}
    assert merge(base, over) == merged


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("search.trials=4", {"search": {"trials": 4}}),
        ("config.optimiser.lr=5e-4", {"config": {"optimiser": {"lr": 5e-4}}}),
        ("config.model={layers: 1}", {"config": {"model": {"layers": 1}}}),
        ("space.masking.update_every={choice: [5]}", {"space": {"masking.update_every": {"choice": [5]}}}),
        ("arms.published.masking.ema_decay=0.5", {"arms": {"published": {"masking.ema_decay": 0.5}}}),
        ("arms.wild={masking.ema_decay: 0}", {"arms": {"wild": {"masking.ema_decay": 0}}}),
        ("space={x: {uniform: [0, 1]}}", {"space": {"x": {"uniform": [0, 1]}}}),
        ("data.corpus=files:a=b.txt", {"data": {"corpus": "files:a=b.txt"}}),
    ],
)
def test_where_a_set_path_leads(text: str, tree: Tree) -> None:
    assert stack({}, None, [text], "spec.yaml")[1].tree == tree


def test_profile_lies_over_the_file_and_set_over_both() -> None:
    tree = {"a": 1, "b": 1, "c": 1, "profile": "small", "profiles": {"small": {"b": 2, "c": 2}, "big": {"b": 9}}}
    assert merge_all(stack(tree, None, ["c=3"], "f")) == {"a": 1, "b": 2, "c": 3, "profile": "small"}
    assert merge_all(stack(tree, "big", [], "f")) == {"a": 1, "b": 9, "c": 1, "profile": "big"}


def test_a_profile_can_delete() -> None:
    tree = {"space": {"x": 1, "y": 2}, "profile": "p", "profiles": {"p": {"space": {"y": None}}}}
    assert merge_all(stack(tree, None, [], "f"))["space"] == {"x": 1}


@pytest.mark.parametrize(
    ("tree", "profile", "sets", "reason"),
    [
        ({}, "small", [], "--profile small: there is no such profile; there are none"),
        ({"profiles": {"small": {}}}, "smal", [], "--profile smal: there is no such profile; did you mean 'small'?"),
        ({"profile": "x", "profiles": {"a": {}}}, None, [], "f: profile: 'x': there is no such profile; use a"),
        ({"profile": [], "profiles": {"a": {}}}, None, [], "f: profile: []: there is no such profile; use a"),
        ({"profiles": 3}, None, [], "f: profiles: must be a mapping of names to partial specs"),
        ({"profiles": {"a": 3}}, None, [], "f: profiles.a: must be a mapping, a partial spec"),
        ({"profiles": {"a": {"profile": "b"}}}, None, [], "f: profiles.a: a profile cannot hold 'profile'"),
        ({}, None, ["search.trials"], "--set search.trials: write PATH=VALUE, such as search.trials=4 or"),
        ({}, None, ["search.trials="], "--set search.trials=: write PATH=VALUE, such as"),
        ({}, None, ["search..trials=1"], "--set search..trials=1: write PATH=VALUE, such as"),
        ({}, None, ["space.=1"], "--set space.=1: write PATH=VALUE, such as"),
        ({}, None, ["=1"], "--set =1: write PATH=VALUE, such as"),
        ({}, None, ["profile=a"], "--set profile=a: choose a profile with --profile NAME"),
        ({}, None, ["a=[1"], "--set a=[1: cannot read the value: line 1, column 3: expected"),
        ({}, None, ["a=null"], "--set a=null: there is nothing at a to delete"),
        ({"arms": {"a": {}}}, None, ["arms.a.x=null"], "--set arms.a.x=null: there is nothing"),
        ({"arms": {"plain": {"model.dropout": None}}}, None, [], "f: arms.plain.model.dropout: null leaves the arm"),
    ],
)
def test_refusals(tree: dict[str, Any], profile: str | None, sets: list[str], reason: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(reason)):
        stack(tree, profile, sets, "f")


def test_a_null_takes_from_an_arm_what_a_lower_layer_gave_it() -> None:
    tree = {"arms": {"a": {"x": 1, "y": 2}}, "profiles": {"p": {"arms": {"a": {"x": None}}}}}
    assert merge_all(stack(tree, "p", ["arms.a.y=null"], "f"))["arms"] == {"a": {}}


def test_an_error_names_the_topmost_source_of_the_value() -> None:
    tree = {"config": {"steps": 1, "lr": 1}, "profile": "p", "profiles": {"p": {"config": {"lr": 2}}}}
    layers = stack(tree, None, ["config.model.layers=3"], "f")
    assert origin(layers, ("config", "steps")) == "f"
    assert origin(layers, ("config", "lr")) == "f, profile p"
    assert origin(layers, ("config", "model", "layers")) == "--set config.model.layers=3"
    assert origin(layers, ("config", "model", "layers", "below")) == "--set config.model.layers=3"
    assert origin(layers, ()) == "f"
