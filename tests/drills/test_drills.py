"""The drills can fail: what they count is counted where it is there, and their mutations are refused for a reason."""

from __future__ import annotations

import os
import random
import socket
import threading
from collections import Counter
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal import Ask, End, Journal, Report
from tests.drills import fuzz, kill, listeners
from tests.drills.bitwise import cache
from tests.trainables.tiny import write_corpus


def events(loss: float = 1.0) -> list[Any]:
    asked: dict[str, Any] = {"stage": "search", "arm": None, "seed": 0, "config": {}, "config_hash": "", "raw": {}}
    found: list[Any] = []
    for number, name in enumerate(("t0001", "t0002")):
        found.append(Ask(trial=name, number=number, params={"x": number}, **asked))
        found += [Report(trial=name, step=step, metrics={"val/loss": loss + step}) for step in (5, 10)]
        found.append(End(trial=name, state="completed"))
    return found


def written(path: Path, what: list[Any]) -> Path:
    journal = Journal(path)
    for event in what:
        journal.append(event)
    journal.close()
    return path


def stored(loss: float = 1.0) -> dict[str, list[Any]]:
    rows = Counter({("val/loss", step, loss + step): 1 for step in (5, 10)})
    return {"": [("FINISHED", Counter())], "t0001": [("FINISHED", rows)], "t0002": [("FINISHED", rows)]}


@pytest.mark.parametrize(
    ("change", "store", "expected"),
    [
        (lambda all: all, stored(), {}),
        (lambda all: all[:-1], stored(), {"lost": 1}),
        (lambda all: [*all, all[-1]], stored(), {"repeated": 1}),
        (lambda all: events(loss=2.0), stored(loss=2.0), {"different": 2}),
        (lambda all: all, {**stored(), "t0001": []}, {"metrics_lost": 2, "doubled": -1}),
        (lambda all: all, {**stored(), "t0001": stored()["t0001"] * 2}, {"doubled": 3}),
        (lambda all: all, {**stored(), "": [("RUNNING", Counter())]}, {"left_running": 1}),
    ],
)
def test_a_kill_that_does_harm_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, store: Any, expected: dict[str, int]
) -> None:
    whole = Journal(written(tmp_path / "whole", events()))
    monkeypatch.setattr(kill, "_stored", lambda uri: store)
    found = kill.compared(whole, written(tmp_path / "run", change(events())), "")
    assert {fault: count for fault, count in found.items() if count} == expected


def test_every_mutation_of_a_checkpoint_is_refused_and_none_is_not(tmp_path: Path) -> None:
    with cache(tmp_path):
        trials = fuzz.Trials(tmp_path, write_corpus(tmp_path))
        outcomes = {kind: trials.outcome(kind, random.Random(1)) for kind in fuzz.MUTATIONS}
        assert outcomes.pop(fuzz.UNTOUCHED) == "as before"
        assert outcomes.pop("both damaged") == "from the beginning"
        assert set(outcomes.values()) == {"older one"}
        trials.rows = [(row, None) for row, _ in trials.rows]
        agreeing = "weights edited, manifest agreeing"
        assert trials.outcome(agreeing, random.Random(1)) == "wrong numbers", "the drill does not see what it is for"


def test_a_listener_that_harms_is_seen(tmp_path: Path) -> None:
    """torch's store as it is by itself, a page for everybody, a socket in an open folder."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    with (
        ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as server,
        socket.socket(socket.AF_UNIX) as one,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        one.bind(str(tmp_path / "socket"))
        one.listen()
        tmp_path.chmod(0o755)
        found = {each.address.rpartition(":")[2]: each for each in listeners.heard({os.getpid(): "this.py"})}
        server.shutdown()
    assert found[str(store.port)].answers.startswith("torch's store")
    assert found[str(server.server_address[1])].answers.startswith("HTTP 200 at /")
    assert not any(found[str(port)].held for port in (store.port, server.server_address[1]))
    assert not listeners.Listener("0.0.0.0:80", "any", listeners.SILENT).held
    assert not listeners.Listener("@name", "any", "open to every user").held
    assert str(tmp_path / "socket") in found
    assert found[str(tmp_path / "socket")].held, "a folder of the tests is its user's alone"
