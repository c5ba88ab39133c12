"""A trial in MLflow's terms: its parameters and tags, and which of its events the store does not have yet."""

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
    """What the journal says of a trial that MLflow does not know yet.

    described: its parameters are there. step: so far go its metrics there. running: that is its status there.
    refused: the store took exception to it. lacks: its artifacts could not be stored. since: when it was heard of, on
    the monotonic clock.
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
    since: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> int:
        """Events to deliver."""
        return (not self.described) + len(self.reports) + (self.end is not None)

    @property
    def expects_more(self) -> bool:
        """Whether its parameters alone are to be delivered so far."""
        return not self.reports and self.end is None

    def apply(self, event: Report | End) -> None:
        """The trial's next event. One that goes on after its end was only interrupted: that end is of no interest."""
        if isinstance(event, Report):
            self.reports.append(event)
            self.end = None
        else:
            self.end = event

    def found(self, run_id: str, status: str, tags: Mapping[str, str], described: bool) -> None:
        """Drop what the store surely has: of what came after its tag `sweeper.step`, nothing is known.

        The tag is written with an end. A row that is sent twice is stored once.
        """
        self.run_id, self.running, self.described = run_id, status == "RUNNING", described
        self.lacks = tag.LACKS in tags
        self.step = max(self.step, int(tags.get(tag.STEP, 0)))
        self.reports = [report for report in self.reports if report.step > self.step]
        if self.end and not self.reports and not self.running and tags.get(tag.STATE) == self.end.state:
            self.end = None

    def batch(self) -> tuple[list[Report], dict[str, str]]:
        """As many reports from the front as one call takes, at least one if any; and the tags that go with them."""
        total = count = 0
        for report in self.reports:
            total += len(report.metrics)
            if count and total > MAX_METRICS:
                break
            count += 1
        reports = self.reports[:count]
        tags: dict[str, str] = {}
        if self.end and count == len(self.reports):
            step = reports[-1].step if reports else self.step
            tags = {tag.STATE: self.end.state, tag.STEP: str(step)}
            tags |= {tag.REASON: redact(self.end.reason)} if self.end.reason else {}
        return reports, tags

    def params(self) -> dict[str, str]:
        """Arm, seed, and every setting by its path, those that the space set among them."""
        ask = self.ask
        return {"arm": ask.arm or "none", "seed": str(ask.seed), **settings(ask.config), **settings(ask.params)}

    def tags(self) -> dict[str, str]:
        ask = self.ask
        own = {tag.TRIAL: ask.trial, tag.STAGE: ask.stage, tag.ARM: ask.arm or "none"}
        own |= {tag.CONFIG_HASH: ask.config_hash, tag.STATE: "running"}
        return own | (session_tags(self.session) if self.session else {})


def settings(tree: Mapping[str, Any]) -> dict[str, str]:
    """A tree of settings as parameters: their text by their path."""
    shown = {path: veiled(path, value) for path, value in _flat(tree).items()}
    texts = {path: value if isinstance(value, str) else json.dumps(value) for path, value in shown.items()}
    return {path: cut(text, MAX_PARAM) for path, text in texts.items()}


def session_tags(session: Session) -> dict[str, str]:
    tags = {tag.COMMAND: redact(session.command), tag.VERSIONS: json.dumps(session.versions)}
    return tags | ({"mlflow.source.git.commit": session.git_commit} if session.git_commit else {})


def name(text: str) -> str:
    """The text as a name that MLflow accepts for a metric or a parameter: a relative path that climbs nowhere."""
    parts = re.sub(r"[^\w\-. :/]", "_", text)[:250].split("/")
    return "/".join("_" if part in ("", ".", "..") else part for part in parts)


def note(text: str) -> str:
    """Text for where MLflow's pages show Markdown, fetching its pictures: descriptions of runs and models."""
    return as_text(text)


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def cut_tags(tags: Mapping[str, str]) -> dict[str, str]:
    return {key: cut(value, MAX_TAG) for key, value in tags.items()}


def utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat
