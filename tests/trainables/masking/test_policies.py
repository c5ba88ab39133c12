"""The contract of every masking policy, preset by preset: an exact budget, whatever is learned, however it is run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch

from trainables.data.word_forms import WORDPIECE
from trainables.masking import amlm
from trainables.masking.audit import AllReduce
from trainables.masking.budget import Selection
from trainables.masking.mixture import Mixture, build
from trainables.masking.policy import Answers, MaskingPolicy, Vocabulary
from trainables.masking.statistics import MaskStatistics
from trainables.noise import StepNoise, uniform
from trainables.settings.config import Config
from trainables.settings.presets import MASKING
from trainables.testing import in_threads

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = [a + b + c for a in "bcd" for b in "aeio" for c in "lmn"] + ["##" + a + b for a in "dt" for b in "aeio"]
WORDS += ["7", "1990", ".", "é"]
STRINGS = SPECIALS + WORDS
UNKNOWN, SIZE = 1, len(STRINGS)
UNIGRAM = np.arange(1.0, SIZE + 1) / sum(range(1, SIZE + 1))
VOCABULARY = Vocabulary(WORDPIECE.forms(STRINGS), np.arange(SIZE) >= len(SPECIALS), UNIGRAM)
ROWS, LENGTH, STEPS = 12, 32, 100
# One name a rule: `published/random` is `random`, and so on (test_presets.py).
PRESETS = list({Config.model_validate({"masking": {"preset": name}}).masking: name for name in MASKING}.values())
BY_ROW = ("row_uniform", "row_cosine")  # each row with a rate of its own
ELSEWHERE = ("dense_corruption", "sparse_corruption", "mask_only", "rho_like")  # select as random masking does
FALLING = ("rate_linear", "rate_cosine", "rate_inverse", "rate_steps")
SCHEDULED = ("rarity_ramp", "words_then_tokens")  # their shares change, which rows that are rounded do not
FIXED = ("random", "frequency", "whole_word", "span", "span_short", "rarity", "pmi", "informask")
BLIND = (*FIXED, *SCHEDULED, *FALLING, *BY_ROW, *ELSEWHERE)
EXACT_ALONE = (*BY_ROW, *SCHEDULED)  # not to be rounded row by row
LEARNING = [name for name in PRESETS if name not in BLIND]

RATES = ("rate_schedule", "rate_start", "rates", "row_rates")
every_preset = pytest.mark.parametrize("preset", PRESETS)


def alone(_tensor: torch.Tensor) -> None:
    """One rank."""


def config(preset: str, **masking: Any) -> Config:
    rule = {"preset": preset, "mask_warmup": 0.0, "update_every": 4, **masking}
    return Config.model_validate({"steps": STEPS, "batch_size": ROWS, "data": {"block": LENGTH}, "masking": rule})


def warmup_of(preset: str, share: float) -> float:
    """A mask warm-up as long as that, for rules that may have one."""
    return 0.0 if preset in SCHEDULED else share


def made(settings: Config, rows: slice = slice(0, ROWS), seed: int = 0) -> MaskingPolicy:
    return build(settings, VOCABULARY, rows, seed, "cpu")


def ids(step: int, unknown: float = 0.1) -> torch.Tensor:
    """A batch with Zipf's ids, and [UNK] here and there."""
    draw = np.random.default_rng(step)
    weights = 1 / np.arange(1, SIZE - 4)
    tokens = draw.choice(np.arange(5, SIZE), (ROWS, LENGTH), p=weights / weights.sum())
    return torch.from_numpy(np.where(draw.random((ROWS, LENGTH)) < unknown, UNKNOWN, tokens))


def noise(step: int, seed: int = 3) -> StepNoise:
    return StepNoise(seed, 0, step, (ROWS, LENGTH))


def answered(batch: torch.Tensor, selection: Selection, rows: slice, step: int, wrong: int = 0) -> Answers:
    """Made-up answers that depend on the place in the global batch and the step only; more are wrong the higher
    the id modulo 5."""
    count = batch[rows].numel()
    at = selection.positions.clamp(max=count - 1)
    chance = torch.from_numpy(uniform(ROWS * LENGTH, "answers", step).reshape(ROWS, LENGTH)[rows].flatten())[at]
    labels = batch[rows].flatten()[at]
    hard = (labels + wrong) % 5
    predictions = torch.where(chance < hard / 5, 0, labels)
    fading = 1 + wrong + 9 / (1 + step)  # so that some losses fall
    losses, entropies = chance**24 * (1 + hard) * fading, chance * (1 + hard) / 3
    return Answers(labels, predictions, losses.float(), chance > 0.2, entropies.float())


def play(
    policy: MaskingPolicy,
    settings: Config,
    steps: Iterable[int],
    rows: slice = slice(0, ROWS),
    all_reduce: AllReduce = alone,
    wrong: int = 0,
) -> list[torch.Tensor]:
    """Selected positions of the global batch, step by step, with refreshes where the loop has them."""
    chosen = []
    for step in steps:
        batch = ids(step)
        selection = policy.select(batch, noise(step))
        chosen.append(selection.positions[selection.weight > 0] + rows.start * LENGTH)
        policy.observe(selection, answered(batch, selection, rows, step, wrong), all_reduce)
        if settings.refreshes(step + 1):
            policy.refresh(all_reduce)
    return chosen


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize(
    ("preset", "unknown", "replicate"),
    [*((name, 0.3, False) for name in PRESETS), *((name, 0.1, True) for name in PRESETS if name not in EXACT_ALONE)],
)
def test_the_budget_is_what_it_promises(preset: str, unknown: float, replicate: bool) -> None:
    settings = config(preset, replicate=replicate)
    policy, predicted, specials, refreshes = made(settings), 0, 0, 0
    for step in range(12):
        batch = ids(step, unknown)
        selection = policy.select(batch, noise(step))
        chosen = selection.positions[selection.weight > 0]
        assert (chosen.diff() > 0).all()
        specials += int((batch.flatten()[chosen] < len(SPECIALS)).sum())
        assert len(chosen) == int(selection.total)
        if not settings.masking.independent:
            by_row = sum(round(settings.rate_at(step) * n) for n in (batch >= len(SPECIALS)).sum(1).tolist())
            batchwise = round(settings.rate_at(step) * ROWS * LENGTH)
            assert len(chosen) == (by_row if settings.masking.by_row else batchwise)
        predicted += len(chosen)
        policy.observe(selection, answered(batch, selection, slice(0, ROWS), step), alone)
        if settings.refreshes(step + 1):
            policy.refresh(alone)
            refreshes += 1
    assert (specials > 0) == settings.masking.as_coded
    metrics = policy.metrics(alone)
    assert metrics["train/predicted"] == predicted
    assert metrics["audit/rate"] == pytest.approx(predicted / (12 * ROWS * LENGTH))
    assert metrics["audit/refreshes"] == refreshes == 3 - bool(settings.masking.refresh_delay)
    assert metrics["audit/matched"] == settings.masking.on_budget
    assert sum(share for key, share in metrics.items() if key.startswith("audit/shares/")) == pytest.approx(1)
    assert policy.state(alone)["by_id"].sum() == predicted


REPLICAS = ("accuracy_morph", "cms_morph", "published/amlm-soft-code")  # what every code is replicated by


@pytest.mark.parametrize(
    ("preset", "replicate"), [*((name, False) for name in PRESETS), *((name, True) for name in REPLICAS)]
)
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_select_together_what_one_selects(preset: str, replicate: bool, ranks: int) -> None:
    settings, steps = config(preset, replicate=replicate), range(6)
    whole = made(settings)
    expected = play(whole, settings, steps)
    cuts = [slice(ROWS * r // ranks, ROWS * (r + 1) // ranks) for r in range(ranks)]
    chosen: list[list[torch.Tensor]] = [[] for _ in cuts]
    metrics: list[dict[str, float]] = [{} for _ in cuts]
    states: list[dict[str, torch.Tensor]] = [{} for _ in cuts]

    def act(rank: int, all_reduce: AllReduce) -> None:
        policy = made(settings, cuts[rank])
        chosen[rank] = play(policy, settings, steps, cuts[rank], all_reduce)
        metrics[rank], states[rank] = policy.metrics(all_reduce), policy.state(all_reduce)

    in_threads(ranks, act)
    assert same([torch.cat(parts) for parts in zip(*chosen, strict=True)], expected)
    assert all(one == whole.metrics(alone) for one in metrics)
    for name, value in whole.state(alone).items():
        if name == "moments":  # of independent draws, sums of fractions
            assert all(torch.allclose(one[name], value, rtol=1e-12) for one in states)
        else:
            assert all(torch.equal(one[name], value) for one in states), name


@every_preset
@pytest.mark.parametrize(("stop", "warmup"), [(1, 0.0), (6, 0.0), (3, 0.05)])
def test_what_a_state_was_loaded_into_goes_on_bitwise(preset: str, stop: int, warmup: float) -> None:
    """Before the first refresh, within a later window and in the warm-up; by Accuracy-Morph's printed rule, which
    scores the unseen."""
    settings = config(preset, min_seen=0, mask_warmup=warmup_of(preset, warmup))
    policy, copy = made(settings), made(settings)
    play(policy, settings, range(stop))
    copy.load({name: value.clone() for name, value in policy.state(alone).items()}, 0)
    for name, score in policy.scores().items():
        np.testing.assert_array_equal(copy.scores()[name], score)
    rest = range(stop, stop + 6)
    assert same(play(copy, settings, rest), play(policy, settings, rest))
    assert copy.metrics(alone) == policy.metrics(alone)
    for name, value in policy.state(alone).items():
        assert torch.equal(copy.state(alone)[name], value), name


@every_preset
def test_a_state_is_loaded_by_ranks_as_by_one(preset: str) -> None:
    settings, rest = config(preset), range(6, 11)
    policy = made(settings)
    play(policy, settings, range(6))
    state = {name: value.clone() for name, value in policy.state(alone).items()}
    expected = play(policy, settings, rest)
    chosen: list[list[torch.Tensor]] = [[], []]

    def act(rank: int, all_reduce: AllReduce) -> None:
        rows = slice(6 * rank, 6 * rank + 6)
        part = made(settings, rows)
        part.load(state, rank)
        chosen[rank] = play(part, settings, rest, rows, all_reduce)

    in_threads(2, act)
    assert same([torch.cat(parts) for parts in zip(*chosen, strict=True)], expected)


@every_preset
@pytest.mark.parametrize("warmup", [0.0, 0.08])
def test_nothing_is_learned_before_a_refresh_nor_used_in_the_mask_warmup(preset: str, warmup: float) -> None:
    settings = config(preset, update_every=4 if warmup else 8, mask_warmup=warmup_of(preset, warmup))
    one, other = made(settings), made(settings)
    assert same(play(one, settings, range(8)), play(other, settings, range(8), wrong=2))
    late = play(one, settings, range(8, 18)), play(other, settings, range(8, 18), wrong=2)
    assert same(*late) == (preset not in LEARNING)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset not in SCHEDULED])
def test_the_mask_warmup_is_that_of_random_masking_bitwise(preset: str) -> None:
    settings = config(preset, mask_warmup=0.5)
    rates = {name: getattr(settings.masking, name) for name in RATES}
    plain, steps = config("random", **rates), range(1, 50, 6)
    assert same(play(made(settings), settings, steps), play(made(plain), plain, steps))
    together = []
    for rows in (slice(0, 5), slice(5, ROWS)):
        selection = made(settings, rows).select(ids(7), noise(7))
        together.append(selection.positions[selection.weight > 0] + rows.start * LENGTH)
    assert torch.equal(torch.cat(together), made(plain).select(ids(7), noise(7)).positions)


@every_preset
def test_seeds_differ(preset: str) -> None:
    settings, batch = config(preset), ids(0)
    one, other = (made(settings, seed=seed).select(batch, noise(0, seed)) for seed in (1, 2))
    again = made(settings, seed=1).select(batch, noise(0, 1))
    assert not torch.equal(one.positions, other.positions)
    assert torch.equal(one.positions, again.positions)


@every_preset
def test_a_sketch_with_room_is_exact_and_a_narrow_one_keeps_the_contract(preset: str) -> None:
    exact, wide = config(preset), config(preset, sketch="count_min")
    chosen = play(made(exact), exact, range(7))
    assert same(play(made(wide), wide, range(7)), chosen)
    narrow = config(preset, sketch="count_min", sketch_width=8, sketch_depth=2)
    policy, copy = made(narrow), made(narrow)
    play(policy, narrow, range(5))
    copy.load(policy.state(alone), 0)
    assert same(play(copy, narrow, range(5, 7)), play(policy, narrow, range(5, 7)))
    policy.metrics(alone)


@every_preset
def test_a_broken_budget_fails_loudly(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch with fewer eligible positions than are due; of independent draws, one with too little room."""
    nearly_all = torch.full((ROWS, LENGTH), UNKNOWN)
    nearly_all[:, 0] = 10
    policy = made(config(preset))
    policy.select(nearly_all, noise(0))
    with pytest.raises(RuntimeError, match="mask audit: 1 batches"):
        policy.metrics(alone)
    if preset in EXACT_ALONE:
        return
    monkeypatch.setattr(amlm, "SPARE_SDS", -3)
    replica = config(preset, replicate=True)
    policy = made(replica)
    policy.select(ids(0), noise(0))
    if replica.masking.independent:
        with pytest.raises(RuntimeError, match="mask audit: 1 batches"):
            policy.metrics(alone)
    else:
        policy.metrics(alone)


@every_preset
def test_a_linear_schedule_predicts_its_own_budget_at_every_step(preset: str) -> None:
    settings = config(preset, rate_schedule="linear", rate_start=0.40, rates=None, row_rates=None)
    policy = made(settings)
    totals = [len(play(policy, settings, range(step, step + 1))[0]) for step in (0, 1, 50, 98, 99)]
    expected = [0.40 - 0.25 * step / 99 for step in (0, 1, 50, 98, 99)]
    assert totals == [round(rate * ROWS * LENGTH) for rate in expected]
    assert policy.metrics(alone)["audit/matched"] == 0


@every_preset
def test_what_was_masked_sums_to_one(preset: str) -> None:
    settings, masked = config(preset), MaskStatistics(VOCABULARY)
    policy = made(settings)
    none = policy.state(alone)["by_id"].numpy()
    assert masked.metrics(none, none) == {"audit/counted": 0.0}
    play(policy, settings, range(6))
    by_id = policy.state(alone)["by_id"].numpy()
    shares = masked.metrics(by_id, by_id // 2)
    for kind in ("audit/decile/", "audit/kind/"):
        assert sum(share for key, share in shares.items() if key.startswith(kind)) == pytest.approx(1)
    before = policy.scores()["token"]
    assert masked.drift(before, before) == 0


@every_preset
def test_rows_with_half_their_tokens_unknown_are_filled(preset: str) -> None:
    """By random where a source has too little, up to every position that may be predicted."""
    for rate in (0.15, 0.25 if preset in BY_ROW else 0.5):
        settings = config(preset, rate=rate, rate_schedule="constant", rates=None)
        batch = ids(0, 0.0)
        batch[:, ::2] = UNKNOWN
        policy = made(settings)
        play(policy, settings, range(4))
        chosen = policy.select(batch, noise(4)).positions
        assert len(chosen) == round(rate * ROWS * LENGTH)
        assert (batch.flatten()[chosen] != UNKNOWN).all()
        policy.metrics(alone)


@pytest.mark.parametrize("preset", ["accuracy_morph", "token_only", "amlm", "published/amlm-soft"])
def test_learning_moves_masks_to_what_is_hard(preset: str) -> None:
    settings = config(preset)
    policy, counts, seen = made(settings), np.zeros(5), np.zeros(5)
    for step, chosen in zip(range(60), play(policy, settings, range(60)), strict=True):
        batch = ids(step).flatten()
        if step >= 20:
            seen += np.bincount(batch[batch >= 5] % 5, minlength=5)
            counts += np.bincount(batch[chosen] % 5, minlength=5)
    rate = counts / seen
    assert rate[4] > 1.1 * rate[0]


def test_the_control_deals_its_scores_anew_at_every_refresh() -> None:
    settings = config("random_sketch_control")
    policy = made(settings)
    play(policy, settings, range(8))
    before = policy.scores()["token"]
    policy.refresh(alone)
    after = policy.scores()["token"]
    assert (np.sort(before) == np.sort(after)).all()
    assert (before != after).mean() > 0.5


def test_row_apportionment_of_other_sources_leaves_random_the_remainder() -> None:
    policy = made(config("rarity", apportion="row", rate=0.28, shares={"random": 0.5, "rarity": 0.5}))
    policy.select(ids(0, 0.0), noise(0))
    by_random, by_token, by_trigram, by_rarity = policy.audit.counts[5:].tolist()
    assert (by_random, by_token, by_trigram, by_rarity) == (5 * ROWS, 0, 0, 4 * ROWS)  # 8.96 of 32 are 9, halved 4


def test_cms_morph_counts_from_the_end_of_the_warmup_and_is_read_by_every_batch() -> None:
    settings = config("cms_morph", mask_warmup=0.06, update_every=None)
    policy = made(settings)
    assert isinstance(policy, Mixture)
    play(policy, settings, range(6))
    assert not policy.difficulty.token_store.table.any()
    assert not policy.scores()["token"].any()
    play(policy, settings, range(6, 7))
    seen, high = policy.difficulty.token_store.counts()
    assert seen.sum() == round(0.15 * ROWS * LENGTH)
    assert high.sum() >= round(0.15 * ROWS * LENGTH) / 4
    assert policy.scores()["token"].any()
    play(policy, settings, range(7, 9))
    assert policy.metrics(alone)["audit/refreshes"] == 3
    copy = made(settings)
    copy.load({name: value.clone() for name, value in policy.state(alone).items()}, 0)
    assert same(play(copy, settings, range(9, 15)), play(policy, settings, range(9, 15)))
    assert all(torch.equal(copy.state(alone)[name], value) for name, value in policy.state(alone).items())


def test_no_two_rules_select_the_same() -> None:
    assert len(PRESETS) == 36
    steps = [step for step in range(STEPS) if step % 8 in (3, 4)]  # with every refresh, also those that come one later
    chosen = {name: play(made(config(name)), config(name), steps) for name in PRESETS}
    assert all(same(chosen.pop(name), chosen["random"]) for name in ELSEWHERE)
    for one, other in itertools.combinations(chosen, 2):
        assert not same(chosen[one], chosen[other]), (one, other)
