"""SentencePiece models: read as SentencePiece reads them, or as transformers does where a class is named."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from tests.trainables.texts import sentences
from trainables.data import sentence_pieces, tokenizer

OTHERS = ["schön und größer", "कुल मिलाकर कल", "Hello  world  ", "日本語 です", "Ελλάδα και", "Это слово"]
LINES = [*sentences(40), *OTHERS, "  two  spaces ", "unseen ☃☃ Ⅳ ﬁ", "a\tb\u200bc", ""]


def trained(kind: str = "unigram", **options: Any) -> bytes:
    made = io.BytesIO()
    given = {"vocab_size": 300, "hard_vocab_limit": False, "minloglevel": 2, "model_type": kind} | options
    text = [*sentences(300), *OTHERS * 20]
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(text), model_writer=made, **given)
    return made.getvalue()


def folder(at: Path, model: bytes, name: str = "tokenizer.model", **settings: Any) -> str:
    at.mkdir(exist_ok=True)
    (at / name).write_bytes(model)
    (at / "tokenizer_config.json").write_text(json.dumps(settings), "utf-8")
    return str(at)


SPECIAL = {"pad_id": 3, "control_symbols": ["<mask>"]}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("unigram", {}),
    ("bpe", {}),
    ("unigram", {"byte_fallback": True, "vocab_size": 500}),
    ("bpe", {"byte_fallback": True, "vocab_size": 500}),
    ("bpe", {"remove_extra_whitespaces": False}),
    ("unigram", {"add_dummy_prefix": False}),
    ("unigram", {"normalization_rule_name": "identity"}),
]


@pytest.mark.parametrize(("kind", "options"), KINDS)
def test_ids_are_those_of_sentencepiece_and_of_autotokenizer_afterwards(
    kind: str, options: dict[str, Any], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    model = trained(kind, **SPECIAL, **options)
    oracle = sentencepiece.SentencePieceProcessor(model_proto=model)
    found = tokenizer.find(folder(tmp_path / "given", model)).obtain(())
    assert found.strings == [oracle.id_to_piece(index) for index in range(oracle.get_piece_size())]
    assert found.special == {"unk": 0, "cls": 1, "sep": 2, "pad": 3, "mask": 4}
    found.save(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved", local_files_only=True)
    for line in LINES:
        ids = found.tokenizer.encode(line, add_special_tokens=False).ids
        assert ids == oracle.encode(line), line
        assert loaded(line, add_special_tokens=False)["input_ids"] == ids
    assert loaded.decode(found.tokenizer.encode("schön und").ids, skip_special_tokens=True) == "schön und"


@pytest.mark.parametrize("name", sentence_pieces.FILES)
def test_every_usual_name_is_found(name: str, tmp_path: Path) -> None:
    source = tokenizer.find(folder(tmp_path, trained(**SPECIAL), name))
    before = source.identity()
    assert len(source.obtain(()).strings) > 100
    (tmp_path / name).write_bytes(trained("bpe", **SPECIAL))
    assert tokenizer.find(str(tmp_path)).identity() != before


def test_named_special_tokens_that_are_no_pieces_become_entries_behind_them(tmp_path: Path) -> None:
    model = trained()
    where = folder(tmp_path, model)
    with pytest.raises(ValueError, match=r"no pad, mask token.*it becomes an entry behind tokenizer.model's pieces"):
        tokenizer.find(where).obtain(())
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    found = tokenizer.find(folder(tmp_path, model, mask_token="<mask>", pad_token="<pad>")).obtain(())
    assert found.special == {"unk": 0, "cls": 1, "sep": 2, "pad": pieces, "mask": pieces + 1}


def test_a_named_class_is_read_as_transformers_reads_it(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    where = folder(tmp_path, trained(), "sentencepiece.bpe.model", tokenizer_class="XLMRobertaTokenizer")
    found, loaded = tokenizer.find(where).obtain(()), AutoTokenizer.from_pretrained(where, local_files_only=True)
    assert found.strings[:4] == ["<s>", "<pad>", "</s>", "<unk>"]
    assert {role: getattr(loaded, f"{role}_token_id") for role in found.special} == found.special
    for line in LINES:
        assert found.tokenizer.encode(line).ids == loaded(line)["input_ids"]


def test_what_will_not_do_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = [(b"\xff\xfe no model", "is not a SentencePiece model"), (b"", "is not a SentencePiece model: no pieces")]
    bad += [(trained("char"), "is not a SentencePiece unigram or BPE model")]
    for content, message in bad:
        with pytest.raises(ValueError, match=message) as caught:
            tokenizer.find(folder(tmp_path, content)).obtain(())
        assert "\n" not in str(caught.value)
    named = folder(tmp_path, trained(), tokenizer_class="NoSuchTokenizer")
    with pytest.raises(ValueError, match=r"cannot make a NoSuchTokenizer of .*remove tokenizer_class"):
        tokenizer.find(named).obtain(())
    monkeypatch.setattr(sentence_pieces, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs the package sentencepiece: pip install 'sweeper\[sentencepiece\]'"):
        tokenizer.find(named).obtain(())
    assert importlib.util.find_spec("sentencepiece")
