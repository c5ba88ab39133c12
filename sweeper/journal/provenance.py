"""Where numbers come from, for the record: the versions of the packages, and the commit of this code."""

from __future__ import annotations

import importlib.metadata
import subprocess
from pathlib import Path

_PACKAGES = ("ray", "torch", "optuna", "mlflow", "transformers", "tokenizers", "datasets", "numpy")


def versions() -> dict[str, str]:
    """The version of each package that is installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit(source: Path = Path(__file__)) -> str | None:
    """The commit of the checkout that a file is part of, with -dirty if files differ from it.

    None if it is part of none, as in a submitted job, which does not get git's folder: there a bundle's
    `code_fingerprint` names the code.
    """
    folder = source.parent
    if not _git(folder, "ls-files", "--error-unmatch", source.name):  # a virtual environment may lie in a checkout
        return None
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: Path, *arguments: str) -> str | None:
    """What git prints there; None if it fails, prints nothing, or is not installed."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, encoding="utf-8", errors="replace", timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
