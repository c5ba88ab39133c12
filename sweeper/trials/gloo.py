"""How the ranks of a worker group find each other, without letting anyone else in.

torch's own rendezvous is a server on every interface, without authentication. Instead, the ranks on one machine meet
through a file in Ray's private folder; on a cluster, through a server that listens only at the address of rank 0's
node. Then they use Ray's network: by default Gloo listens at the address of the host's name, which on many systems is
loopback and so unreachable for other nodes, and NCCL at any interface except loopback.
"""

from __future__ import annotations

import os
import socket
import uuid
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import psutil
import ray
from ray.train.backend import Backend
from ray.train.torch import TorchConfig
from ray.util import get_node_ip_address

from sweeper.system import ray_inside
from sweeper.trials import cluster

_listeners: list[socket.socket] = []  # in rank 0 of a cluster's group, until its server takes it over


class Ranks(TorchConfig):
    """A process group over `backend`, which is "gloo" for CPUs and "nccl" for GPUs."""

    def __init__(self, backend: str) -> None:
        super().__init__(backend=backend)

    @property
    def backend_cls(self) -> Any:
        """The class that Ray Train calls to set up the process group."""
        return _Meeting


class _Meeting(Backend):
    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        worker_group.execute(choose_interface)
        worker_group.execute(ray_inside.set_rank_variables)
        place, size = worker_group.execute_single(0, meeting_place), len(worker_group)
        how = (backend_config.backend, place, size, backend_config.timeout_s)
        ray.get([worker_group.execute_single_async(rank, join, rank, *how) for rank in range(size)])

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        TorchConfig().backend_cls().on_shutdown(worker_group, backend_config)


def choose_interface() -> None:
    """Make Gloo in this process use the interface of the node's address.

    On loopback this applies to NCCL too and overrides the environment; elsewhere GLOO_SOCKET_IFNAME wins if it is set.
    """
    address = get_node_ip_address()
    alone = ip_address(address).is_loopback
    for name, parts in psutil.net_if_addrs().items():
        if any(part.address == address for part in parts):
            if alone:
                os.environ.update(GLOO_SOCKET_IFNAME=name, NCCL_SOCKET_IFNAME=name)
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)


def meeting_place() -> str:
    """A file that does not exist yet, or the `ADDRESS PORT` at which this process, rank 0, will serve."""
    if folder := cluster.private():
        return str(folder / f"ranks-{uuid.uuid4().hex}")
    address = get_node_ip_address()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    _listeners.append(socket.create_server((address, 0), family=family))
    return f"{address} {_listeners[-1].getsockname()[1]}"


def join(rank: int, backend: str, place: str, size: int, seconds: float) -> None:
    """Join the process group.

    Args:
        rank: of this process.
        backend: "gloo" or "nccl".
        place: from `meeting_place`.
        size: number of ranks.
        seconds: timeout of each operation.
    """
    from torch.distributed import FileStore, TCPStore, init_process_group  # type: ignore[attr-defined]

    if not os.environ.keys() & {"TORCH_NCCL_ASYNC_ERROR_HANDLING", "TORCH_NCCL_BLOCKING_WAIT"}:
        os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] = "1"  # as Ray Train sets it: an operation that hangs is an error
    timeout = timedelta(seconds=seconds)
    if place.startswith("/"):
        store: Any = FileStore(place, size)
    else:
        address, port = place.split()
        listener = _listeners.pop().detach() if rank == 0 else None
        store = TCPStore(address, int(port), size, is_master=rank == 0, timeout=timeout, master_listen_fd=listener)
    init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
