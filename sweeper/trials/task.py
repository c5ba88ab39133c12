"""The task of a trial. Tune and Ray Train carry it to other processes and machines as a plain dict."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sweeper.journal.checkpoints import ExpectedRow
from sweeper.journal.object_store import Remote
from sweeper.system import files


@dataclass(frozen=True, kw_only=True)
class TrialTask:
    """One trial of a sweep: first what all trials of the sweep share, then what is its own.

    Args:
        trainable: its path, as a spec names it.
        objective: the metric that every row must have.
        further: objectives that the last row must have.
        workers: ranks of the worker group; 0 trains in the trial's own process.
        cpus_per_worker: CPUs, and so torch threads, of a rank.
        gpus_per_worker: GPUs of a rank.
        placement: how the group's ranks are spread over nodes, as Ray names it, in lower case.
        accelerator: the kind of GPU, None for any.
        cwd: the driver's folder, where the spec's relative paths begin.
        run_dir: the run folder.
        shared: whether the user's group may read and write what the run writes.
        remote: address of the run in an object store, empty if it has none.
        scratch: folder or address of Ray's own files.
        id: of the trial.
        seed: of the trial.
        config: the trainable's settings, complete but for secrets.
        expected: the rows that it must reproduce if it is restarted.
        test: whether it is also scored on the part `test`.
        evaluate: the tasks that the trainable scores.
        provenance: what its numbers depend on beside its settings and seed, see `reuse.place`.
        trunk_steps: where trials may start from what another one left, or leave it.
        trunk_verify: train from step 0 all the same, and compare.
    """

    trainable: str
    objective: str
    further: list[str]
    workers: int
    cpus_per_worker: int
    gpus_per_worker: float
    placement: str
    accelerator: str | None
    cwd: str
    run_dir: str
    shared: bool
    remote: str
    scratch: str
    id: str
    seed: int
    config: dict[str, Any]
    expected: list[ExpectedRow]
    test: bool
    evaluate: dict[str, str]
    provenance: str = ""
    trunk_steps: list[int] = field(default_factory=list)
    trunk_verify: bool = False

    @property
    def home(self) -> Path:
        """The trial's folder, visible to all nodes. Raises files.Unsafe if the id leads out of the run folder."""
        return files.inside(Path(self.run_dir), "trials", self.id)

    @property
    def place(self) -> Remote | None:
        """The trial's place in an object store; None if the run has none."""
        return Remote(self.remote) / "trials" / self.id if self.remote else None
