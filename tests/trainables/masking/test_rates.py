"""Rates in time and by row, corruption apart from prediction, and weights in the loss."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from sweeper.spec.load import resolve
from sweeper.trainable import TrainContext
from tests.trainables.masking.test_policies import (
    FALLING,
    LENGTH,
    ROWS,
    UNKNOWN,
    VOCABULARY,
    alone,
    config,
    ids,
    made,
    noise,
    play,
)
from tests.trainables.tiny import Recorder, Stopped
from tests.trainables.tiny import config as tiny
from tests.trainables.tiny import run as trained
from trainables import mlm
from trainables.masking.audit import AllReduce
from trainables.masking.budget import Budget
from trainables.masking.replacement import Corruption, Replacement
from trainables.noise import StepNoise
from trainables.settings import described
from trainables.settings.config import Config
from trainables.settings.row_rates import RowRates, largest_part
from trainables.testing import in_threads

NEW = (*FALLING, "row_uniform", "row_cosine", "dense_corruption", "sparse_corruption", "mask_only", "rho_like")
KINDS: tuple[RowRates, ...] = ("uniform", "cosine")


# Rates in time


def test_rates_by_step() -> None:
    steps = (0, 33, 66, 69, 70, 89, 90, 99)
    rates = {name: [round(config(name).rate_at(step), 6) for step in steps] for name in FALLING}
    assert rates == {
        "rate_linear": [0.3, 0.25, 0.2, 0.195455, 0.193939, 0.165152, 0.163636, 0.15],
        "rate_cosine": [0.3, 0.2625, 0.1875, 0.181496, 0.179579, 0.153745, 0.153038, 0.15],
        "rate_inverse": [0.3, 0.225, 0.18, 0.176786, 0.17574, 0.157979, 0.157143, 0.15],
        "rate_steps": [0.3, 0.3, 0.3, 0.3, 0.15, 0.15, 0.05, 0.05],
    }


@pytest.mark.parametrize("name", FALLING)
def test_the_mean_number_of_predictions_is_the_true_one(name: str) -> None:
    settings = config(name)
    for steps in (100, 50):  # a copy with other steps has its own
        settings = settings.model_copy(update={"steps": steps})
        each = [round(settings.rate_at(step) * ROWS * LENGTH) for step in range(steps)]
        assert settings.predicted_per_step == round(sum(each) / steps)
        assert settings.most_predicted == math.ceil(0.3 * ROWS * LENGTH)
        assert settings.budget == (sum(each), False, False, "schedule")


@pytest.mark.parametrize("name", FALLING)
@pytest.mark.parametrize("shape", [(1, 8), (3, 33), (7, 16), (12, 32)])
def test_every_step_predicts_its_own_number(name: str, shape: tuple[int, int]) -> None:
    given = config(name, **({} if name == "rate_steps" else {"rate": 0.2}))
    settings = given.model_copy(
        update={"batch_size": shape[0], "data": given.data.model_copy(update={"block": shape[1]})}
    )
    policy = made(settings, slice(0, shape[0]))
    for step in range(0, 100, 7):
        batch = ids(step, 0.0).repeat(1, 2)[: shape[0], : shape[1]]
        selection = policy.select(batch, StepNoise(3, 0, step, shape))
        assert int(selection.weight.sum()) == selection.total == round(settings.rate_at(step) * shape[0] * shape[1])
    assert policy.metrics(alone)["audit/matched"] == 0


# Rates by row


@given(
    kind=st.sampled_from(KINDS),
    rate=st.floats(0.02, 0.5),
    rows=st.integers(1, 70),
    length=st.integers(8, 130),
    step=st.integers(0, 10_000),
    token=st.floats(0, 1),
    other=st.floats(0, 1),
)
def test_rows_add_up_and_no_row_or_rank_gets_more_than_it_may(
    kind: RowRates, rate: float, rows: int, length: int, step: int, token: float, other: float
) -> None:
    budget, shares = Budget(rate, rows, length, kind), [token, other * (1 - token)]
    row, *parts = budget.quotas(shares, StepNoise(1, 0, step, (rows, length)))
    assert row.sum() == budget.total
    assert (row >= 0).all()
    assert (sum(parts) <= row).all()
    assert row.max() <= math.ceil(budget.total * largest_part(kind, rows, 1))
    for part, share in zip(parts, shares, strict=True):
        assert abs(part.sum() - share * budget.total) <= 1
        assert part.max() <= budget.largest(share) or row.max() > length
    if row.max() > length:  # refused
        return
    assert row.max() <= budget.largest()
    for begin, end in itertools.combinations(range(rows + 1), 2):
        if rows < 20 or begin % 9 == 0:
            assert row[begin:end].sum() <= budget.slots(slice(begin, end))


@given(kind=st.sampled_from(KINDS), rows=st.integers(2, 300), length=st.integers(8, 130))
def test_up_to_a_quarter_no_row_is_asked_for_more_than_half_of_it(kind: RowRates, rows: int, length: int) -> None:
    total = math.floor(0.25 * rows * length)
    assert math.ceil(total * largest_part(kind, rows, 1) - 1e-6) <= math.ceil(length / 2)


def test_rows_that_could_be_asked_for_too_much_are_refused() -> None:
    with pytest.raises(ValueError, match=r"uniform could ask a row for 20 of its 32 .* 16: lower the rate to 0\.25"):
        config("row_uniform", rate=0.3)
    assert config("row_cosine", rate=0.3)
    with pytest.raises(ValueError, match="row_rates cosine could ask a row for"):
        config("row_cosine", rate=0.15, rate_schedule="linear", rate_start=0.5)
    for other in ({"policy": "amlm"}, {"apportion": "row"}, {"replicate": True}):
        with pytest.raises(ValueError, match="row_rates belong to policy mixture with apportion batch"):
            config("row_uniform", **other)


def test_every_source_gets_its_share_of_uneven_rows() -> None:
    shares = {"random": 0.5, "whole_word": 0.3, "rarity": 0.2}
    policy = made(config("accuracy_morph", row_rates="uniform", shares=shares))
    for step in range(30):
        policy.select(ids(step), noise(step))
    found = policy.metrics(alone)
    assert {name: found[f"audit/shares/{name}"] for name in shares} == pytest.approx(shares, abs=0.02)
    assert found["audit/fallbacks"] == 0
    assert found["audit/matched"] == 1


# Corruption apart from prediction

RULES: list[dict[str, Any]] = [
    {"preset": "random"},
    {"preset": "accuracy_morph"},
    {"preset": "row_uniform"},
    {"preset": "random", "apportion": "row"},
    {"preset": "amlm"},
    {"preset": "amlm", "draw": "bernoulli"},
    {"preset": "published/amlm-hard-code", "replicate": True},
    {"preset": "rate_linear", "rate_start": 0.45},
]


def corruption(settings: Config, rows: slice = slice(0, ROWS)) -> Corruption:
    eligible = torch.tensor(VOCABULARY.eligible | settings.masking.as_coded)
    return Corruption(settings.masking.corrupt, eligible, rows)


def corrupted(settings: Config, rows: slice, steps: range) -> list[torch.Tensor]:
    """[b, T] of each step, by a policy whose audit agrees."""
    policy, found = made(settings, rows), []
    for step in steps:
        selection = policy.select(ids(step), noise(step))
        taken, broken = corruption(settings, rows)(ids(step), selection, noise(step))
        policy.audit.tally_corrupted(taken, broken)
        found.append(taken)
    assert policy.metrics(alone)["audit/corrupted"] == float(torch.stack(found).double().mean())
    return found


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("share", [None, 0.05, 0.25, 0.5])
def test_so_many_are_corrupted_by_any_number_of_ranks_together(rule: dict[str, Any], share: float | None) -> None:
    settings, steps = config(**rule, corrupt=share), range(0, 100, 20)
    whole = corrupted(settings, slice(0, ROWS), steps)
    for taken in whole:
        assert share is None or int(taken.sum()) == round(share * ROWS * LENGTH)
    for ranks in (2, 3):
        cuts = [slice(ROWS * r // ranks, ROWS * (r + 1) // ranks) for r in range(ranks)]
        parts = [corrupted(settings, rows, steps) for rows in cuts]
        assert all(map(torch.equal, map(torch.cat, zip(*parts, strict=True)), whole))


def test_the_audit_sums_what_all_ranks_corrupted_and_goes_on_from_there() -> None:
    settings, cuts = config("dense_corruption"), (slice(0, 5), slice(5, ROWS))
    found: list[tuple[dict[str, float], dict[str, torch.Tensor]]] = [({}, {})] * 2

    def act(rank: int, all_reduce: AllReduce) -> None:
        policy = made(settings, cuts[rank])
        for _ in range(2):
            for step in range(3):
                selection = policy.select(ids(step), noise(step))
                policy.audit.tally_corrupted(*corruption(settings, cuts[rank])(ids(step), selection, noise(step)))
            found[rank] = policy.metrics(all_reduce), policy.state(all_reduce)
            policy = made(settings, cuts[rank])
            policy.load(found[rank][1], rank)

    in_threads(2, act)
    number = round(0.4 * ROWS * LENGTH)
    for metrics, state in found:
        assert metrics["audit/corrupted"] == number / (ROWS * LENGTH)
        assert state["corrupted"].tolist() == [6 * number, 0]


def test_half_of_all_can_be_corrupted_where_half_are_unknown() -> None:
    settings, batch = config("dense_corruption", corrupt=0.5), ids(0, 0.0)
    batch[:, ::2] = UNKNOWN
    taken, broken = corruption(settings)(batch, made(settings).select(batch, noise(0)), noise(0))
    assert not broken
    assert torch.equal(taken, batch != UNKNOWN)


def test_too_little_to_corrupt_fails_loudly() -> None:
    settings, batch = config("dense_corruption"), ids(0, 0.0)
    batch[:, 8:] = UNKNOWN
    policy = made(settings)
    taken, broken = corruption(settings)(batch, policy.select(batch, noise(0)), noise(0))
    policy.audit.tally_corrupted(taken, broken)
    with pytest.raises(RuntimeError, match="mask audit: 1 batches corrupted the wrong number"):
        policy.metrics(alone)


def test_what_is_corrupted_beside_predictions_is_replaced_as_they_are() -> None:
    settings, counts = config("dense_corruption"), torch.zeros(3)
    for step in range(40):
        batch = ids(step, 0.0)
        selection = made(settings).select(batch, noise(step))
        taken, _ = corruption(settings)(batch, selection, noise(step))
        shown = Replacement(4, 10_000, slice(0, ROWS))(batch, taken, noise(step))
        assert torch.equal(shown[~taken], batch[~taken])
        others = taken & ~selection.chosen(batch.shape)
        kept, masked = (shown == batch)[others], (shown == 4)[others]
        counts += torch.stack([masked.sum(), (~masked & ~kept).sum(), kept.sum()])
    assert counts.sum() == 40 * (round(0.4 * ROWS * LENGTH) - round(0.15 * ROWS * LENGTH))
    assert (counts / counts.sum()).tolist() == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


# Weights in the loss


def test_losses_weigh_by_score_after_the_warmup_and_one_on_average() -> None:
    settings = config("rho_like", mask_warmup=0.05, min_seen=1)
    policy: Any = made(settings)
    assert policy.select(ids(0), noise(0)).loss_weight is None
    assert (policy.loss_weight_V == 1).all()
    play(policy, settings, range(8))
    score = policy.scores()["token"]
    probability = VOCABULARY.unigram * VOCABULARY.eligible
    weights = 0.8 + 0.2 * score / (score @ probability / probability.sum())
    assert policy.loss_weight_V.numpy() == pytest.approx(weights, rel=1e-6)
    assert weights @ probability / probability.sum() == pytest.approx(1)
    selection = policy.select(ids(9), noise(9))
    labels = ids(9).flatten()[selection.positions]
    assert selection.loss_weight.numpy() == pytest.approx(weights[labels.numpy()], rel=1e-6)
    assert set(selection.weight.tolist()) == {1.0}


@pytest.mark.parametrize("other", [{"policy": "amlm"}, {"signal": "frequency"}])
def test_weights_need_scores_that_stay_between_refreshes(other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="loss_weight belongs to policy mixture with a signal that a refresh renews"):
        config("rho_like", **other)


# Settings


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rate_schedule": "step"}, "rate_schedule step needs rates"),
        ({"rate_schedule": "step", "rates": [[0.1, 0.3]]}, "rates must begin at 0 and rise"),
        ({"rate_schedule": "step", "rates": [[0, 0.3], [0, 0.2]]}, "rates must begin at 0 and rise"),
        ({"rate_schedule": "step", "rates": []}, "rates must begin at 0 and rise"),
        ({"rates": [[0, 0.3]]}, "rates belong to rate_schedule step, and it is constant: set rates to null"),
        ({"rate_schedule": "linear", "rates": [[0, 0.3]]}, "rates belong to rate_schedule step, and it is linear"),
        ({"rate_schedule": "step", "rates": [[0, 0.3]], "rate": 0.2}, r"rate 0\.2 has no effect beside rates"),
        ({"rate_schedule": "step", "rates": [[0, 0.3], [1, 0.05]]}, "masking.rates has a part without a step: the run"),
        ({"rate_schedule": "step", "rates": [[0, 0.3], [0.5, 0.2], [0.501, 0.1]]}, "masking.rates has a part without"),
        ({"corrupt": 0.0001}, r"masking\.corrupt 0\.0001 of a batch of \d+ rounds to no position"),
        ({"rate_schedule": "step", "rates": [[0, 0.6]]}, "less than or equal to 0.5"),
        ({"rate_schedule": "step", "rates": [[0, 0.0001]]}, "rounds to no position"),
        ({"corrupt": 0.6}, "less than or equal to 0.5"),
        ({"corrupt": 0}, "greater than 0"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(rule: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        config("random", **rule)


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("corrupt", {"uniform": [0.1, 0.5]}),
        ("loss_weight", {"uniform": [0, 1]}),
        ("rate_start", {"uniform": [0.15, 0.5]}),
        ("rate_schedule", {"choice": ["constant", "linear", "cosine", "inverse"]}),
        ("row_rates", {"choice": [None, "uniform", "cosine"]}),
    ],
)
def test_a_space_may_search_them(name: str, domain: dict[str, Any]) -> None:
    base = {"steps": 100, "masking": {"rate": 0.1}}
    tree = {"name": "a", "config": base, "data": {"block": 32}, "search": {"trials": 2}}
    assert list(resolve({**tree, "space": {f"masking.{name}": domain}}).space) == [f"masking.{name}"]


def test_words_on_them() -> None:
    said = {name: described.masking(config(name).masking) for name in NEW}
    assert said["rate_linear"].startswith("with 30% falling to 15% of the positions predicted: ")
    assert "30% falling to 15% of the positions predicted (along half a cosine)" in said["rate_cosine"]
    assert "with 30% of the positions predicted (15% from 70% of the run on; 5% from 90%" in said["rate_steps"]
    assert "40.0% of all positions corrupted" in said["dense_corruption"]
    assert "100.0% shown as [MASK]" in said["mask_only"]
    assert "20% of a prediction's weight in the loss" in said["rho_like"]
    assert "each row's own" in said["row_cosine"]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"rate": 0.125}, "with 12.5% of the positions predicted: "),
        ({"rate": 0.1499}, "with 14.99% of the positions predicted: "),
        ({"rate_schedule": "linear", "rate_start": 0.375}, "with 37.5% falling to 15% of"),
        (
            {"rate_schedule": "step", "rates": [[0, 0.2], [0.125, 0.025]]},
            "with 20% of the positions predicted (2.5% from 12.5% of",
        ),
        ({"corrupt": 0.1234}, "12.34% of all positions corrupted"),
        ({"loss_weight": 0.005}, "0.5% of a prediction's weight"),
        ({"shares": {"random": 0.8125, "rarity": 0.1875}}, "81.25% at random, 18.75% by rarity"),
        (
            {"shares": {"random": 0.5, "rarity": 0.5}, "mask_warmup": 0.025},
            "50.0% by rarity, after 2.5% of the run at random",
        ),
        (
            {"replacement": {"mask": 0.5, "random": 0.0625, "keep": 0.4375}},
            "50.0% shown as [MASK], 6.25% as another token, 43.75% as",
        ),
    ],
    ids=str,
)
def test_numbers_are_described_as_they_are(rule: dict[str, Any], said: str) -> None:
    """Not rounded to those of another rule."""
    assert said in described.masking(config("random", **rule).masking)


# Whole runs


def rule_of(corpus: Path, name: str, **more: Any) -> Config:
    given = tiny(corpus).model_dump(exclude={"masking"})
    masking = {"preset": name, "update_every": 2, "mask_warmup": 0.25, "min_seen": 0, **more}
    return Config.model_validate({**given, "masking": masking})


def cut_and_whole(settings: Config, folder: Path) -> tuple[Recorder, Recorder]:
    """A run, and one that was stopped at step 10."""
    for name in ("whole", "cut"):
        (folder / name).mkdir()
    whole, cut = trained(settings, folder / "whole"), Recorder(folder / "cut", 10)
    with pytest.raises(Stopped):
        mlm.train(settings, TrainContext(cut))
    return whole, cut


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", NEW)
def test_a_run_that_is_cut_off_goes_on_bitwise(corpus: Path, tmp_path: Path, name: str) -> None:
    settings = rule_of(corpus, name)
    whole, cut = cut_and_whole(settings, tmp_path)
    again = Recorder(tmp_path / "cut")
    mlm.train(settings, TrainContext(again, restore_from=cut.checkpoint))
    assert again.rows == whole.rows[2:]
    assert again.weights() == whole.weights()
    last, share = whole.rows[-1], settings.masking.corrupt
    assert last["audit/corrupted"] == (last["audit/rate"] if share is None else round(share * 128) / 128)
    assert last["audit/matched"] == settings.masking.on_budget


@pytest.mark.usefixtures("own_cache")
def test_a_checkpoint_without_the_count_of_corrupted_positions_goes_on(corpus: Path, tmp_path: Path) -> None:
    settings = rule_of(corpus, "random")
    whole, cut = cut_and_whole(settings, tmp_path)
    state = load_file(cut.checkpoint / "masking.safetensors")
    del state["corrupted"]
    save_file(state, cut.checkpoint / "masking.safetensors")
    again = Recorder(tmp_path / "cut")
    mlm.train(settings, TrainContext(again, restore_from=cut.checkpoint))
    assert again.rows == whole.rows[2:]


@pytest.mark.usefixtures("own_cache")
def test_the_reported_loss_is_not_weighted(corpus: Path, tmp_path: Path) -> None:
    """Up to the first step with other weights than 1 a weighted run is the plain one, and so is that step's loss."""
    rows = {}
    for share in (0.0, 1.0):
        (tmp_path / f"{share}").mkdir()
        settings = rule_of(corpus, "random", loss_weight=share).model_copy(update={"report_every": 1})
        rows[share] = trained(settings, tmp_path / f"{share}").rows
    plain, weighted = rows.values()
    same = [one["train/loss"] == other["train/loss"] for one, other in zip(plain, weighted, strict=True)]
    assert same[:6] == [True] * 6  # five steps of warm-up, and one with weights before its update counts
    assert not any(same[6:])
    assert plain[5]["val/loss"] != weighted[5]["val/loss"]
