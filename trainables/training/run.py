"""A training run: its parts, the loop, one step, and the report with its checkpoint.

Shapes: V vocabulary entries.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

import torch

from sweeper.trainable import TrainContext
from trainables import limits, received
from trainables.data import words_seen
from trainables.data.batches import Batches, Prepared
from trainables.masking import mixture, policy, replacement, statistics
from trainables.masking.budget import Selection
from trainables.model import initialisation
from trainables.model.masked_lm import Build
from trainables.noise import StepNoise, derive
from trainables.settings.config import Config
from trainables.training import beginning, bundle, cuda_graph, optimiser, trunk, validation


class Run:
    """One training run on this rank, from the start, from `context.restore_from`, or from `context.fork_from`.

    Building it raises ValueError, in one line, for a checkpoint that is damaged or belongs to another run.

    Args:
        config: the settings.
        context: seed, rank, device, and where rows and checkpoints are reported.
        prepared: the tokenised corpus.
        build: makes the model with its initial weights; by default the one that the settings describe.
    """

    def __init__(self, config: Config, context: TrainContext, prepared: Prepared, build: Build | None = None) -> None:
        cuda_graph.own_stream(context.device)
        self.config, self.context, self.prepared = config, context, prepared
        self.rows = slice(*(config.batch_size * r // context.world_size for r in (context.rank, context.rank + 1)))
        self.batches = Batches(self.prepared, config.batch_size, context.seed)
        self.model = (build or initialisation.build)(config, self.prepared, context.seed)
        if config.init_from and not (context.restore_from or context.fork_from):  # which bring their own weights
            beginning.load(self.model, config)
        self.model = self.model.to(context.device).train()
        self.optimiser = optimiser.Optimiser(self.model, config)
        by_id = (prepared.forms, prepared.eligible, prepared.unigram, prepared.initial)
        starts = (self.batches.word_start, self.batches.collocation_start)
        vocabulary = policy.Vocabulary(*by_id, *starts, prepared.relevance)
        self.statistics = statistics.MaskStatistics(vocabulary)
        self.policy = mixture.build(config, vocabulary, self.rows, context.seed, context.device)
        self.replacement = replacement.Replacement(
            self.prepared.mask_id, self.prepared.vocab_size, self.rows, config.masking.replacement
        )
        eligible = torch.tensor(vocabulary.eligible | config.masking.as_coded, device=context.device)
        self.corruption = replacement.Corruption(config.masking.corrupt, eligible, self.rows)
        self.where = (context.device, context.rank, context.world_size)
        self.validation = validation.Validation(self.prepared, *self.where)
        self.losses = torch.zeros(2, dtype=torch.float64, device=context.device)  # their sum, and how many
        self.scores = self.policy.scores()["token"]
        self.history: list[bundle.Row] = []
        self.common: list[bundle.Row] = []  # the same rows, without what depends on the masking rule
        self.taken = 0  # steps
        self.log = trunk.Log() if context.leave_at and not context.restore_from else None
        series = config.series
        self.milestones = words_seen.reached(prepared, self.batches, series, config.steps) if series else []
        self.series = bundle.Series(context.restore_from) if self.milestones and context.rank == 0 else None
        self.steps = self.eager_step if context.device == "cpu" else self.replayed(cuda_graph.cuda_graph)
        self.origin = {"seed": context.seed, "data_fingerprint": prepared.fingerprint}
        self.identity = bundle.identity(config, context.seed, prepared.fingerprint)
        if context.restore_from:
            bundle.refuse_other(context.restore_from, self.identity)
            self.history = self.restore(context.restore_from)
            self.scores, self.taken = self.policy.scores()["token"], self.done
        elif context.fork_from:
            self.fork(context.fork_from)

    def train(self) -> None:
        """Take the steps that are left. Report every `reporting_every` steps and after the last."""
        for step in range(self.taken, self.config.steps):
            self.step(step)
            self.save_milestone(step + 1)
            if self.reports(step + 1):
                self.report(step + 1)
            self.leave(step + 1)

    def reports(self, step: int) -> bool:
        """Whether metrics are due after so many steps."""
        return step % self.config.reporting_every == 0 or step == self.config.steps

    def leave(self, step: int) -> None:
        """Leave a trunk for other runs, if this is where one is wanted."""
        if self.log is None or step not in self.context.leave_at:
            return
        context, left = self.context, None
        answers = self.log.tensors(self.losses, context.rank, context.world_size, context.all_reduce)
        states = (self.model.state(), self.optimiser.state(), answers)
        if context.rank == 0:
            with contextlib.suppress(OSError):  # no room: then nobody starts from here
                left = trunk.write(trunk.Trunk(step, *states, self.common, self.origin))
        context.leave(step, left)
        if step == max(context.leave_at):
            self.log = None

    def fork(self, folder: Path) -> None:
        """Start from another run's trunk: take over its states, and play its answers to this run's policy.

        Rows that were due on the way are reported, without a checkpoint. ValueError, in one line, for a damaged trunk.
        """
        begun, context = trunk.read(folder), self.context
        if begun.origin != self.origin:
            raise ValueError(f"{folder} is of other data or another seed: the text changed since the sweep prepared it")
        if len(begun.answers["losses_since"]) != context.world_size:
            raise ValueError(f"{folder} is of a run on another number of workers")
        own = {"model": self.model.state(), "optimiser": self.optimiser.state()}

        def load() -> None:
            bundle.refuse_unlike({"model": begun.model, "optimiser": begun.optimiser}, own)
            self.model.load(begun.model)
            self.optimiser.load(begun.optimiser)

        limits.fails(load, f"{folder} is damaged or of another model")
        if self.config.masking.wants_entropies and trunk.ENTROPIES not in begun.answers:
            raise ValueError(f"{folder} has no entropies, which masking.signal entropy learns from")
        rows = {row["step"]: row for row in begun.rows}
        if lacking := next(
            (step for step in range(1, begun.step + 1) if self.reports(step) and step not in rows), None
        ):
            raise ValueError(f"{folder} is damaged: it has no row of step {lacking}")
        for step in range(begun.step):
            noise = self.noise(step)
            ids, selection, _ = self.select(noise)
            labels = ids.flatten()[selection.positions.clamp(max=ids.numel() - 1)]
            answers = begun.at(context.rank, step, labels)
            self.learn(selection, answers, noise)
            self.refresh(step + 1)
            if self.reports(step + 1):
                row = dict(rows[step + 1])
                self.common.append(dict(row))
                self.audit(row)
                self.history.append(row)
                context.report(row, None)
        self.losses.copy_(begun.answers["losses_since"][context.rank])
        self.taken = begun.step

    def restore(self, checkpoint: Path) -> list[bundle.Row]:
        """Load a checkpoint's states and return its history. ValueError, in one line, for a damaged one."""
        states, history = bundle.read_checkpoint(checkpoint)
        own = {"model": self.model.state(), "optimiser": self.optimiser.state()}
        own["masking"] = self.policy.state(lambda _: None)

        def load() -> None:
            states["masking"] = self.completed(states["masking"])
            bundle.refuse_unlike(states, own)
            self.model.load(states["model"])
            self.optimiser.load(states["optimiser"])
            self.policy.load(states["masking"], self.context.rank)

        limits.fails(load, f"{checkpoint} is damaged or of another model")
        if not history or history[-1]["step"] > self.config.steps:
            raise ValueError(f"{checkpoint}: its history does not fit a run of {self.config.steps} steps")
        return history

    def completed(self, masking: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A policy's state with the counts that earlier versions lacked.

        `initial` is filled in from the vocabulary: earlier versions took an entry to begin a word or not wherever it
        stood. `words`, the words of several pieces, starts at zero. `corrupted` was what was predicted.
        """
        initial = masking["by_id"] * torch.from_numpy(self.prepared.forms.begins)
        corrupted = torch.stack([masking["audit"][1], torch.zeros_like(masking["audit"][1])])
        return {"initial": initial, "words": torch.zeros(2, dtype=torch.int64), "corrupted": corrupted, **masking}

    @property
    def done(self) -> int:
        """Steps taken by the last report."""
        return int(self.history[-1]["step"]) if self.history else 0

    def step(self, step: int) -> None:
        """Train on one batch; refresh the masking policy when it is due."""
        self.steps(step)
        self.refresh(step + 1)

    def refresh(self, step: int) -> None:
        """Refresh the masking policy if that is due after so many steps."""
        if self.config.refreshes(step):
            self.policy.refresh(self.context.all_reduce)

    def save_milestone(self, step: int) -> None:
        """Write the bundles of the series that are due after so many steps."""
        for milestone in self.milestones:
            if milestone.step == step and self.series:
                self.series.add(milestone, self.model, self.prepared, self.config, self.context.seed)

    def train_step(self, noise: StepNoise) -> None:
        """Select, replace, predict, update, observe.

        A CUDA graph may replay this: only what comes through `noise` may differ between steps.
        """
        config, context = self.config, self.context
        bfloat16 = torch.autocast(torch.device(context.device).type, torch.bfloat16, config.precision == "bfloat16")
        ids, selection, corrupted = self.select(noise)
        at = selection.positions.clamp(max=ids.numel() - 1)
        labels = ids.flatten()[at]
        inputs = self.replacement(ids, corrupted, noise)
        with bfloat16:
            rows = inputs.view(-1, config.sequence_length(noise.step))
            guesses = self.model.losses(
                rows, selection.positions, labels, self.dropout_seed(noise.step), config.masking.wants_entropies
            )
        losses = guesses.losses
        loss = (losses * selection.weight).sum()
        weighted = loss if selection.loss_weight is None else (losses * selection.loss_weight).sum()
        (weighted / selection.total).backward()
        self.optimiser.step(self.optimiser.rate(noise), context.all_reduce, alone=context.world_size == 1)
        masked = inputs.flatten()[at] == self.prepared.mask_id
        answers = policy.Answers(labels, guesses.predictions, losses.detach(), masked, guesses.entropies)
        self.learn(selection, answers, noise)
        self.losses += torch.stack([loss.detach(), selection.weight.sum()])

    def select(self, noise: StepNoise) -> tuple[torch.Tensor, Selection, torch.Tensor]:
        """This rank's rows of a step, [b, T]; what to predict of them, and what to corrupt, [b, T], both counted."""
        global_ids = self.batches.ids(noise, self.context.device)
        selection = self.policy.select(global_ids, noise)
        corrupted, broken = self.corruption(global_ids, selection, noise)
        self.policy.audit.tally_corrupted(corrupted, broken)
        return global_ids[self.rows], selection, corrupted

    def learn(self, selection: Selection, answers: policy.Answers, noise: StepNoise) -> None:
        """Show the answers to the masking policy, to its audit and to the log of a trunk that is to be left."""
        self.policy.observe(selection, answers, self.context.all_reduce)
        word_start = self.batches.word_start(noise, answers.labels.device)[self.rows]
        self.policy.audit.tally_words(answers.labels, selection, word_start)
        if self.log is not None:
            self.log.add(answers)

    def noise(self, step: int) -> StepNoise:
        """The random numbers of a step, except for dropout."""
        shape = (self.config.batch_size, self.config.data.block)
        return StepNoise(self.context.seed, self.config.noise_salt, step, shape)

    def dropout_seed(self, step: int) -> int:
        """The seed of a step's dropout units on this rank."""
        return derive(self.context.seed, "dropout", step, self.context.rank)

    def eager_step(self, step: int) -> None:
        """Take a step, one operation after the other."""
        torch.manual_seed(self.dropout_seed(step))
        self.train_step(self.noise(step))

    def replayed(self, capture: cuda_graph.Capture) -> cuda_graph.Steps:
        """Steps that `capture` turns into graphs; one by one with several ranks or a masking rate that changes."""
        config = self.config
        constant = self.context.world_size == 1 and not config.masking.rate_changes

        def kind(step: int) -> tuple[bool, int]:
            return step >= config.warmup_steps, config.sequence_length(step)

        return cuda_graph.Steps(
            self.train_step, self.noise, self.dropout_seed, kind, self.context.device, capture if constant else None
        )

    def report(self, step: int) -> None:
        """Validate, audit and write a checkpoint after so many steps. Every rank calls it; rank 0 writes."""
        all_reduce, last = self.context.all_reduce, step == self.config.steps
        all_reduce(self.losses)
        loss, predicted = self.losses.tolist()
        self.losses.zero_()
        row = {"step": step, "train/loss": loss / predicted, **self.validation(self.model, all_reduce)}
        test = validation.Validation(self.prepared, *self.where, part="test") if last and self.context.test else None
        row |= self.validation.sliced() if last else {}
        row |= test(self.model, all_reduce) if test else {}
        self.common.append(dict(row))
        masking_state, counts = self.audit(row)
        task_metrics, task_details = self.score_tasks() if last and self.context.rank == 0 else ({}, {})
        row |= task_metrics
        self.history.append(row)
        if self.context.rank:
            self.context.report(row, None)
            return
        states = {"model": self.model.state(), "optimiser": self.optimiser.state(), "masking": masking_state}
        checkpoint = bundle.write_checkpoint(states, self.history, self.identity)
        if last:
            self._write_bundle(checkpoint / "bundle", counts, test, task_details)
        if self.series:
            self.series.into(checkpoint / "bundle" if last else checkpoint)
        self.context.report(row, checkpoint)

    def audit(self, row: bundle.Row) -> tuple[dict[str, torch.Tensor], tuple[statistics.Ints, statistics.Ints]]:
        """Add what was masked to a row. Returns the policy's state, and predictions by label and of starts, [V]."""
        all_reduce = self.context.all_reduce
        row |= self.policy.metrics(all_reduce)
        state, before, self.scores = self.policy.state(all_reduce), self.scores, self.policy.scores()["token"]
        counts = (state["by_id"].numpy(), state["initial"].numpy())
        row |= {**self.statistics.metrics(*counts), "audit/drift": self.statistics.drift(before, self.scores)}
        return state, counts

    def _write_bundle(
        self,
        folder: Path,
        counts: tuple[statistics.Ints, statistics.Ints],
        test: validation.Validation | None,
        task_details: dict[str, Any],
    ) -> None:
        """The bundle of the finished run, with its analysis.

        Args:
            folder: is made.
            counts: [V] each, predictions by label, and those of them that begin a word.
            test: the test part after its validation, where it was asked for.
            task_details: of `score_tasks`.
        """
        row, analysis = self.history[-1], folder / "analysis"
        words = words_seen.seen(self.prepared, self.batches, self.config.steps)
        metadata = {"seed": self.context.seed, "words": words, "metrics": row}
        bundle.write_bundle(folder, self.model, self.prepared, self.config, metadata)
        statistics.write(analysis, self.statistics, counts, self.policy.scores(), self.history)
        validation.write_slices(analysis, self.validation)
        if test:
            validation.write_documents(analysis, test)
        if task_details:
            (analysis / "evaluation.json").write_text(json.dumps(task_details, indent=2) + "\n", "utf-8")

    def refuse_unscored(self) -> None:
        """Raises ValueError, in one line, for a model whose bundle no task could be scored on, before it is trained."""
        with tempfile.TemporaryDirectory(prefix="judged-") as parent:
            folder = Path(parent) / "bundle"
            bundle.write_model(folder, self.model, self.prepared, self.config)
            try:
                received.check_bundle(folder)
            except ValueError as error:
                raise ValueError(f"evaluate needs a model whose bundle transformers loads: {error}") from None

    def score_tasks(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics and details of the spec's tasks, scored on the model as a bundle. The other ranks wait."""
        if not self.context.evaluate:
            return {}, {}
        from trainables.evaluation import tasks

        with tempfile.TemporaryDirectory(prefix="judged-") as parent:
            folder = Path(parent) / "bundle"
            bundle.write_model(folder, self.model, self.prepared, self.config)
            scores = tasks.evaluate(folder, self.context.evaluate, device=self.context.device)
        return tasks.metrics(scores), tasks.details(scores)
