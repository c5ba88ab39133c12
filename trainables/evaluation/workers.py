"""Scores by several processes: those of a Ray cluster, if one is named (RAY_ADDRESS), or else this machine's.

What is missing is divided into pieces, each some rows of one length by one model, so that a pass through a model has
the same rows as in one process. Tokens are made once, here; scores come back here, into the cache, from which they are
then taken as if one process had made them.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sweeper.system import nodes
from trainables import limits
from trainables.evaluation import kept, pseudo_likelihood
from trainables.evaluation.kept import Kept, Source
from trainables.evaluation.pseudo_likelihood import Batches, Group, Scorer

PIECES = 32  # for each worker, so that none waits long for another, and a progress bar moves

Progress = Callable[[str, int, int], None]  # what is being done, how much is done, and in all
Sums = list[NDArray[np.float64]]


class Job(NamedTuple):
    """Rows to be scored by a model. what: for the progress."""

    model: Kept
    what: str
    batches: Batches


class _Piece(NamedTuple):
    """What a worker does at once: some groups of some jobs, all of one model."""

    number: int
    source: Source
    groups: list[tuple[int, int]]  # (which job, which of its groups)


@dataclass(frozen=True)
class _Parcel:
    """What every worker has from the start: the groups of every job, as arrays, and its threads."""

    groups: dict[int, list[tuple[NDArray[np.int64], NDArray[np.bool_]]]]
    same: dict[int, int]  # which job has the groups of a job
    threads: int


def score(jobs: Sequence[Job], count: int, threads: int, progress: Progress) -> None:
    """Put the scores of all jobs into the cache, if they are not there.

    Args:
        jobs: those of one model one after the other, so that it is loaded seldom.
        count: how many processes.
        threads: of each.
        progress: told by job.

    Raises:
        ValueError: in one line, if a model fails, a process ends or the cluster cannot be joined.
    """
    paths, lacking = set(), []
    for job in jobs:
        path = job.model.path(job.batches)
        if path not in paths and kept.read(path, len(job.batches.place)) is None:
            paths.add(path)
            lacking.append(job)
    if not lacking:
        return
    pieces = _pieces(lacking, count)
    parcel, count = _parcel(lacking, threads), min(count, len(pieces))
    found: list[dict[int, NDArray[np.float64]]] = [{} for _ in lacking]
    done = [0] * len(lacking)
    for number, sums in (_clustered if nodes.configured() else _local)(parcel, count, pieces):
        for (at, group), part in zip(pieces[number].groups, sums, strict=True):
            job = lacking[at]
            found[at][group] = part
            done[at] += int(job.batches.groups[group].counted.sum())
            progress(job.what, done[at], job.batches.total)
            if len(found[at]) == len(job.batches.groups):
                kept.write(job.model.path(job.batches), job.batches.joined([found[at][i] for i in sorted(found[at])]))


def _pieces(jobs: Sequence[Job], count: int) -> list[_Piece]:
    """All groups, in the order of the jobs."""
    costs = [[int(group.counted.sum()) * group.ids.shape[1] for group in job.batches.groups] for job in jobs]
    most = sum(map(sum, costs)) / (PIECES * count)
    pieces: list[_Piece] = []
    held = 0
    for at, job in enumerate(jobs):
        for group, cost in enumerate(costs[at]):
            if not pieces or pieces[-1].source != job.model.source or held + cost > most:
                pieces.append(_Piece(len(pieces), job.model.source, []))
                held = 0
            pieces[-1].groups.append((at, group))
            held += cost
    return pieces


def _parcel(jobs: Sequence[Job], threads: int) -> _Parcel:
    first: dict[int, int] = {}
    same = {at: first.setdefault(id(job.batches), at) for at, job in enumerate(jobs)}
    groups = {
        at: [(group.ids.numpy(), group.counted.numpy()) for group in jobs[at].batches.groups] for at in first.values()
    }
    return _Parcel(groups, same, threads)


class _Here:
    """A worker: what it was given, and the model that it used last."""

    def __init__(self, parcel: _Parcel) -> None:
        self._parcel = parcel
        self._source: Source | None = None
        self._scorer: Scorer | None = None

    def __call__(self, piece: _Piece) -> Sums:
        if self._scorer is None or piece.source != self._source:
            self._scorer = None  # before the next is loaded: two may not fit
            tokenizer = pseudo_likelihood.load_tokenizer(piece.source.folder)
            self._scorer, self._source = Scorer(piece.source.model(), tokenizer), piece.source
        found = []
        for job, number in piece.groups:
            ids, counted = map(torch.from_numpy, self._parcel.groups[self._parcel.same[job]][number])
            found.append(self._scorer.group(Group(np.arange(len(ids)), ids, counted)))
        return found


_here: _Here | None = None  # of a worker's process


def _begin(parcel: _Parcel) -> None:
    global _here
    torch.set_num_threads(parcel.threads)
    _here = _Here(parcel)


def _begin_here(parcel: _Parcel) -> None:
    """Of a process that we start: it ends with ours, and at Ctrl-C without a word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _begin(parcel)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _score(piece: _Piece) -> tuple[int, Sums | str]:
    """(the piece's number, sums of each group or, in one line, what is wrong: Ray would change an error's text)."""
    assert _here is not None, "a worker that was not begun"
    try:
        return piece.number, _here(piece)
    except (ValueError, OSError) as error:
        return piece.number, limits.one_line(error)


def _local(parcel: _Parcel, count: int, pieces: Sequence[_Piece]) -> Iterator[tuple[int, Sums]]:
    """Pieces as they are done, by processes of this machine."""
    pool = ProcessPoolExecutor(count, get_context("spawn"), _begin_here, (parcel,))
    try:
        for done in as_completed([pool.submit(_score, piece) for piece in pieces]):
            yield _good(done.result())
    except BrokenProcessPool:
        raise ValueError("a worker ended, perhaps for want of memory: take fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _clustered(parcel: _Parcel, count: int, pieces: Sequence[_Piece]) -> Iterator[tuple[int, Sums]]:
    """The same by a cluster's processes. Ray is imported by its name, because nothing else here needs it."""
    ray, pools = (import_module(name) for name in ("ray", "ray.util.multiprocessing"))
    address = os.environ["RAY_ADDRESS"]
    failed = f"cannot score on the cluster at RAY_ADDRESS={address}: start it, or unset RAY_ADDRESS"
    limits.fails(lambda: _join(ray, address), failed)
    try:
        there, needed = ray.cluster_resources().get("CPU", 0), count * parcel.threads
        if there < needed:
            raise ValueError(
                f"--workers {count} of {parcel.threads} threads need {needed} CPUs, the cluster has {there:g}"
            )
        pool = pools.Pool(count, _begin, (parcel,), ray_remote_args={"num_cpus": parcel.threads})
        try:
            results = pool.imap_unordered(_score, pieces, chunksize=1)
            for _ in pieces:
                yield _good(limits.fails(lambda: next(results), "a worker of the cluster failed"))
        finally:
            pool.terminate()
    finally:
        ray.shutdown()


def _join(ray: Any, address: str) -> None:
    """Join with the code of this process, unless a job has brought it."""
    nodes.reach(address)
    found = (find_spec(name) for name in ("sweeper", "trainables"))
    code = [folder for one in found if one for folder in one.submodule_search_locations or []]
    runtime = {} if nodes.submitted() else {"py_modules": code}
    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, runtime_env=runtime)


def _good(result: tuple[int, Sums | str]) -> tuple[int, Sums]:
    """The result of a piece. Raises ValueError, in one line, for one that failed."""
    number, sums = result
    if isinstance(sums, str):
        raise ValueError(sums)
    return number, sums
