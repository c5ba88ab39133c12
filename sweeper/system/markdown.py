"""How reports set text, tables and numbers in Markdown.

What a spec, a record or a trainable says is text, whatever it looks like: it goes through `text`, `code` or `table`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sweeper.system.files import one_line

ABSENT = "-"
_WIDEST = 200  # characters of a cell

# What Markdown acts on inside a line. An underscore inside a word is none of it, and names are full of them.
_ACTS = re.compile(r"[`*\[<$~]|\\(?=[!-/:-@\[-`{-~]|$)|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
_BEGINS = re.compile(r"(?:#{1,6}|[-+])(?=\s|$)|>|(?:-+|=+)$")  # and at a line's beginning
_CODE = re.compile(r"((?<!`)`[^`]+`(?!`))")
_NUMBERED = re.compile(r"(\d{1,9})[.)](?=\s|$)")


def text(given: str) -> str:
    """Text that Markdown shows as it is, in one line: no heading, list, link, picture or HTML comes of it.

    What stands between two backticks is code, as messages have it, and acts as little.
    """
    parts = _CODE.split(one_line(given))
    line = "".join(part if place % 2 else _inline(part) for place, part in enumerate(parts))
    if number := _NUMBERED.match(line):
        return f"{number[1]}\\{line[number.end(1) :]}"
    return f"\\{line}" if _BEGINS.match(line) else line


def code(given: str) -> str:
    """Text as code, in one line; a fence of more backticks than the text has in a row keeps them text."""
    line = one_line(given) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def plain(markdown: str) -> str:
    """Markdown of such text and code without its marks, for a terminal."""
    return re.sub(r"\\([!-/:-@\[-`{-~])|[*`]", r"\1", markdown)


def number(value: float | None, sign: str = "") -> str:
    """With four decimals."""
    return ABSENT if value is None else f"{value:{sign}.4f}"


def between(interval: Sequence[float] | None) -> str:
    """An interval's two ends."""
    return ABSENT if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> str:
    """A Markdown table that is aligned in its source, too; columns not named in `left` are flush right."""
    cells = [[_cell(text) for text in row] for row in (heads, *rows)]
    # Two: a rule of a colon alone is none, and the whole would be no table.
    widths = [max(2, *map(len, column)) for column in zip(*cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = [
            text.ljust(width) if head in left else text.rjust(width)
            for text, width, head in zip(row, widths, heads, strict=True)
        ]
        return f"| {' | '.join(padded)} |"

    rule = [
        f":{'-' * (width - 1)}" if head in left else f"{'-' * (width - 1)}:"
        for head, width in zip(heads, widths, strict=True)
    ]
    return "\n".join([line(cells[0]), f"| {' | '.join(rule)} |", *map(line, cells[1:])])


def _cell(given: str) -> str:
    return _inline(one_line(given)[:_WIDEST]).replace("|", "\\|")


def _inline(line: str) -> str:
    return _ACTS.sub(r"\\\g<0>", line)
