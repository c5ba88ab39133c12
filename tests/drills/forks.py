"""Sweeps whose trials start from trunks, killed while one is written, read or played; then resumed.

What is left must be what every trial gives from step 0: the same rows to the bit, nothing lost and nothing twice. The
moment is drawn from the time line of the sweep without sharing.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from pathlib import Path
from typing import Any

from sweeper.journal.journal import Journal
from tests.drills import kill
from tests.drills.kill import FAULTS, Mode

MODES = (
    Mode("in process", 0, 0, True, ("driver", "trial actor")),
    Mode("1 worker", 1, 0, True, ("driver", "trial actor", "worker")),
    Mode("2 workers", 2, 0, True, ("driver", "trial actor", "worker")),
    Mode("in process, two nodes", 0, 0, False, ("driver", "trial actor", "node")),
    Mode("2 workers, two nodes", 2, 0, False, ("driver", "worker", "node")),
)
ENDS = (0.05, 0.25, 0.5, 0.6)  # of the mask warm-up: steps 2, 12, 24 and 29, at a report and between two
RULES = ("random", "accuracy_morph", "cms_morph", "amlm", "whole_word", "difficulty_band")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=14)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--mode", choices=[mode.name for mode in MODES], help="only this one")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """`runs` sweeps, the modes and victims in turn."""
    draw, rows = random.Random(options.seed), list[dict[str, Any]]()
    cases = [(mode, victim) for mode in MODES if options.mode in (None, mode.name) for victim in mode.victims]
    with kill._bench(own=all(mode.own for mode, _ in cases[: options.runs])) as bench:
        bench.spec = _spec
        for number in range(options.runs):
            mode, victim = cases[number % len(cases)]
            row = kill._run(bench, mode, victim, number, draw)
            path = next((bench.folder / f"run-{number}").glob("runs/*/journal.jsonl"))
            trials = Journal(path, read_only=True).trials.values()
            row |= {"trials": len(trials), "forked": sum(one.start[0] is not None for one in trials)}
            rows.append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    totals = {fault: sum(row[fault] for row in rows) for fault in FAULTS}
    forked = sum(row["forked"] for row in rows)
    return {
        "held": not any(totals.values()) and forked > 0,
        "runs": len(rows),
        "forked": forked,
        **totals,
        "rows": rows,
    }


def _spec(folder: Path, mode: Mode, uri: str) -> dict[str, Any]:
    from tests.trainables.tiny import config

    tree = config(folder / "corpus.txt", steps=48, report_every=6, masking={"update_every": 3}).model_dump(mode="json")
    rules = RULES if mode.workers == 0 else RULES[:3]
    ends = ENDS if mode.workers == 0 else ENDS[1:3]
    arms = {
        f"{rule}-{round(100 * end)}": {"masking.preset": rule, "masking.update_every": 3, "masking.mask_warmup": end}
        for rule in rules
        for end in ends
    }
    return {
        "name": "kill",
        "trainable": "trainables.mlm:train",
        "data": tree.pop("data"),
        "config": tree,
        "arms": arms,
        "search": {"method": "arms"},
        "resources": {"workers": mode.workers, "concurrency": 1},
        "tracking": {"uri": uri},
    }
