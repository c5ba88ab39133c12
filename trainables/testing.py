"""Suites that try a masking source or policy of your own. Subclass one in a test file, and pytest runs it:

    class TestLate(SourceContract):
        source = "my_package.my_module:Late"

Each test checks one promise of masking/sources.py or masking/policy.py on batches of made-up tokens. pytest itself is
not imported: the suites come with the installed package, and only their tests need pytest.

Shapes: B rows of the global batch, b rows of this rank, T tokens a row, V vocabulary entries, S index slots.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from itertools import pairwise
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple
from unittest import SkipTest

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables.data.word_forms import WORDPIECE
from trainables.masking import mixture, sources
from trainables.masking.audit import AllReduce, Audit, State
from trainables.masking.budget import Selection
from trainables.masking.policy import Answers, MaskingPolicy, Vocabulary
from trainables.masking.sources import NEVER, Scored, Source
from trainables.noise import StepNoise, uniform
from trainables.settings.catalogue import LOOP_DRAWS, SOURCES, STARTS
from trainables.settings.config import Config

__all__ = ["PolicyContract", "SourceContract", "Tape"]

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = [a + b + c for a in "bcd" for b in "aeio" for c in "lmn"] + ["##" + a + b for a in "dt" for b in "aeio"]
WORDS += ["7", "1990", ".", "é"]
UNKNOWN = SPECIAL.index("[UNK]")
ROWS, LENGTH, STEPS, SEED = 12, 32, 100, 3
# Operations after which the host waits for a GPU, as it needs a value or a size from there.
WAITS = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "bincount", "equal", "_unique2"}
WAITS |= {"unique_dim", "unique_consecutive", "unique_dim_consecutive"}


def vocabulary() -> Vocabulary:
    """Made up: five special tokens, words, pieces that continue words, digits; some are common, most are rare.

    About every other word of a `batch` goes on with a collocation.
    """
    strings = [*SPECIAL, *WORDS]
    frequency = np.arange(1.0, len(strings) + 1)
    eligible = np.arange(len(strings)) >= len(SPECIAL)
    forms = WORDPIECE.forms(strings)

    def starts(noise: StepNoise) -> Any:
        drawn = uniform(noise.shape[0] * noise.shape[1], "contract", "collocations", noise.step) < 0.5
        return forms.begins[batch(noise.step, noise.shape)] & drawn.reshape(noise.shape)

    def collocation_start(noise: StepNoise, device: torch.device) -> torch.Tensor:
        return noise.get_or_draw("collocation start", starts, device)

    relevance = eligible * (np.arange(len(strings)) % 7) / 2
    return Vocabulary(
        forms, eligible, frequency / frequency.sum(), collocation_start=collocation_start, relevance=relevance
    )


def batch(step: int, shape: tuple[int, int], unknown: float = 0.1) -> torch.Tensor:
    """[B, T] made-up ids: words by Zipf's law, and [UNK] here and there."""
    share = np.cumsum(1 / np.arange(1, len(WORDS) + 1))
    drawn = uniform(2 * shape[0] * shape[1], "contract", step).reshape(2, *shape)
    words = len(SPECIAL) + np.searchsorted(share / share[-1], drawn[0], side="right")
    return torch.from_numpy(np.where(drawn[1] < unknown, UNKNOWN, words))


class Tape(TorchDispatchMode):
    """What a CUDA graph would capture, recorded on a CPU: operations on the very tensors that they had.

    `replay` does them again in place. Host code between them leaves no trace, so what it computed stays as it was.
    """

    def __init__(self) -> None:
        super().__init__()
        self.done: list[tuple[Any, Any, Any, list[torch.Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if _waits(func, args):
            raise RuntimeError(f"the host waits for the device: {func}")
        out = func(*args, **kwargs)
        self.done.append((func, args, kwargs, _tensors(out)))
        return out

    def replay(self) -> None:
        with torch._C._AutoDispatchBelowAutograd():
            for func, args, kwargs, was in self.done:
                for new, old in zip(_tensors(func(*args, **kwargs)), was, strict=True):
                    if new.untyped_storage().data_ptr() != old.untyped_storage().data_ptr():
                        old.copy_(new)


def _waits(func: Any, args: Sequence[Any]) -> bool:
    name = func.overloadpacket.__name__
    if name in ("index", "index_put", "index_put_"):  # a mask for an index becomes positions, whose number is not known
        masks = [one for one in args[1] if one is not None and one.dtype in (torch.bool, torch.uint8)]
        return bool(masks) and (name == "index" or args[2].numel() != 1)
    return name in WAITS


def _tensors(tree: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _given(noise: StepNoise, draws: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """What draws make of a step's noise ahead of that step, as on a GPU."""
    return {name: torch.from_numpy(np.array(draw(noise), order="C")) for name, draw in draws.items()}


class _Noted(StepNoise):
    """A step's noise that notes under which names something is drawn, and for which purposes noise is made."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.names: set[str] = set()

    def get_or_draw(self, name: str, draw: Any, device: torch.device) -> torch.Tensor:
        self.names.add(name)
        return super().get_or_draw(name, draw, device)

    def starts(self, purpose: str, number: int) -> Any:
        self.names.add(purpose)
        return super().starts(purpose, number)

    def uniform(self, purpose: str) -> Any:
        self.names.add(purpose)
        return super().uniform(purpose)

    def integers(self, purpose: str, high: int) -> Any:
        self.names.add(purpose)
        return super().integers(purpose, high)


def _named(maker: Any) -> Callable[..., Any]:
    """A callable, or what a text `module:name` leads to."""
    if not isinstance(maker, str):
        return maker
    module, _, name = maker.partition(":")
    return getattr(import_module(module), name)


def _merged(tree: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    deeper = {key: _merged(tree[key], value) for key, value in over.items() if isinstance(tree.get(key), dict)}
    return {**tree, **over, **deeper}


class _Contract:
    """What the two suites share.

    config: settings, laid over the suite's own: 12 rows of 32 tokens, no mask warm-up, a refresh every 4 steps.
    """

    config: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @property
    def settings(self) -> Config:
        return self._settings()

    def _settings(self, **masking: Any) -> Config:
        own = {"mask_warmup": 0.0, "update_every": 4}
        tree = {"steps": STEPS, "batch_size": ROWS, "data": {"block": LENGTH}, "masking": own}
        return Config.model_validate(_merged(_merged(tree, self.config), {"masking": masking}))

    @property
    def shape(self) -> tuple[int, int]:
        return self.settings.batch_size, self.settings.data.block

    def noise(self, step: int, seed: int = SEED) -> _Noted:
        return _Noted(seed, 0, step, self.shape)

    def ids(self, step: int) -> torch.Tensor:
        """[B, T]: the global batch of a step. Override it for tokens of your own `vocabulary`."""
        return batch(step, self.shape)

    def vocabulary(self) -> Vocabulary:
        """Override it for a source or policy that needs another."""
        return vocabulary()

    def _eligible(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(self.vocabulary().eligible)[ids]

    def _splits(self) -> list[list[slice]]:
        """The rows of a batch, among two, three and as many ranks as there are rows."""
        rows = self.shape[0]
        cuts = [[rows * rank // ranks for rank in range(ranks + 1)] for ranks in sorted({2, 3, rows}) if ranks <= rows]
        return [[slice(*ends) for ends in pairwise(cut)] for cut in cuts]


class SourceContract(_Contract):
    """The promises of a masking source, one test each.

    source: its name in the catalogue, a class or function that makes it, or that as text, `my_package.my_module:Late`.
    config: settings, such as {"masking": {"signal": "frequency"}}. random: False for a source without noise.
    """

    source: ClassVar[str | Callable[..., Source]]
    random: ClassVar[bool] = True

    def made(self, device: str = "cpu") -> Source:
        """A new source. Override it to bring one that learns to where it has learned something."""
        maker = type(self).source
        if isinstance(maker, str) and maker in SOURCES:
            source = sources.make(maker, self.settings, self.vocabulary(), device)
        else:
            source = _named(maker)(self.settings, self.vocabulary(), device)
        if isinstance(source, Scored) and not bool(source.log_score.isfinite().any()):
            size = self.vocabulary().size
            source.set(np.where(self.vocabulary().eligible, np.arange(size) % 7 / 6, 0.0))
        return source

    def test_it_has_a_name_and_says_whether_it_draws_groups(self) -> None:
        source = self.made()
        assert isinstance(source.name, str), f"name is {source.name!r}"
        assert source.name, "name is empty"
        assert isinstance(source.grouped, bool), f"grouped is {source.grouped!r}: it must be True or False"

    def test_priorities_are_numbers_for_each_position(self) -> None:
        """[b, T] float64, finite or -inf; of each row some are finite."""
        ids = self.ids(0)
        for rows in (slice(0, len(ids)), slice(1, 4)):
            found = self.made().priorities(ids, self.noise(0), rows)
            expected = (len(ids[rows]), ids.shape[1])
            assert found.shape == expected, f"priorities of {rows} have shape {tuple(found.shape)}, not {expected}"
            assert found.dtype == torch.float64, f"priorities are {found.dtype}: they must be float64"
            wrong = ~(found.isfinite() | (found == NEVER))
            assert not wrong.any(), f"{int(wrong.sum())} priorities are NaN or +inf: they must be finite, or -inf"
            assert found.isfinite().any(), "every priority is -inf, so nothing could be drawn"

    def test_priorities_of_a_row_do_not_tie(self) -> None:
        """Else devices would disagree on which is larger."""
        for row in self.made().priorities(self.ids(0), self.noise(0), slice(0, self.shape[0])):
            finite = row[row > NEVER]
            assert len(finite.unique()) == len(finite), "two positions of a row have the same priority"

    def test_the_same_call_gives_the_same_bits(self) -> None:
        """From another source of the kind, after other calls, and with the batch as it was."""
        source, rows = self.made(), slice(0, self.shape[0])
        ids = self.ids(0)
        before = ids.clone()
        first = source.priorities(ids, self.noise(0), rows).clone()
        assert torch.equal(ids, before), "priorities changed the batch"
        assert torch.equal(self.made().priorities(ids, self.noise(0), rows), first), "a new source gives others"
        for step in (3, 1):
            source.priorities(self.ids(step), self.noise(step), slice(2, 5))
        assert torch.equal(source.priorities(ids, self.noise(0), rows), first), "after other calls they are others"

    def test_a_split_batch_gives_slices_of_the_whole(self) -> None:
        ids = self.ids(1)
        whole = self.made().priorities(ids, self.noise(1), slice(0, len(ids)))
        for split in self._splits():
            for rows in split:
                part = self.made().priorities(ids, self.noise(1), rows)
                assert torch.equal(part, whole[rows]), (
                    f"priorities of rows {rows.start} to {rows.stop} differ from those rows of the whole batch"
                )

    def test_other_noise_gives_other_priorities(self) -> None:
        if not self.random:
            raise SkipTest("random is False")
        ids, rows = self.ids(0), slice(0, self.shape[0])
        first = self.made().priorities(ids, self.noise(0), rows)
        for other in (self.noise(1), self.noise(0, SEED + 1)):
            assert not torch.equal(self.made().priorities(ids, other, rows), first), "other noise gives the same"

    def test_what_it_draws_has_its_name(self) -> None:
        """Its own, or one that begins with it and a space: two draws of a step by one name are the same numbers."""
        source, noise = self.made(), self.noise(0)
        source.priorities(self.ids(0), noise, slice(0, self.shape[0]))
        foreign = {name for name in noise.names - STARTS if name.partition(" ")[0] != source.name}
        assert not foreign, f"it draws {', '.join(sorted(foreign))}, which is another's: name it {source.name!r}"

    def test_special_tokens_are_never_drawn(self) -> None:
        """`largest` takes as many as are due, of those that may be predicted and have a priority."""
        source, ids = self.made(), self.ids(0)
        free = self._eligible(ids)
        found = source.priorities(ids, self.noise(0), slice(0, len(ids)))
        supply = (free & (found > NEVER)).sum(1)
        for quota in (2, ids.shape[1] // 4):
            due = torch.full((len(ids),), quota)
            taken, cut = sources.largest(found, free, due, quota, source.grouped)
            assert not (taken & ~free).any(), "a special token is drawn"
            assert torch.equal(taken.sum(1), torch.minimum(due, supply)), f"not {quota} of a row are drawn"
            assert int(cut) >= 0

    def test_a_state_that_is_loaded_gives_the_same_priorities(self) -> None:
        source: Any = self.made()
        if not (hasattr(source, "state") and hasattr(source, "load")):
            raise SkipTest("the source has no state")
        ids, rows = self.ids(2), slice(0, self.shape[0])
        source.priorities(self.ids(1), self.noise(1), rows)
        other: Any = self.made()
        other.load({name: value.clone() for name, value in source.state().items()})
        same = torch.equal(other.priorities(ids, self.noise(2), rows), source.priorities(ids, self.noise(2), rows))
        assert same, "with the state of another source it gives other priorities than that"

    def test_a_step_can_be_drawn_ahead_and_replayed(self) -> None:
        """As on a GPU: the host waits for no value, and what is random comes through `StepNoise.get_or_draw` alone.

        A draw must use the noise that it is called with; the noise of the step before would be that step's again.
        """
        source, rows = self.made(), slice(1, 5)
        ids, first = self.ids(0), self.noise(0)
        source.priorities(ids, first, rows)
        draws = dict(first.draws)
        first.given = _given(first, draws)
        with Tape() as tape:
            found = source.priorities(ids, first, rows)
        ids.copy_(self.ids(1))
        for name, drawn in _given(self.noise(1), draws).items():
            first.given[name].copy_(drawn)
        tape.replay()
        assert torch.equal(found, self.made().priorities(self.ids(1), self.noise(1), rows)), (
            "replayed with the draws of the next step, it gives other priorities than that step"
        )

    def test_a_gpu_agrees_on_the_order_and_is_not_waited_for(self) -> None:
        device = _gpu()
        rows, ids = slice(0, self.shape[0]), self.ids(0)
        expected, source, there = self.made().priorities(ids, self.noise(0), rows), self.made(device), ids.to(device)
        source.priorities(there, (noise := self.noise(0)), rows)
        noise.given = {name: value.to(device) for name, value in _given(noise, dict(noise.draws)).items()}
        found = _unwaited(lambda: source.priorities(there, noise, rows)).cpu()
        assert torch.equal(found > NEVER, expected > NEVER), "a GPU gives other positions a priority"
        same = found.argsort(dim=1, stable=True) == expected.argsort(dim=1, stable=True)
        assert (same | (expected.sort(1).values == NEVER)).all(), "a GPU puts positions in another order"


class _Played(NamedTuple):
    """selected: positions of the global batch, step by step."""

    selected: list[torch.Tensor]
    slots: list[int]


class PolicyContract(_Contract):
    """The promises of a masking policy, one test each.

    policy: a class or function that makes it of (config, vocabulary, rows, seed, device), or that as text; the policy
    that the settings describe where it is not given. config: settings, such as {"masking": {"preset": "amlm"}}.
    """

    policy: ClassVar[str | Callable[..., MaskingPolicy]] = mixture.build

    def made(self, rows: slice | None = None, seed: int = SEED, device: str = "cpu") -> MaskingPolicy:
        """A new policy, for these rows of the batch or all."""
        return self._made(self.settings, rows, seed, device)

    def promised(self, step: int, ids: torch.Tensor) -> int | None:
        """How many positions a batch must predict; None where that is drawn, too. Override it for another budget."""
        masking, rate = self.settings.masking, self.settings.rate_at(step)
        if masking.independent:
            return None
        if masking.by_row:
            return sum(round(rate * count) for count in self._eligible(ids).sum(1).tolist())
        return round(rate * ids.numel())

    # The budget

    def test_every_batch_predicts_what_the_budget_says(self) -> None:
        policy, total = self.made(), 0
        for step in range(8):
            ids = self.ids(step)
            selection = policy.select(ids, self.noise(step))
            number, due = int(selection.weight.sum()), self.promised(step, ids)
            assert number == int(selection.total), f"{number} positions are selected, total says {selection.total}"
            assert due is None or number == due, f"step {step} predicts {number} positions, the budget is {due}"
            total += number
            self._learn(policy, ids, selection, step)
        metrics = policy.metrics(alone)
        assert metrics["train/predicted"] == total, f"the audit counts {metrics['train/predicted']:g} of {total}"

    def test_positions_are_ascending_eligible_and_in_range(self) -> None:
        """Ascending, so no position twice. Slots left over have weight 0; only a rate changes their number."""
        coded, rows = self.settings.masking.as_coded, slice(1, self.shape[0] - 1)
        policy, slots = self.made(rows), set[int]()
        for step in range(8):
            ids = self.ids(step)
            selection = policy.select(ids, self.noise(step))
            count, used = ids[rows].numel(), selection.weight > 0
            positions = selection.positions[used]
            assert selection.positions.dtype == torch.int64, f"positions are {selection.positions.dtype}"
            assert selection.weight.shape == selection.positions.shape, "there is not a weight for each position"
            assert set(selection.weight.tolist()) <= {0.0, 1.0}, "weights must be 0 or 1"
            assert (positions.diff() > 0).all(), "positions do not ascend, or one is there twice"
            assert (positions >= 0).all(), "a position is negative"
            assert (positions < count).all(), f"a position lies outside of the {count} of this rank's rows"
            assert (selection.positions[~used] == count).all(), f"slots left over must hold {count}, b * T"
            assert coded or self._eligible(ids[rows]).flatten()[positions].all(), "a special token is selected"
            slots.add(len(selection.positions))
            self._learn(policy, ids, selection, step, rows)
        varies = self.settings.masking.rate_changes
        assert varies or len(slots) == 1, f"the number of slots changes from step to step: {sorted(slots)}"

    def test_metrics_count_what_was_selected(self) -> None:
        policy = self.made()
        played = self._play(policy, range(8))
        number, metrics = sum(map(len, played.selected)), policy.metrics(alone)
        assert isinstance(policy.audit, Audit), f"audit is {policy.audit!r}"
        assert metrics["audit/rate"] == number / (8 * self.shape[0] * self.shape[1]), "audit/rate is another"
        assert metrics["audit/matched"] == self.settings.masking.on_budget, (
            "audit/matched is another than the settings say"
        )
        shares = sum(value for key, value in metrics.items() if key.startswith("audit/shares/"))
        assert abs(shares - 1) < 1e-9, f"the shares of the sources add up to {shares}"
        assert int(policy.state(alone)["by_id"].sum()) == number, "by_id does not count each predicted position"

    # What selection depends on

    def test_the_same_noise_selects_the_same(self) -> None:
        assert _same(self._play(self.made(), range(8)), self._play(self.made(), range(8))), (
            "two policies that saw the same selected other positions"
        )
        ids = self.ids(0)
        before = ids.clone()
        self.made().select(ids, self.noise(0))
        assert torch.equal(ids, before), "select changed the batch"

    def test_other_noise_selects_other_positions(self) -> None:
        first = self.made().select(self.ids(0), self.noise(0)).positions
        for other in (self.noise(1), self.noise(0, SEED + 1)):
            assert not torch.equal(self.made().select(self.ids(0), other).positions, first), (
                "other noise, same positions"
            )

    def test_it_draws_nothing_that_the_loop_draws(self) -> None:
        """Before and after a refresh, at the end too. Two draws of a step by one name would be the same numbers."""
        policy, names = self.made(), set[str]()
        for step in (*range(6), self.settings.steps - 1):
            ids, noise = self.ids(step), self.noise(step)
            selection = policy.select(ids, noise)
            names |= noise.names
            self._learn(policy, ids, selection, step)
        foreign = names & LOOP_DRAWS
        assert not foreign, f"it draws {', '.join(sorted(foreign))}, which the training loop draws: take another name"

    def test_in_the_mask_warmup_it_selects_at_random(self) -> None:
        """As every policy does there, so that all runs of a sweep are the same run up to its end."""
        scheduled = self.settings.masking.schedule
        if scheduled and scheduled.shares:
            raise SkipTest("a schedule of shares may have none")
        settings = self._settings(mask_warmup=0.5)
        if settings.masking.independent:
            raise SkipTest("positions are drawn independently")
        steps = range(1, settings.warmup_steps, 12)
        one, other = self._play(self._made(settings), steps), self._play(self._random(settings), steps)
        assert _same(one, other), "before config.warmup_steps it selects other positions than random masking"

    def test_it_goes_on_from_its_state(self) -> None:
        """Before the first refresh, within a later window: a new policy with that state does all that this one does."""
        for stop in (1, 6):
            policy, other = self.made(), self.made()
            self._play(policy, range(stop))
            other.load(_copied(policy.state(alone)), 0)
            rest = range(stop, stop + 6)
            assert _same(self._play(other, rest), self._play(policy, rest)), (
                f"with the state after {stop} steps a new policy selects other positions"
            )
            assert other.metrics(alone) == policy.metrics(alone), "and it counts other metrics"
            _states_equal(other.state(alone), policy.state(alone), "and its state is another")

    def test_observing_and_refreshing_keep_shapes(self) -> None:
        policy = self.made()
        shapes = _shapes(policy)
        assert shapes["scores", "token"][0] == (self.vocabulary().size,), "scores()['token'] must be [V]"
        for step in range(6):
            self._play(policy, range(step, step + 1))
            policy.refresh(alone)
            assert _shapes(policy) == shapes, f"step {step} changed the shape or type of {_changed(policy, shapes)}"
        scores = policy.scores()["token"]
        assert not np.isnan(scores).any(), "a score is NaN"

    # Ranks

    def test_ranks_select_together_what_one_selects(self) -> None:
        steps = range(6)
        one = self.made()
        expected = self._play(one, steps)
        for split in self._splits()[:2]:
            found, policies = self._ranks(split, steps)
            _alike(found, expected, f"{len(split)} ranks")
            for metrics, state in policies:
                assert metrics.keys() == one.metrics(alone).keys(), f"metrics of {len(split)} ranks have other names"
                differ = [key for key, value in one.metrics(alone).items() if metrics[key] != value]
                assert not differ, f"{len(split)} ranks count other {', '.join(differ)} than one"
                _states_equal(state, one.state(alone), f"the state of {len(split)} ranks is another than that of one")

    def test_ranks_go_on_from_the_state_of_one(self) -> None:
        one, rest = self.made(), range(6, 11)
        self._play(one, range(6))
        state = _copied(one.state(alone))
        expected = self._play(one, rest)
        found, _ = self._ranks(self._splits()[0], rest, state)
        _alike(found, expected, "two ranks with the state of one")

    # The device

    def test_a_step_can_be_drawn_ahead_and_replayed(self) -> None:
        """As on a GPU: the host waits for no value, and what is random comes through `StepNoise.get_or_draw` alone."""
        if self.settings.masking.rate_changes:
            raise SkipTest("the rate changes, so steps are not replayed")
        launched, replayed, rows = self.made(), self.made(), slice(0, self.shape[0])
        self._play(replayed, range(1), refresh=False)
        ids, noise = self.ids(1), self.noise(1)
        self._step(self.made(), ids, noise, rows)
        draws = dict(noise.draws)
        noise.given = _given(noise, draws)
        with Tape() as tape:
            selection = self._step(replayed, ids, noise, rows)
        ids.copy_(self.ids(2))
        for name, drawn in _given(self.noise(2), draws).items():
            noise.given[name].copy_(drawn)
        tape.replay()
        expected = self._play(launched, range(3), refresh=False).selected[-1]
        assert torch.equal(selection.positions[selection.weight > 0], expected), (
            "replayed with the draws of the next step, it selects other positions than in that step"
        )
        _states_equal(replayed.state(alone), launched.state(alone), "replayed, it learns something else")

    def test_a_gpu_selects_what_a_cpu_selects_and_is_not_waited_for(self) -> None:
        device = _gpu()
        policy, rows = self.made(device=device), slice(0, self.shape[0])
        ids, noise = self.ids(0).to(device), self.noise(0)
        self._step(self.made(device=device), ids, noise, rows)
        noise.given = {name: value.to(device) for name, value in _given(noise, dict(noise.draws)).items()}
        selection = _unwaited(lambda: self._step(policy, ids, noise, rows))
        expected = self.made().select(self.ids(0), self.noise(0))
        assert torch.equal(selection.positions.cpu(), expected.positions), "a GPU selects other positions than a CPU"

    # How it is played

    def _made(
        self, settings: Config, rows: slice | None = None, seed: int = SEED, device: str = "cpu"
    ) -> MaskingPolicy:
        rows = rows or slice(0, self.shape[0])
        return _named(type(self).policy)(settings, self.vocabulary(), rows, seed, device)

    def _random(self, settings: Config) -> MaskingPolicy:
        """Random masking at the same rates and length."""
        same = ("rate", "rate_schedule", "rate_start", "rates", "row_rates", "apportion", "mask_warmup")
        rule = {name: getattr(settings.masking, name) for name in same}
        rule |= {"preset": "random", "replicate": settings.masking.by_row}
        plain = Config.model_validate({**settings.model_dump(exclude={"masking"}), "masking": rule})
        return mixture.build(plain, self.vocabulary(), slice(0, self.shape[0]), SEED, "cpu")

    def _step(self, policy: MaskingPolicy, ids: torch.Tensor, noise: StepNoise, rows: slice) -> Selection:
        """Select, and observe made-up answers: the higher an id modulo 5, the more of them are wrong."""
        selection = policy.select(ids, noise)
        policy.observe(selection, self._answers(ids, selection, noise, rows), alone)
        return selection

    def _answers(self, ids: torch.Tensor, selection: Selection, noise: StepNoise, rows: slice) -> Answers:
        """They depend on the place in the global batch and the noise alone."""
        chances = noise.get_or_draw("contract", lambda noise: noise.uniform("contract")[rows], ids.device)
        at = selection.positions.clamp(max=chances.numel() - 1)
        labels, chance = ids[rows].flatten()[at], chances.flatten()[at]
        hard = labels % 5
        predictions = torch.where(chance < hard / 5, 0, labels)
        entropies = (chance * (1 + hard)).float() if self.settings.masking.wants_entropies else None
        return Answers(labels, predictions, (chance**24 * (1 + hard)).float(), chance > 0.2, entropies)

    def _learn(
        self,
        policy: MaskingPolicy,
        ids: torch.Tensor,
        selection: Selection,
        step: int,
        rows: slice | None = None,
        all_reduce: AllReduce | None = None,
        refresh: bool = True,
    ) -> None:
        all_reduce, rows = all_reduce or alone, rows or slice(0, len(ids))
        policy.observe(selection, self._answers(ids, selection, self.noise(step), rows), all_reduce)
        if refresh and self.settings.refreshes(step + 1):
            policy.refresh(all_reduce)

    def _play(
        self,
        policy: MaskingPolicy,
        steps: range,
        rows: slice | None = None,
        all_reduce: AllReduce | None = None,
        refresh: bool = True,
    ) -> _Played:
        """Take steps, with refreshes where the loop has them."""
        played = _Played([], [])
        for step in steps:
            ids = self.ids(step)
            selection = policy.select(ids, self.noise(step))
            before = (rows.start if rows else 0) * ids.shape[1]
            played.selected.append(selection.positions[selection.weight > 0] + before)
            played.slots.append(len(selection.positions))
            self._learn(policy, ids, selection, step, rows, all_reduce, refresh)
        return played

    def _ranks(
        self, split: Sequence[slice], steps: range, state: State | None = None
    ) -> tuple[list[_Played], list[tuple[dict[str, float], State]]]:
        """Play every rank in a thread of its own. Returns what each selected, and its metrics and state."""
        played, ends = [_Played([], []) for _ in split], [({}, {})] * len(split)

        def act(rank: int, all_reduce: AllReduce) -> None:
            policy = self.made(split[rank])
            if state is not None:
                policy.load(_copied(state), rank)
            played[rank] = self._play(policy, steps, split[rank], all_reduce)
            ends[rank] = policy.metrics(all_reduce), policy.state(all_reduce)

        in_threads(len(split), act)
        return played, ends


def in_threads(ranks: int, act: Callable[[int, AllReduce], None]) -> None:
    """Play every rank in a thread of its own, with an all_reduce that waits for all. Raises what the first one raises.

    act: gets the rank and its all_reduce.
    """
    failed: list[BaseException] = []
    barrier, parts = threading.Barrier(ranks, timeout=60), [torch.empty(0)] * ranks

    def run(rank: int) -> None:
        def all_reduce(tensor: torch.Tensor) -> None:
            parts[rank] = tensor.clone()
            barrier.wait()
            tensor.copy_(sum(parts[1:], parts[0]))
            barrier.wait()

        try:
            act(rank, all_reduce)
        except BaseException as error:
            failed.append(error)
            barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(ranks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    own = [error for error in failed if not isinstance(error, threading.BrokenBarrierError)]
    if failed:
        raise (own or failed)[0]


def alone(_tensor: torch.Tensor) -> None:
    """One rank has nothing to sum."""


def _same(one: _Played, other: _Played) -> bool:
    return len(one.selected) == len(other.selected) and all(map(torch.equal, one.selected, other.selected))


def _alike(found: Sequence[_Played], expected: _Played, who: str) -> None:
    together = [torch.cat(parts) for parts in zip(*(one.selected for one in found), strict=True)]
    wrong = [at for at, both in enumerate(zip(together, expected.selected, strict=True)) if not torch.equal(*both)]
    assert not wrong, f"{who} select other positions than one rank, first in step {wrong[0]}"


def _copied(state: State) -> State:
    return {name: value.detach().clone() for name, value in state.items()}


def _states_equal(found: State, expected: State, said: str) -> None:
    """`moments`, sums of fractions over the ranks, may differ in their last bits."""
    assert found.keys() == expected.keys(), f"{said}: {sorted(found.keys() ^ expected.keys())}"
    for name, value in expected.items():
        close = torch.allclose(found[name], value, rtol=1e-12) if name == "moments" else torch.equal(found[name], value)
        assert close, f"{said}: {name}"


def _shapes(policy: MaskingPolicy) -> dict[tuple[str, str], tuple[Any, ...]]:
    """Shape and type of each of its scores and states."""
    scores = {("scores", name): (value.shape, str(value.dtype)) for name, value in policy.scores().items()}
    return scores | {
        ("state", name): (tuple(value.shape), str(value.dtype)) for name, value in policy.state(alone).items()
    }


def _changed(policy: MaskingPolicy, shapes: Mapping[tuple[str, str], tuple[Any, ...]]) -> str:
    now = _shapes(policy)
    return ", ".join(" ".join(key) for key in now.keys() | shapes.keys() if now.get(key) != shapes.get(key))


def _gpu() -> str:
    if not torch.cuda.is_available():
        raise SkipTest("there is no GPU")
    return "cuda:0"


def _unwaited(call: Callable[[], Any]) -> Any:
    """What a call returns on a GPU. RuntimeError where the host waits for the device meanwhile."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        return call()
    finally:
        torch.cuda.set_sync_debug_mode(before)
