"""A short sweep of a tiny model, one trial at a time, of which something is killed at some moment; then it is resumed.

What is left must be the undisturbed sweep: every trial once, every row once in the journal and in MLflow, the same
numbers to the bit, and nothing that still runs. The moment is drawn from the undisturbed sweep's time line.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.journal.events import Ask, End, Report
from sweeper.journal.journal import Journal
from tests.drills import nodes, processes
from tests.drills.outage import ROOT, Server

FAULTS = ("lost", "repeated", "metrics_lost", "doubled", "left_running", "different", "processes_left")
MARK = "KILL_DRILL"
LIMIT_S = 400


@dataclass(frozen=True)
class Mode:
    """How the trials of a sweep run. own: a Ray of its own, else the two nodes. victims: whom it has."""

    name: str
    workers: int
    trials: int
    own: bool
    victims: tuple[str, ...]


MODES = (
    Mode("in process", 0, 4, True, ("driver", "trial actor", "raylet", "tracking server")),
    Mode("in process, two nodes", 0, 4, False, ("driver", "trial actor", "node", "tracking server")),
    Mode("1 worker, two nodes", 1, 2, False, ("driver", "trial actor", "worker", "node", "tracking server")),
    Mode("2 workers, two nodes", 2, 2, False, ("driver", "trial actor", "worker", "node", "tracking server")),
)
VICTIMS = ("driver", "trial actor", "worker", "raylet or node", "tracking server")


@dataclass
class Bench:
    """What all runs of the drill share: a folder with the corpus, the cluster, the undisturbed sweeps."""

    folder: Path
    two: nodes.TwoNodes | None = None
    spec: Callable[[Path, Mode, str], dict[str, Any]] | None = None
    whole: dict[str, Path] = field(default_factory=dict)

    def environment(self, mode: Mode, mark: str) -> dict[str, str]:
        common = {**nodes.environment(), "PYTHONPATH": str(ROOT), "SWEEPER_CACHE": str(self.folder / "cache")}
        joined = {} if mode.own or self.two is None else self.two.environment
        return {**common, **joined, MARK: mark}


@dataclass
class Sweep:
    """One folder with a spec, in which sweeps are started."""

    bench: Bench
    mode: Mode
    folder: Path
    uri: str
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def begin(self) -> subprocess.Popen[bytes]:
        if not self.folder.exists():
            self.folder.mkdir()
            (self.folder / "kill.yaml").write_text(
                json.dumps((self.bench.spec or _spec)(self.bench.folder, self.mode, self.uri)), "utf-8"
            )
        with (self.folder / "errors").open("ab") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "sweeper.run", "kill.yaml", "--resume", *self.options],
                cwd=self.folder,
                env={**self.bench.environment(self.mode, self.mark), **self.environment},
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )

    @property
    def mark(self) -> str:
        return f"{self.folder}"

    @property
    def journal(self) -> Path:
        return next(self.folder.glob("runs/*/journal.jsonl"), self.folder / "none")

    @property
    def told(self) -> str:
        return (self.folder / "errors").read_text("utf-8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the order (0)")
    parser.add_argument("--victim", choices=VICTIMS, help="only this one")
    parser.add_argument("--own", action="store_true", help="without the two nodes")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`runs` sweeps, the victims in turn, each in one of the modes that have it."""
    draw, rows = random.Random(options.seed), []
    with _bench(options.own) as bench:
        for number in range(options.runs):
            victim = options.victim or VICTIMS[number % len(VICTIMS)]
            chosen = [(mode, one) for mode in MODES if mode.own or bench.two for one in mode.victims if one in victim]
            mode, one = chosen[(number // len(VICTIMS)) % len(chosen)]
            rows.append(_run(bench, mode, one, number, draw))
            print(json.dumps(rows[-1]), file=sys.stderr, flush=True)
    totals = {fault: sum(row[fault] for row in rows) for fault in FAULTS}
    return {"held": not any(totals.values()), "runs": len(rows), **totals, "by_victim": _table(rows), "rows": rows}


def _table(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    table = {}
    for victim in dict.fromkeys(row["victim"] for row in rows):
        own = [row for row in rows if row["victim"] == victim]
        table[victim] = {"runs": len(own), **{fault: sum(row[fault] for row in own) for fault in FAULTS}}
        table[victim]["went_on_alone"] = sum(row["status"][0] == 0 for row in own)
        table[victim]["seconds"] = round(sum(row["seconds"] for row in own) / len(own))
    return table


@contextmanager
def _bench(own: bool) -> Iterator[Bench]:
    from tests.trainables.tiny import write_corpus

    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        bench = Bench(Path(name))
        write_corpus(bench.folder)
        environment = {**bench.environment(MODES[0], "nodes"), MARK: "nodes"}
        with nullcontext() if own else nodes.TwoNodes(2, environment) as two:
            bench.two = two
            yield bench


def _spec(folder: Path, mode: Mode, uri: str) -> dict[str, Any]:
    from tests.trainables.tiny import config

    settings = config(folder / "corpus.txt", steps=48, report_every=6, masking={"mask_warmup": 0.1})
    tree = settings.model_dump(mode="json")
    return {
        "name": "kill",
        "trainable": "trainables.mlm:train",
        "data": tree.pop("data"),
        "config": tree,
        "space": {"masking.ema_decay": {"uniform": [0, 1]}, "optimiser.lr": {"loguniform": [1e-3, 1e-2]}},
        "search": {"method": "tpe", "trials": mode.trials},
        "resources": {"workers": mode.workers, "concurrency": 1},
        "tracking": {"uri": uri},
    }


def undisturbed(bench: Bench, mode: Mode) -> Journal:
    """The sweep that nothing happens to, each of its trials trained from step 0; run once for a mode."""
    if mode.name not in bench.whole:
        folder = bench.folder / f"whole-{len(bench.whole)}"
        sweep = Sweep(bench, mode, folder, f"sqlite:///{folder}/mlflow.db", options=("--no-reuse",))
        status = sweep.begin().wait(LIMIT_S)
        if status:
            raise RuntimeError(f"the undisturbed sweep ended with {status}: {sweep.told[-2000:]}")
        bench.whole[mode.name] = sweep.journal
    return Journal(bench.whole[mode.name], read_only=True)


def _run(bench: Bench, mode: Mode, victim: str, number: int, draw: random.Random) -> dict[str, Any]:
    whole = undisturbed(bench, mode)
    events = whole.events
    folder, begin = bench.folder / f"run-{number}", time.monotonic()
    if bench.two and not mode.own:
        bench.two.mend()
    server = Server(folder) if victim == "tracking server" else None
    sweep = Sweep(bench, mode, folder, server.uri if server else f"sqlite:///{folder}/mlflow.db")
    moment = draw.uniform(events[1].time, events[-1].time)
    before = max(number for number, event in enumerate(events) if event.time <= moment)
    try:
        driver = sweep.begin()
        if server:
            server.start()
        _wait(sweep, driver, before + 1, moment - events[before].time)
        killed = _kill(sweep, driver, victim, server, draw)
        statuses = _to_the_end(sweep, driver, victim, server)
        if server:
            server.stop()
    finally:
        left = processes.clear(f"{MARK}={sweep.mark}", 15)
        if server:
            server.stop()
    store = f"sqlite:///{folder}/server.db" if server else sweep.uri
    return {
        "number": number,
        "mode": mode.name,
        "victim": "raylet or node" if victim in ("raylet", "node") else victim,
        "killed": killed,
        "after_event": before + 1,
        "status": statuses,
        "seconds": round(time.monotonic() - begin, 1),
        **compared(whole, sweep.journal, store),
        "processes_left": len(left),
        "left": left,
        "told": [line for line in sweep.told.splitlines() if "Traceback" in line or line.startswith("error")],
    }


def _wait(sweep: Sweep, driver: subprocess.Popen[bytes], events: int, more: float) -> None:
    """Until the journal has so many events, and so many seconds more."""
    deadline = time.monotonic() + LIMIT_S
    while driver.poll() is None and time.monotonic() < deadline:
        if sweep.journal.exists() and sweep.journal.read_bytes().count(b"\n") >= events:
            time.sleep(more)
            return
        time.sleep(0.02)
    raise RuntimeError(f"the sweep never came to event {events}: {sweep.told[-2000:]}")


def _kill(
    sweep: Sweep, driver: subprocess.Popen[bytes], victim: str, server: Server | None, draw: random.Random
) -> str | None:
    """SIGKILL as soon as there is such a process; what it was, or None where the sweep ended before."""
    titles = {"trial actor": "ray::ImplicitFunc", "worker": "ray::RayTrainWorker", "raylet": "raylet/raylet"}
    while driver.poll() is None:
        if victim == "driver":
            driver.kill()
            return "driver"
        if server:
            server.stop()
            return "server"
        if victim == "node" and sweep.bench.two:
            sweep.bench.two.kill()
            return "node"
        found = [pid for pid, command in _processes(sweep).items() if titles[victim] in command]
        if found:
            chosen = draw.choice(sorted(found))
            command = _processes(sweep).get(chosen, "")
            processes.kill([chosen])
            return command[:40]
        time.sleep(0.02)
    return None


def _processes(sweep: Sweep) -> dict[int, str]:
    """Those of the sweep, and those that the node with CPUs runs for it; a group's trial actor lives at the head."""
    two = sweep.bench.two
    return processes.marked(f"{MARK}={sweep.mark}") | (two.everything if two and not sweep.mode.own else {})


def _to_the_end(sweep: Sweep, driver: subprocess.Popen[bytes], victim: str, server: Server | None) -> list[int]:
    """Exit statuses: of the sweep that lost something, then of those that go on, three at most."""
    statuses: list[int] = []
    while len(statuses) < 4:
        if victim == "node" and sweep.bench.two:
            sweep.bench.two.mend()
        statuses.append(driver.wait(LIMIT_S))
        if server and len(statuses) == 1:
            server.start()
        if len(statuses) > 1 and statuses[-1] == 0:
            break
        driver = sweep.begin()
    else:
        processes.kill([driver.pid])
        driver.wait()
    return statuses


def compared(whole: Journal, path: Path, store: str) -> dict[str, int]:
    """What differs from the undisturbed sweep, counted in trials or in metrics."""
    journal = Journal(path)
    found = _stored(store)
    asked = Counter(event.trial for event in journal.events if isinstance(event, Ask))
    done = Counter(event.trial for event in journal.events if isinstance(event, End) and event.state == "completed")
    told = Counter((event.trial, event.step) for event in journal.events if isinstance(event, Report))
    wanted = {
        record.id: Counter((key, row.step, value) for row in record.rows for key, value in row.metrics.items())
        for record in journal.trials.values()
    }
    stored = {trial: sum((metrics for _, metrics in runs), Counter()) for trial, runs in found.items()}
    return {
        "lost": sum(identity not in done for identity in whole.trials),
        "repeated": sum(count - 1 for counts in (asked, done, told) for count in counts.values()),
        "metrics_lost": sum((rows - stored.get(trial, Counter())).total() for trial, rows in wanted.items()),
        "doubled": sum((stored.get(trial, Counter()) - rows).total() for trial, rows in wanted.items())
        + sum(len(runs) - 1 for runs in found.values()),
        "left_running": sum(status == "RUNNING" for runs in found.values() for status, _ in runs),
        "different": sum(_result(record) != _result(journal.trials.get(name)) for name, record in whole.trials.items()),
    }


def _result(record: Any) -> Any:
    return record and (record.ask.params, record.ask.config, [(row.step, row.metrics) for row in record.rows])


def _stored(uri: str) -> dict[str, list[tuple[str, Counter[tuple[str, int, float]]]]]:
    """Trial, or "" for the sweep -> its runs: status, and how often each (metric, step, value) is there."""
    from mlflow import MlflowClient

    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    client = MlflowClient(uri)
    found: dict[str, list[Any]] = {}
    experiment = client.get_experiment_by_name("kill")
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        trial = run.data.tags.get("sweeper.trial", "")
        metrics = Counter(
            (key, row.step, row.value)
            for key in (run.data.metrics if trial else ())
            for row in client.get_metric_history(run.info.run_id, key)
        )
        found.setdefault(trial, []).append((run.info.status, metrics))
    return found
