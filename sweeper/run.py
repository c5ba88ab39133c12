"""The command: `python -m sweeper.run SPEC`. It reads the arguments, calls the rooms, and says where things lie.

What people read goes to stderr; with `--json`, stdout ends with one line. Ray and all that needs it are imported
once the spec is accepted. Nothing in here crosses a process boundary: under `-m` it would be `__main__` elsewhere.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path

from filelock import Timeout

from sweeper import closing, preflight, status
from sweeper.journal import run_folders, warm_start
from sweeper.plan import capacity, probe
from sweeper.plan.estimate import shown
from sweeper.plan.seed_noise import Spread, spread
from sweeper.preflight import Admission, Request
from sweeper.report import sections
from sweeper.spec.hints import naming
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Ended, Stages, repeated
from sweeper.system import faults, files, interrupts, nodes
from sweeper.system.interrupts import Interrupts
from sweeper.tracking import history
from sweeper.tracking.store import store_uri
from sweeper.trials import cluster, reproduce

COMPLETED, FAILED, REFUSED, STOPPED, INTERRUPTED = 0, 1, 2, 4, interrupts.STATUS
_STATUS = {"completed": COMPLETED, "failed": FAILED, "interrupted": INTERRUPTED}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 all trials failed, no Ray, full disk, 2 bad input, 4 a limit, 130 interrupted."""
    files.standard_streams()
    files.private()
    cluster.isolate()
    with files.temporary(), Interrupts(_say, "nothing had begun") as signals:
        try:
            return _main(argv, signals)
        except OSError as error:
            _say(f"error: {faults.describe(error)}; finished trials are kept; {signals.hint}")
            return FAILED


def _main(argv: Sequence[str] | None, signals: Interrupts) -> int:
    try:
        args = _arguments(argv)
        args.storage, args.resume = run_folders.here(args.storage, args.resume)
        if args.dry_run and (run_dir := status.foreign(args.spec, args.resume)):
            return _show_record(run_dir, args.json, args.trust_record)
        run_folders.refuse_modules_here(args.reproduce or (args.resume if args.resume != run_folders.NEWEST else None))
        files.cache_root()  # refused without one: paces and prepared data go there
        files.at_home()
        if args.reproduce:
            return _reproduce(args, signals)
        admission = preflight.admission(Request(**{one.name: getattr(args, one.name) for one in fields(Request)}), _say)
        done = admission.answer()
        if args.dry_run:
            return _show_plan(admission, done, args.json)
        run_dir = admission.run_folder(done)
    except ValueError as error:
        _say(f"error: {error}")
        return REFUSED
    except OSError as error:
        if faults.kind(error) in (None, "no permission"):
            _say(f"error: {faults.describe(error)}")
            return REFUSED
        raise
    except KeyboardInterrupt:
        _say("interrupted before it started")
        return INTERRUPTED
    signals.hint = f"resume with: {run_folders.resume(run_dir)}"
    try:
        with files.locked(run_dir / run_folders.LOCK, 0.5):  # status, too, holds it for a moment
            return _carry_out(args, admission, run_dir, signals)
    except Timeout:
        _say(f"error: another sweep is running in {run_dir}")
        return REFUSED
    except ValueError as error:  # what a trainable gave and no record can hold
        _say(f"error: {error}; finished trials are kept; {signals.hint}")
        return FAILED
    except KeyboardInterrupt:
        _say(f"interrupted; {signals.hint}")
        return INTERRUPTED


def _parser() -> files.Parser:
    parser = files.Parser(prog="python -m sweeper.run", description="Run the sweep that a spec describes.")
    parser.add_argument("spec", type=Path, nargs="?", help="YAML file, such as search_spaces/mix_ratios.yaml")
    parser.add_argument("--profile", help="one of the spec's profiles; the spec names the default")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="override one key of the spec")
    parser.add_argument("--storage", metavar="DIR", help="where run folders lie (./runs), or s3://… or gs://…")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=run_folders.NEWEST,
        metavar="RUN_DIR",
        help="resume this run, or the newest of the spec",
    )
    parser.add_argument(
        "--more-seeds", type=int, default=0, metavar="N", help="confirm on N more seeds (with --resume)"
    )
    parser.add_argument("--again", action="store_true", help="train a spec again that has already finished")
    parser.add_argument("--reuse-seeds", action="store_true", help="confirm on seeds that earlier runs used")
    parser.add_argument(
        "--trust-record",
        action="store_true",
        help="resume a record that was changed since it was written (with --resume)",
    )
    parser.add_argument("--fork", action="store_true", help="resume a copy as a run of its own (with --resume)")
    parser.add_argument(
        "--no-reuse", action="store_true", help="train everything, also what an earlier run has trained"
    )
    parser.add_argument("--reproduce", type=Path, metavar="RUN_DIR", help="train one trial of a run again and compare")
    parser.add_argument("--trial", metavar="ID", help="which one (with --reproduce; else the best)")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="MINUTES", help="wait this long for the nodes of a joined cluster (0)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show the cost and what would be refused")
    parser.add_argument("--json", action="store_true", help="print one line of JSON at the end of stdout")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="show Ray's own output")
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Raises ValueError, in one line, for those that do not go together."""
    parser = _parser()
    args = parser.parse_args(argv)
    given = {name for name, value in vars(args).items() if value != parser.get_default(name)}
    beside = sorted(given - {"reproduce", "trial", "trust_record", "json", "verbose", "yes"})
    if args.reproduce and beside:
        what = "SPEC" if beside[0] == "spec" else f"--{beside[0].replace('_', '-')}"
        raise ValueError(f"--reproduce trains a trial as the run's record has it: {what} does not go with it")
    if args.trial and not args.reproduce:
        raise ValueError("--trial names the trial of --reproduce RUN_DIR")
    for name in ("trust_record", "fork"):
        if getattr(args, name) and args.resume is None and not args.reproduce:
            raise ValueError(f"--{name.replace('_', '-')} goes with --resume RUN_DIR")
    if args.again and args.resume is not None:
        raise ValueError("--again starts a new run, --resume continues one: give only one")
    return args


def _show_plan(admission: Admission, done: Path | None, as_json: bool) -> int:
    """What it costs, and why it would not start."""
    spec, storage = admission.spec, admission.storage
    with naming(admission.path):
        admission.estimate = probe.of(spec, admission.fit, measure=True, sd=_spread(spec, storage))
    refused = [*admission.lacking, *(line for lines in admission.refusals() for line in lines)]
    answered = done is not None and admission.prepare_info is not None and admission.same_data(done)
    estimate = replace(
        admission.estimate,
        refused=[] if answered else refused,
        notes=(admission.prepare_info or {}).get("notes", []),
        warnings=admission.warnings,
        warm=warm_start.words(admission.warm),
    )
    for line in shown(spec, estimate):
        _say(line)
    for line in [] if nodes.configured() else capacity.notes(capacity.free(storage)):
        _say(line)
    if answered:
        _say(f"a start would return the finished run {done}; --again trains it once more")
    if as_json:
        files.emit(json.dumps(asdict(estimate)))
    return COMPLETED


def _show_record(run_dir: Path, as_json: bool, trust: bool) -> int:
    """What a plan of a record tells whose trainable is not imported for it."""
    found = status.status(run_dir, trust)
    for line in status.planned(found):
        _say(line)
    if as_json:
        files.emit(json.dumps(found))
    return COMPLETED


def _spread(spec: SweepSpec, storage: Path) -> Spread | None:
    """What earlier runs tell of differences between seeds, where a confirmation is planned."""
    if len(spec.seeds.confirm) < 2:
        return None
    try:
        return spread(history.losses(store_uri(spec, storage), spec))
    except ValueError as error:
        _say(str(error))
        return None


def _carry_out(args: argparse.Namespace, admission: Admission, run_dir: Path, signals: Interrupts) -> int:
    """Run what is left of the sweep, then show its results."""
    try:
        stages = Stages.opened(admission, run_dir, verbose=args.verbose, wait=args.wait)
    except ValueError as error:
        _say(f"error: {error}")
        return REFUSED
    try:
        ended = stages.carry_out(signals)
    except (nodes.NoRoom, nodes.NotShared):
        return REFUSED
    except nodes.NotStarted:
        return FAILED
    for line in last_lines(admission, stages, ended):
        _say(line)
    if args.resume is None and ended.answered:
        _say(f"to see it again or to resume it: {run_folders.resume(run_dir)}; to train it again: --again")
    if args.json:
        files.emit(json.dumps(ended.summary))
    if ended.stopped and ended.whole:
        return STOPPED
    return _STATUS[ended.summary["state"]] if ended.whole else FAILED


def last_lines(admission: Admission, stages: Stages, ended: Ended) -> list[str]:
    """What came out, and where it lies, for people."""
    journal = stages.journal
    cautions = filter(None, [ended.summary["caution"], sections.shortfall(journal.trials.values())])
    told = (" ".join(cautions), ended.stopped)
    return closing.lines(admission.path, admission.spec, journal, ended.outcome, ended.best, *told)


def _reproduce(args: argparse.Namespace, signals: Interrupts) -> int:
    """Train a trial again: 0 where the same bits came out, else 1."""
    try:
        spec, found = repeated(args.reproduce, args.trial, signals, args.verbose, args.trust_record)
    except (nodes.NotStarted, nodes.Lost) as error:
        _say(f"error: {error}")
        return FAILED
    if signals.happened:
        _say("interrupted: nothing is compared")
        return INTERRUPTED
    for line in reproduce.lines(spec, found):
        _say(line)
    if args.json:
        files.emit(json.dumps(asdict(found)))
    return COMPLETED if found.equal else FAILED


def _say(line: str) -> None:
    files.say(line)


if __name__ == "__main__":
    closing.leave(main())
