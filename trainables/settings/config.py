"""The settings of a pretraining run: frozen, validated, and free of torch, so that bad ones are refused at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, JsonValue, model_validator

from sweeper.trainable import Budget
from trainables.settings import presets, word_amounts
from trainables.settings.catalogue import BUILT_IN
from trainables.settings.frozen import Fraction, Frozen, Positive, absent
from trainables.settings.masking_rule import MaskingConfig
from trainables.settings.points import Points, index_at, refuse_parts
from trainables.settings.row_rates import RowRates, largest_part

Words = Annotated[int, BeforeValidator(word_amounts.words)]
Fall = Literal["linear", "cosine", "trapezoid", "warmup-stable-decay"]
Milestones = Annotated[tuple[int, ...] | None, BeforeValidator(word_amounts.series)]

MIN_REFRESHES = 5
COMPACT = "compact-bert"  # the architecture of our own
ASSUMED_ENTRIES = 30_522  # of a tokenizer that is not on this machine: as many as bert-base-uncased has
SUBSTRINGS = 15  # of a token that are entries themselves: the mean over 30,522 entries trained on English


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
    max_test: Positive | None = Field(default=None, exclude_if=absent)

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
    length: Length | None = Field(default=None, exclude_if=absent)
    init_from: Annotated[Beginning | None, BeforeValidator(_folder_alone)] = Field(default=None, exclude_if=absent)
    sequence_lengths: Points[Positive] | None = Field(default=None, exclude_if=absent)
    series: Milestones = Field(default=None, exclude_if=absent)
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
        refuse_parts(self.sequence_lengths or (), self.steps, "sequence_lengths")
        refuse_parts(self.masking.rates or (), self.steps, "masking.rates")
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

        They do after the mask warm-up, and where a rule has a number or a way of drawing of its own, as a policy of
        one's own may. A series of bundles is left by whole runs alone.
        """
        shared = min(self.warmup_steps, self.steps - 1)
        own = self.masking.policy not in BUILT_IN  # its steps may be another rule's from the first one on
        if not 0 < step <= shared or own or not self.masking.on_budget or self.series is not None:
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
        return lengths[index_at(lengths, step, self.steps)][1]

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
