"""The challenge's columns, ours against its rules written out slowly: `python -m tests.benchmarks.official [--json]`.

Made-up items in the published layouts, of a small model after some steps of training, of the same untrained, and of 19
checkpoints between the two, with a WordPiece tokenizer, by the rule `official`: ties drawn and as their share, in
float32. `max_difference` is the largest of all differences, of scores from 0 to 1; `columns` has them one by one. The
fast evaluation is compared at three checkpoints. The rule `ours`, other tokenizers, (Super)GLUE and the mean of the
nine are not compared here.

`--cost` in its stead: seconds by column of one model of the published size (11.2 M parameters) on two threads, beside
one sentence and one mask at a time (measured on fewer and scaled), on made-up items at a stated share of the published
counts; `full_cpu` is what the published counts would take at that speed, on sentences as long as these.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.evaluate import bundle as published_bundle
from tests.trainables import challenge, challenge_slowly
from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from trainables.data.tokenizer import Trained
from trainables.evaluation import acquisition, completions, official, pseudo_likelihood, reading, rules
from trainables.evaluation.official import Request
from trainables.evaluation.pseudo_likelihood import Batches, Scorer

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


def small_bundle(folder: Path) -> Path:
    """A small model after some steps, with room for the items."""
    text = sentences(2560)
    made = make_bundle(folder / "bundle", Trained(300).obtain(text), max_position_embeddings=128)
    fit(made, text, steps=80)
    return made


def slow_columns(model: Any, tokenizer: Any, folder: Path) -> dict[str, tuple[float, float]]:
    """(by the pipeline's rule, with ties as their share) of every column of one model."""
    found = {}
    for key, tally in slow_tallies(model, tokenizer, folder, full=True).items():
        found.setdefault(rules.PARTS[key].column, []).append((tally.mean(), tally.mean(half=True)))
    eye, paced = challenge_slowly.reading(model, tokenizer, folder / rules.PARTS["reading"].full)
    columns = {name: tuple(np.mean(parts, axis=0).tolist()) for name, parts in found.items()}
    return columns | {"reading": ((eye + paced) / 2, (eye + paced) / 2)}


def slow_tallies(model: Any, tokenizer: Any, folder: Path, full: bool) -> dict[str, challenge_slowly.Tally]:
    """By part."""
    places = {key: rules.PARTS[key].full if full else rules.PARTS[key].fast for key in SLOW_TASKS}
    return {key: SLOW_TASKS[key](model, tokenizer, folder / place) for key, place in places.items() if place}


def differences(folder: Path) -> dict[str, float]:
    """The largest difference of every column, and of the fast evaluation over the series."""
    made = small_bundle(folder)
    data = challenge.write_challenge(folder / "evaluation_data", items=6)
    model, tokenizer = pseudo_likelihood.load(made)
    blank = pseudo_likelihood.untrained(made, 0).eval()
    challenge.write_series(made, blank, made / "series")
    found = official.evaluate(Request(made, data, fast=True), lambda *_: None)
    full, apart = data / rules.FULL, {}
    slow = [slow_columns(each, tokenizer, full) for each in (model, blank)]
    for name, (trained, half) in slow[0].items():
        column = found.columns[name]
        assert column is not None
        pairs = [(column.score, trained), (column.untrained, slow[1][name][0])]
        pairs += [(column.half, half)] if column.half is not None else []
        apart[name] = max(abs(one - other) for one, other in pairs)
    models = [pseudo_likelihood.load(made / "series" / name)[0] for name in rules.CHECKPOINTS]
    apart["aoa"] = _acquisition(found, models, blank, tokenizer, full)
    apart["fast"] = _fast(found.submission["fast_eval_results"], models, tokenizer, data / rules.FAST)
    return apart


def _acquisition(found: official.Official, models: list[Any], blank: Any, tokenizer: Any, full: Path) -> float:
    curves = challenge_slowly.curves(models, tokenizer, full / rules.CONTEXTS)
    score, correlation, words = challenge_slowly.acquisition(curves, tokenizer, full / rules.CHILDREN)
    flat = {word: [curve[0]] * len(models) for word, curve in
            challenge_slowly.curves([blank], tokenizer, full / rules.CONTEXTS).items()}  # fmt: skip
    column = found.columns["aoa"]
    assert column is not None
    assert words == column.by["words"]["score"] > 3, "an empty comparison"
    untrained = challenge_slowly.acquisition(flat, tokenizer, full / rules.CHILDREN)[0]
    pairs = (
        (column.score, score), (column.by["correlation"]["score"], correlation), (column.untrained, untrained),
    )  # fmt: skip
    return max(abs(one - other) for one, other in pairs)


def _fast(told: dict[str, list[Any]], models: list[Any], tokenizer: Any, folder: Path) -> float:
    """The largest difference of any subtask at a first, a middle and the last checkpoint."""
    apart = []
    for at in (0, 9, 18):
        for key, tally in slow_tallies(models[at], tokenizer, folder, full=False).items():
            shares = {group: share for groups in tally.shares(half=False).values() for group, share in groups.items()}
            shares = {key: shares["all"]} if "all" in shares else shares
            assert set(shares) == set(told[key][at])
            apart += [abs(share - told[key][at][group]) for group, share in shares.items()]
        eye, paced = challenge_slowly.reading(models[at], tokenizer, folder / rules.PARTS["reading"].full)
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
    challenge.write_acquisition(data, 8)
    begin = _clocks()
    lexicon = acquisition.read(data / rules.CONTEXTS, data / rules.CHILDREN)
    scorer.batches(Batches(lexicon.rows(tokenizer, 128)))
    ours = _clocks() - begin
    begin = _clocks()
    challenge_slowly.curves([model], tokenizer, data / rules.CONTEXTS)
    return [*rows, _row("aoa, a checkpoint", len(lexicon.words), rules.AOA_ITEMS, ours, _clocks() - begin)]


def _row(name: str, items: int, published: int, ours: np.ndarray, slow: np.ndarray) -> dict[str, Any]:
    """A row of the table, also told at once."""
    row = {"task": name, "items": items, "seconds": ours[0], "one_by_one": slow[0], "cpu_seconds": ours[1]}
    row |= {"one_by_one_cpu": slow[1], "full_cpu": ours[1] / items * published}
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
            apart = differences(Path(kept))
            result = {"max_difference": max(apart.values()), "columns": apart}
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
            print(f"{name:18} {value:.2g}")


if __name__ == "__main__":
    main()
