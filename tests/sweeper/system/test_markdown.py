"""What reports set in Markdown is Markdown."""

from __future__ import annotations

import pytest
from markdown_it import MarkdownIt

from sweeper.system.markdown import between, number, table

HEADS = ["trial", "n", "x|y"]
ROWS = [["t1", "6", "a|b"], ["t2", "", "c\nd"], ["t3", "12", ""]]


@pytest.mark.parametrize("left", [(), ("trial",), tuple(HEADS)])
@pytest.mark.parametrize("rows", [ROWS[:0], ROWS[:1], ROWS[:2], ROWS])
def test_a_table_is_one_however_narrow_its_columns(left: tuple[str, ...], rows: list[list[str]]) -> None:
    text = table(HEADS, rows, left)
    page = MarkdownIt("js-default").enable("table").render(text)
    assert page.count("<table>") == 1
    assert page.count("<tr>") == 1 + len(rows)
    assert page.count("<td") == 3 * len(rows)
    assert "x|y" in page
    assert page.count("text-align:left") == (1 + len(rows)) * len(left)
    assert len({len(line) for line in text.splitlines()}) == 1, "its source is aligned, too"


def test_what_is_not_there_is_a_dash() -> None:
    assert (number(None), number(0.5), number(0.5, "+"), between(None)) == ("-", "0.5000", "+0.5000", "-")
    assert between((-0.1, 0.2)) == "-0.1000 to +0.2000"
