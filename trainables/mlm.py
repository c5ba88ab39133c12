"""Masked-language-model pretraining: the loop. Under a sweep, or alone: `python -m trainables.mlm --set steps=200`.

The heavy imports are in the functions that need them, so that a driver reads `Config` in a moment.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from sweeper.system import files
from sweeper.trainable import Pace, TrainContext
from trainables import machine
from trainables.settings import config as settings
from trainables.settings.presets import expand
from trainables.settings.slice_names import NAMES

if TYPE_CHECKING:
    import torch

    from trainables.data.batches import Prepared
    from trainables.noise import StepNoise
    from trainables.training import cuda_graph

__all__ = [
    "Config",
    "at_end",
    "check",
    "check_tasks",
    "expand",
    "prepare",
    "preparing",
    "probe",
    "stuck",
    "train",
    "unlearned",
]

LEARNED = 0.3  # nats at [MASK] below word frequencies, from which on a run has learned from context
KEPT = "checkpoint"  # in the output folder
NEXT = "checkpoint.new"  # while it takes the place of the one before
JUDGED = (
    "the masks of val and test are drawn uniformly at random: an arm that masks at random is trained on just that, and "
    "the other arms are not, so this loss favours it, if any"
)
PREPARING_S = 13.0  # the embedded corpus on one core, the imports included


class Config(settings.Config):
    __doc__ = settings.Config.__doc__

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, tree: Any) -> Any:
        """`length.words` as rows of the corpus, which must be read for it."""
        if not isinstance(tree, Mapping) or tree.get("length") is None:
            return tree
        from trainables.data import words_seen

        return words_seen.counted(tree)

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary: its own where a tokenizer is named and at hand, else as the settings tell it."""
        from trainables.data import tokenizer

        return tokenizer.entries(self.data.tokenizer) or super().vocabulary


def prepare(config: settings.Config) -> dict[str, Any]:
    """Tokenise the corpus into the cache, or find it there. ValueError, in one line, for what cannot be had.

    Says which checkpoints of a series a run of seed 0 will leave; under another seed, one at the very end may differ.
    """
    from trainables.data import batches as batches_module
    from trainables.data import words_seen

    prepared = batches_module.prepare(config.data)
    facts = {"data_fingerprint": prepared.fingerprint, "judged": [JUDGED], **prepared.facts}
    if config.series is None:
        return facts
    batches = batches_module.Batches(prepared, config.batch_size, 0)
    return facts | {
        "series": [mark.name for mark in words_seen.reached(prepared, batches, config.series, config.steps)]
    }


def check(config: settings.Config, facts: Mapping[str, Any]) -> list[str]:
    """Refuse rules that must know of words where the tokenizer's entries do not tell. ValueError in one line.

    Returns cautions for people: of a start that is not known to get beyond word frequencies.
    """
    from trainables.data import word_forms
    from trainables.training import tried

    word_forms.refuse(config, facts["word_scheme"])
    return tried.cautions(config, facts["vocabulary"])


def at_end() -> tuple[str, ...]:
    """Metrics of the last row alone."""
    return tuple(f"val/loss_{name}" for name in NAMES)


def stuck(metrics: Mapping[str, float]) -> str | None:
    """Whether a run that ends so did not get beyond word frequencies: then small models wait for chance to leave them.

    `val/loss_mask` is not LEARNED below `val/unigram_mask`; None, too, where the two are not there.
    """
    loss, unigram = metrics.get("val/loss_mask"), metrics.get("val/unigram_mask")
    return "stayed at word frequencies" if loss is not None and unigram is not None and _near(loss, unigram) else None


def _near(loss: float, unigram: float) -> bool:
    return loss > unigram - LEARNED


def unlearned(metrics: Mapping[str, float]) -> str | None:
    """Why runs that end so say nothing about masking: they know little more than how frequent tokens are.

    `val/loss_mask` must lie LEARNED below `val/unigram_mask`, and `val/accuracy_mask` above `val/accuracy_unigram`,
    that of guessing the commonest token; what is not there is not asked.
    """
    loss, unigram = metrics.get("val/loss_mask"), metrics.get("val/unigram_mask")
    right, commonest = metrics.get("val/accuracy_mask"), metrics.get("val/accuracy_unigram")
    why = []
    if loss is not None and unigram is not None and _near(loss, unigram):
        why.append(f"loss at [MASK] is {loss:.2f} nats, not {LEARNED:g} below the {unigram:.2f} of frequencies alone")
    if right is not None and commonest is not None and right <= commonest:
        why.append(f"accuracy at [MASK] is {right:.1%}, not above the {commonest:.1%} of guessing the commonest token")
    if not why:
        return None
    found = f"the baseline's {' and its '.join(why)}"
    return f"The runs barely left word frequencies ({found}), so the comparison says nothing about masking."


def check_tasks(config: settings.Config, tasks: Mapping[str, str]) -> dict[str, str]:
    """The main metrics of tasks that the last row can be judged by, each with a fingerprint of the task's data.

    ValueError, in one line, for a task that it cannot be judged by.
    """
    from trainables.data import batches as batches_module
    from trainables.evaluation import tasks as known

    found = known.check(tasks, batches_module.prepare(config.data).tokenizer_files(), config.model.max_positions)
    return {known.main_metric(name): fingerprint for name, fingerprint in found.items()}


def train(config: settings.Config, context: TrainContext) -> None:
    """Train to the full length, reporting validation metrics and a checkpoint at every `reporting_every` steps.

    All that a step depends on is (config, seed, step) and the restored state: stopped anywhere and resumed, it ends
    with the same bits as if it had never been stopped (same device kind, threads and number of ranks).
    """
    from trainables.data import batches as batches_module
    from trainables.data import word_forms

    prepared = batches_module.prepare(config.data)
    word_forms.refuse(config, prepared.scheme.kind)
    if context.evaluate and not context.rank:  # this node, or these settings, may not allow what the driver's do
        from trainables.evaluation import tasks

        tasks.check(context.evaluate, prepared.tokenizer_files(), config.model.max_positions)
    run = _Run(config, context, prepared)
    for step in range(run.done, config.steps):
        run.step(step)
        run.save_milestone(step + 1)
        if (step + 1) % config.reporting_every == 0 or step + 1 == config.steps:
            run.report(step + 1)


def preparing(config: settings.Config) -> float:
    """Seconds that `prepare` would take, about. 0 also for a corpus on the hub, which only the hub could tell of."""
    from trainables.data.batches import is_prepared

    return 0.0 if config.data.corpus.startswith("hub:") or is_prepared(config.data) else PREPARING_S


def probe(config: settings.Config, device: str = "cpu", world_size: int = 1) -> Pace:
    """Train on made-up tokens, past the mask warm-up, as the first of so many ranks; nothing is summed over them."""
    from trainables.training.probe import made_up, seconds, validation_share

    context = TrainContext(lambda *_: None, device=device, world_size=world_size)
    run = _Run(config, context, made_up(config))
    steps = itertools.cycle(range(config.warmup_steps, config.steps))
    step = seconds(lambda: run.step(next(steps)), device)
    validation = seconds(lambda: run.validation(run.model, context.all_reduce), device)
    return Pace(step, validation * validation_share(config))


class _Run:
    """What a run is made of, as its checkpoint left it if there is one, and how it reports."""

    def __init__(self, config: settings.Config, context: TrainContext, prepared: Prepared) -> None:
        import torch

        from trainables.data import words_seen
        from trainables.data.batches import Batches
        from trainables.masking import mixture, policy, statistics
        from trainables.model import initialisation
        from trainables.training import bundle, cuda_graph, optimiser, validation

        cuda_graph.own_stream(context.device)
        self.config, self.context, self.prepared = config, context, prepared
        self.rows = slice(*(config.batch_size * r // context.world_size for r in (context.rank, context.rank + 1)))
        self.batches = Batches(self.prepared, config.batch_size, context.seed)
        self.model = initialisation.initial_model(config.model, self.prepared, context.seed).to(context.device).train()
        self.optimiser = optimiser.Optimiser(self.model, config)
        known = (prepared.forms, prepared.eligible, prepared.unigram, prepared.initial)
        vocabulary = policy.Vocabulary(*known, self.batches.word_start)
        self.masked = statistics.Masked(vocabulary)
        self.policy = mixture.build(config, vocabulary, self.rows, context.seed, context.device)
        self.replacement = mixture.Replacement(self.prepared.mask_id, self.prepared.vocab_size, self.rows)
        self.where = (context.device, context.rank, context.world_size)
        self.validation = validation.Validation(self.prepared, *self.where)
        self.losses = torch.zeros(2, dtype=torch.float64, device=context.device)  # their sum, and how many
        self.scores = self.policy.scores()["token"]
        self.history: list[bundle.Row] = []
        self.marks = words_seen.reached(prepared, self.batches, config.series, config.steps) if config.series else []
        self.series = bundle.Series(context.restore_from) if self.marks and context.rank == 0 else None
        self.steps = self.eager_step if context.device == "cpu" else self.replayed(cuda_graph.cuda_graph)
        self.identity = bundle.identity(config, context.seed, prepared.fingerprint)
        if context.restore_from:
            refuse_other(context.restore_from, self.identity)
            self.history = self.restored(context.restore_from)
            self.scores = self.policy.scores()["token"]

    def restored(self, checkpoint: Path) -> list[dict[str, float]]:
        """Take over a checkpoint's states. Returns its history. ValueError, in one line, for one that is damaged."""
        from trainables import limits
        from trainables.training import bundle

        states, history = bundle.read_checkpoint(checkpoint)
        own = {"model": self.model.state_dict(), "optimiser": self.optimiser.state()}
        own["masking"] = self.policy.state(lambda _: None)

        def load() -> None:
            states["masking"] = self.completed(states["masking"])
            bundle.refuse_unlike(states, own)
            self.model.load_state_dict(states["model"])
            self.optimiser.load(states["optimiser"])
            self.policy.load(states["masking"], self.context.rank)

        limits.fails(load, f"{checkpoint} is damaged, or of another model")
        if not history or history[-1]["step"] > self.config.steps:
            raise ValueError(f"{checkpoint} has a history of other steps than the run's {self.config.steps}")
        return history

    def completed(self, masking: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A policy's state, with what earlier versions did not count: to them, words began by their entries.

        Words of several pieces are counted from there on.
        """
        import torch

        initial = masking["by_id"] * torch.from_numpy(self.prepared.forms.begins)
        return {"initial": initial, "words": torch.zeros(2, dtype=torch.int64), **masking}

    @property
    def done(self) -> int:
        """Steps taken up to the last report."""
        return int(self.history[-1]["step"]) if self.history else 0

    def step(self, step: int) -> None:
        """Update, and at times renew what selection goes by."""
        self.steps(step)
        if self.config.refreshes(step + 1):
            self.policy.refresh(self.context.all_reduce)

    def save_milestone(self, step: int) -> None:
        """Write the checkpoints of the series that belong to the first so many steps."""
        for mark in self.marks:
            if mark.step == step and self.series:
                self.series.add(mark, self.model, self.prepared, self.config, self.context.seed)

    def train_step(self, noise: StepNoise) -> None:
        """Select, replace, predict, update, observe: on the device, from nothing of the host's but what noise gives."""
        import torch

        from trainables.masking import policy

        config, context = self.config, self.context
        bfloat16 = torch.autocast(torch.device(context.device).type, torch.bfloat16, config.precision == "bfloat16")
        every = self.batches.ids(noise, context.device)
        ids = every[self.rows]
        selection = self.policy.select(every, noise)
        at = selection.positions.clamp(max=ids.numel() - 1)
        labels = ids.flatten()[at]
        inputs = self.replacement(ids, selection, noise)
        with bfloat16:
            losses, predictions = self.model.losses(inputs, selection.positions, labels, self.dropped(noise.step))
        loss = (losses * selection.weight).sum()
        (loss / selection.total).backward()
        self.optimiser.step(self.optimiser.rate(noise), context.all_reduce, alone=context.world_size == 1)
        answers = policy.Answers(labels, predictions, losses.detach(), inputs.flatten()[at] == self.prepared.mask_id)
        self.policy.observe(selection, answers, context.all_reduce)
        self.policy.audit.tally_words(labels, selection, self.batches.word_start(noise, ids.device)[self.rows])
        self.losses += torch.stack([loss.detach(), selection.weight.sum()])

    def noise(self, step: int) -> StepNoise:
        """All that is random in a step, but dropout."""
        from trainables import noise

        shape = (self.config.batch_size, self.config.data.block)
        return noise.StepNoise(self.context.seed, self.config.noise_salt, step, shape)

    def dropped(self, step: int) -> int:
        """The seed of a step's dropout on this rank."""
        from trainables import noise

        return noise.derive(self.context.seed, "dropout", step, self.context.rank)

    def eager_step(self, step: int) -> None:
        """A step, operation by operation."""
        import torch

        torch.manual_seed(self.dropped(step))
        self.train_step(self.noise(step))

    def replayed(self, capture: cuda_graph.Capture) -> cuda_graph.Steps:
        """Steps as graphs, where every step of a kind is the same but for what it is given."""
        from trainables.training import cuda_graph

        config = self.config
        same = self.context.world_size == 1 and config.rate_at(0) == config.rate_at(config.steps)

        def warm(step: int) -> bool:
            return step >= config.warmup_steps

        return cuda_graph.Steps(
            self.train_step, self.noise, self.dropped, warm, self.context.device, capture if same else None
        )

    def report(self, step: int) -> None:
        """Validate, audit and checkpoint."""
        from trainables.data import words_seen
        from trainables.masking import statistics
        from trainables.training import bundle, validation

        all_reduce = self.context.all_reduce
        all_reduce(self.losses)
        loss, predicted = self.losses.tolist()
        self.losses.zero_()
        row = {"step": step, "train/loss": loss / predicted, **self.validation(self.model, all_reduce)}
        last = step == self.config.steps
        test = validation.Validation(self.prepared, *self.where, part="test") if last and self.context.test else None
        row |= self.validation.sliced() if last else {}
        row |= test(self.model, all_reduce) if test else {}
        row |= self.policy.metrics(all_reduce)
        masking_state, before, scores = self.policy.state(all_reduce), self.scores, self.policy.scores()
        self.scores = scores["token"]
        by_id, initial = (masking_state[name].numpy() for name in ("by_id", "initial"))
        row |= {**self.masked.metrics(by_id, initial), "audit/drift": self.masked.drift(before, self.scores)}
        judged, scores_by_task = self.score_tasks() if last and self.context.rank == 0 else ({}, {})
        row |= judged
        self.history.append(row)
        if self.context.rank:
            self.context.report(row, None)
            return
        states = {"model": self.model.state_dict(), "optimiser": self.optimiser.state(), "masking": masking_state}
        checkpoint = bundle.write_checkpoint(states, self.history, self.identity)
        if last:
            words = words_seen.seen(self.prepared, self.batches, step)
            facts = {"seed": self.context.seed, "words": words, "metrics": row}
            bundle.write_bundle(checkpoint / "bundle", self.model, self.prepared, self.config, facts)
            statistics.write(checkpoint / "bundle" / "analysis", self.masked, (by_id, initial), scores, self.history)
            validation.write_slices(checkpoint / "bundle" / "analysis", self.validation)
            if test:
                validation.write_documents(checkpoint / "bundle" / "analysis", test)
            if scores_by_task:
                content = json.dumps(scores_by_task, indent=2) + "\n"
                (checkpoint / "bundle" / "analysis" / "evaluation.json").write_text(content, "utf-8")
        if self.series:
            self.series.into(checkpoint / "bundle" if last else checkpoint)
        self.context.report(row, checkpoint)

    def score_tasks(self) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics and details of the tasks, from such files as a bundle has. The other ranks wait meanwhile."""
        if not self.context.evaluate:
            return {}, {}
        from trainables.evaluation import tasks
        from trainables.training import bundle

        with tempfile.TemporaryDirectory(prefix="judged-") as kept:
            folder = Path(kept) / "bundle"
            bundle.write_model(folder, self.model, self.prepared, self.config)
            scores = tasks.evaluate(folder, self.context.evaluate, device=self.context.device)
        return tasks.metrics(scores), tasks.details(scores)


def refuse_other(checkpoint: Path, run: Mapping[str, Any], unsaid: bool = True) -> None:
    """Raises ValueError, in one line, for a checkpoint of another run than `bundle.identity` tells of.

    unsaid: whether one will do that does not say, as those of earlier versions: a sweep keeps a record of its own.
    """
    from trainables.training import bundle

    try:
        departs = bundle.departure(checkpoint, run)
    except FileNotFoundError:
        departs = None if unsaid else f"there is no {bundle.RUN} to say which, an earlier version wrote it"
    if departs:
        raise ValueError(f"{checkpoint} is of another run: {departs}")


def main(arguments: list[str] | None = None) -> int:
    """Train alone and leave the bundle in a folder. Exit status 2 for bad input."""
    files.standard_streams()
    files.private()
    try:
        return _train(_options(arguments))
    except (ValueError, OSError) as error:
        return files.refused(error)


def _train(options: argparse.Namespace) -> int:
    """The exit status. Raises ValueError or OSError for what cannot begin."""
    config, facts, restore = _begun(options)
    for line in facts["warnings"]:
        files.say(f"caution: {line}")
    if "series" in facts:
        files.say(f"series: {', '.join(facts['series']) or 'the run is too short for any'}")
    kept = options.output / KEPT
    context = TrainContext(_reporter(kept), options.seed, device=options.device, restore_from=restore)
    try:
        with files.temporary():
            train(config, context)
    except OSError as error:
        files.say(f"error: {files.describe(error) or error}; --resume goes on from what is kept")
        return 1
    if (kept / "bundle" / "series").exists():
        (kept / "bundle" / "series").rename(options.output / "series")
    files.say(f"bundle: {kept / 'bundle'}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments. Raises ValueError in one line."""
    parser = files.Parser(prog="python -m trainables.mlm", description=__doc__)
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting, such as steps=200")
    parser.add_argument("--seed", type=int, default=0)
    machine.add_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("runs/mlm"), help="default: runs/mlm")
    parser.add_argument("--resume", action="store_true", help="go on from the output folder's checkpoint")
    options = parser.parse_args(arguments)
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed {options.seed}: must be 0 to {2**32 - 1}")
    return options


def _begun(options: argparse.Namespace) -> tuple[Config, dict[str, Any], Path | None]:
    """The settings, the facts of what is prepared, and the checkpoint to go on from. Raises ValueError or OSError."""
    kept = options.output / KEPT
    config = settings.override(options.set, Config)
    for path in (kept, kept.with_name(NEXT), options.output / "series"):
        if os.path.lexists(path):
            files.refuse_links(path)
    there = kept.exists()
    if there and not options.resume:
        raise ValueError(f"{options.output} holds another run: give --resume, or another --output")
    machine.use(options.device, options.threads)
    facts = prepare(config)
    facts["warnings"] = [*facts["warnings"], *check(config, facts)]
    if there:
        from trainables.training import bundle

        identity = bundle.identity(config, options.seed, facts["data_fingerprint"])
        try:
            refuse_other(kept, identity, unsaid=False)
        except ValueError as error:
            raise ValueError(f"--resume: {error}; give what it was begun with, or another --output") from None
    elif options.resume:
        files.say(f"{options.output} holds no checkpoint: this begins anew")
    options.output.mkdir(parents=True, exist_ok=True)
    if not os.access(options.output, os.W_OK | os.X_OK):
        raise ValueError(f"--output {options.output}: cannot be written to")
    return config, facts, kept if there else None


def _reporter(kept: Path) -> Any:
    """Prints each row and keeps the newest checkpoint in a folder."""

    def report(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        shown = "  ".join(f"{key} {metrics[key]:.4f}" for key in ("train/loss", "val/loss", "val/loss_mask"))
        files.say(f"step {metrics['step']}  {shown}  unigram {metrics['val/unigram_mask']:.4f}")
        assert checkpoint is not None
        shutil.rmtree(kept.with_name(NEXT), ignore_errors=True)  # of a run that was killed
        new = Path(shutil.move(checkpoint, kept.with_name(NEXT)))
        shutil.rmtree(kept, ignore_errors=True)
        new.rename(kept)

    return report


if __name__ == "__main__":
    sys.exit(main())
