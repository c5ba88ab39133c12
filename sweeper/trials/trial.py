"""One trial: what Tune calls, in this process or as the driver of a Ray Train worker group.

Either way the trainable gets the same context. A row of metrics leaves a trial only once its checkpoint is on disk.
Tune carries `{"rows": [row, ...], "checkpoint": manifest hash, "node": address}`: one row, or after a restart every
row in the checkpoint's history, since workers run ahead of the driver and the journal may lack some. A trial that
meets a fault (`faults`) sends it before it fails: `"fault": [errno, strerror, file]`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray import train, tune
from ray.util import get_node_ip_address

from sweeper.journal import checkpoints, object_store
from sweeper.journal.object_store import Remote
from sweeper.spec.hints import nearest
from sweeper.system import faults, files, secrecy
from sweeper.trainable import Trainable, TrainContext
from sweeper.trials.task import TrialTask
from sweeper.trials.together import Together
from sweeper.trials.trunks import Trunks

ERROR = "error.txt"
LARGEST = 1e300  # of a metric: sums of several must be finite, too

Send = Callable[[dict[str, Any]], None]


class PeerLost(RuntimeError):
    """Another rank is gone. That is not this rank's error, so it is not noted as the reason of the failure."""


@dataclass(frozen=True)
class Reporter:
    """`context.report` of rank 0: refuses values that are not finite, stores the checkpoint, then sends the row.

    Args:
        folder: of the trial.
        objective: the metric that every row must have.
        owner: whose checkpoints these are (`checkpoints.owner`).
        send: gets the message for Tune.
        place: of the trial in an object store, where checkpoints are stored as well.
        start: the trial and the step that this one starts from, if not from step 0.
        last: the last reported row, at first that of an earlier try.
    """

    folder: Path
    objective: str
    owner: str
    send: Send
    place: Remote | None = None
    start: tuple[str, int] | None = None
    last: dict[str, Any] = field(default_factory=dict)

    def __call__(self, metrics: Mapping[str, float], checkpoint: Path | None) -> None:
        step = int(metrics["step"])
        row: dict[str, Any] = {**{key: float(value) for key, value in metrics.items()}, "step": step}
        manifest = None
        try:
            self._check(row, step)
            if checkpoint is not None:
                stored = checkpoints.store(self.folder / "checkpoints", checkpoint, step, self.owner)
                manifest = checkpoints.manifest_hash(stored)
                if self.place:
                    object_store.push_checkpoint(self.place, stored)
        finally:
            if checkpoint is not None:
                shutil.rmtree(checkpoint, ignore_errors=True)
        self.send(_message([row], manifest) | ({"start": [*self.start]} if self.start and not self.last else {}))
        self.last.clear()
        self.last.update(row)

    def refuse_without(self, objectives: Iterable[str]) -> None:
        """Raises ValueError, in one line, if the last row lacks one of these: only that row has scores."""
        for name in objectives:
            if name not in self.last:
                raise ValueError(f"objective {name!r} is not in the last row; {nearest(name, sorted(self.last))}")

    def _check(self, row: Mapping[str, float], step: int) -> None:
        if self.objective not in row:
            raise ValueError(f"objective {self.objective!r} is not among what is reported: {', '.join(sorted(row))}")
        for key, value in row.items():
            if not abs(value) < LARGEST:  # nor NaN
                raise RuntimeError(f"diverged: {key} is {value:g} at step {step}")


def run(given: dict[str, Any]) -> None:
    """What Tune calls. given: the fields of a `TrialTask`, from `tuner.shared` and `JournalSearch.suggest`.

    A failure leaves `error.txt` in the trial's folder, with the reason in its first line, for the driver and people.
    """
    task = TrialTask(**given)
    files.private(task.shared)
    try:
        with files.temporary(), _noted(task):
            _begin(task)
            if task.workers:
                from sweeper.trials import worker_group

                worker_group.run(_worker, task)
            else:
                device = "cuda:0" if task.gpus_per_worker else "cpu"
                _train(task, lambda message: tune.report(message | _here()), device=device)
    except Exception as error:
        if fault := faults.of(error):
            tune.report({"rows": [], "checkpoint": None, "fault": [fault.errno, fault.strerror, fault.filename]})
        raise


def _begin(task: TrialTask) -> None:
    """Remove what an earlier try left: its error, and the state from which Ray would resume."""
    if place := task.place:
        (place / ERROR).delete()
        (Remote(task.scratch) / task.id).delete()
        return
    task.home.mkdir(parents=True, exist_ok=True)
    (task.home / ERROR).unlink(missing_ok=True)
    shutil.rmtree(Path(task.scratch) / task.id, ignore_errors=True)


@contextlib.contextmanager
def _folder(task: TrialTask, place: Remote | None) -> Iterator[Path]:
    """The trial's folder; for an object store a temporary one on this node, with the checkpoints from there."""
    if place is None:
        yield task.home
        return
    with tempfile.TemporaryDirectory(prefix="trial-") as name:
        (place / "checkpoints").pull(Path(name, "checkpoints"))
        yield Path(name)


def _worker(given: dict[str, Any]) -> None:
    """One rank of a worker group. given: as in `run`."""
    task, context = TrialTask(**given), train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    ranks: dict[str, Any] = {"rank": rank, "world_size": world_size, "device": _device(task)}
    if world_size > 1:
        ranks["all_reduce"] = _all_reduce
    files.private(task.shared)
    with files.temporary(), _noted(task):
        _train(task, lambda message: train.report(message | _here()), **ranks)


def _device(task: TrialTask) -> str:
    if not task.gpus_per_worker:
        return "cpu"
    from ray.train.torch import get_device

    return str(get_device())


def _here() -> dict[str, str]:
    return {"node": get_node_ip_address()}


def _message(rows: list[dict[str, Any]], manifest_hash: str | None = None) -> dict[str, Any]:
    return {"rows": rows, "checkpoint": manifest_hash}


def _all_reduce(tensor: Any) -> None:
    """Sum over the ranks. Raises PeerLost if one does not answer."""
    from torch import distributed

    try:
        distributed.all_reduce(tensor)
    except RuntimeError as error:
        raise PeerLost(f"another worker is gone: {error}") from error


def _train(task: TrialTask, send: Send, **ranks: Any) -> None:
    """Run the trainable from the newest valid checkpoint, if there is one."""
    import torch

    torch.set_num_threads(task.cpus_per_worker)
    with contextlib.suppress(OSError):  # a node of a joined cluster may have no such folder
        os.chdir(task.cwd)  # relative paths in a spec are the driver's
    place = task.place
    stops: list[BaseException] = []

    def sending(message: dict[str, Any]) -> None:
        try:
            send(message)
        except BaseException as stop:
            stops.append(stop)  # Tune stops a trial by raising from the call that sends a row
            raise

    with _folder(task, place) as folder, tempfile.TemporaryDirectory(prefix="trunk-") as own:
        try:
            _train_in(folder, Path(own), place, task, sending, **ranks)
        except BaseException as error:
            if error in stops or (isinstance(error, Exception) and not isinstance(error, StopIteration)):
                raise
            # Tune would take these for a normal end and the trial for complete.
            raise RuntimeError(f"the trainable left by {reason(error)}") from error


def _train_in(folder: Path, own: Path, place: Remote | None, task: TrialTask, send: Send, **ranks: Any) -> None:
    """own: a folder of this try, for the trunk that it starts from."""
    import torch

    owner = checkpoints.owner(task.trainable, task.id, task.seed, task.config)
    restore_from, _ = checkpoints.newest(folder / "checkpoints", owner, task.expected)
    trainable = Trainable.load(task.trainable, outside=Path(task.run_dir))
    config = trainable.config.model_validate(secrecy.given(task.config, secrecy.declared(trainable.config)))
    together = Together(**{key: value for key, value in ranks.items() if key != "device"})
    trunks = Trunks(task, trainable, config, own, together, lambda message: send(_message([]) | message))
    start = trunks.start() if restore_from is None else None
    began = (start.left_by, start.step) if start else None
    reporter = Reporter(folder, task.objective, owner, send, place, began)
    if restore_from is not None:
        rows = checkpoints.history(restore_from)
        send(_message(rows, checkpoints.manifest_hash(restore_from)))
        reporter.last.update(rows[-1])
    # Ray Train waits until every rank has reported, and keeps the report of rank 0.
    report = (lambda *_: send(_message([]))) if ranks.get("rank") else reporter
    asked = {"seed": task.seed, "test": task.test, "evaluate": task.evaluate}
    shared: dict[str, Any] = {"fork_from": start.folder if start else None, "leave": trunks.leave}
    shared["leave_at"] = frozenset() if restore_from else trunks.leave_at(start.step if start else 0)
    context = TrainContext(report, restore_from=restore_from, **shared, **asked, **ranks)
    try:
        trainable.train(config, context)
    except torch.OutOfMemoryError as error:
        device = ranks["device"]
        there = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
        raise RuntimeError(f"out of memory: {fitting(config, there, context.world_size)}") from error
    if not context.rank:
        reporter.refuse_without(task.further)


def fitting(config: Any, there: float, world_size: int = 1) -> str:
    """Which settings would fit into a GPU on which `config` does not. there: bytes that it has.

    A step takes at least `there` in fact; the trainable's own estimate says how that falls with the rows.
    """
    rows: int = getattr(config, "batch_size", 1)

    def share(parts: int) -> float:
        return config.model_copy(update={"batch_size": rows // parts}).memory_bytes

    parts, now = 2 * world_size, share(world_size)
    while parts <= rows and share(parts) * max(1.0, there / now) > 0.8 * there:
        parts *= 2
    held = f"the {there / 1e9:.1f} GB of the GPU do not hold {rows // world_size} rows"
    if parts > rows:
        return f"{held}; lower the model's size"
    return (
        f"{held}; {rows // parts} would fit: set config.batch_size to {rows // parts * world_size}, or keep it "
        f"and set resources.workers to {parts}"
    )


@contextlib.contextmanager
def _noted(task: TrialTask) -> Iterator[None]:
    """Keep only the first error of a trial: the later ones, of its other ranks and of itself, follow from it."""
    try:
        yield
    except PeerLost:
        raise
    except Exception as error:
        _note(task, f"{reason(error)}\n\n{traceback.format_exc()}")
        raise


def _note(task: TrialTask, text: str) -> None:
    text = secrecy.redact(text)
    if place := task.place:
        with contextlib.suppress(OSError), tempfile.TemporaryDirectory() as name:
            if not (place / ERROR).exists():
                Path(name, ERROR).write_text(text, encoding="utf-8")
                (place / ERROR).push(Path(name, ERROR))
        return
    with contextlib.suppress(OSError), (task.home / ERROR).open("x", encoding="utf-8") as file:  # the disk may be full
        file.write(text)


def reason(error: BaseException) -> str:
    """An error in one line, without secrets: its type and the first line of its message."""
    lines = str(error).strip().splitlines()
    return secrecy.redact(f"{type(error).__name__}: {lines[0]}") if lines else type(error).__name__
