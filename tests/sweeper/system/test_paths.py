"""What a record names, and what lies in it, leads nowhere out of it: no deletion, no copy, no upload, no waiting."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from sweeper import closing, run, status
from sweeper.confirmation import conclusion
from sweeper.journal import checkpoints, run_folders
from sweeper.journal.events import End
from sweeper.journal.journal import Journal, TrialRecord
from sweeper.system import files
from sweeper.tracking.artifacts import Artifacts
from sweeper.trials import reproduce, trial
from tests.sweeper import samples
from tests.sweeper.journal.test_checkpoints import handed_over, stored
from tests.sweeper.trials.test_trial import Driver, driver, task  # noqa: F401  (driver is a fixture)

SECRET = "what is private"


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder beside the run folder, in which nothing may change, and whose file nobody may read."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "id_rsa").write_text(SECRET, "utf-8")
    return folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run whose one trial completed, with its bundle."""
    folder = tmp_path / "runs" / "run"
    bundle = folder / "trials" / "t0001" / "checkpoints" / "step-00000005" / "bundle"
    bundle.mkdir(parents=True)
    (bundle / "config.json").write_text("{}", "utf-8")
    return folder


def best(identity: str = "t0001", checkpoint: str = "trials/t0001/checkpoints/step-00000005") -> TrialRecord:
    ask = replace(samples.ask(samples.toy_spec(), 0, at=0.0, x=0.5), trial=identity)
    return TrialRecord(ask, end=End(trial=identity, state="completed", checkpoint=checkpoint))


def told(call: Callable[[], object]) -> str:
    """The one line in which it is refused, as every command shows it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    assert isinstance(caught.value, files.Unsafe)
    assert files.describe(caught.value) == str(caught.value)
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def intact(victim: Path) -> None:
    assert [path.name for path in victim.iterdir()] == ["id_rsa"]
    assert (victim / "id_rsa").read_text("utf-8") == SECRET


def test_the_best_bundle_is_kept(run_dir: Path) -> None:
    assert closing.keep_bundle(run_dir, best()) == run_dir / "bundles" / "t0001"
    assert (run_dir / "bundles" / "t0001" / "config.json").read_text("utf-8") == "{}"
    assert checkpoints.bundle(run_dir, None) is None
    assert checkpoints.bundle(run_dir, "trials/t0002") is None


@pytest.mark.parametrize("identity", ["../../../victim", "{victim}", "..", "", "x\\y"])
def test_a_trial_id_that_leads_elsewhere_deletes_nothing(run_dir: Path, victim: Path, identity: str) -> None:
    line = told(lambda: closing.keep_bundle(run_dir, best(identity.format(victim=victim))))
    assert f"is not a path inside {run_dir}" in line
    intact(victim)


@pytest.mark.parametrize("identity", ["../../../victim", "{victim}"])
def test_a_trial_id_that_leads_elsewhere_is_not_trained(
    driver: Driver,  # noqa: F811
    tmp_path: Path,
    victim: Path,
    identity: str,
) -> None:
    one = {**task(tmp_path), "id": identity.format(victim=victim), "run_dir": str(tmp_path / "runs" / "run")}
    told(lambda: trial.run(one))
    intact(victim)
    assert not driver.messages


@pytest.mark.parametrize("checkpoint", ["{victim}", "../../victim", "trials/../../../victim", "linked"])
def test_a_checkpoint_that_lies_elsewhere_is_not_read(run_dir: Path, victim: Path, checkpoint: str) -> None:
    (victim / "bundle").mkdir()
    (victim / "bundle" / "documents.json").write_text(SECRET, "utf-8")
    (run_dir / "linked").symlink_to(victim)
    record = best(checkpoint=checkpoint.format(victim=victim))
    assert record.end is not None
    told(lambda: closing.keep_bundle(run_dir, record))
    told(lambda: checkpoints.bundle(run_dir, record.end and record.end.checkpoint))
    journal = cast(Journal, type("Told", (), {"stage": lambda *_: [record]})())
    told(lambda: conclusion._documents(journal, run_dir))
    assert not (run_dir / "bundles").exists()


def test_a_link_in_a_bundle_is_neither_copied_nor_sent(run_dir: Path, victim: Path) -> None:
    link = run_dir / "trials" / "t0001" / "checkpoints" / "step-00000005" / "bundle" / "vocab.txt"
    link.symlink_to(victim / "id_rsa")
    assert told(lambda: closing.keep_bundle(run_dir, best())).startswith(f"{link} is a link")
    assert told(lambda: checkpoints.publish(link.parent, run_dir / "copy")).startswith(f"{link} is a link")
    assert not (run_dir / "copy").exists()
    said: list[str] = []
    sent = Artifacts("toy", said.append).put(cast(Any, None), lambda: pytest.fail("it was sent"), source=link.parent)
    assert not sent
    assert said == [f"{link} is a link: it is not read, copied or sent; put the file itself there; MLflow lacks it"]


def test_the_folder_of_bundles_is_no_link(run_dir: Path, victim: Path) -> None:
    (victim / "t0001").mkdir()
    (run_dir / "bundles").symlink_to(victim)
    assert told(lambda: closing.keep_bundle(run_dir, best())).startswith(f"{run_dir / 'bundles'} is a link")
    assert (victim / "t0001").is_dir()


@pytest.mark.parametrize("where", ["trials/t0009", ".tune", "optuna.log", "trials/t0001/checkpoints/step-00000005/x"])
def test_a_run_with_links_is_not_gone_on_with(
    tmp_path: Path, victim: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_folders.new(tmp_path / "runs", samples.toy_spec())
    (made / where).parent.mkdir(parents=True, exist_ok=True)
    (made / where).symlink_to(victim)
    assert run.main(["--resume", str(made)]) == run.REFUSED
    said = capsys.readouterr().err
    assert said.startswith(f"error: {made / where} is a link: it is not read, copied or sent")
    assert said.count("\n") == 1
    intact(victim)


@pytest.mark.parametrize("name", [run_folders.SPEC, run_folders.JOURNAL, run_folders.LOCK])
def test_what_is_read_of_a_record_is_no_link_and_no_pipe(
    tmp_path: Path, victim: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run_folders.new(tmp_path / "runs", samples.toy_spec())
    kept = tmp_path / "spec.yaml"
    shutil.copy(made / run_folders.SPEC, kept)
    (made / name).unlink(missing_ok=True)
    (made / name).symlink_to(kept if name == run_folders.SPEC else victim / "id_rsa")
    assert status.main([str(made)]) == status.REFUSED
    assert capsys.readouterr().err.startswith(f"error: {made / name} is a link")
    told(lambda: reproduce.chosen(made, None))
    (made / name).unlink()
    os.mkfifo(made / name)
    assert status.main([str(made)]) == status.REFUSED  # and does not wait for a writer
    said = capsys.readouterr().err
    assert "is neither a file nor a folder" in said or "is not a run folder" in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("name", ["../outside", "{tmp}/outside", "bundle/../../outside"])
def test_a_manifest_names_files_of_its_own(tmp_path: Path, name: str) -> None:
    """What lies elsewhere is not even opened: whether it is there would tell, and a pipe would hold us up."""
    os.mkfifo(tmp_path / "outside")
    newest = stored(tmp_path, 5, 10) / "step-00000010"
    shutil.copytree(newest, tmp_path / "checkpoints" / "outside" / "x")
    manifest = json.loads((newest / checkpoints.MANIFEST).read_text("utf-8"))
    manifest["sha256"][name.format(tmp=tmp_path)] = "0" * 64
    (newest / checkpoints.MANIFEST).write_text(json.dumps(manifest), "utf-8")
    path, torn = checkpoints.newest(tmp_path / "checkpoints")
    assert path == tmp_path / "checkpoints" / "step-00000005"
    assert "is not a path inside" in torn[0]


@pytest.mark.parametrize("name", ["model.bin", checkpoints.MANIFEST, checkpoints.HISTORY, "new"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_checkpoint_with_a_pipe_or_a_link_is_passed_over(tmp_path: Path, victim: Path, name: str, kind: str) -> None:
    path = stored(tmp_path, 5, 10) / "step-00000010" / name
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim / "id_rsa")
    found, torn = checkpoints.newest(tmp_path / "checkpoints")
    assert found == tmp_path / "checkpoints" / "step-00000005"
    assert f"{path} is " in torn[0]
    if name in (checkpoints.MANIFEST, checkpoints.HISTORY):
        told(lambda: (checkpoints.manifest_hash if name == checkpoints.MANIFEST else checkpoints.history)(path.parent))


def test_checkpoints_are_not_stored_through_links(tmp_path: Path, victim: Path) -> None:
    source = handed_over(tmp_path, 5)
    (source / "more").symlink_to(victim / "id_rsa")
    assert told(lambda: checkpoints.store(tmp_path / "checkpoints", source, 5)).startswith(
        f"{source / 'more'} is a link"
    )
    (source / "more").unlink()
    (tmp_path / "checkpoints").symlink_to(victim)
    assert told(lambda: checkpoints.store(tmp_path / "checkpoints", source, 5)).startswith(f"{tmp_path}/checkpoints is")
    assert checkpoints.newest(tmp_path / "checkpoints") == (None, [])
    intact(victim)


def test_a_run_is_as_large_as_its_own_files(run_dir: Path, victim: Path) -> None:
    before = run_folders.size(run_dir)
    (run_dir / "linked").symlink_to(victim)
    (run_dir / "file").symlink_to(victim / "id_rsa")
    assert run_folders.size(run_dir) == (before[0], before[1] + 2)
    assert run_folders.size(None) == (0, 0)


def test_a_file_is_read_as_a_file_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a", "utf-8")
    with files.reading(tmp_path / "a") as file:
        assert file.read() == b"a"
    (tmp_path / "c").mkdir()
    for name, number in (("b", errno.ENOENT), ("c", errno.EISDIR)):
        with pytest.raises(OSError, match=name) as caught:
            files.reading(tmp_path / name)
        assert caught.value.errno == number


def test_a_folder_where_a_file_is_to_be_is_named(tmp_path: Path) -> None:
    """And not the partial file that was to take its name."""
    (tmp_path / "report.md").mkdir()
    with pytest.raises(OSError, match=r"report\.md") as caught:
        files.put(tmp_path / "report.md", "text")
    assert files.describe(caught.value) == f"{tmp_path / 'report.md'}: Is a directory"
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]
