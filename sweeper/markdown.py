"""How reports set tables and numbers in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

ABSENT = "-"


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


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")[:200]
