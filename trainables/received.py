"""A bundle, or a checkpoint, that somebody else may have made: checked before anything of it is loaded.

Nothing in it is followed, run or allocated for until it is clear that the weights are those of the config, in one file
as large as both say. All refusals are a ValueError in one line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper.system import files
from trainables import limits

WEIGHTS = "model.safetensors"
MOST_HEADER = 2**24  # bytes; a tensor takes some 100
LAYERS = 48  # may share their weights, as those of ALBERT do; others have a tensor each
SMALL = 2**20  # numbers of a config up to here need no weights to go with them
COUNT = 2**16  # of what a config has a number of, such as labels
GROWTH = 10_000  # how many characters a tokenizer's normaliser may make of one

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
    """Raises ValueError, in one line, for a folder that is no bundle, or one whose files do not go together."""
    if not folder.is_dir() or not (folder / "config.json").is_file():
        raise ValueError(f"{folder} is no bundle: it has no config.json")
    files.refuse_record_links(folder)
    files.refuse_links(folder.resolve())
    if (folder / "adapter_config.json").exists():
        raise ValueError(f"{folder} has an adapter_config.json, which would load another model: only bundles are read")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is no bundle: it has no {WEIGHTS}, in one file")
    tensors = header(folder / WEIGHTS)
    check_tokenizer(folder)
    elements = sum(math.prod(shape) for shape in tensors.values())
    if 2 * 4 * elements > limits.memory():  # as float32, and as they stand in the file
        raise ValueError(f"{folder / WEIGHTS}: {elements:,} weights are more than the memory here can hold")
    path = folder / "config.json"
    for name, value in _named(limits.json_file(path)):
        if problem := _problem(name, value, elements, len(tensors)):
            raise ValueError(f"{path}: {files.printable(name)} is {files.printable(repr(value)[:40])}, {problem}")
    _check_shapes(folder, tensors, elements)


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors of a safetensors file. Raises ValueError, in one line, where that is not what it says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            raise ValueError(f"{path} is damaged, or no safetensors: it says that its header has {length:,} bytes")
        content = file.read(length)
    try:
        return _tensors(limits.json_value(content), size - 8 - length)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        told = files.printable(limits.one_line(error))
        raise ValueError(f"{path} is damaged, or no safetensors: {told}") from None


def _tensors(entries: Any, size: int) -> dict[str, tuple[int, ...]]:
    """size: bytes behind the header, which the tensors fill one behind the other."""
    found, spans = {}, []
    for name, entry in entries.items():
        if name == "__metadata__":
            continue
        shape, (begin, end) = entry["shape"], entry["data_offsets"]
        if not all(type(number) is int and 0 <= number <= 2**63 for number in (*shape, begin, end)):
            raise ValueError(f"the tensor {name} has no shape")
        if end - begin != math.prod(shape) * _BYTES[entry["dtype"]]:
            raise ValueError(f"the tensor {name} has a shape of another size")
        found[name] = tuple(shape)
        spans.append((begin, end))
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            raise ValueError("its tensors lie over each other, or apart")
        at = end
    if at != size:
        raise ValueError(f"its tensors have {at:,} bytes, and there are {size:,}")
    return found


def _named(tree: Mapping[str, Any] | list[Any], name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting by the last name above it, those inside others, too."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ((name, value) for value in tree):
        yield key, value
        if isinstance(value, dict | list):
            yield from _named(value, key)


def _problem(name: str, value: Any, elements: int, tensors: int) -> str | None:
    """What is wrong with a setting of a config, for a model of so many weights in so many tensors."""
    if name == "quantization_config":
        return "and quantised weights are not read"
    if name.strip("_").endswith("_implementation") and value not in (None, "eager", "sdpa"):
        return "which may load code from elsewhere: leave it out"
    if isinstance(value, float) and not math.isfinite(value):
        return "not a number"
    if not isinstance(value, int):
        return None
    if _LAYERS.search(name) and value > max(tensors, LAYERS):
        return f"and {WEIGHTS} has {tensors} tensors"
    if _COUNTS.search(name) and value > COUNT:
        return "which is more than any model has"
    return f"and {WEIGHTS} has {elements:,} weights" if abs(value) > max(elements, SMALL) else None


def _check_shapes(folder: Path, tensors: Mapping[str, tuple[int, ...]], elements: int) -> None:
    """Raises ValueError where the config makes a model of other weights. It is made without memory for them."""
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
    if size > 2 * elements + SMALL:  # twice, for input and output embeddings may be the same weights
        raise ValueError(f"{path} makes a model of {size:,} weights, and {WEIGHTS} has {elements:,}")


def check_tokenizer(folder: Path) -> None:
    """Raises ValueError, in one line, for files of a tokenizer that are too large, too deep, or make too much."""
    for name in _JSON:
        if not (folder / name).exists():
            continue
        described = limits.json_file(folder / name, limits.TOKENIZER)
        if name == "tokenizer.json":
            _check_entries(folder / name, described)
            if _growth(described.get("normalizer")) > GROWTH:
                raise ValueError(f"{folder / name}: its normalizer makes more than {GROWTH:,} characters of one")
    for path in (folder / "vocab.txt", folder / "merges.txt"):
        if path.exists() and limits.read(path, limits.TOKENIZER).count(b"\n") > limits.ENTRIES:
            raise ValueError(f"{path} has more than {limits.ENTRIES:,} lines")


def _check_entries(path: Path, described: Mapping[str, Any]) -> None:
    """Raises ValueError for an id beyond all vocabularies: the library counts up to it."""
    model, added = described.get("model"), described.get("added_tokens")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    ids = list(vocabulary.values()) if isinstance(vocabulary, dict) else []
    ids += [token.get("id") for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    beyond = next((index for index in ids if not (isinstance(index, int) and 0 <= index < limits.ENTRIES)), None)
    if beyond is not None:
        raise ValueError(f"{path} has the id {beyond!r:.40}, and {limits.ENTRIES:,} entries are the most")


def _growth(part: Any) -> int:
    """How many characters a normaliser may make of one, at the most."""
    if not isinstance(part, dict):
        return 1
    inner = part.get("normalizers")
    growth = 1
    for each in inner if isinstance(inner, list) else ():
        growth = min(growth * _growth(each), GROWTH + 1)
    texts = [text for name in ("content", "prepend") if isinstance(text := part.get(name), str)]
    return growth * max([1, *map(len, texts)])
