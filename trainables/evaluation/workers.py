"""Scores by several processes: those of a Ray cluster, if one is named (RAY_ADDRESS), or else this machine's.

What is missing is divided into pieces, each some rows of one length by one model, so that a pass through a model has
the same rows as in one process. Tokens are made once, here; scores come back here, into the cache, from which they are
then taken as if one process had made them. A worker refuses a model, or libraries, that are not those of this process.
Its processor may still round differently: scores are the same to the bit on machines of one kind.
"""

from __future__ import annotations

import logging
import os
import platform
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from sweeper.system import files, nodes, secrecy
from trainables import limits
from trainables.evaluation import kept
from trainables.evaluation.kept import Kept, Source, TaskProgress
from trainables.evaluation.pseudo_likelihood import Batches, Group, Scorer

PIECES = 32  # for each worker, so that none waits long for another, and a progress bar moves
SAY_AFTER_S = 15.0  # a free cluster has started its processes by then
SHOWN = 200, 100  # characters of the beginning and of the end of what Ray says

Sums = list[NDArray[np.float64]]
Rows = Mapping[str, NDArray[Any]]  # `ids NAME` and `counted NAME` of every group


class Job(NamedTuple):
    """Rows to be scored by a model. what: for the progress."""

    model: Kept
    what: str
    batches: Batches


class _Piece(NamedTuple):
    """What a worker does at once: some groups of some jobs, all of one model.

    Args:
        number: of the piece.
        source: of the model.
        mask: the id that hides a token.
        groups: (which job, which of its groups).
        names: of the groups' rows.
    """

    number: int
    source: Source
    mask: int
    groups: list[tuple[int, int]]
    names: list[str]


class _Terms(NamedTuple):
    """What every worker is told at its start: its threads, and the libraries of the process that asks."""

    threads: int
    libraries: str


def score(jobs: Sequence[Job], count: int, threads: int, progress: TaskProgress) -> None:
    """Put the scores of all jobs into the cache, if they are not there.

    Args:
        jobs: those of one model one after the other, so that it is loaded seldom.
        count: how many processes.
        threads: of each.
        progress: told by job.

    Raises:
        ValueError: in one line, if a model fails, a process ends or the cluster cannot be joined or has no room.
    """
    paths, lacking = set(), []
    for job in jobs:
        path = job.model.path(job.batches)
        if path not in paths and kept.read(path, len(job.batches.place)) is None:
            paths.add(path)
            lacking.append(job)
    rows, pieces = _divided(lacking, count)
    if not pieces:
        return
    found: list[dict[int, NDArray[np.float64]]] = [{} for _ in lacking]
    done = [0] * len(lacking)
    by = _clustered if nodes.configured() else _local
    for number, sums in by(rows, _Terms(threads, kept.libraries()), min(count, len(pieces)), pieces):
        for (at, group), part in zip(pieces[number].groups, sums, strict=True):
            job = lacking[at]
            found[at][group] = part
            done[at] += int(job.batches.groups[group].counted.sum())
            progress(job.what, done[at], job.batches.total)
            if len(found[at]) == len(job.batches.groups):
                kept.write(job.model.path(job.batches), job.batches.joined([found[at][i] for i in sorted(found[at])]))


def _divided(jobs: Sequence[Job], count: int) -> tuple[dict[str, NDArray[Any]], list[_Piece]]:
    """(the rows of all groups, those of batches that several jobs share once; the groups in the order of the jobs)."""
    costs = [[int(group.counted.sum()) * group.ids.shape[1] for group in job.batches.groups] for job in jobs]
    most = sum(map(sum, costs)) / (PIECES * count)
    rows: dict[str, NDArray[Any]] = {}
    pieces: list[_Piece] = []
    first: dict[int, int] = {}
    held = 0
    for at, job in enumerate(jobs):
        model, owner = (job.model.source, job.model.mask), first.setdefault(id(job.batches), at)
        for number, (group, cost) in enumerate(zip(job.batches.groups, costs[at], strict=True)):
            name = f"{owner} {number}"
            if owner == at:
                rows[f"ids {name}"] = np.ascontiguousarray(group.ids.numpy())
                rows[f"counted {name}"] = np.ascontiguousarray(group.counted.numpy())
            if not pieces or (pieces[-1].source, pieces[-1].mask) != model or held + cost > most:
                pieces.append(_Piece(len(pieces), *model, [], []))
                held = 0
            pieces[-1].groups.append((at, number))
            pieces[-1].names.append(name)
            held += cost
    return rows, pieces


class _Worker:
    """A process that scores: the rows, and the model that it used last."""

    def __init__(self, rows: Rows, terms: _Terms) -> None:
        torch.set_num_threads(terms.threads)
        self._rows, self._libraries = rows, terms.libraries
        self._model: tuple[Source, int] | None = None
        self._scorer: Scorer | None = None

    def ready(self) -> None:
        """Answers once the process has started."""

    def score(self, piece: _Piece) -> tuple[int, Sums | str]:
        """(the piece's number, sums of each group or, in one line, what is wrong: Ray would change an error's text)."""
        try:
            return piece.number, self._sums(piece)
        except (ValueError, OSError) as error:
            return piece.number, limits.one_line(error)

    def _sums(self, piece: _Piece) -> Sums:
        if self._libraries != kept.libraries():
            raise ValueError(
                f"{platform.node()} has {kept.libraries()} in place of {self._libraries}, which would give other "
                "scores: install the same on every node, or unset RAY_ADDRESS"
            )
        if self._scorer is None or self._model != (piece.source, piece.mask):
            self._scorer = None  # before the next is loaded: two may not fit
            masks = SimpleNamespace(mask_token_id=piece.mask)  # of the rows' tokenizer, which need not be this folder's
            self._scorer, self._model = Scorer(piece.source.model(), masks), (piece.source, piece.mask)
        found = []
        for name in piece.names:
            ids, counted = (torch.tensor(self._rows[f"{kind} {name}"]) for kind in ("ids", "counted"))
            found.append(self._scorer.group(Group(np.arange(len(ids)), ids, counted)))
        return found


_here: _Worker | None = None  # of a process that `_local` starts


def _begin(path: Path, terms: _Terms) -> None:
    """In a process that we start: it ends with ours, and at Ctrl-C without a word."""
    global _here
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _here = _Worker(load_file(path), terms)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(piece: _Piece) -> tuple[int, Sums | str]:
    assert _here is not None, "a worker that was not begun"
    return _here.score(piece)


def _local(
    rows: dict[str, NDArray[Any]], terms: _Terms, count: int, pieces: Sequence[_Piece]
) -> Iterator[tuple[int, Sums]]:
    """Pieces as they are done, by processes of this machine.

    The rows reach them in a file: what is given to a new process goes through a pipe, which holds 64 KiB, and to write
    more would never end if the process died before it reads.
    """
    with tempfile.TemporaryDirectory(prefix="rows-") as folder:
        path = Path(folder) / "rows.safetensors"
        limits.fails(lambda: save_file(rows, path), f"cannot write {path}: make room there, or set TMPDIR")
        pool = ProcessPoolExecutor(count, get_context("spawn"), _begin, (path, terms))
        ended = ValueError("a worker ended, perhaps for want of memory: take fewer --workers")
        try:
            try:
                given = [pool.submit(_score, piece) for piece in pieces]
            except (RuntimeError, OSError):  # of many kinds if the first ends while the second is started
                raise ended from None
            for done in as_completed(given):
                yield _good(done.result())
        except BrokenProcessPool:
            raise ended from None
        finally:
            for process in [*(pool._processes or {}).values()]:  # after an error, a piece may take minutes more
                process.kill()
            pool.shutdown(cancel_futures=True)


def _clustered(
    rows: dict[str, NDArray[Any]], terms: _Terms, count: int, pieces: Sequence[_Piece]
) -> Iterator[tuple[int, Sums]]:
    """The same by a cluster's processes, of which a node has one copy of the rows."""
    import ray
    from ray.util import ActorPool

    address = os.environ["RAY_ADDRESS"]
    message = f"cannot score on the cluster at RAY_ADDRESS={address}: start it, or unset RAY_ADDRESS"
    with _in_one_line(message):
        _join(address)
    message = "a process of the cluster was lost: run the same command again, and what is finished is not repeated"
    try:
        with _in_one_line(message):
            there = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        _check_room(there, count, terms.threads)
        with _in_one_line(message):
            actor: Any = ray.remote(num_cpus=terms.threads)(_Worker)
            shared = ray.put(rows)
            workers = [actor.remote(shared, terms) for _ in range(count)]
            begun = [worker.ready.remote() for worker in workers]
            waiting = ray.wait(begun, num_returns=count, timeout=SAY_AFTER_S)[1]
            if waiting:
                files.say(f"waiting for {len(waiting)} of {count} workers: the cluster has no CPUs free, or is slow")
            ray.get(begun)
            results = ActorPool(workers).map_unordered(lambda worker, piece: worker.score.remote(piece), [*pieces])
        for _ in pieces:
            with _in_one_line(message):
                done: Any = next(results)
            yield _good(done)
    finally:
        ray.shutdown()  # ends the workers, too


def _join(address: str) -> None:
    """Join with the code of this process, unless a job has brought it."""
    import ray

    nodes.reach(address)
    found = (find_spec(name) for name in ("sweeper", "trainables"))
    code = [folder for one in found if one for folder in one.submodule_search_locations or []]
    runtime = {} if nodes.submitted() else {"py_modules": code}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime)


def _check_room(there: Sequence[nodes.Node], count: int, threads: int) -> None:
    """Raises ValueError, in one line, if so many processes never fit on the nodes."""
    fit, most = nodes.places(there, {"CPU": threads}), max((node.get("CPU", 0) for node in there), default=0)
    if fit >= count:
        return
    if fit:
        advice = f"the cluster has room for {fit}: take --workers {fit} --threads {fit * threads}"
    elif most >= 1:
        advice = f"no node has more than {most:g} CPUs: take --threads {count * int(most)} or fewer"
    else:
        advice = "no node of the cluster has a CPU: start nodes with CPUs, or unset RAY_ADDRESS"
    raise ValueError(f"{count} workers of {threads} threads each: {advice}")


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """Turn whatever Ray raises, of any type, into one line without secrets. Raises ValueError."""
    try:
        yield
    except Exception as error:
        reason = secrecy.redact(" ".join(str(error).split())) or type(error).__name__
        begin, end = SHOWN
        if len(reason) > begin + end:  # where it was first, an error's own text last
            reason = f"{reason[:begin]} … {reason[-end:]}"
        raise ValueError(f"{secrecy.redact(what)} ({reason})") from None


def _good(result: tuple[int, Sums | str]) -> tuple[int, Sums]:
    """The result of a piece. Raises ValueError, in one line, for one that failed."""
    number, sums = result
    if isinstance(sums, str):
        raise ValueError(sums)
    return number, sums
