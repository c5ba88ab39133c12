"""What changes in the course of a run under one masking rule: shares of the budget, and constants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from trainables.settings.frozen import Above0, AtLeast0, Floor, Fraction, Frozen, absent
from trainables.settings.points import Number, Points, index_at, refuse_begins, refuse_parts
from trainables.settings.shares import Moments, Shares


class Constants(Frozen):
    """Constants of a rule that change in the course of a run: [share of the run, value] from which on it holds.

    They enter when scores are renewed, so a refresh takes the values of its step. The names are those of the settings
    whose place they take; `floor` and `pseudo_count` are AMLM's, `ema_decay` is both rules', the others the mixture's.
    """

    ema_decay: Points[Fraction] | None = Field(default=None, exclude_if=absent)
    smoothing: Points[Above0] | None = Field(default=None, exclude_if=absent)
    min_seen: Points[AtLeast0] | None = Field(default=None, exclude_if=absent)
    cap: Points[Above0] | None = Field(default=None, exclude_if=absent)
    band_low: Points[AtLeast0] | None = Field(default=None, exclude_if=absent)
    band_high: Points[Above0] | None = Field(default=None, exclude_if=absent)
    rarity_power: Points[Above0] | None = Field(default=None, exclude_if=absent)
    pseudo_count: Points[AtLeast0] | None = Field(default=None, exclude_if=absent)
    floor: Points[Floor] | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and (other := next((name for name in given if name not in cls.model_fields), "")):
            raise ValueError(
                f"{other!r:.60} stays the same in a run; those that may change: {', '.join(cls.model_fields)}"
            )
        return given

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for name, points in self.points.items():
            refuse_begins(points, f"schedule.constants.{name}", "[[0, 0.0], [1, 0.5]]")
        return self

    @property
    def points(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """Those that change, by name."""
        return {name: points for name, points in self if points is not None}


class Schedule(Frozen):
    """What changes in the course of a run: shares, such as whole words for seven epochs of ten, and constants.

    Args:
        shares: mixture: [share of the run, shares] from which on these hold, from 0 on and rising. They take the place
            of `masking.shares`; random takes what others leave. None: `masking.shares` holds throughout.
        interpolate: `step` from one to the next, or `linear` between them.
        constants: those of the rule that change.
        switch: SOURCE to SOURCE, the whole budget by one, then by the other, as a search can name it. It is read and
            replaced by the `shares` that it stands for.
        at: the share of the run at which it switches. With `interpolate: linear` it is the middle of the way from one
            to the other, which is as long to each side as the nearer end of the run allows: both have the same part of
            the run as with `step`.
    """

    sources: ClassVar[tuple[str, ...]] = tuple(Shares.model_fields)  # that a switch may name

    shares: Annotated[tuple[tuple[Fraction, Shares], ...] | None, Moments] = None
    interpolate: Literal["step", "linear"] = "step"
    constants: Constants | None = Field(default=None, exclude_if=absent)
    switch: str | None = Field(default=None, exclude_if=absent)
    at: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude_if=absent)

    @model_validator(mode="before")
    @classmethod
    def _without_switch(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or (given.get("switch") is None and given.get("at") is None):
            return given
        switch, at = given.get("switch"), given.get("at")
        if switch is None:
            raise ValueError("schedule.at needs schedule.switch beside it, such as whole_word to random")
        first, _, then = switch.partition(" to ") if isinstance(switch, str) else ("", "", "")
        if first == then or not {first, then} <= {*cls.sources}:
            two = ", ".join(cls.sources)
            raise ValueError(f"schedule.switch names two sources, such as whole_word to random: two of {two}")
        if given.get("shares") is not None:
            raise ValueError("schedule.switch stands for shares: give one of the two")
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise ValueError("schedule.switch needs schedule.at, the share of the run at which it switches, in (0, 1)")
        if not 0 < at < 1:
            raise ValueError(f"schedule.at is {at:g}; the share of the run at which it switches lies in (0, 1)")
        rest = {key: value for key, value in given.items() if key not in ("switch", "at")}
        points = [(0, first), (at, then)]
        if given.get("interpolate") == "linear":
            begin, end = round(max(0.0, 2 * at - 1), 9), round(min(1.0, 2 * at), 9)
            points = [*([(0, first)] if begin else []), (begin, first), (end, then)]
        return {**rest, "shares": tuple((begin, {"random": 0, source: 1}) for begin, source in points)}

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if self.shares is not None:
            refuse_begins(self.shares, "schedule.shares", "[[0, {whole_word: 1}], [0.7, {random: 1}]]")
        elif not (self.constants and self.constants.points):
            raise ValueError("schedule has nothing that changes: give shares, switch or constants, or null")
        return self

    def refuse_parts_without_step(self, steps: int) -> None:
        """Raises ValueError if shares or constants of a run of so many steps never hold."""
        every = {"shares": self.shares or (), **{f"constants.{name}": points for name, points in self._constants}}
        for name, points in every.items():
            refuse_parts(points, steps, f"masking.schedule.{name}", self.interpolate == "linear")

    @property
    def _constants(self) -> Iterable[tuple[str, tuple[tuple[float, float], ...]]]:
        return self.constants.points.items() if self.constants else ()

    def refuse_before(self, warmup: float) -> None:
        """Raises ValueError if shares other than random are asked for in the mask warm-up, which draws at random."""
        points = (self.shares or ()) if warmup else ()
        within = sum(begin < warmup for begin, _ in points) + (self.interpolate == "linear")  # where a way there begins
        if any(shares.random < 1 for _, shares in points[:within]):
            raise ValueError(
                f"schedule.shares change too early: until mask_warmup, {warmup:g} of the run, everything is drawn at "
                "random: set masking.mask_warmup to 0"
            )

    def shares_at(self, step: int, steps: int) -> dict[str, float] | None:
        """The shares of a step, counted from 0, of a run of so many; None if they do not change."""
        if self.shares is None:
            return None
        now, then, part = self._between(self.shares, step, steps)
        after = then.model_dump()
        return {name: share + part * (after.get(name, 0.0) - share) for name, share in now} if part else dict(now)

    def constants_at(self, step: int, steps: int) -> dict[str, float]:
        """The constants that change, as they are before a step."""
        found = {}
        for name, points in self._constants:
            now, then, part = self._between(points, step, steps)
            found[name] = now + part * (then - now)
        return found

    def begins(self, steps: int) -> list[int]:
        """The steps from which on a constant is another one, or moves on to another one."""
        return sorted({round(begin * steps) for _, points in self._constants for begin, _ in points})

    def _between(self, points: tuple[tuple[float, Number], ...], step: int, steps: int) -> tuple[Number, Number, float]:
        """The last point before a step, the next, and how much of the way there is behind it."""
        now = index_at(points, step, steps)
        if self.interpolate == "step" or now == len(points) - 1:
            return points[now][1], points[now][1], 0.0
        begin, end = (round(points[n][0] * steps) for n in (now, now + 1))
        part = (step - begin) / (end - begin)
        return points[now][1], points[now + 1][1], part


def no_schedule(value: Any) -> Any:
    """None for a schedule whose parts are all null: what is left of a base's once something else ends it."""
    parts = [part for key, part in value.items() if key != "interpolate"] if isinstance(value, Mapping) else []
    return None if parts and all(part is None for part in parts) else value
