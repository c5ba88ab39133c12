"""Where the trials of a run meet: states that one left for others with the same past, see `trainable.past`.

`trunks/KEY/step-00000300/` holds what the trainable left, with the manifest of a checkpoint. The key is a hash of all
that those steps depend on. Nobody waits for a trunk: a trial that finds none starts at step 0 and leaves one, and a
trial that comes to such a step and finds one there compares it with its own state.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.journal import checkpoints
from sweeper.journal.run_folders import TRUNKS
from sweeper.system import files
from sweeper.trainable import Trainable
from sweeper.trials.task import TrialTask

LEFT_BY = "left_by.txt"
DROPPED = "a trunk"  # begins the line on a damaged one, which ends no sharing


@dataclass(frozen=True)
class Start:
    """A trunk to start from. left_by: the id of the trial that left it."""

    folder: Path
    step: int
    left_by: str


class Trunks:
    """The trunks that a trial may start from or leave.

    differs: called with one line if a state that was reached is not the one that another trial left.
    """

    def __init__(self, task: TrialTask, trainable: Trainable, config: Any, differs: Callable[[str], None]) -> None:
        self.task, self.differs = task, differs
        self.folder = files.inside(Path(task.run_dir), TRUNKS)
        self._keys: dict[int, str] = {}
        for step in task.trunk_steps if trainable.past else ():
            assert trainable.past is not None
            if (past := trainable.past(config, step)) is not None:
                self._keys[step] = _key(task, step, past)

    def start(self) -> Start | None:
        """The trunk with the most steps that this trial may start from; one that fails to verify is dropped."""
        if self.task.trunk_verify:
            return None
        for step in sorted(self._keys, reverse=True):
            if (place := self._place(step)).is_dir():
                found, _ = checkpoints.newest(place, self._keys[step])
                if found is not None:
                    return Start(found, step, (found / LEFT_BY).read_text("utf-8").strip())
                shutil.rmtree(place, ignore_errors=True)
                self.differs(f"{DROPPED} at step {step:,} was damaged and is dropped")
        return None

    def leave_at(self, after: int) -> frozenset[int]:
        """The steps at which this trial leaves its state, or compares it with one that is there."""
        return frozenset(step for step in self._keys if step > after)

    def leave(self, step: int, folder: Path) -> None:
        """Store a state for others. If one is there, compare the two: they must be the same, to the last bit."""
        place = self._place(step)
        try:
            if place.is_dir():
                self._compare(place, step, folder)
                return
            (folder / LEFT_BY).write_text(f"{self.task.id}\n", "utf-8")
            place.parent.mkdir(parents=True, exist_ok=True)
            partial = Path(tempfile.mkdtemp(prefix=".", dir=place.parent))
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

    def _compare(self, place: Path, step: int, folder: Path) -> None:
        found, _ = checkpoints.newest(place, self._keys[step])
        if found is None:
            return
        digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        theirs: Mapping[str, str] = json.loads((found / checkpoints.MANIFEST).read_text("utf-8"))["sha256"]
        other = sorted(name for name in digests if theirs.get(name) != digests[name])
        if other:
            left_by = (found / LEFT_BY).read_text("utf-8").strip()
            self.differs(
                f"{self.task.id} does not have the same state after {step:,} steps as {left_by}, which trials start "
                f"from ({', '.join(other)} differ)"
            )


def _key(task: TrialTask, step: int, past: Mapping[str, Any]) -> str:
    held = [task.trainable, step, task.seed, task.provenance, task.workers, task.cpus_per_worker, task.gpus_per_worker]
    return hashlib.sha256(json.dumps([held, past], sort_keys=True).encode()).hexdigest()[:32]


def clear(run_dir: Path) -> None:
    """Take all trunks of a run away."""
    shutil.rmtree(run_dir / TRUNKS, ignore_errors=True)
