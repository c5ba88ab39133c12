"""What a spec says beside its question: notes and tags, and what is called when something happened. Not in the hash."""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from sweeper.system import secrecy

LONGEST, MOST = 5000, 50  # characters of notes and of a tag's value, which is what MLflow takes; tags and calls
KEYS = ("notes", "tags", "on_event")
SECRET = "holds a secret, which is stored nowhere: write env:NAME, and set the variable NAME to all of it"
_REFERENCE = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_GIVEN = re.compile(r"""(\bon_event\\*["']?\s{0,9}[=:]).*""", re.DOTALL)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")

Call = str | tuple[str, ...]


def _no_secret(text: str) -> str:
    if secrecy.redact(text) != text:
        raise ValueError("holds what looks like a secret, and it would be stored as it is: take it out")
    return text


def _tag(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _./-]{0,99}", name) or ".." in name:
        raise ValueError(f"invalid tag {name!r:.60}: use 1 to 100 letters, digits, spaces, _ . / and -")
    if posixpath.normpath(name) != name:
        raise ValueError(f"invalid tag {name!r:.60}: MLflow takes no empty part and no . between slashes")
    if name.startswith(("mlflow.", "sweeper.")):
        raise ValueError(f"the tag {name!r:.60} is {name.partition('.')[0]}'s own: choose another name")
    return name


def _call(given: Call) -> Call:
    parts = [given] if isinstance(given, str) else list(given)
    if not parts or not parts[0].strip():
        raise ValueError("is empty: write a command, or an address")
    if any("\0" in part for part in parts):
        raise ValueError("holds a character that no command can have")
    if isinstance(given, str) and _REFERENCE.fullmatch(given):
        return given
    if secrecy.command(parts) != shlex.join(parts) or any(secrecy.redact(part) != part for part in parts):
        raise ValueError(SECRET)
    if isinstance(given, str):
        read(given)
    return given


def read(text: str) -> str | list[str]:
    """An address as it is, a command as its arguments. Raises ValueError, in one line, for what is neither."""
    text = text.strip()
    if scheme := _ADDRESS.match(text):
        if scheme[1].lower() not in ("http", "https"):
            raise ValueError(f"{scheme[1]}:// is not called: use http:// or https://, or a command")
        try:
            named = urlsplit(text).hostname
        except ValueError:
            named = None
        if not named or not text.isprintable() or " " in text:
            raise ValueError("is no address: write https://HOST/PATH")
        return text
    try:
        found = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"is no command line: {error}") from None
    if not found:
        raise ValueError("is empty: write a command, or an address")
    return found


def reference(call: Call) -> str | None:
    """The environment variable that an entry names; None of one that is written out."""
    return call.removeprefix("env:") if isinstance(call, str) and _REFERENCE.fullmatch(call) else None


Text = Annotated[str, Field(max_length=LONGEST), AfterValidator(_no_secret)]
Notes = Text
Tags = Annotated[dict[Annotated[str, AfterValidator(_tag)], Text], Field(max_length=MOST)]
Calls = Annotated[tuple[Annotated[Call, AfterValidator(_call)], ...], Field(max_length=MOST)]


def veiled(arguments: Sequence[str]) -> list[str]:
    """A command's arguments without what `on_event` is set to, by `--set` or in the code of a `python -c`.

    An address may be all that keeps strangers out, and nothing about it looks like a secret.
    """
    return [_GIVEN.sub(rf"\1{secrecy.HIDDEN}", argument) for argument in arguments]


def empty(given: Sequence[Any] | dict[str, Any]) -> bool:
    """For keys that are left out where nothing is written."""
    return not given
