"""What a journal's lines may say: one type for each event, whose values are checked when a line is read.

A record may come from a stranger, so a line is data. A line is refused for an unknown event or key, a value of another
type, a number that is not finite, and a trial id or a path in a form that we do not write.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

FORMAT = 3  # of the record; 2 knows no `Extend`, `WarmStart` or trials taken over, 1 had no chain and did not say so
DEEPEST = 100  # levels that a line may nest


def _below(path: str) -> str:
    if not (parts := PurePosixPath(path).parts) or path.startswith("/") or ".." in parts or not path.isprintable():
        raise ValueError("is not a path below the run's folder")
    return path


State = Literal["completed", "stopped", "failed", "interrupted"]
TrialId = Annotated[str, Field(pattern=r"^[a-z][0-9]{4,9}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{16,32}$")]
Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
# s since 1970, up to the year 9000
Time = Annotated[float, Field(ge=0, le=250_000_000_000, allow_inf_nan=False, strict=True)]
Number = Annotated[float, Field(gt=-1e300, lt=1e300, allow_inf_nan=False, strict=True)]  # sums of them are finite, too
Flag = Annotated[bool, Field(strict=True)]
StoredPath = Annotated[str, Field(max_length=200), AfterValidator(_below)]
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"')
_CONFIG = ConfigDict(extra="forbid")  # strict by field: a strict dataclass would refuse a tree

Interval = Annotated[list[Number], Field(min_length=2, max_length=2)]
Seeds = list[Annotated[int, Field(ge=0, lt=2**32, strict=True)]]
_OPEN = ConfigDict(extra="allow", strict=True)


class Machine(TypedDict, total=False):
    """Where a driver ran."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    concurrency: Count
    slots: Count
    threads: Count
    device: str
    platform: str
    python: str
    cpus: Count | None


class Facts(TypedDict, total=False):
    """What a trainable's `prepare` returned: other keys are its own, of any type."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    data_fingerprint: str | int | float | None
    code_fingerprint: str | int | float | None
    notes: list[str] | str | None
    warnings: list[str] | str | None
    judged: list[str] | str | None


class AskedBudget(TypedDict):
    """See `Ask`."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    predicted: NotRequired[Count]
    exact: NotRequired[bool]
    way: NotRequired[str]
    tokens_per_step: NotRequired[Count]


class SpreadSaid(TypedDict):
    """See `scatter.Spread`."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    sd: Number
    baseline: Number
    ratio: Number | None
    interval: Interval | None
    p: Number | None


class DocumentsSaid(TypedDict):
    """See `documents.Documents`."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    interval: Interval
    combined: NotRequired[Interval]


class PairedSaid(TypedDict):
    """An arm against the baseline over pairs of seeds, in losses or in scores of a task."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    arm: str
    verdict: str
    n: Count
    seeds: Seeds
    differences: list[Number]
    mean: Number | None
    interval: Interval | None
    sd: Number | None
    adjusted: Number
    flip: Number | None
    detectable: Number | None


class ComparisonSaid(PairedSaid):
    """See `verdicts.Comparison`; keys that earlier versions did not write may be absent."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    needed: Count | None
    needed_range: Annotated[list[Count], Field(min_length=2, max_length=2)] | None
    notes: list[str]
    stuck: NotRequired[Seeds | None]
    baseline_stuck: NotRequired[Seeds | None]
    stuck_p: NotRequired[Number | None]
    spread: NotRequired[SpreadSaid | None]
    documents: NotRequired[DocumentsSaid | None]


class LookSaid(TypedDict):
    """A look of the confirmation: pairs so far, its level, and whether it was declared before the first run."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    pairs: Count
    alpha: Number
    declared: bool


class ChallengeSaid(TypedDict):
    """The result of the challenge to the standing champion."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    champion: NotRequired[str]
    crowned: str | None
    said: str


class TaskComparisonSaid(PairedSaid):
    """See `task_verdicts.TaskComparison`."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    metric: str
    alpha: Annotated[float, Field(gt=0, lt=1)]
    why: str | None


class TasksSaid(TypedDict):
    """The verdicts on tasks, which are secondary: see `conclusion.VerdictData`."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    alpha: Annotated[float, Field(gt=0, lt=1)]
    rule: list[str]
    comparisons: list[TaskComparisonSaid]


class Said(TypedDict):
    """The verdict of a look: see `conclusion.VerdictData`; keys that earlier versions did not write may be absent."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    look: Count
    metric: str
    baseline: str
    alpha: Annotated[float, Field(gt=0, lt=1)]
    rule: list[str]
    worthwhile: Number
    seeds: Seeds
    fresh: bool
    comparisons: list[ComparisonSaid]
    told: dict[str, str]
    documents: dict[str, Interval]
    champion: str | None
    notes: list[str]
    challenge: NotRequired[ChallengeSaid | None]
    judged: NotRequired[list[str]]
    unlearned: NotRequired[str | None]
    looks: NotRequired[list[LookSaid]]
    settled: NotRequired[dict[str, Count]]
    tasks: NotRequired[TasksSaid]


class StartTree(TypedDict):
    """Where a trial's training began, if not at step 0: at a step of another trial with the same past."""

    __pydantic_config__ = _OPEN  # pyright: ignore[reportGeneralTypeIssues]
    trial: TrialId
    step: Count


class KnownTree(TypedDict):
    """See `WarmStart`."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # pyright: ignore[reportGeneralTypeIssues]
    trial: TrialId
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    params: dict[str, Any]
    values: Annotated[list[Number], Field(min_length=1)]
    baseline: list[Number] | None


if TYPE_CHECKING:  # checked by these types when a line is read, and plain trees to those who use them
    MachineTree = FactsTree = AskedBudgetTree = SaidTree = Start = Known = dict[str, Any]
else:
    MachineTree, FactsTree, AskedBudgetTree, SaidTree, Start, Known = (
        Machine,
        Facts,
        AskedBudget,
        Said,
        StartTree,
        KnownTree,
    )


@dataclass(frozen=True, kw_only=True)
class Begin:
    """A run began. run: its id, which does not depend on its folder's name. format: of the record."""

    __pydantic_config__ = _CONFIG
    run: RunId
    spec_hash: str
    format: Annotated[int, Field(ge=2, le=FORMAT, strict=True)] = FORMAT
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Fork:
    """A copy of a run became a run of its own. run: its id from here on. of: the id that it had, if any."""

    __pydantic_config__ = _CONFIG
    run: RunId
    of: RunId | None
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Someone knowingly went on with a record that is not what was written: all lines before are taken as they are.

    Args:
        line: the first bad one; 0 if only the spec is another.
        faults: how many.
        why: what was wrong with the first.
        spec_hash: of the spec that the run goes on with.
    """

    __pydantic_config__ = _CONFIG
    line: Count
    faults: Count
    why: str
    spec_hash: str
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Extend:
    """The run goes on with a spec that differs in settings which move no number of the trials so far.

    changed: dotted paths of these settings. spec_hash: of the new spec. spec: its text, which then is spec.yaml.
    """

    __pydantic_config__ = _CONFIG
    changed: list[str]
    spec_hash: str
    spec: str
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class WarmStart:
    """The sampler of the search knows trials of another run from its first point on; they are no trials of this run.

    Args:
        source: the name of the other run's folder.
        run: its id.
        trials: of its completed search trials, those that are points of this space: `trial`, `seed`, `params` by path,
            `values` of the objectives, and in `baseline` those of this run's baseline there on that seed, if trained.
        outside: how many more completed.
    """

    __pydantic_config__ = _CONFIG
    source: Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f/]+$")]
    run: RunId
    trials: Annotated[list[Known], Field(min_length=1)]
    outside: Count
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Session:
    """A driver began to work on the run.

    versions: package name to version. facts: what the trainable's `prepare` returned, such as `data_fingerprint`.
    """

    __pydantic_config__ = _CONFIG
    command: str
    versions: dict[str, str]
    git_commit: str | None
    machine: MachineTree
    facts: FactsTree = field(default_factory=dict)
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A trial was asked for.

    Args:
        params: what the space set, by path.
        raw: the sampler's own parameters.
        budget: what its settings will predict, `{"predicted": 184800, "exact": true}`, if they say, and
            `tokens_per_step`.
    """

    __pydantic_config__ = _CONFIG
    trial: TrialId
    number: Count
    stage: Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
    arm: str | None
    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    config: dict[str, Any]
    config_hash: str
    params: dict[str, Any]
    raw: dict[str, Any]
    budget: AskedBudgetTree | None = None
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """The sampler asked for a point that a trial has: it is not trained again, and the sampler gets that result.

    number: the next trial's number, which another point then got. of: the trial that has this point.
    """

    __pydantic_config__ = _CONFIG
    stage: str
    number: Count
    of: TrialId
    raw: dict[str, Any]
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Over:
    """A stage ended before all its trials were asked for. reason: why, in words."""

    __pydantic_config__ = _CONFIG
    stage: str
    reason: str
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Doubt:
    """Something that people must know of the run as a whole, in a sentence."""

    __pydantic_config__ = _CONFIG
    text: Annotated[str, Field(max_length=1000)]
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Report:
    """A trial reported metrics at a step.

    checkpoint: the `manifest_hash` of theirs. node: its address. start: with the first row, where training began if
    that was not step 0.
    """

    __pydantic_config__ = _CONFIG
    trial: TrialId
    step: Count
    metrics: dict[str, Number]
    checkpoint: str | None = None
    node: str | None = None
    start: Start | None = None
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class End:
    """A trial ended. An interrupted one is open: a resumed sweep continues it.

    The trainable's words (learned.py) are kept, so that reading a record need not ask it. stuck: on this run.
    unlearned: on the baseline's runs of the stage so far, if this is one. reused_from: the trial of an earlier run
    that this one was taken over from, as RUN/ID; None if it was trained. compared: the last step after which its state
    was found to be what another trial had left, to the last bit.
    """

    __pydantic_config__ = _CONFIG
    trial: TrialId
    state: State
    reason: str | None = None
    checkpoint: StoredPath | None = None
    stuck: str | None = None
    unlearned: str | None = None
    reused_from: Annotated[str, Field(max_length=300, pattern=r"^[^\x00-\x1f]+/[a-z][0-9]{4,9}$")] | None = None
    compared: Count | None = None
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a look of the confirmation compares, declared before its first run.

    Args:
        arms: label -> settings by path, the baseline among them.
        seeds: of this look, each for every arm.
        fresh: no run on this data in the tracking store had used them.
        earlier: confirmations in the store against the same baseline.
        champion: the label of the arm that has the standing champion's settings.
        baseline_first: the baseline runs on all seeds before any other arm, so that these start where it was; earlier
            versions ran seed by seed.
    """

    __pydantic_config__ = _CONFIG
    look: Count
    baseline: str
    arms: dict[str, dict[str, Any]]
    seeds: Seeds
    racing: Flag = False
    fresh: Flag = True
    earlier: Count = 0
    champion: str | None = None
    baseline_first: Flag = False
    time: Time = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict of a look of the confirmation."""

    __pydantic_config__ = _CONFIG
    data: SaidTree
    time: Time = field(default_factory=time.time)


Event = (
    Begin | Fork | Trust | Extend | WarmStart | Session | Ask | Repeat | Over | Doubt | Report | End | Family | Verdict
)

KINDS: dict[str, type[Any]] = {
    kind.__name__.lower(): kind
    for kind in (
        *(Begin, Fork, Trust, Extend, WarmStart, Session, Ask),
        *(Repeat, Over, Doubt, Report, End, Family, Verdict),
    )
}


def with_lines(facts: Mapping[str, Any]) -> dict[str, Any]:
    """A trainable's facts, with its lines for people as lists of texts, however it gave them."""
    given = {key: facts[key] for key in ("notes", "warnings", "judged") if key in facts}
    return {**facts, **{key: [text] if isinstance(text, str) else list(text or ()) for key, text in given.items()}}


def parse(line: bytes) -> Event:
    """The event of a line. Raises ValueError, in one line, if it holds none."""
    try:
        data = json.loads(_shallow(line), parse_float=_finite, parse_constant=_no_number)
        if b"\\ud" in line.lower():
            json.dumps(data, ensure_ascii=False).encode()  # half a character could not be written anywhere
        kind = data.pop("event")
        _reader(kind if kind in KINDS else "").validate_python(data)
        return KINDS[kind](**data)  # the data as read: a validated tree has its keys in another order
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"its {'.'.join(map(str, first['loc']))[:100]}: {first['msg']}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not an event: {' '.join(str(error).split())[:150]}") from None


@cache
def _reader(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])


def _shallow(line: bytes) -> bytes:
    """The line; ValueError if it nests deeper than anything that we write."""
    if line.count(b"{") + line.count(b"[") > DEEPEST:
        depth = deepest = 0
        for each in _STRING.sub(b"", line):
            depth += (each in b"{[") - (each in b"}]")
            deepest = max(deepest, depth)
        if deepest > DEEPEST:
            raise ValueError(f"it nests {deepest} levels deep")
    return line


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not a finite number")
    return value


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a finite number")
