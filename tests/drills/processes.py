"""Processes of a drill: found by a variable of the environment that they carry, ended one by one, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

LISTEN = "0A"  # of /proc/net/tcp


def marked(mark: str) -> dict[int, str]:
    """Process id -> command, of the processes that carry NAME=VALUE in their environment since they began."""
    found = {}
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes().split(b"\0"):
                command = (environ.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                found[int(environ.parent.name)] = command.strip()
        except OSError:
            continue
    return {pid: command for pid, command in found.items() if command}  # a zombie has none


def listening(pids: Iterable[int]) -> dict[str, set[int]]:
    """Address -> ports, of the TCP sockets on which these processes listen."""
    held = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                held.add(os.readlink(link))
    found: dict[str, set[int]] = {}
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text("utf-8").splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and f"socket:[{inode}]" in held:
                address, _, port = local.partition(":")
                # Words of four bytes, each in the machine's own order.
                raw = b"".join(bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8))
                host = socket.inet_ntop(family, raw).removeprefix("::ffff:")  # IPv4 through a socket for both
                found.setdefault(host, set()).add(int(port, 16))
    return found


def kill(pids: list[int]) -> None:
    """At once."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def clear(mark: str, seconds: float = 0.0) -> list[str]:
    """Wait so long for the marked processes to end by themselves, end the rest; the commands of those."""
    deadline = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.2)
    kill(list(left))
    return [command[:100] for command in left.values()]


def until(true: Callable[[], object], seconds: float, what: str, pause: float = 0.2) -> None:
    """Raises RuntimeError where it takes longer."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
