"""`report.md`, made from the journal alone, by section."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.journal import budget, learned, tasks, verdict_text, warm_start
from sweeper.journal.events import Session
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.journal.names import Names
from sweeper.journal.records import best, fingerprints, state
from sweeper.report import methods, over_time, pareto, scores, setup, trial_tables
from sweeper.report.tables import steps_trained, trial_hours
from sweeper.report.trial_tables import RANKS
from sweeper.system.files import one_line
from sweeper.system.markdown import code, number, text
from sweeper.system.secrecy import redact

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

SETUP, METHODS = "Setup", "How the verdict was reached"
FRONT, JUDGED, APART = "Pareto front", "Judged by tasks", trial_tables.APART
UI_PORT = 5050
SHORT, NAMED = 0.005, 5  # share of predictions not drawn as asked that gets a caution; trials named in a sentence


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a sweep ended and where its results lie; the rest is in the journal.

    run_ids: MLflow's run of each trial. page: of this sweep's runs, below the server's address; "" if MLflow was away.
    interrupted: a person or a limit ended the sweep before its last trial.
    """

    run_dir: Path
    tracking_uri: str
    parent_run_id: str | None = None
    run_ids: Mapping[str, str] = field(default_factory=dict)
    bundle: Path | None = None
    page: str = ""
    interrupted: bool = False

    @property
    def report(self) -> Path:
        """Where `report.md` lies."""
        return self.run_dir / "report.md"


def markdown(spec: SweepSpec, journal: Journal, outcome: Outcome) -> str:
    """The text of `report.md`."""
    parts = [
        f"## {text(title)}\n\n{body}" if title else body for title, body in sections(spec, journal, outcome).items()
    ]
    return "\n\n".join([f"# {text(spec.name)}", *parts]) + "\n"


def sections(spec: SweepSpec, journal: Journal, outcome: Outcome) -> dict[str, str]:
    """Heading, as text, -> Markdown, in the order of `report.md`; the first has no heading and gives the result."""
    records, verdict = list(journal.trials.values()), journal.verdict()
    names, found = Names(spec, (record.ask for record in records)), best(spec, records)
    answer = verdict_text.headline(verdict, names) if verdict else verdict_text.unsaid(journal)
    caution = f"**{text(line)}**" if (line := learned.caution(spec, journal)) else ""
    lacking = [line] if (line := shortfall(records)) else []
    cautions = [*journal.facts().get("warnings", ()), *lacking, *journal.doubts()]
    left_out = spec.stub.left_out(spec.trainable) if spec.stub else None
    first = (
        text(spec.question),
        answer,
        caution,
        _headline(spec, journal, names, outcome),
        *_asides(spec),
        budget.differ(spec, records),
        *(f"**Caution:** {text(line)}" for line in cautions),
        *([f"This is {text(left_out)}."] if left_out else []),
    )
    front, scored = pareto.section(spec, journal, names.of), scores.section(spec, journal, names.of)
    judged = "\n\n".join(part for part in (scored, scores.compared(verdict, names)) if part)
    return {
        "": "\n\n".join(part for part in first if part),
        **({"Verdicts": verdict_text.section(verdict, names)} if verdict else {}),
        **({FRONT: front} if front else {}),
        **({JUDGED: judged} if judged else {}),
        SETUP: setup.section(spec, journal),
        METHODS: methods.section(spec, journal),
        "What ran": _what_ran(spec, journal, outcome),
        **trial_tables.trials(spec, journal, names),
        "Against the baseline": trial_tables.differences(spec, records, names),
        **trial_tables.audits(spec, records, names),
        **trial_tables.breakdowns(records, names),
        **over_time.section(spec, journal, names),
        "Go on from here": _commands(outcome, found.id if found else None, verdict is not None),
    }


def _asides(spec: SweepSpec) -> list[str]:
    """What people wrote down about the sweep: notes, a paragraph for each of theirs, and tags."""
    paragraphs = [text(part) for part in spec.notes.split("\n\n") if part.strip()]
    tags = ", ".join(f"{code(name)}{f': {text(value)}' if value else ''}" for name, value in spec.tags.items())
    paragraphs[:1] = [f"Notes: {part}" for part in paragraphs[:1]]
    return [*paragraphs, *([f"Tags: {tags}"] if tags else [])]


def _headline(spec: SweepSpec, journal: Journal, names: Names, outcome: Outcome) -> str:
    records = journal.stage("search") or list(journal.trials.values())
    counts = Counter(state(record) for record in records)
    ends = ", ".join(f"{counts[state]} {state}" for state in RANKS if counts[state]) or "none started"
    found = best(spec, records)
    if found is None and not spec.total_trials:
        return f"There was no search. Runs of the confirmation: {ends}."
    if found is None:
        within = " within the budget" if counts["completed"] else ""
        return f"**No trial completed{within}** ({len(records)} trials: {ends})."
    line = f"**Best of the search: {code(found.id)}** ({text(names.of(found.ask))}), {text(spec.objective)} "
    line += f"{number(found.score(spec.objective))} at step {found.step:,} ({len(records)} trials: {ends})."
    if outcome.interrupted:
        line += " The sweep was interrupted."
    return line + " Search scores: exploration, not a result. The best of many equal trials looks good by luck alone."


def _what_ran(spec: SweepSpec, journal: Journal, outcome: Outcome) -> str:
    sessions = [event for event in journal.events if isinstance(event, Session)]
    rows: list[tuple[str, str]] = [
        ("trainable", f"{code(spec.trainable)}, objective {text(', '.join(spec.objectives))}"),
        ("method", text(_method(spec, journal))),
        ("profile", text(str(spec.profile or "none"))),
        ("spec hash", f"`{spec.spec_hash}`"),
    ]
    if spec.evaluate:
        rows.append(("tasks", text(tasks.words(spec))))
    if journal.events:
        begin, end = (datetime.fromtimestamp(journal.events[i].time, UTC) for i in (0, -1))
        rows.append(("time", f"{begin:%Y-%m-%d %H:%M:%S} to {end:%Y-%m-%d %H:%M:%S} UTC, {len(sessions)} session(s)"))
    if sessions:
        last = sessions[-1]
        rows += [
            ("command", code(redact(last.command))),
            ("git commit", code(last.git_commit) if last.git_commit else "none"),
            ("machine", text(", ".join(f"{key} {value}" for key, value in last.machine.items()))),
        ]
    rows += [
        (key, text(value)) for key, value in steps_trained(list(journal.trials.values()), trial_hours(journal)).items()
    ]
    facts = journal.facts()
    rows += [("data", text(note)) for note in facts.get("notes", ())]
    hashes = {**fingerprints_in(facts), **fingerprints(outcome.bundle)}
    rows += [(text(key), code(value)) for key, value in hashes.items()]
    return "\n".join(f"* {key}: {value}" for key, value in rows)


def _method(spec: SweepSpec, journal: Journal) -> str:
    """How points were chosen, and whether the sampler ran out of new ones."""
    first = f"{spec.search.method}, {spec.total_trials} trials, scheduler {spec.scheduler}"
    parts = [first, *(f"the sampler knew {line}" for line in warm_start.words(journal.warm_starts()))]
    if spec.points is not None:
        parts.append(f"the space has {spec.points:,} points")
    if again := len(journal.repeats("search")):
        parts.append(f"{again} times the sampler asked for a point already tried, which was not trained again")
    return "; ".join([*parts, *filter(None, [journal.over("search")])])


def shortfall(records: Iterable[TrialRecord]) -> str | None:
    """A sentence on the trials that did not mask by the shares asked for: their sources had too little to draw from."""
    short = {one.id: one.rows[-1].metrics.get("audit/short", 0.0) for one in records if one.rows}
    worst = sorted((id for id in short if short[id] > SHORT), key=lambda id: -short[id])
    if not worst:
        return None
    named = ", ".join(f"{id} {short[id]:.1%}" for id in worst[:NAMED]) + ", ..." * (len(worst) > NAMED)
    return (
        f"{len(worst)} of {len(short)} trials did not mask by the shares asked for: too few tokens have a score, "
        f"and part was drawn at random ({named} of the predictions after the mask warm-up)"
    )


def _commands(outcome: Outcome, trial: str | None, confirmed: bool) -> str:
    folder = shlex.quote(one_line(str(outcome.run_dir)))
    spec = shlex.quote(one_line(str(outcome.run_dir / "spec.yaml")))
    more = []
    if trial:
        again = f"    python -m sweeper.run --reproduce {folder} --trial {shlex.quote(one_line(trial))}"
        more += ["Run a trial again and compare its loss with the journal's:", again]
    if confirmed:
        again = f"    python -m sweeper.run {spec} --resume {folder} --more-seeds 8"
        more += ["Confirm on more seeds, as a further look at half of the level:", again]
    lines = [f"Run folder: {code(str(outcome.run_dir))}."]
    if outcome.bundle:
        lines.append(f"The best trial's bundle: {code(str(outcome.bundle))}.")
    lines += [
        "Resume open trials, or deliver what MLflow lacks:",
        f"    python -m sweeper.run {spec} --resume {folder}",
        *more,
        "Make the reports anew from the journal:",
        f"    python -m sweeper.report {folder}",
        "Browse the curves:",
        f"    {one_line(ui_command(outcome.tracking_uri, outcome.run_dir.parent))}",
    ]
    return "\n\n".join(lines)


def ui_address(uri: str) -> str:
    """Where people see a tracking store: the server's address, or that of the server which `ui_command` starts."""
    return redact(uri).rstrip("/") if uri.startswith("http") else f"http://127.0.0.1:{UI_PORT}"


def ui_command(uri: str, storage: Path) -> str:
    """How to browse a tracking store: the command of a small MLflow server, or the address of a running one."""
    if uri.startswith("http"):
        return redact(uri)
    folder = storage.resolve() / "mlartifacts"
    artifacts = shlex.quote(folder.as_uri() if "%" in folder.as_uri() else str(folder))  # MLflow unquotes both
    return (
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --host 127.0.0.1 "
        f"--port {UI_PORT} --backend-store-uri {shlex.quote(redact(uri))} --artifacts-destination {artifacts}"
    )
