"""The confirmation: who meets whom on which seeds, what is dropped, and what the journal then says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper import confirm, report
from sweeper.journal import Ask, End, Family, Journal, Report, Verdict
from sweeper.spec import SpecError, SweepSpec, resolve

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
    assert confirm.contenders(sweep, journal) == {
        "baseline": {"effect": 0.0},
        "s0003": {"effect": 0.2},
        "s0002": {"effect": 0.1},
    }
    family = confirm.declared(sweep, journal, fresh=True, earlier=0)
    assert family.seeds == SEEDS
    assert confirm.schedule(family)[:4] == [("baseline", 11), ("s0003", 11), ("s0002", 11), ("baseline", 12)]
    assert len(confirm.schedule(family)) == sweep.confirm_trials == 24


def test_a_trial_that_left_the_budget_is_no_contender(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    kept = Journal(tmp_path / "other.jsonl")
    for event in journal.events:
        if isinstance(event, Report):
            left = 0.0 if event.metrics["val/loss"] == 1.2 else 1.0
            event = Report(trial=event.trial, step=4, metrics={**event.metrics, "audit/matched": left})
        kept.append(event)
    assert list(confirm.contenders(sweep, kept)) == ["baseline", "s0002"]


def test_nothing_but_the_baseline_is_nothing_to_confirm(tmp_path: Path) -> None:
    sweep = spec()
    journal = Journal(tmp_path / "journal.jsonl")
    run(journal, sweep, "search", "baseline", 1, {"effect": 0.0}, val_loss=2.0)
    for effect in (0.1, 0.2, 0.3):
        run(journal, sweep, "search", None, 1, {"effect": effect})
    assert "nothing to confirm" in (confirm.lacking(sweep, journal) or "")
    assert confirm.finished(sweep, journal)
    assert confirm.expected(sweep, journal) == 4


def test_a_verdict_goes_by_the_test_part_and_pairs_by_seed(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2})
    journal = searched(tmp_path, sweep)
    journal.append(confirm.declared(sweep, journal, fresh=False, earlier=2))
    assert not confirm.complete(sweep, journal)
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.1}, SEEDS)
    assert confirm.complete(sweep, journal)
    assert not confirm.finished(sweep, journal)
    said = confirm.conclude(sweep, journal, tmp_path)
    assert said["told"] == {"s0003": "confirmed", "s0002": "worse"}
    assert said["champion"] == "s0003"
    assert said["metric"] == "test/loss"
    assert [one["n"] for one in said["comparisons"]] == [8, 8]
    assert any("not fresh" in note for note in said["notes"])
    assert any("2 earlier confirmations" in note for note in said["notes"])
    journal.append(Verdict(data=said))
    assert confirm.finished(sweep, journal)
    text = report.markdown(sweep, journal, report.Outcome(run_dir=tmp_path, tracking_uri="x"))
    assert "**Confirmed: `s0003`** against `baseline` over 8 seeds by test/loss: -0.1" in text
    reopened = Journal(tmp_path / "journal.jsonl", read_only=True)
    assert reopened.families() == journal.families()
    assert json.dumps(reopened.verdict()) == json.dumps(said)


def test_a_null_says_so_as_plainly(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(confirm.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 2.0}, SEEDS)
    journal.append(Verdict(data=confirm.conclude(sweep, journal, tmp_path)))
    text = report.markdown(sweep, journal, report.Outcome(run_dir=tmp_path, tracking_uri="x"))
    assert "**Nothing is confirmed** against `baseline` over 8 seeds" in text
    assert journal.verdict() is not None
    assert journal.verdict()["champion"] is None  # type: ignore[index]


def test_racing_drops_the_hopeless_and_never_confirms_early(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 2, "racing": True})
    journal = searched(tmp_path, sweep)
    journal.append(confirm.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.5}, SEEDS[:3])
    assert not confirm.raced(journal)
    assert len(confirm.runs(sweep, journal)) == 24
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9, "s0002": 2.5}, SEEDS[3:4])
    assert confirm.raced(journal)
    assert confirm.dropped(sweep, journal, journal.families()[0]) == ["s0002"]
    assert len(confirm.runs(sweep, journal)) == 12 + 8
    assert confirm.conclude(sweep, journal, tmp_path)["champion"] is None
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS[4:])
    assert confirm.complete(sweep, journal)
    assert confirm.conclude(sweep, journal, tmp_path)["told"] == {
        "s0003": "confirmed",
        "s0002": "dropped after 4 pairs",
    }


def test_more_seeds_are_a_further_look_at_half_the_level_on_unused_seeds(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(confirm.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS)
    journal.append(Verdict(data=confirm.conclude(sweep, journal, tmp_path)))
    journal.append(confirm.further(sweep, journal, 3, {19, 30}))
    family = journal.families()[-1]
    assert (family.look, family.seeds) == (2, [31, 32, 33])
    assert not confirm.finished(sweep, journal)
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, family.seeds)
    said = confirm.conclude(sweep, journal, tmp_path)
    assert (said["look"], said["alpha"], said["comparisons"][0]["n"]) == (2, 0.025, 11)
    assert said["seeds"] == [*SEEDS, 31, 32, 33]


def test_a_run_that_diverged_is_no_help_to_its_arm(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    journal.append(confirm.declared(sweep, journal, fresh=True, earlier=0))
    confirmed(journal, sweep, {"baseline": 2.0, "s0003": 1.9}, SEEDS[:-1])
    run(journal, sweep, "confirm", "baseline", SEEDS[-1], {"effect": 0.0}, val_loss=2.0, test_loss=2.0)
    run(journal, sweep, "confirm", "s0003", SEEDS[-1], {"effect": 0.2})
    said = confirm.conclude(sweep, journal, tmp_path)
    assert said["told"] == {"s0003": "inconclusive"}
    assert said["comparisons"][0]["failed"] == [SEEDS[-1]] or said["comparisons"][0]["failed"] == (SEEDS[-1],)


def test_the_standing_champion_is_one_more_arm(tmp_path: Path) -> None:
    sweep = spec(confirm={"best": 1})
    journal = searched(tmp_path, sweep)
    other = confirm.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": -0.5})
    assert (list(other.arms), other.champion) == (["baseline", "s0003", "champion"], "champion")
    same = confirm.declared(sweep, journal, fresh=True, earlier=0, champion={"effect": 0.2})
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
            "seeds.search: is empty: then two arms or more and seeds.confirm must be there",
        ),
    ],
)
def test_what_cannot_be_confirmed_is_refused_in_a_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match="spec") as error:
        spec(**changes)
    assert said in str(error.value)


def test_families_are_events_of_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(Family(look=1, baseline="a", arms={"a": {}, "b": {"x": 1.0}}, seeds=[1, 2]))
    assert Journal(tmp_path / "j", read_only=True).families() == journal.families()
