"""The example notebook runs; interrupting the kernel ends a sweep in order."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for a kernel's files, which finds this checkout and no user's own configuration."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


@pytest.mark.timeout(900)
def test_the_example_runs(here: Path) -> None:
    book = nbformat.read(ROOT / "search_spaces" / "notebook.ipynb", as_version=4)
    NotebookClient(book, timeout=800, kernel_name="python3", resources={"metadata": {"path": str(here)}}).execute()
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert [one for one in outputs if one.get("name") == "stderr"] == []
    sweep = cells[1].outputs
    (table,) = [one for one in sweep if one.output_type == "display_data"]
    assert "8 of 8 trials ended: 8 completed" in table.data["text/plain"]
    assert sum(len(str(one)) for one in outputs) < 60_000
    shown = sweep[-1].data["text/html"]
    assert "<h3>notebook</h3>" in shown
    assert "Verdicts: difference to the baseline" in shown
    pairs = cells[2].outputs[0].data["text/plain"].splitlines()
    assert pairs[0].split() == ["stage", "candidate", "arm", "seed", "baseline", "value", "difference", "stuck"]
    assert len(pairs) == 1 + 4


class Kernel:
    """A kernel, of which code is asked."""

    def __init__(self, folder: Path) -> None:
        self.manager = KernelManager(kernel_name="python3")
        self.manager.start_kernel(cwd=str(folder))
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=120)

    def run(self, code: str, until: str | None = None) -> str:
        """What a cell shows, once it has ended. until: interrupt the kernel when this has been shown."""
        asked, shown = self.client.execute(code), ""
        while True:
            try:
                message: dict[str, Any] = self.client.get_iopub_msg(timeout=300)
            except queue.Empty:
                raise AssertionError(f"no answer; so far {shown}") from None
            if message["parent_header"].get("msg_id") != asked:
                continue
            content = message["content"]
            shown += content.get("text", "") + content.get("data", {}).get("text/plain", "") + content.get("evalue", "")
            if until and until in shown:
                until = None
                self.manager.interrupt_kernel()
            if content.get("execution_state") == "idle":
                return shown


@pytest.fixture
def kernel(here: Path) -> Iterator[Kernel]:
    found = Kernel(here)
    yield found
    found.client.stop_channels()
    found.manager.shutdown_kernel(now=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_an_interrupt_ends_a_sweep_in_order_and_the_kernel_lives(kernel: Kernel) -> None:
    spec = str(ROOT / "search_spaces" / "toy.yaml")
    told = kernel.run(f"import sweeper; run = sweeper.run({spec!r}, sets={{'config.pause': 0.1}})", until="c0002")
    assert "Stopping cleanly" in told
    assert "interrupted; resume with" in told
    assert kernel.run("print(run.state)").strip() == "open"
    assert "24 of 24 trials ended" in kernel.run("again = run.resume(sets={'limits.hours': 1})")
    assert kernel.run("print(again is run, run.state, len(run.pairs()))").strip() == "True completed 16"
