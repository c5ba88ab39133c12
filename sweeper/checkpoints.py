"""A trial's checkpoints on disk: durable before they are spoken of, verified before they are trusted.

`trials/ID/checkpoints/step-00000400/` holds what the trainable handed over and a manifest, `checkpoint.json`, with the
SHA-256 of every file. The folder takes its name only when all of it is on disk, and the newest two are kept, so that
the older one stands in for one that a crash or a bad disk tore.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

MANIFEST = "checkpoint.json"
HISTORY = "history.jsonl"
KEEP = 2
_CHUNK = 1 << 20


def store(folder: Path, source: Path, step: int) -> Path:
    """Move a folder into `folder` as the checkpoint of a step, and drop all but the newest `KEEP`."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{step:08d}"
    partial = folder / f".{target.name}"  # the dot: never taken for a checkpoint
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    digests = {str(name): _copy(source / name, partial / name) for name in _files(source)}
    _write(partial / MANIFEST, json.dumps({"step": step, "sha256": digests}, indent=1).encode())
    _sync_folders(partial)
    if target.exists():  # a torn one, whose steps were trained again
        shutil.rmtree(target)
    partial.rename(target)
    _sync(folder)
    shutil.rmtree(source)
    for old in _newest_first(folder)[KEEP:]:
        shutil.rmtree(old)
    return target


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, or None, and one line for each newer one that does not."""
    torn: list[str] = []
    for path in _newest_first(folder):
        fault = _fault(path)
        if fault is None:
            return path, torn
        torn.append(f"checkpoint {path} is skipped: {fault}")
    return None, torn


def at(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step, if there is one by that name."""
    path = folder / f"step-{step:08d}"
    return path if path.is_dir() else None


def history(checkpoint: Path) -> list[dict[str, Any]]:
    """Every row of metrics reported up to this checkpoint, oldest first."""
    return [json.loads(line) for line in (checkpoint / HISTORY).read_text().splitlines()]


def publish(source: Path, target: Path) -> None:
    """Copy a folder so that `target` is there whole or not at all."""
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)


def _fault(path: Path) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        digests: dict[str, str] = json.loads((path / MANIFEST).read_text())["sha256"]
        for name, digest in digests.items():
            with (path / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} is not what was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).relative_to(path)} is missing"
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        return f"it cannot be read ({error})"
    return None


def _files(source: Path) -> list[Path]:
    return sorted(path.relative_to(source) for path in source.rglob("*") if path.is_file())


def _copy(source: Path, target: Path) -> str:
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folders(root: Path) -> None:
    """Put the names in a tree of folders on disk, its root last."""
    for path in [*(path for path in root.rglob("*") if path.is_dir()), root]:
        _sync(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
