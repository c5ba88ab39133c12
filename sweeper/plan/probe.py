"""How fast trials run on this machine: a few real steps, in as many processes as will run at once.

Each probe is a process of its own, so that the driver stays light, and calls the trainable's `probe`. The results are
cached by settings and machine in the user's cache folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from sweeper.journal import provenance
from sweeper.plan import estimate
from sweeper.plan.seed_noise import Spread
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, nodes, secrecy
from sweeper.trainable import Pace, Trainable

FILE = "probes.json"
LIMIT_S = 180.0
PRODUCTS_S = 0.3


def of(spec: SweepSpec, room: int | None, measure: bool, sd: Spread | None = None) -> estimate.Plan:
    """The plan of a spec on this machine.

    Args:
        spec: of the sweep.
        room: how many trials fit at once; None if only a cluster that is not joined yet could tell.
        measure: whether to measure the pace, if that is possible here.
        sd: of paired differences between seeds, if earlier runs give it.
    """
    cpus = int(nodes.this_machine()["CPU"])
    fit = room or spec.resources.concurrency or 1
    found = paced(spec, estimate.concurrency(spec, fit)) if measure and room else None
    pace = found or estimate.estimated(spec, measure_flops(cpus) / cpus)
    preparing = Trainable.load(spec.trainable).preparing(spec.settings({}))
    return estimate.plan(spec, fit, pace, measured=found is not None, preparing=preparing, sd=sd)


def paced(spec: SweepSpec, at_once: int) -> Pace | None:
    """The pace of each of `at_once` concurrent trials, measured or cached. None if it cannot be measured here."""
    settings, held = estimate.dearest(spec), spec.resources
    if Trainable.load(spec.trainable).probe is None or (held.gpus_per_worker and not nodes.this_machine()["GPU"]):
        return None
    config = secrecy.returned(  # everybody can see the probes' command line
        settings.model_dump(mode="json"),  # pyright: ignore[reportAttributeAccessIssue]
        {**spec.config, "data": spec.data},
        secrecy.declared(type(settings)),  # pyright: ignore[reportArgumentType]
    )
    shape = {key: value for key, value in config.items() if key != "steps"}
    shape["flops_per_step"] = settings.flops_per_step  # depends on what settings name, such as a tokenizer's files
    key = _key(spec, shape, at_once)
    cached = _cache().get(key)
    if cached is None:
        try:
            pace = _measured(spec, config, at_once)
        except (OSError, ValueError):
            return None
        cached = {"step": pace.step, "reports": pace.reports, "validation_flops": settings.validation_flops}
        _remember(key, cached)
    # A trial of another length has another number of validations.
    scale = settings.validation_flops / cached["validation_flops"] if cached["validation_flops"] else 1.0
    return Pace(cached["step"], cached["reports"] * scale)


def measure_flops(threads: int) -> float:
    """Operations a second of float32 matrix products on so many threads: the best of several of size 1024."""
    # Imported here so that a bad spec is refused before heavy imports.
    import numpy as np
    from threadpoolctl import threadpool_limits

    size = 1024
    left = np.full((size, size), 0.5, np.float32)
    taken: list[float] = []
    with threadpool_limits(limits=threads, user_api="blas"):
        while len(taken) < 3 or sum(taken) < PRODUCTS_S:
            begin = time.perf_counter()
            _ = left @ left
            taken.append(time.perf_counter() - begin)
    return 2 * size**3 / min(taken)


def _measured(spec: SweepSpec, config: dict[str, Any], at_once: int) -> Pace:
    """The mean pace of the probes. Raises ValueError if one fails or takes too long."""
    held = spec.resources
    count = at_once * held.processes
    device = "cuda:0" if held.gpus_per_worker else "cpu"
    command = [sys.executable, "-m", __spec__.name, spec.trainable, json.dumps(config), device, str(held.processes)]
    probes: list[subprocess.Popen[str]] = []
    timer = threading.Timer(LIMIT_S, lambda: [probe.kill() for probe in probes])
    timer.start()
    try:
        for number in range(count):
            environment = {**os.environ, **_threads(held.cpus_per_worker), **_visible(number, held.gpus_per_worker)}
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
            pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            probes.append(subprocess.Popen(command, env=environment, encoding="utf-8", **pipes))
        lines = [probe.communicate()[0].splitlines() for probe in probes]
    finally:
        timer.cancel()
        for probe in probes:
            probe.kill()
            probe.wait()
    if any(probe.returncode for probe in probes):
        raise ValueError("a probe failed")
    paces = [Pace(**json.loads(each[-1])) for each in lines]
    return Pace(statistics.mean(pace.step for pace in paces), statistics.mean(pace.reports for pace in paces))


def _threads(number: int) -> dict[str, str]:
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(number))


def _visible(number: int, gpus: float) -> dict[str, str]:
    """The devices that process `number` sees, if each process uses `gpus` of them, or such a share of one."""
    if not gpus:
        return {}
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = named.split(",") if named else [str(device) for device in range(int(nodes.this_machine()["GPU"]))]
    first = int(number * gpus + 1e-9)
    return {"CUDA_VISIBLE_DEVICES": ",".join(names[first : first + max(1, int(gpus))])}


def _key(spec: SweepSpec, shape: dict[str, Any], at_once: int) -> str:
    """A cache key of everything that the pace depends on."""
    held = spec.resources.model_dump(exclude={"concurrency"})
    versions = {}
    for package in ("torch", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    parts = [spec.trainable, shape, held, at_once, versions, platform.machine(), provenance.processor(), _device()]
    parts.append(nodes.this_machine())
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _device() -> list[str]:
    """The models of the NVIDIA devices that the driver shows."""
    found = []
    for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        with contextlib.suppress(OSError):
            found += [
                line.split(":")[1].strip() for line in path.read_text("utf-8").splitlines() if line.startswith("Model")
            ]
    return found


def _cache() -> dict[str, dict[str, float]]:
    """The cached paces; empty if the file is missing or damaged."""
    try:
        paces = json.loads((files.cache_root() / FILE).read_text("utf-8"))
    except (OSError, ValueError):  # also if there is no home for the cache
        return {}
    return paces if isinstance(paces, dict) else {}


def _remember(key: str, pace: dict[str, float]) -> None:
    """Add a pace to the file. A concurrent writer may lose its own, but nobody reads half a file."""
    with contextlib.suppress(OSError, ValueError):
        files.put(files.cache_root() / FILE, json.dumps({**_cache(), key: pace}, indent=1))


def main(arguments: list[str]) -> None:
    """What each probe runs: TRAINABLE CONFIG DEVICE WORLD_SIZE. The last line of stdout is the pace."""
    name, config, device, world_size = arguments
    trainable = Trainable.load(name)
    assert trainable.probe is not None, name
    settings = secrecy.given(json.loads(config), secrecy.declared(trainable.config))
    pace = trainable.probe(trainable.config.model_validate_json(json.dumps(settings)), device, int(world_size))
    print(json.dumps(pace._asdict()))


if __name__ == "__main__":
    main(sys.argv[1:])
