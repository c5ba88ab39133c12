"""Specs, events and journals to test with: toy sweeps at fixed times."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.journal.events import Ask, End, Report, Session, State
from sweeper.journal.journal import Journal
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec

T0 = 1_800_000_000.0
PUBLISHED = {"random": 0.8, "token": 0.15, "trigram": 0.05}


def toy_spec(name: str = "toy", **changes: Any) -> SweepSpec:
    tree = {
        "name": name,
        "question": "Where does the toy have its optimum?",
        "trainable": "trainables.toy:train",
        "space": {"x": {"uniform": [0, 1]}, "shares": {"simplex": {"random": 0.5, "token": 0, "trigram": 0}}},
        "arms": {"baseline": {"shares": {"random": 1, "token": 0, "trigram": 0}}, "published": {"shares": PUBLISHED}},
        "search": {"method": "tpe", "trials": 6},
    }
    return resolve({**tree, **changes})


def session(at: float = 0, command: str = "python -m sweeper.run toy.yaml") -> Session:
    versions = {"ray": "2.60.0", "torch": "2.13.0"}
    return Session(command=command, versions=versions, git_commit="abc123", machine={"cpus": 2}, time=T0 + at)


def ask(spec: SweepSpec, number: int, at: float, arm: str | None = None, **params: Any) -> Ask:
    chosen: dict[str, Any] = dict(spec.arms[arm]) if arm else params
    config = spec.trainable_config(chosen)
    return Ask(
        trial=f"t{number:04d}",
        number=number,
        stage="search",
        arm=arm,
        seed=0,
        config=config,
        config_hash=spec.config_hash(config),
        params=chosen,
        raw={},
        time=T0 + at,
    )


def report(number: int, step: int, loss: float, at: float, metrics: Mapping[str, float] | None = None) -> Report:
    return Report(trial=f"t{number:04d}", step=step, metrics={"val/loss": loss, **(metrics or {})}, time=T0 + at)


def end(number: int, state: State, at: float, reason: str | None = None) -> End:
    return End(trial=f"t{number:04d}", state=state, reason=reason, time=T0 + at)


def audit(token: float) -> dict[str, float]:
    shares = {"random": 1 - token, "token": token, "trigram": 0.0}
    tree = {"audit/rate": 0.15, "audit/fallbacks": 3.0, "audit/refreshes": 5.0, "audit/capped": 0.25}
    return tree | {f"audit/shares/{part}": share for part, share in shares.items()}


def written(folder: Path, spec: SweepSpec) -> Journal:
    """A sweep in which something of each kind happened: t0002 is the best, t0005 still runs."""
    folder.mkdir(parents=True, exist_ok=True)
    journal = Journal(folder / "journal.jsonl")
    mask = {"val/loss_mask": 2.5, "val/unigram_mask": 3.5}
    mix = {"random": 0.7, "token": 0.2, "trigram": 0.1}
    events = [
        session(),
        ask(spec, 0, 1, "baseline"),
        report(0, 10, 2.0, 2),
        report(0, 20, 1.5, 3, mask | audit(0.0)),
        end(0, "completed", 4),
        ask(spec, 1, 4, "published"),
        report(1, 10, 1.9, 5),
        report(1, 20, 1.6, 6, mask | audit(0.15)),
        end(1, "completed", 7),
        ask(spec, 2, 7, x=0.25, shares=mix),
        report(2, 10, 1.2, 8),
        report(2, 20, 1.25, 9, mask | audit(0.2)),
        end(2, "completed", 9),
        ask(spec, 3, 9, x=0.125, shares=mix),
        report(3, 10, 1.1, 10),
        end(3, "stopped", 10, "rung 10"),
        ask(spec, 4, 10, x=0.5, shares=mix),
        end(4, "failed", 11, "RuntimeError: it broke | here\nand there"),
        ask(spec, 5, 11, x=0.75, shares=mix),
        report(5, 10, 1.7, 12),
    ]
    for event in events:
        assert journal.append(event)
    return journal
