"""A Ray cluster of two nodes on this machine, each of which can be killed as a machine that loses its power."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from tests.drills import processes

MARK = "DRILL_NODE"


class TwoNodes:
    """A head without CPUs, where drivers live, and one node with CPUs, where trials and workers do.

    Behind a token, with ports and folders of its own. Ray takes no second node on 127.0.0.1, so this one listens on
    the machine's own address. `environment` is what a driver needs to join.
    """

    def __init__(self, cpus: int, environment: dict[str, str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._name, self._cpus, self._address = uuid.uuid4().hex, cpus, f"127.0.0.1:{port}"
        self._folder = tempfile.mkdtemp(prefix="dn-", dir="/tmp")  # short: sockets lie below
        self._log = Path(self._folder, "start.log")
        secret = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._environment = {**environment, **secret}
        self.environment = {**secret, "RAY_ADDRESS": self._address}
        self._nodes = 0

    def __enter__(self) -> TwoNodes:
        head = ["--head", f"--port={self._address.rpartition(':')[2]}", f"--temp-dir={self._folder}", "--num-cpus=0"]
        try:
            self._start("head", *head, "--include-dashboard=false")
            self.mend()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(self._nodes + 1):
            processes.clear(self._mark(number))
        processes.clear(f"{MARK}={self._name}-head")
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def processes(self) -> dict[int, str]:
        """Of the node with CPUs."""
        return processes.marked(self._mark(self._nodes))

    @property
    def everything(self) -> dict[int, str]:
        """Of the head, too, but for Ray's own servers there."""
        head = processes.marked(self._mark("head"))
        return {**self.processes, **{pid: command for pid, command in head.items() if command.startswith("ray::")}}

    def kill(self) -> None:
        """The node with CPUs, all of it; returns when nothing of it is left, for `mend` asks what is there."""
        while left := self.processes:
            processes.kill(list(left))
            time.sleep(0.05)

    def mend(self) -> None:
        """A new node with CPUs, unless the last one is whole."""
        if any("raylet/raylet" in command for command in self.processes.values()):
            return
        processes.clear(self._mark(self._nodes))
        self._nodes += 1
        self._start(self._nodes, f"--address={self._address}", f"--num-cpus={self._cpus}")

    def _mark(self, number: int | str) -> str:
        return f"{MARK}={self._name}-{number}"

    def _start(self, number: int | str, *arguments: str) -> None:
        """Returns when its raylet is up; `ray start` leaves when that is so."""
        name, _, value = self._mark(number).partition("=")
        ray = Path(sys.executable).with_name("ray")
        common = ["--object-store-memory=100000000", "--disable-usage-stats"]
        with self._log.open("ab") as log:
            subprocess.run(
                [sys.executable, ray, "start", *arguments, *common],
                env={**self._environment, name: value},
                stdout=log,
                stderr=log,
                check=True,
                timeout=180,
            )


def environment() -> dict[str, str]:
    """This process's, without what would lead a sweep elsewhere, or has kept an earlier one of it to this machine."""
    elsewhere = ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
    return {name: value for name, value in os.environ.items() if name not in elsewhere}
