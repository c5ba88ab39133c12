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
from typing import Any

from filelock import Timeout

from sweeper import closing, preflight, status
from sweeper.journal import object_store, run_folders
from sweeper.journal import records as records_of
from sweeper.journal.journal import Journal, fingerprints_in
from sweeper.plan import capacity, probe
from sweeper.plan.estimate import few_points, shown
from sweeper.plan.seed_noise import Spread, spread
from sweeper.preflight import Admission, finished
from sweeper.report import sections
from sweeper.report.summary import summary, sweep_state
from sweeper.spec.hints import naming
from sweeper.spec.load import load, other_baseline
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages, repeated
from sweeper.system import faults, files, interrupts, nodes
from sweeper.system.interrupts import Interrupts
from sweeper.tracking import history
from sweeper.tracking import tags as tag
from sweeper.tracking.store import sqlite_file, store_uri
from sweeper.tracking.tracker import DRAIN_S, Tracker
from sweeper.trainable import imported_from
from sweeper.trials import cluster, reproduce

COMPLETED, FAILED, REFUSED, INTERRUPTED = 0, 1, 2, interrupts.STATUS
FULL_S = 5.0  # the tracking store may lie on the disk that is full
NEEDS_YES = "without a GPU it needs --yes"
_STATUS = {"completed": COMPLETED, "failed": FAILED, "interrupted": INTERRUPTED}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0 done, 1 all trials failed, no Ray, a full or closed disk, 2 bad input, 130 interrupted."""
    files.standard_streams()
    files.private()
    cluster.isolate()
    with files.temporary(), Interrupts(_say, "nothing had begun") as signals:
        try:
            return _main(argv, signals)
        except OSError as error:
            _say(f"error: {faults.describe(error)}; what had ended is kept; {signals.hint}")
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
        admission, refused = _asked(args)
        spec, done = admission.spec, _done(args, admission)
        if args.dry_run:
            return _show_plan(args, admission, refused, done)
        run_dir = _answers(admission, done) or _begun(admission, refused)
    except ValueError as error:
        _say(f"error: {error}")
        return REFUSED
    except OSError as error:
        if faults.kind(error) in (None, "no permission"):
            _say(f"error: {faults.describe(error)}")
            return REFUSED
        raise
    except KeyboardInterrupt:
        _say("interrupted before it began")
        return INTERRUPTED
    signals.hint = f"go on with: {run_folders.resume(run_dir)}"
    try:
        with files.locked(run_dir / run_folders.LOCK, 0.5):  # status, too, holds it for a moment
            return _carry_out(args, spec, run_dir, admission.prepare_info or {}, signals)
    except Timeout:
        _say(f"error: another sweep works on {run_dir}")
        return REFUSED
    except ValueError as error:  # what a trainable gave and no record can hold
        _say(f"error: {error}; what had ended is kept; {signals.hint}")
        return FAILED
    except KeyboardInterrupt:
        _say(f"interrupted; go on with: {run_folders.resume(run_dir)}")
        return INTERRUPTED


def _asked(args: argparse.Namespace) -> tuple[Admission, list[str]]:
    """What the arguments ask for, and why this machine could not carry it out. Raises ValueError in one line."""
    own: Path | None = args.resume if args.spec is None and args.resume != run_folders.NEWEST else None
    if own is not None:
        run_folders.refuse_strange(own)
        args.spec = own / run_folders.SPEC
    if args.spec is None:
        raise ValueError("name a spec, such as search_spaces/mix_ratios.yaml; see --help")
    spec, unheard = _agreed(args, load(args.spec, args.profile, args.set, own))
    files.private(spec.shared)
    if own is not None and not any(change.startswith("tracking") for change in args.set):
        preflight.refuse_store(spec, own, args.trust_record)
    if own is not None and (line := imported_from(spec.trainable)):
        _say(line)
    if line := other_baseline(args.spec, spec):
        _say(line)
    storage = run_folders.storage(args.storage, args.resume)
    run_to_resume = run_folders.find_run(storage, spec, args.resume)
    fit, lacking = _fit(spec)
    names = ("more_seeds", "reuse_seeds", "trust_record", "fork")
    asked = {name: getattr(args, name) for name in names}
    admission = Admission(
        path=args.spec, spec=spec, storage=storage, run_to_resume=run_to_resume, fit=fit, say=_say, **asked
    )
    return admission, [*unheard, *lacking]


def _done(args: argparse.Namespace, admission: Admission) -> Path | None:
    """The run that a plain call is answered with: the newest of the spec that has finished."""
    if args.again or args.resume is not None or args.more_seeds:
        return None
    runs = run_folders.runs(admission.storage, admission.spec)
    done = next((run for run in runs if finished(admission.spec, run)), None)
    if runs and not done:
        _say(
            f"an earlier run of this spec has not completed, and this begins anew: "
            f"{run_folders.resume(runs[0])} goes on"
        )
    return done


def _answers(admission: Admission, done: Path | None) -> Path | None:
    """A run that has finished, where the data are still what it had."""
    if done is None or not admission.same_data(done):
        return None
    _say(f"{admission.spec.name} has finished already, and nothing is trained again: {done}")
    return done


def _begun(admission: Admission, refused: list[str]) -> Path:
    """The folder of the run, once nothing speaks against it. Raises ValueError in one line."""
    if refused:
        raise ValueError(f"{admission.path}: {refused[0]}")
    for lines in admission.refusals():
        if lines:
            raise ValueError("; ".join(lines))
    for line in filter(None, [few_points(admission.spec), *(admission.prepare_info or {}).get("warnings", ())]):
        _say(f"caution: {line}")
    return admission.run_to_resume or run_folders.new(admission.storage, admission.spec)


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
        help="go on with this run, or with the newest of the spec",
    )
    parser.add_argument(
        "--more-seeds", type=int, default=0, metavar="N", help="confirm on N more seeds (with --resume)"
    )
    parser.add_argument("--again", action="store_true", help="train a spec that has finished already once more")
    parser.add_argument("--reuse-seeds", action="store_true", help="confirm on seeds that earlier runs have used")
    parser.add_argument(
        "--trust-record", action="store_true", help="go on with a record that is not what was written (with --resume)"
    )
    parser.add_argument("--fork", action="store_true", help="go on with a copy as a run of its own (with --resume)")
    parser.add_argument("--reproduce", type=Path, metavar="RUN_DIR", help="train one trial of a run again and compare")
    parser.add_argument("--trial", metavar="ID", help="which one (with --reproduce; else the best)")
    parser.add_argument(
        "--wait", type=float, default=0, metavar="MINUTES", help="wait for a joined cluster to have the nodes (0)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what it costs and what would be refused")
    parser.add_argument("--json", action="store_true", help="end stdout with one line of JSON")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray says")
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
        raise ValueError("--again begins a new run, --resume goes on with one: give one of them")
    return args


def _agreed(args: argparse.Namespace, spec: SweepSpec) -> tuple[SweepSpec, list[str]]:
    """The spec, or where it wants a GPU and there is none, the same on CPUs if people agree to what that takes.

    Nobody is asked for a plan; with it goes, in a line, what would be refused.
    """
    machine = nodes.this_machine()
    if not spec.resources.gpus_per_worker or machine["GPU"] or nodes.configured():
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
    if nodes.configured():
        return None, []
    try:
        return nodes.max_concurrent(spec.resources, [nodes.this_machine()]), []
    except nodes.NoRoom as error:
        return None, [str(error)]


def _show_plan(args: argparse.Namespace, admission: Admission, refused: list[str], done: Path | None) -> int:
    """What it costs, and why it would not start."""
    spec, storage = admission.spec, admission.storage
    with naming(admission.path):
        admission.estimate = probe.of(spec, admission.fit, measure=True, sd=_spread(spec, storage))
    refused = [*refused, *(line for lines in admission.refusals() for line in lines)]
    answered = done is not None and admission.prepare_info is not None and admission.same_data(done)
    told = {key: (admission.prepare_info or {}).get(key, []) for key in ("notes", "warnings")}
    estimate = replace(admission.estimate, refused=[] if answered else refused, **told)
    for line in shown(spec, estimate):
        _say(line)
    for line in [] if nodes.configured() else capacity.notes(capacity.free(storage)):
        _say(line)
    if answered:
        _say(f"a start answers with the run that has finished already, {done}; --again trains it once more")
    if args.json:
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


def _carry_out(
    args: argparse.Namespace, spec: SweepSpec, run_dir: Path, facts: dict[str, Any], signals: Interrupts
) -> int:
    """Run what is left of the sweep, then leave and show its results."""
    from sweeper.report.terminal import Live
    from sweeper.report.write import texts

    try:
        journal = Journal(run_dir / "journal.jsonl", trust=args.trust_record)
        own = run_folders.own_hash(run_dir) or spec.spec_hash
        journal.refuse_other_spec(own, args.trust_record)
        journal.refuse_gaps()
    except ValueError as error:
        _say(f"error: {run_dir}: {error}")
        return REFUSED
    journal.born(own)
    if args.fork:
        journal.fork()
    run_folders.begin_here(journal)
    for line in journal.doubts():
        _say(f"caution: {line}")
    uri = store_uri(spec, run_dir.parent)
    if object_store.of(run_dir) and sqlite_file(uri):
        _say("MLflow's store lies on this machine alone, and with it which seeds were used: set MLFLOW_TRACKING_URI")
    tags = {tag.PREFIX + key: value for key, value in fingerprints_in(facts).items()}
    stages = Stages(
        spec=spec,
        run_dir=run_dir,
        journal=journal,
        uri=uri,
        prepare_info=facts,
        more_seeds=args.more_seeds,
        verbose=args.verbose,
        wait=args.wait,
    )
    done, lost, began = False, False, not stages.over
    with Live(spec, journal, stages.trials) as live, object_store.mirrored(run_dir, journal, live.say):
        tracker = Tracker(journal, spec, run_dir, uri, tags=tags, say=live.say)
        tracker.start()
        signals.say = live.say
        try:
            done = stages.over or stages.run(signals)
        except (nodes.NoRoom, nodes.NotShared, nodes.NotStarted) as error:
            live.say(f"error: {error}")
            if journal.has_session:
                tracker.close("interrupted", None, None, FULL_S)
            run_folders.discard(run_dir, journal)
            if run_dir.exists():
                live.say(f"go on with: {run_folders.resume(run_dir)}")
            return FAILED if isinstance(error, nodes.NotStarted) else REFUSED
        except nodes.Lost as error:
            live.say(f"error: {error}")
            lost = True
        except KeyboardInterrupt:
            pass
        except BaseException:
            tracker.close("interrupted", None, None, FULL_S)  # no run in the store stays RUNNING
            raise
        signals.closing = True
        signals.install()
        ends = closing.Steps(live.say)
        records = list(journal.trials.values())
        best = ends.run("choosing the best trial", lambda: records_of.best(spec, records), None)
        bundle = ends.run("keeping the best trial's bundle", lambda: closing.keep_bundle(run_dir, best), None)
        outcome = sections.Outcome(run_dir=run_dir, tracking_uri=uri, bundle=bundle, interrupted=not done)
        for name, write in texts(spec, journal, outcome):
            ends.run(f"writing {name}", write, None)
        state = sweep_state(records, not done)
        crowned, tags = ends.run("choosing the champion", lambda: stages.promotion(live.say), (None, {}))
        left = signals.left(DRAIN_S)
        ends.run("MLflow", lambda: tracker.close(state, best, bundle, left, promotion=crowned, tags=tags), 0)
        signals.say = _say
    outcome = replace(outcome, parent_run_id=tracker.parent_run_id, run_ids=tracker.run_ids)
    told = summary(spec, journal, outcome)
    cautions = filter(None, [told["caution"], sections.shortfall(journal.trials.values())])
    for line in closing.lines(args.spec, spec, outcome, best, told["verdict"], " ".join(cautions)):
        _say(line)
    if args.resume is None and not began:
        _say(f"to look again or go on: {run_folders.resume(run_dir)}; to train it once more on purpose: --again")
    if args.json:
        files.emit(json.dumps(told))
    return FAILED if lost or ends.failed else _STATUS[told["state"]]


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
