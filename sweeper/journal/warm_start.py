"""Trials of other runs that the sampler of a search knows from its first point on: `search.from` of a spec.

They are the sampler's history and nothing else: they are no trials of this run, so they are neither ranked nor best,
confirm nothing, and may be trained again. What is told is on record, so a resumed run needs no other run. The spec's
hash has a digest of it in place of the name, since the points depend on what is told and not on where it lay.

Another seed moves all losses of a run together, the baseline's as well. So a loss is told as its difference to the
baseline of its own run and seed, plus this run's baseline. Before that has ended, the level is the first source's.
Where a source did not train this baseline, its losses are told as observed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.journal import object_store, reuse, run_folders
from sweeper.journal.budget import Common
from sweeper.journal.events import WarmStart
from sweeper.journal.journal import Journal, TrialRecord, fingerprints_in
from sweeper.spec import conditions
from sweeper.spec.hints import nearest, shown
from sweeper.spec.space import Simplex
from sweeper.spec.spec import flat
from sweeper.system.secrecy import veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

MOST = 1_000  # trials of a source, the latest
_PIN = re.compile(r"(.+)@([0-9a-f]{12})")
_DIFFERENT = 3  # settings named in a refusal
_SEEDS = 8  # named of a source


@dataclass(frozen=True)
class Source:
    """What a run has to tell, and the fingerprints of its data and code."""

    start: WarmStart
    fingerprints: Mapping[str, str]


def pinned(spec: SweepSpec, starts: Sequence[WarmStart]) -> SweepSpec:
    """The spec with its sources by name and content, NAME@DIGEST, as its hash and its run folder have them."""
    search = spec.search.model_copy(update={"sources": tuple(f"{one.source}@{digest(one)}" for one in starts)})
    return spec.model_copy(update={"search": search})


def digest(start: WarmStart) -> str:
    """Of what is told, wherever it comes from."""
    content = [[one[key] for key in ("params", "seed", "values", "baseline")] for one in start.trials]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def gathered(spec: SweepSpec, storage: Path) -> list[Source]:
    """What the sources of a spec have to tell now. Raises ValueError: one line for each that has nothing, joined."""
    found, refused = list[Source](), list[str]()
    for entry in spec.search.sources:
        try:
            found.append(_source(spec, entry, storage))
        except (ValueError, OSError) as error:
            refused.append(f"search.from: {entry}: {error}")
    if refused:
        raise ValueError("; ".join(refused))
    return found


def recorded(spec: SweepSpec, journal: Journal) -> list[WarmStart] | None:
    """What a run with such sources is on record to have been told; None if it has none, or others."""
    starts = journal.warm_starts()
    wanted = [(Path(name).name, pin) for name, pin in map(_split, spec.search.sources)]
    same = len(starts) == len(wanted) and all(
        (start.source == name or start.source.startswith(f"{name}-")) and pin in ("", digest(start))
        for start, (name, pin) in zip(starts, wanted, strict=True)
    )
    return list(starts) if same and starts else None


def resumed(spec: SweepSpec, storage: Path, resume: Path, trust: bool) -> list[WarmStart] | None:
    """The same of the run to resume, or, where it is the newest, of the newest of this spec whatever became of them."""
    if resume != run_folders.NEWEST:
        path = resume / run_folders.JOURNAL
        return recorded(spec, Journal(path, read_only=True, trust=trust)) if path.is_file() else None
    found = list[list[WarmStart]]()
    for path in storage.glob(f"{spec.name}-*/{run_folders.JOURNAL}"):
        with contextlib.suppress(ValueError):  # a run that cannot be read is not resumed
            starts = recorded(spec, Journal(path, read_only=True))
            if starts and run_folders.own_hash(path.parent) == pinned(spec, starts).spec_hash:
                found.append(starts)
    return max(found, key=lambda starts: starts[0].time, default=None)


def seeds(starts: Sequence[WarmStart]) -> set[int]:
    """The seeds of what is told: they steer the search, so they confirm nothing that it finds."""
    return {one["seed"] for start in starts for one in start.trials}


def refuse_other_data(sources: Sequence[Source], facts: Mapping[str, Any]) -> None:
    """Raises ValueError, in one line, for a source that had other data or code. facts: of what is prepared now."""
    now = fingerprints_in(facts)
    for one in sources:
        for key, value in now.items():
            if key != "data_fingerprint" and key not in one.fingerprints:
                continue  # a task's, which the other run did not score
            if one.fingerprints.get(key) != value:
                raise ValueError(
                    f"search.from: {one.start.source}: it had other data ({key} was {one.fingerprints.get(key)}, is "
                    f"{value}), so its losses say nothing here: leave it out"
                )


def told(starts: Sequence[WarmStart], own: Sequence[float] | None) -> Iterator[tuple[Mapping[str, Any], list[float]]]:
    """(point by path, value of each objective) of the trials, in the order of the sources.

    own: what this run's baseline scored; None while it is not known.
    """
    baselines = (one["baseline"] for start in starts for one in start.trials if one["baseline"])
    level = own or next(baselines, None)
    for start in starts:
        for one in start.trials:
            moved = zip(one["values"], one["baseline"] or one["values"], level or one["values"], strict=True)
            yield (
                one["params"],
                [value - base + here for value, base, here in moved] if one["baseline"] else list(one["values"]),
            )


def words(starts: Sequence[WarmStart]) -> list[str]:
    """For people, a line for each source."""
    lines = list[str]()
    for one in starts:
        against = sum(each["baseline"] is not None for each in one.trials)
        observed, how = len(one.trials) - against, "as differences to the baseline"
        if not against:
            how = "as observed"
        elif observed:
            how = f"{against} {how} and {observed} as observed"
        more = f"; {one.outside} more are no points of this space" if one.outside else ""
        seeds = sorted({each["seed"] for each in one.trials})
        on = f"seed{'s'[len(seeds) == 1 :]} {', '.join(map(str, seeds[:_SEEDS]))}{', …' * (len(seeds) > _SEEDS)}"
        lines.append(f"{len(one.trials)} trial{'s'[len(one.trials) == 1 :]} of {one.source} ({on}), told {how}{more}")
    return lines


def _source(spec: SweepSpec, entry: str, storage: Path) -> Source:
    name, pin = _split(entry)
    folder = _found(name, storage)
    theirs, journal = reuse.trusted(folder)
    if theirs.trainable != spec.trainable:
        raise ValueError(f"it trains {theirs.trainable}, this spec {spec.trainable}")
    start = of(spec, folder.name, journal)
    if pin and digest(start) != pin:
        raise ValueError(f"it tells something else than when it was named; take @{pin} away to hear what it tells now")
    return Source(start, fingerprints_in(journal.facts()))


def of(spec: SweepSpec, name: str, journal: Journal) -> WarmStart:
    """What a run's completed search trials tell of a spec's space. Raises ValueError, in one line, if that is nothing.

    name: of the run's folder.
    """
    records = [one for one in journal.stage("search") if one.state == "completed" and one.ask.config_hash]
    if not records:
        raise ValueError("no trial of its search has completed")
    common, trials = Common.of(spec, records), list[dict[str, Any]]()
    own = spec.trainable_config(spec.baseline_params) if spec.arms else None
    baselines = {one.ask.seed: _scores(spec, one) for one in records if one.ask.config == own}
    points = [(one, _point(spec, one)) for one in records]
    for record, params in points:
        if params is not None and (values := _scores(spec, record)) and common.kept(record):
            base = baselines.get(record.ask.seed)
            one = {"trial": record.id, "seed": record.ask.seed, "params": params, "values": values, "baseline": base}
            trials.append(one)
    if not trials:
        raise ValueError(_why_nothing(spec, records, [params for _, params in points]))
    assert journal.run
    return WarmStart(source=name, run=journal.run, trials=trials[-MOST:], outside=len(records) - len(trials))


def _why_nothing(spec: SweepSpec, records: Sequence[TrialRecord], points: Sequence[Any]) -> str:
    """Why none of a run's completed trials tells anything: what sets apart the one that comes nearest."""
    inside = [record for record, params in zip(records, points, strict=True) if params is not None]
    if any(not _scores(spec, record) for record in inside):
        return f"its trials have no {' or no '.join(spec.objectives)}"
    if inside:
        return "its trials do not predict as many positions as the baseline of this spec"
    base = dict(flat(spec.trainable_config(spec.baseline_params)))
    apart = [_apart(spec, base, dict(flat(record.ask.config))) for record in records]
    lines = min(apart, key=len)
    if not lines:
        return "none of its trials is a point of this space"
    more = f" and {len(lines) - _DIFFERENT} more" if len(lines) > _DIFFERENT else ""
    return f"it is no run of this question: {', '.join(lines[:_DIFFERENT])}{more}"


def _apart(spec: SweepSpec, here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """The settings outside the space in which two configurations differ, in words."""
    outside = [
        path
        for path in dict.fromkeys([*here, *there])
        if here.get(path) != there.get(path) and not any(f"{path}.".startswith(f"{varied}.") for varied in spec.space)
    ]
    return [
        f"{path} is {shown(veiled(path, there.get(path)))} there, {shown(veiled(path, here.get(path)))} here"
        for path in outside
    ]


def _point(spec: SweepSpec, record: TrialRecord) -> dict[str, Any] | None:
    """The point of this spec's space that is just what was trained; None if there is none."""

    def value(path: str) -> Any:
        found: Any = record.ask.config
        for key in path.split("."):
            found = found[key]
        domain = spec.space[path]
        if isinstance(domain, Simplex):
            found = {part: found[part] for part in domain.parts}
        domain.to_sampler(path, found)
        return found

    try:
        params = conditions.active(spec.space, spec.conditions, value)
        return params if spec.trainable_config(params) == record.ask.config else None
    except (ValueError, KeyError, TypeError):
        return None


def _scores(spec: SweepSpec, record: TrialRecord) -> list[float] | None:
    """What a trial scored in each objective; None if it lacks one."""
    found = [value for name in spec.objectives if (value := record.score(name)) is not None]
    return found if len(found) == len(spec.objectives) else None


def _split(entry: str) -> tuple[str, str]:
    """The name of a source, and the digest that it must have, empty if any will do."""
    found = _PIN.fullmatch(entry)
    return (found[1], found[2]) if found else (entry, "")


def _found(name: str, storage: Path) -> Path:
    """The run folder that a source names: a path, a folder of the storage, or the one run there of a sweep."""
    if "/" in name:
        folder = Path(name).expanduser().resolve()
        if not (folder / run_folders.SPEC).is_file():
            raise ValueError(f"{folder} is no run folder: it has no {run_folders.SPEC}")
        return folder
    for there in object_store.names(storage):
        if there == name or there.startswith(f"{name}-"):
            object_store.fetch(storage / there)
    runs = sorted(path.parent for path in storage.glob(f"*/{run_folders.SPEC}"))
    names = [one.name for one in runs]
    if name in names:
        return storage / name
    own = [one for one in names if re.fullmatch(re.escape(name) + r"-[0-9a-f]{8}(-\d+)?", one)]
    if len(own) > 1:
        raise ValueError(f"{len(own)} runs have this name: take one of {', '.join(own[-5:])}")
    if not own:
        raise ValueError(f"{storage} has no such run; {nearest(name, names)}")
    return storage / own[0]
