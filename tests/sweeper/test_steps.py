"""The steps of a sweep's end: one that fails is told in a line, and the others still happen."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from sweeper import closing
from sweeper.journal import run_folders
from sweeper.report import sections, tables
from sweeper.report import write as write_module
from tests.sweeper.samples import toy_spec, written


def test_a_step_that_fails_is_one_line_and_no_other_waits_for_it() -> None:
    said, done = list[str](), list[str]()
    steps = closing.Steps(said.append)

    def broken() -> int:
        raise TypeError("'float' object\nis not token=hidden")

    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/a/report.md")

    assert steps.run("one", lambda: done.append("one") or 1, 0) == 1
    assert (steps.run("two", broken, 7), steps.run("three", full, 8)) == (7, 8)
    assert steps.run("four", lambda: done.append("four") or 4, 0) == 4
    assert (done, steps.failed) == (["one", "four"], ["two", "three"])
    assert said[0].startswith("two failed: TypeError: 'float' object is not token=***; ")
    assert said[1].startswith("three failed: /a/report.md: No space left on device; ")


def test_reports_do_not_wait_for_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, said = toy_spec(), list[str]()
    journal = written(tmp_path, spec)
    monkeypatch.setattr(tables, "results_csv", lambda *_: 1 / 0)
    steps = closing.Steps(said.append)
    for name, write in write_module.texts(
        spec, journal, sections.Outcome(run_dir=tmp_path, tracking_uri="sqlite:////x.db")
    ):
        steps.run(f"writing {name}", write, None)
    there = {name for name in run_folders.REPORTS if (tmp_path / name).exists()}
    assert (there, steps.failed) == ({*run_folders.REPORTS} - {"results.csv"}, ["writing results.csv"])
