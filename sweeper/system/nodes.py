"""What nodes have, how many trials fit on them, and whether a cluster answers at its address; all without Ray."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

JOIN_S = 10.0
OBJECT_STORE_BYTES = 256 * 2**20  # nothing but configurations and rows of metrics goes through it
Node = Mapping[str, float]


class NotStarted(RuntimeError):
    """Ray did not start, or the cluster does not answer; in one line, with what to do."""


class Lost(RuntimeError):
    """Ray was lost during the sweep; in one line."""


class NotShared(ValueError):
    """A node does not see the storage; in one line."""


class NoRoom(ValueError):
    """Not even one trial fits; in one line, with a setting that would fit."""


class Needs(Protocol):
    """What one trial uses, as in a spec's `resources`."""

    @property
    def workers(self) -> int:
        """Ranks of the worker group; 0 trains in the trial's own process."""
        ...

    @property
    def cpus_per_worker(self) -> int:
        """CPUs of each worker."""
        ...

    @property
    def gpus_per_worker(self) -> float:
        """GPUs of each worker."""
        ...

    @property
    def accelerator(self) -> str | None:
        """The type of node that a trial needs, None for any."""
        ...


def configured() -> bool:
    """Whether to join a running cluster; for a submitted job, its own."""
    return bool(os.environ.get("RAY_ADDRESS"))


def reach(address: str) -> None:
    """Raises OSError if nobody listens at HOST:PORT: Ray itself would retry for minutes, noisily."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=JOIN_S).close()


def submitted() -> bool:
    """Whether this process is a submitted job's driver, whose working folder is temporary."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def this_machine() -> Node:
    """CPUs and GPUs that this process may use, found without heavy imports."""
    return {"CPU": max(1, min(len(os.sched_getaffinity(0)), _quota())), "GPU": _gpus()}


def max_concurrent(needs: Needs, nodes: Sequence[Node]) -> int:
    """How many trials fit at once. Raises NoRoom if not even one does.

    A worker does not span nodes; a trial's workers may.
    """
    each, processes, right = held(needs), max(1, needs.workers), _right(needs, nodes)
    fit = places(right, each)
    if fit >= processes:
        return fit // processes
    raise NoRoom(f"resources: {missing(needs, nodes)}: {_fitting(fit, right, each) if right else _types(nodes)}")


def missing(needs: Needs, nodes: Sequence[Node]) -> str:
    """What a trial needs and what there is, in one line; empty if a trial fits."""
    each, processes, right = held(needs), max(1, needs.workers), _right(needs, nodes)
    if places(right, each) >= processes:
        return ""
    have = {kind: sum(node.get(kind, 0) for node in right) for kind in each}
    wanted = " and ".join(f"{processes * value:g} {kind}" for kind, value in each.items() if value)
    found = " and ".join(f"{have[kind]:g} {kind}" for kind, value in each.items() if value)
    where = f" on nodes of type {needs.accelerator}" if needs.accelerator else ""
    return f"a trial needs {wanted}{where}, there are {found}"


def places(nodes: Sequence[Node], each: Mapping[str, float]) -> int:
    """How many processes fit on the nodes. each: what one of them uses."""
    return sum(_places(node, each) for node in nodes)


def of_type(needs: Needs) -> dict[str, float]:
    """The resource that keeps a trial on nodes of its type: a little of what only those have."""
    return {f"accelerator_type:{needs.accelerator}": 0.001} if needs.accelerator else {}


def _right(needs: Needs, nodes: Sequence[Node]) -> list[Node]:
    """The nodes on which a trial's workers may run."""
    return [node for node in nodes if of_type(needs).keys() <= node.keys()]


def _types(nodes: Sequence[Node]) -> str:
    """Advice for a type that no node has."""
    there = {name.partition(":")[2] for node in nodes for name in node if name.startswith("accelerator_type:")}
    return f"set resources.accelerator to {' or '.join(sorted(there))}" if there else "leave resources.accelerator out"


def held(needs: Needs) -> dict[str, float]:
    """What one worker uses."""
    return {"CPU": needs.cpus_per_worker, "GPU": needs.gpus_per_worker}


def _places(node: Node, each: Mapping[str, float]) -> int:
    """The same on one node; the small term makes ten tenths one."""
    return min(math.floor(node.get(kind, 0) / value + 1e-9) for kind, value in each.items() if value)


def _fitting(fit: int, nodes: Sequence[Node], each: Mapping[str, float]) -> str:
    if fit:
        return f"set resources.workers to {fit}" if fit > 1 else "set resources.workers to 1 or 0"
    for kind, value in each.items():
        most = max((node.get(kind, 0) for node in nodes), default=0)
        if value and most < value:
            return f"set resources.{kind.lower()}s_per_worker to {most:g}{' or less' * (most > 1)}"
    return "no node has both; lower resources.cpus_per_worker or resources.gpus_per_worker"


def _quota() -> int:
    """CPUs that the control group allows (cgroup v2), as containers set it."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("utf-8").split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return sys.maxsize


def _gpus() -> int:
    """The number of NVIDIA devices, without those that CUDA_VISIBLE_DEVICES hides.

    Looks in two places: on bare metal, device files appear only at first use, and a sandbox may hide the driver's list.
    """
    places = Path("/proc/driver/nvidia/gpus").glob("*"), Path("/dev").glob("nvidia[0-9]*")
    count = max(sum(1 for _ in place) for place in places)
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    return count if chosen is None else min(count, len([name for name in chosen.split(",") if name not in ("", "-1")]))
