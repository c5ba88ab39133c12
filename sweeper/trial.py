"""One trial: what Tune calls, in this process or as the driver of a Ray Train worker group.

Both ways give the trainable the same context. A row of metrics leaves a trial only once the checkpoint that belongs
to it is on disk. What Tune carries is `{"rows": [row, ...]}`: one row, or after a restart every row that the
checkpoint remembers, since workers run ahead of the driver and the journal may lack some.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray import train, tune

from sweeper import checkpoints
from sweeper.trainable import Trainable, TrainContext

ERROR = "error.txt"
# A worker group that lost a worker is started once more, from its newest checkpoint: a node may have gone.
WORKER_FAILURES = 1
START_FAILURES = 3

Send = Callable[[list[dict[str, Any]]], None]


class PeerLost(RuntimeError):
    """Another rank is gone. Not this one's fault, so it is not what a trial is noted to have failed of."""


@dataclass(frozen=True)
class NoSecondTry(train.UserCallback):
    """Ends a worker group whose training raised by itself: on the same seed and data it would raise again."""

    folder: Path

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Ray Train gives a run up, whatever its failure_config says, if a callback raises."""
        if (self.folder / ERROR).exists():
            raise RuntimeError("the training raised")


@dataclass(frozen=True)
class Reporter:
    """`context.report` of rank 0: refuses what is not finite, stores the checkpoint, then sends the row."""

    folder: Path
    objective: str
    send: Send

    def __call__(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        step = int(metrics["step"])
        row: dict[str, Any] = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        try:
            self._check(row, step)
            if checkpoint is not None:
                checkpoints.store(self.folder / "checkpoints", checkpoint, step)
        finally:
            if checkpoint is not None:
                shutil.rmtree(checkpoint, ignore_errors=True)
        self.send([row])

    def _check(self, row: Mapping[str, float], step: int) -> None:
        if self.objective not in row:
            raise ValueError(f"objective {self.objective!r} is not among what is reported: {', '.join(sorted(row))}")
        for key, value in row.items():
            if not math.isfinite(value):
                raise RuntimeError(f"diverged: {key} is {value:g} at step {step}")


def run(task: dict[str, Any]) -> None:
    """What Tune calls. task: plain data, the sweep's (`sweep.shared`) and the trial's own (`JournalSearch.suggest`).

    A failure leaves `error.txt` in the trial's folder, its reason in the first line, for the driver and for people.
    """
    folder = home(task)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    with _noted(folder):
        if task["workers"]:
            _worker_group(task)
        else:
            device = "cuda:0" if task["gpus_per_worker"] else "cpu"
            _train(task, lambda rows: tune.report({"rows": rows}), device=device)


def home(task: Mapping[str, Any]) -> Path:
    """The folder of a trial."""
    return Path(task["run_dir"]) / "trials" / task["id"]


def _worker_group(task: dict[str, Any]) -> None:
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    gpu = task["gpus_per_worker"] > 0
    held = {"CPU": task["cpus_per_worker"], **({"GPU": task["gpus_per_worker"]} if gpu else {})}
    TorchTrainer(
        _worker,
        train_loop_config=task,
        torch_config=TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=train.ScalingConfig(num_workers=task["workers"], use_gpu=gpu, resources_per_worker=held),
        run_config=train.RunConfig(
            name=task["id"],
            storage_path=task["scratch"],
            callbacks=[TuneReportCallback(), NoSecondTry(home(task))],
            failure_config=train.FailureConfig(max_failures=WORKER_FAILURES, controller_failure_limit=START_FAILURES),
        ),
    ).fit()


def _worker(task: dict[str, Any]) -> None:
    """One rank of a worker group."""
    from ray.train.torch import get_device

    context = train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    ranks: dict[str, Any] = {"rank": rank, "world_size": world_size, "device": str(get_device())}
    if world_size > 1:
        ranks["all_reduce"] = _all_reduce
    with _noted(home(task)):
        _train(task, lambda rows: train.report({"rows": rows}), **ranks)


def _all_reduce(tensor: Any) -> None:
    """Sum over the ranks. Raises PeerLost where one does not answer."""
    from torch import distributed

    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise PeerLost(f"another worker is gone: {error}") from error


def _train(task: Mapping[str, Any], send: Send, **ranks: Any) -> None:
    """Run the trainable from the newest checkpoint that verifies, if there is one."""
    import torch

    torch.set_num_threads(task["cpus_per_worker"])
    with contextlib.suppress(OSError):  # a node of a joined cluster may have no such folder
        os.chdir(task["cwd"])  # relative paths in a spec are the driver's
    folder = home(task)
    restore_from, _ = checkpoints.newest(folder / "checkpoints")
    if restore_from is not None:
        send(checkpoints.history(restore_from))
    trainable = Trainable.load(task["trainable"])
    # Ray Train waits until every rank has reported, and keeps what rank 0 did.
    report = (lambda *_: send([])) if ranks.get("rank") else Reporter(folder, task["objective"], send)
    context = TrainContext(report, seed=task["seed"], restore_from=restore_from, **ranks)
    trainable.train(trainable.config.model_validate(task["config"]), context)


@contextlib.contextmanager
def _noted(folder: Path) -> Iterator[None]:
    """Keep the first error of a trial, which is its own: it fails because a worker did, ranks because another did."""
    try:
        yield
    except PeerLost:
        raise
    except Exception as error:
        with contextlib.suppress(FileExistsError), (folder / ERROR).open("x") as file:
            file.write(f"{reason(error)}\n\n{traceback.format_exc()}")
        raise


def reason(error: BaseException) -> str:
    """An error in one line: its type and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
