"""The answers to the challenge's form that the record has: what a run trained on, how long, and at what cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.system import files, yaml_reader
from trainables import limits, mlm, received
from trainables.entry.runs import Chosen
from trainables.settings import described
from trainables.settings.config import Config
from trainables.settings.overrides import override

PASSES = "epochs"


@dataclass(frozen=True)
class Answer:
    """A line of the form. value: None if the record does not have it. note: what the value rests on."""

    question: str
    value: str | int | float | None
    note: str = ""


@dataclass(frozen=True)
class Facts:
    """What a bundle says of its own training. None, or empty, where it does not.

    Args:
        config: its settings.
        metadata: its metadata.json.
        parameters: weights in its file.
        entries: of its vocabulary.
    """

    config: mlm.Config | None
    metadata: dict[str, Any]
    parameters: int
    entries: int | None

    def whole(self, *path: str) -> int | None:
        """A whole number at a place of the metadata."""
        found: Any = self.metadata
        for key in path:
            found = found.get(key) if isinstance(found, dict) else None
        return found if type(found) is int and 0 <= found < 2**63 else None

    @property
    def corpus_words(self) -> int | None:
        """Of all parts of the corpus, held-out ones too."""
        counts = [self.whole("data", "parts", part, "words") for part in described.PARTS]
        return sum(count or 0 for count in counts) if any(counts) else None

    @property
    def steps(self) -> int | None:
        """That the model was trained for."""
        return self.whole("step")


def facts(bundle: Path) -> Facts:
    """Of a bundle that was checked. ValueError, in one line, for files that no run would have written."""
    path = bundle / "training_config.yaml"
    config = None
    if path.is_file():
        try:
            tree = yaml_reader.parse(limits.read(path, limits.YAML).decode())
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not isinstance(tree, dict):
            raise ValueError(f"{path} holds no settings")
        # Read as data: nothing that a stranger's settings name, such as a corpus, is looked at.
        config = mlm.Config.model_construct(**dict(override([], Config, tree, str(path))))
    sizes = received.header(bundle / received.WEIGHTS).values()
    entries = limits.json_file(bundle / "config.json").get("vocab_size")
    return Facts(config, limits.metadata(bundle), sum(map(_size, sizes)), entries if type(entries) is int else None)


def _size(shape: tuple[int, ...]) -> int:
    count = 1
    for length in shape:
        count *= length
    return count


def answers(chosen: Chosen, found: Facts) -> list[Answer]:
    """The form, in its order; what only a person can answer is in the checklist."""
    clock, words = chosen.clock, found.whole("words")
    gpu_hours = None if clock.hours is None or clock.gpus is None else clock.hours * clock.gpus
    processors = "it held no GPU" if clock.gpus == 0 else "" if clock.gpus is None else f"{clock.gpus:g} at a time"
    rows = _passes(found)
    return [
        Answer("name", chosen.name, chosen.why),
        *_text(found),
        Answer("words of the corpus", found.corpus_words, "separated by white space; train, val and test together"),
        Answer("words seen in training", words, "as the revisions are counted, every pass anew"),
        Answer(PASSES, rows, "passes over the rows of the train part"),
        Answer("parameters", found.parameters, f"all weights in {received.WEIGHTS}"),
        *_hyperparameters(found),
        Answer("hours of training", _rounded(clock.hours), clock.note),
        Answer("GPU hours", _rounded(gpu_hours), processors),
        Answer("FLOPs of training", _flops(found), _FLOPS),
    ]


_FLOPS = (
    "matrix products of the forward and backward passes of this run's steps, by its settings; validation, evaluation "
    "and a sweep's other trials are not in it"
)


def _rounded(hours: float | None) -> float | None:
    return None if hours is None else float(f"{hours:.3g}") or 0


def _passes(found: Facts) -> float | None:
    rows = found.whole("data", "parts", "train", "blocks")
    if found.config is None or not rows or found.steps is None:
        return None
    return round(found.steps * found.config.batch_size / rows, 2)


def _flops(found: Facts) -> int | None:
    """A whole number, as the form wants it."""
    if found.config is None or found.steps is None or found.entries is None:
        return None
    own = found.config.data.model_copy(update={"tokenizer": f"train:{found.entries}"})  # which may lie elsewhere
    config = found.config.model_copy(update={"data": own})
    per_step = limits.fails(lambda: config.flops_per_step, "its settings describe a model that cannot be counted")
    return round(per_step * found.steps)


def _setup(found: Facts) -> dict[str, str]:
    """What was trained on what, in words; without figures of the data where the record's are not those of a run."""
    config = found.config
    if config is None:
        return {}
    try:
        return limits.fails(lambda: described.setup(config, found.metadata["data"]), "no facts of a run")
    except ValueError:
        return limits.fails(lambda: described.setup(config, {}), "its settings describe no run")


OF_THE_DATA = ("corpus", "documents", "words", "tokenizer")


def _text(found: Facts) -> Iterator[Answer]:
    told = _setup(found)
    yield Answer("data", "; ".join(told[key] for key in OF_THE_DATA[:2] if key in told) or None)
    yield Answer("tokenizer", told.get("tokenizer"))


def _hyperparameters(found: Facts) -> Iterator[Answer]:
    left_out = {*OF_THE_DATA, "unknown tokens"}
    for label, text in _setup(found).items():
        if label not in left_out:
            yield Answer(label, files.one_line(text))
    if found.config is not None:
        yield Answer("steps", found.steps)
        yield Answer("seed", found.whole("seed"))
