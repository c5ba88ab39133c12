"""The page carries the part of Plotly that its figures need, in the release that the Python package has."""

from __future__ import annotations

import base64
import gzip
import re

from plotly.offline import get_plotlyjs_version

from sweeper.report.html import library


def test_it_is_the_release_of_the_python_package() -> None:
    first = library.source()[:200]
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}\n" in first, (
        "vendor the release that is installed"
    )
    assert "MIT license" in first


def test_it_comes_out_as_it_went_in_and_has_every_trace_of_the_figures() -> None:
    assert gzip.decompress(base64.b64decode(library.as_text())).decode() == library.source()
    traces = ("scatter", "bar", "heatmap", "scatterternary")
    assert [name for name in (*traces, "scatter3d") if re.search(rf'name:\s*"{name}"', library.source())] == [*traces]
