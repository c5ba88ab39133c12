"""A trial's checkpoints on disk: durable before the journal names them, verified before they are used.

`trials/ID/checkpoints/step-00000400/` holds what the trainable handed over and a manifest, `checkpoint.json`, with the
SHA-256 of every file and the trial it belongs to. The folder gets its name only when all of it is on disk. The newest
two are kept, so that the older one can replace one that a crash or a bad disk tore.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeper.system import faults, files

MANIFEST = "checkpoint.json"
HISTORY = "history.jsonl"
KEEP = 2
LITTLE = 64 * 1024  # bytes: a disk with less cannot even store why a trial failed
_CHUNK = 1 << 20

Row = Mapping[str, Any]
ExpectedRow = tuple[Row, str | None]  # a row in the journal, and the `manifest_hash` of its checkpoint


def owner(trainable: str, identity: str, seed: int, config: Mapping[str, Any]) -> str:
    """The mark of a checkpoint, so that no other trial continues from it."""
    return hashlib.sha256(json.dumps([trainable, identity, seed, config]).encode()).hexdigest()[:16]


def no_room(folder: Path) -> bool:
    """Whether not even a small file can be written there: no bytes, no inodes, or over a quota."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(LITTLE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return faults.kind(error) == "no room"
    return False


def store(folder: Path, source: Path, step: int, owned_by: str = "") -> Path:
    """Move a folder into `folder` as the checkpoint of a step, and drop all but the newest `KEEP`.

    owned_by: the `owner` it is written for. Raises OSError, and leaves nothing behind, if there is no room; raises
    files.Unsafe for links.
    """
    files.refuse_links(source)
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        files.refuse_links(folder)
    target = folder / folder_name(step)
    partial = folder / f".{target.name}"  # the dot: never taken for a checkpoint
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir()
        digests = {str(name): _copy(source / name, partial / name) for name in _files(source)}
        manifest = {"step": step, "owner": owned_by, "sha256": digests}
        _write(partial / MANIFEST, json.dumps(manifest, indent=1).encode())
        _sync_folders(partial)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    if target.exists():  # a torn one, whose steps were trained again
        shutil.rmtree(target)
    partial.rename(target)
    _sync(folder)
    shutil.rmtree(source)
    newer = [path for path in _newest_first(folder) if path.name > target.name]  # passed over at the restart
    for old in [*newer, *_newest_first(folder)[len(newer) :][KEEP:]]:
        shutil.rmtree(old)
    return target


def adopt(folder: Path, source: Path, source_owner: str, owned_by: str, expected: Iterable[ExpectedRow]) -> str | None:
    """Give a trial the checkpoint of another one, whose files it shares where the disk allows.

    Args:
        folder: of the trial's checkpoints.
        source: the other trial's checkpoint.
        source_owner: the `owner` of the other trial.
        owned_by: the `owner` of this trial.
        expected: what the other's journal has.

    Returns the `manifest_hash` of the new checkpoint; None, and nothing is left, if the source fails to verify.
    """
    try:
        held = json.loads(_read(source / MANIFEST))
        step = held["step"]
        if _fault(source, source_owner, {row["step"]: (row, sealed) for row, sealed in expected}) is not None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        files.refuse_links(folder)
        target = folder / folder_name(step)
        partial = folder / f".{target.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for name in held["sha256"]:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            share(files.inside(source, name), partial / name)
        _write(partial / MANIFEST, json.dumps({**held, "owner": owned_by}, indent=1).encode())
        _sync_folders(partial)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(folder)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return manifest_hash(target)


def share(source: Path | str, target: Path | str) -> None:
    """Give a file a second name, where it is never changed; on another disk, copy it."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        _copy(Path(source), Path(target))


def newest(folder: Path, owned_by: str = "", expected: Iterable[ExpectedRow] = ()) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that verifies, or None, and one line for each newer one that does not.

    owned_by: the `owner` it must have. expected: the rows it must agree with.
    """
    torn: list[str] = []
    seen = {row["step"]: (row, manifest) for row, manifest in expected}
    for path in _newest_first(folder):
        fault = _fault(path, owned_by, seen)
        if fault is None:
            return path, torn
        torn.append(f"checkpoint {path} is skipped: {fault}")
    return None, torn


def manifest_hash(checkpoint: Path) -> str:
    """A hash over all of a checkpoint, to be kept elsewhere."""
    return hashlib.sha256(_read(checkpoint / MANIFEST)).hexdigest()[:16]


def at(folder: Path, step: int) -> Path | None:
    """The checkpoint of a step, if there is one by that name."""
    path = folder / folder_name(step)
    return path if path.is_dir() and not path.is_symlink() else None


def bundle(run_dir: Path, checkpoint: str | None) -> Path | None:
    """The bundle in the checkpoint that a record names; None if there is no checkpoint or no bundle in it.

    Raises files.Unsafe, in one line, for a path that leads out of the run folder, and for a link in the bundle.
    """
    if not checkpoint:
        return None
    folder = files.inside(run_dir, checkpoint, "bundle")
    if not folder.is_dir():
        return None
    files.refuse_links(folder)
    return folder


def history(checkpoint: Path) -> list[dict[str, Any]]:
    """Every row of metrics reported up to this checkpoint, oldest first."""
    return [json.loads(line) for line in _read(checkpoint / HISTORY).decode().splitlines()]


def publish(source: Path, target: Path) -> None:
    """Copy a folder to `target`, as a whole or not at all. Raises files.Unsafe for one with links."""
    files.refuse_links(source)
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(source, partial, symlinks=True)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)


def _newest_first(folder: Path) -> list[Path]:
    return [] if folder.is_symlink() else sorted(folder.glob("step-*"), reverse=True)


def _read(path: Path) -> bytes:
    with files.reading(path) as file:
        return file.read()


def folder_name(step: int) -> str:
    """The folder name of a step's checkpoint."""
    return f"step-{step:08d}"


def _fault(path: Path, owned_by: str, seen: Mapping[int, ExpectedRow]) -> str | None:
    """What is wrong with a checkpoint, or None."""
    try:
        files.refuse_links(path)
        manifest = json.loads(_read(path / MANIFEST))
        digests: dict[str, str] = manifest["sha256"]
        for name, digest in digests.items():
            with files.reading(files.inside(path, name)) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    return f"{name} does not match its checksum"
        strange = {str(name) for name in _files(path)} - {*digests, MANIFEST}
        if strange:
            return f"{min(strange)} is not in its manifest"
        if manifest["owner"] != owned_by:
            return "it belongs to another trial"
        rows = history(path)
        if path.name != folder_name(manifest["step"]) or rows[-1]["step"] != manifest["step"]:
            return "it is from another step"
        for row in rows:
            if row != seen.get(row["step"], (row, None))[0]:
                return f"its row of step {row['step']} differs from the journal's"
        wanted = seen.get(manifest["step"], ({}, None))[1]
        return None if wanted in (None, manifest_hash(path)) else "it is not the one that the journal names"
    except FileNotFoundError as error:
        return f"{os.path.relpath(error.filename, path)} is missing"
    except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        return f"it cannot be read ({error})"


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
    """Sync a tree of folders to disk, its root last."""
    for path in [*(path for path in root.rglob("*") if path.is_dir()), root]:
        _sync(path)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
