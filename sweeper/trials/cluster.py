"""Ray for the length of a sweep: a private one on this machine, or the cluster that is configured.

A Ray that is started here listens on loopback, asks for a token, and leaves nothing behind. Ray reads part of its
environment when it is imported, so this module imports it late: call `isolate` before anything that imports ray.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
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
    reach,
    submitted,
    this_machine,
)

AWAIT_S, LOOK_S = 2.0, 120.0

_PREFIX = "sw-"
_MARK = "SWEEPER_RAY"
_isolated = False  # whether this process has set the following variables and a token of its own
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray takes this machine for a cluster of its own
    "RAY_AUTH_MODE": "token",
    # Three metrics servers that ask for no token: the node agent's, the autoscaler's and the dashboard's. The only way
    # to switch the last two off is an invalid port.
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
# Tune passes all but the first on to the trials, and Train to its workers, also under job submission.
_TRIALS = {
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # Tune carries rows, which were checked when they were reported
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # trial.py chooses the working folder
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "120",  # time for a stopped trial to clean up before its process is reused
    "TUNE_FORCE_TRIAL_CLEANUP_S": "120",  # then its CPUs are freed; Tune's default is 600 s
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # also the pace of ray.train.report, which is 2 s by default
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

# Ray's names of the processes that train: the trial's own, which leads its group if it has one, and the workers.
_TRAINS = {"ImplicitFunc": "trials", "RayTrainWorker": "workers"}


def isolate() -> None:
    """Make a Ray that is started here stay on 127.0.0.1 and ask for a token. Call this before anything imports ray.

    Changes nothing if a cluster is to be joined: then the cluster's settings hold. Variables that are already set do
    not count as done. Raises ValueError, in one line, where ray is imported already.
    """
    global _isolated
    if configured() or _isolated:
        return
    if "ray" in sys.modules:
        raise ValueError(
            "ray was imported before sweeper, and would listen on every interface: start a new process, and call "
            "sweeper before anything imports ray"
        )
    os.environ.update(_ALONE)
    os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    _isolated = True


def private() -> Path | None:
    """The folder of our own Ray, readable only by its user; None on a joined cluster. Works in any process."""
    folder = Path(os.environ.get(_MARK) or "/nowhere")
    return folder if folder.is_dir() else None


def awaited(needs: Needs, at_once: int, minutes: float, say: Callable[[str], None]) -> int:
    """`max_concurrent` on the nodes that are alive, after a wait for a growing cluster.

    Args:
        needs: of one trial.
        at_once: how many trials should fit before the wait ends.
        minutes: the longest wait.
        say: gets one line, if there is a wait.

    Raises NoRoom if not even one trial fits in the end.
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
            why = missing(needs, nodes) or f"{at_once} trials should run at once"
            say(f"waiting up to {minutes:g} min for nodes: {why}")
            bundle = {name: value for name, value in held(needs).items() if value} | of_type(needs)
            request_resources(bundles=[bundle] * (at_once * max(1, needs.workers)))
            asked = True
        time.sleep(AWAIT_S)


def nodes(address: str) -> list[dict[str, Any]]:
    """Per node: address, whether it is alive, CPUs and GPUs, and its training processes. Raises NotStarted."""
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
    """The prefix of the names of a trial's reservations; without a trial, of all of the sweep's."""
    return f"sweeper {scratch} {trial} " if trial else f"sweeper {scratch} "


def free(name: str) -> None:
    """Remove the reservations whose names start with this."""
    from ray.util.placement_group import placement_group_table

    from sweeper.system import ray_inside

    for identity, group in placement_group_table().items():
        if group["name"].startswith(name) and group["state"] != "REMOVED":
            ray_inside.give_back(identity)


def shared(what: str) -> None:
    """Raises NotShared if a node of a joined cluster does not see a file. what: its path or its address."""
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
            f"{what} is not visible on {', '.join(sorted(blind))}: use a --storage that all nodes share, or s3://…"
        )


def _sees(what: str) -> bool:
    from sweeper.journal.object_store import Remote, is_address

    try:
        return Remote(what).exists() if is_address(what) else Path(what).exists()
    except (OSError, ValueError):
        return False


@contextmanager
def session(workers_code: Sequence[str] = (), verbose: bool = False) -> Iterator[list[Node]]:
    """Ray, started or joined, until the block ends; yields the nodes' resources.

    workers_code: packages to send to a joined cluster's nodes, unless the job has brought them. Ray replaces the
    handler of SIGTERM by one that aborts the process: a caller that must end cleanly installs its own again. Raises
    NotStarted.
    """
    os.environ.update(_QUIET if not verbose else {})
    os.environ.update(_TRIALS)
    isolate()
    logging.getLogger("ray.widgets").setLevel(logging.ERROR)  # it would advertise ipywidgets in a notebook
    from sweeper.system import ray_inside  # first: it refuses an unsupported release of Ray

    with _joined(workers_code, verbose) if configured() else _started(verbose):
        import ray

        ray_inside.keep_from_trials("AWS_")  # cloud credentials, which trials do not need
        ray_inside.show_worker_logs(verbose)
        logging.getLogger("ray").setLevel(logging.INFO if verbose else logging.ERROR)
        logging.getLogger("ray.tune").setLevel(logging.INFO if verbose else logging.CRITICAL)
        try:
            yield [node["Resources"] for node in ray.nodes() if node["Alive"]]
        finally:
            ray.shutdown()


@contextmanager
def _started(verbose: bool) -> Iterator[None]:
    """Our own Ray: on loopback, behind a token, with its files in a folder that is removed afterwards."""
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
    """A folder for Ray's files; removes those of killed drivers, whose locks are free.

    Its path is short: sockets lie below it, and their paths are limited to 107 characters.
    """
    base = Path("/tmp") if os.access("/tmp", os.W_OK) else Path(tempfile.gettempdir())
    for left in files.leftovers(base, _PREFIX):
        _end_orphans(left)
    with files.owned(base, _PREFIX) as folder:
        os.environ[_MARK] = str(folder)  # inherited by every process started from here on
        try:
            yield f"{folder}/r"  # Ray makes its own folder readable for everybody, so it lies inside ours
        finally:
            _end_orphans(folder)


def _end_orphans(folder: Path) -> None:
    """End the processes that a finished Ray left behind: two of its agents do not notice that their raylet is gone."""
    variable = f"{_MARK}={folder}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if environ.parent.name != str(os.getpid()) and variable in environ.read_bytes().split(b"\0"):
                os.kill(int(environ.parent.name), signal.SIGKILL)


@contextmanager
def _joined(workers_code: Sequence[str], verbose: bool) -> Iterator[None]:
    import ray

    address = os.environ["RAY_ADDRESS"]
    failed = f"cannot join the cluster at RAY_ADDRESS={secrecy.redact(address)}"
    with _or_not_started(failed, "start it, or unset RAY_ADDRESS"):
        reach(address)
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            runtime_env=_carried(workers_code) or None,
        )
    yield


def _carried(workers_code: Sequence[str]) -> dict[str, Any]:
    """What a cluster's processes need from this one: its code, unless a job brought it, and the settings' secrets."""
    code = {"py_modules": list(workers_code)} if workers_code and not submitted() else {}
    brought = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}").get("runtime_env") or {}
    there = brought.get("env_vars") or {}  # set by the job: Ray refuses to set a variable twice
    variables = {name: value for name, value in secrecy.environment().items() if name not in there}
    return code | ({"env_vars": variables} if variables else {})


@contextmanager
def _or_not_started(what: str, advice: str) -> Iterator[None]:
    """Turn whatever Ray raises while it starts, of any type, into one line. Raises NotStarted."""
    try:
        yield
    except Exception as error:
        whole = " ".join(str(error).split())
        reason = secrecy.redact(whole)[:200] or type(error).__name__
        if "env_vars" in whole:  # do not show it: a job's variables may hold others' secrets
            reason = "the job's and the driver's runtime environments set the same variable"
        raise NotStarted(f"{what}: {reason}; {advice} (-v shows what Ray says)") from error
