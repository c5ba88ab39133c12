"""The run that becomes an entry: of a sweep's run folder, a folder of `trainables.mlm --output`, or a bundle.

What a sweep's record says is asked of sweeper's Python API, as a notebook would, and its bundle is checked as any other
that somebody else may have made.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import sweeper
from sweeper.system import files
from trainables import limits, received
from trainables.evaluation import pseudo_likelihood
from trainables.mlm import CLOCK, spent
from trainables.settings import word_amounts
from trainables.training.bundle import SERIES

FILES = ("config.json", received.WEIGHTS, "tokenizer.json", "tokenizer_config.json", "training_config.yaml")
FILES += ("metadata.json", "README.md")  # of a bundle, those that an entry has: no code, and no analysis


@dataclass(frozen=True)
class Clock:
    """How long training took.

    Args:
        hours: of this run alone, as if it had trained every step of its own; None if not on record.
        gpus: that it held at a time, on the mean, which may be a part of one; None if not on record.
        note: what the hours rest on.
    """

    hours: float | None = None
    gpus: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Chosen:
    """The run that an entry is made of.

    Args:
        name: of its model: a folder's name without a dot, at which the challenge's scripts would cut it.
        bundle: the last checkpoint.
        series: folders of the checkpoints by words seen, by name, in order.
        why: which run this is, in words.
        exploration: whether it was taken for a score of a search.
        clock: how long it took.
        cautions: what a reader must know of the run and its record, a sentence each.
    """

    name: str
    bundle: Path
    series: dict[str, Path] = field(default_factory=dict)
    why: str = ""
    exploration: bool = False
    clock: Clock = Clock()
    cautions: Sequence[str] = ()


def find(folder: Path, trial: str | None, trust: bool = False) -> Chosen:
    """The run in a folder. ValueError, in one line, for any other folder, and for a bundle that is not sound.

    Args:
        folder: a sweep's run folder, one of `trainables.mlm --output`, or a bundle.
        trial: of a sweep; by default its champion, or else the best of the search.
        trust: read a sweep's record even where it was changed since it was written.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    if (folder / "journal.jsonl").exists():
        found = _of_sweep(folder, trial, trust)
    elif trial is not None:
        raise ValueError(f"--trial {trial}: {folder} is not a sweep's run folder, so it has no trials")
    else:
        found = _alone(folder)
    pseudo_likelihood.load(found.bundle)
    for checkpoint in found.series.values():
        pseudo_likelihood.load(checkpoint)
        _refuse_other_tokenizer(checkpoint, found.bundle)
    unknown = [name for name, checkpoint in found.series.items() if not _of_its_run(name, checkpoint, found.bundle)]
    if not unknown:
        return found
    lacking = (
        f"{len(unknown)} of {len(found.series)} checkpoints, such as {unknown[0]}, or the model lack the record of "
    )
    caution = f"{lacking}their run, seed, data or step, so nobody checked that they are of one run"
    return replace(found, cautions=[*found.cautions, caution])


def _of_sweep(run_dir: Path, trial: str | None, trust: bool) -> Chosen:
    run = sweeper.load(run_dir, trust_record=trust)
    why, exploration = f"trial {trial}, as asked for", False
    cautions = [*run.journal.doubts()]
    if trial is None:
        trial, why, exploration, reserved = _best(run, run_dir)
        cautions += reserved
    cautions += [run.caution] if run.caution else []
    row = next((row for row in _rows(run) if row["trial"] == trial), None)
    if row is None or row["state"] != "completed":
        raise ValueError(f"--trial {trial}: {run_dir} has no completed trial of that name")
    bundle = run.bundle(trial)
    why = f"{why}: {row['candidate']}, seed {row['seed']}, of the {row['stage']} of {run.spec.name}"
    exploration = exploration or row["stage"] == "search"
    stuck = ["this run did not begin to learn"] if row["stuck"] is True else []
    cautions = [*dict.fromkeys(cautions), *stuck]
    name = _named(f"{run.spec.name}-{trial}")
    return Chosen(name, bundle, _series(bundle), why, exploration, _clock(run, row), cautions)


def _best(run: sweeper.Run, run_dir: Path) -> tuple[str, str, bool, list[str]]:
    """(trial, why it, whether by a score of the search, what is to be known of that choice).

    The champion's run on its first declared seed that completed, or else the best of the search.
    """
    champion = run.champion
    if champion.arm is not None and champion.run is not None:
        why = f"trial {champion.run.id}, the first declared run of {champion.arm}, which is confirmed"
        first, notes = run.journal.families()[0].seeds[0], [*champion.notes]
        if champion.run.ask.seed != first:
            notes.append(f"the run of {champion.arm} on seed {first} did not complete")
        return champion.run.id, why, False, notes
    if run.best is None:
        raise ValueError(f"{run_dir}: no trial of its search completed on the baseline's budget; name one by --trial")
    why_not = [champion.why_not] if champion.why_not else []
    why_not += [f"no declared run of {champion.arm}, which is confirmed, completed"] if champion.arm else []
    return str(run.best["trial"]), f"trial {run.best['trial']}, the best of the search", True, why_not


def _rows(run: sweeper.Run) -> list[dict[str, Any]]:
    return [*run.trials().to_dict("records"), *run.confirmation().to_dict("records")]


def _clock(run: sweeper.Run, row: dict[str, Any]) -> Clock:
    """A trial's hours by the journal. What another trial trained for it is added at its own pace."""
    resources, hours = run.spec.resources, row["seconds"] / 3600
    gpus = resources.gpus_per_worker * resources.processes
    if isinstance(row["reused_from"], str):  # pandas has nan, not None, beside one
        return Clock(None, gpus, f"taken over from {row['reused_from']}: the hours are on that run's record")
    shared = row["started_at"] or 0
    if not shared:
        return Clock(hours, gpus, "from the trial's start to its end by the journal, validation and tasks included")
    own = f"{hours:.3g} hours by the journal for {row['steps'] - shared:,} steps, validation and tasks included"
    trunk = f"the first {shared:,} were trained once for several trials ({row['started_from']}) and are"
    pace = run.pace(row["trial"])
    if pace is None:
        return Clock(None, gpus, f"{own}; {trunk} not counted, as the trial reported too seldom to tell its pace")
    return Clock(hours + shared * pace / 3600, gpus, f"{own}; {trunk} counted at the pace of its steps, without tasks")


def _alone(folder: Path) -> Chosen:
    """Of a folder of `trainables.mlm --output`, or of a bundle."""
    bundle = folder / "checkpoint" / "bundle"
    whole = bundle.is_dir()
    if not whole and not (folder / "config.json").is_file():
        unfinished = ": its run has not come to its end" if (folder / "checkpoint").is_dir() else ""
        raise ValueError(
            f"{folder} is neither a sweep's run folder, nor one of `trainables.mlm --output`, nor a bundle{unfinished}"
        )
    for path in (folder / "checkpoint", folder / SERIES, folder / CLOCK) if whole else (folder,):
        if os.path.lexists(path):
            files.refuse_links(path)
    bundle = bundle if whole else folder
    series = _series(folder) or _series(bundle)
    name, clock = folder.resolve().name, _own_clock(folder) if whole else Clock()
    return Chosen(_named(name), bundle, series, f"the run in {name}", clock=clock)


def _own_clock(folder: Path) -> Clock:
    if not (folder / CLOCK).exists():
        return Clock()
    found = spent(limits.json_file(folder / CLOCK))
    if found is None:
        raise ValueError(f"{folder / CLOCK} does not say how long training took")
    gpus = found.gpu_seconds / found.seconds if found.seconds else 0.0
    return Clock(found.seconds / 3600, gpus, "from the start of training to its last report, over all sessions")


def _series(folder: Path) -> dict[str, Path]:
    """The checkpoints below a folder, by name, fewest words first."""
    root = folder / SERIES
    if not root.is_dir():
        return {}
    files.refuse_record_links(root)
    files.refuse_links(root.resolve())
    found = [path for path in root.iterdir() if path.is_dir() and re.fullmatch(r"chck_[0-9]{1,15}[KM]?", path.name)]
    return {path.name: path for path in sorted(found, key=lambda path: word_amounts.words(path.name[len("chck_") :]))}


def _refuse_other_tokenizer(checkpoint: Path, bundle: Path) -> None:
    """Raises ValueError where a checkpoint has another tokenizer than the bundle."""
    ours, theirs = (limits.read(one / "tokenizer.json", limits.TOKENIZER) for one in (bundle, checkpoint))
    if ours != theirs:
        raise ValueError(f"{checkpoint} has another tokenizer than {bundle}")


def _of_its_run(name: str, checkpoint: Path, bundle: Path) -> bool:
    """Whether the metadata show that a checkpoint is of the bundle's run; False where some of them are absent.

    ValueError, in one line, where they show that it is not, or that it has another number of words than its name says.
    """
    theirs, own = limits.metadata(checkpoint), limits.metadata(bundle)
    for key in ("seed", "data_fingerprint"):
        if key in theirs and key in own and theirs[key] != own[key]:
            raise ValueError(f"{checkpoint} is of another run than {bundle}: its {key} is another")
    words = word_amounts.words(name[len("chck_") :])
    if "mark" in theirs and theirs["mark"] != words:
        raise ValueError(f"{checkpoint} has a model after {theirs['mark']} words: its folder's name says {words}")
    steps: list[Any] = [theirs.get("step"), own.get("step")]
    whole = all(type(step) is int and step >= 0 for step in steps)
    if whole and steps[0] > steps[1]:
        raise ValueError(f"{checkpoint} is of a later step than {bundle}, so it is of another run")
    told = all(key in tree for key in ("seed", "data_fingerprint") for tree in (theirs, own))
    return told and whole and "mark" in theirs


def _named(given: str) -> str:
    """A name of letters, digits, - and _ for a folder, and for a repository on the hub."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", given).strip("-")[:80] or "model"
