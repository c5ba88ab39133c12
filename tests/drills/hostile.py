"""Run folders as if a stranger had sent them, with something changed, through the commands that read them.

Each command runs in a forked child under watch (`watched`) beside a private file, a victim's folder and a home, none
of which it may touch. What is changed stands in `damage`, what is sent in `received`. A run that has something left to
do gets no Ray, but for one in `--earnest-every`. `--only K` tries one case alone, and shows what its commands print.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import functools
import importlib
import io
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drills import damage, received, watched
from tests.drills.outage import ROOT
from tests.drills.received import Seed

STATUSES = (0, 1, 2, 3, 4, 130)
FORMS = ("as it is", "made anew", "trusted")
TRUST = "--trust-record"
LONGEST = 4000  # characters of a refusal
EARNEST_S = 240.0
NEIGHBOUR = "other-00000000"
REPORTS = ("report.md", "report.html", "results.csv", "table.tex")
SAME = ("status", "dry-run", "evaluate")  # these change nothing in the run folder
ALL = ("status", "report", "dry-run", "resume", "evaluate")
BY_PART = {
    "untouched": ALL,
    "checkpoints": ("status", "report", "trial", "resume", "evaluate"),
    "bundle": ("evaluate", "report", "resume"),
    "beside": ALL,
}
USUAL = ("status", "report", "dry-run", "resume")


@dataclass(frozen=True)
class Fault:
    """What a command did that it must not. kind: as it is counted."""

    command: str
    kind: str
    line: str


@dataclass(frozen=True)
class Bench:
    """What all cases share. folder: of the seeds, the tasks and the cache."""

    folder: Path
    seeds: Mapping[str, Seed]
    tasks: Path
    seed: int
    earnest_every: int
    shown: bool = False


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=2000, help="mutated run folders (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, metavar="K", help="this one alone, with what its commands print")
    parser.add_argument("--part", help="only damage of this part, such as journal")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no case after so long (60)")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="at the same time")
    parser.add_argument("--earnest-every", type=int, default=250, help="one run in so many with Ray (250; 0: none)")
    parser.add_argument("--quick", action="store_true", help="run folders that are made without Ray")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts of faults by kind and by damage, with the first cases of each."""
    begin = time.monotonic()
    numbers = [options.only] if options.only is not None else range(options.runs)
    kinds = [name for name, kind in damage.KINDS.items() if options.part in (None, kind.what)]
    with bench(options.seed, options.quick, options.earnest_every, options.only is not None) as shared:
        rows = list(_tried(shared, numbers, kinds, options.jobs, time.monotonic() + 60 * options.minutes))
    return {**told(rows), "seconds": round(time.monotonic() - begin)}


def told(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures. rows: of `tried`."""
    faults = [(row, fault) for row in rows for fault in row["faults"]]
    kinds, damages = Counter(fault.kind for _, fault in faults), Counter(row["damage"] for row in rows)
    bad = Counter(row["damage"] for row in rows if row["faults"])
    first: dict[str, list[str]] = {}
    for row, fault in faults:
        shown = first.setdefault(fault.kind, [])
        if len(shown) < 5:
            shown.append(f"{row['number']} ({row['damage']}, {row['form']}) {fault.command}: {fault.line[:300]}")
    return {
        "held": not faults,
        "runs": len(rows),
        "faults": len(faults),
        "faulty_runs": sum(bad.values()),
        "by_kind": dict(kinds.most_common()),
        "by_damage": {name: {"runs": count, "faulty": bad[name]} for name, count in sorted(damages.items())},
        "statuses": dict(Counter(status for row in rows for status in row["statuses"])),
        "first": first,
    }


@contextlib.contextmanager
def bench(seed: int, quick: bool = False, earnest_every: int = 0, shown: bool = False) -> Iterator[Bench]:
    """With all that the commands import loaded in this process, so that a forked child has it."""
    from tests.trainables.tiny import write_corpus

    with _place() as folder:
        corpus = write_corpus(folder)
        seeds = (received.quick if quick else received.real)(folder / "seeds", corpus)
        shutil.rmtree(folder / "cache" / "begun", ignore_errors=True)  # these runs are strangers'
        rows = [{"sentence_good": "ba ne", "sentence_bad": "ne ba"}]
        tasks = folder / "pairs.jsonl"
        tasks.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        made = Bench(folder, {one.name: one for one in seeds}, tasks, seed, earnest_every, shown)
        _warm(
            made, [("report", "toy"), ("resume", "toy"), *((name, "mlm") for name in ("dry-run", "trial", "evaluate"))]
        )
        yield made


@contextlib.contextmanager
def records(seed: int) -> Iterator[Bench]:
    """A bench of records alone, without models, made in a moment."""
    with _place() as folder:
        seeds = received.quick(folder / "seeds", None)
        from sweeper.report import write
        from sweeper.trials import cluster

        cluster.isolate()
        with contextlib.redirect_stdout(io.StringIO()):
            write.main([str(seeds[0].put(folder / "first"))])  # what it loads, forked children have
        yield Bench(folder, {one.name: one for one in seeds}, folder, seed, 0)


@contextlib.contextmanager
def _place() -> Iterator[Path]:
    """A folder for all of it, with a cache, and an environment that leads nowhere else."""
    import pytest

    with tempfile.TemporaryDirectory(prefix="hostile-") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name).resolve()
        patch.setenv("SWEEPER_CACHE", str(folder / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        for ours in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI", "XDG_CACHE_HOME"):
            patch.delenv(ours, raising=False)
        patch.setattr(sys, "dont_write_bytecode", True)
        yield folder


def _tried(shared: Bench, numbers: Sequence[int], kinds: list[str], jobs: int, end: float) -> Iterator[dict[str, Any]]:
    """The rows, in order. end: by the monotonic clock, after which no further case begins."""
    if jobs <= 1 or len(numbers) == 1:
        yield from (tried(shared, number, kinds) for number in numbers if time.monotonic() < end)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("fork")) as pool:
        waiting, seen = [pool.submit(_in_time, shared, number, kinds, end) for number in numbers], Counter[str]()
        for count, one in enumerate(waiting, 1):
            if row := one.result():
                seen.update(fault.kind for fault in row["faults"])
                yield row
            if not count % 100:
                print(f"{count} of {len(waiting)}: {dict(seen)}", file=sys.stderr, flush=True)


def _in_time(shared: Bench, number: int, kinds: Sequence[str], end: float) -> dict[str, Any] | None:
    return tried(shared, number, kinds) if time.monotonic() < end else None


def tried(shared: Bench, number: int, kinds: Sequence[str], commands: Sequence[str] | None = None) -> dict[str, Any]:
    """One case: a seed is put into a new storage, damaged, and shown to the commands; what each did wrong."""
    draw = random.Random(f"{shared.seed} {number}")
    name = kinds[number % len(kinds)]
    kind = damage.KINDS[name]
    seed = shared.seeds.get(draw.choice(kind.seeds)) or next(iter(shared.seeds.values()))
    earnest = bool(shared.earnest_every) and number % shared.earnest_every == shared.earnest_every - 1
    if earnest:
        seed = shared.seeds["unfinished"]
    arena = Arena(shared.folder / f"arena-{os.getpid()}", draw)
    run_dir = seed.put(arena.storage)
    forms = [form for form in FORMS if form != FORMS[1] or damage.chains()]
    case = damage.Case(run_dir, arena.outside, arena.work, draw.choice(forms))
    kind.do(case, draw)
    faults: list[Fault] = []
    statuses: list[int | None] = []
    try:
        for command in commands or BY_PART.get(kind.what, USUAL):
            found, status = _checked(shared, arena, case, command, draw, earnest)
            faults += found
            statuses.append(status)
        faults += [Fault("any", "private text is in it", line) for line in arena.spilled(case)]
    finally:
        arena.close()
    return {
        "number": number,
        "damage": name,
        "form": case.form,
        "seed": seed.name,
        "statuses": statuses,
        "faults": faults,
    }


class Arena:
    """A storage with a neighbour in it, and around it what is none of a run's business; all of it for one case."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.secret = f"CANARY{draw.getrandbits(128):032x}"
        self.storage, self.outside, self.work = folder / "storage", folder / "outside", folder / "work"
        self.home, self.temporary, self.scratch = folder / "home", folder / "tmp", folder / "scratch"
        for made in (self.work, self.temporary, self.scratch):
            made.mkdir(parents=True)
        private = [self.outside / "private.txt", self.outside / "victim" / "kept.txt", self.home / ".ssh" / "id"]
        private += [self.outside / "victim" / ".ssh" / "id", self.storage / NEIGHBOUR / "notes.txt"]
        for path in private:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{self.secret}\n", "utf-8")
        self.untouchable = watched.Untouchables({path.parent for path in private})

    def bounds(self, case: damage.Case, shared: Bench, ray: bool = False) -> watched.Bounds:
        """What a reader's commands need beside the run folder: the store, the cache, the data, temporary files."""
        store = [str(self.storage / f"{received.STORE}*"), str(self.storage / f".{received.STORE}-*")]
        real = case.run_dir.resolve()
        caches = [str(self.home / name) for name in (".cache", ".config")]
        writes = (str(case.run_dir), str(real), *store, str(self.storage / received.ARTIFACTS), *caches)
        writes += (str(self.temporary), str(shared.folder / "cache"))
        reads = (str(shared.tasks), str(shared.folder / "corpus.txt"))
        reads += tuple(str(storage / ".address") for storage in (self.storage, self.work / "runs"))  # the default, too
        writes += ("/tmp/sw-*", "/dev/shm") if ray else ()
        return watched.Bounds(real, reads, writes, ray)

    def spilled(self, case: damage.Case) -> list[str]:
        """Files of the storage that have the private text in them; not links to it."""
        files = (path for path in _files(self.storage) if NEIGHBOUR not in path.parts)
        return [str(path.relative_to(self.storage)) for path in files if self.secret.encode() in path.read_bytes()]

    def close(self) -> None:
        self.untouchable.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _files(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if path.is_file() and not path.is_symlink():
                yield path


def _checked(
    shared: Bench, arena: Arena, case: damage.Case, name: str, draw: random.Random, earnest: bool
) -> tuple[list[Fault], int | None]:
    """What one command did wrong, and its exit status."""
    if name == "evaluate" and case.bundle is None:
        case.find_bundle(draw)
    call = _fresh(shared, case, name) if case.fresh else _call(shared, arena, case, name, draw, earnest)
    before = state(case.run_dir)
    arena.untouchable.touched()
    real = earnest and name == "resume"
    found = watched.command(
        call,
        arena.bounds(case, shared, real),
        arena.scratch,
        case.cwd,
        EARNEST_S if real else watched.WALL_S,
        limited=not (real or case.fresh),
    )
    after = state(case.run_dir)
    lines = [*found.done, *arena.untouchable.touched()]
    if shared.shown:
        shown = f"{case.form}, status {found.status}, {found.seconds:.2f} s\n{found.out}{found.err}"
        print(f"--- {name} {str(case.run_dir)!a}: {shown!a}".replace("\\n", "\n"), file=sys.stderr)
    faults = [Fault(name, line.partition(":")[0], line) for line in lines]
    faults += [Fault(name, kind, line) for kind, line in judged(name, found)]
    faults += [Fault(name, kind, line) for kind, line in _told_wrongly(case.run_dir, before, after)]
    if name in SAME and before != after:
        differs = sorted(
            ascii(path) for path in before.keys() ^ after.keys() or before if before.get(path) != after.get(path)
        )
        faults.append(Fault(name, "changed the record", ", ".join(differs[:3])))
    ran = list(case.run_dir.rglob("ran-*")) if case.run_dir.exists() else []
    if ran or "HOSTILE code of" in found.err:
        faults.append(Fault(name, "code of the folder ran", ran[0].name if ran else ""))
    for path in ran:
        path.unlink()
    for left in sorted(arena.temporary.iterdir()):
        faults.append(Fault(name, "left behind", left.name))
        shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink()
    return faults, found.status


def judged(name: str, found: watched.Outcome) -> Iterator[tuple[str, str]]:
    """What is wrong with how a command ended and with what it printed."""
    last = next((line for line in reversed(found.err.splitlines()) if line.strip()), "")
    if found.status is None:
        what = f"signal {found.signal}" if found.signal else f"{found.seconds:.0f} s"
        yield ("died" if found.signal else "no end"), f"{what}: {last}"
        return
    if "Traceback (most recent call last)" in found.err + found.out:
        yield "traceback", last
    elif found.status not in STATUSES:
        yield "exit status", f"{found.status}: {last}"
    elif found.status == 2:
        lines = found.err.splitlines()
        refusals = [line for line in lines if line.startswith("error: ")]
        alone = name == "resume" or name == "dry-run" or len(lines) == 1  # a start may say more before
        if len(refusals) != 1 or not alone or lines[-1] != refusals[0] or len(lines) > 5:
            yield "refused in more or less than a line", f"{len(lines)} lines: {last}"
        elif len(last) > LONGEST:
            yield "refused at length", f"{len(last)} characters: {last[:100]}"
    for stream, text in (("stdout", found.out), ("stderr", found.err)):
        if steers := watched.steering(text):
            line = next(line for line in text.split("\n") if watched.steering(line))
            yield "escape sequence", f"{steers} on {stream}: {line[:200]!a}"


def _told_wrongly(run_dir: Path, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What reports have in them that is meant for a terminal, a browser or a spreadsheet."""
    for name in REPORTS:
        path = run_dir / name
        if before.get(name) == after.get(name) or not path.is_file() or path.is_symlink():
            continue
        text = path.read_text("utf-8", errors="surrogateescape")
        shown = re.sub("<script.*?</script>", "", text, flags=re.DOTALL) if name.endswith(".html") else text
        if steers := watched.steering(shown.replace("\r\n", "\n")):
            yield "escape sequence in a report", f"{steers} in {name}"
        if name == "report.html" and (raw := re.search(r"<(script|img|svg)\b[^>]*HOSTILE|<script>HOSTILE", text)):
            yield "markup in a report", raw[0][:100]
        if name == "results.csv":
            for cell in (cell for row in csv.reader(io.StringIO(text)) for cell in row):
                if cell[:1] in ("=", "@", "\t", "\r") or (cell[:1] in ("+", "-") and not _number(cell)):
                    yield "formula in a report", cell[:100]
                    break


def _number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return cell == "-"
    return True


def state(folder: Path) -> dict[str, tuple[int, ...]]:
    """What there is, by path: kind, size and time of the last change; nothing is opened."""
    found = {}
    for root, folders, names in os.walk(folder):
        for name in (*folders, *names):
            path = os.path.join(root, name)
            with contextlib.suppress(OSError):
                seen = os.lstat(path)
                folder_too = (
                    (seen.st_mode,) if name in folders else (seen.st_mode, seen.st_size, seen.st_mtime_ns, seen.st_ino)
                )
                found[os.path.relpath(path, folder)] = folder_too
    return found


# The commands.


def _arguments(shared: Bench, case: damage.Case, name: str, plain: bool) -> list[str]:
    folder = str(case.run_dir)
    match name:
        case "status" | "report":
            return [folder]
        case "dry-run":
            return [f"{folder}/spec.yaml", "--dry-run"] if plain else ["--resume", folder, "--dry-run", "--json"]
        case "resume":
            return ["--resume", folder, "--yes"]
        case "trial":
            return []
    return [str(case.bundle), "--task", f"blimp={shared.tasks}", "--threads", "1", "--json"]


def _call(
    shared: Bench, arena: Arena, case: damage.Case, name: str, draw: random.Random, earnest: bool
) -> Callable[[], Any]:
    arguments = _arguments(shared, case, name, draw.random() < 0.3)
    if case.form == "trusted" and _trusts(name):
        arguments.append(TRUST)

    def call() -> Any:
        os.environ.update(HOME=str(arena.home), TMPDIR=str(arena.temporary), COLUMNS="120")
        tempfile.tempdir = None
        shutil.rmtree(shared.folder / "cache" / "begun", ignore_errors=True)  # what other cases went on with
        sys.path[:] = [path for path in sys.path if path not in ("", str(ROOT))] + [str(ROOT)]
        sys.path.insert(0, str(case.cwd))  # as `python -m` has it
        if name == "resume" and not earnest:
            _without_ray()
        return _gone_on(case) if name == "trial" else _main(name)(arguments)

    return call


def _gone_on(case: damage.Case) -> int:
    """What the process of a trial does when a sweep is resumed: go on from its checkpoints, up to its next report.

    A trial that fails says so on stderr, as its sweep would note it; that is no harm.
    """
    from ray import tune

    from sweeper.journal.journal import Journal
    from sweeper.search.searchers import expected_rows
    from sweeper.spec.load import load
    from sweeper.trials import trial, tuner

    spec, journal = load(case.spec), Journal(case.journal, read_only=True)
    folders = {path.parent.parent.parent.name for path in damage.manifests(case)}
    record = next((one for one in journal.trials.values() if one.id in folders), None)
    if record is None:
        return 0
    own = {"id": record.id, "seed": record.ask.seed, "config": record.ask.config, "test": False, "evaluate": {}}

    def reported(_: Any) -> None:
        raise KeyboardInterrupt

    tune.report = reported
    try:
        trial.run({**tuner.shared(spec, case.run_dir), **own, "expected": expected_rows(spec, record)})
    except KeyboardInterrupt:
        return 0
    except Exception as error:
        print(f"error: {type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _main(name: str) -> Callable[[list[str]], Any]:
    from sweeper import run, status
    from sweeper.report import write
    from trainables import evaluate

    return {"status": status.main, "report": write.main, "evaluate": evaluate.main}.get(name, run.main)


@functools.cache
def _trusts(name: str) -> bool:
    """Whether the command knows the option in this version."""
    if name not in USUAL:
        return False
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        _main(name)(["--help"])
    return TRUST in out.getvalue()


def _without_ray() -> None:
    """A Ray that does not start is told in a line, and the run stays as it is."""
    from sweeper.system import nodes
    from sweeper.trials import cluster

    def session(*_: Any, **__: Any) -> Any:
        raise nodes.NotStarted("there is no Ray in this drill")

    cluster.session = session


def _fresh(shared: Bench, case: damage.Case, name: str) -> Callable[[], Any]:
    """In a Python of its own, as people call it."""
    module = {"status": "sweeper.status", "report": "sweeper.report", "evaluate": "trainables.evaluate"}
    arguments = _arguments(shared, case, name, plain=False)
    command = [sys.executable, "-m", module.get(name, "sweeper.run"), *arguments]

    def call() -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "RAY_ADDRESS": ""}
        os.execve(sys.executable, command, environment)

    return call


def _warm(shared: Bench, calls: Sequence[tuple[str, str]]) -> None:
    """Load here what the commands load with these seeds, as children of this process tell."""
    from sweeper.trials import cluster

    cluster.isolate()
    listed = shared.folder / "modules"
    for name, seed in calls:
        draw = random.Random(0)
        arena = Arena(shared.folder / "arena-warm", draw)
        case = damage.Case(shared.seeds[seed].put(arena.storage), arena.outside, arena.work, FORMS[0])
        case.find_bundle(draw)
        call = _call(shared, arena, case, name, draw, earnest=False)

        def listing(call: Callable[[], Any] = call) -> None:
            call()
            listed.write_text("\n".join(sys.modules), "utf-8")

        bounds = watched.Bounds(case.run_dir, ("/",), ("/",))
        done = watched.command(listing, bounds, arena.scratch, case.cwd, 300, limited=False)
        arena.close()
        if not listed.exists():
            raise RuntimeError(f"{name} of an unchanged {seed}: {done.status}: {done.err[-2000:]}")
        for module in listed.read_text("utf-8").split():
            if module not in sys.modules and module != "__main__":
                with contextlib.suppress(Exception):
                    importlib.import_module(module)
        listed.unlink()
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
