"""Sweeps with eight trials at once whose tracking store is PostgreSQL, by MLflow's server and without one.

Each row of the journal must be in the store once, and the database's password nowhere: not in what the sweep prints,
not in its run folder, not in the store. The server is Debian's package, started for the drill on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from sweeper.journal.journal import Journal, TrialRecord
from tests.drills import nodes
from tests.drills.outage import ROOT, Server, delivered, wanted
from tests.drills.processes import until

ABSENT = "skipped: there is no PostgreSQL server (initdb and postgres; Debian's package postgresql)"
UNPRIVILEGED = "nobody"  # PostgreSQL refuses to run as root
AT_ONCE = 8
PAUSE = 1.5  # seconds a step of the toy: trials are long beside the start of the processes that run them
USER = "mlflow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--trials", type=int, default=24, help="of each sweep (24)")
    parser.add_argument("--through", choices=("server", "database"), help="only this one")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """A sweep through MLflow's server, and one that writes to the database itself."""
    if not available():
        return {"held": True, "skipped": ABSENT}
    ways = [options.through] if options.through else ["server", "database"]
    with nodes.TwoNodes(AT_ONCE, nodes.environment()) as cluster, Postgres() as database:
        figures = {way: _drill(way, database, cluster, options.trials) for way in ways}
        version = database.version
    return {"held": all(one["held"] for one in figures.values()), "postgres": version, **figures}


class Postgres:
    """A PostgreSQL server on loopback behind a password, with a folder of its own; MLflow's user owns its databases."""

    def __init__(self, port: int | None = None, password: str | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port or 0))
            self.port = probe.getsockname()[1]
        # A URL cannot hold the second half as it is.
        self.password = password or f"{secrets.token_hex(8)}/@ :{secrets.token_hex(8)}"
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self._user = {"user": UNPRIVILEGED, "group": "nogroup", "extra_groups": []} if os.getuid() == 0 else {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        if self._process:
            self._process.send_signal(signal.SIGINT)  # PostgreSQL's own: disconnect all, end in order
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def version(self) -> str:
        return self.asked("postgres", "SHOW server_version")[0][0]

    def uri(self, database: str, password: bool = True) -> str:
        login = f"{USER}:{quote(self.password, safe='')}" if password else USER
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        self.asked("postgres", f'CREATE DATABASE "{database}"')

    def asked(self, database: str, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that a query gives."""
        import psycopg

        with psycopg.connect(self.uri(database), autocommit=True) as connection:
            cursor = connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def tables_with(self, database: str, texts: tuple[str, ...]) -> list[str]:
        """The tables of which some row has one of the texts in it."""
        tables = self.asked(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        patterns = [f"%{text}%" for text in texts]
        found = 'SELECT count(*) FROM "{}" AS row WHERE row::text LIKE ANY (%s)'
        return sorted(name for (name,) in tables if self.asked(database, found.format(name), patterns)[0][0])

    def _make(self) -> None:
        secret, data = self._folder / "password", self._folder / "data"
        secret.write_text(self.password, "utf-8")
        if self._user:
            for path in (self._folder, secret):
                shutil.chown(path, UNPRIVILEGED, "nogroup")
        command = [_binary("initdb"), "--pgdata", data, "--username", USER, "--pwfile", secret, "--auth=scram-sha-256"]
        subprocess.run([*command, "--no-sync", "--encoding=UTF8"], check=True, capture_output=True, **self._common)
        secret.unlink()

    def _start(self) -> None:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "fsync": "off"}
        command = [_binary("postgres"), "-D", str(self._folder / "data")]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self._folder / "log").open("ab") as log:
            process: Any = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, **self._common)
        self._process = process
        until(self._answers, 60, "PostgreSQL answers")

    @property
    def _common(self) -> dict[str, Any]:
        return {"cwd": self._folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}, **self._user}

    def _answers(self) -> bool:
        import psycopg

        try:
            return bool(self.asked("postgres", "SELECT 1"))
        except psycopg.OperationalError:
            return False


def available() -> bool:
    return bool(_binary("initdb") and _binary("postgres"))


def _binary(name: str) -> str:
    """Debian keeps the server's programs out of PATH; "" where there is none."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return shutil.which(name) or next((str(place / name) for place in places if (place / name).is_file()), "")


def _drill(way: str, database: Postgres, cluster: nodes.TwoNodes, trials: int) -> dict[str, Any]:
    database.create(way)
    with tempfile.TemporaryDirectory(prefix="postgres-") as name:
        folder = Path(name)
        server = None
        if way == "server":  # the password goes by libpq's variable, and is in no URI
            server = Server(folder, database.uri(way, password=False), {"PGPASSWORD": database.password})
        try:
            if server:
                server.start()
            return _sweep(folder, server.uri if server else database.uri(way), database, way, cluster, trials)
        finally:
            if server:
                server.stop()


def _sweep(
    folder: Path, uri: str, database: Postgres, name: str, cluster: nodes.TwoNodes, trials: int
) -> dict[str, Any]:
    """One sweep with eight trials at once; what the store has of it."""
    (folder / "postgres.yaml").write_text(json.dumps(_spec(trials)), "utf-8")
    environment = {**nodes.environment(), **cluster.environment, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-m", "sweeper.run", "postgres.yaml", "--set", f"resources.concurrency={AT_ONCE}"]
    begin = time.monotonic()
    done = subprocess.run(
        [*command, "--storage", str(folder / "runs"), "--json", "-v"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
    )
    took = time.monotonic() - begin
    path = next(folder.glob("runs/*/journal.jsonl"), None)
    if done.returncode or path is None:
        raise RuntimeError(f"the sweep ended with {done.returncode}: {done.stderr[-2000:]}")
    records = list(Journal(path, read_only=True).trials.values())
    found, rows = delivered(uri, "postgres"), wanted(records)
    counted = database.asked(name, _ROWS)[0]
    halves = tuple(half for half in database.password.split("/@ :"))
    figures = {
        "status": done.returncode,
        "trials": len(records),
        "completed": sum(record.state == "completed" for record in records),
        "at_once": at_once(records),
        "delivered": sum(found.get(trial) == ("FINISHED", metrics) for trial, metrics in rows.items()),
        "metrics": sum(metrics.total() for metrics in rows.values()),
        "metrics_in_tables": counted[0],
        "metrics_twice": counted[0] - counted[1],
        "seconds": round(took, 1),
        "password_in": [*_with(folder, done, halves), *database.tables_with(name, halves)],
        "said": [line for line in done.stderr.splitlines() if line.startswith(("MLflow", "error"))],
    }
    held = figures["status"] == 0 and figures["delivered"] == trials == figures["completed"] == len(found)
    held = held and figures["metrics"] == figures["metrics_in_tables"] and not figures["metrics_twice"]
    return {"held": held and figures["at_once"] == AT_ONCE and not figures["password_in"], **figures}


_ROWS = """
    SELECT count(*), count(DISTINCT (metrics.run_uuid, metrics.key, metrics.step))
    FROM metrics JOIN tags ON tags.run_uuid = metrics.run_uuid AND tags.key = 'sweeper.kind' AND tags.value = 'trial'
"""


def _spec(trials: int) -> dict[str, Any]:
    return {
        "name": "postgres",
        "trainable": "trainables.toy:train",
        "config": {"steps": 20, "report_every": 2, "pause": PAUSE},
        "space": {"x": {"uniform": [0, 1]}},
        "search": {"method": "random", "trials": trials},
    }


def at_once(records: list[TrialRecord]) -> int:
    """The most trials that were between their first report and their end at one moment."""
    spans = [(record.rows[0].time, record.end.time) for record in records if record.end and record.rows]
    return max((sum(first <= begin < end for first, end in spans) for begin, _ in spans), default=0)


def _with(folder: Path, done: subprocess.CompletedProcess[str], texts: tuple[str, ...]) -> list[str]:
    """Where one of the texts is: what was printed, and the files below the folder."""
    said = {
        "stdout": done.stdout.encode(),
        "stderr": done.stderr.encode(),
        **{str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()},
    }
    return sorted(name for name, content in said.items() if any(text.encode() in content for text in texts))
