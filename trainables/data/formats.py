"""Reads the files of a corpus: plain text, records of .jsonl, and the column `text` of tables.

Files may come from a stranger: they are read as text, JSON, parquet and arrow, within `limits`, and nothing in them is
run. A folder that `datasets` saved is read as the arrow files that its state.json names.
"""

from __future__ import annotations

import csv
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables import limits
from trainables.limits import Room

PACKED = (".gz", ".xz")
BINARY = {".parquet": "parquet", ".arrow": "arrow"}
KINDS = {".txt": "txt", ".train": "txt", ".dev": "txt", ".test": "txt", ".jsonl": "jsonl", ".csv": "csv"} | BINARY
TABLES = ("csv", *BINARY.values())
LEGAL = ".txt, .train, .dev, .test, .jsonl, .csv (plain, .gz or .xz), .parquet or .arrow"
COLUMN = "text"

_ROWS_AT_ONCE = 1_000  # few, because a value may be large and may be repeated


def ending(path: Path) -> str:
    """The suffix that says what a file holds, with the one that says how it is packed: `.txt.gz`."""
    packed = path.suffix if path.suffix.lower() in PACKED else ""
    return Path(path.name.removesuffix(packed)).suffix + packed


def kind(path: Path) -> str | None:
    """`txt`, `jsonl`, `csv`, `parquet` or `arrow`, by the file's name; None for any other."""
    whole = ending(path).lower()
    plain = whole.removesuffix(".gz").removesuffix(".xz")
    return KINDS.get(plain) if plain == whole or plain not in BINARY else None


def text(path: Path, room: Room) -> str:
    """All of a file, unpacked; a line ends in a line feed. Raises ValueError, in one line, with the file's name."""
    openers = {".gz": gzip.open, ".xz": lzma.open}
    opener = openers.get(path.suffix.lower())
    try:
        with path.open("rb") as raw:
            content = room.all(opener(raw), path, raw) if opener else room.all(raw, path)
        found = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 at byte {error.start}: convert it with iconv -t UTF-8") from None
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ValueError(f"{path} is damaged or has the wrong suffix ({error})") from None
    except (OSError, MemoryError) as error:
        why = error.strerror if isinstance(error, OSError) else "it needs more memory than there is"
        raise ValueError(f"{path} cannot be read: {why}") from None
    return found.replace("\r\n", "\n").replace("\r", "\n")


def records(path: Path, room: Room) -> Iterator[str]:
    """The texts of a .jsonl, one a line that is not blank. Raises ValueError, in one line, with the place."""
    for number, line in enumerate(text(path, room).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = limits.json_value(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from None
        found = record.get(COLUMN) if isinstance(record, dict) else None
        if not isinstance(found, str):
            raise ValueError(f"{path}, line {number} has no text: each line must be an object with a string 'text'")
        if re.search("[\ud800-\udfff]", found):
            raise ValueError(f"{path}, line {number} holds a lone surrogate, which is not a character")
        yield found


def rows(path: Path, room: Room) -> Iterator[str]:
    """The column `text` of a table, row by row, "" where there is none. Raises ValueError, in one line."""
    if kind(path) == "csv":
        yield from _csv(path, room)
        return
    import pyarrow

    try:
        size = path.stat().st_size
        for number, value in enumerate(_column(path), 1):
            if not isinstance(value, str | None):
                raise ValueError(f"{path}, row {number}: {COLUMN} is {value!r:.40}, not a string")
            room.add(path, len(value or "") + 1, size)
            yield value or ""
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged or has the wrong suffix ({_line(error)})") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or _line(error)}") from None


def _csv(path: Path, room: Room) -> Iterator[str]:
    """A blank line is a row of empty fields."""
    csv.field_size_limit(2**31 - 1)  # a field may be a book
    reader = csv.reader(io.StringIO(text(path, room), newline=""), strict=True)
    try:
        head = next(reader, [])
        at = _place(path, head)
        for row in reader:
            if row and len(row) != len(head):
                raise ValueError(
                    f"{path}, line {reader.line_num} has {len(row)} fields, the first line {len(head)}: "
                    'a text with a comma needs "quotes"'
                )
            yield row[at] if row else ""
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num} is not CSV: {error}") from None


def _column(path: Path) -> Iterator[Any]:
    """The column's values. Arrow gets open files, because it takes a name for UTF-8 in any locale."""
    from pyarrow import ipc, parquet

    with path.open("rb") as file:
        if kind(path) == "parquet":
            table = parquet.ParquetFile(file)
            _place(path, table.schema_arrow.names)
            _refuse_claims(path, table.metadata)
            batches = table.iter_batches(_ROWS_AT_ONCE, columns=[COLUMN])
        else:
            batches = ipc.open_stream(file)
            _place(path, batches.schema.names)
        for batch in batches:
            yield from batch.column(COLUMN).to_pylist()


def _refuse_claims(path: Path, metadata: Any) -> None:
    """Raises ValueError for a table that claims to hold more text than its file can."""
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [group.column(number) for group in groups for number in range(group.num_columns)]
    size = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == COLUMN)
    if size > max(limits.FREE, limits.RATIO * path.stat().st_size):
        raise ValueError(f"{path} claims to unpack to more than {limits.RATIO} times its size: leave it out")


def _place(path: Path, columns: list[str]) -> int:
    """Which of the columns is `text`."""
    if COLUMN not in columns:
        there = ", ".join(columns)[:200] or "none"
        raise ValueError(f"{path} has no column {COLUMN}, only {there}: rename the one that holds the text")
    return columns.index(COLUMN)


def saved(folder: Path) -> list[Path]:
    """The arrow files of a dataset that `save_to_disk` of `datasets` wrote, of the split `train` where it has splits.

    None for another folder. Raises ValueError, in one line, for an incomplete one.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = sorted(path.parent.name for path in folder.glob("*/state.json"))
        if "train" not in splits:
            raise ValueError(f"{folder} has no split train, only {', '.join(splits) or 'none'}: name FOLDER/SPLIT")
        folder = folder / "train"
    state = folder / "state.json"
    if not state.is_file():
        return []
    try:
        names = [each["filename"] for each in limits.json_file(state)["_data_files"]]
        paths = [folder / name for name in names if Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{state} does not say which files the dataset has: save it again") from None
    if not names or len(paths) != len(names) or not all(path.is_file() and kind(path) == "arrow" for path in paths):
        raise ValueError(f"{state} does not match the .arrow files beside it: save the dataset again")
    return paths


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
