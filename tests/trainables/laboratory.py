"""Rates in time and by row, and corruption apart from prediction, against their slow versions: a part of oracles.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.trainables import obvious
from tests.trainables.drawn import EXACT, SDS, Compared, alone, furthest, marginal, policy_of
from trainables.masking.budget import Budget
from trainables.masking.replacement import Corruption
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.settings.row_rates import RowRates

WORDS = [f"{a}{b}" for a in "abcd" for b in "wxyz"]
PARTS = ((0.0, 0.30), (0.7, 0.15), (0.9, 0.05))


def schedules() -> list[Compared]:
    """The rate and K of each of 997 steps of 64 rows of 16 tokens; K is drawn, in every 40th step."""
    compared, steps = [], 997
    for kind in ("linear", "cosine", "inverse", "step"):
        rule = {"rate_schedule": kind, "rate_start": 0.30, **({"rates": PARTS} if kind == "step" else {})}
        tree = {"steps": steps, "batch_size": 64, "data": {"block": 16}, "masking": {**rule, "mask_warmup": 0}}
        config = Config.model_validate(tree)
        slow = [obvious.rate_at(kind, step, steps, 0.30, 0.15, PARTS) for step in range(steps)]
        numbers = [round(rate * 1024) for rate in slow]
        compared.append(
            Compared(f"rate {kind}", "rate of 997 steps", furthest([*map(config.rate_at, range(steps))], slow), EXACT)
        )
        mean = abs(config.predicted_per_step - round(sum(numbers) / steps))
        compared.append(Compared(f"rate {kind}", "mean number of predictions", mean, 0))
        policy, ids = policy_of(0.15, WORDS, {"random": 1}, 64, **rule)  # of 1,000 steps
        off = 0.0
        for step in range(0, 1_000, 40):
            found = policy.select(ids, StepNoise(1, 0, step, (64, 16))).weight.sum()
            off = max(off, abs(float(found) - round(1024 * obvious.rate_at(kind, step, 1_000, 0.30, 0.15, PARTS))))
        policy.metrics(alone)
        compared.append(Compared(f"rate {kind}", "predictions of 25 steps", off, 0))
    return compared


def rows() -> list[Compared]:
    """What every row of 500 batches of 24 rows gets, one by one and on average."""
    compared, steps = [], 500
    kinds: tuple[RowRates, ...] = ("uniform", "cosine")
    for kind in kinds:
        budget, worst, totals = Budget(0.2, 24, 32, kind), 0.0, []
        for step in range(steps):
            noise = StepNoise(1, 0, step, (24, 32))
            u, *keys = noise.starts("row rates", 25).tolist()
            times = [(place + u + 2.0**-33) / 24 for place in np.argsort(keys).tolist()]
            slow = obvious.row_totals(kind, times, budget.total, float(noise.starts("quota", 1)[0]))
            fast = budget.quotas([], noise)[0]
            worst = max(worst, furthest(fast, slow))
            totals.append(fast)
        by_row = np.array(totals)
        mean = np.abs(by_row.mean(0) - budget.total / 24) / (by_row.std(0) / steps**0.5)
        compared.append(Compared(f"rows {kind}", "each row's number in 500 batches", worst, 0))
        compared.append(Compared(f"rows {kind}", "K of 500 batches", furthest(by_row.sum(1), budget.total), 0))
        compared.append(Compared(f"rows {kind}", "mean of a row, sd", float(mean.max()), SDS))
    return compared


def corruption() -> list[Compared]:
    """20 rows of 16 in 300 batches; every other row has three [UNK]. More and fewer corrupted than predicted."""
    compared: list[Compared] = []
    rules: dict[str, dict[str, Any]] = {
        "random": {"preset": "random"},
        "row_uniform": {"preset": "row_uniform"},
        "amlm": {"preset": "amlm"},
        "amlm bernoulli": {"preset": "amlm", "draw": "bernoulli"},
        "row by row": {"preset": "random", "apportion": "row"},
    }
    for name, rule in rules.items():
        for share in (0.4, 0.1):
            compared += corrupted(f"corrupt {share:g}, {name}", rule, share)
    return compared


def corrupted(name: str, rule: dict[str, Any], share: float) -> list[Compared]:
    steps, shape = 300, (20, 16)
    policy, ids = policy_of(0.15, WORDS, {}, 20, corrupt=share, **rule)
    ids[::2, :3] = 1
    eligible = torch.arange(int(ids.max()) + 1) >= 5
    corruption = Corruption(share, eligible, slice(0, 20))
    number, off, apart, due = round(share * 320), 0, 0, np.zeros((2, 16))
    chosen = np.zeros((steps, *shape), bool)
    for step in range(steps):
        noise = StepNoise(1, 0, step, shape)
        selection = policy.select(ids, noise)
        taken, broken = corruption(ids, selection, noise)
        policy.audit.tally_corrupted(taken, broken)
        predicted, chosen[step] = selection.chosen(ids.shape), taken.numpy()
        off = max(off, abs(int(taken.sum()) - number))
        apart += int((predicted & ~taken).sum()) if number > int(predicted.sum()) else int((taken & ~predicted).sum())
        apart += int((taken & ~predicted & ~eligible[ids]).sum())
        own, other = obvious.corrupted_chance([13, 16] * 10, predicted.sum(1).tolist(), number)
        for row in range(20):  # of a draw that treats all eligible positions of a row alike
            some, room = int(predicted[row].sum()), (13, 16)[row % 2]
            due[row % 2, 3 * (1 - row % 2) :] += (some * own[row] + (room - some) * other[row]) / room / 10 / steps
    found = policy.metrics(alone)["audit/corrupted"]
    return [
        Compared(name, "corrupted positions of 300 batches", off, 0),
        Compared(name, "and their share in the audit", abs(found - number / 320), EXACT),
        Compared(name, "neither predicted nor around what is", apart, 0),
        Compared(name, "every position's chance, 6,000 rows, sd", marginal(chosen, due), SDS),
    ]


LABORATORY = (schedules, rows, corruption)
