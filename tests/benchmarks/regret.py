"""How near to the toy's optimum a method comes for a number of training steps: `python -m tests.benchmarks.regret`.

Three contenders: this project's tpe + Halving, its random + none, and Ray Tune's own OptunaSearch + ASHAScheduler on
the same parameters, with the same rungs. There is no Ray session: a simulated clock on which a step of any trial takes
one unit, on so many slots, calls the searchers and schedulers in the order in which Tune's controller does
(scheduler, then searcher; a slot that is free is offered at once). A contender is stopped when its trials have taken
`budget` steps together, and then names its best: ours the completed trial with the lowest loss, Tune the trial with
the lowest last loss (`ResultGrid.get_best_result`). Regret is that configuration's distance in loss from the optimum,
without noise.

With `--warm`: a search that stops no trial, cold and with `search.from` a search of the same spec on another
seed: after how many completed trials the best has the regret with which the cold search ended.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import random
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from sweeper.journal import warm_start
from sweeper.journal.events import WarmStart
from sweeper.journal.journal import Journal
from sweeper.search import optuna_study, searchers
from sweeper.search.optuna_search import StudySearch
from sweeper.search.schedulers import scheduler
from sweeper.search.searchers import Calls
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import TrainContext
from trainables import toy

STEPS, FIRST, REDUCTION = 27, 3, 3
TOY: dict[str, Any] = {"steps": STEPS, "report_every": 1, "run_sd": 0.01}
SLOTS = 4
OTHER = 10_000  # seeds from a search to the one that tells it
FULL_RUNS = 20  # the budget, in runs of the full length

Curve = list[tuple[int, float]]  # step, loss


class Contender(ABC):
    """What the clock asks."""

    @abstractmethod
    def suggest(self) -> tuple[str, toy.Config] | None: ...
    @abstractmethod
    def report(self, identity: str, step: int, loss: float) -> bool:
        """Whether the trial stops here."""

    @abstractmethod
    def end(self, identity: str) -> None: ...
    @abstractmethod
    def best(self) -> toy.Config: ...


class Ours(Contender):
    """known: what the sampler is told of another run."""

    def __init__(
        self,
        spec: SweepSpec,
        folder: Path,
        slots: int,
        searcher: type[StudySearch] = StudySearch,
        known: WarmStart | None = None,
    ) -> None:
        self.spec, self.journal = spec, Journal(folder / "journal.jsonl")
        self.journal.born(spec.spec_hash)
        if known:
            self.journal.append(known)
        self.rule = scheduler(spec, self.journal, folder)
        calls = Calls(reconcile=self.rule.reconcile_dropped)
        self.search = searcher(spec, self.journal, slots, folder / "optuna.log", slots, calls)
        self.trials: dict[str, Any] = {}

    def suggest(self) -> tuple[str, toy.Config] | None:
        task = self.search.suggest("")
        if not isinstance(task, dict):
            return None
        self.trials[task["id"]] = SimpleNamespace(config=task, status="RUNNING")
        self.rule.on_trial_add(None, self.trials[task["id"]])
        return task["id"], toy.Config.model_validate(task["config"])

    def report(self, identity: str, step: int, loss: float) -> bool:
        row = {"step": step, "val/loss": loss}
        decision = self.rule.on_trial_result(None, self.trials[identity], {"rows": [row]})
        return decision == TrialScheduler.STOP

    def end(self, identity: str) -> None:
        self.rule.on_trial_complete(None, self.trials.pop(identity), {})
        self.search.on_trial_complete("")

    def best(self) -> toy.Config:
        done = [record for record in self.journal.trials.values() if record.state == "completed"]
        first = min(done, key=lambda record: record.score("val/loss") or 0)
        return toy.Config.model_validate(first.ask.config)


class Stock(Contender):
    """Ray Tune's own, over the same raw parameters."""

    def __init__(self, spec: SweepSpec, seed: int) -> None:
        self.spec = spec
        space = {name.replace("/", "#"): found for name, found in optuna_study.distributions(spec).items()}
        self.search = OptunaSearch(space=space, metric="val/loss", mode="min", seed=seed)
        self.rule = ASHAScheduler("step", "val/loss", "min", STEPS, FIRST, REDUCTION)
        self.configs: dict[str, toy.Config] = {}
        self.last: dict[str, dict[str, Any]] = {}

    def suggest(self) -> tuple[str, toy.Config] | None:
        identity = f"{len(self.configs):04d}"
        given = self.search.suggest(identity)
        assert given is not None
        raw = {name.replace("#", "/"): value for name, value in given.items()}
        params = {path: domain.value(path, raw) for path, domain in self.spec.space.items()}
        self.configs[identity] = toy.Config.model_validate(self.spec.trainable_config(params))
        self.rule.on_trial_add(None, self._trial(identity))  # type: ignore[arg-type]
        return identity, self.configs[identity]

    def report(self, identity: str, step: int, loss: float) -> bool:
        self.last[identity] = {"step": step, "val/loss": loss, "training_iteration": step}
        stop = self.rule.on_trial_result(None, self._trial(identity), self.last[identity]) == TrialScheduler.STOP  # type: ignore[arg-type]
        if not stop:
            self.search.on_trial_result(identity, self.last[identity])
        return stop

    def end(self, identity: str) -> None:
        self.rule.on_trial_complete(None, self._trial(identity), self.last[identity])  # type: ignore[arg-type]
        self.search.on_trial_complete(identity, self.last[identity])

    def best(self) -> toy.Config:
        return self.configs[min(self.last, key=lambda identity: self.last[identity]["val/loss"])]

    def _trial(self, identity: str) -> Any:
        return SimpleNamespace(trial_id=identity)


@dataclass(frozen=True)
class Outcome:
    """busy: the share of the slots' time in which a trial ran."""

    regret: float
    trials: int
    completed: int
    busy: float


@dataclass(frozen=True)
class Tick:
    """A report of a trial on the simulated clock. now: steps since the beginning. last: the trial ends here.
    completed: and has come to the end of its curve."""

    now: int
    trial: str
    step: int
    last: bool
    completed: bool


def play(one: Contender, curve: Callable[[toy.Config], Curve], slots: int) -> Iterator[Tick]:
    """Run a contender's trials on the simulated clock, each along its curve, report by report."""
    events: list[tuple[int, int, str]] = []  # when, in the order of being put here, who reports
    curves: dict[str, deque[tuple[int, float]]] = {}
    order = itertools.count()

    def fill(now: int) -> None:
        while len(events) < slots and (given := one.suggest()) is not None:
            identity, config = given
            curves[identity] = deque(curve(config))
            heapq.heappush(events, (now + curves[identity][0][0], next(order), identity))

    fill(0)
    while events:
        now, _, identity = heapq.heappop(events)
        step, loss = curves[identity].popleft()
        stop = one.report(identity, step, loss)
        completed = not curves[identity]
        if stop or completed:
            del curves[identity]
            one.end(identity)
        else:
            heapq.heappush(events, (now + curves[identity][0][0] - step, next(order), identity))
        fill(now)
        yield Tick(now, identity, step, stop or completed, completed)


def compete(one: Contender, seed: int, budget: int) -> Outcome:
    """Run a contender on the simulated clock until its trials have taken `budget` steps."""
    ticks = list(itertools.islice(play(one, lambda config: curve(config, seed), SLOTS), budget))
    completed = sum(tick.completed for tick in ticks)
    busy = len(ticks) / (ticks[-1].now * SLOTS)
    return Outcome(one.best().optimum_distance, len({tick.trial for tick in ticks}), completed, busy)


def curve(config: toy.Config, seed: int) -> Curve:
    """The toy's losses, step by step."""
    found: Curve = []
    report = TrainContext(
        lambda row, _: found.append((int(row["step"]), row["val/loss"])), seed=seed, rank=1, world_size=2
    )
    toy.train(config, report)
    return found


def spec(method: str, rule: Any, trials: int, seed: int, config: dict[str, Any] = TOY, **changes: Any) -> SweepSpec:
    return resolve(
        {
            "name": "regret",
            "trainable": "trainables.toy:train",
            "config": config,
            "space": {
                "x": {"uniform": [0, 1]},
                "y": {"uniform": [0, 1]},
                "shares": {"simplex": {"random": 0, "token": 0, "trigram": 0}},
            },
            "search": {"method": method, "trials": trials},
            "scheduler": rule,
            "seeds": {"search": [seed]},
            **changes,
        }
    )


def measure(seeds: range) -> dict[str, Any]:
    """Each contender's outcomes over the seeds, and the paired differences in regret of ours from the others."""
    budget = FULL_RUNS * STEPS
    outcomes: dict[str, list[Outcome]] = {"ours": [], "random": [], "stock": []}
    searchers.write_study = lambda *_: None  # type: ignore[assignment]  # the dashboard's file is not what is measured
    for seed in seeds:
        halving = spec("tpe", {"halving": {"first": FIRST, "reduction": REDUCTION}}, budget // FIRST, seed)
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            plain = spec("random", "none", FULL_RUNS, seed)
            outcomes["ours"].append(compete(Ours(halving, Path(one), SLOTS), seed, budget))
            outcomes["random"].append(compete(Ours(plain, Path(other), SLOTS), seed, budget))
        outcomes["stock"].append(compete(Stock(halving, seed), seed, budget))
    figures: dict[str, Any] = {"seeds": len(seeds), "first": seeds.start, "steps": budget}
    for name, found in outcomes.items():
        regrets = [outcome.regret for outcome in found]
        figures[name] = {
            "median": statistics.median(regrets),
            "quartiles": statistics.quantiles(regrets, n=4)[::2],
            "trials": statistics.mean(outcome.trials for outcome in found),
            "completed": statistics.mean(outcome.completed for outcome in found),
            "busy": statistics.mean(outcome.busy for outcome in found),
        }
    for name in ("random", "stock"):
        pairs = zip(outcomes["ours"], outcomes[name], strict=True)
        differences = [mine.regret - other.regret for mine, other in pairs]
        figures[name]["ours_lower_in"] = sum(difference < 0 for difference in differences)
        figures[name]["ours_less_this"] = interval(differences)
    return figures


def trajectory(one: Ours, seed: int) -> list[float]:
    """The regret of the best completed trial after each one that has completed."""
    found, losses = list[float](), list[tuple[float, float]]()
    for tick in play(one, lambda config: curve(config, seed), SLOTS):
        if tick.completed:
            record = one.journal.trials[tick.trial]
            regret = toy.Config.model_validate(record.ask.config).optimum_distance
            losses.append((record.score("val/loss") or 0, regret))
            found.append(min(losses)[1])
    return found


def measure_warm(seeds: range, seed_sd: float) -> dict[str, Any]:
    """Completed trials until the regret with which a cold search of FULL_RUNS trials ends, by how it begins.

    warm: told of a search on another seed as search.from tells it, as differences to the baseline. as observed: told
    the same losses as they are. seed_sd: noise that all trials of a seed share.
    """
    searchers.write_study = lambda *_: None  # type: ignore[assignment]
    arms, config = {"baseline": {"x": 0.5, "y": 0.5, "shares": {"random": 1.0}}}, {**TOY, "seed_sd": seed_sd}
    reached: dict[str, list[int | None]] = {}
    regrets: dict[str, list[float]] = {}

    def run(how: str, seed: int, known: WarmStart | None = None) -> Ours:
        more: dict[str, Any] = {"arms": arms}
        if known:
            more["search"] = {"method": "tpe", "trials": FULL_RUNS, "from": [known.source]}
        with tempfile.TemporaryDirectory() as folder:
            given = spec("tpe", "none", FULL_RUNS, seed, config, **more)
            one = Ours(given, Path(folder), SLOTS, known=known)
            if found := trajectory(one, seed):
                regrets.setdefault(how, []).append(found[-1])
                goal = regrets["cold"][-1]
                steps = (count for count, regret in enumerate(found, 1) if regret <= goal)
                reached.setdefault(how, []).append(next(steps, None))
        return one

    for seed in seeds:
        cold = run("cold", seed)
        told = {
            "warm": warm_start.of(cold.spec, "source", run("source", seed + OTHER).journal),
        }
        plain = [{**one, "baseline": None} for one in told["warm"].trials]
        told["as observed"] = replace(told["warm"], trials=plain)
        for how, known in told.items():
            run(how, seed, known)
    figures: dict[str, Any] = {"seeds": len(seeds), "first": seeds.start, "trials": FULL_RUNS, "seed_sd": seed_sd}
    for how in ("cold", "warm", "as observed"):
        counts = sorted(FULL_RUNS + 1 if count is None else count for count in reached[how])
        differences = [one - cold for one, cold in zip(regrets[how], regrets["cold"], strict=True)]
        figures[how] = {
            "trials to the cold search's regret": statistics.median(counts),
            "quartiles": statistics.quantiles(counts, n=4)[::2],
            "reached": sum(count <= FULL_RUNS for count in counts),
            "regret": statistics.median(regrets[how]),
            "less the cold one's": interval(differences),
        }
    return figures


def interval(differences: list[float]) -> dict[str, float]:
    """The median of paired differences, with a 95 % bootstrap interval."""
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(differences, k=len(differences))) for _ in range(4000))
    return {"median": statistics.median(differences), "low": medians[100], "high": medians[3899]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--warm", action="store_true", help="trials to a cold search's regret, with search.from")
    parser.add_argument("--seed-sd", type=float, default=0.0, help="with --warm: noise that trials of a seed share")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    begin = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    figures = measure_warm(seeds, options.seed_sd) if options.warm else measure(seeds)
    figures["seconds"] = round(time.monotonic() - begin, 1)
    print(json.dumps(figures, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
