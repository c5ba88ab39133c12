"""Where numbers come from, for the record: the versions of what computes them, and the commit of this code."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
from pathlib import Path
from typing import Any

_PACKAGES = ("ray", "torch", "optuna", "mlflow", "transformers", "tokenizers", "datasets", "numpy")


def versions() -> dict[str, str]:
    """By package, of those that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(source: Path = Path(__file__)) -> str | None:
    """The commit of the checkout that a file is part of, None where it is part of none.

    With -dirty where files differ from it; with -unchecked in a submitted job, whose copy has no git objects to compare
    with, since they would be most of what is sent (.rayignore).
    """
    folder = source.parent
    if _git(folder, "rev-parse", "--git-dir"):
        own = _git(folder, "ls-files", "--error-unmatch", source.name)  # a virtual environment may lie in a checkout
        return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*") if own else None
    told = _git(folder, "rev-parse", "HEAD", GIT_OBJECT_DIRECTORY=str(folder))
    return f"{told}-unchecked" if told else None


def _git(folder: Path, *arguments: str, **environment: str) -> str | None:
    """What git says there; None where it has nothing to say, or is not installed."""
    options: dict[str, Any] = {"cwd": folder, "env": os.environ | environment}
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, **options)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
