"""Trials for reports: the best one, a trial in words, how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from sweeper.journal.budget import Common
from sweeper.journal.events import Ask
from sweeper.journal.journal import TrialRecord, fingerprints_in
from sweeper.system import files
from sweeper.system.files import one_line
from sweeper.system.markdown import ABSENT
from sweeper.system.secrecy import redact, veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec


def best(spec: SweepSpec, records: Iterable[TrialRecord]) -> TrialRecord | None:
    """The completed search trial on budget with the lowest score at its last step; of equals the first asked for."""
    records = list(records)
    common = Common.of(spec, records)
    scored = [
        (score, record.ask.number, record)
        for record in records
        if record.ask.stage == "search" and record.state == "completed" and common.kept(record)
        if (score := record.score(spec.objective)) is not None
    ]
    return min(scored, key=lambda entry: entry[:2])[2] if scored else None


def state(record: TrialRecord) -> str:
    """How a trial ended; one still running when the sweep ends is interrupted."""
    return "interrupted" if record.state == "running" else record.state


def describe(ask: Ask) -> str:
    """A trial in a few characters: its arm, else its settings."""
    return ask.arm or settings(ask)


def settings(ask: Ask) -> str:
    """What the space or the arm set, as in `80/15/5 ema_decay=0.31`: shares are percentages in the space's order."""
    return params(ask.params)


def params(by_path: Mapping[str, Any]) -> str:
    """As `settings`, of settings by path."""
    return " ".join(_setting(path, value) for path, value in by_path.items()) or ABSENT


def _setting(path: str, value: Any) -> str:
    return one_line(
        shown_value(path, value)
        if isinstance(value, Mapping)
        else f"{path.rpartition('.')[2]}={shown_value(path, value)}"
    )


def shown_value(path: str, value: Any) -> str:
    """A parameter's value: shares as percentages, other numbers with three digits; secrets are veiled."""
    if is_shares(value):
        return "/".join(f"{100 * share:.3g}" for share in value.values())
    return f"{value:.3g}" if isinstance(value, float) else str(veiled(path, value))


def is_shares(value: Any) -> TypeGuard[Mapping[str, float]]:
    """Whether a parameter's value is a share for each of several named parts."""
    return isinstance(value, Mapping) and all(isinstance(share, int | float) for share in value.values())


def fingerprints(bundle: Path | None) -> dict[str, str]:
    """The fingerprints of data and code in a bundle's metadata.json."""
    path = bundle / "metadata.json" if bundle else None
    if path is None or not path.exists():
        return {}
    files.refuse_links(path)
    try:
        metadata = json.loads(path.read_text("utf-8"))
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    return fingerprints_in(metadata) if isinstance(metadata, Mapping) else {}


def breakdown(audit: Mapping[str, Any], group: str) -> Mapping[str, float]:
    """A trial's figures of a group, by part; empty if it has none, or a number of that name."""
    found = audit.get(group)
    return found if isinstance(found, Mapping) else {}


def ended(record: TrialRecord) -> str | None:
    """Why a trial ended, in a line without secrets."""
    return redact(one_line(record.end.reason)) if record.end and record.end.reason else None
