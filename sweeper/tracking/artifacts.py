"""Files that go to MLflow beside the rows: into a bucket, a folder or a server, which may be away while rows arrive.

A file that cannot be stored is lost alone, and all such files get one line: rows and ends go on.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.system import files
from sweeper.system.secrecy import redact
from sweeper.tracking import store

if TYPE_CHECKING:
    from mlflow import MlflowClient

SMALL_S = 10.0  # for a small file: rows wait so long
THREAD = "mlflow artifact"
SLOW_S = 2.0  # a failure that takes longer means that the place is out of reach


class Artifacts:
    """Stores the files of one sweep. say: called with one line when that fails, and with one when it works again.

    `out`: the place is out of reach, and no file is tried until the caller resets it.
    """

    def __init__(self, experiment: str, say: Callable[[str], None]) -> None:
        self.out = False
        self._experiment, self._say = experiment, say
        self._doubted = self._warned = self._recovered = False
        self._hanging: threading.Thread | None = None

    def put(
        self, client: MlflowClient, send: Callable[[], object], seconds: float = SMALL_S, *, source: Path | None = None
    ) -> bool:
        """Whether `send` has stored a file or a folder; the caller keeps it for later if not.

        source: what it sends; nothing is sent if there is a link in it, which may lead to something private.
        Raises the sweep's first failure, which may be chance, so that the caller tries again; and the store's error if
        the store itself is away.
        """
        if self.out or (self._hanging and self._hanging.is_alive()):
            return False
        try:
            if source is not None:
                files.refuse_links(source)
        except files.Unsafe as error:
            self._say(f"{error}; MLflow lacks it")
            return False
        begin = time.monotonic()
        try:
            self._within(seconds, send)
        except Exception as error:
            place = client.get_experiment_by_name(self._experiment)  # fails if all of MLflow is away
            self.out = time.monotonic() - begin > SLOW_S
            if not (self._doubted or self.out or store.refuses(error)):
                self._doubted = True
                raise
            self._warn(redact(str(place.artifact_location if place else self._experiment)), store.line(error))
            return False
        if self._warned and not self._recovered:
            self._recovered = True
            self._say("MLflow's artifacts can be stored again")
        return True

    @staticmethod
    def hang() -> bool:
        """Whether an upload still waits for an answer, so that this process could not end."""
        return any(thread.name == THREAD for thread in threading.enumerate())

    def _warn(self, place: str, why: str) -> None:
        if not self._warned:
            self._warned = True
            self._say(
                f"cannot store MLflow's artifacts in {place}: {why}; training continues, models are not registered "
                "without their files, and --resume stores the rest"
            )

    def _within(self, seconds: float, send: Callable[[], object]) -> None:
        """In a thread that may be left behind: a client waits for minutes if the file store does not answer."""
        failed: list[BaseException] = []

        def run() -> None:
            try:
                send()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=run, name=THREAD, daemon=True)
        thread.start()
        thread.join(seconds)
        if thread.is_alive():
            self._hanging = thread
            raise TimeoutError(f"no answer within {seconds:.0f} s")
        if failed:
            raise failed[0]
