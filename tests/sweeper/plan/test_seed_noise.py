"""The sd of paired differences, from losses by configuration and seed."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys

import numpy as np
import pytest

from sweeper.plan.seed_noise import CONFIGURATIONS, spread


def test_the_sd_is_that_of_differences_on_common_seeds():
    a, b = {1: 2.0, 2: 2.5, 3: 2.1, 4: 9.0}, {1: 2.1, 2: 2.4, 3: 2.3, 5: 0.0}
    sd = statistics.stdev([-0.1, 0.1, -0.2])
    found = spread({"a": a, "b": b})
    assert found is not None
    assert (found.sd, found.source) == (pytest.approx(sd), "earlier runs, paired: 2 configurations, 3 seeds")


def test_what_seeds_share_does_not_count():
    generator = np.random.default_rng(0)
    shared, own, names = 0.5 * generator.normal(size=8), 0.01 * generator.normal(size=(30, 8)), range(30)
    losses = {f"{name}": dict(enumerate((name + shared + own[name]).tolist())) for name in names}
    found = spread(losses)
    assert found is not None
    assert found.sd == pytest.approx(0.01 * math.sqrt(2), rel=0.1)
    assert found.source == "earlier runs, paired: 30 configurations, 8 seeds"
    # Pooled over all pairs it is twice the residual mean square of configurations and seeds.
    table = np.array([list(by.values()) for by in losses.values()])
    residual = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    assert found.sd**2 == pytest.approx(2 * (residual**2).sum() / (29 * 7))


def test_without_pairs_the_sd_between_seeds_is_taken_for_want_of_better():
    losses = {"a": {1: 2.0, 2: 2.5, 3: 2.1, 4: 2.2}, "b": {5: 1.0, 6: 1.1, 7: 1.3}, "c": {1: 0.0, 2: 9.0}}
    squares = 3 * statistics.variance([2.0, 2.5, 2.1, 2.2]) + 2 * statistics.variance([1.0, 1.1, 1.3])
    source = "earlier runs, unpaired: √2 times the sd between 4 seeds of a configuration"
    found = spread(losses)
    assert found is not None
    assert (found.sd, found.source) == (pytest.approx(math.sqrt(2 * squares / 5)), source)


@pytest.mark.parametrize(
    "losses",
    [
        {},
        {"a": {1: 2.0, 2: 2.1}, "b": {1: 2.3, 2: 2.2}},
        {"a": {1: 2.0, 2: 2.0, 3: 2.0}, "b": {1: 2.5, 2: 2.5, 3: 2.5}},
    ],
    ids=["nothing", "two seeds", "no noise"],
)
def test_too_little_tells_nothing(losses: dict[str, dict[int, float]]):
    assert spread(losses) is None


def test_one_run_under_two_names_is_no_pair():
    run = {1: 2.0, 2: 2.5, 3: 2.1}
    found = spread({"a": run, "b": dict(run)})
    assert found is not None
    assert "unpaired" in found.source


def test_many_configurations_take_no_time():
    generator = np.random.default_rng(0)
    many = {f"{name}": dict(enumerate(generator.normal(size=8).tolist())) for name in range(20 * CONFIGURATIONS)}
    found = spread(many)
    assert found is not None
    assert f"{CONFIGURATIONS} configurations" in found.source


def test_a_plan_without_a_store_does_not_wait_for_mlflow():
    code = (
        "import sys; from sweeper.spec.load import resolve; from sweeper.tracking import history; "
        "one = resolve({'name': 't', 'trainable': 'trainables.toy:train', 'space': {'x': {'uniform': [0, 1]}}, "
        "'search': {'method': 'random', 'trials': 2}}); "
        "print(history.losses('sqlite:////nowhere/mlflow.db', one), 'mlflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "{} False\n", done.stderr
