"""Load a spec, and check before anything starts that the trainable accepts everything the spec may ask for.

The trainable's own Config must accept the base settings, every arm, every corner of every domain, and all low and all
high corners together.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeper.spec import ablation, conditions, early_stopping
from sweeper.spec.arms import expanded
from sweeper.spec.errors import ConfigError, SpecError, refusal, setting_paths
from sweeper.spec.hints import key_path, nearest, nearest_path, shown
from sweeper.spec.layers import merge_all, origin, stack
from sweeper.spec.recorded import TrainableStub
from sweeper.spec.settings import config_model, dumped, settings, with_defaults
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, secrecy, yaml_reader
from sweeper.trainable import Settings, Trainable, shipped


def completed(spec: SweepSpec, outside: Path | None = None) -> SweepSpec:
    """The spec with complete settings and arms. Raises ConfigError for settings that the trainable refuses.

    outside: a run folder, in which the trainable must not lie.
    """
    try:
        trainable = Trainable.load(spec.trainable, outside)
    except ValueError as error:
        raise ConfigError(("trainable",), str(error)) from None
    spec = _without_secrets(spec)
    legal = set(setting_paths(config_model(spec)))
    for where, path in _paths(spec):
        if path not in legal:
            raise ConfigError((*where, path), f"the trainable has no such setting; {nearest_path(path, sorted(legal))}")
    plain = settings(spec, {})
    there = {*dir(type(plain)), *type(plain).model_fields}  # not read: some properties open files
    lacking = [name for name in vars(Settings) if not name.startswith("_") and name not in there]
    if lacking:
        raise ConfigError(("trainable",), f"the Config of {spec.trainable!r} lacks {', '.join(lacking)}")
    base = dumped(spec, {})
    if spec.objective in trainable.at_end():
        reason = f"{spec.objective!r} is only in a run's last row; put another objective first, as in [val/loss, …]"
        raise ConfigError(("objective",), reason)
    if spec.evaluate and trainable.check_tasks is None:
        raise ConfigError(
            ("evaluate",), f"{spec.trainable} has no check_tasks, so it scores no tasks; leave evaluate out"
        )
    whole = with_defaults(plain, base)
    arms = {name: _arm(spec, name, whole, trainable) for name in spec.arms}
    if spec.search.method == "grid":
        spec = expanded(spec.model_copy(update={"arms": arms}), lambda params: _settled(spec, params))
        arms = spec.arms
    if spec.ablation:
        spec = ablation.expanded(spec.model_copy(update={"arms": arms}), trainable.expand, whole)
        arms = spec.arms
    probed: list[Any] = []
    for where, params in probes(spec, arms):
        try:
            probed.append(settings(spec, params))
        except ConfigError as error:
            values = ", ".join(f"{path} = {shown(value)}" for path, value in params.items())
            named = error.location == ("config",) or key_path(error.location).endswith(tuple(params))
            raise ConfigError(where, f"{values} is refused: {error.reason if named else error}") from None
    try:
        rule = early_stopping.placed(
            spec.scheduler, {one.steps for one in probed}, max(one.warmup_steps for one in probed)
        )
    except ConfigError as error:
        raise ConfigError(("scheduler", *error.location), error.reason) from None
    if spec.search.method != "arms":
        _refuse_twins(list(arms), probed)
    trials = spec.search.model_copy(update={"trials": spec.search.trials or spec.total_trials or None})
    data = base.pop("data", {})
    done = spec.model_copy(update={"config": base, "data": data, "arms": arms, "search": trials, "scheduler": rule})
    if done.arms and not (done.total_trials or done.confirm_trials):
        reason = "nothing would run: no other arm has the baseline's budget; set budget: free to compare them all"
        raise ConfigError(("arms",), reason)
    return done


def _without_secrets(spec: SweepSpec) -> SweepSpec:
    """The spec with its secrets moved to the environment and replaced by references."""
    kinds = secrecy.declared(config_model(spec))
    for path, domain in spec.space.items():
        if secrecy.is_secret(path, kinds) and any(isinstance(corner, str) for corner in domain.corners()):
            raise ConfigError(("space", path), "is a secret and cannot be searched; set it in config")
    try:
        config = secrecy.taken(spec.config, "config", kinds)
        data = secrecy.taken({"data": spec.data}, "", kinds)["data"]
        arms = {name: secrecy.taken(arm, f"arms.{name}", kinds) for name, arm in spec.arms.items()}
    except ValueError as error:
        raise ConfigError((), str(error)) from None
    return spec.model_copy(update={"config": config, "data": data, "arms": arms})


def _settled(spec: SweepSpec, params: Mapping[str, Any]) -> BaseModel | None:
    """The trainable's Config, or None if it refuses the settings."""
    try:
        return settings(spec, params)
    except ConfigError:
        return None


def _refuse_twins(names: list[str], settled: list[Any]) -> None:
    """Refuse equal arms: they are a sampler's first points, and no point is trained twice.

    settled: complete settings, those of the arms first.
    """
    seen: dict[str, str] = {}
    for name, one in zip(names, settled, strict=False):
        other = seen.setdefault(one.model_dump_json(), name)
        if other != name:
            raise ConfigError(("arms", name), f"is the same configuration as {other}; leave one of them out")


def _paths(spec: SweepSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    yield from ((("space",), path) for path in spec.space)
    for name, arm in spec.arms.items():
        yield from ((("arms", name), path) for path in arm)


def _arm(spec: SweepSpec, name: str, base: Mapping[str, Any], trainable: Trainable) -> dict[str, Any]:
    """An arm's settings. Under a sampler it has every path of the space that exists for it, from config if need be."""
    given = spec.arms[name]
    sampled = spec.search.method not in ("arms", "grid")
    outside = {path: value for path, value in given.items() if path not in spec.space}
    if sampled and outside:
        path = next(iter(outside))
        reason = f"is not in the space that {spec.search.method} searches; {nearest(path, spec.space)}"
        raise ConfigError(("arms", name, path), reason)
    whole = {**trainable.expand(given), **given} if spec.conditions else given  # a preset, and what it stands for
    there = conditions.active(spec.space, spec.conditions, lambda path: whole.get(path, ablation.at(base, path)))
    if path := next((path for path in given if path in spec.space and path not in there), None):
        reason = f"exists {conditions.words(spec.conditions[path])}; leave it out"
        raise ConfigError(("arms", name, path), reason)
    inside = {path: given.get(path, ablation.at(base, path)) for path in there if sampled or path in given}
    for path, value in inside.items():
        try:
            spec.space[path].to_sampler(path, value)
        except ValueError as error:
            inherited = "" if path in given else "the arm leaves it to config, whose value is not in the space: "
            raise ConfigError(("arms", name, path), f"{inherited}{error}") from None
    return inside | outside


def probes(spec: SweepSpec, arms: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Settings to try, with their location in the spec: every arm, every corner, all low and all high corners."""
    yield from ((("arms", name), arm) for name, arm in arms.items())
    yield from ((("space", path), params) for path, params in conditions.corners(spec.space, spec.conditions))
    yield from ((("space",), params) for params in conditions.ends(spec.space, spec.conditions))


def load(
    path: Path | str | Mapping[str, Any],
    profile: str | None = None,
    sets: Iterable[str] = (),
    outside: Path | None = None,
) -> SweepSpec:
    """The spec in a file, or as a tree, with a profile and `PATH=VALUE` settings on top. Raises SpecError.

    outside: a run folder, from which no trainable is imported; by default the file's own folder if it holds a journal.
    """
    if isinstance(path, Mapping):
        return resolve(path, profile, sets, outside=outside)
    path = Path(path)
    if outside is None and (path.parent / "journal.jsonl").exists():
        outside = path.parent
        files.refuse_record_links(path)
    try:
        tree = yaml_reader.read(path)
    except ValueError as error:
        raise SpecError(f"{path}: {error}{_neighbour(path)}") from None
    return resolve(tree, profile, sets, str(path), outside)


def recorded(path: Path) -> SweepSpec:
    """The resolved spec of a run folder, as data: only a trainable that ships with sweeper is imported.

    Raises SpecError for a file that no driver would have written.
    """
    try:
        if os.path.lexists(path):
            files.refuse_links(path)  # and pipes, which would block
        spec = SweepSpec.model_validate_json(json.dumps(yaml_reader.read(path)), strict=True)
        if spec.search.method == "grid" or spec.ablation:
            raise ValueError("its arms are not expanded, as those of a run are")
        return spec if shipped(spec.trainable) else spec.with_stub(TrainableStub())
    except ValidationError as error:
        found = refusal(error, SweepSpec)
    except ValueError as error:
        found = error
    raise SpecError(f"{path}: {found}")


def resolve(
    tree: Mapping[str, Any],
    profile: str | None = None,
    sets: Iterable[str] = (),
    source: str = "spec",
    outside: Path | None = None,
) -> SweepSpec:
    """The spec that a tree describes.

    Args:
        tree: the spec as plain data.
        profile: name of the profile to apply.
        sets: `PATH=VALUE` settings, applied last.
        source: the name of the spec in errors.
        outside: as for `load`.

    Raises SpecError.
    """
    try:
        layers = stack(tree, profile, sets, source)
    except ValueError as error:
        raise SpecError(error) from None
    merged = merge_all(layers)
    try:
        # Through JSON: there, strictness lets a list be a tuple, but no text be a number.
        spec = SweepSpec.model_validate_json(json.dumps(merged), strict=True)
        return completed(spec, outside).model_copy(update={"profiles": dict(tree.get("profiles") or {})})
    except ValidationError as error:
        found = refusal(error, SweepSpec)
    except ConfigError as error:
        found = error
    raise SpecError(f"{origin(layers, found.location)}: {found}") from None


def other_baseline(path: Path | Mapping[str, Any], spec: SweepSpec) -> str | None:
    """One line if the first arm of a file was deleted, which makes another arm the baseline; otherwise None."""
    try:
        tree = path if isinstance(path, Mapping) else yaml_reader.read(path)
    except ValueError:  # some files, such as a pipe, can be read only once
        return None
    first = next(iter(tree.get("arms") or {}), None)
    if first is None or first in spec.arms:
        return None
    now = spec.baseline
    becomes = f"it is {now} now" if now else "there is none now"
    where = "the spec" if isinstance(path, Mapping) else path
    return f"the baseline changes: {first}, the first arm of {where}, is deleted; {becomes}"


def _neighbour(path: Path) -> str:
    """A hint at a spec with a similar name if there is no such file."""
    if os.path.exists(path):  # also False if a folder above is not readable
        return ""
    names = [found.name for found in path.parent.glob("*.yaml")]
    return f"; {nearest(path.name, names)}" if names else ""
