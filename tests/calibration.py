"""How often the verdicts are wrong, and how often they see what is there: `python -m tests.calibration [--json]`.

Families of exchangeable arms, loss(arm, seed) = of the seed + of the run, are simulated under four laws and judged by
the product's own functions; the sign-flip test is asked only where the outcome depends on it. Exit status 1 if a gate
does not hold.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import special

from sweeper import pairs, stats

FAMILIES = 20_000
# 2.5 % and three standard errors of 2,000 families.
FALSE_RATE = 0.036
POWER = {1: 0.99, 3: 0.96, 8: 0.89}
SMALL_EFFECT, SMALL_POWER = 1.16, 0.75
SIZES = (1, 3, 8)
LOOKS = (8, 16, 24)
RACE = 4
RULE = stats.Rule()

Array = pairs.Array
Law = Callable[[np.random.Generator, tuple[int, ...]], Array]

LAWS: dict[str, Law] = {
    "normal": lambda draw, shape: draw.standard_normal(shape),
    "log-normal": lambda draw, shape: draw.lognormal(0, 1, shape),
    "t, 3 df": lambda draw, shape: draw.standard_t(3, shape),
    "5 % at +3": lambda draw, shape: draw.standard_normal(shape) + 3 * (draw.random(shape) < 0.05),
}


@dataclass(frozen=True)
class Cell:
    """A rate over the families. gate: at most that of the kind "false", at least that of "power"; None: told only."""

    kind: str
    what: str
    law: str
    k: int
    n: str
    rate: float
    gate: float | None = None

    @property
    def held(self) -> bool:
        if self.gate is None:
            return True
        return self.rate <= self.gate if self.kind == "false" else self.rate >= self.gate


def confirmed(differences: Array, dropped: Array | bool = False, look: int = 1) -> Array:
    """Which of (families, k, n) differences the product confirms at a look: (families, k)."""
    alpha = RULE.level(look)
    tests = pairs.t_tests(differences, RULE.margin, alpha)
    p = stats.adjusted(tests, dropped)
    flip, asked = np.ones_like(p), p < alpha
    flip[asked] = pairs.sign_flip(differences[asked], tests.mean[asked], RULE.margin)
    return stats.decide(tests, p, flip, dropped, RULE, alpha) == "confirmed"


def ever_confirmed(differences: Array, looks: Sequence[int], race: Sequence[int] = ()) -> Array:
    """Which arms are confirmed at any of the looks; race: pairs after which racing may drop, as it may at a look."""
    found = np.zeros(differences.shape[:-1], bool)
    dropped = np.zeros_like(found)
    for n in sorted({*looks, *race}):
        if n in looks:
            found |= confirmed(differences[..., :n], dropped, looks.index(n) + 1)
        if race:
            dropped |= stats.hopeless(differences[..., :n], RULE)
    return found


def family(law: Law, k: int, n: int, key: Sequence[int]) -> Array:
    """(families, k, n) differences of k candidates from the baseline that they share; the seed's own part cancels."""
    draw = np.random.default_rng(key)
    runs = law(draw, (FAMILIES, k + 1, n)) + draw.standard_normal((FAMILIES, 1, n))
    return runs[:, 1:] - runs[:, :1]


def share(found: Any) -> float:
    return float(found.mean())


def nulls() -> Iterator[Cell]:
    designs: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = [
        *(("one look", (n,), ()) for n in (6, 8, 12)),
        ("looks", LOOKS, ()),
        *(("racing", (n,), (RACE,)) for n in (8, 12)),
        ("looks and racing", LOOKS, (RACE,)),
    ]
    for i, (law, drawn) in enumerate(LAWS.items()):
        for j, (what, looks, race) in enumerate(designs):
            for k in SIZES:
                found = ever_confirmed(family(drawn, k, looks[-1], (i, j, k)), looks, race)
                yield Cell("false", what, law, k, "/".join(map(str, looks)), share(found.any(-1)), FALSE_RATE)


def beside_others() -> Iterator[Cell]:
    """False ones among arms without effect, where the others are really better, or worse, by 2 sd of the pairs."""
    for shift in (-2, 2):
        for k in SIZES[1:]:
            differences = family(LAWS["normal"], k, 8, (10, k, shift + 2))
            differences[:, k // 2 :] += shift * math.sqrt(2)
            what = f"others at {shift:+} sd"
            rate = share(confirmed(differences)[:, : k // 2].any(-1))
            yield Cell("false", what, "normal", k, "8", rate, FALSE_RATE)


def skewed() -> Iterator[Cell]:
    """Only the candidate's noise is skewed, with equal means: no small-sample test holds its level there."""
    for n in (6, 8, 12):
        for name, sign in (("right", 1), ("left", -1)):
            draw = np.random.default_rng((20, n))
            noise = sign * (draw.lognormal(0, 1, (FAMILIES, 1, n)) - math.exp(0.5))
            rate = share(confirmed(noise - draw.standard_normal((FAMILIES, 1, n))))
            yield Cell("false", "candidate skewed", f"log-normal to the {name}", 1, str(n), rate)


def chosen() -> Iterator[Cell]:
    """The second look's number of pairs is chosen to be the likeliest to confirm, from what the first look showed."""
    differences, first, numbers = family(LAWS["normal"], 1, 40, (30,)), 8, (9, 10, 12, 16, 24, 40)
    found = confirmed(differences[..., :first])[:, 0]
    total, sd = differences[:, 0, :first].sum(-1), differences[:, 0, :first].std(-1, ddof=1)
    bars = [special.stdtrit(n - 1, 1 - RULE.level(2) / 2) * math.sqrt(n) for n in numbers]
    reach = [(-total / sd - bar) / math.sqrt(n - first) for n, bar in zip(numbers, bars, strict=True)]
    best = np.argmax(reach, 0)
    for i, n in enumerate(numbers):
        mine = best == i
        found[mine] |= confirmed(differences[mine, :, :n], look=2)[:, 0]
    yield Cell("false", "2nd look's n chosen", "normal", 1, "8, then 9 to 40", share(found))


def powers() -> Iterator[Cell]:
    """One real candidate among k, normal; the effect in sd of the pairs."""
    for effect, k, gate in [*((2.0, k, gate) for k, gate in POWER.items()), (SMALL_EFFECT, 1, SMALL_POWER)]:
        differences = family(LAWS["normal"], k, 8, (40, k, round(100 * effect)))
        differences[:, 0] -= effect * math.sqrt(2)
        yield Cell("power", f"{effect:g} sd", "normal", k, "8", share(confirmed(differences)[:, 0]), gate)
        if k > 1:
            raced = share(ever_confirmed(differences, (8,), (RACE,))[:, 0])
            yield Cell("power", f"{effect:g} sd, racing", "normal", k, "8", raced, gate)


def table() -> list[Cell]:
    return [cell for part in (nulls, beside_others, skewed, chosen, powers) for cell in part()]


def summary(cells: Sequence[Cell], seconds: float) -> dict[str, object]:
    powers = {f"power_k{cell.k}": cell.rate for cell in cells if cell.kind == "power" and cell.what == "2 sd"}
    return {
        "worst_false_rate": max(cell.rate for cell in cells if cell.kind == "false" and cell.gate is not None),
        **powers,
        "power_k1_small": next(cell.rate for cell in cells if cell.what == f"{SMALL_EFFECT:g} sd"),
        "held": all(cell.held for cell in cells),
        "families": FAMILIES,
        "seconds": round(seconds, 1),
        "table": [{**asdict(cell), "held": cell.held} for cell in cells],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.calibration", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a line of JSON at the end")
    options = parser.parse_args()
    begin = time.perf_counter()
    cells = table()
    print("| kind | what | law | k | n | rate % | gate % |\n|---|---|---|--:|--:|--:|--:|")
    for cell in cells:
        bound = "-" if cell.gate is None else f"{'≤' if cell.kind == 'false' else '≥'} {100 * cell.gate:.1f}"
        bound += "" if cell.held else " **not held**"
        print(f"| {cell.kind} | {cell.what} | {cell.law} | {cell.k} | {cell.n} | {100 * cell.rate:.2f} | {bound} |")
    told = summary(cells, time.perf_counter() - begin)
    print(f"\n{FAMILIES:,} families a cell, {told['seconds']} s; every gate {'held' if told['held'] else 'NOT held'}")
    if options.json:
        print(json.dumps(told))
    return 0 if told["held"] else 1


if __name__ == "__main__":
    sys.exit(main())
