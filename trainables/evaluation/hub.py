"""The challenge's data from a dataset repository of the Hugging Face hub, at one commit.

Nothing of it is run: files of data in the pipeline's layout are taken, all others stay there. The hub's cache is made
of links, which no reader follows, so that what they lead to inside the repository's own folder is copied once.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.system import files
from trainables import limits
from trainables.data.corpus import Hub, unavailable
from trainables.evaluation import rules

SETTING, INSTEAD = "--task official=", "name a folder"
HUB = "hub:"
ENDINGS = (".jsonl", ".json", ".csv")
MOST_FILES = 2_000  # the challenge's has some 130
MOST_BYTES = 4 * limits.TASK  # of all files; the challenge's have a tenth

PLACES = {
    rules.FULL: [*(part.full for part in rules.PARTS.values()), rules.GLUE, rules.CONTEXTS, rules.CHILDREN],
    rules.FAST: [part.fast for part in rules.PARTS.values() if part.fast],
}

_STEP = r"[\w-][\w.-]*"
_FILE = re.compile(rf"((?:{_STEP}/)*?)({rules.FULL}|{rules.FAST})/((?:{_STEP}/)*{_STEP})", re.ASCII)


def folder(place: str) -> tuple[Path, str]:
    """(the folder of a place's data, what to record of where they come from).

    place: a folder, or `hub:OWNER/NAME` with `@REVISION` or without. A revision is pinned to its commit when it is
    first used; what was fetched once is used from then on, without the hub. Raises ValueError, in one line, where the
    hub or the repository has no such data.
    """
    if not place.startswith(HUB):
        return Path(place), place
    source = Hub.find(place.removeprefix(HUB), files.cache_root() / "hub", SETTING, INSTEAD)
    origin = f"{HUB}{source.name}@{source.commit}"
    wants = hashlib.sha256(json.dumps(PLACES).encode()).hexdigest()[:8]  # another year's rules want other files
    target = files.cache_root() / "challenge" / f"{source.name}@{source.commit}-{wants}".replace("/", "--")
    if not target.is_dir():
        _fetch(source, origin, target)
    return target, origin


def _fetch(source: Hub, origin: str, target: Path) -> None:
    from huggingface_hub import HfApi, snapshot_download

    try:
        listed: Any = HfApi().dataset_info(source.name, revision=source.commit, files_metadata=True).siblings
    except Exception as error:  # as in the corpus
        raise unavailable(source.name, error, SETTING, INSTEAD) from error
    wanted = _wanted(origin, {each.rfilename: each.size for each in listed or []})
    try:
        snapshot = snapshot_download(
            source.name, repo_type="dataset", revision=source.commit, allow_patterns=list(wanted)
        )
    except Exception as error:
        raise unavailable(source.name, error, SETTING, INSTEAD) from error
    files.clear_old(target.parent, ".*")  # of fetches that were killed
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        for name, place in wanted.items():
            files.put(files.inside(partial, place), _content(Path(snapshot), name))
        try:
            partial.rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _wanted(origin: str, sizes: Mapping[str, int | None]) -> dict[str, str]:
    """Places in the layout by name in the repository; sizes: of its files, None where the hub does not tell."""
    found, above = {}, set()
    for name in sizes:
        match = _FILE.fullmatch(name)
        if not match or not name.endswith(ENDINGS):
            continue
        before, kind, rest = match.groups()
        if any(rest == place or rest.startswith(f"{place}/") for place in PLACES[kind]):
            found[name] = f"{kind}/{rest}"
            above.add(before)
    if not found:
        raise ValueError(f"{SETTING}{origin} has nothing to score: expected {rules.FULL}/blimp_filtered and the like")
    if len(above) > 1:
        shown = " and ".join(f"{name or './'}" for name in sorted(above)[:2])
        raise ValueError(f"{SETTING}{origin} has data in {shown}: download it and name one of these folders")
    if unknown := next((name for name in found if sizes[name] is None), None):
        raise ValueError(f"{SETTING}{origin}: the hub does not tell the size of {unknown}: {INSTEAD} instead")
    total = sum(sizes[name] or 0 for name in found)
    if len(found) > MOST_FILES or total > MOST_BYTES:
        raise ValueError(
            f"{SETTING}{origin} has {len(found):,} files of {total / 2**20:,.0f} MiB, the limit is {MOST_FILES:,} of "
            f"{MOST_BYTES / 2**20:,.0f}: it is not the challenge's"
        )
    return found


def _content(snapshot: Path, name: str) -> bytes:
    """Of a file of a snapshot, which may be a link to the same repository's blobs and to nothing else."""
    own = snapshot.parent.parent.resolve()
    path = (snapshot / name).resolve()
    if own not in path.parents:
        raise ValueError(f"{snapshot / name} leads out of {own}: delete that folder, so that it is fetched again")
    return limits.read(path, limits.TASK)
