"""The command: `python -m sweeper.run SPEC`. It reads the arguments, calls the rooms, and says where things lie.

What people read goes to stderr; with `--json`, stdout ends with one line. Ray and all that needs it are imported
once the spec is accepted. Nothing in here crosses a process boundary: under `-m` it would be `__main__` elsewhere.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any, NoReturn

from filelock import FileLock, Timeout

from sweeper import checkpoints, cluster, confirm, folders, interrupts, plan, probe, report, reproduce, room
from sweeper.interrupts import Interrupts
from sweeper.journal import Journal, TrialRecord, Verdict
from sweeper.spec import SpecError, SweepSpec, load
from sweeper.spread import Spread, spread
from sweeper.trainable import Trainable

if TYPE_CHECKING:
    from sweeper.tracking import Crowned

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
        with _named(args.spec):
            facts = _prepared(spec)
        _refuse_used(args, spec, storage, facts, known)
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
    parser.add_argument("--storage", type=Path, metavar="DIR", help="where run folders lie (./runs)")
    parser.add_argument(
        "--resume",
        nargs="?",
        const=folders.NEWEST,
        type=Path,
        metavar="RUN_DIR",
        help="go on with this run or the newest",
    )
    parser.add_argument(
        "--more-seeds", type=int, default=0, metavar="N", help="confirm on N more seeds (with --resume)"
    )
    parser.add_argument("--reuse-seeds", action="store_true", help="confirm on seeds that earlier runs have used")
    parser.add_argument("--reproduce", type=Path, metavar="RUN_DIR", help="train one trial of a run again and compare")
    parser.add_argument("--trial", metavar="ID", help="which one (with --reproduce; else the best)")
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


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """A refusal names the spec or the run's folder."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _prepared(spec: SweepSpec) -> dict[str, Any]:
    """Make what the trials share; people hear of it where it takes a while."""
    waiting = Timer(2, _say, [f"{spec.name}: preparing what its trials share"])
    waiting.start()
    try:
        return Trainable.load(spec.trainable).prepare(spec.settings({}))
    finally:
        waiting.cancel()


def _show_plan(
    args: argparse.Namespace, spec: SweepSpec, storage: Path, known: Path | None, fit: int | None, refused: list[str]
) -> int:
    """What it costs, and why it would not start."""
    estimate = probe.of(spec, fit, measure=True, sd=_spread(spec, storage))
    refused = [*refused, *plan.above_limits(spec, estimate)]
    there = None if cluster.configured() else room.free(storage)
    if there:
        refused += room.shortages(spec, fit or 1, there, folders.size(known))
    estimate = replace(estimate, refused=refused)
    for line in [*plan.shown(spec, estimate), *(room.notes(there) if there else [])]:
        _say(line)
    if args.json:
        print(json.dumps(asdict(estimate)))
    return COMPLETED


def _spread(spec: SweepSpec, storage: Path) -> Spread | None:
    """What earlier runs tell of differences between seeds, where a confirmation is planned."""
    if len(spec.seeds.confirm) < 2:
        return None
    from sweeper import earlier, tracking

    try:
        return spread(earlier.losses(tracking.store_uri(spec, storage), spec))
    except ValueError as error:
        _say(str(error))
        return None


def _refuse_used(
    args: argparse.Namespace, spec: SweepSpec, storage: Path, facts: dict[str, Any], known: Path | None
) -> None:
    """Raises ValueError for a confirmation that could confirm nothing."""
    if args.more_seeds < 0 or (args.more_seeds and not (known and spec.compared)):
        raise ValueError("--more-seeds: takes a number, with --resume of a run that has a confirmation")
    if args.reuse_seeds or not spec.compared or not facts.get("data_fingerprint"):
        return
    from sweeper import ledger, tracking

    own: dict[str, str] = {}
    if known:
        with _named(known):
            journal = Journal(known / "journal.jsonl", read_only=True)
        if journal.families():
            return  # declared: what is known of their freshness is on record
        own = ledger.identity(journal, known)
    with _named(args.spec):
        ledger.refuse_used(spec, tracking.store_uri(spec, storage), facts, own, _say)


def _carry_out(
    args: argparse.Namespace, spec: SweepSpec, run_dir: Path, facts: dict[str, Any], signals: Interrupts
) -> int:
    """Run what is left of the sweep, then leave and show its results."""
    from sweeper import results
    from sweeper.live import Live
    from sweeper.tracking import DRAIN_S, Tracker, store_uri

    try:
        journal = Journal(run_dir / "journal.jsonl")
    except ValueError as error:
        _say(f"error: {run_dir}: {error}")
        return REFUSED
    uri = store_uri(spec, run_dir.parent)
    tags = {f"sweeper.{key}": str(value) for key, value in facts.items() if "fingerprint" in key}
    with Live(spec, journal, confirm.expected(spec, journal) + _more(args, spec, journal)) as live:
        tracker = Tracker(journal, spec, run_dir, uri, tags=tags, say=live.say)
        tracker.start()
        signals.say = live.say
        try:
            done = _over(args, spec, journal) or _run(args, spec, run_dir, journal, uri, facts, signals)
        except (cluster.NoRoom, cluster.NotStarted) as error:
            live.say(f"error: {error}")
            folders.discard(run_dir, journal)
            if run_dir.exists():
                live.say(f"go on with: {folders.resume(run_dir)}")
            return REFUSED if isinstance(error, cluster.NoRoom) else FAILED
        except OSError as error:
            if checkpoints.full(error):
                tracker.close("interrupted", None, None, FULL_S)
            raise
        except KeyboardInterrupt:
            done = False
        signals.closing = True
        signals.install()
        records = list(journal.trials.values())
        best = report.best(records, spec.objective)
        outcome = report.Outcome(run_dir=run_dir, tracking_uri=uri, bundle=_bundle(run_dir, best), interrupted=not done)
        results.write_all(spec, journal, outcome)
        state = report.sweep_state(records, not done)
        crowned, tags = _crowned(spec, journal, uri, facts, run_dir, live.say)
        tracker.close(state, best, outcome.bundle, signals.left(DRAIN_S), crowned=crowned, tags=tags)
        signals.say = _say
    outcome = replace(outcome, parent_run_id=tracker.parent_run_id, run_ids=tracker.run_ids)
    summary = report.summary(spec, journal, outcome)
    _show_end(args, spec, outcome, best, summary["verdict"])
    if args.json:
        print(json.dumps(summary))
    return _STATUS[summary["state"]]


def _over(args: argparse.Namespace, spec: SweepSpec, journal: Journal) -> bool:
    """Whether nothing is left to run, so that Ray need not start."""
    return confirm.finished(spec, journal) and not args.more_seeds


def _more(args: argparse.Namespace, spec: SweepSpec, journal: Journal) -> int:
    """Runs that `--more-seeds` adds."""
    families = journal.families()
    return args.more_seeds * len(families[-1].arms) if families and confirm.finished(spec, journal) else 0


def _run(
    args: argparse.Namespace,
    spec: SweepSpec,
    run_dir: Path,
    journal: Journal,
    uri: str,
    facts: dict[str, Any],
    signals: Interrupts,
) -> bool:
    """Run what is left: the search, then the confirmation; whether all of it has ended."""
    signals.say("joining the cluster" if cluster.configured() else "starting Ray on this machine")
    with cluster.session(_packages(spec), args.verbose) as nodes:
        signals.install()
        from sweeper import ledger, sweep

        slots, begun = cluster.room(spec.resources, nodes), False
        if not confirm.searched(spec, journal):
            begun = True
            if not sweep.run(spec, run_dir, journal, slots, facts=facts, say=signals.say):
                return False
            signals.install()  # Tune's handler is still there, and would take a signal to no effect
            if signals.happened:
                return confirm.finished(spec, journal)
        if args.more_seeds and not confirm.finished(spec, journal):
            signals.say("--more-seeds: the look before is not finished; this goes on with it, ask again for more")
        if not journal.families():
            if reason := confirm.lacking(spec, journal):
                signals.say(reason)
                return True
            journal.append(ledger.declare(spec, journal, uri, facts, run_dir, signals.say))
        elif args.more_seeds and confirm.finished(spec, journal):
            journal.append(ledger.further(spec, journal, args.more_seeds, uri, facts, run_dir, signals.say))
        if not confirm.complete(spec, journal):
            told = None if begun else facts
            if not sweep.confirm(spec, run_dir, journal, slots, facts=told, say=signals.say):
                return False
        if reason := confirm.untold(spec, journal):
            signals.say(reason)
        journal.append(Verdict(data=confirm.conclude(spec, journal, run_dir)))
        return True


def _reproduce(args: argparse.Namespace, signals: Interrupts) -> int:
    """Train a trial again: 0 where the same bits came out, else 1."""
    spec, journal, record = reproduce.chosen(args.reproduce.resolve(), args.trial)
    _prepared(spec)

    def again(spec: SweepSpec, folder: Path, open_trials: Journal) -> None:
        with cluster.session(_packages(spec), args.verbose) as nodes:
            signals.install()
            from sweeper import sweep

            sweep.again(spec, folder, open_trials, cluster.room(spec.resources, nodes), _say)

    try:
        with FileLock(args.reproduce / folders.LOCK, timeout=0.5):
            found = reproduce.reproduce(spec, args.reproduce.resolve(), journal, record, again)
    except Timeout:
        raise ValueError(f"--reproduce {args.reproduce}: a sweep works on it") from None
    except cluster.NotStarted as error:
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


def _crowned(
    spec: SweepSpec, journal: Journal, uri: str, facts: dict[str, Any], run_dir: Path, say: Callable[[str], None]
) -> tuple[Crowned | None, dict[str, str]]:
    """What the confirmation moves in the registry, and what the parent run's tags say of it."""
    from sweeper import ledger

    said = journal.verdict()
    if said is None:
        return None, {}
    baseline = spec.config_hash(spec.trainable_config(next(iter(spec.arms.values()))))
    tags = {"sweeper.verdict": json.dumps(said["told"]), "sweeper.baseline": baseline}
    try:
        return ledger.crowned(spec, journal, uri, facts, run_dir, say), tags
    except ValueError as error:
        say(f"{error}; no champion is registered")
        return None, tags


def _packages(spec: SweepSpec) -> list[str]:
    """The folders of this package and of the trainable's, which a joined cluster's nodes need."""
    found = (find_spec(name.partition(".")[0]) for name in (__package__ or "sweeper", spec.trainable.partition(":")[0]))
    return [folder for one in found if one for folder in one.submodule_search_locations or []]


def _bundle(run_dir: Path, best: TrialRecord | None) -> Path | None:
    """Keep the best trial's bundle apart from its checkpoints."""
    checkpoint = best.end.checkpoint if best and best.end else None
    source = run_dir / (checkpoint or "") / "bundle"
    if best is None or checkpoint is None or not source.is_dir():
        return None
    target = run_dir / "bundles" / best.id
    target.parent.mkdir(exist_ok=True)
    checkpoints.publish(source, target)
    return target


def _show_end(
    args: argparse.Namespace,
    spec: SweepSpec,
    outcome: report.Outcome,
    best: TrialRecord | None,
    verdict: dict[str, Any] | None,
) -> None:
    if verdict:
        _say(f"verdict        {re.sub('[*`]', '', report.verdict_headline(verdict))}")
    if best:
        score = best.score(spec.objective)
        what = report.describe(best.ask)
        _say(f"best trial     {best.id} ({what}): {spec.objective} {score:.4f} at step {best.step:,}")
    elif spec.total_trials:
        _say("best trial     none completed")
    _say(f"run folder     {outcome.run_dir} (report.md lists the trials)")
    if outcome.bundle:
        _say(f"bundle         {outcome.bundle}")
    _say(f"tracking store {report.redact(outcome.tracking_uri)}")
    _say(f"browse it with {report.ui_command(outcome.tracking_uri, outcome.run_dir.parent)}")
    for line in _scale(args, spec):
        _say(line)
    if outcome.interrupted:
        _say(f"interrupted; go on with: {folders.resume(outcome.run_dir)}")


def _scale(args: argparse.Namespace, spec: SweepSpec) -> list[str]:
    """How far this profile is from the published runs, and what those would cost."""
    if spec.profile in (None, "published") or "published" not in spec.profiles:
        return []
    try:
        full = load(args.spec, "published")
    except SpecError:
        return []
    seen, published = (one.settings({}).steps * one.settings({}).tokens_per_step for one in (spec, full))
    cost = probe.of(full, 1, measure=False)
    caution = "this shows the machinery, not the effect; " if spec.profile == "laptop" else ""
    return [
        f"profile {spec.profile}: {caution}a trial saw {seen / 1e6:.1f} M tokens, {seen / published:.1%} of the "
        f"{published / 1e6:.1f} M of published",
        f"published: {cost.trials} trials, about {cost.gpu_hours:,.0f} GPU-hours, if {'; '.join(cost.assumed[:1])}",
    ]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
