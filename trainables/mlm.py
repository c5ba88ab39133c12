"""Masked-language-model pretraining: the loop. Under a sweep, or alone: `python -m trainables.mlm --set steps=200`.

The heavy imports are in the functions that need them, so that a driver reads `Config` in a moment.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import model_validator

from sweeper.system import files
from sweeper.trainable import Pace, TrainContext
from trainables import machine
from trainables.settings import config as settings
from trainables.settings.presets import expand
from trainables.settings.slice_names import NAMES

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
        "series": [each.name for each in words_seen.reached(prepared, batches, config.series, config.steps)]
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
    from trainables.training.run import Run

    prepared = batches_module.prepare(config.data)
    word_forms.refuse(config, prepared.scheme.kind)
    if context.evaluate and not context.rank:  # this node, or these settings, may not allow what the driver's do
        from trainables.evaluation import tasks

        tasks.check(context.evaluate, prepared.tokenizer_files(), config.model.max_positions)
    Run(config, context, prepared).train()


def preparing(config: settings.Config) -> float:
    """Seconds that `prepare` would take, about. 0 also for a corpus on the hub, which only the hub could tell of."""
    from trainables.data.batches import is_prepared

    return 0.0 if config.data.corpus.startswith("hub:") or is_prepared(config.data) else PREPARING_S


def probe(config: settings.Config, device: str = "cpu", world_size: int = 1) -> Pace:
    """Train on made-up tokens, past the mask warm-up, as the first of so many ranks; nothing is summed over them."""
    from trainables.training.probe import made_up, seconds, validation_share
    from trainables.training.run import Run

    context = TrainContext(lambda *_: None, device=device, world_size=world_size)
    run = Run(config, context, made_up(config))
    steps = itertools.cycle(range(config.warmup_steps, config.steps))
    step = seconds(lambda: run.step(next(steps)), device)
    validation = seconds(lambda: run.validation(run.model, context.all_reduce), device)
    return Pace(step, validation * validation_share(config))


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
            bundle.refuse_other(kept, identity, unsaid=False)
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
