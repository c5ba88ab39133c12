"""The probe: real steps on made-up tokens, timed; and what preparing would take."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sweeper.trainable import Trainable
from tests.trainables import tiny
from trainables import mlm
from trainables.settings.config import Config
from trainables.training import probe, validation
from trainables.training.run import Run


def test_a_probe_takes_real_steps_past_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "WARMUP", (1, 0.0))
    monkeypatch.setattr(probe, "TIMED", (3, 0.0))
    taken: list[int] = []
    real = Run.step
    monkeypatch.setattr(Run, "step", lambda run, step: (taken.append(step), real(run, step)))
    config = tiny.config(tmp_path / "none.txt")
    for world_size in (1, 2):
        pace = mlm.probe(config, "cpu", world_size)
        assert 0 < pace.step < 5
        assert 0 < pace.reports < math.inf
    first = config.warmup_steps
    assert taken == [first, first + 1, first + 2, first + 3] * 2
    assert Trainable.load("trainables.mlm:train").probe is mlm.probe


def test_validations_of_the_whole_run_are_counted() -> None:
    config = Config.model_validate({"steps": 100, "report_every": 30, "data": {"block": 32, "max_held_out": 4096}})
    assert probe.validation_share(config) == 4 * 4096 / 32 / validation.ROWS_AT_ONCE


def test_what_is_made_up_has_the_shape_of_a_corpus() -> None:
    config = Config.model_validate({"batch_size": 8, "data": {"block": 16, "tokenizer": "train:300"}})
    corpus = probe.made_up(config)
    assert (corpus.vocab_size, corpus.block, len(corpus.token_strings)) == (300, 16, 300)
    assert corpus.tokens.size == len(corpus.rows) * 16
    assert corpus.eligible[corpus.tokens].all()
    part = corpus.evaluation("val")
    assert (part.inputs.flatten()[part.positions] == part.labels).all()
    assert np.abs(len(part.positions) / part.inputs.size - 0.15) < 0.01
    again = probe.made_up(config)
    assert (again.tokens == corpus.tokens).all()


def test_the_clock_leaves_out_the_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe.torch, "get_num_threads", lambda: 2)  # wall-clock time
    monkeypatch.setattr(probe, "WARMUP", (2, 0.0))
    monkeypatch.setattr(probe, "TIMED", (3, 0.0))
    took, passed = iter([0.3, 0.3, 0.02, 0.03, 0.04]), [0.0]
    monkeypatch.setattr(probe.time, "perf_counter", lambda: sum(passed))
    assert probe.seconds(lambda: passed.append(next(took)), "cpu") == pytest.approx(0.03)


def test_preparing_takes_time_until_it_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    config = tiny.config(tiny.write_corpus(tmp_path))
    assert mlm.preparing(config) > 0
    assert not (tmp_path / "cache").exists(), "asking prepared something"
    mlm.prepare(config)
    assert mlm.preparing(config) == 0
    hub = config.model_copy(update={"data": config.data.model_copy(update={"corpus": "hub:some/where"})})
    assert mlm.preparing(hub) == 0
