"""One trial in this process: what it reports, what it leaves, how it starts again."""

from __future__ import annotations

import errno
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest

from sweeper.journal import checkpoints
from sweeper.trials import trial
from sweeper.trials.task import TrialTask
from trainables import toy
from trainables.settings.config import Config


class Driver:
    """Takes rows in place of Tune; dies at a step, before the row arrives."""

    def __init__(self) -> None:
        self.messages: list[list[dict[str, Any]]] = []
        self.faults: list[list[Any]] = []
        self.dies_at = math.inf

    def take(self, message: dict[str, Any]) -> None:
        if "fault" in message:
            self.faults.append(message["fault"])
            return
        if message["rows"][-1]["step"] >= self.dies_at:
            raise KeyboardInterrupt
        self.messages.append(message["rows"])

    @property
    def steps(self) -> list[list[int]]:
        return [[row["step"] for row in rows] for rows in self.messages]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Driver:
    driver = Driver()
    monkeypatch.setattr(trial.tune, "report", driver.take)
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return driver


def task(tmp_path: Path, **config: Any) -> dict[str, Any]:
    return {
        "id": "t0001",
        "seed": 3,
        "config": toy.Config.model_validate({"run_sd": 0.1, **config}).model_dump(mode="json"),
        "trainable": "trainables.toy:train",
        "objective": "val/loss",
        "further": [],
        "workers": 0,
        "cpus_per_worker": 1,
        "gpus_per_worker": 0,
        "placement": "pack",
        "accelerator": None,
        "cwd": str(Path.cwd()),
        "run_dir": str(tmp_path / "run"),
        "scratch": str(tmp_path / "scratch"),
        "remote": "",
        "shared": False,
        "expected": [],
        "test": False,
        "evaluate": {},
    }


def mark(task: dict[str, Any]) -> str:
    return checkpoints.owner(task["trainable"], task["id"], task["seed"], task["config"])


def home(tmp_path: Path) -> Path:
    return tmp_path / "run" / "trials" / "t0001"


def test_rows_follow_their_checkpoints(tmp_path: Path, driver: Driver):
    one = task(tmp_path)
    trial.run(one)
    assert driver.steps == [[5], [10], [15], [20]]
    newest, torn = checkpoints.newest(home(tmp_path) / "checkpoints", mark(one))
    assert newest is not None
    assert (newest.name, torn) == ("step-00000020", [])
    assert (newest / "bundle" / "metadata.json").exists()
    assert list((tmp_path / "temp").iterdir()) == [], "a checkpoint handed over was left behind"


def test_after_a_crash_the_first_rows_are_all_that_the_checkpoint_remembers(tmp_path: Path, driver: Driver):
    trial.run(task(tmp_path))
    whole = [row for rows in driver.messages for row in rows]
    again = task(tmp_path / "again")
    driver.messages, driver.dies_at = [], 15
    with pytest.raises(KeyboardInterrupt):
        trial.run(again)
    assert driver.steps == [[5], [10]]
    driver.messages, driver.dies_at = [], math.inf
    trial.run(again)
    assert driver.steps == [[5, 10, 15], [20]], "step 15 was on disk, though its row never arrived"
    assert [row for rows in driver.messages for row in rows] == whole


def test_a_run_that_had_ended_hands_over_its_last_row(tmp_path: Path, driver: Driver):
    driver.dies_at = 20
    with pytest.raises(KeyboardInterrupt):
        trial.run(task(tmp_path))
    driver.messages, driver.dies_at = [], math.inf
    trial.run(task(tmp_path))
    assert driver.steps == [[5, 10, 15, 20]]


def test_a_torn_checkpoint_costs_its_steps_and_no_more(tmp_path: Path, driver: Driver):
    trial.run(task(tmp_path))
    whole = driver.messages
    (home(tmp_path) / "checkpoints/step-00000020/history.jsonl").write_text("", "utf-8")
    driver.messages = []
    trial.run(task(tmp_path))
    assert driver.steps == [[5, 10, 15], [20]]
    assert driver.messages[-1] == whole[-1]


def test_what_is_not_finite_fails_the_trial_and_leaves_no_checkpoint(tmp_path: Path, driver: Driver):
    with pytest.raises(RuntimeError, match=r"^diverged: val/loss is nan at step 15$"):
        trial.run(task(tmp_path, fail="nan"))
    assert driver.steps == [[5], [10]]
    assert checkpoints.at(home(tmp_path) / "checkpoints", 15) is None
    assert list((tmp_path / "temp").iterdir()) == []
    note = (home(tmp_path) / trial.ERROR).read_text("utf-8").splitlines()
    assert note[0] == "RuntimeError: diverged: val/loss is nan at step 15"
    assert "Traceback (most recent call last):" in note


def test_an_old_note_goes_when_the_trial_starts_again(tmp_path: Path, driver: Driver):
    for fail, reason in (("raise", "RuntimeError: the toy fails on purpose"), ("nan", "RuntimeError: diverged")):
        with pytest.raises(RuntimeError):
            trial.run(task(tmp_path, fail=fail))
        assert (home(tmp_path) / trial.ERROR).read_text("utf-8").startswith(reason)
    trial.run(task(tmp_path))
    assert not (home(tmp_path) / trial.ERROR).exists()


def test_an_objective_that_is_never_reported_is_named(tmp_path: Path, driver: Driver):
    with pytest.raises(ValueError, match=r"^objective 'val/loss_mask' is not among what is reported: step, val/loss$"):
        trial.run({**task(tmp_path), "objective": "val/loss_mask"})


def test_the_loss_of_another_rank_is_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def broken(tensor: object) -> None:
        raise RuntimeError("Connection closed by peer")

    monkeypatch.setattr("torch.distributed.all_reduce", broken)
    one, noted = TrialTask(**task(tmp_path)), tmp_path / "run" / "trials" / "t0001" / trial.ERROR
    noted.parent.mkdir(parents=True)
    with (
        pytest.raises(trial.PeerLost, match="another worker is gone: Connection closed by peer"),
        trial._noted(one),
    ):
        trial._all_reduce(None)
    assert not noted.exists()
    with pytest.raises(ZeroDivisionError), trial._noted(one):
        _ = 1 / 0
    assert noted.read_text("utf-8").startswith("ZeroDivisionError: ")


def test_a_reason_is_one_line():
    assert trial.reason(ValueError("first\nsecond")) == "ValueError: first"
    assert trial.reason(KeyError()) == "KeyError"


def test_a_checkpoint_that_tells_other_rows_than_the_journal_is_passed_over(tmp_path: Path, driver: Driver):
    one = task(tmp_path)
    trial.run(one)
    rows = [row for rows in driver.messages for row in rows]
    driver.messages = []
    trial.run({**one, "expected": [(row, None) for row in [*rows[:3], {**rows[3], "val/loss": 7.0}]]})
    assert driver.steps == [[5, 10, 15], [20]]
    driver.messages = []
    trial.run({**one, "seed": 4})
    assert driver.steps == [[5], [10], [15], [20]], "it went on from another trial's checkpoint"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM])
def test_a_fault_is_sent_by_its_number_and_leaves_no_part(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch, number: int
):
    def fails(*_: object) -> None:
        raise OSError(number, "what it says", "/a/file")

    monkeypatch.setattr(checkpoints, "_sync_folders", fails)
    with pytest.raises(OSError, match=r"what it says"):
        trial.run(task(tmp_path))
    assert driver.faults == [[number, "what it says", "/a/file"]]
    assert (home(tmp_path) / trial.ERROR).read_text("utf-8").partition(":")[0].endswith("Error")
    assert list((home(tmp_path) / "checkpoints").iterdir()) == []
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_fault_is_sent_where_there_is_no_room_even_for_a_note(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
):
    """As safetensors tells it, in text, on a disk that takes no further file."""

    def fails(*_: object) -> None:
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(toy, "train", fails)
    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RuntimeError, match="os error 28"):
        trial.run(task(tmp_path))
    assert driver.faults == [[errno.ENOSPC, "No space left on device", None]]


def test_other_errors_are_no_fault(tmp_path: Path, driver: Driver):
    with pytest.raises(RuntimeError):
        trial.run(task(tmp_path, fail="raise"))
    assert driver.faults == []


@pytest.mark.parametrize("leaves", [SystemExit(0), SystemExit("no more"), KeyboardInterrupt(), StopIteration()])
def test_a_trainable_that_leaves_has_failed_for_a_reason(
    tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch, leaves: BaseException
):
    """Tune takes what these raise for an orderly end."""

    def leave(*_: object) -> None:
        raise leaves

    monkeypatch.setattr(toy, "train", leave)
    reason = f"the trainable left by {trial.reason(leaves)}"
    with pytest.raises(RuntimeError, match=f"^{reason}$"):
        trial.run(task(tmp_path))
    assert (home(tmp_path) / trial.ERROR).read_text("utf-8").startswith(f"RuntimeError: {reason}\n")


def test_a_trial_that_tune_stops_has_not_failed(tmp_path: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch):
    """It raises SystemExit where a row is sent."""

    def stop(message: dict[str, Any]) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(trial.tune, "report", stop)
    with pytest.raises(SystemExit):
        trial.run(task(tmp_path))
    assert not (home(tmp_path) / trial.ERROR).exists()


def test_what_would_fit_into_a_gpu():
    config = Config()
    assert config.batch_size == 64
    assert trial.fitting(config, 0.9 * config.memory_bytes) == (
        f"the {0.9 * config.memory_bytes / 1e9:.1f} GB of the GPU do not hold 64 rows; 32 would fit: "
        "set config.batch_size to 32, or keep it and set resources.workers to 2"
    )
    assert "16 would fit: set config.batch_size to 32, or keep it and set resources.workers to 4" in trial.fitting(
        config, 2 * config.memory_bytes, 2
    ), "it took more than the estimate, and two workers have halved the rows"
    assert trial.fitting(config, 1e6).endswith("lower the model's size")
    assert trial.fitting(toy.Config(), 100).endswith("lower the model's size")
