"""Where things are kept, and that a file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sweeper.system.files import cache_root, put


def test_where_the_cache_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", "~/own")
    assert cache_root() == Path.home() / "own"
    monkeypatch.delenv("SWEEPER_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/cache")
    assert cache_root() == Path("/some/cache/sweeper")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/some/home")
    assert cache_root() == Path("/some/home/.cache/sweeper")


def test_a_file_is_made_or_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.txt"
    put(path, "über")
    assert path.read_bytes() == "über".encode()
    put(path, b"two")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        put(path, "three")
    assert path.read_bytes() == b"two"
    assert [one.name for one in path.parent.iterdir()] == ["b.txt"]
