"""Obtaining and checking a tokenizer."""

from __future__ import annotations

import json
import re
import shutil
import sys
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.trainables.texts import sentences
from trainables.data import tokenizer
from trainables.data.tokenizer import Folder
from trainables.data.vocabulary import SPECIALS, Vocabulary
from trainables.data.wordpiece import Trained
from trainables.mlm import Config

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


SCRIPTS = {
    "Latin": "Schön größer ÉTÉ naïve Ærøskøbing, don't!",
    "Greek": "Ελλάδα καί ΆΝΘΡΩΠΟΣ",
    "Cyrillic": "Это ёлка й ЁЖ",
    "Devanagari": "कुल कूल कल हिन्दी क्\u200dष",
    "Chinese": "中文 abc中国，人民。",
    "Arabic": "العَرَبِيَّة می\u200cخواهم",
    "Thai": "ภาษาไทย บ้าน ที่",
    "Korean": "한국어 나라 말싸미",
    "Vietnamese": "Tiếng Việt được dùng",
    "Japanese": "日本語です カタカナ が",
    "Hebrew": "שָׁלוֹם עולם",
}
CASES = [None, True, False]


@pytest.fixture(scope="module")
def scripts() -> list[str]:
    """Entries for texts in eleven scripts, with and without their case and accents."""
    forms: set[str] = set()
    for text in SCRIPTS.values():
        for one in (text, text.lower()):
            forms.update(one)
            forms.update(unicodedata.normalize("NFD", one))
            forms.update(f"##{character}" for character in unicodedata.normalize("NFD", one) + one)
    words = {word for text in SCRIPTS.values() for word in (text + text.lower()).split()}
    return [*SPECIALS.values(), *sorted(form for form in forms | words if form.strip() and form != "##")]


def test_what_earlier_versions_read_otherwise_has_another_identity(trained: Vocabulary, tmp_path: Path) -> None:
    """Else runs on other tokens would count as runs of the same data."""
    (tmp_path / "vocab.txt").write_text("\n".join(trained.strings) + "\n", "utf-8")
    found = []
    for settings in ({}, {"do_lower_case": True}, {"strip_accents": False}, {"tokenize_chinese_chars": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
        found.append(tokenizer.find(str(tmp_path)).identity().endswith("read anew"))
    assert found == [False, False, True, True]
    trained.save(tmp_path / "saved")
    assert not tokenizer.find(str(tmp_path / "saved")).identity().endswith("read anew")


@pytest.mark.parametrize("lower", CASES)
@pytest.mark.parametrize("strip", CASES)
@pytest.mark.parametrize("chinese", CASES)
def test_vocab_txt_gives_the_tokens_of_autotokenizer_in_every_script(
    lower: bool | None, strip: bool | None, chinese: bool | None, scripts: list[str], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    (tmp_path / "vocab.txt").write_text("\n".join(scripts) + "\n", "utf-8")
    given = {"do_lower_case": lower, "strip_accents": strip, "tokenize_chinese_chars": chinese}
    settings = {key: value for key, value in given.items() if value is not None}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(settings | {"tokenizer_class": "BertTokenizer"}), "utf-8"
    )
    found = tokenizer.find(str(tmp_path)).obtain(())
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for script, text in SCRIPTS.items():
        encoding = found.tokenizer.encode(text)
        assert encoding.tokens[1:-1] == loaded.tokenize(text), script
        assert encoding.ids == loaded(text)["input_ids"], script


def test_vocab_txt_has_its_added_tokens_and_its_lines_without_their_ends(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    entries = [*SPECIALS.values(), *(f"w{index} \r" for index in range(100)), "a", "##b", "ab"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n", "utf-8")
    added = {"108": {"content": "w1ab", "special": False, "normalized": True, "__type": "AddedToken"}}
    settings = {"tokenizer_class": "BertTokenizerFast", "added_tokens_decoder": added}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    found = tokenizer.find(str(tmp_path)).obtain(())
    assert found.strings[5:8] == ["w0", "w1", "w2"]
    assert found.strings[108:] == ["w1ab"]
    loaded = AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    for text in ("w1ab w2 abb", "x w1 w1ab"):
        assert found.tokenizer.encode(text).ids == loaded(text)["input_ids"]


def test_vocab_txt_of_a_tokenizer_that_is_not_berts_is_refused(folder: Path, trained: Vocabulary) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("\n".join(trained.strings), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}', "utf-8")
    with pytest.raises(ValueError, match="a BertJapaneseTokenizer does not split words as BERT does: save it with"):
        tokenizer.find(str(folder)).obtain(())


WORDS = ["Schön schon schön Schon ärger", "कुल कूल कल", "Schon"] * 40


@pytest.mark.parametrize(
    ("name", "same"),
    [
        ("train:200", {("schön", "schon"), ("Schon", "schon"), ("कुल", "कल")}),
        ("train:200,cased", {("schön", "schon"), ("कुल", "कल")}),
        ("train:200,accents", {("Schon", "schon")}),
        ("train:200,accents,cased", set()),
    ],
)
def test_options_keep_case_and_accents(name: str, same: set[tuple[str, str]]) -> None:
    found = tokenizer.find(name).obtain([*LINES, *WORDS])

    def tokens(word: str) -> list[str]:
        return found.tokenizer.encode(word, add_special_tokens=False).tokens

    pairs = {("schön", "schon"), ("Schon", "schon"), ("कुल", "कल")}
    assert {pair for pair in pairs if tokens(pair[0]) == tokens(pair[1])} == same
    assert all("[UNK]" not in tokens(word) for line in WORDS for word in line.split())
    assert ("ä" in found.strings) == ("accents" in name)
    assert tokens("scho\u0308n") == tokens("schön"), "one character, however it is written"


def test_without_options_training_is_what_it_always_was(trained: Vocabulary) -> None:
    assert Trained(200).identity() == "train 200"
    assert json.loads(trained.tokenizer.to_str())["normalizer"] == {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    }
    identities = {tokenizer.find(f"train:200{options}").identity() for options in ("", ",cased", ",accents")}
    assert len(identities) == 3
    assert tokenizer.find("train:200,accents,cased") == tokenizer.find("train:200, cased,accents")


def test_an_alphabet_may_be_larger_and_the_remedy_names_one_that_is_enough() -> None:
    characters = [chr(0x4E00 + index) for index in range(1200)]
    lines = ["".join(characters)] * 2
    small = Trained(400)
    assert small.obtain(lines).tokenizer.encode("".join(characters)).tokens.count("[UNK]") == 1200 - 100
    remedy = small.remedy(lines)
    better = remedy.partition(": use ")[2]
    assert better == "train:8192,alphabet=1199"
    found = tokenizer.find(better).obtain(lines)
    assert found.tokenizer.encode("".join(characters)).tokens.count("[UNK]") == 1
    assert Trained(400).remedy(["".join(characters[:300])]).endswith(": use train:2048")


def test_where_the_alphabet_is_enough_the_remedy_is_another() -> None:
    assert "more than 100 characters are unknown as a whole" in Trained(400).remedy(["ab" * 51])
    assert "give more text" in Trained(400).remedy(["ab" * 40, "中" * 200])
    assert "falls back on bytes" in Folder(Path(), "it").remedy([])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("train:200,case", "no option 'case'; did you mean cased?"),
        ("train:200,accent", "no option 'accent'; did you mean accents?"),
        ("train:200,alphabet", "alphabet=N must be a whole number below half of 200"),
        ("train:200,alphabet=100", "alphabet=N must be a whole number below half of 200"),
        ("train:200,xyz", "no option 'xyz'; there are cased, accents and alphabet=N"),
        ("train:200,", "no option ''; there are"),
        ("train:200,cased=yes", "no option 'cased=yes'; did you mean cased?"),
    ],
)
def test_an_option_that_there_is_not_is_refused_with_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        tokenizer.find(name)


def test_entries_are_counted_without_the_hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(name: str, local_files_only: bool, **_: object) -> str:
        assert local_files_only
        raise FileNotFoundError(name)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    assert tokenizer.entries(str(folder)) == 200
    assert tokenizer.entries("bert-base-uncased") is tokenizer.entries("train:300") is tokenizer.entries("./no") is None
    with pytest.raises(tokenizer.NotHere, match="bert-base-uncased is not on this machine"):
        tokenizer.find("bert-base-uncased", ask=False)
    assert [
        Config.model_validate({"data": {"tokenizer": name}}).vocabulary
        for name in (str(folder), "train:300", "train:300,cased", "train:300,alphabet=120", "bert-base-uncased")
    ] == [200, 300, 300, 300, 30_522]


def spoil(folder: Path, name: str, content: str | None) -> None:
    for path in folder.iterdir():
        if content is None or path.name == name:
            path.unlink()
    if content is not None:
        (folder / name).write_text(content, "utf-8")


SPOILT = [
    ("", None, "has neither tokenizer.json nor vocab.txt"),
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


@pytest.mark.parametrize(
    ("entries", "message"), [(0, "has 5 entries, fewer than 100"), (200, "has no pad, unk, cls, sep, mask token")]
)
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
    with pytest.raises(ValueError, match="is not a folder: name train:SIZE, a folder with"):
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
    with pytest.raises(
        ValueError, match=r"cannot get data.tokenizer bert-base-uncased from the hub \(no network\): name train:"
    ):
        tokenizer.find("bert-base-uncased")
    assert asked[1:] == [("bert-base-uncased", None, True), ("bert-base-uncased", None, False)]
