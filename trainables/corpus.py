"""From a corpus' name to documents, and from documents to the parts `train`, `val` and `test`.

A document is a conversation (embedded corpus), a record (.jsonl, hub rows with line breaks inside) or a stretch of
lines between blank ones, cut after 1,000 lines. Its part follows from its text alone, so that equal texts can never
lie on both sides of a split.
"""

from __future__ import annotations

import difflib
import glob
import gzip
import hashlib
import importlib.resources
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sweeper import files
from trainables.config import DataConfig

LINES_PER_DOCUMENT = 1000
SUFFIXES = (".txt", ".txt.gz", ".txt.xz", ".jsonl", ".jsonl.gz", ".jsonl.xz")
KINDS = ("embedded", "files:GLOB", "hub:NAME")

_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")
_LINK = re.compile(r"https?:|www\.|@[\w-]+\.\w|\w\.(?:com|org|net|edu|gov|io)\b", re.IGNORECASE)


class Document(NamedTuple):
    """Text of one or more lines; words are what white space separates; digest is of the text without case and space."""

    text: str
    words: int
    digest: bytes


class Source(Protocol):
    """Where text comes from. `identity` changes with the content; `texts` are the documents in a fixed order."""

    def identity(self) -> str: ...

    def texts(self) -> Iterator[str]: ...


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
            # A message that nobody answered is no conversation; most of them say "hello".
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
    """Text files, in the order of their paths. setting: what named them, for errors."""

    paths: tuple[Path, ...]
    setting: str

    @staticmethod
    def find(pattern: str, setting: str) -> Files:
        found = glob.glob(os.path.expanduser(pattern), recursive=True) if pattern else []
        paths = tuple(Path(name) for name in sorted(found) if os.path.isfile(name))
        if not paths:
            raise ValueError(f"{setting} files:{pattern} matches no file under {Path.cwd()}")
        for path in paths:
            if not path.name.lower().endswith(SUFFIXES):
                raise ValueError(f"{setting}: {path} is none of {', '.join(SUFFIXES)}: name a narrower glob")
        return Files(paths, setting)

    def identity(self) -> str:
        parts = []
        for path in self.paths:
            try:
                with path.open("rb") as file:
                    parts.append(f"{_kind(path)} {hashlib.file_digest(file, 'sha256').hexdigest()}")
            except OSError as error:
                raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        return "files " + " ".join(parts)

    def texts(self) -> Iterator[str]:
        for path in self.paths:
            try:
                lines = _read(path).replace("\r\n", "\n").replace("\r", "\n").split("\n")
                yield from _records(path, lines) if _kind(path) == "jsonl" else stretches(lines)
            except ValueError as error:
                raise ValueError(f"{self.setting}: {error}") from None


@dataclass(frozen=True)
class Hub:
    """The split `train` of a dataset on the Hugging Face hub, column `text`, at one commit. No remote code is run."""

    name: str
    commit: str

    @staticmethod
    def find(name: str, pins: Path) -> Hub:
        """A name without a commit is pinned, in `pins`, to the commit of its first use: no sweep sees it change."""
        match = _HUB_NAME.fullmatch(name)
        if not match:
            raise ValueError(f"data.corpus hub:{name} is not of the form hub:OWNER/NAME or hub:OWNER/NAME@REVISION")
        name, revision = match[1], match[2] or "main"
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            return Hub(name, revision)
        pin = pins / f"{name}@{revision}".replace("/", "--")
        if not pin.exists():
            commit = _hub_commit(name, revision)
            files.put(pin, commit)
        return Hub(name, pin.read_text("utf-8").strip())

    def identity(self) -> str:
        return f"hub {self.name} {self.commit}"

    def texts(self) -> Iterator[str]:
        import datasets

        try:
            rows: Any = datasets.load_dataset(self.name, revision=self.commit, split="train")
        except Exception as error:  # whatever client and file readers raise: none of it is ours
            raise _unavailable(self.name, error) from error
        if "text" not in rows.column_names:
            raise ValueError(f"data.corpus hub:{self.name} has no column text, only {', '.join(rows.column_names)}")
        lines = [row or "" for batch in rows.select_columns(["text"]).iter(10_000) for row in batch["text"]]
        yield from lines if any("\n" in line.strip() for line in lines) else stretches(lines)


def _hub_commit(name: str, revision: str) -> str:
    from huggingface_hub import HfApi

    try:
        return str(HfApi().dataset_info(name, revision=revision).sha)
    except Exception as error:  # httpx errors are no OSErrors, and the kinds change with the client
        raise _unavailable(name, error) from error


def _unavailable(name: str, error: Exception) -> ValueError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ValueError(f"data.corpus hub:{name} cannot be had ({reason}): name files:GLOB or embedded instead")


def find(corpus: str, pins: Path) -> Source:
    """The source that `data.corpus` names. ValueError where there is no such kind or nothing there."""
    kind, colon, rest = corpus.partition(":")
    if corpus == "embedded":
        return Embedded()
    if kind == "files" and colon:
        return Files.find(rest, "data.corpus")
    if kind == "hub" and colon:
        return Hub.find(rest, pins)
    near = difflib.get_close_matches(kind, [known.partition(":")[0] for known in KINDS], 1, 0.4)
    hint = next((known for known in KINDS if near and known.startswith(near[0])), ", ".join(KINDS))
    raise ValueError(f"data.corpus {corpus!r} is of no known kind: did you mean {hint}?")


def find_part(part: str, value: str | None) -> Files | None:
    """The files given for `validation` or `test`, or None where a hash of the documents sets that part apart."""
    if value is None:
        return None
    kind, _, pattern = value.partition(":")
    if kind != "files":
        raise ValueError(f"data.{part} {value!r} must be files:GLOB")
    return Files.find(pattern, f"data.{part}")


def _kind(path: Path) -> str:
    return "jsonl" if ".jsonl" in "".join(path.suffixes[-2:]).lower() else "txt"


def _read(path: Path) -> str:
    openers = {".gz": gzip.open, ".xz": lzma.open}
    try:
        with openers.get(path.suffix.lower(), open)(path, "rb") as file:
            return file.read().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: convert it, as with iconv -t UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged, or not what its suffix says ({error})") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _records(path: Path, lines: list[str]) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        text = record.get("text") if isinstance(record, dict) else None
        if not isinstance(text, str):
            raise ValueError(f"{path}, line {number} has no text: each line must be an object with a string 'text'")
        if re.search("[\ud800-\udfff]", text):
            raise ValueError(f"{path}, line {number} holds half of a surrogate pair, which is no character")
        yield text


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
    """The three parts. Where a text is in several, the test part keeps it, else the validation part."""
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


def held_out(corpus: list[Document], part: str, config: DataConfig) -> list[Document]:
    """Documents whose digest lies in the part's range: `val` from the low end, `test` from the high end inwards.

    The range ends early once it holds `max_held_out` words; what lies beyond goes back to train, where it is worth
    more than dropped. Words, not tokens, decide: a tokenizer trained on the train part must not move its border, and
    there are hardly ever fewer tokens than words. The border is a digest, so all copies of a text lie on one side.
    """
    top = 2**64
    limit = round(config.held_out * top)
    chosen, words = [], 0
    for document in sorted(corpus, key=lambda document: document.digest, reverse=part == "test"):
        position = int.from_bytes(document.digest[:8], "big")
        if (top - 1 - position if part == "test" else position) >= limit:
            break
        if words >= config.max_held_out and document.digest != chosen[-1].digest:
            break
        chosen.append(document)
        words += document.words
    return chosen
