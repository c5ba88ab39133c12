"""Prepares a corpus once, as one flat token array on disk, and reads batches from it by step, memory-mapped.

The result lies in a cache folder named by a layout and a fingerprint of everything that its numbers depend on. A folder
appears whole or not at all, and the same inputs give the same bytes. Its manifest has the checksums of all its files.
Every process checks them once: a folder that has changed is never used, but prepared again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from filelock import Timeout

from sweeper.system import files
from trainables import limits, noise
from trainables.data import corpus, dropped, tokenizer
from trainables.data.preparation import (
    EVALUATION_ARRAYS,
    LAYOUT,
    MANIFEST,
    TRAIN_ARRAYS,
    VERSION,
    EvaluationSet,
    Preparation,
    digests,
)
from trainables.data.word_forms import Scheme, WordForms
from trainables.settings.config import DataConfig

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Batches", "EvaluationSet", "Prepared", "prepare"]

LOCK_S = 3600.0  # to wait while another process prepares the same

# An array's header is parsed as Python's, and Python 3.11's parser fails where two threads use it at once (SystemError:
# AST constructor recursion depth mismatch).
_HEADERS = threading.Lock()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A prepared corpus, memory-mapped.

    Args:
        folder: of the cache.
        fingerprint: of everything that the numbers depend on.
        block: T, tokens a row.
        vocab_size: V.
        tokens: [n] uint16 or uint32, the train part in whole blocks.
        word_start: [n] bool, whether the token begins a word as the tokenizer splits text (BERT's: a run of letters and
            digits, or one punctuation mark).
        document: [n] int32, the document of each token.
        rows: [blocks] int32, the usable blocks: at least half of their positions are eligible.
        words: [all blocks] int32, how many words, as white space separates them, have their first piece there.
        eligible: [V] bool, not [PAD], [CLS], [SEP], [MASK] or [UNK].
        token_strings: by id.
        scheme: how they are written.
        mask_id: the id of [MASK].
        pad_id: the id of [PAD].
        unigram: [V] float64, token probabilities in the train part, every count plus one.
        initial: [V] float64, the share of a token's occurrences in the train part that begin a word; for a token that
            does not occur, whether its form begins one.
        facts: what the parts hold and what the tokenizer drops of them, for metadata; `notes` and `warnings` are the
            lines for people.
    """

    folder: Path
    fingerprint: str
    block: int
    vocab_size: int
    tokens: NDArray[np.unsignedinteger[Any]]
    word_start: NDArray[np.bool_]
    document: NDArray[np.int32]
    rows: NDArray[np.int32]
    words: NDArray[np.int32]
    eligible: NDArray[np.bool_]
    token_strings: list[str]
    scheme: Scheme
    mask_id: int
    pad_id: int
    unigram: NDArray[np.float64]
    initial: NDArray[np.float64]
    collocation_start: NDArray[np.bool_]
    relevance: NDArray[np.float64]
    facts: dict[str, Any]

    @cached_property
    def forms(self) -> WordForms:
        """The vocabulary as text."""
        return self.scheme.forms(self.token_strings)

    def tokenizer_files(self) -> Path:
        """Folder with tokenizer.json and tokenizer_config.json, which AutoTokenizer loads without a hub."""
        return self.folder / "tokenizer"

    def evaluation(self, part: Literal["val", "test"]) -> EvaluationSet:
        """The fixed predictions of a held-out part."""
        return EvaluationSet(**{name: _load(self.folder, f"{part}.{name}") for name in EVALUATION_ARRAYS})


class Batches:
    """Batches of the train part by step: a function of the seed and the step alone.

    Each epoch is a permutation of the usable blocks. One follows the other without a break: a batch may span two.
    """

    def __init__(self, prepared: Prepared, batch_size: int, seed: int) -> None:
        assert batch_size > 0
        self._blocks = prepared.tokens.reshape(-1, prepared.block)
        self._rows = prepared.rows
        self.batch_size = batch_size
        self._seed = seed
        self._orders: dict[int, NDArray[np.int32]] = {}
        starts = {"word start": prepared.word_start, "collocation start": prepared.collocation_start}
        self._starts = {name: flat.reshape(-1, prepared.block) for name, flat in starts.items()}
        self._resident: torch.Tensor | None = None
        self._resident_starts: dict[str, torch.Tensor] = {}

    def block_ids(self, step: int) -> NDArray[np.int32]:
        """[B] block ids of a step, counted from 0."""
        places = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = np.divmod(places, len(self._rows))
        return np.concatenate([self.order(epoch)[places[epochs == epoch]] for epoch in np.unique(epochs).tolist()])

    def tokens(self, step: int) -> NDArray[np.int64]:
        """[B, T] token ids of a step."""
        return self._blocks[self.block_ids(step)].astype(np.int64)

    def ids(self, noise: noise.StepNoise, device: str) -> torch.Tensor:
        """[B, T] int64, the token ids of a step. A GPU holds the whole train part, and the rows are gathered there."""
        import torch

        where = torch.device(device)
        if where.type == "cpu":
            return noise.get_or_draw("tokens", lambda noise: self.tokens(noise.step), where)
        if self._resident is None:  # as signed numbers: torch supports few operations on others
            signed = self._blocks.view(self._blocks.dtype.str.replace("u", "i"))
            self._resident = torch.from_numpy(np.array(signed)).to(where)
        at = noise.get_or_draw("blocks", lambda noise: self.block_ids(noise.step), where)
        return self._resident.index_select(0, at).long() & np.iinfo(self._blocks.dtype).max

    def word_start(self, noise: noise.StepNoise, device: torch.device) -> torch.Tensor:
        """[B, T] bool, whether a word begins at each position of `ids`."""
        return self._start("word start", noise, device)

    def collocation_start(self, noise: noise.StepNoise, device: torch.device) -> torch.Tensor:
        """[B, T] bool, whether a collocation begins at each position of `ids`, or a word outside of all."""
        return self._start("collocation start", noise, device)

    def _start(self, name: str, noise: noise.StepNoise, device: torch.device) -> torch.Tensor:
        import torch

        starts = self._starts[name]
        if device.type == "cpu":
            return noise.get_or_draw(name, lambda noise: starts[self.block_ids(noise.step)], device)
        if name not in self._resident_starts:
            self._resident_starts[name] = torch.from_numpy(np.array(starts)).to(device)
        at = noise.get_or_draw("blocks", lambda noise: self.block_ids(noise.step), device)
        return self._resident_starts[name].index_select(0, at)

    def order(self, epoch: int) -> NDArray[np.int32]:
        """The usable blocks in the order of an epoch, counted from 0."""
        if epoch not in self._orders:
            for other in sorted(self._orders)[:-1]:
                del self._orders[other]
            keys = noise.words(len(self._rows), self._seed, "batch order", epoch)
            self._orders[epoch] = self._rows[np.argsort(keys, kind="stable")]
        return self._orders[epoch]


def prepare(config: DataConfig) -> Prepared:
    """Open the prepared corpus, after preparing it if needed. Other processes wait meanwhile.

    Raises ValueError, in one line, for data or a tokenizer that is missing or unsuitable.
    """
    folder, sources, words = _found(config)
    root = folder.parent
    if not _is_sound(folder):
        try:
            root.mkdir(parents=True, exist_ok=True)
            with files.locked(root / f".{folder.name}.lock", LOCK_S, files.say):
                if damage := _damage(folder):
                    if os.path.lexists(folder):
                        files.say(f"cached data {folder} {damage}: preparing it again")
                    parts = corpus.divide(config, *sources)
                    _write(folder, lambda partial: Preparation(config, parts, words).write(partial))
        except Timeout:
            held = files.held_by(root / f".{folder.name}.lock")
            raise ValueError(
                f"cache {root} has been locked for {LOCK_S / 60:.0f} min by {held}: end that, or set SWEEPER_CACHE"
            ) from None
        except OSError as error:
            raise ValueError(f"cannot write the cache {root} ({error}): set SWEEPER_CACHE to a folder") from error
    return _open(folder, config)


def is_prepared(config: DataConfig) -> bool:
    """Whether the corpus is prepared already. Raises as `prepare` does, but downloads no tokenizer."""
    try:
        return _is_sound(_found(config, ask=False)[0])
    except tokenizer.NotHere:
        return False


def _is_sound(folder: Path) -> bool:
    """Whether a folder of the cache is as it was written. Raises ValueError, in one line, where it cannot be read."""
    try:
        return _damage(folder) is None
    except OSError as error:
        raise ValueError(f"cannot read the cache ({files.describe(error)}): set SWEEPER_CACHE to a folder") from error


_verified: dict[Path, object] = {}  # by folder, the state of its files when their checksums were last right


def _damage(folder: Path) -> str | None:
    """How a folder of the cache differs from what was written, as the end of a sentence; None where it does not."""
    if not os.path.lexists(folder):
        return "is not there"
    try:
        state = _state(folder)
        if _verified.get(folder) == state:
            return None
        if not (folder / MANIFEST).is_file():
            return "has no checksums (an earlier version wrote it)"
        written = limits.json_file(folder / MANIFEST)
        found = digests(folder)
        if wrong := sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name)):
            return f"is damaged ({files.printable(wrong[0])} has changed)"
        _refuse_other(folder)
    except files.Unsafe as error:
        return f"is damaged ({files.printable(limits.one_line(error))})"
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            raise
        return f"is damaged ({files.printable(Path(str(error.filename)).name)} is missing)"
    except Exception as error:  # whatever reading a broken folder raises
        return f"is damaged ({files.printable(limits.one_line(error))})"
    _verified[folder] = state
    return None


def _state(folder: Path) -> object:
    """Device, inode, size and times of each file, which show a later change. ValueError for anything but files."""
    files.refuse_links(folder)
    stats = ((str(path), path.stat()) for path in sorted(folder.rglob("*")))
    return [(name, at.st_dev, at.st_ino, at.st_size, at.st_mtime_ns, at.st_ctime_ns) for name, at in stats]


def _refuse_other(folder: Path) -> None:
    """Raises ValueError for arrays that no preparation writes, whatever their checksums say."""
    stored = limits.json_file(folder / "prepared.json", limits.TOKENIZER)
    entries, block, facts = stored["vocab_size"], stored["block"], stored["facts"]
    whole = [entries, block, stored["mask_id"], stored["pad_id"]]
    if not (all(type(number) is int and number >= 0 for number in whole) and entries == len(stored["token_strings"])):
        raise ValueError("prepared.json: invalid vocabulary")
    if not (isinstance(facts, dict) and max(stored["mask_id"], stored["pad_id"]) < entries):
        raise ValueError("prepared.json: invalid special tokens")
    Scheme(**stored["scheme"])
    train = {name: _load(folder, name) for name in TRAIN_ARRAYS}
    tokens = len(train["tokens"])
    blocks = tokens // block
    sizes = {"rows": len(train["rows"]), "words": blocks, "eligible": entries, "unigram": entries, "initial": entries}
    sizes["relevance"] = entries
    for name, array in train.items():
        _refuse_array(name, array, _KINDS.get(name, "float64"), (sizes.get(name, tokens),))
    _refuse_beyond("tokens", train["tokens"], entries)
    _refuse_beyond("rows", train["rows"], blocks)
    for part in ("val", "test"):
        arrays = {name: _load(folder, f"{part}.{name}") for name in EVALUATION_ARRAYS}
        rows, chosen = len(arrays["inputs"]), len(arrays["positions"])
        for name, array in arrays.items():
            shape = (rows, block) if name == "inputs" else (chosen,)
            _refuse_array(f"{part}.{name}", array, _KINDS.get(name, "bool"), shape)
        for name, limit in (("inputs", entries), ("labels", entries), ("positions", rows * block)):
            _refuse_beyond(f"{part}.{name}", arrays[name], limit)


_KINDS = {
    **{"tokens": "uint16 uint32", "word_start": "bool", "eligible": "bool", "collocation_start": "bool"},
    **dict.fromkeys(("document", "rows", "words"), "int32"),
    **dict.fromkeys(("inputs", "positions", "labels"), "int64"),
}  # unigram, initial and relevance, of the train part: float64; the other arrays of a held-out part: bool


def _refuse_array(name: str, array: NDArray[Any], kinds: str, shape: tuple[int, ...]) -> None:
    if array.dtype.name not in kinds.split() or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} of shape {array.shape}: wrong type or shape")


def _refuse_beyond(name: str, array: NDArray[Any], limit: int) -> None:
    if array.size and not 0 <= int(array.min()) <= int(array.max()) < limit:
        raise ValueError(f"{name} has a number beyond {limit}")


def _found(
    config: DataConfig, ask: bool = True
) -> tuple[Path, tuple[corpus.Source, corpus.Files | None, corpus.Files | None], Any]:
    """The cache folder; the corpus, validation and test sources; and the tokenizer. ask: see `tokenizer.find`."""
    root = files.cache_root()
    source = corpus.find(config.corpus, root / "hub")
    validation, test = (corpus.find_part(part, getattr(config, part)) for part in ("validation", "test"))
    words = tokenizer.find(config.tokenizer, ask)
    wants = {
        "version": VERSION,
        "tokenizers": tokenizer.library_version(),
        "sources": [each.identity() if each else None for each in (source, validation, test)],
        "tokenizer": words.identity(),
        "cut": [config.block, config.held_out, config.max_held_out, *([config.max_test] if config.max_test else [])],
    }
    fingerprint = hashlib.sha256(json.dumps(wants, sort_keys=True).encode()).hexdigest()[:32]
    return root / f"{fingerprint}-{LAYOUT}", (source, validation, test), words


def _open(folder: Path, config: DataConfig) -> Prepared:
    stored = json.loads((folder / "prepared.json").read_text("utf-8"))
    facts = {"corpus": config.corpus, "tokenizer": config.tokenizer} | stored.pop("facts")
    few = corpus.few({part: facts["parts"][part]["documents"] for part in ("val", "test")})
    facts |= {"notes": dropped.notes(facts), "warnings": [*dropped.warnings(facts), *few]}
    arrays = {name: _load(folder, name) for name in TRAIN_ARRAYS}
    fingerprint, scheme = folder.name.removesuffix(f"-{LAYOUT}"), Scheme(**stored.pop("scheme"))
    return Prepared(folder=folder, fingerprint=fingerprint, facts=facts, scheme=scheme, **arrays, **stored)


def _load(folder: Path, name: str) -> Any:
    with _HEADERS:
        return np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)


def _write(folder: Path, fill: Callable[[Path], None]) -> None:
    """Fill a sibling folder, flush it to disk, and only then rename it. Called under the lock."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a preparation that was killed
    partial.mkdir()
    try:
        fill(partial)
        for path in (*partial.rglob("*"), partial):
            _flush(path)
        _remove(folder)
        partial.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove(path: Path) -> None:
    """Remove what lies in a folder's place: a damaged folder, or a file or link, which is not followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
