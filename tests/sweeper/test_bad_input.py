"""The table of bad inputs through the whole command: one line that helps, exit status 2, soon, and nothing written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sweeper import run
from sweeper.journal import run_folders
from sweeper.plan import capacity
from sweeper.spec.load import load
from sweeper.trainable import Trainable
from tests.sweeper.bad_inputs import FILE, GOOD, ROWS, Row
from tests.sweeper.mutations import ROOM

SECONDS = 2.0
TIMED = ("unknown key", "corpus that is not UTF-8", "more workers than there is room for")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(capacity, "free", lambda _: ROOM)
    return tmp_path


def left(folder: Path) -> set[str]:
    """What lies in a folder; of the cache only what is more than a lock."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return set(map(str, found))


def refused(errors: str, told: tuple[str, ...]) -> None:
    assert errors.count("\n") == 1, errors
    assert errors.startswith("error: ")
    assert [word for word in told if word not in errors] == [], errors


@pytest.mark.parametrize("row", ROWS, ids=[row.what for row in ROWS])
def test_a_mistake_is_one_line_and_status_2(row: Row, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = row.write(folder)
    before, begin = left(folder), time.process_time()
    assert run.main(arguments) == 2
    assert time.process_time() - begin < SECONDS
    output = capsys.readouterr()
    assert output.out == ""
    refused(output.err, row.told)
    assert left(folder) == before
    assert not (folder / "runs").exists()


def test_what_the_rows_change_is_legal_as_it_stands(folder: Path) -> None:
    Row("nothing", ()).write(folder)
    spec = load(FILE, sets=["config.optimiser.lr=5e-4"])
    assert spec.config["optimiser"]["lr"] == 5e-4
    assert Trainable.load(spec.trainable).prepare(spec.settings({}))["data_fingerprint"]


def test_a_folder_that_holds_another_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / FILE).write_text(GOOD, "utf-8")
    held = run_folders.new(folder / "runs", load(FILE))
    before = left(folder)
    assert run.main([FILE, "--set", "config.steps=200", "--resume", str(held)]) == 2
    refused(capsys.readouterr().err, ("--resume", str(held), "it holds another run"))
    assert left(folder) == before


@pytest.mark.parametrize("content", ["question: f\xfcr\n".encode("latin-1"), b"name: [\n", b""])
def test_a_run_whose_spec_cannot_be_read_is_not_begun_anew(
    folder: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (folder / FILE).write_text(GOOD, "utf-8")
    held = run_folders.new(folder / "runs", load(FILE))
    (held / run_folders.SPEC).write_bytes(content)
    before = left(folder)
    for arguments in ([FILE, "--resume"], [FILE, "--resume", str(held)], ["--resume", str(held)]):
        assert run.main(arguments) == 2
        refused(capsys.readouterr().err, (str(held / run_folders.SPEC),))
    assert left(folder) == before


def test_a_journal_that_is_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Row("nothing", ()).write(folder)
    held = run_folders.new(folder / "runs", load(FILE))
    (held / "journal.jsonl").write_text("nonsense\n", "utf-8")
    assert run.main([FILE, "--resume", str(held)]) == 2
    assert (f"error: {held}: journal line 1: not an event: ") in capsys.readouterr().err


@pytest.mark.parametrize("row", [row for row in ROWS if row.what in TIMED], ids=lambda row: row.what)
def test_the_whole_command_takes_less_than_two_seconds(row: Row, folder: Path) -> None:
    command = [sys.executable, "-m", "sweeper.run", *row.write(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 2
    refused(done.stderr, row.told)
    assert now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime < SECONDS  # whatever else the machine does
