"""Steps as graphs: a replay is the step that it stands for, for every policy, and what it is given is drawn once.

What CUDA would capture is recorded on a CPU (`tape`): operations and addresses, and nothing of the host's.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from sweeper.trainable import TrainContext
from tests.trainables.masking.test_policies import PRESETS, REPLICAS, warmup_of
from tests.trainables.tape import on_tape
from tests.trainables.tiny import config
from trainables.data import batches
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.training import cuda_graph
from trainables.training.run import Run

STEPS = 17
POLICIES = [*PRESETS, "published/amlm-hard-nhot"]


pytestmark = pytest.mark.usefixtures("own_cache")


def made(settings: Config, capture: cuda_graph.Capture | None) -> Run:
    run = Run(settings, TrainContext(lambda *_: None, seed=5), batches.prepare(settings.data))
    run.steps = run.replayed(capture) if capture else run.eager_step
    return run


@pytest.mark.parametrize("begin", [0.05, 0.4])
def test_what_is_drawn_ahead_follows_a_rate_that_changes(corpus: Path, begin: float) -> None:
    """A GPU gives every step of a kind by what the first of them asked for; no graph then, as the budget varies."""
    rule = {"update_every": 2, "mask_warmup": 0.375, "rate_schedule": "linear", "rate_start": begin}
    settings = config(corpus, steps=STEPS, precision="bfloat16", masking=rule)
    launched, replayed = made(settings, None), made(settings, on_tape)
    for step in range(STEPS):
        for run in (launched, replayed):
            run.step(step)
    alone = launched.context.all_reduce
    assert launched.policy.metrics(alone) == replayed.policy.metrics(alone)
    for name, value in launched.policy.state(alone).items():
        assert torch.equal(value, replayed.policy.state(alone)[name]), name


def settings_of(corpus: Path, preset: str, replicate: bool = False) -> Config:
    """In bfloat16, because training in float32 on a CPU keeps its own dropout, which is no operation of torch's."""
    rule = {"preset": preset, "update_every": 2, "mask_warmup": warmup_of(preset, 0.375), "replicate": replicate}
    return config(corpus, steps=STEPS, precision="bfloat16", masking=rule)


@pytest.mark.parametrize(
    ("preset", "replicate"), [*((name, False) for name in POLICIES), *((name, True) for name in REPLICAS)]
)
def test_a_replay_is_the_step_that_it_stands_for(corpus: Path, preset: str, replicate: bool) -> None:
    settings = settings_of(corpus, preset, replicate)
    launched, replayed = made(settings, None), made(settings, on_tape)
    for step in range(STEPS):
        for run in (launched, replayed):
            run.step(step)
        assert torch.equal(launched.losses, replayed.losses), step
    alone = launched.context.all_reduce
    for name, value in launched.policy.state(alone).items():
        assert torch.equal(value, replayed.policy.state(alone)[name]), name
    for name, value in launched.model.state_dict().items():
        assert torch.equal(value, replayed.model.state_dict()[name]), name
    assert launched.policy.metrics(alone) == replayed.policy.metrics(alone)
    assert isinstance(replayed.steps, cuda_graph.Steps)
    varies = settings.rate_at(0) != settings.rate_at(STEPS)
    kinds = {(step >= settings.warmup_steps, settings.data.block) for step in range(STEPS)}
    assert set(replayed.steps.graphs) == (set() if varies else kinds)


def test_a_graph_that_needs_the_host_is_given_up(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_of(corpus, "published/random")
    run, launched = made(settings, on_tape), made(settings, None)
    steps, take = run.steps, run.train_step
    assert isinstance(steps, cuda_graph.Steps)

    def waits(noise: StepNoise) -> None:
        take(noise)
        run.losses.sum().item()

    steps.train_step = waits
    for step in range(5):
        run.step(step)
    assert not steps.graphs
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "launched kernel by kernel" in told
    del launched


def test_what_a_step_is_given_is_its_own_wherever_one_begins() -> None:
    seen: dict[int, torch.Tensor] = {}
    asked = Counter[int]()

    def draw(noise: StepNoise) -> np.ndarray:
        asked[noise.step] += 1
        return noise.uniform("a")

    def take(noise: StepNoise) -> None:
        seen[noise.step] = noise.get_or_draw("a", draw, torch.device("cpu")).clone()

    steps = cuda_graph.Steps(
        take, lambda step: StepNoise(1, 0, step, (2, 3)), lambda step: step, lambda _: 0, "cpu", None
    )
    order = [4, 5, 6, 7, 8, 20, 21, 10, 11, 22]
    for step in order:
        steps(step)
        assert np.array_equal(seen[step].numpy(), StepNoise(1, 0, step, (2, 3)).uniform("a")), step
    steps.thread.shutdown()
    assert asked[6] == asked[7] == 1


def test_draws_of_several_types_lie_side_by_side() -> None:
    draws = {
        "flags": lambda _: np.array([True, False, True]),
        "small": lambda _: np.arange(5, dtype=np.int16),
        "table": lambda noise: noise.uniform("table"),
        "one": lambda noise: np.array(noise.step / 8, np.float32),
    }
    here = torch.device("cpu")
    noise = StepNoise(1, 0, 2, (2, 3))
    for name, draw in draws.items():
        noise.get_or_draw(name, draw, here)
    inputs = cuda_graph.Inputs(noise, here)
    inputs.draw(noise)
    inputs.copy(2)
    for name, draw in draws.items():
        expected = torch.from_numpy(draw(noise))
        assert inputs.given[name].dtype == expected.dtype
        assert torch.equal(inputs.given[name], expected)
