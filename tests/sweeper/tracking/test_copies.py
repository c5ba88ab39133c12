"""TensorBoard and wandb get each ended trial once, whatever happens, and cost no trial."""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

from sweeper.journal.journal import Journal
from sweeper.preflight import Request, admission
from sweeper.tracking import copies
from sweeper.tracking.copies import Copies
from tests.sweeper.samples import T0, end, report, toy_spec, written

BOTH = ["mlflow", "tensorboard"]


def follow(journal: Journal, run_dir: Path, trackers: list[str]) -> list[str]:
    """One session's copies, to their end; what it said."""
    said: list[str] = []
    following = Copies(journal, toy_spec(tracking=trackers), run_dir, said.append)
    following.start()
    following.close(20)
    return said


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Of all event files of a trial: tag -> (step, value, time)."""
    found: dict[str, list[tuple[int, float, float]]] = {}
    for event in events(folder):
        for value in event.summary.value:
            if value.HasField("simple_value"):
                found.setdefault(value.tag, []).append((event.step, value.simple_value, event.wall_time))
    return found


def events(folder: Path) -> Iterator[Any]:
    for path in folder.iterdir():
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            event = Event()
            event.ParseFromString(content[12 : 12 + length])
            content = content[16 + length :]
            yield event


def test_tensorboard_gets_each_point_of_an_ended_trial_once_over_all_sessions(tmp_path: Path) -> None:
    journal = written(tmp_path, toy_spec())
    folder = tmp_path / "tensorboard"
    assert follow(journal, tmp_path, BOTH) == []
    assert {path.name for path in folder.iterdir()} == {"t0000", "t0001", "t0002", "t0003", "t0004"}
    seen = scalars(folder / "t0002")
    assert seen["val/loss"] == [(10, pytest.approx(1.2), T0 + 8), (20, pytest.approx(1.25), T0 + 9)]
    assert "audit/shares/token" in seen
    settings = b"".join(event.SerializeToString() for event in events(folder / "t0002"))
    assert b"_hparams_" in settings
    assert b"shares.token" in settings

    journal.append(end(5, "interrupted", 13))
    assert follow(journal, tmp_path, BOTH) == []
    assert [step for step, *_ in scalars(folder / "t0005")["val/loss"]] == [10]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("events*")}
    journal.append(report(5, 20, 1.3, 101))
    journal.append(end(5, "completed", 102))
    for _ in range(2):
        assert follow(journal, tmp_path, BOTH) == []
        assert [step for step, *_ in scalars(folder / "t0005")["val/loss"]] == [10, 20]
    unchanged = {path for path, time in before.items() if path.exists() and path.stat().st_mtime_ns == time}
    assert {path.parent.name for path in unchanged} == {"t0000", "t0001", "t0002", "t0003", "t0004"}


def test_a_spec_that_names_mlflow_alone_writes_nothing(tmp_path: Path) -> None:
    journal = written(tmp_path, toy_spec())
    assert follow(journal, tmp_path, ["mlflow"]) == []
    assert [path.name for path in tmp_path.iterdir()] == ["journal.jsonl"]


def test_a_tracker_that_fails_costs_a_line_and_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    runs, journal = fake_wandb(monkeypatch), written(tmp_path, toy_spec())
    monkeypatch.setattr(copies.EventFiles, "_content", full)
    (line,) = follow(journal, tmp_path, [*BOTH, "wandb"])
    assert "cannot write tensorboard's files: OSError: [Errno 28] No space left on device" in line
    assert len(runs) == 5


def test_no_link_leads_out_of_the_run_folder(tmp_path: Path) -> None:
    run_dir, away = tmp_path / "run", tmp_path / "away"
    away.mkdir()
    journal = written(run_dir, toy_spec())
    (run_dir / "tensorboard").symlink_to(away)
    (line,) = follow(journal, run_dir, BOTH)
    assert line.startswith("cannot write tensorboard's files: Unsafe")
    assert list(away.iterdir()) == []


def fake_wandb(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A wandb that notes its runs."""
    runs: list[dict[str, Any]] = []

    def init(**given: Any) -> Any:
        run: dict[str, Any] = {**given, "rows": [], "summary": {}}
        runs.append(run)
        return SimpleNamespace(
            log=lambda row, step: run["rows"].append((step, row["val/loss"])),
            summary=run["summary"],
            finish=lambda exit_code: run.update(exit_code=exit_code),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init, Settings=lambda **given: given))
    return runs


def test_wandb_is_offline_unless_the_user_says_otherwise_and_gets_ended_trials_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    runs, journal = fake_wandb(monkeypatch), written(tmp_path, toy_spec())
    journal.append(end(5, "interrupted", 13))
    assert follow(journal, tmp_path, ["mlflow", "wandb"]) == []
    assert {run["mode"] for run in runs} == {"offline"}
    assert len(runs) == 5, "an interrupted trial goes on"
    third = runs[2]
    assert (third["project"], third["group"], third["name"]) == ("toy", tmp_path.name, "70/20/10 x 0.25, seed 0")
    assert third["rows"] == [(10, 1.2), (20, 1.25)]
    assert (third["config"]["shares.token"], third["exit_code"], runs[4]["exit_code"]) == ("0.2", 0, 1)
    journal.append(end(5, "completed", 102))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert follow(journal, tmp_path, ["mlflow", "wandb"]) == []
    assert [run["mode"] for run in runs[5:]] == ["disabled"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["tensorboard"], "needs mlflow among them: .*write \\[mlflow, tensorboard\\]"),
        (["mlflow", "mlflow"], "names one twice"),
        (["mlflow", "neptune"], "'neptune' should be 'mlflow', 'tensorboard' or 'wandb'"),
    ],
)
def test_what_cannot_be_tracked_is_refused_in_a_line(given: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        toy_spec(tracking=given)


def test_the_old_form_and_the_list_are_one_and_the_hash_of_older_specs_stays() -> None:
    plain = toy_spec()
    for form in ({"uri": None}, {"to": ["mlflow"]}, ["mlflow"], "mlflow"):
        assert toy_spec(tracking=form) == plain
    assert plain.spec_hash == "ca937f09a446e21e592cb392da62df1d470682b9578256ec6423c06388bba485"
    assert toy_spec(tracking=BOTH).spec_hash != plain.spec_hash


def test_a_start_is_refused_where_a_tracker_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(toy_spec(tracking=["mlflow", "wandb"]).to_yaml(), "utf-8")
    monkeypatch.setattr(copies, "find_spec", lambda name: None)
    admitted = admission(Request(spec=path, storage=tmp_path), lambda line: None)
    with pytest.raises(ValueError, match="wandb needs the package wandb: pip install wandb, or leave wandb out"):
        admitted.run_folder(None)
