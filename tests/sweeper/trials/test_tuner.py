"""Whole sweeps of the toy under Ray."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from sweeper.journal.events import Ask, End, Session
from sweeper.journal.journal import Journal
from sweeper.search.schedulers import Hooks, JournalScheduler
from sweeper.spec.sections import Resources
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes as nodes_module
from sweeper.trials import cluster, tuner
from tests.drills import listeners
from tests.drills.processes import marked
from tests.sweeper.samples import ask, toy_spec


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[nodes_module.Node]]:
    with cluster.session() as nodes:
        yield nodes


def test_what_ray_opens_listens_on_loopback_and_asks_for_a_token(nodes: list[nodes_module.Node]):
    """Every listener, of TCP and UNIX: nothing answers a stranger but a page of one word that Ray asks itself for."""
    started = marked(f"{cluster._MARK}={os.environ[cluster._MARK]}")
    found = listeners.heard({os.getpid(): "this test", **started})
    assert len(found) > 6
    assert [one for one in found if not one.held] == []
    assert len([one for one in found if one.answers.startswith(listeners.REFUSES)]) >= len(found) - 3
    joining = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False)"
    command = [sys.executable, "-c", joining, ray.get_runtime_context().gcs_address]
    joined = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert joined.returncode == 0, joined.stderr
    stranger = {**os.environ, "RAY_AUTH_TOKEN": "0" * 64}
    refused = subprocess.run(command, capture_output=True, text=True, timeout=120, env=stranger)
    assert refused.returncode != 0
    assert "token" in refused.stderr.lower()


def run(spec: SweepSpec, folder: Path, slots: int = 2) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    assert tuner.run(spec, folder, journal, slots)
    return journal


def results(journal: Journal) -> list[tuple[str, dict[str, Any], list[tuple[int, dict[str, float]]]]]:
    return [
        (record.id, record.ask.params, [(row.step, row.metrics) for row in record.rows])
        for record in journal.trials.values()
    ]


@pytest.mark.slow
def test_a_limit_ends_what_runs_and_the_rest_comes_out_as_if_there_were_none(
    tmp_path: Path, nodes: list[nodes_module.Node]
):
    settings = {"config": {"pause": 0.2, "seed_sd": 0.1}, "resources": {"concurrency": 2}}
    folder, limited = tmp_path / "limited", toy_spec(limits={"hours": 6 / 3600}, **settings)
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    assert not tuner.run(limited, folder, journal, 2)
    opened = [record for record in journal.trials.values() if record.open]
    assert opened
    assert all(record.end and (record.end.reason or "").startswith("limits.hours: ") for record in opened)
    assert len(journal.trials) < limited.total_trials
    assert tuner.run(toy_spec(**settings), folder, journal, 2)
    assert results(journal) == results(run(toy_spec(**settings), tmp_path / "whole"))


@pytest.mark.slow
def test_points_and_losses_are_the_same_whatever_the_pace(tmp_path: Path, nodes: list[nodes_module.Node]):
    found = []
    for pause, slots in ((0, 2), (0.02, 1)):
        settings = {"config": {"pause": pause, "seed_sd": 0.1}, "resources": {"concurrency": 2}}
        found.append(run(toy_spec(**settings), tmp_path / str(pause), slots))
    assert results(found[0]) == results(found[1])
    assert [record.state for record in found[0].trials.values()] == ["completed"] * 6
    assert [record.ask.arm for record in found[0].trials.values()] == ["baseline", "published", *[None] * 4]
    session = next(event for event in found[0].events if isinstance(event, Session))
    assert session.machine["concurrency"] == 2
    assert "ray" in session.versions
    end = found[0].trials["t0006"].end
    assert end is not None
    assert end.checkpoint == "trials/t0006/checkpoints/step-00000020"
    folder = tmp_path / "0"
    assert sorted(path.name for path in folder.iterdir()) == ["journal.jsonl", "optuna.log", "trials"]
    assert sorted(path.name for path in (folder / "trials").iterdir()) == [f"t000{n}" for n in range(1, 7)]
    assert [path.name for path in (folder / "trials/t0001").iterdir()] == ["checkpoints"]


def test_trials_that_fail_are_told_apart_and_stop_no_other(tmp_path: Path, nodes: list[nodes_module.Node]):
    arms = {"good": {}, "raises": {"fail": "raise"}, "diverges": {"fail": "nan"}, "last": {"x": 0.3}}
    journal = run(toy_spec(search={"method": "arms"}, arms=arms, space={}), tmp_path / "run")
    ends = [(record.state, record.step, record.end and record.end.reason) for record in journal.trials.values()]
    assert ends == [
        ("completed", 20, None),
        ("failed", 5, "RuntimeError: the toy fails on purpose"),
        ("failed", 10, "RuntimeError: diverged: val/loss is nan at step 15"),
        ("completed", 20, None),
    ]
    assert_all_given_back()


def test_a_trial_that_fails_is_tried_again_as_often_as_the_spec_says(
    tmp_path: Path, nodes: list[nodes_module.Node], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arms = {"killed": {"x": 0.3, "killed": True}, "raises": {"x": 0.2, "fail": "raise"}}
    common = {"trainable": "tests.sweeper.fragile:train", "search": {"method": "arms"}, "space": {}}
    resources = {"max_failures": 2, "concurrency": 1}
    journal = run(toy_spec(**common, arms=arms, resources=resources), tmp_path / "run")
    states = [(record.state, record.step, record.end and record.end.reason) for record in journal.trials.values()]
    assert states == [("completed", 20, None), ("failed", 5, "RuntimeError: the toy fails on purpose")]
    again = [event.reason for event in journal.events if isinstance(event, End) and event.state == "interrupted"]
    assert [str(reason).split(":")[0] for reason in again] == [
        "tried again after its process died; the machine may have run out of memory",
        *["tried again after RuntimeError"] * 2,
    ]
    assert {path.name: len(path.read_text("utf-8")) for path in tmp_path.glob("tries-*")} == {
        "tries-0.3": 2,
        "tries-0.2": 3,
    }
    assert_all_given_back()


def test_a_fault_ends_the_sweep_and_leaves_its_trial_open_to_be_gone_on_with(
    tmp_path: Path, nodes: list[nodes_module.Node], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    arms = {"one": {"x": 0.3, "fault": errno.EROFS}, "two": {"x": 0.2}}
    common = {"trainable": "tests.sweeper.fragile:train", "search": {"method": "arms"}, "space": {}}
    spec = toy_spec(**common, arms=arms, resources={"concurrency": 1, "max_failures": 2})
    with pytest.raises(OSError, match="Read-only file system") as met:
        run(spec, tmp_path / "run")
    assert met.value.errno == errno.EROFS
    journal = Journal(tmp_path / "run/journal.jsonl")
    (record,) = journal.trials.values()
    assert (record.state, record.open, record.step) == ("interrupted", True, 5)
    assert record.end
    assert str(record.end.reason).startswith("the file system is read-only (/a/file: Read-only file system): ")
    assert tuner.run(spec, tmp_path / "run", journal, 2), "the second try meets no fault"
    assert [record.state for record in journal.trials.values()] == ["completed"] * 2


@pytest.mark.slow
def test_a_record_that_cannot_be_written_once_loses_nothing(
    tmp_path: Path, nodes: list[nodes_module.Node], monkeypatch: pytest.MonkeyPatch
):
    """Tune wraps up what is raised where it hands over a row: it comes out as the system's error all the same."""
    spec = toy_spec(search={"method": "random", "trials": 1}, arms={}, config={"run_sd": 0.1})
    whole, put, calls = run(spec, tmp_path / "whole"), Journal._put, []

    def once(file: int, line: bytes) -> None:
        calls.append(line)
        if len(calls) == 4:  # session, ask, report, report
            raise OSError(errno.EIO, "Input/output error")
        put(file, line)

    monkeypatch.setattr(Journal, "_put", staticmethod(once))
    with pytest.raises(OSError, match="Input/output error") as met:
        run(spec, tmp_path / "run")
    assert met.value.errno == errno.EIO
    assert results(run(spec, tmp_path / "run")) == results(whole)


def test_a_row_that_is_not_repeated_is_told_and_the_journal_keeps_its_own(tmp_path: Path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(ask(toy_spec(), 0, 0, "baseline"))
    told: list[str] = []
    rule = JournalScheduler(journal, tmp_path, Hooks(on_mismatch=told.append))
    tune_trial = SimpleNamespace(config={"id": "t0000"})
    for loss in (1.0, 1.0, 2.0):
        rule.on_trial_result(None, tune_trial, {"rows": [{"step": 5, "val/loss": loss}], "checkpoint": "seal"})
    assert [(row.metrics, row.checkpoint) for row in journal.trials["t0000"].rows] == [({"val/loss": 1.0}, "seal")]
    assert len(told) == 1
    assert "t0000: step 5 did not reproduce: val/loss was 1.0, is 2.0; the journal keeps 1.0" in told[0]


def test_a_sweep_goes_on_with_what_is_open_and_repeats_nothing(tmp_path: Path, nodes: list[nodes_module.Node]):
    spec = toy_spec(resources={"concurrency": 1}, config={"run_sd": 0.1})
    whole = run(spec, tmp_path / "whole")
    events = (tmp_path / "whole/journal.jsonl").read_text("utf-8").splitlines()
    begun = next(number for number, line in enumerate(events) if json.loads(line).get("trial") == "t0003")
    cut = tmp_path / "cut"
    (cut / "trials").mkdir(parents=True)
    for name in ("t0001", "t0002", "t0003"):
        (tmp_path / "whole/trials" / name).rename(cut / "trials" / name)
    (cut / "trials/t0003/checkpoints/step-00000020/checkpoint.json").unlink()
    (cut / "journal.jsonl").write_text("\n".join(events[: begun + 2]) + '\n{"event": "repo', "utf-8")
    told: list[str] = []
    journal = Journal(cut / "journal.jsonl")
    before = len(journal.events)
    assert tuner.run(spec, cut, journal, 2, say=told.append), "two slots now, and still one at a time"
    assert results(journal) == results(whole)
    assert len(told) == 2
    assert "torn" in told[0]
    assert "t0003/checkpoints/step-00000020 is skipped: checkpoint.json is missing" in told[1]
    asked = [event.trial for event in journal.events[before:] if isinstance(event, Ask)]
    ended = [event.trial for event in journal.events[before:] if isinstance(event, End)]
    assert asked == ["t0004", "t0005", "t0006"]
    assert ended == ["t0003", "t0004", "t0005", "t0006"]


def test_workers_give_the_same_numbers_and_everything_back(tmp_path: Path, nodes: list[nodes_module.Node]):
    spec = toy_spec(search={"method": "random", "trials": 1}, arms={}, config={"run_sd": 0.1})
    alone = run(spec, tmp_path / "alone")
    ray.shutdown()
    resources = Resources(workers=2)
    with cluster.session() as others:
        slots = nodes_module.max_concurrent(resources, others)
        group = run(spec.model_copy(update={"resources": resources}), tmp_path / "group", slots)
        assert_all_given_back()
    assert results(group) == results(alone)


def assert_all_given_back() -> None:
    """Placement groups come and go in both tables, so both are read anew until they agree."""
    total = available = {}
    for _ in range(50):
        total, available = ray.cluster_resources(), ray.available_resources()
        if available == total and not any("_group_" in name for name in total):
            return
        time.sleep(0.2)
    raise AssertionError(f"{available} is left of {total}")
