"""The challenge's columns, ours against its rules written out slowly: `python -m tests.benchmarks.official [--json]`.

Made-up items in the published layouts, of a small model after some steps of training, of the same untrained, and of 19
checkpoints between the two, with a WordPiece and a byte-level tokenizer, by both rules. `max_difference` is the largest
of all differences, of scores from 0 to 1; `columns` has them one by one, as TOKENIZER/RULE/COLUMN, where `fast` is the
fast evaluation, compared at three checkpoints. For AoA, `official` is held against the solver that the pipeline calls,
which stops a little early, and `ours` against least squares found another way; `stops_short` tells how far the first
is from them. (Super)GLUE, intervals and the mean of the nine are not compared here.

`--cost` in its stead: seconds by column of one model of the published size (11.2 M parameters) on two threads, beside
one sentence and one mask at a time (measured on fewer and scaled), on made-up items at a stated share of the published
counts. AoA is of 19 checkpoints, each of which is loaded, and not scaled. `full_cpu` is what the published counts
would take at that speed, on sentences as long as these.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.evaluate import bundle as published_bundle
from tests.trainables import challenge, challenge_slowly
from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from trainables.data.vocabulary import Vocabulary
from trainables.data.wordpiece import Trained
from trainables.evaluation import acquisition, completions, official, pseudo_likelihood, reading, rules
from trainables.evaluation.official import Request
from trainables.evaluation.pseudo_likelihood import Batches, Scorer

RULES: tuple[rules.Rule, ...] = ("official", "ours")
FAST_AT = (0, 9, 18)  # which checkpoints' fast evaluation is compared
Ages = tuple[float, float, int]  # the pipeline's score, the correlation, words
SLOW_TASKS: dict[str, Callable[..., challenge_slowly.Tally]] = {
    "blimp": challenge_slowly.blimp,
    "blimp_supplement": challenge_slowly.blimp,
    "ewok": challenge_slowly.ewok,
    "entity_tracking_filtered": challenge_slowly.entity_tracking,
    "comps": challenge_slowly.comps,
    "global_piqa_parallel": partial(challenge_slowly.global_piqa, options=4),
    "global_piqa_nonparallel": partial(challenge_slowly.global_piqa, options=2),
}
COST_SHARE = 1 / 1000  # of the published items
SLOW_ITEMS = 1  # of a file, for the slow loop
AOA_WORDS = 8  # in two or three contexts: 1/400 of the published ones


def small_bundle(folder: Path, vocabulary: Vocabulary) -> Path:
    """A small model after some steps, with room for the items."""
    made = make_bundle(folder / "bundle", vocabulary, max_position_embeddings=192)
    fit(made, sentences(2560), steps=80)
    return made


def tokenizers() -> dict[str, Vocabulary]:
    """By name; the second cuts an accented letter in two."""
    text = sentences(2560)
    return {"wordpiece": Trained(300).obtain(text), "bytes": challenge.byte_level(text, 360)}


def accented(folder: Path) -> None:
    """Give every file of made-up items letters of two bytes."""
    for path in folder.rglob("*.*"):
        path.write_text(path.read_text("utf-8").replace("hy", "h\u00fd"), "utf-8")


@dataclass(frozen=True)
class Slow:
    """What the slow version finds of one model, by either rule: (as the rule has it, with ties as their share)."""

    columns: dict[rules.Rule, dict[str, tuple[float, float]]]

    @classmethod
    def of(cls, model: Any, tokenizer: Any, folder: Path) -> Slow:
        tallies = slow_tallies(model, tokenizer, folder, full=True)
        columns: dict[rules.Rule, dict[str, tuple[float, float]]] = {}
        for rule in RULES:
            ours, found = rule == "ours", {}
            for key, tally in tallies.items():
                pair = tally.mean(ours=ours), tally.mean(half=True, ours=ours)
                found.setdefault(rules.PARTS[key].column, []).append(pair)
            gain = sum(challenge_slowly.reading(model, tokenizer, folder / rules.PARTS["reading"].full, ours)) / 2
            columns[rule] = {name: tuple(np.mean(parts, axis=0).tolist()) for name, parts in found.items()}
            columns[rule] |= {"reading": (gain, gain)}
        return cls(columns)


def slow_tallies(model: Any, tokenizer: Any, folder: Path, full: bool) -> dict[str, challenge_slowly.Tally]:
    """By part."""
    places = {key: rules.PARTS[key].full if full else rules.PARTS[key].fast for key in SLOW_TASKS}
    return {key: SLOW_TASKS[key](model, tokenizer, folder / place) for key, place in places.items() if place}


def differences(folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """(the largest difference by TOKENIZER/RULE/COLUMN, how far the pipeline's solver stops from the least squares)."""
    apart, stops = {}, {}
    for name, vocabulary in tokenizers().items():
        found, stops[name] = compared(folder / name, vocabulary)
        apart |= {f"{name}/{key}": value for key, value in found.items()}
    return apart, stops


def compared(folder: Path, vocabulary: Vocabulary) -> tuple[dict[str, float], float]:
    """The same of one tokenizer. The column `fast` is the fast evaluation of the series."""
    folder.mkdir()
    made = small_bundle(folder, vocabulary)
    data = challenge.write_challenge(folder / "evaluation_data", items=6)
    accented(data)
    model, tokenizer = pseudo_likelihood.load(made)
    blank = pseudo_likelihood.untrained(made, 0).eval()
    challenge.write_series(made, blank, made / "series")
    full = data / rules.FULL
    trained, untrained = (Slow.of(each, tokenizer, full).columns for each in (model, blank))
    models = [pseudo_likelihood.load(made / "series" / name)[0] for name in rules.CHECKPOINTS]
    learnt, flat = (challenge_slowly.curves(each, tokenizer, full / rules.CONTEXTS) for each in (models, [blank]))
    flat = {word: curve * len(models) for word, curve in flat.items()}
    fast = {at: slow_fast(models[at], tokenizer, data / rules.FAST) for at in FAST_AT}
    ages = {
        rule: [challenge_slowly.acquisition(each, tokenizer, full / rules.CHILDREN, fit) for each in (learnt, flat)]
        for rule, fit in zip(RULES, (challenge_slowly.stopped_sigmoid, challenge_slowly.best_sigmoid), strict=True)
    }
    apart, stops = {}, 0.0
    for rule in RULES:
        found = official.evaluate(Request(made, data, rule=rule, fast=True), lambda *_: None)
        for name, (score, half) in trained[rule].items():
            column = found.columns[name]
            assert column is not None
            pairs = [(column.score, score), (column.untrained, untrained[rule][name][0])]
            pairs += [(column.half, half)] if column.half is not None else []
            apart[f"{rule}/{name}"] = max(abs(one - other) for one, other in pairs)
        column = found.columns["aoa"]
        assert column is not None
        apart[f"{rule}/aoa"] = _acquisition(column, rule, *ages[rule])
        if rule == "official":
            stops = abs(column.by["correlation"]["score"] - ages["ours"][0][1])
        apart[f"{rule}/fast"] = _fast(found.submission["fast_eval_results"], rule, fast)
    return apart, stops


def _acquisition(column: official.Column, rule: rules.Rule, series: Ages, untrained: Ages) -> float:
    """The largest difference; series and untrained: what the slow version finds of the checkpoints and of the start."""
    score, correlation, words = series
    assert words == column.by["words"]["score"] > 3, "an empty comparison"
    at = 1 if rule == "ours" else 0
    pairs = [(column.score, (score, correlation)[at]), (column.by["correlation"]["score"], correlation)]
    pairs.append((column.untrained, untrained[at]))
    return max(abs(one - other) for one, other in pairs)


@dataclass(frozen=True)
class SlowFast:
    """The fast evaluation of one checkpoint. reading: (eye tracking, self-paced) by either rule."""

    tallies: dict[str, challenge_slowly.Tally]
    reading: dict[rules.Rule, tuple[float, float]]


def slow_fast(model: Any, tokenizer: Any, folder: Path) -> SlowFast:
    place = folder / rules.PARTS["reading"].full
    texts: dict[rules.Rule, tuple[float, float]] = {
        rule: challenge_slowly.reading(model, tokenizer, place, rule == "ours") for rule in RULES
    }
    return SlowFast(slow_tallies(model, tokenizer, folder, full=False), texts)


def _fast(told: dict[str, list[Any]], rule: rules.Rule, slow: dict[int, SlowFast]) -> float:
    """The largest difference of any subtask at a first, a middle and the last checkpoint."""
    apart = []
    for at, each in slow.items():
        for key, tally in each.tallies.items():
            by = tally.shares(half=False, ours=rule == "ours").values()
            shares = {group: share for groups in by for group, share in groups.items()}
            shares = {key: shares["all"]} if "all" in shares else shares
            assert set(shares) == set(told[key][at])
            apart += [abs(share - told[key][at][group]) for group, share in shares.items()]
        eye, paced = each.reading[rule]
        apart += [abs(eye - told["reading"][at]["rt"]), abs(paced - told["reading"][at]["spr"])]
    return max(apart)


def costs(folder: Path) -> list[dict[str, Any]]:
    """A row for every part: items, seconds, and seconds of the slow loop for as many."""
    text = sentences(65, seed=9)
    made = published_bundle(folder / "published", text)
    model, tokenizer = pseudo_likelihood.load(made)
    scorer, data = Scorer(model, tokenizer), folder / "data"
    few = folder / "few"
    challenge.write_kind(few, SLOW_ITEMS, fast=False)
    rows = []
    scorer(text)
    for key, part in rules.PARTS.items():
        challenge.write_kind(data / key, max(8, round(part.items * COST_SHARE / _files(few / part.full))), fast=False)
        begin = _clocks()
        items = _score(scorer, tokenizer, data / key / part.full, part.task)
        ours = _clocks() - begin
        begin = _clocks()
        if key == "reading":
            challenge_slowly.reading_rows(model, tokenizer, few / part.full)
            many = 8 * SLOW_ITEMS
        else:
            many = len(SLOW_TASKS[key](model, tokenizer, few / part.full).items)
        slow = (_clocks() - begin) / many * items
        rows.append(_row(key, items, part.items, ours, slow))
    return [*rows, _acquisition_cost(made, folder, tokenizer)]


def _acquisition_cost(made: Path, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """The row of AoA: every checkpoint is loaded, and scores every context; then the curves are fitted."""
    place, data = folder / "checkpoint", folder / "aoa"
    challenge.write_acquisition(data, AOA_WORDS)
    contexts, children = data / rules.CONTEXTS, data / rules.CHILDREN
    begin = _clocks()
    lexicon = acquisition.read(contexts, children)
    batches = Batches(lexicon.rows(tokenizer, 128))
    ours = _clocks() - begin
    loading, slow = np.zeros(2), np.zeros(2)
    found: list[Any] = []
    curves: dict[str, list[float]] = {}
    for _, checkpoint in challenge.checkpoints(made, pseudo_likelihood.untrained(made, 0)):
        checkpoint.save_pretrained(place)
        for path in made.glob("tokenizer*"):
            shutil.copy(path, place / path.name)
        times = [_clocks()]
        model, _ = pseudo_likelihood.load(place)
        times.append(_clocks())
        found.append(-Scorer(model, tokenizer).batches(batches))
        times.append(_clocks())
        for word, curve in challenge_slowly.curves([model], tokenizer, contexts).items():
            curves.setdefault(word, []).extend(curve)
        times.append(_clocks())
        loading, ours, slow = (
            total + after - before
            for total, before, after in zip((loading, ours, slow), times[:-1], times[1:], strict=True)
        )
    times = [_clocks()]
    acquisition.score(lexicon, np.stack(found), tokenizer)
    times.append(_clocks())
    challenge_slowly.acquisition(curves, tokenizer, children, challenge_slowly.stopped_sigmoid)
    times.append(_clocks())
    ours, slow = ours + times[1] - times[0] + loading, slow + times[2] - times[1] + loading
    return _row(f"aoa, {len(found)} checkpoints", len(lexicon.words), rules.AOA_ITEMS, ours, slow, loading)


def _row(
    name: str, items: int, published: int, ours: np.ndarray, slow: np.ndarray, fixed: np.ndarray | float = 0.0
) -> dict[str, Any]:
    """A row of the table, also told at once. fixed: what of both does not grow with the items."""
    full = fixed + (ours - fixed) / items * published
    row = {"task": name, "items": items, "seconds": ours[0], "one_by_one": slow[0], "cpu_seconds": ours[1]}
    row |= {"one_by_one_cpu": slow[1], "full_cpu": full[1]}
    print(json.dumps(row), file=sys.stderr)
    return row


def _clocks() -> np.ndarray:
    """[2] seconds that passed, and seconds of computing, which tell less of what else the machine does."""
    return np.array([time.perf_counter(), time.process_time()])


def _files(place: Path) -> int:
    """Files, or sorts of items, of a part; words that were read are 8 times as many."""
    if place.is_file():
        return 8
    several = sum(2 + number for number in range(3)) if place.name == "entity_tracking" else 0
    return several or len(list(place.glob("*.jsonl")))


def _score(scorer: Scorer, tokenizer: Any, path: Path, task: str) -> int:
    """Score a part from its files to its number. Returns how many items it has."""
    if task == "reading":
        words = reading.read(path)
        rows, owners = words.rows(tokenizer, "official", 512)
        reading.score(words, words.surprisals(scorer.batches(Batches(rows)), owners))
        return len(words.before)
    items = completions.READERS[task](path)
    rows = items.rows(tokenizer, 512)
    choice = completions.choose(items, items.scores(rows, scorer.batches(Batches(rows))), "official")
    completions.accuracy(items, choice)
    return len(items.options)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.official", description=__doc__)
    parser.add_argument("--cost", action="store_true", help="seconds by column, in place of differences")
    parser.add_argument("--threads", type=int, help="default: 1, because the model is small; with --cost 2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    threads = options.threads or (2 if options.cost else 1)
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as kept:
        if options.cost:
            rows = costs(Path(kept))
            result = {"threads": threads, "share": COST_SHARE, "rows": rows}
        else:
            os.environ["SWEEPER_CACHE"] = str(Path(kept) / "cache")
            apart, stops = differences(Path(kept))
            result = {"max_difference": max(apart.values()), "columns": apart, "stops_short": stops}
    if options.json:
        print(json.dumps(result))
    elif options.cost:
        heads = f"{'seconds':>9}{'one by one':>12}{'CPU':>9}{'one by one':>12}{'all items':>11}"
        print(f"{'task':26}{'items':>8}{heads}")
        for row in result["rows"]:
            numbers = f"{row['seconds']:9.2f}{row['one_by_one']:12.1f}"
            numbers += f"{row['cpu_seconds']:9.2f}{row['one_by_one_cpu']:12.1f}{row['full_cpu']:11.0f}"
            print(f"{row['task']:26}{row['items']:8}{numbers}")
    else:
        for name, value in result["columns"].items():
            print(f"{name:36} {value:.2g}")
        for name, value in result["stops_short"].items():
            print(f"the pipeline's solver, {name}, stops {value:.2g} from the least squares")


if __name__ == "__main__":
    main()
