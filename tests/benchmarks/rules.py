"""Every masking preset in a table: `python -m tests.benchmarks.rules [--quick] [--json]`.

Where its rule comes from; the largest differences from its slow and obvious version (tests/oracles.py), exact ones, and
in standard deviations those of draws; what a run of 60 steps on made-up text really masked; and what masking costs at
the published shape (tests/benchmarks/masking.py), which --quick leaves out. Exit status 0 if every difference is within
what is allowed, every budget and share as the settings say, and every cost within 2 % of a step, or 5 % where whole
groups are drawn; otherwise the failing ones are listed. Markdown, to be pasted into a README.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from unittest import mock

from tests import oracles
from tests.benchmarks import masking
from tests.trainables import tiny
from tests.trainables.drawn import WORDS, Compared, policy_of
from trainables.masking import mixture
from trainables.masking.budget import Budget
from trainables.settings.config import Config
from trainables.settings.presets import MASKING, ORIGINS, Preset

STEPS, REFRESH = 60, 6
MOST_PERCENT, MOST_PERCENT_GROUPED = 2.0, 5.0
SHARE_OFF = 0.01  # of the predictions: quotas are drawn a row at a time, so that shares are met on average alone


@dataclass(frozen=True)
class Masked:
    """What a short run masked. asked: the shares of its settings after the mask warm-up; empty for a rule without."""

    rate: float
    rate_due: float
    shares: dict[str, float]
    asked: dict[str, float]
    short: float
    matched: bool
    matched_due: bool

    def failing(self) -> Iterator[str]:
        """What is not as the settings say."""
        if self.matched != self.matched_due:
            yield f"audit/matched is {self.matched}, the settings say {self.matched_due}"
        if abs(self.rate - self.rate_due) > 1e-9:
            yield f"{100 * self.rate:.4f} % of the positions predicted, {100 * self.rate_due:.4f} % due"
        for name, share in self.asked.items():
            if abs(self.shares.get(name, 0.0) - share) > SHARE_OFF + self.short:
                yield f"{name} has {100 * self.shares.get(name, 0.0):.1f} % of the predictions, {100 * share:.1f} % due"


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Args:
        preset: its name.
        source: where its rule comes from; empty if ORIGINS lacks it.
        oracles: the policies of tests/oracles.py that hold it; empty if ORACLES_OF lacks it.
        compared: their rows.
        masked: what a short run of it masked.
        grouped: whether it draws whole groups, such as words.
        cost: milliseconds of a step by part, and percent of it; None if it was not measured.
    """

    preset: Preset
    source: str
    oracles: Sequence[str]
    compared: Sequence[Compared]
    masked: Masked
    grouped: bool
    cost: dict[str, float] | None = None
    failing: list[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "failing", [f"{self.preset}: {why}" for why in self._failing()])

    def _failing(self) -> Iterator[str]:
        if not self.source:
            yield "no source in ORIGINS"
        if not self.oracles:
            yield "no oracle in ORACLES_OF"
        for name in set(self.oracles) - {one.policy for one in self.compared}:
            yield f"tests.oracles compares no {name}"
        for one in self.compared:
            if not one.held:
                yield f"{one.policy}, {one.what}: {one.difference:.2g}, allowed {one.allowed:g}"
        yield from self.masked.failing()
        most = MOST_PERCENT_GROUPED if self.grouped else MOST_PERCENT
        if self.cost and self.cost["percent"] > most:
            yield f"masking is {self.cost['percent']:.2f} % of a step, allowed {most:g} %"

    def largest(self, draws: bool) -> str:
        """The largest difference of its draws, in standard deviations, or of all else."""
        found = [one.difference for one in self.compared if one.what.endswith(", sd") == draws]
        return f"{max(found):.2g}" if found else "none"

    def line(self) -> str:
        shares = ", ".join(f"{name} {100 * share:.1f}" for name, share in self.masked.shares.items() if share)
        cost = ["", ""]
        if self.cost:
            cost = [f"{sum(self.cost[part] for part in masking.PARTS):.1f}", f"{self.cost['percent']:.2f}"]
        cells = [f"`{self.preset}`", self.source or "none", self.largest(False), self.largest(True)]
        return f"| {' | '.join([*cells, shares, f'{100 * self.masked.rate:.3f}', *cost])} |"


HEAD = (
    "| preset | source | largest difference | of draws, sd | realised shares % | rate % | ms a step | % of a step |\n"
    "|:--|:--|--:|--:|:--|--:|--:|--:|"
)


def masked(preset: Preset, corpus: Path, folder: Path) -> Masked:
    """Train 60 steps of a tiny model under a preset; what its last row says, and what its settings promise."""
    given = tiny.config(corpus, steps=STEPS, report_every=STEPS).model_dump(exclude={"masking"})
    config = Config.model_validate({**given, "masking": {"preset": preset, "update_every": REFRESH}})
    row = tiny.run(config, folder).rows[-1]
    shares = {key.removeprefix("audit/shares/"): value for key, value in row.items() if key.startswith("audit/shares/")}
    due = [Budget(config.rate_at(step), config.batch_size, config.data.block).total for step in range(STEPS)]
    warm = range(config.warmup_steps, STEPS)
    asked = [config.masking.shares_at(step, STEPS) for step in warm] if config.masking.policy == "mixture" else []
    return Masked(
        rate=row["audit/rate"],
        rate_due=sum(due) / (STEPS * config.tokens_per_step),
        shares=shares,
        asked={name: sum(one[name] for one in asked) / len(asked) for name in shares if asked},
        short=row["audit/short"],
        matched=bool(row["audit/matched"]),
        matched_due=config.masking.on_budget,
    )


def grouped(preset: Preset) -> bool:
    """Whether it draws whole groups, such as words."""
    policy, _ = policy_of(0.15, WORDS, {}, 20, preset=preset)  # rows enough for the lowest of a preset's rates
    return isinstance(policy, mixture.Mixture) and any(source.grouped for _, source in policy.others)


def rules(names: Sequence[Preset], compared: Sequence[Compared], costs: dict[str, dict[str, float]]) -> list[Rule]:
    """A row for each preset. costs: by preset; empty where they were not measured."""
    found = list[Rule]()
    with tempfile.TemporaryDirectory() as made, mock.patch.dict(os.environ, SWEEPER_CACHE=made):
        corpus = tiny.write_corpus(Path(made))
        for number, name in enumerate(names):
            held_by = oracles.ORACLES_OF.get(name, ())
            rows = [one for one in compared if one.policy in held_by]
            source = ORIGINS[name].source if name in ORIGINS else ""
            folder = Path(made) / f"{number}"
            folder.mkdir()
            short = masked(name, corpus, folder)
            found.append(Rule(name, source, held_by, rows, short, grouped(name), costs.get(name)))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.rules", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="without the costs")
    parser.add_argument("--json", action="store_true", help="one line")
    parser.add_argument("--threads", type=int, default=2, help="of the costs")
    options = parser.parse_args(argv)
    names = list(MASKING)
    step, costs = (0.0, {}) if options.quick else masking.measured(options.threads, names)
    found = rules(names, oracles.all_rows(), costs)
    failing = [why for rule in found for why in rule.failing]
    if options.json:
        print(json.dumps({"step_ms": step, "rules": [asdict(rule) for rule in found]}))
    else:
        print("\n".join([HEAD, *(rule.line() for rule in found)]))
        if step:
            print(f"\nA step at the published shape: {step:.0f} ms on {options.threads} threads.")
        print("\nEverything held." if not failing else "\n".join(["\nFailing:", *(f"* {why}" for why in failing)]))
    return 1 if failing else 0


if __name__ == "__main__":
    sys.exit(main())
