"""The confirmation: who meets whom on which seeds, what is dropped, and what the journal then says."""

from __future__ import annotations

import contextlib
import json
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from sweeper import stages
from sweeper.confirmation import champion, conclusion, design, fresh_seeds
from sweeper.journal import verdict_text
from sweeper.journal.events import Ask, End, Family, Report, Session, Verdict
from sweeper.journal.journal import Journal
from sweeper.report import sections
from sweeper.spec.errors import SpecError
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.system import markdown
from sweeper.system.interrupts import Interrupts
from sweeper.tracking import store
from sweeper.tracking import tags as tag
from sweeper.trainable import FEW_DOCUMENTS
from sweeper.trials import cluster
from sweeper.trials import tuner as sweep_room

SEEDS = [11, 12, 13, 14, 15, 16, 17, 18]


def spec(**changes: Any) -> SweepSpec:
    tree: dict[str, Any] = {
        "name": "toy",
        "trainable": "trainables.toy:train",
        "config": {"steps": 4, "report_every": 2},
        "space": {"effect": {"uniform": [-1, 1]}},
        "arms": {"baseline": {"effect": 0.0}},
        "search": {"method": "random", "trials": 4},
        "seeds": {"search": [1], "confirm": SEEDS},
    }
    return resolve(tree | changes)


def run(
    journal: Journal, sweep: SweepSpec, stage: str, arm: str | None, seed: int, params: dict[str, Any], **row: float
) -> None:
    """One completed trial, or a failed one where it has no row."""
    number = len(journal.stage(stage))
    identity, config = f"{stage[0]}{number + 1:04d}", sweep.trainable_config(params)
    own = sweep.config_hash(config)
    journal.append(
        Ask(
            trial=identity,
            number=number,
            stage=stage,
            arm=arm,
            seed=seed,
            config=config,
            config_hash=own,
            params=params,
            raw={},
        )
    )
    if row:
        journal.append(
            Report(trial=identity, step=4, metrics={key.replace("_", "/"): value for key, value in row.items()})
        )
    reason = None if row else "RuntimeError: diverged: val/loss is nan at step 2"
    journal.append(End(trial=identity, state="completed" if row else "failed", reason=reason))


def searched(tmp_path: Path, sweep: SweepSpec) -> Journal:
    """A search whose baseline scored 2.0 and whose other trials scored 1.5, 1.2 and 1.8."""
    journal = Journal(tmp_path / "journal.jsonl")
    run(journal, sweep, "search", "baseline", 1, {"effect": 0.0}, val_loss=2.0)
    for effect, loss in ((0.1, 1.5), (0.2, 1.2), (0.3, 1.8)):
        run(journal, sweep, "search", None, 1, {"effect": effect}, val_loss=loss)
    return journal


def confirmed(journal: Journal, sweep: SweepSpec, losses: dict[str, float], seeds: list[int]) -> None:
    """Runs of each label whose loss is that of the label plus a bit by seed and label."""
    arms = journal.families()[-1].arms
    for seed in seeds:
        for label, loss in losses.items():
            wobble = 0.001 * ((seed * 7 + len(label) * 3 + ord(label[-1])) % 5)
            run(journal, sweep, "confirm", label, seed, arms[label], val_loss=loss, test_loss=loss + seed + wobble)


def test_the_best_of_the_search_meet_the_baseline(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2})
    journal = searched(tmp_path, sweep)
    assert design.select_candidates(sweep, journal) == {
        "baseline": {"effect": 0.0},
        "s0003": {"effect": 0.2},
        "s0002": {"effect": 0.1},
    }
    family = design.declared(sweep, journal, fresh=True, earlier=0)
    assert family.seeds == SEEDS
    assert design.schedule(family)[:4] == [("baseline", seed) for seed in SEEDS[:4]]
    assert design.schedule(family)[len(SEEDS) :][:3] == [("s0003", 11), ("s0002", 11), ("s0003", 12)]
    earlier = replace(family, baseline_first=False)
    assert design.schedule(earlier)[:4] == [("baseline", 11), ("s0003", 11), ("s0002", 11), ("baseline", 12)]
    assert {*design.schedule(earlier)} == {*design.schedule(family)}
    raced = design.schedule(replace(family, racing=True), ["s0002"])
    assert raced[:4] == [("baseline", seed) for seed in SEEDS[:4]]
    assert raced[4:12] == [(label, seed) for seed in SEEDS[:4] for label in ("s0003", "s0002")]
    assert raced[12:] == [(label, seed) for label in ("baseline", "s0003") for seed in SEEDS[4:]]
    assert len(design.schedule(family)) == sweep.confirm_trials == 24


@pytest.mark.parametrize("documents", [FEW_DOCUMENTS - 1, FEW_DOCUMENTS])
def test_too_few_documents_have_no_interval_over_them(tmp_path: Path, documents: int) -> None:
    sweep = spec(search={"method": "arms"}, arms={"baseline": {"effect": 0.0}, "a": {"effect": 0.1}}, confirm={})
    journal = Journal(tmp_path / "journal.jsonl")
    for arm in sweep.arms:
        run(journal, sweep, "search", arm, 1, dict(sweep.arms[arm]), val_loss=2.0)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "a": 1.9}, SEEDS)
    for record in journal.stage("confirm"):
        assert record.end
        record.end = replace(record.end, checkpoint=record.id)
        folder = tmp_path / record.id / "bundle" / "analysis"
        folder.mkdir(parents=True)
        losses = [2.0 * (1 + (record.ask.arm == "a") * number / 100) for number in range(documents)]
        content = {"loss": [*losses, 0.0], "predictions": [1.0] * documents + [0.0]}  # the last has no predictions
        (folder / "documents.json").write_text(json.dumps(content), "utf-8")
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    note = f"no interval over documents: the test part has {documents}, fewer than {FEW_DOCUMENTS}"
    assert (note in said["notes"]) == (note in verdict_text.section(said)) == (documents < FEW_DOCUMENTS)
    assert list(said["documents"]) == ([] if documents < FEW_DOCUMENTS else ["a"])
    row = next(line for line in verdict_text.section(said).splitlines() if line.startswith("| a "))
    assert (row.split("|")[5].strip() == markdown.ABSENT) == (documents < FEW_DOCUMENTS)


def test_a_trial_that_left_the_budget_is_no_contender(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    kept = Journal(tmp_path / "other.jsonl")
    for event in journal.events:
        if isinstance(event, Report):
            left = 0.0 if event.metrics["val/loss"] == 1.2 else 1.0
            event = Report(trial=event.trial, step=4, metrics={**event.metrics, "audit/matched": left})
        kept.append(event)
    assert list(design.select_candidates(sweep, kept)) == ["baseline", "s0002"]


def test_nothing_but_the_baseline_is_nothing_to_confirm(tmp_path: Path) -> None:
    sweep = spec()
    journal = Journal(tmp_path / "journal.jsonl")
    run(journal, sweep, "search", "baseline", 1, {"effect": 0.0}, val_loss=2.0)
    for effect in (0.1, 0.2, 0.3):
        run(journal, sweep, "search", None, 1, {"effect": effect})
    assert "nothing to confirm" in (design.why_no_confirmation(sweep, journal) or "")
    assert design.finished(sweep, journal)
    assert design.expected(sweep, journal) == 4


def test_a_verdict_goes_by_the_test_part_and_pairs_by_seed(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=False, earlier=2))
    assert not design.complete(sweep, journal)
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.1}, SEEDS)
    assert design.complete(sweep, journal)
    assert not design.finished(sweep, journal)
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    assert said["told"] == {"s0003": "confirmed", "s0002": "worse"}
    assert said["champion"] == "s0003"
    assert said["metric"] == "test/loss"
    assert [one["n"] for one in said["comparisons"]] == [8, 8]
    assert any("not fresh" in note for note in said["notes"])
    assert any("2 earlier confirmations" in note for note in said["notes"])
    journal.append(Verdict(data=said))
    assert design.finished(sweep, journal)
    text = sections.markdown(sweep, journal, sections.Outcome(run_dir=tmp_path, tracking_uri="x"))
    assert "**Confirmed: `s0003` (effect 0.2)** against `baseline` over 8 seeds by test/loss: -0.1" in text
    reopened = Journal(tmp_path / "journal.jsonl", read_only=True)
    assert reopened.families() == journal.families()
    assert json.dumps(reopened.verdict()) == json.dumps(said)


def test_of_several_confirmed_the_lowest_mean_is_champion(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.95, "s0002": 1.9}, SEEDS)
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    assert said["told"] == {"s0003": "confirmed", "s0002": "confirmed"}
    assert said["champion"] == said["comparisons"][1]["arm"] == "s0002"
    assert "the champion is the best of 2 confirmed, so its estimate is optimistic" in said["notes"]


def test_a_null_says_so_as_plainly(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 2.0}, SEEDS)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    text = sections.markdown(sweep, journal, sections.Outcome(run_dir=tmp_path, tracking_uri="x"))
    assert "**Nothing is confirmed** against `baseline` over 8 seeds" in text
    assert journal.verdict() is not None
    assert journal.verdict()["champion"] is None  # type: ignore[index]


def test_racing_drops_the_hopeless_and_never_confirms_early(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2, "racing": True})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.5}, SEEDS[:3])
    assert not design.racing_complete(journal)
    assert len(design.runs(sweep, journal)) == 24
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.5}, SEEDS[3:4])
    assert design.racing_complete(journal)
    assert design.dropped(sweep, journal, journal.families()[0]) == ["s0002"]
    assert len(design.runs(sweep, journal)) == 12 + 8
    assert conclusion.conclude(sweep, journal, tmp_path).to_dict()["champion"] is None
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS[4:])
    assert design.complete(sweep, journal)
    assert conclusion.conclude(sweep, journal, tmp_path).to_dict()["told"] == {
        "s0003": "confirmed",
        "s0002": "dropped after 4 pairs",
    }


def test_more_seeds_are_a_further_look_at_half_the_level_on_unused_seeds(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    journal.append(design.further(sweep, journal, 3, {19, 30}))
    family = journal.families()[-1]
    assert (family.look, family.seeds) == (2, [31, 32, 33])
    assert not design.finished(sweep, journal)
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, family.seeds)
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    assert (said["look"], said["alpha"], said["comparisons"][0]["n"]) == (2, 0.025, 11)
    assert said["seeds"] == [*SEEDS, 31, 32, 33]


def test_a_run_that_diverged_is_no_help_to_its_arm(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS[:-1])
    run(journal, sweep, "confirm", "baseline", SEEDS[-1], {"effect": 0.0}, val_loss=2.0, test_loss=2.0)
    run(journal, sweep, "confirm", "s0003", SEEDS[-1], {"effect": 0.2})
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    assert said["told"] == {"s0003": "inconclusive"}
    assert said["comparisons"][0]["failed"] == [SEEDS[-1]] or said["comparisons"][0]["failed"] == (SEEDS[-1],)


def test_the_standing_champion_is_one_more_arm(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    other = design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5})
    assert (list(other.arms), other.champion) == (["baseline", "s0003", "champion"], "champion")
    same = design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": 0.2})
    assert (list(same.arms), same.champion) == (["baseline", "s0003"], "s0003")


ARMS = {"plain": {"x": 0.5, "y": 0.5}, "full": {"x": 0.3, "y": 0.7}}


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("leave_one_out", ["full", "without-x", "without-y", "plain"]),
        ("add_one", ["plain", "with-x", "with-y", "full"]),
        ("grid", ["plain", "y", "x", "full"]),
    ],
)
def test_an_ablation_makes_arms_of_two(kind: str, names: list[str]) -> None:
    sweep = spec(space={}, arms=ARMS, ablation=kind, search={"method": "arms"}, seeds={"search": [], "confirm": SEEDS})
    assert list(sweep.arms) == names
    assert sweep.ablation is None
    assert (sweep.total_trials, sweep.confirm_trials) == (0, 32)
    changed = {name: sum(arm[path] != ARMS["plain"][path] for path in arm) for name, arm in sweep.arms.items()}
    assert [changed[name] for name in ("plain", "full")] == [0, 2]
    assert {changed[name] for name in names} == {0, 1, 2}
    assert resolve(yaml.safe_load(sweep.to_yaml())).spec_hash == sweep.spec_hash


def test_an_ablation_of_presets_finds_their_components() -> None:
    tree = {
        "name": "a",
        "arms": {"random": {"masking.preset": "published/random"}, "cms": {"masking.preset": "published/cms-morph"}},
        "ablation": "leave_one_out",
        "search": {"method": "arms"},
        "seeds": {"search": [1]},
    }
    with pytest.raises(SpecError, match="cap 5 is above 1"):
        resolve(tree)
    tree["arms"]["cms"] = {"masking.preset": "published/accuracy-morph", "masking.ema_decay": 0.5}
    assert list(resolve(tree).arms) == ["cms", "without-shares", "without-ema_decay", "random"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"ablation": "grid"}, "ablation: needs search: {method: arms} and two arms"),
        ({"confirm": {"margin": 0.5}}, "confirm.margin: 0.5 is above worthwhile, 0.01"),
        ({"confirm": {"best": 0}}, "confirm.best"),
        (
            {"space": {}, "search": {"method": "arms"}, "seeds": {"search": [], "confirm": []}},
            "seeds.search: is empty, so two or more arms and seeds.confirm are needed",
        ),
    ],
)
def test_what_cannot_be_confirmed_is_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match="spec") as error:
        spec(**changes)
    assert said in str(error.value)


BY_ARMS: dict[str, Any] = {
    "space": {},
    "arms": {"baseline": {"effect": 0.0}, "a": {"effect": 0.1}, "b": {"effect": 0.2}, "c": {"effect": 0.3}},
    "search": {"method": "arms"},
}


@pytest.mark.parametrize(
    ("best", "labels"), [(None, ["baseline", "a", "b", "c"]), (2, ["baseline", "c", "a"]), (1, ["baseline", "c"])]
)
def test_of_arms_the_best_meet_the_baseline_or_all_in_order(tmp_path: Path, best: int | None, labels: list[str]):
    sweep = spec(**BY_ARMS, confirm={"best": best})
    journal = Journal(tmp_path / "journal.jsonl")
    for arm, loss in {"baseline": 2.0, "a": 1.9, "b": 2.2, "c": 1.8}.items():
        run(journal, sweep, "search", arm, 1, sweep.arms[arm], val_loss=loss)
    assert list(design.select_candidates(sweep, journal)) == labels


def test_arms_that_ran_no_search_are_taken_in_order(tmp_path: Path) -> None:
    sweep = spec(**BY_ARMS, confirm={"best": 2}, seeds={"search": [], "confirm": SEEDS})
    assert list(design.select_candidates(sweep, Journal(tmp_path / "j"))) == ["baseline", "a", "b"]


def test_arms_that_all_failed_or_left_the_budget_are_nothing_to_confirm(tmp_path: Path) -> None:
    sweep = spec(**BY_ARMS)
    failed, left = Journal(tmp_path / "failed"), Journal(tmp_path / "left")
    for arm, params in sweep.arms.items():
        run(failed, sweep, "search", arm, 1, params)
        run(left, sweep, "search", arm, 1, params, val_loss=2.0, audit_matched=float(arm == "baseline"))
    assert design.why_no_confirmation(sweep, failed) == "no confirmation: no trial of the search completed"
    assert "no arm but the baseline kept to the budget" in (design.why_no_confirmation(sweep, left) or "")
    assert design.finished(sweep, failed)
    assert design.finished(sweep, left)


def test_a_trainable_that_does_not_tell_the_metric_is_named(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    assert conclusion.missing_metric_note(sweep, journal) is None
    for seed in SEEDS:
        for label, params in journal.families()[0].arms.items():
            run(journal, sweep, "confirm", label, seed, params, val_loss=1.0, audit_matched=float(label == "baseline"))
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    assert said["told"] == {"s0003": "budget not matched"}
    assert said["comparisons"][0]["n"] == 0
    assert "16 of 16 completed runs did not report test/loss" in said["notes"][0]
    assert said["notes"][1] == "s0003 did not keep to the baseline's budget: it is not compared"
    journal.append(Verdict(data=said))
    assert design.finished(sweep, journal)


def test_an_arm_that_is_called_champion_is_not_the_standing_one(tmp_path: Path) -> None:
    sweep = spec(arms={"baseline": {"effect": 0.0}, "champion": {"effect": 0.2}}, confirm={"best": 1})
    journal = Journal(tmp_path / "journal.jsonl")
    for arm, loss in {"baseline": 2.0, "champion": 1.0}.items():
        run(journal, sweep, "search", arm, 1, sweep.arms[arm], val_loss=loss)
    family = design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5})
    assert family.champion == "standing-champion"
    assert family.arms["champion"] == {"effect": 0.2}
    assert family.arms["standing-champion"] == {"effect": -0.5}


def stored(seed: int | None, **tags: str) -> Any:
    """A run as the tracking store gives it; without a seed where its driver was killed before it had told more."""
    params = {} if seed is None else {"seed": str(seed)}
    return SimpleNamespace(data=SimpleNamespace(params=params, tags={f"sweeper.{key}": tags[key] for key in tags}))


def away(*_: Any) -> Any:
    raise ValueError("MLflow (x) is not to be had")


FACTS = {"data_fingerprint": "d"}


def test_the_ledger_counts_all_seeds_but_this_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    own = store.identity(journal, tmp_path)
    begun = own["sweeper.begun"]
    runs = [stored(11, run=tmp_path.name, begun=begun), stored(None, run="killed", begun=begun)]
    monkeypatch.setattr(store, "found", lambda *_: runs)
    monkeypatch.setattr(store, "champion", lambda *_: None)
    fresh_seeds.refuse_used(sweep, "x", FACTS, own, said.append)
    assert champion.declare(sweep, journal, "x", FACTS, tmp_path, said.append).fresh
    with pytest.raises(ValueError, match="data used 11, so"):
        fresh_seeds.refuse_used(sweep, "x", FACTS, {}, said.append)
    runs.append(stored(12, run=tmp_path.name, begun="on another machine"))
    with pytest.raises(ValueError, match="data used 12, so"):
        fresh_seeds.refuse_used(sweep, "x", FACTS, own, said.append)
    assert not champion.declare(sweep, journal, "x", FACTS, tmp_path, said.append).fresh
    assert said == []


def test_what_a_store_that_is_away_cannot_tell_is_not_called_fresh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    monkeypatch.setattr(store, "found", away)
    fresh_seeds.refuse_used(sweep, "x", FACTS, {}, said.append)
    family = champion.declare(sweep, journal, "x", FACTS, tmp_path, said.append)
    assert not family.fresh
    journal.append(family)
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    further = champion.further(sweep, journal, 2, "x", FACTS, tmp_path, said.append)
    assert (further.fresh, further.seeds) == (False, [19, 20])
    journal.append(replace(further, fresh=True))
    assert any("not fresh" in note for note in conclusion.conclude(sweep, journal, tmp_path).to_dict()["notes"])
    assert len(said) == 3


def test_a_later_look_that_confirms_nothing_says_whose_the_champion_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    own = store.identity(journal, tmp_path)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 2.0}, SEEDS)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    monkeypatch.setattr(store, "champion", lambda *_: own)
    assert champion.promotion(sweep, journal, "x", FACTS, tmp_path, said.append) is None
    assert said == [], "a first look has made no champion"
    journal.append(design.further(sweep, journal, 8, {*SEEDS}))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 2.0}, journal.families()[-1].seeds)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    assert champion.promotion(sweep, journal, "x", FACTS, tmp_path, said.append) is None
    assert said == ["the champion of toy is from an earlier look of this run; this look does not confirm it"]


def test_a_champion_made_since_by_another_sweep_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5}))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.0, "champion": 1.9}, SEEDS)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, tmp_path).to_dict()))
    first = next(record for record in journal.stage("confirm") if record.ask.arm == "s0003")
    (tmp_path / "c" / "bundle").mkdir(parents=True)
    journal.append(End(trial=first.id, state="completed", checkpoint="c"))
    same = {tag.BUDGET: sweep.budget_hash, "sweeper.data_fingerprint": "d"}

    def crowned(standing: dict[str, str] | None) -> Any:
        monkeypatch.setattr(store, "champion", lambda *_: standing)
        return champion.promotion(sweep, journal, "x", FACTS, tmp_path, said.append)

    own = store.identity(journal, tmp_path)
    for standing in (None, {**same, tag.PARAMS: '{"effect": -0.5}'}, {**same, **own, tag.PARAMS: "{"}):
        assert crowned(standing).trial is first
    assert said == []
    for standing in ({**same, tag.PARAMS: '{"effect": 0.7}'}, {**same, tag.PARAMS: "{"}, same):
        assert crowned(standing) is None
    assert all("but was not compared with the champion of" in line for line in said)
    assert crowned({tag.PARAMS: '{"effect": -0.5}'}) is None
    assert "had other data or budget" in said[-1]


def test_a_challenger_must_be_confirmed_against_the_champion_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last beat the baseline by a nat; what differs is how they fare against the champion."""
    cases = {"equal": (1.0, 1.0), "better": (0.9, 1.0), "worse": (1.1, 1.0), "where the champion fails": (1.0, 2.0)}
    for case, (loss, standing) in cases.items():
        sweep, said = spec(confirm={"best": 1}), list[str]()
        folder = tmp_path / case
        folder.mkdir()
        journal = searched(folder, sweep)
        journal.append(design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5}))
        confirmed(journal, sweep, {"baseline": 2.0, "s0003": loss, "champion": standing}, SEEDS)
        journal.append(Verdict(data=conclusion.conclude(sweep, journal, folder).to_dict()))
        verdicts: Any = journal.verdict()
        assert verdicts["told"]["s0003"] == "confirmed"
        first = next(record for record in journal.stage("confirm") if record.ask.arm == "s0003")
        (folder / "c" / "bundle").mkdir(parents=True)
        journal.append(End(trial=first.id, state="completed", checkpoint="c"))
        tags = {
            tag.BUDGET: sweep.budget_hash,
            "sweeper.data_fingerprint": "d",
            tag.PARAMS: '{"effect": -0.5}',
        }
        monkeypatch.setattr(store, "champion", lambda *_, tags=tags: tags)
        crowned = champion.promotion(sweep, journal, "x", FACTS, folder, said.append)
        text = sections.markdown(sweep, journal, sections.Outcome(run_dir=folder, tracking_uri="x"))
        if case in ("better", "where the champion fails"):
            assert crowned is not None
            assert crowned.trial is first is champion.crowned(sweep, journal).run
            assert verdicts["challenge"]["crowned"] == "s0003"
            line = "he standing champion, champion, is replaced by s0003, which is confirmed against it, too (s0003: "
        else:
            assert crowned is None
            line = "he standing champion, champion, stays: no arm is confirmed against it (s0003: "
            assert champion.crowned(sweep, journal).why_not == verdicts["challenge"]["said"]
            assert said[0].startswith("t" + line)
        assert "T" + line in text.split("\n## ")[0]
        assert "* t" + line in text.split("## Verdicts")[1]


def test_racing_does_not_drop_the_champion_that_is_to_be_met(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1, "racing": True})
    journal = searched(tmp_path, sweep)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5}))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 2.4, "champion": 2.5}, SEEDS[:4])
    assert design.dropped(sweep, journal, journal.families()[0]) == ["s0003"]


def test_what_the_loss_was_measured_on_stands_beside_the_verdict(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(
        Session(command="x", versions={}, git_commit=None, machine={}, facts={"judged": ["on masks of such a kind"]})
    )
    run(journal, sweep, "search", "baseline", 1, {"effect": 0.0}, val_loss=2.0)
    run(journal, sweep, "search", None, 1, {"effect": 0.1}, val_loss=1.5)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0002": 2.0}, SEEDS)
    said = conclusion.conclude(sweep, journal, tmp_path).to_dict()
    lines = verdict_text.section(said).splitlines()
    assert "* on masks of such a kind" in lines
    assert [line for line in lines if line.startswith("* no worthwhile difference is judged for each arm by itself")]
    assert [line for line in lines if line.startswith("* assumed: ")]
    assert not [line for line in lines if "the same must hold over seeds and documents" in line], "none are known here"


def driven(
    monkeypatch: pytest.MonkeyPatch, *, more_seeds: int = 0, signal_at_the_end: bool = False, **rooms: Any
) -> Any:
    """The command's own way through the stages, without Ray; what people were told goes into `said`."""

    def fit(*_: Any, **__: Any) -> bool:
        signal.signal(signal.SIGUSR1, lambda *_: None)  # as Tune does, and leaves it so
        if signal_at_the_end:
            signal.raise_signal(signal.SIGINT)
        return True

    monkeypatch.setattr(cluster, "session", lambda *_: contextlib.nullcontext([]))
    monkeypatch.setattr(stages, "max_concurrent", lambda *_: 1)
    monkeypatch.setattr(sweep_room, "run", fit)
    monkeypatch.setattr(sweep_room, "confirm", lambda *_, **__: False)
    own = {"spec": rooms["sweep"], "run_dir": rooms["run_dir"], "journal": rooms["journal"]}
    with Interrupts(rooms["said"].append, "") as signals:
        return Stages(**own, uri="sqlite:////no/store", prepare_info={}, more_seeds=more_seeds).run(signals)


def test_a_signal_at_the_searchs_end_starts_no_confirmation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    monkeypatch.setattr(design, "searched", lambda *_: False)
    rooms = {"sweep": sweep, "run_dir": tmp_path, "journal": journal, "said": said}
    assert not driven(monkeypatch, signal_at_the_end=True, **rooms)
    assert journal.families() == []


def test_more_seeds_before_a_verdict_finish_the_look_and_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, said = spec(confirm={"best": 1}), list[str]()
    journal = searched(tmp_path, sweep)
    rooms = {"sweep": sweep, "run_dir": tmp_path, "journal": journal, "said": said}
    assert not driven(monkeypatch, more_seeds=2, **rooms)
    assert not driven(monkeypatch, more_seeds=2, **rooms)
    assert len(journal.families()) == 1
    assert sum("--more-seeds: the last look is not finished" in line for line in said) == 2
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS)
    assert driven(monkeypatch, more_seeds=2, **rooms)  # nothing was left but the verdict
    assert (len(journal.families()), design.finished(sweep, journal)) == (1, True)
    for look in (2, 3):
        assert not driven(monkeypatch, more_seeds=2, **rooms)
        confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, journal.families()[-1].seeds)
        assert driven(monkeypatch, **rooms)
        assert journal.verdict()["look"] == look  # type: ignore[index]
    assert [one.seeds for one in journal.families()[1:]] == [[19, 20], [21, 22]]
    assert sum(isinstance(event, Verdict) for event in journal.events) == 3


def test_families_are_events_of_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(Family(look=1, baseline="a", arms={"a": {}, "b": {"x": 1.0}}, seeds=[1, 2]))
    assert Journal(tmp_path / "j", read_only=True).families() == journal.families()
