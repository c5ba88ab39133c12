"""Ray for the length of a sweep: a private one on this machine, or the cluster that is configured.

What is started here listens on loopback, asks for a token, and leaves nothing behind. Ray reads part of its
environment when it is imported, so this module imports it late: call `isolate` before importing search or sweep.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweeper.system import files, secrecy
from sweeper.system.nodes import (
    OBJECT_STORE_BYTES,
    Needs,
    Node,
    NotShared,
    NotStarted,
    configured,
    held,
    max_concurrent,
    missing,
    of_type,
    submitted,
    this_machine,
)

JOIN_S, AWAIT_S, LOOK_S = 10.0, 2.0, 120.0

_PREFIX = "sw-"
_MARK = "SWEEPER_RAY"
_isolated = False  # whether this process has set what follows, with a token of its own
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray takes this machine for one that stays by itself
    "RAY_AUTH_MODE": "token",
    # Three servers of metrics that ask for no token: of the node's agent, the autoscaler and the dashboard. The last
    # two have no other switch than a port that there is not.
    "RAY_enable_metrics_collection": "0",
    "AUTOSCALER_METRIC_PORT": "-1",
    "DASHBOARD_METRIC_PORT": "-1",
}
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}
# Tune hands all but the first on to the trials, and Train to its workers, through job submission as well.
_TRIALS = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # what Tune carries is rows, checked where they were reported
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trial.py chooses the working folder
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",  # a stopped trial may clean up so long before its process is used again
    "TUNE_FORCE_TRIAL_CLEANUP_S": "120",  # and then gives its CPUs back; Tune waits 600 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also the pace of ray.train.report, which is 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

# Ray's names of the processes that train: the trial's own, which leads a group if there is one, and a group's workers.
_TRAINS = {"ImplicitFunc": "trials", "RayTrainWorker": "workers"}


def isolate() -> None:
    """Have a Ray that is started here stay on 127.0.0.1 and ask for a token: before anything imports ray.

    Nothing is changed where a cluster is to be joined: there, its own settings hold. What the environment says already
    is nobody's word for it that this was done.
    """
    global _isolated
    if configured() or _isolated:
        return
    assert "ray" not in sys.modules, "ray was imported before isolate(), and would listen on every interface"
    os.environ.update(_ALONE)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    _isolated = True


def private() -> Path | None:
    """The folder of a Ray of our own, which is its user's alone; None on a cluster that was joined. In any process."""
    folder = Path(os.environ.get(_MARK) or "/nowhere")
    return folder if folder.is_dir() else None


def awaited(needs: Needs, at_once: int, minutes: float, say: Callable[[str], None]) -> int:
    """`max_concurrent` on the nodes that are alive; where a cluster grows, after a wait for enough.

    at_once: trials that there should be room for. Raises NoRoom where in the end not even one fits.
    """
    import ray
    from ray.autoscaler.sdk import request_resources

    end, asked = time.monotonic() + 60 * minutes, False
    while True:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        enough = not missing(needs, nodes) and max_concurrent(needs, nodes) >= at_once
        if enough or time.monotonic() >= end:
            if asked:
                request_resources(bundles=[])
            return max_concurrent(needs, nodes)
        if not asked:
            why = missing(needs, nodes) or f"{at_once} trials are to run at once"
            say(f"waiting up to {minutes:g} min for nodes: {why}")
            bundle = {name: value for name, value in held(needs).items() if value} | of_type(needs)
            request_resources(bundles=[bundle] * (at_once * max(1, needs.workers)))
            asked = True
        time.sleep(AWAIT_S)


def nodes(address: str) -> list[dict[str, Any]]:
    """Each node's address, whether it is alive, its CPUs and GPUs, and the training processes there. NotStarted."""
    os.environ.update(_QUIET)
    os.environ["RAY_ADDRESS"] = address
    with _joined((), verbose=False):
        import ray

        from sweeper.system import ray_inside

        runs: dict[str, Counter[str]] = {}
        for actor in ray_inside.actors():
            if actor["State"] == "ALIVE" and actor["ActorClassName"] in _TRAINS:
                there = runs.setdefault(actor["Address"]["NodeID"], Counter())
                there[_TRAINS[actor["ActorClassName"]]] += 1
        try:
            return [
                {
                    "address": node["NodeManagerAddress"],
                    "alive": node["Alive"],
                    "resources": {kind: value for kind, value in node["Resources"].items() if kind in ("CPU", "GPU")},
                    "runs": dict(runs.get(node["NodeID"], {})),
                }
                for node in ray.nodes()
            ]
        finally:
            ray.shutdown()


def reserved(scratch: str, trial: str = "") -> str:
    """How the names of what a trial's workers hold begin; without a trial, those of a sweep's."""
    return f"sweeper {scratch} {trial} " if trial else f"sweeper {scratch} "


def free(name: str) -> None:
    """Give back what is held under names that begin so."""
    from ray.util.placement_group import placement_group_table

    from sweeper.system import ray_inside

    for identity, group in placement_group_table().items():
        if group["name"].startswith(name) and group["state"] != "REMOVED":
            ray_inside.give_back(identity)


def shared(what: str) -> None:
    """Raises NotShared where a node of a joined cluster does not see a file, by its path or its address."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    if not configured():
        return
    nodes = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    look = ray.remote(num_cpus=0)(_sees)
    asked = [look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(one, False)).remote(what) for one in nodes]
    blind = [where for where, sees in zip(nodes.values(), ray.get(asked, timeout=LOOK_S), strict=True) if not sees]
    if blind:
        raise NotShared(
            f"{what} is not seen on {', '.join(sorted(blind))}: give a --storage that all nodes share, a folder or s3://…"
        )


def _sees(what: str) -> bool:
    from sweeper.journal.object_store import Remote, is_address

    try:
        return Remote(what).exists() if is_address(what) else Path(what).exists()
    except (OSError, ValueError):
        return False


@contextmanager
def session(workers_code: Sequence[str] = (), verbose: bool = False) -> Iterator[list[Node]]:
    """Ray, started or joined, until the block ends; gives the nodes' resources.

    workers_code: packages that a joined cluster's nodes are sent, unless a job has brought them. Ray takes SIGTERM when
    it starts, to abort the process: whoever is to end in order takes it back. Raises NotStarted.
    """
    os.environ.update(_QUIET if not verbose else {})
    os.environ.update(_TRIALS)
    isolate()
    from sweeper.system import ray_inside  # first of all: it refuses a release of Ray that it was not written for

    with _joined(workers_code, verbose) if configured() else _started(verbose):
        import ray

        ray_inside.keep_from_trials("AWS_")  # keys of the cloud, of which trials need none
        ray_inside.show_worker_logs(verbose)
        logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
        try:
            yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
        finally:
            ray.shutdown()


@contextmanager
def _started(verbose: bool) -> Iterator[None]:
    """A Ray of our own: on loopback, behind a token, its files in a folder that goes with it."""
    machine = this_machine()
    import ray

    with _folder() as folder:
        try:
            with _or_not_started("Ray did not start on this machine", "close what keeps it busy and try again"):
                ray.init(
                    address="local",
                    num_cpus=int(machine["CPU"]),
                    num_gpus=int(machine["GPU"]),
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=verbose,
                    logging_level=logging.INFO if verbose else logging.ERROR,
                    _temp_dir=folder,
                    include_dashboard=False,
                )
            yield
        finally:
            ray.shutdown()


@contextmanager
def _folder() -> Iterator[str]:
    """A folder for Ray's files, and away with those of drivers that were killed: their locks are free.

    Its path is short, for sockets lie below, whose paths may have 107 characters.
    """
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    for left in files.leftovers(base, _PREFIX):
        _end_orphans(left)
    with files.owned(base, _PREFIX) as folder:
        os.environ[_MARK] = str(folder)  # all that is started from here on carries it
        try:
            yield f"{folder}/r"  # Ray opens its own folder to everybody: this one lies in ours
        finally:
            _end_orphans(folder)


def _end_orphans(folder: Path) -> None:
    """End what a Ray that is over has left running: two of its agents do not notice that their raylet is gone."""
    mark = f"{_MARK}={folder}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if environ.parent.name != str(os.getpid()) and mark in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


@contextmanager
def _joined(workers_code: Sequence[str], verbose: bool) -> Iterator[None]:
    import ray

    address = os.environ["RAY_ADDRESS"]
    with _or_not_started(f"the cluster at RAY_ADDRESS={address} was not joined", "is it up, or unset RAY_ADDRESS"):
        _reach(address)
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env=_carried(workers_code) or None,
        )
    yield


def _carried(workers_code: Sequence[str]) -> dict[str, Any]:
    """What a cluster's processes need of this one: its code, where no job brought it, and the settings' secrets."""
    code = {"py_modules": list(workers_code)} if workers_code and not submitted() else {}
    brought = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    there = brought.get("env_vars") or {}  # by the job: Ray takes no variable twice
    variables = {name: value for name, value in secrecy.environment().items() if name not in there}
    return code | ({"env_vars": variables} if variables else {})


@contextmanager
def _or_not_started(what: str, advice: str) -> Iterator[None]:
    """Whatever Ray raises while it starts, which is of any type, becomes one line."""
    try:
        yield
    except Exception as error:
        whole = " ".join(str(error).split())
        said = secrecy.redact(whole)[:200] or type(error).__name__
        if "env_vars" in whole:  # a job's may hold others' secrets
            said = "the job's runtime environment and the driver's name the same variable"
        raise NotStarted(f"{what}: {said}; {advice} (-v shows what Ray says)") from error


def _reach(address: str) -> None:
    """Raises OSError where nobody listens at HOST:PORT: Ray itself would try for minutes, and say so on stderr."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=JOIN_S).close()
