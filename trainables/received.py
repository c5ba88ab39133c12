"""Checks of a bundle or checkpoint that somebody else may have made, before anything of it is loaded.

No link is followed, no code run and no memory taken until it is clear that the weights fit the config and lie in one
file of the size that both state. Every refusal is a ValueError in one line.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.system import files
from trainables import limits

WEIGHTS = "model.safetensors"
MOST_HEADER = 2**24  # bytes; a tensor takes some 100
LAYERS = 48  # that may share their weights, as those of ALBERT do; other models have a tensor for each
SMALL = 2**20  # a number of the config may be as large as this whatever the weights
COUNT = 2**16  # the most that a config may have of anything, such as labels
GROWTH = 10_000  # characters that a tokenizer's normaliser may make of one

_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64"), 8),
}
_LAYERS = re.compile(r"(layers?|groups?|group_num|blocks?|experts?|depths?)$", re.IGNORECASE)
_COUNTS = re.compile(r"^(num|n)_", re.IGNORECASE)
_JSON = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("generation_config.json", "processor_config.json"),
)


def check_bundle(folder: Path) -> None:
    """Raises ValueError, in one line, for a folder that is not a bundle, or whose files do not fit together."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is not a bundle: no config.json")
    files.refuse_record_links(folder)
    files.refuse_links(folder.resolve())
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} has an adapter_config.json, which would load another model: only bundles are read")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is not a bundle: no {WEIGHTS}")
    tensors = header(folder / WEIGHTS)
    check_tokenizer(folder)
    elements = sum(math.prod(shape) for shape in tensors.values())
    if 2 * 4 * elements > limits.memory():  # as float32, and as they stand in the file
        raise ValueError(f"{folder / WEIGHTS}: {elements:,} weights do not fit into the memory here")
    path = folder / "config.json"
    for name, value in _named(limits.json_file(path)):
        if problem := _problem(name, value, elements, len(tensors)):
            raise ValueError(f"{path}: {files.printable(name)} is {files.printable(repr(value)[:40])}, {problem}")
    _check_shapes(folder, tensors, elements)


def digest(folder: Path) -> str:
    """SHA-256 of a bundle's weights. ValueError, in one line, where there are none; links are not followed."""
    path = folder / WEIGHTS
    try:
        files.refuse_record_links(path)
        with files.reading(path) as file:
            about = os.fstat(file.fileno())
            return _hashed(file, (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} is not a bundle: no {WEIGHTS}") from None


_known: dict[tuple[int, ...], str] = {}


def _hashed(file: Any, about: tuple[int, ...]) -> str:
    """Once for each state of a file: the settings of a sweep are checked many times."""
    if about not in _known:
        _known[about] = hashlib.file_digest(file, "sha256").hexdigest()
    return _known[about]


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file. Raises ValueError, in one line, if the file does not match."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            raise ValueError(f"{path} is damaged or not safetensors: its header claims {length:,} bytes")
        content = file.read(length)
    try:
        return _tensors(limits.json_value(content), size - 8 - length)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        reason = files.printable(limits.one_line(error))
        raise ValueError(f"{path} is damaged or not safetensors: {reason}") from None


def _tensors(entries: Any, size: int) -> dict[str, tuple[int, ...]]:
    """The header's entries, checked: the tensors must fill the `size` bytes behind it one after the other."""
    found, spans = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and 0 <= number <= 2**63 for number in (*shape, begin, end)):
            raise ValueError(f"the tensor {name} has no valid shape")
        if end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(f"the tensor {name} has a shape of the wrong size")
        found[name] = tuple(shape)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("its tensors overlap or leave gaps")
        at = end
    if at != size:
        raise ValueError(f"its tensors take {at:,} bytes of {size:,}")
    return found


def _named(tree: Mapping[str, Any] | list[Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting, nested ones included, by the last name above it."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ((name, value) for value in tree):
        yield key, value
        if isinstance(value, dict | list):
            yield from _named(value, key)


def _problem(name: str, value: Any, elements: int, tensors: int) -> str | None:
    """What is wrong with a setting of a config, for a model of so many weights in so many tensors."""
    if name == "quantization_config":
        return "but quantised weights are not read"
    if name.strip("_").endswith("_implementation") and value not in (None, "eager", "sdpa"):
        return "which may load code from elsewhere: remove it"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number"
    if not isinstance(value, int):
        return None
    if _LAYERS.search(name) and value > max(tensors, LAYERS):
        return f"but {WEIGHTS} has {tensors} tensors"
    if _COUNTS.search(name) and value > COUNT:
        return "which is more than any model has"
    return f"but {WEIGHTS} has {elements:,} weights" if abs(value) > max(elements, SMALL) else None


def _check_shapes(folder: Path, tensors: Mapping[str, tuple[int, ...]], elements: int) -> None:
    """Raises ValueError where the config describes other weights. The model is made without memory for them."""
    import torch
    from transformers import AutoConfig, AutoModelForMaskedLM

    def made() -> Any:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False)

    path = folder / "config.json"
    model = limits.fails(made, f"{path} cannot be read")
    for name, parameter in model.named_parameters():
        if name in tensors and tensors[name] != tuple(parameter.shape):
            shapes = [list(shape) for shape in (parameter.shape, tensors[name])]
            raise ValueError(f"{path} has {name} of shape {shapes[0]}, {WEIGHTS} of {shapes[1]}")
    size = sum(each.numel() for each in (*model.parameters(), *model.buffers()))
    if size > 2 * elements + SMALL:  # twice, because input and output embeddings may be the same weights
        raise ValueError(f"{path} describes {size:,} weights, but {WEIGHTS} has {elements:,}")


def check_tokenizer(folder: Path) -> None:
    """Raises ValueError, in one line, for a tokenizer's files that are too large, too deep, or grow text too much."""
    for name in _JSON:
        if not (folder / name).exists():
            continue
        described = limits.json_file(folder / name, limits.TOKENIZER)
        if name == "tokenizer.json":
            _check_entries(folder / name, described)
            if _growth(described.get("normalizer")) > GROWTH:
                raise ValueError(f"{folder / name}: its normalizer turns one character into more than {GROWTH:,}")
    for path in (folder / "vocab.txt", folder / "merges.txt"):
        if path.exists() and limits.read(path, limits.TOKENIZER).count(b"\n") > limits.ENTRIES:
            raise ValueError(f"{path} has more than {limits.ENTRIES:,} lines")


def _check_entries(path: Path, described: Mapping[str, Any]) -> None:
    """Raises ValueError for an id beyond any vocabulary: the library counts up to it."""
    model, added = described.get("model"), described.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    beyond = next((index for index in ids if not (isinstance(index, int) and 0 <= index < limits.ENTRIES)), None)
    if beyond is not None:
        raise ValueError(f"{path} has the id {beyond!r:.40}; the limit is {limits.ENTRIES:,} entries")


def _growth(part: Any) -> int:
    """The most characters that a normaliser may make of one."""
    if not isinstance(part, dict):
        return 1
    inner = part.get("normalizers")
    growth = 1
    for each in inner if isinstance(inner, list) else ():
        growth = min(growth * _growth(each), GROWTH + 1)
    texts = [text for name in ("content", "prepend") if isinstance(text := part.get(name), str)]
    return growth * max([1, *map(len, texts)])
