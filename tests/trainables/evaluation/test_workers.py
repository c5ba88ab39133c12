"""Several processes find what one finds, to the bit; what is finished is not repeated; what fails is told in a line."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

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
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    threads = torch.get_num_threads()
    yield tmp_path / "cache"
    torch.set_num_threads(threads)


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


def here(rows: Any, terms: Any, _count: int, pieces: Any) -> Iterator[tuple[int, Any]]:
    """The workers' work without processes, the last piece first."""
    worker = workers._Worker(rows, terms)
    for piece in reversed(pieces):
        yield workers._good(worker.score(piece))


def batches(tokenizer: Any, seed: int = 0, count: int = 30) -> Batches:
    return Batches(pseudo_likelihood.tokens(tokenizer, [*sentences(count, seed), *sentences(3, seed)]))


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
        patch.setattr(kept.Source, "model", lambda *_: pytest.fail("the parent loaded something"))
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
    _, pieces = workers._divided(jobs, 2)
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

    def counted(rows: Any, terms: Any, count: int, pieces: Any) -> Iterator[tuple[int, Any]]:
        given.append(sum(len(piece.groups) for piece in pieces))
        for number, each in enumerate(here(rows, terms, count, pieces)):
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
    monkeypatch.setattr(jobs[0].model, "source", kept.Source(roomy / "gone", b""))
    with pytest.raises(ValueError, match=r"gone is not a bundle: no config.json$"):
        workers.score(jobs[:1], 2, 1, lambda *_: None)


@pytest.mark.parametrize("seed", [None, 0])
def test_another_model_at_the_same_path_is_refused(
    seed: int | None, roomy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_local", here)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(roomy, "mine")
    tokenizer = pseudo_likelihood.load_tokenizer(roomy)
    mine = Path("mine")
    model = Kept.trained(mine, tokenizer, "cpu") if seed is None else Kept.untrained(mine, tokenizer, "cpu", seed)
    assert model.source.folder == tmp_path / "mine"
    config = json.loads((mine / "config.json").read_text("utf-8"))
    (mine / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-5}), "utf-8")
    job = workers.Job(model, "one", batches(tokenizer))
    with pytest.raises(ValueError, match=r"mine on \S+ is not the model that was asked for: leave the folder as it is"):
        workers.score([job], 2, 1, lambda *_: None)
    assert kept.read(model.path(job.batches), len(job.batches.place)) is None


def test_other_libraries_are_refused(jobs: list[workers.Job]) -> None:
    rows, pieces = workers._divided(jobs, 2)
    number, told = workers._Worker(rows, workers._Terms(1, "torch 1.0, transformers 2.0")).score(pieces[0])
    assert number == 0
    assert isinstance(told, str)
    assert f"has {kept.libraries()} in place of torch 1.0, transformers 2.0, which would give other scores" in told
    assert torch.__version__ in kept.libraries()


def test_tokens_are_hidden_by_the_mask_of_the_rows_tokenizer(
    roomy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_local", here)
    shutil.copytree(roomy, tmp_path / "checkpoint")
    path = tmp_path / "checkpoint" / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"mask_token": "[UNK]"}), "utf-8")
    tokenizer = pseudo_likelihood.load_tokenizer(roomy)
    assert pseudo_likelihood.load_tokenizer(path.parent).mask_token_id != tokenizer.mask_token_id
    job = workers.Job(Kept.trained(path.parent, tokenizer, "cpu"), "one", batches(tokenizer))
    workers.score([job], 2, torch.get_num_threads(), lambda *_: None)
    found = kept.read(job.model.path(job.batches), len(job.batches.place))
    assert found is not None
    assert found.tobytes() == Scorer(job.model.source.model(), tokenizer).batches(job.batches).tobytes()


def test_a_row_beyond_the_positions_is_told_as_one_process_tells_it(
    roomy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = pseudo_likelihood.load_tokenizer(roomy)
    rows = Batches(pseudo_likelihood.tokens(tokenizer, ["ba " * 20, "ba " * 200]))
    job = workers.Job(Kept.trained(roomy, tokenizer, "cpu"), "long", rows)
    with pytest.raises(ValueError, match=r"^a sentence of \d+ tokens exceeds 128 positions$") as alone:
        job.model(rows)
    monkeypatch.setattr(workers, "_local", here)
    with pytest.raises(ValueError, match=f"^{alone.value}$"):
        workers.score([job], 2, 1, lambda *_: None)


class Begins:
    """What new processes do in place of `workers._begin`."""

    @staticmethod
    def ends(_path: Path, _terms: Any) -> None:
        os._exit(3)

    @staticmethod
    def stalls(_path: Path, _terms: Any) -> None:
        """The first piece fails, every other takes ten minutes."""

        def score(piece: Any) -> tuple[int, str]:
            if piece.number:
                time.sleep(600)
            return piece.number, "the first fails"

        workers._here = SimpleNamespace(score=score)  # pyright: ignore[reportAttributeAccessIssue]


ENDED = r"^a worker ended, perhaps for want of memory: take fewer --workers$"


def test_a_worker_that_ends_is_told_in_a_line(jobs: list[workers.Job], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_begin", Begins.ends)
    with pytest.raises(ValueError, match=ENDED):
        workers.score(jobs, 2, 1, lambda *_: None)


@pytest.mark.timeout(60)
def test_a_worker_that_ends_before_it_reads_what_it_is_given_is_told_too(roomy: Path) -> None:
    tokenizer = pseudo_likelihood.load_tokenizer(roomy)
    job = workers.Job(Kept.trained(roomy, tokenizer, "cpu"), "many", batches(tokenizer, count=2000))
    rows, _ = workers._divided([job], 2)
    assert sum(each.nbytes for each in rows.values()) > 2**16  # bytes that a pipe holds
    usual = multiprocessing.spawn.get_executable()
    multiprocessing.resource_tracker.ensure_running()  # it is started by the same name
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(ValueError, match=ENDED):
            workers.score([job], 2, 1, lambda *_: None)
    finally:
        multiprocessing.set_executable(usual)


def test_one_that_ends_while_the_next_is_started_is_told_too(
    jobs: list[workers.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> None:
        raise OSError("handle is closed")

    monkeypatch.setattr(workers.ProcessPoolExecutor, "submit", closed)
    with pytest.raises(ValueError, match=ENDED):
        workers.score(jobs, 2, 1, lambda *_: None)


def test_after_an_error_nothing_goes_on(
    jobs: list[workers.Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_begin", Begins.stalls)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"^the first fails$"):
        workers.score(jobs, 2, 1, lambda *_: None)
    assert multiprocessing.active_children() == []
    assert list(tmp_path.glob("rows-*")) == []


class Lost(Exception):
    pass


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A cluster of two nodes of two CPUs, and one that is gone, which computes here."""
    found = SimpleNamespace(started=[], begun=[], ended=0, cpus=[2.0, 2.0], waits=0, fails=None)

    def shutdown() -> None:
        found.ended += 1

    def far(worker: Any) -> SimpleNamespace:
        return SimpleNamespace(ready=SimpleNamespace(remote=worker.ready), score=SimpleNamespace(remote=worker.score))

    def remote(**options: Any) -> Any:
        def begin(*given: Any) -> SimpleNamespace:
            found.begun.append(options)
            return far(kind[0](*given))

        kind: list[Any] = []
        return lambda given: kind.append(given) or SimpleNamespace(remote=begin)

    class Pool:
        def __init__(self, members: list[Any]) -> None:
            self.members = members

        def map_unordered(self, call: Any, pieces: list[Any]) -> Iterator[Any]:
            for number, piece in enumerate(reversed(pieces)):
                if found.fails and number == 1:
                    raise found.fails
                yield call(self.members[number % len(self.members)], piece)

    fake, util = ModuleType("ray"), ModuleType("ray.util")
    fake.__dict__.update(
        init=lambda **given: found.started.append(given),
        shutdown=shutdown,
        nodes=lambda: (
            [{"Alive": True, "Resources": {"CPU": each} if each else {}} for each in found.cpus]
            + [{"Alive": False, "Resources": {"CPU": 64.0}}]
        ),
        put=lambda given: given,
        get=lambda given: given,
        wait=lambda given, num_returns, timeout: (given[found.waits :], given[: found.waits]),
        remote=remote,
    )
    util.__dict__.update(ActorPool=Pool)
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.util", util)
    monkeypatch.setattr(workers.nodes, "reach", lambda _: None)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    return found


def test_a_cluster_that_is_named_does_the_work(
    jobs: list[workers.Job], ray: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    workers.score(jobs, 2, 2, lambda *_: None)
    assert torch.get_num_threads() == 2
    assert all(kept.read(job.model.path(job.batches), len(job.batches.place)) is not None for job in jobs)
    assert ray.begun == [{"num_cpus": 2}] * 2
    (given,) = ray.started
    assert given["address"] == "10.0.0.1:6379"
    assert [Path(folder).name for folder in given["runtime_env"]["py_modules"]] == ["sweeper", "trainables"]
    assert ray.ended == 1
    assert capsys.readouterr().err == ""


def test_a_wait_for_cpus_is_told_in_a_line(
    jobs: list[workers.Job], ray: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    ray.waits = 1
    workers.score(jobs, 2, 1, lambda *_: None)
    assert "waiting for 1 of 2 workers: the cluster has no CPUs free, or is slow" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cpus", "threads", "message"),
    [
        ([2.0, 2.0], 2, "3 workers of 2 threads each: the cluster has room for 2: take --workers 2 --threads 4"),
        ([2.0] * 4, 3, "3 workers of 3 threads each: no node has more than 2 CPUs: take --threads 6 or fewer"),
        ([0.0], 1, "3 workers of 1 threads each: no node of the cluster has a CPU: start nodes with CPUs, or unset"),
    ],
)
def test_a_cluster_without_enough_cpus_is_refused(
    cpus: list[float], threads: int, message: str, jobs: list[workers.Job], ray: SimpleNamespace
) -> None:
    ray.cpus = cpus
    with pytest.raises(ValueError, match=f"^{re.escape(message)}"):
        workers.score(jobs, 3, threads, lambda *_: None)
    assert (ray.begun, ray.ended) == ([], 1)


def test_a_lost_worker_is_told_in_a_line(jobs: list[workers.Job], ray: SimpleNamespace) -> None:
    ray.fails = Lost("The actor died.\n  Its node at ray://me:open-sesame@10.0.0.2 is gone.")
    with pytest.raises(ValueError, match=r"^a process of the cluster was lost: run the same command again") as told:
        workers.score(jobs, 2, 1, lambda *_: None)
    assert "The actor died. Its node" in str(told.value)
    assert "open-sesame" not in str(told.value)
    assert ray.ended == 1


@pytest.mark.parametrize("address", ["10.0.0.1:6379", "ray://me:open-sesame@10.0.0.1:6379"])
def test_a_cluster_that_is_not_there_is_told_in_a_line(
    address: str, jobs: list[workers.Job], ray: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(_address: str) -> None:
        raise OSError(f"timed out\nat {address}")

    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(workers.nodes, "reach", reach)
    with pytest.raises(ValueError, match=r"^cannot score on the cluster at RAY_ADDRESS=\S+: start.*timed out") as told:
        workers.score(jobs, 2, 1, lambda *_: None)
    assert "10.0.0.1:6379" in str(told.value)
    assert not any(each in str(told.value) for each in ("open-sesame", "\n"))
    assert ray.started == []


SCORES_NOTHING = """
import sys
from trainables import evaluate
from trainables.evaluation import kept

def fail(*_):
    raise AssertionError("the process that asks loaded or scored something")

kept.Source.model = kept.Scorer.group = kept.Scorer.batches = fail
sys.exit(evaluate.main(sys.argv[1:]))
"""


@pytest.mark.timeout(900)  # starts a Ray
def test_workers_of_a_real_cluster_write_what_one_process_writes(roomy: Path, data: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    alone = official.evaluate(Request(roomy, data, ("reading",)), lambda *_: None)
    with cluster.session():
        import ray

        own = {**os.environ, "SWEEPER_CACHE": str(tmp_path / "another"), "PYTHONPATH": os.pathsep.join(sys.path)}
        own["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
        arguments = ["--task", f"official={data}", "--columns", "reading", "--predictions", str(tmp_path / "told.json")]
        shared = ["--threads", "2", "--workers", "2", "--json"]
        command = [sys.executable, "-c", SCORES_NOTHING, str(roomy), *arguments, *shared]
        done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    column = alone.columns["reading"]
    assert column is not None
    assert json.loads(done.stdout)["columns"]["reading"] == asdict(column)
    assert (tmp_path / "told.json").read_text("utf-8") == json.dumps(alone.submission)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers", "0"], "--workers 0: must be 1 to 4, the --threads that they share"),
        (["--workers", "5"], "--workers 5: must be 1 to 4"),
        (["--workers", "2", "--device", "cuda:0"], "--workers 2 goes with --device cpu"),
        (["--workers", "2", "--threads", "0"], "--threads 0: must be 1 to 1024"),
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


def test_several_processes_on_a_gpu_are_refused_from_python_too(roomy: Path, data: Path) -> None:
    with pytest.raises(ValueError, match=r"^--workers 2 goes with --device cpu: one process keeps a GPU busy$"):
        official.evaluate(Request(roomy, data, COLUMNS, workers=2, device="cuda:0"), lambda *_: None)
