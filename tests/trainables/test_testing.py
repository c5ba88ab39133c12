"""The suites for masking sources and policies: what is shipped passes, and what breaks a promise fails its test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.suites import failing, names_of
from tests.trainables.masking.test_policies import PRESETS, REPLICAS
from trainables import testing
from trainables.masking import sources
from trainables.masking.amlm import Amlm
from trainables.masking.audit import AllReduce, State
from trainables.masking.budget import Selection
from trainables.masking.mixture import Mixture
from trainables.masking.policy import Answers
from trainables.masking.sources import Random, Source
from trainables.noise import StepNoise
from trainables.settings.catalogue import SOURCES
from trainables.testing import PolicyContract, SourceContract, alone


def source_suite(source: Any, **given: Any) -> type[SourceContract]:
    return type("Suite", (SourceContract,), {"source": source, **given})


def policy_suite(config: Any, **given: Any) -> type[PolicyContract]:
    return type("Suite", (PolicyContract,), {"config": config, **given})


@pytest.mark.parametrize("test", names_of(SourceContract))
@pytest.mark.parametrize("source", [*SOURCES, "token by frequency", "trigram by frequency"])
def test_every_source_of_the_catalogue_keeps_its_contract(source: str, test: str) -> None:
    name, _, signal = source.partition(" by ")
    suite: Any = source_suite(name, config={"masking": {"signal": signal or "accuracy"}})
    getattr(suite(), test)()


@pytest.mark.parametrize("test", names_of(PolicyContract))
@pytest.mark.parametrize(
    ("preset", "replicate"), [*((name, False) for name in PRESETS), *((name, True) for name in REPLICAS)]
)
def test_every_policy_keeps_its_contract(preset: str, replicate: bool, test: str) -> None:
    suite: Any = policy_suite({"masking": {"preset": preset, "replicate": replicate}})
    getattr(suite(), test)()


class TestByText(SourceContract):
    """A source as text, which the catalogue does not name."""

    source = "trainables.masking.sources:Random"


class TestShorterRows(PolicyContract):
    """Other sizes than the suite's own."""

    policy = Amlm
    config = {"batch_size": 7, "data": {"block": 16}, "masking": {"preset": "amlm", "rate": 0.3}}  # noqa: RUF012


# Sources that break a promise

SHAPE = "priorities_are_numbers_for_each_position"
TIES = "priorities_of_a_row_do_not_tie"
SAME_BITS = "the_same_call_gives_the_same_bits"
SPLIT = "a_split_batch_gives_slices_of_the_whole"
REPLAY = "a_step_can_be_drawn_ahead_and_replayed"
SPECIALS = "special_tokens_are_never_drawn"
OTHER = "other_noise_gives_other_priorities"
OWN = "what_it_draws_has_its_name"


class Single(Random):
    """Half the bits."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return super().priorities(ids_BT, noise, rows).float()


class Whole(Random):
    """The global batch, whatever the rows."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return super().priorities(ids_BT, noise, slice(0, len(ids_BT)))


class Undefined(Random):
    """NaN where a token is special."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return torch.where(ids_BT[rows] < 5, torch.nan, super().priorities(ids_BT, noise, rows))


class Never(Random):
    """Nothing at all."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return torch.full_like(super().priorities(ids_BT, noise, rows), sources.NEVER)


class Coarse(Random):
    """Eight values."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return torch.floor(super().priorities(ids_BT, noise, rows) * 8)


class Remembers(Random):
    """Goes by how often it was asked."""

    asked = 0

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        self.asked += 1
        return super().priorities(ids_BT, noise, rows) + self.asked


class Unseeded(Source):
    """Of numpy's own generator."""

    name = "unseeded"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return torch.from_numpy(np.random.default_rng().random((len(ids_BT[rows]), ids_BT.shape[1])))


class RankRows(Random):
    """Goes by the number of a row on its rank."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        found = super().priorities(ids_BT, noise, rows)
        return found * (1 + torch.arange(len(found))[:, None])


class RankMean(Random):
    """Goes by how common tokens are in the rows of its rank."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return super().priorities(ids_BT, noise, rows) + ids_BT[rows].double().mean()


class Around(Source):
    """Has its noise on the device without the noise's knowing."""

    name = "around"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return torch.from_numpy(noise.uniform("around")[rows]).to(ids_BT.device)


class OuterNoise(Source):
    """Draws from the noise of the step in which it was asked first."""

    name = "outer"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return noise.get_or_draw("outer", lambda _: noise.uniform("outer")[rows], ids_BT.device)


class Waits(Random):
    """Asks the device for a number."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return super().priorities(ids_BT, noise, rows) / ids_BT.max().item()


class Picks(Random):
    """Asks the device how many tokens are special."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        found = super().priorities(ids_BT, noise, rows)
        return found + found[ids_BT[rows] < 5].sum() * 0


class Overwrites(Random):
    """Writes into the batch."""

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        ids_BT.add_(1)
        return super().priorities(ids_BT, noise, rows)


class Fixed(Source):
    """One noise for all steps."""

    name = "fixed"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        drawn = StepNoise(0, 0, 0, noise.shape)
        return noise.get_or_draw(self.name, lambda _: drawn.uniform(self.name)[rows], ids_BT.device)


class Forgets(Random):
    """Has a state that `load` does not take over."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.scale = torch.ones(())

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return super().priorities(ids_BT, noise, rows) * self.scale

    def state(self) -> State:
        return {"scale": self.scale}

    def load(self, state: State) -> None:
        """It should set the scale."""


class Learnt(SourceContract):
    """Of a source that has learned something."""

    source = Forgets

    def made(self, device: str = "cpu") -> Source:
        source = Forgets()
        source.scale = torch.rand(())
        return source


class Borrows(Random):
    """Has the noise of random masking, so what it takes and what random masking leaves go together."""

    name = "borrows"


class TakesTheBatch(Source):
    """Draws by a name that the batches have."""

    name = "late"

    def priorities(self, ids_BT: torch.Tensor, noise: StepNoise, rows: slice) -> torch.Tensor:
        return noise.get_or_draw("tokens", lambda noise: noise.uniform(self.name)[rows], ids_BT.device)


class Nameless(Random):
    name = ""


class Unclear(Random):
    grouped: Any = 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Single, {SHAPE}),
        (Whole, {SHAPE, SPLIT}),
        (Undefined, {SHAPE, SAME_BITS, SPLIT, REPLAY}),
        (Never, {SHAPE, OTHER}),
        (Coarse, {TIES}),
        (Remembers, {SAME_BITS, REPLAY}),
        (Unseeded, {SAME_BITS, SPLIT, REPLAY}),
        (RankRows, {SPLIT}),
        (RankMean, {SPLIT}),
        (Around, {REPLAY}),
        (OuterNoise, {REPLAY}),
        (Waits, {REPLAY}),
        (Picks, {REPLAY}),
        (Overwrites, {SAME_BITS}),
        (Fixed, {OTHER}),
        (Borrows, {OWN}),
        (TakesTheBatch, {OWN}),
        (Nameless, {"it_has_a_name_and_says_whether_it_draws_groups", OWN}),
        (Unclear, {"it_has_a_name_and_says_whether_it_draws_groups"}),
    ],
)
def test_a_source_that_breaks_a_promise_fails_its_test(source: type[Source], expected: set[str]) -> None:
    assert failing(source_suite(source)) == expected


def test_a_source_that_forgets_its_state_fails() -> None:
    assert "a_state_that_is_loaded_gives_the_same_priorities" in failing(Learnt)


def test_a_draw_of_special_tokens_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = sources.largest
    monkeypatch.setattr(sources, "largest", lambda keys, free, *rest: drawn(keys, torch.ones_like(free), *rest))
    assert failing(source_suite(Random)) == {SPECIALS}


# Policies that break a promise

BUDGET = "every_batch_predicts_what_the_budget_says"
POSITIONS = "positions_are_ascending_eligible_and_in_range"
METRICS = "metrics_count_what_was_selected"
SAME = "the_same_noise_selects_the_same"
NOISE = "other_noise_selects_other_positions"
WARMUP = "in_the_mask_warmup_it_selects_at_random"
STATE = "it_goes_on_from_its_state"
LOOPS = "it_draws_nothing_that_the_loop_draws"
SHAPES = "observing_and_refreshing_keep_shapes"
RANKS = "ranks_select_together_what_one_selects"
RANKS_GO_ON = "ranks_go_on_from_the_state_of_one"
BOTH_RANKS = (RANKS, RANKS_GO_ON)


def positions(change: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> type[Mixture]:
    """The mixture with its positions changed at the end: of (positions, the ids of its rows)."""

    class Changed(Mixture):
        def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
            selection = super().select(ids_BT, noise)
            changed = change(selection.positions.clone(), ids_BT[self.rows].flatten())
            return replace(selection, positions=changed)

    return Changed


def twice(found: torch.Tensor, _ids: torch.Tensor) -> torch.Tensor:
    """The first position is the second, too."""
    found[0] = found[1]
    return found


def special(found: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """One position of the last is a special token's."""
    found[-1] = torch.where(ids < 5, torch.arange(len(ids)), 0).max()
    return found.sort().values


class OverBudget(Mixture):
    """One position more than is due."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        selection = super().select(ids_BT, noise)
        mine = ids_BT[self.rows].numel()
        taken = torch.zeros(mine + 1, dtype=torch.bool).index_fill_(0, selection.positions, True)[:mine]
        free = (self.eligible_V[ids_BT[self.rows]].flatten() & ~taken).int().argmax()
        return Selection.of(taken.index_fill(0, free[None], True), len(selection.positions) + 1, selection.total)


class Growing(Mixture):
    """As many slots as are needed, so another number in every step."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        selection = super().select(ids_BT, noise)
        more = noise.step
        end = selection.positions.new_full((more,), ids_BT[self.rows].numel())
        weight = torch.cat([selection.weight, selection.weight.new_zeros(more)])
        return Selection(torch.cat([selection.positions, end]), weight, selection.total)


class OwnNoise(Mixture):
    """Counts the steps itself, and every policy from where the last one ended."""

    count = iter(range(100_000))

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        return super().select(ids_BT, StepNoise(0, 0, next(OwnNoise.count), noise.shape))


class OneNoise(Mixture):
    """The same noise in every step."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        return super().select(ids_BT, StepNoise(0, 0, 50, noise.shape))


class RankNoise(Mixture):
    """Noise of its own on every rank."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        rank = self.rows.start
        return super().select(ids_BT, noise if not rank else StepNoise(rank, 0, noise.step, noise.shape))


class LoopsNoise(Mixture):
    """After a refresh it goes by the number that says which of the predicted positions keep their token."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        if self.audit.refreshes:
            noise.get_or_draw("replace", lambda noise: noise.uniform("replace"), ids_BT.device)
        return super().select(ids_BT, noise)


class WithoutState(Amlm):
    def load(self, state: State, rank: int) -> None:
        """It should take the weights over."""


class WithoutWindow(Amlm):
    """Forgets the answers that wait for the next refresh."""

    def load(self, state: State, rank: int) -> None:
        super().load(state, rank)
        self.window.zero_()


class TwiceTheWindow(Amlm):
    """Every rank takes over what is to be summed."""

    def load(self, state: State, rank: int) -> None:
        super().load(state, rank)
        self.window.copy_(state["window"])


class OwnAnswers(Amlm):
    """Learns from the answers of its own rank alone."""

    def refresh(self, all_reduce: AllReduce) -> None:
        super().refresh(alone)


class NeverWarm(Amlm):
    """Draws by weights from the first step on."""

    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        config, self.config = self.config, self.config.model_copy(update={"masking": self._begun()})
        try:
            return super().select(ids_BT, noise)
        finally:
            self.config = config

    def _begun(self) -> Any:
        return self.config.masking.model_copy(update={"mask_warmup": 0.0})


class Miscounts(Mixture):
    def metrics(self, all_reduce: AllReduce) -> dict[str, float]:
        found = super().metrics(all_reduce)
        return {**found, "train/predicted": found["train/predicted"] + 1, "audit/matched": 0.5}


class Grows(Amlm):
    """A score more with every refresh."""

    def scores(self) -> dict[str, Any]:
        return {"token": np.append(super().scores()["token"], np.ones(self.audit.refreshes))}


class WaitsToSelect(Mixture):
    def select(self, ids_BT: torch.Tensor, noise: StepNoise) -> Selection:
        selection = super().select(ids_BT, noise)
        return replace(selection, total=int(selection.weight.sum()))


class WaitsToObserve(Amlm):
    def observe(self, selection: Selection, answers: Answers, all_reduce: AllReduce) -> None:
        if answers.losses.sum() > 0:
            super().observe(selection, answers, all_reduce)


AMLM = {"masking": {"preset": "amlm"}}
MIXED = {"masking": {"preset": "accuracy_morph"}}


@pytest.mark.parametrize(
    ("policy", "config", "expected"),
    [
        (OverBudget, MIXED, {BUDGET, METRICS, WARMUP, *BOTH_RANKS}),
        (positions(lambda found, _: found.flip(0)), MIXED, {POSITIONS, WARMUP, *BOTH_RANKS}),
        (positions(twice), MIXED, {POSITIONS, WARMUP, *BOTH_RANKS}),
        (positions(special), MIXED, {POSITIONS, WARMUP, *BOTH_RANKS}),
        (positions(lambda found, _: found - 40), MIXED, {POSITIONS, WARMUP, RANKS}),
        (Growing, MIXED, {POSITIONS}),
        (OwnNoise, MIXED, {SAME, WARMUP, STATE, *BOTH_RANKS, REPLAY}),
        (OneNoise, MIXED, {NOISE, WARMUP}),
        (RankNoise, MIXED, {*BOTH_RANKS}),
        (LoopsNoise, MIXED, {LOOPS}),
        (WithoutState, AMLM, {STATE, RANKS_GO_ON}),
        (WithoutWindow, AMLM, {STATE, RANKS_GO_ON}),
        (TwiceTheWindow, AMLM, {RANKS_GO_ON}),
        (OwnAnswers, AMLM, {*BOTH_RANKS}),
        (NeverWarm, AMLM, {WARMUP}),
        (Miscounts, MIXED, {BUDGET, METRICS}),
        (Grows, AMLM, {SHAPES}),
        (WaitsToSelect, MIXED, {REPLAY}),
        (WaitsToObserve, AMLM, {REPLAY}),
    ],
)
def test_a_policy_that_breaks_a_promise_fails_its_test(policy: Any, config: Any, expected: set[str]) -> None:
    assert failing(policy_suite(config, policy=policy)) == expected


# A GPU


def test_what_is_asked_of_a_gpu_holds_of_a_cpu_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(testing, "_gpu", lambda: "cpu")
    monkeypatch.setattr(testing, "_unwaited", lambda call: call())
    for name in SOURCES:
        source_suite(name)().test_a_gpu_agrees_on_the_order_and_is_not_waited_for()
    for config in (MIXED, AMLM):
        policy_suite(config)().test_a_gpu_selects_what_a_cpu_selects_and_is_not_waited_for()
