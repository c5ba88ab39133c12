"""One budget: what predicts another number than the baseline stands apart, and nothing is confirmed by it."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from sweeper.confirmation import champion, conclusion, design
from sweeper.journal import budget, tasks
from sweeper.journal import records as records_of
from sweeper.journal.budget import Common
from sweeper.journal.events import Ask, End, Family, Report, Verdict
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.plan import estimate
from sweeper.report import pareto, scores, sections, tables
from sweeper.report.html.curves import curves_of
from sweeper.report.html.page import page
from sweeper.search import schedulers
from sweeper.search.optuna_search import StudySearch
from sweeper.search.optuna_study import importance, write_study
from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import tags as tag
from tests.sweeper.report.test_sections import outcome
from tests.sweeper.report.test_sections import tables as tables_of
from tests.sweeper.samples import ask, end, session, toy_spec
from tests.sweeper.samples import report as reported
from tests.sweeper.search.test_halving import rungs
from trainables.settings import config as mlm

SEEDS = [11, 12, 13, 14, 15, 16, 17, 18]
SHARES = {"random": 0.8, "token": 0.15, "trigram": 0.05}
STEPS = 100
PREDICTED = 15_400  # round(0.15 * 32 * 32) a step


def spec(**changes: Any) -> SweepSpec:
    """The baseline, an arm of 40 %, and one that differs in its shares alone."""
    tree: dict[str, Any] = {
        "name": "rates",
        "trainable": "trainables.mlm:train",
        "config": {"steps": STEPS, "batch_size": 32, "masking": {"shares": {"random": 1.0, "token": 0, "trigram": 0}}},
        "data": {"block": 32},
        "arms": {"baseline": {}, "big": {"masking.rate": 0.4}, "mix": {"masking.shares": SHARES}},
        "search": {"method": "arms"},
        "seeds": {"search": [1], "confirm": SEEDS},
    }
    return resolve(tree | changes)


def sampled(**changes: Any) -> SweepSpec:
    space = {"masking.rate": {"choice": [0.15, 0.3, 0.4]}, "masking.ema_decay": {"uniform": [0, 1]}}
    arms = {"baseline": {"masking.rate": 0.15, "masking.ema_decay": 1.0}}
    return spec(space=space, arms=arms, search={"method": "tpe", "trials": 20}, **changes)


def asked(journal: Journal, sweep: SweepSpec, stage: str, arm: str | None, params: dict[str, Any], seed: int) -> str:
    number, config = len(journal.stage(stage)), sweep.trainable_config(params)
    name, own = f"{stage[0]}{number + 1:04d}", budget.to_dict(sweep.budget_of(params))
    raw = {
        key: value for path, each in sweep.space.items() for key, value in each.to_sampler(path, params[path]).items()
    }
    named = {"config": config, "config_hash": sweep.config_hash(config), "params": params, "raw": raw}
    journal.append(Ask(trial=name, number=number, stage=stage, arm=arm, seed=seed, **named, budget=own))
    return name


def run(
    journal: Journal, sweep: SweepSpec, stage: str, arm: str | None, params: dict[str, Any], loss: float, seed: int = 1
) -> str:
    """A completed trial that did what its settings say; its name."""
    name, own = asked(journal, sweep, stage, arm, params, seed), sweep.budget_of(params)
    assert own is not None
    audit = {"audit/rate": own.predicted / STEPS / 1024, "audit/matched": float(own.exact)}
    row = {"val/loss": loss, "test/loss": loss, "train/predicted": float(own.predicted), **audit}
    journal.append(Report(trial=name, step=sweep.settings(params).steps, metrics=row))
    journal.append(End(trial=name, state="completed", checkpoint="c"))
    return name


def searched(folder: Path, sweep: SweepSpec) -> Journal:
    """Every arm once; the larger budget has by far the lowest loss."""
    journal = Journal(folder / "journal.jsonl")
    for arm, loss in {"baseline": 6.0, "big": 4.0, "mix": 5.9}.items():
        run(journal, sweep, "search", arm, sweep.arms[arm], loss)
    return journal


def confirmed(journal: Journal, sweep: SweepSpec, family: Family, folder: Path) -> dict[str, Any]:
    """The verdict on a family whose larger budget wins clearly, and whose `mix` is the baseline's equal."""
    journal.append(family)
    for seed in SEEDS:
        for arm, params in family.arms.items():
            wobble = 0.01 * ((seed * 7 + len(arm)) % 5)
            run(journal, sweep, "confirm", arm, params, {"big": 4.0}.get(arm, 6.0) + wobble, seed)
    return conclusion.conclude(sweep, journal, folder).to_dict()


def test_an_arm_of_another_rate_stands_apart_is_not_ranked_and_confirms_nothing(tmp_path: Path) -> None:
    sweep = spec()
    journal = searched(tmp_path, sweep)
    found = records_of.best(sweep, journal.trials.values())
    assert found is not None
    assert found.ask.arm == "mix"
    assert (sweep.comparable, sweep.compared) == (["baseline", "mix"], 1)
    assert list(design.select_candidates(sweep, journal)) == ["baseline", "mix"]
    text = sections.markdown(sweep, journal, outcome(tmp_path))
    told = tables_of(text)
    assert [row[:3] for row in told["Budget not matched"][2:]] == [["s0002", "big", "41,000"]]
    for section in ("Search trials", "Against the baseline", "Mask audit"):
        assert "big" not in str(told[section])
        assert "mix" in str(told[section])
    assert f"({PREDICTED:,} positions)" in text
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(tables.results_csv(sweep, journal)))}
    assert [rows[arm]["matched"] for arm in ("baseline", "big", "mix")] == ["1", "0", "1"]
    assert [group.name for group in curves_of(sweep, journal)] == ["baseline", "mix"]
    html = page(sweep, journal, outcome(tmp_path), {})
    assert "<h2>Budget not matched</h2>" in html
    assert "2 trials kept the budget, 15.039 % of the positions predicted." in html


def test_an_arm_of_another_rate_that_ran_in_a_confirmation_confirms_nothing(tmp_path: Path) -> None:
    """As in a run folder that was begun when rates were not looked at."""
    sweep = spec()
    journal = searched(tmp_path, sweep)
    family = Family(look=1, baseline="baseline", arms=dict(sweep.arms), seeds=SEEDS)
    said = confirmed(journal, sweep, family, tmp_path)
    assert said["champion"] is None
    assert said["told"]["big"] == "budget not matched"
    assert {one["arm"]: one["n"] for one in said["comparisons"]} == {"big": 0, "mix": 8}
    assert "big did not keep to the baseline's budget: it is not compared" in said["notes"]
    journal.append(Verdict(data=said))
    assert "Nothing is confirmed" in sections.markdown(sweep, journal, outcome(tmp_path))
    assert "it is not compared" in page(sweep, journal, outcome(tmp_path), {})
    assert "big & 0 & -- & -- & -- & budget not matched" in tables.verdict_tex(said)


def test_arms_that_leave_the_budget_are_nothing_to_confirm(tmp_path: Path) -> None:
    two = spec(arms={"baseline": {}, "big": {"masking.rate": 0.4}})
    journal = Journal(tmp_path / "j")
    assert two.compared == 0
    assert "no arm but the baseline kept to the budget" in (design.why_no_confirmation(two, journal) or "")
    sweep, journal = spec(), Journal(tmp_path / "k")
    run(journal, sweep, "search", "big", {"masking.rate": 0.4}, 4.0)
    assert records_of.best(sweep, journal.trials.values()) is None
    assert "**No trial completed within the budget**" in sections.markdown(sweep, journal, outcome(tmp_path))


def test_where_the_spec_frees_the_budget_all_is_compared_and_the_report_says_what_that_means(tmp_path: Path) -> None:
    sweep = spec(budget="free")
    journal = searched(tmp_path, sweep)
    found = records_of.best(sweep, journal.trials.values())
    assert found is not None
    assert found.ask.arm == "big"
    family = design.declared(sweep, journal, fresh=True, earlier=1)
    assert list(family.arms) == ["baseline", "big", "mix"]
    said = confirmed(journal, sweep, family, tmp_path)
    assert (said["champion"], said["told"]["big"]) == ("big", "confirmed")
    assert any("8 of 24 runs do not predict what the baseline does" in note for note in said["notes"])
    text = sections.markdown(sweep, journal, outcome(tmp_path))
    assert "a larger budget lowers the loss by itself" in text.split("\n## ")[0]
    assert "Budget not matched" not in text
    assert budget.differ(spec(), journal.trials.values()) == ""
    assert budget.differ(sweep, [one for one in journal.trials.values() if one.ask.arm != "big"]) == ""


@pytest.mark.parametrize(
    ("arm", "kept"),
    [
        ({"masking.rate": 0.4}, False),
        ({"masking.rate": 0.1504}, True),  # as many positions in every batch
        ({"masking.rate_schedule": "linear"}, False),
        ({"masking.rate_schedule": "linear", "masking.rate_start": 0.15}, False),  # as many, but not in every batch
        ({"masking.rate_schedule": "cosine", "masking.rate_start": 0.3}, False),
        ({"masking.loss_weight": 0.2}, False),  # as many in every batch, but they weigh differently
        ({"masking.loss_weight": 0.0, "masking.corrupt": 0.4}, True),
        ({"masking.row_rates": "cosine"}, True),
        ({"masking.apportion": "row"}, False),
        ({"masking.replicate": True}, False),
        ({"masking.policy": "amlm", "masking.draw": "bernoulli"}, False),
        ({"masking.policy": "amlm"}, True),
        ({"batch_size": 16}, False),
        ({"data.block": 16}, False),
        ({"steps": 2 * STEPS}, False),
        ({"batch_size": 16, "steps": 2 * STEPS}, True),  # half as many a step, twice the steps
        ({"optimiser.lr": 1e-3}, True),
    ],
    ids=str,
)
def test_whatever_the_reason(arm: dict[str, Any], kept: bool) -> None:
    sweep = spec(arms={"baseline": {}, "other": arm})
    assert ("other" in sweep.comparable) is kept
    assert budget.stray(sweep, arm) is not kept
    assert not budget.stray(spec(budget="free"), arm)


def test_arms_that_are_all_drawn_by_chance_share_a_budget() -> None:
    sweep = spec(
        config={"steps": STEPS, "masking": {"policy": "amlm", "draw": "bernoulli"}},
        arms={"baseline": {}, "soft": {"masking.score": "soft"}, "exact": {"masking.draw": "exact"}},
    )
    assert sweep.comparable == ["baseline", "soft"]


def test_what_no_settings_tell_the_counts_do(tmp_path: Path) -> None:
    """Of a trainable without `Config.budget`, and in journals that are older than it."""
    sweep = toy_spec(space={}, search={"method": "arms"})
    journal = Journal(tmp_path / "j")
    for number, (arm, predicted) in enumerate((("baseline", 3000.0), ("published", 8000.0))):
        journal.append(ask(sweep, number, number, arm))
        journal.append(reported(number, 20, 2.0 - number, number, {"train/predicted": predicted}))
        journal.append(end(number, "completed", number))
    common = Common.of(sweep, journal.trials.values())
    assert [common.kept(record) for record in journal.trials.values()] == [True, False]
    old = spec()
    journal = searched(tmp_path, old)
    records = [replace(one, ask=replace(one.ask, budget=None)) for one in journal.trials.values()]
    assert [Common.of(old, records).kept(record) for record in records] == [True, False, True]
    silent = [replace(one, rows=[]) for one in records]  # and nothing where neither tells
    assert all(map(Common.of(old, silent).kept, silent))


def test_a_trial_off_the_budget_does_not_steer_the_sampler(tmp_path: Path) -> None:
    def next_point(name: str, loss: float, **changes: Any) -> dict[str, Any]:
        sweep, journal = sampled(**changes), Journal(tmp_path / name)
        run(journal, sweep, "search", "baseline", sweep.arms["baseline"], 6.0)
        for number in range(14):
            rate = (0.15, 0.4)[number % 2]
            params = {"masking.rate": rate, "masking.ema_decay": number / 14}
            run(journal, sweep, "search", None, params, loss - number / 9 if rate > 0.15 else 5 + (number - 6) ** 2 / 9)
        point = StudySearch(sweep, journal, 1, tmp_path / "log", 1).point(15)
        assert point is not None
        return point.raw

    assert next_point("low", 3.0) == next_point("high", 9.0)
    assert next_point("free-low", 3.0, budget="free") != next_point("free-high", 9.0, budget="free")


def test_a_trial_off_the_budget_is_no_best_for_optuna_either(tmp_path: Path) -> None:
    sweep, journal = sampled(), Journal(tmp_path / "j")
    run(journal, sweep, "search", "baseline", sweep.arms["baseline"], 6.0)
    for number in range(6):
        run(journal, sweep, "search", None, {"masking.rate": 0.4, "masking.ema_decay": number / 6}, 4.0 - number)
    assert importance(sweep, journal) == {}
    write_study(sweep, journal, tmp_path / "log")
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "log")))
    trials = optuna.load_study(study_name="rates", storage=storage).trials
    assert [trial.values for trial in trials] == [[6.0], *[None] * 6]
    assert all(trial.user_attrs["note"] == "budget not matched" for trial in trials[1:])


def test_early_stopping_takes_no_measure_from_another_budget(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"scheduler": {"halving": {"first": 60, "reduction": 2}}}
    counts = []
    for name, free in (("matched", {}), ("free", {"budget": "free"})):
        sweep, journal = sampled(**changes, **free), Journal(tmp_path / name)
        points = [{"masking.rate": 0.4, "masking.ema_decay": each / 4} for each in range(4)]
        rule = schedulers.scheduler(sweep, journal, tmp_path)
        assert isinstance(rule, schedulers.Halving)
        for number, params in enumerate([sweep.arms["baseline"], *points]):
            trial = asked(journal, sweep, "search", None, params, 1)
            rule.rule.on_trial_add(None, schedulers.TrialStub(trial))
            assert not rule.should_stop(trial, {"step": 60, "val/loss": 5.0 - number})
        counts.append(len(rungs(rule)[60]))
    assert counts == [1, 5]


def test_the_hashes_that_a_spec_always_had_stay() -> None:
    plain, named, free = spec(), spec(budget="matched"), spec(budget="free")
    assert plain.spec_hash == named.spec_hash != free.spec_hash
    assert "budget" not in plain.to_yaml()
    larger = spec(arms={"baseline": {"masking.rate": 0.4}})
    drawn = spec(arms={"baseline": {"masking.apportion": "row"}})
    hashes = [each.budget_hash for each in (plain, named, free, larger, drawn)]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 4
    assert mlm.Config().budget.usual
    with pytest.raises(SpecError, match="budget"):
        spec(budget="loose")


def test_inexact_budgets_are_the_same_where_they_come_about_alike_and_are_counted_alike() -> None:
    rows: dict[str, Any] = {"masking.replicate": True}
    short, draws = {**rows, "data.block": 16, "batch_size": 64}, {**rows, "masking.policy": "amlm"}
    arms = {"baseline": rows, "short": short, "draws": draws}
    sweep = spec(arms=arms)
    common = budget.Common.of(sweep)
    assert [common.foretold(budget.to_dict(sweep.budget_of(arms[name]))) for name in arms] == [True, False, False]
    counted = replace(common, counted=19_000.0)

    def run(predicted: float) -> TrialRecord:
        record = TrialRecord(ask(sweep, 1, 1, "baseline"))
        metrics = {"val/loss": 1.0, "audit/matched": 0.0, "train/predicted": predicted}
        record.rows.append(Report(trial=record.id, step=STEPS, metrics=metrics))
        record.end = End(trial=record.id, state="completed")
        return record

    assert [counted.kept(run(predicted)) for predicted in (19_100.0, 18_900.0, 16_000.0)] == [True, True, False]


def test_a_spec_of_which_nothing_would_run_is_refused() -> None:
    with pytest.raises(SpecError, match="no other arm has the baseline's budget; set budget: free"):
        spec(arms={"baseline": {}, "big": {"masking.rate": 0.4}}, seeds={"search": [], "confirm": [1, 2, 3, 4, 5, 6]})


def test_the_plan_says_what_leaves_the_budget() -> None:
    lines = dict(budget.planned(spec()))
    assert "budget not matched: big (41,000 positions): reported apart" in lines["caution"]
    drawn = dict(budget.planned(spec(arms={"baseline": {}, "rows": {"masking.apportion": "row"}})))["caution"]
    assert "rows (not the same number in every batch): reported apart" in drawn
    assert "a larger budget lowers the loss" in dict(budget.planned(spec(budget="free")))["caution"]
    assert "points of the space that change masking.rate: reported" in dict(budget.planned(sampled()))["caution"]
    assert "caution" not in dict(budget.planned(spec(arms={"baseline": {}, "mix": {"masking.shares": SHARES}})))
    many = {"baseline": {}} | {f"r{n}": {"masking.rate": 0.2 + n / 100} for n in range(10)}
    assert "4 more arms" in dict(budget.planned(spec(arms=many)))["caution"]
    assert not list(budget.planned(toy_spec()))
    shown = "\n".join(estimate.shown(spec(), estimate.plan(spec(), 1, estimate.estimated(spec(), 1e9))))
    assert "budget not matched: big" in shown


def test_a_champion_of_another_budget_is_not_trained_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sweep, said = spec(), list[str]()
    tags = {tag.BUDGET: sweep.budget_hash, tag.PARAMS: '{"masking.rate": 0.4}'}
    monkeypatch.setattr(champion.store, "champion", lambda *_: tags)
    assert champion._standing(sweep, "x", {}, said.append) is None
    assert "is off budget: it is not compared and stays champion" in said[0]
    tags[tag.PARAMS] = '{"masking.ema_decay": 0.5}'
    assert champion._standing(sweep, "x", {}, said.append) == {"masking.ema_decay": 0.5}


def test_other_objectives_and_tasks_set_it_apart_too(tmp_path: Path) -> None:
    sweep = spec(objective=["val/loss", "val/loss_mask"])
    journal = Journal(tmp_path / "j")
    journal.append(replace(session(), facts={tasks.FACT: ["zorro/accuracy"]}))
    for arm, loss in {"baseline": 6.0, "big": 4.0, "mix": 5.9}.items():
        name = run(journal, sweep, "search", arm, sweep.arms[arm], loss)
        more = {"val/loss_mask": loss, "zorro/accuracy": 9 - loss}
        last = journal.trials[name].rows[-1]
        journal.append(replace(last, step=last.step + 1, metrics={**last.metrics, **more}))
        journal.append(End(trial=name, state="completed"))
    assert [trade.name for trade in pareto.trades(sweep, journal)] == ["mix", "baseline"]
    rows = scores.section(sweep, journal, records_of.describe).splitlines()[-3:]
    assert ["baseline" in rows[0], "mix" in rows[1], "big (budget not matched)" in rows[2]] == [True] * 3


@pytest.mark.parametrize(
    ("arm", "said"),
    [
        ({"masking.loss_weight": 0.2}, "other (predictions weighted in the loss)"),
        ({"masking.rate_schedule": "cosine"}, "other (not the same number in every batch)"),
        (
            {"masking.rate_schedule": "cosine", "masking.loss_weight": 0.2},
            "other (not the same number in every batch, predictions weighted in the loss)",
        ),
    ],
    ids=str,
)
def test_the_plan_says_in_which_way_a_budget_is_left(arm: dict[str, Any], said: str) -> None:
    told = [text for _, text in budget.planned(spec(arms={"baseline": {}, "other": arm}))]
    assert any(said in text for text in told), told
