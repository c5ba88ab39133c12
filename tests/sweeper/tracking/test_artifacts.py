"""A file that MLflow cannot store costs itself and one line: rows and ends go on, and the file comes later."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.journal import Journal
from sweeper.journal.records import best
from sweeper.tracking import artifacts
from sweeper.tracking import tracker as tracker_module
from sweeper.tracking.tracker import Tracker
from tests.sweeper.samples import toy_spec, written
from tests.sweeper.tracking.test_tracker import Refused, Store


def no_boto() -> None:
    raise ModuleNotFoundError("No module named 'boto3'")


def not_ours() -> None:
    raise PermissionError(errno.EACCES, "Permission denied", "/srv/theirs")


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def no_bucket() -> None:
    raise Refused("NoSuchBucket")


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """Of a sweep whose completed trials ended with files of their own."""
    monkeypatch.setattr(tracker_module, "POLL_S", 0.0)
    (tmp_path / "bundle").mkdir()
    (tmp_path / "report.md").write_text("# toy\n", "utf-8")
    journal = written(tmp_path / "journal", toy_spec())
    for trial in journal.trials.values():
        if trial.end and trial.state == "completed":
            (tmp_path / trial.id / "bundle" / "analysis").mkdir(parents=True)
            trial.end = replace(trial.end, checkpoint=trial.id)
    return journal


@pytest.fixture
def follow(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """One session of the driver against a store, to its end; what it said."""

    def run(store: Store, drain_s: float = 10.0) -> list[str]:
        said: list[str] = []
        monkeypatch.setattr(tracker_module.store, "connection", lambda uri: store)
        tracker = Tracker(journal, toy_spec(), tmp_path, "http://fake", say=said.append)
        tracker.start()
        found = best(toy_spec(), journal.trials.values())
        crowned = tracker_module.Promotion(journal.trials["t0001"], tmp_path / "bundle", {})
        assert tracker.close("completed", found, tmp_path / "bundle", drain_s, promotion=crowned) == 0, said
        return said

    return run


@pytest.fixture
def whole(follow: Callable[..., list[str]]) -> dict[str, Any]:
    """What a store holds that nothing befell."""
    store = Store()
    assert follow(store) == []
    picture = store.picture()
    assert len(picture["artifacts"]) == 9  # two of the sweep, three analyses, two bundles with MLmodel
    assert picture["versions"] == [("toy", "t0002"), ("toy", "t0001")]
    return picture


@pytest.mark.parametrize("why", [no_boto, not_ours, full, no_bucket])
def test_rows_and_ends_arrive_where_files_cannot_be_stored(
    whole: dict[str, Any], follow: Callable[..., list[str]], why: Callable[[], None]
) -> None:
    store = Store()
    store.place = why
    (line,) = follow(store)
    assert "cannot store MLflow's artifacts in s3://***@bucket/theirs: " in line
    with pytest.raises(Exception, match=r"\w") as caught:
        why()
    assert str(caught.value) in line
    seen = store.picture()
    assert (seen["artifacts"], seen["versions"], seen["aliases"]) == (set(), [], {})
    lacking = {name for name, run in seen["runs"].items() if run["tags"].pop("sweeper.lacks", None) == "analysis"}
    assert lacking == {"t0000", "t0001", "t0002"}
    assert seen["runs"] == whole["runs"]
    store.place = lambda: None
    assert follow(store) == []
    assert store.picture() == whole


@pytest.mark.slow
def test_what_is_delivered_later_is_delivered_once_whichever_call_fails(
    whole: dict[str, Any], follow: Callable[..., list[str]]
) -> None:
    def resumed(breaks: int | None) -> Store:
        store = Store()
        store.place = no_boto
        follow(store)
        store.place, store.calls, store.breaks, store.took_effect = (lambda: None), 0, breaks, bool((breaks or 0) % 2)
        follow(store)
        return store

    for breaks in range(resumed(None).calls):
        assert resumed(breaks).picture() == whole, breaks


def test_a_place_that_is_back_before_the_end_is_told(
    whole: dict[str, Any], follow: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, tried = Store(), []

    def place() -> None:
        tried.append(1)
        if len(tried) < 4:
            full()

    store.place = place
    said = follow(store)
    assert [line.partition(" in s3:")[0] for line in said] == [
        "cannot store MLflow's artifacts",
        "MLflow's artifacts can be stored again",
    ]
    assert store.picture() == whole


def test_one_failure_is_chance_and_a_store_that_is_away_is_not_the_places_fault(
    whole: dict[str, Any], follow: Callable[..., list[str]]
) -> None:
    store, tried = Store(), []

    def once() -> None:
        tried.append(1)
        if len(tried) == 1:
            full()

    store.place = once
    assert follow(store) == []
    assert store.picture() == whole

    store, away = Store(), threading.Event()

    def gone() -> None:
        if not away.is_set():
            store.down = True
            away.set()
            threading.Timer(1.5, lambda: setattr(store, "down", False)).start()

    store.place = gone
    assert not [line for line in follow(store) if "artifacts" in line]
    assert store.picture() == whole


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], object]]:
    """A place that never answers while the test runs."""
    over = threading.Event()
    monkeypatch.setattr(artifacts, "SLOW_S", 0.1)
    monkeypatch.setattr(artifacts.Artifacts.put, "__defaults__", (0.2,))
    yield lambda: over.wait(30)
    over.set()


def test_a_place_that_does_not_answer_is_waited_for_once(
    whole: dict[str, Any], follow: Callable[..., list[str]], silent: Callable[[], object]
) -> None:
    store, tried = Store(), []

    def place() -> None:
        tried.append(1)
        silent()

    store.place = place
    begin = time.monotonic()
    (line,) = follow(store)
    assert time.monotonic() - begin < 3
    assert "TimeoutError: no answer within" in line
    assert len(tried) == 1
    assert artifacts.Artifacts.hang()
    assert {name: run["status"] for name, run in store.picture()["runs"].items()} == {
        name: run["status"] for name, run in whole["runs"].items()
    }


def test_the_command_does_not_wait_for_an_upload_that_hangs() -> None:
    code = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from sweeper import closing
from sweeper.tracking import artifacts
pool = ThreadPoolExecutor()
threading.Thread(target=lambda: pool.submit(time.sleep, 30).result(), name=artifacts.THREAD, daemon=True).start()
time.sleep(0.1)
print("said")
closing.leave(int(sys.argv[1]))
"""
    done = subprocess.run([sys.executable, "-c", code, "3"], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (3, "said\n", "")
