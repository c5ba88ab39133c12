"""What is installed from a wheel, outside of any checkout, works: packages, typing marker, commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import import_graph

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("package", ["sweeper", "trainables"])
def test_imports_go_one_way(package: str) -> None:
    figures = import_graph.figures(ROOT, package)
    assert (figures.circles, figures.folder_circles, figures.up) == ([], [], [])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_wheel_runs_outside_the_checkout(tmp_path: Path) -> None:
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("sweeper", "trainables"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)

    def run(*command: str | Path, cwd: Path = elsewhere) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment["SWEEPER_CACHE"] = str(tmp_path / "cache")
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as held:
        packed = {name for name in held.namelist() if name.endswith(".py")}
        assert {"sweeper/py.typed", "trainables/py.typed"} <= {*held.namelist()}
    walked = (path for name in ("sweeper", "trainables") for path in (ROOT / name).rglob("*.py"))
    assert packed == {path.relative_to(ROOT).as_posix() for path in walked}
    # An environment of its own, whose libraries are this one's; of sweeper it has the wheel alone.
    run(sys.executable, "-m", "venv", tmp_path / "env")
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (libraries,) = {path for path in map(Path, sys.path) if path.name == "site-packages" and (path / "torch").is_dir()}
    run(python, "-m", "pip", "install", "-q", "--no-deps", wheel)
    (site / "libraries.pth").write_text(f"{libraries}\n", "utf-8")
    where = run(python, "-c", "import sweeper, trainables; print(sweeper.__file__, trainables.__file__)")
    assert where.count(str(site)) == 2
    shutil.copy(ROOT / "search_spaces" / "toy.yaml", elsewhere)
    assert "0 to search, 24" in run(tmp_path / "env" / "bin" / "sweeper", "toy.yaml", "--dry-run")
    run(tmp_path / "env" / "bin" / "sweeper", "toy.yaml")
    (folder,) = (elsewhere / "runs").glob("toy-*")
    assert "completed" in run(python, "-m", "sweeper.status", folder)
    assert "report.md" in run(python, "-m", "sweeper.report", folder)
    sets = [
        "steps=4",
        "data.held_out=0.1",
        "batch_size=8",
        "data.block=16",
        "data.tokenizer=train:300",
        "model.hidden=16",
    ]
    sets += ["model.layers=1", "model.heads=2", "model.intermediate=32", "masking.mask_warmup=0", "report_every=2"]
    sentences = [f"word{number % 97} stands here as number {number} of many words." for number in range(2000)]
    (elsewhere / "text.txt").write_text("\n\n".join(sentences), "utf-8")
    assert run(
        python,
        "-m",
        "trainables.mlm",
        *(part for one in [*sets, "data.corpus=files:text.txt"] for part in ("--set", one)),
    )
