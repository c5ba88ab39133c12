"""`on_event` of a spec: a program or an address hears of verdicts, of failed trials and of the end.

Each gets one line of JSON: a program on its stdin, an address as the body of a POST. A thread that follows the journal
calls them one after the other, each for a few seconds at most, and never through a shell. Whatever comes of it, the
sweep goes on; the first failure of each is said in a line. Nothing that is sent holds a secret.

A record may come from a stranger, and so may what it would call: see `named`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sweeper.journal import records, run_folders
from sweeper.journal.events import End, Verdict
from sweeper.journal.journal import Journal
from sweeper.preflight import Request, recorded_in
from sweeper.spec import asides
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, secrecy

Say = Callable[[str], None]
CALL_S, LAST_S, POLL_S = 10.0, 20.0, 0.5  # for a call; for all that is left at the end
NAMED = 20  # failed trials in one message
NOT_CALLED = (
    "on_event of this record is not called, for nobody here wrote it: name it, as in "
    "--set 'on_event=[notify-send sweeper]', or give the spec's own file"
)


def named(spec: SweepSpec, request: Request, run: str | None) -> bool:
    """Whether this user wrote what `on_event` calls: in a file of their own or a `--set`, now or at an earlier start.

    run: the run's id; where the spec is another run's record, that run's counts. What a run folder says counts only if
    this user gave just that to the run before.
    """
    given, record = request.spec, recorded_in(request)  # a mapping is the caller's own, a loaded spec is a record's
    own = given is not None and record is None and not isinstance(given, SweepSpec)
    if own or any(text.partition("=")[0].strip() == "on_event" for text in request.set):
        return True
    with contextlib.suppress(OSError, ValueError):
        if record is not None:
            run = Journal(record / run_folders.JOURNAL, read_only=True, trust=True).run
        noted = _noted(run)
        return noted is not None and noted.read_text("utf-8") == _digest(spec)
    return False


def remember(spec: SweepSpec, run: str | None) -> None:
    """Note on this machine that its user gave these calls to a run, so that a plain `--resume` makes them, too."""
    if noted := _noted(run):
        with contextlib.suppress(OSError):
            files.put(noted, _digest(spec))


def _noted(run: str | None) -> Path | None:
    return files.cache_root() / run_folders.BEGUN / f"{run}.calls" if run else None


def _digest(spec: SweepSpec) -> str:
    return hashlib.sha256(json.dumps(spec.on_event).encode()).hexdigest()


class Notifier:
    """Tells the calls of a spec what happens from here on. Without calls it does nothing."""

    def __init__(self, spec: SweepSpec, run_dir: Path, journal: Journal, say: Say, called: bool = True) -> None:
        self._spec, self._run_dir, self._journal, self._say = spec, run_dir, journal, say
        self._calls = list(spec.on_event) if called else []
        self._cursor, self._failed = len(journal.events), set[int]()
        self._last: dict[str, Any] | None = None
        self._over, self._wake = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="on_event", daemon=True)
        if spec.on_event and not called:
            say(NOT_CALLED)

    def start(self) -> None:
        """Begin to follow the journal. A program that is not there is said at once."""
        for number, call in enumerate(self._calls):
            if problem := _missing(call):
                self._say(f"caution: on_event[{number}]: {problem}")
        if self._calls:
            self._thread.start()

    def close(self, summary: Mapping[str, Any], seconds: float = LAST_S) -> None:
        """Tell of the end, after all else; what is not told in so many seconds is left. summary: as `--json` has it."""
        if not self._thread.is_alive():
            return
        self._last = self._ended(summary)
        self._over.set()
        self._wake.set()
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"on_event: not all was told within {seconds:.0f} s")

    def broke(self, why: str) -> None:
        """Tell that the sweep itself ended by an error, such as a lost cluster, and close."""
        self.close({"state": "failed", "reason": why})

    def _follow(self) -> None:
        while True:
            over = self._over.is_set()  # before the events, so that all before `close` are told
            verdicts, failures = self._new()
            for told in verdicts:
                self._tell(told)
            if failures:
                self._tell(self._failure(failures))
            if over:
                if self._last:
                    self._tell(self._last)
                return
            self._wake.wait(POLL_S)
            self._wake.clear()

    def _new(self) -> tuple[list[dict[str, Any]], list[End]]:
        events = self._journal.events[self._cursor :]
        self._cursor += len(events)
        verdicts = [self._verdict(event) for event in events if isinstance(event, Verdict)]
        return verdicts, [event for event in events if isinstance(event, End) and event.state == "failed"]

    def _verdict(self, event: Verdict) -> dict[str, Any]:
        said = event.data
        text = "; ".join(f"{arm}: {words}" for arm, words in said["told"].items())
        known = {key: said[key] for key in ("look", "metric", "baseline", "told", "fresh")}
        champion = said["champion"]
        return self._message("verdict", text, known | {"confirmed": champion})

    def _failure(self, ends: list[End]) -> dict[str, Any]:
        listed = [
            {
                "trial": end.trial,
                "what": records.describe(self._journal.trials[end.trial].ask),
                "reason": records.ended(self._journal.trials[end.trial]),
            }
            for end in ends[:NAMED]
        ]
        first = f"{listed[0]['trial']} failed: {listed[0]['reason'] or 'no reason is known'}"
        more = f", and {len(ends) - 1} more" if len(ends) > 1 else ""
        return self._message("failure", first + more, {"failed": len(ends), "trials": listed})

    def _ended(self, summary: Mapping[str, Any]) -> dict[str, Any]:
        state, best = str(summary["state"]), summary.get("best")
        counts = dict(Counter(records.state(one) for one in self._journal.trials.values()))
        verdict = summary.get("verdict")
        found = {"trial": best["id"], "arm": best["arm"], "score": best["score"]} if best else None
        rest = {
            "state": state,
            "trials": counts,
            "objective": self._spec.objective,
            "best": found,
            "told": verdict["told"] if verdict else None,
            "caution": summary.get("caution"),
            "reason": summary.get("reason"),
            "stopped": summary.get("stopped"),
            "report": summary.get("report"),
            "resume": run_folders.resume(self._run_dir) if state == "interrupted" else None,
        }
        text = f"{state}, stopped by {rest['stopped']}" if rest["stopped"] else state
        text += f": {', '.join(f'{count} {name}' for name, count in counts.items()) or 'no trials'}"
        text += f"; best of the search {found['trial']}, exploration" if found else ""
        return self._message("end", text, rest)

    def _message(self, event: str, text: str, more: Mapping[str, Any]) -> dict[str, Any]:
        """`text` is what chat programs show of a message."""
        head = {"event": event, "text": f"{self._spec.name}: {text}", "name": self._spec.name, "time": time.time()}
        head |= {"question": self._spec.question, "tags": dict(self._spec.tags), "run_dir": str(self._run_dir)}
        return _redacted({**head, **more})

    def _tell(self, message: Mapping[str, Any]) -> None:
        line = json.dumps(message) + "\n"
        for number, call in enumerate(self._calls):
            problem = None
            try:
                _one(call, line.encode())
            except Exception as error:  # whatever a program or a server does, the sweep goes on
                problem = _described(error)
            if problem and number not in self._failed:
                self._failed.add(number)
                self._say(f"on_event[{number}] did not hear of the {message['event']}: {problem}; the sweep goes on")


def _missing(call: asides.Call) -> str | None:
    """Why a call cannot be made, as far as that is known beforehand."""
    try:
        found = _resolved(call)
    except ValueError as error:
        return str(error)
    if isinstance(found, list) and shutil.which(found[0]) is None:
        return f"there is no program {found[0]!r:.80} here"
    return None


def _resolved(call: asides.Call) -> str | list[str]:
    """An address, or a command's arguments. Raises ValueError, in one line, for a variable that is not set."""
    if not isinstance(call, str):
        return list(call)
    variable = asides.reference(call)
    if variable is None:
        return asides.read(call)
    if not (given := os.environ.get(variable)):
        raise ValueError(f"the environment variable {variable} is not set")
    return asides.read(given)


def _one(call: asides.Call, body: bytes) -> None:
    """Make a call. Raises ValueError, in one line, for one that fails.

    An address is never in that line, for its path may be what keeps strangers out.
    """
    found = _resolved(call)
    if not isinstance(found, str):
        return _run(found, body)
    host = urlsplit(found).hostname
    try:
        _post(found, body)
    except urllib.error.HTTPError as error:
        raise ValueError(f"{host} answered {error.code}") from None
    except OSError as error:
        reason = getattr(error, "reason", error)
        why = (reason.strerror if isinstance(reason, OSError) else None) or type(reason).__name__
        raise ValueError(f"{host}: {why}") from None
    except Exception as error:  # of http.client
        raise ValueError(f"{host}: {type(error).__name__}") from None


def _run(arguments: list[str], body: bytes) -> None:
    """Run a program with the message on its stdin; it and what it started end with the call's time."""
    hidden = secrecy.environment()
    own = {name: value for name, value in os.environ.items() if name not in hidden and name != "RAY_AUTH_TOKEN"}
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=own,
        start_new_session=True,  # so that Ctrl-C does not end it, and its time ends all of it
    )
    try:
        process.communicate(body, CALL_S)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    if process.returncode:
        raise ValueError(f"{_short(arguments)} ended with status {process.returncode}")


class _Straight(urllib.request.HTTPRedirectHandler):
    """A message goes to the address that was written, and to no other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _post(address: str, body: bytes) -> None:
    headers = {"Content-Type": "application/json; charset=utf-8", "User-Agent": "sweeper"}
    request = urllib.request.Request(address, body, headers, method="POST")
    with urllib.request.build_opener(_Straight).open(request, timeout=CALL_S):
        pass


def _described(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{_short(error.cmd)} took longer than {CALL_S:.0f} s and was ended"
    what = files.describe(error) if isinstance(error, OSError) else None
    return secrecy.redact(files.one_line(what or str(error) or type(error).__name__))[:200]


def _short(arguments: Any) -> str:
    return f"{secrecy.command(list(arguments))[:80]!r}"


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return secrecy.redact(value)
    if isinstance(value, Mapping):
        return {str(key): _redacted(below) for key, below in value.items()}
    return [_redacted(one) for one in value] if isinstance(value, list | tuple) else value
