"""Every line that people may read, in one file: `python -m tests.messages` writes tests/golden/messages.txt anew.

Found in the source: texts that are raised, said, printed or given as a reason, with {names} where values go. By file
and in the order of the source, so that a reviewer reads the file from top to bottom; nothing about where in a file, so
that it changes with the words alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden" / "messages.txt"
# Calls whose texts people read, by the last word of what is called; whatever ends in Error besides.
SAYS = {"say", "_say", "emit", "print", "warn", "append", "add_argument", "Parser", "plain"}
NAMES = {"reason", "message", "line", "caution", "why", "text", "first", "said", "told", "note", "advice", "shown"}
SHORTEST = 3  # words: what is shorter is a name, a key or a part of a longer line


def messages(source: str) -> Iterator[str]:
    """The texts of one file, each once, in the order of the source."""
    seen: dict[str, None] = {}
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt | ast.expr)]
    for node in sorted(nodes, key=lambda node: (node.lineno, node.col_offset)):
        call = node.exc if isinstance(node, ast.Raise) else node
        if isinstance(call, ast.Call) and (call is not node or _speaks(call.func)):
            values: list[ast.expr] = [*call.args, *(one.value for one in call.keywords)]
        elif _named(node) or isinstance(node, ast.Return | ast.Yield):
            value = node.value
            values = [] if value is None else [value]
        else:
            continue
        for value in values:
            seen.update(dict.fromkeys(_texts(value)))
    return iter(seen)


def _named(node: ast.AST) -> TypeGuard[ast.Assign]:
    return isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id in NAMES for one in node.targets)


def _speaks(called: ast.expr) -> bool:
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    return name in SAYS or name.endswith(("Error", "Unsafe"))


def _texts(value: ast.expr) -> Iterator[str]:
    """The texts in an expression, inner ones of f-strings as {…}."""
    if isinstance(value, ast.Constant | ast.JoinedStr):
        text = _shown(value)
        if len(text.split()) >= SHORTEST and any(letter.isalpha() for letter in text):
            yield " ".join(text.split())
    elif not isinstance(value, ast.Lambda):
        for below in ast.iter_child_nodes(value):
            if isinstance(below, ast.expr):
                yield from _texts(below)


def _shown(value: ast.expr) -> str:
    if isinstance(value, ast.Constant):
        return value.value if isinstance(value.value, str) else ""
    if isinstance(value, ast.JoinedStr):
        return "".join(_shown(part) for part in value.values)
    return f"{{{ast.unparse(value.value)}}}" if isinstance(value, ast.FormattedValue) else ""


def collected() -> str:
    """The whole file."""
    paths = (path for package in ("sweeper", "trainables") for path in sorted((ROOT / package).rglob("*.py")))
    found = {path.relative_to(ROOT).as_posix(): [*messages(path.read_text("utf-8"))] for path in paths}
    return "\n\n".join("\n".join([f"## {name}", *lines]) for name, lines in found.items() if lines) + "\n"


if __name__ == "__main__":
    GOLDEN.write_text(collected(), "utf-8")
