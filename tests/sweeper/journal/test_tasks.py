"""Tasks: asked for before anything runs, scored when the spec says so, and shown beside the untrained model."""

from __future__ import annotations

import csv
import io
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sweeper import run, trainable
from sweeper.confirmation import conclusion, design
from sweeper.journal.events import Family, Verdict
from sweeper.journal.journal import Journal
from sweeper.journal.records import describe
from sweeper.plan import estimate
from sweeper.preflight import prepare_shared
from sweeper.report import scores, write
from sweeper.report.html.page import page
from sweeper.report.sections import FRONT, JUDGED, Outcome, sections
from sweeper.report.tables import results_csv
from sweeper.search.optuna_search import StudySearch
from sweeper.search.schedulers import JournalScheduler
from sweeper.search.searchers import ConfirmSearch, JournalSearch, ListSearch
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trials import cluster, trial, tuner
from sweeper.view import View
from tests.sweeper.report import test_pareto
from tests.sweeper.samples import session, toy_spec
from tests.sweeper.spec.test_objectives import BOTH, TASKS, judged

spec = test_pareto.spec  # a fixture

TREE: dict[str, Any] = {
    "name": "toy",
    "trainable": "trainables.toy:train",
    "space": {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}},
    "arms": {"baseline": {"x": 0.5}},
    "search": {"method": "tpe", "trials": 6},
    "objective": BOTH,
    "evaluate": {"tasks": {"toy": "pairs.txt"}},
}
CONFIRMED = {
    **TREE,
    "search": {"method": "random", "trials": 3},
    "seeds": {"search": [1], "confirm": [2, 3]},
    "confirm": {"best": 1},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "pairs.txt").write_text("a b\n", "utf-8")
    return tmp_path


def test_what_the_tasks_give_is_on_record(here: Path) -> None:
    data = sha256(Path("pairs.txt").read_bytes()).hexdigest()
    assert prepare_shared(resolve(TREE), print) == {"scores": ["toy/accuracy"], "toy_fingerprint": data}
    assert prepare_shared(toy_spec(), print) == {}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"evaluate": {"tasks": {"toy": "pairs.tx"}}}, "toy.yaml: evaluate: toy=pairs.tx: there is no such file"),
        (
            {"evaluate": {"tasks": {"blimp": "pairs.txt"}}},
            "toy.yaml: evaluate: there is no task 'blimp'; use toy",
        ),
        (
            {"objective": ["val/loss", "toy/acuracy"]},
            "toy.yaml: objective: no task reports 'toy/acuracy'; did you mean 'toy/accuracy'?",
        ),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_runs(
    here: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], told: str
) -> None:
    (here / "toy.yaml").write_text(yaml.safe_dump(TREE | changes), "utf-8")
    assert run.main(["toy.yaml"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert [line for line in output.err.splitlines() if "/dev/shm" not in line] == [f"error: {told}"]
    assert sorted(path.name for path in here.iterdir()) == ["pairs.txt", "toy.yaml"]


def test_a_plan_says_what_will_be_scored_and_that_it_does_not_count_its_time() -> None:
    def told(spec: SweepSpec) -> list[str]:
        lines = estimate.shown(spec, estimate.plan(spec, 1, trainable.Pace(0.1, 0.0)))
        return [" ".join(line.split()) for line in lines if "time is not in the estimate" in line]

    end = "their time is not in the estimate"
    assert told(judged()) == [f"tasks toy at the end of every trial: {end}"]
    later = toy_spec(evaluate={"at": "confirm", "tasks": {"toy": "a", "glue/rte": "b"}})
    assert told(later) == [f"tasks toy, glue/rte at the end of every run of the confirmation: {end}"]
    both = judged(evaluate={"at": "confirm", "tasks": {"toy": "a", "glue/rte": "b"}})
    split = "tasks toy at the end of every trial; glue/rte at the end of every run of the confirmation"
    assert told(both) == [f"{split}: {end}"]
    assert told(toy_spec()) == []


@pytest.mark.parametrize("at", ["trials", "confirm"])
def test_trials_are_told_of_tasks_when_they_are_to_score_them(tmp_path: Path, at: str) -> None:
    spec = toy_spec(evaluate={"at": at, **TASKS}, seeds={"search": [1], "confirm": [2, 3]})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(Family(look=1, baseline="baseline", arms=dict(spec.arms), seeds=[2, 3]))
    searching: JournalSearch = StudySearch(spec, journal, 1, tmp_path / "optuna.log", 1)
    confirming = ConfirmSearch(spec, journal, 1, tmp_path / "optuna.log")
    told = [one.suggest("tune's own id")["evaluate"] for one in (searching, confirming)]
    assert told == [TASKS["tasks"] if at == "trials" else {}, TASKS["tasks"]]


def test_scores_stand_beside_those_of_the_untrained_model(tmp_path: Path, spec: SweepSpec) -> None:
    journal = test_pareto.written(tmp_path, spec)
    text = scores.section(spec, journal, describe)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    assert rows[0] == ["what", "n", "toy/accuracy", "toy/untrained", "val/loss"]
    assert rows[2:4] == [
        ["baseline", "2", "0.6000", "0.5000", "1.1000"],
        ["x3", "2", "0.7000", "0.5000", "1.0000"],
    ]
    assert rows[-1] == ["x6", "1", "0.9100", "0.5000", "1.3900"]
    assert "exploration" in text
    unasked = Journal(tmp_path / "unasked.jsonl")
    for event in [session(), *journal.events[1:]]:
        unasked.append(event)
    assert scores.section(spec, unasked, describe) == "", "what is no task's is not shown as one"


def test_the_reports_have_the_front_and_the_scores(tmp_path: Path, spec: SweepSpec) -> None:
    journal = test_pareto.written(tmp_path, spec)
    outcome = Outcome(run_dir=tmp_path, tracking_uri="sqlite:////s/mlflow.db")
    found = sections(spec, journal, outcome)
    assert list(found)[:6] == ["", FRONT, JUDGED, "Setup", "How the verdict was reached", "What ran"]
    assert "objective val/loss, toy/accuracy" in found["What ran"]
    assert "* tasks: toy at the end of every trial" in found["What ran"]
    assert found["Search trials"].splitlines()[2].split("|")[5:7] == [" val/loss ", " toy/accuracy "]
    text = page(spec, journal, outcome, {})
    assert text.index(f"<h2>{FRONT}</h2>") < text.index('class="pareto"') < text.index(f"<h2>{JUDGED}</h2>")
    rows = list(csv.DictReader(io.StringIO(results_csv(spec, journal))))
    assert [float(rows[0][key]) for key in ("toy/accuracy", "toy/untrained", "toy/ties")] == [0.61, 0.5, 0.0]
    assert next(row for row in rows if row["state"] == "failed")["toy/accuracy"] == ""
    plain = sections(toy_spec(), Journal(tmp_path / "none"), outcome)
    assert not {FRONT, JUDGED} & plain.keys()


def begun(spec: SweepSpec, here: Path) -> tuple[Path, Journal]:
    """A run folder and its journal, with a first session."""
    folder = here / "run"
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    journal = Journal(folder / "journal.jsonl")
    first = session()
    journal.append(type(first)(**{**vars(first), "facts": prepare_shared(spec, print)}))
    return folder, journal


@pytest.mark.parametrize("name", ["toy", "toy/rte"])
def test_from_the_spec_to_the_report(here: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A search and its confirmation, one trial after the other in this process."""
    spec = scored(name)
    folder, journal = begun(spec, here)
    through(StudySearch(spec, journal, 1, folder / "optuna.log", 1), folder, monkeypatch)
    journal.append(design.declared(spec, journal, fresh=True, earlier=0))
    through(ConfirmSearch(spec, journal, 1, folder / "optuna.log"), folder, monkeypatch)
    assert_told(spec, journal, folder, f"{name}/accuracy")


def scored(name: str, **changes: Any) -> SweepSpec:
    given = {"objective": ["val/loss", f"{name}/accuracy"], "evaluate": {"tasks": {name: "pairs.txt"}}}
    return resolve(CONFIRMED | given | changes)


def through(search: JournalSearch, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recording = JournalScheduler(search.journal, folder)
    while search.remaining:
        task = search.suggest("tune's own id")
        one = SimpleNamespace(config=task)
        monkeypatch.setattr(trial.tune, "report", lambda row, one=one: recording.on_trial_result(None, one, row))
        trial.run({**tuner.shared(search.spec, folder), **task})
        recording.on_trial_complete(None, one, {})


def assert_told(spec: SweepSpec, journal: Journal, folder: Path, score: str) -> None:
    records = list(journal.trials.values())
    assert [record.state for record in records] == ["completed"] * (spec.total_trials + spec.confirm_trials)
    assert [[score in row.metrics for row in record.rows] for record in records] == [[False] * 3 + [True]] * len(
        records
    )
    assert write.main([str(folder)]) == 0
    text = " ".join((folder / "report.md").read_text("utf-8").split())
    assert f"## {FRONT} " in text
    assert "| baseline | 2 |" in text.split("Of the confirmation:")[1].split("Of the search")[0]
    assert f"| {score} | {score.removesuffix('accuracy')}untrained |" in text


SEEDS = [*range(2, 10)]
THREE = ["toy/comps", "toy/ewok", "toy/reading"]


def confirmed(here: Path, monkeypatch: pytest.MonkeyPatch, **changes: Any) -> tuple[SweepSpec, Journal, Path]:
    """A search that aims at `toy`, and its confirmation with three tasks more, in this process."""
    tasks = dict.fromkeys(["toy", *THREE], "pairs.txt")
    given = {
        "evaluate": {"at": "confirm", "tasks": tasks},
        "seeds": {"search": [1], "confirm": SEEDS},
        "confirm": {"best": 2},
        "config": {"run_sd": 0.001, "seed_sd": 0.1},
    }
    spec = resolve({**CONFIRMED, **given, **changes})
    folder, journal = begun(spec, here)
    listed = spec.search.method == "arms"
    log = folder / "optuna.log"
    searching = ListSearch(spec, journal, 1, log) if listed else StudySearch(spec, journal, 1, log, 1)
    through(searching, folder, monkeypatch)
    journal.append(design.declared(spec, journal, fresh=True, earlier=0))
    while True:
        through(ConfirmSearch(spec, journal, 1, folder / "optuna.log"), folder, monkeypatch)
        journal.append(Verdict(data=conclusion.conclude(spec, journal, folder).to_dict()))
        if (family := design.following(spec, journal)) is None:
            return spec, journal, folder
        journal.append(family)


def test_tasks_have_verdicts_of_their_own_on_record_and_in_every_report(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, journal, folder = confirmed(here, monkeypatch)
    searched = {key for one in journal.stage("search") for key in one.rows[-1].metrics if key.endswith("/accuracy")}
    assert searched == {"toy/accuracy"}, "the search scores what it aims at, the confirmation all four"
    journal.close()
    again = Journal(folder / "journal.jsonl", read_only=True).verdict() or {}
    said = again["tasks"]
    arms = [one["arm"] for one in again["comparisons"]]
    names = [f"{name}/accuracy" for name in ("toy", *THREE)]
    assert [(one["metric"], one["arm"]) for one in said["comparisons"]] == [
        (name, arm) for name in names for arm in arms
    ]
    assert len(arms) == 2
    runs = {(one.ask.arm, one.ask.seed): one.rows[-1].metrics for one in journal.stage("confirm")}

    def accuracy(arm: str) -> float:
        """Without noise."""
        settings: Any = spec.settings(journal.families()[0].arms[arm])
        return settings.accuracy

    for one in said["comparisons"]:
        pairs = [runs[one["arm"], seed][one["metric"]] - runs["baseline", seed][one["metric"]] for seed in one["seeds"]]
        assert one["seeds"] == SEEDS
        assert one["differences"] == pytest.approx(pairs)
        assert one["verdict"] == ("better" if accuracy(one["arm"]) > accuracy("baseline") else "worse")
    assert "after Holm over 4 tasks and 2 arms" in said["rule"][0]

    assert write.main([str(folder)]) == 0
    report = (folder / "report.md").read_text("utf-8")
    judged_part = report.split(f"## {JUDGED}")[1].split("\n## ")[0]
    assert "Secondary to test/loss" in judged_part
    rows = [line for line in judged_part.splitlines() if line.startswith("| toy")]
    assert len(rows) == 8
    assert all(row.rstrip(" |").endswith(("better", "worse")) for row in rows)
    assert "Secondary to test/loss" in (folder / "report.html").read_text("utf-8")
    assert (folder / "table.tex").read_text("utf-8").count("toy/ewok/accuracy") == 2
    assert "As secondary outcomes, the scores on 4 tasks (toy/accuracy, " in report
    frame = View(folder).task_verdicts()
    assert list(frame["task"]) == [one["metric"] for one in said["comparisons"]]
    assert list(frame["verdict"]) == [one["verdict"] for one in said["comparisons"]]
    assert all(row["low"] < row["difference"] < row["high"] for row in frame.to_dict("records"))


def test_an_arm_that_a_look_settled_keeps_what_its_tasks_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arms = {"baseline": {"x": 0.5}, "far": {"x": 0.9}, "close": {"x": 0.499}}
    looks = {"until": "decided", "looks": [6, 8], "worthwhile": 0.001}
    given = {"arms": arms, "space": {}, "search": {"method": "arms"}, "confirm": looks, "config": {"run_sd": 0.01}}
    spec, journal, folder = confirmed(here, monkeypatch, **given)
    first, last = design.verdicts(journal)
    kept = [arm for arm, look in last["settled"].items() if look == 1]
    before, now = (
        {(one["metric"], one["arm"]): one for one in verdict["tasks"]["comparisons"]} for verdict in (first, last)
    )
    assert kept == ["far"]
    assert before.keys() == now.keys()
    for key, one in now.items():
        assert (one == before[key]) is (key[1] in kept)
        assert one["n"] == (6 if key[1] in kept else 8)
    assert first["tasks"]["alpha"] < last["tasks"]["alpha"] < 0.05
    assert first["tasks"]["alpha"] != first["alpha"], "levels of looks depend on how many comparisons Holm adjusts for"

    monkeypatch.setattr(conclusion, "_strayed", lambda *_: ["far"])
    said = conclusion.conclude(spec, journal, folder).to_dict()
    assert said["told"]["far"] == "budget not matched"
    apart = [one for one in said["tasks"]["comparisons"] if one["arm"] == "far"]
    assert len(apart) == 4
    assert {(one["n"], scores.told(one)) for one in apart} == {(0, "dropped: budget not matched")}


def test_a_verdict_without_tasks_is_what_it_was(tmp_path: Path) -> None:
    spec = toy_spec(seeds={"search": [0], "confirm": [2, 3]}, search={"method": "arms"}, space={}, arms=ARMS)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(session())
    journal.append(Family(look=1, baseline="a", arms=dict(spec.arms), seeds=[2, 3]))
    data = conclusion.conclude(spec, journal, tmp_path).to_dict()
    assert "tasks" not in data


ARMS = {"a": {"x": 0.5}, "b": {"x": 0.4}}


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_under_ray(here: Path, workers: int) -> None:
    spec = scored("toy/rte", resources={"workers": workers})
    folder = here / "run"
    folder.mkdir()
    (folder / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    journal = Journal(folder / "journal.jsonl")
    with cluster.session():
        assert tuner.run(spec, folder, journal, 2, facts=prepare_shared(spec, print))
        journal.append(design.declared(spec, journal, fresh=True, earlier=0))
        assert tuner.confirm(spec, folder, journal, 2)
    assert_told(spec, journal, folder, "toy/rte/accuracy")
