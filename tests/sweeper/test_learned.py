"""A baseline that learned nothing says so: beside the verdict, and no champion comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sweeper import confirm, ending, learned, ledger, report, store
from sweeper.journal import End, Family, Journal, Report, Verdict
from sweeper.report_html import page
from sweeper.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.summary import summary
from tests.sweeper.samples import toy_spec
from tests.sweeper.samples import written as toy_journal
from tests.sweeper.test_budget import SEEDS, asked, spec
from tests.sweeper.test_report import outcome
from trainables.mlm import unlearned

SENTENCE = "The runs barely left word frequencies"
GONE = {"val/loss_mask": 5.5, "val/unigram_mask": 6.0, "val/accuracy_mask": 0.2, "val/accuracy_unigram": 0.05}
STUCK = {**GONE, "val/loss_mask": 5.8}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"val/loss_mask": 5.69}, None),
        ({"val/loss_mask": 5.71}, "loss at [MASK] is 5.71 nats, not 0.3 below the 6.00 of frequencies alone)"),
        (
            {"val/accuracy_mask": 0.05},
            "baseline's accuracy at [MASK] is 5.0%, not above the 5.0% of guessing the commonest token)",
        ),
        (
            {"val/loss_mask": 6.4, "val/accuracy_mask": 0.01},
            "6.00 of frequencies alone and its accuracy at [MASK] is 1.0%",
        ),
    ],
)
def test_what_a_masked_model_must_have_learned(changes: dict[str, float], said: str | None) -> None:
    found = unlearned({**GONE, **changes})
    assert (found is None) if said is None else (said in str(found) and str(found).count(". ") == 0)


def test_what_is_not_measured_is_not_judged() -> None:
    assert unlearned({"val/loss": 9.0, "val/loss_mask": 9.0, "val/accuracy_mask": 0.0}) is None
    assert SENTENCE in str(unlearned({"val/loss_mask": 6.0, "val/unigram_mask": 6.0}))


def written(folder: Path, ends: dict[str, float], sweep: SweepSpec, stage: str = "confirm") -> Journal:
    """`mix` beats the baseline on every seed. The baseline's runs end with these metrics, give or take 0.05 nats."""
    folder.mkdir(exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    arms = {name: sweep.arms[name] for name in ("baseline", "mix")}
    if stage == "confirm":
        journal.append(Family(look=1, baseline="baseline", arms=arms, seeds=SEEDS))
    (folder / "c" / "bundle").mkdir(parents=True)
    for seed in SEEDS:
        for arm, params in arms.items():
            name, loss = asked(journal, sweep, stage, arm, params, seed), 6 - (arm == "mix") + 0.01 * (seed % 3)
            near = {key: value + 0.05 * (-1) ** seed * ("loss" in key) for key, value in ends.items()}
            other = {"val/loss_mask": 5.0} if arm == "mix" else {}
            row = {"val/loss": loss, "test/loss": loss + 0.001 * (len(arm) * seed % 5), **near, **other}
            journal.append(Report(trial=name, step=100, metrics=row))
            journal.append(End(trial=name, state="completed", checkpoint="c"))
    if stage == "confirm":
        journal.append(Verdict(data=confirm.conclude(sweep, journal, folder)))
    return journal


def stages(sweep: SweepSpec, journal: Journal, folder: Path) -> Stages:
    return Stages(spec=sweep, run_dir=folder, journal=journal, uri="x", facts={})


def test_the_sentence_stands_beside_the_verdict_everywhere_and_no_champion_comes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "champion", lambda *_: None)
    sweep, said = spec(), list[str]()
    journal = written(tmp_path, STUCK, sweep)
    verdict: Any = journal.verdict()
    assert (verdict["told"]["mix"], verdict["champion"]) == ("confirmed", "mix")  # the statistics are what they are
    assert verdict["unlearned"].startswith(SENTENCE)
    text = report.markdown(sweep, journal, outcome(tmp_path))
    assert f"**{SENTENCE}" in text.split("\n## ")[0]
    assert f"* **{SENTENCE}" in text.split("## Verdicts")[1].split("\n## ")[0]
    assert (
        page(sweep, journal, outcome(tmp_path), {}).split('class="answer"')[1].split("</div>")[0].count(SENTENCE) == 1
    )
    told = summary(sweep, journal, outcome(tmp_path))
    lines = ending.lines(tmp_path, sweep, outcome(tmp_path), None, told["verdict"], told["caution"])
    assert f"caution        {verdict['unlearned']}" in lines
    crowned, tags = stages(sweep, journal, tmp_path).crowned(said.append)
    assert crowned is None
    assert tags[learned.TAG] == verdict["unlearned"]
    assert "mix is confirmed, but among runs that learned too little" in said[0]


def test_where_the_baseline_learned_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "champion", lambda *_: None)
    sweep = spec()
    journal = written(tmp_path, GONE, sweep)
    assert journal.verdict()["unlearned"] is None  # type: ignore[index]
    assert SENTENCE not in report.markdown(sweep, journal, outcome(tmp_path))
    crowned, tags = stages(sweep, journal, tmp_path).crowned(print)
    assert crowned is not None
    assert crowned.trial.ask.arm == "mix"
    assert tags[learned.TAG] == ""


def test_the_mean_of_the_baselines_runs_counts(tmp_path: Path) -> None:
    """At the border every second run is above, and the mean is not."""
    sweep = spec()
    below = written(tmp_path / "below", {**GONE, "val/loss_mask": 5.69}, sweep)
    above = written(tmp_path / "above", {**GONE, "val/loss_mask": 5.71}, sweep)
    assert learned.caution(sweep, below) is None
    assert "is 5.71 nats" in str(learned.caution(sweep, above))


def test_a_search_without_a_confirmation_says_it_too(tmp_path: Path) -> None:
    sweep = spec(seeds={"search": SEEDS})
    journal = written(tmp_path, STUCK, sweep, "search")
    assert SENTENCE in report.markdown(sweep, journal, outcome(tmp_path)).split("\n## ")[0]
    assert stages(sweep, journal, tmp_path).crowned(print)[1][learned.TAG].startswith(SENTENCE)


def test_a_verdict_of_an_older_version_is_judged_by_its_runs(tmp_path: Path) -> None:
    sweep = spec()
    journal = written(tmp_path, STUCK, sweep)
    old = {key: value for key, value in (journal.verdict() or {}).items() if key != "unlearned"}
    journal.append(Verdict(data=old))
    assert SENTENCE in str(learned.caution(sweep, journal))
    assert ledger.crowned(sweep, journal, "x", {}, tmp_path, print) is None


def test_a_trainable_without_such_a_word_says_nothing(tmp_path: Path) -> None:
    assert learned.caution(toy_spec(), toy_journal(tmp_path, toy_spec())) is None
