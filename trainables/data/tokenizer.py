"""Gets a tokenizer, trained on the train part, from a folder or from the hub, and checks it.

WordPiece training in `tokenizers` numbers the continuing characters (`##e`) in the order of a randomly seeded hash
table, and breaks ties between merges by those numbers: two trainings on one text differ. Here the characters are
numbered first, which makes the vocabulary a function of the text.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sweeper.system import files
from trainables import limits, received
from trainables.data import sentence_pieces, special_tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer

MIN_ENTRIES = 100
SPECIALS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
ALTERNATIVES = (
    "name train:SIZE, a folder with tokenizer.json, vocab.txt or a SentencePiece .model, "
    "or a hub name such as bert-base-uncased"
)
MAX_ALPHABET = 1000
COVERED = 0.999  # share of a text's characters in the alphabet that a remedy names
UNHEARD_OF = "☃ ꩑ 𐊀"
LONGEST_WORD = 100  # characters; to WordPiece a longer word is unknown
BERT_LIKE = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "LayoutLM", "Lxmert", "SqueezeBert", "MPNet")

_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")
_FILES = ("tokenizer.json", "vocab.txt", *_SETTINGS)
_HUB_NAME = re.compile(r"([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?")


class NotHere(ValueError):
    """A tokenizer on the hub that this machine has no copy of, when asking the hub was not allowed."""


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
class Trained:
    """BERT WordPiece, trained on the lines of the train part.

    Args:
        size: the most entries.
        cased: keep case, not lower-case it.
        accents: keep accents and vowel signs, composed (NFC), not strip them.
        alphabet: how many characters may have entries; None is min(1000, size / 4).
    """

    size: int
    cased: bool = False
    accents: bool = False
    alphabet: int | None = None

    @staticmethod
    def parse(name: str) -> Trained:
        """`train:SIZE`, and any of `,cased`, `,accents` and `,alphabet=N`. ValueError in one line."""
        size, *options = name.removeprefix("train:").split(",")
        if not re.fullmatch(r"[0-9]+", size) or int(size) < MIN_ENTRIES:
            raise ValueError(f"data.tokenizer {name}: SIZE must be a whole number of at least {MIN_ENTRIES}")
        if len(size) > 9 or int(size) > limits.ENTRIES:
            raise ValueError(f"data.tokenizer {name:.60}: SIZE must be at most {limits.ENTRIES:,}")
        given: dict[str, Any] = {}
        for option in options:
            word, equals, value = option.strip().partition("=")
            if word == "alphabet" and (not re.fullmatch(r"[0-9]+", value) or not 0 < 2 * int(value) < int(size)):
                raise ValueError(f"data.tokenizer {name}: alphabet=N must be a whole number below half of {size}")
            if word not in ("cased", "accents", "alphabet") or (equals and word != "alphabet"):
                near = difflib.get_close_matches(word, ("cased", "accents", "alphabet=N"), 1, 0.5)
                hint = f"did you mean {near[0]}?" if near else "there are cased, accents and alphabet=N"
                raise ValueError(f"data.tokenizer {name}: train:SIZE has no option {option.strip()!r}; {hint}")
            given[word] = int(value) if equals else True
        return Trained(int(size), **given)

    @property
    def name(self) -> str:
        """As `data.tokenizer` spells it."""
        alphabet = f"alphabet={self.alphabet}" if self.alphabet else ""
        options = ("cased" if self.cased else "", "accents" if self.accents else "", alphabet)
        return ",".join([f"train:{self.size}", *filter(None, options)])

    def identity(self) -> str:
        return self.name.replace(":", " ")

    def obtain(self, lines: Iterable[str]) -> Vocabulary:
        from tokenizers import Tokenizer, models, trainers

        lines = self._learnable(lines)
        characters, continuing = self._alphabet(lines)
        specials = list(SPECIALS.values())
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.size,
            special_tokens=specials + continuing,  # the one list whose order the trainer keeps
            initial_alphabet=characters,
            limit_alphabet=len(characters),
            show_progress=False,
        )
        learner = self._pipeline(Tokenizer(models.WordPiece(unk_token="[UNK]")))
        learner.train_from_iterator(lines, trainer, length=len(lines))

        tokenizer = self._pipeline(Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]")))
        vocabulary = Vocabulary.check(tokenizer, SPECIALS, f"data.tokenizer {self.name}, as trained,")
        return _bert_ends(vocabulary)

    def _learnable(self, lines: Iterable[str]) -> list[str]:
        """The lines without words beyond `limits.LONGEST_WORD`: training time grows with their square."""
        from tokenizers import Tokenizer, models

        pipeline = self._pipeline(Tokenizer(models.WordPiece()))

        def kept(line: str) -> str:
            if len(line) <= limits.LONGEST_WORD or max(map(len, line.split()), default=0) <= limits.LONGEST_WORD:
                return line
            words = pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(line))
            fit = [word for word, _ in words if len(word) <= limits.LONGEST_WORD]
            return line if len(fit) == len(words) else " ".join(fit)

        return [kept(line) for line in lines]

    def remedy(self, lines: Iterable[str]) -> str:
        """What to name instead: an alphabet that covers the text, or, if this one does, another tokenizer."""
        lines = list(lines)
        counts = self._counted(lines)
        times = np.sort(np.array([*counts.values()]))[::-1].cumsum()
        enough = int(np.searchsorted(times, COVERED * times[-1])) + 1 if len(times) else 0
        if enough <= self._limit:
            return self._other_remedy(lines)
        size = max(self.size, 2 ** math.ceil(math.log2(4 * enough)))
        alphabet = enough if enough > MAX_ALPHABET or self.alphabet else None
        better = Trained(size, self.cased, self.accents, alphabet).name
        return (
            f"the alphabet of {self.name} has {self._limit:,} characters, and {100 * COVERED:g} % of the text takes "
            f"{enough:,}: use {better}"
        )

    def _other_remedy(self, lines: list[str]) -> str:
        from tokenizers import Tokenizer, models

        pipeline = self._pipeline(Tokenizer(models.WordPiece()))
        for text in (text for line in lines for text in line.split() if len(text) > LONGEST_WORD):
            words = pipeline.pre_tokenizer.pre_tokenize_str(pipeline.normalizer.normalize_str(text))
            if any(len(word) > LONGEST_WORD for word, _ in words):
                advice = "for a script without spaces name a folder with a SentencePiece model"
                return f"words of more than {LONGEST_WORD} characters are unknown as a whole; {advice}"
        return "the train part lacks characters that the others have: give more text, or name a tokenizer that has them"

    @property
    def _limit(self) -> int:
        return self.alphabet or min(MAX_ALPHABET, self.size // 4)

    def _pipeline(self, tokenizer: Tokenizer) -> Tokenizer:
        if not (self.cased or self.accents):
            return _bert_pipeline(tokenizer)
        return _bert_pipeline(tokenizer, lowercase=not self.cased, strip_accents=not self.accents, compose=self.accents)

    def _alphabet(self, lines: list[str]) -> tuple[list[str], list[str]]:
        """The most frequent characters after normalisation, and the continuing forms (`##e`) that they can take.

        Among equally frequent characters the trainer's own limit drops some at random; here the lower code points stay.
        """
        from tokenizers import Tokenizer, models

        pipeline, counts = self._pipeline(Tokenizer(models.WordPiece())), self._counted(lines)
        kept = sorted(sorted(+counts, key=lambda character: (-counts[character], character))[: self._limit])

        def continues(character: str) -> bool:
            normal = pipeline.normalizer.normalize_str("a" + character)
            return len(pipeline.pre_tokenizer.pre_tokenize_str(normal)) == 1

        return kept, ["##" + character for character in kept if continues(character)]

    def _counted(self, lines: list[str]) -> Counter[str]:
        """How often each character occurs in the text after normalisation."""
        from tokenizers import Tokenizer, models

        normalizer = self._pipeline(Tokenizer(models.WordPiece())).normalizer
        raw = np.zeros(0x110000, np.int64)
        for begin in range(0, len(lines), 10_000):
            text = "\n".join(lines[begin : begin + 10_000])
            text = unicodedata.normalize("NFC", text) if self.accents else text
            found, times = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_counts=True)
            raw[found] += times
        counts: Counter[str] = Counter()
        for point in np.flatnonzero(raw).tolist():
            for character in normalizer.normalize_str(chr(point)):
                counts[character] += 0 if character.isspace() else int(raw[point])
        return counts


def _bert_pipeline(
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


def _bert_ends(vocabulary: Vocabulary) -> Vocabulary:
    """Give a vocabulary BERT's special tokens, decoder and sentence template."""
    from tokenizers import decoders

    vocabulary.tokenizer.add_special_tokens([vocabulary.strings[index] for index in vocabulary.special.values()])
    vocabulary.tokenizer.decoder = decoders.WordPiece()
    return _framed(vocabulary)


def _framed(vocabulary: Vocabulary) -> Vocabulary:
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
            return _bert_ends(self._checked(self._from_vocab_txt(names, settings[0]), names, "vocab.txt"))
        model = next((name for name in sentence_pieces.FILES if (self.path / name).is_file()), None)
        if model is None:
            kinds = "neither tokenizer.json nor vocab.txt nor a SentencePiece .model"
            raise ValueError(f"{self.origin} has {kinds}: {ALTERNATIVES}")
        try:
            tokenizer, own = sentence_pieces.read(self.path / model, settings[0], names)
        except ValueError as error:
            raise ValueError(f"{self.origin}: {error}") from error
        vocabulary = self._checked(tokenizer, special_tokens.named(*settings, own), model)
        return vocabulary if tokenizer.post_processor else _framed(vocabulary)

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
        tokenizer = _bert_pipeline(
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
