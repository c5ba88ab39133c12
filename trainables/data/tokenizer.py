"""Gets a tokenizer, to be trained (wordpiece.py), from a folder or from the hub, and checks it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from sweeper.system import files
from trainables import limits, received
from trainables.data import sentence_pieces, special_tokens
from trainables.data.vocabulary import ALTERNATIVES, MIN_ENTRIES, Vocabulary, bert_ends, bert_pipeline, framed
from trainables.data.wordpiece import Trained

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNHEARD_OF = "☃ ꩑ 𐊀"
BERT_LIKE = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "Lxmert", "SqueezeBert", "MPNet")

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_FILES = ("tokenizer.json", "vocab.txt", *_SETTINGS)
_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


class NotHere(ValueError):
    """A tokenizer on the hub that this machine has no copy of, when asking the hub was not allowed."""


class TokenizerSource(Protocol):
    """How to get a tokenizer."""

    def identity(self) -> str:
        """A text that changes with the tokenizer."""
        ...

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        """The tokenizer, trained on the lines if it is one to train. ValueError, in one line, for an unsuitable one."""
        ...

    def remedy(self, lines: Iterable[str]) -> str:
        """What to do against many [UNK] in these lines, for people."""
        ...


@dataclass(frozen=True)
class Folder:
    """Tokenizer files in a folder: tokenizer.json, else the vocab.txt of an older BERT, else a SentencePiece model."""

    path: Path
    origin: str

    def identity(self) -> str:
        files = [path for name in _FILES if (path := self.path / name).is_file()]
        if not any((self.path / name).is_file() for name in _FILES[:2]):
            others = (*sentence_pieces.FILES, "added_tokens.json", "config.json")  # transformers reads the last, too
            files += [path for name in others if (path := self.path / name).is_file()]
        digests = [f"{path.name} {hashlib.sha256(limits.read(path, limits.TOKENIZER)).hexdigest()}" for path in files]
        return " ".join(["folder", *digests, *["read anew"] * self._read_anew()])

    def _read_anew(self) -> bool:
        """Whether earlier versions made other arrays from the same files, so that the two must not share a name.

        They ignored two settings beside a vocab.txt, and where words begin outside WordPiece.
        """
        if not (self.path / "tokenizer.json").is_file():
            settings = self._settings(_SETTINGS[0])
            return settings.get("strip_accents") is not None or not settings.get("tokenize_chinese_chars", True)
        try:
            path = self.path / "tokenizer.json"
            return limits.json_file(path, limits.TOKENIZER)["model"]["type"] != "WordPiece"
        except (ValueError, LookupError, TypeError):
            return False  # refused by name when it is opened

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        settings = [self._settings(name) for name in _SETTINGS]
        names = special_tokens.named(*settings)
        if (self.path / "tokenizer.json").is_file():
            return self._checked(self._from_json(), names, "tokenizer.json")
        if (self.path / "vocab.txt").is_file():
            return bert_ends(self._checked(self._from_vocab_txt(names, settings[0]), names, "vocab.txt"))
        model = next((name for name in sentence_pieces.FILES if (self.path / name).is_file()), None)
        if model is None:
            kinds = "neither tokenizer.json nor vocab.txt nor a SentencePiece .model"
            raise ValueError(f"{self.origin} has {kinds}: {ALTERNATIVES}")
        try:
            tokenizer, own = sentence_pieces.read(self.path / model, settings[0], names)
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from error
        vocabulary = self._checked(tokenizer, special_tokens.named(*settings, own), model)
        return vocabulary if tokenizer.post_processor else framed(vocabulary)

    def remedy(self, lines: Iterable[str]) -> str:
        return "name a tokenizer that knows these characters: train:SIZE, or one that falls back on bytes"

    def _checked(self, tokenizer: Tokenizer, names: dict[str, str], file: str) -> Vocabulary:
        """The vocabulary with its special tokens by role. ValueError says which is missing, and in which file."""
        tokenizer.no_truncation()
        described, entries = json.loads(tokenizer.to_str()), tokenizer.get_vocab(with_added_tokens=True)
        tokenizer.no_padding()
        found = special_tokens.find(names, described, entries)
        wanted = [role for role in special_tokens.ROLES if role != "unk" or special_tokens.needs_unknown(described)]
        if len(entries) >= MIN_ENTRIES:
            self._refuse(found, [role for role in wanted if role not in found], entries, file)
            message = f"{self.origin} fails on characters that it does not know"
            limits.fails(lambda: tokenizer.encode(UNHEARD_OF), message)
        vocabulary = Vocabulary.check(tokenizer, found, self.origin)
        tokenizer.add_special_tokens(list(found.values()))
        return vocabulary

    def _refuse(self, found: dict[str, str], missing: list[str], entries: Iterable[str], file: str) -> None:
        """ValueError for special tokens that are missing or not entries, and for a mask token with another role."""
        config = self.path / "tokenizer_config.json"
        if missing:
            role = missing[0]
            how = f'name it in {config}, as in "{role}_token": "<{role}>"'
            there = f"it becomes an entry behind {file}'s pieces" if file.endswith(".model") else f"an entry of {file}"
            raise ValueError(f"{self.origin} has no {', '.join(missing)} token: {how} ({there}), or {ALTERNATIVES}")
        absent = next((role for role, token in found.items() if token not in entries), None)
        if absent:
            token, how = found[absent], "as its last line" if file == "vocab.txt" else 'under "added_tokens"'
            why = f"which {absent}_token names in the folder's settings"
            raise ValueError(f"{self.origin} has no {token}, {why}: add it to {file} {how}, or {ALTERNATIVES}")
        shared = [role for role, token in found.items() if token == found["mask"] and role != "mask"]
        if shared:
            why = f"{found['mask']} is both its mask and its {shared[0]} token"
            raise ValueError(f"{self.origin}: {why}: name another entry as mask_token in {config}")

    def _from_json(self) -> Tokenizer:
        from tokenizers import Tokenizer

        path, message = self.path / "tokenizer.json", f"{self.origin} cannot be read: {ALTERNATIVES}"
        received.check_tokenizer(self.path)
        return limits.fails(lambda: Tokenizer.from_file(str(path)), message)

    def _from_vocab_txt(self, names: dict[str, str], settings: dict[str, Any]) -> Tokenizer:
        """As transformers reads it: BERT's tokenizer with the folder's settings."""
        from tokenizers import AddedToken, Tokenizer, models

        kind = str(settings.get("tokenizer_class") or "").removesuffix("Fast").removesuffix("Tokenizer")
        if kind not in ("", "PreTrained", "TokenizersBackend", *BERT_LIKE):
            how = "save it with AutoTokenizer's save_pretrained to get a tokenizer.json"
            raise ValueError(f"{self.origin}: a {kind}Tokenizer does not split words as BERT does: {how}")
        try:
            content = limits.read(self.path / "vocab.txt", limits.TOKENIZER).decode(files.GIVEN)
            if content.count("\n") > limits.ENTRIES:
                raise ValueError(f"it has more than {limits.ENTRIES:,} lines")
            lines = content.replace("\r\n", "\n").removesuffix("\n").split("\n")
        except ValueError as error:
            raise ValueError(f"{self.origin}: vocab.txt cannot be read ({error}): {ALTERNATIVES}") from error
        entries = {line.rstrip(): index for index, line in enumerate(lines)}
        unknown = names.get("unk") or ("<unk>" if "<unk>" in entries and "[UNK]" not in entries else "[UNK]")
        tokenizer = bert_pipeline(
            Tokenizer(models.WordPiece(entries, unk_token=unknown)),
            lowercase=bool(settings.get("do_lower_case", True)),
            strip_accents=settings.get("strip_accents"),
            chinese=bool(settings.get("tokenize_chinese_chars", True)),
        )
        added = settings.get("added_tokens_decoder") or {}

        def add() -> None:
            for _, token in sorted(added.items(), key=lambda pair: int(pair[0])):
                tokenizer.add_tokens([AddedToken(**{key: value for key, value in token.items() if key != "__type"})])

        limits.fails(add, f"{self.origin}: added_tokens_decoder of tokenizer_config.json cannot be read")
        return tokenizer

    def _settings(self, name: str) -> dict[str, Any]:
        path = self.path / name
        try:
            return limits.json_file(path, limits.TOKENIZER) if path.is_file() else {}
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from None


def find(name: str, ask: bool = True) -> TokenizerSource:
    """The source that `data.tokenizer` names. ValueError, in one line, if there is none; there is no fallback.

    ask: whether to ask the hub for what is not on this machine; if not, NotHere is raised.
    """
    if name.startswith("train:"):
        return Trained.parse(name)
    folder = files.expanded(name, "data.tokenizer")
    if name and folder.is_dir():
        return Folder(folder, f"data.tokenizer {name}")
    match = _HUB_NAME.fullmatch(name)
    if not match or name.startswith("."):
        raise ValueError(f"data.tokenizer {name!r} is not a folder: {ALTERNATIVES}")
    return Folder(_snapshot(match[1], match[2], ask), f"data.tokenizer {name}")


def _snapshot(name: str, revision: str | None, ask: bool) -> Path:
    """The tokenizer's files in the cache of the hub's client, which is looked at before the hub is asked."""
    from huggingface_hub import snapshot_download

    reason, wanted = "", (*_FILES, *sentence_pieces.FILES)
    for local in (True, False)[: 1 + ask]:
        try:
            folder = Path(
                snapshot_download(name, revision=revision, allow_patterns=list(wanted), local_files_only=local)
            )
            if any((folder / file).is_file() for file in wanted if file not in _SETTINGS):
                return folder
            reason = "no tokenizer.json, vocab.txt or SentencePiece .model there"
        except Exception as error:  # httpx errors are not OSErrors, and their types change with the client
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if not ask:
        raise NotHere(f"data.tokenizer {name} is not on this machine")
    raise ValueError(f"cannot get data.tokenizer {name} from the hub ({reason}): {ALTERNATIVES}")


def entries(name: str) -> int | None:
    """Entries of the vocabulary that `data.tokenizer` names; None if it is yet to train, not here, or unsuitable."""
    try:
        source = find(name, ask=False)
        return _entries(source) if isinstance(source, Folder) else None
    except ValueError:
        return None


@functools.lru_cache(16)
def _entries(folder: Folder) -> int:
    """Cached: a plan asks for the same many times."""
    return len(folder.obtain(()).strings)


def library_version() -> str:
    """The version of `tokenizers`, which a vocabulary depends on."""
    return metadata.version("tokenizers")


def lines_of(texts: Iterable[str]) -> Iterator[str]:
    """The lines of documents, which are tokenised and trained on one at a time."""
    for text in texts:
        yield from text.split("\n")
