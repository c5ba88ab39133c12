"""What people read in MLflow: names of runs, and descriptions in Markdown.

All that a spec or a record says is shown as text: MLflow fetches pictures and follows links.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.journal import verdict_text
from sweeper.journal.events import Ask, Verdict
from sweeper.journal.run_folders import resume
from sweeper.system.markdown import code, text
from sweeper.system.secrecy import redact

if TYPE_CHECKING:
    from sweeper.journal.events import Event
    from sweeper.journal.journal import TrialRecord
    from sweeper.journal.names import Names
    from sweeper.spec.spec import SweepSpec

NO_VERDICT = "No verdict yet."


def run_name(name: str, ask: Ask) -> str:
    """What a trial's run is called: its configuration's name and its seed."""
    return f"{name}, seed {ask.seed}"


def sweep(
    spec: SweepSpec,
    run_dir: Path,
    *,
    names: Names | None = None,
    verdict: Mapping[str, Any] | None = None,
    caution: str = "",
    best: TrialRecord | None = None,
) -> str:
    """The description of a sweep's run: the question, the verdict, and how to reproduce it.

    names: of its configurations. verdict: as the journal has it. caution: what stands beside it.
    """
    answer = verdict_text.headline(verdict, names) if verdict else NO_VERDICT
    parts = [f"**Question.** {text(spec.question)}" if spec.question else "", f"**Verdict.** {answer}"]
    parts += [f"**Caution.** {text(caution)}"] if caution else []
    notes = [text(part) for part in spec.notes.split("\n\n") if part.strip()]
    parts += [f"**Notes.** {notes[0]}", *notes[1:]] if notes else []
    if best and (score := best.score(spec.objective)) is not None:
        name = names.of(best.ask) if names else best.id
        what = f"{code(name)} ({best.id}), {code(spec.objective)} {score:.4f} at step {best.step:,}"
        parts.append(f"**Best of the search**, which is no verdict: {what}.")
    lines = [
        f"* Train the best trial again, and compare: {code(_reproduce(run_dir))}",
        f"* Go on, or deliver what is missing here: {code(resume(run_dir))}",
        "* Among the artifacts, `report.html` has the figures and the rule of the verdict, `spec.yaml` all settings.",
        "* The parameters of a trial are its arm, its seed and the settings that the spec varies.",
    ]
    return "\n\n".join(part for part in [*parts, "\n".join(lines)] if part)


def trial(spec: SweepSpec, run_dir: Path, ask: Ask, name: str, record: TrialRecord | None = None) -> str:
    """The description of a trial's run. record: once it has ended."""
    stage = {"confirm": "confirmation"}.get(ask.stage, ask.stage)
    parts = [f"**{text(name)}**, seed {ask.seed}, trial {ask.trial} of the {text(stage)}."]
    if record and record.end:
        score = record.score(spec.objective)
        came = f"{code(spec.objective)} {score:.4f} at step {record.step:,}" if score is not None else "no result"
        parts.append(f"{record.end.state.capitalize()}: {came}.{_began(record)}")
    parts += [f"**Question.** {text(spec.question)}"] if spec.question else []
    told = "A score of the search is no verdict. " * (ask.stage == "search")
    parts.append(f"{told}The parent of this run has the verdict, and in `spec.yaml` the settings not shown here.")
    parts.append(f"Train it again and compare: {code(_reproduce(run_dir, ask.trial))}")
    return "\n\n".join(parts)


def verdict_metrics(events: Iterable[Event]) -> dict[tuple[str, int, float], float]:
    """What each look found, for the sweep's run: (metric, look, time) -> value."""
    rows: dict[tuple[str, int, float], float] = {}
    for event in events:
        if isinstance(event, Verdict):
            for one in event.data["comparisons"]:
                for key, value in _figures(one).items():
                    if value is not None:
                        rows[f"verdict/{one['arm']}/{key}", int(event.data["look"]), event.time] = float(value)
    return rows


def _figures(one: Mapping[str, Any]) -> dict[str, float | None]:
    """Difference from the baseline in nats, its interval over seeds, and p, adjusted for the number of comparisons."""
    low, high = one["interval"] or (None, None)
    p = one["adjusted"] if one["interval"] else None
    return {"difference": one["mean"], "low": low, "high": high, "p": p, "pairs": one["n"]}


def _began(record: TrialRecord) -> str:
    whose, step = record.start
    if record.reused_from:
        return f" Taken over from {code(record.reused_from)}, which trained it."
    return f" It began at step {step:,}, where trial {whose} had trained the same." if whose else ""


def _reproduce(run_dir: Path, trial: str = "") -> str:
    command = ["python", "-m", "sweeper.run", "--reproduce", redact(str(run_dir)), *(["--trial", trial] * bool(trial))]
    return shlex.join(command)
