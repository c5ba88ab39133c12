"""What a stranger must not read, taken out of all that is written or said."""

from __future__ import annotations

import re


def redact(text: str) -> str:
    """The text without what a stranger must not read: logins in URLs, and values of passwords, keys and tokens.

    A number after `token=` stays: that is a share of the mask.
    """
    # After a colon, for SQLAlchemy takes a password with a slash as it is.
    login = r"(?:[^/:\s'\"]*:[^\s'\"]*|[^/\s'\"]*)@"
    text = re.sub(rf"(\b[a-z][a-z0-9+.-]*://){login}", r"\1***@", text, flags=re.IGNORECASE)
    secret = r"(?:password|passwd|secret|credentials?|api[_-]?key|access[_-]?key|token(?![=\s]+[\d.]+(?![\w-])))"
    return re.sub(rf"(\b[\w.-]*{secret}=|--[\w.-]*{secret}\s+)[^\s&'\"]+", r"\1***", text, flags=re.IGNORECASE)
