# ruff: noqa: E402
"""All that is used of Ray's inside, which another release may change without a word; nothing else touches it.

It was written for the releases that pyproject allows, and refuses another one in one line before it fails somewhere.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import ray

from sweeper.system import nodes

SERIES = "2.60"  # as pyproject pins it


def checked(version: str) -> None:
    """Raises NotStarted, in one line, for a release of Ray that this was not written for."""
    if not version.startswith(f"{SERIES}."):
        raise nodes.NotStarted(
            f"Ray {version} is installed, and sweeper uses Ray's inside as it is in {SERIES}: "
            f"pip install 'ray[default,tune,train]=={SERIES}.*'"
        )


checked(ray.__version__)  # before the imports below fail of it

from ray._private import state, worker
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune.execution import class_cache
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group


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


class LedHere(DataParallelTrainer):
    """Ray Train's trainer with its controller in this process.

    named: how the names of its reservations begin.
    """

    def __init__(self, *arguments: Any, named: str, **others: Any) -> None:
        super().__init__(*arguments, **others)
        _Group.named = named

    def _initialize_and_run_controller(self, **arguments: Any) -> Any:
        async def lead() -> Any:
            controller = _Controller(**arguments)
            await controller.run()
            return controller.get_result()

        return asyncio.run(lead())

    def _create_default_callbacks(self) -> list[Any]:
        others = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [each for each in super()._create_default_callbacks() if not isinstance(each, others)]


def raised(error: BaseException) -> list[BaseException]:
    """What the ranks of a group raised, or its controller did, as they raised it."""
    failures = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    bare = [getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure for failure in failures]
    return [one for one in bare if isinstance(one, BaseException)]


def set_rank_variables() -> None:
    """Set RANK, WORLD_SIZE and their like in this worker's process, as torch's own launcher does."""
    from ray.train.torch.config import _set_torch_distributed_env_vars  # late: it imports torch

    _set_torch_distributed_env_vars()


def actors() -> list[dict[str, Any]]:
    """Ray's processes that hold something, with their states and addresses."""
    return list(state.actors().values())


def give_back(identity: str) -> None:
    """Remove the reservation of this id, in hexadecimal digits."""
    from ray._raylet import PlacementGroupID

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))


def keep_from_trials(prefix: str) -> None:
    """Have Tune not send the variables on whose names begin so: what is sent stands in a log of Ray's."""
    for name in [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith(prefix)]:
        class_cache.ENV_VARS_TO_PROPAGATE.remove(name)


def show_worker_logs(shown: bool) -> None:
    """Ray prints "(raylet) A worker died" on stdout, whatever log_to_driver says. This is its own switch for that."""
    worker._worker_logs_enabled = shown
