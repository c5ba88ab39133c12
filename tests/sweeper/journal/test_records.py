"""A run folder of somebody else is data: nothing that it names or brings along is imported to read or to plan it.

The numbers are those of the attacks in the issue that asked for this.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper import preflight, run, status
from sweeper.confirmation import design
from sweeper.journal import learned, recorded, run_folders
from sweeper.journal.events import Ask, End, Report, Session
from sweeper.journal.journal import Journal
from sweeper.report import sections, tables, write
from sweeper.spec import load
from sweeper.spec.errors import SpecError
from sweeper.spec.spec import SweepSpec
from sweeper.trainable import Trainable, shipped
from tests.sweeper.report.test_sections import outcome
from tests.sweeper.samples import T0, session, toy_spec

ROOT = Path(__file__).parents[3]
SHIPPED = sorted((ROOT / "search_spaces").glob("*.yaml"))
MINE = """\
from trainables import toy
from trainables.toy import train
from sweeper.trainable import Budget

class Config(toy.Config):
    @property
    def budget(self):
        return Budget(100 if self.y < 0.9 else 200)

    @property
    def tokens_per_step(self):
        return 7

def stuck(metrics):
    return "stayed put" if metrics["val/loss"] > 2 else None

def unlearned(metrics):
    return f"All was lost at {metrics['val/loss']:.3f}" if metrics["val/loss"] > 1 else None
"""
TREE: dict[str, Any] = {
    "name": "mine",
    "trainable": "mine:train",
    "arms": {"plain": {"x": 0.1}, "other": {"x": 0.2}, "larger": {"y": 0.95}},
    "search": {"method": "arms"},
    "seeds": {"search": [1, 2], "confirm": [11, 12, 13, 14, 15, 16]},
}
SCRIPT = """
import sweeper  # first, for from then on the folder is not searched
import contextlib, importlib, io, json, sys
told = []
for name, *arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        told.append([importlib.import_module(f"sweeper.{name}").main(arguments), said.getvalue()])
print(json.dumps(told))
"""
MARK = "open('PWNED', 'a').close()\n"


def import_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> Trainable:
        raise AssertionError("a record was to be read")

    monkeypatch.setattr(Trainable, "load", refused)


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    """The spec of a trainable that does not come with sweeper, and lies in a folder on the path."""
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "mine.py").write_text(MINE, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path / "own"))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    found = load.resolve(TREE)
    monkeypatch.delitem(sys.modules, "mine")
    return found


def made(tmp_path: Path, sweep: SweepSpec, *, noted: bool = True) -> Path:
    """A run whose search has ended, as a driver writes it; or as one of an earlier version did, which noted less."""
    run_dir = run_folders.new(tmp_path / "runs", sweep)
    journal = Journal(run_dir / "journal.jsonl")
    journal.append(replace(session(), facts=recorded.trainable_facts(sweep) if noted else {}))
    for number, (seed, arm) in enumerate((seed, arm) for seed in (1, 2) for arm in sweep.arms):
        config, name = sweep.trainable_config(sweep.arms[arm]), f"t{number + 1:04d}"
        told = {
            "predicted": 200 if arm == "larger" else 100,
            "exact": True,
            **({"tokens_per_step": 7} if noted else {}),
        }
        point = {"arm": arm, "seed": seed, "params": dict(sweep.arms[arm]), "raw": {}, "budget": told}
        asked = {"number": number, "stage": "search", "config": config, "config_hash": sweep.config_hash(config)}
        journal.append(Ask(trial=name, **asked, **point, time=T0))
        journal.append(Report(trial=name, step=20, metrics={"val/loss": 1.5 + number / 10 + (arm == "other")}, time=T0))
        ended: dict[str, Any] = {}
        if noted:
            ended |= learned.ended(sweep, journal.trials[name], journal.stage("search"))
        journal.append(End(trial=name, state="completed", time=T0 + number, **ended))
    journal.close()
    return run_dir


def texts(sweep: SweepSpec, journal: Journal, run_dir: Path) -> list[str]:
    ended = outcome(run_dir)
    return [sections.markdown(sweep, journal, ended), tables.results_csv(sweep, journal)]


def test_what_is_on_record_says_as_much_as_the_trainable_itself(
    tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = made(tmp_path, mine)
    journal = Journal(run_dir / "journal.jsonl", read_only=True)
    asked = texts(mine, journal, run_dir)
    told = (tables.cost(mine, journal), mine.comparable, mine.compared, design.expected(mine, journal))
    import_nothing(monkeypatch)
    read, again = run_folders.opened(run_dir)
    assert texts(read, again, run_dir) == asked
    assert "stayed put" in asked[0]
    assert "All was lost at 1.650" in asked[0]
    assert (tables.cost(read, again), read.comparable, read.compared, design.expected(read, again)) == told
    assert told[0]["tokens read"] == str(6 * 20 * 7)
    assert told[1:] == (["plain", "other"], 1, 6 + 12)
    assert read.stub is not None
    assert read.stub.left_out("mine:train") is None


def test_what_an_older_record_lacks_is_left_out_with_a_line(
    tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made(tmp_path, mine, noted=False)
    import_nothing(monkeypatch)
    sweep, journal = run_folders.opened(run_dir)
    assert sweep.comparable == ["plain", "other"]  # by what each trial was asked for
    assert tables.cost(sweep, journal)["tokens read"] == "not on record"
    assert learned.was_stuck(sweep, journal.trials["t0001"]) is None
    assert status.main([str(run_dir)]) == 4
    out = capsys.readouterr().out
    assert "left out, because an earlier version made this record and mine:train is not imported to read it" in out
    assert write.main([str(run_dir)]) == 0
    assert "left out, because an earlier version" in (run_dir / "report.md").read_text("utf-8")


def test_of_an_older_record_what_comes_with_sweeper_still_tells_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = load.resolve({**TREE, "trainable": "trainables.toy:train"})
    run_dir = made(tmp_path, sweep, noted=False)
    read, journal = run_folders.opened(run_dir)
    assert read.stub is None
    assert read == sweep
    assert tables.cost(read, journal)["tokens read"] == str(6 * 20 * sweep.settings({}).tokens_per_step)
    assert status.main([str(run_dir)]) == 4
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_hash_of_a_record_is_that_of_its_spec(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load.load(path)
    (tmp_path / "spec.yaml").write_text(whole.to_yaml(), "utf-8")
    import_nothing(monkeypatch)
    assert load.recorded(tmp_path / "spec.yaml").spec_hash == whole.spec_hash


def test_the_hash_of_a_record_is_that_of_a_grid_and_of_what_is_null(tmp_path: Path) -> None:
    space = {"x": {"choice": [0.1, 0.25]}, "y": {"choice": [0.5, 1.0]}}
    for whole in (toy_spec(space=space, arms={}, search={"method": "grid"}), toy_spec(config={"pause": 0})):
        (tmp_path / "spec.yaml").write_text(whole.to_yaml(), "utf-8")
        read = load.recorded(tmp_path / "spec.yaml")
        assert (read.spec_hash, read) == (whole.spec_hash, whole.model_copy(update={"profiles": {}}))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nsearch: {method: grid}\nspace: {x: {choice: [1, 2]}}\n", "its arms are not expanded"),
        ("name: x\nsearch: {method: arms}\narms: {a: 1}\n", "arms.a: 1 should be a mapping"),
        ("name: x\ntrainable: 3\n", "trainable: 3 should be text"),
        ("- x\n", "holds a list at the top"),
    ],
)
def test_a_record_that_no_driver_writes_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "spec.yaml").write_text(text, "utf-8")
    with pytest.raises(SpecError, match=told) as error:
        load.recorded(tmp_path / "spec.yaml")
    assert str(error.value).startswith(str(tmp_path))


def received(tmp_path: Path, mine: SweepSpec) -> Path:
    """The run folder as somebody hands it on, with code beside it by every name that could be looked for."""
    folder = tmp_path / "received"
    shutil.copytree(made(tmp_path, mine), folder)
    for name in ("mine", "evil", "torch", "numpy", "pydantic", "json", "sitecustomize"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'PWNED')!r}, 'a').write(__name__)\n", "utf-8")
    return folder


def started(folder: Path, *command: str) -> tuple[int, str]:
    """A command in a folder: its exit status, and what it says."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_attack_3_nothing_that_a_received_folder_brings_along_is_imported(tmp_path: Path, mine: SweepSpec) -> None:
    folder = received(tmp_path, mine)
    code, said = started(folder, "-m", "sweeper.status", str(folder))
    assert (code, "mine: open, no driver" in said) == (4, True), said
    commands = [["report.write", "FOLDER"], ["run", "--dry-run", "--resume", "FOLDER"], ["run", "--resume", "FOLDER"]]
    commands += [["run", "spec.yaml", "--yes"], ["run", "--reproduce", "FOLDER"]]
    commands = [[word.replace("FOLDER", str(folder)) for word in command] for command in commands]
    code, said = started(folder, "-c", SCRIPT, json.dumps(commands))
    assert code == 0, said
    (reports, _), (plan, planned), *refused = json.loads(said.splitlines()[-1])
    assert (reports, plan) == (0, 0)
    assert "mine:train does not come with sweeper, and a plan of a record does not import it" in planned
    for code, said in refused:
        assert (code, said.count("\n")) == (2, 1), said
        assert "is a run's folder and holds code" in said
    assert not (tmp_path / "PWNED").exists()


@pytest.mark.parametrize("trainable", ["evil:train", "received.evil:train", "link:train"])
def test_attack_3_code_inside_is_refused_by_whatever_way_it_is_on_the_path(
    trainable: str, tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = received(tmp_path, mine)
    (tmp_path / "link.py").symlink_to(folder / "evil.py")
    text = (folder / "spec.yaml").read_text("utf-8").replace("mine:train", trainable)
    (folder / "spec.yaml").write_text(text, "utf-8")
    (folder / "journal.jsonl").unlink()  # what nobody has begun is a record, too
    monkeypatch.setattr(sys, "path", [str(folder), str(tmp_path), *sys.path])
    for arguments in (["--resume", str(folder)], ["--reproduce", str(folder)]):
        assert run.main(arguments) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert "what a record brings along is not run" in said
    assert not (tmp_path / "PWNED").exists()
    assert "evil" not in sys.modules


def test_a_plan_of_a_record_says_what_is_on_record(
    tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made(tmp_path, mine)
    import_nothing(monkeypatch)
    for arguments in (["--resume", str(run_dir)], [str(run_dir / "spec.yaml")]):
        assert run.main([*arguments, "--dry-run", "--json"]) == 0
        output = capsys.readouterr()
        found = json.loads(output.out)
        assert (found["trainable"], found["counts"], found["waiting"]["trials"]) == (
            "mine:train",
            {"completed": 6},
            12,
        )
        assert "trials      6 completed, of 18; best t0001" in output.err
        assert "no estimate: mine:train does not come with sweeper" in output.err


def test_a_resumed_run_says_what_it_imports_and_from_where(
    tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = made(tmp_path, mine)
    monkeypatch.setattr(preflight.Admission, "run_folder", lambda *_: (_ for _ in ()).throw(ValueError("enough")))
    assert run.main(["--resume", str(run_dir)]) == 2
    line = f"mine:train is imported from {tmp_path / 'own' / 'mine.py'}\n"
    assert capsys.readouterr().err == f"{line}error: enough\n"


def test_another_package_of_that_name_does_not_come_with_sweeper(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped("trainables.mlm:train")
    assert not shipped("trainables_of_mine.mlm:train")
    (tmp_path / "trainables").mkdir()
    (tmp_path / "trainables" / "__init__.py").write_text(MARK, "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "trainables"]:
        monkeypatch.delitem(sys.modules, name)
    assert not shipped("trainables.mlm:train")
    assert not (tmp_path / "PWNED").exists()


def test_a_driver_notes_what_is_said_of_a_run_and_a_function_that_fails_stops_no_sweep(
    tmp_path: Path, mine: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(made(tmp_path, mine) / "journal.jsonl", read_only=True)
    ends = {one.ask.arm: one.end for one in journal.trials.values() if one.ask.seed == 2 and one.end}
    assert {arm: end.stuck for arm, end in ends.items()} == {"plain": None, "other": "stayed put", "larger": None}
    assert ends["plain"].unlearned == "All was lost at 1.650"  # of both seeds
    assert ends["other"].unlearned is None
    monkeypatch.setattr(sys.modules["mine"], "stuck", lambda metrics: metrics["none"])
    assert "stuck" not in learned.ended(mine, journal.trials["t0001"], journal.stage("search"))


def test_a_session_of_an_older_version_leaves_the_ends_untold(tmp_path: Path, mine: SweepSpec) -> None:
    run_dir = made(tmp_path, mine, noted=False)
    journal = Journal(run_dir / "journal.jsonl")
    journal.append(replace(session(), facts=recorded.trainable_facts(mine)))  # it was gone on with since
    assert isinstance(journal.events[-1], Session)
    assert recorded.trainable_stub(journal).stuck is None
