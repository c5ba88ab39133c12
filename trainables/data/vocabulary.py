"""A checked tokenizer, and what makes one BERT's: its normaliser, special tokens and sentence template."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables import limits

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_ENTRIES = 100
SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALTERNATIVES = (
    "name train:SIZE, a folder with tokenizer.json, vocab.txt or a SentencePiece .model, "
    "or a hub name such as bert-base-uncased"
)


@dataclass(frozen=True)
class Vocabulary:
    """A checked tokenizer. strings: by id. special: the ids of pad, unk, cls, sep and mask; some have no unk."""

    tokenizer: Tokenizer
    strings: list[str]
    special: dict[str, int]

    @staticmethod
    def check(tokenizer: Tokenizer, names: dict[str, str], origin: str) -> Vocabulary:
        """Wrap a tokenizer. ValueError for a vocabulary that is too small or too large, has gaps or lacks a token."""
        ids = tokenizer.get_vocab(with_added_tokens=True)
        if len(ids) < MIN_ENTRIES:
            raise ValueError(f"{origin} has {len(ids)} entries, fewer than {MIN_ENTRIES}: {ALTERNATIVES}")
        if len(ids) > limits.ENTRIES:
            raise ValueError(f"{origin} has {len(ids):,} entries, more than {limits.ENTRIES:,}: {ALTERNATIVES}")
        missing = [name for name in names.values() if name not in ids]
        if missing:
            raise ValueError(f"{origin} has no {', '.join(missing)}: {ALTERNATIVES}")
        if max(ids.values()) != len(ids) - 1:
            raise ValueError(f"{origin} has gaps in its ids: {ALTERNATIVES}")
        strings = sorted(ids, key=lambda token: ids[token])
        return Vocabulary(tokenizer, strings, {role: ids[name] for role, name in names.items()})

    def described(self) -> dict[str, Any]:
        """Size and special tokens, for the record."""
        special = {role: self.strings[index] for role, index in self.special.items()}
        return {"vocabulary": len(self.strings), "special_tokens": special}

    @property
    def unknown(self) -> int | None:
        """The id for text that has no pieces; None if there is none."""
        return self.special.get("unk")

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads."""
        folder.mkdir()
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        settings |= {f"{role}_token": self.strings[index] for role, index in self.special.items()}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")


def bert_pipeline(
    tokenizer: Tokenizer,
    lowercase: bool = True,
    strip_accents: bool | None = None,
    chinese: bool = True,
    compose: bool = False,
) -> Tokenizer:
    """Give a tokenizer BERT's normaliser and pre-tokenizer.

    Args:
        tokenizer: is changed, and returned.
        lowercase: whether to lower-case.
        strip_accents: None is as `lowercase`.
        chinese: whether each Chinese character is a word.
        compose: whether to compose characters (NFC) first.
    """
    from tokenizers import normalizers, pre_tokenizers

    cleaning: Any = normalizers.BertNormalizer(
        handle_chinese_chars=chinese, strip_accents=strip_accents, lowercase=lowercase
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), cleaning]) if compose else cleaning
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def bert_ends(vocabulary: Vocabulary) -> Vocabulary:
    """Give a vocabulary BERT's special tokens, decoder and sentence template."""
    from tokenizers import decoders

    vocabulary.tokenizer.add_special_tokens([vocabulary.strings[index] for index in vocabulary.special.values()])
    vocabulary.tokenizer.decoder = decoders.WordPiece()
    return framed(vocabulary)


def framed(vocabulary: Vocabulary) -> Vocabulary:
    """Let the tokenizer wrap sentences in [CLS] and [SEP]: not for training, but for users of the published bundle."""
    from tokenizers import processors

    strings, special = vocabulary.strings, vocabulary.special
    cls, sep = (strings[special[role]] for role in ("cls", "sep"))
    vocabulary.tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, special["cls"]), (sep, special["sep"])],
    )
    return vocabulary
