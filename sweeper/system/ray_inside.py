# ruff: noqa: E402
"""All use of Ray's internals, which any release may change without notice; no other module touches them.

Written for the releases that pyproject allows; any other is refused in one line at import.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import ray

from sweeper.system import nodes

SERIES = "2.60"  # as pyproject pins it


def checked(version: str) -> None:
    """Raises NotStarted, in one line, for an unsupported release of Ray."""
    if not version.startswith(f"{SERIES}."):
        raise nodes.NotStarted(
            f"Ray {version} is installed, but sweeper needs Ray {SERIES}: "
            f"pip install 'ray[default,tune,train]=={SERIES}.*'"
        )


checked(ray.__version__)  # before the imports below fail

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
    """A group whose reservation has a name: Ray keeps the reservation of a killed trial until its sweep is over.

    named: the prefix of the name; a class attribute, as each trial has a process of its own.
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

    named: the prefix of its reservations' names.
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
    """The original exceptions that the ranks of a group, or its controller, raised."""
    failures = [*getattr(error, "worker_failures", {}).values(), getattr(error, "controller_failure", None)]
    bare = [getattr(failure, "_base_exc", None) or getattr(failure, "cause", None) or failure for failure in failures]
    return [one for one in bare if isinstance(one, BaseException)]


def set_rank_variables() -> None:
    """Set RANK, WORLD_SIZE and the like in this worker's process, as torch's own launcher does."""
    from ray.train.torch.config import _set_torch_distributed_env_vars  # late: it imports torch

    _set_torch_distributed_env_vars()


def actors() -> list[dict[str, Any]]:
    """Ray's actors, with their states and addresses."""
    return list(state.actors().values())


def give_back(identity: str) -> None:
    """Remove a reservation by its id in hexadecimal digits."""
    from ray._raylet import PlacementGroupID

    remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))


def keep_from_trials(prefix: str) -> None:
    """Stop Tune from passing on variables whose names start with `prefix`: Ray writes what it passes to a log."""
    for name in [name for name in class_cache.ENV_VARS_TO_PROPAGATE if name.startswith(prefix)]:
        class_cache.ENV_VARS_TO_PROPAGATE.remove(name)


def show_worker_logs(shown: bool) -> None:
    """Ray's switch for lines such as "(raylet) A worker died" on stdout, which log_to_driver does not affect."""
    worker._worker_logs_enabled = shown
