"""Run folders: STORAGE/NAME-HASH8[-2…], one for each plain call, found again by the hash of their spec.

If STORAGE is in an object store, they are the folders of its mirror on this machine.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import stat
from collections.abc import Iterator
from importlib.machinery import all_suffixes
from itertools import count
from pathlib import Path

from filelock import Timeout

from sweeper import in_record
from sweeper.journal import object_store
from sweeper.journal.journal import Journal
from sweeper.journal.recorded import trainable_stub as recorded_of
from sweeper.spec import asides
from sweeper.spec.errors import ConfigError
from sweeper.spec.load import load, recorded
from sweeper.spec.spec import SweepSpec
from sweeper.system import files, nodes
from sweeper.system.secrecy import redact
from sweeper.trainable import shipped

SPEC, JOURNAL = object_store.SPEC, object_store.JOURNAL
SCRATCH, BEGUN, TRUNKS = ".tune", "begun", "trunks"
LOCK = ".lock"
MORE = "search.trials"  # a run may go on with more of them
# Settings that move no number of a trial: a run may go on with others.
FREE = (
    *("limits.", "tracking.", "reuse.", "resources.concurrency", "resources.max_failures", "resources.placement"),
    *asides.KEYS,
)
REPORTS = ("report.md", "report.html", "results.csv", "table.tex", "setup.tex", "methods.tex")
FIGURES = "figures"  # the folder of the report's figures, for a paper
NEWEST = Path("\0newest")  # resume the newest run of the spec; no folder can have this name


def here(given: str | None, resume: str | Path | None) -> tuple[Path | None, Path | None]:
    """`--storage` and `--resume` as folders of this machine. Raises ValueError, in one line, for a bad address."""
    if isinstance(resume, str) and object_store.is_address(resume):
        parent, name = object_store.Address(resume).split()
        folder = object_store.mirror(parent)
        run_dir = files.inside(folder, name)
        with _reached(f"--resume {redact(resume)}"):
            object_store.fetch(run_dir)
        return folder, run_dir
    found = Path(resume) if resume is not None else None
    if given is not None and object_store.is_address(given):
        return object_store.mirror(given), found
    return Path(given) if given is not None else None, found


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Hold a run's lock, so that nothing else drives it. Raises ConfigError, in one line, if something does."""
    try:
        with files.locked(run_dir / LOCK, 0.5):
            yield
    except Timeout:
        raise ConfigError((), f"another sweep is running in {run_dir}") from None


def storage(given: Path | None, resume: Path | None) -> Path:
    """Where run folders lie, absolute. Raises ValueError in one line if they cannot lie there."""
    named, chosen = ("--resume", resume.parent) if resume and resume != NEWEST else ("--storage", given or Path("runs"))
    if nodes.submitted() and not chosen.is_absolute():
        raise ValueError(f"--storage {chosen}: a submitted job's own folder is temporary; name an absolute one")
    with _reached(named):
        chosen = chosen.resolve()
        try:
            str(chosen).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{named} {chosen}: its name is not UTF-8, which Ray and MLflow need") from None
        existing = next(path for path in (chosen, *chosen.parents) if path.exists())
        folder = existing.is_dir()
    if not folder or not os.access(existing, os.W_OK | os.X_OK):
        raise ValueError(f"{named} {chosen}: {existing} is not a folder that can be written to")
    return chosen


def find_run(parent: Path, spec: SweepSpec, resume: Path | None) -> Path | None:
    """The run to resume, or None for a new one. Raises ValueError in one line."""
    if resume is None:
        return None
    if resume == NEWEST:
        newest = next(iter(runs(parent, spec)), None)
        if newest:
            _tidy(newest)
        return newest
    with _reached("--resume"):
        folder = resume.resolve()
        there = (folder / SPEC).is_file()
    if not there:
        raise ValueError(f"--resume {folder}: not a run folder, it has no {SPEC}")
    found = recorded(folder / SPEC)
    if spec.spec_hash not in (found.spec_hash, _hash_now(folder, spec, found)) and not extends(found, spec):
        raise ValueError(
            f"--resume {folder}: it holds another run, {found.spec_hash[:8]}, and this spec is "
            f"{spec.spec_hash[:8]}; resume it with {folder / SPEC}"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError(f"--resume {folder}: the folder is not writable")
    _tidy(folder)
    return folder


def extends(old: SweepSpec, new: SweepSpec) -> bool:
    """Whether a run of one spec may go on with another: no number of its trials so far would be different."""
    changed = old.changed(new)
    fewer = (new.search.trials or 0) < (old.search.trials or 0)
    return not fewer and all(path == MORE or path.startswith(FREE) for path in changed)


def refuse_extension(journal: Journal, old: SweepSpec, new: SweepSpec) -> None:
    """Raises ValueError, in one line, where a confirmation has been declared on a search that would grow."""
    if MORE in old.changed(new) and journal.families():
        raise ValueError(
            f"{MORE}: this run has declared its confirmation, so its search cannot grow; start the changed spec as a "
            "run of its own: what is trained already is taken over"
        )


def mend_spec(run_dir: Path) -> None:
    """Replace spec.yaml if the journal already goes by another: a driver died between the two."""
    if not (run_dir / JOURNAL).exists():
        return
    try:
        found = Journal(run_dir / JOURNAL, read_only=True).extended()
    except ValueError:
        return  # refused later, by whoever must read it
    if found and recorded(run_dir / SPEC).spec_hash == found[0]:
        files.put(run_dir / SPEC, found[1].spec)


def extend(run_dir: Path, journal: Journal, new: SweepSpec) -> None:
    """Let a run go on with a spec that `extends` its own: the journal says so first, then spec.yaml is replaced."""
    journal.extend(new.spec_hash, new.to_yaml(), recorded(run_dir / SPEC).changed(new))
    _put_spec(run_dir, new)


def note(run_dir: Path, new: SweepSpec) -> None:
    """Keep the notes, tags and calls that a spec has now: they are no part of what the journal goes by."""
    if any(path.startswith(asides.KEYS) for path in recorded(run_dir / SPEC).changed(new)):
        _put_spec(run_dir, new)


def _put_spec(run_dir: Path, new: SweepSpec) -> None:
    files.put(run_dir / SPEC, new.to_yaml())
    if place := object_store.of(run_dir):
        (place / SPEC).push(run_dir / SPEC)


def refuse_strange(run_dir: Path) -> None:
    """Raises files.Unsafe, in one line, if a file that we read of a record is a link, or a pipe, which would block."""
    for name in (SPEC, JOURNAL, LOCK):
        if os.path.lexists(run_dir / name):
            files.refuse_links(run_dir / name)


def _tidy(run_dir: Path) -> None:
    """Refuse a run with links in it, since we write to it: files.Unsafe, in one line. Clear old leftovers beside it."""
    for path in run_dir.iterdir():
        if path.name != SCRATCH or path.is_symlink():  # Tune's own folder goes, whatever is in it
            files.refuse_links(path)
    files.clear_old(run_dir.parent, ".mlflow.db-*")


def begin_here(journal: Journal) -> None:
    """Note that this user started or resumed a run on this machine, and whether it was born here."""
    if journal.run:
        (files.cache_root() / BEGUN).mkdir(parents=True, exist_ok=True)
        (files.cache_root() / BEGUN / journal.run).touch()
        if len(journal.events) == 1:
            (files.cache_root() / BEGUN / f"{journal.run}.born").touch()


def began_here(journal: Journal) -> bool:
    """Whether this user started a run on this machine: a record from elsewhere may say what it likes."""
    return bool(journal.run) and (files.cache_root() / BEGUN / f"{journal.run}.born").exists()


def opened(run_dir: Path, trust: bool = False) -> tuple[SweepSpec, Journal]:
    """Spec and journal of a run folder, read-only. Raises ValueError, in one line, if they cannot be read.

    Also if they are not what was written, unless `trust` is given.
    """
    refuse_strange(run_dir)
    spec, journal = recorded(run_dir / SPEC), Journal(run_dir / JOURNAL, read_only=True, trust=trust)
    journal.refuse_other_spec(spec.spec_hash, trust)
    return (spec if shipped(spec.trainable) else spec.with_stub(recorded_of(journal))), journal


def runs(parent: Path, spec: SweepSpec) -> list[Path]:
    """The runs of a spec in a storage, the newest first. Raises ValueError in one line."""
    with _reached(parent):
        for name in object_store.names(parent):
            if _number(Path(name), spec):
                object_store.fetch(parent / name)
    found = {number: path for path in parent.glob(f"{_stem(spec)}*") if (number := _number(path, spec))}
    newest = [found[number] for number in sorted(found, reverse=True)]
    return [path for path in newest if own_hash(path) == spec.spec_hash]


def new(parent: Path, spec: SweepSpec) -> Path:
    """A folder for a new run, with its spec. Raises ValueError in one line."""
    try:
        folder = _made(parent, spec)
        files.clear_old(parent, ".mlflow.db-*")
        files.put(folder / SPEC, spec.to_yaml())
        if place := object_store.of(folder):
            (place / SPEC).push(folder / SPEC)
    except OSError as error:
        raise ValueError(f"--storage {parent}: {error.strerror or error}") from error
    return folder


def discard(folder: Path, journal: Journal) -> None:
    """Delete a run folder in which nothing has begun."""
    if not journal.has_session:
        journal.close()
        shutil.rmtree(folder, ignore_errors=True)


def size(folder: Path | None) -> tuple[int, int]:
    """Bytes on disk of a run, and the number of its files and folders; 0 for a new run. Links are not followed."""
    found = [path.lstat() for path in folder.rglob("*")] if folder else []
    return sum(one.st_size for one in found if stat.S_ISREG(one.st_mode)), len(found)


def resume(folder: Path) -> str:
    """The command that resumes a run."""
    place = object_store.of(folder)
    return shlex.join(["python", "-m", "sweeper.run", "--resume", place.address if place else str(folder)])


@contextlib.contextmanager
def _reached(what: object) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(f"{what}: {files.describe(error) or ' '.join(str(error).split())[:200]}") from error


def _made(parent: Path, spec: SweepSpec) -> Path:
    if not parent.exists():
        parent.mkdir(parents=True, exist_ok=True)
        if spec.shared:
            parent.chmod(0o2770)
    taken = set(object_store.names(parent))
    for number in count(1):
        folder = parent / (_stem(spec) if number == 1 else f"{_stem(spec)}-{number}")
        if folder.name in taken:
            continue
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            if spec.shared:
                folder.chmod(0o2770)  # all files in it belong to the group, whoever makes them
            return folder
    raise AssertionError


def own_hash(folder: Path) -> str | None:
    """The hash of the spec in a run's folder; None if nothing had begun. ValueError, in one line, if unreadable."""
    if not (folder / SPEC).exists():
        return None
    try:
        return recorded(folder / SPEC).spec_hash
    except ValueError as error:
        raise ValueError(f"{error}; fix it, or move its folder away to start a new run") from None


def _hash_now(folder: Path, spec: SweepSpec, found: SweepSpec) -> str | None:
    """The hash of the spec in a run's folder, completed by its trainable; None if that is not `spec`'s, so imported."""
    return load(folder / SPEC, outside=folder).spec_hash if found.trainable == spec.trainable else None


def _stem(spec: SweepSpec) -> str:
    return f"{spec.name}-{spec.spec_hash[:8]}"


def _number(path: Path, spec: SweepSpec) -> int | None:
    """1 for the first run of a spec, n for the folder that ends in -n, None for any other."""
    match = re.fullmatch(re.escape(_stem(spec)) + r"(?:-(\d+))?", path.name)
    return int(match[1] or 1) if match else None


def refuse_modules_here(run_dir: Path | None) -> None:
    """Raises ValueError, in one line, if the current folder lies in a run's, such as `run_dir`, and holds code.

    Processes that a sweep starts, as Ray's workers, look for modules in the current folder, whatever this process does.
    """
    here = Path.cwd()
    if not (in_record(str(here)) or (run_dir and run_dir.resolve() in (here, *here.parents))):
        return
    suffixes = tuple(all_suffixes())
    code = next((Path(at, name) for at, _, names in os.walk(here) for name in names if name.endswith(suffixes)), None)
    if code:
        raise ValueError(f"{here} is a run's folder and holds code, {code.name}, which would be run: start elsewhere")
