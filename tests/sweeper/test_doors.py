"""Paths, homes, streams and readers that are not to be had, at the door of every command: one line, status 2."""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper import preflight, run, status
from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.report import write
from sweeper.spec import load
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, nodes
from tests.sweeper import samples
from tests.sweeper.test_run import written
from trainables import evaluate, mlm

LONG = "x" * 300
DROP_BOUNDING, DAC_OVERRIDE, DAC_READ_SEARCH = 24, 1, 2  # of prctl and of Linux' capabilities
TINY = ["--set", "data.corpus=files:a.txt", "--set", "data.tokenizer=train:100"]

COMMANDS = {
    "run": ["sweeper.run", "toy.yaml", "--storage", "locked/runs"],
    "plan": ["sweeper.run", "toy.yaml", "--storage", "locked/runs", "--dry-run"],
    "resume": ["sweeper.run", "toy.yaml", "--resume", "locked/x"],
    "resume without a spec": ["sweeper.run", "--resume", "locked/x"],
    "spec": ["sweeper.run", "locked/toy.yaml"],
    "reproduce": ["sweeper.run", "--reproduce", "locked/x"],
    "status": ["sweeper.status", "locked/x"],
    "report": ["sweeper.report.write", "locked/x"],
    "evaluate": ["trainables.evaluate", "locked/x", "--task", "blimp=locked"],
    "train": ["trainables.mlm", *TINY, "--output", "locked/x"],
    "cache": ["trainables.mlm", *TINY, "--output", "out"],
    "corpus": ["trainables.mlm", "--set", "data.corpus=files:locked.txt", "--output", "out"],
}
SCRIPT = """
import contextlib, importlib, io, json, os, sys
os.environ["SWEEPER_CACHE"] = "locked/cache"
if os.access("locked", os.X_OK):
    sys.exit("this user may open whatever there is")
told = {}
for name, (module, *arguments) in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.redirect_stdout(io.StringIO()):
        told[name] = [importlib.import_module(module).main(arguments), errors.getvalue()]
print(json.dumps(told))
"""


def _as_anybody() -> None:
    """Before a command begins: root then opens no more than others may."""
    for capability in (DAC_OVERRIDE, DAC_READ_SEARCH):
        ctypes.CDLL(None).prctl(DROP_BOUNDING, capability, 0, 0, 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A spec and a text, in the current directory."""
    written(tmp_path)
    (tmp_path / "a.txt").write_text("\n\n".join(f"word {number} of this text" for number in range(400)), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path


def test_what_is_locked_is_one_line_and_status_2(folder: Path) -> None:
    (folder / "locked.txt").write_text("some text\n", "utf-8")
    (folder / "locked" / "x").mkdir(parents=True)
    for path in (folder / "locked.txt", folder / "locked"):
        path.chmod(0)
    command = [sys.executable, "-c", SCRIPT, json.dumps(COMMANDS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    anybody = _as_anybody if os.geteuid() == 0 else None
    done = subprocess.run(command, env=environment, capture_output=True, text=True, preexec_fn=anybody, check=False)
    (folder / "locked").chmod(0o700)
    if "this user may open whatever there is" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {name: code for name, (code, _) in told.items()} == dict.fromkeys(COMMANDS, 2)
    for name, (_, line) in told.items():
        assert line.startswith("error: "), (name, line)
        assert line.count("\n") == 1, (name, line)
        assert "ermission denied" in line or "that can be written to" in line, (name, line)
        assert "locked" in line, (name, line)
    assert "set SWEEPER_CACHE" in told["cache"][1]
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "locked", "locked.txt", "toy.yaml"]


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (run.main, ["toy.yaml", "--storage", LONG]),
        (run.main, ["toy.yaml", "--storage", LONG, "--dry-run"]),
        (run.main, ["toy.yaml", "--resume", LONG]),
        (run.main, ["--resume", LONG]),
        (run.main, ["--reproduce", LONG]),
        (run.main, [LONG]),
        (status.main, [LONG]),
        (write.main, [LONG]),
        (evaluate.main, [LONG, "--task", "blimp=x"]),
        (evaluate.main, [".", "--task", f"blimp={LONG}"]),
        (mlm.main, [*TINY, "--output", LONG]),
    ],
)
def test_a_name_too_long_is_one_line_and_status_2(
    folder: Path, main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert (told.out, told.err.count("\n"), told.err[:7]) == ("", 1, "error: ")
    assert len(told.err) < 420
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "toy.yaml"]


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without an entry in the list of them, as containers have."""

    def nobody(_uid: int) -> Any:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "SWEEPER_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize(
    ("main", "arguments"), [(run.main, ["toy.yaml"]), (run.main, ["toy.yaml", "--dry-run"]), (mlm.main, TINY)]
)
def test_without_a_home_the_line_says_how_to_give_the_cache_another(
    folder: Path, main: Callable[[list[str]], int], arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told == "error: there is no home folder for the cache: set SWEEPER_CACHE to a folder\n"
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "toy.yaml"]


@pytest.mark.usefixtures("homeless")
def test_what_needs_no_cache_needs_no_home(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = run_folders.new(folder / "runs", load.load("toy.yaml"))
    samples.written(held, samples.toy_spec()).close()
    assert status.main([str(held)]) == 4
    assert write.main([str(held)]) == 0


def test_a_stranger_has_no_home() -> None:
    with pytest.raises(ValueError, match=r"^SWEEPER_CACHE ~nosuchuser/c: there is no such home folder; write the path"):
        files.expanded("~nosuchuser/c", "SWEEPER_CACHE")


def test_a_closed_stdin_is_one_that_says_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(nodes, "this_machine", lambda: {"CPU": 2, "GPU": 0})
    monkeypatch.setattr(sys, "stdin", None)
    assert run.main(["toy.yaml", "--set", "resources.gpus_per_worker=1"]) == 2
    assert "without a GPU it needs --yes" in capsys.readouterr().err


def test_a_reader_that_has_gone_ends_nothing(folder: Path) -> None:
    held = run_folders.new(folder / "runs", load.load("toy.yaml"))
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "sweeper.status", str(held)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(command, env=environment, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (4, "")


def test_an_error_of_the_system_without_a_path_is_one_line_too(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> SweepSpec:
        raise OSError("a socket, say")

    monkeypatch.setattr(preflight, "load", broken)
    assert run.main(["toy.yaml"]) == 2
    assert capsys.readouterr().err == "error: a socket, say\n"
    monkeypatch.setattr(status.run_folders, "opened", broken)
    held = folder / "runs" / "toy-1"
    held.mkdir(parents=True)
    (held / "spec.yaml").touch()
    assert status.main([str(held)]) == 2
    assert capsys.readouterr().err == "error: a socket, say\n"


def test_a_disk_that_closes_while_a_sweep_runs_is_one_line_and_status_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def closed(*_: object) -> int:
        raise PermissionError(13, "Permission denied", "runs/toy/journal.jsonl")

    monkeypatch.setattr(run, "_carry_out", closed)
    assert run.main(["toy.yaml"]) == 1
    told = capsys.readouterr().err
    assert "(runs/toy/journal.jsonl: Permission denied)" in told
    assert "; finished trials are kept; resume with: python -m" in told
    assert Journal(folder / "j.jsonl").events == []


def test_the_package_itself_is_the_command(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "sweeper", "nope.yaml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "nope.yaml: cannot be read" in done.stderr
