"""What many trials cost the driver: the replay that measures it replays, and costs do not grow with the journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper.journal.journal import Journal, TrialRecord
from sweeper.search.optuna_search import StudySearch
from tests.benchmarks import scale
from tests.benchmarks.regret import Ours, play, spec
from trainables import toy


class Looked(TrialRecord):
    """Counts how often its state is looked at."""

    looks = 0

    @property
    def open(self) -> bool:
        Looked.looks += 1
        return super().open


class AtRandom(StudySearch):
    """Points without a sampler, which is none of what is counted."""

    def _sample(self, records: Any, repeats: Any, number: int) -> dict[str, Any]:
        assert (len(records), len(repeats)) == (number, 0)
        return {name: (number * (place + 7) % 997) / 997 for place, name in enumerate(self._distributions)}


@pytest.mark.parametrize("rule", ["none", "halving, reduction 3"])
def test_a_replayed_trial_costs_the_same_looks_late_as_early(
    tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("sweeper.journal.journal.TrialRecord", Looked)
    monkeypatch.setattr("sweeper.search.searchers.write_study", lambda *_: None)
    looks = []
    for trials in (30, 120):
        folder = tmp_path / str(trials)
        folder.mkdir()
        Looked.looks = 0
        one = Ours(spec("random", scale.RULES[rule], trials, 0, scale.CONFIG), folder, 4, AtRandom)
        ticks = list(play(one, scale.Recorded().curve, 4))
        assert sum(tick.last for tick in ticks) == trials
        assert not any(record.open for record in Journal(folder / "journal.jsonl").trials.values())
        looks.append(Looked.looks / trials)
    assert looks[1] < 1.3 * looks[0], looks


def test_the_clock_goes_on_by_steps_and_the_best_recorded_configuration_is_the_nearest_to_the_optimum():
    recorded = scale.Recorded()
    assert list(recorded.ends) == sorted(recorded.ends)
    best = toy.Config.model_validate({"x": 0.3, "y": 0.7, "shares": {"random": 0.8, "token": 0.2}})
    assert recorded.rank(best) < 3
    x, y, token = recorded.points[0]
    own = toy.Config.model_validate({"x": x, "y": y, "shares": {"random": 1 - token, "token": token}})
    assert recorded.rank(own) == 0
    curve = recorded.curve(own)
    assert [step for step, _ in curve] == [300, 600, 900, 1200]
    assert curve[-1][1] == pytest.approx(recorded.ends[0])
    assert [loss for _, loss in curve] == sorted((loss for _, loss in curve), reverse=True)


def test_the_best_is_sought_until_it_is_found_or_the_time_is_over():
    found = scale.soonest("halving, reduction 4", 0, full_runs=6)
    assert all(time is None or 1 <= time <= 3 for time in found.values()), found


@pytest.mark.slow  # for mlflow's import and a new store, seconds each
def test_a_replay_is_measured_with_its_tracking(capfd: pytest.CaptureFixture[str]):
    figures = scale.measure(12, marks=3)
    assert figures["trials"] == 12
    assert 12 <= figures["reports"] <= 48
    assert figures["driver_cpu_s"] >= figures["sampler_s"] + figures["tracking_s"] > 0
    assert figures["tracking_s"] > 0
    assert figures["peak_mb"] >= figures["start_mb"] > 0
    assert figures["best_found"] >= figures["best_recorded"]
    assert [mark["trials"] for mark in figures["marks"]] == [0, 4, 8, 12]
    assert len(capfd.readouterr().err.splitlines()) == 4
    assert scale.table([figures])[-1].split()[0] == "12"
