"""The challenge's data from a repository of the hub: at one commit, without links, and nothing but its data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from tests.trainables import challenge
from tests.trainables.one_by_one import make_bundle
from tests.trainables.texts import sentences
from trainables import entry, evaluate
from trainables.data.wordpiece import Trained
from trainables.evaluation import hub, rules

COMMIT = "c" * 40
NEWS = "full_eval/ewok_filtered/news.jsonl"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return challenge.write_challenge(tmp_path_factory.mktemp("challenge"), items=4)


@pytest.fixture
def repository(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with one repository, and its client's cache, made of links as the client makes it.

    files: content by name, which a test may change. asked: what was downloaded.
    """
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    names = [path.relative_to(written).as_posix() for path in sorted(written.rglob("*")) if path.is_file()]
    state = SimpleNamespace(commit=COMMIT, asked=[], sizes={}, cache=tmp_path / "hub" / "datasets--owner--name")
    state.files = {name: (written / name).read_bytes() for name in names}

    class Api:
        def dataset_info(self, name: str, revision: str, files_metadata: bool = False) -> SimpleNamespace:
            assert name == "owner/name"
            siblings = [
                SimpleNamespace(rfilename=each, size=state.sizes.get(each, len(content)))
                for each, content in state.files.items()
            ]
            return SimpleNamespace(sha=state.commit, siblings=siblings if files_metadata else None)

    def snapshot_download(name: str, repo_type: str, revision: str, allow_patterns: list[str]) -> str:
        assert (name, repo_type) == ("owner/name", "dataset")
        state.asked.append((revision, allow_patterns))
        snapshot = state.cache / "snapshots" / revision
        (state.cache / "blobs").mkdir(parents=True, exist_ok=True)
        for each in allow_patterns:
            blob = state.cache / "blobs" / each.replace("/", "--")
            blob.write_bytes(state.files[each])
            (snapshot / each).parent.mkdir(parents=True, exist_ok=True)
            (snapshot / each).unlink(missing_ok=True)
            (snapshot / each).symlink_to(os.path.relpath(blob, (snapshot / each).parent))
        return str(snapshot)

    state.module = huggingface_hub
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return state


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_copy_has_the_data_without_links_and_nothing_else(repository: SimpleNamespace) -> None:
    data = dict(repository.files)
    repository.files |= {
        "loader.py": b"raise SystemExit", "full_eval/blimp_filtered/run.py": b"raise SystemExit",
        "full_eval/other_task/a.jsonl": b"{}", "README.md": b"x", "full_eval/blimp_filtered/weights.bin": b"x",
    }  # fmt: skip
    folder, origin = hub.folder("hub:owner/name")
    assert origin == f"hub:owner/name@{COMMIT}"
    assert contents(folder) == data
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    assert [sorted(names) for _, names in repository.asked] == [sorted(data)]


def test_a_revision_is_pinned_and_what_was_fetched_needs_no_hub(
    repository: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = hub.folder("hub:owner/name@v1")
    repository.commit = "d" * 40
    monkeypatch.setattr(repository.module, "snapshot_download", lambda *_, **__: pytest.fail("fetched again"))
    assert hub.folder("hub:owner/name@v1") == (first, f"hub:owner/name@{COMMIT}")
    monkeypatch.setattr(repository.module.HfApi, "dataset_info", lambda *_, **__: pytest.fail("the hub was asked"))
    assert hub.folder(f"hub:owner/name@{COMMIT}")[0] == first
    assert hub.folder("/some/folder") == (Path("/some/folder"), "/some/folder")


def test_other_rules_fetch_again_and_what_a_killed_fetch_left_goes(
    repository: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = hub.folder("hub:owner/name")
    left = first.with_name(".left")
    left.mkdir()
    os.utime(left, (0, 0))
    monkeypatch.setitem(hub.PLACES, rules.FAST, [])
    second, _ = hub.folder("hub:owner/name")
    assert len(repository.asked) == 2
    assert not (second / rules.FAST).exists()
    assert (first / rules.FAST).exists()
    assert not left.exists()


def test_data_below_a_folder_lie_in_their_layout(repository: SimpleNamespace) -> None:
    data = repository.files
    repository.files = {f"evaluation_data/{name}": content for name, content in data.items()}
    assert contents(hub.folder("hub:owner/name")[0]) == data
    repository.commit = "e" * 40
    repository.files |= data
    with pytest.raises(ValueError, match=r"has data in \./ and evaluation_data/: download it and name one"):
        hub.folder("hub:owner/name@both")


@pytest.mark.parametrize(
    "name", ["../full_eval/comps/a.jsonl", "/full_eval/comps/a.jsonl", "full_eval/comps/../../../a.jsonl",
             "full_eval/comps/.a.jsonl", "full_eval/comps\\a.jsonl", "x/full_eval/comps/*.jsonl"]
)  # fmt: skip
def test_names_that_lead_elsewhere_are_not_taken(repository: SimpleNamespace, name: str) -> None:
    data = dict(repository.files)
    repository.files[name] = b"{}"
    assert contents(hub.folder("hub:owner/name")[0]) == data


def test_a_link_out_of_the_repositorys_folder_is_refused(
    repository: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("{}", "utf-8")
    repository.files[NEWS] = b"{}"
    download = repository.module.snapshot_download

    def planted(*arguments: Any, **named: Any) -> str:
        snapshot = download(*arguments, **named)
        (Path(snapshot) / NEWS).unlink()
        (Path(snapshot) / NEWS).symlink_to(secret)
        return snapshot

    monkeypatch.setattr(repository.module, "snapshot_download", planted)
    with pytest.raises(ValueError, match=r"news\.jsonl leads out of .*datasets--owner--name: delete that folder"):
        hub.folder("hub:owner/name")
    assert list((tmp_path / "cache" / "challenge").iterdir()) == []


def test_what_is_not_the_challenges_is_refused_before_it_is_fetched(repository: SimpleNamespace) -> None:
    repository.sizes = dict.fromkeys(repository.files, hub.MOST_BYTES // 20)
    with pytest.raises(ValueError, match=r"MiB, the limit is 2,000 of 2,048: it is not the challenge's$"):
        hub.folder("hub:owner/name")
    repository.files[NEWS], repository.sizes = b"{}", {NEWS: None}
    with pytest.raises(ValueError, match=r"the size of full_eval/ewok_filtered/news\.jsonl: name a folder"):
        hub.folder("hub:owner/name")
    repository.files = {"data/train.jsonl": b"{}"}
    with pytest.raises(ValueError, match=r"^--task official=hub:owner/name@c{40} has nothing to score: expected full"):
        hub.folder("hub:owner/name")
    assert repository.asked == []


def test_errors_of_the_hub_are_one_line(repository: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no network\nand a long story")

    with pytest.raises(ValueError, match=r"^--task official=hub:a b: write hub:OWNER/NAME or hub:OWNER/NAME@REVISION$"):
        hub.folder("hub:a b")
    message = r"^cannot get --task official=hub:owner/name \(no network\): name a folder instead$"
    monkeypatch.setattr(repository.module, "snapshot_download", offline)
    with pytest.raises(ValueError, match=message):
        hub.folder("hub:owner/name")
    monkeypatch.setattr(repository.module.HfApi, "dataset_info", offline)
    for revision in ("", f"@{'f' * 40}"):
        with pytest.raises(ValueError, match=message):
            hub.folder(f"hub:owner/name{revision}" if revision else "hub:owner/name@other")


def test_the_table_is_that_of_the_folder_and_names_the_commit(
    repository: SimpleNamespace, written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", Trained(300).obtain(sentences(320)), max_position_embeddings=128)
    told = []
    for place in ("hub:owner/name", str(written)):
        given = ["--task", f"official={place}", "--columns", "ewok", "--threads", str(torch.get_num_threads())]
        assert evaluate.main([str(bundle), "--json", *given]) == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["columns"] == told[1]["columns"]
    assert told[0]["columns"]["ewok"]["score"] is not None
    assert [each["data"] for each in told] == [f"hub:owner/name@{COMMIT}", str(written)]


def test_an_entry_reads_it_too_and_names_the_commit(repository: SimpleNamespace, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle", Trained(300).obtain(sentences(320)), max_position_embeddings=128)
    given = ["--columns", "ewok", "--threads", "1", "--out", str(tmp_path / "entry")]
    assert entry.main([str(bundle), "--task", "official=hub:owner/name", *given]) == 0
    told = json.loads((tmp_path / "entry" / "entry.json").read_text("utf-8"))
    assert told["data"] == f"hub:owner/name@{COMMIT}"
    assert told["scores"]["EWoK"] is not None
    assert "cache" not in json.dumps(told["checklist"])
    assert f"On the data of `hub:owner/name@{COMMIT}`." in (tmp_path / "entry" / "ENTRY.md").read_text("utf-8")
