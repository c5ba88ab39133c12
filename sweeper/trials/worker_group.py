"""The worker group of a trial: Ray Train's, led by the trial's own process.

Ray Train itself starts seven processes for a group of one worker, one after another, and three of them import torch:
the trial, a queue, the controller, a data-set manager, two helpers and the worker. Here the controller runs in the
trial's process and passes its rows to Tune there; there is no data-set manager, as no trial has data sets; the sweep's
driver, not a helper, frees what a killed trial held (`cluster.free`, by name); and a process group is set up only if
there are several ranks. All use of Ray's internals is in `ray_inside`.
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
    """Passes the reports of rank 0 to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        tune.report(metrics[0])


def run(worker: Callable[[dict[str, Any]], None], task: TrialTask) -> None:
    """Run `worker` on every rank, with the task as a dict, until all have finished.

    Raises Ray Train's error, chained to the fault (`faults.of`) that a rank raised, if any.
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
            # Tune counts the failures of a trial, in whichever of its processes they occur.
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
