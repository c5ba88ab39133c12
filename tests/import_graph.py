"""What imports what, in figures: `python -m tests.import_graph [ROOT]`.

For each package: files, folders, arrows between files and between folders, floors (the longest way down), circles, and
arrows that go up, against the layers that pyproject.toml declares. Imports inside functions count, and so do those for
types alone.
"""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Graph = Mapping[str, set[str]]


@dataclass(frozen=True)
class Figures:
    """One package. circles and up: as `a -> b` or the circle's members."""

    files: int
    folders: int
    floors: int
    arrows: int
    folder_arrows: int
    circles: list[list[str]]
    folder_circles: list[list[str]]
    up: list[str]


def imports(root: Path, package: str) -> dict[str, set[str]]:
    """Module -> the modules of the same package that it imports."""
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in (root / package).rglob("*.py")}
    modules = {name.removesuffix(".__init__"): path for name, path in paths.items()}
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for name, path in modules.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            named: list[str] = []
            if isinstance(node, ast.Import):
                named = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                named = [one if one in modules else node.module for one in whole]
            graph[name] |= {one for one in named if one in modules and one != name}
    return graph


def folders(graph: Graph, package: str) -> dict[str, set[str]]:
    """The same between the rooms of a package; a file that lies in no folder is a room of its own."""
    rooms: dict[str, set[str]] = {}
    for name, below in graph.items():
        if name != package:
            own = name.split(".")[1]
            found = {one.split(".")[1] for one in below if one != package} - {own}
            rooms.setdefault(own, set()).update(found)
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """Groups of two and more that reach each other (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for below in graph[name]:
            if below not in index:
                visit(below)
            if below in stack:
                low[name] = min(low[name], low[below])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def floors(graph: Graph) -> int:
    """The longest way down, counted in nodes; circles count as they are met first."""
    height: dict[str, int] = {}

    def visit(name: str, above: tuple[str, ...]) -> int:
        if name not in height:
            below = [visit(one, (*above, name)) for one in graph[name] if one not in above and one != name]
            height[name] = 1 + max(below, default=0)
        return height[name]

    return max((visit(name, ()) for name in graph), default=0)


def layers(root: Path, package: str) -> dict[str, int]:
    """Room -> its floor by pyproject's layers contract, the top 0; empty where none is declared."""
    contracts = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    declared = (one for one in contracts if one["type"] == "layers" and one.get("containers") == [package])
    listed = next(declared, {"layers": []})["layers"]
    return {name.strip(): floor for floor, line in enumerate(listed) for name in line.split("|")}


def figures(root: Path, package: str) -> Figures:
    """All figures of one package of a checkout."""
    graph = imports(root, package)
    rooms, floor = folders(graph, package), layers(root, package)
    up = [f"{a} -> {b}" for a, below in rooms.items() for b in below if floor and floor.get(a, 0) >= floor.get(b, 0)]
    between = sum(map(len, rooms.values()))
    count = sum(path.is_dir() for path in (root / package).rglob("*") if path.name != "__pycache__")
    files, arrows = len(graph), sum(map(len, graph.values()))
    return Figures(files, count, floors(rooms), arrows, between, circles(graph), circles(rooms), up)


if __name__ == "__main__":
    where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for name in ("sweeper", "trainables"):
        one = figures(where, name)
        print(
            f"{name}: {one.files} files in {one.folders} folders, {one.arrows} arrows between files, "
            f"{one.folder_arrows} between rooms, on {one.floors} floors"
        )
        print(f"  circles of files: {one.circles or 'none'}; of rooms: {one.folder_circles or 'none'}")
        print(f"  arrows against the layers: {one.up or 'none'}")
