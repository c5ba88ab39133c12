"""What a tokenizer drops of a text: counted and said."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from tests.trainables.texts import sentences, write_documents
from trainables import mlm
from trainables.data import batches, dropped, tokenizer, wordpiece
from trainables.settings.config import DataConfig
from trainables.training import bundle

UNCASED = normalizers.BertNormalizer().normalize_str


@pytest.fixture(autouse=True)
def _use_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))


def test_words_that_become_equal_to_a_commoner_one_are_counted() -> None:
    lines = ["schon schon, schon! schön", "Schon (schon) größer कुल कल कल", "ganz anders 12"]
    found = dropped.made_equal(UNCASED, lines)
    assert found["words"] == 13
    assert found["whole"]
    assert found["share"] == pytest.approx(3 / 13, abs=1e-6), "schön, Schon, कुल"
    assert found["by_case"] == pytest.approx(1 / 13, abs=1e-6)
    assert found["by_accents"] == pytest.approx(2 / 13, abs=1e-6)
    cased = normalizers.BertNormalizer(lowercase=False, strip_accents=False).normalize_str
    assert dropped.made_equal(cased, lines)["share"] == 0
    assert dropped.made_equal(str, [])["share"] == 0


def test_two_ways_to_write_a_character_are_no_difference_and_joiners_are_told() -> None:
    lines = ["schön " + unicodedata.normalize("NFD", "schön"), "می\u200cخواهم میخواهم میخواهم"]
    found = dropped.made_equal(UNCASED, lines)
    assert found["share"] == pytest.approx(1 / 5), "the one with a joiner becomes the one without"
    assert found["joined"] == pytest.approx(1 / 5)


def test_of_a_long_text_the_beginning_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dropped, "WORDS", 4)
    assert dropped.made_equal(str, ["a b c"] * 9) == {
        **{"words": 6, "whole": False},
        **dict.fromkeys(("share", "by_case", "by_accents", "joined"), 0),
    }


def test_characters_that_leave_no_token_are_counted() -> None:
    tool = Tokenizer(models.BPE({piece: index for index, piece in enumerate("ab")}, []))
    tool.pre_tokenizer = pre_tokenizers.Whitespace()
    assert dropped.lost(tool, ["ab xb", "xx x"]) == pytest.approx(4 / 9, abs=1e-6)
    tool.model = models.BPE({piece: index for index, piece in enumerate("ab?")}, [], unk_token="?")
    assert dropped.lost(tool, ["ab xb"]) == 0


def chinese(folder: Path) -> DataConfig:
    """A text of 400 characters, of which an alphabet of 100 holds a quarter."""
    draw = np.random.default_rng(0)
    documents = ["".join(chr(0x4E00 + point) for point in draw.integers(0, 400, 60)) for _ in range(200)]
    (folder / "zh.txt").write_text("\n\n".join(documents), "utf-8")
    return DataConfig(corpus=f"files:{folder}/zh.txt", tokenizer="train:400", block=8, held_out=0.1)


def test_facts_have_the_shares_of_unknown_tokens_and_dropped_blocks_and_a_remedy_that_works(tmp_path: Path) -> None:
    config = chinese(tmp_path)
    prepared = batches.prepare(config)
    unknown = prepared.token_strings.index("[UNK]")
    train = prepared.facts["parts"]["train"]
    assert train["unknown"] == pytest.approx(np.mean(np.asarray(prepared.tokens) == unknown), abs=1e-6)
    assert train["unknown"] > 0.6
    assert train["left_out"] == pytest.approx(train["blocks_left_out"] / (len(prepared.tokens) / 8), abs=1e-6)
    warning, *_ = prepared.facts["warnings"]
    assert warning.startswith(f"`[UNK]` stands for {100 * train['unknown']:.1f} % of the tokens of train, ")
    better = warning.rpartition(": use ")[2]
    again = batches.prepare(config.model_copy(update={"tokenizer": better}))
    assert again.facts["parts"]["train"]["unknown"] < 0.01
    assert not any("[UNK]" in line for line in again.facts["warnings"])


def english(folder: Path, **changes: Any) -> DataConfig:
    write_documents(folder / "text.txt", 300)
    given: dict[str, Any] = {"corpus": f"files:{folder}/text.txt", "tokenizer": "train:300", "block": 16}
    return DataConfig.model_validate(given | {"held_out": 0.1} | changes)


def test_the_notes_say_what_is_dropped_and_what_keeps_it(tmp_path: Path) -> None:
    entries, equal, unknown, blocks = batches.prepare(english(tmp_path, tokenizer="train:200")).facts["notes"]
    assert entries.startswith("the tokenizer has 200 entries, with `[PAD]` (pad), `[UNK]` (unk)")
    assert equal.startswith("train:200 lower-cases and strips accents and vowel signs: ")
    assert equal.endswith("by accents, vowel signs or the like); train:200,cased,accents keeps them apart")
    assert unknown == "`[UNK]` stands for 0 % of the tokens of train, 0 % of val, 0 % of test"
    assert blocks == "no block is left out"
    kept = batches.prepare(english(tmp_path, tokenizer="train:200,cased,accents")).facts["notes"][1]
    assert kept.startswith("train:200,cased,accents keeps case, accents and vowel signs; none of all ")


def test_a_named_tokenizer_is_counted_before_anything_is_prepared_and_one_that_will_not_do_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wordpiece.Trained(200).obtain(sentences(300)).save(tmp_path / "mine")
    config = mlm.Config(data=english(tmp_path, tokenizer=str(tmp_path / "mine")))
    assert config.vocabulary == 200
    assert not (tmp_path / "cache").exists()
    settings = tmp_path / "mine" / "tokenizer_config.json"
    settings.write_text(json.dumps({"mask_token": "<mask>"}), "utf-8")
    with pytest.raises(ValueError, match="has no <mask>, which mask_token names"):
        mlm.prepare(config)

    def absent(name: str, revision: str | None, ask: bool) -> Path:
        assert not ask, "settings ask no hub"
        raise tokenizer.NotHere(name)

    monkeypatch.setattr(tokenizer, "_snapshot", absent)
    elsewhere = mlm.Config(data=english(tmp_path, tokenizer="owner/name"))
    assert elsewhere.vocabulary == 30_522
    assert mlm.preparing(elsewhere) > 0


def test_the_model_card_says_it() -> None:
    lines = bundle._data({"notes": ["one `<mask>`", "two"], "warnings": ["much"]}).splitlines()
    assert lines == ["* **Caution:** much", "* one `<mask>`", "* two"]
