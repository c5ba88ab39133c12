"""Specs with any subtree deleted, renamed or replaced, and what the command makes of them."""

from __future__ import annotations

import contextlib
import copy
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from sweeper import run
from sweeper.plan import capacity, probe
from sweeper.system import nodes as machine
from sweeper.system import yaml_reader

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "no", "1:30", "017", "5e-4", "tpe", "a.b", "x", "trainables.toy:train", "val/loss", "☃\n"]),
    st.sampled_from(["../../x", "/etc/passwd", "files:/dev/null", "os:system", "hub:a/b", "~", "$HOME", "a\0b"]),
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
def mutated(draw: st.DrawFn, trees: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One of the trees with one to three changes."""
    tree = copy.deepcopy(draw(st.sampled_from(trees)))
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


ROOM = capacity.Free(memory=2**34, disk=2**36, shared=2**34)  # for everything that a test plans


@contextlib.contextmanager
def idle_machine() -> Iterator[None]:
    """Two CPUs whose speed need not be measured, and room for everything."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "paced", lambda *_: None)
        patch.setattr(probe, "measure_flops", lambda _: 1e11)
        patch.setattr(machine, "this_machine", lambda: {"CPU": 2, "GPU": 0})
        patch.setattr(capacity, "free", lambda _: ROOM)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield


def planned(path: Path, tree: dict[str, Any]) -> bool:
    """Whether the command plans the spec, else refuses it: in one line, with status 2, and writing nothing."""
    path.write_text(yaml_reader.dump(tree), encoding="utf-8")
    with contextlib.redirect_stderr(io.StringIO()) as told, contextlib.redirect_stdout(io.StringIO()) as output:
        status = run.main([str(path), "--storage", str(path.parent / "runs"), "--dry-run", "--json"])
    assert [one.name for one in path.parent.iterdir()] == [path.name], "something was written"
    if status == 0:
        assert json.loads(output.getvalue())["trials"] > 0
        return True
    assert status == 2
    assert output.getvalue() == ""
    *remarks, last = told.getvalue().splitlines()
    assert last.startswith("error: ")
    assert all("wants a GPU" in remark for remark in remarks)
    return False
