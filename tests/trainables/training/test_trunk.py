"""A run that starts from a trunk is the run from step 0: weights, optimiser, masking state, rows and analysis."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from sweeper.trainable import TrainContext
from tests.trainables.masking.test_policies import PRESETS, SCHEDULED
from tests.trainables.tiny import Recorder, Stopped, config, run
from trainables import mlm
from trainables.masking.audit import AllReduce
from trainables.settings.config import Config
from trainables.testing import in_threads
from trainables.training import trunk

pytestmark = pytest.mark.usefixtures("own_cache")

STEPS = 30
POINTS = (1, 4, 5, 11, 18)  # after the first step, before a report, at one, between refreshes, the longest of all


def settings(corpus: Path, preset: str, point: int, **masking: Any) -> Config:
    rule = {"preset": preset, "mask_warmup": point / STEPS, "update_every": 2, **masking}
    given = config(corpus, steps=STEPS).model_dump(exclude={"masking"})
    return Config.model_validate({**given, "masking": rule})


FORKING = [
    name
    for name in PRESETS
    if name not in SCHEDULED
    and Config.model_validate({"masking": {"preset": name, "mask_warmup": 0.5}}).past(10) is not None
]


def left(config: Config, folder: Path, *steps: int, **context: Any) -> dict[int, Path]:
    """The trunks that a run leaves."""
    found: dict[int, Path] = {}

    def leave(step: int, made: Path | None) -> None:
        assert made is not None
        found[step] = folder / f"trunk-{step}"
        shutil.move(made, found[step])

    folder.mkdir()
    run(config, folder, leave_at=frozenset(steps), leave=leave, **context)
    return found


def files(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a checkpoint, the bundle and its analysis included."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def beginning(corpus: Path, rule: Config, point: int) -> Config:
    """Random masking that shares the steps before a point with a rule."""
    own = {name: getattr(rule.masking, name) for name in ("corrupt", "row_rates", "replacement")}
    if rule.masking.wants_entropies:  # which are left by such a rule alone
        return settings(corpus, "entropy", point, cap=0.5, **own)
    return settings(corpus, "random", point, **own)


def compared(corpus: Path, folder: Path, point: int, presets: Collection[str]) -> None:
    """Bit for bit: what forks of one trunk and runs from step 0 report and leave."""
    trunks: dict[str, Path] = {}
    for preset in presets:
        rule = settings(corpus, preset, point)
        past = json.dumps(rule.past(point))
        if past not in trunks:
            first = beginning(corpus, rule, point)
            assert json.dumps(first.past(point)) == past
            trunks[past] = left(first, folder / f"first-{len(trunks)}", point, test=True)[point]
        whole, fork = (folder / f"{preset.replace('/', '-')}-{name}" for name in ("whole", "fork"))
        whole.mkdir()
        fork.mkdir()
        expected, found = run(rule, whole, test=True), run(rule, fork, test=True, fork_from=trunks[past])
        assert found.rows == expected.rows, preset
        assert [list(row) for row in found.rows] == [list(row) for row in expected.rows], "columns in the same order"
        assert files(found.checkpoint) == files(expected.checkpoint), preset


@pytest.mark.parametrize("at", [3, *(pytest.param(at, marks=pytest.mark.slow) for at in (0, 1, 2, 4))])
def test_a_fork_is_the_run_from_step_0(corpus: Path, tmp_path: Path, at: int) -> None:
    """Every rule at one of the points, and two of them at all; the slow ones are the other points."""
    chosen = {*FORKING[at :: len(POINTS)], "accuracy_morph", "amlm", "entropy", "easy_to_hard"} & {*FORKING}
    compared(corpus, tmp_path, POINTS[at], sorted(chosen))


def test_every_rule_within_the_budget_can_fork() -> None:
    assert len(FORKING) >= 14
    assert {"accuracy_morph", "cms_morph", "amlm", "whole_word", "published/amlm-soft"} <= {*FORKING}
    assert "published/amlm-hard-nhot-code" in FORKING, "the code's constants, drawn exactly"


def test_what_a_fork_leaves_is_what_the_run_from_step_0_leaves(corpus: Path, tmp_path: Path) -> None:
    """A fork at a short warm-up goes on at random, and others start from where its own ends."""
    first = left(settings(corpus, "random", 4), tmp_path / "first", 4)
    rule = settings(corpus, "accuracy_morph", 11)
    whole = left(rule, tmp_path / "whole", 4, 11)
    fork = left(rule, tmp_path / "fork", 11, fork_from=first[4])
    assert files(whole[4]) == files(first[4])
    assert files(fork[11]) == files(whole[11])


@pytest.mark.parametrize("rule", [{"corrupt": 0.4}, {"corrupt": 0.1, "row_rates": "uniform"}])
def test_a_fork_counts_what_was_corrupted(corpus: Path, tmp_path: Path, rule: dict[str, Any]) -> None:
    begun = left(settings(corpus, "random", 11, **rule), tmp_path / "first", 11)[11]
    morph = settings(corpus, "accuracy_morph", 11, **rule)
    assert morph.past(11) == settings(corpus, "random", 11, **rule).past(11)
    for name in ("whole", "fork"):
        (tmp_path / name).mkdir()
    whole, fork = run(morph, tmp_path / "whole"), run(morph, tmp_path / "fork", fork_from=begun)
    assert fork.rows == whole.rows
    assert files(fork.checkpoint) == files(whole.checkpoint)
    assert whole.rows[-1]["audit/corrupted"] == round(rule["corrupt"] * 128) / 128


def test_a_fork_that_is_cut_off_goes_on(corpus: Path, tmp_path: Path) -> None:
    rule, point = settings(corpus, "accuracy_morph", 8), 8
    trunks = left(settings(corpus, "random", point), tmp_path / "first", point)
    (tmp_path / "whole").mkdir()
    whole = run(rule, tmp_path / "whole")
    for stop in (5, 10, 15):
        folder = tmp_path / f"cut{stop}"
        folder.mkdir()
        cut = Recorder(folder, stop)
        with pytest.raises(Stopped):
            mlm.train(rule, TrainContext(cut, fork_from=trunks[point]))
        again = Recorder(folder)
        restore = cut.checkpoint if cut.checkpoint.exists() else None  # rows of the trunk have no checkpoint
        assert (restore is None) == (stop == 5)
        mlm.train(rule, TrainContext(again, restore_from=restore, fork_from=trunks[point]))
        assert files(again.checkpoint) == files(whole.checkpoint)
        assert again.rows == whole.rows[len(whole.rows) - len(again.rows) :]


def test_entropies_are_left_by_a_rule_that_wants_them_and_others_are_refused(corpus: Path, tmp_path: Path) -> None:
    rule, point = settings(corpus, "entropy", 8), 8
    assert rule.past(point) != settings(corpus, "random", point).past(point)
    assert rule.past(point) == settings(corpus, "entropy", point, ema_decay=0.5).past(point)
    plain = left(settings(corpus, "random", point), tmp_path / "plain", point)[point]
    own = left(rule, tmp_path / "own", point)[point]
    assert {*trunk.read(own).answers} - {*trunk.read(plain).answers} == {"entropies"}
    same = [(folder / "model.safetensors").read_bytes() for folder in (plain, own)]
    assert same[0] == same[1], "entropies change no step"
    with pytest.raises(ValueError, match="has no entropies"):
        run(rule, tmp_path, fork_from=plain)


def test_what_is_no_past_of_another(corpus: Path) -> None:
    base = settings(corpus, "accuracy_morph", 10)
    assert base.past(10) == base.past(10)
    assert base.past(11) is None, "beyond the warm-up the rule draws"
    assert base.past(0) is None
    same = settings(corpus, "accuracy_morph", 10, update_every=4, ema_decay=0.9, shares={"random": 0.9, "token": 0.1})
    assert same.past(7) == base.past(7)
    assert settings(corpus, "accuracy_morph", 16).past(7) == base.past(7)
    for other in (
        settings(corpus, "accuracy_morph", 10, rate=0.2),
        settings(corpus, "accuracy_morph", 10, row_rates="cosine"),
        settings(corpus, "accuracy_morph", 10, corrupt=0.2),
        base.model_copy(update={"steps": 40}),
        base.model_copy(update={"batch_size": 4}),
        base.model_copy(update={"noise_salt": 1}),
        base.model_copy(update={"report_every": 4}),
        base.model_copy(update={"optimiser": base.optimiser.model_copy(update={"lr": 0.1})}),
        base.model_copy(update={"model": base.model.model_copy(update={"dropout": 0.2})}),
    ):
        assert other.past(7) != base.past(7)
    for apart in (
        {"apportion": "row"},
        {"replicate": True},
        {"rate_schedule": "linear"},
        {"rate_schedule": "step", "rates": [[0, 0.3], [0.5, 0.15]]},
        {"loss_weight": 0.2},
        {"policy": "amlm", "draw": "bernoulli"},
    ):
        assert settings(corpus, "random", 10, **apart).past(7) is None, apart
    assert base.model_copy(update={"series": (10,)}).past(7) is None


def test_a_trunk_of_other_data_or_another_seed_is_refused(corpus: Path, tmp_path: Path) -> None:
    rule = settings(corpus, "accuracy_morph", 8)
    trunks = left(settings(corpus, "random", 8), tmp_path / "first", 8)
    with pytest.raises(ValueError, match="of other data or another seed"):
        run(rule, tmp_path, seed=1, fork_from=trunks[8])
    (trunks[8] / trunk.ORIGIN).write_text(json.dumps({"seed": 0, "data_fingerprint": "other"}), "utf-8")
    with pytest.raises(ValueError, match="of other data or another seed"):
        run(rule, tmp_path, fork_from=trunks[8])


def test_the_last_step_is_always_trained() -> None:
    """A run that would start at its end would leave no bundle."""
    config = Config.model_validate({"steps": 400, "masking": {"preset": "random", "mask_warmup": 0.999}})
    assert config.warmup_steps == 400
    assert config.past(400) is None
    assert config.past(399) is not None


@pytest.mark.parametrize("name", ["model.safetensors", "answers.safetensors", "history.jsonl"])
def test_a_damaged_trunk_is_one_line(corpus: Path, tmp_path: Path, name: str) -> None:
    rule = settings(corpus, "accuracy_morph", 8)
    trunks = left(settings(corpus, "random", 8), tmp_path / "first", 8)
    content = (trunks[8] / name).read_bytes()
    (trunks[8] / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=str(trunks[8])):
        run(rule, tmp_path, fork_from=trunks[8])
    (trunks[8] / name).unlink()
    with pytest.raises((ValueError, FileNotFoundError)):
        run(rule, tmp_path, fork_from=trunks[8])


def test_a_trunk_ends_with_its_step_and_holds_no_rule(corpus: Path, tmp_path: Path) -> None:
    found = left(settings(corpus, "accuracy_morph", 8), tmp_path / "first", 8)[8]
    rows = [json.loads(line) for line in (found / "history.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [5, 8]
    assert list(rows[1]) == ["step"]
    assert not [key for key in rows[0] if key.startswith("audit/")]
    read = trunk.read(found)
    assert read.step == 8
    assert {tensor.shape[:2] for name, tensor in read.answers.items() if name != "losses_since"} == {(1, 8)}


def in_ranks(settings: Config, folder: Path, ranks: int, **context: Any) -> Recorder:
    """Train on several ranks, in threads. Returns what rank 0 reported; `leave` gets what it leaves."""
    recorders = [Recorder(folder / f"{rank}") for rank in range(ranks)]

    def act(rank: int, all_reduce: AllReduce) -> None:
        recorders[rank].checkpoint.parent.mkdir(parents=True)
        mlm.train(settings, TrainContext(recorders[rank], 0, rank, ranks, all_reduce=all_reduce, **context))

    in_threads(ranks, act)
    return recorders[0]


@pytest.mark.parametrize("ranks", [2, 3])  # 8 rows: of 3 ranks, one has 2 rows and fewer index slots
def test_a_fork_on_several_ranks_is_their_run_from_step_0(corpus: Path, tmp_path: Path, ranks: int) -> None:
    found: dict[int, Path] = {}
    received: list[int] = []

    def leave(step: int, made: Path | None) -> None:
        received.append(step)
        if made is not None:
            found[step] = tmp_path / "trunk"
            shutil.move(made, found[step])

    in_ranks(settings(corpus, "random", 8), tmp_path / "first", ranks, leave_at=frozenset({8}), leave=leave)
    assert received == [8] * ranks
    for preset in ("accuracy_morph", "amlm"):
        rule = settings(corpus, preset, 8)
        whole = in_ranks(rule, tmp_path / f"{preset}-whole", ranks, test=True)
        fork = in_ranks(rule, tmp_path / f"{preset}-fork", ranks, test=True, fork_from=found[8])
        assert fork.rows == whole.rows, preset
        assert files(fork.checkpoint) == files(whole.checkpoint), preset
    with pytest.raises(ValueError, match="another number of workers"):
        run(settings(corpus, "random", 8), tmp_path, fork_from=found[8])
