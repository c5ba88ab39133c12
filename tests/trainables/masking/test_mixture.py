"""The contract of every source and mixture, and the equalities that comparable runs rest on."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.data.word_forms import WORDPIECE
from trainables.masking.budget import Budget, Selection
from trainables.masking.mixture import Mixture
from trainables.masking.policy import Answers, Vocabulary
from trainables.masking.replacement import Replacement
from trainables.masking.sources import Rarity
from trainables.noise import StepNoise
from trainables.settings import described
from trainables.settings.config import Config
from trainables.settings.masking_rule import Replacements
from trainables.settings.schedule import Schedule
from trainables.settings.shares import Shares

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + [
    f"w{chr(97 + i % 26)}{chr(97 + i // 26)}" for i in range(95)
]
ELIGIBLE = np.arange(len(VOCABULARY)) >= 5
ROWS, LENGTH = 16, 32


def config(shares: tuple[float, float, float], **masking: object) -> Config:
    random, token, trigram = shares
    mix = {"shares": Shares(random=random, token=token, trigram=trigram), "mask_warmup": 0.0, **masking}
    return Config.model_validate({"steps": 100, "batch_size": ROWS, "data": {"block": LENGTH}, "masking": mix})


def untrained(settings: Config, rows: slice = slice(0, ROWS)) -> Mixture:
    vocabulary = Vocabulary(WORDPIECE.forms(VOCABULARY), ELIGIBLE, np.full(len(VOCABULARY), 1 / len(VOCABULARY)))
    return Mixture(settings, vocabulary, rows, 0, "cpu")


def answer(policy: Mixture, labels: torch.Tensor, predictions: torch.Tensor) -> None:
    """Made-up answers, as if their labels had been selected."""
    selection = Selection(torch.arange(len(labels)), torch.ones(len(labels)), len(labels))
    losses = (labels != predictions).float()
    policy.observe(selection, Answers(labels, predictions, losses, torch.ones_like(labels).bool()), lambda _: None)


def trained(settings: Config, rows: slice = slice(0, ROWS)) -> Mixture:
    """A mixture whose scores come from one round of made-up answers: odd ids are mostly wrong."""
    policy = untrained(settings, rows)
    labels = torch.arange(5, 100).repeat(20)
    wrong = (labels % 2 == 1) & (torch.arange(len(labels)) % 4 > 0)
    answer(policy, labels, torch.where(wrong, 0, labels))
    policy.refresh(lambda _: None)
    return policy


def supplied(policy: Mixture) -> list[int]:
    """By random, token, trigram, and what they fell short of, since the policy was made."""
    return [*policy.audit.counts[5:].tolist(), int(policy.audit.counts[3])]


def ids(seed: int = 0, unknown: float = 0.0) -> torch.Tensor:
    random = np.random.default_rng(seed)
    tokens = random.integers(5, 100, (ROWS, LENGTH))
    return torch.from_numpy(np.where(random.random((ROWS, LENGTH)) < unknown, 1, tokens))


def noise(step: int = 0, seed: int = 3) -> StepNoise:
    return StepNoise(seed, 0, step, (ROWS, LENGTH))


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 99), st.floats(0, 0.4))
def test_exactly_k_eligible_positions_and_shares_within_one(
    token: float, rest: float, step: int, unknown: float
) -> None:
    trigram = rest * (1 - token)
    policy, tokens = trained(config((1 - token - trigram, token, trigram))), ids(step, unknown)
    selection = policy.select(tokens, noise(step))
    chosen = selection.positions[selection.weight > 0]
    assert len(chosen) == len(set(chosen.tolist())) == selection.total == round(0.15 * ROWS * LENGTH)
    assert (tokens.flatten()[chosen] >= 5).all()
    assert (chosen.diff() > 0).all()
    by_random, by_token, by_trigram, short = supplied(policy)
    total = by_random + by_token + by_trigram
    assert total == selection.total
    assert abs(by_token + by_trigram + short - (token + trigram) * total) <= 2
    assert abs(by_token - token * total) <= 1 + short


def test_a_share_of_zero_is_random_bitwise() -> None:
    ablated, random = trained(config((1, 0, 0))), untrained(config((1, 0, 0), signal="frequency"))
    for step in range(20):
        assert torch.equal(
            random.select(ids(step), noise(step)).positions, ablated.select(ids(step), noise(step)).positions
        )


def test_the_mask_warmup_is_random_bitwise() -> None:
    warm, random = trained(config((0.5, 0.3, 0.2), mask_warmup=0.5)), trained(config((1, 0, 0)))
    same = [
        torch.equal(warm.select(ids(s), noise(s)).positions, random.select(ids(s), noise(s)).positions)
        for s in (0, 49, 50, 60)
    ]
    assert same == [True, True, False, False]


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_ranks_select_together_what_one_selects(ranks: int) -> None:
    settings = config((0.7, 0.2, 0.1))
    whole, cuts = trained(settings), [ROWS * r // ranks for r in range(ranks + 1)]
    parts = [trained(settings, slice(a, b)) for a, b in itertools.pairwise(cuts)]
    for step in range(10):
        tokens, together = ids(step), []
        for part in parts:
            selection = part.select(tokens, noise(step))
            assert len(selection.positions) == Budget(0.15, ROWS, LENGTH).slots(part.rows)
            together.append(selection.positions[selection.weight > 0] + part.rows.start * LENGTH)
        assert torch.equal(torch.cat(together), whole.select(tokens, noise(step)).positions)


def test_draws_follow_the_scores() -> None:
    """First draws of a one-position quota are proportional to the score (Plackett-Luce), over 20,000 rows."""
    policy = trained(config((0, 1, 0), rate=1 / LENGTH))
    score = policy.difficulty.token_score
    row = torch.arange(5, 5 + LENGTH).repeat(ROWS, 1)
    drawn = torch.cat([policy.select(row, noise(step)).positions % LENGTH for step in range(1_250)])
    share = np.bincount(drawn.numpy(), minlength=LENGTH) / len(drawn)
    expected = score[5 : 5 + LENGTH] / score[5 : 5 + LENGTH].sum()
    assert len(drawn) == 20_000
    assert np.abs(share - expected).max() < 4.5 * np.sqrt(expected.max() / 20_000)
    assert score[5] > 2 * score[6]


def test_what_a_source_cannot_supply_falls_to_random() -> None:
    policy = untrained(config((0.5, 0.5, 0)))
    selection = policy.select(ids(), noise())
    total, *rest = supplied(policy)
    assert total == selection.total
    assert rest == pytest.approx([0, 0, 0.5 * total], abs=1)
    metrics = policy.metrics(lambda _: None)
    assert metrics["audit/fallbacks"] == rest[-1]
    assert metrics["audit/short"] == rest[-1] / total


def test_row_apportionment_rounds_every_row_by_itself() -> None:
    """A quarter of the eligible positions; of 8, 6.4 at random and 1.2 by token, the remainder by trigram."""
    policy, tokens = trained(config((0.8, 0.15, 0.05), apportion="row", rate=0.25)), ids()
    selection = policy.select(tokens, noise())
    assert torch.bincount(selection.positions // LENGTH).tolist() == [8] * ROWS
    assert supplied(policy) == [ROWS * 6, ROWS, ROWS, 0]
    tokens[::2, :10] = 1  # 22 eligible: 5.5 to 6, of which 4.8 and 0.9, and none by trigram
    policy = trained(config((0.8, 0.15, 0.05), apportion="row", rate=0.25))
    selection = policy.select(tokens, noise())
    chosen = selection.positions[selection.weight > 0]
    assert torch.bincount(chosen // LENGTH).tolist() == [6, 8] * (ROWS // 2)
    assert int(selection.total) == len(chosen)
    assert supplied(policy) == [ROWS // 2 * (5 + 6), ROWS // 2 * (1 + 1), ROWS // 2, 0]


def test_state_carries_everything_that_selection_needs() -> None:
    settings = config((0.5, 0.3, 0.2))
    policy, copy = trained(settings), untrained(settings)
    labels = torch.arange(5, 100)
    answer(policy, labels, labels)
    copy.load(policy.state(lambda _: None), rank=0)
    for one in (policy, copy):
        one.refresh(lambda _: None)
    for step in range(5):
        assert torch.equal(
            policy.select(ids(step), noise(step)).positions, copy.select(ids(step), noise(step)).positions
        )
    assert policy.metrics(lambda _: None) == copy.metrics(lambda _: None)


def test_replacement_is_80_10_10_and_belongs_to_the_position() -> None:
    replacement = Replacement(4, 100, slice(0, ROWS))
    tokens, every = ids(), torch.ones(ROWS, LENGTH, dtype=torch.bool)
    even = (torch.arange(ROWS * LENGTH) % 2 == 0).view(ROWS, LENGTH)
    kinds = np.zeros(3)
    for step in range(40):
        whole, half = (replacement(tokens, corrupted, noise(step)).flatten() for corrupted in (every, even))
        assert torch.equal(half[::2], whole[::2])
        assert torch.equal(half[1::2], tokens.flatten()[1::2])
        masked, kept = whole == 4, whole == tokens.flatten()
        kinds += np.array([masked.sum(), (~masked & ~kept).sum(), kept.sum()])
    share = kinds / kinds.sum()
    assert share == pytest.approx([0.801, 0.098, 0.101], abs=0.01)


def test_padding_slots_change_nothing() -> None:
    replacement, tokens = Replacement(4, 100, slice(0, ROWS)), ids()
    nothing = Selection(torch.tensor([ROWS * LENGTH]), torch.zeros(1), 0).chosen(tokens.shape)
    assert torch.equal(replacement(tokens, nothing, noise()), tokens)


def test_noise_depends_on_seed_salt_and_step_only() -> None:
    draws = {
        (s, salt, t): StepNoise(s, salt, t, (2, 3)).uniform("random").tobytes()
        for s in (0, 1)
        for salt in (0, 1)
        for t in (0, 1)
    }
    assert len(set(draws.values())) == 8
    assert StepNoise(1, 0, 1, (2, 3)).uniform("random").tobytes() == draws[1, 0, 1]


@pytest.mark.parametrize(("mask", "random", "keep"), [(1.0, 0.0, 0.0), (0.5, 0.2, 0.3), (0.8, 0.1, 0.1)])
def test_predicted_tokens_are_replaced_as_told(mask: float, random: float, keep: float) -> None:
    """By chance, and each position by the noise that it would have under other chances."""
    chances = Replacements(mask=mask, random=random, keep=keep)
    replacement, usual = (Replacement(4, 100, slice(0, ROWS), each) for each in (chances, Replacements()))
    counts = [0, 0, 0]
    for step in range(40):
        tokens = ids(step).clamp(min=5)
        every = torch.ones_like(tokens, dtype=torch.bool)
        found = replacement(tokens, every, noise(step))
        counts[0] += int((found == 4).sum())
        counts[2] += int((found == tokens).sum())
        counts[1] += int(((found != tokens) & (found != 4)).sum())
        if chances == Replacements():
            assert torch.equal(found, usual(tokens, every, noise(step)))
        as_usual = usual(tokens, every, noise(step)) == 4
        assert torch.equal((found == 4) & as_usual, as_usual) or mask < 0.8, "a larger chance masks what a smaller does"
    total = sum(counts)
    assert [count / total for count in counts] == pytest.approx([mask, random, keep], abs=0.02)


def test_replacements_sum_to_one_and_are_of_a_runs_past() -> None:
    with pytest.raises(ValueError, match="replacement must sum to 1"):
        Replacements(mask=1.0)
    told = Config.model_validate({"masking": {"replacement": {"mask": 1, "random": 0, "keep": 0}, "mask_warmup": 0.5}})
    assert told.past(10) != Config.model_validate({"masking": {"mask_warmup": 0.5}}).past(10)
    assert "replacement" not in Config().model_dump()["masking"]
    assert "100.0% shown as [MASK]" in described.masking(told.masking)
    assert "shown as" not in described.masking(Config().masking)


def scheduled(interpolate: str = "step", **changes: Any) -> Config:
    schedule = {"shares": [[0, {"whole_word": 1}], [0.5, {"random": 1}]], "interpolate": interpolate}
    return base(masking={"schedule": schedule, "mask_warmup": 0, "update_every": 2, **changes})


def base(**changes: Any) -> Config:
    tree = {"steps": 20, "batch_size": ROWS, "data": {"block": LENGTH}, "model": {"max_positions": max(LENGTH, 32)}}
    return Config.model_validate({**tree, **changes})


def test_shares_that_change_are_those_of_the_moment() -> None:
    """Each half of the run selects just what a mixture with its shares selects, and the budget is exact throughout."""
    words, random = (
        base(masking={"shares": shares, "mask_warmup": 0}) for shares in ({"random": 0, "whole_word": 1}, {"random": 1})
    )
    policies = [untrained(each) for each in (scheduled(), words, random)]
    for step in range(20):
        changing, first, second = (policy.select(ids(step), noise(step)).positions for policy in policies)
        same = first if step < 10 else second
        slots = changing < ROWS * LENGTH
        assert int(slots.sum()) == Budget(0.15, ROWS, LENGTH).total
        assert torch.equal(changing[slots], same[same < ROWS * LENGTH])
    assert policies[0].metrics(lambda _: None)["audit/matched"] == 1


def test_shares_between_two_moments_are_linear() -> None:
    told = scheduled("linear").masking
    assert [told.shares_at(step, 20)["whole_word"] for step in (0, 5, 10, 19)] == [1, 0.5, 0, 0]
    assert [told.shares_at(step, 20)["random"] for step in (0, 5, 10)] == [0, 0.5, 1]
    assert told.largest_shares["whole_word"] == told.largest_shares["random"] == 1
    assert "from 50% of the run on 100.0%" in described.masking(told)
    assert described.masking(told).endswith("linear in between")


def test_a_switch_is_the_schedule_that_it_stands_for() -> None:
    short = base(
        masking={"schedule": {"switch": "whole_word to random", "at": 0.5}, "mask_warmup": 0, "update_every": 2}
    )
    assert short == scheduled()
    assert short.model_dump_json() == scheduled().model_dump_json()
    for schedule in (
        {"switch": "whole_word to random"},
        {"at": 0.5},
        {"switch": "random to random", "at": 0.5},
        {"switch": "words to random", "at": 0.5},
        {"switch": "span to random", "at": 1.5},
        {"switch": "span to random", "at": 0.5, "shares": [[0, {"random": 1}]]},
        {},
        {"interpolate": "linear"},
    ):
        with pytest.raises(ValueError, match=r"schedule"):
            base(masking={"schedule": schedule})


@pytest.mark.parametrize(
    ("schedule", "warmup", "legal"),
    [
        ({"switch": "whole_word to random", "at": 0.25}, 0.3, False),
        ({"switch": "whole_word to random", "at": 0.7}, 0.3, False),
        ({"switch": "whole_word to random", "at": 0.25}, 0.0, True),
        ({"switch": "random to whole_word", "at": 0.25}, 0.3, False),
        ({"switch": "random to whole_word", "at": 0.3}, 0.3, True),
        ({"switch": "random to whole_word", "at": 0.6, "interpolate": "linear"}, 0.3, False),
        ({"shares": [[0, {"random": 1}], [1, {"random": 0.6, "rarity": 0.4}]], "interpolate": "linear"}, 0.3, False),
        ({"shares": [[0, {"random": 1}], [1, {"random": 0.6, "rarity": 0.4}]], "interpolate": "linear"}, 0.0, True),
        (
            {"shares": [[0, {"random": 1}], [0.3, {"random": 1}], [0.9, {"rarity": 1}]], "interpolate": "linear"},
            0.3,
            True,
        ),
    ],
    ids=str,
)
def test_shares_do_not_change_in_the_mask_warmup_which_draws_at_random(
    schedule: dict[str, Any], warmup: float, legal: bool
) -> None:
    """They would be described, and everything would be drawn at random all the same."""
    given = {"schedule": schedule, "mask_warmup": warmup, "update_every": 2}
    if legal:
        told = base(masking=given)
        assert all(told.masking.shares_at(step, 20)["random"] == 1 for step in range(told.warmup_steps))
        return
    with pytest.raises(ValueError, match=r"until mask_warmup, 0\.3 of the run, .*: set masking\.mask_warmup to 0"):
        base(masking=given)


@pytest.mark.parametrize(
    ("preset", "said"),
    [
        ("accuracy_morph", "5.0% by trigram score (scores of accuracy), after 30% of the run at random"),
        ("cms_morph", "10.0% by trigram score (scores of loss), after 10% of the run at random"),
        ("easy_to_hard", "(scores of accuracy), after 30% of the run at random; band_low from"),
        ("random", "100.0% at random"),
        ("whole_word", "100.0% as whole words"),
        ("rarity_ramp", "linear in between"),
        ("amlm", "drawn by AMLM's hard weights (Edman & Fraser 2025)"),
    ],
)
def test_the_mask_warmup_is_described_where_the_rule_is_another(preset: str, said: str) -> None:
    told = described.masking(base(steps=1000, masking={"preset": preset}).masking)
    assert said in told if ";" in said else told.endswith(said)
    assert ("of the run at random" in told) == ("at random" in said and "after" in said)


def test_the_mask_warmup_of_amlm_is_described() -> None:
    told = described.masking(base(steps=1000, masking={"preset": "amlm", "mask_warmup": 0.1}).masking)
    assert told.endswith("weights (Edman & Fraser 2025), after 10% of the run at random")


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_gradual_switch_has_as_much_of_both_as_one_at_once(at: float) -> None:
    """The way from one to the other lies around `at`, and within the run."""
    kinds: tuple[Literal["step", "linear"], ...] = ("step", "linear")
    once, gradual = (
        Schedule.model_validate({"switch": "whole_word to random", "at": at, "interpolate": kind}) for kind in kinds
    )
    words = [[each.shares_at(step, 2000) or {} for step in range(2000)] for each in (once, gradual)]
    exposure = [sum(shares["whole_word"] for shares in each) / 2000 for each in words]
    assert exposure == pytest.approx([at, at], abs=1 / 2000)
    assert words[1][round(2000 * at)]["whole_word"] == pytest.approx(0.5)
    assert words[1][0]["whole_word"] == 1
    assert words[1][-1]["whole_word"] == pytest.approx(0, abs=0.01)


def test_a_switch_says_what_is_wrong_with_it() -> None:
    with pytest.raises(ValueError, match=r"schedule\.at is 1\.5; the share of the run .* lies in \(0, 1\)"):
        Schedule.model_validate({"switch": "span to random", "at": 1.5})
    with pytest.raises(ValueError, match=r"schedule\.switch needs schedule\.at"):
        Schedule.model_validate({"switch": "span to random"})


@pytest.mark.parametrize(
    ("schedule", "part"),
    [
        ({"shares": [[0, {"random": 1}], [1, {"token": 1}]]}, "shares"),
        ({"shares": [[0, {"random": 1}], [0.5, {"token": 1}], [0.501, {"span": 1}]]}, "shares"),
        ({"shares": [[0, {"random": 1}], [0.001, {"token": 1}]], "interpolate": "linear"}, "shares"),
        ({"constants": {"cap": [[0, 0.5], [1, 0.9]]}}, r"constants\.cap"),
        ({"constants": {"cap": [[0, 0.5], [1, 0.9]]}, "interpolate": "linear"}, ""),
        ({"switch": "span to random", "at": 0.5001, "interpolate": "linear"}, ""),
    ],
    ids=str,
)
def test_a_part_that_never_holds_is_refused(schedule: dict[str, Any], part: str) -> None:
    """It would be described. A gradual change ends with the run, and a value that stays may be said twice."""
    if not part:
        assert base(masking={"mask_warmup": 0, "schedule": schedule})
        return
    with pytest.raises(ValueError, match=rf"masking\.schedule\.{part} has a part without a step: the run has 20"):
        base(masking={"mask_warmup": 0, "schedule": schedule})


MOVING = {"band_low": [[0, 0.0], [1, 0.4]], "band_high": [[0, 0.2], [0.5, 0.6]], "rarity_power": [[0, 1], [1, 3]]}


def moving(interpolate: str = "linear", **changes: Any) -> Config:
    shares = {"random": 0.5, "token": 0.25, "rarity": 0.25}
    schedule = {"constants": MOVING, "interpolate": interpolate}
    return base(masking={"shares": shares, "schedule": schedule, "mask_warmup": 0, "update_every": 2, **changes})


def test_constants_are_those_of_the_refreshs_step() -> None:
    """Between two refreshes nothing changes, and at one the rarity follows, too."""
    told, policy = moving(), untrained(moving())
    rarity = next(source for _, source in policy.others if source.name == "rarity")
    assert isinstance(rarity, Rarity)
    rank = np.exp(rarity.log_score.numpy())
    labels = torch.arange(5, 100).repeat(20)
    wrong = torch.arange(len(labels)) % 95 > 5 * (torch.arange(len(labels)) // 95)  # error rates from 0 to 0.95
    for refreshes in range(1, 8):
        done = 2 * refreshes
        answer(policy, labels, torch.where(wrong, 0, labels))
        policy.refresh(lambda _: None)
        now = policy.difficulty.config
        assert now == told.masking_since(refreshes)
        assert now.band_low == pytest.approx(0.4 * done / 20)
        assert now.band_high == pytest.approx(min(0.6, 0.2 + 0.4 * done / 10))
        score = policy.difficulty.token_score
        assert (score > 0).any()
        assert (score[score > 0] >= now.band_low).all()
        assert now.band_high is not None
        assert (score[score > 0] <= now.band_high).all()
        np.testing.assert_allclose(np.exp(rarity.log_score.numpy()), rank ** (1 + 2 * done / 20), rtol=1e-12)
    copy = untrained(moving())
    copy.load({name: value.clone() for name, value in policy.state(lambda _: None).items()}, 0)
    assert copy.difficulty.config == policy.difficulty.config
    for one, other in ((copy.token, policy.token), (copy.trigram, policy.trigram)):
        assert torch.equal(one.log_score, other.log_score)
    assert copy.rarity is not None
    assert torch.equal(copy.rarity.log_score, rarity.log_score)


def test_the_step_of_a_refresh_is_known_from_their_number() -> None:
    for delay, counted, warmup in (
        (None, None, 0.3),
        (1, None, 0.3),
        (None, "after_warmup", 0.3),
        (3, "after_warmup", 0.35),
    ):
        given = {"mask_warmup": warmup, "update_every": 2, "refresh_delay": delay, "counted": counted}
        told = base(
            steps=40,
            masking={"schedule": {"constants": {"band_low": [[0, 0.0], [1, 0.4]]}, "interpolate": "linear"}, **given},
        )
        refreshes = [done for done in range(1, 41) if told.refreshes(done)]
        if counted:
            refreshes = [done for done in refreshes if done > told.warmup_steps]
        for number, done in enumerate(refreshes, 1):
            assert told.masking_since(number).band_low == pytest.approx(0.4 * done / 40)
        assert told.masking_since(0).band_low == 0


def test_constants_that_cannot_be_are_one_line() -> None:
    for constants, message in (
        ({"loss_quantile": [[0, 0.5]]}, "loss_quantile.*those that may change: ema_decay, smoothing"),
        ({"floor": [[0, 0.1]]}, "of policy mixture these may change: ema_decay, smoothing"),
        ({"cap": [[0, 0.5], [0.5, 1.5]]}, r"cap 1\.5 is above 1, .* after step 10 of 20"),
        ({"cap": [[0.1, 0.5]]}, r"schedule\.constants\.cap must begin at 0 and rise"),
        ({"band_low": [[0, 0.5]], "band_high": [[0, 0.9], [0.25, 0.4]]}, r"below band_high 0\.4 after step 5 of 20"),
        ({"ema_decay": [[0, 1.5]]}, "less than or equal to 1"),
        ({"band_low": [[0, -0.5]]}, "greater than or equal to 0"),
        ({"rarity_power": [[0, 0]]}, "greater than 0"),
    ):
        with pytest.raises(ValueError, match=message):
            base(masking={"schedule": {"constants": constants}})
    amlm = {"policy": "amlm", "mask_warmup": 0, "update_every": 4}
    with pytest.raises(ValueError, match="of policy amlm these may change: ema_decay, pseudo_count, floor"):
        base(masking={**amlm, "schedule": {"constants": {"cap": [[0, 0.5]]}}})
    told = base(masking={**amlm, "schedule": {"constants": {"ema_decay": [[0, 0.9], [0.5, 0.2]]}}})
    assert [told.masking_since(number).ema_decay for number in (0, 1, 2, 3)] == [0.9, 0.9, 0.9, 0.2]
    assert "ema_decay from 0.9 at 0% to 0.2 at 50% of the run" in described.masking(told.masking)


@pytest.mark.parametrize("given", [[[0.1, {"random": 1}]], [[0, {"random": 1}], [0, {"token": 1}]], [[0, {"no": 1}]]])
def test_a_schedule_that_cannot_be_is_refused(given: list[Any]) -> None:
    with pytest.raises(ValueError, match="schedule"):
        base(masking={"schedule": {"shares": given}})
    with pytest.raises(ValueError, match=r"schedule\.shares belongs to policy mixture"):
        scheduled(policy="amlm")
