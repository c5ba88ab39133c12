"""The rules that may stop a trial early, as a spec declares them, and the steps of their rungs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sweeper.spec.errors import ConfigError, refusal
from sweeper.spec.hints import nearest

# Until the warm-up ends, all configurations behave alike; half as long again lets them diverge.
GRACE = 1.5


class _Rule(BaseModel):
    """first: the first step at which a trial may be stopped; null means the earliest legal one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    name: ClassVar[str]

    first: Annotated[int, Field(gt=0)] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As a spec writes it."""
        return {self.name: self.model_dump(mode="json")}

    def __str__(self) -> str:
        return f"{self.name} ({', '.join(f'{key} {value}' for key, value in self.model_dump().items())})"


class Halving(_Rule):
    """Asynchronous successive halving (Li et al., 2020), ASHA: of the trials that reached a rung, one in `reduction`
    goes on. Each rung is at `reduction` times the step of the one before."""

    name: ClassVar[str] = "halving"

    reduction: Annotated[int, Field(ge=2)] = 3


class Median(_Rule):
    """The median rule (Golovin et al., 2017): a trial stops when its best value is above the median of the
    others' running means, once `trials` others have reached that step."""

    name: ClassVar[str] = "median"

    trials: Annotated[int, Field(ge=1)] = 5


Rule = Literal["none"] | Halving | Median
RULES: dict[str, type[Halving | Median]] = {"halving": Halving, "median": Median}


def parse(node: Any) -> Rule:
    """A rule as a spec writes it: none, halving, median, or {halving: {reduction: 3, first: null}}.

    Raises ConfigError.
    """
    if isinstance(node, Halving | Median) or node == "none":
        return node
    if isinstance(node, str):
        node = {node: {}}
    if not isinstance(node, Mapping) or len(node) != 1:
        raise ConfigError((), f"{node!r} is not a scheduler: write none, halving, median or {{median: {{trials: 5}}}}")
    name, body = next(iter(node.items()))
    if name not in RULES:
        raise ConfigError((), f"unknown scheduler {name!r}: {nearest(str(name), ['none', *RULES])}")
    try:
        return RULES[name].model_validate(body, strict=True)
    except ValidationError as error:
        found = refusal(error, RULES[name])
        raise ConfigError((name, *found.location), found.reason) from None


def to_dict(rule: Rule) -> Any:
    """As a spec writes it."""
    return rule if rule == "none" else rule.to_dict()


def placed(rule: Rule, lengths: Iterable[int], warmup: int) -> Rule:
    """The rule with its first step filled in. Raises ConfigError if it would compare trials that are not comparable.

    lengths: steps of the trials that the spec can ask for. warmup: the longest warm-up of these, in steps.
    """
    if isinstance(rule, str):
        return rule
    shortest, longest = min(lengths), max(lengths)
    if shortest != longest:
        raise ConfigError((), f"{rule.name} needs trials of one length; these have {shortest} to {longest} steps")
    earliest = max(1, math.ceil(GRACE * warmup))
    if earliest >= longest:
        reason = f"a warm-up of {warmup} of {longest} steps leaves no room for a rung, allowed from step"
        raise ConfigError((), f"{reason} {earliest} on; shorten the warm-up, or write scheduler: none")
    first = earliest if rule.first is None else rule.first
    if first < earliest:
        reason = f"{first} is too early after a warm-up of {warmup} steps; use {earliest} or more"
        raise ConfigError((rule.name, "first"), reason)
    if first >= longest:
        raise ConfigError((rule.name, "first"), f"{first} is not below the full length of {longest} steps")
    return rule.model_copy(update={"first": first})


def rungs(rule: Rule, steps: int) -> list[int]:
    """Steps below the full length at which halving judges: a trial is judged at its first report from there on."""
    if not isinstance(rule, Halving) or rule.first is None:
        return []
    found, rung = [], rule.first
    while rung < steps:
        found.append(rung)
        rung *= rule.reduction
    return found
