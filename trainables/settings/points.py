"""Values that hold from a share of the run on: [[0, 0.30], [0.7, 0.15]], in the settings and at a step."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator

from trainables.settings.frozen import Fraction


def _tuples(value: Any) -> Any:
    """Lists as tuples, as YAML has none."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


Number = TypeVar("Number")
Points = Annotated[tuple[tuple[Fraction, Number], ...], BeforeValidator(_tuples)]


def index_at(points: tuple[tuple[float, Any], ...], step: int, steps: int) -> int:
    """Which of the points [share of the run, what holds from there on] holds at a step, counted from 0."""
    return max(n for n, (begin, _) in enumerate(points) if round(begin * steps) <= step)


def refuse_begins(points: tuple[tuple[float, Any], ...], name: str, example: str) -> None:
    """Raises ValueError if the points do not begin at 0 and rise."""
    begins = [begin for begin, _ in points]
    if begins[:1] != [0] or begins != sorted({*begins}):
        raise ValueError(f"{name} must begin at 0 and rise, such as {example}")


def refuse_parts(points: tuple[tuple[float, Any], ...], steps: int, name: str, gradual: bool = False) -> None:
    """Raises ValueError if one of the points never holds. gradual: what is between two of them counts, too."""
    begins = [round(begin * steps) for begin, _ in points]
    late = not gradual and begins[-1:] >= [steps]
    pairs = zip(begins, points, strict=True)
    if late or any(one == other and (not gradual or a[1] != b[1]) for (one, a), (other, b) in pairwise(pairs)):
        raise ValueError(f"{name} has a part without a step: the run has {steps}")
