"""docker/compose.yaml where there is no container engine: its commands and health checks as processes on this machine.

They are read from the file itself. Names of services become loopback, ports are free ones, volumes are folders. Each
health check must say no before its service is started and yes afterwards; then a sweep is submitted as a job.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from sweeper.journal.journal import Journal
from tests.drills import nodes, processes
from tests.drills.outage import ROOT, delivered, wanted
from tests.drills.postgres import ABSENT, Postgres, available
from tests.drills.processes import until

FILE = ROOT / "docker" / "compose.yaml"
MARK = "COMPOSE_DRILL"
ORDER = ("postgres", "mlflow", "head", "worker")
PORTS = ("5000", "5432", "6379", "8265")
AGENT = "52365"  # each node's own, in its container
TRIALS = 4
SPEC = {
    "name": "compose",
    "trainable": "trainables.toy:train",
    "config": {"steps": 10, "report_every": 5},
    "space": {"x": {"uniform": [0, 1]}},
    "search": {"method": "random", "trials": TRIALS},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none of its own."""


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All services up, a sweep submitted, all services down."""
    if not available():
        return {"held": True, "skipped": ABSENT}
    with tempfile.TemporaryDirectory(prefix="cm-", dir="/tmp") as name:  # short: sockets lie below
        stack = Stack(Path(name))
        try:
            return stack.drill()
        finally:
            stack.down()


def services(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the file says, with the variables filled in. Raises ValueError where one that it insists on is not set."""
    return yaml.safe_load(_filled(FILE.read_text("utf-8"), environment))["services"]


def _filled(text: str, environment: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if kind == ":?" and not environment.get(name):
            raise ValueError(f"{name}: {rest}")
        return environment.get(name) or (rest if kind == ":-" else "")

    return re.sub(r"\$\{(\w+)(:[-?])?([^}]*)\}", value, text)


class Stack:
    """The services as processes that carry a mark."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._mark = folder, f"{MARK}={uuid.uuid4().hex}"
        self._secrets = {"RAY_AUTH_TOKEN": secrets.token_hex(32), "POSTGRES_PASSWORD": secrets.token_hex(24)}
        self._services = services(self._secrets)
        self._ports: dict[str, str] = dict(zip([*PORTS, "head", "worker"], _free(6), strict=True))
        self._postgres: Postgres | None = None
        for volume in ("runs", "cache", "artifacts"):
            (folder / volume).mkdir()

    def drill(self) -> dict[str, Any]:
        early = [name for name in ORDER if self._healthy(name)]
        healthy = {name: self._up(name) for name in ORDER}
        (self._folder / "compose.yaml").write_text(json.dumps(SPEC), "utf-8")
        begin = time.monotonic()
        done = self._submit()
        took = time.monotonic() - begin
        journal = next(self._folder.glob("runs/*/journal.jsonl"), None)
        if done.returncode or journal is None:
            raise RuntimeError(f"the job ended with {done.returncode}: {(done.stderr + done.stdout)[-2000:]}")
        rows = wanted(list(Journal(journal, read_only=True).trials.values()))
        found = delivered(self._url("5000"), "compose")
        figures = {
            "healthy_before_the_start": early,
            "seconds_to_health": healthy,
            "submitted": done.returncode,
            "seconds_of_the_job": round(took, 1),
            "delivered": sum(found.get(trial) == ("FINISHED", metrics) for trial, metrics in rows.items()),
            "artifacts": sum(path.is_file() for path in (self._folder / "artifacts").rglob("*")),
            "jobs_without_token": self._status("8265", "/api/jobs/"),
            "mlflow_for_hosts": {
                host: self._status("5000", "/api/2.0/mlflow/experiments/search?max_results=1", host)
                for host in ("mlflow:5000", "localhost:5050", "127.0.0.1:5050", "elsewhere.example")
            },
            "secrets_told": [name for name, secret in self._secrets.items() if secret in done.stdout + done.stderr],
        }
        hosts = list(figures["mlflow_for_hosts"].values())
        held = not early and done.returncode == 0 and figures["delivered"] == TRIALS and figures["artifacts"] > 0
        held = held and figures["jobs_without_token"] in (401, 403) and hosts == [200, 200, 200, 403]
        return {"held": held and not figures["secrets_told"], **figures}

    def down(self) -> None:
        processes.clear(self._mark)
        if self._postgres:
            self._postgres.close()

    def _up(self, name: str) -> float:
        """Seconds until the service is healthy."""
        begin = time.monotonic()
        service = self._services[name]
        if name == "postgres":  # what the image's own entry point does with its variables
            settings = service["environment"]
            self._postgres = Postgres(int(self._ports["5432"]), settings["POSTGRES_PASSWORD"])
            self._postgres.__enter__()
            self._postgres.create(settings["POSTGRES_DB"])
        else:
            command = self._here(name, service["command"])
            if command[1] == "start":  # each its own, as in a container: nodes clear away what a job has brought
                command.append(f"--temp-dir={self._folder}/{name}")
            if name == "mlflow":
                at = next(number for number, word in enumerate(command) if word.startswith("--allowed-hosts="))
                command[at] = f"{service['command'][at]},127.0.0.1:{self._ports['5000']}"
            with (self._folder / f"{name}.log").open("ab") as log:
                subprocess.Popen(command, env=self._environment(name), cwd=self._folder, stdout=log, stderr=log)
        until(lambda: self._healthy(name), 180, f"{name} is healthy", 1.0)
        return round(time.monotonic() - begin, 1)

    def _healthy(self, name: str) -> bool:
        kind, *test = self._services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        environment = self._environment(name) | {"PGHOST": "127.0.0.1", "PGPORT": self._ports["5432"]}
        return subprocess.run(self._here(name, test), env=environment, capture_output=True).returncode == 0

    def _submit(self) -> subprocess.CompletedProcess[str]:
        """As the README says, from the checkout."""
        command = ["ray", "job", "submit", "--address", self._url("8265"), "--working-dir", str(ROOT), "--"]
        command += [sys.executable, "-m", "sweeper.run", str(self._folder / "compose.yaml"), "--storage", "/runs"]
        environment = self._environment("head")
        del environment["MLFLOW_TRACKING_URI"]  # the head's own counts, as in a container
        return subprocess.run(
            self._here("head", command), env=environment, capture_output=True, text=True, timeout=400, cwd=self._folder
        )

    def _environment(self, name: str) -> dict[str, str]:
        own = self._services[name].get("environment", {})
        mark, _, value = self._mark.partition("=")
        ours = {"SWEEPER_CACHE": f"{self._folder}/cache", "RAY_USAGE_STATS_ENABLED": "0", mark: value}
        return {**nodes.environment(), **ours, **{key: self._word(name, value) for key, value in own.items()}}

    def _here(self, name: str, words: list[str]) -> list[str]:
        """A command of a container as one of this machine."""
        program, *rest = words
        if program in ("python", "ray", "mlflow"):
            program = str(Path(sys.executable).with_name(program))
        return [self._word(name, word) for word in (program, *rest)]

    def _word(self, name: str, word: str) -> str:
        word = re.sub(rf"\b({'|'.join(ORDER)}):(?=\d)", "127.0.0.1:", word).replace("0.0.0.0", "127.0.0.1")
        word = re.sub(r"(?<![\w.])/(runs|cache|artifacts)\b", rf"{self._folder}/\1", word)
        ports = {**{port: self._ports[port] for port in PORTS}, AGENT: self._ports.get(name, AGENT)}
        return re.sub(rf"\b({'|'.join(ports)})\b", lambda match: ports[match[1]], word)

    def _url(self, port: str) -> str:
        return f"http://127.0.0.1:{self._ports[port]}"

    def _status(self, port: str, path: str, host: str | None = None) -> int:
        """What a stranger is told."""
        request = urllib.request.Request(self._url(port) + path, headers={"Host": host} if host else {})
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code


def _free(count: int) -> list[str]:
    """Ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [str(probe.getsockname()[1]) for probe in probes]
