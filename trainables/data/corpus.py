"""From the name of a corpus to documents, and from documents to the parts `train`, `val` and `test`.

A document is a conversation (embedded corpus), a record of .jsonl, or a stretch of lines between blank ones, cut after
1,000 lines. Rows of a table, from the hub or from files, are documents where any of them has a line break inside, and
such lines otherwise. A document's part follows from its text alone, so that equal texts never lie on both sides of a
split.
"""

from __future__ import annotations

import difflib
import glob
import hashlib
import importlib.resources
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sweeper.system import files
from sweeper.trainable import FEW_DOCUMENTS
from trainables import limits
from trainables.data import formats
from trainables.limits import Room
from trainables.settings.config import DataConfig

LINES_PER_DOCUMENT = 1000
ENOUGH = 200  # words: with 15 % of the tokens predicted, some are sure to be [MASK]
SETTING, INSTEAD = "data.corpus ", "name files:GLOB or embedded"  # of the hub
KINDS = ("embedded", "files:GLOB", "hub:NAME")

_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_LINK = re.compile(r"https?:|www\.|@[\w-]+\.\w|\w\.(?:com|org|net|edu|gov|io)\b", re.IGNORECASE)


class Document(NamedTuple):
    """Text of one or more lines; words are what white space separates; digest is of the text without case and space."""

    text: str
    words: int
    digest: bytes


class Source(Protocol):
    """Where text comes from."""

    def identity(self) -> str:
        """A text that changes with the content."""
        ...

    def texts(self) -> Iterator[str]:
        """The documents in a fixed order."""
        ...


@dataclass(frozen=True)
class Embedded:
    """The dialogues that the package chitchat-dataset ships (MIT licence), cleaned: a line is a turn."""

    def identity(self) -> str:
        return "embedded " + hashlib.sha256(self._bytes()).hexdigest()

    def texts(self) -> Iterator[str]:
        seen: set[str] = set()
        for conversation in json.loads(self._bytes().decode("utf-8")).values():
            turns = clean(conversation["messages"])
            key = " ".join(turns).casefold()
            # A message without an answer is not a conversation; most of them say "hello".
            if len(turns) > 1 and key not in seen:
                seen.add(key)
                yield "\n".join(turns)

    def _bytes(self) -> bytes:
        try:
            folder = importlib.resources.files("chitchat_dataset")
        except ModuleNotFoundError:
            raise ValueError(
                "data.corpus embedded needs chitchat-dataset: run pip install 'sweeper[embedded]', "
                "or name files:GLOB or hub:NAME"
            ) from None
        return (folder / "dataset.json").read_bytes()


def clean(turns: list[list[dict[str, Any]]]) -> list[str]:
    """Turns as lines, without links and e-mail addresses, messages of single letters ("a a a a"), and empty ones."""
    lines = []
    for turn in turns:
        messages = ([word for word in message["text"].split() if not _is_link(word)] for message in turn)
        kept = [" ".join(words) for words in messages if any(len(word) > 1 for word in words)]
        if kept:
            lines.append(" ".join(kept))
    return lines


def _is_link(word: str) -> bool:
    return "." in word and _LINK.search(word) is not None


@dataclass(frozen=True)
class Files:
    """Text files in the order of their paths, then all tables as one. setting: the setting that named them."""

    paths: tuple[Path, ...]
    setting: str

    @staticmethod
    def find(pattern: str, setting: str) -> Files:
        """The files of a glob, or of a folder that `datasets` saved. ValueError, in one line, for anything else."""
        place = os.path.expanduser(pattern)
        if os.path.isdir(place):
            return Files(_in_folder(place, f"{setting} files:{pattern}"), setting)
        paths = tuple(Path(name) for name in sorted(_found(place)) if os.path.isfile(name))
        if not paths:
            where = "" if os.path.isabs(place) else f" under {Path.cwd()}"
            raise ValueError(f"{setting} files:{pattern} matches no file{where}")
        for path in paths:
            if not formats.kind(path):
                raise ValueError(f"{setting}: {path} is not {formats.LEGAL}: rename it or name a narrower glob")
        return Files(paths, setting)

    def identity(self) -> str:
        parts = []
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    parts.append(f"{formats.kind(path)} {hashlib.file_digest(file, 'sha256').hexdigest()}")
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        return "files " + " ".join(parts)

    def texts(self) -> Iterator[str]:
        tables, room = [path for path in self.paths if formats.kind(path) in formats.TABLES], Room()
        try:
            for path in self.paths:
                if path not in tables:
                    records = formats.kind(path) == "jsonl"
                    text = formats.records(path, room) if records else stretches(formats.text(path, room).split("\n"))
                    yield from text
            yield from _of_rows([row for path in tables for row in formats.rows(path, room)])
        except ValueError as error:
            raise ValueError(f"{self.setting}: {error}") from None


def _found(pattern: str) -> list[str]:
    """What a glob matches. The leading part that exists under that very name is taken literally: `[2024]/*.txt`."""
    if not pattern:
        return []
    there = next(path for path in (Path(pattern), *Path(pattern).parents) if os.path.exists(path))
    rest = Path(pattern).relative_to(there)
    return glob.glob(os.path.join(glob.escape(str(there)), str(rest)), recursive=True) if rest.parts else [pattern]


def _in_folder(folder: str, given: str) -> tuple[Path, ...]:
    """The files of a saved dataset. ValueError, in one line, for another folder, with globs that match its files."""
    try:
        if paths := formats.saved(Path(folder)):
            return tuple(paths)
    except ValueError as error:
        raise ValueError(f"{given}: {error}") from None
    for depth in ("*", "*/*"):
        names = [Path(name) for name in glob.glob(os.path.join(glob.escape(folder), depth)) if os.path.isfile(name)]
        endings = sorted({formats.ending(path) for path in names if formats.kind(path)})
        if endings:
            ways = [f"{given.removesuffix('/').partition(' ')[2]}/{depth}{ending}" for ending in endings]
            raise ValueError(f"{given} is a folder: name its files, as in {' or '.join(ways)}")
    raise ValueError(f"{given} is a folder without {formats.LEGAL} files")


@dataclass(frozen=True)
class Hub:
    """Split `train`, column `text`, of a dataset on the Hugging Face hub, at one commit. No remote code is run."""

    name: str
    commit: str

    @staticmethod
    def find(name: str, pins: Path, setting: str = SETTING, instead: str = INSTEAD) -> Hub:
        """The dataset of that name. Without a commit it is pinned, in `pins`, to that of its first use.

        setting, instead: what stands before its name, and what else would do, in messages.
        """
        match = _HUB_NAME.fullmatch(name)
        if not match:
            raise ValueError(f"{setting}hub:{name}: write hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
        name, revision = match[1], match[2] or "main"
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return Hub(name, revision)
        pin = pins / f"{name}@{revision}".replace("/", "--")
        if not pin.exists():
            commit = _hub_commit(name, revision, setting, instead)
            files.put(pin, commit)
        pinned = limits.read(pin, limits.SETTINGS).decode("utf-8", "replace").strip()
        if not re.fullmatch(r"[0-9a-f]{40}", pinned):
            raise ValueError(f"{setting}hub:{name}: {pin} is damaged (it names no commit): delete it")
        return Hub(name, pinned)

    def identity(self) -> str:
        return f"hub {self.name} {self.commit}"

    def texts(self) -> Iterator[str]:
        import datasets

        try:
            rows: Any = datasets.load_dataset(self.name, revision=self.commit, split="train")
        except Exception as error:  # whatever the client and its file readers raise
            raise unavailable(self.name, error) from error
        if "text" not in rows.column_names:
            raise ValueError(f"data.corpus hub:{self.name} has no column text, only {', '.join(rows.column_names)}")
        yield from _of_rows(
            [row or "" for batch in rows.select_columns(["text"]).iter(10_000) for row in batch["text"]]
        )


def _of_rows(rows: list[str]) -> Iterable[str]:
    """The documents of a table's rows."""
    return rows if any("\n" in row.strip() for row in rows) else stretches(rows)


def _hub_commit(name: str, revision: str, setting: str, instead: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except Exception as error:  # httpx errors are not OSErrors, and their types change with the client
        raise unavailable(name, error, setting, instead) from error


def unavailable(name: str, error: Exception, setting: str = SETTING, instead: str = INSTEAD) -> ValueError:
    """What to raise for an error of the hub, of whatever type."""
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"cannot get {setting}hub:{name} ({reason}): {instead} instead")


def find(corpus: str, pins: Path) -> Source:
    """The source that `data.corpus` names. ValueError for an unknown kind or a missing source."""
    kind, colon, rest = corpus.partition(":")
    if corpus == "embedded":
        return Embedded()
    if kind == "files" and colon:
        return Files.find(rest, "data.corpus")
    if kind == "hub" and colon:
        return Hub.find(rest, pins)
    near = difflib.get_close_matches(kind, [each.partition(":")[0] for each in KINDS], 1, 0.4)
    hint = next((each for each in KINDS if near and each.startswith(near[0])), ", ".join(KINDS))
    raise ValueError(f"data.corpus {corpus!r} is not a known kind: did you mean {hint}?")


def find_part(part: str, value: str | None) -> Files | None:
    """The files of `validation` or `test`; None where a hash of the documents sets that part apart."""
    if value is None:
        return None
    kind, _, pattern = value.partition(":")
    if kind != "files":
        raise ValueError(f"data.{part} {value!r} must be files:GLOB")
    return Files.find(pattern, f"data.{part}")


def stretches(lines: Iterable[str]) -> Iterator[str]:
    """Lines between blank ones, in documents of at most 1,000 lines."""
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line)
        if held and (not line.strip() or len(held) == LINES_PER_DOCUMENT):
            yield "\n".join(held)
            held = []
    if held:
        yield "\n".join(held)


def documents(source: Source) -> list[Document]:
    """All documents with at least one word."""
    found = []
    for text in source.texts():
        words = text.casefold().split()
        if words:
            digest = hashlib.blake2b(" ".join(words).encode("utf-8"), digest_size=16).digest()
            found.append(Document(text, len(words), digest))
    return found


@dataclass(frozen=True)
class Parts:
    """Documents by part: no text occurs in two. shared: documents left out because another part has their text."""

    train: list[Document]
    val: list[Document]
    test: list[Document]
    shared: int


def divide(config: DataConfig, source: Source, validation: Source | None, test: Source | None) -> Parts:
    """The three parts. A text that occurs in several stays in test, or else in validation."""
    corpus = documents(source)
    if not corpus:
        raise ValueError(f"data.corpus {config.corpus} has no text")
    total, parts, held = len(corpus), {}, set()
    for part, given in (("test", test), ("val", validation)):
        chosen = documents(given) if given else held_out(corpus, part, config)
        total += len(chosen) if given else 0
        parts[part] = [document for document in chosen if document.digest not in held]
        held.update(document.digest for document in chosen)
    train = [document for document in corpus if document.digest not in held]
    shared = total - len(train) - len(parts["val"]) - len(parts["test"])
    return Parts(train, parts["val"], parts["test"], shared)


def remedy(config: DataConfig, parts: Parts) -> str:
    """What to do when a part has too little text: settings that leave enough in each."""
    settings = {part: name for part, name in (("val", "validation"), ("test", "test")) if not getattr(config, name)}
    corpus = [document for part in ("train", *settings) for document in getattr(parts, part)]
    given = f"set {' and '.join(f'data.{name}' for name in settings.values())} to files:GLOB"
    enough = max(config.block, ENOUGH)
    for percent in range(1, 50):
        share = config.model_copy(update={"held_out": percent / 100})
        chosen = [held_out(corpus, part, share) for part in settings]
        held = {document.digest for part in chosen for document in part}
        chosen.append([document for document in corpus if document.digest not in held])
        if min(sum(document.words for document in part) for part in chosen) >= enough:
            return f"set data.held_out to {percent / 100:g}, or {given}"
    one = len(corpus) == 1
    return (
        f"the text is {len(corpus)} document{'' if one else 's'}, and a document is never split: "
        f"put blank lines between {'its' if one else 'more'} documents, or {given}"
    )


def few(documents: Mapping[str, int]) -> list[str]:
    """A warning, if a held-out part has too few documents for a spread over them. documents: their number by part."""
    short = [f"{part} has {number}" for part, number in documents.items() if number < FEW_DOCUMENTS]
    if not short:
        return []
    return [
        f"too few documents ({' and '.join(short)}): an interval over documents takes {FEW_DOCUMENTS}; add text, put "
        "blank lines between documents, or raise data.held_out"
    ]


def held_out(corpus: list[Document], part: str, config: DataConfig) -> list[Document]:
    """Documents whose digest lies in the part's range: `val` from the low end, `test` from the high end inwards.

    The range ends early once it holds as many words as the part may have tokens. What lies beyond goes back to train,
    where it is worth more than if it were dropped. Words decide, not tokens: a tokenizer trained on the train part must
    not move the border, and there are hardly ever fewer tokens than words. The border is a digest, so all copies of a
    text lie on one side.
    """
    top = 2**64
    limit = round(config.held_out * top)
    chosen, words = [], 0
    for document in sorted(corpus, key=lambda document: document.digest, reverse=part == "test"):
        position = int.from_bytes(document.digest[:8], "big")
        if (top - 1 - position if part == "test" else position) >= limit:
            break
        if words >= config.most(part) and document.digest != chosen[-1].digest:
            break
        chosen.append(document)
        words += document.words
    return chosen
