"""What a sweep is doing: `python -m sweeper.status [RUN_DIR]`. From its spec, journal and lock; writes nothing.

`--address HOST:PORT` tells instead what each node of a cluster has and which trials' processes it runs.

Exit status for scripts: 0 completed, 1 all trials failed, 2 bad input, 3 running, 4 open and no driver works on it.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sweeper.confirmation import design
from sweeper.journal import records as records_of
from sweeper.journal import run_folders
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.report.summary import sweep_state
from sweeper.spec.load import recorded as load_recorded
from sweeper.spec.spec import SweepSpec
from sweeper.system import faults, files
from sweeper.system.nodes import NotStarted
from sweeper.trials import cluster

JOURNAL = "journal.jsonl"
EXITS = {"completed": 0, "failed": 1, "running": 3, "open": 4}
REFUSED = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Show it on stdout; the exit status."""
    files.standard_streams()
    files.private()
    parser = files.Parser(prog="python -m sweeper.status", description="What a sweep is doing.", epilog=__doc__)
    parser.add_argument("run_dir", nargs="?", type=Path, metavar="RUN_DIR", help="default: the newest in ./runs")
    parser.add_argument("--address", metavar="HOST:PORT", help="of a cluster: what runs on which node")
    parser.add_argument(
        "--trust-record", action="store_true", help="read a record that was changed since it was written"
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    try:
        args = parser.parse_args(argv)
        if args.address:
            nodes = cluster.nodes(args.address)
            files.emit(json.dumps(nodes) if args.json else "\n".join(map(_node, nodes)))
            return 0
        run_dir = (args.run_dir or newest(Path("runs"))).resolve()
        found = status(run_dir, args.trust_record)
    except (ValueError, NotStarted) as error:
        files.say(f"error: {error}")
        return REFUSED
    except OSError as error:
        files.say(f"error: {faults.describe(error)}")
        return REFUSED
    files.emit(json.dumps(found) if args.json else "\n".join(lines(found)))
    return EXITS[found["state"]]


def newest(storage: Path) -> Path:
    """The run folder in which something happened last. Raises ValueError where there is none."""
    runs = [path.parent for path in storage.glob(f"*/{run_folders.SPEC}")]
    if not runs:
        raise ValueError(f"there is no run in {storage.resolve()}: name a run folder")
    return max(runs, key=touched)


def status(run_dir: Path, trust: bool = False) -> dict[str, Any]:
    """State, trials and what waits, as plain data. Raises ValueError, in one line, for what is no run folder."""
    if not (run_dir / run_folders.SPEC).is_file():
        raise ValueError(f"{run_dir} is not a run folder: it has no {run_folders.SPEC}")
    run_folders.refuse_strange(run_dir)
    driver = driven(run_dir)  # before the journal: what a driver wrote before it ended is then read
    spec, journal = run_folders.opened(run_dir, trust)
    records = list(journal.trials.values())
    begun = next((event.machine for event in reversed(journal.events) if isinstance(event, Session)), {})
    at_once = begun.get("concurrency")
    total = design.expected(spec, journal)
    left = total - len(records)
    state = state_of(spec, journal, driver)
    best = records_of.best(spec, records)
    names = Names(spec, (record.ask for record in records))
    return {
        "state": state,
        "name": spec.name,
        "question": spec.question,
        "trainable": spec.trainable,
        "run_dir": str(run_dir),
        "driver": driver,
        "total": total,
        "counts": dict(Counter(record.state for record in records)),
        "best": best.id if best else None,
        "silent_s": round(max(0.0, time.time() - journal.events[-1].time), 1) if journal.events else None,
        "trials": [_trial(spec, record, driver, names) for record in records],
        "waiting": {"trials": left, "why": _why(state, left, at_once, bool(journal.events))},
        "resume": run_folders.resume(run_dir) if state == "open" else None,
        "doubts": journal.doubts(),
        "left_out": spec.stub.left_out(spec.trainable) if spec.stub else None,
    }


def driven(run_dir: Path) -> bool:
    """Whether a driver holds the run's lock. Asked by a shared lock, let go at once."""
    try:
        with files.reading(run_dir / run_folders.LOCK) as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except PermissionError:
        return bool(files.holders(run_dir / run_folders.LOCK))
    except OSError:
        return False
    return False


def lines(found: dict[str, Any]) -> list[str]:
    """The status for people."""
    driver = "a driver works on it" if found["driver"] else "no driver"
    counts = ", ".join(f"{count} {state}" for state, count in found["counts"].items()) or "none begun"
    shown = [
        f"{found['name']}: {found['state']}, {driver}",
        f"run folder  {found['run_dir']}",
        f"trials      {counts}, of {found['total']}" + (f"; best {found['best']}" if found["best"] else ""),
    ]
    if found["silent_s"] is not None:
        shown.append(f"last event  {found['silent_s']:,.0f} s ago")
    for trial in found["trials"]:
        score = "" if trial["score"] is None else f"{trial['score']:.4f}"
        steps = f"{trial['step']:,}/{trial['steps']:,}" if trial["steps"] else f"{trial['step']:,}"
        where = f" on {trial['node']}" if trial["node"] not in (None, "127.0.0.1") else ""
        row = f"  {trial['id']}  {trial['state']:<11}  {steps:>15}  {score:>9}  {trial['what']}{where}"
        shown.append(f"{row}: {trial['why']}" if trial["why"] else row)
    if found["waiting"]["trials"]:
        shown.append(f"waiting     {found['waiting']['trials']} trials: {found['waiting']['why']}")
    if found["resume"]:
        shown.append(f"resume with {found['resume']}")
    shown += [f"caution     {doubt}" for doubt in found["doubts"]]
    if found["left_out"]:
        shown.append(f"note        {found['left_out']}")
    return [line.replace("\n", "\\n") for line in shown]


def foreign(spec: Path | None, resume: Path | None) -> Path | None:
    """The run folder whose record a plan is asked of, where its trainable does not come with sweeper; else None.

    spec, resume: what the command names. Raises ValueError, in one line, for a spec that cannot be read.
    """
    path = resume / run_folders.SPEC if spec is None and resume not in (None, run_folders.NEWEST) else spec
    if path is None or not path.is_file():
        return None
    if path is spec and not (path.name == run_folders.SPEC and (path.parent / JOURNAL).exists()):
        return None
    return None if load_recorded(path).stub is None else path.parent.resolve()


def planned(found: dict[str, Any]) -> list[str]:
    """A plan of a record, for people, by `status`: what is on record, and no estimate."""
    why = f"no estimate: {found['trainable']} does not come with sweeper, and a plan of a record does not import it"
    return [*([found["question"]] if found["question"] else []), *lines(found), f"note        {why}"]


def _node(node: dict[str, Any]) -> str:
    held = ", ".join(f"{value:g} {kind}" for kind, value in node["resources"].items()) or "no CPUs"
    runs = ", ".join(f"{count} {what}" for what, count in node["runs"].items()) or "nothing"
    return f"{node['address']:<15}  {'up' if node['alive'] else 'gone':<4}  {held}; runs {runs}"


def state_of(spec: SweepSpec, journal: Journal, driver: bool) -> str:
    """completed, failed, running, or open. driver: whether one works on it."""
    if driver:
        return "running"
    if not design.finished(spec, journal):
        return "open"
    return sweep_state(journal.trials.values(), interrupted=False)


def _trial(spec: SweepSpec, record: TrialRecord, driver: bool, names: Names) -> dict[str, Any]:
    return {
        "id": record.id,
        "what": f"{names.shown(record.ask)}, seed {record.ask.seed}",
        "state": record.state if driver or not record.open else "open",
        "step": record.step,
        "steps": record.steps,
        "score": record.score(spec.objective),
        "node": record.rows[-1].node if record.rows else None,
        "why": _why_trial(record, driver),
    }


def _why_trial(record: TrialRecord, driver: bool) -> str | None:
    if record.end and record.end.reason:
        return records_of.ended(record)
    if record.open and not driver:
        return f"goes on from step {record.step:,} when the sweep is resumed"
    if record.state == "interrupted":
        return "waits for its turn to resume"
    return "has not reported yet" if record.state == "running" and not record.rows else None


def _why(state: str, left: int, at_once: int | None, begun: bool) -> str | None:
    """Why the trials that were not asked for yet are not."""
    if not left:
        return None
    if state == "open":
        return "no driver is running the sweep"
    return f"{at_once} run at a time" if begun and at_once else "the sweep is starting"


def touched(run_dir: Path) -> float:
    """When something happened last in a run folder, in s."""
    path = run_dir / JOURNAL
    return (path if path.exists() else run_dir / run_folders.SPEC).stat().st_mtime


if __name__ == "__main__":
    sys.exit(main())
