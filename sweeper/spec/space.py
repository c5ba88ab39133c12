"""What a sweep may vary: domains, and the flat parameters through which a sampler sees them.

A sampler knows only numbers between two bounds and lists of choices. A domain says which of those it needs
(`sampler_params`), turns them into a value of the trainable's settings (`value`), and back (`to_sampler`), so that a
hand-written configuration is a point of the same search.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest, shown

Scalar = bool | int | float | str | None

MOST_CHOICES, MOST_PARTS = 1000, 100

# Shares are rounded to nine decimals: finer than any batch can resolve, and coarse enough that a hand-written share
# survives the way to its raw parameters and back.
SHARE_DECIMALS = 9
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class Dimension:
    """One parameter of a sampler: a number in [low, high], both included, or one of `choices`."""

    low: float
    high: float
    log: bool = False
    integer: bool = False
    choices: tuple[Scalar, ...] | None = None


@dataclass(frozen=True)
class Uniform:
    """A real number, each as likely as any other."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    @property
    def size(self) -> None:
        """The number of values; None, as real numbers are not counted."""
        return None

    def sampler_params(self, name: str) -> dict[str, Dimension]:
        """The sampler's parameters for the setting `name`: one number."""
        return {name: Dimension(self.low, self.high)}

    def value(self, name: str, raw: Mapping[str, Any]) -> float:
        """The setting's value for the sampler's parameters."""
        return float(raw[name])

    def to_sampler(self, name: str, value: Any) -> dict[str, Any]:
        """The sampler's parameters for a value of the setting. Raises ValueError if it is not in the domain."""
        return {name: float(_within(value, self.low, self.high))}

    def corners(self) -> list[Any]:
        """The extreme values, which are tried when a spec is loaded: both bounds."""
        return [self.low, self.high]

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {"uniform": [self.low, self.high]}

    def words(self) -> str:
        """For people."""
        return f"{self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class LogUniform:
    """A positive number, or with `integer` a positive integer, whose logarithm is uniform."""

    low: float
    high: float
    integer: bool = False

    def __post_init__(self) -> None:
        if self.low <= 0:
            raise ValueError(f"loguniform needs a low bound above 0, not {self.low:g}")
        _ordered(self.low, self.high)

    @property
    def size(self) -> int | None:
        """The number of values; None for real numbers."""
        return int(self.high) - int(self.low) + 1 if self.integer else None

    def at(self, index: int) -> int:
        """The integer at an index from 0, in ascending order."""
        return int(self.low) + index

    def sampler_params(self, name: str) -> dict[str, Dimension]:
        """The sampler's parameters for the setting `name`: one number on a log scale."""
        return {name: Dimension(self.low, self.high, log=True, integer=self.integer)}

    def value(self, name: str, raw: Mapping[str, Any]) -> float:
        """As `Uniform.value`; an int if `integer`."""
        return int(raw[name]) if self.integer else float(raw[name])

    def to_sampler(self, name: str, value: Any) -> dict[str, Any]:
        """As `Uniform.to_sampler`."""
        inside = _within(value, self.low, self.high, self.integer)
        return {name: inside if self.integer else float(inside)}

    def corners(self) -> list[Any]:
        """Both bounds."""
        return [self.low, self.high]

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {"loguniform": [self.low, self.high], **({"integer": True} if self.integer else {})}

    def words(self) -> str:
        """For people."""
        return f"{self.low:g} to {self.high:g}, log scale"


@dataclass(frozen=True)
class RandInt:
    """An integer from low to high, both included."""

    low: int
    high: int

    def __post_init__(self) -> None:
        _ordered(self.low, self.high)

    @property
    def size(self) -> int:
        """The number of values."""
        return self.high - self.low + 1

    def at(self, index: int) -> int:
        """The value at an index from 0, in ascending order."""
        return self.low + index

    def sampler_params(self, name: str) -> dict[str, Dimension]:
        """The sampler's parameters for the setting `name`: one integer."""
        return {name: Dimension(self.low, self.high, integer=True)}

    def value(self, name: str, raw: Mapping[str, Any]) -> int:
        """As `Uniform.value`."""
        return int(raw[name])

    def to_sampler(self, name: str, value: Any) -> dict[str, Any]:
        """As `Uniform.to_sampler`."""
        return {name: _within(value, self.low, self.high, integer=True)}

    def corners(self) -> list[Any]:
        """Both bounds."""
        return [self.low, self.high]

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {"randint": [self.low, self.high]}

    def words(self) -> str:
        """For people."""
        return f"{self.low} to {self.high}, integer"


@dataclass(frozen=True)
class Choice:
    """One of a few texts, numbers, booleans or null, without order."""

    choices: tuple[Scalar, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.choices) <= MOST_CHOICES:
            problem = f"names {len(self.choices):,} values, {MOST_CHOICES:,} at most"
            raise ValueError(f"choice {problem if self.choices else 'is empty: name at least one value'}")
        for index, one in enumerate(self.choices):
            if not isinstance(one, Scalar) or (isinstance(one, float) and not math.isfinite(one)):
                raise ValueError(f"choice takes texts, numbers, true, false and null, not {one!r}")
            if any(one == other for other in self.choices[:index]):
                raise ValueError(f"choice names {one!r} twice")

    @property
    def size(self) -> int:
        """The number of values."""
        return len(self.choices)

    def at(self, index: int) -> Scalar:
        """The value at an index from 0, in the order of the spec."""
        return self.choices[index]

    def sampler_params(self, name: str) -> dict[str, Dimension]:
        """The sampler's parameters for the setting `name`: one choice."""
        return {name: Dimension(0, len(self.choices) - 1, choices=self.choices)}

    def value(self, name: str, raw: Mapping[str, Any]) -> Scalar:
        """As `Uniform.value`."""
        return raw[name]

    def to_sampler(self, name: str, value: Any) -> dict[str, Any]:
        """As `Uniform.to_sampler`; true and 1 are two values."""
        for one in self.choices:
            if one == value and isinstance(one, bool) == isinstance(value, bool):
                return {name: one}
        raise ValueError(f"{value!r} is not one of {', '.join(map(repr, self.choices))}")

    def corners(self) -> list[Any]:
        """All choices."""
        return list(self.choices)

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {"choice": list(self.choices)}

    def words(self) -> str:
        """For people."""
        return f"one of {', '.join(map(shown, self.choices))}"


@dataclass(frozen=True)
class Simplex:
    """Shares of named parts that sum to 1, each at least its minimum; uniform over what the minima leave.

    Raw parameters are `name/0` to `name/(k-2)` for k parts, each in [0, 1]: a part with m parts after it takes
    `1 - (1 - u)^(1/m)` of the rest, and the last part takes what remains. Uniform u give a uniform point. At a vertex,
    u is 1 for its part and 0 for the others.
    """

    parts: tuple[str, ...]
    minima: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.parts) > MOST_PARTS:
            raise ValueError(f"simplex names {len(self.parts):,} parts, {MOST_PARTS} at most")
        if len(self.parts) < 2:
            raise ValueError(f"simplex needs at least two parts, not {len(self.parts)}")
        for part, minimum in zip(self.parts, self.minima, strict=True):
            if not 0 <= minimum <= 1:
                raise ValueError(f"simplex part {part!r} has the minimum {minimum:g}: it must lie in [0, 1)")
        if self.free <= 10**-SHARE_DECIMALS:
            raise ValueError(f"simplex minima sum to {sum(self.minima):g}: they must sum to less than 1")

    @property
    def size(self) -> None:
        """The number of points; None, as they are not counted."""
        return None

    @property
    def free(self) -> float:
        """What the minima leave to distribute."""
        return 1 - math.fsum(self.minima)

    def sampler_params(self, name: str) -> dict[str, Dimension]:
        """The sampler's parameters for the setting `name`: one less than there are parts."""
        return {f"{name}/{index}": Dimension(0.0, 1.0) for index in range(len(self.parts) - 1)}

    def value(self, name: str, raw: Mapping[str, Any]) -> dict[str, float]:
        """The share of each part for the sampler's parameters."""
        left, shares = self.free, []
        for index, minimum in enumerate(self.minima[:-1]):
            taken = left * (1 - (1 - raw[f"{name}/{index}"]) ** (1 / (len(self.minima) - 1 - index)))
            left -= taken
            shares.append(max(minimum, round(minimum + taken, SHARE_DECIMALS)))
        shares.append(max(self.minima[-1], round(1 - math.fsum(shares), SHARE_DECIMALS)))
        return dict(zip(self.parts, shares, strict=True))

    def to_sampler(self, name: str, value: Any) -> dict[str, Any]:
        """As `Uniform.to_sampler`, for a mapping of parts to shares."""
        free = self._free_shares(value)
        raw: dict[str, float] = {}
        for index, taken in enumerate(free[:-1]):
            left = math.fsum(free[index:])
            part = min(1.0, taken / left) if left > 10**-SHARE_DECIMALS else 0.0
            raw[f"{name}/{index}"] = 1 - (1 - part) ** (len(free) - 1 - index)
        return raw

    def corners(self) -> list[Any]:
        """The vertices: one part takes all that is free."""
        return [self._vertex(index) for index in range(len(self.parts))]

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {"simplex": dict(zip(self.parts, self.minima, strict=True))}

    def words(self) -> str:
        """For people."""
        parts = zip(self.parts, self.minima, strict=True)
        return f"shares of {', '.join(f'{part} (at least {low:g})' if low else part for part, low in parts)}"

    def _vertex(self, index: int) -> dict[str, float]:
        raw = {f"/{i}": float(i == index) for i in range(len(self.parts) - 1)}
        return self.value("", raw)

    def _free_shares(self, value: Any) -> list[float]:
        """What each share is above its minimum, in order. Missing parts count as 0, and so may unknown ones."""
        if not isinstance(value, Mapping) or not value:
            raise ValueError(f"{value!r} is not a mapping of {', '.join(self.parts)} to their shares")
        for part, share in value.items():
            if part not in self.parts and share != 0:
                raise ValueError(f"unknown part {part!r}: {nearest(str(part), self.parts)}")
        shares = [_number(value.get(part, 0.0), f"the share of {part}") for part in self.parts]
        for part, share, minimum in zip(self.parts, shares, self.minima, strict=True):
            if share < minimum - SUM_TOLERANCE:
                raise ValueError(f"{part} {share:g} lies below its minimum {minimum:g}")
        if abs(math.fsum(shares) - 1) > SUM_TOLERANCE:
            raise ValueError(f"shares must sum to 1, these sum to {math.fsum(shares):.10g}")
        return [max(0.0, share - minimum) for share, minimum in zip(shares, self.minima, strict=True)]


Domain = Uniform | LogUniform | RandInt | Choice | Simplex
KINDS = ("uniform", "loguniform", "randint", "choice", "simplex")


def points(space: Mapping[str, Domain]) -> int | None:
    """The number of points in a space; None if one of its domains has real numbers."""
    sizes = [domain.size for domain in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def point(space: Mapping[str, Domain], index: int) -> dict[str, Any]:
    """The point at an index from 0, by path, in a space with counted points; the last path varies fastest."""
    found: dict[str, Any] = {}
    for path, domain in reversed(list(space.items())):
        assert not isinstance(domain, Uniform | Simplex), path
        assert domain.size, path
        index, place = divmod(index, domain.size)
        found[path] = domain.at(place)
    return {path: found[path] for path in space}


def parse(node: Any) -> Domain:
    """The domain that a spec writes, such as {"uniform": [0, 1]}. Raises ValueError in one line."""
    if isinstance(node, Domain):
        return node
    if not isinstance(node, Mapping) or not node:
        raise ValueError(f"{node!r} is not a domain: write {{uniform: [low, high]}} or another of {', '.join(KINDS)}")
    kind, *others = sorted(map(str, node), key=lambda key: key == "integer")
    if kind not in KINDS:
        raise ValueError(f"unknown domain {kind!r}: {nearest(kind, KINDS)}")
    body = node[kind]
    if others not in ([], ["integer"]) or (others and kind != "loguniform"):
        hint = "use randint for integers" if others == ["integer"] else "keep one of them"
        raise ValueError(f"{kind} cannot be combined with {', '.join(others)}: {hint}")
    match kind:
        case "choice":
            return Choice(tuple(_list(body, "choice: [a, b]")))
        case "simplex":
            return _simplex(body)
        case "uniform":
            low, high = _bounds(body, kind, integer=False)
            return Uniform(float(low), float(high))
        case "randint":
            low, high = _bounds(body, kind, integer=True)
            return RandInt(int(low), int(high))
    integer = node.get("integer", False)
    if not isinstance(integer, bool):
        raise ValueError(f"integer must be true or false, not {integer!r}")
    low, high = _bounds(body, kind, integer)
    return LogUniform(low, high, True) if integer else LogUniform(float(low), float(high))


def _simplex(body: Any) -> Simplex:
    if not isinstance(body, Mapping):
        raise ValueError(f"simplex takes a mapping of parts to their minima, not {body!r}")
    parts = tuple(body)
    if not all(isinstance(part, str) and part for part in parts):
        raise ValueError("the parts of a simplex must be text")
    return Simplex(parts, tuple(float(_number(body[part], f"the minimum of {part}")) for part in parts))


def _bounds(body: Any, kind: str, integer: bool) -> tuple[float, float]:
    pair = _list(body, f"{kind}: [low, high]")
    if len(pair) != 2:
        raise ValueError(f"{kind} takes two bounds, [low, high], not {len(pair)}")
    low, high = (_number(bound, "a bound") for bound in pair)
    if integer and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError(f"{kind} of integers takes whole bounds, not [{low}, {high}]")
    return low, high


def _list(body: Any, form: str) -> list[Any]:
    if not isinstance(body, list | tuple):
        raise ValueError(f"{body!r} is not a list: write {form}")
    return list(body)


def _number(value: Any, what: str) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        text = f"the text {value!r}" if isinstance(value, str) else repr(value)
        raise ValueError(f"{what} must be a number such as 90, 0.5 or 5e-4, not {text}")
    return value


def _ordered(low: float, high: float) -> None:
    if low > high:
        raise ValueError(f"the bounds [{low:g}, {high:g}] are the wrong way round: write [{high:g}, {low:g}]")
    if low == high:
        raise ValueError(f"the bounds [{low:g}, {high:g}] leave one value: set it in config instead")


def _within(value: Any, low: float, high: float, integer: bool = False) -> int | float:
    number = _number(value, "the value")
    if integer and not isinstance(number, int):
        raise ValueError(f"{value!r} is not an integer")
    if not low <= number <= high:
        raise ValueError(f"{value!r} lies outside [{low:g}, {high:g}]")
    return number


MOST_POINTS = 2_000


def count_values(path: str, domain: Domain) -> int:
    """The number of values in a domain of a grid. Raises ConfigError for a domain that a grid cannot enumerate."""
    if isinstance(domain, RandInt):
        return domain.high - domain.low + 1
    if isinstance(domain, Choice):
        return len(domain.choices)
    kind = next(iter(domain.to_dict()))
    raise ConfigError(
        ("space", path), f"method grid needs choice or randint, not {kind}: name the values, {{choice: [...]}}"
    )
