"""Derive the arms of an ablation from two: the baseline and the full method. The result is method arms.

A component is a setting in which the two differ. Presets count as the settings that they stand for.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sweeper.spec.errors import ConfigError

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

Params = dict[str, Any]
MOST = 8  # components of a factorial


def expanded(spec: SweepSpec, expand: Callable[[Mapping[str, Any]], Params], base: Mapping[str, Any]) -> SweepSpec:
    """The spec with the arms of its ablation; all other arms are compared with the first one.

    leave_one_out: the full method, the full method without each component, the baseline.
    add_one: the baseline, the baseline with each component, the full method.
    grid: all combinations, the baseline first.

    Args:
        spec: with the two arms.
        expand: replaces presets by the settings that they stand for.
        base: the settings without an arm.

    Raises ConfigError.
    """
    if len(spec.arms) != 2:
        raise ConfigError(
            ("ablation",), f"takes two arms, the baseline and the full method; there are {len(spec.arms)}"
        )
    (plain, low), (full, high) = ((name, expand(arm)) for name, arm in spec.arms.items())
    off, on = {}, {}
    for path in [*high, *(path for path in low if path not in high)]:
        without, whole = low.get(path, at(base, path)), high.get(path, at(base, path))
        if without != whole:
            off[path], on[path] = without, whole
    if not on:
        raise ConfigError(("ablation",), f"the arms {plain!r} and {full!r} are the same configuration")
    names = _names(list(on))
    match spec.ablation:
        case "leave_one_out":
            arms = {full: on, **{f"without-{names[path]}": {**on, path: off[path]} for path in on}, plain: off}
        case "add_one":
            arms = {plain: off, **{f"with-{names[path]}": {**off, path: on[path]} for path in on}, full: on}
        case _:
            arms = _factorial(plain, full, off, on, names)
    if len(on) == 1:
        arms = {name: arm for name, arm in arms.items() if name in (plain, full)}
    return spec.model_copy(update={"arms": arms, "ablation": None})


def _factorial(plain: str, full: str, off: Params, on: Params, names: Mapping[str, str]) -> dict[str, Params]:
    if len(on) > MOST:
        raise ConfigError(
            ("ablation",), f"{len(on)} components make {2 ** len(on)} arms; use at most {MOST} components"
        )
    arms: dict[str, Params] = {}
    for chosen in itertools.product((False, True), repeat=len(on)):
        present = [path for path, there in zip(on, chosen, strict=True) if there]
        name = plain if not present else full if len(present) == len(on) else "-".join(names[path] for path in present)
        arms[name[:64]] = {path: (on if path in present else off)[path] for path in on}
    return arms


def _names(paths: list[str]) -> dict[str, str]:
    """The last word of each path, or the whole path if two last words are equal; other characters become `_`."""
    leaves = [path.rpartition(".")[2] for path in paths]
    words = leaves if len(set(leaves)) == len(leaves) else paths
    return {path: re.sub(r"[^A-Za-z0-9_-]+", "_", word) for path, word in zip(paths, words, strict=True)}


def at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None if there is none."""
    value: Any = tree
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
