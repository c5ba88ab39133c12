"""What comes from outside: paths that must stay where they are put, links that are not followed, text that steers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from sweeper import preflight
from sweeper.journal import records, run_folders
from sweeper.journal.journal import Journal
from sweeper.preflight import Request
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.tracking import store
from tests.sweeper.samples import toy_spec


def test_paths_from_outside_stay_inside(tmp_path: Path) -> None:
    assert files.inside(tmp_path, "trials", "t0001/checkpoints") == tmp_path / "trials/t0001/checkpoints"


@pytest.mark.parametrize("part", ["../x", "a/../../x", "/etc/passwd", "", ".", "a\0b", "a\\b", ".."])
def test_paths_that_lead_out_are_refused(tmp_path: Path, part: str) -> None:
    with pytest.raises(ValueError, match="not a path inside"):
        files.inside(tmp_path, part)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/out").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="run/out is a link"):
        files.inside(tmp_path / "run", "out", "x")
    with pytest.raises(ValueError, match="run/out is a link"):
        files.refuse_links(tmp_path / "run")
    (tmp_path / "to-run").symlink_to(tmp_path / "run")
    assert files.inside(tmp_path / "to-run", "x") == tmp_path / "to-run/x"  # the root may be one


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is neither a file nor a folder"):
        files.refuse_links(tmp_path)


def test_what_steers_a_terminal_is_escaped() -> None:
    assert files.printable("plain ü 字 \n\tनमस्ते") == "plain ü 字 \n\tनमस्ते"
    assert files.printable("\x1b[2J \x9b \u202e \r") == "\\x1b[2J \\x9b \\u202e \\r"


def test_a_link_of_a_record_is_no_way_to_a_bundle(tmp_path: Path) -> None:
    (tmp_path / "run" / "bundles").mkdir(parents=True)
    (tmp_path / "run" / "journal.jsonl").touch()
    (tmp_path / "run" / "bundles" / "t0001").symlink_to(tmp_path)
    with pytest.raises(ValueError, match="bundles/t0001 is a link"):
        files.refuse_record_links(tmp_path / "run" / "bundles" / "t0001")
    (tmp_path / "mine").symlink_to(tmp_path / "run")
    files.refuse_record_links(tmp_path / "mine")


def test_a_record_does_not_choose_where_results_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run_dir, theirs = tmp_path / "runs" / "toy", "https://them:secret@elsewhere/x"
    run_dir.mkdir(parents=True)
    journal = Journal(run_dir / "journal.jsonl")
    journal.born("a" * 64)
    spec = toy_spec(tracking={"uri": theirs})
    store.refuse_store(toy_spec(), run_dir, False)
    store.refuse_store(toy_spec(tracking={"uri": f"sqlite:///{run_dir.parent}/mlflow.db"}), run_dir, False)
    with pytest.raises(ValueError, match=r"sends results to https://\*\*\*@elsewhere/x, .* set MLFLOW_TRACKING_URI"):
        store.refuse_store(spec, run_dir, False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", theirs)
    store.refuse_store(spec, run_dir, False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    run_folders.begin_here(journal)
    store.refuse_store(spec, run_dir, False)


def test_a_loaded_spec_and_a_records_do_not_choose_where_results_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    theirs, storage = "https://elsewhere/x", tmp_path / "mine"
    spec = toy_spec(tracking={"uri": theirs})
    record = tmp_path / "theirs" / "toy"
    record.mkdir(parents=True)
    Journal(record / "journal.jsonl").born(spec.spec_hash)
    (record / "spec.yaml").write_text(spec.to_yaml(), "utf-8")

    def admitted(given: SweepSpec | Path | dict[str, Any], *sets: str) -> str | None:
        request = Request(spec=given, storage=storage, set=list(sets), yes=True)
        return preflight.admission(request, lambda line: None).spec.tracking.uri

    for given in (spec, record / "spec.yaml"):
        with pytest.raises(ValueError, match="sends results to https://elsewhere/x"):
            admitted(given)
        assert admitted(given, "tracking.uri=null") is None
    assert admitted(spec.model_dump(mode="json")) == theirs
    own = f"sqlite:///{storage}/mlflow.db"
    assert admitted(toy_spec(tracking={"uri": own})) == own


def test_a_bundles_own_metadata_is_no_way_out_and_no_bomb(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text('["fingerprint"]', "utf-8")
    assert records.fingerprints(tmp_path) == {}
    path.write_text("[" * 100_000, "utf-8")
    with pytest.raises(ValueError, match=r"metadata\.json is nested too deep"):
        records.fingerprints(tmp_path)
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match=r"metadata\.json is a link"):
        records.fingerprints(tmp_path)
