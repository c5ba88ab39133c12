"""Sweeps whose trials are groups of Ray Train workers: what is stopped or fails midway gives everything back."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.journal import checkpoints, run_folders
from sweeper.journal.journal import Journal
from sweeper.spec.sections import Resources
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes as nodes_module
from sweeper.trials import cluster, tuner
from tests.drills.soak import marked
from tests.sweeper.samples import toy_spec
from tests.sweeper.trials.test_tuner import assert_all_given_back

pytestmark = pytest.mark.slow
GROUP = Resources(workers=1)


@pytest.fixture(scope="module")
def slots() -> Iterator[int]:
    """A Ray for groups. When it has ended, so have all processes that it started."""
    mark = f"{uuid.uuid4()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GROUPS_TEST", mark)
        with cluster.session() as nodes:
            yield nodes_module.max_concurrent(GROUP, nodes)
    deadline = time.monotonic() + 10
    while (left := marked(f"GROUPS_TEST={mark}")) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert left == []


def arms(**settings: dict[str, object]) -> SweepSpec:
    return toy_spec(
        trainable="tests.sweeper.fragile:train",
        config={"pause": 0.1},
        space={},
        arms=settings,
        search={"method": "arms"},
        resources={"workers": 1, "concurrency": 1},
        scheduler={"halving": {"reduction": 3}},
    )


def run(spec: SweepSpec, folder: Path, slots: int) -> Journal:
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    assert tuner.run(spec, folder, journal, slots)
    assert_all_given_back()
    return journal


def ends(journal: Journal) -> list[tuple[str, int, str | None]]:
    return [(record.state, record.step, record.end and record.end.reason) for record in journal.trials.values()]


def test_groups_that_are_stopped_midway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int):
    monkeypatch.chdir(tmp_path)
    spec = arms(good={"x": 0.3}, bad={"x": 1.0}, fair={"x": 0.31})
    journal = run(spec, tmp_path / "run", slots)
    assert ends(journal) == [
        ("completed", 20, None),
        ("stopped", 5, "stopped by halving at step 5"),
        ("stopped", 10, "stopped by halving at step 10"),
    ]
    for record in list(journal.trials.values())[1:]:
        mark = checkpoints.owner(spec.trainable, record.id, record.ask.seed, record.ask.config)
        newest, _ = checkpoints.newest(tmp_path / "run/trials" / record.id / "checkpoints", mark)
        assert newest is not None
        assert newest.name < "step-00000020", "it went on to its end all the same"


def test_a_training_that_raises_and_a_lost_worker_are_tried_again_as_often_as_the_spec_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
):
    monkeypatch.chdir(tmp_path)
    spec = arms(
        raises={"x": 0.1, "fail": "raise"}, diverges={"x": 0.2, "fail": "nan"}, killed={"x": 0.3, "killed": True}
    ).model_copy(update={"scheduler": "none", "resources": Resources(workers=1)})
    journal = run(spec, tmp_path / "run", slots)
    assert ends(journal) == [
        ("failed", 5, "RuntimeError: the toy fails on purpose"),
        ("failed", 10, "RuntimeError: diverged: val/loss is nan at step 15"),
        ("completed", 20, None),
    ]
    tries = {path.name: len(path.read_text("utf-8")) for path in tmp_path.glob("tries-*")}
    assert tries == {"tries-0.1": 2, "tries-0.2": 2, "tries-0.3": 2}


def test_a_fault_of_a_rank_ends_the_sweep_and_leaves_its_trial_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
):
    monkeypatch.chdir(tmp_path)
    spec = arms(one={"x": 0.3, "fault": errno.EIO}).model_copy(update={"scheduler": "none"})
    with pytest.raises(OSError, match="Input/output error") as met:
        run(spec, tmp_path / "run", slots)
    assert (met.value.errno, met.value.filename) == (errno.EIO, "/a/file")
    journal = Journal(tmp_path / "run/journal.jsonl")
    assert [(record.open, record.step) for record in journal.trials.values()] == [(True, 5)]
    assert tuner.run(spec, tmp_path / "run", journal, slots), "the second try meets no fault"
    assert ends(journal) == [("completed", 20, None)]


def test_a_trial_killed_between_its_reservation_and_its_workers_leaves_room_for_the_next_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slots: int
):
    monkeypatch.chdir(tmp_path)
    killed: list[int] = []

    def kill() -> None:
        """The first trial's process, as soon as its group has its CPU."""
        from ray.util import placement_group_table

        from sweeper.system import ray_inside

        begin, name = time.monotonic(), cluster.reserved(str(tmp_path / "run" / run_folders.SCRATCH / "train"))
        while not killed and time.monotonic() < begin + 60:
            reserved = [one for one in placement_group_table().values() if one["name"].startswith(name)]
            if any(one["state"] == "CREATED" for one in reserved):
                trials = [one for one in ray_inside.actors() if one["ActorClassName"] == "ImplicitFunc"]
                killed.extend(one["Pid"] for one in trials if one["State"] == "ALIVE")
                os.kill(killed[0], signal.SIGKILL)
            time.sleep(0.005)

    thread = threading.Thread(target=kill)
    thread.start()
    spec = arms(one={"x": 0.4}).model_copy(update={"scheduler": "none"})
    journal = run(spec, tmp_path / "run", slots)
    thread.join()
    assert len(killed) == 1
    assert ends(journal) == [("completed", 20, None)]
