"""Special tokens by role, whatever they are called and wherever it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.trainables.texts import sentences
from trainables.data import tokenizer

LINES = sentences(300)
ROBERTA = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def byte_level(specials: list[str]) -> Tokenizer:
    """As RoBERTa's: no unknown token, for every byte is an entry."""
    tool = Tokenizer(models.BPE())
    tool.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tool.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tool.train_from_iterator(LINES, trainer)
    return tool


def llama_like(specials: list[str], unk: str = "<unk>") -> Tokenizer:
    """No pre-tokenizer: the normaliser makes spaces part of the text, and what is unknown falls apart into bytes."""
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwyz.", "▁b", "▁ba"]
    merges = [("▁", "b"), ("▁b", "a")]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tool = Tokenizer(models.BPE(vocabulary, merges, unk_token=unk, fuse_unk=True, byte_fallback=True))
    tool.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tool.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tool


def word_level(specials: list[str], unk: str) -> Tokenizer:
    words = sorted({word for line in LINES for word in line.rstrip(".").split()})
    tool = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*specials, *words])}, unk))
    tool.pre_tokenizer = pre_tokenizers.Whitespace()
    return tool


def written(folder: Path, tool: Tokenizer, **settings: dict[str, Any]) -> str:
    tool.save(str(folder / "tokenizer.json"))
    for name, content in settings.items():
        (folder / f"{name}.json").write_text(json.dumps(content), "utf-8")
    return str(folder)


def roles(folder: str) -> dict[str, str]:
    found = tokenizer.find(folder).obtain(())
    return {role: found.strings[index] for role, index in found.special.items()}


def template(tool: Tokenizer, first: str, last: str) -> Tokenizer:
    framing = [(token, tool.token_to_id(token)) for token in (first, last)]
    tool.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=framing)
    return tool


NAMED: dict[str, str] = dict(zip(("cls", "pad", "sep", "unk", "mask"), ROBERTA, strict=True))
ODD = ["<|p|>", "<|u|>", "<|c|>", "<|s|>", "<|m|>"]
MADE: dict[str, tuple[Callable[[], Tokenizer], dict[str, dict[str, Any]], dict[str, str]]] = {
    "by their usual spelling": (lambda: byte_level(ROBERTA), {}, NAMED),
    "with <cls> and <sep>": (
        lambda: byte_level(["<cls>", "<sep>", "<pad>", "<mask>", "<unk>", "<s>", "</s>"]),
        {},
        {"pad": "<pad>", "unk": "<unk>", "cls": "<cls>", "sep": "<sep>", "mask": "<mask>"},
    ),
    "bytes need no unknown token": (
        lambda: byte_level(["<s>", "<pad>", "</s>", "<mask>"]),
        {},
        {role: token for role, token in NAMED.items() if role != "unk"},
    ),
    "by tokenizer_config.json, as texts or objects": (
        lambda: word_level(ODD, "<|u|>"),
        {
            "tokenizer_config": {"mask_token": {"content": "<|m|>", "lstrip": True}, "pad_token": "<|p|>"},
            "special_tokens_map": {"cls_token": "<|c|>", "sep_token": "<|s|>", "pad_token": "<|m|>"},
        },
        dict(zip(("pad", "unk", "cls", "sep", "mask"), ODD, strict=True)),
    ),
    "null names nothing": (
        lambda: word_level(ODD, "<|u|>"),
        {
            "tokenizer_config": {"mask_token": "<|m|>", "pad_token": None, "bos_token": "<|c|>", "eos_token": "<|s|>"},
            "special_tokens_map": {"pad_token": "<|p|>"},
        },
        dict(zip(("pad", "unk", "cls", "sep", "mask"), ODD, strict=True)),
    ),
    "by the frame of the post-processor": (
        lambda: template(word_level([*ODD[2:4], *BERT], "[UNK]"), *ODD[2:4]),
        {},
        {"pad": "[PAD]", "unk": "[UNK]", "cls": "<|c|>", "sep": "<|s|>", "mask": "[MASK]"},
    ),
    "beginning and end of a text stand for cls and sep": (
        lambda: llama_like(["<unk>", "<s>", "</s>", "<|pad|>", "<|m|>"]),
        {"tokenizer_config": {"mask_token": "<|m|>", "pad_token": "<|pad|>"}},
        {"pad": "<|pad|>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "mask": "<|m|>"},
    ),
    "the model knows its own unknown token": (
        lambda: word_level([*BERT, "<|u|>"], "<|u|>"),
        {"tokenizer_config": {"unk_token": "[UNK]"}},
        {"pad": "[PAD]", "unk": "<|u|>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"},
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_special_tokens_are_found(name: str, tmp_path: Path) -> None:
    make, settings, expected = MADE[name]
    assert roles(written(tmp_path, make(), **settings)) == expected


def test_processors_of_roberta_and_bert_name_their_ends(tmp_path: Path) -> None:
    for kind, made in (("r", processors.RobertaProcessing), ("b", processors.BertProcessing)):
        tool = word_level([*ODD, "[PAD]", "[MASK]"], "<|u|>")
        tool.post_processor = made(("<|s|>", 3), ("<|c|>", 2))
        (tmp_path / kind).mkdir()
        found = roles(written(tmp_path / kind, tool))
        assert (found["cls"], found["sep"]) == ("<|c|>", "<|s|>")


REFUSED: list[tuple[Callable[[], Tokenizer], dict[str, Any], str]] = [
    (
        lambda: byte_level(["<s>", "<pad>", "</s>"]),
        {},
        r'no mask token: name it in .*tokenizer_config.json, as in "mask',
    ),
    (lambda: llama_like(["<unk>", "<s>", "</s>"]), {}, r"no pad, mask token: .*\(an entry of tokenizer.json\)"),
    (
        lambda: byte_level(ROBERTA),
        {"mask_token": "<MASK>"},
        r"no <MASK>, which mask_token names.*add it to tokenizer.json",
    ),
    (lambda: byte_level(ROBERTA), {"mask_token": "<pad>"}, "<pad> is both its mask and its pad token: name another"),
    (lambda: word_level(BERT, "<oops>"), {}, "fails on characters that it does not know .*"),
]


@pytest.mark.parametrize(("make", "settings", "message"), REFUSED)
def test_a_missing_one_is_named_with_the_file_it_belongs_into(
    make: Callable[[], Tokenizer], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = written(tmp_path, make(), tokenizer_config=settings)
    with pytest.raises(ValueError, match=message) as caught:
        tokenizer.find(folder).obtain(())
    assert "\n" not in str(caught.value)


def test_what_is_found_is_saved_for_autotokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tool = llama_like(["<unk>", "<s>", "</s>", "<pad>", "<mask>"])
    found = tokenizer.find(written(tmp_path, tool)).obtain(())
    found.save(tmp_path / "saved")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "saved", local_files_only=True)
    for line in [*LINES[:20], "Öl und 中文"]:
        ids = found.tokenizer.encode(line, add_special_tokens=False).ids
        assert loaded(line, add_special_tokens=False)["input_ids"] == ids
        assert loaded.decode(ids).strip() == line
    assert {role: getattr(loaded, f"{role}_token_id") for role in found.special} == found.special
