"""The settings of a masking rule: which positions are predicted, and what is shown in their place."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from trainables.settings import presets
from trainables.settings.catalogue import BUILT_IN
from trainables.settings.frozen import Above0, AtLeast0, Floor, Fraction, Frozen, Positive, absent
from trainables.settings.points import Points, index_at, refuse_begins
from trainables.settings.row_rates import RowRates
from trainables.settings.schedule import Constants, Schedule, no_schedule
from trainables.settings.shares import Shares

AMLM_CONSTANTS = ("ema_decay", "pseudo_count", "floor")
MIXTURE_CONSTANTS = tuple(name for name in Constants.model_fields if name not in ("pseudo_count", "floor"))

Rate = Annotated[float, Field(gt=0, le=0.5)]


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
        policy: `mixture` divides the budget by `shares`; `amlm` draws by weights (Edman & Fraser 2025); or one of your
            own (`with_policy`).
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
    rates: Points[Rate] | None = Field(default=None, exclude_if=absent)
    row_rates: RowRates | None = Field(default=None, exclude_if=absent)
    corrupt: Rate | None = Field(default=None, exclude_if=absent)
    loss_weight: Fraction = Field(default=0.0, exclude_if=lambda share: not share)
    apportion: Literal["batch", "row"] = "batch"
    policy: Literal["mixture", "amlm"] = "mixture"
    update_every: Positive | None = None
    pace: Positive | None = Field(default=None, exclude_if=absent)
    refresh_delay: Positive | None = Field(default=None, exclude_if=absent)
    ema_decay: Fraction = 1.0
    mask_warmup: Annotated[float, Field(ge=0, lt=1)] = 0.30
    shares: Shares = Shares(random=0.8, token=0.15, trigram=0.05)
    schedule: Annotated[Schedule | None, BeforeValidator(no_schedule)] = Field(default=None, exclude_if=absent)
    replacement: Replacements = Field(default=Replacements(), exclude_if=lambda given: given == Replacements())
    signal: Literal["accuracy", "loss", "entropy", "progress", "frequency", "permuted"] = "accuracy"
    smoothing: Above0 = 1.0
    min_seen: AtLeast0 = 3.0
    cap: Above0 = 0.9
    loss_quantile: Fraction = 0.75
    band_low: AtLeast0 = 0.0
    band_high: Above0 | None = None
    counted: Literal["after_warmup"] | None = Field(default=None, exclude_if=absent)
    trigram_mean: Literal["all"] | None = Field(default=None, exclude_if=absent)
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
        if self.policy != "amlm" and self.draw == "bernoulli":
            raise ValueError("draw bernoulli belongs to policy amlm; that of any other is exact")
        if self.policy not in BUILT_IN and self.replicate:
            raise ValueError(f"replicate belongs to the policies of a publication, and {self.policy} is your own")
        if self.schedule and self.schedule.shares and (self.policy != "mixture" or self.by_row):
            raise ValueError("schedule.shares belongs to policy mixture with apportion batch, without replicate")
        if self.schedule:
            self.schedule.refuse_before(self.mask_warmup)
        own = {"mixture": MIXTURE_CONSTANTS, "amlm": AMLM_CONSTANTS}.get(self.policy, ())
        if other := next((name for name in self.changing if name not in own), ""):
            may = ", ".join(own) or "none"
            raise ValueError(f"schedule.constants.{other}: of policy {self.policy} these may change: {may}")
        if self.policy != "mixture" and self.apportion == "row":
            hint = "; for amlm write draw: bernoulli" if self.policy == "amlm" else ""
            raise ValueError(f"apportion row belongs to policy mixture{hint}")
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
            refuse_begins(self.rates, "rates", "[[0, 0.30], [0.7, 0.15], [0.9, 0.05]]")
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
            return self.rates[index_at(self.rates, step, steps)][1]
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
