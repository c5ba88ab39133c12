"""The searcher and the scheduler, driven by a Tune whose clock runs as a test wants it to."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeper.confirmation import design
from sweeper.journal.events import Ask, End, Repeat
from sweeper.journal.journal import Journal
from sweeper.search import optuna_search, optuna_study
from sweeper.search.optuna_search import StudySearch
from sweeper.search.schedulers import JournalScheduler, scheduler
from sweeper.search.searchers import Calls, JournalSearch, ListSearch
from sweeper.spec.spec import SweepSpec
from tests.sweeper.samples import PUBLISHED, toy_spec
from trainables import toy

BASELINE = {"random": 1, "token": 0, "trigram": 0}


def sampled(method: str = "tpe", trials: int = 14, **changes: Any) -> SweepSpec:
    return toy_spec(search={"method": method, "trials": trials}, **changes)


class Tune:
    """Calls the hooks in Tune's order, for one event at a time: scheduler, then searcher."""

    def __init__(self, spec: SweepSpec, folder: Path, lag: int, slots: int | None = None) -> None:
        self.journal = Journal(folder / "journal.jsonl")
        self.scheduler: Any = scheduler(spec, self.journal, folder)
        log, calls = folder / "optuna.log", Calls(reconcile=self.scheduler.reconcile_dropped)
        self.search = StudySearch(spec, self.journal, slots or lag, log, lag, calls)
        self.running: dict[str, Any] = {}
        self.handed: list[str] = []

    def start(self) -> Any:
        """Ask once; the trial that was given, None or FINISHED."""
        config = self.search.suggest("tune's own id")
        if not isinstance(config, dict):
            return config
        trial = self.running[config["id"]] = SimpleNamespace(config=config, trial_id="tune's own id", status="PENDING")
        self.scheduler.on_trial_add(None, trial)
        self.handed.append(config["id"])
        return config["id"]

    def fill(self) -> None:
        while self.start() not in (None, Searcher.FINISHED):
            pass

    def report(self, identity: str, *steps: int) -> str:
        config = toy.Config.model_validate(self.running[identity].config["config"])
        rows = [{"step": step, "val/loss": 1 + config.optimum_distance + 1 / step} for step in steps]
        return self.scheduler.on_trial_result(None, self.running[identity], {"rows": rows})

    def end(self, identity: str, error: bool = False) -> None:
        trial = self.running.pop(identity)
        if error:
            self.scheduler.on_trial_error(None, trial)
        else:
            self.scheduler.on_trial_complete(None, trial, {})
        self.search.on_trial_complete("tune's own id", error=error)

    def run(self, clock: random.Random, events: float = float("inf")) -> None:
        """Let trials end in any order until all have, or so many events are over."""
        self.fill()
        while self.running and events > 0:
            identity = clock.choice(sorted(self.running))
            step = self.journal.trials[identity].step
            if step == 20 or self.report(identity, step + 5) == TrialScheduler.STOP:
                self.end(identity)
            self.fill()
            events -= 1

    def points(self) -> list[tuple[str, str | None, dict[str, Any], dict[str, Any]]]:
        asks = [record.ask for record in self.journal.trials.values()]
        return [(ask.trial, ask.arm, ask.params, ask.raw) for ask in asks]


@pytest.mark.parametrize("method", ["tpe", "random", "cmaes"])
def test_points_depend_on_spec_and_lag_whatever_the_clock(tmp_path: Path, method: str):
    spec = sampled(method)
    found = []
    for number, slots in enumerate([3, 3, 2, 1]):
        folder = tmp_path / str(number)
        folder.mkdir()
        tune = Tune(spec, folder, lag=3, slots=slots)
        tune.run(random.Random(number))
        found.append(tune.points())
        assert [record.state for record in tune.journal.trials.values()] == ["completed"] * 14
    assert found[0] == found[1] == found[2] == found[3]
    assert len({str(params) for *_, params, _ in found[0]}) == 14


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_points_are_the_same_when_a_sweep_is_cut_off_again_and_again(tmp_path: Path, method: str):
    spec = sampled(method)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Tune(spec, tmp_path / "whole", lag=2)
    whole.run(random.Random(1))
    clock = random.Random(2)
    asked: list[str] = []
    tune = whole
    for _ in range(30):
        tune = Tune(spec, tmp_path / "cut", lag=2)  # nothing but the journal is left of the session before
        opened = [record.id for record in tune.journal.trials.values() if record.open]
        tune.run(clock, events=7)
        assert opened == tune.handed[: len(opened)], "open trials come first"
        asked += tune.handed
        if tune.start() == Searcher.FINISHED:
            break
    assert tune.points() == whole.points()
    assert len(asked) > len(whole.points()), "sessions that never had to go on with a trial test nothing"
    ended = [event.trial for event in tune.journal.events if isinstance(event, End)]
    assert sorted(ended) == sorted(set(ended)), "a finished trial was run again"


def test_lag_is_part_of_what_makes_the_points(tmp_path: Path):
    for lag in (1, 2):
        (tmp_path / str(lag)).mkdir()
    one, two = Tune(sampled(), tmp_path / "1", lag=1), Tune(sampled(), tmp_path / "2", lag=2)
    one.run(random.Random(1))
    two.run(random.Random(1))
    assert one.points() != two.points()


def test_a_trial_waits_until_all_that_it_may_know_have_ended(tmp_path: Path):
    tune = Tune(sampled(), tmp_path, lag=2)
    assert [tune.start(), tune.start(), tune.start()] == ["t0001", "t0002", None]
    tune.report("t0002", 20)
    tune.end("t0002")
    assert tune.start() is None, "t0003 may know t0001, which runs"
    tune.report("t0001", 20)
    tune.end("t0001")
    assert [tune.start(), tune.start(), tune.start()] == ["t0003", "t0004", None]


def test_under_a_rule_that_stops_trials_none_waits_and_the_sampler_knows_all_that_the_journal_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    shown = watch_asks(monkeypatch)
    tune = Tune(sampled(arms={}, scheduler={"halving": {"first": 5, "reduction": 2}}), tmp_path, lag=3)
    tune.fill()
    assert list(tune.running) == ["t0001", "t0002", "t0003"]
    for identity in ("t0002", "t0003", "t0001"):
        for step in (5, 10, 15, 20):
            if identity in tune.running and tune.report(identity, step) == TrialScheduler.STOP:
                tune.end(identity)
        if identity == "t0002":
            tune.end(identity)
            assert tune.start() == "t0004", "t0001 has not reported yet"
            assert [(state, list(curve)) for state, _, curve in shown[-1]] == [
                (TrialState.RUNNING, []),
                (TrialState.COMPLETE, [5, 10, 15, 20]),
                (TrialState.RUNNING, []),
            ]
    tune.scheduler._end(tune.journal.trials["t0004"], "stopped")
    tune.running.pop("t0004")
    tune.fill()
    states = [record.state for record in tune.journal.trials.values()]
    told = {"completed": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "running": TrialState.RUNNING}
    assert [state for state, *_ in shown[-1]] == [told[state] for state in states[:-1]]
    for (_, params, curve), record in zip(shown[-1], tune.journal.trials.values(), strict=False):
        assert params == record.ask.raw
        assert curve == {row.step: row.metrics["val/loss"] for row in record.rows}


Shown = list[tuple[TrialState, dict[str, Any], dict[int, float]]]


def watch_asks(monkeypatch: pytest.MonkeyPatch) -> list[Shown]:
    """What the sampler is shown at each question."""
    shown: list[Shown] = []
    create: Callable[..., Any] = optuna.create_study

    def watched(**options: Any) -> Any:
        study = create(**options)
        if "storage" not in options:  # not the dashboard's
            add = study.add_trials
            monkeypatch.setattr(study, "add_trials", lambda trials: (shown.append(seen(trials)), add(trials)))
        return study

    def seen(trials: Any) -> Shown:
        return [(trial.state, trial.params, dict(trial.intermediate_values)) for trial in trials]

    monkeypatch.setattr(optuna_search.optuna, "create_study", watched)
    return shown


def test_arms_come_first_with_the_values_that_were_written(tmp_path: Path):
    spec = sampled(arms={"baseline": {"shares": BASELINE, "x": 0.1}, "published": {"shares": PUBLISHED}})
    tune = Tune(spec, tmp_path, lag=1)
    tune.run(random.Random(0))
    first, second, third = (record.ask for record in list(tune.journal.trials.values())[:3])
    assert (first.arm, first.params) == ("baseline", {"x": 0.1, "shares": BASELINE})
    assert {part: share for part, share in first.config["shares"].items() if share} == {"random": 1}
    assert first.raw == {"x": 0.1, "shares/0": 1.0, "shares/1": 0.0}
    assert (second.arm, second.params) == ("published", {"x": 0.5, "shares": PUBLISHED})
    assert spec.space["shares"].value("shares", second.raw) == pytest.approx(PUBLISHED)
    assert third.arm is None
    assert third.config_hash == spec.config_hash(third.config)
    assert {ask.seed for ask in (first, second, third)} == {0}


def test_an_ask_is_on_disk_before_tune_hears_of_it_and_a_row_before_it_is_judged(tmp_path: Path):
    seen = []

    class Judged(JournalScheduler):
        def should_stop(self, identity: str, row: dict[str, Any]) -> bool:
            seen.append((row["step"], (tmp_path / "journal.jsonl").read_text("utf-8").splitlines()[-1]))
            return row["step"] == 15

    tune = Tune(sampled(), tmp_path, lag=1)
    tune.scheduler = Judged(tune.journal, tmp_path)
    assert tune.start() == "t0001"
    assert '"event": "ask", "trial": "t0001"' in (tmp_path / "journal.jsonl").read_text("utf-8")
    assert tune.report("t0001", 5) == TrialScheduler.CONTINUE
    assert tune.report("t0001", 5, 10) == TrialScheduler.CONTINUE
    assert [step for step, _ in seen] == [5, 10], "a row that is known was judged again"
    assert tune.report("t0001", 15, 20) == TrialScheduler.STOP
    assert [step for step, _ in seen] == [5, 10, 15]
    assert all(f'"step": {step}' in line for step, line in seen)
    tune.end("t0001")
    record = tune.journal.trials["t0001"]
    assert (record.state, record.step, record.end and record.end.reason) == (
        "stopped",
        15,
        "stopped by judged at step 15",
    )


def test_the_study_tells_each_state_as_it_is(tmp_path: Path):
    tune = Tune(sampled(), tmp_path, lag=4)
    tune.fill()
    for identity in ("t0001", "t0002", "t0003", "t0004"):
        tune.report(identity, 5, 10)
    tune.end("t0001")
    tune.scheduler._end(tune.journal.trials["t0002"], "stopped")
    tune.end("t0003", error=True)
    optuna_study.write_study(tune.search.spec, tune.journal, tmp_path / "optuna.log")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    trials = optuna.load_study(study_name="toy", storage=storage).trials
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL, TrialState.RUNNING]
    assert [trial.state for trial in trials] == states
    assert [trial.value for trial in trials] == [tune.journal.trials["t0001"].score("val/loss"), None, None, None]
    assert [list(trial.intermediate_values) for trial in trials] == [[5, 10]] * 4
    assert [trial.user_attrs["id"] for trial in trials] == ["t0001", "t0002", "t0003", "t0004"]
    assert [trial.user_attrs["name"] for trial in trials][:2] == ["baseline", "published"]
    assert [trial.user_attrs.get("arm") for trial in trials] == ["baseline", "published", None, None]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal.jsonl", "optuna.log"]


def test_failures_are_told_in_one_line_and_do_not_stop_the_others(tmp_path: Path):
    tune = Tune(sampled(trials=4), tmp_path, lag=1)
    tune.start()
    (tmp_path / "trials/t0001").mkdir(parents=True)
    (tmp_path / "trials/t0001/error.txt").write_text("RuntimeError: it broke\n\nTraceback ...\n", "utf-8")
    tune.end("t0001", error=True)
    tune.start()
    tune.report("t0002", 5)
    tune.end("t0002", error=True)
    tune.start()
    tune.end("t0003")
    tune.run(random.Random(0))
    ends = [record.end for record in tune.journal.trials.values()]
    assert [(end.state, end.reason) for end in ends if end] == [
        ("failed", "RuntimeError: it broke"),
        ("failed", "its process died; the machine may have run out of memory"),
        ("failed", "it ended without a report"),
        ("completed", None),
    ]


def test_a_point_between_legal_corners_that_is_refused_fails_without_running(tmp_path: Path, monkeypatch: Any):
    refused = SweepSpec.trainable_config

    def picky(self: SweepSpec, params: Any) -> dict[str, Any]:
        if len(tune.journal.trials) == 2:
            raise ValueError("x and y do not go together")
        return refused(self, params)

    tune = Tune(sampled(trials=4), tmp_path, lag=1)
    monkeypatch.setattr(SweepSpec, "trainable_config", picky)
    tune.run(random.Random(0))
    assert tune.start() == "t0004", "not now, then the next one"
    tune.run(random.Random(0))
    states = [record.state for record in tune.journal.trials.values()]
    assert states == ["completed", "completed", "failed", "completed"]
    end = tune.journal.trials["t0003"].end
    assert end is not None
    assert end.reason == "refused: x and y do not go together"


def test_tpe_learns_from_what_it_is_told(tmp_path: Path):
    def late_distance(method: str) -> float:
        (tmp_path / method).mkdir()
        tune = Tune(sampled(method, trials=40), tmp_path / method, lag=2)
        tune.run(random.Random(0))
        late = [record.ask.config for record in list(tune.journal.trials.values())[25:]]
        return sum(toy.Config.model_validate(config).optimum_distance for config in late) / len(late)

    assert late_distance("tpe") < 0.5 * late_distance("random")


def test_cmaes_keeps_its_generations(tmp_path: Path):
    tune = Tune(
        sampled("cmaes", trials=80, space={"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}, arms={}), tmp_path, 2
    )
    tune.run(random.Random(0))
    configs = [toy.Config.model_validate(record.ask.config) for record in tune.journal.trials.values()]
    spreads = [max(abs(one.x - 0.3) + abs(one.y - 0.7) for one in part) for part in (configs[5:20], configs[65:])]
    assert spreads[1] < 0.5 * spreads[0]
    assert max(attrs["cma:generation"] for attrs in tune.search._sampler_attrs.values() if attrs) > 5


def test_gp_asks_near_the_best_and_the_same_again(tmp_path: Path):
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tune = Tune(sampled("gp", trials=6), tmp_path / name, lag=2)
        tune.run(random.Random(len(name)))
        found.append(tune.points())
    assert found[0] == found[1]


def test_the_sampler_sees_the_latest_trials_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = watch_asks(monkeypatch)
    monkeypatch.setattr(optuna_search, "MEMORY", 5)
    tune = Tune(sampled(trials=9), tmp_path, lag=2)
    tune.run(random.Random(0))
    assert [len(trials) for trials in shown] == [2, 3, 4, 5, 5, 5, 5]


def test_arms_alone_are_run_seed_by_seed(tmp_path: Path):
    arms = {"a": {"x": 0.1}, "b": {"x": 0.2, "run_sd": 0.1}}
    spec = toy_spec(search={"method": "arms"}, arms=arms, seeds={"search": [4, 2]}, space={})
    journal = Journal(tmp_path / "journal.jsonl")
    listed: JournalSearch = ListSearch(spec, journal, 9, tmp_path / "optuna.log")
    tasks = [listed.suggest("tune's own id") for _ in range(5)]
    assert [(task["seed"], task["config"]["x"]) for task in tasks[:4]] == [(4, 0.1), (4, 0.2), (2, 0.1), (2, 0.2)]
    assert tasks[4] == Searcher.FINISHED
    assert [record.ask.params for record in journal.trials.values()] == [arms["a"], arms["b"]] * 2
    optuna_study.write_study(spec, journal, tmp_path / "optuna.log")


def test_seeds_of_samplers_are_spread():
    assert len({optuna_search.derive(seed, number) for seed in range(20) for number in range(50)}) == 1000


FEW = {"x": {"choice": [0.1, 0.3, 0.5, 0.7]}}
SOME = {"x": {"choice": [0.1, 0.3, 0.5, 0.7]}, "steps": {"loguniform": [20, 22], "integer": True}}
WHOLE = {"steps": {"randint": [20, 24]}, "report_every": {"randint": [4, 7]}}


def few(method: str = "tpe", trials: int = 20, **changes: Any) -> SweepSpec:
    return sampled(method, trials, **{"space": FEW, "arms": {"baseline": {"x": 0.5}}, **changes})


def asked(tune: Tune) -> list[tuple[Any, ...]]:
    """All that the sampler was asked for, what was asked for again in its place."""
    events = [event for event in tune.journal.events if isinstance(event, Ask | Repeat)]
    return [(event.number, event.raw, event.of if isinstance(event, Repeat) else None) for event in events]


@pytest.mark.parametrize("method", ["tpe", "random"])
@pytest.mark.parametrize(("space", "points", "trials"), [(FEW, 4, 20), (SOME, 12, 20), (SOME, 12, 9)])
def test_no_point_is_trained_twice_and_a_space_of_few_ends_when_all_were(
    tmp_path: Path, method: str, space: dict[str, Any], points: int, trials: int
):
    spec = few(method, trials, space=space)
    assert (spec.points, spec.total_trials) == (points, min(points, trials))
    assert spec.search.trials == trials, "the spec, and so its hash, stay as they were written"
    tune = Tune(spec, tmp_path, lag=3)
    tune.run(random.Random(0))
    params = [params for _, _, params, _ in tune.points()]
    assert len(params) == len({str(each) for each in params}) == spec.total_trials
    assert tune.start() == Searcher.FINISHED
    assert tune.search.remaining == 0
    assert design.searched(spec, tune.journal)


@pytest.mark.parametrize(
    ("method", "rule", "lag"), [("tpe", "none", 3), ("random", "none", 2), ("cmaes", "none", 3), ("tpe", "halving", 1)]
)
def test_what_is_asked_for_again_is_the_same_whatever_the_clock_and_however_often_cut_off(
    tmp_path: Path, method: str, rule: str, lag: int
):
    space = WHOLE if rule == "none" else {"x": FEW["x"], "report_every": WHOLE["report_every"]}
    scheduler = rule if rule == "none" else {"halving": {"first": 5, "reduction": 2}}
    spec = few(method, 18 if rule == "none" else 14, space=space, arms={}, scheduler=scheduler)
    found = []
    for number in (1, 2):
        (tmp_path / str(number)).mkdir()
        whole = Tune(spec, tmp_path / str(number), lag)
        whole.run(random.Random(number if lag > 1 else 1))
        found.append(asked(whole))
    (tmp_path / "cut").mkdir()
    clock, tune = random.Random(3), Tune(spec, tmp_path / "cut", lag)
    while tune.start() != Searcher.FINISHED:
        tune = Tune(spec, tmp_path / "cut", lag)  # nothing but the journal is left of the session before
        tune.run(clock, events=7)
    assert found[0] == found[1] == asked(tune)
    assert len(found[0]) > spec.total_trials, "a search that asks for nothing again tests nothing"


def test_the_sampler_and_the_study_on_disk_see_a_repeat_as_its_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shown = watch_asks(monkeypatch)
    tune = Tune(few("random", 4), tmp_path, lag=1)
    tune.run(random.Random(0))
    repeats = tune.journal.repeats("search")
    assert repeats
    scores = {record.ask.params["x"]: record.score("val/loss") for record in tune.journal.trials.values()}
    seen = [(params["x"], curve[20]) for state, params, curve in shown[-1] if state == TrialState.COMPLETE]
    assert len(seen) == len(shown[-1]) > 3
    assert all(value == scores[x] for x, value in seen)
    optuna_study.write_study(tune.search.spec, tune.journal, tmp_path / "optuna.log")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    study = optuna.load_study(study_name="toy", storage=storage)
    assert [(trial.params["x"], trial.value) for trial in study.trials[: len(seen)]] == seen
    assert len(study.trials) == 4 + len(repeats)
    of = {trial.user_attrs["id"] for trial in study.trials}
    assert of == set(tune.journal.trials)


@pytest.mark.parametrize(
    ("space", "reason"),
    [
        ({"x": {"uniform": [0, 1]}}, "the sampler asks for nothing but what has been tried"),
        (SOME, "all 12 points of the space have been tried"),
    ],
)
def test_a_search_that_finds_nothing_new_is_over_and_stays_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], reason: str
):
    """As where settings are different names for one configuration."""
    spec = few("tpe", 8, space=space)
    config = spec.trainable_config({})
    monkeypatch.setattr(SweepSpec, "trainable_config", lambda *_: config)
    tune = Tune(spec, tmp_path, lag=2)
    tune.run(random.Random(0))
    assert [tune.start(), tune.start()] == [Searcher.FINISHED] * 2
    assert tune.journal.over("search") == reason
    assert list(tune.journal.trials) == ["t0001"]
    again = Tune(spec, tmp_path, lag=2)
    assert (again.search.remaining, again.start()) == (0, Searcher.FINISHED)
    assert design.searched(spec, again.journal)
    assert design.expected(spec, again.journal) == 1


def test_a_search_that_was_begun_with_repeats_among_its_trials_is_over_when_all_points_were_tried(tmp_path: Path):
    """As earlier versions did."""
    tune = Tune(few("tpe", 20), tmp_path, lag=1)
    tune.run(random.Random(0))
    first = next(iter(tune.journal.trials.values()))
    tune.journal.append(dataclasses.replace(first.ask, trial="t0005", number=4))
    tune.journal.append(End(trial="t0005", state="completed"))
    assert design.searched(tune.search.spec, tune.journal)
    assert design.expected(tune.search.spec, tune.journal) == 5
