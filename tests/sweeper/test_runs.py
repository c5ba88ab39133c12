"""`python -m sweeper.runs`: listing reads whatever lies there; deleting and moving touch the run's own alone."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient

from sweeper import housekeeping, runs, status
from sweeper.confirmation import across
from sweeper.confirmation.paired_tests import holm, t_tests
from sweeper.journal import run_folders
from sweeper.journal.events import Doubt, WarmStart
from sweeper.journal.journal import Journal
from sweeper.journal.records import best
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.tracking import removal, store
from sweeper.tracking import tags as tag
from sweeper.tracking.tracker import Promotion, Tracker
from tests.sweeper import confirmed, in_process, samples
from tests.sweeper.samples import toy_spec

ARMS = {"baseline": {"x": 0.2}, "better": {"x": 0.6}}
NOISY: dict[str, Any] = {"seed_sd": 0.1, "run_sd": 0.05}


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "runs"


def arms(**changes: Any) -> SweepSpec:
    given: dict[str, Any] = {"search": {"method": "arms"}, "space": {}, "arms": ARMS, "config": NOISY}
    given["seeds"] = {"search": [1, 2, 3]}
    return toy_spec(**(given | changes))


def swept(storage: Path, spec: SweepSpec, **more: Any) -> Path:
    journal = in_process.sweep(spec, storage, **more)
    journal.close()
    return journal.path.parent


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = runs.main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_runs_are_listed_newest_first_and_an_unreadable_one_in_a_line(
    storage: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    first = swept(storage, arms(name="first", notes="for the talk\nand after", tags={"paper": "fig 2"}))
    second = storage / "second"
    later = time.time() + 3600 - samples.T0
    confirmed.written(second, confirmed.spec(), {"published": -0.05}).append(samples.session(later))
    for name, content in {"torn": "\x00\x01{", "other": '{"event": "begin"}\n', "empty": ""}.items():
        (storage / name).mkdir()
        (storage / name / "journal.jsonl").write_text(content, "utf-8")
    (storage / "pipe").mkdir()
    os.mkfifo(storage / "pipe" / "spec.yaml")
    (storage / "piped").mkdir()
    shutil.copy(first / "spec.yaml", storage / "piped")
    os.mkfifo(storage / "piped" / "journal.jsonl")
    (storage / "link").symlink_to(first)
    (storage / "mlartifacts").mkdir()

    code, out, err = command(capsys, storage, "--json")
    assert (code, err) == (0, "")
    found = {one["name"]: one for one in json.loads(out)}
    assert set(found) == {first.name, "second", "torn", "other", "empty", "pipe", "piped"}, (
        "no link, no folder of MLflow's"
    )
    assert {name for name, one in found.items() if one["state"] == "unreadable"} == {
        *("torn", "other", "empty", "pipe", "piped")
    }
    assert all(one["error"] for one in found.values() if one["state"] == "unreadable")
    own = found[first.name]
    assert (own["state"], own["sweep"], own["tags"]) == ("completed", "first", {"paper": "fig 2"})
    assert own["best"]["what"] in ARMS
    assert own["disk"] == run_folders.size(first)[0] > 0
    assert found["second"]["verdict"] == "confirmed: published"
    assert next(iter(found)) == "second", "its last event is in an hour"

    code, out, _ = command(capsys, storage)
    assert code == 0
    shown = out.splitlines()
    assert sum(line.startswith(first.name) for line in shown) == 1
    assert any("for the talk and after · [paper=fig 2]" in line for line in shown)
    assert sum("unreadable" in line for line in shown) == 5


def test_no_storage_is_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "none").mkdir()
    assert command(capsys, tmp_path / "none") == (0, "there is no run here\n", "")
    for arguments, said in (
        ([tmp_path / "absent"], "there is no such folder"),
        ([tmp_path, "--compare", "a", "b"], "a is no run folder"),
        ([tmp_path, "--delete", "a"], "there is no run a"),
        ([tmp_path, "--delete", "../a"], "does not lie in"),
        ([tmp_path, "--delete", "/etc"], "does not lie in"),
        ([tmp_path, "--delete", "none"], "is not a run folder"),
        ([tmp_path, "--delete", "a", "--move", "a", "b"], "one at a time"),
        ([tmp_path, "--yes"], "--yes goes with --delete"),
        ([tmp_path, "--move", "none", "s3://bucket/x"], "not into an object store"),
    ):
        code, out, err = command(capsys, *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), arguments
        assert said in err


def test_two_runs_are_paired_where_they_share_seeds(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = swept(storage, arms())
    seeds = {"search": [2, 3, 4]}
    second = swept(storage, arms(arms={"baseline": {"x": 0.2}, "better": {"x": 0.7}}, seeds=seeds))
    code, out, _ = command(capsys, storage, "--compare", first.name, second, "--json")
    assert code == 0
    found = json.loads(out)
    assert {"arms.better.x", "seeds.search"} == {one["path"] for one in found["settings"]}
    rows = {one["what"]: one for one in found["differences"]}
    assert set(rows) == {"baseline", "better"}
    assert rows["baseline"]["same"]
    assert rows["baseline"]["differences"] == [0.0] * 2, "the same run"
    assert rows["baseline"]["alike"] == [2, 3]
    assert (rows["baseline"]["interval"], rows["baseline"]["p"]) == (None, None)
    mine, theirs = (Journal(folder / "journal.jsonl", read_only=True).trials.values() for folder in (first, second))
    scores, others = (
        {one.ask.seed: one.score("val/loss") for one in trials if one.ask.arm == "better"} for trials in (mine, theirs)
    )
    expected = [others[seed] - scores[seed] for seed in (2, 3)]  # pyright: ignore[reportOperatorIssue]
    better = rows["better"]
    assert (better["seeds"], better["same"]) == ([2, 3], False)
    assert better["differences"] == pytest.approx(expected)
    test = t_tests(np.array(expected), 0.0, 0.05)
    assert better["interval"] == pytest.approx([float(test.low), float(test.high)])
    assert better["p"] == pytest.approx(float(holm(np.array([float(test.p_better)]))[0])), "the only row that counts"
    assert better["flip"] is None, "two pairs cannot show anything by signs"
    text = command(capsys, storage, "--compare", first.name, second.name)[1]
    assert "exploration, no verdict" in text
    assert "arms.better.x: 0.6 -> 0.7" in text
    assert "(the same settings): val/loss +0.0000, 2 pairs; not tested: the same run on seeds 2, 3" in text


def test_what_speaks_against_a_comparison_is_said(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = swept(storage, arms())
    second = swept(storage, arms(arms=ARMS | {"better": {"x": 0.6, "stays": [1, 3]}}))
    journal = Journal(second / "journal.jsonl")
    journal.append(Doubt(text="A launcher told its results."))
    journal.close()
    found = runs.compared(storage, first.name, second.name)[1]
    assert found.doubt == "B: A launcher told its results."
    row = next(one for one in found.differences if one.what == "better")
    assert (row.seeds, row.stuck) == ([1, 2, 3], [1, 3])
    assert (row.interval, row.p, row.flip) == (None, None, None)
    text = command(capsys, storage, "--compare", first.name, second.name)[1]
    assert "caution: B: A launcher told its results." in text
    assert "not tested: a stuck run on seeds 1, 3" in text


@pytest.mark.parametrize(
    ("spec", "facts", "said"),
    [
        (arms(seeds={"search": [8]}), {}, "different seeds"),
        (arms(seeds={"search": [2]}), {"data_fingerprint": "other"}, "their data differ"),
        (arms(arms={"one": {"x": 0.3}, "two": {"x": 0.4}}, seeds={"search": [1]}), {}, "no arm and no point"),
        (arms(seeds={"search": [2]}), {"data_fingerprint": None}, "one of the records does not say"),
        (arms(objective="val/loss_mask", seeds={"search": [1]}), {}, "their objectives differ"),
    ],
)
def test_what_cannot_be_compared_is_said(storage: Path, spec: SweepSpec, facts: dict[str, Any], said: str) -> None:
    first, second = swept(storage, arms(seeds={"search": [1]})), swept(storage, spec, **facts)
    found = runs.compared(storage, first.name, second.name)[1]
    assert found.differences == []
    assert said in " ".join(found.apart)


def test_a_trainable_that_names_no_data_is_compared_with_a_caution(storage: Path) -> None:
    named: dict[str, Any] = {"data_fingerprint": None}
    first, second = (swept(storage, arms(seeds={"search": [1]}, name=name), **named) for name in ("a", "b"))
    found = runs.compared(storage, first.name, second.name)[1]
    assert [one.differences for one in found.differences] == [[0.0], [0.0]]
    assert found.doubt == across.UNNAMED


def test_labels_of_a_confirmation_are_compared_by_their_settings(tmp_path: Path) -> None:
    one = tmp_path / "one", confirmed.spec()
    journal = confirmed.written(*one, {"t0005": -0.05})
    other = confirmed.written(tmp_path / "two", confirmed.spec(23), {"t0007": -0.05})
    by = [across._by_configuration(one[1], each) for each in (journal, other)]
    labels = [{key for stage, key in each if stage == "confirm"} for each in by]
    assert all("baseline" in each for each in labels)
    assert not any({"t0005", "t0007"} & each for each in labels)


def tracked(run_dir: Path, spec: SweepSpec, bundle: Path, crowned: bool) -> None:
    journal = Journal(run_dir / "journal.jsonl", read_only=True)
    said: list[str] = []
    uri = store.store_uri(spec, run_dir.parent)
    tracker = Tracker(journal, spec, run_dir, uri, say=said.append)
    tracker.start()
    found = best(spec, journal.trials.values())
    assert found
    promotion = Promotion(found, bundle, {}) if crowned else None
    assert tracker.close("completed", found, bundle, 60, promotion=promotion) == 0, said


def test_nothing_is_deleted_that_was_not_named_and_agreed_to(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = arms(seeds={"search": [1]})
    lender, other = swept(storage, spec), swept(storage, spec)
    monkeypatch.setattr(removal, "held", lambda *_: removal.Held([], ["2", "3"], "3"))
    assert "give --champion toy" in command(capsys, storage, "--delete", lender.name, "--yes")[2]
    assert "give --champion toy" in command(capsys, storage, "--delete", lender.name, "--yes", "--champion", "no")[2]
    code, _, err = command(capsys, storage, "--delete", lender.name, "--champion", "toy")
    assert code == 2
    assert "version 2, 3 of the model toy" in err
    assert f"{other.name} took trials over from it" in err
    assert err.splitlines()[-1] == "error: nobody to ask: give --yes to delete it"
    assert lender.is_dir()


def test_runs_that_begin_from_its_bundle_or_heard_of_its_trials_are_named(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lender, plain = swept(storage, arms(seeds={"search": [1]})), swept(storage, arms(config={"x": 0.9}))
    bundle = str(lender / "bundles" / "t0001")
    begun: dict[str, Any] = {"init_from": {"bundle": bundle}}
    specs = {
        "one": arms(name="one").model_copy(update={"config": begun}),
        "two": arms(name="two").model_copy(update={"arms": {"a": {}, "b": begun}}),
        "told": arms(name="told", question=f"After {lender}?"),
    }
    for name, spec in specs.items():
        (storage / name).mkdir()
        (storage / name / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
        Journal(storage / name / "journal.jsonl").born(spec.spec_hash)
    run = str(Journal(lender / "journal.jsonl", read_only=True).run)
    known = {"trial": "t0000", "seed": 1, "params": {"x": 0.5}, "values": [1.0], "baseline": None}
    Journal(storage / "told" / "journal.jsonl").append(
        WarmStart(source=lender.name, run=run, trials=[known], outside=0)
    )
    users = housekeeping.planned(storage, lender.name).users
    assert (users.beginners, users.told) == (["one", "two"], ["told"])
    assert plain.name not in users.borrowers
    code, _, err = command(capsys, storage, "--delete", lender.name)
    assert code == 2
    assert "one, two name a place in it" in err
    assert "the search of told began with its trials" in err
    code, _, err = command(capsys, storage, "--move", lender.name, tmp_path / "elsewhere")
    assert code == 0
    assert f"caution: one, two name a place in {lender}" in err


def test_runs_of_a_store_that_has_more_than_the_folder_are_left(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = swept(storage, arms(seeds={"search": [1]}))
    digests = Journal(run / "journal.jsonl", read_only=True).digests
    removed: list[Any] = []
    monkeypatch.setattr(removal, "remove", lambda uri, model, found, artifacts: removed.append(len(found.runs)))
    for digest, left in (("0123456789abcdef", 0), (digests[-1], 1)):
        held = SimpleNamespace(data=SimpleNamespace(tags={tag.DIGEST: digest}))
        monkeypatch.setattr(removal, "held", lambda *_, held=held: removal.Held([held], [], None))  # pyright: ignore[reportArgumentType]
        said = housekeeping.planned(storage, run.name)
        assert len(said.held.runs) == left
        assert any("events that this folder lacks" in line for line in said.lines()) == (not left)
    assert command(capsys, storage, "--delete", run.name, "--yes")[0] == 0
    assert removed == [1]


@pytest.mark.slow
def test_a_run_is_deleted_with_what_mlflow_has_of_it_and_moved_with_its_own(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = arms(seeds={"search": [1]})
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "metadata.json").write_text("{}", "utf-8")
    gone, kept = swept(storage, spec), swept(storage, spec)
    assert {one.reused_from for one in Journal(kept / "journal.jsonl", read_only=True).trials.values()} != {None}
    tracked(gone, spec, bundle, crowned=True)
    tracked(kept, spec, bundle, crowned=False)
    uri = store.store_uri(spec, storage)
    client = MlflowClient(tracking_uri=uri)
    ids = {folder: str(Journal(folder / "journal.jsonl", read_only=True).run) for folder in (gone, kept)}
    held = {folder: removal.held(uri, spec.name, ids[folder]) for folder in ids}
    assert [len(held[folder].runs) for folder in (gone, kept)] == [3, 3]
    places = [Path(str(run.info.artifact_uri).removeprefix("file://")).parent for run in held[gone].runs]
    assert any(place.is_dir() for place in places)
    capsys.readouterr()  # of MLflow, which this module imports before it is told to be silent

    code, _, err = command(capsys, storage, "--delete", gone.name, "--yes")
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"give --champion {spec.name}" in err
    with files.locked(gone / run_folders.LOCK, 0.5):
        code, _, err = command(capsys, storage, "--delete", gone.name, "--yes", "--champion", spec.name)
        assert "is running" in err
        assert code == 2
    code, _, err = command(capsys, storage, "--delete", gone.name, "--champion", spec.name)
    assert code == 2
    assert "give --yes" in err
    assert f"{kept.name} took trials over from it" in err
    assert gone.is_dir()
    code, out, err = command(capsys, storage, "--delete", str(gone), "--yes", "--champion", spec.name)
    assert (code, out) == (0, f"deleted {gone}\n")
    assert not gone.exists()
    assert not any(place.exists() for place in places)
    assert removal.held(uri, spec.name, ids[gone]).runs == []
    left = removal.held(uri, spec.name, ids[kept])
    assert (len(left.runs), left.versions) == (3, held[kept].versions)
    assert str(client.get_model_version_by_alias(spec.name, "candidate").version) in left.versions
    assert [path.name for path in storage.iterdir() if path.name.startswith(".deleted")] == []

    elsewhere = tmp_path / "elsewhere"
    code, out, err = command(capsys, storage, "--move", kept.name, elsewhere)
    there = elsewhere / kept.name
    assert (code, out) == (0, f"moved to {there}\n")
    assert not kept.exists()
    assert status.status(there)["state"] == "completed"
    assert run_folders.find_run(elsewhere, spec, there) == there, "--resume takes it"
    assert str(there) in (there / "report.md").read_text("utf-8")
    assert str(kept) not in (there / "report.md").read_text("utf-8")
    moved = removal.held(store.store_uri(spec, elsewhere), spec.name, ids[kept])
    assert len(moved.runs) == 3
    assert len(removal.held(uri, spec.name, ids[kept]).runs) == 3, "the old store keeps its own"


def test_what_may_not_be_moved_is_refused(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = swept(storage, arms(seeds={"search": [1]}))
    other = tmp_path / "other"
    (other / run.name).mkdir(parents=True)
    for target, said in (
        (other, "is there already"),
        (storage, "is there already"),
        (run / "below", "lies inside the run"),
        (run, "lies inside the run"),
    ):
        code, _, err = command(capsys, storage, "--move", run.name, target)
        assert (code, len(err.splitlines())) == (2, 1), target
        assert said in err
    with files.locked(run / run_folders.LOCK, 0.5):
        assert "is running" in command(capsys, storage, "--move", run.name, tmp_path / "new")[2]
    (run / "away").symlink_to(tmp_path)
    assert "is a link" in command(capsys, storage, "--move", run.name, tmp_path / "new")[2]
    (run / "away").unlink()
    monkeypatch.setattr(housekeeping, "_written_anew", lambda *_: None)
    rename = Path.rename

    def another_disk(self: Path, target: Path) -> Path:
        if self == run and target.parent != storage:
            raise OSError(18, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", another_disk)
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    assert command(capsys, storage, "--move", run.name, tmp_path / "new")[0] == 0
    assert sorted(
        path.relative_to(tmp_path / "new" / run.name) for path in (tmp_path / "new" / run.name).rglob("*")
    ) == (before)
    assert [*storage.iterdir()] == []


def test_a_record_that_is_not_ours_does_not_say_what_mlflow_loses(
    storage: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def asked(*_: Any) -> Any:
        raise AssertionError("the store is asked")

    monkeypatch.setattr(removal, "held", asked)
    run = swept(storage, arms(seeds={"search": [1]}))
    copy = storage / "copy"
    shutil.copytree(run, copy)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").touch()
    (copy / "link").symlink_to(outside)
    code, _, err = command(capsys, storage, "--delete", "copy", "--yes")
    assert code == 0
    assert "is a copy of the same run" in err
    assert (outside / "keep").exists()
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "of somebody else"))
    code, _, err = command(capsys, storage, "--delete", run.name, "--yes")
    assert code == 0
    assert "was not begun on this machine" in err
    (storage / "broken").mkdir()
    (storage / "broken" / "journal.jsonl").write_text("{", "utf-8")
    (storage / "linked").symlink_to(outside)
    assert command(capsys, storage, "--delete", "linked", "--yes")[0] == 2
    assert command(capsys, storage, "--delete", "broken", "--yes")[0] == 0
    assert sorted(path.name for path in storage.iterdir()) == ["linked"]
