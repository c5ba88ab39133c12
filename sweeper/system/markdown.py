"""Text, tables and numbers of reports in Markdown.

Whatever a spec, a record or a trainable says is plain text and must go through `text`, `code` or `table`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from sweeper.system.files import one_line

ABSENT = "-"
_WIDEST = 200  # characters of a cell

# What has a meaning in Markdown inside a line. Not an underscore inside a word, of which names are full.
_ACTS = re.compile(r"[`*\[<$~]|\\(?=[!-/:-@\[-`{-~]|$)|&(?=[#\w])|(?<![^\W_])_|_(?![^\W_])")
_BEGINS = re.compile(r"(?:#{1,6}|[-+])(?=\s|$)|>|(?:-+|=+)$")  # and at the start of a line
_CODE = re.compile(r"((?<!`)`[^`]+`(?!`))")
_NUMBERED = re.compile(r"(\d{1,9})[.)](?=\s|$)")


def text(given: str) -> str:
    """Text that Markdown shows unchanged, in one line: never as a heading, list, link, picture or HTML.

    Text between two backticks is code, as in messages, and is equally harmless.
    """
    parts = _CODE.split(one_line(given))
    line = "".join(part if place % 2 else _inline(part) for place, part in enumerate(parts))
    if number := _NUMBERED.match(line):
        return f"{number[1]}\\{line[number.end(1) :]}"
    return f"\\{line}" if _BEGINS.match(line) else line


def code(given: str) -> str:
    """Text as code, in one line, fenced by more backticks than the text has in a row."""
    line = one_line(given) or " "
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}"


def plain(markdown: str) -> str:
    """The result of `text` or `code` without Markdown's marks, for a terminal."""
    return re.sub(r"\\([!-/:-@\[-`{-~])|[*`]", r"\1", markdown)


def number(value: float | None, sign: str = "") -> str:
    """A number with four decimals; `-` for None."""
    return ABSENT if value is None else f"{value:{sign}.4f}"


def between(interval: Sequence[float] | None) -> str:
    """The two ends of an interval; `-` for None."""
    return ABSENT if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]) -> str:
    """A Markdown table, aligned in its source too; columns not named in `left` are aligned right."""
    cells = [[_cell(text) for text in row] for row in (heads, *rows)]
    # At least two: a rule of only a colon is invalid, and there would be no table.
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
