"""The live table in a notebook: one output of the cell, which is redrawn in place.

Not by rich's own support of notebooks: that needs ipywidgets, and draws from the main thread alone.
"""

from __future__ import annotations

import html
import io
import sys
from typing import Any

from rich.console import Console, RenderableType

from sweeper.system.files import printable

WIDTH, HEIGHT = 110, 40  # characters and lines
PAINT_S = 1.0  # each painting is a message to the browser, and one of them stays in the notebook
_STYLE = "white-space: pre; line-height: 1.25; font-family: Menlo, Consolas, 'DejaVu Sans Mono', monospace; margin: 0"
_FORMAT = f'<pre style="{_STYLE}">{{code}}</pre>'


def here() -> bool:
    """Whether this process is a notebook's kernel."""
    return "IPython" in sys.modules and Console(file=io.StringIO()).is_jupyter


def say(line: str) -> None:
    """Print a line for people in the cell: on stdout, as a notebook shows stderr as an error."""
    print(printable(line).replace("\n", "\\n"), flush=True)


class Cell:
    """An output of the current cell that shows the newest picture; the same calls as rich's `Live`."""

    def __init__(self) -> None:
        from IPython.display import display

        self._shown = ""
        self._handle: Any = display(_bundle(""), raw=True, display_id=True)

    def update(self, picture: RenderableType, *, refresh: bool = True) -> None:
        """Draw a picture, unless it is the one that is shown."""
        console = Console(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False, force_terminal=False)
        console.print(picture)
        plain = console.export_text(clear=False)
        if plain != self._shown:
            self._shown = plain
            drawn = console.export_html(inline_styles=True, code_format=_FORMAT)
            self._handle.update(_bundle(plain, drawn), raw=True)

    def stop(self) -> None:
        """Nothing to do: the last picture stays."""


def _bundle(plain: str, drawn: str | None = None) -> dict[str, str]:
    return {"text/plain": plain, "text/html": drawn or f"<pre>{html.escape(plain)}</pre>"}
