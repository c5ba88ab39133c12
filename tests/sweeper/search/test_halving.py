"""Early stopping: what a rule decides depends on the journal alone, and what was stopped stays so everywhere."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from sweeper.journal.events import Ask, End, Report
from sweeper.journal.journal import Journal
from sweeper.search import optuna_study
from sweeper.search.schedulers import Halving, JournalScheduler, Median, scheduler
from sweeper.spec import early_stopping
from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes as nodes_module
from sweeper.trials import cluster, tuner
from tests.sweeper import samples
from tests.sweeper.samples import toy_spec
from tests.sweeper.search.test_optuna_search import Tune, sampled
from tests.sweeper.trials.test_tuner import assert_all_given_back

RULES: list[Any] = [{"halving": {"first": 4, "reduction": 2}}, {"median": {"trials": 2, "first": 6}}]


def halved(trials: int = 20, rule: Any = None, method: str = "random", **changes: Any) -> SweepSpec:
    return sampled(method, trials=trials, scheduler=rule or RULES[0], **changes)


def states(journal: Journal) -> list[tuple[str, int, str | None]]:
    return [(record.state, record.step, record.end and record.end.reason) for record in journal.trials.values()]


@pytest.mark.parametrize("rule", RULES, ids=["halving", "median"])
def test_decisions_after_a_kill_at_any_event_equal_the_undisturbed_ones(tmp_path: Path, rule: Any):
    spec = halved(rule=rule)
    tune = Tune(spec, tmp_path, lag=3)
    tune.run(random.Random(3))
    whole, lines = tune.journal, (tmp_path / "journal.jsonl").read_text("utf-8").splitlines(keepends=True)
    assert 3 < sum(record.state == "stopped" for record in whole.trials.values()) < 17
    seen = [table(tune.scheduler)]
    for cut in range(len(lines) - 1, 0, -1):
        folder = tmp_path / str(cut)
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(lines[:cut]), "utf-8")
        resumed = scheduler(spec, Journal(folder / "journal.jsonl"), folder)
        seen.append(table(resumed))
        if cut % 9 == 0:
            go_on(resumed, whole, cut)
            assert states(resumed.journal) == states(whole)
            assert table(resumed) == seen[0]
    steps = seen[::-1]
    live = scheduler(spec, Journal(tmp_path / "live.jsonl"), tmp_path)
    for cut, event in enumerate(whole.events[:-1]):
        go_on(live, whole, cut, cut + 1)
        assert table(live) == steps[cut], f"after event {cut}, {event}"


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_points_and_decisions_at_one_trial_a_time_survive_any_kill(tmp_path: Path, method: str):
    spec = halved(method=method)
    folders = [tmp_path / "whole", tmp_path / "again", tmp_path / "cut"]
    for folder in folders:
        folder.mkdir()
    whole, again = (Tune(spec, folder, lag=1) for folder in folders[:2])
    whole.run(random.Random(0))
    again.run(random.Random(1))
    assert (again.points(), states(again.journal)) == (whole.points(), states(whole.journal))
    assert {"stopped", "completed"} == {state for state, *_ in states(whole.journal)}
    while (tune := Tune(spec, folders[2], lag=1)).search.remaining:
        tune.run(random.Random(2), events=3)
    assert (tune.points(), states(tune.journal)) == (whole.points(), states(whole.journal))


@pytest.mark.parametrize("method", ["tpe", "cmaes"])
def test_the_next_point_after_a_kill_is_what_the_journal_makes_it(tmp_path: Path, method: str):
    """With several trials at a time, too: the journal says what had ended at each earlier question."""
    spec = halved(method=method, trials=60, arms={}, space={"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}})
    tune = Tune(spec, tmp_path, lag=4)
    tune.run(random.Random(3))
    whole, lines = tune.journal, (tmp_path / "journal.jsonl").read_text("utf-8").splitlines(keepends=True)
    asks = [(at, event) for at, event in enumerate(whole.events) if isinstance(event, Ask)]
    ends = [event.trial for event in whole.events if isinstance(event, End)]
    assert ends != sorted(ends), "trials that end in their order test nothing"
    for at, ask in asks[19::20]:
        folder = tmp_path / ask.trial
        folder.mkdir()
        (folder / "journal.jsonl").write_text("".join(lines[:at]), "utf-8")
        resumed = Tune(spec, folder, lag=4)
        point = resumed.search.point(ask.number)
        assert point is not None
        assert (point.params, point.raw) == (ask.params, ask.raw)
    if method == "cmaes":
        assert max(attrs.get("cma:generation", 0) for attrs in tune.search._sampler_attrs.values()) > 1


def rungs(rule: Halving) -> dict[int, dict[str, float]]:
    """Milestone -> trial id -> the objective recorded there; the lowest milestone first."""
    (bracket,) = rule.rule._brackets
    return {
        milestone: {identity: -value for identity, value in recorded.items()}
        for milestone, recorded in reversed(bracket._rungs)
    }


def table(rule: JournalScheduler) -> Any:
    """All that a rule knows."""
    if isinstance(rule, Halving):
        return rungs(rule)
    assert isinstance(rule, Median)
    return {trial.trial_id: [row["val/loss"] for row in rows] for trial, rows in rule.rule._results.items() if rows}


def go_on(rule: JournalScheduler, whole: Journal, begin: int, end: int | None = None) -> None:
    """What Tune would tell after so many events of a sweep, were the clock the same."""
    for event in whole.events[begin:end]:
        match event:
            case Ask():
                rule.journal.append(event)
                rule.on_trial_add(None, tune_trial(event.trial))
            case Report():
                rows = [{"step": event.step, **event.metrics}]
                rule.on_trial_result(None, tune_trial(event.trial), {"rows": rows})
            case End():
                rule.on_trial_complete(None, tune_trial(event.trial), {})


def tune_trial(identity: str) -> Any:
    return SimpleNamespace(config={"id": identity}, trial_id="tune's own id", status="RUNNING")


def test_a_stop_that_the_last_session_did_not_write_down_is_made_good(tmp_path: Path):
    tune = Tune(halved(), tmp_path, lag=3)
    tune.run(random.Random(3))
    lines = (tmp_path / "journal.jsonl").read_text("utf-8").splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if '"state": "stopped"' in line)
    (tmp_path / "journal.jsonl").write_text("".join(lines[:at]), "utf-8")
    journal = Journal(tmp_path / "journal.jsonl")
    scheduler(tune.search.spec, journal, tmp_path)
    record = journal.trials[json.loads(lines[at])["trial"]]
    assert (record.state, record.end and record.end.reason) == ("stopped", f"stopped by halving at step {record.step}")
    again = len(journal.events)
    scheduler(tune.search.spec, journal, tmp_path)
    assert len(journal.events) == again


def test_rungs_lie_where_the_spec_says_and_a_full_trial_is_never_stopped(tmp_path: Path):
    spec = halved(rule={"halving": {"first": 5, "reduction": 2}})
    assert (spec.steps, spec.rungs) == (20, [5, 10])
    rule = scheduler(spec, Journal(tmp_path / "journal.jsonl"), tmp_path)
    assert isinstance(rule, Halving)
    assert [rung for rung in rungs(rule) if rung < 20] == spec.rungs
    for number, loss in enumerate([1.0, 1.1, 1.2, 9.0]):
        rule.journal.append(samples.ask(spec, number, 0, x=0.5, shares=samples.PUBLISHED))
        rule.on_trial_add(None, tune_trial(f"t{number:04d}"))
        decision = rule.on_trial_result(None, tune_trial(f"t{number:04d}"), rows((20, loss)))
        assert decision == "CONTINUE"
        rule.on_trial_complete(None, tune_trial(f"t{number:04d}"), {})
    assert not any(rungs(rule).values()), "the full length is no rung"
    assert {state for state, *_ in states(rule.journal)} == {"completed"}


def test_a_trial_is_judged_at_its_first_report_from_a_rung_on_and_once(tmp_path: Path):
    spec = halved(rule={"halving": {"first": 2, "reduction": 2}})
    rule = scheduler(spec, Journal(tmp_path / "journal.jsonl"), tmp_path)
    assert isinstance(rule, Halving)
    rule.journal.append(samples.ask(spec, 1, 0, x=0.5, shares=samples.PUBLISHED))
    rule.on_trial_add(None, tune_trial("t0001"))
    rule.on_trial_result(None, tune_trial("t0001"), rows((1, 5.0), (5, 3.0), (6, 2.0), (10, 1.5), (15, 1.0)))
    recorded = {rung: values for rung, values in rungs(rule).items() if values}
    assert recorded == {4: {"t0001": 3.0}, 8: {"t0001": 1.5}}, "2 was passed on the way"


def test_the_baseline_is_judged_and_never_stopped(tmp_path: Path):
    spec = halved(rule={"halving": {"first": 5, "reduction": 2}})
    baseline, other = spec.arms
    rule = scheduler(spec, Journal(tmp_path / "journal.jsonl"), tmp_path)
    decisions = {}
    for number, (arm, loss) in enumerate([(other, 1.0), (other, 9.0), (baseline, 9.0)]):
        rule.journal.append(samples.ask(spec, number, 0, arm=arm, **spec.arms[arm]))
        rule.on_trial_add(None, tune_trial(f"t{number:04d}"))
        decisions[number] = rule.on_trial_result(None, tune_trial(f"t{number:04d}"), rows((5, loss)))
    assert decisions == {0: "CONTINUE", 1: "STOP", 2: "CONTINUE"}
    assert isinstance(rule, Halving)
    assert set(rungs(rule)[5]) == {"t0000", "t0001", "t0002"}


def rows(*pairs: tuple[int, float]) -> dict[str, Any]:
    return {"rows": [{"step": step, "val/loss": loss} for step, loss in pairs]}


def test_stopped_trials_are_pruned_in_optunas_storage_and_never_best(tmp_path: Path):
    tune = Tune(halved(), tmp_path, lag=3)
    tune.run(random.Random(3))
    optuna_study.write_study(tune.search.spec, tune.journal, tmp_path / "optuna.log")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    study = optuna.load_study(study_name="toy", storage=storage)
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    stopped = [record for record in tune.journal.trials.values() if record.state == "stopped"]
    assert [trial.user_attrs["id"] for trial in pruned] == [record.id for record in stopped]
    for trial, record in zip(pruned, stopped, strict=True):
        assert trial.value is None
        assert trial.intermediate_values == {row.step: row.metrics["val/loss"] for row in record.rows}
        assert trial.last_step == record.step < 20
    assert study.best_trial.state == TrialState.COMPLETE


def test_one_form_with_everything_written_out():
    plain = toy_spec()
    assert (plain.scheduler, plain.rungs) == ("none", [])
    short, full = toy_spec(scheduler="halving"), toy_spec(scheduler={"halving": {"reduction": 3, "first": None}})
    assert short.scheduler == early_stopping.Halving(first=1, reduction=3)
    assert (short.spec_hash, short.to_yaml()) == (full.spec_hash, full.to_yaml())
    assert short.model_dump(mode="json")["scheduler"] == {"halving": {"first": 1, "reduction": 3}}
    assert toy_spec(scheduler="median").model_dump(mode="json")["scheduler"] == {"median": {"first": 1, "trials": 5}}
    assert len({plain.spec_hash, short.spec_hash, toy_spec(scheduler={"halving": {"first": 2}}).spec_hash}) == 3
    late = toy_spec(scheduler="halving", space={"warmup": {"uniform": [0.1, 0.45]}}, arms={})
    assert late.rungs == [14], "1.5 times 9, rounded up"


@pytest.mark.parametrize(
    ("rule", "warmup", "line"),
    [
        (
            {"halving": {"first": 8}},
            0.3,
            "scheduler.halving.first: 8 is too early after a warm-up",
        ),
        ({"halving": {"first": 8}}, 0.3, "of 6 steps; use 9 or more"),
        ({"median": {"first": 8}}, 0.3, "use 9 or more"),
        ("halving", 0.7, "scheduler: a warm-up of 14 of 20 steps leaves no room for a rung, allowed from step 21 on"),
        ("median", 0.7, "shorten the warm-up, or write scheduler: none"),
        ({"halving": {"first": 20}}, 0, "scheduler.halving.first: 20 is not below the full length of 20 steps"),
        ({"halving": {"reduction": 1}}, 0, "scheduler.halving.reduction: 1 should be greater than or equal to 2"),
        ({"halving": {"frist": 3}}, 0, "scheduler.halving.frist: unknown key; did you mean 'first'?"),
        ("halvign", 0, "scheduler: unknown scheduler 'halvign': did you mean 'halving'?"),
        ({"halving": {}, "median": {}}, 0, "is not a scheduler: write none, halving, median or"),
        ({"halving": "4"}, 0, "scheduler.halving: '4' should be a mapping"),
        (3, 0, "scheduler: 3 is not a scheduler: write none, halving, median or"),
    ],
)
def test_a_rule_that_could_not_judge_is_refused_in_one_line(rule: Any, warmup: float, line: str):
    with pytest.raises(SpecError) as error:
        toy_spec(scheduler=rule, config={"warmup": warmup})
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_trials_of_unequal_length_are_not_compared():
    space = {"steps": {"randint": [10, 40]}}
    assert toy_spec(space=space, arms={}).rungs == []
    with pytest.raises(SpecError, match="halving needs trials of one length; these have 10 to 40 steps"):
        toy_spec(space=space, arms={}, scheduler="halving")


GRID: dict[str, Any] = {
    "name": "grid",
    "trainable": "trainables.toy:train",
    "config": {"shares": {"random": 1.0}},
    "space": {"x": {"choice": [0.1, 0.5]}, "shares.token": {"choice": [0.0]}, "report_every": {"randint": [4, 5]}},
    "arms": {"baseline": {}, "late": {"y": 0.9}},
    "search": {"method": "grid"},
    "seeds": {"search": [3, 1]},
}


def test_a_grid_is_arms_in_the_order_of_the_product():
    spec = resolve(GRID)
    assert spec.search.method == "arms"
    assert spec.search.trials == spec.total_trials == 10
    names = ["x_0_1-token_0_0-report_every_4", "x_0_1-token_0_0-report_every_5", "x_0_5-token_0_0-report_every_4"]
    assert list(spec.arms) == ["baseline", "late", *names], "0.5 and 5 is the baseline already"
    assert spec.arms[names[1]] == {"x": 0.1, "shares.token": 0.0, "report_every": 5}
    assert resolve(json.loads(json.dumps(spec.model_dump(mode="json")))).spec_hash == spec.spec_hash


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"space": {"x": {"uniform": [0, 1]}}}, "space.x: method grid needs choice or randint, not uniform"),
        ({"space": {}}, "space: is empty: grid needs one"),
        ({"space": {"steps": {"randint": [1, 3000]}}}, "space: the grid has 3000 points, 2000 at most"),
        ({"search": {"method": "grid", "trials": 3}}, "search.trials: 3, but 5 arms times 2 search seeds is 10"),
        ({"arms": {"far": {"x": 0.3}}}, "arms.far.x: 0.3 is not one of 0.1, 0.5"),
        ({"space": {"x": {"choice": [0.1, 2.0]}}}, "2.0"),
    ],
)
def test_what_is_no_grid_is_refused_in_one_line(changes: dict[str, Any], line: str):
    with pytest.raises(SpecError) as error:
        resolve({**GRID, **changes})
    assert line in str(error.value)


def test_a_sampler_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in ("cmaes", "greenlet") else find(name))
    for method, package in (("cmaes", "cmaes"), ("gp", "greenlet")):
        with pytest.raises(
            SpecError, match=rf"search\.method: {method} needs {package}: pip install 'sweeper\[samplers\]'"
        ):
            toy_spec(search={"method": method, "trials": 6})
    with pytest.raises(SpecError, match=r"seeds\.search: gp takes exactly one seed, not 2"):
        toy_spec(search={"method": "gp", "trials": 6}, seeds={"search": [1, 2]})
    monkeypatch.undo()
    with pytest.raises(SpecError, match=r"search\.method: cmaes needs two numbers to search, the space has 1"):
        toy_spec(search={"method": "cmaes", "trials": 6}, space={"x": {"uniform": [0, 1]}}, arms={})


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[nodes_module.Node]]:
    with cluster.session() as nodes:
        yield nodes


def run(spec: SweepSpec, folder: Path, slots: int) -> Journal:
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    assert tuner.run(spec, folder, journal, slots)
    return journal


def test_a_real_sweep_stops_trials_resumes_alike_and_gives_everything_back(
    tmp_path: Path, nodes: list[nodes_module.Node]
):
    spec = halved(trials=10, resources={"concurrency": 1})
    whole = run(spec, tmp_path / "whole", 1)
    assert {"stopped", "completed"} == {state for state, *_ in states(whole)}
    lines = (tmp_path / "whole/journal.jsonl").read_text("utf-8").splitlines(keepends=True)
    at = [number for number, line in enumerate(lines) if '"state": "stopped"' in line][1]
    cut = tmp_path / "cut"
    (cut / "trials").mkdir(parents=True)
    for number in range(1, int(json.loads(lines[at])["trial"][1:]) + 1):
        (tmp_path / f"whole/trials/t{number:04d}").rename(cut / f"trials/t{number:04d}")
    (cut / "journal.jsonl").write_text("".join(lines[: at - 1]), "utf-8")  # its last report and its end are lost
    resumed = run(spec, cut, 1)
    assert states(resumed) == states(whole)
    tables = [scheduler(spec, journal, tmp_path) for journal in (whole, resumed)]
    assert table(tables[0]) == table(tables[1])
    assert_all_given_back()


@pytest.mark.slow
def test_a_long_clean_up_after_a_stop_holds_up_nothing_for_ever(tmp_path: Path, nodes: list[nodes_module.Node]):
    """By itself, Tune waits 2 s for a stopped trial to leave its process; then it drops the next one, silently."""
    arms = {"good": {"x": 0.3}, "bad": {"x": 1.0}, "worse": {"x": 0.95}, "better": {"x": 0.31}}
    spec = toy_spec(
        trainable="tests.sweeper.slow:train", search={"method": "arms"}, arms=arms, space={}, scheduler="halving"
    )
    journal = run(spec, tmp_path / "run", 1)
    assert [state for state, *_ in states(journal)] == ["completed", "stopped", "stopped", "stopped"]
    assert_all_given_back()


def test_a_trial_that_tune_drops_without_a_word_has_failed(tmp_path: Path):
    tune = Tune(sampled(trials=4), tmp_path, lag=1)
    tune.start()
    assert tune.start() is None
    tune.running["t0001"].status = "ERROR"
    assert tune.start() == "t0002"
    assert states(tune.journal)[0] == ("failed", 0, "dropped: the trial before it did not leave its process")
