"""A trial in MLflow: its parameters and tags, and the events that the store does not have yet."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sweeper.journal.events import Ask, End, Report, Session
from sweeper.system.markdown import text as as_text
from sweeper.system.secrecy import redact, veiled
from sweeper.tracking import tags as tag

MAX_PARAM = 6000
MAX_TAG = 5000
MAX_METRICS = 800
STATUS = {"completed": "FINISHED", "stopped": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


@dataclass
class TrialRun:
    """A trial's run in MLflow, and what the store does not have of it yet.

    Args:
        reports: those to send.
        end: the trial's end, if it is to be sent.
        described: the store has its parameters.
        step: the store has its metrics up to here.
        running: its status in the store is that.
        refused: the store refused it for good.
        lacks: its artifacts could not be stored.
        told: its arm's verdict, as the store has it.
        since: when its Ask was read, on the monotonic clock.
    """

    ask: Ask
    session: Session | None
    reports: list[Report] = field(default_factory=list)
    end: End | None = None
    run_id: str | None = None
    described: bool = False
    step: int = 0
    running: bool = True
    refused: bool = False
    lacks: bool = False
    told: str = ""
    since: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        """Events to deliver."""
        return (not self.described) + len(self.reports) + (self.end is not None)

    @property
    def expects_more(self) -> bool:
        """Whether there is nothing to deliver yet but its parameters."""
        return not self.reports and self.end is None

    def apply(self, event: Report | End) -> None:
        """Add the trial's next event. A report after an end means that it was only interrupted: that end is dropped."""
        if isinstance(event, Report):
            self.reports.append(event)
            self.end = None
        else:
            self.end = event

    def found(self, run_id: str, status: str, tags: Mapping[str, str], described: bool) -> None:
        """Drop what the store certainly has: all up to its tag `sweeper.step`, which is written with an end.

        Later rows may be there or not. A row that is sent twice is stored once.
        """
        self.run_id, self.running, self.described = run_id, status == "RUNNING", described
        self.lacks, self.told = tag.LACKS in tags, tags.get(tag.VERDICT, "")
        self.step = max(self.step, int(tags.get(tag.STEP, 0)))
        self.reports = [report for report in self.reports if report.step > self.step]
        if self.end and not self.reports and not self.running and tags.get(tag.STATE) == self.end.state:
            self.end = None

    def batch(self) -> tuple[list[Report], dict[str, str]]:
        """As many of the first reports as one call takes, at least one if any; and the tags that go with them."""
        total = count = 0
        for report in self.reports:
            total += len(report.metrics)
            if count and total > MAX_METRICS:
                break
            count += 1
        reports = self.reports[:count]
        tags: dict[str, str] = {}
        if reports and (start := reports[0].start):
            tags = {tag.FORKED_FROM: start["trial"], tag.FORK_STEP: str(start["step"])}
        if self.end and count == len(self.reports):
            step = reports[-1].step if reports else self.step
            tags |= {tag.STATE: self.end.state, tag.STEP: str(step)}
            tags |= {tag.REASON: redact(self.end.reason)} if self.end.reason else {}
            tags |= {tag.REUSED_FROM: self.end.reused_from} if self.end.reused_from else {}
        return reports, tags

    def params(self) -> dict[str, str]:
        """Arm, seed, and every setting by its path, including those that the space set."""
        ask = self.ask
        return {"arm": ask.arm or "none", "seed": str(ask.seed), **settings(ask.config), **settings(ask.params)}

    def tags(self) -> dict[str, str]:
        """The tags with which the run starts."""
        ask = self.ask
        own = {tag.TRIAL: ask.trial, tag.STAGE: ask.stage, tag.ARM: ask.arm or "none"}
        own |= {tag.CONFIG_HASH: ask.config_hash, tag.STATE: "running"}
        return own | (commit(self.session) if self.session else {})


def settings(tree: Mapping[str, Any]) -> dict[str, str]:
    """A tree of settings as parameters: path -> text."""
    shown = {path: veiled(path, value) for path, value in _flat(tree).items()}
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in shown.items()}
    return {path: cut(text, MAX_PARAM) for path, text in texts.items()}


def session_tags(session: Session) -> dict[str, str]:
    """The tags of a driver's session."""
    return {tag.COMMAND: redact(session.command), tag.VERSIONS: json.dumps(session.versions), **commit(session)}


def commit(session: Session) -> dict[str, str]:
    """The commit that a driver's session ran, as MLflow's tag; empty where it is not known."""
    return {"mlflow.source.git.commit": session.git_commit} if session.git_commit else {}


def name(text: str) -> str:
    """The text as a name that MLflow accepts for a metric or a parameter: a relative path without `..`."""
    parts = re.sub(r"[^\w\-. :/]", "_", text)[:250].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def note(text: str) -> str:
    """Text for descriptions of runs and models, which MLflow shows as Markdown and fetches pictures for."""
    return as_text(text)


def cut(text: str, length: int) -> str:
    """The text, with an ellipsis if it is longer."""
    return text if len(text) <= length else text[: length - 1] + "…"


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """The tags, each as long as MLflow takes."""
    return {key: cut(value, MAX_TAG) for key, value in tags.items()}


def utc(seconds: float) -> str:
    """A time in s since 1970 as ISO 8601, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def milliseconds(seconds: float) -> int:
    """Seconds in whole milliseconds."""
    return int(seconds * 1000)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
