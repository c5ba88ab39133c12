"""SweepSpec: a question as data. YAML text in; out comes a validated, frozen and hashed value, or one line that says
why not. Everything is checked at load, the settings against the trainable's own Config (load.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    model_validator,
)

from sweeper.spec import early_stopping, objectives, space
from sweeper.spec import settings as settings_of
from sweeper.spec.errors import ConfigError
from sweeper.spec.recorded import TrainableStub
from sweeper.spec.space import MOST_POINTS, refuse_too_many
from sweeper.system import yaml_reader
from sweeper.trainable import Budget, Settings

FIRST_LOOK, NEXT_LOOK = 8, 4  # pairs, where confirm.looks names none
MOST_ARMS, MOST_CORNERS, MOST_TRIALS, MOST_SEEDS = MOST_POINTS, 5_000, 100_000, 10_000
MOST_LOOKS, NAMED = 100, 20  # of those that follow from the seeds, of those that confirm.looks names

# What Optuna imports late, for these samplers alone. greenlet makes gp three times as fast.
_NEEDED = {"gp": ("scipy", "torch", "greenlet"), "cmaes": ("cmaes",)}


def _safe_name(name: str) -> str:
    """A name is a folder, an MLflow experiment and a part of run names; a dot would break `--set` paths."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(
            f"invalid name {name!r}: use 1 to 64 letters, digits, _ and -, starting with a letter or digit"
        )
    return name


Domain = Annotated[space.Domain, PlainValidator(space.parse), PlainSerializer(lambda domain: domain.to_dict())]
Rule = Annotated[early_stopping.Rule, PlainValidator(early_stopping.parse), PlainSerializer(early_stopping.to_dict)]
Objectives = Annotated[
    tuple[str, ...], Field(min_length=1), BeforeValidator(objectives.parse), PlainSerializer(objectives.to_plain)
]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Name = Annotated[str, AfterValidator(_safe_name)]


class Section(BaseModel):
    """Immutable; an unknown key, NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Search(Section):
    """How points are chosen. trials: under `arms` it follows (arms times search seeds). `grid` resolves to `arms`."""

    method: Literal["tpe", "random", "gp", "cmaes", "grid", "arms"] = "tpe"
    trials: Annotated[int, Field(gt=0, le=MOST_TRIALS)] | None = None


class Seeds(Section):
    """Disjoint: a seed that a search has seen cannot confirm what the search found."""

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
            raise ConfigError(("confirm",), f"the seed {both[0]} is in search, too: the two must be disjoint")
        return self


class Resources(Section):
    """What one trial holds. workers: 0 trains inside the trial's own process, 1 or more through Ray Train.

    max_failures: how often a trial that failed is tried again, from its newest checkpoint. placement: of a trial's
    workers, on as few nodes as will hold them (pack) or on as many as there are (spread). accelerator: the type of node
    that it wants, as Ray calls it, such as A100.
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
            raise ConfigError(("gpus_per_worker",), f"{self.gpus_per_worker:g} must be whole above 1")
        return self

    @property
    def processes(self) -> int:
        """Training processes of one trial."""
        return max(1, self.workers)


def _absent(value: Any) -> bool:
    """Of what came later: left out where it is not there, so that hashes of older specs stay the same."""
    return value is None


class Confirm(Section):
    """Which comparisons the seeds of `seeds.confirm` settle, and by which differences in nats.

    best: configurations of the search beside the baseline; null is 3, and under arms all. worthwhile: a difference that
    would matter. margin: what a candidate must be better by. racing: drop candidates for futility after four pairs.
    until: null runs all seeds and looks once; `decided` looks as declared, and a comparison that a look settles ends
    there. looks: pairs at each; null is 8, then every further 4. spending: how the looks share the level (looks.py).
    sd: of paired differences, in nats, for the plan to go by where earlier runs do not tell it; no verdict goes by it.
    At their defaults these four are no part of the hash.
    """

    best: Annotated[int, Field(gt=0)] | None = None
    worthwhile: Annotated[float, Field(gt=0)] = 0.01
    margin: Annotated[float, Field(ge=0)] = 0.0
    racing: bool = False
    until: Literal["decided"] | None = Field(default=None, exclude_if=_absent)
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
                        (name,), "is for confirm.until: decided; without it there is one look, on all seeds"
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
    """What trials are scored by beside their losses, at the end of every one, or of the confirmation's alone.

    tasks: name -> where its data lies. A relative path is the current directory's, like a corpus's.
    """

    at: Literal["trials", "confirm"] = "trials"
    tasks: Annotated[dict[str, str], Field(min_length=1)]


class Limits(Section):
    """A sweep whose plan lies above these does not start. hours: wall clock."""

    hours: Annotated[float, Field(gt=0)] | None = None
    gpu_hours: Annotated[float, Field(gt=0)] | None = None


class Tracking(Section):
    """uri: an MLflow server or store; null is the run storage's own."""

    uri: str | None = None


class SweepSpec(Section):
    """One sweep. Made by `load` or `resolve`, which also check it against the trainable.

    space: setting path -> what it may be. arms: name -> {setting path: value}; the first is the baseline. Under
    arms they are all there is; under a sampling method the first trials, and points of the space, complete.
    config: the trainable's settings but for `data`, complete. data: its `data` section, complete. objectives: of which
    the first, `objective`, alone ranks, stops and confirms. budget: `matched` ranks and compares only what predicts as
    many positions as the baseline, `free` all; at its default it is no part of the hash, like evaluate. shared: what
    the sweep writes is its user's group's, too; no part of the hash.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: Name
    question: str = ""
    trainable: str = "trainables.mlm:train"
    objectives: Objectives = Field(default=("val/loss",), alias="objective")
    evaluate: Evaluate | None = Field(default=None, exclude_if=lambda given: given is None)
    budget: Literal["matched", "free"] = Field(default="matched", exclude_if=lambda given: given == "matched")
    config: dict[str, Any] = {}
    space: dict[str, Domain] = {}
    arms: dict[Name, dict[str, Any]] = {}
    ablation: Literal["leave_one_out", "add_one", "grid"] | None = None
    search: Search = Search()
    scheduler: Rule = "none"
    seeds: Seeds = Seeds()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    limits: Limits = Limits()
    data: dict[str, Any] = {}
    tracking: Tracking = Tracking()
    shared: bool = Field(default=False, exclude_if=operator.not_)
    profile: str | None = None
    profiles: dict[str, Any] = Field(default={}, exclude=True)
    _stub: TrainableStub | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_size()
        objectives.check(self.objectives, bool(self.tasks(confirming=False)))
        if len(self.objectives) > 1 and self.scheduler != "none":
            reason = f"stops trials by one objective, and there are {len(self.objectives)}: leave it out"
            raise ConfigError(("scheduler",), reason)
        if self.ablation and (self.search.method != "arms" or len(self.arms) < 2):
            raise ConfigError(
                ("ablation",), "needs search: {method: arms} and two arms: the baseline and the full method"
            )
        seeds = len(self.seeds.confirm)
        if self.confirm.looks and 1 < seeds < self.confirm.looks[-1]:
            reason = f"the last is at {self.confirm.looks[-1]} pairs, seeds.confirm has {seeds}: declare as many seeds"
            raise ConfigError(("confirm", "looks"), reason)
        if self.search.method == "arms":
            self._check_arms()
        elif self.search.method == "grid":
            refuse_too_many(self.space)
        else:
            self._check_sampled()
        _refuse_nested(("space",), self.space)
        for name, arm in self.arms.items():
            _refuse_nested(("arms", name), arm)
        return self

    def _check_size(self) -> None:
        """No more than somebody could run, or a plan could reckon with."""
        if len(self.arms) > MOST_ARMS:
            raise ConfigError(("arms",), f"there are {len(self.arms):,}, {MOST_ARMS:,} at most")
        corners = sum(len(domain.corners()) for domain in self.space.values())
        if corners > MOST_CORNERS:
            reason = f"its domains have {corners:,} bounds and choices, and all are tried: {MOST_CORNERS:,} at most"
            raise ConfigError(("space",), reason)
        for stage in ("search", "confirm"):
            trials = len(self.arms) * len(getattr(self.seeds, stage))
            if self.search.method == "arms" and trials > MOST_TRIALS:
                raise ConfigError(
                    ("seeds", stage), f"{trials:,} trials, of all arms on all seeds; {MOST_TRIALS:,} at most"
                )
        if self.confirm.looks is None and len(self.looks) > MOST_LOOKS:
            reason = f"{len(self.looks)} looks, one after every {NEXT_LOOK} pairs; name {NAMED} at most"
            raise ConfigError(("confirm", "looks"), reason)

    def _check_arms(self) -> None:
        if not self.arms:
            raise ConfigError(("arms",), "method arms needs at least one")
        if not self.seeds.search and (not self.seeds.confirm or len(self.arms) < 2):
            raise ConfigError(("seeds", "search"), "is empty: then two arms or more and seeds.confirm must be there")
        if self.search.trials not in (None, self.total_trials):
            counts = f"{len(self.arms)} arms times {len(self.seeds.search)} search seeds is {self.total_trials}"
            raise ConfigError(("search", "trials"), f"{self.search.trials}, but {counts}; leave it out")

    def _check_sampled(self) -> None:
        method, trials = self.search.method, self.search.trials
        if not self.space:
            raise ConfigError(
                ("space",), f"is empty: {method} needs one; for arms alone write search: {{method: arms}}"
            )
        if trials is None:
            raise ConfigError(("search", "trials"), f"is missing: say how many trials {method} may take")
        if trials < len(self.arms):
            raise ConfigError(("search", "trials"), f"{trials} leaves no room for the {len(self.arms)} arms")
        if len(self.seeds.search) != 1:
            raise ConfigError(("seeds", "search"), f"{method} takes exactly one seed, not {len(self.seeds.search)}")
        lacking = [package for package in _NEEDED.get(method, ()) if importlib.util.find_spec(package) is None]
        if lacking:
            raise ConfigError(("search", "method"), f"{method} needs {lacking[0]}: pip install 'sweeper[samplers]'")
        numbers = sum(
            part.choices is None for path, domain in self.space.items() for part in domain.sampler_params(path).values()
        )
        if method == "cmaes" and len(self.objectives) > 1:
            raise ConfigError(
                ("search", "method"), f"cmaes takes one objective, not {len(self.objectives)}; use tpe or gp"
            )
        if method == "cmaes" and numbers < 2:
            raise ConfigError(
                ("search", "method"), f"cmaes needs two numbers to search, the space has {numbers}; use tpe"
            )

    @property
    def stub(self) -> TrainableStub | None:
        """What a record tells of a trainable that is then not asked; None where the trainable is asked."""
        return self._stub

    def with_stub(self, stub: TrainableStub) -> SweepSpec:
        """The same, to be read by what a record tells."""
        spec = self.model_copy()
        spec._stub = stub
        return spec

    @property
    def baseline(self) -> str | None:
        """The first arm, which every other is compared with; None of a spec without arms."""
        return next(iter(self.arms), None)

    @property
    def baseline_params(self) -> dict[str, Any]:
        """What the baseline sets, by path; nothing of a spec without arms."""
        return next(iter(self.arms.values()), {})

    @property
    def objective(self) -> str:
        """What ranks trials, minimised."""
        return self.objectives[0]

    def tasks(self, confirming: bool) -> dict[str, str]:
        """What a run of the search, or of the confirmation, is scored by at its end."""
        return dict(self.evaluate.tasks) if self.evaluate and (confirming or self.evaluate.at == "trials") else {}

    @property
    def total_trials(self) -> int:
        """Trials of the search stage: no more than there are points to try."""
        if self.search.method == "arms":
            return len(self.arms) * len(self.seeds.search)
        trials, points = self.search.trials or 0, self.points
        return trials if points is None else min(trials, points)

    @property
    def points(self) -> int | None:
        """How many points a sampler finds in the space, None where they are not counted or nothing is sampled."""
        return None if self.search.method in ("arms", "grid") else space.points(self.space)

    @property
    def compared(self) -> int:
        """Candidates of the confirmation; 0 where the spec declares none."""
        if len(self.seeds.confirm) < 2 or not self.arms:
            return 0
        others = len(self.comparable) - 1 if self.search.method == "arms" else self.total_trials - 1
        return max(0, min(others, self.confirm.best or (others if self.search.method == "arms" else 3)))

    @property
    def comparable(self) -> list[str]:
        """The arms that share the baseline's budget, as far as settings tell; all where budgets are free."""
        own = self.budget_of(self.baseline_params)
        if own is None or self.budget == "free":
            return list(self.arms)
        told = {name: self.budget_of(params) for name, params in self.arms.items()}
        return [name for name, budget in told.items() if budget is None or budget.same(own)]

    @property
    def looks(self) -> tuple[int, ...]:
        """Pairs at each declared look of the confirmation, ascending: one look at all seeds unless it is `decided`."""
        seeds = len(self.seeds.confirm)
        if self.confirm.until is None:
            return (seeds,)
        return self.confirm.looks or (*range(FIRST_LOOK, seeds, NEXT_LOOK), seeds)

    @property
    def confirm_trials(self) -> int:
        """Runs of the confirmation, at most: the candidates and the baseline on each of its seeds."""
        return (self.compared + 1) * self.looks[-1] if self.compared else 0

    @property
    def steps(self) -> int:
        """The full length of a trial; under a scheduler that stops some, all have the same."""
        return self.settings(self.baseline_params).steps

    @property
    def rungs(self) -> list[int]:
        """Steps from which Halving judges; none under another scheduler."""
        return early_stopping.rungs(self.scheduler, self.steps)

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the resolved spec. The order of space and arms counts: it decides what is tried when."""
        return _digest(self.model_dump(mode="json", exclude={"shared"}))

    @property
    def budget_hash(self) -> str:
        """SHA-256 of what one run may spend and how it is judged: only runs that share it may challenge each other."""
        plain = self.settings(self.baseline_params)
        held = self.resources.model_dump(mode="json", include={"workers", "gpus_per_worker"})
        spent: dict[str, Any] = {"steps": plain.steps, "tokens": plain.tokens_per_step, "data": self.data}
        own = self.budget_of(self.baseline_params)
        if own and not own.usual:
            spent["predicted"] = [own.predicted, own.exact, *filter(None, [own.way])]
        if self.budget == "free":
            spent["budget"] = self.budget
        return _digest({"trainable": self.trainable, "objective": self.objective, "resources": held, **spent})

    def config_hash(self, config: Mapping[str, Any]) -> str:
        """SHA-256 of all that can move a trial's numbers but the seed: it groups the seeds of a configuration."""
        held = self.resources.model_dump(mode="json", exclude={"concurrency", "max_failures", "placement"})
        return _digest({"trainable": self.trainable, "config": dict(config), "resources": held})

    def settings(self, params: Mapping[str, Any]) -> Settings:
        """The trainable's Config with some settings set by path. Raises ValueError in one line."""
        config = settings_of.settings(self, params)
        assert isinstance(config, Settings), self.trainable
        return config

    def budget_of(self, params: Mapping[str, Any]) -> Budget | None:
        """What a run of such settings predicts; None where the trainable does not tell. ValueError as `settings`."""
        if self.stub is not None:
            return next((self.stub.budgets.get(name) for name, arm in self.arms.items() if arm == params), None)
        found = getattr(self.settings(params), "budget", None)
        return found if isinstance(found, Budget) else None

    def trainable_config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """As `settings`, but the whole as a plain tree."""
        return settings_of.dumped(self, params)

    def to_yaml(self) -> str:
        """The resolved spec as YAML: `load` gives the same spec and hash back."""
        return yaml_reader.dump(self.model_dump(mode="json"))


def _refuse_nested(where: tuple[str, ...], paths: Iterable[str]) -> None:
    """A path inside another would set the same value twice."""
    for inner in paths:
        for outer in paths:
            if inner.startswith(outer + "."):
                raise ConfigError((*where, inner), f"lies inside {outer!r}, which is there, too; keep one of them")


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()).hexdigest()
