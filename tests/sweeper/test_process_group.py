"""Ranks listen where other nodes can reach them."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import psutil
import pytest

from sweeper import process_group


def test_gloo_listens_at_the_nodes_address(monkeypatch: pytest.MonkeyPatch) -> None:
    there = {"lo": "127.0.0.1", "eth0": "10.0.0.2", "docker0": "172.17.0.1"}
    parts = {name: [SimpleNamespace(address="aa:bb"), SimpleNamespace(address=one)] for name, one in there.items()}
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: parts)
    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: "10.0.0.2")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    process_group.choose_interface()
    assert os.environ.pop("GLOO_SOCKET_IFNAME") == "eth0"
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    process_group.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0", "what people set wins"
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: "192.0.2.7")
    process_group.choose_interface()
    assert "GLOO_SOCKET_IFNAME" not in os.environ, "an address that no interface has is not guessed at"


def test_loopback_has_an_interface_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    process_group.choose_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
