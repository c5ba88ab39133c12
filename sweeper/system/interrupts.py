"""Clean stops: the first SIGINT or SIGTERM lets a sweep finish in seconds, the second ends the process at once.

An exception must not interrupt Tune's loop, so while it runs the first signal goes to Tune's own handler, which ends
the loop between two events. Elsewhere it is a KeyboardInterrupt, until the rest takes only seconds anyway.
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
END_S = 27.0  # an interrupted sweep ends within 30 s, including the exit of the process
_OURS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """A context that handles signals. Signals belong to the main thread: in any other thread it does nothing.

    say: gets one line about what the first signal does. hint: what the second one prints on stderr. ends: whether
    the second one ends the process, or else is a KeyboardInterrupt, as somebody's script or notebook goes on.
    """

    def __init__(self, say: Callable[[str], None], hint: str, ends: bool = True) -> None:
        self.say, self.hint, self.ends = say, hint, ends
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
        """Install the handlers again: Ray replaces SIGTERM's when it starts, and Tune leaves one for SIGUSR1 behind."""
        if self._before:
            for number in _OURS:
                signal.signal(number, self._take)
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)

    @contextmanager
    def saying(self, say: Callable[[str], None]) -> Iterator[None]:
        """Say lines with `say` during the block, such as above a live table."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before

    def close(self) -> None:
        """The sweep has ended: from now on the first signal only shortens the waits."""
        self._closing = True
        self.install()

    @property
    def happened(self) -> bool:
        """Whether there has been a signal."""
        return self._first is not None

    def left(self, usual: float) -> float:
        """Seconds that a wait may take: `usual`, or after a signal at most what is left until the end is due."""
        if self._first is None:
            return usual
        return max(1.0, min(usual, self._first + END_S - time.monotonic()))

    def _take(self, number: int, frame: object) -> None:
        if self._first is not None and not self.ends:
            raise KeyboardInterrupt
        if self._first is not None:
            shown = "\x1b[?25h\n" if sys.stderr.isatty() else ""  # the live table hides the cursor
            os.write(2, f"{shown}ended at once; {self.hint}\n".encode(errors="backslashreplace"))
            os._exit(STATUS)
        self._first = time.monotonic()
        # In a thread: the main one may hold the console's lock, or be in the middle of a write.
        threading.Thread(
            target=self.say, args=("Stopping cleanly; press Ctrl-C again to quit now",), daemon=True
        ).start()
        tune = signal.getsignal(signal.SIGUSR1)
        if callable(tune):
            tune(number, None)
        elif not self._closing:
            raise KeyboardInterrupt
