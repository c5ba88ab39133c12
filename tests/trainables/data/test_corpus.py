"""Sources, documents, parts."""

from __future__ import annotations

import builtins
import csv
import gzip
import importlib.resources
import io
import json
import lzma
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow
import pyarrow.ipc
import pytest
from pyarrow import parquet

from tests.trainables.texts import sentences, write_documents
from trainables.data import corpus
from trainables.settings.config import DataConfig

CONFIG = DataConfig(held_out=0.2)


@dataclass(frozen=True)
class Given:
    """A source of texts made by a test."""

    given: tuple[str, ...]

    def identity(self) -> str:
        return "given"

    def texts(self) -> Iterator[str]:
        yield from self.given


def texts(documents: list[corpus.Document]) -> list[str]:
    return [document.text for document in documents]


def read(pattern: object) -> list[str]:
    return list(corpus.find(f"files:{pattern}", Path("unused")).texts())


def test_parts_are_disjoint_and_a_text_keeps_its_part_when_others_come() -> None:
    some, more = sentences(300), sentences(900)
    small, large = (corpus.divide(CONFIG, Given(tuple(given)), None, None) for given in (some, more))
    assert sorted(texts(small.train) + texts(small.val) + texts(small.test)) == sorted(some)
    for part in ("train", "val", "test"):
        assert set(texts(getattr(small, part))) <= set(texts(getattr(large, part)))
    assert 120 < len(large.val) < 240
    assert 120 < len(large.test) < 240


def test_a_larger_held_out_share_keeps_what_was_held_out() -> None:
    given = Given(tuple(sentences(500)))
    small, large = (corpus.divide(DataConfig(held_out=share), given, None, None) for share in (0.1, 0.3))
    assert set(texts(small.val)) < set(texts(large.val))
    assert set(texts(small.test)) < set(texts(large.test))


def test_equal_texts_lie_in_one_part_whatever_their_case_and_spacing() -> None:
    given = sentences(200)
    twice = Given(tuple(given + [text.upper().replace(" ", "  ") for text in given]))
    parts = corpus.divide(CONFIG, twice, None, None)
    keys = [{text.lower().replace("  ", " ") for text in texts(part)} for part in (parts.train, parts.val, parts.test)]
    assert sum(map(len, keys)) == len(set().union(*keys)) == len({text.lower() for text in given})


def test_the_cap_gives_the_rest_of_a_held_out_range_back_to_train_and_splits_no_copies() -> None:
    given = tuple(sentences(300) * 2)
    free = corpus.divide(CONFIG, Given(given), None, None)
    capped = corpus.divide(DataConfig(held_out=0.2, max_held_out=100), Given(given), None, None)
    words = sum(document.words for document in capped.val)
    assert 100 <= words < 130
    assert texts(capped.val) == texts(free.val)[: len(capped.val)]
    assert len(capped.train) + len(capped.val) + len(capped.test) == len(given)
    assert not set(texts(capped.train)) & set(texts(capped.val) + texts(capped.test))


def test_given_files_replace_a_part_and_their_texts_leave_the_others(tmp_path: Path) -> None:
    given = sentences(300)
    free = corpus.divide(CONFIG, Given(tuple(given)), None, None)
    outside = ["Something else altogether.", free.train[0].text, free.test[0].text]
    parts = corpus.divide(CONFIG, Given(tuple(given)), Given(tuple(outside)), None)
    assert texts(parts.val) == outside[:2], "what the test part has, the test part keeps"
    assert texts(parts.test) == texts(free.test)
    assert set(texts(free.val)) <= set(texts(parts.train)), "the hash range of the replaced part goes to train"
    assert free.train[0].text not in texts(parts.train)
    assert parts.shared == 2


def table(column: str, values: list[Any]) -> bytes:
    """A parquet file of one column."""
    file = io.BytesIO()
    parquet.write_table(pyarrow.table({column: values}), file)
    return file.getvalue()


def write_saved(folder: Path, shards: list[list[str]]) -> None:
    """A folder as `save_to_disk` of `datasets` leaves it, as far as it is read."""
    folder.mkdir()
    names = [f"data-{index:05d}-of-{len(shards):05d}.arrow" for index in range(len(shards))]
    for name, texts in zip(names, shards, strict=True):
        batch = pyarrow.table({"text": texts})
        with pyarrow.ipc.new_stream(folder / name, batch.schema) as file:
            file.write_table(batch)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}), "utf-8")


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_txt_and_jsonl_plain_and_packed_give_the_same_documents(tmp_path: Path, suffix: str) -> None:
    given = write_documents(tmp_path / "plain.txt", 20)
    opener = {"": builtins.open, ".gz": gzip.open, ".xz": lzma.open}[suffix]
    with opener(tmp_path / f"a.txt{suffix}", "wb") as file:
        file.write(b"\xef\xbb\xbf" + "\r\n\r\n".join(given).replace("\n", "\r\n").encode())
    with opener(tmp_path / f"a.jsonl{suffix}", "wb") as file:
        file.write("\n".join(json.dumps({"text": text, "other": 1}) for text in given).encode() + b"\n\n")
    assert read(tmp_path / f"a.jsonl{suffix}") == given
    assert read(tmp_path / f"a.txt{suffix}") == given
    (tmp_path / f"a.txt{suffix}").rename(tmp_path / f"babylm.train{suffix}")
    assert read(tmp_path / f"babylm.train{suffix}") == given


def test_lines_without_blank_ones_make_documents_of_a_thousand_file_by_file(tmp_path: Path) -> None:
    for name, count in (("b", 2500), ("a", 10)):
        (tmp_path / f"{name}.txt").write_text("".join(f"{name} {index}\n" for index in range(count)), "utf-8")
    found = read(tmp_path / "*.txt")
    assert [len(text.split("\n")) for text in found] == [10, 1000, 1000, 500]
    assert found[0].startswith("a 0\n"), "files come in the order of their paths"


def test_identity_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    for folder in ("here", "there", "other"):
        (tmp_path / folder).mkdir()
        write_documents(tmp_path / folder / "a.txt", 5, seed=folder == "other")
    here, there, other = (
        corpus.Files.find(f"{tmp_path}/{folder}/*", "data.corpus").identity() for folder in ("here", "there", "other")
    )
    assert here == there != other


def test_clean_drops_links_addresses_and_single_letters() -> None:
    turns = [
        ["hi there", "a a a a a", "?"],
        ["k"],
        ["see https://example.org/x?y=1 or mail me.you@example.com now", "I am u.s. born... yes.no"],
    ]
    assert corpus.clean([[{"text": text} for text in turn] for turn in turns]) == [
        "hi there",
        "see or mail now I am u.s. born... yes.no",
    ]


def test_embedded_drops_repeated_and_unanswered_conversations(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said = [["Hello you", "how are you"], ["hello you", "How are you"], ["Hello?"], ["Well then", "a", "bye now"]]
    stored = {str(at): {"messages": [[{"text": text}] for text in turns]} for at, turns in enumerate(said)}
    (tmp_path / "dataset.json").write_text(json.dumps(stored), encoding="utf-8")
    monkeypatch.setattr(importlib.resources, "files", lambda name: tmp_path)
    assert list(corpus.find("embedded", tmp_path).texts()) == ["Hello you\nhow are you", "Well then\nbye now"]


def test_embedded_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib.resources, "files", missing)
    with pytest.raises(ValueError, match=r"pip install 'sweeper\[embedded\]'"):
        corpus.find("embedded", Path()).identity()


def test_the_real_embedded_corpus() -> None:
    pytest.importorskip("chitchat_dataset")
    found = corpus.documents(corpus.Embedded())
    assert 3900 < len(found) < 4100
    assert 2.2e6 < sum(document.words for document in found) < 2.5e6
    assert not any("https:" in document.text for document in found)


class FakeRows:
    """As much of a datasets.Dataset as is used."""

    def __init__(self, rows: list[str], column: str = "text") -> None:
        self.rows, self.column_names = rows, [column]

    def select_columns(self, names: list[str]) -> FakeRows:
        return self

    def iter(self, size: int) -> Iterator[dict[str, list[str]]]:
        for begin in range(0, len(self.rows), size):
            yield {"text": self.rows[begin : begin + size]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub with one data set, whose newest commit and rows a test may change."""
    state = SimpleNamespace(commit="c" * 40, rows=FakeRows(["one line"] * 1500), asked=[])

    class Api:
        def dataset_info(self, name: str, revision: str) -> SimpleNamespace:
            return SimpleNamespace(sha=state.commit)

    def load_dataset(name: str, revision: str, split: str) -> FakeRows:
        state.asked.append((name, revision, split))
        return state.rows

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(HfApi=Api))
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return state


def test_hub_rows_are_lines_or_records_of_the_commit_of_the_first_use(hub: SimpleNamespace, tmp_path: Path) -> None:
    source = corpus.find("hub:owner/name", tmp_path)
    assert [text.count("\n") + 1 for text in source.texts()] == [1000, 500]
    hub.rows = FakeRows(["a record\nof two lines", "another"])
    assert list(source.texts()) == ["a record\nof two lines", "another"]
    first, hub.commit = hub.commit, "d" * 40
    assert corpus.find("hub:owner/name", tmp_path).identity() == f"hub owner/name {first}"
    assert corpus.find("hub:owner/name@v2", tmp_path).identity() == f"hub owner/name {hub.commit}"
    assert corpus.find(f"hub:name@{'e' * 40}", tmp_path).identity() == f"hub name {'e' * 40}"
    assert hub.asked[0] == ("owner/name", first, "train")


def test_hub_errors_are_one_line_with_alternatives(
    hub: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.rows = FakeRows(["x"], column="sentence")
    with pytest.raises(ValueError, match="has no column text, only sentence"):
        list(corpus.find("hub:owner/name", tmp_path).texts())

    def offline(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no network\nand a long story")

    monkeypatch.setattr(sys.modules["datasets"], "load_dataset", offline)
    with pytest.raises(ValueError, match=r"\(no network\): name files:GLOB or embedded"):
        list(corpus.find("hub:owner/name", tmp_path).texts())
    monkeypatch.setattr(sys.modules["huggingface_hub"].HfApi, "dataset_info", offline)
    with pytest.raises(ValueError, match=r"\(no network\): name files:GLOB or embedded"):
        corpus.find("hub:owner/another", tmp_path)


BAD_FILES = [
    ("a.txt", b"fine\n\xff\xfe", r"a\.txt is not UTF-8 at byte 5"),
    ("a.txt.gz", b"not packed", r"a\.txt\.gz is damaged"),
    ("a.txt.xz", lzma.compress(b"text" * 99)[:-20], r"a\.txt\.xz is damaged"),
    ("a.jsonl", b'{"text": "fine"}\n\n{"other": 1}\n', r"a\.jsonl, line 3 has no text"),
    ("a.jsonl", b'{"text": 1}\n', r"line 1 has no text"),
    ("a.jsonl", b'{"text": "fine"}\n["text"]\n', r"line 2 has no text"),
    ("a.jsonl", b'{"text": "fi\n', r"line 1 is not JSON"),
    ("a.jsonl", b'{"text": "\\ud800"}\n', r"line 1 holds a lone surrogate, which is not a character"),
    ("a.md", b"text\n", r"a\.md is not \.txt"),
    ("a.parquet.gz", b"text\n", r"a\.parquet\.gz is not \.txt"),
    ("a.csv", b"id;text\n1;fine\n", r"a\.csv has no column text, only id;text"),
    ("a.csv", b"text,id\nfine,1\none, two,2\n", r'line 3 has 3 fields, the first line 2: .* needs "quotes"'),
    ("a.csv", b'text\n"fine', r"line 2 is not CSV"),
    ("a.parquet", b"no table", r"a\.parquet is damaged"),
    ("a.parquet", table("sentence", ["fine"]), r"a\.parquet has no column text, only sentence"),
    ("a.parquet", table("text", [1, 2]), r"a\.parquet, row 1: text is 1, not a string"),
    ("a.arrow", b"", r"a\.arrow is damaged"),
]


def test_names_of_files_are_taken_literally_where_there_is_one(tmp_path: Path) -> None:
    for folder in ("[2024]", "2", "a*b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"in {folder}", "utf-8")
    assert read(tmp_path / "[2024]" / "a.txt") == read(tmp_path / "[2024]" / "*.txt") == ["in [2024]"]
    assert read(tmp_path / "[2-4]" / "a.txt") == ["in 2"], "a glob where there is nothing of that name"
    assert read(tmp_path / "a*b" / "*") == ["in a*b"]
    assert read(tmp_path / "**" / "a.txt") == ["in 2", "in [2024]", "in a*b"]


def test_tables_have_the_documents_that_the_same_rows_have_on_the_hub(hub: SimpleNamespace, tmp_path: Path) -> None:
    given = write_documents(tmp_path / "plain.txt", 20)
    rows = {"records": [*given, ""], "lines": [line for text in given for line in (*text.split("\n"), "")]}
    for name, texts in rows.items():
        (tmp_path / f"{name}.parquet").write_bytes(table("text", [text or None for text in texts]))
        with gzip.open(tmp_path / f"{name}.csv.gz", "wt", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([("id", "text"), *enumerate(texts)])
        half = len(texts) // 2
        write_saved(tmp_path / name, [texts[:half], texts[half:]])
        hub.rows = FakeRows(texts)
        expected = [text for text in corpus.find("hub:owner/name", tmp_path).texts() if text]
        assert expected == given
        for place in (f"{name}.parquet", f"{name}.csv.gz", name, f"{name}/*.arrow"):
            assert [text for text in read(tmp_path / place) if text] == given, place


def test_a_csv_of_one_column_may_part_documents_by_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('text\none\n"two, three"\n\nfour\n', "utf-8")
    assert read(tmp_path / "a.csv") == ["one\ntwo, three", "four"]


def test_what_datasets_saves_is_read_without_it(tmp_path: Path) -> None:
    import datasets

    rows = [{"text": text, "id": index} for index, text in enumerate(write_documents(tmp_path / "plain.txt", 20))]
    train, other = datasets.Dataset.from_list(rows[:15]), datasets.Dataset.from_list(rows[15:])
    train.save_to_disk(tmp_path / "alone", num_shards=2)
    datasets.DatasetDict({"train": train, "validation": other}).save_to_disk(tmp_path / "both")
    datasets.DatasetDict({"validation": other}).save_to_disk(tmp_path / "no-train")
    assert read(tmp_path / "alone") == read(tmp_path / "both") == [row["text"] for row in rows[:15]]
    assert read(tmp_path / "both" / "validation") == [row["text"] for row in rows[15:]]
    with pytest.raises(ValueError, match=r"no-train has no split train, only validation"):
        read(tmp_path / "no-train")


@pytest.mark.parametrize("name", ["../a.arrow", "/etc/passwd", "b.arrow", "a.txt"])
def test_a_saved_dataset_names_no_files_but_its_own(tmp_path: Path, name: str) -> None:
    write_saved(tmp_path / "saved", [["fine"]])
    (tmp_path / "a.arrow").write_bytes(b"")
    (tmp_path / "saved" / "a.txt").write_bytes(b"")
    (tmp_path / "saved" / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}), "utf-8")
    with pytest.raises(ValueError, match=r"state\.json does not match the \.arrow files beside it"):
        read(tmp_path / "saved")


def test_a_folder_is_answered_with_globs_that_find_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "[in]").mkdir()
    for name in ("b.train", "c.txt.gz"):
        (tmp_path / "[in]" / name).write_bytes(gzip.compress(b"text") if name.endswith(".gz") else b"text")
    (tmp_path / "README").write_text("not a corpus", "utf-8")
    monkeypatch.chdir(tmp_path)
    for folder in (".", "[in]/", str(tmp_path)):
        with pytest.raises(ValueError, match=r"is a folder: name its files, as in files:") as caught:
            read(folder)
        for way in str(caught.value).partition(" as in ")[2].split(" or "):
            assert read(way.removeprefix("files:")) == ["text"], way
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"is a folder without \.txt"):
        read("empty")


@pytest.mark.parametrize(("name", "content", "message"), BAD_FILES)
def test_bad_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read(tmp_path / "*")
    assert "\n" not in str(caught.value)


BAD_NAMES = [
    ("files:nowhere/*.txt", "matches no file under"),
    ("files:/nowhere/*.txt", r"/nowhere/\*\.txt matches no file$"),
    ("files:", "matches no file"),
    ("embeded", "did you mean embedded"),
    ("file:a.txt", "did you mean files:GLOB"),
    ("hubs:a/b", "did you mean hub:NAME"),
    ("wikipedia", "not a known kind: did you mean"),
    ("hub:a b", "hub:OWNER/NAME"),
]


@pytest.mark.parametrize(("name", "message"), BAD_NAMES)
def test_bad_names_get_the_nearest_legal_one(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        corpus.find(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_part_is_files_or_nothing() -> None:
    assert corpus.find_part("validation", None) is None
    with pytest.raises(ValueError, match=r"data\.validation 'embedded' must be files:GLOB"):
        corpus.find_part("validation", "embedded")
