"""Obtaining and checking a tokenizer."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.trainables.texts import sentences
from trainables import tokenizer
from trainables.tokenizer import SPECIALS, Folder, Trained, Vocabulary

LINES = sentences(600)


@pytest.fixture(scope="module")
def trained() -> Vocabulary:
    return Trained(200).obtain(LINES)


@pytest.fixture
def folder(trained: Vocabulary, tmp_path: Path) -> Path:
    trained.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_a_trained_vocabulary_is_lower_case_wordpiece_with_specials_first(trained: Vocabulary) -> None:
    assert trained.strings[:5] == list(SPECIALS.values())
    assert trained.special == {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    assert len(trained.strings) == 200
    assert any(len(piece) > 4 and piece.startswith("##") for piece in trained.strings)
    assert not any(piece.lower() != piece for piece in trained.strings[5:])
    assert (
        trained.tokenizer.encode("BANE", add_special_tokens=False).ids
        == trained.tokenizer.encode("[CLS]bane").ids[2:-1]
    )


def test_two_trainings_give_one_vocabulary_though_many_pieces_tie(trained: Vocabulary) -> None:
    again = Trained(200).obtain(reversed(LINES))
    assert again.tokenizer.to_str() == trained.tokenizer.to_str()


def test_the_alphabet_keeps_the_frequent_characters_and_the_lower_of_equals() -> None:
    characters, continuing = Trained(200, alphabet=4)._alphabet(["Ää bb b! \u4e00", "d c"])
    assert characters == ["!", "a", "b", "c"]
    assert continuing == ["##a", "##b", "##c"], "punctuation never continues a word"


def test_a_small_corpus_gives_a_smaller_vocabulary_than_asked_for() -> None:
    assert 100 <= len(Trained(5000).obtain(LINES[:60]).strings) < 5000
    with pytest.raises(ValueError, match=r"train:5000, as trained, has \d+ entries, fewer than 100: name train:SIZE"):
        Trained(5000).obtain(["a b c"])


def test_a_folder_gives_back_what_was_saved(trained: Vocabulary, folder: Path) -> None:
    found = tokenizer.find(str(folder)).obtain(())
    assert found.strings == trained.strings
    assert found.special == trained.special
    assert found.tokenizer.to_str() == trained.tokenizer.to_str()


def test_a_folder_with_vocab_txt_alone_is_read_as_bert_reads_it(trained: Vocabulary, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(trained.strings) + "\n", encoding="utf-8")
    found = tokenizer.find(str(tmp_path)).obtain(())
    assert found.strings == trained.strings
    for line in LINES[:50]:
        assert found.tokenizer.encode(line).ids == trained.tokenizer.encode(line).ids


def test_special_tokens_may_have_other_names(trained: Vocabulary, folder: Path) -> None:
    text = (folder / "tokenizer.json").read_text("utf-8").replace("[MASK]", "<mask>")
    (folder / "tokenizer.json").write_text(text, "utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text("utf-8"))
    settings["mask_token"] = {"content": "<mask>", "special": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    assert tokenizer.find(str(folder)).obtain(()).special["mask"] == trained.special["mask"]


def test_autotokenizer_loads_the_files_and_gives_the_same_ids(
    trained: Vocabulary, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoTokenizer

    (folder / "config.json").write_text('{"model_type": "bert", "architectures": ["BertForMaskedLM"]}', "utf-8")
    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert len(loaded) == len(trained.strings)
    assert loaded.convert_ids_to_tokens(list(range(len(loaded)))) == trained.strings
    for line in LINES[:50]:
        ids = trained.tokenizer.encode(line, add_special_tokens=False).ids
        assert loaded(line, add_special_tokens=False)["input_ids"] == ids
        assert loaded(line)["input_ids"] == [loaded.cls_token_id, *ids, loaded.sep_token_id]
    assert {role: getattr(loaded, f"{role}_token_id") for role in SPECIALS} == trained.special
    assert loaded.decode(loaded("bane lu.")["input_ids"], skip_special_tokens=True) == "bane lu."


def test_identity_follows_what_would_be_got(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    copy = Folder(tmp_path / "copy", "another")
    assert copy.identity() == Folder(folder, "one").identity()
    (copy.path / "tokenizer_config.json").write_text("{}", "utf-8")
    assert copy.identity() != Folder(folder, "one").identity()
    assert Trained(200).identity() != Trained(300).identity()


def spoil(folder: Path, name: str, content: str | None) -> None:
    for path in folder.iterdir():
        if content is None or path.name == name:
            path.unlink()
    if content is not None:
        (folder / name).write_text(content, "utf-8")


SPOILT = [
    ("", None, "holds neither tokenizer.json nor vocab.txt"),
    ("tokenizer.json", "{}", "cannot be read"),
    ("tokenizer_config.json", "{", "is not JSON"),
    ("tokenizer_config.json", '{"mask_token": "<mask>"}', r"has no <mask>"),
]


@pytest.mark.parametrize(("name", "content", "message"), SPOILT)
def test_a_folder_that_will_not_do_is_refused(folder: Path, name: str, content: str | None, message: str) -> None:
    spoil(folder, name, content)
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer.find(str(folder)).obtain(())
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(("entries", "message"), [(0, "has 5 entries, fewer than 100"), (200, "has no pad, unk, cls, sep, mask token")])
def test_a_vocabulary_must_be_one(tmp_path: Path, entries: int, message: str) -> None:
    names = [f"word{index}" for index in range(entries)]
    (tmp_path / "vocab.txt").write_text("\n".join(names or SPECIALS.values()), encoding="utf-8")
    with pytest.raises(ValueError, match=f"{message}.*name train:SIZE"):
        tokenizer.find(str(tmp_path)).obtain(())


@pytest.mark.parametrize("name", ["train:", "train:many", "train:99", "train:-5", "train:8_192"])
def test_a_size_is_a_whole_number(name: str) -> None:
    with pytest.raises(ValueError, match=r"SIZE must be a whole number of at least 100"):
        tokenizer.find(name)


@pytest.mark.parametrize("name", ["", "./nowhere", "/no/such/folder", "a/b/c", "two words"])
def test_what_is_no_hub_name_is_not_asked_for(name: str) -> None:
    with pytest.raises(ValueError, match="is no folder: name train:SIZE, a folder with"):
        tokenizer.find(name)


def test_a_hub_name_is_looked_up_here_first_and_its_absence_is_said(
    folder: Path, trained: Vocabulary, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def snapshot_download(name: str, revision: str | None, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append((name, revision, local_files_only))
        if name != "owner/here":
            raise ConnectionError("no network\nand a long story")
        return str(folder)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert tokenizer.find("owner/here@v1").obtain(()).strings == trained.strings
    assert asked == [("owner/here", "v1", True)]
    with pytest.raises(ValueError, match=r"bert-base-uncased cannot be had from the hub \(no network\): name train:"):
        tokenizer.find("bert-base-uncased")
    assert asked[1:] == [("bert-base-uncased", None, True), ("bert-base-uncased", None, False)]
