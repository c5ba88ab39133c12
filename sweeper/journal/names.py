"""Names that people can read, made from what a configuration sets: `82/6/11 ema 0.51` rather than `t0007` alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from sweeper.journal.events import Ask
from sweeper.journal.records import is_shares
from sweeper.spec.hints import shown
from sweeper.spec.space import Simplex
from sweeper.system.files import one_line
from sweeper.system.markdown import ABSENT
from sweeper.system.secrecy import veiled

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

DIGITS = 2  # significant ones of a number, to begin with; shares begin with whole percentages
MOST_DIGITS = 9  # shares have no more decimals than that
LONGEST, LONGEST_TEXT = 60, 20  # characters of a name, and of a text in it


def readable(spec: SweepSpec, params: Mapping[str, Any], digits: int = DIGITS) -> str:
    """Settings by path as a name: shares in the spec's order, then each other setting by a short word and its value.

    digits: significant ones of a number. Secrets are veiled. `-` if nothing is set. The same for two configurations
    that differ by less: `Names` tells all of a sweep apart.
    """
    order = [path for path in spec.space if path in params]
    paths = [*order, *(path for path in params if path not in spec.space)]
    words = _words([*spec.space, *(path for path in paths if path not in spec.space)])
    mixtures = [path for path in paths if is_shares(params[path])]
    parts = []
    for path in sorted(paths, key=lambda path: path not in mixtures):
        value = veiled(path, params[path])
        if path in mixtures and isinstance(value, Mapping):
            domain = spec.space.get(path)
            ordered = domain.parts if isinstance(domain, Simplex) and {*domain.parts} == {*value} else tuple(value)
            shares = "/".join(_percent(value[part], digits - DIGITS) for part in ordered)
            parts.append(shares if len(mixtures) == 1 else f"{words[path]} {shares}")
        else:
            parts.append(f"{words[path]} {_value(value, digits)}")
    return one_line(" ".join(parts)) or ABSENT


class Names:
    """The names of a sweep's configurations, no two of which share one.

    An arm has its own name. What a search proposed is named after its settings, with as few digits as tell it from the
    spec's arms and from what was asked for before: so a name never changes while a sweep goes on. All runs of a
    configuration have the same. A trial whose settings make no short name keeps its id. Give trials in the order of
    the journal.
    """

    def __init__(self, spec: SweepSpec, asks: Iterable[Ask] = ()) -> None:
        self._spec = spec
        self._taken = {*spec.arms, *(readable(spec, params) for params in spec.arms.values())}
        self._by_settings = {_key(params): name for name, params in spec.arms.items()}
        self._by_label: dict[str, str] = {}
        for ask in asks:
            self.of(ask)

    def of(self, ask: Ask) -> str:
        """A trial's name."""
        if ask.arm is not None and ask.arm in self._spec.arms:
            return ask.arm
        key = _key(ask.params)
        if key not in self._by_settings:
            self._by_settings[key] = self._new(ask)
        found = self._by_settings[key]
        self._by_label.setdefault(ask.trial, found)
        if ask.arm is not None:  # a candidate of the confirmation, called after its trial
            self._by_label.setdefault(ask.arm, found)
        return found

    def label(self, arm: str) -> str:
        """What a verdict calls an arm, with its name beside it: `t0007 (82/6/11 ema 0.51)`."""
        name = self._by_label.get(arm, arm)
        return arm if name == arm else f"{arm} ({name})"

    def _new(self, ask: Ask) -> str:
        for digits in range(DIGITS, MOST_DIGITS + 1):
            name = readable(self._spec, ask.params, digits)
            if len(name) > LONGEST or name == ABSENT:
                break
            if name not in self._taken:
                self._taken.add(name)
                return name
        return ask.trial


def _key(params: Mapping[str, Any]) -> str:
    return json.dumps(params, sort_keys=True)


def _words(paths: Sequence[str]) -> dict[str, str]:
    """Path -> the shortest of its first word, its last key and itself that no other path has."""
    kinds = [
        {path: path.rpartition(".")[2].split("_")[0] or path for path in paths},
        {path: path.rpartition(".")[2] for path in paths},
        {path: path for path in paths},
    ]
    words = {}
    for path in paths:
        alone = (kind[path] for kind in kinds if list(kind.values()).count(kind[path]) == 1)
        words[path] = _cut(next(alone, path))
    return words


def _percent(share: float, decimals: int) -> str:
    text = f"{100 * share:.{max(0, decimals)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _value(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    return _cut(value if isinstance(value, str) else shown(value))


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LONGEST_TEXT else f"{line[: LONGEST_TEXT - 1]}…"
