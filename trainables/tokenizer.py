"""Obtaining a tokenizer: trained on the train part, from a folder, or from the hub; and checking what was obtained.

WordPiece training in `tokenizers` numbers the continuing characters (`##e`) in the order of a randomly seeded hash
table, and breaks ties between merges by those numbers: two trainings on one text differ. Here they are numbered
beforehand, which makes the vocabulary a function of the text.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sweeper import files

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_ENTRIES = 100
SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALTERNATIVES = "name train:SIZE, a folder with tokenizer.json or vocab.txt, or a hub name such as bert-base-uncased"
MAX_ALPHABET = 1000

_FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json")
_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


@dataclass(frozen=True)
class Vocabulary:
    """A checked tokenizer. strings: by id. special: the ids of pad, unk, cls, sep and mask."""

    tokenizer: Tokenizer
    strings: list[str]
    special: dict[str, int]

    @staticmethod
    def check(tokenizer: Tokenizer, names: dict[str, str], origin: str) -> Vocabulary:
        """ValueError for a vocabulary too small to be one, with gaps, or without a special token."""
        ids = tokenizer.get_vocab(with_added_tokens=True)
        if len(ids) < MIN_ENTRIES:
            raise ValueError(f"{origin} has {len(ids)} entries, fewer than {MIN_ENTRIES}: {ALTERNATIVES}")
        missing = [name for name in names.values() if name not in ids]
        if missing:
            raise ValueError(f"{origin} has no {', '.join(missing)}: {ALTERNATIVES}")
        if max(ids.values()) != len(ids) - 1:
            raise ValueError(f"{origin} has gaps in its ids: {ALTERNATIVES}")
        strings = sorted(ids, key=lambda token: ids[token])
        return Vocabulary(tokenizer, strings, {role: ids[name] for role, name in names.items()})

    def save(self, folder: Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, which AutoTokenizer loads."""
        folder.mkdir()
        (folder / "tokenizer.json").write_text(self.tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        settings |= {f"{role}_token": self.strings[index] for role, index in self.special.items()}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", "utf-8")


class TokenizerSource(Protocol):
    """How to get a tokenizer. `identity` changes with what would be got."""

    def identity(self) -> str: ...

    def obtain(self, lines: Iterable[str]) -> Vocabulary: ...


@dataclass(frozen=True)
class Trained:
    """Lower-cased BERT WordPiece of at most `size` entries, trained on the lines of the train part."""

    size: int

    def identity(self) -> str:
        return f"train {self.size}"

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        from tokenizers import Tokenizer, models, trainers

        lines = list(lines)
        characters, continuing = _alphabet(lines, min(MAX_ALPHABET, self.size // 4))
        specials = list(SPECIALS.values())
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.size,
            special_tokens=specials + continuing,  # the one list whose ids the trainer takes as given
            initial_alphabet=characters,
            limit_alphabet=len(characters),
            show_progress=False,
        )
        learner = _bert_pipeline(Tokenizer(models.WordPiece(unk_token="[UNK]")))
        learner.train_from_iterator(lines, trainer, length=len(lines))

        tokenizer = _bert_pipeline(Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]")))
        vocabulary = Vocabulary.check(tokenizer, SPECIALS, f"data.tokenizer train:{self.size}, as trained,")
        return _bert_ends(vocabulary)


def _bert_pipeline(tokenizer: Tokenizer, lowercase: bool = True) -> Tokenizer:
    from tokenizers import normalizers, pre_tokenizers

    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _bert_ends(vocabulary: Vocabulary) -> Vocabulary:
    """Let the tokenizer frame a sentence as BERT does: nothing here does so, users of the published bundle may."""
    from tokenizers import decoders, processors

    tokenizer, strings, special = vocabulary.tokenizer, vocabulary.strings, vocabulary.special
    cls, sep = (strings[special[role]] for role in ("cls", "sep"))
    tokenizer.add_special_tokens([strings[index] for index in special.values()])
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, special["cls"]), (sep, special["sep"])],
    )
    return vocabulary


def _alphabet(lines: list[str], limit: int) -> tuple[list[str], list[str]]:
    """The `limit` most frequent characters after normalisation, and the continuing forms (`##e`) they can take.

    The trainer's own limit drops among equally frequent characters at random; here the lower code point stays.
    """
    from tokenizers import Tokenizer, models

    pipeline = _bert_pipeline(Tokenizer(models.WordPiece()))
    raw = np.zeros(0x110000, np.int64)
    for begin in range(0, len(lines), 10_000):
        points = np.frombuffer("\n".join(lines[begin : begin + 10_000]).encode("utf-32-le"), np.uint32)
        found, times = np.unique(points, return_counts=True)
        raw[found] += times
    counts: Counter[str] = Counter()
    for point in np.flatnonzero(raw).tolist():
        for character in pipeline.normalizer.normalize_str(chr(point)):
            counts[character] += 0 if character.isspace() else int(raw[point])
    kept = sorted(sorted(+counts, key=lambda character: (-counts[character], character))[:limit])

    def continues(character: str) -> bool:
        return len(pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str("a" + character))) == 1

    return kept, ["##" + character for character in kept if continues(character)]


@dataclass(frozen=True)
class Folder:
    """Tokenizer files in a folder: tokenizer.json, or the vocab.txt of an older BERT."""

    path: Path
    origin: str

    def identity(self) -> str:
        files = [path for name in _FILES if (path := self.path / name).is_file()]
        return "folder " + " ".join(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files)

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        from tokenizers import Tokenizer

        settings = self._settings("special_tokens_map.json") | self._settings("tokenizer_config.json")
        names = {role: _content(settings.get(f"{role}_token")) or name for role, name in SPECIALS.items()}
        if not (self.path / "tokenizer.json").is_file():
            return self._from_vocab_txt(names, bool(settings.get("do_lower_case", True)))
        try:
            tokenizer = Tokenizer.from_file(str(self.path / "tokenizer.json"))
        except Exception as error:  # the library raises bare Exceptions
            raise ValueError(f"{self.origin} cannot be read ({error}): {ALTERNATIVES}") from error
        tokenizer.no_truncation()
        tokenizer.no_padding()
        vocabulary = Vocabulary.check(tokenizer, names, self.origin)
        tokenizer.add_special_tokens(list(names.values()))
        return vocabulary

    def _from_vocab_txt(self, names: dict[str, str], lowercase: bool) -> Vocabulary:
        from tokenizers import Tokenizer, models

        path = self.path / "vocab.txt"
        if not path.is_file():
            raise ValueError(f"{self.origin} holds neither tokenizer.json nor vocab.txt: {ALTERNATIVES}")
        entries = path.read_text("utf-8").rstrip("\n").split("\n")
        model = models.WordPiece({entry: index for index, entry in enumerate(entries)}, unk_token=names["unk"])
        return _bert_ends(Vocabulary.check(_bert_pipeline(Tokenizer(model), lowercase), names, self.origin))

    def _settings(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{self.origin}: {path} is not JSON: {error}") from None


def _content(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def find(name: str) -> TokenizerSource:
    """The source that `data.tokenizer` names. ValueError where it cannot be had; there is no fallback."""
    kind, colon, size = name.partition(":")
    if kind == "train" and colon:
        if not re.fullmatch(r"[0-9]+", size) or int(size) < MIN_ENTRIES:
            raise ValueError(f"data.tokenizer {name}: SIZE must be a whole number of at least {MIN_ENTRIES}")
        return Trained(int(size))
    folder = files.expanded(name, "data.tokenizer")
    if name and folder.is_dir():
        return Folder(folder, f"data.tokenizer {name}")
    match = _HUB_NAME.fullmatch(name)
    if not match or name.startswith("."):
        raise ValueError(f"data.tokenizer {name!r} is no folder: {ALTERNATIVES}")
    return Folder(_snapshot(match[1], match[2]), f"data.tokenizer {name}")


def _snapshot(name: str, revision: str | None) -> Path:
    """The tokenizer's files as the hub's client keeps them: what is already here is used before asking the hub."""
    from huggingface_hub import snapshot_download

    reason = ""
    for local in (True, False):
        try:
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(_FILES), local_files_only=local)
            )
            if any((folder / file).is_file() for file in _FILES[:2]):
                return folder
            reason = "no tokenizer.json or vocab.txt there"
        except Exception as error:  # httpx errors are no OSErrors, and the kinds change with the client
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    raise ValueError(f"data.tokenizer {name} cannot be had from the hub ({reason}): {ALTERNATIVES}")


def library_version() -> str:
    """Part of what a vocabulary depends on."""
    return metadata.version("tokenizers")


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """The lines of documents: what is tokenised, and trained on, one at a time."""
    for text in texts:
        yield from text.split("\n")
