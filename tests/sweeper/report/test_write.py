"""Plotly reads whatever pandas it finds imported, so a report first waits for an import that is under way."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from sweeper.report import write
assert "pandas" not in sys.modules
next(write.texts(None, None, None))
assert sys.modules["pandas"].Series
"""


def test_a_report_begins_with_a_whole_pandas() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
