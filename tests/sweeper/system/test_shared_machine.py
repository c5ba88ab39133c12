"""Other users of the machine: what they see, what they can hold up, what killed processes leave, and no room."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import Timeout

from sweeper import status
from sweeper.journal import checkpoints, run_folders
from sweeper.plan import capacity
from sweeper.report import tables
from sweeper.system import faults, files
from sweeper.trials import trial
from tests.sweeper import samples
from tests.sweeper.journal.test_checkpoints import handed_over
from tests.sweeper.trials.test_trial import Driver, driver, task  # noqa: F401  (driver is a fixture)
from trainables import mlm
from trainables.data import batches
from trainables.settings.overrides import override

ROOT = Path(__file__).parents[3]
NOBODY = 65534


@pytest.fixture(autouse=True)
def _umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("SWEEPER_SHARED", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(folder: Path) -> set[tuple[str, str]]:
    found = [(path, path.lstat().st_mode) for path in (folder, *folder.rglob("*"))]
    return {("folder" if stat.S_ISDIR(mode) else "file", oct(stat.S_IMODE(mode))) for _, mode in found}


def aged(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (1, 1), follow_symlinks=False)


# Modes.


def test_a_run_is_its_users_alone(tmp_path: Path) -> None:
    files.private()
    folder = run_folders.new(tmp_path / "runs", samples.toy_spec())
    checkpoints.store(folder / "trials" / "t0001" / "checkpoints", handed_over(tmp_path, 5), 5)
    with files.locked(folder / run_folders.LOCK, 0.5):
        assert modes(tmp_path / "runs") == {("folder", "0o700"), ("file", "0o600")}


@pytest.mark.parametrize("by", ["spec", "environment"])
def test_a_groups_run_is_the_groups(tmp_path: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if by == "environment":
        monkeypatch.setenv("SWEEPER_SHARED", "1")
    files.private(by == "spec")
    spec = samples.toy_spec(shared=True)
    folder = run_folders.new(tmp_path, spec)
    checkpoints.store(folder / "trials" / "t0001" / "checkpoints", handed_over(tmp_path, 5), 5)
    with files.locked(folder / run_folders.LOCK, 0.5):
        assert modes(folder) == {("folder", "0o2770"), ("file", "0o660")}
        assert status.driven(folder)
    assert spec.spec_hash == samples.toy_spec().spec_hash
    assert "shared: true" in spec.to_yaml()
    assert "shared" not in samples.toy_spec().to_yaml()


@pytest.mark.parametrize(("shared", "mode"), [(False, 0o600), (True, 0o660)])
def test_a_trial_makes_what_the_sweep_would(
    driver: Driver,  # noqa: F811
    tmp_path: Path,
    shared: bool,
    mode: int,
) -> None:
    """On a node of a cluster, too, whose Ray somebody else started."""
    trial.run({**task(tmp_path), "shared": shared})
    assert driver.messages
    found = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert found == {mode}


def test_what_is_there_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o755)
    files.private()
    run_folders.new(tmp_path / "runs", samples.toy_spec())
    assert stat.S_IMODE((tmp_path / "runs").stat().st_mode) == 0o755


# Locks.


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    """As earlier versions made it: everybody can open it."""
    path = tmp_path / run_folders.LOCK
    path.touch(0o644)
    return path


@contextmanager
def holding(path: Path, kind: int, user: int | None) -> Iterator[None]:
    """Another process, and perhaps another user, that can read the lock alone, has locked it."""
    become = f"os.setgid({user}); os.setuid({user}); " if user else ""
    script = f"import fcntl, os, time; {become}fcntl.flock(0, {kind}); print('held', flush=True); time.sleep(60)"
    with path.open("rb") as file:
        process = subprocess.Popen([sys.executable, "-S", "-c", script], stdin=file, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield
    finally:
        process.kill()
        process.communicate()


@pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")
@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX])
def test_a_lock_that_another_user_can_only_read_is_not_held_against_us(lock: Path, kind: int) -> None:
    with holding(lock, kind, NOBODY):
        assert status.driven(lock.parent) == (kind == fcntl.LOCK_EX)
        with files.locked(lock, 0.2):
            assert status.driven(lock.parent)
            with pytest.raises(Timeout), files.locked(lock, 0.2):
                pass
        assert not status.driven(lock.parent)
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600
    assert [path.name for path in lock.parent.iterdir()] == [lock.name]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")
def test_a_groups_lock_is_a_colleagues_to_hold(lock: Path) -> None:
    lock.chmod(0o660)
    with holding(lock, fcntl.LOCK_EX, NOBODY):
        with pytest.raises(Timeout), files.locked(lock, 0.2):
            pass
        assert files.held_by(lock).endswith(" of nobody")


def test_our_own_lock_is_held_and_closed_to_others(lock: Path) -> None:
    with holding(lock, fcntl.LOCK_EX, None), pytest.raises(Timeout), files.locked(lock, 0.2):
        pass
    with files.locked(lock, 0.2):
        assert stat.S_IMODE(lock.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["folder", "link", "pipe"])
def test_what_is_no_lock_file_is_told_in_a_line(tmp_path: Path, kind: str) -> None:
    path, target = tmp_path / "run" / run_folders.LOCK, tmp_path / "target"
    path.parent.mkdir()
    target.write_text("kept", "utf-8")
    {"folder": path.mkdir, "link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path)}[kind]()
    with pytest.raises(OSError, match=r"lock") as caught, files.locked(path, 0.2):
        pass
    assert str(path) in (files.describe(caught.value) or "")
    assert target.read_text("utf-8") == "kept"


def test_waiting_for_the_cache_says_for_whom_and_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(f"word {number} of this text" for number in range(400)), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "_SOON_S", 0.1)
    monkeypatch.setattr(batches, "LOCK_S", 0.3)
    arguments = ["--set", "data.corpus=files:a.txt", "--set", "data.tokenizer=train:100"]
    folder = batches._found(override(arguments[1::2], mlm.Config).data)[0]
    (tmp_path / "cache").mkdir()
    lock = tmp_path / "cache" / f".{folder.name}.lock"
    lock.touch()
    with holding(lock, fcntl.LOCK_EX, None):
        assert mlm.main([*arguments, "--output", "out"]) == 2
        waiting, ended = capsys.readouterr().err.splitlines()
    assert re.fullmatch(rf"waiting for {re.escape(str(lock))}, held by process \d+ of \w+", waiting)
    assert re.match(rf"error: cache {tmp_path}/cache has been locked for 0 min by process \d+ of \w+: end that", ended)


def test_the_lowest_filelock_refuses_links() -> None:
    """3.20.1 does (CVE-2025-68146), and 3.20.3 for the lock that stands in where a file system has none, too."""
    found = re.search(r'"filelock>=([\d.]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))
    assert found is not None
    assert tuple(map(int, found[1].split("."))) >= (3, 20, 3)


# Temporary folders and leftovers.


def test_leftovers_go_where_folder_and_lock_are_ours_and_no_links(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("kept", "utf-8")
    for name in ("sweeper-dead", "sweeper-young", "sweeper-planted", "other-dead", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("sweeper-dead", "sweeper-young", "other-dead", "elsewhere"):
        (tmp_path / name / files.OWNER).touch()
    (tmp_path / "sweeper-planted" / files.OWNER).symlink_to(target)
    (tmp_path / "sweeper-linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sweeper-dead" / "inside").symlink_to(tmp_path / "elsewhere")
    aged(*(path for path in tmp_path.rglob(files.OWNER) if path.parent.name != "sweeper-young"), target)
    with files.owned(tmp_path, "sweeper-") as living:
        aged(living / files.OWNER)
        assert [path.name for path in files.leftovers(tmp_path, "sweeper-")] == ["sweeper-dead"]
        assert living.is_dir()
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"sweeper-young", "sweeper-planted", "sweeper-linked", "other-dead", "elsewhere", "target"}
    assert target.read_text("utf-8") == "kept"
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == [files.OWNER]


@pytest.mark.skipif(os.geteuid() != 0, reason="another user takes root")
def test_leftovers_of_other_users_stay(tmp_path: Path) -> None:
    for name, path in (("folder", "."), ("file", files.OWNER)):
        (tmp_path / f"sweeper-{name}").mkdir()
        (tmp_path / f"sweeper-{name}" / files.OWNER).touch()
        os.chown(tmp_path / f"sweeper-{name}" / path, NOBODY, NOBODY)
        aged(tmp_path / f"sweeper-{name}" / files.OWNER)
    assert not list(files.leftovers(tmp_path, "sweeper-"))
    assert len(list(tmp_path.iterdir())) == 2


KILLED = """
import os, signal, tempfile
from sweeper.system import files
with files.temporary():
    tempfile.mkdtemp(prefix="series-")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", KILLED], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    [left] = tmp_path.iterdir()
    assert {path.name.partition("-")[0] for path in left.iterdir()} == {files.OWNER, "series"}
    assert stat.S_IMODE(left.stat().st_mode) == 0o700
    aged(left / files.OWNER)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with files.temporary():
        [ours] = tmp_path.iterdir()
        assert ours != left
        assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(ours)  # and of those that this process starts
        with files.temporary():
            assert tempfile.gettempdir() == str(ours)
    assert tempfile.gettempdir() == os.environ["TMPDIR"] == str(tmp_path)
    assert not list(tmp_path.iterdir())


def test_partial_files_of_killed_processes_go_once_they_are_old(tmp_path: Path) -> None:
    old, young, other = (tmp_path / f".report.html.{char * 32}" for char in "abc")
    for path in (old, young):
        path.touch()
    other.symlink_to(tmp_path / "target")
    (tmp_path / "target").touch()
    (tmp_path / ".report.html.notes").touch()
    aged(old, other, tmp_path / "target", tmp_path / ".report.html.notes")
    files.put(tmp_path / "report.html", "new")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, "target", ".report.html.notes", "report.html"}


def test_a_database_that_was_never_finished_goes_at_the_next_start(tmp_path: Path) -> None:
    for name in ("old", "young"):
        (tmp_path / f".mlflow.db-{name}").mkdir()
        (tmp_path / f".mlflow.db-{name}" / "mlflow.db").touch()
    aged(tmp_path / ".mlflow.db-old")
    made = run_folders.new(tmp_path, samples.toy_spec())
    assert {path.name for path in tmp_path.iterdir()} == {".mlflow.db-young", made.name}
    aged(tmp_path / ".mlflow.db-young")
    assert run_folders.find_run(tmp_path, samples.toy_spec(), run_folders.NEWEST) == made
    assert {path.name for path in tmp_path.iterdir()} == {made.name}


# The clock.


def test_a_clock_that_is_set_back_costs_no_hours(tmp_path: Path) -> None:
    spec = samples.toy_spec()
    journal = samples.written(tmp_path / "journal", spec)
    cost = tables.cost(spec, journal)
    half = len(journal.events) // 2
    for event in journal.events[half:]:
        object.__setattr__(event, "time", event.time - 7200)
    for key in ("wall clock", "trials ran"):
        before, now = (float(facts[key].split()[0]) for facts in (cost, tables.cost(spec, journal)))
        assert 0 <= now <= before


def test_the_last_event_is_not_in_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = samples.toy_spec()
    folder = run_folders.new(tmp_path, spec)
    samples.written(folder / "x", spec).close()
    (folder / "x" / "journal.jsonl").rename(folder / "journal.jsonl")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert status.status(folder)["silent_s"] == 0


# No room.


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of 32 inodes, of which none is left."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,nr_inodes=32", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting takes root")
    try:
        (folder / "trials" / "t0001").mkdir(parents=True)
        with contextlib.suppress(OSError):
            for number in range(40):
                (folder / str(number)).touch()
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def test_no_inodes_is_no_room_and_no_lack_of_memory(small: Path) -> None:
    assert capacity.free(small).files == 0
    assert capacity.free(small).disk > checkpoints.LITTLE
    assert checkpoints.no_room(small)
    for number in range(10):
        (small / str(number)).unlink()
    assert not checkpoints.no_room(small)


def test_a_trial_without_inodes_fails_of_that_and_goes_on_later(
    driver: Driver,  # noqa: F811
    tmp_path: Path,
    small: Path,
) -> None:
    one = {**task(tmp_path), "run_dir": str(small)}
    with pytest.raises(OSError, match="No space") as caught:
        trial.run(one)
    assert faults.kind(caught.value) == "no room"
    for number in range(25):
        (small / str(number)).unlink()
    trial.run(one)
    assert driver.steps[-1][-1] == one["config"]["steps"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_is_found_by_trying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    assert not checkpoints.no_room(tmp_path)

    def refused(_descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refused)
    assert checkpoints.no_room(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_error_that_cannot_be_written_down_is_still_the_trials(
    driver: Driver,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = Path.open

    def full(path: Path, *arguments: object, **options: object) -> object:
        if path.name == trial.ERROR:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return opened(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RuntimeError, match="the toy fails on purpose"):
        trial.run(task(tmp_path, fail="raise"))


def test_a_disk_without_inodes_is_refused_with_the_number(tmp_path: Path) -> None:
    spec = samples.toy_spec()
    there = capacity.Free(memory=1e12, disk=1e12, shared=1e12)
    needed = capacity.SWEEP_FILES + capacity.TRIAL_FILES * (spec.total_trials + spec.confirm_trials)
    [line] = capacity.shortages(spec, 1, replace(there, files=7))
    assert line.startswith(f"inodes: the sweep makes about {needed:,} files and folders, but only 7 fit on the disk")
    assert not capacity.shortages(spec, 1, replace(there, files=7), written=(0, needed - 7))
    assert not capacity.shortages(spec, 1, there)
    assert capacity.free(tmp_path).files > needed
