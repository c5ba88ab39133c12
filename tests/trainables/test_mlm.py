"""The loop: it learns, it repeats itself to the bit, it resumes to the bit, and ranks agree with one another."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from sweeper.trainable import TrainContext
from tests.trainables.masking.test_policies import PRESETS, warmup_of
from tests.trainables.tiny import Recorder, Stopped, config, run, run_rank
from trainables import mlm
from trainables.data import batches
from trainables.settings.config import Config
from trainables.training.run import Run

# One name a rule, and the n-hot embeddings, which are trained beside the rest.
POLICIES = [*PRESETS, "published/amlm-hard-nhot"]
GOLDEN = Path(__file__).parents[1] / "golden" / "losses.txt"


pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_state_of_an_earlier_version_is_completed(corpus: Path) -> None:
    """It lacks where words began, which the entries of WordPiece tell of every prediction."""
    settings = config(corpus)
    whole = Run(settings, TrainContext(lambda *_: None), batches.prepare(settings.data))
    for step in range(settings.steps):
        whole.step(step)
    state = whole.policy.state(lambda _: None)
    old = {name: value for name, value in state.items() if name not in ("initial", "words")}
    assert torch.equal(whole.completed(old)["initial"], state["initial"])
    assert whole.completed(state)["words"].tolist() == state["words"].tolist()
    whole.policy.load(whole.completed(old), 0)


def test_it_learns(corpus: Path, tmp_path: Path) -> None:
    rows = run(config(corpus, steps=600, report_every=200), tmp_path).rows
    assert rows[-1]["val/loss_mask"] < rows[-1]["val/unigram_mask"] - 0.15
    assert rows[-1]["val/loss"] < rows[-1]["val/loss_mask"]
    assert rows[-1]["audit/rate"] == pytest.approx(19 / 128, abs=1e-9)
    assert rows[-1]["train/predicted"] == 600 * 19


def test_golden_losses(corpus: Path, tmp_path: Path) -> None:
    """Rewrite the file only for a change that is meant to change numbers: SWEEPER_REWRITE_GOLDEN=1."""
    rows = run(config(corpus, report_every=1, model={"dropout": 0.0}), tmp_path).rows
    lines = [f"{row['step']:2d} {row['train/loss']:.6f} {row['val/loss']:.6f}" for row in rows]
    if os.environ.get("SWEEPER_REWRITE_GOLDEN"):
        GOLDEN.write_text("\n".join(lines) + "\n", "utf-8")
    expected = [list(map(float, line.split())) for line in GOLDEN.read_text("utf-8").splitlines()]
    assert [list(map(float, line.split())) for line in lines] == [pytest.approx(row, abs=5e-5) for row in expected]


def test_two_runs_of_one_seed_are_equal_bitwise_and_seeds_differ(corpus: Path, tmp_path: Path) -> None:
    one, two, other = (run(config(corpus), tmp_path / str(i), seed) for i, seed in enumerate((1, 1, 2)))
    assert one.rows == two.rows
    assert one.weights() == two.weights()
    assert one.rows != other.rows


@pytest.mark.parametrize("stop", [1, 7, 8, 13, 19])
@pytest.mark.parametrize("sketch", ["exact", "count_min"])
def test_stopped_anywhere_and_resumed_is_never_stopped_bitwise(
    corpus: Path, tmp_path: Path, stop: int, sketch: str
) -> None:
    settings = config(corpus, report_every=1, masking={"update_every": 2, "sketch": sketch, "sketch_width": 64})
    whole = run(settings, tmp_path / "whole")
    first, second = Recorder(tmp_path / "cut", stop), Recorder(tmp_path / "cut")
    with pytest.raises(Stopped):
        mlm.train(settings, TrainContext(first))
    mlm.train(settings, TrainContext(second, restore_from=first.checkpoint))
    assert first.rows + second.rows == whole.rows
    assert second.weights() == whole.weights()
    history = [json.loads(line) for line in (second.checkpoint / "history.jsonl").read_text("utf-8").splitlines()]
    assert history == whole.rows


@pytest.mark.parametrize("preset", POLICIES)
def test_every_policy_resumes_within_a_window_bitwise(corpus: Path, tmp_path: Path, preset: str) -> None:
    """Masks, metrics and weights; stopped where answers wait for the next refresh, and compared in a later window."""
    rule = {"preset": preset, "update_every": 2, "mask_warmup": warmup_of(preset, 0.1)}
    tree = config(corpus, report_every=5).model_dump(exclude={"masking": True, "model": {"embedding"}})
    settings = Config.model_validate({**tree, "masking": rule})
    whole, first, second = (Recorder(tmp_path / name, stop) for name, stop in (("a", 15), ("b", 5), ("b", 15)))
    for recorder, checkpoint in ((whole, None), (first, None), (second, first.checkpoint)):
        with pytest.raises(Stopped):
            mlm.train(settings, TrainContext(recorder, restore_from=checkpoint))
    assert first.rows + second.rows == whole.rows
    assert second.weights() == whole.weights()


def test_token_and_trigram_shares_of_zero_are_random(corpus: Path, tmp_path: Path) -> None:
    """Whatever the settings of the sources that have no share."""
    zero = {"shares": {"random": 1, "token": 0, "trigram": 0}}
    one = run(config(corpus, masking=zero), tmp_path / "one")
    two = run(config(corpus, masking={**zero, "update_every": 1, "ema_decay": 0, "mask_warmup": 0}), tmp_path / "two")
    assert [row["val/loss"] for row in one.rows] == [row["val/loss"] for row in two.rows]


def test_two_ranks_agree_with_one(corpus: Path, tmp_path: Path) -> None:
    settings = config(corpus, report_every=1, model={"dropout": 0.0})
    alone = run(settings, tmp_path).rows
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=run_rank, args=(rank, 2, settings, tmp_path)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    together = json.loads((tmp_path / "rows.json").read_text("utf-8"))
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, abs=1e-5)
        assert two["train/predicted"] == one["train/predicted"] == 19 * one["step"]


def test_the_bundle_loads_in_a_fresh_process(corpus: Path, tmp_path: Path) -> None:
    recorder = run(config(corpus), tmp_path)
    bundle = recorder.checkpoint / "bundle"
    names = {path.name for path in bundle.iterdir()}
    files = "model.safetensors config.json tokenizer.json tokenizer_config.json training_config.yaml metadata.json"
    assert names >= {*files.split(), "README.md"}
    metadata = json.loads((bundle / "metadata.json").read_text("utf-8"))
    assert metadata["step"] == 20
    assert metadata["metrics"]["val/loss"] == recorder.rows[-1]["val/loss"]
    code = f"""
from transformers import AutoModelForMaskedLM, AutoTokenizer
model, tokenizer = AutoModelForMaskedLM.from_pretrained({str(bundle)!r}), AutoTokenizer.from_pretrained({str(bundle)!r})
text = tokenizer("ba [MASK] do", return_tensors="pt")
print(tuple(model(**text).logits.shape) == (1, text.input_ids.shape[1], len(tokenizer)), tokenizer.mask_token_id)
pair = tokenizer("ba do", "do " * 40, return_tensors="pt", truncation=True, return_token_type_ids=True)
print(tuple(model(**pair).logits.shape)[:2] == (1, 16), pair.token_type_ids.max().item())
"""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.split()[::2] == ["True", "True"]
    assert out.stdout.split()[3] == "1", "the second sentence is of the second kind"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "stepz=3"], "stepz"),
        (["--set", "steps"], "PATH=VALUE"),
        (["--set", "steps=[1"], "--set steps=[1: cannot read the value: line 1, column 3: expected ',' or ']'"),
        (["--set", "steps=@x"], "--set steps=@x: cannot read the value"),
        (
            ["--set", "masking=9", "--set", "masking.rate=0.2"],
            "--set masking.rate=0.2: an earlier --set gave masking a value",
        ),
        (["--set", "model=3"], "model"),
        (["--set", "masking.update_every=900", "--set", "steps=1000"], "largest legal value is 140"),
        (
            [
                "--set",
                "steps=100",
                "--set",
                "masking.preset=published/amlm-hard-code",
                "--set",
                "masking.update_every=20",
            ],
            "largest legal value is 19",
        ),
        (["--set", "masking.update_every=2", "--set", "steps=5"], "the largest legal value is 0"),
        (["--set", "masking.refresh_delay=100000"], "masking.refresh_delay 100000 leaves fewer than 5 refreshes"),
        (
            ["--set", "masking.apportion=row", "--set", "data.block=8", "--set", "masking.rate=0.06"],
            "masking.rate 0.06 of a row of 8 rounds to no position",
        ),
        (["--set", "data.corpus=files:/nowhere/*.txt"], "/nowhere"),
        (["--set", "model.heads=3"], "multiple of heads"),
        (["--set", "data.tokenizer=~nosuchuser/tok"], "data.tokenizer ~nosuchuser/tok: there is no such home folder"),
        (["--set", f"data.tokenizer={'x' * 300}"], "File name too long"),
        (["--threads", "0"], "--threads 0: must be 1 to 1024"),
        (["--threads", "1000000"], "--threads 1000000: must be 1 to 1024"),
        (["--threads", "many"], "invalid int value: 'many'"),
        (["--device", "nonsense"], "--device nonsense: there is no such device here"),
        (["--device", "cuda:77"], "--device cuda:77: there is no such device here"),
        (["--device", "meta"], "--device meta: there is no such device here"),
        (["--seed", "-1"], "--seed -1: must be 0 to"),
        (["--set", "learning_rate=1"], "there is no such setting; did you mean 'optimiser.lr'?"),
        (["--set", "optimizer.lr=1"], "did you mean 'optimiser.lr'?"),
        (["--set", "masking.polcy=amlm"], "did you mean 'masking.policy'?"),
        (["--set", "zzzz=1"], "there is no such setting; use one of steps, batch_size, "),
        (["--set", "masking={polcy: amlm}"], "masking.polcy: there is no such setting; did you mean 'masking.policy'?"),
        (["--set", "init_from=no/such"], "init_from: no/such is not a bundle: no model.safetensors"),
        (["--config", "no/such.yaml"], "--config no/such.yaml: cannot be read: No such file"),
        (["--config", "/"], "--config /: is a folder; name the file, such as /training_config.yaml"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlm.main([*arguments, "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def alone(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], Path]:
    """A finished run of the command: its arguments, and where they had it put."""
    settings = [f"data.corpus=files:{corpus}", "data.tokenizer=train:300", "data.block=16", "data.held_out=0.1"]
    settings += ["steps=10", "batch_size=4", "model.hidden=32", "model.layers=1", "model.intermediate=32"]
    output = tmp_path_factory.mktemp("alone") / "out"
    arguments = [part for setting in settings for part in ("--set", setting)]
    arguments += ["--threads", "1", "--output", str(output)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        assert mlm.main(arguments) == 0
    return arguments, output


def test_alone_from_the_command_line(alone: tuple[list[str], Path]) -> None:
    arguments, output = alone
    assert (output / "checkpoint" / "bundle" / "model.safetensors").exists()
    assert mlm.main(arguments) == 2


def test_a_bundles_settings_run_again_and_longer(
    alone: tuple[list[str], Path], corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    bundle = alone[1] / "checkpoint" / "bundle"
    given = ["--config", str(bundle / "training_config.yaml"), "--threads", "1"]
    assert mlm.main([*given, "--out", str(tmp_path / "same")]) == 0
    same = tmp_path / "same" / "checkpoint" / "bundle"
    assert (same / "model.safetensors").read_bytes() == (bundle / "model.safetensors").read_bytes()
    assert (same / "training_config.yaml").read_bytes() == (bundle / "training_config.yaml").read_bytes()
    more = [*given, "--set", "steps=14", "--set", f"init_from={bundle}", "--out", str(tmp_path / "more")]
    assert mlm.main(more) == 0
    said = capsys.readouterr().err
    assert f"caution: with init_from, training begins with the weights of {bundle}" in said
    kept = tmp_path / "more" / "checkpoint" / "bundle"
    assert json.loads((kept / "metadata.json").read_text("utf-8"))["step"] == 14
    again = ["--config", str(kept / "training_config.yaml"), "--threads", "1", "--out", str(tmp_path / "more")]
    assert mlm.main([*again, "--resume"]) == 0, "its settings name the weights"
    capsys.readouterr()
    strange = tmp_path / "strange.yaml"
    for content, told in (
        ("stepps: 3\n", "strange.yaml: stepps: there is no such setting; did you mean 'steps'?"),
        ("steps: &a 3\n", "anchors and aliases"),
        ("- 1\n", "holds a list at the top"),
    ):
        strange.write_text(content, "utf-8")
        assert mlm.main(["--config", str(strange), "--out", str(tmp_path / "none")]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
    os.mkfifo(tmp_path / "pipe.yaml")
    assert mlm.main(["--config", str(tmp_path / "pipe.yaml"), "--out", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (["--seed", "9"], "seed was 0, is 9"),
        (["--set", "steps=20"], "steps was 10, is 20"),
        (["--set", "model.hidden=64"], "model.hidden was 32, is 64"),
        (["--set", "masking.preset=span"], "masking.mask_warmup was 0.3, is 0.0"),
        (["--set", "series=[100]"], "series was null, is [100]"),
        (["--set", "data.corpus=files:OTHER"], "data.corpus was"),
        (["--set", "data.block=8"], "data.block was 16, is 8"),
    ],
)
def test_another_runs_checkpoint_is_refused(
    alone: tuple[list[str], Path], corpus: Path, tmp_path: Path, changed: list[str], told: str, capsys: Any
) -> None:
    arguments, output = alone
    other = tmp_path / "other.txt"
    other.write_text(corpus.read_text("utf-8").upper(), "utf-8")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    changed = [part.replace("OTHER", str(other)) for part in changed]
    assert mlm.main([*arguments, *changed, "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"--resume: {output / 'checkpoint'} belongs to another run: " in error
    assert told in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before


def test_its_own_checkpoint_is_gone_on_from_wherever_the_text_lies_now(
    alone: tuple[list[str], Path], corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    arguments, output = alone
    moved = tmp_path / "moved.txt"
    moved.write_bytes(corpus.read_bytes())
    assert mlm.main([*arguments, "--set", f"data.corpus=files:{moved}", "--resume"]) == 0
    kept = shutil.copytree(output, tmp_path / "out") / "checkpoint"
    arguments = [*arguments, "--output", str(kept.parent), "--resume"]
    assert mlm.main(arguments) == 0
    capsys.readouterr()
    for content, told in (("{", "run.json cannot be read"), (None, "it has no run.json (an earlier version wrote it)")):
        (kept / "run.json").write_text(content, "utf-8") if content else (kept / "run.json").unlink()
        assert mlm.main(arguments) == 2
        assert told in capsys.readouterr().err


def test_a_trial_goes_on_from_no_other_runs_checkpoint(corpus: Path, tmp_path: Path) -> None:
    """Under a sweep, too, whose own record vouches for checkpoints that do not say whose they are."""
    first = Recorder(tmp_path / "a", 5)
    with pytest.raises(Stopped):
        mlm.train(config(corpus), TrainContext(first))
    for other, seed in ((config(corpus, batch_size=4), 0), (config(corpus), 1)):
        with pytest.raises(ValueError, match=r"checkpoint belongs to another run: (seed|batch_size) was"):
            mlm.train(other, TrainContext(Recorder(tmp_path / "b"), seed, restore_from=first.checkpoint))
    (first.checkpoint / "run.json").unlink()
    second = Recorder(tmp_path / "c", 10)
    with pytest.raises(Stopped):
        mlm.train(config(corpus), TrainContext(second, restore_from=first.checkpoint))
    assert [row["step"] for row in second.rows] == [10]
