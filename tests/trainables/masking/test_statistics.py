"""What was masked between two reports, in the rows and in the analysis of a run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sweeper.trainable import TrainContext, intervals
from tests.trainables.tiny import Recorder, Stopped, config, run
from trainables import mlm
from trainables.settings.config import Config

pytestmark = pytest.mark.usefixtures("own_cache")

STEPS, EVERY, PREDICTED = 30, 5, 19  # a step predicts 19 of 8 rows of 16 tokens
WORDS_FIRST = {"shares": [[0, {"whole_word": 1}], [0.5, {"random": 1}]]}


def settings(corpus: Path, masking: dict[str, Any]) -> Config:
    given = config(corpus, steps=STEPS, report_every=EVERY).model_dump(exclude={"masking"})
    return Config.model_validate({**given, "masking": {"update_every": 2, **masking}})


def analysis(recorder: Recorder) -> dict[str, Any]:
    return json.loads((recorder.checkpoint / "bundle" / "analysis" / "masked.json").read_text("utf-8"))


def test_a_schedule_is_seen_where_it_turns(corpus: Path, tmp_path: Path) -> None:
    """Whole words in the first half and random masks in the second: no cumulative share says so."""
    found = run(settings(corpus, {"schedule": WORDS_FIRST, "mask_warmup": 0}), tmp_path)
    over_time = analysis(found)["over_time"]
    assert [(one["since"], one["step"]) for one in over_time] == [(at, at + EVERY) for at in range(0, STEPS, EVERY)]
    assert {one["counted"] for one in over_time} == {EVERY * PREDICTED}
    assert [one["shares"]["shares/whole_word"] for one in over_time] == [1, 1, 1, 0, 0, 0]
    assert [one["shares"]["shares/random"] for one in over_time] == [0, 0, 0, 1, 1, 1]
    assert found.rows[-1]["audit/shares/whole_word"] == pytest.approx(0.5), "of the whole run"


@pytest.mark.parametrize("preset", ["accuracy_morph", "amlm", "whole_word"])
def test_the_intervals_add_up_to_the_run(corpus: Path, tmp_path: Path, preset: str) -> None:
    found = run(settings(corpus, {"preset": preset, "mask_warmup": 0.3}), tmp_path)
    content = analysis(found)
    over_time, whole = content["over_time"], content["shares"]
    assert "counted" not in whole
    assert [row["audit/counted"] for row in found.rows] == [
        max(0, step - 9) * PREDICTED for step in (5, 10, 15, 20, 25, 30)
    ]
    assert over_time[0]["counted"] == PREDICTED, "one step of its interval lies after the warm-up"
    assert sum(one["counted"] for one in over_time) == content["predictions"]
    for key, share in whole.items():
        total = sum(one["counted"] * one["shares"].get(key, 0) for one in over_time)
        assert total / content["predictions"] == pytest.approx(share, abs=1e-12), key
    for group in ("decile", "kind", "shares"):
        for one in over_time:
            parts = [share for key, share in one["shares"].items() if key.startswith(f"{group}/")]
            assert sum(parts) == pytest.approx(1)
            counts = [share * one["counted"] for share in parts]
            assert counts == pytest.approx([round(count) for count in counts], abs=1e-9), "whole predictions"


def test_a_resumed_and_a_forked_run_say_the_same(corpus: Path, tmp_path: Path) -> None:
    rule = settings(corpus, {"preset": "accuracy_morph", "mask_warmup": 0.4})
    whole, first, second = (Recorder(tmp_path / name, stop) for name, stop in (("a", None), ("b", 20), ("b", None)))
    trunk = tmp_path / "trunk"

    def leave(_step: int, made: Path | None) -> None:
        assert made is not None
        shutil.move(made, trunk)

    mlm.train(rule, TrainContext(whole, leave_at=frozenset({12}), leave=leave))
    with pytest.raises(Stopped):
        mlm.train(rule, TrainContext(first))
    mlm.train(rule, TrainContext(second, restore_from=first.checkpoint))
    forked = run(rule, tmp_path / "c", fork_from=trunk)
    expected = list(intervals(whole.rows))
    assert [one.since for one in expected] == [10, 15, 20, 25]
    for recorder, rows in ((second, first.rows + second.rows), (forked, forked.rows)):
        assert list(intervals(rows)) == expected
        for name in ("masked.json", "masked.svg"):
            path = Path("bundle") / "analysis" / name
            assert (recorder.checkpoint / path).read_bytes() == (whole.checkpoint / path).read_bytes(), name
