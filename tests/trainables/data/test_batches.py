"""Preparation, the cache, evaluation sets, batches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainables.texts import sentences, write_documents
from trainables.data import preparation
from trainables.data.batches import Batches, Prepared, prepare
from trainables.data.preparation import evaluation_set
from trainables.settings.config import DataConfig

BLOCK = 16


def settings(folder: Path, **changes: Any) -> DataConfig:
    base = {"corpus": f"files:{folder}/*.txt", "tokenizer": "train:200", "block": BLOCK, "held_out": 0.15}
    return DataConfig.model_validate(base | changes)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    write_documents(folder / "a.txt", 300, seed=1)
    write_documents(folder / "b.txt", 300, seed=2)
    return folder


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _use_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(cache))


@pytest.fixture
def prepared(text: Path) -> Prepared:
    return prepare(settings(text))


def words_of(prepared: Prepared) -> list[str]:
    """Words of the train part, put together again from its tokens."""
    words: list[str] = []
    for token, start in zip(prepared.tokens.tolist(), prepared.word_start.tolist(), strict=True):
        piece = prepared.token_strings[token]
        assert start != piece.startswith("##")
        if start:
            words.append(piece)
        else:
            words[-1] += piece.removeprefix("##")
    return words


def test_arrays_have_the_promised_shapes_and_say_the_text(prepared: Prepared, text: Path) -> None:
    n = len(prepared.tokens)
    assert prepared.block == BLOCK
    assert n % BLOCK == 0
    assert len(prepared.word_start) == len(prepared.document) == n
    assert isinstance(prepared.tokens, np.memmap)
    assert prepared.tokens.dtype == np.uint16
    assert prepared.word_start.dtype == np.bool_
    assert prepared.document.dtype == prepared.rows.dtype == np.int32
    assert prepared.vocab_size == len(prepared.token_strings) == len(prepared.eligible) == 200
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert [prepared.token_strings[index] for index in np.flatnonzero(~prepared.eligible)] == special
    assert (prepared.token_strings[prepared.mask_id], prepared.token_strings[prepared.pad_id]) == ("[MASK]", "[PAD]")

    whole = " ".join(path.read_text("utf-8") for path in sorted(text.iterdir())).lower().replace(".", " .").split()
    said = words_of(prepared)
    places = iter(whole)
    assert all(word in places for word in said[:-1]), "the train part's words, in the corpus' order"
    facts = prepared.facts["parts"]["train"]
    assert (facts["documents"], facts["tokens"]) == (prepared.document[-1] + 1, n)
    assert 0.6 * len(whole) < len(said) < 0.8 * len(whole)
    assert np.all(np.isin(np.diff(prepared.document), [0, 1]))
    assert np.all(prepared.word_start[1:][np.diff(prepared.document) == 1])


def test_unigram_counts_every_entry_once_more(prepared: Prepared) -> None:
    counts = np.bincount(prepared.tokens, minlength=200) + 1
    np.testing.assert_allclose(prepared.unigram, counts / counts.sum(), rtol=1e-12)
    assert prepared.unigram.dtype == np.float64


def test_every_block_comes_once_an_epoch_and_steps_stand_alone(prepared: Prepared) -> None:
    n = len(prepared.rows)
    size = 9 if n % 9 else 10  # some batch is to span two epochs
    batches = Batches(prepared, size, seed=3)
    in_turn = [batches.block_ids(step) for step in range(3 * n // size + 1)]
    sequence = np.concatenate(in_turn)
    for epoch in range(3):
        assert sorted(sequence[epoch * n : (epoch + 1) * n]) == list(prepared.rows)
    assert list(sequence[:n]) != list(sequence[n : 2 * n])
    for step in (len(in_turn) - 1, 0, n // size, 5):
        np.testing.assert_array_equal(Batches(prepared, size, seed=3).block_ids(step), in_turn[step])
        np.testing.assert_array_equal(batches.block_ids(step), in_turn[step])
    assert list(Batches(prepared, size, seed=4).block_ids(0)) != list(in_turn[0])


def test_a_batch_may_be_larger_than_an_epoch(prepared: Prepared) -> None:
    n = len(prepared.rows)
    ids = Batches(prepared, 3 * n + 1, seed=0).block_ids(0)
    assert set(Counter(ids[: 3 * n].tolist()).values()) == {3}


def test_a_batch_is_its_blocks(prepared: Prepared) -> None:
    batches = Batches(prepared, 8, seed=0)
    whole = batches.tokens(11)
    assert whole.shape == (8, BLOCK)
    assert whole.dtype == np.int64
    np.testing.assert_array_equal(whole, prepared.tokens.reshape(-1, BLOCK)[batches.block_ids(11)])


def test_evaluation_sets_have_the_promised_shapes(prepared: Prepared) -> None:
    val, test = prepared.evaluation("val"), prepared.evaluation("test")
    for chosen in (val, test):
        n, block = chosen.inputs.shape
        m = round(0.15 * n * block)
        assert block == BLOCK
        assert [len(each) for each in (chosen.positions, chosen.labels, chosen.masked, chosen.document)] == [m] * 4
        assert np.all(np.diff(chosen.positions) > 0)
        assert prepared.eligible[chosen.labels].all()
        assert np.all(np.diff(chosen.document) >= 0)
        outside = np.delete(chosen.inputs.reshape(-1), chosen.positions)
        assert not np.isin(outside, [prepared.mask_id]).any()
    size = min(len(val.positions), len(test.positions))
    assert np.mean(val.positions[:size] == test.positions[:size]) < 0.5, "each part has its own draw"


def test_a_part_selects_the_same_positions_whatever_stands_there() -> None:
    blocks, document = np.arange(3200).reshape(100, 32) % 50, np.zeros((100, 32), np.int32)
    none = np.zeros((100, 32), np.bool_)
    one = evaluation_set("val", blocks, document, none, none, np.ones(50, np.bool_), 4)
    two = evaluation_set("val", 99 - blocks, document, none, none, np.ones(100, np.bool_), 4)
    other = evaluation_set("test", blocks, document, none, none, np.ones(50, np.bool_), 4)
    np.testing.assert_array_equal(one.positions, two.positions)
    np.testing.assert_array_equal(one.masked, two.masked)
    assert not np.array_equal(one.positions, other.positions)


def test_selection_is_exact_even_and_only_of_eligible_positions() -> None:
    draw = np.random.default_rng(0)
    eligible = np.ones(100, np.bool_)
    eligible[:5] = False
    blocks = draw.integers(5, 100, (400, 32))
    blocks[:, ::3] = 1
    document = np.arange(400, dtype=np.int32)[:, None].repeat(32, 1)
    chosen = evaluation_set("val", blocks, document, document % 2 == 0, document % 3 == 0, eligible, 4)
    assert len(chosen.positions) == round(0.15 * 400 * 32)
    assert set(np.bincount(chosen.positions // 32)) == {4, 5}
    assert not np.any(chosen.positions % 32 % 3 == 0)
    np.testing.assert_array_equal(chosen.labels, blocks.reshape(-1)[chosen.positions])
    np.testing.assert_array_equal(chosen.document, chosen.positions // 32)
    np.testing.assert_array_equal(chosen.seen, chosen.document % 2 == 0)
    np.testing.assert_array_equal(chosen.initial, chosen.document % 3 == 0)
    share = np.bincount(chosen.positions % 32, minlength=32)[1::3]
    assert share.std() < 3 * np.sqrt(share.mean()), "uniform within the block"


def test_replacements_are_80_10_10_with_any_entry_of_the_vocabulary() -> None:
    blocks = np.full((2000, 32), 7)
    none = np.zeros((2000, 32), np.bool_)
    chosen = evaluation_set("test", blocks, np.zeros((2000, 32), np.int32), none, none, np.ones(1000, np.bool_), 4)
    m = len(chosen.positions)
    inputs = chosen.inputs.reshape(-1)[chosen.positions]
    assert np.all(inputs[chosen.masked] == 4)
    random_ids = inputs[~chosen.masked & (inputs != 7)]
    for share, count in ((0.8, chosen.masked.sum()), (0.1, len(random_ids)), (0.1, (inputs == 7).sum())):
        assert abs(count - share * m) < 4 * np.sqrt(share * (1 - share) * m)
    assert random_ids.min() < 20
    assert random_ids.max() > 979
    assert np.all(np.delete(chosen.inputs.reshape(-1), chosen.positions) == 7)


def test_blocks_of_unknown_tokens_are_left_out_and_counted(text: Path, tmp_path: Path) -> None:
    lines = sentences(900, seed=1)
    foreign = [" ".join("\u4e00" * 40)] * 40
    (tmp_path / "a.txt").write_text(
        "\n\n".join(lines[:400]) + "\n\n" + " ".join(foreign) + "\n\n" + "\n\n".join(lines[400:]),
        "utf-8",
    )
    prepared = prepare(settings(text))
    folder = prepared.tokenizer_files()
    mixed = prepare(settings(tmp_path, tokenizer=str(folder)))
    facts = mixed.facts["parts"]["train"]
    assert 95 <= facts["blocks_left_out"] <= 101
    assert facts["blocks"] == len(mixed.rows) == facts["tokens"] // BLOCK - facts["blocks_left_out"]
    usable = mixed.eligible[mixed.tokens.reshape(-1, BLOCK)].sum(1) * 2 >= BLOCK
    np.testing.assert_array_equal(np.flatnonzero(usable), mixed.rows)


def test_special_tokens_in_the_text_are_text(tmp_path: Path, text: Path) -> None:
    lines = [f"{line} [MASK] [UNK]" for line in sentences(600)]
    (tmp_path / "a.txt").write_text("\n\n".join(lines), "utf-8")
    prepared = prepare(settings(tmp_path))
    assert prepared.eligible[prepared.tokens].all()


def test_held_out_parts_end_at_their_cap_and_given_files_do_not(text: Path, tmp_path: Path) -> None:
    write_documents(tmp_path / "own.txt", 60, seed=9)
    prepared = prepare(settings(text, max_held_out=10 * BLOCK + 5, test=f"files:{tmp_path}/own.txt"))
    parts = prepared.facts["parts"]
    assert parts["val"]["tokens"] == 10 * BLOCK
    assert parts["val"]["documents"] + parts["val"]["documents_left_out"] < 20
    assert parts["test"]["documents"] == 60
    assert parts["test"]["tokens"] > 10 * BLOCK
    free = prepare(settings(text)).facts["parts"]
    more = prepare(settings(text, max_held_out=10 * BLOCK + 5, max_test=20 * BLOCK)).facts["parts"]
    assert (more["val"], more["test"]["tokens"]) == (parts["val"] | {"unknown": more["val"]["unknown"]}, 20 * BLOCK)
    assert parts["train"]["documents"] > free["train"]["documents"] + free["test"]["documents"]


PREPARE = """
import sys, json
from trainables.data import batches, corpus
from trainables.settings.config import DataConfig
made = []
divide = corpus.divide
corpus.divide = lambda *given: made.append(1) or divide(*given)
prepared = batches.prepare(DataConfig.model_validate(json.loads(sys.argv[1])))
heavy = sorted({"torch", "transformers", "datasets", "tokenizers"} & set(sys.modules))
print(json.dumps([len(made), prepared.fingerprint, heavy]))
"""


def start(config: DataConfig, cache: Path, **environment: str) -> subprocess.Popen[str]:
    given = os.environ | {"SWEEPER_CACHE": str(cache)} | environment
    command = [sys.executable, "-c", PREPARE, config.model_dump_json()]
    return subprocess.Popen(command, env=given, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> list[Any]:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return json.loads(out)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_processes_that_ask_at_once_prepare_once_and_any_thread_count_gives_the_same_bytes(
    text: Path, tmp_path: Path, prepared: Prepared
) -> None:
    config = settings(text)
    both = [start(config, tmp_path, RAYON_NUM_THREADS="1", PYTHONHASHSEED=str(seed)) for seed in (1, 2)]
    (first, fingerprint, _), (second, other, _) = (result(process) for process in both)
    assert first + second == 1
    assert fingerprint == other == prepared.fingerprint
    name = prepared.folder.name
    assert contents(tmp_path / name) == contents(prepared.folder)
    assert {path.name for path in tmp_path.iterdir()} == {name, f".{name}.lock"}
    assert result(start(config, tmp_path)) == [0, fingerprint, []], "opening prepares nothing and imports nothing heavy"


def test_the_fingerprint_follows_all_that_matters(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = prepare(settings(text))
    for path in text.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    moved = prepare(settings(tmp_path))
    assert moved.fingerprint == base.fingerprint, "the same text elsewhere is the same corpus"
    assert moved.facts["corpus"] == f"files:{tmp_path}/*.txt"
    changes: list[dict[str, Any]] = [{"block": 8}, {"held_out": 0.2}, {"max_held_out": 999}, {"tokenizer": "train:180"}]
    others = {prepare(settings(text, **change)).fingerprint for change in changes}
    others.add(prepare(settings(text, corpus=f"files:{text}/a.txt", held_out=0.2)).fingerprint)
    monkeypatch.setattr("trainables.data.batches.VERSION", 2)
    others.add(prepare(settings(text)).fingerprint)
    assert len(others | {base.fingerprint}) == 7


def test_a_preparation_that_fails_leaves_nothing_and_the_next_one_succeeds(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    with monkeypatch.context() as broken:
        broken.setattr(preparation, "evaluation_set", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            prepare(settings(text))
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    lock = next(tmp_path.iterdir())
    (tmp_path / f"{lock.stem}.partial").mkdir()
    (tmp_path / f"{lock.stem}.partial" / "torn.npy").write_bytes(b"from a killed process")
    assert not (prepare(settings(text)).folder / "torn.npy").exists()


BAD = [
    ({"corpus": "files:{text}/*.md"}, "matches no file"),
    ({"corpus": "files:{empty}"}, "has no text"),
    ({"corpus": "embed"}, "did you mean embedded"),
    ({"validation": "files:{text}/*.md"}, r"data\.validation files:.*matches no file"),
    ({"validation": "{text}/a.txt"}, r"must be files:GLOB"),
    ({"test": "files:{empty}"}, "the test part has 0 tokens, less than one block of 16"),
    ({"validation": "files:{text}/*.txt"}, "no text is left to train on"),
    ({"test": "files:{text}/b.txt", "validation": "files:{text}/b.txt"}, r"val part has 0 tokens.*another part has"),
    ({"held_out": 0.0001}, r"the val part has 0 tokens.*: set data\.held_out to 0\.02, or set data\.validation and"),
    ({"block": 100_000}, "the train part has .* less than one block of 100000: give more text or lower data.block"),
    ({"max_held_out": 15}, r"data\.max_held_out 15 is less than one block of 16"),
    ({"tokenizer": "train:50"}, "at least 100"),
    ({"tokenizer": "{text}"}, "neither tokenizer.json nor vocab.txt"),
]


@pytest.mark.parametrize("held_out", [0.05, 0.3])
@pytest.mark.parametrize("documents", [1, 2, 6])
def test_what_is_advised_for_too_few_documents_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, documents: int, held_out: float
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    given, path = sentences(400), tmp_path / "text.txt"
    size = len(given) // documents
    texts = ["\n".join(given[size * index : size * (index + 1)]) for index in range(documents)]
    path.write_text("\n\n".join(texts), "utf-8")
    config = DataConfig(corpus=f"files:{path}", tokenizer="train:200", block=16, held_out=held_out)
    with pytest.raises(ValueError, match=r"or set data\.validation and data\.test to files:GLOB$") as caught:
        prepare(config)
    if share := re.search(r": set data\.held_out to ([0-9.]+), or", str(caught.value)):
        assert documents > 2
        prepare(config.model_copy(update={"held_out": float(share[1])}))
    else:
        assert documents < 3
        more = "its" if documents == 1 else "more"
        assert f"the text is {documents} document" in str(caught.value)
        assert f"put blank lines between {more} documents, or" in str(caught.value)
        path.write_text("\n\n".join(given), "utf-8")
        prepare(config)
    path.write_text("\n\n".join(texts), "utf-8")
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(sentences(40, seed=1)), "utf-8")
    third = tmp_path / "third.txt"
    third.write_text("\n\n".join(sentences(40, seed=2)), "utf-8")
    prepare(config.model_copy(update={"validation": f"files:{other}", "test": f"files:{third}"}))


def test_a_part_in_which_nothing_is_masked_is_refused(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would divide by their number. The test part may be so: few ask for its loss at [MASK]."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path))
    monkeypatch.setattr(preparation, "MASKED", 0.0)
    with pytest.raises(ValueError, match=r"the val part has \d+ tokens, of which none is drawn for \[MASK\]: set data"):
        prepare(settings(text))


def test_few_documents_are_warned_of_before_and_after_preparation(text: Path) -> None:
    config = settings(text, held_out=0.02, block=8)
    before = prepare(config).facts["warnings"]
    parts = prepare(config).facts["parts"]
    few = f"val has {parts['val']['documents']} and test has {parts['test']['documents']}"
    short = f"too few documents ({few}): an interval over documents takes 20"
    assert [line.startswith(short) for line in before] == [True]
    assert prepare(settings(text)).facts["warnings"] == []


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_input_is_one_line_and_leaves_nothing(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty.txt").write_text("\n \n\t\n", "utf-8")
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    places = {"text": text, "empty": tmp_path / "empty.txt"}
    filled = {key: value.format(**places) if isinstance(value, str) else value for key, value in changes.items()}
    with pytest.raises(ValueError, match=message) as caught:
        prepare(settings(text, **filled))
    assert "\n" not in str(caught.value)
    assert not [path for path in (tmp_path / "cache").glob("*") if path.suffix != ".lock"]


def test_a_cache_that_cannot_be_written_is_said(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("not a folder", "utf-8")
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match=r"cannot write the cache .*: set SWEEPER_CACHE"):
        prepare(settings(text))
