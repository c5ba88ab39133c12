"""What declared looks do to verdicts, and how seeds are best spent: `python -m tests.calibration_looks [--json]`.

Families as in `tests.calibration`, confirmed until decided: an arm that a look settles ends there. How often a
candidate without effect is ever confirmed, how often one with an effect is, and by how many pairs; then, for one budget
of runs, how many of the best of a search to confirm on how many seeds. Exit status 1 if a gate does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

import numpy as np

from sweeper.confirmation import looks, paired_tests, verdicts
from tests.calibration import FALSE_RATE, LAWS, SIZES, SMALL_EFFECT, Cell, family, share

DESIGNS = ((8, 12, 16), (8, 16, 24))
DEFAULT = tuple(range(8, 33, 4))
EFFECTS = (0.4, SMALL_EFFECT)
LOST = 0.02  # the power that O'Brien & Fleming's looks may cost beside one look at the last
PAIR_SD = math.sqrt(2)  # of a difference, where a run has 1

Array = np.ndarray[Any, Any]

TRIALS = 10
# The true differences of the search's trials to the baseline, in sd of the pairs.
EFFECTS_OF_TRIALS = {
    "one of ten at -1.5": lambda draw, shape: np.where(np.arange(shape[-1]) == 0, -1.5, 0.0) + np.zeros(shape),
    "spread by 0.5": lambda draw, shape: draw.normal(0, 0.5, shape),
    "spread by 1": lambda draw, shape: draw.normal(0, 1, shape),
    "all near -0.8": lambda draw, shape: draw.normal(-0.8, 0.25, shape),
}
# The noise of a search score in the same unit; one run against another of its seed has 0.7.
RANKING = {"good": 0.35, "one run": 1 / PAIR_SD, "poor": 2.0}
# Best of the search, pairs at each look, and after how many, if after any, only the leader goes on.
SPENT = {
    "3 x 8": (3, (8,), None),
    "2 x 11": (2, (11,), None),
    "1 x 16": (1, (16,), None),
    "3 x 4, one to 12": (3, (12,), 4),
    "2 x 8/11": (2, (8, 11), None),
    "2 x 8/12/16": (2, (8, 12, 16), None),
    "1 x 8/12/16/20/24": (1, (8, 12, 16, 20, 24), None),
}


def rules(design: Sequence[int], k: int) -> dict[str, verdicts.Rule]:
    """The ways to divide 5 % among looks; halving takes twice as much in all, as it always did."""
    levels = {name: looks.levels(tuple(design), name, paired_tests.ALPHA, k) for name in ("obrien_fleming", "pocock")}
    return {**{name: verdicts.Rule(levels=found) for name, found in levels.items()}, "halving": verdicts.Rule()}


def outcomes(differences: Array, out: Array, rule: verdicts.Rule, look: int) -> Array:
    """What the product says of (families, k, n) differences at a look: (families, k). out: arms that run no more."""
    alpha = rule.level(look)
    tests = paired_tests.t_tests(differences, rule.margin, alpha)
    p = verdicts.adjusted(tests, out)
    flip, asked = np.ones_like(p), p < alpha
    flip[asked] = paired_tests.sign_flip(differences[asked], tests.mean[asked], rule.margin)
    second, _ = verdicts.guarded(tests, out)
    return verdicts.decide(tests, p, second, flip, out, rule, alpha)


def until_decided(differences: Array, design: Sequence[int], rule: verdicts.Rule) -> tuple[Array, Array]:
    """Which of (families, k, n) differences are ever confirmed, and each arm's number of pairs: (families, k)."""
    found, settled = np.zeros(differences.shape[:-1], bool), np.zeros(differences.shape[:-1], bool)
    ended = np.full(differences.shape[:-1], design[-1])
    for look, n in enumerate(design, 1):
        going = np.flatnonzero(~settled.all(-1))
        out = settled[going]
        said = outcomes(differences[going, :, :n], out, rule, look)
        new = ~out & (said != "inconclusive")
        found[going] |= said == "confirmed"
        ended[going] = np.where(new, n, ended[going])
        settled[going] |= new
    return found, ended


def leader(differences: Array, first: int) -> tuple[Array, Array]:
    """As `until_decided`, where the arm that is ahead after the first pairs alone goes on, and all count for Holm."""
    ahead = differences[..., :first].mean(-1).argmin(-1)
    out = np.arange(differences.shape[-2]) != ahead[:, None]
    found = outcomes(differences, out, verdicts.Rule(), 1) == "confirmed"
    return found, np.where(out, first, differences.shape[-1])


@dataclass(frozen=True)
class Spent:
    """A way to spend runs. right: a truly better one was confirmed; gain: of the best confirmed, in sd of the pairs."""

    trials: str
    ranking: str
    way: str
    right: float
    gain: float
    runs: float


def nulls() -> Iterator[Cell]:
    for i, (law, drawn) in enumerate(LAWS.items()):
        for j, design in enumerate((*DESIGNS, DEFAULT)):
            for k in SIZES:
                differences = family(drawn, k, design[-1], (50, i, j, k))
                for name, rule in rules(design, k).items():
                    rate = share(until_decided(differences, design, rule)[0].any(-1))
                    gate = None if name == "halving" else FALSE_RATE
                    yield Cell("false", name, law, k, _listed(design), rate, gate)


def powers() -> Iterator[tuple[Cell, float]]:
    """Normal noise, one real candidate among k; with the mean number of its pairs."""
    for design in (*DESIGNS, DEFAULT):
        for effect in EFFECTS:
            for k in SIZES[:2]:
                differences = family(LAWS["normal"], k, design[-1], (60, k, design[-1], round(100 * effect)))
                differences[:, 0] -= effect * PAIR_SD
                alone = share(until_decided(differences, design[-1:], verdicts.Rule())[0][:, 0])
                yield Cell("power", f"{effect:g} sd, one look", "normal", k, str(design[-1]), alone), design[-1]
                for name, rule in rules(design, k).items():
                    found, ended = until_decided(differences, design, rule)
                    gate = alone - LOST if name == "obrien_fleming" else None
                    rate = share(found[:, 0])
                    cell = Cell("power", f"{effect:g} sd, {name}", "normal", k, _listed(design), rate, gate)
                    yield cell, float(ended[:, 0].mean())


def spendings() -> Iterator[Spent]:
    """The best so many of ten trials, ranked by their search scores, confirmed on fresh seeds; normal noise."""
    for i, (trials, effects_of) in enumerate(EFFECTS_OF_TRIALS.items()):
        for j, (ranking, noise) in enumerate(RANKING.items()):
            for way, (best, design, first) in SPENT.items():
                differences = family(LAWS["normal"], best, design[-1], (70, i, j, best, *design))
                draw = np.random.default_rng((80, i, j))
                effects = effects_of(draw, (len(differences), TRIALS))
                ranked = np.argsort(effects + noise * draw.standard_normal(effects.shape), -1)[:, :best]
                true = np.take_along_axis(effects, ranked, -1)
                differences += true[..., None] * PAIR_SD
                rule = rules(design, best)["obrien_fleming"]
                found, ended = leader(differences, first) if first else until_decided(differences, design, rule)
                means = np.where(found, differences.mean(-1), np.inf)
                chosen = np.take_along_axis(true, means.argmin(-1)[:, None], -1)[:, 0]
                gain = np.where(found.any(-1), -chosen, 0.0)
                runs = ended.sum(-1) + ended.max(-1)
                yield Spent(trials, ranking, way, share((found & (true < 0)).any(-1)), share(gain), share(runs))


def _listed(design: Sequence[int]) -> str:
    return "/".join(map(str, design))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.calibration_looks", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a line of JSON at the end")
    options = parser.parse_args()
    begin, cells = time.perf_counter(), list[Cell]()
    print("| kind | what | law | k | looks | rate % | gate % | mean pairs |\n|---|---|---|--:|---|--:|--:|--:|")
    for cell, mean in chain(((cell, None) for cell in nulls()), powers()):
        cells.append(cell)
        bound = "-" if cell.gate is None else f"{'≤' if cell.kind == 'false' else '≥'} {100 * cell.gate:.1f}"
        bound += "" if cell.held else " **not held**"
        told = "" if mean is None else f"{mean:.1f}"
        row = f"{cell.kind} | {cell.what} | {cell.law} | {cell.k} | {cell.n} | {100 * cell.rate:.2f} | {bound} | {told}"
        print(f"| {row} |", flush=True)
    spent = list(spendings())
    print("\nTen trials, the best confirmed: % of sweeps that confirm a truly better one, gain in sd of pairs, runs.\n")
    print(f"| trials | ranking | {' | '.join(SPENT)} |\n|---|---|{'--:|' * len(SPENT)}")
    for start in range(0, len(spent), len(SPENT)):
        row = spent[start : start + len(SPENT)]
        figures = (f"{100 * one.right:.0f}, {one.gain:.2f}, {one.runs:.0f}" for one in row)
        print(f"| {row[0].trials} | {row[0].ranking} | {' | '.join(figures)} |")
    held, seconds = all(cell.held for cell in cells), round(time.perf_counter() - begin, 1)
    print(f"\n{seconds} s; every gate {'held' if held else 'NOT held'}")
    if options.json:
        print(json.dumps({"held": held, "cells": list(map(asdict, cells)), "spent": list(map(asdict, spent))}))
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
