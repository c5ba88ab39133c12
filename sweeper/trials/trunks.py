"""Where the trials of a run meet: states that one left for others with the same past, see `trainable.past`.

`trunks/KEY/step-00000300/` holds what the trainable left, with the manifest of a checkpoint. The key is a hash of all
that those steps depend on. Nobody waits for a trunk: a trial that finds none starts at step 0 and leaves one, and a
trial that comes to such a step and finds one there compares it with its own state.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.journal import checkpoints, provenance
from sweeper.journal.run_folders import TRUNKS
from sweeper.system import files
from sweeper.trainable import Trainable
from sweeper.trials.task import TrialTask

LEFT_BY = "left_by.txt"
CLOSED = ".closed"  # in the folder of trunks: they were found to differ, and nobody uses them any more
DROPPED = "a trunk"  # begins the line on a damaged one, which ends no sharing


@dataclass(frozen=True)
class Start:
    """A trunk to start from, in a folder of the trial's own. left_by: the id of the trial that left it."""

    folder: Path
    step: int
    left_by: str


class Trunks:
    """The trunks that a trial may start from or leave.

    Args:
        task: of the trial.
        trainable: whose `past` says what is shared.
        config: its settings.
        folder: a temporary one of the trial, where a trunk is copied to before it is verified: others may drop it.
        say: gets one line if a trunk is damaged, or if a state that was reached is not the one that another trial left.
        compared: called once a state was found to be the one that another trial left.
    """

    def __init__(
        self,
        task: TrialTask,
        trainable: Trainable,
        config: Any,
        folder: Path,
        say: Callable[[str], None],
        compared: Callable[[], None],
    ) -> None:
        self.task, self.own, self.say, self.compared = task, folder, say, compared
        self.folder = files.inside(Path(task.run_dir), TRUNKS)
        self._keys: dict[int, str] = {}
        if changed := _other_code(task):
            say(changed)
            return
        if not task.trunk_steps or trainable.past is None or (self.folder / CLOSED).exists():
            return
        for step in task.trunk_steps:
            if (past := trainable.past(config, step)) is not None:
                self._keys[step] = _key(task, step, past)

    def start(self) -> Start | None:
        """The trunk with the most steps that this trial may start from; one that fails to verify is dropped."""
        if self.task.trunk_verify:
            return None
        for step in sorted(self._keys, reverse=True):
            place, copy = self._place(step), self.own / self._keys[step]
            try:
                shutil.copytree(place, copy, copy_function=checkpoints.share)
            except (OSError, shutil.Error):  # there is none, or it has just been dropped
                shutil.rmtree(copy, ignore_errors=True)
                continue
            found, faults = checkpoints.newest(copy, self._keys[step])
            if found is not None:
                return Start(found, step, (found / LEFT_BY).read_text("utf-8").strip())
            if faults:
                self._drop(place)
                self.say(f"{DROPPED} at step {step:,} was damaged and is dropped")
        return None

    def leave_at(self, after: int) -> frozenset[int]:
        """The steps at which this trial leaves its state, or compares it with one that is there."""
        return frozenset(step for step in self._keys if step > after)

    def leave(self, step: int, folder: Path) -> None:
        """Store a state for others. If one is there, compare the two: they must be the same, to the last bit."""
        place = self._place(step)
        try:
            if (self.folder / CLOSED).exists():
                return
            if place.is_dir():
                self._compare(place, step, folder)
                return
            (folder / LEFT_BY).write_text(f"{self.task.id}\n", "utf-8")
            partial = self.folder / f".{self.task.id}-{os.getpid()}-{step}"  # the dot: never taken for a trunk
            partial.mkdir(parents=True)
            checkpoints.store(partial, folder, step, self._keys[step])
            try:
                partial.rename(place)
            except OSError:  # another trial was faster
                shutil.rmtree(partial, ignore_errors=True)
        except OSError:
            return  # no room: then nobody starts from here
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _place(self, step: int) -> Path:
        return self.folder / self._keys[step]

    def _drop(self, place: Path) -> None:
        """Take a damaged trunk away, whole and at once: another trial may be about to leave a sound one."""
        with suppress(OSError):
            gone = Path(tempfile.mkdtemp(prefix=".", dir=self.folder)) / "damaged"
            place.rename(gone)
            shutil.rmtree(gone.parent, ignore_errors=True)

    def _compare(self, place: Path, step: int, folder: Path) -> None:
        found, _ = checkpoints.newest(place, self._keys[step])
        if found is None:
            return
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        theirs: Mapping[str, str] = json.loads((found / checkpoints.MANIFEST).read_text("utf-8"))["sha256"]
        other = sorted(name for name in digests if theirs.get(name) != digests[name])
        if not other:
            self.compared()
            return
        left_by = (found / LEFT_BY).read_text("utf-8").strip()
        self.say(
            f"{self.task.id} does not have the same state after {step:,} steps as {left_by}, which trials start from "
            f"({', '.join(other)} differ)"
        )


def _other_code(task: TrialTask) -> str | None:
    """In a line, that the code which trains is not what the sweep recorded; None if it is, or nothing is shared."""
    if not task.provenance or (now := provenance.code(task.trainable.partition(":")[0])) is None:
        return None
    then = json.loads(task.provenance)[0]
    return None if now == then else f"the code of {task.trainable} changed while the sweep ran ({then} then, {now} now)"


def _key(task: TrialTask, step: int, past: Mapping[str, Any]) -> str:
    held = [task.trainable, step, task.seed, task.provenance, provenance.processor(), provenance.kernels()]
    held += [task.workers, task.cpus_per_worker, task.gpus_per_worker]
    return hashlib.sha256(json.dumps([held, past], sort_keys=True).encode()).hexdigest()[:32]


def close(run_dir: Path) -> None:
    """Let nobody use the trunks of a run any more."""
    clear(run_dir)
    (run_dir / TRUNKS).mkdir(exist_ok=True)
    (run_dir / TRUNKS / CLOSED).touch()


def clear(run_dir: Path) -> None:
    """Take all trunks of a run away."""
    shutil.rmtree(run_dir / TRUNKS, ignore_errors=True)
