"""The line of `--json`: how a sweep ended, its trials, and where its results lie."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sweeper.journal import learned
from sweeper.journal.journal import AUDIT, Journal, TrialRecord, nested
from sweeper.journal.records import best, state
from sweeper.report.sections import Outcome
from sweeper.system.secrecy import redact, veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec


def summary(spec: SweepSpec, journal: Journal, outcome: Outcome) -> dict[str, Any]:
    """What `--json` prints."""
    records = list(journal.trials.values())
    found = best(spec, records)

    def trial(record: TrialRecord) -> dict[str, Any]:
        row = trial_json(record, spec.objective, outcome.run_ids.get(record.id))
        return row | {"stuck": learned.was_stuck(spec, record)}

    return {
        "state": sweep_state(records, outcome.interrupted),
        "name": spec.name,
        "spec_hash": spec.spec_hash,
        "run_dir": str(outcome.run_dir),
        "tracking_uri": redact(outcome.tracking_uri),
        "experiment": spec.name,
        "parent_run_id": outcome.parent_run_id,
        "best": trial(found) if found else None,
        "trials": [trial(record) for record in records],
        "bundle": str(outcome.bundle) if outcome.bundle else None,
        "report": str(outcome.report),
        "verdict": journal.verdict(),
        "caution": learned.caution(spec, journal),
        "warm_start": [
            {"run": one.source, "trials": len(one.trials), "outside": one.outside} for one in journal.warm_starts()
        ],
    }


def trial_json(record: TrialRecord, objective: str, run_id: str | None) -> dict[str, Any]:
    """One trial of the summary. One still running when the sweep ends is interrupted.

    `audit` is null without audit. `start` says where its training began: at its own last step if it was taken over.
    """
    metrics = record.rows[-1].metrics if record.rows else {}
    return {
        "id": record.id,
        "stage": record.ask.stage,
        "arm": record.ask.arm,
        "seed": record.ask.seed,
        "state": state(record),
        "step": record.step,
        "score": record.score(objective),
        "params": veiled("", record.ask.params),
        "metrics": {key: value for key, value in metrics.items() if not key.startswith(AUDIT)},
        "audit": nested(metrics, AUDIT) or None,
        "run_id": run_id,
        "start": dict(zip(("from", "step"), record.start, strict=True)),
        "reason": redact(record.end.reason) if record.end and record.end.reason else None,
    }


def sweep_state(records: Iterable[TrialRecord], interrupted: bool) -> str:
    """How the sweep ended: completed, interrupted (some trial is open), or failed (every trial failed)."""
    states = {state(record) for record in records}
    if interrupted or "interrupted" in states:
        return "interrupted"
    return "completed" if states & {"completed", "stopped"} else "failed"
