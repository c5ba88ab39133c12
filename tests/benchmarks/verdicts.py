"""How often the whole machinery is right: `python -m tests.benchmarks.verdicts [--sweeps 50] [--json]`.

Sweeps of the toy with their confirmation, in one Ray session, in process: half with a real effect of 2 sd of the
paired differences in half of the space, half with none. Told are how many end with a confirmed configuration, and, of
the nulls, how often the best trial beat the one baseline run of its search by more than 1 sd, which a reader without a
confirmation would have taken for a gain.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from sweeper.confirmation import conclusion, design
from sweeper.journal import records
from sweeper.journal.events import Verdict
from sweeper.journal.journal import Journal
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.system import nodes as nodes_module
from sweeper.trials import cluster

RUN_SD = 0.01
PAIR_SD = math.sqrt(2) * RUN_SD
EFFECT = 2 * PAIR_SD


def spec(number: int, effect: float) -> SweepSpec:
    """Four candidates, one of which is better by `effect`, the best two confirmed.

    Seeds move all runs by ten times the noise of one.
    """
    found = [-effect, 0.0, 0.0, 0.0]
    arms = {"baseline": {"effect": 0.0, "y": 0.7}}
    arms |= {f"candidate-{i}": {"effect": gain, "y": 0.7 + 1e-9 * (i + 1)} for i, gain in enumerate(found)}
    first = 1000 * (number + 1)
    tree: dict[str, Any] = {
        "name": f"verdicts-{number}",
        "trainable": "trainables.toy:train",
        "config": {"steps": 2, "report_every": 2, "x": 0.3, "seed_sd": 10 * RUN_SD, "run_sd": RUN_SD},
        "arms": arms,
        "search": {"method": "arms"},
        "seeds": {"search": [first], "confirm": [*range(first + 1, first + 9)]},
        "confirm": {"best": 2},
    }
    return resolve(tree)


def judged(sweep: SweepSpec, folder: Path, slots: int) -> tuple[bool, float]:
    """Whether something was confirmed; and by how much the best of the search beat the baseline's run there."""
    from sweeper.trials import tuner as stages

    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    assert stages.run(sweep, folder, journal, slots, say=lambda _: None)
    best = records.best(sweep, journal.trials.values())
    baseline = next(record for record in journal.stage("search") if record.ask.arm == "baseline")
    assert best is not None
    gain = (baseline.score(sweep.objective) or 0.0) - (best.score(sweep.objective) or 0.0)
    journal.append(design.declared(sweep, journal, fresh=True, earlier=0))
    assert stages.confirm(sweep, folder, journal, slots, say=lambda _: None)
    journal.append(Verdict(data=conclusion.conclude(sweep, journal, folder).to_dict()))
    said = journal.verdict()
    journal.close()
    assert said is not None
    return said["champion"] is not None, gain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweeps", type=int, default=50, help="with the effect, and as many without (50)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cluster.isolate()
    begin = time.monotonic()
    real: list[bool] = []
    nulls: list[tuple[bool, float]] = []
    first = spec(0, 0.0)
    with tempfile.TemporaryDirectory() as temporary, cluster.session() as nodes:
        slots = nodes_module.max_concurrent(first.resources, nodes)
        for number in range(options.sweeps):
            real.append(judged(spec(number, EFFECT), Path(temporary) / f"real-{number}", slots)[0])
            nulls.append(judged(spec(5000 + number, 0.0), Path(temporary) / f"null-{number}", slots))
    found = {
        "sweeps": options.sweeps,
        "confirmed_real": sum(real),
        "confirmed_null": sum(confirmed for confirmed, _ in nulls),
        "naive_wins_null": sum(gain > PAIR_SD / math.sqrt(2) for _, gain in nulls),
        "seconds": round(time.monotonic() - begin, 1),
    }
    print(f"of {options.sweeps} sweeps with an effect of 2 sd, confirmed: {found['confirmed_real']}")
    print(f"of {options.sweeps} without any, confirmed: {found['confirmed_null']}")
    print(f"of those, best trial better than one baseline run by more than 1 sd: {found['naive_wins_null']}")
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
