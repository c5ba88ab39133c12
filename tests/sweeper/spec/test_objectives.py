"""Several objectives: what a spec may ask for, what the sampler is told, and that the first goes on to rule alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import TrialState

from sweeper.journal import records as records_of
from sweeper.search import optuna_study
from sweeper.spec.errors import SpecError
from sweeper.spec.load import load, resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trials import trial
from tests.sweeper.samples import toy_spec
from tests.sweeper.search import test_optuna_search as test_search
from tests.sweeper.spec.test_spec import EXPLICIT, TOY
from tests.sweeper.trials import test_trial
from trainables import toy

BOTH = ["val/loss", "toy/accuracy"]
MLM = {"trainable": "trainables.mlm:train", "space": {"masking.rate": {"uniform": [0.1, 0.2]}}, "arms": {}}
TASKS = {"tasks": {"toy": "pairs.txt"}}

driver = test_trial.driver


def judged(method: str = "tpe", trials: int = 12, **changes: Any) -> SweepSpec:
    given: dict[str, Any] = {"objective": BOTH, "evaluate": TASKS, "search": {"method": method, "trials": trials}}
    return toy_spec(**{**given, **changes})


class Tune(test_search.Tune):
    """Its trials score the task where they are told to."""

    def report(self, identity: str, *steps: int) -> str:
        told = self.running[identity].config
        config = toy.Config.model_validate(told["config"])
        rows: list[dict[str, float]] = [{"step": step, "val/loss": 1 + config.optimum_distance} for step in steps]
        if told["evaluate"] and steps[-1] == 20:
            rows[-1] |= {"toy/accuracy": config.accuracy}
        return self.scheduler.on_trial_result(None, self.running[identity], {"rows": rows})


# Made before there were tasks: a run begun then must be found again, and its champion challenged.
@pytest.mark.parametrize(
    ("tree", "spec_hash", "budget_hash", "config_hash"),
    [
        (TOY, "03492714beab304b", "63dd02adcbc34a99", "7a0ca78672c7aa03"),
        (EXPLICIT, "34dcae023bb2da05", "63dd02adcbc34a99", "5d1840161626723f"),
        ({**TOY, "objective": "val/loss_mask"}, "df2da4ee913bdd1e", "3feeae56a1c000b8", "7a0ca78672c7aa03"),
        (
            {**TOY, "objective": ["val/loss"], "evaluate": None},
            "03492714beab304b",
            "63dd02adcbc34a99",
            "7a0ca78672c7aa03",
        ),
    ],
)
def test_a_spec_without_tasks_has_the_hashes_that_it_always_had(
    tree: dict[str, Any], spec_hash: str, budget_hash: str, config_hash: str
) -> None:
    spec = resolve(tree)
    found = [spec.spec_hash, spec.budget_hash, spec.config_hash(spec.trainable_config({}))]
    assert [each[:16] for each in found] == [spec_hash, budget_hash, config_hash]
    assert "evaluate" not in spec.to_yaml()


def test_tasks_and_objectives_are_part_of_what_is_run_and_not_of_what_a_loss_depends_on(tmp_path: Path) -> None:
    plain, spec = toy_spec(), judged(trials=6)
    assert (spec.objective, spec.objectives) == ("val/loss", ("val/loss", "toy/accuracy"))
    only = toy_spec(evaluate=TASKS)
    later = toy_spec(evaluate={**TASKS, "at": "confirm"})
    assert len({one.spec_hash for one in (plain, spec, only, later)}) == 4
    config = plain.trainable_config({})
    assert len({(one.budget_hash, one.config_hash(config)) for one in (plain, spec, only, later)}) == 1
    (tmp_path / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    again = load(tmp_path / "spec.yaml")
    assert (again, again.spec_hash) == (spec, spec.spec_hash)
    assert spec.tasks(confirming=False) == spec.tasks(confirming=True) == {"toy": "pairs.txt"}
    assert (later.tasks(confirming=False), later.tasks(confirming=True)) == ({}, {"toy": "pairs.txt"})
    sets = ["evaluate.tasks.toy=other.txt", "objective=[val/loss, toy/accuracy]"]
    assert resolve(TOY, None, sets).objectives == spec.objectives


def test_a_search_scores_the_tasks_that_it_aims_at_even_if_the_others_wait() -> None:
    tasks = {"toy": "a.txt", "toy/b": "b.txt", "toy/c": "c.txt"}
    spec = judged(evaluate={"at": "confirm", "tasks": tasks}, objective=["val/loss", "toy/b/accuracy"])
    assert spec.tasks(confirming=False) == {"toy/b": "b.txt"}
    assert spec.tasks(confirming=True) == tasks
    assert judged(evaluate={"at": "trials", "tasks": tasks}).tasks(confirming=False) == tasks
    assert toy_spec(evaluate={"at": "confirm", "tasks": tasks}).tasks(confirming=False) == {}


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"objective": []}, "objective: () is too short: it needs at least 1"),
        ({"objective": ["val/loss", 3]}, "objective[1]: 3 should be text"),
        ({**MLM, "objective": "val/loss_freq_0"}, "objective: 'val/loss_freq_0' is only in a run's last row; put"),
        ({"objective": {"val/loss": 1}}, "objective: {'val/loss': 1} should be a list"),
        ({"objective": BOTH[::-1]}, "objective: 'toy/accuracy' must be a validation loss, such as val/loss"),
        ({"objective": [*BOTH, "val/loss"]}, "objective: duplicate 'val/loss'"),
        (
            {"objective": ["val/loss", "val/accuracy"]},
            "objective: 'val/accuracy' is neither a loss nor a task's score; only these",
        ),
        (
            {"evaluate": None},
            "objective: no search trial reports 'toy/accuracy': add its task to evaluate.tasks",
        ),
        (
            {"evaluate": {"at": "confirm", "tasks": {"toy/rte": "pairs.txt"}}},
            "objective: no search trial reports 'toy/accuracy': add its task to evaluate.tasks",
        ),
        ({"evaluate": {"at": "trial", **TASKS}}, "evaluate.at: 'trial' should be 'trials' or 'confirm'"),
        ({"evaluate": {"tasks": {}}}, "evaluate.tasks: {} is too short: it needs at least 1"),
        ({"evaluate": {}}, "evaluate.tasks: is missing"),
        ({"evaluate": {"tasks": {"toy": 3}}}, "evaluate.tasks.toy: 3 should be text"),
        ({"evaluate": {"task": {"toy": "a"}}}, "evaluate.task"),
        ({"objectives": BOTH}, "objectives: unknown key; did you mean 'objective'?"),
        ({"scheduler": "halving"}, "scheduler: needs a single objective, and there are 2: leave it out"),
        (
            {"search": {"method": "cmaes", "trials": 9}},
            "search.method: cmaes takes one objective, not 2; use tpe or gp",
        ),
        (
            {"trainable": "tests.sweeper.fragile:train"},
            "tests.sweeper.fragile:train has no check_tasks, so it scores no",
        ),
    ],
)
def test_what_no_sweep_can_aim_at_is_refused_in_one_line(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError) as error:
        judged(**changes)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", ["tpe", "random"])
def test_points_are_the_same_whatever_the_clock_and_however_often_a_sweep_is_cut_off(
    tmp_path: Path, method: str
) -> None:
    spec = judged(method)
    (tmp_path / "whole").mkdir()
    (tmp_path / "cut").mkdir()
    whole = Tune(spec, tmp_path / "whole", lag=2)
    whole.run(random.Random(1))
    clock, tune = random.Random(2), whole
    for _ in range(30):
        tune = Tune(spec, tmp_path / "cut", lag=2)
        tune.run(clock, events=7)
        if tune.search.remaining == 0 and not tune.running:
            break
    assert tune.points() == whole.points()
    assert len({str(params) for *_, params, _ in whole.points()}) == 12


@pytest.mark.slow
def test_gp_takes_both_and_asks_the_same_again(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        tune = Tune(judged("gp", trials=5), tmp_path / name, lag=1)
        tune.run(random.Random(len(name)))
        found.append(tune.points())
    assert found[0] == found[1]


def test_tpe_aims_at_both(tmp_path: Path) -> None:
    """Alone, the loss wants x at 0.3 and the task at 0.8."""

    def late(**changes: Any) -> list[float]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        space = {"x": {"uniform": [0, 1]}}
        tune = Tune(judged(trials=30, space=space, arms={}, **changes), folder, lag=2)
        tune.run(random.Random(0))
        return [record.ask.params["x"] for record in list(tune.journal.trials.values())[12:]]

    both, loss = late(), late(objective="val/loss")
    assert sum(0.25 < x < 0.85 for x in both) >= 13
    assert sum(x > 0.55 for x in both) > 2 * sum(x > 0.55 for x in loss)


def test_the_study_has_both_values_of_what_completed_and_no_curves(tmp_path: Path) -> None:
    tune = Tune(judged(), tmp_path, lag=4)
    tune.fill()
    for identity in ("t0001", "t0002", "t0003", "t0004"):
        tune.report(identity, 5)
    tune.report("t0001", 20)
    tune.report("t0002", 10)  # it never scored the task
    for identity in ("t0001", "t0002"):
        tune.end(identity)
    tune.end("t0003", error=True)
    optuna_study.write_study(tune.search.spec, tune.journal, tmp_path / "optuna.log")
    study = optuna.load_study(
        study_name="toy", storage=JournalStorage(JournalFileBackend(str(tmp_path / "optuna.log")))
    )
    assert study.directions == [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    states = [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.RUNNING]
    assert [one.state for one in study.trials] == states
    record = tune.journal.trials["t0001"]
    assert [one.values for one in study.trials] == [[record.score(name) for name in BOTH], None, None, None]
    assert [one.intermediate_values for one in study.trials] == [{}] * 4


def test_the_best_and_what_matters_go_by_the_first(tmp_path: Path) -> None:
    spec = judged()
    tune = Tune(spec, tmp_path, lag=1)
    tune.run(random.Random(0))
    records = list(tune.journal.trials.values())
    lowest = min(records, key=lambda record: record.score("val/loss") or 9)
    assert records_of.best(spec, records) is lowest
    assert lowest is not max(records, key=lambda record: record.score("toy/accuracy") or -9)
    importance = optuna_study.importance(spec, tune.journal)
    assert sum(importance.values()) == pytest.approx(1)


def test_a_trial_whose_last_row_lacks_an_objective_has_failed(tmp_path: Path, driver: test_trial.Driver) -> None:
    asked = {**test_trial.task(tmp_path), "further": ["toy/acuracy"], "evaluate": TASKS["tasks"]}
    with pytest.raises(
        ValueError, match=r"^objective 'toy/acuracy' is not in the last row; did you mean 'toy/accuracy'"
    ):
        trial.run(asked)
    assert driver.steps == [[5], [10], [15], [20]]
    assert (
        (test_trial.home(tmp_path) / trial.ERROR).read_text("utf-8").startswith("ValueError: objective 'toy/acuracy'")
    )
    driver.messages = []
    trial.run({**asked, "further": ["toy/accuracy"]})
    assert driver.steps == [[5, 10, 15, 20]], "there was nothing left to train, and the checkpoint tells the last row"
    assert [sorted(row) for row in driver.messages[0]][::3] == [
        ["step", "val/loss"],
        ["step", "toy/accuracy", "toy/ties", "toy/untrained", "val/loss"],
    ]
