"""Ask and tell: the points of a sweep that trains by itself, resumable, with a verdict; what was told is on record."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

import sweeper
from sweeper.api import Study
from sweeper.asking import TOLD, Asked
from sweeper.journal.events import Ask
from sweeper.journal.journal import Journal
from sweeper.system import files
from tests.sweeper.in_process import sweep
from tests.sweeper.samples import toy_spec
from trainables import toy

SEEDS = [101, 102, 103, 104, 105, 106]
Open = Callable[..., Study]


class Untracked:
    """In place of a tracker: MLflow's new store takes seconds."""

    parent_run_id, run_ids = None, MappingProxyType({})

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def start(self) -> None: ...

    def close(self, *_: Any, **__: Any) -> int:
        return 0


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Open]:
    """`sweeper.study` in a folder of the test's own, as if nothing had imported Ray; closes what is left open."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("sweeper.trials.cluster.isolate", lambda: None)
    if not request.node.name.endswith("in_mlflow"):
        monkeypatch.setattr("sweeper.asking.Tracker", Untracked)
    made: list[Study] = []

    def study(spec: Any, **changes: Any) -> Study:
        made.append(sweeper.study(spec, storage=tmp_path / "runs", **changes))
        return made[-1]

    yield study
    for one in made:
        one.close()


def trained(asked: Asked) -> list[dict[str, float]]:
    """The rows that the toy reports for a trial: a launcher in three lines."""
    rows: list[dict[str, float]] = []
    report = lambda row, _: rows.append(dict(row))  # noqa: E731
    toy.train(toy.Config.model_validate(asked.config), sweeper.TrainContext(report, seed=asked.seed, test=asked.test))
    return rows


def spec(**changes: Any) -> dict[str, Any]:
    """A search of the toy, and a confirmation after it."""
    seeds = {"search": [0], "confirm": SEEDS}
    noise = {"seed_sd": 0.05, "run_sd": 0.001}
    found = toy_spec(seeds=seeds, config=noise, confirm={"best": 1, "worthwhile": 0.001}, **changes)
    return found.model_dump(mode="json")


def points(journal: Journal) -> list[tuple[Any, ...]]:
    return [(one.stage, one.arm, one.seed, one.params) for one in journal.events if isinstance(one, Ask)]


def test_the_points_and_the_verdict_are_those_of_a_sweep_that_trains_by_itself(opened: Open, tmp_path: Path) -> None:
    with opened(spec()) as study:
        while asked := study.ask():
            study.tell(asked, trained(asked))
        assert study.over
        assert study.ask() is None
    run = study.run
    itself = sweep(run.spec, tmp_path / "other", confirm=True)
    assert points(run.journal) == points(itself)
    assert [one.score("val/loss") for one in run.journal.trials.values()] == [
        one.score("val/loss") for one in itself.trials.values()
    ]
    assert run.state == "completed"
    assert len(run.trials()) == 6
    assert len(run.confirmation()) == 2 * len(SEEDS)
    assert run.verdicts()["verdict"].tolist() == ["confirmed"]
    assert run.pairs()["seed"].tolist() == SEEDS
    assert TOLD in run.report.read_text("utf-8")
    with pytest.raises(sweeper.ConfigError, match="is closed"):
        study.ask()


@pytest.mark.slow
def test_a_study_goes_on_from_its_run_folder_with_what_was_not_told(opened: Open, tmp_path: Path) -> None:
    plain = spec()
    with opened(plain) as whole:
        while asked := whole.ask():
            whole.tell(asked, trained(asked))
    first = opened(plain, sets={"question": "again?"})
    for _ in range(3):
        asked = first.ask()
        assert asked
        first.tell(asked, trained(asked))
    left = first.ask()
    assert left
    assert first.ask() is None, "one at a time, unless resources.concurrency says otherwise"
    assert not first.over
    assert first.run.state == "open"
    with opened(first.run) as study:
        again = study.ask()
        assert again == left
        while again:
            study.tell(again, trained(again))
            again = study.ask()
    assert study.run_dir == first.run_dir
    assert points(study.run.journal) == points(whole.run.journal)
    assert study.run.journal.doubts().count(TOLD) == 1


def test_a_number_is_enough_where_nothing_else_is_asked_for(opened: Open) -> None:
    found = toy_spec(search={"method": "tpe", "trials": 4}, resources={"concurrency": 2})
    study = opened(found)
    first, second = study.ask(), study.ask()
    assert first
    assert second
    assert study.ask() is None
    study.tell(second.id, 1.5)
    study.tell(first, failed="the node was gone")
    third = study.ask()
    assert third
    study.tell(third, [{"step": 10, "val/loss": 2.0}, {"step": 20, "val/loss": float("nan")}])
    run = study.run
    told = (
        run.trials()[["state", "val/loss", "reason"]]
        .astype(object)
        .where(run.trials()[["state", "val/loss", "reason"]].notna(), None)
    )
    assert told.values.tolist() == [
        ["failed", None, "the node was gone"],
        ["completed", 1.5, None],
        ["failed", 2.0, "diverged: val/loss is nan at step 20"],
    ]


@pytest.mark.parametrize(
    ("result", "why"),
    [
        ([], "must ascend"),
        ([{"val/loss": 1.0}], "`step`"),
        ([{"step": 20, "loss": 1.0}], "lacks val/loss"),
        ([{"step": 10, "val/loss": 1.0}], "last row is of step 10, and the trial has 20"),
        ([{"step": 20, "val/loss": 1.0}, {"step": 20, "val/loss": 1.0}], "must ascend"),
        ([{"step": 20, "val/loss": "low"}], "numbers"),
        (None, "either a result or why it failed"),
    ],
)
def test_what_no_trial_would_report_is_refused_and_can_be_told_again(opened: Open, result: Any, why: str) -> None:
    study = opened(toy_spec())
    asked = study.ask()
    assert asked
    with pytest.raises(sweeper.ConfigError, match=why):
        study.tell(asked, result)
    with pytest.raises(sweeper.ConfigError, match="'t0099' is not out"):
        study.tell("t0099", 1.0)
    assert not study.journal.trials[asked.id].rows
    study.tell(asked, 1.0)
    with pytest.raises(sweeper.ConfigError, match="is not out"):
        study.tell(asked, 1.0)


def test_on_event_hears_of_failures_the_verdict_and_the_end(opened: Open, tmp_path: Path) -> None:
    heard = tmp_path / "heard.jsonl"
    code = f"import sys; open({str(heard)!r}, 'a').write(sys.stdin.read())"
    study = opened(spec(on_event=[[sys.executable, "-c", code]]))
    asked = study.ask()
    assert asked
    study.tell(asked, failed="the node was gone")
    while asked := study.ask():
        study.tell(asked, trained(asked))
    study.close()
    lines = [json.loads(line) for line in heard.read_text("utf-8").splitlines()]
    told = {one["event"]: one for one in lines}
    assert (len(lines), sorted(told), lines[-1]["event"]) == (3, ["end", "failure", "verdict"], "end")
    assert told["failure"]["trials"][0]["reason"] == "the node was gone"
    assert (told["end"]["state"], told["end"]["stopped"]) == ("completed", None)


def test_a_limit_ends_it_in_words_and_declares_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr("sweeper.api.say", lambda: said.append)
    study = opened(spec(limits={"failures": 2}, resources={"concurrency": 2}))
    for _ in range(4):
        asked = study.ask()
        assert asked
        study.tell(asked, trained(asked))
    last = [study.ask(), study.ask()]
    for each in last:
        assert each
        study.tell(each, failed="the node was gone")
    assert study.ask() is None
    assert study.ask() is None
    assert (study.over, study.journal.families()) == (False, [])
    (line,) = [line for line in said if line.startswith("stopped by ")]
    assert line.startswith("stopped by limits.failures: 2 trials failed in a row, the last, t0006: the node was gone")
    study.close()
    with opened(study.run) as again:
        assert again.ask(), "failures are counted anew"


def test_a_confirmation_needs_the_test_part(opened: Open) -> None:
    arms = {"baseline": {"x": 0.5}, "better": {"x": 0.3}}
    study = opened(toy_spec(space={}, arms=arms, search={"method": "arms"}, seeds={"search": [], "confirm": SEEDS}))
    asked = study.ask()
    assert asked
    assert (asked.stage, asked.test) == ("confirm", True)
    with pytest.raises(sweeper.ConfigError, match="lacks test/loss"):
        study.tell(asked, 1.0)


def test_a_rule_that_stops_trials_is_refused_and_so_is_a_second_driver(opened: Open) -> None:
    with pytest.raises(sweeper.ConfigError, match="runs every trial to its end"):
        opened(toy_spec(scheduler={"halving": {"first": 10}}))
    study = opened(toy_spec())
    with pytest.raises(sweeper.ConfigError, match="another sweep is running"):
        opened(sweeper.load(study.run_dir))
    before = files.mode()
    study.close()
    assert before == 0o600


@pytest.mark.slow
def test_what_was_told_is_in_mlflow(opened: Open, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    study = opened(toy_spec(search={"method": "tpe", "trials": 3}))
    while asked := study.ask():
        study.tell(asked, trained(asked))
    study.close()
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    experiment = client.get_experiment_by_name("toy")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + 3
