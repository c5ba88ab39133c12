"""Whether this machine has the memory and disk that a sweep needs, checked before anything starts.

CPUs and GPUs are counted in nodes.py. A joined cluster is not checked here.
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
# A training process without its model: Python, Ray, torch; and on a GPU, CUDA's libraries.
PROCESS_BYTES, CUDA_BYTES = 0.5 * GB, 2.0 * GB
SHARED = "/dev/shm"
DISK_BYTES = 0.2 * GB  # Ray's logs while it runs, the tracking store, two copies of the best bundle

# Files of a trial: two checkpoints and a bundle of trainables.mlm, and MLflow's; files of a sweep.
TRIAL_FILES, SWEEP_FILES = 80, 200


@dataclass(frozen=True)
class Free:
    """What is free, in bytes; infinite if this machine does not say.

    Args:
        memory: of the machine, or of the control group if less.
        disk: where run folders lie.
        shared: shared memory.
        closed: whether shared memory is not writable.
        files: how many more the disk can hold, its free inodes.
    """

    memory: float
    disk: float
    shared: float
    closed: bool = False
    files: float = float("inf")


def free(storage: Path) -> Free:
    """What is free on this machine. storage: the folder of run folders."""
    existing = next(path for path in (storage, *storage.parents) if path.exists())
    there, disk = os.path.isdir(SHARED), os.statvfs(existing)
    return Free(
        memory=min(_meminfo(), _group("memory.max", "memory.current"), _group_v1()),
        disk=disk.f_bavail * disk.f_frsize,
        shared=shutil.disk_usage(SHARED).free if there else float("inf"),
        closed=there and not os.access(SHARED, os.W_OK),
        files=disk.f_favail if disk.f_files else float("inf"),  # file systems without such a limit report 0
    )


def shortages(spec: SweepSpec, fit: int, there: Free, written: tuple[float, float] = (0, 0)) -> list[str]:
    """One line for each shortage of memory, disk, inodes or shared memory, with a setting that would fit.

    Args:
        spec: of the sweep.
        fit: how many trials the CPUs and GPUs suffice for at once.
        there: what is free.
        written: bytes and files that the run already has on the disk.
    """
    closed = f"{SHARED} is not writable by this user, and Ray needs it: mount it with mode 1777"
    lines = (
        _memory(spec, fit, there.memory),
        _disk(spec, there.disk + written[0]),
        _inodes(spec, there.files + written[1]),
        closed if there.closed else None,
    )
    return [line for line in lines if line]


def notes(there: Free) -> list[str]:
    """Hints that stop nothing: Ray puts its object store into ordinary files if shared memory is too small."""
    if there.shared >= OBJECT_STORE_BYTES:
        return []
    return [
        f"/dev/shm has {there.shared / 2**20:.0f} MiB free: Ray's object store ({OBJECT_STORE_BYTES / 2**20:.0f} MiB) "
        "goes to disk; for speed, enlarge /dev/shm (docker run --shm-size=512m)"
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
        f"{fewer}use a --storage with room"
    )


def _inodes(spec: SweepSpec, there: float) -> str | None:
    needed = SWEEP_FILES + TRIAL_FILES * (spec.total_trials + spec.confirm_trials)
    if needed <= there:
        return None
    return (
        f"inodes: the sweep makes about {needed:,} files and folders, but only {there:,.0f} fit on the disk: use a "
        "--storage with room"
    )


def _trial_bytes(spec: SweepSpec) -> float:
    """Memory of the machine that one trial takes. On a GPU the model is not in it, but is loaded through it."""
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
    """What the control group's limit leaves; "max" or a missing file is no limit. Its caches count as free."""
    with contextlib.suppress(OSError, ValueError):
        most, now = (int(Path(folder, name).read_text("utf-8")) for name in (limit, used))
        lines = (line.split() for line in Path(folder, "memory.stat").read_text("utf-8").splitlines())
        caches = {key: int(value) for key, value in lines}
        return float(most - now + caches.get("total_inactive_file", caches.get("inactive_file", 0)))
    return float("inf")


def _group_v1() -> float:
    return _group("memory.limit_in_bytes", "memory.usage_in_bytes", "/sys/fs/cgroup/memory")
