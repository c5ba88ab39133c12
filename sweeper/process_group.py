"""How the ranks of a worker group find each other: torch's process group as Ray Train sets it up, over Ray's network.

Gloo listens at the address of the host's name, which many systems have on loopback, where no other node can reach it.
Ray knows the address by which the nodes do reach each other. (NCCL leaves loopback out by itself.)
"""

from __future__ import annotations

import os
from typing import Any

import psutil
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend
from ray.util import get_node_ip_address


class _OverRaysNetwork(_TorchBackend):
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class Gloo(TorchConfig):
    """For ranks on CPUs."""

    def __init__(self) -> None:
        super().__init__(backend="gloo")

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _OverRaysNetwork


def choose_interface() -> None:
    """Have Gloo, in this process, use the interface of the node's address; GLOO_SOCKET_IFNAME wins where it is set."""
    address = get_node_ip_address()
    for name, parts in psutil.net_if_addrs().items():
        if any(part.address == address for part in parts):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
