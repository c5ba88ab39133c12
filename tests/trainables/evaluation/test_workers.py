"""Several processes find what one finds, to the bit; what is finished is not repeated; what fails is told in a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from sweeper.trials import cluster
from tests.trainables import challenge
from tests.trainables.one_by_one import fit, make_bundle
from tests.trainables.texts import sentences
from trainables import evaluate
from trainables.data.wordpiece import Trained
from trainables.evaluation import kept, official, pseudo_likelihood, workers
from trainables.evaluation.kept import Kept
from trainables.evaluation.official import Request
from trainables.evaluation.pseudo_likelihood import Batches, Scorer

COLUMNS = ("ewok", "global_piqa", "reading")
PARTS = ("ewok", "global_piqa_parallel", "global_piqa_nonparallel", "reading")


@pytest.fixture(autouse=True)
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    text = sentences(320)
    folder = tmp_path_factory.mktemp("roomy")
    made = make_bundle(folder / "bundle", Trained(300).obtain(text), max_position_embeddings=128)
    fit(made, text, steps=8)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return challenge.write_challenge(tmp_path_factory.mktemp("challenge"), items=4)


def here(parcel: Any, _count: int, pieces: Any) -> Iterator[tuple[int, Any]]:
    """The workers' work without processes, the last piece first."""
    workers._begin(parcel)
    for piece in reversed(pieces):
        yield workers._good(workers._score(piece))


def batches(tokenizer: Any, seed: int = 0) -> Batches:
    return Batches(pseudo_likelihood.tokens(tokenizer, [*sentences(30, seed), *sentences(3, seed)]))


@pytest.fixture
def jobs(roomy: Path) -> list[workers.Job]:
    """Two of one model, one of another, and the first once more."""
    tokenizer = pseudo_likelihood.load_tokenizer(roomy)
    trained, blank = Kept.trained(roomy, tokenizer, "cpu"), Kept.untrained(roomy, tokenizer, "cpu", 0)
    one, other = batches(tokenizer), batches(tokenizer, 1)
    rows = [(trained, "one", one), (trained, "other", other), (blank, "blank", one), (trained, "again", one)]
    return [workers.Job(*row) for row in rows]


def test_two_workers_give_the_same_table_and_file_and_this_process_scores_nothing(
    roomy: Path, data: Path, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)  # each worker gets one, as this process has for itself
    shown: dict[str, tuple[int, int]] = {}
    with monkeypatch.context() as patch:
        patch.setattr(kept.Scorer, "batches", lambda *_: pytest.fail("the parent scored something"))
        found = official.evaluate(
            Request(roomy, data, COLUMNS, workers=2), lambda what, *done: shown.update({what: (done[0], done[1])})
        )
    fresh_cache.rename(fresh_cache.with_name("of_two"))
    alone = official.evaluate(Request(roomy, data, COLUMNS), lambda *_: None)
    assert found.columns == alone.columns
    assert json.dumps(found.submission) == json.dumps(alone.submission)
    assert set(shown) == {f"{key}{end}" for key in PARTS for end in ("", ", untrained")}
    assert all(done == total > 0 for done, total in shown.values())
    files = {path.name: path.read_bytes() for path in (fresh_cache / "scored").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (fresh_cache.with_name("of_two") / "scored").iterdir()}


def test_pieces_in_any_order_make_up_what_one_process_scores(
    jobs: list[workers.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces = workers._pieces(jobs, 2)
    assert len(pieces) > len(jobs)
    every = [(at, group) for at, job in enumerate(jobs) for group in range(len(job.batches.groups))]
    assert [each for piece in pieces for each in piece.groups] == every
    assert all(jobs[at].model.source == piece.source for piece in pieces for at, _ in piece.groups)
    monkeypatch.setattr(workers, "_local", here)
    told: list[tuple[str, int, int]] = []
    workers.score(jobs, 2, torch.get_num_threads(), lambda *each: told.append(each))
    assert [max(done for name, done, _ in told if name == what) for what in ("one", "other", "blank")] == [
        job.batches.total for job in jobs[:3]
    ]
    assert "again" not in {name for name, *_ in told}
    for job in jobs:
        expected = Scorer(job.model.source.model(), job.model._tokenizer).batches(job.batches)
        found = kept.read(job.model.path(job.batches), len(job.batches.place))
        assert found is not None
        assert found.tobytes() == expected.tobytes()
        assert len(np.unique(found)) > 20


def test_what_is_finished_is_not_repeated_and_nothing_is_started_for_nothing(
    jobs: list[workers.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[int] = []

    def counted(parcel: Any, count: int, pieces: Any) -> Iterator[tuple[int, Any]]:
        given.append(sum(len(piece.groups) for piece in pieces))
        for number, each in enumerate(here(parcel, count, pieces)):
            if number == len(pieces) // 2 and len(given) == 1:
                raise KeyboardInterrupt
            yield each

    monkeypatch.setattr(workers, "_local", counted)
    with pytest.raises(KeyboardInterrupt):
        workers.score(jobs, 2, 1, lambda *_: None)
    workers.score(jobs, 2, 1, lambda *_: None)
    workers.score(jobs, 2, 1, lambda *_: None)
    whole = sum(len(job.batches.groups) for job in jobs[:3])
    assert given[0] == whole
    assert 0 < given[1] < whole
    assert len(given) == 2


def test_what_fails_in_a_worker_is_told_in_a_line(
    jobs: list[workers.Job], roomy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_local", here)
    monkeypatch.setattr(jobs[0].model, "source", kept.Source(roomy / "gone"))
    with pytest.raises(ValueError, match=r"gone has no tokenizer of its own"):
        workers.score(jobs[:1], 2, 1, lambda *_: None)


def ends(_parcel: Any) -> None:
    os._exit(3)


def test_a_worker_that_ends_is_told_in_a_line(jobs: list[workers.Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_begin_here", ends)
    with pytest.raises(ValueError, match=r"^a worker ended, perhaps for want of memory: take fewer --workers$"):
        workers.score(jobs, 2, 1, lambda *_: None)


class FakePool:
    made: ClassVar[list[tuple[Any, ...]]] = []

    def __init__(self, count: int, begin: Any, arguments: tuple[Any, ...], ray_remote_args: dict[str, Any]) -> None:
        self.made.append((count, ray_remote_args))
        begin(*arguments)

    def imap_unordered(self, call: Any, pieces: Any, chunksize: int) -> Iterator[Any]:
        assert chunksize == 1
        return map(call, reversed(pieces))

    def terminate(self) -> None:
        self.made.append(("terminated",))


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A cluster of four CPUs that computes here."""
    found = SimpleNamespace(started=[], ended=0, cpus=4.0)

    def shutdown() -> None:
        found.ended += 1

    fake, pools = ModuleType("ray"), ModuleType("ray.util.multiprocessing")
    fake.__dict__.update(
        init=lambda **given: found.started.append(given),
        shutdown=shutdown,
        cluster_resources=lambda: {"CPU": found.cpus},
    )
    pools.__dict__.update(Pool=FakePool)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util.multiprocessing", pools)
    monkeypatch.setattr(workers.nodes, "reach", lambda _: None)
    monkeypatch.setattr(FakePool, "made", [])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return found


def test_a_cluster_that_is_named_does_the_work(jobs: list[workers.Job], ray: SimpleNamespace) -> None:
    workers.score(jobs, 2, 2, lambda *_: None)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert all(kept.read(job.model.path(job.batches), len(job.batches.place)) is not None for job in jobs)
    assert FakePool.made == [(2, {"num_cpus": 2}), ("terminated",)]
    (given,) = ray.started
    assert given["address"] == "10.0.0.1:6379"
    assert [Path(folder).name for folder in given["runtime_env"]["py_modules"]] == ["sweeper", "trainables"]
    assert ray.ended == 1


def test_a_cluster_without_enough_cpus_is_refused(jobs: list[workers.Job], ray: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match=r"^--workers 3 of 2 threads need 6 CPUs, the cluster has 4$"):
        workers.score(jobs, 3, 2, lambda *_: None)
    assert (FakePool.made, ray.ended) == ([], 1)


def test_a_cluster_that_is_not_there_is_told_in_a_line(
    jobs: list[workers.Job], ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.nodes, "reach", lambda _: (_ for _ in ()).throw(OSError("timed out")))
    with pytest.raises(ValueError, match=r"^cannot score on the cluster at RAY_ADDRESS=10.0.0.1:6379: .*timed out"):
        workers.score(jobs, 2, 1, lambda *_: None)
    assert ray.started == []


@pytest.mark.timeout(900)  # starts a Ray
def test_two_workers_of_a_real_cluster_write_what_one_process_writes(roomy: Path, data: Path, tmp_path: Path) -> None:
    def told(name: str, *more: str, **environment: str) -> dict[str, Any]:
        arguments = ["--task", f"official={data}", "--columns", "ewok,reading", "--predictions", str(tmp_path / name)]
        own = {**os.environ, "SWEEPER_CACHE": str(tmp_path / f"cache of {name}"), **environment}
        own["PYTHONPATH"] = os.pathsep.join(sys.path)
        command = [sys.executable, "-m", "trainables.evaluate", str(roomy), "--json", *arguments, *more]
        done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=600, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    with cluster.session():
        import ray

        address = ray.get_runtime_context().gcs_address
        clustered = told("two.json", "--threads", "2", "--workers", "2", RAY_ADDRESS=address)
    assert clustered == told("one.json", "--threads", "1")
    assert (tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers 0: must be 1 to 4, the --threads that they share"),
        (["--workers", "5"], "--workers 5: must be 1 to 4"),
        (["--workers", "2", "--device", "cuda:0"], "--workers 2 goes with --device cpu"),
        (["--task", "zorro=x", "--workers", "2"], "--workers goes with --task official=DIR"),
    ],
)
def test_bad_numbers_are_refused_in_a_line(
    roomy: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = [] if "--task" in arguments else ["--task", "official=x"]
    assert evaluate.main([str(roomy), "--threads", "4", *task, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
