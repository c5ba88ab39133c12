"""Ranks listen where other nodes can reach them, and meet where no stranger is."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from sweeper.trials import cluster, gloo
from tests.drills.listeners import addresses


def test_gloo_listens_at_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"lo": "127.0.0.1", "eth0": "10.0.0.2", "docker0": "172.17.0.1"}
    parts = {name: [SimpleNamespace(address="aa:bb"), SimpleNamespace(address=one)] for name, one in there.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: parts)
    monkeypatch.setattr(gloo, "get_node_ip_address", lambda: "10.0.0.2")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    gloo.choose_interface()
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == "eth0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    gloo.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0", "what people set wins"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(gloo, "get_node_ip_address", lambda: "192.0.2.7")
    gloo.choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "an address that no interface has is not guessed at"


def test_loopback_has_an_interface_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "ib0")
    gloo.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]
    assert os.environ["GLOO_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"], "a local run stays on loopback"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")


def test_ranks_on_one_machine_meet_in_a_private_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(cluster._MARK, str(tmp_path))
    assert Path(gloo.meeting_place()).parent == tmp_path
    assert not gloo._listeners


def test_ranks_of_a_cluster_meet_at_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not on every interface, as torch's store listens by itself. The second loopback address is a node's here."""
    monkeypatch.delenv(cluster._MARK, raising=False)
    monkeypatch.setattr(gloo, "get_node_ip_address", lambda: "127.0.0.2")
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    before = addresses([os.getpid()])
    place = gloo.meeting_place()
    gloo.join(0, "gloo", place, 1, 60)
    try:
        (mine,) = (one for one in addresses([os.getpid()]) if one not in before and one.startswith("127.0.0.2:"))
        assert mine == ":".join(place.split())
        new = {one.rpartition(":")[0] for one in addresses([os.getpid()]) if one not in before}
        assert new <= {"127.0.0.2", "127.0.0.1"}
    finally:
        torch.distributed.destroy_process_group()
