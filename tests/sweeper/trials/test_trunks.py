"""Trials of one run start where another has trained the same steps, and nothing else about them changes."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sweeper.journal import checkpoints, provenance, run_folders
from sweeper.journal.events import Doubt
from sweeper.journal.journal import Journal
from sweeper.journal.run_folders import TRUNKS
from sweeper.report.summary import trial_json
from sweeper.report.tables import cost, steps_trained
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from sweeper.trials import trunks, tuner
from sweeper.trials.trunks import Trunks
from tests.sweeper import in_process
from tests.trainables import tiny

RULES: dict[str, dict[str, Any]] = {
    "random": {"masking.preset": "random"},
    "morph": {"masking.preset": "accuracy_morph"},
    "amlm": {"masking.preset": "amlm"},
    "faster": {"masking.preset": "accuracy_morph", "masking.update_every": 1},
}
ARMS = {name: {**rule, "masking.mask_warmup": 0.4} for name, rule in RULES.items()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_corpus(tmp_path_factory.mktemp("text"))


@pytest.fixture(autouse=True)
def threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def mlm(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., SweepSpec]:
    """A spec of runs of a second: 20 steps, of which 8 are random."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    base = tiny.config(corpus).model_dump(mode="json", exclude={"data", "masking"}, exclude_defaults=True)
    data = tiny.config(corpus).model_dump(mode="json", include={"data"}, exclude_defaults=True)["data"]

    def spec(name: str = "trunks", **changes: Any) -> SweepSpec:
        masking = {"mask_warmup": 0.4, "update_every": 2}
        given: dict[str, Any] = {
            "name": name,
            "config": {**base, "masking": masking},
            "data": data,
            "arms": ARMS,
            "search": {"method": "arms"},
            "seeds": {"search": [1, 2]},
            "resources": {"concurrency": 1},
            "reuse": {"trials": False, "verify": 0},
        }
        return resolve(given | changes)

    return spec


Rows = dict[tuple[str | None, int], list[tuple[int, dict[str, float]]]]


def rows(journal: Journal) -> Rows:
    """Every row of the trials that completed, by arm and seed."""
    done = [one for one in journal.trials.values() if one.state == "completed"]
    return {(one.ask.arm, one.ask.seed): [(row.step, row.metrics) for row in one.rows] for one in done}


Clean = Callable[[SweepSpec], Journal]
_CLEAN: dict[str, Journal] = {}


@pytest.fixture
def clean(tmp_path_factory: pytest.TempPathFactory) -> Clean:
    """The same spec with every trial from step 0, once for all tests of a corpus."""

    def run(spec: SweepSpec) -> Journal:
        if spec.spec_hash not in _CLEAN:
            _CLEAN[spec.spec_hash] = in_process.sweep(spec, tmp_path_factory.mktemp("clean"), reuse=False)
        return _CLEAN[spec.spec_hash]

    return run


def same(journal: Journal, whole: Journal) -> None:
    """Every trial that completed has the rows of the one from step 0."""
    found, expected = rows(journal), rows(whole)
    assert found == {key: expected[key] for key in found}


def starts(journal: Journal) -> list[tuple[str | None, int]]:
    return [one.start for one in journal.trials.values()]


def bundles(journal: Journal) -> list[dict[str, str]]:
    """SHA-256 of all that each trial's last checkpoint holds, the bundle and its analysis included."""
    found = []
    for one in journal.trials.values():
        assert one.end is not None
        assert one.end.checkpoint is not None
        held = json.loads((journal.path.parent / one.end.checkpoint / checkpoints.MANIFEST).read_text("utf-8"))
        found.append(held["sha256"])
    return found


def test_every_arm_of_a_seed_starts_where_the_first_ended_its_random_steps(
    mlm: Callable[..., SweepSpec], clean: Clean, tmp_path: Path
) -> None:
    spec = mlm()
    shared, whole = in_process.sweep(spec, tmp_path / "shared"), clean(spec)
    assert rows(shared) == rows(whole)
    assert bundles(shared) == bundles(whole)
    assert starts(whole) == [(None, 0)] * 8
    first = [(None, 0), *[("t0001", 8)] * 3]
    assert starts(shared) == [*first, (None, 0), *[("t0005", 8)] * 3]
    last = list(shared.trials.values())[-1]
    assert trial_json(last, spec.objective, None)["start"] == {"from": "t0005", "step": 8}
    assert cost(spec, shared)["steps trained"] == "112 of 160, 70%"
    assert cost(spec, shared)["steps of another trial"] == "48, in 6 trials that did not train them again"
    assert "hours saved" in cost(spec, shared)
    saved = steps_trained([*shared.trials.values()], 7.0)["hours saved"]
    assert saved == "about 3.00, at the pace of the steps trained"
    assert cost(spec, shared)["compared with training"] == "none: no trial came from step 0 to where another left"
    assert "steps trained" not in cost(spec, whole)
    assert len([*(shared.path.parent / TRUNKS).iterdir()]) == 2
    trunks.clear(shared.path.parent)
    assert not (shared.path.parent / TRUNKS).exists()


def test_a_confirmation_shares_too(mlm: Callable[..., SweepSpec], tmp_path: Path) -> None:
    spec = mlm(seeds={"search": [], "confirm": [7, 8]}, arms={name: ARMS[name] for name in ("random", "amlm")})
    shared = in_process.sweep(spec, tmp_path / "shared", confirm=True)
    clean = in_process.sweep(spec, tmp_path / "clean", confirm=True, reuse=False)
    assert rows(shared) == rows(clean)
    assert starts(shared) == [(None, 0), (None, 0), ("c0001", 8), ("c0002", 8)], "the baseline of all seeds first"


@pytest.mark.slow
def test_later_ends_of_the_warmup_start_from_earlier_ones(mlm: Callable[..., SweepSpec], tmp_path: Path) -> None:
    arms = {f"from{n}": {"masking.mask_warmup": n / 10} for n in (0, 2, 4, 5)}
    spec = mlm(arms=arms, seeds={"search": [1]})
    shared = in_process.sweep(spec, tmp_path / "shared")
    clean = in_process.sweep(spec, tmp_path / "clean", reuse=False)
    assert rows(shared) == rows(clean)
    assert starts(shared) == [(None, 0), (None, 0), ("t0002", 4), ("t0003", 8)]


@pytest.mark.slow
def test_what_others_do_not_share(mlm: Callable[..., SweepSpec], tmp_path: Path) -> None:
    arms = {
        "random": {},
        "rate": {"masking.rate": 0.25},
        "lr": {"optimiser.lr": 0.001},
        "row": {"masking.replicate": True},
        "at_once": {"masking.mask_warmup": 0.0},
    }
    spec = mlm(arms=arms, seeds={"search": [1]}, budget="free")
    assert starts(in_process.sweep(spec, tmp_path / "runs")) == [(None, 0)] * 5


def test_one_fork_is_trained_from_step_0_and_compared(mlm: Callable[..., SweepSpec], tmp_path: Path) -> None:
    lines: list[str] = []
    spec = mlm(reuse={"trials": False, "verify": 1}, seeds={"search": [1]})
    journal = in_process.sweep(spec, tmp_path / "runs", say=lines.append)
    assert sorted(starts(journal), key=str) == [("t0001", 8), ("t0001", 8), (None, 0), (None, 0)]
    assert lines == []
    (checked,) = (one.id for one in journal.trials.values() if one.end and one.end.compared)
    assert cost(spec, journal)["compared with training"] == f"{checked} at step 8: the same to the last bit"
    again = Journal(journal.path, read_only=True)
    assert again.trials[checked].end == journal.trials[checked].end


def after_leaving(monkeypatch: pytest.MonkeyPatch, then: Callable[[str, Path], object]) -> None:
    """Do something once a trial has left a trunk: with the trial's id and the trunk's place."""
    own = Trunks.leave

    def leave(self: Trunks, step: int, folder: Path) -> None:
        own(self, step, folder)
        then(self.task.id, self._place(step))

    monkeypatch.setattr(Trunks, "leave", leave)


def replaced(place: Path) -> None:
    """Other weights in a trunk, with a manifest that fits them."""
    (folder,) = place.glob("step-*")
    tensors = load_file(folder / "model.safetensors")
    name = min(tensors)
    save_file({**tensors, name: tensors[name] + 1}, folder / "model.safetensors")
    held = json.loads((folder / checkpoints.MANIFEST).read_text("utf-8"))
    held["sha256"]["model.safetensors"] = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    (folder / checkpoints.MANIFEST).write_text(json.dumps(held), "utf-8")


def test_a_difference_ends_sharing_and_is_on_record(
    mlm: Callable[..., SweepSpec],
    clean: Callable[[SweepSpec], Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Planted in the trunk, and found by a trial that comes to the same step from step 0."""
    lines: list[str] = []
    spec = mlm(reuse={"trials": False, "verify": 1}, seeds={"search": [1]})
    monkeypatch.setattr("sweeper.trials.sharing.derive", lambda *_: 0)  # the second trial is verified
    after_leaving(monkeypatch, lambda trial, place: replaced(place) if trial == "t0001" else None)
    journal = in_process.sweep(spec, tmp_path / "runs", say=lines.append)
    same(journal, clean(mlm()))  # nobody started from it
    assert starts(journal) == [(None, 0)] * 4
    expected = "t0002 does not have the same state after 8 steps as t0001, which trials start from (model.safetensors"
    assert [line.startswith(f"caution: {expected}") for line in lines] == [True]
    (doubt,) = (event for event in journal.events if isinstance(event, Doubt))
    assert expected in doubt.text
    assert any(expected in line for line in journal.doubts())
    assert [one.name for one in (journal.path.parent / TRUNKS).iterdir()] == [trunks.CLOSED]


def test_code_that_changes_while_a_sweep_runs_ends_sharing(
    mlm: Callable[..., SweepSpec], clean: Clean, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record has the code of the session; a trial looks again."""
    spec, lines = mlm(seeds={"search": [1]}), list[str]()
    folder = run_folders.new(tmp_path, spec)
    journal = Journal(folder / run_folders.JOURNAL)
    at_once = tuner.begin(spec, folder, journal, 1, {"data_fingerprint": "text"}, lines.append)
    parts = tuner.searching(spec, folder, journal, 1, at_once, True, lines.append)
    code = provenance.code
    after_leaving(monkeypatch, lambda *_: monkeypatch.setattr(provenance, "code", lambda module: "edited"))
    in_process.through(*parts, folder)
    same(journal, clean(mlm()))
    assert starts(journal) == [(None, 0)] * 4
    line = f"the code of trainables.mlm:train changed while the sweep ran ({code('trainables.mlm')} then, edited now)"
    assert lines == [f"caution: {line}"]
    assert journal.doubts()[0] == f"Nothing is shared any more: {line}."


def test_a_verification_is_asked_for_until_one_was_made(mlm: Callable[..., SweepSpec], tmp_path: Path) -> None:
    """The trial that is drawn for it shares nothing here; the next one does."""
    arms = {
        "random": ARMS["random"],
        "alone": {"masking.mask_warmup": 0.0},
        "morph": ARMS["morph"],
        "amlm": ARMS["amlm"],
    }
    spec = mlm(arms=arms, reuse={"trials": False, "verify": 1}, seeds={"search": [1]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sweeper.trials.sharing.derive", lambda *_: 0)
        journal = in_process.sweep(spec, tmp_path)
    assert starts(journal) == [(None, 0), (None, 0), (None, 0), ("t0001", 8)]


def test_a_damaged_trunk_is_dropped_and_trained_anew(
    mlm: Callable[..., SweepSpec],
    clean: Callable[[SweepSpec], Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines: list[str] = []

    def torn(trial: str, place: Path) -> None:
        if trial == "t0001":
            (path,) = place.glob("step-*/answers.safetensors")
            path.write_bytes(path.read_bytes()[:-1])

    after_leaving(monkeypatch, torn)
    spec = mlm(seeds={"search": [1]})
    journal = in_process.sweep(spec, tmp_path / "runs", say=lines.append)
    same(journal, clean(mlm()))
    assert starts(journal) == [(None, 0), (None, 0), ("t0002", 8), ("t0002", 8)]
    assert lines == ["caution: a trunk at step 8 was damaged and is dropped"]
    assert not [event for event in journal.events if isinstance(event, Doubt)]


@pytest.mark.slow
@pytest.mark.parametrize("facts", [{"data_fingerprint": "other"}, {"tasks_fingerprint": "new"}])
def test_a_trunk_of_other_data_is_not_seen(
    mlm: Callable[..., SweepSpec], tmp_path: Path, facts: dict[str, Any]
) -> None:
    spec = mlm(seeds={"search": [1]})
    first = in_process.sweep(spec, tmp_path / "first")
    folder = first.path.parent
    again = mlm("again", seeds={"search": [1]})
    found = in_process.sweep(again, tmp_path / "again", **facts)
    assert starts(found)[0] == (None, 0)
    keys = [{one.name for one in (each / TRUNKS).iterdir()} for each in (folder, found.path.parent)]
    assert not keys[0] & keys[1]


def test_what_a_crash_leaves_is_no_trunk(
    mlm: Callable[..., SweepSpec],
    clean: Callable[[SweepSpec], Journal],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A trunk's folder is renamed into its place once it is whole."""
    spec, own = mlm(seeds={"search": [1]}), checkpoints.store

    def store(folder: Path, *more: Any) -> Path:
        if folder.parent.name == TRUNKS and not shutil.rmtree(folder / "never", ignore_errors=True):
            monkeypatch.setattr(checkpoints, "store", own)
            raise RuntimeError("killed in the middle of it")
        return own(folder, *more)

    monkeypatch.setattr(checkpoints, "store", store)
    journal = in_process.sweep(spec, tmp_path / "runs")
    assert [one.state for one in journal.trials.values()] == ["failed", *["completed"] * 3]
    assert starts(journal)[1:] == [(None, 0), ("t0002", 8), ("t0002", 8)]
    same(journal, clean(mlm()))
