"""Who may import whom, and what a fresh clone can do without."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PURE = ["trainable", "space", "spec", "plan", "journal", "report", "checkpoints", "stats"]


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
            assert not unsafe.search(path.read_text()), path


def test_the_readme_keeps_its_word() -> None:
    """Its two commands are there in the form that .ci/run calls, and its links lead somewhere."""
    text = (ROOT / "README.md").read_text()
    assert "-m sweeper.run search_spaces/mix_ratios.yaml" in text
    assert re.search(r"<!-- test command -->\s+```\w*\n\.venv/bin/pip install .*-m pytest\n", text)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / target).exists(), target
