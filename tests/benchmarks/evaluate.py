"""How fast sentences are scored: `python -m tests.benchmarks.evaluate [--pairs 200] [--threads 2] [--json]`.

Ours against the obvious scorer (one sentence and one mask at a time), in the published width (hidden 256, 4 layers,
30,522 entries), on pairs of made-up sentences; `--blimp` and `--zorro` name folders with real ones, `--bundle` a real
model. `max_difference` is the largest disagreement on a pair's preference, in nats, for the model after some steps of
training and for the same config untrained. `pairs_per_second` and `speedup` are of the trained one.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.trainables.one_by_one import fit, make_bundle, one_by_one
from tests.trainables.probes import reversed_words
from tests.trainables.texts import SYLLABLES, sentences
from trainables.data import tokenizer, vocabulary
from trainables.evaluation import minimal_pairs, pseudo_likelihood
from trainables.evaluation.pseudo_likelihood import Scorer
from trainables.evaluation.sentence_pairs import Pairs

ENTRIES = 30_522
PUBLISHED = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 1024}
REPEATS = 3


def bundle(folder: Path, text: list[str]) -> Path:
    """The published width, with a vocabulary of the text's words, pieces and fillers, after some steps on the text."""
    letters = sorted(set("".join(SYLLABLES)) | set("abcdefghijklmnopqrstuvwxyz.,'?!"))
    pieces = [*letters, *SYLLABLES]
    words = sorted(set(re.findall("[a-z]+", " ".join(text).lower())) - set(pieces))
    entries = [*vocabulary.SPECIALS.values(), *pieces, *(f"##{piece}" for piece in pieces), *words]
    entries += [f"filler{i}" for i in range(ENTRIES - len(entries))]
    (folder / "words").mkdir(parents=True)
    (folder / "words" / "vocab.txt").write_text("\n".join(entries) + "\n", "utf-8")
    made = make_bundle(
        folder / "bundle", tokenizer.find(str(folder / "words")).obtain([]), max_position_embeddings=128, **PUBLISHED
    )
    fit(made, text, steps=min(10, len(text) // 32 + 1))
    return made


def pairs(options: argparse.Namespace) -> list[Pairs]:
    """So many pairs of each source, spread evenly over its files."""
    found = []
    if options.blimp:
        found.append(minimal_pairs.read_blimp(options.blimp))
    if options.zorro:
        found.append(minimal_pairs.read_zorro(options.zorro))
    if not found:
        good = sentences(options.pairs, seed=1)
        found.append(Pairs([(each, reversed_words(each)) for each in good], [""] * len(good), ["made"] * len(good)))
    chosen = [
        np.linspace(0, len(all_.options) - 1, min(options.pairs, len(all_.options))).astype(int) for all_ in found
    ]
    return [
        Pairs(*([column[i] for i in at] for column in (all_.options, all_.where, all_.group)))
        for all_, at in zip(found, chosen, strict=True)
    ]


def differences(scores: Any) -> np.ndarray:
    """[n] of [2 n] scores."""
    first, second = np.asarray(scores).reshape(-1, 2).T
    return first - second


def measure(folder: Path, text: list[str]) -> dict[str, float]:
    """Both scorers on all sentences [2 n] of pairs, of the trained model and of the untrained one."""
    trained, words = pseudo_likelihood.load(folder)
    apart, seconds, slow_seconds = 0.0, [], 0.0
    for model in (pseudo_likelihood.untrained(folder, 0), trained):
        scorer = Scorer(model, words)
        scorer(text[:8])
        seconds, scores = [], None
        for _ in range(REPEATS):
            begin = time.perf_counter()
            scores = scorer(text)
            seconds.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        slow = one_by_one(model, words, text)
        slow_seconds = time.perf_counter() - begin
        apart = max(apart, float(np.abs(differences(scores) - differences(slow)).max()))
    ours = statistics.median(seconds)
    return {
        "max_difference": apart,
        "pairs_per_second": len(text) / 2 / ours,
        "speedup": slow_seconds / ours,
        "pairs": len(text) // 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.evaluate", description=__doc__)
    parser.add_argument("--pairs", type=int, default=200, help="of each source (default: 200)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--blimp", type=Path)
    parser.add_argument("--zorro", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as kept:
        text = [sentence for chosen in pairs(options) for sentence in chosen.sentences()]
        result = measure(options.bundle or bundle(Path(kept), text), text)
    if options.json:
        print(json.dumps(result))
        return
    for name, value in result.items():
        print(f"{name:18} {value:.3g}")


if __name__ == "__main__":
    main()
