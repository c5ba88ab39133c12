"""Which paths of a space exist where: a path with a condition exists only where choices have the values that it names.

A point has no value for a path that does not exist there: its setting is that of `config`. So two points that differ
in nothing but such a path are one point, which a sampler, a grid and the search for repeats see once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.spec import space as space_of
from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest, shown
from sweeper.spec.space import Choice, Domain, Scalar

MOST_CELLS, MOST_CONDITIONS = 1_000, 100

Space = Mapping[str, Domain]
Condition = Mapping[str, tuple[Scalar, ...]]  # path of a choice -> the values that it must have one of
Conditions = Mapping[str, Condition]


@dataclass(frozen=True)
class Cell:
    """A part of the space whose points have the same paths. fixed: the choices on which paths depend, and their values.

    free: the other paths that exist here.
    """

    fixed: dict[str, Scalar]
    free: dict[str, Domain]


def parse(node: Any) -> dict[str, tuple[Scalar, ...]]:
    """The condition that a spec writes, such as {"masking.policy": "amlm"}. Raises ValueError in one line."""
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"{node!r} is not a condition: write {{PATH: VALUE}} or {{PATH: [VALUE, VALUE]}}")
    found: dict[str, tuple[Scalar, ...]] = {}
    for path, values in node.items():
        found[str(path)] = tuple(values) if isinstance(values, list | tuple) else (values,)
        if not found[str(path)] or not all(isinstance(one, Scalar) for one in found[str(path)]):
            raise ValueError(f"{values!r} is not a value that {path} may have, nor a list of them")
    return found


def to_plain(condition: Condition) -> dict[str, Any]:
    """As a spec writes it."""
    return {path: values[0] if len(values) == 1 else list(values) for path, values in condition.items()}


def words(condition: Condition) -> str:
    """For people: `only where masking.policy is amlm`."""
    parts = (f"{path} is {' or '.join(map(shown, values))}" for path, values in condition.items())
    return f"only where {' and '.join(parts)}"


def check(space: Space, conditions: Conditions) -> None:
    """Raises ConfigError for a condition that no point could meet, or that does not say what it means."""
    if len(conditions) > MOST_CONDITIONS:
        raise ConfigError(("conditions",), f"{len(conditions):,} are too many: use at most {MOST_CONDITIONS}")
    for path, condition in conditions.items():
        if path not in space:
            raise ConfigError(("conditions", path), f"is not in the space; {nearest(path, space)}")
        for parent, values in condition.items():
            where = ("conditions", path, parent)
            if parent not in space:
                raise ConfigError(where, f"is not in the space, so no point chooses it; {nearest(parent, space)}")
            domain = space[parent]
            if not isinstance(domain, Choice):
                raise ConfigError(where, f"is {domain.words()}: a condition names a choice and its values")
            for value in values:
                try:
                    domain.to_sampler(parent, value)
                except ValueError as error:
                    raise ConfigError(where, str(error)) from None
    there = {path for cell in cells(space, conditions) for path in (*cell.fixed, *cell.free)}
    for path, condition in conditions.items():
        if path not in there:
            raise ConfigError(
                ("conditions", path), f"{path} exists {words(condition)}, which no point of the space has"
            )


def active(space: Space, conditions: Conditions, value: Callable[[str], Any]) -> dict[str, Any]:
    """The paths that exist, in the order of the space, with their values; those that others depend on are asked first.

    value: the value of a path, asked only where the path exists.
    """
    if not conditions:
        return {path: value(path) for path in space}
    found: dict[str, Any] = {}
    for path in _order(space, conditions):
        if _exists(conditions.get(path, {}), found):
            found[path] = value(path)
    return {path: found[path] for path in space if path in found}


def cells(space: Space, conditions: Conditions) -> list[Cell]:
    """The parts of the space; the whole of it without conditions. Raises ConfigError if they are too many."""
    parents = {parent for condition in conditions.values() for parent in condition}
    found = [Cell({}, {} if conditions else dict(space))]
    for path in _order(space, conditions) if conditions else ():
        grown: list[Cell] = []
        for cell in found:
            domain = space[path]
            if not _exists(conditions.get(path, {}), cell.fixed):
                grown.append(cell)
            elif path in parents and isinstance(domain, Choice):
                grown += [Cell({**cell.fixed, path: value}, cell.free) for value in domain.choices]
            else:
                grown.append(Cell(cell.fixed, {**cell.free, path: domain}))
        if len(grown) > MOST_CELLS:
            reason = f"the choices that they name have {len(grown):,} combinations or more; {MOST_CELLS:,} at most"
            raise ConfigError(("conditions",), reason)
        found = grown
    return found


def points(space: Space, conditions: Conditions) -> int | None:
    """The number of points; None if one of the domains has real numbers."""
    sizes = [space_of.points(cell.free) for cell in cells(space, conditions)]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def point(space: Space, conditions: Conditions, index: int) -> dict[str, Any]:
    """The point at an index from 0, by path. Choices that others depend on vary slowest, else the last path fastest."""
    for cell in cells(space, conditions):
        size = space_of.points(cell.free)
        assert size is not None
        if index < size:
            found = {**cell.fixed, **space_of.point(cell.free, index)}
            return {path: found[path] for path in space if path in found}
        index -= size
    raise IndexError(index)


def every(space: Space, conditions: Conditions) -> Iterator[dict[str, Any]]:
    """All points, in the order of `point`."""
    for cell in cells(space, conditions):
        for index in range(space_of.points(cell.free) or 0):
            found = {**cell.fixed, **space_of.point(cell.free, index)}
            yield {path: found[path] for path in space if path in found}


def corners(space: Space, conditions: Conditions) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, settings) for each extreme value of each path: it alone, with the choices that it needs to exist."""
    parts = cells(space, conditions) if conditions else []
    for path, domain in space.items():
        needed: dict[str, Any] = {}
        if path in conditions:
            first = next(cell for cell in parts if path in cell.fixed or path in cell.free)
            needed = {parent: first.fixed[parent] for parent in _above(path, conditions)}
        yield from ((path, {**needed, path: corner}) for corner in domain.corners())


def ends(space: Space, conditions: Conditions) -> Iterator[dict[str, Any]]:
    """All low corners together and all high ones, in each part of the space."""
    for cell in cells(space, conditions):
        for end in (0, -1):
            yield {**cell.fixed, **{path: domain.corners()[end] for path, domain in cell.free.items()}}


def refuse_too_many(space: Space, conditions: Conditions) -> None:
    """Raises ConfigError for a grid with too many points, before it is expanded."""
    for path, domain in space.items():
        space_of.count_values(path, domain)
    found = points(space, conditions) or 0
    if found > space_of.MOST_POINTS:
        reason = f"the grid has {found} points, {space_of.MOST_POINTS} at most; narrow it, or use method random"
        raise ConfigError(("space",), reason)


def _exists(condition: Condition, params: Mapping[str, Any]) -> bool:
    """Whether a path with this condition exists at a point, of which the choices are known."""
    return all(
        parent in params and any(_same(params[parent], value) for value in values)
        for parent, values in condition.items()
    )


def _same(one: Any, other: Scalar) -> bool:
    """Whether two values of a choice are the same; true and 1 are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _above(path: str, conditions: Conditions) -> list[str]:
    """The paths that a path depends on, the nearest first, each once."""
    found, left = dict.fromkeys(()), [path]
    while left:
        new = [parent for parent in conditions.get(left.pop(0), {}) if parent not in found]
        found |= dict.fromkeys(new)
        left += new
    return list(found)


def _order(space: Space, conditions: Conditions) -> list[str]:
    """The paths of the space, those that others depend on before these. Raises ConfigError for a circle."""
    for path in conditions:
        if path in _above(path, conditions):
            raise ConfigError(("conditions", path), "depends on itself: take one of the conditions out")
    left, found = list(space), dict.fromkeys(())
    while left:
        ready = [path for path in left if all(parent in found for parent in conditions.get(path, {}))]
        found |= dict.fromkeys(ready)
        left = [path for path in left if path not in found]
    return list(found)
