"""Specs with any subtree deleted, renamed or replaced: they load, or are refused in one line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.system import yaml_reader
from tests.sweeper.mutations import JUNK, idle_machine, mutated, planned
from tests.sweeper.spec.test_spec import EXPLICIT, TOY

TREES = (TOY, EXPLICIT)


def taken(tree: dict[str, Any], *sets: str) -> SweepSpec | str:
    """The spec, or why it was refused."""
    try:
        return resolve(tree, None, sets, "spec.yaml")
    except SpecError as error:
        return str(error)


@settings(deadline=None, derandomize=True, max_examples=300)
@given(mutated(TREES))
def test_a_mutated_spec_loads_or_is_refused_in_one_line(tree: dict[str, Any]) -> None:
    spec = taken(yaml_reader.parse(yaml_reader.dump(tree)))
    if isinstance(spec, str):
        assert spec.startswith("spec.yaml")
        assert "\n" not in spec
        return
    assert resolve(yaml_reader.parse(spec.to_yaml())).spec_hash == spec.spec_hash
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
    """Where a spec may lie."""
    with idle_machine():
        yield tmp_path_factory.mktemp("mutated") / "spec.yaml"


@settings(deadline=None, derandomize=True, max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(mutated(TREES))
def test_the_command_plans_a_mutated_spec_or_refuses_it_in_one_line(spec_file: Path, tree: dict[str, Any]) -> None:
    planned(spec_file, tree)
