"""Who may import whom, and what a fresh clone can do without."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PURE = [
    "trainable",
    "testing",
    "spec.space",
    "spec.load",
    "plan.estimate",
    "journal.journal",
    "report.sections",
    "journal.checkpoints",
    "confirmation.verdicts",
]


@pytest.mark.parametrize("module", PURE)
def test_pure_rooms_import_without_the_machinery(module: str) -> None:
    """In a process where ray, mlflow, optuna and torch cannot be imported at all."""
    code = f"""
import sys
for name in ("ray", "mlflow", "optuna", "torch", "transformers"):
    sys.modules[name] = None
import sweeper.{module}
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


OF_THE_API = ("ConfigError", "Run", "Study", "load", "run", "runs", "study")  # sweeper/README.md has these


@pytest.mark.parametrize("package", ["sweeper", "trainables"])
def test_a_package_offers_what_its_authors_import(package: str) -> None:
    """Each name is there, and a README has the line that imports them all."""
    module = import_module(package)
    own = (ROOT / "sweeper" / "README.md").read_text("utf-8")
    offered = [name for name in module.__all__ if name != "__version__" and name not in OF_THE_API]
    for name in module.__all__:
        assert getattr(module, name) is not None
    text = " ".join((ROOT / "trainables" / "README.md").read_text("utf-8").split())
    (named,) = re.findall(rf"`from {package} import ([\w, ]+)`", text)
    assert named.split(", ") == offered
    assert package != "sweeper" or all(f"`sweeper.{name}" in own or f"`{name}`" in own for name in OF_THE_API)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_importing_a_package_is_cheap_and_a_suite_needs_no_pytest() -> None:
    code = """
import sys
sys.modules["pytest"] = None
import sweeper, trainables
assert not {"pydantic", "numpy", "torch", "ray"} & sys.modules.keys()
from sweeper import TrainContext, testing
assert not {"torch", "ray"} & sys.modules.keys()
from trainables import Source, testing
assert testing.SourceContract
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_import_contracts() -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_nothing_is_unpickled_and_yaml_is_safe() -> None:
    unsafe = re.compile(
        r"pickle\.loads?\(|torch\.load\(|yaml\.load\(|allow_pickle=True|trust_remote_code=True|shell=True"
    )
    for package in ("sweeper", "trainables"):
        for path in (ROOT / package).rglob("*.py"):
            assert not unsafe.search(path.read_text("utf-8")), path


def test_the_versions_tested_together_are_allowed_and_rays_inside_is_of_one_release() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    extras = [line for part in project["optional-dependencies"].values() for line in part]
    allowed = [Requirement(line) for line in (*project["dependencies"], *extras) if not line.startswith("sweeper")]
    for one in allowed:
        assert one.specifier.contains(pinned[canonicalize_name(one.name)]), one
    (ray,) = (one for one in allowed if one.name == "ray")
    release = Version(pinned[canonicalize_name(ray.name)])
    assert not ray.specifier.contains(f"{release.major}.{release.minor + 1}.0"), "its inside is used"


def test_files_are_utf8_in_any_locale() -> None:
    """Every reading and writing of text names its encoding: the locale's may be another, and spoils umlauts."""
    for path in (path for package in ("sweeper", "trainables", "tests") for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                given = len(node.args) + sum(keyword.arg == "encoding" for keyword in node.keywords)
                least = {"read_text": 1, "write_text": 2}.get(node.func.attr, 0)
                assert given >= least, f"{path}:{node.lineno}: {node.func.attr} names no encoding"
                piped = [keyword.value for keyword in node.keywords if keyword.arg == "text"]  # of a process
                by_locale = any(isinstance(value, ast.Constant) and value.value is True for value in piped)
                ours = path.is_relative_to(ROOT / "sweeper") or path.is_relative_to(ROOT / "trainables")
                assert not (ours and by_locale), f"{path}:{node.lineno}: give encoding= in place of text=True"


def test_the_readme_keeps_its_word() -> None:
    """Its two commands are there in the form that .ci/run calls, and its links lead somewhere."""
    text = (ROOT / "README.md").read_text("utf-8")
    assert "-m sweeper.run search_spaces/mix_ratios.yaml" in text
    assert re.search(r"<!-- test command -->\s+```\w*\n\.venv/bin/pip install .*-m pytest\n", text)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
