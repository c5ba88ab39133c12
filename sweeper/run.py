"""The command: `python -m sweeper.run SPEC`. It reads the arguments, calls the rooms, and says where things lie.

What people read goes to stderr; with `--json`, stdout ends with one line. Ray and all that needs it are imported
once the spec is accepted. Nothing in here crosses a process boundary: under `-m` it would be `__main__` elsewhere.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NoReturn

from filelock import FileLock, Timeout

from sweeper import (
    checkpoints,
    cluster,
    earlier,
    ending,
    files,
    folders,
    interrupts,
    plan,
    probe,
    remote,
    report,
    reproduce,
    room,
)
from sweeper.interrupts import Interrupts
from sweeper.journal import Journal, fingerprints_in
from sweeper.spec import SweepSpec, load
from sweeper.spread import Spread, spread
from sweeper.stages import Stages, begun, prepared, refuse_unserved, refuse_used, repeated
from sweeper.store import sqlite_file, store_uri
from sweeper.summary import summary, sweep_state
from sweeper.tracking import DRAIN_S, Tracker
from sweeper.trainable import Trainable
from sweeper.wording import naming

COMPLETED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, interrupts.STATUS
FULL_S = 5.0  # the tracking store may lie on the disk that is full
NEEDS_YES = "without a GPU it needs --yes"
_STATUS = {"completed": COMPLETED, "failed": FAILED, "interrupted": INTERRUPTED}


class Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; see --help")


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 all trials failed, no Ray or a full disk, 2 bad input, 130 interrupted."""
    files.standard_streams()
    cluster.isolate()
    with Interrupts(_say, "nothing had begun") as signals:
        try:
            return _main(argv, signals)
        except OSError as error:
            if not checkpoints.full(error):
                raise
            _say(f"error: {checkpoints.FULL} ({error.strerror}): make room; what had ended is kept; {signals.hint}")
            return FAILED


def _main(argv: Sequence[str] | None, signals: Interrupts) -> int:
    try:
        args = _parser().parse_args(argv)
        if args.reproduce:
            return _reproduce(args, signals)
        args.storage, args.resume = folders.here(args.storage, args.resume)
        if args.spec is None and args.resume not in (None, folders.NEWEST):
            args.spec = args.resume / folders.SPEC
        if args.spec is None:
            raise ValueError("name a spec, such as search_spaces/mix_ratios.yaml; see --help")
        spec, refused = _agreed(args, load(args.spec, args.profile, args.set))
        storage = folders.storage(args.storage, args.resume)
        known = folders.known(storage, spec, args.resume)
        fit, lacking = _fit(spec)
        if args.dry_run:
            return _show_plan(args, spec, storage, known, fit, [*refused, *lacking])
        if lacking:
            raise ValueError(f"{args.spec}: {lacking[0]}")
        if spec.limits.hours or spec.limits.gpu_hours:
            plan.refuse_above_limits(spec, probe.of(spec, fit, measure=True))
        if fit:
            there = room.free(storage)
            room.refuse_too_small(spec, fit, there, folders.size(known))
            for line in room.notes(there):
                _say(line)
        with naming(args.spec):
            facts = prepared(spec, _say)
        if args.more_seeds < 0 or (args.more_seeds and not (known and spec.compared)):
            raise ValueError("--more-seeds: takes a number, with --resume of a run that has a confirmation")
        recorded = begun(known, facts)
        if not args.reuse_seeds:
            refuse_used(args.spec, spec, storage, facts, recorded, _say)
        run_dir = known or folders.new(storage, spec)
    except ValueError as error:
        _say(f"error: {error}")
        return REFUSED
    except KeyboardInterrupt:
        _say("interrupted before it began")
        return INTERRUPTED
    signals.hint = f"go on with: {folders.resume(run_dir)}"
    try:
        with FileLock(run_dir / folders.LOCK, timeout=0.5):  # status, too, holds it for a moment
            return _carry_out(args, spec, run_dir, facts, signals)
    except Timeout:
        _say(f"error: another sweep works on {run_dir}")
        return REFUSED
    except KeyboardInterrupt:
        _say(f"interrupted; go on with: {folders.resume(run_dir)}")
        return INTERRUPTED


def _parser() -> Parser:
    parser = Parser(prog="python -m sweeper.run", description="Run the sweep that a spec describes.")
    parser.add_argument("spec", type=Path, nargs="?", help="YAML file, such as search_spaces/mix_ratios.yaml")
    parser.add_argument("--profile", help="one of the spec's profiles; the spec names the default")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one key of the spec")
    parser.add_argument("--storage", metavar="DIR", help="where run folders lie (./runs), or s3://… or gs://…")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=folders.NEWEST,
        metavar="RUN_DIR",
        help="go on with this run, or with the newest of the spec",
    )
    parser.add_argument(
        "--more-seeds", type=int, default=0, metavar="N", help="confirm on N more seeds (with --resume)"
    )
    parser.add_argument("--reuse-seeds", action="store_true", help="confirm on seeds that earlier runs have used")
    parser.add_argument("--reproduce", type=Path, metavar="RUN_DIR", help="train one trial of a run again and compare")
    parser.add_argument("--trial", metavar="ID", help="which one (with --reproduce; else the best)")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="MINUTES", help="wait for a joined cluster to have the nodes (0)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what it costs and stop")
    parser.add_argument("--json", action="store_true", help="end stdout with one line of JSON")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray says")
    return parser


def _agreed(args: argparse.Namespace, spec: SweepSpec) -> tuple[SweepSpec, list[str]]:
    """The spec, or where it wants a GPU and there is none, the same on CPUs if people agree to what that takes.

    Nobody is asked for a plan; with it goes, in a line, what would be refused.
    """
    machine = cluster.this_machine()
    if not spec.resources.gpus_per_worker or machine["GPU"] or cluster.configured():
        return spec, []
    slow = load(args.spec, args.profile, [*args.set, "resources.gpus_per_worker=0"])
    hours = probe.of(slow, _fit(slow)[0], measure=False).hours
    _say(f"{spec.name} wants a GPU and there is none: on {machine['CPU']:g} CPUs it takes about {hours:,.0f} hours")
    unheard = not args.yes and not sys.stdin.isatty()
    if args.yes or args.dry_run:
        return slow, [NEEDS_YES] if unheard else []
    if unheard:
        raise ValueError(NEEDS_YES)
    _say("go on without a GPU? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("not started")
    return slow, []


def _fit(spec: SweepSpec) -> tuple[int | None, list[str]]:
    """How many trials fit at once, None where that is not known or not even one does; and then why not, in a line."""
    if cluster.configured():
        return None, []
    try:
        return cluster.room(spec.resources, [cluster.this_machine()]), []
    except cluster.NoRoom as error:
        return None, [str(error)]


def _show_plan(
    args: argparse.Namespace, spec: SweepSpec, storage: Path, known: Path | None, fit: int | None, refused: list[str]
) -> int:
    """What it costs, and why it would not start."""
    with naming(args.spec):
        foreseen = Trainable.load(spec.trainable).foresee(spec.settings({}))
        refuse_unserved(spec, foreseen)
    estimate = probe.of(spec, fit, measure=True, sd=_spread(spec, storage))
    refused = [*refused, *plan.above_limits(spec, estimate)]
    there = None if cluster.configured() else room.free(storage)
    if there:
        refused += room.shortages(spec, fit or 1, there, folders.size(known))
    told = {key: foreseen.get(key, []) for key in ("notes", "warnings")}
    estimate = replace(estimate, refused=refused, **told)
    for line in [*plan.shown(spec, estimate), *(room.notes(there) if there else [])]:
        _say(line)
    if args.json:
        print(json.dumps(asdict(estimate)))
    return COMPLETED


def _spread(spec: SweepSpec, storage: Path) -> Spread | None:
    """What earlier runs tell of differences between seeds, where a confirmation is planned."""
    if len(spec.seeds.confirm) < 2:
        return None
    try:
        return spread(earlier.losses(store_uri(spec, storage), spec))
    except ValueError as error:
        _say(str(error))
        return None


def _carry_out(
    args: argparse.Namespace, spec: SweepSpec, run_dir: Path, facts: dict[str, Any], signals: Interrupts
) -> int:
    """Run what is left of the sweep, then leave and show its results."""
    from sweeper import results
    from sweeper.live import Live

    try:
        journal = Journal(run_dir / "journal.jsonl")
    except ValueError as error:
        _say(f"error: {run_dir}: {error}")
        return REFUSED
    uri = store_uri(spec, run_dir.parent)
    if remote.of(run_dir) and sqlite_file(uri):
        _say("MLflow's store lies on this machine alone, and with it which seeds were used: set MLFLOW_TRACKING_URI")
    tags = {f"sweeper.{key}": value for key, value in fingerprints_in(facts).items()}
    stages = Stages(
        spec=spec,
        run_dir=run_dir,
        journal=journal,
        uri=uri,
        facts=facts,
        more_seeds=args.more_seeds,
        verbose=args.verbose,
        wait=args.wait,
    )
    done = lost = False
    with Live(spec, journal, stages.trials) as live, remote.mirrored(run_dir, journal, live.say):
        tracker = Tracker(journal, spec, run_dir, uri, tags=tags, say=live.say)
        tracker.start()
        signals.say = live.say
        try:
            done = stages.over or stages.run(signals)
        except (cluster.NoRoom, cluster.NotShared, cluster.NotStarted) as error:
            live.say(f"error: {error}")
            folders.discard(run_dir, journal)
            if run_dir.exists():
                live.say(f"go on with: {folders.resume(run_dir)}")
            return FAILED if isinstance(error, cluster.NotStarted) else REFUSED
        except cluster.Lost as error:
            live.say(f"error: {error}")
            lost = True
        except OSError as error:
            if checkpoints.full(error):
                tracker.close("interrupted", None, None, FULL_S)
            raise
        except KeyboardInterrupt:
            pass
        signals.closing = True
        signals.install()
        records = list(journal.trials.values())
        best = report.best(spec, records)
        bundle = ending.keep_bundle(run_dir, best)
        outcome = report.Outcome(run_dir=run_dir, tracking_uri=uri, bundle=bundle, interrupted=not done)
        results.write_all(spec, journal, outcome)
        state = sweep_state(records, not done)
        crowned, tags = stages.crowned(live.say)
        tracker.close(state, best, outcome.bundle, signals.left(DRAIN_S), crowned=crowned, tags=tags)
        signals.say = _say
    outcome = replace(outcome, parent_run_id=tracker.parent_run_id, run_ids=tracker.run_ids)
    told = summary(spec, journal, outcome)
    for line in ending.lines(args.spec, spec, outcome, best, told["verdict"], told["caution"]):
        _say(line)
    if args.json:
        print(json.dumps(told))
    return FAILED if lost else _STATUS[told["state"]]


def _reproduce(args: argparse.Namespace, signals: Interrupts) -> int:
    """Train a trial again: 0 where the same bits came out, else 1."""
    try:
        spec, found = repeated(args.reproduce, args.trial, signals, args.verbose)
    except (cluster.NotStarted, cluster.Lost) as error:
        _say(f"error: {error}")
        return FAILED
    if signals.happened:
        _say("interrupted: nothing is compared")
        return INTERRUPTED
    for line in reproduce.lines(spec, found):
        _say(line)
    if args.json:
        print(json.dumps(asdict(found)))
    return COMPLETED if found.equal else FAILED


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    ending.leave(main())
