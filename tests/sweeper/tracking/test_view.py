"""What people see in MLflow: the page that the link opens, names and descriptions, verdicts as figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest

from sweeper.journal.events import End, Verdict
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.tracking import shared_settings, view, wording
from tests.sweeper.samples import T0, ask, report, toy_spec, written

HOSTILE = "![x](http://evil/x.png) <img src=http://evil> [here](http://evil)\n# Confirmed"


def test_the_view_has_the_columns_of_the_question_and_ranks_no_stage_with_another() -> None:
    spec = toy_spec(seeds={"search": [0], "confirm": [1, 2, 3, 4, 5, 6]})
    varied = shared_settings.columns(spec, shared_settings.shared(spec))
    key, value = view.saved(spec, "abc", "toy-1", varied, 5)
    tree = json.loads(value)
    state = json.loads(tree["state"])
    assert (key, tree["name"]) == ("mlflow.sharedViewState.abc", "toy-1")
    assert state["searchFilter"] == "tags.`mlflow.parentRunId` = 'abc'"
    assert state["orderByKey"] == "tags.`sweeper.trial`", "by the time of their start MLflow folds them"
    columns = state["selectedColumns"]
    assert columns[:5] == [
        "params.`arm`",
        "params.`seed`",
        "tags.`sweeper.stage`",
        "metrics.`test/loss`",
        "metrics.`val/loss`",
    ]
    assert {"params.`x`", "params.`shares.token`", "tags.`sweeper.verdict`"} <= {*columns}
    assert "params.`steps`" not in columns
    address = urlparse("http://127.0.0.1:5050" + view.page("7", "abc"))
    path, _, query = address.fragment.partition("?")
    assert path == "/experiments/7/runs"
    assert parse_qs(query) == {"workflowType": ["machine_learning"], "viewStateShareKey": ["abc"]}


def test_settings_that_follow_from_an_arm_are_columns_after_those_that_the_spec_sets() -> None:
    presets = {"a": {}, "b": {"masking.preset": "published/amlm-hard"}}
    spec = toy_spec(trainable="trainables.mlm:train", space={}, arms=presets, search={"method": "arms"})
    common = shared_settings.shared(spec)
    columns = shared_settings.columns(spec, common)
    assert columns[0] == "masking.preset"
    assert "masking.policy" in columns[1:]
    assert "optimiser.lr" in common
    for params in presets.values():
        everything = shared_settings.of_all(spec, params)
        assert shared_settings.whole(shared_settings.own(everything, common), common) == everything


def test_settings_of_any_length_come_back_and_strange_tags_tell_nothing() -> None:
    common = {f"setting{number}": "x" * 700 for number in range(20)}
    tags = shared_settings.to_tags(common)
    assert len(tags) > 2
    assert all(len(text) <= 5000 for text in tags.values())
    assert shared_settings.from_tags(tags | {"other": "1"}) == common
    for strange in ({}, {"sweeper.settings": "[1]"}, {"sweeper.settings": '{"a": 1'}):
        assert shared_settings.from_tags(strange) == {}


def test_a_setting_that_a_trial_lacks_is_not_taken_from_the_sweep() -> None:
    common = {"a": "1", "b": "2"}
    own = shared_settings.own({"a": "1", "seed": "0"}, common)
    assert own == {"seed": "0", "b": shared_settings.LACKING}
    assert shared_settings.whole(own, common) == {"a": "1", "seed": "0"}


def test_descriptions_give_the_question_the_verdict_and_the_commands_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = toy_spec(question=HOSTILE)
    folder = tmp_path / "it's a run"
    journal = written(folder, spec)
    best, names = journal.trials["t0002"], Names(spec)
    monkeypatch.setattr(names, "of", lambda ask: "x`y")
    told = {"metric": "test/loss", "baseline": "b", "champion": None, "comparisons": [], "told": {"a": HOSTILE}}
    told |= {"seeds": [1, 2], "fresh": True, "look": 1}
    shown = wording.sweep(spec, folder, names=names, verdict=told, caution=HOSTILE, best=best)
    assert "**Verdict.** **Nothing is confirmed** against" in shown
    assert "``x`y`` (t0002), `val/loss` 1.2500 at step 20" in shown
    assert "--reproduce" in shown
    assert "--resume" in shown
    for text in (shown, wording.trial(spec, folder, best.ask, HOSTILE, best)):
        assert "![x]" not in text.replace("!\\[x]", "")
        assert "<img" not in text.replace("\\<img", "")
        assert "\n# " not in text
    assert wording.NO_VERDICT in wording.sweep(spec, folder)


@pytest.mark.parametrize(
    ("start", "reused", "said"),
    [
        (None, None, ""),
        ({"trial": "t0000", "step": 10}, None, " It began at step 10, where trial t0000 had trained the same."),
        (None, "other-1/t0003", " Taken over from `other-1/t0003`, which trained it."),
    ],
)
def test_a_trial_says_where_it_began(start: dict[str, object] | None, reused: str | None, said: str) -> None:
    spec = toy_spec()
    end = End(trial="t0001", state="completed", reused_from=reused, time=T0 + 9)
    record = TrialRecord(ask(spec, 1, 1, "published"), [replace(report(1, 20, 1.5, 8), start=start)], end)
    shown = wording.trial(spec, Path("r"), record.ask, "p", record)
    assert f"Completed: `val/loss` 1.5000 at step 20.{said}\n" in shown


def test_a_verdict_is_a_curve_over_its_looks(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    one = {"arm": "b", "mean": -0.5, "interval": [-0.7, -0.3], "adjusted": 0.02, "n": 8}
    none = {"arm": "c", "mean": None, "interval": None, "adjusted": 1.0, "n": 0}
    for look in (1, 2):
        journal.events.append(Verdict(data={"look": look, "comparisons": [one, none]}, time=T0 + look))
    rows = wording.verdict_metrics(journal.events)
    assert {(key, value) for (key, look, _), value in rows.items() if look == 2} == {
        ("verdict/b/difference", -0.5),
        ("verdict/b/low", -0.7),
        ("verdict/b/high", -0.3),
        ("verdict/b/p", 0.02),
        ("verdict/b/pairs", 8.0),
        ("verdict/c/pairs", 0.0),
    }
