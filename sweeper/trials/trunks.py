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
from sweeper.trials.together import Together

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
        together: the ranks of the trial. All of them make this and call its methods at the same steps.
        tell: gets a message of rank 0, on every rank: `unshared`, a line, if a trunk is damaged, or if a state that was
            reached is not the one that another trial left; `compared`, the step, if it was.
    """

    def __init__(
        self,
        task: TrialTask,
        trainable: Trainable,
        config: Any,
        folder: Path,
        together: Together,
        tell: Callable[[dict[str, Any]], None],
    ) -> None:
        self.task, self.own, self.together, self._tell = task, folder, together, tell
        self.folder = files.inside(Path(task.run_dir), TRUNKS)
        self._keys: dict[int, str] = {}
        if not task.provenance:
            return
        changed = _other_code(task)
        if not together.all(changed is None):
            self.tell(changed or f"the nodes of a trial do not have the same code of {task.trainable}")
            return
        if not task.trunk_steps or trainable.past is None:
            return
        if not together.all(not (self.folder / CLOSED).exists()):
            return
        here = together.texts(f"{provenance.processor()} {provenance.kernels()}")
        for step in task.trunk_steps:
            if (past := trainable.past(config, step)) is not None:
                self._keys[step] = _key(task, step, past, here)

    def tell(self, unshared: str | None = None, compared: int = 0) -> None:
        """Send a message from every rank, if rank 0 has one."""
        own = {"unshared": unshared} if unshared else {"compared": compared} if compared else {}
        if not self.together.all(self.together.rank > 0 or not own):
            self._tell(own)

    def start(self) -> Start | None:
        """The trunk with the most steps that this trial may start from; one that fails to verify is dropped."""
        if self.task.trunk_verify:
            return None
        for step in sorted(self._keys, reverse=True):
            found, damaged = self._copied(step)
            if self.together.all(found is not None) and found is not None:
                return Start(found, step, (found / LEFT_BY).read_text("utf-8").strip())
            if damaged and self.together.rank == 0:
                self._drop(self._place(step))
            self.tell(f"{DROPPED} at step {step:,} was damaged and is dropped" if damaged else None)
        return None

    def _copied(self, step: int) -> tuple[Path | None, bool]:
        """A copy of this trial's own, if there is a trunk that verifies, and whether there is one that does not."""
        copy = self.own / self._keys[step]
        try:
            shutil.copytree(self._place(step), copy, copy_function=checkpoints.share)
        except (OSError, shutil.Error):  # there is none, or it has just been dropped
            shutil.rmtree(copy, ignore_errors=True)
            return None, False
        found, faults = checkpoints.newest(copy, self._keys[step])
        return found, bool(faults)

    def leave_at(self, after: int) -> frozenset[int]:
        """The steps at which this trial leaves its state, or compares it with one that is there."""
        return frozenset(step for step in self._keys if step > after)

    def leave(self, step: int, folder: Path | None) -> None:
        """Store a state for others. If one is there, compare the two: they must be the same, to the last bit.

        folder: on rank 0; the others only tell what that one has to tell.
        """
        place, message = self._place(step), dict[str, Any]()
        if folder is not None and not (self.folder / CLOSED).exists():
            if place.is_dir():
                message = self._compare(place, step, folder)
            else:
                self._store(place, step, folder)
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        self.tell(**message)

    def _store(self, place: Path, step: int, folder: Path) -> None:
        try:
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

    def _place(self, step: int) -> Path:
        return self.folder / self._keys[step]

    def _drop(self, place: Path) -> None:
        """Take a damaged trunk away, whole and at once: another trial may be about to leave a sound one."""
        with suppress(OSError):
            gone = Path(tempfile.mkdtemp(prefix=".", dir=self.folder)) / "damaged"
            place.rename(gone)
            shutil.rmtree(gone.parent, ignore_errors=True)

    def _compare(self, place: Path, step: int, folder: Path) -> dict[str, Any]:
        """What there is to tell; nothing if the other one is damaged or has just been dropped."""
        try:
            return self._compared(place, step, folder)
        except OSError:
            return {}

    def _compared(self, place: Path, step: int, folder: Path) -> dict[str, Any]:
        found, _ = checkpoints.newest(place, self._keys[step])
        if found is None:
            return {}
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        theirs: Mapping[str, str] = json.loads((found / checkpoints.MANIFEST).read_text("utf-8"))["sha256"]
        other = sorted(name for name in digests if theirs.get(name) != digests[name])
        if not other:
            return {"compared": step}
        left_by = (found / LEFT_BY).read_text("utf-8").strip()
        line = f"{self.task.id} does not have the same state after {step:,} steps as {left_by}, which trials start from"
        return {"unshared": f"{line} ({', '.join(other)} differ)"}


def _other_code(task: TrialTask) -> str | None:
    """In a line, that the code which trains is not what the sweep recorded; None if it is."""
    if (now := provenance.code(task.trainable.partition(":")[0])) is None:
        return None
    then = json.loads(task.provenance)[0]
    return None if now == then else f"the code of {task.trainable} changed while the sweep ran ({then} then, {now} now)"


def _key(task: TrialTask, step: int, past: Mapping[str, Any], here: int) -> str:
    """here: a number for the processors of all ranks."""
    held = [task.trainable, step, task.seed, task.provenance, here]
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
