"""The table that the BabyLM challenge's pipeline would give of a bundle, and the predictions that it would collate.

What is computed, from which files and by which rule, is in rules.py. Scores are as the leaderboard has them, times 100
when shown. Data that are missing leave their column empty. A finished (task, checkpoint) lies in the cache.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.system import files
from trainables import machine
from trainables.evaluation import acquisition, completions, glue, pseudo_likelihood, reading, rules, tasks, workers
from trainables.evaluation.kept import Kept, TaskProgress
from trainables.evaluation.pseudo_likelihood import Batches

SERIES = "series"

Told = dict[str, dict[str, Any]]  # predictions by subtask


@dataclass(frozen=True)
class Column:
    """A score of the table, as the leaderboard has it divided by 100.

    Args:
        score: by the rule that was asked for.
        untrained: the same of random weights.
        half: with ties as their share in place of a random draw; None if nothing can tie.
        ties: items with several likeliest options; None if nothing can tie.
        ci: 95 % bootstrap interval over items, with ties as their share; None for Reading (see reading.py), GLUE.
        by: scores of the parts.
    """

    score: float
    untrained: float
    half: float | None = None
    ties: int | None = None
    ci: tuple[float, float] | None = None
    by: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Official:
    """What was found.

    Args:
        columns: by key of `rules.COLUMNS`, in its order; None for one without data.
        submission: the predictions file: by task, None for one that is missing.
        notes: a line each for what keeps this from being what the challenge would find.
        origin: where the data come from: the folder, or the hub's repository and commit.
    """

    columns: Mapping[str, Column | None]
    submission: dict[str, Any]
    notes: list[str]
    origin: str = ""

    @property
    def total(self) -> float | None:
        """The mean of the columns; None unless all are there."""
        scores = [column.score for column in self.columns.values() if column]
        return float(np.mean(scores)) if len(scores) == len(rules.COLUMNS) else None


@dataclass(frozen=True)
class Request:
    """What is to be found.

    Args:
        bundle: the folder of the model.
        data: the folder with `full_eval` and `fast_eval`.
        columns: keys of `rules.COLUMNS`.
        rule: `official`, or `ours`: see the README.
        series: the folder of the checkpoints.
        fast: whether their fast evaluation is wanted too.
        seed: of the untrained weights, ties and bootstraps.
        seeds: of fine-tuning.
        device: where to compute.
        workers: processes that share the zero-shot scoring and torch's threads; see workers.py. Processes that have as
            many threads give the same scores to the bit, whatever their number, on machines of one kind.
        origin: of the data, for the record; the folder, unless given.
    """

    bundle: Path
    data: Path
    columns: Collection[str] = tuple(rules.COLUMNS)
    rule: rules.Rule = "official"
    series: Path | None = None
    fast: bool = False
    seed: int = 0
    seeds: Sequence[int] = (0,)
    device: str = "cpu"
    workers: int = 1
    origin: str = ""


def evaluate(request: Request, progress: TaskProgress) -> Official:
    """The table. Everything is read and checked before anything is scored. ValueError, in one line, for bad input."""
    machine.check_workers(request.workers, request.device)
    model, tokenizer = pseudo_likelihood.load(request.bundle)
    most = pseudo_likelihood.positions(model)
    full = _read(request, tokenizer, most, rules.FULL)
    fast = _read(request, tokenizer, most, rules.FAST) if request.fast else {}
    series = _series(request) if request.fast or "aoa" in request.columns else {}
    lexicon = _lexicon(request)
    tuned = [name for name in rules.GLUE_TASKS if "glue" in request.columns and _glue_data(request, name)]
    for name in tuned:
        tasks.check({f"glue/{name}": str(_folder(request, rules.FULL) / rules.GLUE)}, None, most)
    lexicon_rows = lexicon.rows(tokenizer, most) if lexicon and len(series) == len(rules.CHECKPOINTS) else []
    if not full and not tuned and not lexicon_rows and not fast:
        if lexicon:
            raise ValueError(f"AoA: {_lacks_checkpoints(series)}, and it needs all of them")
        place = request.origin or request.data
        raise ValueError(f"{place} has nothing to score: expected {rules.FULL}/blimp_filtered and the like")
    models = {name: Kept.trained(folder, tokenizer, request.device) for name, folder in series.items()}
    notes = [note for key, part in full.items() for note in part.notes(rules.PARTS[key].items, rules.SIZES.get(key))]
    for key, part in fast.items():
        notes += part.notes(rules.PARTS[key].fast_items, rules.FAST_SIZES.get(key))

    found: dict[str, Column | None] = dict.fromkeys(rules.COLUMNS)
    submission: dict[str, Any] = dict.fromkeys((*rules.PARTS, "aoa_surprisals", "aoa"))
    submission["glue"] = {}
    trained = Kept.trained(request.bundle, tokenizer, request.device)
    blank = Kept.untrained(request.bundle, tokenizer, request.device, request.seed)
    lexicon_batches = Batches(lexicon_rows)
    if request.workers > 1:
        jobs = _jobs(full, (trained, blank), fast, models, lexicon_batches)
        workers.score(jobs, request.workers, max(1, torch.get_num_threads() // request.workers), progress)
    for column in rules.COLUMNS:
        parts = {key: part for key, part in full.items() if rules.PARTS[key].column == column}
        if parts:
            scored, told = _column(parts, (trained, blank), request, progress)
            submission |= told
            found[column] = None if _absent(request, column) else scored
    if request.fast and not fast:
        notes.append(f"there is nothing of the fast evaluation in {_shown(request, _folder(request, rules.FAST))}")
    if request.fast:
        submission["fast_eval_results"] = _fast(fast, models, request, progress)
    if lexicon and lexicon_batches.place:
        scorers = [models[name] for name in rules.CHECKPOINTS]
        found["aoa"], told = _acquired(lexicon, lexicon_batches, scorers, blank, tokenizer, request, progress)
        submission |= told
    elif (lexicon or request.fast) and len(series) < len(rules.CHECKPOINTS):
        notes.append(_lacks_checkpoints(series))
    if lexicon and len(lexicon.words) != rules.AOA_ITEMS:
        notes.append(_other_number("aoa", len(lexicon.words), rules.AOA_ITEMS))
    if tuned:
        found["glue"], submission["glue"] = _glue(tuned, request, progress)
        sizes = {name: len(submission["glue"][name]["predictions"]) for name in tuned}
        others = {name: size for name, size in sizes.items() if size != rules.GLUE_ITEMS[name]}
        notes += [_other_number(f"glue/{name}", size, rules.GLUE_ITEMS[name]) for name, size in others.items()]
    for column in request.columns:
        if found[column] is None:
            notes.append(f"{rules.COLUMNS[column]} has no score: {_lacks(request, column, tuned)}")
    return Official(found, submission, notes, request.origin or str(request.data))


class _Judged(NamedTuple):
    """One part by one model: scores by subtask, as in the results of the fast evaluation, and predictions."""

    scores: dict[str, float]
    told: Told


class _Choices:
    """A part whose items have options."""

    def __init__(self, key: str, path: Path, shown: str, tokenizer: Any, most: int) -> None:
        self.items = completions.READERS[rules.PARTS[key].task](path)
        if rules.PARTS[key].column == "global_piqa":
            self.items.group = [key] * len(self.items.group)
        self.rows = self.items.rows(tokenizer, most)
        self.batches = Batches(self.rows)
        self._shown = shown

    def notes(self, expected: int | None, sizes: Mapping[str, int] | None) -> list[str]:
        """What is wrong with the data: items in all or, if those are as many as expected, of a subtask."""
        size, by = len(self.items.options), Counter(map(str.lower, self.items.subtask))
        if expected not in (None, size):
            return [_other_number(self._shown, size, expected)]
        others = [name for name in sorted({*by, *sizes}) if by[name] != sizes.get(name, 0)] if sizes else []
        return [_other_number(f"{self._shown}, {name},", by[name], (sizes or {}).get(name, 0)) for name in others]

    def choose(self, sums: NDArray[np.float64], request: Request) -> completions.Choice:
        """The model's choices."""
        return completions.choose(self.items, self.items.scores(self.rows, sums), request.rule, request.seed)

    def judge(self, sums: NDArray[np.float64], request: Request) -> _Judged:
        """The predictions, and accuracies by subtask."""
        choice = self.choose(sums, request)
        by = completions.by_group(self.items, choice)
        name = _score_of(request)
        return _Judged({group: row[name] for group, row in by.items()}, self.items.predictions(choice.chosen))


class _Reading:
    """The part of reading times."""

    def __init__(self, path: Path, shown: str, tokenizer: Any, most: int, rule: rules.Rule) -> None:
        self.words = reading.read(path)
        rows, self._owners = self.words.rows(tokenizer, rule, most)
        self.batches = Batches(rows)
        self._shown = shown

    def notes(self, expected: int | None, _sizes: Mapping[str, int] | None) -> list[str]:
        """What is wrong with the data."""
        size = len(self.words.before)
        return [] if expected in (None, size) else [_other_number(self._shown, size, expected)]

    def gain(self, sums: NDArray[np.float64]) -> reading.Gain:
        """The model's score."""
        return reading.score(self.words, self.words.surprisals(sums, self._owners))

    def judge(self, sums: NDArray[np.float64], request: Request) -> _Judged:
        """The predictions, and both parts of the score."""
        surprisals = self.words.surprisals(sums, self._owners)
        eye, paced = reading.gains(self.words, *surprisals)
        return _Judged({"spr": paced, "rt": eye}, reading.predictions(surprisals))


def _score_of(request: Request) -> str:
    """Which of `completions.Accuracy.by` is the score."""
    return "score" if request.rule == "official" else "half"


def _folder(request: Request, kind: str) -> Path:
    return request.data / kind


def _shown(request: Request, path: Path) -> str:
    """A path of the data for people, who know a repository by its name, not by our copy."""
    return f"{request.origin or request.data}/{path.relative_to(request.data).as_posix()}"


def _read(request: Request, tokenizer: Any, most: int, kind: str) -> dict[str, _Choices | _Reading]:
    """The parts that are wanted and there, tokenised."""
    if not request.data.is_dir():
        raise ValueError(f"there is no {request.data}")
    found: dict[str, _Choices | _Reading] = {}
    for key, part in rules.PARTS.items():
        place = part.full if kind == rules.FULL else part.fast
        if place is None or part.column not in request.columns:
            continue
        path = _folder(request, kind) / place
        if not path.exists():
            continue
        if part.task == "reading":
            found[key] = _Reading(path, _shown(request, path), tokenizer, most, request.rule)
        else:
            found[key] = _Choices(key, path, _shown(request, path), tokenizer, most)
    return found


def _jobs(
    full: Mapping[str, _Choices | _Reading],
    scorers: tuple[Kept, Kept],
    fast: Mapping[str, _Choices | _Reading],
    models: Mapping[str, Kept],
    lexicon: Batches,
) -> list[workers.Job]:
    """All that is scored by a model without fine-tuning it, those of one model one after the other."""
    aged = {"aoa": lexicon} if lexicon.place else {}
    batches = {key: part.batches for key, part in full.items()}
    found = [workers.Job(scorers[0], key, each) for key, each in batches.items()]
    found += [workers.Job(scorers[1], _untrained(key), each) for key, each in (batches | aged).items()]
    at_each = {key: part.batches for key, part in fast.items()} | aged
    return found + [
        workers.Job(model, _at(name, key), each) for name, model in models.items() for key, each in at_each.items()
    ]


def _untrained(key: str) -> str:
    """What the progress is called of a part by the untrained model."""
    return f"{key}, untrained"


def _at(checkpoint: str, key: str) -> str:
    """What it is called by a checkpoint."""
    return f"{checkpoint}, {key}"


def _column(
    parts: Mapping[str, _Choices | _Reading], scorers: tuple[Kept, Kept], request: Request, progress: TaskProgress
) -> tuple[Column, dict[str, Told]]:
    """(the column of its parts, predictions by part)."""
    sums = {
        key: [
            scorer(part.batches, _named(what, progress))
            for scorer, what in zip(scorers, (key, _untrained(key)), strict=True)
        ]
        for key, part in parts.items()
    }
    told = {key: part.judge(sums[key][0], request).told for key, part in parts.items()}
    texts = [part for part in parts.values() if isinstance(part, _Reading)]
    if texts:
        (key,) = parts
        trained, blank = (texts[0].gain(each) for each in sums[key])
        by = {
            "eye tracking": {"score": trained.eye_tracking, "untrained": blank.eye_tracking},
            "self-paced": {"score": trained.self_paced, "untrained": blank.self_paced},
        }
        return Column(trained.score, blank.score, by=by), told
    choices = {key: part for key, part in parts.items() if isinstance(part, _Choices)}
    items = completions.joined([part.items for part in choices.values()])
    found = []
    for which in range(2):
        chosen = completions.joined_choices([part.choose(sums[key][which], request) for key, part in choices.items()])
        found.append((completions.accuracy(items, chosen, request.seed), chosen.ties))
    (trained, ties), (blank, _) = found
    name = _score_of(request)
    by = {
        group: {
            "score": row[name], "half": row["half"], "ties": row["ties"], "items": row["items"],
            "untrained": blank.by[group][name],
        }
        for group, row in trained.by.items()
    }  # fmt: skip
    score, untrained = ((each.drawn if name == "score" else each.half) for each in (trained, blank))
    return Column(score, untrained, trained.half, ties, trained.interval, by), told


def _series(request: Request) -> dict[str, Path]:
    """The folders of checkpoints that are there, by name. ValueError for one with another tokenizer."""
    root = request.series or request.bundle / SERIES
    if request.series and not root.is_dir():
        raise ValueError(f"there is no {root}")
    found = {name: root / name for name in rules.CHECKPOINTS if (root / name).is_dir()}
    own = request.bundle / "tokenizer.json"
    for folder in found.values():
        pseudo_likelihood.load_config(folder)
        other = folder / "tokenizer.json"
        if own.is_file() != other.is_file() or (own.is_file() and own.read_bytes() != other.read_bytes()):
            raise ValueError(f"{folder} has another tokenizer than {request.bundle}")
    return found


def _lacks_checkpoints(series: Collection[str]) -> str:
    missing = [name for name in rules.CHECKPOINTS if name not in series]
    return f"the series lacks {len(missing)} of {len(rules.CHECKPOINTS)} checkpoints, such as {missing[0]}"


def _fast(
    parts: Mapping[str, _Choices | _Reading], models: Mapping[str, Kept], request: Request, progress: TaskProgress
) -> dict[str, list[dict[str, float] | None]]:
    """Scores of every task at every checkpoint, by subtask; None for a checkpoint or task that is missing."""
    found: dict[str, list[dict[str, float] | None]] = {key: [] for key, part in rules.PARTS.items() if part.fast}
    for name in rules.CHECKPOINTS:
        for key in found:
            model, part = models.get(name), parts.get(key)
            if model is None or part is None:
                found[key].append(None)
                continue
            sums = model(part.batches, _named(_at(name, key), progress))
            found[key].append(part.judge(sums, request).scores)
        if name in models:
            models[name].forget()
    return found


def _lexicon(request: Request) -> acquisition.Lexicon | None:
    folder = _folder(request, rules.FULL)
    contexts, children = folder / rules.CONTEXTS, folder / rules.CHILDREN
    if "aoa" not in request.columns or not contexts.exists() or not children.exists():
        return None
    return acquisition.read(contexts, children)


def _acquired(
    lexicon: acquisition.Lexicon,
    batches: Batches,
    models: Sequence[Kept],
    blank: Kept,
    tokenizer: Any,
    request: Request,
    progress: TaskProgress,
) -> tuple[Column, dict[str, Any]]:
    """The column of ages of acquisition. The untrained model stands for all checkpoints, so that it learns nothing."""
    curves = []
    for name, model in zip(rules.CHECKPOINTS, models, strict=True):
        curves.append(-model(batches, _named(_at(name, "aoa"), progress)))
        model.forget()
    flat = -blank(batches, _named(_untrained("aoa"), progress))
    trained, untrained = (
        acquisition.score(lexicon, np.stack(each), tokenizer, request.seed, request.rule)
        for each in (curves, [flat] * len(curves))
    )
    score, other = (each.official if request.rule == "official" else each.correlation for each in (trained, untrained))
    by = {
        "correlation": {"score": trained.correlation, "untrained": untrained.correlation},
        "p": {"score": trained.p, "untrained": untrained.p},
        "words": {"score": trained.words, "untrained": untrained.words},
    }
    told = {"aoa_surprisals": lexicon.told(np.stack(curves)), "aoa": {"aoa": trained.official}}
    return Column(score, other, ci=trained.interval, by=by), told


def _glue_data(request: Request, name: str) -> bool:
    return (_folder(request, rules.FULL) / rules.GLUE / f"{name}.train.jsonl").is_file()


def _glue(names: Sequence[str], request: Request, progress: TaskProgress) -> tuple[Column | None, Told]:
    """(The mean of the tasks, None unless all are there; the first seed's predictions by task)."""
    from trainables.evaluation import finetune

    data = str(_folder(request, rules.FULL) / rules.GLUE)
    asked, work = [f"{name}{glue.LAST}" for name in names], files.cache_root() / "finetuned"
    with tempfile.TemporaryDirectory(prefix="untrained-") as kept, torch.device(request.device):
        tokenizer = pseudo_likelihood.load_tokenizer(request.bundle)
        blank = tasks.Untrained(request.bundle, tokenizer, request.device, request.seed)
        folders = request.bundle, blank.write(Path(kept) / "bundle")
        scores = [tasks.fine_tuned(folders, f"glue/{name}", data, request.seeds, progress) for name in asked]
        told: Told = {}
        for name in asked:  # from the records that the scores have left
            told |= finetune.predictions(request.bundle, name, data, work, request.seeds[0])
    if len(scores) < len(rules.GLUE_TASKS):
        return None, told
    by = {name: {"score": one.score, "untrained": one.untrained} for name, one in zip(names, scores, strict=True)}
    score, untrained = (float(np.mean([row[key] for row in by.values()])) for key in ("score", "untrained"))
    return Column(score, untrained, by=by), told


def _lacks(request: Request, column: str, glue: Sequence[str]) -> str:
    """Why a column is empty."""
    folder = _folder(request, rules.FULL)
    if column == "glue":
        missing = [name for name in rules.GLUE_TASKS if name not in glue]
        return f"{_shown(request, folder / rules.GLUE)} has no data of {', '.join(missing)}"
    if column == "aoa":
        absent = [folder / name for name in (rules.CONTEXTS, rules.CHILDREN) if not (folder / name).exists()]
        return f"there is no {_shown(request, absent[0])}" if absent else "it needs every checkpoint of the series"
    return f"there is no {' and no '.join(_shown(request, place) for place in _absent(request, column))}"


def _absent(request: Request, column: str) -> list[Path]:
    """What a column needs of the full data and is not there."""
    places = [_folder(request, rules.FULL) / part.full for part in rules.PARTS.values() if part.column == column]
    return [place for place in places if not place.exists()]


def _other_number(what: str, size: int, expected: int) -> str:
    return f"{what} has {size:,} items, the challenge's {expected:,}: its collation would set the task aside"


def _named(what: str, progress: TaskProgress) -> pseudo_likelihood.Progress:
    return lambda done, total: progress(what, done, total)
