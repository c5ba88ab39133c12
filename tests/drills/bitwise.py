"""Training runs stopped at random steps and gone on with, under every masking preset: weights, losses and masks.

Stopped means in the middle of a step, with masks drawn and nothing reported: what goes on begins at the newest
checkpoint and repeats the steps since.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

STEPS, EVERY = 20, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=5, help="random steps for each preset (5)")
    parser.add_argument("--seed", type=int, default=0, help="of the steps (0)")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """A row for each preset: the steps, and in how many resumed runs anything differed."""
    from tests.trainables.tiny import write_corpus
    from trainables.settings.presets import Preset

    with tempfile.TemporaryDirectory(prefix="bitwise-") as name, cache(Path(name)):
        corpus, draw = write_corpus(Path(name)), random.Random(options.seed)
        rows = [
            compared(corpus, Path(name), preset, draw.sample(range(EVERY, STEPS), options.runs))
            for preset in get_args(Preset)
        ]
    unequal = sum(row[what] for row in rows for what in ("weights", "losses", "masks"))
    return {"held": not unequal, "resumed": len(rows) * options.runs, "unequal": unequal, "rows": rows}


@contextmanager
def cache(folder: Path) -> Iterator[None]:
    """The corpus is prepared in here."""
    import pytest

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(folder / "cache"))
        yield


def compared(corpus: Path, folder: Path, preset: str, stops: list[int]) -> dict[str, Any]:
    """How many of the runs stopped in these steps (from 0) end with other weights, rows or masks."""
    from tests.trainables.masking.test_policies import warmup_of
    from tests.trainables.tiny import Recorder, config
    from trainables.settings.config import Config

    tree = config(corpus, steps=STEPS, report_every=EVERY).model_dump(exclude={"masking": True, "model": {"embedding"}})
    rule = {"preset": preset, "update_every": 2, "mask_warmup": warmup_of(preset, 0.1)}
    settings = Config.model_validate({**tree, "masking": rule})
    whole = Recorder(folder / preset / "whole")
    masks = _train(settings, whole)
    unequal = {"weights": 0, "losses": 0, "masks": 0}
    for stop in stops:
        recorder = Recorder(folder / preset / str(stop))
        before = _train(settings, recorder, stop=stop)
        kept = len(recorder.rows)
        restored = recorder.checkpoint if kept else None
        after = _train(settings, recorder, restore_from=restored, begin=kept * EVERY)
        unequal["weights"] += recorder.weights() != whole.weights()
        unequal["losses"] += recorder.rows != whole.rows
        unequal["masks"] += any(masks[step] != mask for part in (before, after) for step, mask in part.items())
        assert len(masks) == STEPS
        assert len(after) == STEPS - kept * EVERY, "it did not go on from its checkpoint"
    return {"preset": preset, "stopped_in": stops, "distinct_masks": len(set(masks.values())), **unequal}


class _Ended(Exception):
    """The run is stopped here."""


def _train(
    settings: Any, recorder: Any, stop: int = STEPS, begin: int = 0, restore_from: Path | None = None
) -> dict[int, str]:
    """Step -> what was masked there, as a digest; ends in the middle of a step if told to."""
    import pytest
    import torch

    from sweeper.trainable import TrainContext
    from trainables import mlm
    from trainables.masking import mixture

    torch.set_num_threads(1)
    masks: dict[int, str] = {}
    build: Callable[..., Any] = mixture.build

    def watched(*arguments: Any) -> Any:
        policy = build(*arguments)
        select = policy.select

        def selected(*given: Any) -> Any:
            selection, step = select(*given), begin + len(masks)
            masks[step] = hashlib.sha256(selection.positions.numpy().tobytes()).hexdigest()
            if step == stop:
                raise _Ended
            return selection

        policy.select = selected
        return policy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "build", watched)
        try:
            mlm.train(settings, TrainContext(recorder, restore_from=restore_from))
        except _Ended:
            return masks
    return masks
