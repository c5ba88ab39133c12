"""Room: what does not suffice is one line with the setting that would fit, before anything starts; and who listens."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pytest

from sweeper.plan import capacity
from sweeper.plan.capacity import Free
from sweeper.spec.load import load
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes
from tests.drills import listeners
from tests.sweeper.samples import toy_spec

MIX = Path(__file__).parents[3] / "search_spaces" / "mix_ratios.yaml"
GB = 1e9


def published(*sets: str) -> SweepSpec:
    return load(MIX, "published", ["resources={workers: 0, gpus_per_worker: 0}", "seeds.confirm=[]", *sets])


def there(**changes: Any) -> Free:
    return Free(**{"memory": math.inf, "disk": math.inf, "shared": math.inf, **changes})


def refused(spec: SweepSpec, fit: int, **changes: float) -> str:
    found = "; ".join(capacity.shortages(spec, fit, there(**changes)))
    assert found
    assert "\n" not in found
    return found


def test_the_laptop_profile_fits_four_gigabytes() -> None:
    assert not capacity.shortages(load(MIX, "laptop"), 2, Free(memory=4 * GB, disk=GB, shared=GB))


def test_memory_for_fewer_trials_names_how_many() -> None:
    spec = published()
    each = capacity._trial_bytes(spec)
    assert 1 * GB < each < 3 * GB
    line = refused(spec, 4, memory=capacity.SWEEP_BYTES + 2.5 * each)
    assert line.startswith("memory: 4 trials at a time take about ")
    assert line.endswith("set resources.concurrency to 2")
    assert not capacity.shortages(
        published("resources.concurrency=2"), 4, there(memory=capacity.SWEEP_BYTES + 2.5 * each)
    )
    assert "lower config.batch_size or the model's size" in refused(spec, 1, memory=capacity.SWEEP_BYTES + 0.5 * each)


def test_a_gpu_trial_keeps_its_activations_elsewhere_and_workers_count_each() -> None:
    on_gpu = load(MIX, "published", ["resources={workers: 0, gpus_per_worker: 1}"])
    larger = load(MIX, "published", ["resources={workers: 0, gpus_per_worker: 1}", "config.batch_size=640"])
    assert capacity._trial_bytes(on_gpu) == capacity._trial_bytes(larger)
    two = published("resources.workers=2")
    assert capacity._trial_bytes(two) == 2 * capacity._trial_bytes(published()) + capacity.GROUP_BYTES


def test_disk_for_fewer_trials_names_how_many_and_what_is_written_counts() -> None:
    spec = published()
    each = spec.settings({}).checkpoint_bytes * (2 + 1 / 3)
    line = refused(spec, 1, disk=capacity.DISK_BYTES + 5.5 * each)
    assert line.startswith("disk: the checkpoints take about 7.9 GB, "), "with a trunk of the search's seed"
    assert line.endswith("set search.trials to 5, or use a --storage with room")
    assert not capacity.shortages(spec, 1, there(disk=capacity.DISK_BYTES + 5.5 * each), written=(19.2 * each, 0))
    clean = published("reuse.trunk=false")
    short = capacity.DISK_BYTES + 5.5 * each
    assert refused(clean, 1, disk=short).startswith("disk: the checkpoints take about 7.7 GB, ")
    assert not capacity.shortages(clean, 1, there(disk=short), written=(18.6 * each, 0))
    arms = toy_spec(arms={"a": {"x": 0.1}, "b": {"x": 0.2}}, space={}, search={"method": "arms"})
    assert refused(arms, 1, disk=1000.0).endswith("are free: use a --storage with room")


def test_both_are_told_in_one_line() -> None:
    line = refused(published(), 1, memory=1e6, disk=1e6)
    assert line.startswith("memory: ")
    assert "; disk: " in line


def test_little_shared_memory_is_said_and_not_refused() -> None:
    assert not capacity.shortages(toy_spec(), 1, there(shared=64 * 2**20))
    (line,) = capacity.notes(there(shared=64 * 2**20))
    assert line.startswith("/dev/shm has 64 MiB free: Ray's object store (256 MiB) goes to disk")
    assert "--shm-size=512m" in line
    assert capacity.notes(there(shared=nodes.OBJECT_STORE_BYTES)) == []


def test_shared_memory_that_is_not_to_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(toy_spec(), 1, closed=True).startswith("/dev/shm is not writable by this user, and Ray needs it")
    assert not capacity.free(tmp_path).closed
    monkeypatch.setattr(os, "access", lambda path, mode: path != "/dev/shm")
    assert capacity.free(tmp_path).closed
    monkeypatch.setattr(capacity, "SHARED", str(tmp_path / "none"))
    assert not capacity.free(tmp_path).closed


def test_what_is_free_here(tmp_path: Path) -> None:
    found = capacity.free(tmp_path / "not" / "yet")
    assert 0 < found.disk < math.inf
    assert found.memory > 0
    assert found.shared > 0


@pytest.mark.parametrize(
    ("limit", "left"), [("4000000", 4000000 - 3000000 + 500000), ("max", math.inf), (None, math.inf)]
)
def test_a_control_group_limits_memory_and_its_caches_can_go(tmp_path: Path, limit: str | None, left: float) -> None:
    if limit:
        (tmp_path / "memory.max").write_text(limit + "\n", "utf-8")
    (tmp_path / "memory.current").write_text("3000000\n", "utf-8")
    (tmp_path / "memory.stat").write_text("anon 2000000\ninactive_file 500000\n", "utf-8")
    assert capacity._group("memory.max", "memory.current", str(tmp_path)) == left


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads the tables of Linux")
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_nothing_of_a_local_sweep_answers_a_stranger(tmp_path: Path, workers: int) -> None:
    """Every listener of every process of the command, from its beginning to its end."""
    status, found = listeners.watched(tmp_path, workers)
    assert status == 0
    assert len(found) >= 6, "Ray's own processes listen somewhere"
    assert [one for one in found if not one.held] == []
    assert sum(one.answers.startswith(listeners.SILENT) for one in found) == (2 if workers > 1 else 0), "Gloo's"
