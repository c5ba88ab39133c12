"""Where numbers come from, for the record: the versions of the packages, and the commit of this code."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
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


def kernels() -> dict[str, str]:
    """The environment variables that choose other kernels for the same operations, where they are set."""
    names = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
    return {name: os.environ[name] for name in names if name in os.environ}


def code(module: str) -> str | None:
    """A hash of the source that a module runs: its own, and that of what it imports, directly or not.

    A name in a text counts as well, such as "package.module:name", which is imported later. Libraries are not followed,
    for `versions` has them, nor is sweeper, on which no number of a step depends. Whatever else changes leaves the hash
    as it is. None where a source cannot be read.
    """
    own, seen, left = module.partition(".")[0], set[str](), [module]
    sources: dict[str, str] = {}
    while left:
        name = left.pop()
        if name in seen or not _followed(name.partition(".")[0], own):
            continue
        seen.add(name)
        path = _source(name)
        if path is None:
            if name == module:
                return None
            continue
        try:
            sources[name] = path.read_text("utf-8")
            left += _imported(sources[name], name, path.name == "__init__.py", own)
        except (OSError, SyntaxError, ValueError):
            return None
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name}\0{sources[name]}\0".encode())
    return digest.hexdigest()[:16]


@cache
def _followed(package: str, own: str) -> bool:
    """Whether a package is somebody's code and not a library: the module's own, or outside of where those are."""
    if package == own:
        return True
    if package == "sweeper" or package in sys.stdlib_module_names:
        return False
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, AttributeError, ValueError):
        return False
    places = [*(found.submodule_search_locations or ()), *filter(None, [found.origin])] if found else []
    libraries = [Path(path).resolve() for path in {*sysconfig.get_paths().values(), *site.getsitepackages()}]
    return any(not any(one in Path(place).resolve().parents for one in libraries) for place in places)


def _source(name: str) -> Path | None:
    """The file of a module; None where there is no such module, or it has no source."""
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _imported(source: str, module: str, is_package: bool, own: str) -> Iterator[str]:
    """Names that may be modules, with the packages that they lie in."""
    base = module if is_package else module.rpartition(".")[0]
    pattern = re.compile(r"[A-Za-z_]\w*(?:\.\w+)*:\w+|" + rf"\b{re.escape(own)}(?:\.\w+)+")
    found: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = base.split(".")[: len(base.split(".")) - node.level + 1] if node.level else []
            where = ".".join([*above, *filter(None, [node.module])])
            found += [where, *(f"{where}.{one.name}" for one in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 200:
            found += [name.partition(":")[0] for name in pattern.findall(node.value)]
    for name in filter(None, found):
        parts = name.split(".")
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
