"""Ask and tell: a sweep whose trials a launcher of the user's own trains, on the same journal and by the same sampler.

What to train next, which seeds a confirmation takes, and the verdict are the sweep's own. Only the training is not: the
record says so, and nothing that was told is taken over by another run.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import TYPE_CHECKING, Any, Self

from sweeper import preflight
from sweeper.confirmation import champion, conclusion, design
from sweeper.journal import recorded, run_folders
from sweeper.journal.events import Doubt, End, Verdict
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.journal.limits import Limits
from sweeper.notify import LAST_S, Notifier
from sweeper.preflight import Request, Say
from sweeper.report.summary import summary
from sweeper.spec.errors import ConfigError
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.system import files
from sweeper.system.files import one_line
from sweeper.system.interrupts import Interrupts
from sweeper.system.secrecy import redact
from sweeper.tracking import tags as tag
from sweeper.tracking.tracker import Tracker

if TYPE_CHECKING:
    from sweeper.search.schedulers import JournalScheduler
    from sweeper.search.searchers import JournalSearch

TOLD = recorded.TOLD


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A trial that is to be trained.

    Args:
        id: its name in the record.
        stage: search or confirm.
        arm: the arm that it belongs to, if any.
        seed: of everything random.
        params: what the space or the arm set, by path.
        config: all settings, as the trainable's Config takes them; a secret is a reference, `env:NAME`.
        steps: its full length, if its settings have it.
        test: whether the last row needs the loss on the part `test`.
        tasks: what scores it at its end: name -> path of its data.
    """

    id: str
    stage: str
    arm: str | None
    seed: int
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    steps: int | None
    test: bool
    tasks: Mapping[str, str]


class Asking:
    """A sweep in its folder, which nothing else drives until `close`; a context that closes it.

    `ask` gives the trials of the search, and after them those of the confirmation that the spec declares, whose last
    rows need `test/…`. The points are those of `sweeper.run` for the same results and the same `resources.concurrency`,
    which says how many trials may be out at once: 1 by default. A trial that was asked for and never told is asked for
    again when the run is opened again. `sweeper.Study` is this, with its run.
    """

    def __init__(self, request: Request, say: Say) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(os.umask, os.umask(0o077))
            files.cache_root()
            files.at_home()
            admission = preflight.admission(request, say, here=False)
            if admission.spec.scheduler != "none":
                raise ConfigError(("scheduler",), "a study runs every trial to its end: set scheduler to none")
            self.run_dir: Path = admission.run_folder(admission.answer())
            stack.enter_context(run_folders.held(self.run_dir))
            self._stages = Stages.opened(admission, self.run_dir, verbose=False, wait=0)
            self._say = say
            stack.callback(self.journal.close)
            self._begin()
            self._open = stack.pop_all()

    @property
    def spec(self) -> SweepSpec:
        """The spec, resolved."""
        return self._stages.spec

    @property
    def journal(self) -> Journal:
        """The record."""
        return self._stages.journal

    @property
    def over(self) -> bool:
        """Whether nothing is left to ask for, and what was declared has its verdict."""
        return self._stages.over

    def ask(self) -> Asked | None:
        """The next trial. None if all are out that may be, a limit is reached, or the sweep is over: see `over`."""
        self._refuse_closed()
        while self._advance():
            before = len(self.journal.events)
            task = self._search.suggest("") if self._search else None
            if isinstance(task, dict):
                return self._asked(self.journal.trials[task["id"]])
            if len(self.journal.events) == before:  # otherwise a point was refused, and there may be another one
                return None
        return None

    def tell(
        self,
        trial: Asked | str,
        result: float | Sequence[Mapping[str, float]] | None = None,
        *,
        failed: str | None = None,
    ) -> None:
        """What came of a trial, at its end.

        Args:
            trial: as `ask` gave it, or its id.
            result: its rows, each with its `step` and the objective, the last one of the full length; or the objective
                at the end alone, where nothing else is asked for.
            failed: why it failed, in place of a result.

        Raises ConfigError for a result that cannot be recorded; then nothing is, and it can be told again.
        """
        self._refuse_closed()
        record = self.journal.trials.get(trial if isinstance(trial, str) else trial.id)
        if record is None or record.id not in self._out:
            raise ConfigError(
                ("trial",), f"{trial if isinstance(trial, str) else trial.id!r} is not out: ask for it first"
            )
        if (result is None) == (failed is None):
            raise ConfigError((), f"{record.id}: give either a result or why it failed")
        if failed is None:
            assert result is not None
            failed = self._record(record, self._rows(record, result))
        if failed is not None:
            self.journal.append(End(trial=record.id, state="failed", reason=redact(one_line(failed)) or "it failed"))
        self._out.discard(record.id)
        self._advance()

    def close(self) -> Path:
        """Write the reports, end MLflow's runs and let go of the run; the run folder. A second call does nothing."""
        if self._open is None:
            return self.run_dir
        with self._open:
            self._open = None
            for identity in sorted(self._out):
                self.journal.append(End(trial=identity, state="interrupted", reason="it was not told"))
            signals, over = Interrupts(self._say, ""), self.over
            outcome, _, _ = self._stages._close(self._tracker, over, signals)
            found = summary(self.spec, self.journal, outcome) | {"stopped": None if over else self._limits.reached()}
            self._notifier.close(found, signals.left(LAST_S))
        return self.run_dir

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def _begin(self) -> None:
        """Record the session, and have MLflow and those of `on_event` follow the record."""
        self._search: JournalSearch | None = None
        self._rule: JournalScheduler | None = None
        self._out: set[str] = set()
        self._limits, self._told_of_limit = Limits(self.spec, self.journal), False
        from sweeper.trials import tuner

        facts = self._stages.prepare_info
        slots = self.spec.resources.concurrency or 1
        self._at_once = tuner.begin(
            self.spec, self.run_dir, self.journal, slots, None if self.over else facts, self._say
        )
        if not self.over and not any(isinstance(event, Doubt) and event.text == TOLD for event in self.journal.events):
            self.journal.append(Doubt(text=TOLD))
        tags = {tag.PREFIX + key: value for key, value in fingerprints_in(facts).items()}
        self._tracker = Tracker(self.journal, self.spec, self.run_dir, self._stages.uri, tags=tags, say=self._say)
        self._tracker.start()
        self._notifier = Notifier(self.spec, self.run_dir, self.journal, self._say, self._stages.called)
        if not self.over:
            self._notifier.start()

    def _stopped(self) -> str | None:
        """Which limit of the spec is reached, in a line; people are told once."""
        line = self._limits.reached()
        if line and not self._told_of_limit:
            self._told_of_limit = True
            self._say(f"stopped by {line}; nothing more is asked for")
            self._say("to go on, open the study again: failures are counted anew, hours need a higher limit")
        return line

    def _advance(self) -> bool:
        """Judge what has ended and go on to the next stage; whether anything is left to ask for or to be told."""
        from sweeper.trials import tuner

        spec, journal, stages = self.spec, self.journal, self._stages
        asked = spec, self.run_dir, journal, self._at_once, self._at_once, False, self._say
        self._conclude()
        if self.over or self._stopped():
            return False
        if not design.searched(spec, journal):
            if self._search is None:
                self._search, self._rule = tuner.searching(*asked)
            return True
        if not journal.families():
            family = champion.declare(spec, journal, stages.uri, stages.prepare_info, self.run_dir, self._say)
            journal.append(family)
            self._search = None
        elif design.complete(spec, journal):
            if (family := design.following(spec, journal)) is None:
                return False
            journal.append(family)
        if self._search is None or self._search.stage != design.STAGE:
            self._search, self._rule = tuner.confirming(*asked)
        return True

    def _conclude(self) -> None:
        """The verdict of a look whose trials have ended, if it has none."""
        spec, journal = self.spec, self.journal
        looks, verdict = len(journal.families()), journal.verdict()
        if not looks or not design.complete(spec, journal) or (verdict and verdict["look"] >= looks):
            return
        if reason := conclusion.missing_metric_note(spec, journal):
            self._say(reason)
        journal.append(Verdict(data=conclusion.conclude(spec, journal, self.run_dir).to_dict()))

    def _asked(self, record: TrialRecord) -> Asked:
        assert self._rule is not None
        self._rule.on_trial_add(None, _tuned(record))
        self._out.add(record.id)
        confirming, ask = record.ask.stage == design.STAGE, record.ask
        return Asked(
            id=record.id,
            stage=ask.stage,
            arm=ask.arm,
            seed=ask.seed,
            params=ask.params,
            config=ask.config,
            steps=record.steps,
            test=confirming,
            tasks=self.spec.tasks(confirming),
        )

    def _rows(self, record: TrialRecord, result: float | Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
        """The rows that were told. Raises ConfigError for those that no trial would report."""
        spec, length = self.spec, record.steps
        if isinstance(result, int | float):
            if length is None:
                raise ConfigError((), f"{record.id}: its settings have no steps, so tell rows with their step")
            result = [{"step": length, spec.objective: result}]
        try:
            rows = [{**{key: float(value) for key, value in row.items()}, "step": int(row["step"])} for row in result]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ConfigError(
                (), f"{record.id}: a row is a mapping of `step` and metrics to numbers: {error}"
            ) from None
        steps = [row["step"] for row in rows]
        if not rows or steps != sorted(set(steps)) or steps[0] < 1:
            raise ConfigError((), f"{record.id}: its rows are at the steps {steps}: they must ascend from 1 on")
        if length is not None and steps[-1] != length:
            raise ConfigError((), f"{record.id}: its last row is of step {steps[-1]}, and the trial has {length}")
        needed = [*spec.objectives, *([design.metric(spec)] if record.ask.stage == design.STAGE else [])]
        for row, due in [*((row, needed[:1]) for row in rows), (rows[-1], needed)]:
            if lacking := [name for name in due if name not in row]:
                raise ConfigError((), f"{record.id}: the row of step {row['step']} lacks {', '.join(lacking)}")
        return rows

    def _record(self, record: TrialRecord, rows: list[dict[str, Any]]) -> str | None:
        """Record rows and the end; why it failed, if a number is not finite, as for any trial."""
        assert self._rule is not None
        for row in rows:
            if bad := [key for key, value in row.items() if not math.isfinite(value) or abs(value) >= 1e300]:
                return f"diverged: {bad[0]} is {row[bad[0]]:g} at step {row['step']}"
            self._rule.on_trial_result(None, _tuned(record), {"rows": [row]})
        self._rule.on_trial_complete(None, _tuned(record), {})
        return None

    def _refuse_closed(self) -> None:
        if self._open is None:
            raise ConfigError(
                (), f"this study is closed: sweeper.study(sweeper.load({str(self.run_dir)!r})) opens it again"
            )


def _tuned(record: TrialRecord) -> Any:
    """A trial as Tune hands it to a scheduler."""
    return SimpleNamespace(config={"id": record.id}, status="RUNNING")
