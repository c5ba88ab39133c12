"""From documents to the arrays that a run reads: tokens, word starts, usable blocks, fixed evaluation masks."""

from __future__ import annotations

import hashlib
import itertools
import json
import operator
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sweeper.system import files
from trainables import noise
from trainables.data import collocations, corpus, dropped, loss_slices, relevance, tokenizer, word_forms
from trainables.data.vocabulary import Vocabulary
from trainables.settings.config import DataConfig

if TYPE_CHECKING:
    from numpy.typing import NDArray

VERSION = 1  # raise it whenever the same text would give other arrays: it is part of the fingerprint
LAYOUT = 5  # raise it whenever arrays or facts are added: a cache without them is made again, under the same name
EVALUATION_RATE = 0.15
MASKED, REPLACED = 0.8, 0.1
MANIFEST = "manifest.json"
TRAIN_ARRAYS = (
    *("tokens", "word_start", "document", "rows", "words", "eligible", "unigram", "initial"),
    *("collocation_start", "relevance"),
)

_SPACES = np.array([point for point in range(0x3001) if chr(point).isspace()], np.uint32)  # there are none above
_BATCH_CHARACTERS = 1_000_000


@dataclass(frozen=True, eq=False)
class EvaluationSet:
    """The fixed predictions of a held-out part, the same for every trial, seed and policy.

    Args:
        inputs: [n, T] int64, with the replacements made.
        positions: [m] int64, ascending flat indices into n * T of the selected positions, m = round(0.15 * n * T).
        labels: [m] int64, the tokens that stood there.
        masked: [m] bool, whether [MASK] stands there, not the token itself or a random one.
        document: [m] int32, the document of the part that each lies in.
        seen: [m] bool, whether the whole word there, as the tokenizer splits text, occurs in the train part, too.
        initial: [m] bool, whether such a word begins there.
    """

    inputs: NDArray[np.int64]
    positions: NDArray[np.int64]
    labels: NDArray[np.int64]
    masked: NDArray[np.bool_]
    document: NDArray[np.int32]
    seen: NDArray[np.bool_]
    initial: NDArray[np.bool_]


EVALUATION_ARRAYS = tuple(field.name for field in fields(EvaluationSet))


@dataclass(frozen=True)
class _Tokens:
    """Flat tokens of a part, [n] each: ids, starts of the tokenizer's words, lines and spaced words, and documents."""

    ids: NDArray[Any]
    word_start: NDArray[np.bool_]
    line_start: NDArray[np.bool_]
    spaced: NDArray[np.bool_]
    document: NDArray[np.int32]


class Preparation:
    """One preparation: the tokenizer, then the parts, each written as soon as it is encoded."""

    def __init__(self, config: DataConfig, parts: corpus.Parts, words: tokenizer.TokenizerSource) -> None:
        self._config = config
        self._parts = parts
        self._words = words
        if not parts.train:
            given = [f"data.{name}" for name in ("validation", "test") if getattr(config, name)]
            takers = f"{' and '.join(given)} take all of it" if given else corpus.remedy(config, parts)
            raise ValueError(f"data.corpus {config.corpus}: no text is left to train on: {takers}")
        self._vocabulary = self._obtained(words)
        self._size = len(self._vocabulary.strings)
        self._eligible = np.ones(self._size, np.bool_)
        self._eligible[list(self._vocabulary.special.values())] = False
        self._scheme = word_forms.scheme_of(self._vocabulary.tokenizer)
        self._begins = self._scheme.forms(self._vocabulary.strings).begins

    def _obtained(self, words: tokenizer.TokenizerSource) -> Vocabulary:
        try:
            return words.obtain(self._lines())
        except ValueError as error:
            count = sum(document.words for document in self._parts.train)
            if count >= self._config.block:
                raise
            # The fault is that there is so little text, not the tokenizer trained on it.
            raise ValueError(self._too_short("train", count, None, "words")) from error

    def _lines(self) -> Iterator[str]:
        return tokenizer.lines_of(document.text for document in self._parts.train)

    def write(self, folder: Path) -> None:
        """Fill a folder with everything that `batches.prepare` opens."""
        parts = {
            "train": self._write_train(folder),
            "val": self._write_held_out(
                folder, "val", self._parts.val, None if self._config.validation else self._config.most("val")
            ),
            "test": self._write_held_out(
                folder, "test", self._parts.test, None if self._config.test else self._config.most("test")
            ),
        }
        self._vocabulary.save(folder / "tokenizer")
        special = self._vocabulary.special
        stored = {
            "block": self._config.block,
            "vocab_size": self._size,
            "mask_id": special["mask"],
            "pad_id": special["pad"],
            "token_strings": self._vocabulary.strings,
            "scheme": asdict(self._scheme),
            "facts": {
                "preparation_version": VERSION,
                **self._tokenizer_facts(parts),
                "shared_documents_left_out": self._parts.shared,
            },
        }
        (folder / "prepared.json").write_text(json.dumps(stored, sort_keys=True, indent=1) + "\n", "utf-8")
        (folder / MANIFEST).write_text(json.dumps(digests(folder), sort_keys=True, indent=1) + "\n", "utf-8")

    def _tokenizer_facts(self, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """What the tokenizer is and what it drops of the text; `remedy`, if that is much, is what to do."""
        tool = self._vocabulary.tokenizer
        facts = {
            **self._vocabulary.described(),
            "word_scheme": self._scheme.kind,
            "made_equal": dropped.made_equal(tool.normalizer.normalize_str if tool.normalizer else str, self._lines()),
            "lost": dropped.lost(tool, self._lines()),
            "parts": parts,
        }
        return facts | ({"remedy": self._words.remedy(self._lines())} if dropped.much(facts) else {})

    def _write_train(self, folder: Path) -> dict[str, Any]:
        tokens = self._encode("train", self._parts.train, None)
        rows = self._usable("train", tokens)
        self._train_forms = loss_slices.known_forms(tokens.ids, tokens.word_start)
        counts = np.bincount(tokens.ids, minlength=self._size)
        initial = np.bincount(tokens.ids, weights=tokens.word_start, minlength=self._size)
        units = collocations.units(tokens.ids, tokens.word_start, tokens.line_start, self._eligible)
        arrays = {
            "tokens": tokens.ids,
            "word_start": tokens.word_start,
            "document": tokens.document,
            "rows": rows.astype(np.int32),
            "words": tokens.spaced.reshape(-1, self._config.block).sum(axis=1, dtype=np.int32),
            "eligible": self._eligible,
            "unigram": (counts + 1) / (counts.sum() + self._size),
            "initial": np.where(counts > 0, initial / np.maximum(counts, 1), self._begins),
            "collocation_start": units.start,
            "relevance": relevance.relevance(tokens.ids, tokens.line_start, self._eligible),
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        found = {"collocations": units.collocations, "in_collocations": round(units.inside, 6)}
        return self._facts(self._parts.train, tokens, rows) | found

    def _write_held_out(
        self, folder: Path, part: str, documents: list[corpus.Document], limit: int | None
    ) -> dict[str, Any]:
        tokens = self._encode(part, documents, limit)
        rows = self._usable(part, tokens)
        seen = loss_slices.seen_forms(self._train_forms, tokens.ids, tokens.word_start)
        shape = -1, self._config.block
        blocks, places = (flat.reshape(shape)[rows] for flat in (tokens.ids, tokens.document))
        known_words, begins = (flat.reshape(shape)[rows] for flat in (seen, tokens.word_start))
        mask_id = self._vocabulary.special["mask"]
        chosen = evaluation_set(part, blocks, places, known_words, begins, self._eligible, mask_id)
        if part == "val" and not chosen.masked.any():
            none = f"{len(tokens.ids)} tokens, of which none is drawn for [MASK]"
            raise ValueError(self._too_little(part, none, limit))
        for name in EVALUATION_ARRAYS:
            np.save(folder / f"{part}.{name}.npy", getattr(chosen, name), allow_pickle=False)
        return self._facts(documents, tokens, rows)

    def _encode(self, part: str, documents: list[corpus.Document], limit: int | None) -> _Tokens:
        """Whole blocks of at most `limit` tokens. Lines are tokenised one by one and follow one another directly."""
        tool = self._vocabulary.tokenizer
        tool.encode_special_tokens = True  # the word "[MASK]" in a text must not become a mask token
        dtype = np.uint16 if self._size <= 2**16 else np.uint32
        ids, starts, line_starts, spaced, places, count = [], [], [], [], [], 0
        for lines, owners in _line_batches(documents):
            encodings = tool.encode_batch(lines, add_special_tokens=False)
            lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
            ids.append(_joined((encoding.ids for encoding in encodings), dtype, lengths))
            word = _joined((encoding.word_ids for encoding in encodings), np.int32, lengths)
            line_start = np.zeros(len(word), np.bool_)
            line_start[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
            start = (np.diff(word, prepend=-1) != 0) | line_start
            if self._scheme != word_forms.UNKNOWN:  # without a split, only entries tell where words begin
                start |= self._begins[ids[-1]]
            starts.append(start)
            line_starts.append(line_start)
            ends = _joined((map(operator.itemgetter(1), encoding.offsets) for encoding in encodings), np.int64, lengths)
            spaced.append(begins_word(lines, ends, lengths))
            places.append(np.repeat(np.array(owners, np.int32), lengths))
            count += len(ids[-1])
            if limit and count >= limit:
                break
        tool.encode_special_tokens = False
        keep = min(count, limit or count) // self._config.block * self._config.block
        if not keep:
            raise ValueError(self._too_short(part, count, limit))
        return _Tokens(*(np.concatenate(pieces)[:keep] for pieces in (ids, starts, line_starts, spaced, places)))

    def _too_short(self, part: str, count: int, limit: int | None, unit: str = "tokens") -> str:
        block = self._config.block
        if limit and limit < block:
            name = "max_test" if part == "test" and self._config.max_test else "max_held_out"
            return f"data.{name} {limit} is less than one block of {block} tokens: set at least {block}"
        return self._too_little(part, f"{count} {unit}, less than one block of {block}", limit)

    def _too_little(self, part: str, what: str, limit: int | None) -> str:
        remedy = "give more text or lower data.block"
        if part != "train" and limit:
            remedy = corpus.remedy(self._config, self._parts)
        shared = self._parts.shared
        twice = f" ({shared} documents were left out, because another part has the same text)" if shared else ""
        return f"data.corpus {self._config.corpus}: the {part} part has {what}{twice}: {remedy}"

    def _usable(self, part: str, tokens: _Tokens) -> NDArray[np.int64]:
        """Ids of the blocks with at least half of their positions eligible."""
        eligible = self._eligible[tokens.ids].reshape(-1, self._config.block).sum(axis=1)
        rows = np.flatnonzero(2 * eligible >= self._config.block)
        if not len(rows):
            unknown = (
                "[UNK]" if self._vocabulary.unknown is None else self._vocabulary.strings[self._vocabulary.unknown]
            )
            line = f"the tokenizer does not know the {part} part: most of it is {unknown} in every block"
            raise ValueError(f"{line}: {self._words.remedy(self._lines())}")
        return rows

    def _facts(self, documents: list[corpus.Document], tokens: _Tokens, rows: NDArray[np.int64]) -> dict[str, Any]:
        blocks, unknown = len(tokens.ids) // self._config.block, self._vocabulary.unknown
        reached = documents[: int(tokens.document[-1]) + 1]  # the last of them perhaps only in part
        return {
            "documents": len(reached),
            "documents_left_out": len(documents) - len(reached),
            "words": sum(document.words for document in reached),
            "tokens": len(tokens.ids),
            "blocks": len(rows),
            "blocks_left_out": blocks - len(rows),
            "left_out": round(1 - len(rows) / blocks, 6),
            "unknown": 0.0 if unknown is None else round(float(np.mean(tokens.ids == unknown)), 6),
        }


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file of a folder except the manifest, by relative path. ValueError for links and pipes."""
    files.refuse_links(folder)
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST):
        with path.open("rb") as file:
            found[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def begins_word(lines: list[str], ends: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] whether a token is the first of a word of its line. White space separates words.

    ends: [n] where each token ends in its line, in characters. lengths: tokens of each line. A word that gets no token
    begins nowhere.
    """
    points = np.frombuffer("\n".join(lines).encode("utf-32-le", "surrogatepass"), np.uint32)
    there = ~np.isin(points, _SPACES)
    word = np.cumsum(np.diff(there.astype(np.int8), prepend=0) == 1)  # of a character, or the last one before it
    sizes = np.fromiter(map(len, lines), np.int64, len(lines)) + 1
    last = np.repeat(np.cumsum(sizes) - sizes, lengths) + np.maximum(ends - 1, 0)
    return np.diff(word[last], prepend=0) != 0


def _joined(lists: Iterator[Iterable[Any]], dtype: Any, lengths: NDArray[np.int64]) -> NDArray[Any]:
    return np.fromiter(itertools.chain.from_iterable(lists), dtype, int(lengths.sum()))


def _line_batches(documents: list[corpus.Document]) -> Iterator[tuple[list[str], list[int]]]:
    """Lines and the index of each one's document, about a million characters at a time."""
    lines: list[str] = []
    owners: list[int] = []
    size = 0
    for index, document in enumerate(documents):
        for line in document.text.split("\n"):
            lines.append(line)
            owners.append(index)
            size += len(line)
            if size >= _BATCH_CHARACTERS:
                yield lines, owners
                lines, owners, size = [], [], 0
    if lines:
        yield lines, owners


def evaluation_set(
    part: str,
    blocks: NDArray[Any],
    document: NDArray[np.int32],
    seen: NDArray[np.bool_],
    word_start: NDArray[np.bool_],
    eligible: NDArray[np.bool_],
    mask_id: int,
) -> EvaluationSet:
    """Select exactly round(0.15 * n * T) eligible positions, and replace 80/10/10.

    Each block gets the floor or the ceiling of its even share, its positions drawn uniformly. The draws depend on the
    part's name and the preparation version alone.

    Args:
        part: `val` or `test`.
        blocks: [n, T] token ids.
        document: [n, T], as in the result.
        seen: [n, T], as in the result.
        word_start: [n, T], whether a word begins there.
        eligible: [V], the tokens that may be selected.
        mask_id: the id of [MASK].
    """
    n, block = blocks.shape
    total = round(EVALUATION_RATE * n * block)
    key = ("evaluation", VERSION, part)
    edges = np.floor(np.arange(n + 1) * total / n + noise.uniform(1, *key, "offset")).astype(np.int64)
    keys = np.where(eligible[blocks], noise.uniform(n * block, *key, "selection").reshape(n, block), np.inf)
    order = np.argsort(keys, axis=1, kind="stable")
    wanted = np.arange(block) < np.diff(edges)[:, None]
    chosen = np.zeros((n, block), np.bool_)
    np.put_along_axis(chosen, order, wanted, axis=1)
    positions = np.flatnonzero(chosen)
    assert len(positions) == total
    assert eligible[blocks.flat[positions]].all()

    inputs = blocks.astype(np.int64).reshape(-1)
    labels = inputs[positions]
    fate = noise.uniform(n * block, *key, "fate")[positions]
    masked = fate < MASKED
    replaced = ~masked & (fate < MASKED + REPLACED)
    inputs[positions[masked]] = mask_id
    ids = noise.words(n * block, *key, "replacement") % np.uint64(len(eligible))
    inputs[positions[replaced]] = ids[positions[replaced]].astype(np.int64)
    known_words, begins = seen.reshape(-1)[positions], word_start.reshape(-1)[positions]
    owners = document.reshape(-1)[positions]
    return EvaluationSet(inputs.reshape(n, block), positions, labels, masked, owners, known_words, begins)
