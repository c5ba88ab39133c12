"""A baseline that learned nothing says so: beside the verdict, and no champion comes of it."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import Any

import pytest

from sweeper import closing
from sweeper.confirmation import champion, conclusion
from sweeper.journal import learned, verdict_text
from sweeper.journal.events import Ask, End, Family, Report, Verdict
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.report import sections, tables, write
from sweeper.report.html.page import page
from sweeper.report.summary import summary
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.tracking import store
from sweeper.tracking import tags as tag
from sweeper.trainable import TrainContext
from tests.sweeper.journal.test_budget import SEEDS, asked, spec
from tests.sweeper.report.test_sections import outcome
from tests.sweeper.samples import toy_spec
from tests.sweeper.samples import written as toy_journal
from trainables import toy
from trainables.mlm import stuck, unlearned

SENTENCE = "The runs barely left word frequencies"
GONE = {"val/loss_mask": 5.5, "val/unigram_mask": 6.0, "val/accuracy_mask": 0.2, "val/accuracy_unigram": 0.05}
STUCK = {**GONE, "val/loss_mask": 5.8}
GUESSING = {**GONE, "val/accuracy_mask": 0.04}  # and yet below word frequencies, so no run is stuck


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


def test_a_run_is_stuck_unless_its_loss_is_below_word_frequencies() -> None:
    assert [stuck({**GONE, "val/loss_mask": loss}) for loss in (5.69, 5.71)] == [None, "stayed at word frequencies"]
    assert stuck({"val/loss": 9.0, "val/loss_mask": 9.0}) is None


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
        journal.append(Verdict(data=conclusion.conclude(sweep, journal, folder).to_dict()))
    return journal


def stages(sweep: SweepSpec, journal: Journal, folder: Path) -> Stages:
    return Stages(spec=sweep, run_dir=folder, journal=journal, uri="x", prepare_info={})


def test_the_sentence_stands_beside_the_verdict_everywhere_and_no_champion_comes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "champion", lambda *_: None)
    sweep, said = spec(), list[str]()
    journal = written(tmp_path, GUESSING, sweep)
    said_of: Any = journal.verdict()
    assert (said_of["told"]["mix"], said_of["champion"]) == ("confirmed", "mix")  # the statistics are what they are
    assert said_of["unlearned"].startswith(SENTENCE)
    text = sections.markdown(sweep, journal, outcome(tmp_path))
    assert f"**{SENTENCE}" in text.split("\n## ")[0]
    assert f"* **{SENTENCE}" in text.split("## Verdicts")[1].split("\n## ")[0]
    assert (
        page(sweep, journal, outcome(tmp_path), {}).split('class="answer"')[1].split("</div>")[0].count(SENTENCE) == 1
    )
    told = summary(sweep, journal, outcome(tmp_path))
    lines = closing.lines(tmp_path, sweep, journal, outcome(tmp_path), None, told["caution"])
    assert f"caution        {said_of['unlearned']}" in lines
    crowned, tags = stages(sweep, journal, tmp_path).promotion(said.append)
    assert crowned is None
    assert tags[tag.CAUTION] == said_of["unlearned"]
    assert "mix is confirmed, but the runs learned too little" in said[0]


def test_where_the_baseline_learned_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "champion", lambda *_: None)
    sweep = spec()
    journal = written(tmp_path, GONE, sweep)
    assert journal.verdict()["unlearned"] is None  # type: ignore[index]
    assert SENTENCE not in sections.markdown(sweep, journal, outcome(tmp_path))
    crowned, tags = stages(sweep, journal, tmp_path).promotion(print)
    assert crowned is not None
    assert crowned.trial.ask.arm == "mix"
    assert tags[tag.CAUTION] == ""


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
    assert SENTENCE in sections.markdown(sweep, journal, outcome(tmp_path)).split("\n## ")[0]
    assert stages(sweep, journal, tmp_path).promotion(print)[1][tag.CAUTION].startswith(SENTENCE)


def test_a_verdict_of_an_older_version_is_judged_by_its_runs(tmp_path: Path) -> None:
    sweep = spec()
    journal = written(tmp_path, STUCK, sweep)
    journal.append(Verdict(data=older(journal.verdict() or {})))
    assert SENTENCE in str(learned.caution(sweep, journal))
    assert champion.promotion(sweep, journal, "x", {}, tmp_path, print) is None


def older(verdict: dict[str, Any]) -> dict[str, Any]:
    """The record as the version before wrote it, which knew of no stuck run: there, this one confirmed."""
    since = {"stuck", "baseline_stuck", "stuck_p", "spread", "documents", "why"}
    told = [{key: value for key, value in one.items() if key not in since} for one in verdict["comparisons"]]
    kept = {key: value for key, value in verdict.items() if key not in ("unlearned", "challenge", "judged")}
    return kept | {"comparisons": [one | {"verdict": "confirmed"} for one in told], "told": {"mix": "confirmed"}}


def test_a_record_of_an_older_version_is_still_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = spec()
    journal = written(tmp_path, GONE, sweep)
    journal.append(Verdict(data=older(journal.verdict() or {})))
    (tmp_path / "spec.yaml").write_text(sweep.to_yaml(), "utf-8")
    assert write.main([str(tmp_path)]) == 0, capsys.readouterr().err
    text = (tmp_path / "report.md").read_text("utf-8")
    assert "Confirmed: `mix`" in text
    assert "baseline stuck" not in text


def some_stuck(folder: Path, sweep: SweepSpec, ours: list[int], theirs: list[int]) -> Journal:
    """`mix` beats the baseline by a nat on every seed; on these seeds the two end at word frequencies."""
    journal = Journal(folder / "journal.jsonl")
    arms = {name: sweep.arms[name] for name in ("baseline", "mix")}
    journal.append(Family(look=1, baseline="baseline", arms=arms, seeds=SEEDS))
    for seed in SEEDS:
        for arm, params in arms.items():
            name = asked(journal, sweep, "confirm", arm, params, seed)
            end = STUCK if seed in (ours if arm == "mix" else theirs) else GONE
            loss = 6 - (arm == "mix") + 0.001 * (len(arm) * seed % 5)
            journal.append(Report(trial=name, step=100, metrics={"val/loss": loss, "test/loss": loss, **end}))
            journal.append(End(trial=name, state="completed"))
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, folder).to_dict()))
    return journal


@pytest.mark.parametrize(
    ("ours", "theirs", "told", "p"),
    [
        ([], [], "confirmed", 1.0),
        ([11], [], "inconclusive: 1 run of mix stayed at word frequencies", 1.0),
        ([], [11, 12], "inconclusive: 2 runs of baseline stayed at word frequencies", 0.5),
        (
            [11, 12, 13, 14, 15, 16, 17],
            [11],
            "inconclusive: 7 runs of mix and 1 run of baseline stayed at word frequencies",
            0.03125,
        ),
    ],
)
def test_a_stuck_run_is_never_averaged_away(
    tmp_path: Path, ours: list[int], theirs: list[int], told: str, p: float
) -> None:
    sweep = spec()
    journal = some_stuck(tmp_path, sweep, ours, theirs)
    said: Any = journal.verdict()
    assert said["told"] == {"mix": told}
    assert said["champion"] == (None if ours or theirs else "mix")
    one = said["comparisons"][0]
    assert (one["adjusted"] < 1e-9, one["stuck_p"]) == (True, p), "whatever the tests say"
    assert (one["needed"], [*one["stuck"]], [*one["baseline_stuck"]]) == (None, ours, theirs)
    row = next(line for line in verdict_text.section(said).splitlines() if " of 8 " in line)
    assert [cell.strip() for cell in row.split("|")][1:5] == [
        "mix",
        f"{len(ours)} of 8",
        f"{len(theirs)} of 8",
        f"{p:.3g}",
    ]
    rows = list(csv.DictReader(io.StringIO(tables.results_csv(sweep, journal))))
    for arm, seeds in {"mix": ours, "baseline": theirs}.items():
        assert [int(each["seed"]) for each in rows if each["arm"] == arm and each["stuck"] == "1"] == seeds
    trials = summary(sweep, journal, outcome(tmp_path))["trials"]
    assert sum(trial["stuck"] for trial in trials) == len(ours) + len(theirs)
    text, html = sections.markdown(sweep, journal, outcome(tmp_path)), page(sweep, journal, outcome(tmp_path), {})
    assert told in text
    assert told in html
    assert text.split("## Confirmation runs")[1].split("\n## ")[0].count("stayed at word frequencies") == len(
        [*ours, *theirs]
    )
    assert learned.caution(sweep, journal) is None


def test_where_all_runs_are_stuck_the_caution_is_said_besides(tmp_path: Path) -> None:
    sweep = spec()
    journal = some_stuck(tmp_path, sweep, SEEDS, SEEDS)
    told = "inconclusive: 8 runs of mix and 8 runs of baseline stayed at word frequencies"
    assert journal.verdict()["told"] == {"mix": told}  # type: ignore[index]
    assert SENTENCE in sections.markdown(sweep, journal, outcome(tmp_path)).split("\n## ")[0]


def test_a_trainable_that_does_not_tell_of_stuck_runs_has_none_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    record = TrialRecord(
        Ask(trial="t", number=0, stage="search", arm="a", seed=3, config={}, config_hash="", params={}, raw={})
    )
    record.rows.append(Report(trial="t", step=1, metrics={"val/begun": 0.0}))
    record.end = End(trial="t", state="completed")
    assert learned.by_arm(toy_spec(), [record]) == {"a": {3: "stayed at the start"}}
    record.end = End(trial="t", state="stopped")
    assert learned.by_arm(toy_spec(), [record]) == {}, "one that was stopped early may still have begun"
    monkeypatch.delattr(toy, "stuck")
    assert learned.by_arm(toy_spec(), [record]) is None


def test_the_toy_stays_where_it_is_told_to(tmp_path: Path) -> None:
    rows = dict[int, list[Any]]({1: [], 2: []})
    for seed, kept in rows.items():
        context = TrainContext(lambda metrics, _, kept=kept: kept.append(metrics), seed=seed)
        toy.train(toy.Config(stays=(2,)), context)
    assert [toy.stuck(rows[seed][-1]) for seed in rows] == [None, "stayed at the start"]
    assert rows[2][-1]["val/loss"] - rows[1][-1]["val/loss"] == pytest.approx(1 - math.exp(-5))
    assert toy.Config().model_dump_json() == toy.Config(stays=()).model_dump_json()
    assert "stays" not in toy.Config().model_dump_json(), "the noise of its runs goes by its settings"


def test_a_trainable_without_such_a_word_says_nothing(tmp_path: Path) -> None:
    assert learned.caution(toy_spec(), toy_journal(tmp_path, toy_spec())) is None
