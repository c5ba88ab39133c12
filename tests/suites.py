"""Runs a contract suite without pytest, to see which of its tests fail."""

from __future__ import annotations

from typing import Any
from unittest import SkipTest


def names_of(suite: type[Any]) -> list[str]:
    """The names of a suite's tests."""
    return [name for name in dir(suite) if name.startswith("test_")]


def failing(suite: type[Any]) -> set[str]:
    """The tests of a suite that fail, without `test_`."""
    failed = set[str]()
    for name in names_of(suite):
        try:
            getattr(suite(), name)()
        except SkipTest:
            continue
        except Exception:
            failed.add(name.removeprefix("test_"))
    if hasattr(suite, "teardown_class"):
        suite.teardown_class()
    return failed
