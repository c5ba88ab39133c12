"""Specs with any subtree deleted, renamed or replaced: they load, or are refused in one line."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper import cluster, probe, run, yaml_input
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


@pytest.fixture(scope="module")
def spec_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where a spec may lie, on a machine of two idle CPUs whose speed need not be measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "paced", lambda *_: None)
        patch.setattr(probe, "measure_flops", lambda _: 1e11)
        patch.setattr(cluster, "this_machine", lambda: {"CPU": 2, "GPU": 0})
        patch.delenv("RAY_ADDRESS", raising=False)
        yield tmp_path_factory.mktemp("mutated") / "spec.yaml"


@settings(deadline=None, derandomize=True, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(mutated())
def test_the_command_plans_a_mutated_spec_or_refuses_it_in_one_line(spec_file: Path, tree: dict[str, Any]) -> None:
    spec_file.write_text(yaml_input.dump(tree))
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()) as output:
        status = run.main([str(spec_file), "--storage", str(spec_file.parent / "runs"), "--dry-run", "--json"])
    if status == 0:
        assert json.loads(output.getvalue())["trials"] > 0
    else:
        assert status == 2
        assert output.getvalue() == ""
        *remarks, last = told.getvalue().splitlines()
        assert last.startswith("error: ")
        assert all("wants a GPU" in remark for remark in remarks)
    assert [path.name for path in spec_file.parent.iterdir()] == ["spec.yaml"]
