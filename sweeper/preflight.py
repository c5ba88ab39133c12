"""Everything that may refuse a start. A plan asks the same, so it shows all that a start would be refused for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer
from typing import Any

from sweeper.confirmation import design, fresh_seeds
from sweeper.journal import limits, run_folders, tasks, warm_start
from sweeper.journal.events import Session, WarmStart, with_lines
from sweeper.journal.journal import Journal, fingerprints_in
from sweeper.journal.run_folders import JOURNAL, SPEC
from sweeper.plan import capacity, probe
from sweeper.plan.estimate import Plan, above_limits, few_points
from sweeper.report.summary import sweep_state
from sweeper.spec.hints import naming
from sweeper.spec.load import load, other_baseline, probes
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, nodes
from sweeper.tracking import copies
from sweeper.tracking.store import identity, refuse_store, store_uri
from sweeper.trainable import Trainable, imported_from

Say = Callable[[str], None]
NEEDS_YES = "without a GPU it needs --yes"


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for.

    Args:
        spec: the spec, as a file, as a tree, or as a record's; None where `resume` names the run.
        profile: one of the spec's profiles; None for its default.
        set: changes of single keys, `PATH=VALUE`.
        storage: where run folders lie; None for the default.
        resume: the run to resume; `run_folders.NEWEST` for the newest of the spec; None for a start.
        more_seeds: how many seeds a further look adds to the confirmation.
        again: train a spec that has finished once more.
        reuse_seeds: confirm on seeds that earlier runs used.
        trust_record: resume a record that was changed since it was written.
        fork: resume a copy of a run as a run of its own.
        no_reuse: train everything, also what an earlier run has trained.
        yes: do not ask.
        dry_run: only plan.
    """

    spec: Path | Mapping[str, Any] | SweepSpec | None = None
    profile: str | None = None
    set: list[str] = field(default_factory=list)
    storage: Path | None = None
    resume: Path | None = None
    more_seeds: int = 0
    again: bool = False
    reuse_seeds: bool = False
    trust_record: bool = False
    fork: bool = False
    no_reuse: bool = False
    yes: bool = False
    dry_run: bool = False


@dataclass(kw_only=True)
class Admission:
    """A sweep that asks to start.

    Args:
        path: of its spec, as error messages name it.
        run_to_resume: the run folder, if one is resumed.
        fit: how many trials run at once here; None where that is not known.
        lacking: why this machine cannot run it, a line each.
        here: whether it trains on this machine.
        estimate: its plan, once made.
        prepare_info: what `prepare_shared` returned, once it was called.
        warm: what `search.from` tells the sampler.
        sources: the runs that it is read from; empty if it is on record.
    """

    request: Request
    path: Path
    spec: SweepSpec
    storage: Path
    run_to_resume: Path | None
    fit: int | None
    say: Say
    lacking: list[str] = field(default_factory=list)
    here: bool = True
    estimate: Plan | None = None
    prepare_info: dict[str, Any] | None = None
    warm: list[WarmStart] = field(default_factory=list)
    sources: list[warm_start.Source] = field(default_factory=list)

    def answer(self) -> Path | None:
        """The newest finished run of the spec, which a plain start is answered with if its data are the same."""
        request = self.request
        if request.again or request.resume is not None or request.more_seeds:
            return None
        runs = run_folders.runs(self.storage, self.spec)
        done = next((run for run in runs if finished(self.spec, run)), None)
        if runs and not done:
            resume = run_folders.resume(runs[0])
            self.say(f"an earlier run of this spec is unfinished; this starts a new one. To resume it: {resume}")
        return done

    def run_folder(self, done: Path | None) -> Path:
        """The folder to work in, once nothing speaks against it. Raises ValueError in one line.

        done: of `answer`.
        """
        if done is not None and self.same_data(done):
            self.say(f"{self.spec.name} has already finished; nothing is trained again: {done}")
            return done
        if self.lacking:
            raise ValueError(f"{self.path}: {self.lacking[0]}")
        for lines in self.refusals():
            if lines:
                raise ValueError("; ".join(lines))
        for line in filter(None, [few_points(self.spec), *self.warnings]):
            self.say(f"caution: {line}")
        return self.run_to_resume or run_folders.new(self.storage, self.spec)

    @property
    def warnings(self) -> list[str]:
        """What the trainable warns of, once its data are prepared."""
        return (self.prepare_info or {}).get("warnings", [])

    def refusals(self) -> Iterator[list[str]]:
        """Why it may not begin, a line each, question by question: whoever asks no further has prepared nothing."""
        yield self._above_limits()
        yield _refused(self._used_up)
        yield self._short_of_room()
        for question in (self._prepare, self._more_seeds, self._same_data_and_fresh_seeds):
            refused = _refused(question)
            yield refused
            if self.prepare_info is None:
                return

    def same_data(self, run: Path) -> bool:
        """Whether a run had the data that are prepared now. Raises ValueError, in one line, where none can be had."""
        self._prepare()
        try:
            journal_to_resume(self.spec, run, self.prepare_info or {})
        except ValueError as error:
            self.say(f"the finished run cannot be reused, so this starts a new one: {error}")
            return False
        return True

    def _above_limits(self) -> list[str]:
        if not (self.spec.limits.hours or self.spec.limits.gpu_hours) or not self.here:
            return []
        return above_limits(self.spec, self.estimate or probe.of(self.spec, self.fit, measure=True))

    def _used_up(self) -> None:
        if self.run_to_resume and (self.run_to_resume / JOURNAL).is_file():
            with naming(self.run_to_resume):
                journal = Journal(self.run_to_resume / JOURNAL, read_only=True, trust=self.request.trust_record)
            if not design.finished(self.spec, journal):
                limits.refuse_used_up(self.spec, journal)

    def _short_of_room(self) -> list[str]:
        if nodes.configured() or not self.here or (not self.fit and not self.estimate):
            return []
        there = capacity.free(self.storage)
        short = capacity.shortages(self.spec, self.fit or 1, there, run_folders.size(self.run_to_resume))
        for line in [] if short or self.estimate else capacity.notes(there):  # a plan ends with them
            self.say(line)
        return short

    def _prepare(self) -> None:
        if self.prepare_info is None:
            with naming(self.path):
                self.prepare_info = prepare_shared(self.spec, self.say)

    def _more_seeds(self) -> None:
        more = self.request.more_seeds
        if more < 0 or (more and not (self.run_to_resume and self.spec.compared)):
            raise ValueError("--more-seeds: takes a positive number, with --resume of a run that has a confirmation")
        if more and self.run_to_resume:
            journal = Journal(self.run_to_resume / JOURNAL, read_only=True, trust=self.request.trust_record)
            if journal.families() and not design.unsettled(self.spec, journal):
                raise ValueError("--more-seeds: every comparison of this run is settled or dropped: nothing would run")

    def _same_data_and_fresh_seeds(self) -> None:
        facts = self.prepare_info or {}
        warm_start.refuse_other_data(self.sources, facts)
        recorded: Journal | None = journal_to_resume(self.spec, self.run_to_resume, facts, self.request.trust_record)
        if recorded and self.run_to_resume and (self.run_to_resume / SPEC).is_file():
            run_folders.refuse_extension(recorded, run_folders.recorded(self.run_to_resume / SPEC), self.spec)
        if recorded and self.run_to_resume and not self.request.fork:
            fresh_seeds.refuse_stale(recorded, store_uri(self.spec, self.storage), self.run_to_resume, self.say)
        if not self.request.reuse_seeds:
            with naming(self.path):
                fresh_seeds.refuse_told(self.spec, [] if recorded and recorded.families() else self.warm)
            refuse_used(self.path, self.spec, self.storage, facts, recorded, self.say)


def admission(request: Request, say: Say, here: bool = True) -> Admission:
    """A sweep as the command line asks for it. Raises ValueError, in one line, for what no start could begin with.

    Asks on a terminal before it trains without the GPU that the spec wants. here: whether it trains on this machine.
    """
    own = request.resume if request.spec is None and request.resume != run_folders.NEWEST else None
    if own is not None:
        run_folders.refuse_strange(own)
        run_folders.mend_spec(own)
    path = own / run_folders.SPEC if own is not None else request.spec
    if isinstance(path, SweepSpec):
        path = path.model_dump(mode="json")
    if path is None:
        raise ValueError("name a spec, such as search_spaces/mix_ratios.yaml; see --help")
    spec, lacking = load(path, request.profile, request.set, own), list[str]()
    if here:
        spec, lacking = _agreed(request, path, spec, say)
    files.private(spec.shared)
    record = own or recorded_in(request)
    if (record or isinstance(request.spec, SweepSpec)) and not any(
        change.startswith("tracking") and "uri" in change for change in request.set
    ):
        refuse_store(spec, record, request.trust_record, run_folders.storage(request.storage, request.resume))
    if own is not None and (line := imported_from(spec.trainable)):
        say(line)
    if line := other_baseline(path, spec):
        say(line)
    storage = run_folders.storage(request.storage, request.resume)
    path = Path("spec") if isinstance(path, Mapping) else path
    spec, warm, sources = _warm(request, path, spec, storage)
    run_to_resume = run_folders.find_run(storage, spec, request.resume)
    fit, short = fitting(spec) if here else (None, [])
    return Admission(
        request=request,
        path=path,
        spec=spec,
        storage=storage,
        run_to_resume=run_to_resume,
        fit=fit,
        lacking=[*lacking, *short, *copies.lacking(spec)],
        here=here,
        say=say,
        warm=warm,
        sources=sources,
    )


def _warm(
    request: Request, path: Path, spec: SweepSpec, storage: Path
) -> tuple[SweepSpec, list[WarmStart], list[warm_start.Source]]:
    """The spec with its sources by content, what they tell, and where that is read from.

    A run that is resumed has it on record: what became of the other runs since is nothing to it.
    """
    if not spec.search.sources:
        return spec, [], []
    with naming(path):
        if request.resume and (warm := warm_start.resumed(spec, storage, request.resume, request.trust_record)):
            return warm_start.pinned(spec, warm), warm, []
        sources = warm_start.gathered(spec, storage)
    warm = [one.start for one in sources]
    return warm_start.pinned(spec, warm), warm, sources


def _agreed(request: Request, path: Path | Mapping[str, Any], spec: SweepSpec, say: Say) -> tuple[SweepSpec, list[str]]:
    """The spec; where it wants a GPU and there is none, the same on CPUs if people agree to the time that takes.

    Nobody is asked for a plan; it gets the line that a start would be refused with.
    """
    machine = nodes.this_machine()
    if not spec.resources.gpus_per_worker or machine["GPU"] or nodes.configured():
        return spec, []
    slow = load(path, request.profile, [*request.set, "resources.gpus_per_worker=0"])
    hours = probe.of(slow, fitting(slow)[0], measure=False).hours
    say(f"{spec.name} wants a GPU and there is none: on {machine['CPU']:g} CPUs it takes about {hours:,.0f} hours")
    unheard = not request.yes and not sys.stdin.isatty()
    if request.yes or request.dry_run:
        return slow, [NEEDS_YES] if unheard else []
    if unheard:
        raise ValueError(NEEDS_YES)
    say("continue without a GPU? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise ValueError("not started")
    return slow, []


def fitting(spec: SweepSpec) -> tuple[int | None, list[str]]:
    """How many trials run at once here, None where that is not known or not even one does; and then why, in a line."""
    if nodes.configured():
        return None, []
    try:
        return nodes.max_concurrent(spec.resources, [nodes.this_machine()]), []
    except nodes.NoRoom as error:
        return None, [str(error)]


def _refused(question: Callable[[], None]) -> list[str]:
    try:
        question()
    except ValueError as error:
        return [str(error)]
    return []


def recorded_in(request: Request) -> Path | None:
    """The run folder whose record a start names as its spec, if it does: a stranger may have written it."""
    given = request.spec
    return given.parent if isinstance(given, Path) and (given.parent / JOURNAL).exists() else None


def prepare_shared(spec: SweepSpec, say: Say) -> dict[str, Any]:
    """Make what the trials share, and ask whether tasks can be scored; people hear of it where it takes a while.

    Returns the trainable's facts. Raises ValueError in one line.
    """
    waiting = Timer(2, say, [f"{spec.name}: preparing what its trials share"])
    waiting.start()
    try:
        facts = with_lines(Trainable.load(spec.trainable).prepare(spec.settings({})))
        if cautions := check_prepared(spec, facts):
            facts = {**facts, "warnings": [*facts.get("warnings", ()), *cautions]}
        return {**facts, **tasks.checked(spec)}
    finally:
        waiting.cancel()


def check_prepared(spec: SweepSpec, prepare_info: dict[str, Any]) -> list[str]:
    """Raises ValueError, in one line, for an arm or a corner of the space that what is prepared does not serve.

    Returns what there is to be said of those that it does.
    """
    trainable = Trainable.load(spec.trainable)
    told = [trainable.check(spec.settings(params), prepare_info) or () for _, params in probes(spec, spec.arms)]
    return [*dict.fromkeys(line for lines in told for line in lines)]


def finished(spec: SweepSpec, run_dir: Path) -> bool:
    """Whether a run of the spec has nothing left to do, and something came of it."""
    try:
        journal = Journal(run_dir / JOURNAL, read_only=True)
    except ValueError:
        return False
    return design.finished(spec, journal) and sweep_state(journal.trials.values(), False) == "completed"


def journal_to_resume(
    spec: SweepSpec, run_dir: Path | None, prepare_info: dict[str, Any], trust: bool = False
) -> Journal | None:
    """What is on record of the run to go on with. Raises ValueError where it had other data, or rules by its names.

    And where the record, or the spec beside it, is not what was written, unless people `trust` it all the same.
    """
    if run_dir is None:
        return None
    with naming(run_dir):
        journal = Journal(run_dir / JOURNAL, read_only=True, trust=trust)
        journal.refuse_other_spec(run_folders.own_hash(run_dir) or spec.spec_hash, trust)
        first = next((event for event in journal.events if isinstance(event, Session)), None)
        if first is None:
            return journal
        now = fingerprints_in(prepare_info)
        for key, then in fingerprints_in(first.facts).items():
            if now.get(key, then) != then:
                raise ValueError(
                    f"cannot resume: the data or its preprocessing changed ({key} was {then}, is {now[key]}): restore "
                    f"it, or start a new run; versions then: {first.versions}"
                )
        journal.refuse_gaps()
        if journal.respecified:
            return journal  # knowingly
        for one in {record.ask.config_hash: record for record in journal.trials.values()}.values():
            if one.ask.config_hash and one.ask.config_hash != spec.config_hash(spec.trainable_config(one.ask.params)):
                raise ValueError(
                    f"cannot resume: {one.ask.arm or one.id} has other settings now, so its trials would not be "
                    "comparable: start a new run, or resume with the version of sweeper that started it; versions "
                    f"then: {first.versions}"
                )
    return journal


def refuse_used(
    path: Path, spec: SweepSpec, storage: Path, facts: dict[str, Any], journal: Journal | None, say: Say
) -> None:
    """Raises ValueError where other runs of this data have used a seed of the confirmation.

    path: of the spec, which the refusal names. journal: of the run to go on with.
    """
    if not spec.compared or not facts.get("data_fingerprint"):
        return
    if journal and journal.families():
        return  # declared: what is known of their freshness is on record
    own = identity(journal, journal.path.parent) if journal else {}
    with naming(path):
        fresh_seeds.refuse_used(spec, store_uri(spec, storage), facts, own, say)
