"""The tasks that a checkpoint is scored on: their names, checks of their data, and their scores.

Next to every score is that of the same architecture before training, because an untrained model may score well: on
adjective nominalisation it reaches 77 in published reports.
"""

from __future__ import annotations

import difflib
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.system import files
from trainables.evaluation import completions, glue, kept, minimal_pairs, pseudo_likelihood, reading, wug
from trainables.evaluation.kept import Kept, TaskProgress
from trainables.evaluation.pseudo_likelihood import Batches, Scorer
from trainables.evaluation.sentence_pairs import Pairs

READERS: dict[str, Callable[[Path], Pairs]] = {
    "blimp": minimal_pairs.read_blimp,
    "zorro": minimal_pairs.read_zorro,
    "wug_adj": wug.read_wug,
    "wug_past": wug.read_wug,
}
CHOICES = ("ewok", "entity_tracking", "comps", "global_piqa")  # of several options, the likeliest completion
READING = "reading"
GLUE = "glue/"

RowScores = Callable[[Batches, pseudo_likelihood.Progress], NDArray[np.float64]]  # [n] sums over counted positions


def _silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class TaskScore:
    """The score on one task; higher is better.

    Args:
        measure: accuracy, f1 and gain go from 0 to 1, spearman from -1 to 1.
        score: a tie counts as half, or as its share among more than two.
        untrained: the score of the same config with random weights.
        score_first: a tie counts for option 0, as in BabyLM's pipeline until April 2026 (since then it breaks ties at
            random); None if nothing can tie.
        ties: how many there are; None if nothing can tie.
        ci: 95 % bootstrap interval of the score over items; None for reading (see reading.py), fine-tuning.
        by: the scores of each phenomenon; or those of each seed of fine-tuning, of the last epoch instead of the best,
            and of always giving the most frequent label.
    """

    measure: str
    score: float
    untrained: float
    score_first: float | None = None
    ties: int | None = None
    ci: tuple[float, float] | None = None
    by: dict[str, dict[str, float]] = field(default_factory=dict)


def check(tasks: Mapping[str, str], tokenizer_folder: Path | None, positions: int) -> dict[str, str]:
    """Fingerprints of the tasks' data. Raises ValueError, in one line, for the first task that cannot be scored.

    tokenizer_folder: None leaves the lengths of sentences unchecked. positions: the most tokens of a row.
    """
    tokenizer = pseudo_likelihood.load_tokenizer(tokenizer_folder) if tokenizer_folder else None
    found = {}
    for name, data in tasks.items():
        require_task(name)
        if name.startswith(GLUE):
            found[name] = glue.check(name.removeprefix(GLUE), data)
            continue
        if name in CHOICES:
            items = completions.READERS[name](Path(data))
            found[name] = items.fingerprint
            if tokenizer:
                items.rows(tokenizer, positions)
            continue
        if name == READING:
            words = reading.read(Path(data))
            found[name] = words.fingerprint
            if tokenizer:
                words.rows(tokenizer, "official", positions)
            continue
        pairs = READERS[name](Path(data))
        if tokenizer:
            coded = pseudo_likelihood.tokens(tokenizer, pairs.sentences())
            pairs.check([len(ids) for ids, _ in coded], positions)
        found[name] = pairs.fingerprint
    return found


def require_task(name: str) -> None:
    """Raise ValueError, with the nearest name, for an unknown task."""
    names = [*READERS, *CHOICES, READING, *(GLUE + each for each in glue.names())]
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        raise ValueError(f"there is no task {name!r}: " + (f"did you mean {near[0]}?" if near else ", ".join(names)))


def main_metric(name: str) -> str:
    """The key of the score itself in `metrics`."""
    measures = dict.fromkeys(("blimp", "zorro", *CHOICES), "accuracy")
    measures |= {"wug_adj": "spearman", "wug_past": "spearman", READING: "gain"}
    return f"{name}/{measures.get(name) or glue.measure(name.removeprefix(GLUE))}"


def evaluate(
    model_folder: Path,
    tasks: Mapping[str, str],
    seed: int = 0,
    progress: TaskProgress = _silent,
    device: str = "cpu",
    seeds: Sequence[int] = (0,),
) -> dict[str, TaskScore]:
    """The scores on tasks that were checked. ValueError, in one line, for a folder that is not a bundle.

    Args:
        model_folder: the bundle.
        tasks: paths of the data, by name.
        seed: of the untrained model's weights and of the bootstrap.
        progress: told what is being done.
        device: where to compute.
        seeds: of fine-tuning.
    """
    trained, tokenizer = pseudo_likelihood.load(model_folder)
    scorers = Scorer(trained, tokenizer, device), Untrained(model_folder, tokenizer, device, seed)
    of_rows = scorers[0].batches, Kept.untrained(model_folder, tokenizer, device, seed)
    scores = {}
    with tempfile.TemporaryDirectory(prefix="untrained-") as kept:
        for name, data in tasks.items():
            if name.startswith(GLUE):
                folders = model_folder, scorers[1].write(Path(kept) / "bundle")
                with torch.device(device):
                    scores[name] = fine_tuned(folders, name, data, seeds, progress)
            elif name in CHOICES:
                scores[name] = _choices(of_rows, tokenizer, name, Path(data), seed, progress)
            elif name == READING:
                scores[name] = _reading(of_rows, tokenizer, Path(data), progress)
            elif name.startswith("wug"):
                scores[name] = _morphology(scorers, name, Path(data), seed, progress)
            else:
                scores[name] = _grammar(scorers, name, Path(data), seed, progress)
    return scores


def metrics(scores: Mapping[str, TaskScore]) -> dict[str, float]:
    """Flat metrics: `TASK/MEASURE`, `TASK/untrained` and, if they apply, `TASK/first` and `TASK/ties`."""
    flat: dict[str, float] = {}
    for name, score in scores.items():
        flat[f"{name}/{score.measure}"] = score.score
        flat[f"{name}/untrained"] = score.untrained
        if score.score_first is not None:
            flat[f"{name}/first"] = score.score_first
        if score.ties is not None:
            flat[f"{name}/ties"] = float(score.ties)
    return flat


def details(scores: Mapping[str, TaskScore]) -> dict[str, dict[str, Any]]:
    """The scores as plain data for JSON, by task."""
    return {name: asdict(score) for name, score in scores.items()}


class Untrained:
    """The same architecture before training, made when first needed.

    Its scores are cached, because they are the same for every trial of a sweep.

    Args:
        model_folder: has the config, and the files of the tokenizer.
        tokenizer: loaded from there.
        device: where to compute.
        seed: of the weights.
    """

    def __init__(self, model_folder: Path, tokenizer: Any, device: str, seed: int) -> None:
        self._folder, self._tokenizer, self._device, self._seed = model_folder, tokenizer, device, seed
        made = f"{pseudo_likelihood.ARITHMETIC} {seed} {device} {torch.__version__} {version('transformers')}"
        self._words = sorted((*model_folder.glob("*token*.json"), *model_folder.glob("vocab.txt")))
        parts = [made.encode(), *(path.read_bytes() for path in (model_folder / "config.json", *self._words))]
        self._origin = hashlib.sha256(b"\0".join(parts))

    @cached_property
    def model(self) -> Any:
        """The model with random weights."""
        return pseudo_likelihood.untrained(self._folder, self._seed)

    def __call__(self, sentences: Sequence[str], progress: pseudo_likelihood.Progress) -> NDArray[np.float64]:
        """[n] sums of log-probabilities, as `Scorer` gives them."""
        key = self._origin.copy()
        key.update("\0".join(sentences).encode())
        path = files.cache_root() / "untrained" / f"{key.hexdigest()[:32]}.npy"
        cached = kept.read(path, len(sentences))
        if cached is not None:
            return cached
        scores = Scorer(self.model, self._tokenizer, self._device)(sentences, progress)
        kept.write(path, scores)
        return scores

    def write(self, folder: Path) -> Path:
        """Write it as a bundle with its tokenizer, unless the folder exists. Returns the folder."""
        if not folder.exists():
            self.model.save_pretrained(folder)
            for path in self._words:
                shutil.copy(path, folder / path.name)
        return folder


def _grammar(scorers: tuple[Scorer, Untrained], name: str, data: Path, seed: int, progress: TaskProgress) -> TaskScore:
    pairs = READERS[name](data)
    trained, blank = (
        minimal_pairs.score(pairs, pairs.preference(scorer, _named(what, progress)), seed)
        for scorer, what in zip(scorers, (name, f"{name}, untrained"), strict=True)
    )
    by = {group: row | {"untrained": blank.by[group]["score"]} for group, row in trained.by.items()}
    return TaskScore("accuracy", trained.score, blank.score, trained.first, trained.ties, trained.interval, by)


def _morphology(
    scorers: tuple[Scorer, Untrained], name: str, data: Path, seed: int, progress: TaskProgress
) -> TaskScore:
    pairs = READERS[name](data)
    trained, blank = (
        wug.score(pairs, pairs.preference(scorer, _named(what, progress)), seed)
        for scorer, what in zip(scorers, (name, f"{name}, untrained"), strict=True)
    )
    return TaskScore("spearman", trained.score, blank.score, None, trained.ties, trained.interval)


def _choices(
    scorers: Sequence[RowScores], tokenizer: Any, name: str, data: Path, seed: int, progress: TaskProgress
) -> TaskScore:
    items = completions.READERS[name](data)
    rows = items.rows(tokenizer, sys.maxsize)
    batches, found = Batches(rows), []
    for scorer, what in zip(scorers, (name, f"{name}, untrained"), strict=True):
        sums = scorer(batches, _named(what, progress))
        choice = completions.choose(items, items.scores(rows, sums), "ours", seed)
        found.append((completions.accuracy(items, choice, seed), choice.ties))
    (trained, ties), (blank, _) = found
    by = {
        group: {"score": row["half"], "ties": row["ties"], "items": row["items"], "untrained": blank.by[group]["half"]}
        for group, row in trained.by.items()
    }
    return TaskScore("accuracy", trained.half, blank.half, None, ties, trained.interval, by)


def _reading(scorers: Sequence[RowScores], tokenizer: Any, data: Path, progress: TaskProgress) -> TaskScore:
    words = reading.read(data)
    rows, owners = words.rows(tokenizer, "official", sys.maxsize)
    batches = Batches(rows)
    trained, blank = (
        reading.score(words, words.surprisals(scorer(batches, _named(what, progress)), owners))
        for scorer, what in zip(scorers, (READING, f"{READING}, untrained"), strict=True)
    )
    by = {
        "eye tracking": {"score": trained.eye_tracking, "untrained": blank.eye_tracking},
        "self-paced": {"score": trained.self_paced, "untrained": blank.self_paced},
    }
    return TaskScore("gain", trained.score, blank.score, by=by)


def fine_tuned(
    folders: tuple[Path, Path], name: str, data: str, seeds: Sequence[int], progress: TaskProgress
) -> TaskScore:
    """The score on a task glue/NAME of two bundles, the trained and the untrained one.

    Results of fine-tuning are cached: what another trial or an earlier call has finished is not repeated.
    """
    from trainables.evaluation import finetune

    task, work = name.removeprefix(GLUE), files.cache_root() / "finetuned"
    trained, blank = (
        finetune.finetune(folder, task, data, work, seeds, lambda text, what=what: progress(f"{what}: {text}", 0, 0))
        for folder, what in zip(folders, (name, f"{name}, untrained"), strict=True)
    )
    by = {f"seed {each}": {"score": value, "untrained": blank.by_seed[each]} for each, value in trained.by_seed.items()}
    by |= {
        label: {"score": getattr(trained, key), "untrained": getattr(blank, key)}
        for label, key in (("last epoch", "last"), ("majority label", "majority"))
    }
    return TaskScore(trained.measure, trained.score, blank.score, by=by)


def _named(what: str, progress: TaskProgress) -> pseudo_likelihood.Progress:
    return lambda done, total: progress(what, done, total)
