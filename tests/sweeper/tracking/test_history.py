"""What a real tracking store tells of earlier runs, and how a plan uses it."""

from __future__ import annotations

import json
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sweeper import run
from sweeper.journal.events import End, Report
from sweeper.journal.journal import Journal
from sweeper.plan.seed_noise import spread
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import history, shared_settings
from sweeper.tracking.tracker import Tracker
from tests.sweeper.samples import T0, ask, session, toy_spec

ARMS = {"baseline": {"x": 0.5}, "low": {"x": 0.1}}
SEEDS = range(1, 5)


def arms(name: str, **changes: object) -> SweepSpec:
    search = {"space": {}, "arms": ARMS, "search": {"method": "arms"}, "seeds": {"search": list(SEEDS)}}
    return toy_spec(name, **{**search, **changes})


def loss(arm: str, seed: int) -> float:
    return 1.0 + 0.3 * seed + (0.01 * seed**2 if arm == "low" else 0)


def told(
    storage: Path, spec: SweepSpec, begin: float = 0, shift: float = 0, state: str = "completed", data: str = "d1"
):
    """A sweep's trials, delivered to the storage's own store."""
    run_dir = storage / f"{spec.name}-1"
    run_dir.mkdir()
    journal = Journal(run_dir / "journal.jsonl")
    journal.append(session(begin))
    for number, (arm, seed) in enumerate((arm, seed) for arm in spec.arms for seed in SEEDS):
        asked = replace(ask(spec, number, begin + number, arm), seed=seed)
        journal.append(asked)
        at = T0 + begin + number
        for step, value in ((10, 9.0), (20, loss(arm, seed) + shift)):
            journal.append(Report(trial=asked.trial, step=step, metrics={"val/loss": value}, time=at))
        journal.append(End(trial=asked.trial, state=state, time=at))  # pyright: ignore[reportArgumentType]
    tags = {"sweeper.data_fingerprint": data}
    tracker = Tracker(journal, spec, run_dir, f"sqlite:///{storage}/mlflow.db", tags=tags, say=lambda line: None)
    tracker.start()
    assert tracker.close("completed", None, None, drain_s=60) == 0


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which one sweep of five bears upon the question."""
    folder = tmp_path_factory.mktemp("storage")
    told(folder, arms("older"), begin=-1000, shift=5, data="d0")
    told(folder, arms("same"))
    told(folder, arms("stopped"), begin=100, shift=7, state="stopped")
    told(folder, arms("longer", config={"steps": 40}), begin=200, shift=7)
    told(folder, arms("fragile", trainable="tests.sweeper.fragile:train"), begin=300, shift=7)
    return folder


def test_runs_count_that_differ_in_what_is_compared_alone(storage: Path):
    uri = f"sqlite:///{storage}/mlflow.db"
    found = history.losses(uri, arms("new"))
    wanted = {arm: {seed: loss(arm, seed) for seed in SEEDS} for arm in ARMS}
    assert sorted(map(sorted, (by.items() for by in found.values()))) == sorted(
        sorted(by.items()) for by in wanted.values()
    )
    measured = spread(found)
    assert measured is not None
    assert measured.sd == pytest.approx(
        0.01 * (((1 - 7.5) ** 2 + (4 - 7.5) ** 2 + (9 - 7.5) ** 2 + (16 - 7.5) ** 2) / 3) ** 0.5
    )
    assert measured.source == "earlier runs, paired: 2 configurations, 4 seeds"
    # Where x is no question, the arms at another x are other runs altogether: a single configuration is left.
    single = history.losses(uri, toy_spec("y", space={"y": {"uniform": [0, 1]}}, arms={"a": {"y": 0.5}}))
    assert list(single.values()) == [wanted["baseline"]]
    assert history.losses(uri, arms("none", config={"steps": 10})) == {}


def test_the_plan_says_what_it_is_measured_from(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    spec = arms("new", seeds={"search": [1, 2], "confirm": list(range(11, 19))})
    (tmp_path / "new.yaml").write_text(spec.to_yaml(), "utf-8")
    command = [str(tmp_path / "new.yaml"), "--dry-run", "--json", "--storage"]
    assert run.main([*command, str(storage)]) == 0
    told = capsys.readouterr()
    tree = json.loads(told.out)
    assert tree["sd_source"] == "earlier runs, paired: 2 configurations, 4 seeds"
    assert tree["detectable"] == pytest.approx(tree["sd"] * 1.24, rel=0.02)
    assert not any("sd" in note for note in tree["assumed"])
    assert "at an sd of 0.0656 nats (earlier runs, paired: 2 configurations, 4 seeds)" in told.err
    assert run.main([*command, str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["sd_source"] == "assumed"


def test_what_follows_from_a_preset_is_compared_too():
    presets = {"a": {}, "b": {"masking.preset": "published/amlm-hard"}}
    spec = arms("presets", trainable="trainables.mlm:train", arms=presets)
    assert {"masking.preset", "masking.rate"} & shared_settings.varied(spec) == {"masking.preset"}
    assert len([path for path in shared_settings.varied(spec) if path.startswith("masking.")]) > 2


def test_a_store_that_is_away_is_said_and_the_sd_assumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    spec = arms("new", seeds={"search": [1], "confirm": [11, 12, 13]}, tracking={"uri": f"http://127.0.0.1:{port}"})
    (tmp_path / "new.yaml").write_text(yaml.safe_dump(yaml.safe_load(spec.to_yaml())), "utf-8")
    begin = time.monotonic()
    assert run.main([str(tmp_path / "new.yaml"), "--dry-run", "--json", "--storage", str(tmp_path)]) == 0
    assert time.monotonic() - begin < 20
    told = capsys.readouterr()
    assert json.loads(told.out)["sd_source"] == "assumed"
    assert f"Cannot reach MLflow at http://127.0.0.1:{port}: " in told.err
    assert "Traceback" not in told.err
