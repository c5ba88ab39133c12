"""Whether the trainable accepts everything that a spec may ask it to run, found out before anything starts.

Tried against the trainable's own Config: the base settings, every arm, every domain's corners one at a time, and all
low and all high corners together.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from sweeper import ablation, grid, precedence, secrecy, stopping
from sweeper.refusal import Refusal, refusal, setting_paths
from sweeper.trainable import Settings, Trainable
from sweeper.wording import key_path, nearest, nearest_path, shown

if TYPE_CHECKING:
    from sweeper.spec import SweepSpec


def completed(spec: SweepSpec, outside: Path | None = None) -> SweepSpec:
    """The spec with settings and arms complete. Raises Refusal for what the trainable would not run.

    outside: of a run's folder, in which the trainable must not lie.
    """
    try:
        trainable = Trainable.load(spec.trainable, outside)
    except ValueError as error:
        raise Refusal(("trainable",), str(error)) from None
    spec = _without_secrets(spec)
    legal = set(setting_paths(config_model(spec)))
    for where, path in _paths(spec):
        if path not in legal:
            raise Refusal((*where, path), f"the trainable has no such setting; {nearest_path(path, sorted(legal))}")
    plain = settings(spec, {})
    there = {*dir(type(plain)), *type(plain).model_fields}  # not asked for: some open files to answer
    lacking = [name for name in vars(Settings) if not name.startswith("_") and name not in there]
    if lacking:
        raise Refusal(("trainable",), f"the Config of {spec.trainable!r} lacks {', '.join(lacking)}")
    base = dumped(spec, {})
    if spec.objective in trainable.at_end():
        reason = f"{spec.objective!r} is in a run's last row alone; it can stand behind another, as in [val/loss, …]"
        raise Refusal(("objective",), reason)
    if spec.evaluate and trainable.check_tasks is None:
        raise Refusal(("evaluate",), f"{spec.trainable} has no check_tasks, so it scores no tasks; leave evaluate out")
    arms = {name: _arm(spec, name, base) for name in spec.arms}
    if spec.search.method == "grid":
        spec = grid.expanded(spec.model_copy(update={"arms": arms}), lambda params: _settled(spec, params))
        arms = spec.arms
    if spec.ablation:
        spec = ablation.expanded(spec.model_copy(update={"arms": arms}), trainable.expand, base)
        arms = spec.arms
    probed: list[Any] = []
    for where, params in probes(spec, arms):
        try:
            probed.append(settings(spec, params))
        except Refusal as error:
            values = ", ".join(f"{path} = {shown(value)}" for path, value in params.items())
            said = error.location == ("config",) or key_path(error.location).endswith(tuple(params))
            raise Refusal(where, f"{values} is refused: {error.reason if said else error}") from None
    try:
        rule = stopping.placed(spec.scheduler, {one.steps for one in probed}, max(one.warmup_steps for one in probed))
    except Refusal as error:
        raise Refusal(("scheduler", *error.location), error.reason) from None
    if spec.search.method != "arms":
        _refuse_twins(list(arms), probed)
    trials = spec.search.model_copy(update={"trials": spec.search.trials or spec.total_trials or None})
    data = base.pop("data", {})
    done = spec.model_copy(update={"config": base, "data": data, "arms": arms, "search": trials, "scheduler": rule})
    if done.arms and not (done.total_trials or done.confirm_trials):
        reason = "nothing would run, for no arm but the baseline keeps to its budget; budget: free compares them all"
        raise Refusal(("arms",), reason)
    return done


def config_model(spec: SweepSpec) -> type[BaseModel]:
    """The trainable's Config. Raises Refusal."""
    if spec.known is not None:
        raise Refusal(("trainable",), f"{spec.trainable} is not imported to read a record")
    try:
        return Trainable.load(spec.trainable).config
    except ValueError as error:
        raise Refusal(("trainable",), str(error)) from None


def settings(spec: SweepSpec, params: Mapping[str, Any]) -> BaseModel:
    """The trainable's Config: config < data < params (by path), secrets from the environment. Raises Refusal."""
    model = config_model(spec)
    kinds, tree = secrecy.declared(model), _tree(spec, params)
    try:
        tree = secrecy.given(tree, kinds)
    except ValueError as error:
        raise Refusal(("config",), str(error)) from None
    try:
        # Through JSON: there, strictness lets a list be a tuple, but no text be a number.
        return model.model_validate_json(json.dumps(tree), strict=True)
    except ValidationError as error:
        found = refusal(error, model)
        secret = secrecy.is_secret(".".join(map(str, found.location)), kinds) and isinstance(_input(error), str)
        reason = "is refused; being a secret, it is not shown" if secret else secrecy.redact(found.reason)
        below_data = found.location[:1] == ("data",) and precedence.touches(spec.data, found.location[1:2])
        raise Refusal(found.location if below_data else ("config", *found.location), reason) from None
    except SystemExit as error:  # an end without a word, with status 0 at that
        raise Refusal(("trainable",), f"the Config of {spec.trainable} raised SystemExit: {error}") from None


def _input(error: ValidationError) -> Any:
    """What was refused first."""
    return error.errors(include_url=False)[0]["input"]


def dumped(spec: SweepSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    """As `settings`, but the whole as a plain tree, with references in the place of secrets."""
    kinds = secrecy.declared(config_model(spec))
    return secrecy.returned(settings(spec, params).model_dump(mode="json"), _tree(spec, params), kinds)


def _without_secrets(spec: SweepSpec) -> SweepSpec:
    """The spec with its secrets in the environment, and references to them in their place."""
    kinds = secrecy.declared(config_model(spec))
    for path, domain in spec.space.items():
        if secrecy.is_secret(path, kinds) and any(isinstance(corner, str) for corner in domain.corners()):
            raise Refusal(("space", path), "is a secret, which no search varies; give it in config")
    try:
        config = secrecy.taken(spec.config, "config", kinds)
        data = secrecy.taken({"data": spec.data}, "", kinds)["data"]
        arms = {name: secrecy.taken(arm, f"arms.{name}", kinds) for name, arm in spec.arms.items()}
    except ValueError as error:
        raise Refusal((), str(error)) from None
    return spec.model_copy(update={"config": config, "data": data, "arms": arms})


def _tree(spec: SweepSpec, params: Mapping[str, Any]) -> dict[str, Any]:
    model, tree = config_model(spec), copy.deepcopy(spec.config)
    if spec.data:
        if "data" not in model.model_fields:
            raise Refusal(("data",), f"{spec.trainable} has no data settings; leave data out")
        below = tree.get("data")
        tree["data"] = precedence.merge(below if isinstance(below, Mapping) else {}, spec.data, ("data",))
    for path, value in Trainable.load(spec.trainable).expand(params).items():
        _place(tree, path.split("."), value)
    return tree


def _settled(spec: SweepSpec, params: Mapping[str, Any]) -> BaseModel | None:
    """The trainable's Config, or None where it refuses."""
    try:
        return settings(spec, params)
    except Refusal:
        return None


def _place(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    for key in keys[:-1]:
        below = tree.get(key)
        tree[key] = below if isinstance(below, dict) else {}
        tree = tree[key]
    tree[keys[-1]] = value


def _refuse_twins(names: list[str], settled: list[Any]) -> None:
    """A sampler's arms are its first points, and no point is trained twice. settled: settings, those of arms first."""
    seen: dict[str, str] = {}
    for name, one in zip(names, settled, strict=False):
        other = seen.setdefault(one.model_dump_json(), name)
        if other != name:
            raise Refusal(("arms", name), f"is the same configuration as {other}; leave one of them out")


def _paths(spec: SweepSpec) -> Iterator[tuple[tuple[str, ...], str]]:
    yield from ((("space",), path) for path in spec.space)
    for name, arm in spec.arms.items():
        yield from ((("arms", name), path) for path in arm)


def _arm(spec: SweepSpec, name: str, base: Mapping[str, Any]) -> dict[str, Any]:
    """An arm's settings. A sampler's has every path of the space, from the base settings where it names none."""
    given = spec.arms[name]
    sampled = spec.search.method not in ("arms", "grid")
    outside = {path: value for path, value in given.items() if path not in spec.space}
    if sampled and outside:
        path = next(iter(outside))
        reason = f"is not in the space, which {spec.search.method} cannot leave; {nearest(path, spec.space)}"
        raise Refusal(("arms", name, path), reason)
    inside = {path: given.get(path, ablation.at(base, path)) for path in spec.space if sampled or path in given}
    for path, value in inside.items():
        try:
            spec.space[path].invert(path, value)
        except ValueError as error:
            inherited = "" if path in given else "the arm leaves it to config, whose value is not in the space: "
            raise Refusal(("arms", name, path), f"{inherited}{error}") from None
    return inside | outside


def probes(spec: SweepSpec, arms: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Where in the spec, and which settings: every arm, every corner, and all low and all high corners together."""
    yield from ((("arms", name), arm) for name, arm in arms.items())
    for path, domain in spec.space.items():
        yield from ((("space", path), {path: corner}) for corner in domain.corners())
    for end in (0, -1):
        yield ("space",), {path: domain.corners()[end] for path, domain in spec.space.items()}
