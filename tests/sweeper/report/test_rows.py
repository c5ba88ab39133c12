"""Rows of trials have every varied setting resolved, the search and the confirmation apart."""

from __future__ import annotations

import csv
import io
import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from sweeper.confirmation import design
from sweeper.journal.events import Ask, End, Report
from sweeper.journal.journal import Journal
from sweeper.report import rows
from sweeper.report.tables import results_csv
from sweeper.spec.load import load, resolve
from sweeper.spec.spec import SweepSpec
from sweeper.system import yaml_reader
from sweeper.trials import tuner
from tests.sweeper.samples import ask, end, report, session, toy_spec

ROOT = Path(__file__).parents[3]
CONFIRMED = ["seeds.confirm=[101, 102]"]


def played(folder: Path, spec: SweepSpec) -> Journal:
    """What a sweep of the spec asks for, search and confirmation, with losses from a die in place of training."""
    journal, chance = Journal(folder / "journal.jsonl"), random.Random(0)
    journal.append(session())
    search, _ = tuner.searching(spec, folder, journal, 1, 1, False, print)
    _answered(journal, search, chance)
    if spec.compared:
        journal.append(design.declared(spec, journal, fresh=True, earlier=0))
        confirming, _ = tuner.confirming(spec, folder, journal, 1, 1, False, print)
        _answered(journal, confirming, chance)
    return journal


def _answered(journal: Journal, search: Any, chance: random.Random) -> None:
    while isinstance(task := search.suggest("tune's"), dict):
        loss = chance.random()
        metrics = {"val/loss": loss, "test/loss": loss, "val/loss_mask": loss, "val/unigram_mask": 3.5}
        journal.append(Report(trial=task["id"], step=task["config"]["steps"], metrics=metrics))
        journal.append(End(trial=task["id"], state="completed"))


def grid() -> SweepSpec:
    """A grid beside a baseline that sets less; among the values are null and false."""
    tree = yaml_reader.read(ROOT / "search_spaces/ablation.yaml")
    space = {"masking.band_high": {"choice": [0.5, None]}, "masking.renormalise": {"choice": [True, False]}}
    arms = {"baseline": {"masking.ema_decay": 0.5}}
    return resolve({**tree, "space": space, "arms": arms, "search": {"method": "grid"}}, "laptop", CONFIRMED)


@pytest.mark.parametrize("name", ["mix_ratios", "ablation", "grid"])
def test_no_cell_of_a_varied_setting_is_blank(tmp_path: Path, name: str) -> None:
    spec = grid() if name == "grid" else load(ROOT / f"search_spaces/{name}.yaml", "laptop", CONFIRMED)
    journal = played(tmp_path, spec)
    found = list(csv.DictReader(io.StringIO(results_csv(spec, journal))))
    records = list(journal.trials.values())
    assert len(found) == len(records) > spec.total_trials
    paths = rows.varied(records)
    if name == "grid":
        assert set(paths) == {"masking.band_high", "masking.renormalise", "masking.ema_decay"}
    else:
        assert len(paths) >= 4
    for row, record in zip(found, [*journal.stage("search"), *journal.stage("confirm")], strict=True):
        assert row["trial"] == record.id
        for path in paths:
            assert row[path] != "", (record.id, path)
            value: Any = record.ask.config
            for key in path.split("."):
                value = value.get(key, "default")
            if path != "masking.preset":  # read, and replaced by what it stands for
                assert row[path] == ("null" if value is None else str(int(value) if isinstance(value, bool) else value))
    stages = [stage for stage, _ in itertools.groupby(found, key=lambda row: row["stage"])]
    assert stages == ["search", "confirm"]


def test_a_preset_stays_readable(tmp_path: Path) -> None:
    spec = load(ROOT / "search_spaces/ablation.yaml", "laptop")
    found = {row["arm"]: row for row in rows.trials(spec, played(tmp_path, spec))}
    assert found["amlm-hard"]["masking.preset"] == "published/amlm-hard"
    assert (found["amlm-hard"]["masking.policy"], found["random"]["masking.policy"]) == ("amlm", "mixture")
    assert (found["last-window"]["masking.ema_decay"], found["token-only"]["masking.ema_decay"]) == (0.0, 1.0)


def test_a_candidate_of_the_search_has_its_settings_for_a_name(tmp_path: Path) -> None:
    spec = load(ROOT / "search_spaces/mix_ratios.yaml", "laptop", ["search.trials=4"])
    found = rows.trials(spec, played(tmp_path, spec))
    names = {row["candidate"] for row in found if row["stage"] == "confirm"}
    assert "baseline" in names
    (other,) = names - {"baseline"}
    assert other == "published" or "ema " in other
    assert names <= {row["candidate"] for row in found if row["stage"] == "search"}


def test_where_a_trial_came_from_and_how_long_it_took(tmp_path: Path) -> None:
    spec, journal = toy_spec(), Journal(tmp_path / "j")
    row = Report(
        trial="t0001", step=20, metrics={"val/loss": 1.0}, start={"trial": "t0000", "step": 10}, time=session(9).time
    )
    events: list[Any] = [session(0), ask(spec, 0, 1, "baseline"), report(0, 20, 1.5, 3), end(0, "completed", 4)]
    events += [ask(spec, 1, 5, "published"), row, end(1, "completed", 10), ask(spec, 2, 11, x=0.25)]
    events += [
        report(2, 20, 1.4, 11),
        End(trial="t0002", state="completed", reused_from="toy-0/t0003", time=session(11).time),
    ]
    for event in events:
        assert journal.append(event)
    told = [
        (one["reused_from"], one["started_from"], one["started_at"], one["seconds"])
        for one in rows.trials(spec, journal)
    ]
    assert told == [(None, None, 0, 3.0), (None, "t0000", 10, 5.0), ("toy-0/t0003", None, 20, 0.0)]
    assert [one["step"] for one in rows.curves(spec, journal)] == [20, 20, 20]


def test_a_trial_that_never_had_a_configuration_is_told_by_what_it_was_asked(tmp_path: Path) -> None:
    spec, journal = toy_spec(), Journal(tmp_path / "j")
    refused = Ask(
        trial="t0001", number=1, stage="search", arm=None, seed=0, config={}, config_hash="", params={"x": 0.25}, raw={}
    )
    for event in (
        session(0),
        ask(spec, 0, 1, "baseline"),
        refused,
        End(trial="t0001", state="failed", reason="refused: no"),
    ):
        assert journal.append(event)
    first, second = rows.trials(spec, journal)
    assert (first["x"], first["shares.token"]) == (0.5, 0.0)
    assert (second["x"], second["shares.token"], second["reason"]) == (0.25, 0.0, "refused: no")


def test_a_setting_that_is_called_like_a_column_has_its_section_before_it(tmp_path: Path) -> None:
    spec = toy_spec(
        space={}, search={"method": "arms"}, arms={"baseline": {"steps": 20}, "long": {"steps": 40}}, budget="free"
    )
    found = rows.trials(spec, played(tmp_path, spec))
    assert [(one["steps"], one["config.steps"]) for one in found] == [(20, 20), (40, 40)]
