"""The drills can fail: what they count is counted where it is there, and their mutations are refused for a reason."""

from __future__ import annotations

import importlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.events import Ask, End, Report
from sweeper.journal.journal import Journal
from tests.drills import damage, fuzz, hostile, kill, listeners, watched
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


# Of what is changed in a folder whose trials had no models.
RECORDS = [name for name, kind in damage.KINDS.items() if kind.what not in ("bundle", "checkpoints")]


class Watch:
    """A run folder, and what lies around it, for `watched.command`."""

    def __init__(self, folder: Path) -> None:
        self.run, self.outside, self.scratch = folder / "run", folder / "outside", folder / "scratch"
        for made in (self.run, self.outside, self.scratch):
            made.mkdir()
        self.private = self.outside / "private.txt"
        self.private.write_text("private", "utf-8")
        (self.run / "evil_module.py").write_text("x = 1\n", "utf-8")
        (self.run / "link").symlink_to(self.private)
        self.untouchable = watched.Untouchables([self.outside])

    def kinds(self, call: Callable[[], Any]) -> set[str]:
        """Of what was seen while this was called."""
        bounds = watched.Bounds(self.run, (), (str(self.run),))
        found = watched.command(call, bounds, self.scratch, self.run, 20)
        lines = [*found.done, *self.untouchable.touched()]
        return {line.partition(":")[0] for line in lines} | {kind for kind, _ in hostile.judged("status", found)}


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    made = Watch(tmp_path)
    yield made
    made.untouchable.close()


def imports(name: str, folder: Path) -> None:
    sys.path.insert(0, str(folder))
    importlib.import_module(name)


def tells(text: str) -> Callable[[], int]:
    def call() -> int:
        print(text, file=sys.stderr)
        return 2

    return call


HARM: list[tuple[Callable[[Watch], Callable[[], Any]], set[str]]] = [
    (lambda watch: lambda: (watch.run / "new").write_text("", "utf-8") and 0, set()),
    (lambda watch: lambda: watch.private.read_text("utf-8") and 0, {"read outside", "opened outside"}),
    (lambda watch: lambda: (watch.run / "link").read_text("utf-8") and 0, {"read outside", "opened outside"}),
    (
        lambda watch: lambda: subprocess.run(["cat", watch.private], check=True) and 0,
        {"started cat", "opened outside", "read outside"},
    ),
    (lambda watch: lambda: watch.private.unlink(), {"os.remove outside", "removed outside"}),
    (lambda watch: lambda: os.rename(watch.private, watch.run / "x"), {"os.rename outside", "moved outside"}),
    (lambda watch: lambda: (watch.outside / "new").mkdir(), {"os.mkdir outside", "made outside"}),
    (lambda watch: lambda: (watch.outside / "new").symlink_to("x"), {"os.symlink outside", "made outside"}),
    (lambda watch: lambda: imports("evil_module", watch.run), {"imported from inside"}),
    (lambda watch: lambda: 1 / 0, {"traceback"}),
    (lambda watch: lambda: sys.exit(70), {"exit status"}),
    (lambda watch: lambda: os.kill(os.getpid(), signal.SIGKILL), {"died"}),
    (lambda watch: tells("error: one line"), set()),
    (lambda watch: tells("error: one line\nand one more"), {"refused in more or less than a line"}),
    (lambda watch: tells("error: \x1b[2J"), {"escape sequence"}),
    (lambda watch: tells("error: \u202e"), {"escape sequence"}),
]


@pytest.mark.parametrize("number", range(len(HARM)))
def test_harm_is_seen(watch: Watch, number: int) -> None:
    harm, kinds = HARM[number]
    assert watch.kinds(harm(watch)) == kinds


def test_what_never_ends_is_seen(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "STILL_S", 1.5)
    assert watch.kinds(lambda: time.sleep(100)) == {"no end"}


@pytest.fixture(scope="module")
def bench() -> Iterator[hostile.Bench]:
    with hostile.records(0) as made:
        yield made


def test_no_damage_is_in_vain(bench: hostile.Bench, tmp_path: Path) -> None:
    same = []
    for number, name in enumerate(RECORDS):
        storage, outside = tmp_path / str(number) / "storage", tmp_path / str(number) / "outside"
        (outside / "victim").mkdir(parents=True)
        (outside / "private.txt").touch()
        case = damage.Case(bench.seeds["toy"].put(storage), outside, outside, hostile.FORMS[0])
        before = hostile.state(storage)
        damage.KINDS[name].do(case, random.Random(0))
        if hostile.state(storage) == before:
            same.append(name)
    assert same == ["untouched: as it was sent"]


@pytest.mark.slow
def test_strangers_run_folders_do_no_harm(bench: hostile.Bench) -> None:
    """One of every kind, through one of the commands that only read; the drill itself has all commands, and models."""
    commands = ("report", "status", "status")
    rows = [hostile.tried(bench, number, RECORDS, [commands[number % 3]]) for number in range(len(RECORDS))]
    found = hostile.told(rows)
    assert found["held"], found["first"]
    assert found["statuses"].get(0), "nothing was read at all"
