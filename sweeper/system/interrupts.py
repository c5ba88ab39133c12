"""Orderly ends: the first SIGINT or SIGTERM lets a sweep finish in seconds, the second ends the process at once.

Tune's loop must not be torn apart by an exception, so while it runs the first signal goes to Tune's own handler,
which ends the loop between two events. Elsewhere it is a KeyboardInterrupt, until what remains takes seconds anyhow.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

STATUS = 130
END_S = 27.0  # an interrupted sweep is over within 30 s, of which leaving the process takes some
_OURS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context in which signals are taken. Signals belong to the main thread: elsewhere it does nothing.

    say: told in one line what the first signal does. hint: what the second one leaves on stderr.
    """

    def __init__(self, say: Callable[[str], None], hint: str) -> None:
        self.say, self.hint = say, hint
        self._closing = False
        self._first: float | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in (*_OURS, signal.SIGUSR1)}
            os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # it would hide the first SIGINT from here
            self.install()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def install(self) -> None:
        """Take the signals back: Ray takes SIGTERM when it starts, and Tune leaves its handler of SIGUSR1 behind."""
        if self._before:
            for number in _OURS:
                signal.signal(number, self._take)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    @contextmanager
    def saying(self, say: Callable[[str], None]) -> Iterator[None]:
        """Say lines there meanwhile, such as above a live table."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before

    def close(self) -> None:
        """Nothing of the sweep runs any more: from now on the first signal only shortens what is waited for."""
        self._closing = True
        self.install()

    @property
    def happened(self) -> bool:
        return self._first is not None

    def left(self, usual: float) -> float:
        """Seconds that may still be waited: the usual ones, or after a signal what is left of its thirty."""
        if self._first is None:
            return usual
        return max(1.0, min(usual, self._first + END_S - time.monotonic()))

    def _take(self, number: int, frame: object) -> None:
        if self._first is not None:
            shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the table hides the cursor
            os.write(2, f"{shown}ended at once; {self.hint}\n".encode(errors="backslashreplace"))
            os._exit(STATUS)
        self._first = time.monotonic()
        # From a thread: the main one may hold the console's lock, or be in the middle of a write.
        threading.Thread(
            target=self.say, args=("Stopping cleanly; press Ctrl-C again to quit now",), daemon=True
        ).start()
        tune = signal.getsignal(signal.SIGUSR1)
        if callable(tune):
            tune(number, None)
        elif not self._closing:
            raise KeyboardInterrupt
