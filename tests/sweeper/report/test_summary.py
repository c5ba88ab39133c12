"""The contract of `--json`: its keys, its trials, and how a sweep ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sweeper.journal.journal import Journal
from sweeper.report.sections import Outcome
from sweeper.report.summary import summary, sweep_state, trial_json
from tests.sweeper.samples import PUBLISHED, ask, end, toy_spec, written

KEYS = [
    "state",
    "name",
    "spec_hash",
    "run_dir",
    "tracking_uri",
    "experiment",
    "parent_run_id",
    "best",
    "trials",
    "bundle",
    "report",
    "verdict",
    "caution",
    "warm_start",
]
TRIAL_KEYS = ["id", "stage", "arm", "seed", "state", "step", "score", "params", "metrics", "audit", "run_id"]
TRIAL_KEYS += ["start", "reason", "stuck"]


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return written(tmp_path, toy_spec())


def test_the_summary_has_the_keys_it_promises(journal: Journal, tmp_path: Path) -> None:
    spec = toy_spec()
    where = Outcome(
        run_dir=tmp_path,
        tracking_uri="http://me:hunter2@host:5000",
        parent_run_id="p1",
        run_ids={"t0002": "r2"},
        bundle=tmp_path / "bundles" / "t0002",
    )
    told = summary(spec, journal, where)
    assert list(told) == KEYS
    assert all(list(trial) == TRIAL_KEYS for trial in told["trials"])
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["best"] == told["trials"][2]
    assert (told["state"], told["name"], told["experiment"]) == ("interrupted", "toy", "toy")
    assert (told["spec_hash"], told["parent_run_id"]) == (spec.spec_hash, "p1")
    assert (told["run_dir"], told["report"]) == (str(tmp_path), str(tmp_path / "report.md"))
    assert (told["bundle"], told["tracking_uri"]) == (str(tmp_path / "bundles" / "t0002"), "http://***@host:5000")


def test_a_trial_of_the_summary(journal: Journal) -> None:
    assert trial_json(journal.trials["t0001"], "val/loss", "r1") == {
        "id": "t0001",
        "stage": "search",
        "arm": "published",
        "seed": 0,
        "state": "completed",
        "step": 20,
        "score": 1.6,
        "params": {"x": 0.5, "shares": PUBLISHED},
        "metrics": {"val/loss": 1.6, "val/loss_mask": 2.5, "val/unigram_mask": 3.5},
        "audit": {
            "rate": 0.15,
            "fallbacks": 3.0,
            "refreshes": 5.0,
            "capped": 0.25,
            "shares": {"random": 0.85, "token": 0.15, "trigram": 0.0},
        },
        "run_id": "r1",
        "start": {"from": None, "step": 0},
        "reason": None,
    }


def test_states_and_what_is_missing_in_the_summary(journal: Journal) -> None:
    trials = [trial_json(record, "val/loss", None) for record in journal.trials.values()]
    assert [trial["state"] for trial in trials] == ["completed"] * 3 + ["stopped", "failed", "interrupted"]
    failed = trials[4]
    assert (failed["step"], failed["score"], failed["metrics"], failed["audit"]) == (0, None, {}, None)
    assert failed["reason"].startswith("RuntimeError")


@pytest.mark.parametrize(
    ("states", "interrupted", "expected"),
    [
        (["completed", "failed"], False, "completed"),
        (["stopped", "failed"], False, "completed"),
        (["failed", "failed"], False, "failed"),
        ([], False, "failed"),
        ([], True, "interrupted"),
        (["completed"], True, "interrupted"),
        (["completed", "interrupted"], False, "interrupted"),
        (["failed", None], False, "interrupted"),
    ],
)
def test_the_state_of_a_sweep(tmp_path: Path, states: list, interrupted: bool, expected: str) -> None:
    journal = Journal(tmp_path / "j")
    for number, state in enumerate(states):
        journal.append(ask(toy_spec(), number, number, "baseline"))
        if state:
            journal.append(end(number, state, number))
    assert sweep_state(journal.trials.values(), interrupted) == expected
