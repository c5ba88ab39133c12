"""The live table in a notebook is one output, redrawn in place, and says nothing twice."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text

from sweeper.report import notebook
from sweeper.report.terminal import Live
from tests.sweeper.samples import end, report, toy_spec, written


class Handle:
    """What IPython's `display` returns: it keeps what it was given."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, bundle: dict[str, str], raw: bool) -> None:
        assert raw
        self.shown.append(bundle)


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> Handle:
    """A notebook's kernel, as far as we see it."""
    found = Handle()
    module: Any = types.ModuleType("IPython.display")
    module.display = lambda bundle, raw, display_id: found
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(notebook, "here", lambda: True)
    return found


def test_a_sweep_is_one_output_that_is_redrawn(
    handle: Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebook, "PAINT_S", 60.0)
    spec = toy_spec()
    journal = written(tmp_path, spec)
    with Live(spec, journal, 6) as live:
        live._paint()
        live._paint()
        journal.append(report(5, 20, 1.3, 20))
        journal.append(end(5, "completed", 21))
        live.say("a line")
    assert len(handle.shown) == 2, "the same picture is not sent again"
    assert "6 of 6 trials ended" in handle.shown[-1]["text/plain"]
    assert handle.shown[-1]["text/html"].startswith("<pre style=")
    told = capsys.readouterr()
    assert told.out.splitlines() == ["toy: 6 trials, 6 of them started", "a line"]
    assert told.err == "", "a notebook shows stderr as an error"


def test_what_a_record_says_is_no_markup(handle: Handle) -> None:
    notebook.Cell().update(Text("<script>alert(1)</script>"))
    assert "<script" not in handle.shown[0]["text/html"]
    assert "&lt;script&gt;" in handle.shown[0]["text/html"]


def test_a_terminal_is_no_notebook() -> None:
    assert not notebook.here()
