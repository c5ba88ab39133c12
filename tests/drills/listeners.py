"""What a local sweep listens on, for 0, 1 and 2 workers: each address, its process, and what it answers a stranger.

Every process of the command is looked at from its beginning to its end: sockets of TCP, and UNIX sockets with the modes
that say who may reach them. The stranger has no token: it waits, asks for pages, calls methods and tries torch's store.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc

from tests.drills.processes import listening, marked

MARK = "DRILL_LISTENERS"
LIMIT_S, WAIT_S, UP_S = 240.0, 3.0, 20.0
NOT_UP = ("UNAVAILABLE", "DEADLINE_EXCEEDED")  # or gone
ACCEPTS = 0x10000  # of the flags in /proc/net/unix: it listens
PAGES = ("/", "/metrics", "/nodes", "/api/jobs/", "/api/version", "/api/local_raylet_healthz")
METHODS = (
    "NodeInfoGcsService/GetAllNodeInfo",
    "InternalKVGcsService/InternalKVKeys",
    "JobInfoGcsService/GetAllJobInfo",
    "NodeManagerService/GetNodeStats",
    "ObjectManagerService/Pull",
    "CoreWorkerService/GetCoreWorkerStats",
    "ReporterService/GetTraceback",
)
REFUSES, SILENT = "refuses", "is silent"
HEALTH = "HTTP 200 at /api/local_raylet_healthz ('success'), 401 elsewhere"  # Ray asks itself, in one word
HARMLESS = (REFUSES, SILENT, HEALTH)


@dataclass(frozen=True)
class Listener:
    """address: `HOST:PORT`, or a UNIX socket's path with its mode and its closest closed folder's."""

    address: str
    process: str
    answers: str

    @property
    def held(self) -> bool:
        """Whether it is out of others' reach, or harmless to whom it is not."""
        if self.address.startswith("/"):
            return self.answers == "closed to other users"
        if self.address.startswith("@"):
            return False  # of no folder: anybody's on this machine
        return ip_address(self.address.rpartition(":")[0]).is_loopback and self.answers.startswith(HARMLESS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2], help="of a trial, a sweep each (0 1 2)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """A short sweep each, and all that listened."""
    rows = []
    for workers in options.workers:
        with tempfile.TemporaryDirectory(prefix="listeners-") as name:
            status, found = watched(Path(name), workers)
        rows += [{"workers": workers, **asdict(one), "held": one.held} for one in found]
        assert status == 0, f"the sweep with {workers} workers ended with status {status}"
    return {"held": all(row["held"] for row in rows), "rows": rows}


def watched(folder: Path, workers: int) -> tuple[int, list[Listener]]:
    """Run a sweep of the toy in a folder; its exit status, and all that listened while it ran."""
    from tests.sweeper.samples import toy_spec

    resources = {"workers": workers, "concurrency": 1}
    settings = {"config": {"pause": 0.3}, "arms": {}, "search": {"method": "random", "trials": 1}}
    (folder / "toy.yaml").write_text(toy_spec(**settings, resources=resources).to_yaml(), "utf-8")
    mark = uuid.uuid4().hex
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": os.pathsep.join(sys.path), MARK: mark}
    command = [sys.executable, "-m", "sweeper.run", "toy.yaml", "--storage", "runs"]
    quiet: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    asked: dict[str, tuple[str, Future[str]]] = {}
    deadline = time.monotonic() + LIMIT_S
    with subprocess.Popen(command, cwd=folder, env=environment, **quiet) as process, ThreadPoolExecutor(8) as pool:
        while process.poll() is None and time.monotonic() < deadline:
            for pid, title in marked(f"{MARK}={mark}").items():
                for address in addresses([pid]):
                    if address not in asked:
                        asked[address] = (_name(title), pool.submit(answers, address))
            time.sleep(0.3)
        process.kill()
    return process.returncode, sorted(
        (Listener(address, name, answer.result()) for address, (name, answer) in asked.items()),
        key=lambda one: (one.process, one.answers, one.address),
    )


def heard(processes: dict[int, str]) -> list[Listener]:
    """Process id -> command: all that these listen on now."""
    return [
        Listener(address, _name(title), answers(address))
        for pid, title in processes.items()
        for address in addresses([pid])
    ]


def addresses(pids: Iterable[int]) -> list[str]:
    """On which these processes listen: `HOST:PORT`, or the path of a UNIX socket, `@…` for one without a file."""
    pids = list(pids)
    return [*(f"{host}:{port}" for host, ports in listening(pids).items() for port in ports), *_unix(pids)]


def answers(address: str) -> str:
    """What a stranger hears there."""
    if address.startswith(("/", "@")):
        return _reach(address)
    host, _, port = address.rpartition(":")
    try:
        first = _waits(host, int(port))
    except OSError as error:
        return f"{REFUSES}: gone before it was asked ({error.strerror or type(error).__name__})"
    if first[3:4] == b"\x04":  # a server of HTTP/2 begins with its settings
        return _calls(address)
    if _page(f"http://{address}/"):
        return _shown({page: _page(f"http://{address}{page}") for page in PAGES})
    if _is_store(host, int(port)):
        return "torch's store: whoever asks may set keys and delete them"
    return f"{SILENT}: it speaks neither HTTP, gRPC nor torch's store"


def _waits(host: str, port: int) -> bytes:
    """What it says of itself, within WAIT_S."""
    with socket.create_connection((host, port), timeout=WAIT_S) as connection:
        try:
            return connection.recv(16)
        except TimeoutError:
            return b""


def _page(url: str) -> tuple[int, bytes] | None:
    """Status and first bytes; None where it does not speak HTTP."""
    try:
        with urllib.request.urlopen(url, timeout=WAIT_S) as answer:
            return answer.status, answer.read(60)
    except urllib.error.HTTPError as error:
        return error.code, b""
    except Exception:  # of http.client's many kinds
        return None


def _shown(pages: dict[str, tuple[int, bytes] | None]) -> str:
    told = {page: answer for page, answer in pages.items() if answer and answer[0] not in (401, 403)}
    if not told:
        return f"{REFUSES}: HTTP 401"
    return ", ".join(f"HTTP {status} at {page} ({body.decode()!r})" for page, (status, body) in told.items()) + (
        ", 401 elsewhere" if len(told) < len(pages) else ""
    )


def _calls(address: str) -> str:
    """What it answers to calls of Ray's methods, of which it has some once it is up."""
    deadline = time.monotonic() + UP_S
    while True:
        codes: dict[str, list[str]] = {}
        for method in METHODS:
            codes.setdefault(_call(address, method), []).append(method)
        told = {code: methods for code, methods in codes.items() if code not in ("UNIMPLEMENTED", *NOT_UP)}
        if told.keys() == {"UNAUTHENTICATED"}:
            return f"{REFUSES}: gRPC UNAUTHENTICATED"
        if told or time.monotonic() > deadline:
            return "gRPC " + ", ".join(f"{code} at {' '.join(methods)}" for code, methods in (told or codes).items())
        time.sleep(1)


def _call(address: str, method: str) -> str:
    """The status of a call without a token."""
    with grpc.insecure_channel(address) as channel:
        try:
            channel.unary_unary(f"/ray.rpc.{method}", bytes, bytes)(b"", timeout=WAIT_S)
        except grpc.RpcError as error:
            return error.code().name  # type: ignore[attr-defined]
    return "OK"


def _is_store(host: str, port: int) -> bool:
    """Whether it is a store of torch's, which hands keys to anybody: it answers a ping with the ping's number."""
    number = struct.pack("<I", 20_17)
    try:
        with socket.create_connection((host, port), timeout=WAIT_S) as connection:
            connection.sendall(b"\0" + struct.pack("<I", 0x3C85F7CE) + b"\x0d" + number)
            return connection.recv(4) == number
    except OSError:
        return False


def _unix(pids: Iterable[int]) -> list[str]:
    """Paths of UNIX sockets on which these listen."""
    held = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(link))
    found = []
    for line in Path("/proc/net/unix").read_text("utf-8", errors="replace").splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if int(flags, 16) & ACCEPTS and f"socket:[{inode}]" in held:
            found.append(path[0] if path else "@ without a name")
    return found


def _reach(path: str) -> str:
    """Whether a folder on the way keeps other users out."""
    if path.startswith("@"):
        return "open to every user"
    for folder in Path(path).parents:
        with contextlib.suppress(OSError):
            if not folder.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH):
                return "closed to other users"
    try:
        return f"mode {stat.S_IMODE(os.stat(path).st_mode):04o}, reached by other users"
    except OSError:
        return "gone before it was looked at"


def _name(title: str) -> str:
    """A process in a word or two."""
    if "sweeper.run" in title:
        return "the driver"
    if found := re.match(r"ray::[\w.]+", title):
        return found[0]
    program = next((part for part in title.split() if re.search(r"\.py$|gcs_server$|raylet$", part)), title.split()[0])
    return Path(program).name
