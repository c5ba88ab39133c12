"""Where numbers come from, for the record: the versions of the packages, and the commit of this code."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
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


def processor() -> str:
    """The model of this machine's processor: another may round differently."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def code(module: str) -> str | None:
    """A hash of the source that a module runs: its own, and that of what it imports of its own package, and so on.

    A name in a text counts as well, such as "package.module:name", which is imported later. Whatever else changes in
    the package leaves the hash as it is. None where a source cannot be read. Imports only the packages on the way.
    """
    package = module.partition(".")[0]
    digest, seen, left = hashlib.sha256(), set[str](), [module, package]
    sources: dict[str, str] = {}
    while left:
        name = left.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _source(name)
        if path is None:
            if name == module:
                return None
            continue
        try:
            sources[name] = path.read_text("utf-8")
            left += _imported(sources[name], name, path.name == "__init__.py", package)
        except (OSError, SyntaxError, ValueError):
            return None
    for name in sorted(sources):
        digest.update(f"{name}\0{sources[name]}\0".encode())
    return digest.hexdigest()[:16]


def _source(name: str) -> Path | None:
    """The file of a module; None where there is no such module, or it has no source."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _imported(source: str, module: str, is_package: bool, package: str) -> Iterator[str]:
    """Names that may be modules of the package, with the packages that they lie in."""
    base = module if is_package else module.rpartition(".")[0]
    pattern = re.compile(rf"{re.escape(package)}(?:\.\w+)+")
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = base.split(".")[: len(base.split(".")) - node.level + 1] if node.level else []
            where = ".".join([*above, *filter(None, [node.module])])
            found += [where, *(f"{where}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            found += pattern.findall(node.value)
    for name in found:
        parts = name.split(".")
        if parts[0] == package:
            yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


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
