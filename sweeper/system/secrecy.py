"""Secrets: removed from everything that is written or printed, and settings that are secrets.

A setting is a secret if its name says so, as `api_key` does, or if the trainable's Config declares it as pydantic's
`SecretStr`. Its text exists only in the environment of the driver and of the trials: specs, records, hashes and MLflow
hold the reference `env:NAME` instead, which people may also write themselves.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, SecretStr

HIDDEN, PREFIX = "***", "SWEEPER_SECRET_"
_SHORTEST = 4  # characters of a secret to search for in texts: a shorter one occurs by chance

# A tokenizer's `mask_token` and the like are no secrets.
_OTHER_TOKENS = "".join(f"(?<!{kind}[_-])" for kind in ("mask", "pad", "unk", "cls", "sep", "bos", "eos"))
_NAME = (
    r"(?:pass(?:words?|wd|phrase)|(?<![a-z])pwd|bearer|secrets?|credentials?|signature|authorization|(?<![a-z])sig"
    rf"|(?:api|access|private|account|secret|signing)[_-]?key(?:[_-]?id)?|{_OTHER_TOKENS}token)"
)
_ENDS = re.compile(rf"{_NAME}$", re.IGNORECASE)
_OPTION = re.compile(rf"--[\w.-]*{_NAME}", re.IGNORECASE)
_QUOTED = r""""(?:[^"\\\n]|\\.)*"|'[^'\n]*'|(?P<mark>\\+["'])[^\n]*?(?P=mark)"""
_TO_NEXT = r"""[ \t]{0,9}(?:,\s{0,9}["']?[\w.-]{1,80}["']?[ \t]?[:=]|[}\])"']{0,9}[ \t]{0,9}$)"""
_SAID = re.compile(
    rf"""(?P<key>{_NAME}\\*["']?[ \t]*)(?:(?P<equals>=[ \t]*)(?P<value>{_QUOTED}|[^\s&'"]+)"""
    rf"""|(?P<colon>:[ \t]*)(?P<text>{_QUOTED.replace("mark", "sign")}|[^\s"'][^\n]*?(?={_TO_NEXT})))"""
    rf"""|(?P<option>(?<![\w-])--[\w.-]{{0,60}}{_NAME}\s+)(?P<next>{_QUOTED.replace("mark", "seal")}|[^\s&'"]+)""",
    re.IGNORECASE | re.MULTILINE,
)
_SHARE = re.compile(r"""\\*["']?[\d.]+(?:e[+-]?\d+)?(?![\w-])""", re.IGNORECASE)
_NO_TEXT = re.compile(r"""\\*["']?(?:null|true|false|none|~|env:\w+)?\\*["']?""", re.IGNORECASE)
_REFERENCE = re.compile(r"env:([A-Za-z_][A-Za-z0-9_]*)")

# Between a login's colon and its @ anything is allowed, as SQLAlchemy accepts a password with a slash; also quotes,
# except those around the whole URL. Every repetition is bounded, so that hostile text is matched quickly.
_SCHEME = r"(\b[a-z][a-z0-9+.-]{0,30}://)"
_LOGINS = [
    re.compile(_SCHEME + r"""[^/:\s'"@]{0,999}:(?:"[^"\n]{0,999}"|'[^'\n]{0,999}')@""", re.IGNORECASE),
    re.compile(rf"""(?<!["']){_SCHEME}[^/:\s'"]{{0,999}}:\S{{0,999}}@""", re.IGNORECASE),
    re.compile(_SCHEME + r"""(?:[^/:\s'"]{0,999}:[^\s'"]{0,999}|[^/\s'"]{0,999})@""", re.IGNORECASE),
]

_ALL: Mapping[str, bool] = MappingProxyType({})  # only names decide
_known: dict[str, str] = {}  # variables that hold secrets: name -> the setting


def redact(text: str) -> str:
    """The text without secrets: logins in URLs, and values of passwords, keys and tokens.

    In any of the forms `a=b`, `a: b`, `"a": "b"`, `--a b`. A number after `token` stays: that is a share of the mask.
    Settings that are secrets are hidden wherever they occur.
    """
    for value in sorted(environment().values(), key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN).replace(repr(value)[1:-1], HIDDEN)
    for login in _LOGINS:
        text = login.sub(rf"\1{HIDDEN}@", text)
    return _SAID.sub(_hidden, text)


def command(arguments: Sequence[str]) -> str:
    """A command line for a shell, without secrets: everything after the `=` of a secret option is hidden."""
    shown: list[str] = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if shown and _OPTION.fullmatch(shown[-1]) and not _plain(shown[-1], argument):
            shown.append(HIDDEN)
        elif equals and _ENDS.search(name) and not _plain(name, value):
            shown.append(f"{name}={HIDDEN}")
        else:
            shown.append(redact(argument))
    return shlex.join(shown)


def veiled(path: str, value: Any) -> Any:
    """A setting's value with secrets hidden, for a record that somebody may have written with secrets in it."""
    if isinstance(value, Mapping):
        return {key: veiled(str(key), below) for key, below in value.items()}
    return HIDDEN if _secret(path, value) and not _REFERENCE.fullmatch(value) else value


@lru_cache
def declared(model: type[BaseModel]) -> Mapping[str, bool]:
    """Dotted path -> whether the setting of a Config is a secret: a `SecretStr`, or text with a secret's name."""
    return dict(_declared(model))


def taken(tree: Mapping[str, Any], where: str, kinds: Mapping[str, bool] = _ALL, below: str = "") -> dict[str, Any]:
    """Settings with secrets moved to the environment and replaced by references.

    Args:
        tree: the settings.
        where: their section of the spec, for the variables' names.
        kinds: from `declared`.
        below: the path of `tree`, with a dot at its end.

    Raises ValueError in one line.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{below}{key}"
        if isinstance(value, Mapping):
            value = taken(value, where, kinds, f"{path}.")
        elif _secret(path, value, kinds) and not _REFERENCE.fullmatch(value):
            value = f"env:{_put(f'{where}.{path}', value)}"
        found[key] = value
    return found


def given(tree: Mapping[str, Any], kinds: Mapping[str, bool] = _ALL, below: str = "") -> dict[str, Any]:
    """Settings with the secrets that `taken` moved to the environment. Raises ValueError if one is not there.

    Only secrets may be references: another setting cannot read the environment.
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        path = f"{below}{key}"
        if isinstance(value, Mapping):
            value = given(value, kinds, f"{path}.")
        elif _secret(path, value, kinds) and (reference := _REFERENCE.fullmatch(value)):
            name = reference[1]
            if name not in os.environ:
                raise ValueError(f"{path} is a secret and not stored: set the environment variable {name} to it")
            _known.setdefault(name, path)
            value = os.environ[name]
        found[key] = value
    return found


def returned(
    settings: Mapping[str, Any], tree: Mapping[str, Any], kinds: Mapping[str, bool] = _ALL, below: str = ""
) -> dict[str, Any]:
    """Settings read from `tree`, with its references restored. Secrets that only the code sets are left out."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        path, own = f"{below}{key}", tree.get(key)
        if isinstance(value, Mapping):
            found[key] = returned(value, own if isinstance(own, Mapping) else {}, kinds, f"{path}.")
        elif not _secret(path, value, kinds):
            found[key] = value
        elif isinstance(own, str):
            found[key] = own
    return found


def environment() -> dict[str, str]:
    """The variables that hold this process's secrets, for processes that do not inherit them."""
    names = {*_known, *(name for name in os.environ if name.startswith(PREFIX))}
    return {name: os.environ[name] for name in sorted(names) if name in os.environ}


def is_secret(path: str, kinds: Mapping[str, bool] = _ALL) -> bool:
    """Whether a setting is a secret, by its declaration or else by its name."""
    return kinds.get(path, _ENDS.search(path.rpartition(".")[2]) is not None)


def _secret(path: str, value: Any, kinds: Mapping[str, bool] = _ALL) -> bool:
    return isinstance(value, str) and value != "" and is_secret(path, kinds)


def _put(path: str, value: str) -> str:
    """Put a secret into the environment. Returns the variable's name."""
    name = PREFIX + re.sub(r"\W", "_", path).upper()
    if _known.setdefault(name, path) != path:
        raise ValueError(f"{path} and {_known[name]} would both be kept as {name}: write env:NAME for one of them")
    os.environ[name] = value
    return name


def _declared(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, bool]]:
    for own, field in model.model_fields.items():
        name, kinds = f"{prefix}{field.alias or own}", [*_kinds(field.annotation)]
        yield name, SecretStr in kinds or (is_secret(name) and bool({str, Any, object} & {*kinds}))
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel) and kind is not model:
                yield from _declared(kind, f"{name}.")


def _kinds(annotation: Any) -> Iterator[Any]:
    """The types in an annotation such as `SecretStr | None`; for a literal, those of its values."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        yield from map(type, parts)
    elif not parts:
        yield annotation
    for part in parts:
        yield from _kinds(part)


def _hidden(found: re.Match[str]) -> str:
    key = found["option"] or found["key"] + (found["equals"] or found["colon"])
    value = found["next"] or found["value"] or found["text"]
    if _plain(found["option"] or found["key"], value):
        return found[0]
    quote = re.match(r"\\*[\"']", value)
    return f"{key}{quote[0]}{HIDDEN}{quote[0]}" if quote else key + HIDDEN


def _plain(name: str, value: str) -> bool:
    """Whether a value need not be hidden: a number after `token`, an empty value, or a reference."""
    token = name.rstrip(" \t\n\"'\\").lower().endswith("token")
    return _NO_TEXT.fullmatch(value) is not None or (token and _SHARE.match(value) is not None)
