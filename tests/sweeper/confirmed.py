"""A journal with a search, a confirmation on eight seeds and its verdict, to test reports with."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.confirmation.verdicts import Rule, verdicts
from sweeper.journal.events import Ask, End, Family, Report, Verdict
from sweeper.journal.journal import Journal
from sweeper.spec.spec import SweepSpec
from tests.sweeper.samples import T0, session, toy_spec

SEEDS = (101, 102, 103, 104, 105, 106, 107, 108)
STEPS = (5, 10, 15, 20)
DECILES = range(1, 11)


def spec(trials: int = 24) -> SweepSpec:
    """Its space has all that the report draws: a simplex of three parts, a logarithm, a choice."""
    space: dict[str, Any] = {
        "x": {"uniform": [0, 1]},
        "y": {"uniform": [0, 1]},
        "shares": {"simplex": {"random": 0.5, "token": 0, "trigram": 0}},
    }
    arm = {"x": 0.5, "y": 0.5}
    arms = {
        "baseline": {**arm, "shares": {"random": 1, "token": 0, "trigram": 0}},
        "published": {**arm, "shares": {"random": 0.8, "token": 0.15, "trigram": 0.05}},
    }
    search = {"method": "tpe", "trials": trials}
    return toy_spec(space=space, arms=arms, search=search, seeds={"search": [0], "confirm": list(SEEDS)})


def written(folder: Path, spec: SweepSpec, effects: dict[str, float], look: int = 1) -> Journal:
    """effects: candidate of the confirmation -> true difference to the baseline, in nats."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    journal = Journal(folder / "journal.jsonl")
    journal.append(session())
    chance = random.Random(0)
    for number in range(spec.total_trials):
        _search_trial(journal, spec, number, chance)
    labels = dict.fromkeys(["baseline", *effects])
    arms = {label: _params(journal, spec, label) for label in labels}
    journal.append(Family(look=1, baseline="baseline", arms=arms, seeds=list(SEEDS), time=T0 + 5000))
    losses: dict[str, dict[int, float | None]] = {label: {} for label in arms}
    common = {seed: chance.gauss(0, 0.01) for seed in SEEDS}
    runs = [(label, seed) for seed in SEEDS for label in arms]
    for number, (label, seed) in enumerate(runs):
        loss = 2 + common[seed] + effects.get(label, 0.0) + chance.gauss(0, 0.003)
        losses[label][seed] = loss
        trial, at = f"c{number + 1:04d}", 5000 + 100 * number
        _asked(journal, spec, trial, number, "confirm", label, seed, arms[label], {}, at)
        _reported(journal, trial, loss - 0.01, arms[label], at, [("test/loss", loss)])
    journal.append(Verdict(data=_said(losses, look), time=T0 + 9000))
    return journal


def _said(losses: dict[str, dict[int, float | None]], look: int) -> dict[str, Any]:
    rule = Rule()
    found = verdicts(losses, "baseline", rule, look=look)
    confirmed = [(one.mean or 0.0, one.arm) for one in found.comparisons if one.verdict == "confirmed"]
    return {
        "look": look,
        "metric": "test/loss",
        "baseline": "baseline",
        "alpha": found.alpha,
        "rule": rule.words(len(found.comparisons), look),
        "worthwhile": rule.worthwhile,
        "margin": rule.margin,
        "seeds": list(SEEDS),
        "fresh": True,
        "earlier": 0,
        "comparisons": [asdict(one) for one in found.comparisons],
        "told": {one.arm: one.label for one in found.comparisons},
        "documents": {one.arm: [one.mean - 0.006, one.mean + 0.005] for one in found.comparisons if one.mean},
        "champion": min(confirmed)[1] if confirmed else None,
        "notes": [],
    }


def _params(journal: Journal, spec: SweepSpec, label: str) -> dict[str, Any]:
    return dict(spec.arms[label]) if label in spec.arms else journal.trials[label].ask.params


def _search_trial(journal: Journal, spec: SweepSpec, number: int, chance: random.Random) -> None:
    arms = list(spec.arms)
    arm = arms[number] if number < len(arms) else None
    raw = {name: chance.random() for path, domain in spec.space.items() for name in domain.sampler_params(path)}
    params: dict[str, Any] = {path: domain.value(path, raw) for path, domain in spec.space.items()}
    if arm:
        params = dict(spec.arms[arm])
        raw = {k: v for path, value in params.items() for k, v in spec.space[path].to_sampler(path, value).items()}
    x, y, token = params.get("x", 0.5), params.get("y", 0.5), params["shares"]["token"]
    loss = 2 + 0.1 * ((x - 0.3) ** 2 + (y - 0.7) ** 2 + (token - 0.2) ** 2) + chance.gauss(0, 0.005)
    trial = f"t{number + 1:04d}"
    if number % 8 == 7:
        _asked(journal, spec, trial, number, "search", arm, 0, params, raw, 200 * number)
        journal.append(End(trial=trial, state="failed", reason="RuntimeError: it broke", time=T0 + 200 * number + 9))
        return
    _asked(journal, spec, trial, number, "search", arm, 0, params, raw, 200 * number)
    _reported(journal, trial, loss, params, 200 * number, ())


def _asked(
    journal: Journal,
    spec: SweepSpec,
    trial: str,
    number: int,
    stage: str,
    arm: str | None,
    seed: int,
    params: dict[str, Any],
    raw: dict[str, Any],
    at: float,
) -> None:
    config = spec.trainable_config(params)
    named = {"config": config, "config_hash": spec.config_hash(config), "params": params, "raw": raw, "time": T0 + at}
    journal.append(Ask(trial=trial, number=number, stage=stage, arm=arm, seed=seed, **named))


def _reported(
    journal: Journal, trial: str, loss: float, params: dict[str, Any], at: float, last: Iterable[tuple[str, float]]
) -> None:
    share = params["shares"]["token"]
    audit = {"audit/rate": 0.15, "audit/matched": 1.0, "audit/refreshes": 5.0, "train/predicted": 3000.0}
    audit |= {f"audit/shares/{part}": value for part, value in params["shares"].items()}
    audit |= {f"audit/decile/{n}": 0.1 + share * (n - 5.5) / 90 for n in DECILES}
    audit |= {"audit/kind/word": 0.75 + share / 5, "audit/kind/number": 0.25 - share / 5}
    for step in STEPS:
        metrics = {"val/loss": loss + 2 / step - 0.1, **audit, **(dict(last) if step == STEPS[-1] else {})}
        journal.append(Report(trial=trial, step=step, metrics=metrics, time=T0 + at + step))
    journal.append(End(trial=trial, state="completed", time=T0 + at + STEPS[-1] + 1))
