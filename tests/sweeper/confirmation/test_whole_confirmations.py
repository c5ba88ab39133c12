"""Whole sweeps with a confirmation against one real tracking store: what is told, tagged and crowned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.trials import cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SEEDS = [*range(101, 109)]
NOISE = {"steps": 4, "report_every": 2, "seed_sd": 0.1, "run_sd": 0.01}
Sweep = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sweep]:
    """The command on a spec in one storage folder, with what it says as JSON."""
    folder = tmp_path_factory.mktemp("verdicts")
    with cluster.session():
        import ray

        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment |= {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
        environment.pop("MLFLOW_TRACKING_URI", None)

        def sweep(name: str, *arguments: str, **changes: Any) -> dict[str, Any]:
            tree = {
                "name": name,
                "trainable": "trainables.toy:train",
                "config": NOISE,
                "search": {"method": "arms"},
                "seeds": {"search": [1], "confirm": SEEDS},
            }
            path = folder / f"{name}.yaml"
            path.write_text(yaml.safe_dump(tree | changes, sort_keys=False), "utf-8")
            command = [sys.executable, "-m", "sweeper.run", str(path), "--storage", str(folder / "runs"), "--json"]
            done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=250)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout.splitlines()[-1]) | {"said": done.stderr}

        yield sweep


def arms(**effects: float) -> dict[str, Any]:
    return {name: {"effect": effect} for name, effect in effects.items()}


def registered(told: dict[str, Any], alias: str) -> tuple[str, dict[str, str]] | None:
    """The version that an alias names, and its tags."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        found = MlflowClient(told["tracking_uri"]).get_model_version_by_alias(told["name"], alias)
    except MlflowException:
        return None
    return str(found.version), dict(found.tags)


def test_a_win_then_a_challenger_that_loses_then_one_that_wins(sweep: Sweep) -> None:
    won = sweep("crown", arms=arms(baseline=0.0, better=-0.1))
    assert won["verdict"]["told"] == {"better": "confirmed"}
    version, tags = registered(won, "champion") or ("", {})
    assert tags["sweeper.verdict"] == "confirmed"
    assert float(tags["sweeper.difference"]) == pytest.approx(-0.1, abs=0.02)
    low, high = json.loads(tags["sweeper.interval"])
    assert low < -0.1 < high < 0
    assert (tags["sweeper.pairs"], tags["sweeper.metric"]) == ("8", "test/loss")
    assert Path(tags["sweeper.report"]).is_file()
    first = next(trial for trial in won["trials"] if trial["id"] == tags["sweeper.trial"])
    assert (first["arm"], first["seed"]) == ("better", 101), "of the first declared seed, not of the best"
    assert registered(won, "candidate") is not None

    lost = sweep("crown", arms=arms(baseline=0.0, worse=0.1), seeds={"search": [1], "confirm": [*range(201, 209)]})
    assert lost["verdict"]["told"]["worse"] == "worse"
    assert len(lost["verdict"]["told"]) == 2, "the standing champion was trained again, on the new seeds"
    assert "confirmed" in lost["verdict"]["told"].values()
    assert registered(lost, "champion") == (version, tags), "it stays"

    beaten = sweep("crown", arms=arms(baseline=0.0, best=-0.2), seeds={"search": [1], "confirm": [*range(301, 309)]})
    assert beaten["verdict"]["told"]["best"] == "confirmed"
    after, tags = registered(beaten, "champion") or ("", {})
    assert after != version
    assert json.loads(tags["sweeper.params"]) == {"effect": -0.2}
    last = next(trial for trial in beaten["trials"] if trial["id"] == tags["sweeper.trial"])
    assert (last["arm"], last["seed"]) == ("best", 301)


def test_where_nothing_is_confirmed_no_champion_is_named_and_the_report_says_so(sweep: Sweep) -> None:
    told = sweep("null", arms=arms(baseline=0.0, same=0.0))
    assert told["verdict"]["champion"] is None
    assert registered(told, "champion") is None
    assert registered(told, "candidate") is not None
    assert "Nothing is confirmed" in Path(told["report"]).read_text("utf-8")


@pytest.mark.parametrize(
    ("form", "labels"),
    [
        ("leave_one_out", ["full", "without-x", "without-y", "plain"]),
        ("add_one", ["plain", "with-x", "with-y", "full"]),
        ("grid", ["plain", "y", "x", "full"]),
    ],
)
def test_an_ablation_runs_every_arm_on_every_seed_and_judges_each(sweep: Sweep, form: str, labels: list[str]) -> None:
    # x costs 0.09 where it is left at 0.6, y nothing.
    both = {"plain": {"x": 0.6, "y": 0.6}, "full": {"x": 0.3, "y": 0.8}}
    told = sweep(form, arms=both, ablation=form, config=NOISE | {"y": 0.6})
    runs = [(trial["arm"], trial["seed"]) for trial in told["trials"] if trial["stage"] == "confirm"]
    assert sorted(runs) == sorted((label, seed) for label in labels for seed in SEEDS)
    verdicts = told["verdict"]["told"]
    assert list(verdicts) == labels[1:]
    if form == "leave_one_out":
        assert verdicts["without-x"] == verdicts["plain"] == "worse"
        assert verdicts["without-y"] in ("no worthwhile difference", "inconclusive")
    else:
        assert verdicts["full"] == verdicts["with-x" if form == "add_one" else "x"] == "confirmed"
    folder = Path(told["run_dir"])
    rows = (folder / "results.csv").read_text("utf-8").splitlines()
    assert len(rows) == 1 + len(told["trials"])
    assert (folder / "table.tex").read_text("utf-8").count(r"\\") >= len(labels)


def test_a_later_look_adds_seeds_and_says_which_look_it_is(sweep: Sweep) -> None:
    some = sweep("looks", arms=arms(baseline=0.0, close=-0.006))
    more = sweep("looks", "--resume", some["run_dir"], "--more-seeds", "4", arms=arms(baseline=0.0, close=-0.006))
    assert (some["verdict"]["look"], more["verdict"]["look"]) == (1, 2)
    assert [each["n"] for each in more["verdict"]["comparisons"]] == [12]
    assert len(more["trials"]) == len(some["trials"]) + 8


def test_a_stuck_run_leaves_the_comparison_open_and_no_champion_is_named(sweep: Sweep) -> None:
    told = sweep("stuck", arms={"baseline": {}, "better": {"effect": -2.0, "stays": SEEDS[:2]}})
    words = "inconclusive: 2 runs of better stayed at the start"
    assert told["verdict"]["told"] == {"better": words}
    assert registered(told, "champion") is None
    assert words in Path(told["report"]).read_text("utf-8")
    stuck = {(trial["arm"], trial["seed"]) for trial in told["trials"] if trial["stuck"]}
    assert stuck == {("better", seed) for seed in SEEDS[:2]}
