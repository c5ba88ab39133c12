"""The README's picture, drawn from a finished run: `python -m tests.benchmarks.picture RUN_DIR OUT.png`.

Left the verdict as the report has it, a row an arm: the pairs of seeds, their mean, its interval. Right what each
configuration of the search masked, by how frequent a token is.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot

from sweeper.journal.journal import AUDIT, nested
from sweeper.journal.records import breakdown, describe
from sweeper.journal.run_folders import opened


def draw(run_dir: Path, out: Path) -> None:
    """Raises ValueError where the run cannot be read, or has no verdict."""
    spec, journal = opened(run_dir)
    verdict = journal.verdict()
    if verdict is None:
        raise ValueError(f"{run_dir} has no verdict yet: let its confirmation finish first")
    mpl.use("Agg")
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 3.6), width_ratios=(1, 1.25), layout="constrained")
    worthwhile = spec.confirm.worthwhile
    left.axvspan(-worthwhile, worthwhile, color="0.92", label=f"not worthwhile (±{worthwhile:g} nats)")
    left.axvline(0, color="0.5", lw=1)
    compared = verdict["comparisons"]
    for row, one in enumerate(compared):
        left.plot(one["differences"], [row + 0.16] * len(one["differences"]), "o", color="C0", alpha=0.45, ms=5)
        low, high = one["interval"]
        left.errorbar(
            one["mean"], row, xerr=[[one["mean"] - low], [high - one["mean"]]], fmt="D", color="C0", capsize=4
        )
        left.annotate(verdict["told"][one["arm"]], (one["mean"], row - 0.2), ha="center", va="top", fontsize=9)
    left.set_yticks(range(len(compared)), [one["arm"] for one in compared])
    left.set_ylim(-0.6, len(compared) - 0.4)
    left.set_xlabel(f"{verdict['metric']} minus {verdict['baseline']}, nats (left is better)")
    left.set_title(f"The verdict over {len(verdict['seeds'])} pairs of seeds", fontsize=11)
    left.legend(loc="upper right", fontsize=8, frameon=False)
    searched = [record for record in journal.trials.values() if record.ask.stage == "search" and record.rows]
    audits = [(record, breakdown(nested(record.rows[-1].metrics, AUDIT), "decile")) for record in searched]
    base = next(found for record, found in audits if record.ask.arm == verdict["baseline"])
    parts = list(base)
    table = [[100 * (found.get(part, 0) - base[part]) for part in parts] for _, found in audits]
    most = max(abs(value) for row in table for value in row) or 1
    shown = right.imshow(table, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    labels = [f"{record.id}  {describe(record.ask).split(' ')[0]}" for record, _ in audits]
    right.set_yticks(range(len(audits)), labels, fontsize=8)
    right.set_xticks(range(len(parts)), parts)
    right.set_xlabel("decile of token frequency, 1 the most frequent")
    right.set_title(f"Share of the masks, points more than {verdict['baseline']}", fontsize=11)
    figure.colorbar(shown, ax=right, label="percentage points")
    figure.savefig(out, dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
