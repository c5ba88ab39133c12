"""SweepSpec: a question as data. YAML text becomes a validated, frozen and hashed value, or an error of one line.

Everything is checked at load, the settings by the trainable's own Config (load.py).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    PrivateAttr,
    model_validator,
)

from sweeper.spec import asides, early_stopping, objectives, space
from sweeper.spec import conditions as conditions_of
from sweeper.spec import settings as settings_of
from sweeper.spec.errors import ConfigError
from sweeper.spec.recorded import TrainableStub
from sweeper.spec.sections import (
    MOST_TRIALS,
    NAMED,
    Confirm,
    Evaluate,
    Limits,
    Resources,
    Reuse,
    Search,
    Section,
    Seeds,
    Tracking,
)
from sweeper.spec.space import MOST_POINTS
from sweeper.system import yaml_reader
from sweeper.trainable import Budget, Settings

FIRST_LOOK, NEXT_LOOK = 8, 4  # pairs, if confirm.looks is null
MOST_ARMS, MOST_CORNERS = MOST_POINTS, 5_000
MOST_LOOKS = 100  # that follow from the seeds

# Packages that Optuna imports for these samplers only. greenlet makes gp three times as fast.
_NEEDED = {"gp": ("scipy", "torch", "greenlet"), "cmaes": ("cmaes",)}


def _safe_name(name: str) -> str:
    """A name is a folder, an MLflow experiment and a part of run names; a dot would break `--set` paths."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name):
        raise ValueError(
            f"invalid name {name!r}: use 1 to 64 letters, digits, _ and -, starting with a letter or digit"
        )
    return name


Domain = Annotated[space.Domain, PlainValidator(space.parse), PlainSerializer(lambda domain: domain.to_dict())]
Condition = Annotated[
    dict[str, tuple[space.Scalar, ...]], PlainValidator(conditions_of.parse), PlainSerializer(conditions_of.to_plain)
]
Rule = Annotated[early_stopping.Rule, PlainValidator(early_stopping.parse), PlainSerializer(early_stopping.to_dict)]
Objectives = Annotated[
    tuple[str, ...], Field(min_length=1), BeforeValidator(objectives.parse), PlainSerializer(objectives.to_plain)
]
Name = Annotated[str, AfterValidator(_safe_name)]


class SweepSpec(Section):
    """One sweep. Made by `load` or `resolve`, which also check it against the trainable.

    Args:
        name: of the sweep and its MLflow experiment.
        question: what the sweep is to answer, for the report.
        notes: what people want to remember, for the report and MLflow. Like tags and on_event not part of the hash.
        tags: name -> text, for the same.
        on_event: commands and addresses that are told of verdicts, of failures and of the end.
        trainable: `module:function`.
        objectives: the first, `objective`, alone ranks, stops and confirms.
        evaluate: tasks that score the trials; not part of the hash at its default.
        budget: `matched` ranks and compares only configurations that predict as many positions as the baseline,
            `free` all; not part of the hash at its default.
        config: the trainable's complete settings, except `data`.
        space: setting path -> its domain.
        conditions: setting path -> the choices, with their values, without which it does not exist; not part of the
            hash if there are none.
        arms: name -> {setting path: value}; the first is the baseline. Method arms runs only these; for a sampler
            they are the first trials, and complete points of the space.
        ablation: how further arms are derived from two.
        data: the complete `data` section of the trainable's settings.
        reuse: what need not be trained again.
        shared: the user's group may read and write what the sweep writes; not part of the hash.
        profile: the name of the profile that was applied.
        profiles: the profiles of the file, not part of the resolved spec.
    """

    model_config = ConfigDict(serialize_by_alias=True)

    name: Name
    question: str = ""
    notes: asides.Notes = Field(default="", exclude_if=asides.empty)
    tags: asides.Tags = Field(default={}, exclude_if=asides.empty)
    on_event: asides.Calls = Field(default=(), exclude_if=asides.empty)
    trainable: str = "trainables.mlm:train"
    objectives: Objectives = Field(default=("val/loss",), alias="objective")
    evaluate: Evaluate | None = Field(default=None, exclude_if=lambda given: given is None)
    budget: Literal["matched", "free"] = Field(default="matched", exclude_if=lambda given: given == "matched")
    config: dict[str, Any] = Field(default={})
    space: dict[str, Domain] = Field(default={})
    conditions: dict[str, Condition] = Field(default={}, exclude_if=operator.not_)
    arms: dict[Name, dict[str, Any]] = Field(default={})
    ablation: Literal["leave_one_out", "add_one", "grid"] | None = None
    search: Search = Search()
    scheduler: Rule = "none"
    seeds: Seeds = Seeds()
    confirm: Confirm = Confirm()
    resources: Resources = Resources()
    limits: Limits = Limits()
    data: dict[str, Any] = Field(default={})
    tracking: Tracking = Tracking()
    reuse: Reuse = Field(default=Reuse(), exclude_if=lambda given: given == Reuse())
    shared: bool = Field(default=False, exclude_if=operator.not_)
    profile: str | None = None
    profiles: dict[str, Any] = Field(default={}, exclude=True)
    _stub: TrainableStub | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self._check_size()
        objectives.check(self.objectives, bool(self.tasks(confirming=False)))
        if len(self.objectives) > 1 and self.scheduler != "none":
            reason = f"needs a single objective, and there are {len(self.objectives)}: leave it out"
            raise ConfigError(("scheduler",), reason)
        if self.ablation and (self.search.method != "arms" or len(self.arms) < 2):
            raise ConfigError(
                ("ablation",), "needs search: {method: arms} and two arms: the baseline and the full method"
            )
        self._check_conditions()
        seeds = len(self.seeds.confirm)
        if self.confirm.looks and 1 < seeds < self.confirm.looks[-1]:
            reason = f"the last needs {self.confirm.looks[-1]} pairs, but seeds.confirm has {seeds} seeds: add seeds"
            raise ConfigError(("confirm", "looks"), reason)
        if self.search.method == "arms":
            self._check_arms()
        elif self.search.method == "grid":
            conditions_of.refuse_too_many(self.space, self.conditions)
        else:
            self._check_sampled()
        _refuse_nested(("space",), self.space)
        for name, arm in self.arms.items():
            _refuse_nested(("arms", name), arm)
        return self

    def _check_size(self) -> None:
        """Refuse a spec that is too large to run or to plan."""
        if len(self.arms) > MOST_ARMS:
            raise ConfigError(("arms",), f"{len(self.arms):,} are too many: use at most {MOST_ARMS:,}")
        corners = sum(len(domain.corners()) for domain in self.space.values())
        if corners > MOST_CORNERS:
            reason = f"its domains have {corners:,} bounds and choices; at most {MOST_CORNERS:,} can be checked"
            raise ConfigError(("space",), reason)
        for stage in ("search", "confirm"):
            trials = len(self.arms) * len(getattr(self.seeds, stage))
            if self.search.method == "arms" and trials > MOST_TRIALS:
                raise ConfigError(
                    ("seeds", stage), f"all arms on all seeds make {trials:,} trials; {MOST_TRIALS:,} at most"
                )
        if self.confirm.looks is None and len(self.looks) > MOST_LOOKS:
            reason = f"{len(self.looks)} looks, one every {NEXT_LOOK} pairs, are too many; list at most {NAMED}"
            raise ConfigError(("confirm", "looks"), reason)

    def _check_conditions(self) -> None:
        if not self.conditions:
            return
        if (method := self.search.method) in ("gp", "cmaes"):
            reason = f"{method} needs the same paths at every point: use tpe, random or grid, or leave them out"
            raise ConfigError(("conditions",), reason)
        if self.ablation:
            raise ConfigError(("ablation",), "does not go with conditions: leave these out")
        conditions_of.check(self.space, self.conditions)

    def _check_arms(self) -> None:
        if not self.arms:
            raise ConfigError(("arms",), "method arms needs at least one")
        if not self.seeds.search and (not self.seeds.confirm or len(self.arms) < 2):
            raise ConfigError(("seeds", "search"), "is empty, so two or more arms and seeds.confirm are needed")
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
        """What a record says about the trainable, which is then not imported; None if the trainable itself is used."""
        return self._stub

    def with_stub(self, stub: TrainableStub) -> SweepSpec:
        """The same spec, with what a record says in place of the trainable."""
        spec = self.model_copy()
        spec._stub = stub
        return spec

    @property
    def baseline(self) -> str | None:
        """The first arm, with which all others are compared; None without arms."""
        return next(iter(self.arms), None)

    @property
    def baseline_params(self) -> dict[str, Any]:
        """What the baseline sets, by path; empty without arms."""
        return next(iter(self.arms.values()), {})

    @property
    def objective(self) -> str:
        """The metric that ranks trials; lower is better."""
        return self.objectives[0]

    def tasks(self, confirming: bool) -> dict[str, str]:
        """The tasks that score a run of the search, or of the confirmation, at its end: name -> path of its data.

        With `at: confirm`, those of the search are the ones that it aims at.
        """
        if self.evaluate is None:
            return {}
        aims = {name.rpartition("/")[0] for name in self.objectives if objectives.maximised(name)}
        every = confirming or self.evaluate.at == "trials"
        return {name: path for name, path in self.evaluate.tasks.items() if every or name in aims}

    @property
    def total_trials(self) -> int:
        """Trials of the search stage; never more than the space has points."""
        if self.search.method == "arms":
            return len(self.arms) * len(self.seeds.search)
        trials, points = self.search.trials or 0, self.points
        return trials if points is None else min(trials, points)

    @property
    def points(self) -> int | None:
        """The number of points in a sampler's space; None if they are not counted or nothing is sampled."""
        return None if self.search.method in ("arms", "grid") else conditions_of.points(self.space, self.conditions)

    @property
    def compared(self) -> int:
        """The number of candidates in the confirmation; 0 if the spec declares none."""
        if len(self.seeds.confirm) < 2 or not self.arms:
            return 0
        others = len(self.comparable) - 1 if self.search.method == "arms" else self.total_trials - 1
        return max(0, min(others, self.confirm.best or (others if self.search.method == "arms" else 3)))

    @property
    def comparable(self) -> list[str]:
        """The arms with the baseline's budget, as far as settings tell; all arms under budget: free."""
        own = self.budget_of(self.baseline_params)
        if own is None or self.budget == "free":
            return list(self.arms)
        budgets = {name: self.budget_of(params) for name, params in self.arms.items()}
        return [name for name, budget in budgets.items() if budget is None or budget.same(own)]

    @property
    def looks(self) -> tuple[int, ...]:
        """Pairs at each declared look of the confirmation, ascending: one look at all seeds unless until: decided."""
        seeds = len(self.seeds.confirm)
        if self.confirm.until is None:
            return (seeds,)
        return self.confirm.looks or (*range(FIRST_LOOK, seeds, NEXT_LOOK), seeds)

    @property
    def confirm_trials(self) -> int:
        """The most runs of the confirmation: the candidates and the baseline on each of its seeds."""
        return (self.compared + 1) * self.looks[-1] if self.compared else 0

    @property
    def steps(self) -> int:
        """Steps of a trial of full length, the same for all under a scheduler that stops trials."""
        return self.settings(self.baseline_params).steps

    @property
    def rungs(self) -> list[int]:
        """Steps at which Halving judges; empty under another scheduler."""
        return early_stopping.rungs(self.scheduler, self.steps)

    @property
    def spec_hash(self) -> str:
        """SHA-256 of the resolved spec. The order of space and arms matters: it decides the order of trials.

        Of a source of the search, NAME@DIGEST, only the digest counts, of what it tells.
        """
        tree = self.model_dump(mode="json", exclude={"shared", "reuse", *asides.KEYS})
        if self.search.sources:
            tree["search"]["from"] = [entry.rpartition("@")[2] for entry in self.search.sources]
        return _digest(tree)

    def changed(self, other: SweepSpec) -> list[str]:
        """Dotted paths of the settings in which another spec differs from this one."""
        own, others = (dict(flat(one.model_dump(mode="json"))) for one in (self, other))
        return sorted(key for key in own.keys() | others if own.get(key, _ABSENT) != others.get(key, _ABSENT))

    @property
    def budget_hash(self) -> str:
        """SHA-256 of a run's budget and how it is judged: champions are compared only if it is the same."""
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
        """SHA-256 of everything but the seed that can change a trial's numbers: it groups a configuration's seeds."""
        held = self.resources.model_dump(mode="json", exclude={"concurrency", "max_failures", "placement"})
        return _digest({"trainable": self.trainable, "config": dict(config), "resources": held})

    def settings(self, params: Mapping[str, Any]) -> Settings:
        """The trainable's Config with `params` (by path) applied. Raises ValueError in one line."""
        config = settings_of.settings(self, params)
        assert isinstance(config, Settings), self.trainable
        return config

    def budget_of(self, params: Mapping[str, Any]) -> Budget | None:
        """The budget of a run with these settings; None if the trainable does not tell. ValueError as `settings`."""
        if self.stub is not None:
            return next((self.stub.budgets.get(name) for name, arm in self.arms.items() if arm == params), None)
        found = getattr(self.settings(params), "budget", None)
        return found if isinstance(found, Budget) else None

    def trainable_config(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """As `settings`, but as a plain tree."""
        return settings_of.dumped(self, params)

    def to_yaml(self) -> str:
        """The resolved spec as YAML; `load` returns the same spec, with the same hash."""
        return yaml_reader.dump(self.model_dump(mode="json"))


_ABSENT = object()


def flat(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by dotted path; an empty mapping is a leaf."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def _refuse_nested(where: tuple[str, ...], paths: Iterable[str]) -> None:
    """A path inside another would set the same value twice."""
    for inner in paths:
        for outer in paths:
            if inner.startswith(outer + "."):
                raise ConfigError((*where, inner), f"lies inside {outer!r}, which is also set; keep one of them")


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, allow_nan=False, separators=(",", ":")).encode()).hexdigest()
