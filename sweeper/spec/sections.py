"""The sections of a spec, each checked by itself; what they must agree on is checked by the whole (spec.py)."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sweeper.spec.errors import ConfigError

MOST_TRIALS, MOST_SEEDS = 100_000, 10_000
MOST_SOURCES, LONGEST_SOURCE = 20, 300
NAMED = 20  # looks that confirm.looks lists


def _as_tuple(given: Any) -> Any:
    return tuple(given) if isinstance(given, list) else given


Trackers = Annotated[
    tuple[Literal["mlflow", "tensorboard", "wandb"], ...],
    BeforeValidator(lambda given: (given,) if isinstance(given, str) else _as_tuple(given)),
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A section of a spec: immutable; unknown keys, NaN and infinity are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _source(name: str) -> str:
    if not name.strip() or not name.isprintable() or len(name) > LONGEST_SOURCE:
        raise ValueError("name a run folder, or a run of the storage")
    return name


class Search(Section):
    """How points are chosen. Under `arms`, trials follows from arms and search seeds. `grid` resolves to `arms`.

    sources: `from` in a spec: runs whose completed trials the sampler knows from the start (journal/warm_start.py).
    """

    model_config = ConfigDict(serialize_by_alias=True)

    method: Literal["tpe", "random", "gp", "cmaes", "grid", "arms"] = "tpe"
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None
    sources: Annotated[tuple[Annotated[str, AfterValidator(_source)], ...], Field(max_length=MOST_SOURCES)] = Field(
        default=(), alias="from", exclude_if=operator.not_
    )

    @model_validator(mode="after")
    def _learns(self) -> Self:
        if self.sources and self.method not in ("tpe", "gp"):
            reason = f"{self.method} does not learn from other runs: use tpe or gp, or leave it out"
            raise ConfigError(("from",), reason)
        if len(set(self.sources)) < len(self.sources):
            raise ConfigError(("from",), "names a run twice")
        return self


class Seeds(Section):
    """Disjoint sets of seeds: a seed that the search used cannot confirm what the search found."""

    search: Annotated[tuple[Seed, ...], Field(max_length=MOST_SEEDS)] = (0,)
    confirm: Annotated[tuple[Seed, ...], Field(max_length=MOST_SEEDS)] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        for name, seeds in (("search", self.search), ("confirm", self.confirm)):
            if len(set(seeds)) < len(seeds):
                twice = next(seed for seed, count in Counter(seeds).items() if count > 1)
                raise ConfigError((name,), f"duplicate seed {twice}")
        both = sorted(set(self.search) & set(self.confirm))
        if both:
            raise ConfigError(("confirm",), f"seed {both[0]} is also in seeds.search: the two must not overlap")
        return self


class Resources(Section):
    """What one trial uses.

    Args:
        workers: 0 trains inside the trial's own process, 1 or more use Ray Train.
        cpus_per_worker: CPUs, and so threads, of each worker.
        gpus_per_worker: GPUs of each worker; below 1 a share of one.
        concurrency: trials at a time, at most; null is as many as fit.
        max_failures: how often a failed trial is tried again, from its newest checkpoint.
        placement: puts a trial's workers on as few nodes as possible (pack) or on as many as possible (spread).
        accelerator: the type of node that a trial needs, in Ray's words, such as A100.
    """

    workers: Annotated[int, Field(ge=0)] = 0
    cpus_per_worker: Annotated[int, Field(gt=0)] = 1
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0
    concurrency: Annotated[int, Field(gt=0)] | None = None
    max_failures: Annotated[int, Field(ge=0, le=100)] = 1
    placement: Literal["pack", "spread"] = "pack"
    accelerator: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")] | None = None

    @model_validator(mode="after")
    def _whole_gpus(self) -> Self:
        if self.gpus_per_worker > 1 and self.gpus_per_worker % 1:
            raise ConfigError(("gpus_per_worker",), f"{self.gpus_per_worker:g} is above 1, so it must be whole")
        return self

    @property
    def processes(self) -> int:
        """Training processes of one trial."""
        return max(1, self.workers)


def _absent(value: Any) -> bool:
    """Leaves out keys of later versions when they are not set, so that hashes of older specs stay the same."""
    return value is None


class Confirm(Section):
    """Which configurations are compared on the seeds of `seeds.confirm`, and which differences count, in nats.

    Args:
        best: configurations of the search to compare with the baseline; null is 3, and under arms all.
        worthwhile: a difference that would matter.
        margin: how much better a candidate must be.
        racing: drop candidates for futility after four pairs.
        until: null runs all seeds and looks once; `decided` ends a comparison at the declared look that decides it.
        looks: pairs at each look; null is 8, then every further 4.
        spending: how the looks share the level (looks.py).
        sd: of paired differences, for the plan only, if earlier runs do not give it.

    At their defaults the last four are not part of the hash.
    """

    best: Annotated[int, Field(gt=0)] | None = None
    worthwhile: Annotated[float, Field(gt=0)] = 0.01
    margin: Annotated[float, Field(ge=0)] = 0.0
    racing: bool = False
    until: Literal["decided"] | None = Field(default=None, exclude_if=_absent)
    # From 6 pairs on: `PAIRS` of confirmation/paired_tests.py, which lies above this package.
    looks: Annotated[tuple[Annotated[int, Field(ge=6)], ...], Field(min_length=1, max_length=NAMED)] | None = Field(
        default=None, exclude_if=_absent
    )
    spending: Literal["obrien_fleming", "pocock"] = Field(
        default="obrien_fleming", exclude_if=lambda spending: spending == "obrien_fleming"
    )
    sd: Annotated[float, Field(gt=0)] | None = Field(default=None, exclude_if=_absent)

    @model_validator(mode="after")
    def _looks_decide(self) -> Self:
        if self.until is None:
            for name, given in (("looks", self.looks is not None), ("spending", self.spending != "obrien_fleming")):
                if given:
                    raise ConfigError(
                        (name,), "needs confirm.until: decided; without it there is one look, on all seeds"
                    )
        if self.looks and list(self.looks) != sorted({*self.looks}):
            raise ConfigError(("looks",), f"{[*self.looks]} must ascend: numbers of pairs so far, such as [8, 16, 24]")
        return self

    @model_validator(mode="after")
    def _margin_within(self) -> Self:
        if self.margin > self.worthwhile:
            raise ConfigError(("margin",), f"{self.margin:g} is above worthwhile, {self.worthwhile:g}")
        return self


class Evaluate(Section):
    """The tasks that score trials in addition to their losses, at the end of every trial or of the confirmation's only.

    A task whose score is an objective is scored at the end of every trial in any case.

    tasks: name -> path of its data. Like a corpus's, a relative path starts in the current directory.
    """

    at: Literal["trials", "confirm"] = "trials"
    tasks: Annotated[dict[str, str], Field(min_length=1)]


class Limits(Section):
    """A sweep does not start if its plan exceeds these, and ends in order once it has reached them (journal/limits.py).

    hours: wall clock of all sessions. gpu_hours: of all trials. failures: trials that failed in a row; not part of the
    hash if it is not set.
    """

    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None
    failures: Annotated[int, Field(gt=0)] | None = Field(default=None, exclude_if=_absent)


class Tracking(Section):
    """Who tracks a sweep, and where. A list alone, such as [mlflow, tensorboard], is `to`.

    Args:
        uri: MLflow's server or store; null is a store in the run storage.
        to: MLflow, and further trackers, which get copies; not part of the hash at its default.
    """

    uri: str | None = None
    to: Trackers = Field(default=("mlflow",), exclude_if=lambda to: to == ("mlflow",))

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return {"to": given} if isinstance(given, str | list | tuple) else given

    @model_validator(mode="after")
    def _with_mlflow(self) -> Self:
        if "mlflow" not in self.to:
            reason = "needs mlflow among them: it has the seeds that were used, and the champion"
            raise ConfigError(("to",), f"{reason}; write [mlflow{''.join(f', {kind}' for kind in self.to)}]")
        if len({*self.to}) < len(self.to):
            raise ConfigError(("to",), f"{[*self.to]} names one twice")
        return self


class Reuse(Section):
    """What need not be trained again. It moves no number, so it is not part of the hash.

    trunk: start a trial where another of this run has trained the same steps, see `trainable.past`. trials: take over
    trials that an earlier run in this storage completed with the same settings, seed, data and code. verify: how many
    trials of a run are trained from step 0 all the same, and compared.
    """

    trunk: bool = True
    trials: bool = True
    verify: Annotated[int, Field(ge=0, le=1)] = 1
