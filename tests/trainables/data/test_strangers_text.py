"""Text, tokenizers and prepared arrays that somebody made to do harm, or that a disk has damaged."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.trainables.texts import sentences, write_documents
from trainables import limits
from trainables.data import batches, corpus, formats, preparation, tokenizer, vocabulary
from trainables.data.batches import Prepared, prepare
from trainables.data.wordpiece import Trained
from trainables.settings.config import DataConfig

Harm = Callable[[Path], Any]
DEEP = "[" * 50_000 + "]" * 50_000


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_documents(folder / "a.txt", 200)
    return folder


def settings(folder: Path, **more: Any) -> DataConfig:
    return DataConfig(corpus=f"files:{folder}/*", **{"tokenizer": "train:200", "block": 16, "held_out": 0.1, **more})


# What a cache holds


@pytest.fixture(scope="module")
def made(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one preparation; to be copied."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SWEEPER_CACHE", str(cache))
        prepare(settings(text))
    return cache


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flipped(name: str) -> Harm:
    def harm(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)

    return harm


def replaced(name: str, change: Callable[[Any], Any]) -> Harm:
    """Another array, which is none the less a sound .npy."""
    return lambda folder: np.save(folder / name, change(np.load(folder / name)), allow_pickle=True)


def forged(harm: Harm) -> Harm:
    """With checksums of what is there, as somebody would write them who means it."""

    def both(folder: Path) -> None:
        harm(folder)
        (folder / preparation.MANIFEST).write_text(json.dumps(preparation.digests(folder)), "utf-8")

    return both


def linked(name: str) -> Harm:
    def harm(folder: Path) -> None:
        kept = folder.parent / "elsewhere"
        (folder / name).rename(kept)
        (folder / name).symlink_to(kept)

    return harm


def piped(folder: Path) -> None:
    (folder / "tokens.npy").unlink()
    os.mkfifo(folder / "tokens.npy")


def told(**changes: Any) -> Harm:
    def harm(folder: Path) -> None:
        path = folder / "prepared.json"
        path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")

    return harm


def instead(folder: Path) -> None:
    """A link to a folder of somebody's, where that of the cache is to be."""
    victim = folder.with_name("victim")
    folder.rename(victim)
    (victim / preparation.MANIFEST).unlink()
    folder.symlink_to(victim)


def as_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"")


def written(name: str, content: str) -> Harm:
    return lambda folder: (folder / name).write_text(content, "utf-8")


EVERY = [
    *(f"{name}.npy" for name in preparation.TRAIN_ARRAYS),
    *(f"{part}.{name}.npy" for part in ("val", "test") for name in preparation.EVALUATION_ARRAYS),
    *("prepared.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"),
]
DAMAGE: list[tuple[Harm, str]] = [
    *((flipped(name), f"is damaged ({name} has changed)") for name in EVERY),
    (replaced("tokens.npy", np.zeros_like), "tokens.npy has changed"),
    (replaced("tokens.npy", lambda array: array + 60_000), "tokens.npy has changed"),
    (replaced("val.labels.npy", lambda array: array[::-1]), "val.labels.npy has changed"),
    (replaced("test.labels.npy", lambda array: array * 0 + 7), "test.labels.npy has changed"),
    (replaced("tokens.npy", lambda array: array.astype(object)), "tokens.npy has changed"),
    (lambda folder: os.truncate(folder / "tokens.npy", 200), "tokens.npy has changed"),
    (lambda folder: (folder / "rows.npy").unlink(), "rows.npy has changed"),
    (lambda folder: (folder / "more.npy").write_bytes(b"x"), "more.npy has changed"),
    (lambda folder: (folder / "more\x1b[2J").touch(), "more\\x1b"),
    (linked("val.inputs.npy"), "is a link"),
    (piped, "neither a file nor a folder"),
    (instead, "is a link"),
    (as_a_file, "has no checksums"),
    (lambda folder: (folder / preparation.MANIFEST).unlink(), "has no checksums (an earlier version wrote it)"),
    (written(preparation.MANIFEST, "{"), "is not JSON"),
    (written(preparation.MANIFEST, "[]"), "is not a JSON object"),
    (written(preparation.MANIFEST, DEEP), "nested more than 100 deep"),
    (written(preparation.MANIFEST, "{}"), "has changed)"),
    (forged(replaced("tokens.npy", lambda array: array * 0 + 60_000)), "tokens has a number beyond 200"),
    (forged(replaced("tokens.npy", lambda array: array.astype(object))), "Python objects in dtype"),
    (forged(replaced("tokens.npy", lambda array: array.astype(np.float64))), "tokens is float64 of shape"),
    (forged(replaced("tokens.npy", lambda array: array[:-1])), ": wrong type or shape"),
    (forged(replaced("rows.npy", lambda array: array + 10**6)), "rows has a number beyond"),
    (forged(replaced("rows.npy", lambda array: -array - 1)), "rows has a number beyond"),
    (forged(replaced("unigram.npy", lambda array: array[:5])), "unigram is float64 of shape (5,)"),
    (forged(replaced("val.inputs.npy", lambda array: array - 5000)), "val.inputs has a number beyond 200"),
    (forged(replaced("test.labels.npy", lambda array: array + 5000)), "test.labels has a number beyond 200"),
    (forged(replaced("val.positions.npy", lambda array: array * 1000)), "val.positions has a number beyond"),
    (forged(replaced("val.masked.npy", lambda array: array.astype(np.int8))), "val.masked is int8"),
    (forged(lambda folder: os.truncate(folder / "tokens.npy", 300)), "is damaged ("),
    (forged(written("tokens.npy", "no array")), "is damaged ("),
    (forged(told(vocab_size=10**9)), "prepared.json: invalid vocabulary"),
    (forged(told(block=0)), "is damaged ("),
    (forged(told(mask_id=200)), "prepared.json: invalid special tokens"),
    (forged(told(facts=3)), "prepared.json: invalid special tokens"),
    (forged(told(scheme={"x": 1})), "is damaged ("),
    (forged(written("prepared.json", DEEP)), "nested more than 100 deep"),
    (forged(lambda folder: (folder / "prepared.json").unlink()), "prepared.json is missing"),
    (forged(lambda folder: (folder / "val.seen.npy").unlink()), "val.seen.npy is missing"),
]


@pytest.mark.parametrize(("harm", "message"), DAMAGE)
def test_what_the_cache_holds_is_made_anew_where_it_is_damaged(
    text: Path, made: Path, tmp_path: Path, harm: Harm, message: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    monkeypatch.setenv("SWEEPER_CACHE", str(cache))
    folder = next(path for path in cache.iterdir() if path.is_dir())
    sound = contents(folder)
    harm(folder)
    found = prepare(settings(text))
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert err.endswith(": preparing it again\n")
    assert "\x1b" not in err
    assert (found.folder, found.fingerprint) == (folder, folder.name[:32])
    assert not folder.is_symlink()
    assert contents(folder) == sound
    prepare(settings(text))
    assert capsys.readouterr().err == ""


def test_nothing_of_what_a_link_leads_to_is_touched(
    text: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    monkeypatch.setenv("SWEEPER_CACHE", str(cache))
    folder = next(path for path in cache.iterdir() if path.is_dir())
    instead(folder)
    victim = contents(cache / "victim")
    prepare(settings(text))
    assert contents(cache / "victim") == victim


def test_checksums_are_looked_at_once_a_process(
    text: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    monkeypatch.setenv("SWEEPER_CACHE", str(cache))
    asked: list[Path] = []
    digests = preparation.digests
    monkeypatch.setattr(batches, "digests", lambda folder: asked.append(folder) or digests(folder))
    first = prepare(settings(text))
    assert batches.is_prepared(settings(text))
    again = prepare(settings(text))
    assert asked == [first.folder]
    assert again.fingerprint == first.fingerprint
    flipped("tokens.npy")(first.folder)  # the same size, another time
    assert not batches.is_prepared(settings(text))


def test_a_running_trial_keeps_what_it_has_of_a_cache_that_is_made_anew(
    text: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = Path(shutil.copytree(made, tmp_path / "cache"))
    monkeypatch.setenv("SWEEPER_CACHE", str(cache))
    held: Prepared = prepare(settings(text))
    tokens = held.tokens.tolist()
    flipped("prepared.json")(held.folder)
    prepare(settings(text))
    assert held.tokens.tolist() == tokens


# Corpora


def packed(opener: Any, size: int) -> bytes:
    content = io.BytesIO()
    with opener(content, "wb") as file:
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
    return content.getvalue()


def table(rows: list[str]) -> bytes:
    content = io.BytesIO()
    parquet.write_table(pa.table({"text": rows}), content, compression="zstd")
    return content.getvalue()


def stream(rows: list[Any]) -> bytes:
    content = io.BytesIO()
    given = pa.table({"text": rows})
    with pa.ipc.new_stream(content, given.schema) as writer:
        writer.write_table(given)
    return content.getvalue()


def claiming() -> bytes:
    """A stream whose one buffer of text is said to have 2^60 bytes."""
    whole = stream(["word " * 100])
    return whole.replace((500).to_bytes(8, "little"), (2**60).to_bytes(8, "little"))


BOMBS: list[tuple[str, Callable[[], bytes | str], str]] = [
    ("a.txt.gz", lambda: packed(gzip.open, 20 * 2**20), "a.txt.gz unpacks to more than 100 times its size"),
    ("a.jsonl.gz", lambda: packed(gzip.open, 20 * 2**20), "unpacks to more than"),
    ("a.txt.xz", lambda: packed(lzma.open, 20 * 2**20), "a.txt.xz unpacks to more than 100 times its size"),
    ("a.csv.xz", lambda: packed(lzma.open, 20 * 2**20), "a.csv.xz unpacks to more than 100 times its size"),
    ("a.parquet", lambda: table(["word " * 2**20] * 4), "claims to unpack to more than 100 times its size"),
    ("a.parquet", lambda: table(["x" * 2**10] * 2**14), "unpacks to more than 100 times its size"),
    ("a.parquet", lambda: table(["word"])[:-4] + b"\xff\xff\xff\x7f", "a.parquet is damaged"),
    ("a.arrow", claiming, "a.arrow"),
    ("a.jsonl", lambda: DEEP, "a.jsonl, line 1 is not JSON: it is nested more than 100 deep"),
    ("a.jsonl", lambda: '{"text": ' + "[" * 150 + "]" * 150 + "}", "it is nested more than 100 deep"),
    ("a.jsonl", lambda: '{"text": ' + "9" * 5000 + "}", "a.jsonl, line 1 is not JSON: Exceeds the limit"),
    ("a.txt", lambda: "word " * 2**20, "the text exceeds 0.0 GiB, a third of the memory here"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BOMBS)
def test_a_bomb_is_one_line(
    tmp_path: Path, name: str, content: Callable[[], bytes | str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limits are as they are but for their size: a tenth of a gigabyte is too long for a test to write."""
    given = content()
    (tmp_path / name).write_bytes(given if isinstance(given, bytes) else given.encode())
    monkeypatch.setattr(limits, "FREE", 2**20)
    monkeypatch.setattr(limits, "memory", lambda: 3 * 2**22 if name == "a.txt" else 2**40)
    begun = time.monotonic()
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        corpus.documents(corpus.find(f"files:{tmp_path}/{name}", tmp_path))
    assert message in str(caught.value)
    assert time.monotonic() - begun < 20


def test_the_limits_are_what_the_readme_says() -> None:
    assert (limits.DEPTH, limits.RATIO, limits.FREE, limits.LONGEST_WORD) == (100, 100, 100 * 2**20, 10_000)


def test_what_packs_well_within_the_first_hundred_megabytes_is_read(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.txt.gz", "wb") as file:
        file.write(b"the same line\n" * 200_000)
    assert os.path.getsize(tmp_path / "a.txt.gz") * limits.RATIO < 2_800_000
    assert len(formats.text(tmp_path / "a.txt.gz", limits.Room())) == 2_800_000


def test_a_word_without_end_is_nothing_to_learn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 300,000 characters, which took half a minute to train on: it is unknown, as one of a hundred characters is."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    documents = write_documents(tmp_path / "a.txt", 200)
    word = "".join(chr(ord("a") + (i * i * 7 + i // 3) % 26) for i in range(1000)) * 300
    (tmp_path / "a.txt").write_text("\n\n".join([*documents, word, *sentences(9, seed=3)]), "utf-8")
    begun = time.monotonic()
    found = prepare(settings(tmp_path))
    assert time.monotonic() - begun < 20
    assert any(part["unknown"] for part in found.facts["parts"].values())


def test_only_words_beyond_the_limit_are_left_out_of_what_is_learned() -> None:
    spaceless = "\u4e00\u4e8c\u4e09" * 5000
    lines = ["as it is", "x" * 10_000, "y" * 10_001, f"before {'z' * 20_000} after", spaceless]
    assert Trained(200)._learnable(lines) == ["as it is", "x" * 10_000, "", "before after", spaceless]


# Tokenizers


def tokenizer_of(change: Callable[[dict[str, Any]], Any]) -> Harm:
    def harm(folder: Path) -> None:
        described = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        change(described)
        (folder / "tokenizer.json").write_text(json.dumps(described), "utf-8")

    return harm


def large(name: str) -> Harm:
    def harm(folder: Path) -> None:
        (folder / "tokenizer.json").unlink()
        with (folder / name).open("wb") as file:
            file.truncate(limits.TOKENIZER + 1)

    return harm


def many_lines(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_bytes(b"a\n" * (limits.ENTRIES + 1))


def no_token(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    entries = [*vocabulary.SPECIALS.values(), *map(str, range(200))]
    (folder / "vocab.txt").write_text("\n".join(entries), "utf-8")
    (folder / "tokenizer_config.json").write_text('{"added_tokens_decoder": {"7": 3}}', "utf-8")


def growing(described: dict[str, Any]) -> None:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
    described["normalizer"] = {"type": "Sequence", "normalizers": [step] * 40}


TOKENIZERS: list[tuple[Harm, str]] = [
    (written("tokenizer.json", '{"model": ' + DEEP + "}"), "nested more than 100 deep"),
    (written("tokenizer.json", "{"), "is not JSON"),
    (written("tokenizer.json", '{"model": {}}'), "cannot be read"),
    (written("tokenizer_config.json", DEEP), "nested more than 100 deep"),
    (tokenizer_of(growing), "its normalizer turns one character into more than 10,000"),
    (
        tokenizer_of(lambda it: it["model"]["vocab"].update(zz=2**31)),
        "has the id 2147483648; the limit is 2,097,152 entries",
    ),
    (tokenizer_of(lambda it: it["model"]["vocab"].update(zz=300)), "has gaps in its ids"),
    (tokenizer_of(lambda it: it["model"]["vocab"].update(zz=-1)), "has the id -1"),
    (tokenizer_of(lambda it: it["added_tokens"].append({"id": 2**32 - 1, "content": "x"})), "has the id 4294967295"),
    (tokenizer_of(lambda it: it["model"].update(vocab=3)), "cannot be read"),
    (tokenizer_of(lambda it: it.update(padding={"strategy": {"Fixed": 10**12}, "direction": "Right", "pad_id": 0,
                                                "pad_type_id": 0, "pad_token": "[PAD]", "pad_to_multiple_of": None})),
     ""),
    (large("tokenizer.json"), "exceeds 64 MiB"),
    (large("vocab.txt"), "exceeds 64 MiB"),
    (large("tokenizer.model"), "exceeds 64 MiB"),
    (many_lines, "has more than 2,097,152 lines"),
    (no_token, "added_tokens_decoder of tokenizer_config.json cannot be read"),
]  # fmt: skip


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words") / "tokenizer"
    Trained(200).obtain(sentences(300)).save(folder)
    return folder


@pytest.mark.parametrize(("harm", "message"), TOKENIZERS)
def test_a_hostile_tokenizer_is_one_line_or_harmless(words: Path, tmp_path: Path, harm: Harm, message: str) -> None:
    folder = Path(shutil.copytree(words, tmp_path / "tokenizer"))
    harm(folder)

    def obtained() -> int:
        source = tokenizer.find(str(folder))
        source.identity()
        return len(source.obtain(()).tokenizer.encode("ba ne", add_special_tokens=False))

    if not message:
        assert obtained() < 10
        return
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        obtained()
    assert message in str(caught.value)


@pytest.mark.parametrize("size", ["99999999999999999999", "3000000"])
def test_a_vocabulary_beyond_any_is_refused(size: str) -> None:
    with pytest.raises(ValueError, match="SIZE must be at most 2,097,152"):
        Trained.parse(f"train:{size}")
