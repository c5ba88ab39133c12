"""`report.md`, made from the journal alone, by section."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.confirmation import verdict_text
from sweeper.journal import budget, learned, tasks
from sweeper.journal.budget import PREDICTED, Common
from sweeper.journal.events import Session
from sweeper.journal.journal import AUDIT, Journal, TrialRecord, fingerprints_in, nested
from sweeper.report import pareto, scores
from sweeper.report.tables import steps_trained
from sweeper.system.files import one_line
from sweeper.system.markdown import ABSENT, code, number, table, text
from sweeper.system.secrecy import redact

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec
from sweeper.journal.records import best, breakdown, describe, ended, fingerprints, is_shares, shown_value, state

FRONT, JUDGED, APART = "Pareto front", "Judged by tasks", "Budget not matched"
UI_PORT = 5050
SHORT, NAMED = 0.005, 5  # share of predictions not drawn as asked that gets a caution; trials named in a sentence
_RANKS = ("completed", "stopped", "interrupted", "failed")


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
    answer, found = verdict_text.headline(verdict) if verdict else verdict_text.unsaid(journal), best(spec, records)
    caution = f"**{text(line)}**" if (line := learned.caution(spec, journal)) else ""
    lacking = [line] if (line := shortfall(records)) else []
    cautions = [*journal.facts().get("warnings", ()), *lacking, *journal.doubts()]
    left_out = spec.stub.left_out(spec.trainable) if spec.stub else None
    first = (
        text(spec.question),
        answer,
        caution,
        _headline(spec, records, outcome),
        budget.differ(spec, records),
        *(f"**Caution:** {text(line)}" for line in cautions),
        *([f"This is {text(left_out)}."] if left_out else []),
    )
    front, judged = pareto.section(spec, journal, describe), scores.section(spec, journal, describe)
    return {
        "": "\n\n".join(part for part in first if part),
        **({"Verdicts": verdict_text.section(verdict)} if verdict else {}),
        **({FRONT: front} if front else {}),
        **({JUDGED: judged} if judged else {}),
        "What ran": _what_ran(spec, journal, outcome),
        "Trials": _trials(spec, records),
        "Against the baseline": _differences(spec, records),
        **_audits(spec, records),
        **_breakdowns(records),
        "Go on from here": _commands(outcome, found.id if found else None, verdict is not None),
    }


def _headline(spec: SweepSpec, records: Sequence[TrialRecord], outcome: Outcome) -> str:
    counts = Counter(state(record) for record in records)
    ends = ", ".join(f"{counts[state]} {state}" for state in _RANKS if counts[state]) or "none started"
    found = best(spec, records)
    if found is None and not spec.total_trials:
        return f"There was no search ({len(records)} trials: {ends})."
    if found is None:
        within = " within the budget" if counts["completed"] else ""
        return f"**No trial completed{within}** ({len(records)} trials: {ends})."
    line = f"**Best of the search: {code(found.id)}** ({text(describe(found.ask))}), {text(spec.objective)} "
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
            ("versions", text(", ".join(f"{name} {version}" for name, version in sorted(last.versions.items())))),
        ]
    rows += [(key, text(value)) for key, value in steps_trained(list(journal.trials.values())).items()]
    facts = journal.facts()
    rows += [("data", text(note)) for note in facts.get("notes", ())]
    hashes = {**fingerprints_in(facts), **fingerprints(outcome.bundle)}
    rows += [(text(key), code(value)) for key, value in hashes.items()]
    return "\n".join(f"* {key}: {value}" for key, value in rows)


def _method(spec: SweepSpec, journal: Journal) -> str:
    """How points were chosen, and whether the sampler ran out of new ones."""
    first = f"{spec.search.method}, {spec.total_trials} trials, scheduler {spec.scheduler}"
    parts = [first]
    if spec.points is not None:
        parts.append(f"the space has {spec.points:,} points")
    if again := len(journal.repeats("search")):
        parts.append(f"{again} times the sampler asked for a point already tried, which was not trained again")
    return "; ".join([*parts, *filter(None, [journal.over("search")])])


def _trials(spec: SweepSpec, records: Sequence[TrialRecord]) -> str:
    """The trials on budget, in a table."""
    records = list(filter(Common.of(spec, records).kept, records))
    paths = list(dict.fromkeys(path for record in records for path in record.ask.params))
    metrics = [*spec.objectives, "val/loss_mask", "val/unigram_mask"]
    seen = {key for record in records for row in record.rows[-1:] for key in row.metrics}
    metrics = [key for key in dict.fromkeys(metrics) if key in seen]

    def order(record: TrialRecord) -> tuple[int, float, int]:
        score = record.score(spec.objective)
        return _RANKS.index(state(record)), float("inf") if score is None else score, record.ask.number

    rows = []
    for record in sorted(records, key=order):
        values = record.rows[-1].metrics if record.rows else {}
        row = [record.id, record.ask.stage, record.ask.arm or ABSENT, str(record.ask.seed)]
        row += [shown_value(path, record.ask.params[path]) if path in record.ask.params else ABSENT for path in paths]
        row += [number(values.get(key)) for key in metrics]
        why = ended(record) or learned.stuck(spec, record) or ABSENT
        why = f"taken over from {text(record.reused_from)}" if record.reused_from and why == ABSENT else why
        row += [f"{record.step:,}", _masked(record), state(record), why]
        rows.append(row)
    heads = ["trial", "stage", "arm", "seed", *(_head(path, records) for path in paths), *metrics]
    first = f"Sorted by {text(spec.objective)} at the last step; a trial stopped early ranks below every completed one."
    heads += ["step", "masked %", "state", "reason"]
    return f"{first}\n\n{table(heads, rows, left=('trial', 'stage', 'arm', 'state', 'reason'))}"


def _head(path: str, records: Sequence[TrialRecord]) -> str:
    """A parameter's heading; that of shares names their parts in order."""
    value = next(record.ask.params[path] for record in records if path in record.ask.params)
    return f"{path} ({'/'.join(value)}) %" if is_shares(value) else path


def _masked(record: TrialRecord) -> str:
    rate = record.rows[-1].metrics.get(f"{AUDIT}rate") if record.rows else None
    return ABSENT if rate is None else f"{100 * rate:.3f}"


def _differences(spec: SweepSpec, records: Sequence[TrialRecord]) -> str:
    name, common = spec.baseline, Common.of(spec, records)
    done = [
        (score, record)
        for record in records
        if record.ask.stage == "search" and record.state == "completed" and common.kept(record)
        if (score := record.score(spec.objective)) is not None
    ]
    baseline = {record.ask.seed: score for score, record in done if record.ask.arm == name}
    if name is None or not baseline:
        return "No run of the baseline completed, so there is nothing to compare with."
    rows: list[list[str]] = []
    for score, record in sorted(done, key=lambda pair: (pair[0], pair[1].ask.number)):
        base = baseline.get(record.ask.seed)
        if record.ask.arm != name and base is not None:
            numbers = [number(score), number(base), number(score - base, "+")]
            rows.append([record.id, describe(record.ask), str(record.ask.seed), *numbers])
    if not rows:
        return f"Only the baseline, {code(name)}, completed."
    first = (
        f"Difference in {text(spec.objective)} from the arm {code(name)} on the same seed; negative is better. "
        "Search scores: exploration, not a result. Each line is one pair of runs, and seeds alone move a loss as much."
        "\n\n"
    )
    heads = ["trial", "what", "seed", spec.objective, "baseline", "difference"]
    return first + table(heads, rows, left=("trial", "what"))


def _audits(spec: SweepSpec, records: Sequence[TrialRecord]) -> dict[str, str]:
    """What was predicted; trials off budget in a table of their own."""
    common = Common.of(spec, records)
    kept, apart = ([one for one in records if common.kept(one) == each] for each in (True, False))
    parts: dict[str, str] = {}
    if audited := [one for one in kept if one.rows and nested(one.rows[-1].metrics, AUDIT)]:
        parts["Mask audit"] = _audit_table(spec, audited)
    if apart:  # they are in no other table
        parts[APART] = f"{_apart(spec, common)}\n\n{_audit_table(spec, apart, ending=True)}"
    return parts


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


def _breakdowns(records: Sequence[TrialRecord]) -> dict[str, str]:
    """A table for every breakdown of the masks that the trials report, such as by frequency."""
    audits = [(record, nested(record.rows[-1].metrics, AUDIT)) for record in records if record.rows]
    groups = dict.fromkeys(key for _, audit in audits for key, value in audit.items() if isinstance(value, Mapping))
    texts = {}
    for group in (key for key in groups if key != "shares"):
        shares = [(record, found) for record, audit in audits if (found := breakdown(audit, group))]
        parts = list(dict.fromkeys(part for _, found in shares for part in found))
        rows = [
            [record.id, describe(record.ask), *(f"{100 * found.get(part, 0):.2f}" for part in parts)]
            for record, found in shares
        ]
        texts[f"Masked by {group} %"] = table(["trial", "what", *parts], rows, left=("trial", "what"))
    return texts


def _apart(spec: SweepSpec, common: Common) -> str:
    due = f" ({common.predicted:,.0f} positions)" if common.predicted is not None else ""
    return (
        f"These trials do not predict as many positions as the baseline{due}, or not as exactly. Their "
        f"{text(spec.objective)} cannot be compared with the others, is not ranked and confirms nothing: "
        f"{budget.FREE}. `budget: free` in the spec compares them anyway."
    )


def _audit_table(spec: SweepSpec, records: Sequence[TrialRecord], ending: bool = False) -> str:
    """ending: also show stage, seed and how the trial ended."""
    keys = ("refreshes", "fallbacks", "cut", "whole_words", "capped")
    rows = []
    for record in records:
        metrics = record.rows[-1].metrics if record.rows else {}
        audit, predicted = nested(metrics, AUDIT), metrics.get(PREDICTED)
        row = [record.id, describe(record.ask), ABSENT if predicted is None else f"{predicted:,.0f}", _masked(record)]
        row += [_parts(breakdown(audit, "shares")) if "shares" in audit else ABSENT]
        row += [f"{audit[key]:,.6g}" if isinstance(audit.get(key), int | float) else ABSENT for key in keys]
        ends = [record.ask.stage, str(record.ask.seed), f"{record.step:,}", state(record)]
        ends.append(ended(record) or ABSENT)
        rows.append([*row, number(record.score(spec.objective)), _speed(record), *(ends if ending else ())])
    heads = ["trial", "what", "predicted", "masked %", "realised shares %", *keys, spec.objective, "steps/s"]
    heads += ["stage", "seed", "step", "state", "reason"] if ending else []
    return table(heads, rows, left=("trial", "what", "realised shares %", "stage", "state", "reason"))


def _parts(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {100 * share:.3g}" for name, share in shares.items() if share) or ABSENT


def _speed(record: TrialRecord) -> str:
    """Steps per second between the first report and the last, validation and checkpoints included."""
    if not record.rows:
        return ABSENT
    first, last = record.rows[0], record.rows[-1]
    return f"{(last.step - first.step) / (last.time - first.time):.3g}" if last.time > first.time else ABSENT


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
