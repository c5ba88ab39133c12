"""Measured steps: where they come from, when they are remembered, and what stands in for them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.plan import probe
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes
from sweeper.trainable import Pace
from tests.sweeper.samples import toy_spec


def toy(**changes: Any) -> SweepSpec:
    return toy_spec(config={"pause": 0.25}, **changes)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(nodes, "this_machine", lambda: {"CPU": 2, "GPU": 0})
    return tmp_path / "cache"


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stands in for the processes; how many were asked for each time."""
    asked: list[int] = []

    def measured(spec: SweepSpec, config: dict[str, Any], at_once: int) -> Pace:
        asked.append(at_once)
        return Pace(0.5, 4.0)

    monkeypatch.setattr(probe, "_measured", measured)
    return asked


def test_the_trainable_is_asked_in_processes_of_its_own(cache: Path) -> None:
    assert probe.paced(toy(), 2) == Pace(0.25, 0.0)
    (entry,) = json.loads((cache / probe.FILE).read_text("utf-8")).values()
    assert entry == {"step": 0.25, "reports": 0.0, "validation_flops": 0.0}
    assert [path.name for path in cache.iterdir()] == [probe.FILE]


def test_the_plan_rests_on_it(counted: list[int]) -> None:
    estimate = probe.of(toy(), 2, measure=True)
    assert (estimate.seconds_per_step, estimate.measured) == (0.5, True)
    assert not probe.of(toy(), 2, measure=False).measured
    assert not probe.of(toy(), None, measure=True).measured, "only the cluster could tell"
    assert counted == [2]


def test_it_is_remembered_by_settings_machine_and_number(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for spec, at_once in ((toy(), 2), (toy(), 2), (toy_spec(config={"pause": 0.25, "steps": 90}), 2)):
        probe.paced(spec, at_once)
    assert counted == [2], "the length is no part of the shape"
    probe.paced(toy(), 1)
    probe.paced(toy_spec(config={"pause": 0.5}), 2)
    probe.paced(toy(resources={"cpus_per_worker": 2}), 2)
    assert counted == [2, 1, 2, 2]
    monkeypatch.setattr(probe.provenance, "processor", lambda: "another")
    probe.paced(toy(), 2)
    assert len(counted) == 5


def test_validations_scale_with_the_length(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables import toy as trainable

    monkeypatch.setattr(trainable.Config, "validation_flops", property(lambda config: 10.0 * config.steps))
    assert probe.paced(toy_spec(config={"steps": 20}), 1) == Pace(0.5, 4.0)
    assert probe.paced(toy_spec(config={"steps": 50}), 1) == Pace(0.5, 10.0)
    assert counted == [1]


def test_what_settings_name_may_change(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables import toy as trainable

    probe.paced(toy(), 1)
    monkeypatch.setattr(trainable.Config, "flops_per_step", property(lambda config: 7.0))  # as with another vocabulary
    probe.paced(toy(), 1)
    assert counted == [1, 1]


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_a_torn_memory_is_no_memory(cache: Path, counted: list[int], text: str) -> None:
    cache.mkdir()
    (cache / probe.FILE).write_text(text, "utf-8")
    assert probe.paced(toy(), 1) == Pace(0.5, 4.0)
    assert len(json.loads((cache / probe.FILE).read_text("utf-8"))) == 1


def test_without_a_gpu_a_probe_or_a_place_to_remember(counted: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    from trainables import toy as trainable

    assert probe.paced(toy(resources={"gpus_per_worker": 1}), 1) is None
    monkeypatch.setenv("SWEEPER_CACHE", "/dev/null/nowhere")
    assert probe.paced(toy(), 1) == Pace(0.5, 4.0)
    monkeypatch.delattr(trainable, "probe")
    assert probe.paced(toy(), 1) is None
    estimate = probe.of(toy(), 1, measure=True)
    assert any("this machine's rate" in note for note in estimate.assumed)


def test_a_probe_that_fails_leaves_the_estimate(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert probe.paced(toy(), 1) is None
    assert not cache.exists()


def test_gpus_are_dealt_out_as_trials_will_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(nodes, "this_machine", lambda: {"CPU": 2, "GPU": 4})
    assert probe._visible(0, 0) == {}
    assert [probe._visible(n, 0.5)["CUDA_VISIBLE_DEVICES"] for n in range(4)] == ["0", "0", "1", "1"]
    assert [probe._visible(n, 2)["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert probe._visible(1, 1) == {"CUDA_VISIBLE_DEVICES": "5"}


def test_the_machine_is_measured_quickly() -> None:
    assert 1e8 < probe.measure_flops(1) < 1e13
