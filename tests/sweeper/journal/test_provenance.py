"""The commit on record is that of the code that ran, and says where that cannot be told."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from sweeper.journal import provenance

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *own, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


def test_a_commit_is_told_with_what_is_known_of_the_files(tmp_path: Path) -> None:
    source = tmp_path / "work" / "package" / "code.py"
    source.parent.mkdir(parents=True)
    source.write_text("one = 1\n", "utf-8")
    assert provenance.commit(source) is None, "no checkout"
    work = tmp_path / "work"
    git(work, "init", "-q")
    git(work, "add", ".")
    git(work, "commit", "-qm", "one")
    known = git(work, "rev-parse", "HEAD").strip()
    assert provenance.commit(source) == known
    other = source.with_name("installed.py")
    other.write_text("", "utf-8")
    assert provenance.commit(other) is None, "a file that merely lies in a checkout"
    source.write_text("one = 2\n", "utf-8")
    assert provenance.commit(source) == f"{known}-dirty"
    shutil.rmtree(work / ".git")
    assert provenance.commit(source) is None, "as a submitted job has it"
    assert provenance.commit(tmp_path / "none" / "code.py") is None, "no such folder"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.commit() is None
    assert {"ray", "torch", "optuna", "mlflow"} <= provenance.versions().keys()
