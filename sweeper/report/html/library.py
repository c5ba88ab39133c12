"""Plotly's part for flat figures, packed: the page carries these bytes and unpacks them in the browser.

`plotly/plotly-cartesian.min.js.gz` is the file of the npm package `plotly.js-cartesian-dist-min`, in the release that
the Python package has, compressed by gzip; its license lies beside it. It has the traces that figures.py draws, in a
third of the size of all of Plotly.
"""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib import resources


@cache
def packed() -> bytes:
    """The script as stored, compressed by gzip."""
    return (resources.files("sweeper.report.html") / "plotly" / "plotly-cartesian.min.js.gz").read_bytes()


@cache
def source() -> str:
    """The script as a browser runs it."""
    return gzip.decompress(packed()).decode()


def as_text() -> str:
    """The packed script in characters that HTML leaves alone."""
    return base64.b64encode(packed()).decode()
