"""A run in an object store: what lies there, what is fetched from there, and a sweep that goes on from there alone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeper import run
from sweeper.journal import checkpoints, object_store, run_folders
from sweeper.journal.events import Ask, Report
from sweeper.journal.journal import Journal
from sweeper.journal.object_store import Remote
from sweeper.spec import load
from sweeper.system import files
from sweeper.trials import trial
from tests.sweeper.stores import s3
from tests.sweeper.test_run import ended, results, written
from tests.sweeper.trials.test_trial import Driver, driver, task  # noqa: F401  (driver is a fixture)

STORE = "s3://bucket/runs"


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    with s3() as environment:
        yield environment


@pytest.fixture
def place(server: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """An empty folder in the store; mirrors lie in this test's own."""
    for name, value in {**server, "SWEEPER_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setenv(name, value)
    return Remote(f"{STORE}/{tmp_path.name}")


def test_a_mirror_lies_in_the_cache(place: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = object_store.mirror(place.address)
    assert folder.parent == tmp_path / "cache" / "runs"
    (tmp_path / "file").write_text("", "utf-8")
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write the cache .*/file/runs/.*: set SWEEPER_CACHE"):
        object_store.mirror(place.address)


def test_files_and_folders_come_back_as_they_went(place: Remote, tmp_path: Path):
    folder = tmp_path / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / "a").write_bytes(b"one")
    (folder / "below" / "b").write_bytes(os.urandom(3 << 20))
    (place / "x").push(folder)
    (place / "x" / "a").pull(tmp_path / "alone")
    (place / "x").pull(tmp_path / "back")
    assert (tmp_path / "alone").read_bytes() == b"one"
    assert (tmp_path / "back" / "below" / "b").read_bytes() == (folder / "below" / "b").read_bytes()
    assert place.names() == ["x"]
    assert (place / "x").names() == ["a", "below"]
    (place / "x").delete()
    (place / "never").delete()
    (place / "never").pull(tmp_path / "never")
    assert not place.names()
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    ("address", "told"),
    [("s3://nobody-has-this/x", "--storage s3://nobody-has-this/x: "), ("what://x", "is not an address of a folder")],
)
def test_a_store_that_is_not_to_be_had_is_one_line(
    place: Remote, capsys: pytest.CaptureFixture[str], tmp_path: Path, address: str, told: str
):
    assert run.main([written(tmp_path), "--storage", address]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_a_trial_goes_on_from_the_store_on_any_node(
    place: Remote,
    driver: Driver,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    """Nothing of it stays on the node. Its error is there for the driver, and gone when it is tried again."""
    one = {**task(tmp_path), "remote": place.address, "scratch": (place / ".tune").address}
    driver.dies_at = one["config"]["steps"] // 2
    with pytest.raises(KeyboardInterrupt):
        trial.run(one)
    kept = (place / "trials" / "t0001" / "checkpoints").names()
    assert len(kept) == min(checkpoints.KEEP, len(kept))
    assert kept
    assert not list((tmp_path / "temp").iterdir())
    assert not (tmp_path / "run").exists()
    last = max(step for steps in driver.steps for step in steps)
    driver.dies_at, driver.messages = float("inf"), []
    trial.run(one)
    assert driver.steps[0][-1] > last  # the checkpoint was there when the row was lost
    assert driver.steps[-1][-1] == one["config"]["steps"]
    name = object_store.end(place / "trials" / "t0001", one["config"]["steps"], tmp_path / "got")
    assert name is not None
    assert (tmp_path / "got" / name / "bundle").is_dir()

    failing = {**one, "id": "t0002", "config": {**one["config"], "fail": "nan"}}
    with pytest.raises(RuntimeError, match="diverged"):
        trial.run(failing)
    assert b"diverged" in (place / "trials" / "t0002" / "error.txt").read()


def test_the_longer_journal_wins_where_one_goes_on_from_the_other(place: Remote, tmp_path: Path):
    folder = object_store.mirror(place.address) / "run"
    folder.mkdir()
    for name, text in (("spec.yaml", b"name: a\n"), ("journal.jsonl", b"1\n2\n")):
        (tmp_path / name).write_bytes(text)
        (place / "run" / name).push(tmp_path / name)
    for here, expected in (
        (b"", b"1\n2\n"),
        (b"1\n2\n3\n", b"1\n2\n3\n"),
        (b"1\n", b"1\n2\n"),
        (b"1\n2", b"1\n2\n"),
        (b"1\n7", b"1\n2\n"),
    ):
        (folder / "journal.jsonl").write_bytes(here)
        object_store.fetch(folder)
        assert (folder / "journal.jsonl").read_bytes() == expected
    assert (folder / "spec.yaml").read_text("utf-8") == "name: a\n"
    (folder / "journal.jsonl").write_bytes(b"1\n9\n9\n")
    with pytest.raises(ValueError, match=r"have both gone on: move away the one"):
        object_store.fetch(folder)
    assert (folder / "journal.jsonl").read_bytes() == b"1\n9\n9\n"


def test_the_journal_is_sent_when_something_is_decided(place: Remote, tmp_path: Path):
    folder = object_store.mirror(place.address) / "run"
    folder.mkdir()
    journal = Journal(folder / "journal.jsonl")
    there = place / "run" / "journal.jsonl"
    (folder / "report.md").write_text("told", "utf-8")
    with object_store.mirrored(folder, journal, pytest.fail):
        journal.append(
            Ask(
                trial="t0001",
                number=1,
                stage="search",
                arm=None,
                seed=1,
                config={},
                config_hash="",
                params={},
                raw={},
            )
        )
        for _ in range(100):
            if there.exists():
                break
            time.sleep(0.1)
        assert there.read() == journal.path.read_bytes()
        journal.append(Report(trial="t0001", step=1, metrics={"val/loss": 1.0}))
    assert there.read() == journal.path.read_bytes()
    assert (place / "run" / "report.md").read() == b"told"
    journal.close()


def test_two_runs_of_a_spec_have_two_folders_there(place: Remote, tmp_path: Path):
    spec = load.load(written(tmp_path))
    first = run_folders.new(run_folders.here(place.address, None)[0] or tmp_path, spec)
    shutil.rmtree(first)  # as on another machine
    second = run_folders.new(first.parent, spec)
    assert second.name == f"{first.name}-2"
    assert run_folders.resume(second).endswith(f"--resume {place.address}/{second.name}")
    assert run_folders.find_run(first.parent, spec, run_folders.NEWEST) == second


@pytest.mark.parametrize("key", ["../../../evil", "step-00000005/../../evil", "/evil", "a\\..\\evil"])
def test_keys_lead_nowhere_else(place: Remote, tmp_path: Path, key: str) -> None:
    """As somebody may put them there, below a trial's checkpoints."""
    import boto3

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    prefix = place.address.removeprefix("s3://bucket/")
    client.put_object(Bucket="bucket", Key=f"{prefix}/checkpoints/{key}", Body=b"evil")
    target = tmp_path / "a" / "b" / "c"
    with pytest.raises(OSError, match="is not a path inside") as caught:
        (place / "checkpoints").pull(target)
    assert isinstance(caught.value, files.Unsafe)
    assert not [path for path in tmp_path.rglob("*evil*") if path.is_file()]


@pytest.mark.parametrize("name", ["..", "../x", "/x", ""])
def test_names_of_a_record_lead_nowhere_else_there(place: Remote, name: str) -> None:
    with pytest.raises(ValueError, match="is not a path inside"):
        (place / "trials").__truediv__(name)


def test_links_are_not_sent(place: Remote, tmp_path: Path) -> None:
    (tmp_path / "private").write_text("private", "utf-8")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").symlink_to(tmp_path / "private")
    for path in (tmp_path / "folder", tmp_path / "folder" / "a"):
        with pytest.raises(OSError, match="a is a link"):
            (place / "x").push(path)
    assert not place.names()


def test_an_address_with_options_is_gone_on_with_as_printed(
    place: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    options = f"?scheme=http&endpoint_override={endpoint}"
    storage, _ = run_folders.here(place.address + options, None)
    assert storage is not None
    made = run_folders.new(storage, load.load(written(tmp_path)))
    assert (storage / object_store.ADDRESS).stat().st_mode & 0o022 == 0
    printed = shlex.split(run_folders.resume(made))
    assert printed[-1] == f"{place.address}/{made.name}{options}"
    shutil.rmtree(tmp_path / "cache")  # as on another machine
    assert run_folders.here(None, printed[-1]) == (storage, made)
    assert (made / run_folders.SPEC).is_file()


@pytest.mark.parametrize(
    "secret",
    [
        "s3://AKIAKEY:hidden/slash@bucket/runs",
        "s3://AKIAKEY:hidden@bucket/runs",
        "s3://AKIAKEY:what?hidden@bucket/runs",
        "s3://hidden@bucket/runs?region=x",
        "s3://bucket/runs?region=x&secret_key=hidden",
        "s3://bucket/runs?access_key=hidden",
        "s3://bucket/runs?session_token=hidden",
        "s3://bucket/runs?%61ccess_key=hidden",
        "gs://bucket/runs?access_token=hidden",
    ],
)
def test_a_secret_in_an_address_is_refused_and_told_nowhere(
    place: Remote, tmp_path: Path, secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = written(tmp_path)
    for arguments in ([spec, "--storage", secret], [spec, "--resume", f"{secret}/run"]):
        assert run.main(arguments) == 2
        said = capsys.readouterr().err
        assert "set it in the environment of every machine, as AWS_ACCESS_KEY_ID" in said
        assert "hidden" not in said
        assert "AKIAKEY" not in said
        assert said.count("\n") == 1
    assert not list((tmp_path / "cache").rglob(object_store.ADDRESS))


def test_an_address_without_a_folder_is_no_run(place: Remote, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not an address of a run"):
        run_folders.here(None, "s3://bucket")
    assert object_store.Address("gs://anonymous@bucket/runs/").split() == ("gs://anonymous@bucket", "runs")
    assert str(object_store.Address("s3://bucket/runs/?region=x") / "a") == "s3://bucket/runs/a?region=x"


def test_an_address_that_a_stranger_put_beside_a_run_is_not_asked(tmp_path: Path) -> None:
    made = run_folders.new(tmp_path / "runs", load.load(written(tmp_path)))
    (made.parent / object_store.ADDRESS).write_text("s3://bucket/runs?endpoint_override=evil.example", "utf-8")
    with pytest.raises(ValueError, match="names an object store, but is not in the cache: move it away"):
        run_folders.resume(made)


@pytest.mark.slow
def test_a_sweep_killed_and_resumed_from_the_store_alone(place: Remote, tmp_path: Path):
    """The driver's machine is gone with all that it had; the secrets of the store are in nothing that was written."""
    import subprocess

    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "MLFLOW_TRACKING_URI": ""}
    spec = written(tmp_path)

    def start(*arguments: str, **changes: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "sweeper.run", spec, *arguments, "--json"]
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env={**environment, **changes}, **pipes)

    assert ended(start("--storage", str(tmp_path / "whole")))[0] == 0
    whole = next((tmp_path / "whole").glob("toy-*/journal.jsonl"))
    process = start("--storage", place.address)
    for _ in range(1000):
        journals = [place / name / "journal.jsonl" for name in place.names()]
        if any(one.exists() and b'"trial": "t0003"' in one.read() for one in journals):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    status, summary, told = ended(start("--storage", place.address, "--resume", SWEEPER_CACHE=str(tmp_path / "other")))
    assert status == 0, told
    assert summary["state"] == "completed"
    back = tmp_path / "back"
    (place / place.names()[0]).pull(back)
    assert results(back / "journal.jsonl") == results(whole)
    assert {"spec.yaml", "journal.jsonl", "report.md", "report.html", "results.csv", "bundles"} <= {
        path.name for path in back.iterdir()
    }
    assert not (back / ".tune").exists()
    for path in (*back.rglob("*"), *(tmp_path / "other").rglob("*")):
        if path.is_file():
            assert b"planted-secret" not in path.read_bytes(), path
    assert "planted-secret" not in told + json.dumps(summary)
