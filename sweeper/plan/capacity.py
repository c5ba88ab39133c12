"""Whether this machine has the room that a sweep takes, asked before anything starts.

CPUs and GPUs are counted in nodes.py. A joined cluster knows its own room.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from sweeper.plan import estimate
from sweeper.spec.spec import SweepSpec
from sweeper.system.nodes import OBJECT_STORE_BYTES

GB = 1e9
# At most, on Linux: the driver with MLflow and Optuna, and Ray's own processes.
SWEEP_BYTES = 1.3 * GB
GROUP_BYTES = 0.6 * GB  # a trial with workers: its own process and two helpers
# A process that trains, before it has a model: Python, Ray, torch; and where it uses a GPU, CUDA's libraries.
PROCESS_BYTES, CUDA_BYTES = 0.5 * GB, 2.0 * GB
SHARED = "/dev/shm"
DISK_BYTES = 0.2 * GB  # Ray's logs while it runs, the tracking store, the best bundle twice

# Of a trial with two checkpoints and a bundle, as trainables.mlm writes them, and what MLflow keeps of it; of a sweep.
TRIAL_FILES, SWEEP_FILES = 80, 200


@dataclass(frozen=True)
class Free:
    """What is free, in bytes; infinite where this machine does not tell. closed: shared memory is not to be written.

    files: how many more the disk takes, its free inodes.
    """

    memory: float
    disk: float
    shared: float
    closed: bool = False
    files: float = float("inf")


def free(storage: Path) -> Free:
    """What is free here, and where run folders lie."""
    existing = next(path for path in (storage, *storage.parents) if path.exists())
    there, disk = os.path.isdir(SHARED), os.statvfs(existing)
    return Free(
        memory=min(_meminfo(), _group("memory.max", "memory.current"), _group_v1()),
        disk=disk.f_bavail * disk.f_frsize,
        shared=shutil.disk_usage(SHARED).free if there else float("inf"),
        closed=there and not os.access(SHARED, os.W_OK),
        files=disk.f_favail if disk.f_files else float("inf"),  # some file systems have no such limit, and say 0
    )


def shortages(spec: SweepSpec, fit: int, there: Free, written: tuple[float, float] = (0, 0)) -> list[str]:
    """A line for each of memory, disk and inodes that does not suffice, with the setting that would fit.

    fit: trials for which there are CPUs and GPUs. written: bytes and files that the run has on the disk already.
    """
    closed = f"{SHARED} is not to be written by this user, and Ray does not start without: mount it with mode 1777"
    lines = (
        _memory(spec, fit, there.memory),
        _disk(spec, there.disk + written[0]),
        _inodes(spec, there.files + written[1]),
        closed if there.closed else None,
    )
    return [line for line in lines if line]


def notes(there: Free) -> list[str]:
    """What people should know. Ray puts its object store into ordinary files where shared memory is too small."""
    if there.shared >= OBJECT_STORE_BYTES:
        return []
    return [
        f"/dev/shm has {there.shared / 2**20:.0f} MiB free, Ray's object store takes {OBJECT_STORE_BYTES / 2**20:.0f} "
        "and goes to disk: docker run --shm-size=512m, or a larger /dev/shm, makes it faster"
    ]


def _memory(spec: SweepSpec, fit: int, there: float) -> str | None:
    wanted = estimate.concurrency(spec, fit)
    fixed, each = SWEEP_BYTES, _trial_bytes(spec)
    if fixed + wanted * each <= there:
        return None
    most = int((there - fixed) // each)
    advice = f"set resources.concurrency to {most}" if most > 0 else "lower config.batch_size or the model's size"
    return (
        f"memory: {wanted} trial{'s'[wanted == 1 :]} at a time take{'s'[wanted > 1 :]} about "
        f"{(fixed + wanted * each) / GB:.1f} GB, {there / GB:.1f} GB are free: {advice}"
    )


def _disk(spec: SweepSpec, there: float) -> str | None:
    trials, needed = spec.total_trials + spec.confirm_trials, estimate.disk_bytes(spec)
    if needed + DISK_BYTES <= there:
        return None
    most = int((there - DISK_BYTES) // (needed / trials)) - spec.confirm_trials
    fewer = f"set search.trials to {most}, or " if most > 0 and spec.search.method != "arms" else ""
    return (
        f"disk: the checkpoints take about {(needed + DISK_BYTES) / GB:.1f} GB, {there / GB:.1f} GB are free: "
        f"{fewer}give a --storage with room"
    )


def _inodes(spec: SweepSpec, there: float) -> str | None:
    needed = SWEEP_FILES + TRIAL_FILES * (spec.total_trials + spec.confirm_trials)
    if needed <= there:
        return None
    return (
        f"inodes: the sweep makes about {needed:,} files and folders, and {there:,.0f} more fit on the disk: give a "
        "--storage with room"
    )


def _trial_bytes(spec: SweepSpec) -> float:
    """Memory of the machine that one trial takes. On a GPU the model lies elsewhere, but passes through once."""
    held, settings = spec.resources, estimate.dearest(spec)
    model = settings.checkpoint_bytes if held.gpus_per_worker else settings.memory_bytes
    alone = held.processes * (PROCESS_BYTES + CUDA_BYTES * bool(held.gpus_per_worker) + model)
    return alone + GROUP_BYTES * bool(held.workers)


def _meminfo() -> float:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text("utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024.0
    return float("inf")


def _group(limit: str, used: str, folder: str = "/sys/fs/cgroup") -> float:
    """What the control group leaves; "max", and no such file, are no limit. Its caches can go when memory is short."""
    with contextlib.suppress(OSError, ValueError):
        most, now = (int(Path(folder, name).read_text("utf-8")) for name in (limit, used))
        lines = (line.split() for line in Path(folder, "memory.stat").read_text("utf-8").splitlines())
        caches = {key: int(value) for key, value in lines}
        return float(most - now + caches.get("total_inactive_file", caches.get("inactive_file", 0)))
    return float("inf")


def _group_v1() -> float:
    return _group("memory.limit_in_bytes", "memory.usage_in_bytes", "/sys/fs/cgroup/memory")
