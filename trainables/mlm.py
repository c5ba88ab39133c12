"""Masked-language-model pretraining, in a sweep or alone: `python -m trainables.mlm --set steps=200`.

What a spec names, and the command; the loop is `training.run.Run.train`. Heavy imports are inside the functions that
need them, so that a driver loads `Config` fast.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from pydantic import model_validator

from sweeper.system import files, yaml_reader
from sweeper.trainable import Pace, TrainContext
from trainables import limits, machine, received
from trainables.settings import config as settings
from trainables.settings.described import setup
from trainables.settings.overrides import override
from trainables.settings.presets import expand
from trainables.settings.slice_names import NAMES

if TYPE_CHECKING:
    from trainables.model.masked_lm import Build

__all__ = [
    "Config",
    "at_end",
    "check",
    "check_tasks",
    "expand",
    "past",
    "prepare",
    "preparing",
    "probe",
    "setup",
    "stuck",
    "train",
    "unlearned",
]

LEARNED = 0.3  # nats at [MASK] below word frequencies: from there on a run has learned from context
KEPT = "checkpoint"  # in the output folder
NEXT = "checkpoint.new"  # while it replaces the one before
CLOCK = "clock.json"  # in the output folder: how long training has taken up to the checkpoint
JUDGED = (
    "the masks of val and test are drawn uniformly at random, as only an arm that masks at random is trained: if this "
    "loss favours any arm, it is that one"
)
PREPARING_S = 13.0  # for the embedded corpus on one core, imports included


class Config(settings.Config):
    __doc__ = settings.Config.__doc__

    @model_validator(mode="before")
    @classmethod
    def _counted(cls, tree: Any) -> Any:
        """Count the rows for `length.words`, for which the corpus must be read."""
        if not isinstance(tree, Mapping) or tree.get("length") is None:
            return tree
        from trainables.data import words_seen

        return words_seen.counted(tree)

    @model_validator(mode="before")
    @classmethod
    def _weighed(cls, tree: Any) -> Any:
        """Fill in the digest of the weights that `init_from` names.

        A bundle that cannot be had is refused by `prepare` and `check`: a record is read without it.
        """
        given = tree.get("init_from") if isinstance(tree, Mapping) else None
        given = {"bundle": given} if isinstance(given, str) and given else given
        if not isinstance(given, Mapping) or given.get("weights") or not isinstance(given.get("bundle"), str):
            return tree
        try:
            return {**tree, "init_from": {**given, "weights": received.digest(Path(given["bundle"]))}}
        except (OSError, ValueError):
            return tree

    @model_validator(mode="after")
    def _has_an_encoder(self) -> Self:
        if not self.model.compact:
            from trainables.model import family

            family.hub_config(self.model, self.vocabulary, 1)
        if self.model.architecture == "deberta" and self.precision == "bfloat16":
            raise ValueError("model.architecture deberta masks with a number that bfloat16 lacks: use deberta-v2")
        return self

    @property
    def vocabulary(self) -> int:
        """Entries of the vocabulary: the tokenizer's own if it is named and on this machine, else from the settings."""
        from trainables.data import tokenizer

        return tokenizer.entries(self.data.tokenizer) or super().vocabulary

    @property
    def _cost(self) -> Any:
        """Of a family: counted, not by a formula."""
        from trainables.model import family

        return family.cost(self.model, self.vocabulary, 1, self.data.block)

    def step_flops(self, length: int) -> float:
        """Matrix products of a step in which the model sees rows of so many tokens."""
        if self.model.compact:
            return super().step_flops(length)
        from trainables.model import family

        cost = family.cost(self.model, self.vocabulary, 1, length)
        return 3.0 * (self.tokens_per_step / length * cost.row + self.predicted_per_step * cost.slot)

    def parameters(self, vocabulary: int) -> int:
        """Of the model, with so many entries in the vocabulary."""
        if self.model.compact:
            return super().parameters(vocabulary)
        from trainables.model import family

        return family.cost(self.model, vocabulary, 1, self.data.block).parameters

    @property
    def memory_bytes(self) -> int:
        """Weights, gradients and moments; what the backward pass keeps; the logits' gradient."""
        if self.model.compact:
            return super().memory_bytes
        kept = self.batch_size * self._cost.row_bytes + self.most_predicted * self._cost.slot_bytes
        return self._state_bytes * 4 // 3 + int(kept) + 8 * self.most_predicted * self.vocabulary


def prepare(config: settings.Config) -> dict[str, Any]:
    """Tokenise the corpus into the cache, or find it there. ValueError, in one line, for data that are missing.

    Returns facts about the data, with the checkpoints of a series that a run of seed 0 will leave; under another seed,
    one at the very end may differ.
    """
    from trainables.data import batches as batches_module
    from trainables.data import words_seen

    if config.init_from:
        from trainables.training import beginning

        beginning.there(config)  # before a long preparation
    prepared = batches_module.prepare(config.data)
    prepare_info = {"data_fingerprint": prepared.fingerprint, "judged": [JUDGED], **prepared.facts}
    if config.series is None:
        return prepare_info
    batches = batches_module.Batches(prepared, config.batch_size, 0)
    return prepare_info | {
        "series": [each.name for each in words_seen.reached(prepared, batches, config.series, config.steps)]
    }


def check(config: settings.Config, prepare_info: Mapping[str, Any]) -> list[str]:
    """Refuse rules that need words if the tokenizer's entries do not show them. ValueError in one line.

    Also for a bundle to begin with that does not fit. Returns cautions for people: about a start that may not get
    beyond word frequencies, about weights that are not drawn, and about a text without collocations for a share `pmi`.
    """
    from trainables.data import word_forms
    from trainables.training import tried

    word_forms.refuse(config, prepare_info["word_scheme"])
    cautions = [*tried.cautions(config, prepare_info["vocabulary"]), *_without_collocations(config, prepare_info)]
    if not config.model.compact:
        from trainables.model import family

        family.cost(config.model, prepare_info["vocabulary"], 1, config.data.block)
    if config.init_from is None:
        return cautions
    from trainables.training import beginning

    return [*cautions, *beginning.check(config)]


def _without_collocations(config: settings.Config, prepare_info: Mapping[str, Any]) -> list[str]:
    """A caution where a share of collocations is one of whole words."""
    masking = config.masking
    if masking.policy != "mixture" or not masking.largest_shares["pmi"]:
        return []
    if prepare_info["parts"]["train"]["collocations"]:
        return []
    return [
        "masking.shares.pmi masks whole words alone: the train part has no collocation, 2 to 5 words of a line that "
        "occur together more than 10 times and more often than by chance"
    ]


def past(config: settings.Config, step: int) -> dict[str, Any] | None:
    """The settings that the first so many steps depend on; None if they depend on the masking rule as well."""
    return config.past(step)


def at_end() -> tuple[str, ...]:
    """Metrics that only the last row has."""
    return tuple(f"val/loss_{name}" for name in NAMES)


def stuck(metrics: Mapping[str, float]) -> str | None:
    """Why a run with these last metrics is stuck: it did not get beyond word frequencies. None if it is not.

    That is, `val/loss_mask` is not LEARNED below `val/unigram_mask`. None, too, if one of the two is missing.
    """
    loss, unigram = metrics.get("val/loss_mask"), metrics.get("val/unigram_mask")
    return "stayed at word frequencies" if loss is not None and unigram is not None and _near(loss, unigram) else None


def _near(loss: float, unigram: float) -> bool:
    return loss > unigram - LEARNED


def unlearned(metrics: Mapping[str, float]) -> str | None:
    """Why runs with these last metrics say nothing about masking: they learned little but token frequencies.

    `val/loss_mask` must be LEARNED below `val/unigram_mask`, and `val/accuracy_mask` above `val/accuracy_unigram`, the
    accuracy of guessing the commonest token. A missing metric is not checked.
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
    """The main metrics of the tasks, which the last row will have, each with a fingerprint of the task's data.

    ValueError, in one line, for a task that cannot be scored.
    """
    from trainables.data import batches as batches_module
    from trainables.evaluation import tasks as tasks_module

    found = tasks_module.check(tasks, batches_module.prepare(config.data).tokenizer_files(), config.model.max_positions)
    return {tasks_module.main_metric(name): fingerprint for name, fingerprint in found.items()}


def train(config: settings.Config, context: TrainContext, build: Build | None = None) -> None:
    """Train to the full length. Reports validation metrics and a checkpoint every `reporting_every` steps.

    build: makes a model of your own (`model.masked_lm`); None makes the one that `config.model` describes.

    A step depends only on (config, seed, step) and the restored state: stopped anywhere and resumed, a run ends with
    the same bits as one that never stopped (same device kind, threads and number of ranks).
    """
    from trainables.data import batches as batches_module
    from trainables.data import word_forms
    from trainables.training.run import Run

    prepared = batches_module.prepare(config.data)
    word_forms.refuse(config, prepared.scheme.kind)
    if context.evaluate and not context.rank:  # may fail here where the driver's check passed
        from trainables.evaluation import tasks

        tasks.check(context.evaluate, prepared.tokenizer_files(), config.model.max_positions)
    run = Run(config, context, prepared, build)
    if build and context.evaluate and not context.rank:
        run.refuse_unscored()
    run.train()


def preparing(config: settings.Config) -> float:
    """About how many seconds `prepare` will take; 0 also for a corpus on the hub, whose size only the hub knows."""
    from trainables.data.batches import is_prepared

    return 0.0 if config.data.corpus.startswith("hub:") or is_prepared(config.data) else PREPARING_S


def probe(config: settings.Config, device: str = "cpu", world_size: int = 1, build: Build | None = None) -> Pace:
    """Time steps on made-up tokens past the mask warm-up, as rank 0 of so many; nothing is summed over the ranks.

    build: as for `train`.
    """
    from trainables.training.probe import made_up, seconds, validation_share
    from trainables.training.run import Run

    context = TrainContext(lambda *_: None, device=device, world_size=world_size)
    config = config.model_copy(update={"init_from": None})  # no pace depends on the weights
    run = Run(config, context, made_up(config), build)
    kinds = Counter(map(config.sequence_length, range(config.steps)))
    paces = []
    for length in kinds:  # at masks past the warm-up, as far as there are such
        of_length = [step for step in range(config.steps) if config.sequence_length(step) == length]
        steps = itertools.cycle([step for step in of_length if step >= config.warmup_steps] or of_length)
        paces.append(seconds(lambda steps=steps: run.step(next(steps)), device))
    step = sum(pace * count for pace, count in zip(paces, kinds.values(), strict=True)) / config.steps
    validation = seconds(lambda: run.validation(run.model, context.all_reduce), device)
    return Pace(step, validation * validation_share(config))


def main(arguments: list[str] | None = None) -> int:
    """Train alone and write the bundle into a folder. Exit status 2 for bad input."""
    files.standard_streams()
    files.private()
    try:
        return _train(_options(arguments))
    except (ValueError, OSError) as error:
        return files.refused(error)


def _train(options: argparse.Namespace) -> int:
    """Train. Returns the exit status; raises ValueError or OSError for a run that cannot start."""
    config, prepare_info, restore = _start(options)
    for line in prepare_info["warnings"]:
        files.say(f"caution: {line}")
    if "series" in prepare_info:
        files.say(f"series: {', '.join(prepare_info['series']) or 'the run is too short for any'}")
    kept = options.output / KEPT
    clock = options.output / CLOCK
    report = _reporter(kept, options.device, _spent(clock) if restore else Spent(0.0, 0.0))
    context = TrainContext(report, options.seed, device=options.device, restore_from=restore)
    try:
        with files.temporary():
            train(config, context)
    except OSError as error:
        files.say(f"error: {files.describe(error) or error}; continue with --resume")
        return 1
    if (kept / "bundle" / "series").exists():
        (kept / "bundle" / "series").rename(options.output / "series")
    files.say(f"bundle: {kept / 'bundle'}")
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments. Raises ValueError in one line."""
    parser = files.Parser(prog="python -m trainables.mlm", description=__doc__)
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, such as a bundle's training_config.yaml")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="a setting, such as steps=200")
    parser.add_argument("--seed", type=int, default=0)
    machine.add_arguments(parser)
    parser.add_argument("--output", "--out", type=Path, default=Path("runs/mlm"), help="default: runs/mlm")
    parser.add_argument("--resume", action="store_true", help="continue from the output folder's checkpoint")
    options = parser.parse_args(arguments)
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"--seed {options.seed}: must be 0 to {2**32 - 1}")
    return options


def _read(path: Path | None) -> dict[str, Any]:
    """The settings in a file, which may be a stranger's. Raises ValueError, in one line, or OSError."""
    if path is None:
        return {}
    if path.is_dir():
        raise ValueError(f"--config {path}: is a folder; name the file, such as {path / 'training_config.yaml'}")
    if os.path.lexists(path):
        files.refuse_record_links(path)
        files.refuse_links(path.resolve())  # a pipe would block
    try:
        return yaml_reader.read(path)
    except ValueError as error:
        raise ValueError(f"--config {path}: {error}") from None


def _start(options: argparse.Namespace) -> tuple[Config, dict[str, Any], Path | None]:
    """The settings, what `prepare` returned, and the checkpoint to continue from. Raises ValueError or OSError."""
    kept = options.output / KEPT
    config = override(options.set, Config, _read(options.config), str(options.config))
    for path in (kept, kept.with_name(NEXT), options.output / "series", options.output / CLOCK):
        if os.path.lexists(path):
            files.refuse_links(path)
    has_checkpoint = kept.exists()
    if has_checkpoint and not options.resume:
        raise ValueError(f"{options.output} holds another run: give --resume, or another --output")
    machine.use(options.device, options.threads)
    prepare_info = prepare(config)
    prepare_info["warnings"] = [*prepare_info["warnings"], *check(config, prepare_info)]
    if has_checkpoint:
        from trainables.training import bundle

        identity = bundle.identity(config, options.seed, prepare_info["data_fingerprint"])
        try:
            bundle.refuse_other(kept, identity, allow_unnamed=False)
        except ValueError as error:
            raise ValueError(f"--resume: {error}; repeat its arguments, or give another --output") from None
    elif options.resume:
        files.say(f"{options.output} has no checkpoint: starting from scratch")
    options.output.mkdir(parents=True, exist_ok=True)
    if not os.access(options.output, os.W_OK | os.X_OK):
        raise ValueError(f"--output {options.output} is not writable")
    return config, prepare_info, kept if has_checkpoint else None


class Spent(NamedTuple):
    """How long training has taken over all sessions, and the same times the GPUs that each held."""

    seconds: float
    gpu_seconds: float


def spent(told: Mapping[str, Any]) -> Spent | None:
    """What a clock.json says; None if it is none."""
    found: list[Any] = [told.get(name) for name in Spent._fields]
    whole = all(type(one) in (int, float) and 0 <= one < 1e9 for one in found)
    return Spent(*map(float, found)) if whole else None


def _spent(path: Path) -> Spent | None:
    """What earlier sessions took, up to the checkpoint; None, and no file, if that is not on record."""
    try:
        found = spent(limits.json_file(path))
    except (OSError, ValueError):
        found = None
    if found is None:
        path.unlink(missing_ok=True)
        files.say(f"{path} does not say how long the earlier sessions took, so the time of this run is not kept")
    return found


def _reporter(kept: Path, device: str, before: Spent | None) -> Any:
    """Prints each row, and keeps the newest checkpoint in a folder, and beside it how long training has taken.

    before: of earlier sessions; None if unknown, and then nothing is written of the time.
    """
    began, gpus = time.monotonic(), int(device.startswith("cuda"))

    def report(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        shown = "  ".join(f"{key} {metrics[key]:.4f}" for key in ("train/loss", "val/loss", "val/loss_mask"))
        files.say(f"step {metrics['step']}  {shown}  unigram {metrics['val/unigram_mask']:.4f}")
        assert checkpoint is not None
        shutil.rmtree(kept.with_name(NEXT), ignore_errors=True)  # left by a run that was killed
        new = Path(shutil.move(checkpoint, kept.with_name(NEXT)))
        shutil.rmtree(kept, ignore_errors=True)
        new.rename(kept)
        if before is not None:
            own = time.monotonic() - began
            clock = Spent(round(before.seconds + own, 3), round(before.gpu_seconds + gpus * own, 3))
            files.put(kept.with_name(CLOCK), json.dumps(clock._asdict()) + "\n")

    return report


if __name__ == "__main__":
    sys.exit(main())
