"""Checkpoints are whole or passed over, and only the newest two stay."""

import json
from pathlib import Path

import pytest

from sweeper.journal import checkpoints


def handed_over(folder: Path, step: int, names: tuple[str, ...] = ("model.bin", "bundle/config.json")) -> Path:
    source = folder / f"handed-over-{step}"
    for name in names:
        path = source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} at {step}", "utf-8")
    rows = [{"step": number, "val/loss": 1 / number} for number in range(1, step + 1)]
    (source / checkpoints.HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return source


def stored(tmp_path: Path, *steps: int) -> Path:
    folder = tmp_path / "checkpoints"
    for step in steps:
        checkpoints.store(folder, handed_over(tmp_path, step), step)
    return folder


def test_a_checkpoint_is_moved_and_the_newest_two_stay(tmp_path: Path):
    folder = stored(tmp_path, 5, 10, 100)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000010", "step-00000100"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"], "the receiver owns what it was handed"
    path, torn = checkpoints.newest(folder)
    assert (path, torn) == (folder / "step-00000100", [])
    assert path is not None
    assert path == checkpoints.at(folder, 100)
    assert (path / "bundle/config.json").read_text("utf-8") == "bundle/config.json at 100"
    assert [row["step"] for row in checkpoints.history(path)] == list(range(1, 101))


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: (path / "model.bin").write_text("other", "utf-8"), "model.bin does not match its checksum"),
        (lambda path: (path / "model.bin").unlink(), "model.bin is missing"),
        (lambda path: (path / "bundle/config.json").unlink(), "bundle/config.json is missing"),
        (lambda path: (path / checkpoints.MANIFEST).unlink(), "checkpoint.json is missing"),
        (lambda path: (path / checkpoints.MANIFEST).write_text("{", "utf-8"), "it cannot be read"),
        (lambda path: (path / checkpoints.MANIFEST).write_text("[]", "utf-8"), "it cannot be read"),
    ],
)
def test_a_torn_one_is_passed_over_and_named(tmp_path: Path, damage, told: str):
    folder = stored(tmp_path, 5, 10)
    damage(folder / "step-00000010")
    path, torn = checkpoints.newest(folder)
    assert path == folder / "step-00000005"
    assert len(torn) == 1
    assert f"{folder / 'step-00000010'} is skipped: {told}" in torn[0]


def test_what_was_being_written_is_no_checkpoint(tmp_path: Path):
    folder = stored(tmp_path, 5)
    (folder / ".step-00000010").mkdir()
    assert checkpoints.newest(folder) == (folder / "step-00000005", [])
    checkpoints.store(folder, handed_over(tmp_path, 10), 10)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000005", "step-00000010"]


def test_a_torn_one_is_replaced_when_its_step_comes_again(tmp_path: Path):
    folder = stored(tmp_path, 5, 10)
    (folder / "step-00000010/model.bin").write_text("other", "utf-8")
    checkpoints.store(folder, handed_over(tmp_path, 10), 10)
    assert checkpoints.newest(folder) == (folder / "step-00000010", [])


def test_after_a_start_from_the_beginning_the_torn_ones_do_not_push_out_the_new(tmp_path: Path):
    folder = stored(tmp_path, 5, 10)
    for path in folder.iterdir():
        (path / checkpoints.MANIFEST).unlink()
    checkpoints.store(folder, handed_over(tmp_path, 3), 3)
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]


def test_without_checkpoints_there_is_none(tmp_path: Path):
    assert checkpoints.newest(tmp_path / "nothing") == (None, [])
    assert checkpoints.at(tmp_path, 5) is None


def test_publishing_replaces_the_whole_folder(tmp_path: Path):
    target = tmp_path / "bundles" / "t0001"
    target.mkdir(parents=True)
    (target / "old").touch()
    checkpoints.publish(handed_over(tmp_path, 5), target)
    assert sorted(path.name for path in target.iterdir()) == ["bundle", "history.jsonl", "model.bin"]
    assert [path.name for path in target.parent.iterdir()] == ["t0001"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda path: (path / "extra.safetensors").write_text("x", "utf-8"),
            "extra.safetensors is not in its manifest",
        ),
        (lambda path: path.rename(path.with_name("step-00000011")), "it is from another step"),
        (
            lambda path: path.with_name("step-00000005").rename(path.with_name("step-00000012")),
            "it is from another step",
        ),
    ],
)
def test_one_that_was_tampered_with_is_passed_over(tmp_path: Path, damage, told: str):
    folder = stored(tmp_path, 5, 10)
    damage(folder / "step-00000010")
    assert told in checkpoints.newest(folder)[1][0]


def test_another_trials_checkpoint_and_another_history_are_passed_over(tmp_path: Path):
    folder = stored(tmp_path, 5, 10)
    whole = checkpoints.history(folder / "step-00000010")
    sealed = checkpoints.manifest_hash(folder / "step-00000010")
    known = [(row, sealed if row["step"] == 10 else None) for row in whole]
    assert checkpoints.newest(folder, expected=known)[0] == folder / "step-00000010"
    other = [({**row, "val/loss": 0.0} if row["step"] == 7 else row, None) for row in whole]
    path, torn = checkpoints.newest(folder, expected=other)
    assert path == folder / "step-00000005"
    assert "its row of step 7 differs from the journal's" in torn[0]
    path, torn = checkpoints.newest(folder, expected=[*known[:-1], (whole[-1], "another seal")])
    assert path == folder / "step-00000005"
    assert "it is not the one that the journal names" in torn[0]
    assert checkpoints.newest(folder, checkpoints.owner("m:f", "t1", 0, {}))[0] is None
