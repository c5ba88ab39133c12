"""The worker group of a trial: Ray Train's, led by the trial's own process.

As Ray Train starts it, a group of one worker takes seven processes, which start one after another and import torch
three times: the trial, a queue, the controller, a data-set manager, two helpers and the worker. Here the controller
runs in the trial's process and hands its rows to Tune there, data sets (which no trial has) get no manager, what a
killed trial held is freed by the sweep's driver (`cluster.free`, by name) and not by a helper, and a process group is
set up only where there are ranks to talk to. What is taken from Ray's inside is pinned by the tests of groups.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

from ray import train, tune
from ray.train import UserCallback
from ray.train.backend import BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import placement_group

from sweeper import cluster

START_FAILURES = 3


class _Forward(UserCallback):
    """Hands what rank 0 reported to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        tune.report(metrics[0])


class _Group(WorkerGroup):
    """A group whose reservation has a name. Ray keeps the reservation of a killed trial until its sweep is over.

    named: how the name begins; set for the trial, which has a process of its own.
    """

    named = ""

    def _create_placement_group(self, scaling_config: Any, worker_group_context: Any) -> DefaultPlacementGroupHandle:
        context = worker_group_context
        group = placement_group(
            [context.resources_per_worker] * context.num_workers,
            strategy=context.placement_strategy,
            name=f"{self.named}{uuid.uuid4().hex}",
            bundle_label_selector=context.label_selector,
        )
        return DefaultPlacementGroupHandle(group)


class _Controller(TrainController):
    worker_group_cls = _Group


class _Led(DataParallelTrainer):
    """Ray Train's trainer with its controller in this process."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        async def lead() -> Any:
            controller = _Controller(**arguments)
            await controller.run()
            return controller.get_result()

        return asyncio.run(lead())

    def _create_default_callbacks(self) -> list[Any]:
        others = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, others)]


def run(worker: Callable[[dict[str, Any]], None], task: dict[str, Any]) -> None:
    """Run `worker(task)` on every rank until all are through. Raises what a rank raised. task: as in `trial.run`."""
    _Group.named = cluster.reserved(task["scratch"], task["id"])
    gpu = task["gpus_per_worker"] > 0
    held = {"CPU": task["cpus_per_worker"], **({"GPU": task["gpus_per_worker"]} if gpu else {})}
    _Led(
        worker,
        train_loop_config=task,
        backend_config=_backend(task["workers"], gpu),
        scaling_config=train.ScalingConfig(
            num_workers=task["workers"],
            use_gpu=gpu,
            resources_per_worker=held,
            placement_strategy=task["placement"].upper(),
            accelerator_type=task["accelerator"],
        ),
        run_config=train.RunConfig(
            name=task["id"],
            storage_path=task["scratch"],
            callbacks=[_Forward()],
            # Tune counts the failures of a trial, whichever of its processes it was.
            failure_config=train.FailureConfig(max_failures=0, controller_failure_limit=START_FAILURES),
        ),
    ).fit()


def _backend(workers: int, gpu: bool) -> BackendConfig:
    if workers == 1:
        return BackendConfig()
    from ray.train.torch import TorchConfig

    from sweeper.process_group import Gloo

    return TorchConfig(backend="nccl") if gpu else Gloo()
