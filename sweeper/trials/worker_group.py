"""The worker group of a trial: Ray Train's, led by the trial's own process.

As Ray Train starts it, a group of one worker takes seven processes, which start one after another and import torch
three times: the trial, a queue, the controller, a data-set manager, two helpers and the worker. Here the controller
runs in the trial's process and hands its rows to Tune there, data sets (which no trial has) get no manager, what a
killed trial held is freed by the sweep's driver (`cluster.free`, by name) and not by a helper, and a process group is
set up only where there are ranks to talk to. What is taken from Ray's inside lies in `ray_inside`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray import train, tune
from ray.train import UserCallback
from ray.train.backend import BackendConfig

from sweeper.system import faults, ray_inside
from sweeper.trials import cluster
from sweeper.trials.task import TrialTask

START_FAILURES = 3


class _Forward(UserCallback):
    """Hands what rank 0 reported to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        tune.report(metrics[0])


def run(worker: Callable[[dict[str, Any]], None], task: TrialTask) -> None:
    """Run `worker` on every rank, with the task as a dict, until all are through.

    Raises Ray Train's error, from the fault (`faults.of`) that a rank raised if it was one.
    """
    gpu = task.gpus_per_worker > 0
    held = {"CPU": task.cpus_per_worker, **({"GPU": task.gpus_per_worker} if gpu else {})}
    trainer = ray_inside.LedHere(
        worker,
        named=cluster.reserved(task.scratch, task.id),
        train_loop_config={**vars(task)},
        backend_config=_backend(task.workers, gpu),
        scaling_config=train.ScalingConfig(
            num_workers=task.workers,
            use_gpu=gpu,
            resources_per_worker=held,
            placement_strategy=task.placement.upper(),
            accelerator_type=task.accelerator,
        ),
        run_config=train.RunConfig(
            name=task.id,
            storage_path=task.scratch,
            callbacks=[_Forward()],
            # Tune counts the failures of a trial, whichever of its processes it was.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=START_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except train.TrainingFailedError as error:
        found = [fault for fault in map(faults.of, ray_inside.raised(error)) if fault]
        raise error from (found[0] if found else None)


def _backend(workers: int, gpu: bool) -> BackendConfig:
    if workers == 1:
        return BackendConfig()
    from sweeper.trials.gloo import Ranks

    return Ranks("nccl" if gpu else "gloo")
