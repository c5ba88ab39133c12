"""The table of bad inputs, each through a command of its own: what was written, the line, exit status and seconds."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.sweeper.bad_inputs import ROWS, Row

ROOT = Path(__file__).parents[2]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seconds", type=float, default=2.0, help="what one command may take (2)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Every row of `tests.sweeper.bad_inputs`."""
    rows = [_tried(row) for row in ROWS]
    held = all(
        row["status"] == 2 and row["lines"] == 1 and row["seconds"] < options.seconds and not row["left"]
        for row in rows
    )
    return {"held": held, "seconds": max(row["seconds"] for row in rows), "rows": rows}


def _tried(row: Row) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="drill-") as name:
        folder = Path(name) / "work"
        folder.mkdir()
        arguments = row.write(folder)
        before = set(folder.rglob("*"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "SWEEPER_CACHE": str(Path(name) / "cache")}
        environment.pop("RAY_ADDRESS", None)
        begin = time.monotonic()
        command = [sys.executable, "-m", "sweeper.run", *arguments]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
        took = time.monotonic() - begin
        return {
            "what": row.what,
            "message": done.stderr.strip(),
            "status": done.returncode,
            "seconds": round(took, 2),
            "lines": done.stderr.count("\n"),
            "left": sorted(path.name for path in set(folder.rglob("*")) - before),
        }
