"""MLflow as a projection of the journal: a thread that follows it, and the model registry.

One parent run for each sweep, one child for each trial, found again by their tags, so that a second driver continues
the runs of the first. Training never waits for the server: what it does not get stays in the journal for `--resume`.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.journal import checkpoints, learned
from sweeper.journal.events import Ask, End, Event, Report, Session
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.journal.names import Names
from sweeper.journal.run_folders import REPORTS
from sweeper.system import files
from sweeper.system.secrecy import redact
from sweeper.tracking import shared_settings, store, view, wording
from sweeper.tracking import tags as tag
from sweeper.tracking.artifacts import SMALL_S, Artifacts
from sweeper.tracking.copies import Copies
from sweeper.tracking.registry import ALIAS, Registry
from sweeper.tracking.trial_runs import STATUS, TrialRun, cut_tags, milliseconds, session_tags

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from sweeper.spec.spec import SweepSpec

POLL_S = 0.5
BACKOFF_S = 5.0
DRAIN_S = 30.0
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Promotion:
    """The run whose bundle becomes the champion, and its version's tags with the verdict."""

    trial: TrialRecord
    bundle: Path
    tags: Mapping[str, str]


@dataclass(frozen=True)
class _Close:
    status: str
    best: TrialRecord | None
    bundle: Path | None
    deadline: float
    promotion: Promotion | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Tracker:
    """Follows a journal into MLflow from its own thread.

    tags: further tags of every run, such as a data fingerprint. say: called with one line when something is wrong.
    experiment, parent_run_id and run_ids (of trials) are where things went; the last two fill as they become known.
    page: where a server of the store shows the sweep's runs, below its address; "" until that is known.
    """

    def __init__(
        self,
        journal: Journal,
        spec: SweepSpec,
        run_dir: Path,
        uri: str,
        *,
        tags: Mapping[str, str] | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.experiment = spec.name
        self.parent_run_id: str | None = None
        self.run_ids: dict[str, str] = {}
        self.page = ""
        self._journal, self._spec, self._run_dir, self._uri = journal, spec, run_dir, uri
        self._tags = dict(tags or {})
        self._say = say or files.say
        self._names, self._common = Names(spec), dict[str, str]()
        self._cursor = 0
        self._session: Session | None = None
        self._described: Session | None = None
        self._children: dict[str, TrialRun] = {}
        self._behind: dict[str, TrialRun] = {}  # those that may have something to deliver
        self._client: MlflowClient | None = None
        self._experiment_id = ""
        self._artifacts = Artifacts(self.experiment, self._say)
        self._copies = Copies(journal, spec, run_dir, self._say)
        self._spec_stored = False
        self._closing: _Close | None = None
        self._closed = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="mlflow", daemon=True)

    def start(self) -> None:
        """Start to follow. Returns at once: importing mlflow and making a new database take seconds, in the thread."""
        store.configure()
        self._thread.start()
        self._copies.start()

    def close(
        self,
        status: str,
        best: TrialRecord | None,
        bundle: Path | None,
        drain_s: float = DRAIN_S,
        *,
        promotion: Promotion | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> int:
        """Deliver what is left, end the runs, register the bundles. Returns how many events are left, after saying so.

        Args:
            status: of the sweep: completed, interrupted or failed.
            best: the search's best trial; bundle: its bundle, which becomes the candidate.
            drain_s: give up after so many seconds.
            promotion: the run that becomes the champion.
            tags: further ones of the parent run.
        """
        self._closing = _Close(status, best, bundle, time.monotonic() + drain_s, promotion, dict(tags or {}))
        self._wake.set()
        self._thread.join(drain_s)
        self._copies.close(max(1.0, self._closing.deadline - time.monotonic()))
        left = sum(child.left for child in self._children.values()) + len(self._unread()) + (not self._closed)
        if left:
            self._say(
                f"MLflow ({redact(self._uri)}) lacks {left} event{'s'[left == 1 :]}: --resume delivers what is left"
            )
        return left

    def _follow(self) -> None:
        failures = 0
        while True:
            closing = self._closing  # read before the events, so that all appended before close() are delivered
            try:
                self._pass(closing)
            except Exception as error:  # whatever happens here, training goes on
                self._client = None  # the last call may have arrived or not: look at the store again
                failures += 1
                if failures == 2:
                    self._say(f"Cannot reach MLflow at {redact(self._uri)}: {store.line(error)}; training continues")
                if closing and (time.monotonic() > closing.deadline or (failures > 1 and store.refuses(error))):
                    return
            else:
                if failures > 1:
                    self._say("MLflow answers again")
                failures = 0
                if closing:
                    self._closed = True
                    return
            self._wake.wait(min(BACKOFF_S, POLL_S * 2 ** min(failures, 10)))
            self._wake.clear()

    def _pass(self, closing: _Close | None) -> None:
        """Deliver everything that is new. Raises what the store raises; safe to repeat from any point."""
        self._read()
        if not self._journal.has_session:  # no driver has worked on it: it gets no run in the store
            return
        if self._client is None:
            self._client = self._connect()
        for identity, child in list(self._behind.items()):
            if child.left and not child.refused:
                self._unless_refused(f"the run of {identity}", lambda child=child: self._send(child), child)
            if child.refused or not child.left:
                del self._behind[identity]
        self._describe_sweep(self._client)
        if closing:
            self._finish(self._client, closing)

    def _unread(self) -> list[Event]:
        return self._journal.events[self._cursor :]

    def _read(self) -> None:
        for event in self._unread():
            match event:
                case Session():
                    self._session = event
                case Ask():
                    self._names.of(event)  # in the order of the journal
                    self._behind[event.trial] = self._children[event.trial] = TrialRun(event, self._session)
                case Report() | End():
                    self._behind[event.trial] = self._children[event.trial]
                    self._behind[event.trial].apply(event)
                case _:
                    pass
            self._cursor += 1

    def _connect(self) -> MlflowClient:
        """Find or make the experiment and the parent run; take over from existing children what they already have."""
        client = store.connection(self._uri)
        self._common = self._common or shared_settings.shared(self._spec)
        self._experiment_id = store.experiment(client, self.experiment, self._uri, self._run_dir.parent, view.KIND)
        if not self.parent_run_id:
            runs = self._search(client, "sweep")
            run = runs[0] if runs else self._create(client, "sweep", self._run_dir.name, self._journal.events[0].time)
            if run.info.status != "RUNNING":
                client.update_run(run.info.run_id, "RUNNING")
            self.parent_run_id = run.info.run_id
        for run in reversed(self._search(client, "trial")):
            child = self._children.get(run.data.tags[tag.TRIAL])
            if child:
                child.found(run.info.run_id, run.info.status, run.data.tags, bool(run.data.params))
                self.run_ids[child.ask.trial] = run.info.run_id
        return client

    def _identity(self) -> dict[str, str]:
        """The tags that name this run in a store, for the tracker and for people."""
        return store.identity(self._journal, self._run_dir) | store.named(self._journal, self._run_dir)

    def _digest(self) -> dict[str, str]:
        """The digest of the last line read: a copy without this line is stale (`fresh_seeds.refuse_stale`)."""
        read = self._journal.digests[self._cursor - 1] if self._cursor else ""
        return {tag.DIGEST: read} if read else {}

    def _search(self, client: MlflowClient, kind: str) -> list[Run]:
        """The runs of this sweep, oldest first."""
        tags = {tag.KIND: kind, **store.identity(self._journal, self._run_dir)}
        return store.runs(client, [self._experiment_id], tags, "ASC")

    def _create(
        self, client: MlflowClient, kind: str, run_name: str, begin: float, tags: Mapping[str, str] | None = None
    ) -> Run:
        own = {tag.KIND: kind, tag.SPEC_HASH: self._spec.spec_hash, **self._identity(), **self._tags}
        own[tag.TRAINABLE] = self._spec.trainable
        return client.create_run(self._experiment_id, milliseconds(begin), cut_tags({**own, **(tags or {})}), run_name)

    def _describe_sweep(self, client: MlflowClient) -> None:
        """Send tags and spec of the parent run, again in each driver's session."""
        session = self._session
        if session is None or session is self._described:
            return
        tags = {**session_tags(session), tag.MACHINE: json.dumps(session.machine, default=str)}
        tags |= {**self._identity(), **self._digest(), tag.RUN_NAME: self._run_dir.name}
        tags |= {tag.DOUBT: " ".join(doubts)} if (doubts := self._journal.doubts()) else {}
        tags |= {tag.NOTE: self._described_as(), tag.PROFILE: self._spec.profile or "none"}
        store.log(client, self.parent_run_id, tags=tags | shared_settings.to_tags(self._common))
        if own := dict(self._spec.tags):
            self._unless_refused("the spec's tags", lambda: store.log(client, self.parent_run_id, tags=own))
        self._say_data(client, str(self.parent_run_id))
        self._unless_refused("the view of this sweep", partial(self._show, client, milliseconds(session.time)))
        self._store_spec(client)
        self._described = session

    def _say_data(self, client: MlflowClient, run_id: str) -> None:
        if fingerprint := self._tags.get(tag.DATA):
            store.inputs(client, run_id, self._spec.data, fingerprint)

    def _show(self, client: MlflowClient, at: int) -> None:
        """Save the view of this sweep's runs, to which `page` leads."""
        parent = str(self.parent_run_id)
        title, varied = self._run_dir.name, shared_settings.columns(self._spec, self._common)
        client.set_experiment_tag(self._experiment_id, *view.saved(self._spec, parent, title, varied, at))
        self.page = view.page(self._experiment_id, parent)

    def _store_spec(self, client: MlflowClient) -> None:
        spec = self._spec.model_copy(update={"on_event": ()})  # an address may be all that keeps strangers out
        parent, text = str(self.parent_run_id), redact(spec.to_yaml())
        self._spec_stored = self._artifacts.put(client, lambda: client.log_text(parent, text, "spec.yaml"))

    def _store_analysis(self, client: MlflowClient, child: TrialRun) -> None:
        """Store the files that a trial ended with, or a tag which says that they are missing."""
        run_id, end = str(child.run_id), self._journal.trials[child.ask.trial].end
        try:
            bundle = checkpoints.bundle(self._run_dir, end.checkpoint) if end else None
        except files.Unsafe as error:
            return self._say(f"{error}; MLflow lacks it")
        if bundle is None or not (folder := bundle / "analysis").is_dir():
            return None
        send = partial(client.log_artifacts, run_id, str(folder), "analysis")
        stored = self._artifacts.put(client, send, source=folder)
        if not stored and not child.lacks:
            store.log(client, run_id, tags={tag.LACKS: folder.name})
        if stored and child.lacks:
            client.delete_tag(run_id, tag.LACKS)
        child.lacks = not stored

    def _most(self) -> float:
        """Seconds that a large upload may take."""
        return max(1.0, self._closing.deadline - time.monotonic() - 1) if self._closing else SMALL_S

    def _unless_refused(self, what: str, call: Callable[[], object], child: TrialRun | None = None) -> None:
        """Skip, for this session, what the store refuses for good: the rest goes on."""
        try:
            call()
        except Exception as error:
            if not store.refuses(error):
                raise
            self._say(f"MLflow refuses {what}: {store.line(error)}")
            if child:
                child.refused = True

    def _send(self, child: TrialRun) -> None:
        client = self._client
        assert client is not None
        if child.run_id is None:
            tags = {tag.PARENT: str(self.parent_run_id), **child.tags(), **self._digest(), tag.NOTE: self._note(child)}
            title = wording.run_name(self._names.of(child.ask), child.ask)
            run = self._create(client, "trial", title, child.ask.time, tags)
            child.run_id = self.run_ids[child.ask.trial] = run.info.run_id
        if child.reports and not child.running:
            client.update_run(child.run_id, "RUNNING")
            store.log(client, child.run_id, tags={tag.STATE: "running", tag.REASON: ""})
            child.running = True
        if child.expects_more and not self._closing and time.monotonic() - child.since < PATIENCE_S:
            return  # its parameters go with its first report, if that comes soon: one call less for each trial
        while child.left:
            batch, tags = child.batch()
            tags |= self._digest() if tags else {}
            if tags and (words := learned.stuck(self._spec, self._journal.trials[child.ask.trial])):
                tags |= {tag.STUCK: words}
            rows = {(key, report.step, report.time): value for report in batch for key, value in report.metrics.items()}
            tags |= {tag.NOTE: self._note(child)} if child.end and len(batch) == len(child.reports) else {}
            params = {} if child.described else shared_settings.own(child.params(), self._common)
            if not child.described and child.ask.stage != "search":  # a call more: 7 ms of a trial's 45
                self._say_data(client, str(child.run_id))
            store.log(client, child.run_id, metrics=rows, params=params, tags=tags)
            child.described = True
            child.step = batch[-1].step if batch else child.step
            del child.reports[: len(batch)]
            if child.end and not child.reports:
                self._store_analysis(client, child)
                client.set_terminated(child.run_id, STATUS[child.end.state], milliseconds(child.end.time))
                child.running, child.end = False, None

    def _note(self, child: TrialRun) -> str:
        record = self._journal.trials.get(child.ask.trial) if child.end else None
        return wording.trial(self._spec, self._run_dir, child.ask, self._names.of(child.ask), record)

    def _finish(self, client: MlflowClient, closing: _Close) -> None:
        """End open runs as interrupted, then the sweep; its files last, since their place may be out of reach."""
        for child in self._children.values():
            if child.running and not child.refused:
                child.end = End(trial=child.ask.trial, state="interrupted", time=self._journal.events[-1].time)
                self._unless_refused(f"the run of {child.ask.trial}", lambda child=child: self._send(child), child)
        parent, best = str(self.parent_run_id), closing.best
        score = best.score(self._spec.objective) if best else None
        rows = wording.verdict_metrics(self._journal.events)
        tags = {tag.STATE: closing.status, **self._digest(), **closing.tags, tag.CAUTION: self._caution()}
        tags |= {tag.NOTE: self._described_as(best)}
        if best and score is not None:
            rows[f"best/{self._spec.objective}", best.step, best.rows[-1].time] = score
            tags |= {tag.BEST: best.id, tag.BEST_SCORE: repr(score)}
        self._say_verdict(client)
        store.log(client, parent, metrics=rows, tags=tags)
        client.set_terminated(parent, STATUS[closing.status])
        self._artifacts.out = False
        self._store_rest(client, parent)
        self._register(closing)

    def _store_rest(self, client: MlflowClient, parent: str) -> None:
        """Store the reports, and the files that could not be stored before."""
        if not self._spec_stored:
            self._store_spec(client)
        for child in self._children.values():
            if child.lacks and child.run_id and not child.refused:
                self._store_analysis(client, child)
        for path in (self._run_dir / file for file in REPORTS):
            if path.exists():
                self._artifacts.put(client, partial(client.log_artifact, parent, str(path)), source=path)

    def _described_as(self, best: TrialRecord | None = None) -> str:
        said = {"verdict": self._journal.verdict(), "caution": self._caution(), "best": best}
        return wording.sweep(self._spec, self._run_dir, names=self._names, **said)

    def _caution(self) -> str:
        with contextlib.suppress(Exception):  # the trainable's own function: it fails again when the reports ask it
            return learned.caution(self._spec, self._journal) or ""
        return ""

    def _say_verdict(self, client: MlflowClient) -> None:
        """Tag each run of the confirmation with the verdict of its arm, so that it is a column."""
        told = (self._journal.verdict() or {}).get("told", {})
        for child in self._children.values():
            words = told.get(child.ask.arm) if child.ask.stage != "search" else None
            if words and words != child.told and child.run_id and not child.refused:
                store.log(client, child.run_id, tags={tag.VERDICT: words})
                child.told = words

    def _register(self, closing: _Close) -> None:
        assert self._client is not None
        best, bundle, promotion = closing.best, closing.bundle, closing.promotion
        registry = Registry(self._client, self._spec, self._artifacts, self._identity())
        if best and bundle and (run_id := self.run_ids.get(best.id)):
            more = {"alias": ALIAS, "more": {tag.CAUTION: self._caution()}, "seconds": self._most()}
            register = partial(registry.register, bundle, best, run_id, **more)
            self._unless_refused("the bundle", register)
        if promotion and (run_id := self.run_ids.get(promotion.trial.id)):
            told = {"alias": store.CHAMPION, "more": promotion.tags, "seconds": self._most()}
            register = partial(registry.register, promotion.bundle, promotion.trial, run_id, **told)
            self._unless_refused("the champion", register)
