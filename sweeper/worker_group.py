"""The worker group of a trial: Ray Train's, led by the trial's own process.

As Ray Train starts it, a group of one worker takes seven processes, which start one after another and import torch
three times: the trial, a queue, the controller, a data-set manager, two helpers and the worker. Here the controller
runs in the trial's process and hands its rows to Tune there, data sets (which no trial has) get no manager, the helper
that frees a killed trial's resources starts beside the training, and a process group is set up only where there are
ranks to talk to. What is taken from Ray's inside is pinned by the tests of groups.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import ray
from ray import train, tune
from ray._private import state
from ray.train import UserCallback
from ray.train.backend import BackendConfig
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup

START_FAILURES = 3
WATCH_S = 1.0


class _Forward(UserCallback):
    """Hands what rank 0 reported to Tune."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        tune.report(metrics[0])


class _Cleaner:
    """Frees what a trial's workers hold once the trial's process is dead; told all it needs when it is made."""

    def __init__(self, group: PlacementGroup, trial: str) -> None:
        Thread(target=self._watch, args=(group, trial), daemon=True).start()

    def _watch(self, group: PlacementGroup, trial: str) -> None:
        while state.actors(trial).get("State", "DEAD") != "DEAD":
            time.sleep(WATCH_S)
        ray.util.remove_placement_group(group)
        ray.kill(ray.get_runtime_context().current_actor)


class _Cleaning(ControllerCallback, WorkerGroupCallback):
    """Starts that helper once there is something to free, and does not wait for it.

    In place of Ray Train's own, which asks the dashboard: that is eleven processes, and it may know another Ray.
    """

    _cleaner: Any = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        trial = ray.get_runtime_context().get_actor_id()
        # It outlives the trial, whose resources it does not use, on the head node, as the trial does.
        made = ray.remote(num_cpus=0, resources={"node:__internal_head__": 0.001})(_Cleaner)
        self._cleaner = made.options(lifetime="detached", scheduling_strategy="DEFAULT").remote(group, trial)

    async def before_controller_shutdown(self) -> None:
        if self._cleaner is not None:
            ray.kill(self._cleaner)


class _Led(DataParallelTrainer):
    """Ray Train's trainer with its controller in this process."""

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        async def lead() -> Any:
            controller = TrainController(**arguments)
            await controller.run()
            return controller.get_result()

        return asyncio.run(lead())

    def _create_default_callbacks(self) -> list[Any]:
        others = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [_Cleaning(), *(each for each in super()._create_default_callbacks() if not isinstance(each, others))]


def run(worker: Callable[[dict[str, Any]], None], task: dict[str, Any]) -> None:
    """Run `worker(task)` on every rank until all are through. Raises what a rank raised. task: as in `trial.run`."""
    gpu = task["gpus_per_worker"] > 0
    held = {"CPU": task["cpus_per_worker"], **({"GPU": task["gpus_per_worker"]} if gpu else {})}
    _Led(
        worker,
        train_loop_config=task,
        backend_config=_backend(task["workers"], gpu),
        scaling_config=train.ScalingConfig(num_workers=task["workers"], use_gpu=gpu, resources_per_worker=held),
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

    return TorchConfig(backend="nccl" if gpu else "gloo")
