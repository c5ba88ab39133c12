"""The entries of a vocabulary as text: the spelling of each, and whether it begins a word.

Every rule about words or characters takes them from here: keys of the counts, trigrams, whole words, n-hot substrings,
kinds of pieces. The scheme is derived from the tokenizer's model, decoder, pre-tokenizer and normaliser.

Shapes: V vocabulary entries.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainables.data import special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from trainables.settings.config import Config

Kind = Literal["wordpiece", "byte-level", "metaspace", "unknown"]

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_WITHOUT_WORDS = "shares random, token, span, rarity and informask, and policy amlm"


@dataclass(frozen=True)
class WordForms:
    """The entries of a vocabulary, by id.

    A word goes up to the next entry that begins one: where only white space is marked (byte-level, Metaspace),
    punctuation belongs to the word before it.

    Args:
        texts: spelling without the scheme's marks; a byte that is not a whole character is written <0xC3>.
        begins: [V] bool, whether the entry begins a word.
        whole: [V] bool, whether all of its text is whole characters.
        labels: what people are shown, marks included.
    """

    texts: list[str]
    begins: NDArray[np.bool_]
    whole: NDArray[np.bool_]
    labels: list[str]

    @property
    def keys(self) -> list[str]:
        """The key of each entry's counts: `##ing`, `Ġing`, `ing` and `ING` share one."""
        return [text.lower() for text in self.texts]


@dataclass(frozen=True)
class Scheme:
    """How a tokenizer writes its entries.

    wordpiece: entries that continue a word begin with `mark` (`##`). byte-level: each character stands for a byte, and
    an entry that begins a word starts with the space before it (`Ġ`). metaspace: an entry that begins a word begins
    with `mark` (`▁`); bytes: entries such as <0xC3> stand for single bytes. unknown: entries do not show where words
    begin, and their texts are taken as they are.
    """

    kind: Kind
    mark: str = ""
    bytes: bool = False

    def forms(self, token_strings: Sequence[str]) -> WordForms:
        """The entries as text. Under an unknown scheme each begins a word; `refuse` stops rules that need words."""
        read = {
            "wordpiece": self._wordpiece,
            "byte-level": self._byte_level,
            "metaspace": self._metaspace,
            "unknown": lambda token: (token, True, True, token),
        }[self.kind]
        texts, begins, whole, labels = zip(*map(read, token_strings), strict=True)
        return WordForms(list(texts), np.array(begins), np.array(whole), list(labels))

    def _wordpiece(self, token: str) -> tuple[str, bool, bool, str]:
        return token.removeprefix(self.mark), not token.startswith(self.mark), True, token

    def _byte_level(self, token: str) -> tuple[str, bool, bool, str]:
        values = _bytes_by_character()
        if any(character not in values for character in token):  # an added token, written as it is
            return token, True, True, token
        spelled = bytes(values[character] for character in token)
        text = spelled.decode("utf-8", _SPELL_BYTES)
        stripped = text.lstrip()
        begins, whole = stripped != text, _decodes(spelled)
        label = f"{self.mark}{stripped}" if begins and stripped else stripped or token
        return stripped, begins, whole, label

    def _metaspace(self, token: str) -> tuple[str, bool, bool, str]:
        if self.bytes and _BYTE.fullmatch(token):
            return token, False, False, token
        return token.removeprefix(self.mark), token.startswith(self.mark), True, token


WORDPIECE = Scheme("wordpiece", "##")
UNKNOWN = Scheme("unknown")


def scheme_of(tokenizer: Tokenizer) -> Scheme:
    """How a tokenizer writes its entries, from its description and from how it splits two words."""
    described = json.loads(tokenizer.to_str())
    model = described["model"]
    decoders = special_tokens.steps(described["decoder"], "decoders")
    parts = [*decoders, *special_tokens.steps(described["pre_tokenizer"], "pretokenizers")]
    pieces = _pieces(tokenizer, "aa bb")
    prefix = model.get("continuing_subword_prefix")
    if prefix and "bb" in pieces:
        return Scheme("wordpiece", prefix)
    if any(part["type"] == "ByteLevel" for part in parts):
        return Scheme("byte-level", "Ġ") if "Ġbb" in "".join(pieces) else UNKNOWN
    for mark in filter(None, map(_metaspace_of, parts)):
        if f"{mark}bb" in "".join(pieces):
            return Scheme("metaspace", mark, bool(model.get("byte_fallback")))
    return UNKNOWN


def refuse(config: Config, kind: str) -> None:
    """Raises ValueError, in one line, for settings that need words where the entries do not show them."""
    shares = config.masking.largest_shares
    asked = [f"masking.shares.{name}" for name in ("whole_word", "trigram", "pmi") if shares[name]]
    asked = asked if config.masking.policy == "mixture" else []
    asked += ["model.embedding nhot"] if config.model.embedding == "nhot" else []
    if kind == UNKNOWN.kind and asked:
        raise ValueError(
            f"data.tokenizer {config.data.tokenizer}: its entries do not show where words begin (by ##, a byte-level Ġ "
            f"or ▁), which {' and '.join(asked)} must know; {_WITHOUT_WORDS} run without it"
        )


def _metaspace_of(part: Mapping[str, Any]) -> str | None:
    """The character that stands for a space, in a Metaspace or in a decoder that replaces it by a space."""
    if part["type"] == "Metaspace":
        return part["replacement"]
    if part["type"] == "Replace" and part.get("content") == " ":
        return part["pattern"].get("String")
    return None


def _pieces(tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces of a text that reach the tokenizer's model."""
    if tokenizer.normalizer is not None:
        text = tokenizer.normalizer.normalize_str(text)
    if tokenizer.pre_tokenizer is None:
        return [text]
    return [piece for piece, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]


@cache
def _bytes_by_character() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (GPT-2, Radford et al. 2019).

    Visible Latin-1 characters stand for themselves, the characters from 256 on for the other bytes.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [value for value in range(256) if value not in visible]
    return {chr(value): value for value in visible} | {chr(256 + i): value for i, value in enumerate(hidden)}


def _decodes(spelled: bytes) -> bool:
    try:
        spelled.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _spell_bytes(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeDecodeError)
    return "".join(f"<0x{value:02X}>" for value in error.object[error.start : error.end]), error.end


_SPELL_BYTES = "sweeper.spell_bytes"
codecs.register_error(_SPELL_BYTES, _spell_bytes)
