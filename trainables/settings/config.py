"""The settings of a pretraining run: frozen, validated, and free of torch, so that bad ones are refused at once."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    create_model,
    model_validator,
)

from sweeper.system import yaml_reader
from sweeper.system.nearest import nearest, nearest_path
from sweeper.trainable import Budget
from trainables.settings import presets, word_amounts
from trainables.settings.catalogue import OWN_DRAWS, SOURCES, Entry
from trainables.settings.row_rates import RowRates, largest_part

Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Above0 = Annotated[float, Field(gt=0)]
AtLeast0 = Annotated[float, Field(ge=0)]
Floor = Annotated[float, Field(ge=0, lt=0.5)]
Words = Annotated[int, BeforeValidator(word_amounts.words)]
Fall = Literal["linear", "cosine", "trapezoid", "warmup-stable-decay"]
Rate = Annotated[float, Field(gt=0, le=0.5)]
Rates = Annotated[tuple[tuple[Fraction, Rate], ...], BeforeValidator(lambda value: _tuples(value))]
Lengths = Annotated[tuple[tuple[Fraction, Positive], ...], BeforeValidator(lambda value: _tuples(value))]
Milestones = Annotated[tuple[int, ...] | None, BeforeValidator(word_amounts.series)]

MIN_REFRESHES = 5
COMPACT = "compact-bert"  # the architecture of our own
ASSUMED_ENTRIES = 30_522  # of a tokenizer that is not on this machine: as many as bert-base-uncased has
SUBSTRINGS = 15  # of a token that are entries themselves: the mean over 30,522 entries trained on English


def _absent(value: Any) -> bool:
    """For settings added later: left out where they are not set, so that hashes of older settings stay the same."""
    return value is None


def _tuples(value: Any) -> Any:
    """Lists as tuples, as YAML has none."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


class Frozen(BaseModel):
    """Immutable settings; an unknown key, NaN or infinity is refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Frozen):
    """The text, and how it is divided and cut into rows.

    Args:
        corpus: `embedded`, `files:GLOB` (see `formats`) or `hub:NAME`.
        tokenizer: `train:SIZE` (WordPiece trained on the train part, lower-cased and without accents; `,cased` and
            `,accents` behind it keep either), a local folder, or a hub name.
        validation: `files:GLOB` in place of the part that a hash of the documents sets apart.
        test: the same for the test part.
        block: tokens a row.
        held_out: share of the documents in each of `val` and `test`.
        max_held_out: tokens that each of the two may have.
        max_test: the same for `test` alone, which is read once a run and so may be larger than what every report
            reads; None is max_held_out.
    """

    corpus: str = "embedded"
    tokenizer: str = "train:8192"
    validation: str | None = None
    test: str | None = None
    block: Annotated[int, Field(ge=8)] = 128
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    max_held_out: Positive = 250_000
    max_test: Positive | None = Field(default=None, exclude_if=_absent)

    def most(self, part: str) -> int:
        """The most tokens that a held-out part may have."""
        return self.max_test if part == "test" and self.max_test else self.max_held_out


class ModelConfig(Frozen):
    """The encoder; by default the compact BERT of the published runs (methods.md 1): 11.2 M parameters, 30,522 tokens.

    Args:
        architecture: `compact-bert`, or a family of transformers with a masked-LM head, such as `modernbert`
            (family.py); its size is told by the words below, and it starts from its own random weights.
        options: of that family, by the names of its configuration, where those words do not say it.
        gradient_checkpointing: of a family: activations are computed again in the backward pass, for memory.
        hidden: channels.
        layers: of the encoder.
        heads: of each layer's attention; a divisor of `hidden`.
        intermediate: channels inside the feed-forward blocks.
        max_positions: tokens that a row may have.
        dropout: rate, of attention weights and of each block's output.
        embedding: `nhot` adds to the input embedding a trained vector for every substring of the token that is itself
            in the vocabulary (Edman & Fraser 2025); the bundle is still an ordinary BERT.
        start: `published` is BERT's own, N(0, 0.02); `neighbours` has the first layer attend to the tokens next to
            each (initialisation.py), for small models and short runs, which otherwise stay at word frequencies.
    """

    architecture: str = Field(default=COMPACT, max_length=60, exclude_if=lambda name: name == COMPACT)
    options: dict[str, JsonValue] = Field(default={}, exclude_if=lambda options: not options)
    gradient_checkpointing: bool = Field(default=False, exclude_if=lambda given: not given)
    hidden: Annotated[int, Field(gt=0, le=65_536)] = 256
    layers: Annotated[int, Field(gt=0, le=512)] = 4
    heads: Annotated[int, Field(gt=0, le=1024)] = 4
    intermediate: Annotated[int, Field(gt=0, le=524_288)] = 1024
    max_positions: Annotated[int, Field(gt=0, le=2**20)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    embedding: Literal["plain", "nhot"] = "plain"
    start: Literal["published", "neighbours"] = Field(
        default="published", exclude_if=lambda start: start == "published"
    )

    @property
    def compact(self) -> bool:
        """Whether it is our own model."""
        return self.architecture == COMPACT

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden {self.hidden} is not a multiple of heads {self.heads}")
        return self

    @model_validator(mode="after")
    def _belongs(self) -> Self:
        ours = {"embedding": self.embedding != "plain", "start": self.start != "published"}
        theirs = {"options": bool(self.options), "gradient_checkpointing": self.gradient_checkpointing}
        for name in (name for name, given in (theirs if self.compact else ours).items() if given):
            whose = "a family of transformers" if self.compact else f"{COMPACT} alone"
            usual = "" if self.compact else f": set {name} to {'plain' if name == 'embedding' else 'published'}"
            raise ValueError(f"{name} belongs to {whose}, and architecture is {self.architecture!r:.60}{usual}")
        return self


class OptimiserConfig(Frozen):
    """The update of the weights. The learning rate rises from 0 over `lr_warmup` of the steps, then falls to 0.

    Args:
        name: `adamw`, or `lamb` (You et al. 2020), whose step for each matrix is as long as the matrix times the rate.
        schedule: how the rate falls: `linear` or `cosine` from the end of the warm-up; `trapezoid` stays and falls
            linearly over the last `lr_decay` of the steps; `warmup-stable-decay` does so with 1 - sqrt (Hägele et al.
            2024).
        lr: the largest rate.
        weight_decay: decoupled, of all parameters alike; of `lamb` of matrices alone.
        beta1: decay of the mean.
        beta2: decay of the mean square.
        clip: the largest norm of the gradient.
        lr_warmup: share of the steps.
        lr_decay: share of the steps, for `trapezoid` and `warmup-stable-decay`.
    """

    name: Literal["adamw", "lamb"] = Field(default="adamw", exclude_if=lambda name: name == "adamw")
    schedule: Fall = Field(default="linear", exclude_if=lambda schedule: schedule == "linear")
    lr: Annotated[float, Field(gt=0)] = 5e-4
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.999
    clip: Annotated[float, Field(gt=0)] = 1.0
    lr_warmup: Fraction = 0.06
    lr_decay: Annotated[float, Field(gt=0, le=1)] = Field(default=0.2, exclude_if=lambda share: share == 0.2)

    @model_validator(mode="after")
    def _decays_once(self) -> Self:
        falls_late = self.schedule in ("trapezoid", "warmup-stable-decay")
        if "lr_decay" in self.model_fields_set and not falls_late and self.lr_decay != 0.2:
            raise ValueError(f"lr_decay belongs to schedule trapezoid or warmup-stable-decay, not {self.schedule}")
        if falls_late and self.lr_warmup + self.lr_decay > 1:
            raise ValueError(f"lr_warmup {self.lr_warmup:g} and lr_decay {self.lr_decay:g} are more than the run")
        return self


Own = TypeVar("Own", bound=BaseModel)


def _with_later_sources(model: type[Own]) -> type[Own]:
    """Add a share for every source of the catalogue without one. At 0 it is left out, so that older hashes stay."""
    if stray := {*model.model_fields} - {*SOURCES}:
        raise TypeError(f"catalogue.py has no entry for the share {', '.join(sorted(stray))}")
    return _with(model, **{name: _SHARE for name in SOURCES if name not in model.model_fields})


_SHARE = (Fraction, Field(0.0, exclude_if=lambda share: not share))


def _with(model: type[Own], **fields: Any) -> type[Own]:
    """A type of settings with other or more fields, each (type, default)."""
    if not fields:
        return model
    return create_model(model.__name__, __base__=model, __doc__=model.__doc__, __module__=model.__module__, **fields)


@_with_later_sources
class Shares(Frozen):
    """How the mask budget is divided among the sources of catalogue.py; the shares sum to 1.

    Those below are part of the hash of every configuration.
    """

    random: Fraction = 1.0
    token: Fraction = 0.0
    trigram: Fraction = 0.0
    whole_word: Fraction = 0.0
    span: Fraction = 0.0
    rarity: Fraction = 0.0

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        total = sum(share for _, share in self)
        if not math.isclose(total, 1, abs_tol=1e-6):
            named = ", ".join(f"{name} {share:g}" for name, share in self if share)
            raise ValueError(
                f"shares must sum to 1, these sum to {total:g} ({named}): once one is named, the others are 0, random 1"
            )
        return self


def _with_the_rest(value: Any) -> Any:
    """Shares by moment, random with what the others leave where it is not named."""
    if isinstance(value, list):
        return tuple(map(_with_the_rest, value))
    numbers = isinstance(value, Mapping) and all(isinstance(share, int | float) for share in value.values())
    if not numbers or "random" in value:
        return value
    return {**value, "random": max(0.0, round(1 - sum(value.values()), 9))}


Moments = BeforeValidator(lambda value: _with_the_rest(value))
Number = TypeVar("Number")
Points = Annotated[tuple[tuple[Fraction, Number], ...], BeforeValidator(lambda value: _tuples(value))]


class Constants(Frozen):
    """Constants of a rule that change in the course of a run: [share of the run, value] from which on it holds.

    They enter when scores are renewed, so a refresh takes the values of its step. The names are those of the settings
    whose place they take; `floor` and `pseudo_count` are AMLM's, `ema_decay` is both rules', the others the mixture's.
    """

    ema_decay: Points[Fraction] | None = Field(default=None, exclude_if=_absent)
    smoothing: Points[Above0] | None = Field(default=None, exclude_if=_absent)
    min_seen: Points[AtLeast0] | None = Field(default=None, exclude_if=_absent)
    cap: Points[Above0] | None = Field(default=None, exclude_if=_absent)
    band_low: Points[AtLeast0] | None = Field(default=None, exclude_if=_absent)
    band_high: Points[Above0] | None = Field(default=None, exclude_if=_absent)
    rarity_power: Points[Above0] | None = Field(default=None, exclude_if=_absent)
    pseudo_count: Points[AtLeast0] | None = Field(default=None, exclude_if=_absent)
    floor: Points[Floor] | None = Field(default=None, exclude_if=_absent)

    @model_validator(mode="before")
    @classmethod
    def _known(cls, given: Any) -> Any:
        if isinstance(given, Mapping) and (other := next((name for name in given if name not in cls.model_fields), "")):
            raise ValueError(
                f"{other!r:.60} stays the same in a run; those that may change: {_listed(cls.model_fields)}"
            )
        return given

    @model_validator(mode="after")
    def _rise(self) -> Self:
        for name, points in self.points.items():
            _refuse_begins(points, f"schedule.constants.{name}", "[[0, 0.0], [1, 0.5]]")
        return self

    @property
    def points(self) -> dict[str, tuple[tuple[float, float], ...]]:
        """Those that change, by name."""
        return {name: points for name, points in self if points is not None}


AMLM_CONSTANTS = ("ema_decay", "pseudo_count", "floor")
MIXTURE_CONSTANTS = tuple(name for name in Constants.model_fields if name not in ("pseudo_count", "floor"))


class Schedule(Frozen):
    """What changes in the course of a run: shares, such as whole words for seven epochs of ten, and constants.

    Args:
        shares: mixture: [share of the run, shares] from which on these hold, from 0 on and rising. They take the place
            of `masking.shares`; random takes what others leave. None: `masking.shares` holds throughout.
        interpolate: `step` from one to the next, or `linear` between them.
        constants: those of the rule that change.
        switch: SOURCE to SOURCE, the whole budget by one, then by the other, as a search can name it. It is read and
            replaced by the `shares` that it stands for.
        at: the share of the run at which it switches. With `interpolate: linear` it is the middle of the way from one
            to the other, which is as long to each side as the nearer end of the run allows: both have the same part of
            the run as with `step`.
    """

    sources: ClassVar[tuple[str, ...]] = tuple(Shares.model_fields)  # that a switch may name

    shares: Annotated[tuple[tuple[Fraction, Shares], ...] | None, Moments] = None
    interpolate: Literal["step", "linear"] = "step"
    constants: Constants | None = Field(default=None, exclude_if=_absent)
    switch: str | None = Field(default=None, exclude_if=_absent)
    at: Annotated[float, Field(gt=0, lt=1)] | None = Field(default=None, exclude_if=_absent)

    @model_validator(mode="before")
    @classmethod
    def _without_switch(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or (given.get("switch") is None and given.get("at") is None):
            return given
        switch, at = given.get("switch"), given.get("at")
        if switch is None:
            raise ValueError("schedule.at needs schedule.switch beside it, such as whole_word to random")
        first, _, then = switch.partition(" to ") if isinstance(switch, str) else ("", "", "")
        if first == then or not {first, then} <= {*cls.sources}:
            two = _listed(cls.sources)
            raise ValueError(f"schedule.switch names two sources, such as whole_word to random: two of {two}")
        if given.get("shares") is not None:
            raise ValueError("schedule.switch stands for shares: give one of the two")
        if isinstance(at, bool) or not isinstance(at, int | float):
            raise ValueError("schedule.switch needs schedule.at, the share of the run at which it switches, in (0, 1)")
        if not 0 < at < 1:
            raise ValueError(f"schedule.at is {at:g}; the share of the run at which it switches lies in (0, 1)")
        rest = {key: value for key, value in given.items() if key not in ("switch", "at")}
        points = [(0, first), (at, then)]
        if given.get("interpolate") == "linear":
            begin, end = round(max(0.0, 2 * at - 1), 9), round(min(1.0, 2 * at), 9)
            points = [*([(0, first)] if begin else []), (begin, first), (end, then)]
        return {**rest, "shares": tuple((begin, {"random": 0, source: 1}) for begin, source in points)}

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if self.shares is not None:
            _refuse_begins(self.shares, "schedule.shares", "[[0, {whole_word: 1}], [0.7, {random: 1}]]")
        elif not (self.constants and self.constants.points):
            raise ValueError("schedule has nothing that changes: give shares, switch or constants, or null")
        return self

    def refuse_parts_without_step(self, steps: int) -> None:
        """Raises ValueError if shares or constants of a run of so many steps never hold."""
        every = {"shares": self.shares or (), **{f"constants.{name}": points for name, points in self._constants}}
        for name, points in every.items():
            _refuse_parts(points, steps, f"masking.schedule.{name}", self.interpolate == "linear")

    @property
    def _constants(self) -> Iterable[tuple[str, tuple[tuple[float, float], ...]]]:
        return self.constants.points.items() if self.constants else ()

    def refuse_before(self, warmup: float) -> None:
        """Raises ValueError if shares other than random are asked for in the mask warm-up, which draws at random."""
        points = (self.shares or ()) if warmup else ()
        within = sum(begin < warmup for begin, _ in points) + (self.interpolate == "linear")  # where a way there begins
        if any(shares.random < 1 for _, shares in points[:within]):
            raise ValueError(
                f"schedule.shares change too early: until mask_warmup, {warmup:g} of the run, everything is drawn at "
                "random: set masking.mask_warmup to 0"
            )

    def shares_at(self, step: int, steps: int) -> dict[str, float] | None:
        """The shares of a step, counted from 0, of a run of so many; None if they do not change."""
        if self.shares is None:
            return None
        now, then, part = self._between(self.shares, step, steps)
        after = then.model_dump()
        return {name: share + part * (after.get(name, 0.0) - share) for name, share in now} if part else dict(now)

    def constants_at(self, step: int, steps: int) -> dict[str, float]:
        """The constants that change, as they are before a step."""
        found = {}
        for name, points in self._constants:
            now, then, part = self._between(points, step, steps)
            found[name] = now + part * (then - now)
        return found

    def begins(self, steps: int) -> list[int]:
        """The steps from which on a constant is another one, or moves on to another one."""
        return sorted({round(begin * steps) for _, points in self._constants for begin, _ in points})

    def _between(self, points: tuple[tuple[float, Number], ...], step: int, steps: int) -> tuple[Number, Number, float]:
        """The last point before a step, the next, and how much of the way there is behind it."""
        now = _now(points, step, steps)
        if self.interpolate == "step" or now == len(points) - 1:
            return points[now][1], points[now][1], 0.0
        begin, end = (round(points[n][0] * steps) for n in (now, now + 1))
        part = (step - begin) / (end - begin)
        return points[now][1], points[now + 1][1], part


def _now(points: tuple[tuple[float, Any], ...], step: int, steps: int) -> int:
    """Which of the points [share of the run, what holds from there on] holds at a step, counted from 0."""
    return max(n for n, (begin, _) in enumerate(points) if round(begin * steps) <= step)


def _refuse_begins(points: tuple[tuple[float, Any], ...], name: str, example: str) -> None:
    begins = [begin for begin, _ in points]
    if begins[:1] != [0] or begins != sorted({*begins}):
        raise ValueError(f"{name} must begin at 0 and rise, such as {example}")


def _refuse_parts(points: tuple[tuple[float, Any], ...], steps: int, name: str, gradual: bool = False) -> None:
    """Raises ValueError if one of the points never holds. gradual: what is between two of them counts, too."""
    begins = [round(begin * steps) for begin, _ in points]
    late = not gradual and begins[-1:] >= [steps]
    pairs = zip(begins, points, strict=True)
    if late or any(one == other and (not gradual or a[1] != b[1]) for (one, a), (other, b) in pairwise(pairs)):
        raise ValueError(f"{name} has a part without a step: the run has {steps}")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _no_schedule(value: Any) -> Any:
    """None for a schedule whose parts are all null: what is left of a base's once something else ends it."""
    parts = [part for key, part in value.items() if key != "interpolate"] if isinstance(value, Mapping) else []
    return None if parts and all(part is None for part in parts) else value


class Replacements(Frozen):
    """What takes the place of a predicted token, by chance (Devlin et al. 2019; Wettig et al. 2023 try 100/0/0).

    Args:
        mask: [MASK].
        random: an entry of the vocabulary, all alike.
        keep: the token itself.
    """

    mask: Fraction = 0.8
    random: Fraction = 0.1
    keep: Fraction = 0.1

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if not math.isclose(total := self.mask + self.random + self.keep, 1, abs_tol=1e-6):
            raise ValueError(f"replacement must sum to 1, this sums to {total:g}: give mask, random and keep")
        return self


class MaskingConfig(Frozen):
    """Which positions are predicted. Defaults are Accuracy-Morph as released (BabyLM 2026).

    A `rate_schedule`, `apportion: row`, `replicate`, `draw: bernoulli` and `loss_weight` leave the exact budget.
    Reports say so, and also say when an arm's rate differs from the baseline's.

    Args:
        preset: a rule by name (presets.py); it is replaced by the settings that it stands for.
        replicate: do what the published code does and an exact budget forbids. Mixture: round row by row. AMLM: draw
            independently, mask special tokens too, lose what a probability has above 1, end a linear rate one step
            short.
        rate: the budget, as a share of all positions.
        rate_schedule: how the rate goes from rate_start to rate over the run: `linear` (Ankner et al. 2024, from 0.30
            to 0.15), `cosine` (half a cosine) or `inverse` (ours: 1 / rate is linear, so it falls fast, then slowly);
            `step` takes `rates`.
        rate_start: where a schedule begins, but for `step`.
        rates: [share of the run, rate] from which on each holds, from 0 on and rising, for `rate_schedule: step`; they
            take the place of `rate` (mmBERT, Marone et al. 2025: 0.30, 0.15, 0.05).
        row_rates: mixture: every row of a batch has a rate of its own, and the batch still predicts K: proportional to
            t (`uniform`, after masked diffusion, but the loss is not weighted by 1/t) or to cos(pi t / 2) (`cosine`;
            Chang et al. 2022), with a uniform t.
        corrupt: share of all positions that are replaced, where those are not the predicted ones: above `rate` all
            predicted ones and others that may be predicted, below it so many of the predicted ones (replacement.py).
        loss_weight: mixture: a predicted position's loss counts (1 - a) + a * its token's score / the mean score, with
            this as a; 0 before the mask warm-up ends. Ours, after Rho-1 (Lin et al. 2024), which selects by the loss
            in excess of a reference model's.
        apportion: `batch` (exactly rate * positions a batch) or `row` (the published rounding, row by row).
        policy: `mixture` divides the budget by `shares`; `amlm` draws by weights (Edman & Fraser 2025).
        update_every: steps between refreshes; None is the rule's own `pace`, or else 2 % of the run (the published
            200 of 10,000).
        pace: steps between refreshes that a preset sets.
        refresh_delay: steps by which every refresh comes later (1 in AMLM's code, not in its paper: 201, 401, ...).
        ema_decay: share kept at a refresh: of the settled counts (mixture; 1 is the published cumulative memory), or
            of the old weight (amlm, 0.2).
        mask_warmup: share of the steps in which every position is drawn at random.
        shares: mixture: how the budget is divided.
        schedule: shares and constants that change in the course of the run, in place of those beside it.
        replacement: what takes the place of a predicted token. The masks of validation stay 80/10/10.
        signal: mixture: what the shares `token` and `trigram` follow: `accuracy` (top-1 error rates), `loss` (counts
            of losses from the batch's loss_quantile upwards), `entropy` (mean entropy of the predicted distribution
            over ln V), `progress` (fall of the mean loss from the windows before to the last one that saw a token, over
            ln V), `frequency` (counts in the batch) or `permuted` (`accuracy`, dealt to other tokens: a control without
            information). The last two are ours (presets.py).
        smoothing: mixture: added to the counts of an error rate.
        min_seen: mixture: with fewer predictions a score is 0.
        cap: mixture: the largest score: an error rate, a share of ln V, or log(1 + count).
        loss_quantile: mixture: of the losses of a batch, for `signal: loss`.
        band_low: mixture: scores below count as 0.
        band_high: mixture: scores above count as 0.
        counted: mixture: `after_warmup` counts nothing before the end of the mask warm-up.
        trigram_mean: mixture: None takes a token's trigrams that have a score, each at most `cap`; `all` takes all of
            them and caps their mean alone.
        sketch: mixture: how counts are kept.
        sketch_width: columns of a Count-Min sketch.
        sketch_depth: rows of a Count-Min sketch.
        rarity_power: of a token's frequency rank, for the share `rarity`.
        span_p: of the geometric lengths of spans, for the share `span` (SpanBERT's 0.2).
        span_longest: tokens of a span; longer ones are drawn again (SpanBERT's 10).
        score: amlm: `hard` (accuracy) or `soft` (cross-entropy).
        draw: amlm: `exact` (K a batch) or `bernoulli` (as printed).
        pseudo_count: amlm, in its code alone: 1 smooths the soft mean towards ln V.
        floor: amlm, in its code alone: the least weight, 0.005 there.
        renormalise: amlm, in its code alone: the weights' mean over the vocabulary is `rate`.
    """

    preset: presets.Preset | None = None
    replicate: bool = False
    rate: Rate = 0.15
    rate_schedule: Literal["constant", "linear", "cosine", "inverse", "step"] = "constant"
    rate_start: Rate = 0.40
    rates: Rates | None = Field(default=None, exclude_if=_absent)
    row_rates: RowRates | None = Field(default=None, exclude_if=_absent)
    corrupt: Rate | None = Field(default=None, exclude_if=_absent)
    loss_weight: Fraction = Field(default=0.0, exclude_if=lambda share: not share)
    apportion: Literal["batch", "row"] = "batch"
    policy: Literal["mixture", "amlm"] = "mixture"
    update_every: Positive | None = None
    pace: Positive | None = Field(default=None, exclude_if=_absent)
    refresh_delay: Positive | None = Field(default=None, exclude_if=_absent)
    ema_decay: Fraction = 1.0
    mask_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.30
    shares: Shares = Shares(random=0.8, token=0.15, trigram=0.05)
    schedule: Annotated[Schedule | None, BeforeValidator(_no_schedule)] = Field(default=None, exclude_if=_absent)
    replacement: Replacements = Field(default=Replacements(), exclude_if=lambda given: given == Replacements())
    signal: Literal["accuracy", "loss", "entropy", "progress", "frequency", "permuted"] = "accuracy"
    smoothing: Above0 = 1.0
    min_seen: AtLeast0 = 3.0
    cap: Above0 = 0.9
    loss_quantile: Fraction = 0.75
    band_low: AtLeast0 = 0.0
    band_high: Above0 | None = None
    counted: Literal["after_warmup"] | None = Field(default=None, exclude_if=_absent)
    trigram_mean: Literal["all"] | None = Field(default=None, exclude_if=_absent)
    sketch: Literal["exact", "count_min"] = "exact"
    sketch_width: Positive = 65_536
    sketch_depth: Annotated[int, Field(gt=0, le=8)] = 4
    rarity_power: Above0 = 1.0
    span_p: Annotated[float, Field(ge=0.001, lt=1)] = Field(default=0.2, exclude_if=lambda p: p == 0.2)
    span_longest: Annotated[int, Field(gt=0, le=100)] = Field(default=10, exclude_if=lambda longest: longest == 10)
    score: Literal["hard", "soft"] = "hard"
    draw: Literal["exact", "bernoulli"] = "exact"
    pseudo_count: AtLeast0 = 0.0
    floor: Floor = 0.0
    renormalise: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.changing:
            self.refuse_constants()
        if self.policy == "mixture" and self.draw == "bernoulli":
            raise ValueError("draw bernoulli belongs to policy amlm; a mixture's draw is exact")
        if self.schedule and self.schedule.shares and (self.policy != "mixture" or self.by_row):
            raise ValueError("schedule.shares belongs to policy mixture with apportion batch, without replicate")
        if self.schedule:
            self.schedule.refuse_before(self.mask_warmup)
        own = MIXTURE_CONSTANTS if self.policy == "mixture" else AMLM_CONSTANTS
        if other := next((name for name in self.changing if name not in own), ""):
            raise ValueError(f"schedule.constants.{other}: of policy {self.policy} these may change: {_listed(own)}")
        if self.policy == "amlm" and self.apportion == "row":
            raise ValueError("apportion row belongs to policy mixture; for amlm write draw: bernoulli")
        if self.rate_schedule == "step" and self.rates is None:
            raise ValueError("rate_schedule step needs rates, such as [[0, 0.30], [0.7, 0.15], [0.9, 0.05]]")
        if self.rates is not None and self.rate_schedule != "step":
            raise ValueError(f"rates belong to rate_schedule step, and it is {self.rate_schedule}: set rates to null")
        if self.rates and self.rate not in (type(self).model_fields["rate"].default, *(rate for _, rate in self.rates)):
            raise ValueError(
                f"rate {self.rate:g} has no effect beside rates, which rate_schedule step takes in its place: "
                "leave it out, or write it into rates"
            )
        if self.rates is not None:
            _refuse_begins(self.rates, "rates", "[[0, 0.30], [0.7, 0.15], [0.9, 0.05]]")
        if self.row_rates and (self.policy != "mixture" or self.by_row):
            raise ValueError("row_rates belong to policy mixture with apportion batch, without replicate")
        if self.loss_weight and (self.policy != "mixture" or self.signal == "frequency"):
            raise ValueError(
                "loss_weight belongs to policy mixture with a signal that a refresh renews, which frequency is not"
            )
        return self

    def refuse_constants(self, when: str = "") -> None:
        """Raises ValueError for constants that do not go together. when: in the run, for the message."""
        if self.signal != "loss" and self.cap > 1:
            largest = "error rate" if self.signal in ("accuracy", "permuted", "frequency") else "score"
            raise ValueError(f"cap {self.cap:g} is above 1, the largest possible {largest}{when}")
        if self.band_high is not None and self.band_low >= self.band_high:
            raise ValueError(f"band_low {self.band_low:g} must lie below band_high {self.band_high:g}{when}")

    @property
    def changing(self) -> tuple[str, ...]:
        """The names of the constants that change in the course of a run."""
        return tuple(self.schedule.constants.points) if self.schedule and self.schedule.constants else ()

    def constants_at(self, step: int, steps: int) -> Self:
        """These settings with the constants that hold before a step, counted from 0, of a run of so many."""
        return self.model_copy(update=self.schedule.constants_at(step, steps)) if self.schedule else self

    def shares_at(self, step: int, steps: int) -> dict[str, float]:
        """How a step, counted from 0, of a run of so many divides the budget."""
        scheduled = self.schedule.shares_at(step, steps) if self.schedule else None
        return dict(self.shares) if scheduled is None else scheduled

    @property
    def largest_shares(self) -> dict[str, float]:
        """The largest that each share becomes in a run."""
        points = self.schedule.shares if self.schedule else None
        every = [dict(shares) for _, shares in points] if points else [dict(self.shares)]
        return {name: max(shares[name] for shares in every) for name in every[0]}

    @property
    def wants_entropies(self) -> bool:
        """Whether the rule learns from the entropies of predictions."""
        return self.policy == "mixture" and self.signal == "entropy"

    @property
    def by_row(self) -> bool:
        """Whether each row is rounded on its own, as the mixture's published code does."""
        return self.policy == "mixture" and (self.replicate or self.apportion == "row")

    @property
    def as_coded(self) -> bool:
        """Whether AMLM draws as its code does, which differs from its paper."""
        return self.policy == "amlm" and self.replicate

    @property
    def independent(self) -> bool:
        """Whether positions are drawn independently, as AMLM's published code does."""
        return self.policy == "amlm" and (self.replicate or self.draw == "bernoulli")

    @property
    def rate_changes(self) -> bool:
        """Whether the rate is not the same in every step."""
        return self.rate_schedule != "constant"

    def rate_at(self, step: int, steps: int) -> float:
        """The rate of a step, counted from 0, of a run of so many."""
        if not self.rate_changes:
            return self.rate
        if self.rate_schedule == "step" and self.rates:
            return self.rates[_now(self.rates, step, steps)][1]
        begin, end = self.rate_start, self.rate
        last = max(1, steps - 1)
        if self.rate_schedule == "linear":
            return begin + (end - begin) * step / (steps if self.as_coded else last)
        done = step / last
        if self.rate_schedule == "cosine":
            return end + (begin - end) * (1 + math.cos(math.pi * done)) / 2
        return 1 / ((1 - done) / begin + done / end)

    @property
    def rates_of_run(self) -> list[float]:
        """Rates of a run, the lowest and the highest among them."""
        if self.rate_schedule == "step":
            return [rate for _, rate in self.rates or ()]
        return [self.rate_start, self.rate] if self.rate_changes else [self.rate]

    @property
    def off_budget(self) -> tuple[str, ...]:
        """What leaves the budget, in a word each: numbers that vary by batch, or unequal parts in the loss."""
        ways = {
            "rows": self.by_row,
            "draws": self.independent,
            "schedule": self.rate_changes,
            "weights": self.loss_weight > 0,
        }
        return tuple(name for name, so in ways.items() if so)

    @property
    def on_budget(self) -> bool:
        """Whether every batch predicts exactly the budget, and its loss is the plain mean."""
        return not self.off_budget


BOTH_LENGTHS = "both steps and length are set: keep one and set the other to null"


class Length(Frozen):
    """How long a run is, in words that it sees (words_seen.py says how they are counted).

    Args:
        words: 100000000, or 100M.
        rows: how many rows hold so many words; counted when missing, or counted in another corpus.
        counted_in: hash of `words` and of the settings of the corpus in which `rows` was counted.
        steps: the steps that followed from `rows`. They tell those from `steps` that someone sets beside a length.
    """

    words: Words
    rows: Positive | None = None
    counted_in: str | None = None
    steps: Positive | None = None


class Beginning(Frozen):
    """The weights that a run begins with, in place of drawn ones: those of a bundle.

    Args:
        bundle: its folder.
        weights: their SHA-256, which is filled in where it is missing: other weights are another configuration. None
            where the bundle is not there, so that a record can be read without it; no run begins then.
    """

    bundle: Annotated[str, Field(min_length=1)]
    weights: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


def _folder_alone(given: Any) -> Any:
    return {"bundle": given} if isinstance(given, str) else given


class Config(Frozen):
    """One pretraining run, fully described but for its seed.

    Args:
        steps: updates of the model.
        batch_size: rows a step, over all ranks.
        report_every: steps between validations, each with a checkpoint; None is a tenth of the run.
        precision: of the training arithmetic; validation is always in float32.
        noise_salt: another value draws every mask anew under the same seed (a null comparison).
        length: in place of `steps`, which then follow from its rows and `batch_size`.
        init_from: a bundle's folder: training goes on from its weights. Optimiser, learning rate and masking policy
            start afresh, and the draws are those of any run with this seed.
        sequence_lengths: [share of the run, tokens] from which on a row of `data.block` tokens is shown to the model as
            several rows of so many (Edman & Fraser 2025 train with 64, then 256). The batch, its masks and its budget
            stay as they are.
        series: word counts, or `published`. A bundle is kept at the first step that reaches each, and named after it,
            such as chck_100M.
        data: the text.
        model: the encoder and its shape.
        optimiser: the update and its schedule.
        masking: which positions are predicted.
    """

    steps: Positive = 10_000
    batch_size: Positive = 64
    report_every: Positive | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    noise_salt: Annotated[int, Field(ge=0)] = 0
    length: Length | None = Field(default=None, exclude_if=_absent)
    init_from: Annotated[Beginning | None, BeforeValidator(_folder_alone)] = Field(default=None, exclude_if=_absent)
    sequence_lengths: Lengths | None = Field(default=None, exclude_if=_absent)
    series: Milestones = Field(default=None, exclude_if=_absent)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optimiser: OptimiserConfig = OptimiserConfig()
    masking: MaskingConfig = MaskingConfig()

    @model_validator(mode="before")
    @classmethod
    def _without_preset(cls, tree: Any) -> Any:
        return presets.expand_tree(tree)

    @model_validator(mode="before")
    @classmethod
    def _steps_of_length(cls, tree: Any) -> Any:
        length = tree.get("length") if isinstance(tree, Mapping) else None
        if length is None:
            return tree
        fields = length.model_dump() if isinstance(length, Length) else length
        if not isinstance(fields, Mapping):
            return tree  # refused below
        rows, batch = fields.get("rows"), tree.get("batch_size", cls.model_fields["batch_size"].default)
        if not (isinstance(rows, int) and isinstance(batch, int) and rows > 0 and batch > 0):
            return tree  # refused below
        given, followed = tree.get("steps"), fields.get("steps")
        if given is not None and followed is not None and given != followed:
            raise ValueError(BOTH_LENGTHS)
        steps = -(-rows // batch)
        return {**tree, "steps": steps, "length": {**fields, "steps": steps}}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.length and self.length.rows is None:
            raise ValueError("length has no rows: a trainable that reads the corpus counts them")
        if self.init_from and self.model.embedding == "nhot":
            raise ValueError(
                "init_from does not go with model.embedding nhot: a bundle has the sub-token embeddings folded in, and "
                "training cannot take them out again"
            )
        if self.data.block > self.model.max_positions:
            raise ValueError(f"data.block {self.data.block} exceeds model.max_positions {self.model.max_positions}")
        shares, lengths = zip(*self.sequence_lengths or [(0.0, self.data.block)], strict=True)
        if shares[0] or list(shares) != sorted({*shares}):
            raise ValueError("sequence_lengths must begin at share 0 and rise, such as [[0, 64], [0.5, 256]]")
        if odd := next((tokens for tokens in lengths if self.data.block % tokens), None):
            raise ValueError(f"sequence_lengths has {odd}, which does not divide data.block {self.data.block}")
        _refuse_parts(self.sequence_lengths or (), self.steps, "sequence_lengths")
        _refuse_parts(self.masking.rates or (), self.steps, "masking.rates")
        if self.masking.schedule:
            self.masking.schedule.refuse_parts_without_step(self.steps)
        least = min(self.masking.rates_of_run)
        if self.masking.by_row and not round(least * self.data.block):
            raise ValueError(f"masking.rate {least:g} of a row of {self.data.block} rounds to no position")
        if self.masking.rate_changes and not round(least * self.tokens_per_step):
            raise ValueError(f"a rate of {least:g} of a batch of {self.tokens_per_step} rounds to no position")
        if self.masking.corrupt is not None and not round(self.masking.corrupt * self.tokens_per_step):
            raise ValueError(
                f"masking.corrupt {self.masking.corrupt:g} of a batch of {self.tokens_per_step} rounds to no position"
            )
        if self.masking.row_rates:
            self._rows_have_room(self.masking.row_rates)
        for step in self.masking.schedule.begins(self.steps) if self.masking.schedule else ():
            self.masking.constants_at(step, self.steps).refuse_constants(f" after step {step} of {self.steps}")
        delay = self.masking.refresh_delay or 0
        largest = (self.steps - self.warmup_steps - delay) // MIN_REFRESHES
        given = self.masking.update_every is not None or delay
        if given and self.update_every > largest:
            if delay and (largest < 1 or self.masking.update_every is None):
                raise ValueError(f"masking.refresh_delay {delay} leaves fewer than {MIN_REFRESHES} refreshes: lower it")
            raise ValueError(
                f"masking.update_every {self.masking.update_every} leaves fewer than {MIN_REFRESHES} refreshes after "
                f"the mask warm-up of {self.warmup_steps} of {self.steps} steps: the largest legal value is {largest}"
            )
        return self

    def _rows_have_room(self, kind: RowRates) -> None:
        """ValueError if a row could be asked for more than half of its positions, which every row has."""
        room, part = -(-self.data.block // 2), largest_part(kind, self.batch_size, 1)
        asked = math.ceil(part * round(max(self.masking.rates_of_run) * self.tokens_per_step) - 1e-6)
        if asked > room:
            highest = math.floor(1000 * room / part / self.tokens_per_step) / 1000
            raise ValueError(
                f"masking.row_rates {kind} could ask a row for {asked} of its {self.data.block} positions, and it is "
                f"sure to have {room}: lower the rate to {highest:g}"
            )

    @property
    def warmup_steps(self) -> int:
        """Steps in which every position is drawn at random."""
        return round(self.masking.mask_warmup * self.steps)

    @property
    def lr_warmup_steps(self) -> int:
        """Steps in which the learning rate rises."""
        return round(self.optimiser.lr_warmup * self.steps)

    @property
    def update_every(self) -> int:
        """Steps between refreshes of the masking policy."""
        return self.masking.update_every or self.masking.pace or max(1, round(0.02 * self.steps))

    def past(self, step: int) -> dict[str, Any] | None:
        """The settings that the first so many steps depend on; None if they depend on the masking rule as well.

        They do after the mask warm-up, and where a rule has a number or a way of drawing of its own. A series of
        bundles is left by whole runs alone.
        """
        shared = min(self.warmup_steps, self.steps - 1)
        if not 0 < step <= shared or not self.masking.on_budget or self.series is not None:
            return None
        settings = self.model_dump(mode="json", exclude={"masking", "length", "series"})
        masking = self.masking
        added = {"row_rates": masking.row_rates, "corrupt": masking.corrupt}
        later = {name: value for name, value in added.items() if value is not None}
        logged = {"entropies": True} if masking.wants_entropies else {}  # by the run that others start from
        shared = {"rate": masking.rate, "replacement": masking.replacement.model_dump()}
        return {**settings, **shared, **later, **logged}

    def refreshes(self, done: int) -> bool:
        """Whether the masking policy is refreshed after so many steps."""
        since = done - (self.masking.refresh_delay or 0)
        return since > 0 and since % self.update_every == 0

    def masking_since(self, refreshes: int) -> MaskingConfig:
        """The masking settings with the constants in force since so many refreshes that counted."""
        masking = self.masking
        if not masking.changing:
            return masking
        delay, late = masking.refresh_delay or 0, masking.policy == "mixture" and masking.counted == "after_warmup"
        before = max(0, self.warmup_steps - delay) // self.update_every if late else 0  # refreshes that do not count
        done = delay + (before + refreshes) * self.update_every if refreshes else 0
        return masking.constants_at(done, self.steps)

    @property
    def reporting_every(self) -> int:
        """Steps between reports."""
        return self.report_every or max(1, self.steps // 10)

    @property
    def tokens_per_step(self) -> int:
        """Positions of a batch."""
        return self.batch_size * self.data.block

    @property
    def predicted_per_step(self) -> int:
        """K, the positions predicted in one batch: the mean under a rate schedule, the most where rows are rounded."""
        masking = self.masking
        if masking.rate_changes:
            return round(self._predicted / self.steps)
        if masking.by_row:  # where all of a row may be predicted
            return self.batch_size * round(masking.rate * self.data.block)
        return round(masking.rate * self.tokens_per_step)

    @property
    def _predicted(self) -> int:
        """Positions predicted in the run."""
        if not self.masking.rate_changes:
            return self.predicted_per_step * self.steps
        shape = (self.steps, self.batch_size, self.data.block)
        return _predicted_in_all(self.masking, *shape)  # pyright: ignore[reportArgumentType]: frozen, so it has a hash

    @property
    def most_predicted(self) -> int:
        """Positions predicted in the batch that predicts most."""
        if not self.masking.rate_changes:
            return self.predicted_per_step
        return math.ceil(max(self.masking.rates_of_run) * self.tokens_per_step)

    @property
    def budget(self) -> Budget:
        """What makes runs comparable: the positions predicted in all, and whether every batch predicts the same."""
        masking, each = self.masking, self.predicted_per_step
        usual = round(MaskingConfig.model_fields["rate"].default * self.tokens_per_step)
        way = "+".join(masking.off_budget)
        return Budget(self._predicted, masking.on_budget, masking.on_budget and each == usual, way)

    def rate_at(self, step: int) -> float:
        """The share of positions that a step predicts, counted from 0."""
        return self.masking.rate_at(step, self.steps)

    def sequence_length(self, step: int) -> int:
        """Tokens of a row that the model sees in a step, counted from 0."""
        lengths = self.sequence_lengths or ((0.0, self.data.block),)
        return lengths[_now(lengths, step, self.steps)][1]

    @property
    def flops_per_step(self) -> float:
        """Matrix products of one step, forward and backward, the mean of the run: 225.6e9 at the published shape."""
        if self.sequence_lengths is None:
            return self.step_flops(self.data.block)
        begins = [round(share * self.steps) for share, _ in self.sequence_lengths]
        many = [end - begin for begin, end in pairwise([*begins, self.steps])]
        costs = [self.step_flops(tokens) for _, tokens in self.sequence_lengths]
        return sum(steps * cost for steps, cost in zip(many, costs, strict=True)) / self.steps

    def step_flops(self, length: int) -> float:
        """Matrix products of a step in which the model sees rows of so many tokens."""
        m, tokens = self.model, self.tokens_per_step
        layer = 2 * (4 * m.hidden**2 + 2 * m.hidden * m.intermediate) + 4 * length * m.hidden
        head = 2 * (m.hidden**2 + m.hidden * self.vocabulary)
        spelling = 2 * SUBSTRINGS * self.spellings * m.hidden
        return 3.0 * (tokens * m.layers * layer + self.predicted_per_step * head) + 2.0 * spelling

    @property
    def validation_flops(self) -> float:
        """Matrix products of all validations of a run, for the largest validation part allowed."""
        passes = math.ceil(self.steps / self.reporting_every)
        return passes * self.data.max_held_out / self.tokens_per_step * self.step_flops(self.data.block) / 3

    @property
    def checkpoint_bytes(self) -> int:
        """Float32 weights, AdamW's two moments, and the weights of a series; the rest is small."""
        most = self.steps * self.tokens_per_step  # a token begins at most one word
        return self._state_bytes * (3 + sum(words <= most for words in self.series or ())) // 3

    def parameters(self, vocabulary: int) -> int:
        """Of the model, with so many entries in the vocabulary."""
        m, nhot = self.model, self.model.embedding == "nhot"
        layer = 4 * m.hidden**2 + 2 * m.hidden * m.intermediate + 9 * m.hidden + m.intermediate
        embedding = (vocabulary * (1 + nhot) + m.max_positions + 3) * m.hidden
        head = m.hidden**2 + 3 * m.hidden + vocabulary
        return embedding + m.layers * layer + head

    @property
    def _state_bytes(self) -> int:
        return 12 * self.parameters(self.vocabulary)

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients and moments; what the backward pass keeps of every layer, and its buffers; the logits.

        As cpu_kernels.py does it. With the libraries' 0.5 GB that is 1.4 GB at the published shape; 1.5 was measured.
        """
        m = self.model
        attention = m.heads * self.data.block
        kept = m.layers * (8 * m.hidden + m.intermediate + attention + (attention + 2 * m.hidden) / 4)
        activations = self.tokens_per_step * int(kept + 6 * m.hidden + m.intermediate)
        logits = self.most_predicted * self.vocabulary
        folded = 2 * self.spellings * m.hidden  # the input embeddings and their gradient
        return self._state_bytes * 4 // 3 + 4 * (activations + logits + folded)

    @property
    def spellings(self) -> int:
        """Rows of the n-hot layer's weight; 0 without it."""
        return self.vocabulary if self.model.embedding == "nhot" else 0

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary, from the settings alone; a named tokenizer is taken to have BERT's 30,522."""
        trained = re.match(r"train:([0-9]+)(?:,|$)", self.data.tokenizer)
        return int(trained[1]) if trained else ASSUMED_ENTRIES


@lru_cache(maxsize=4096)
def _predicted_in_all(masking: MaskingConfig, steps: int, rows: int, length: int) -> int:
    """Of all steps of a rate schedule together, each with its own K, rounded as its budget rounds it."""
    rates = (masking.rate_at(step, steps) for step in range(steps))
    if masking.by_row:
        return rows * sum(round(rate * length) for rate in rates)
    return sum(round(rate * rows * length) for rate in rates)


Whole = TypeVar("Whole", bound=Config)


def with_source(config: type[Whole], name: str, words: str, made_by: str) -> type[Whole]:
    """A trainable's settings with a share for a masking source of one's own, which enters the catalogue.

    Call it where the module of that trainable is imported, as every worker imports it. At 0 the share is left out, so
    hashes stay the same. ValueError where another source has the name, or a draw of the step itself.

    Args:
        config: the settings without it, such as `trainables.mlm.Config`.
        name: of the source and its share.
        words: as in `Entry`.
        made_by: module:callable, as in `Entry`.
    """
    if not name.isidentifier():
        raise ValueError(f"the source {name!r} must have a name that Python allows, such as late")
    if name in OWN_DRAWS:
        raise ValueError(f"the source {name!r} must have another name: a step draws something else under this one")
    if (other := SOURCES.setdefault(name, Entry(words, made_by)).made_by) != made_by:
        raise ValueError(f"the source {name!r} is there already, made by {other}: give {made_by} another name")
    masking: Any = config.model_fields["masking"].annotation
    shares: Any = _with(type(masking().shares), **{name: _SHARE})
    absent = Field(default=None, exclude_if=_absent)
    moments = Annotated[tuple[tuple[Fraction, shares], ...] | None, Moments]
    changing = _with(Schedule, shares=(moments, None))
    changing.sources = tuple(shares.model_fields)
    schedule: Any = Annotated[changing | None, BeforeValidator(_no_schedule)]
    usual = shares.model_validate(masking().shares.model_dump())
    masking = _with(masking, shares=(shares, usual), schedule=(schedule, absent))
    return _with(config, masking=(masking, masking()))


def override(
    settings: list[str], model: type[Whole] = Config, given: Mapping[str, Any] | None = None, origin: str = ""
) -> Whole:
    """Settings with `PATH=VALUE` settings on top, the value as a spec writes it. ValueError in one line.

    Args:
        settings: the `PATH=VALUE` texts.
        model: their type.
        given: what they are set on top of; the defaults otherwise.
        origin: names `given` in errors.
    """
    legal = _paths(model)
    tree: dict[str, Any] = copy.deepcopy(dict(given or {}))
    for setting in settings:
        path, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set {setting}: write PATH=VALUE, such as steps=200")
        *parents, leaf = path.split(".")
        if len(parents) >= yaml_reader.MAX_DEPTH:
            raise ValueError(f"--set {setting:.100}: is nested deeper than {yaml_reader.MAX_DEPTH} levels")
        if path not in legal:
            raise ValueError(f"--set {setting:.100}: there is no such setting; {_hint(path, legal)}")
        node = tree
        for parent in parents:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ValueError(f"--set {setting}: an earlier --set gave {parent} a value")
        try:
            node[leaf] = yaml_reader.parse(value)
        except ValueError as error:
            raise ValueError(f"--set {setting:.100}: cannot read the value: {error}") from None
    try:
        return model.model_validate_json(json.dumps(tree), strict=True)  # as a spec's settings: no text is a number
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "settings"
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            what = f"there is no such setting; {_hint(where, legal)}"
        named = f"{origin}: " if origin and not any(text.startswith(f"{where}=") for text in settings) else ""
        raise ValueError(f"{named}{where}: {what}") from error


def _hint(path: str, legal: list[str]) -> str:
    """The nearest setting, or those of the section."""
    found = nearest_path(path, legal)
    section = path.rpartition(".")[0] if path.rpartition(".")[0] in legal else ""
    return (
        found if found.startswith("did") else nearest(path, [one for one in legal if one.rpartition(".")[0] == section])
    )


def _paths(model: type[BaseModel], at: str = "") -> list[str]:
    """Every dotted path of a type of settings, sections included."""
    found: list[str] = []
    for name, field in model.model_fields.items():
        found.append(f"{at}{name}")
        parts = (field.annotation, *get_args(field.annotation))
        for section in (part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)):
            found += _paths(section, f"{at}{name}.")
    return found
