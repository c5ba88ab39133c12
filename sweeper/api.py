"""The Python API: `import sweeper`, then `sweeper.run(spec)`, `sweeper.load(run)`, `sweeper.runs()`.

It does what the commands do. Bad input raises ConfigError, a ValueError of one line. Ctrl-C, or interrupting a
notebook, ends a sweep in order; `run` then returns what there is, which `Run.resume` goes on with.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sweeper import preflight, status
from sweeper.asking import Asking
from sweeper.journal import object_store, run_folders
from sweeper.preflight import Request
from sweeper.report import notebook
from sweeper.run import last_lines
from sweeper.spec.errors import ConfigError
from sweeper.spec.hints import nearest
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from sweeper.system import files
from sweeper.system.interrupts import Interrupts
from sweeper.trials import cluster
from sweeper.view import View

Spec = SweepSpec | Mapping[str, Any] | str | Path
PENDING = "nothing had begun"


class Run(View):
    """A run: what `View` shows of it, and to go on with it."""

    def resume(
        self,
        *,
        more_seeds: int = 0,
        sets: Mapping[str, Any] | None = None,
        trust_record: bool = False,
        yes: bool = False,
        verbose: bool = False,
    ) -> Run:
        """Go on with it, as `python -m sweeper.run --resume` does. Returns this run.

        Args:
            more_seeds: how many seeds a further look adds to the confirmation.
            sets: changes that move no number of the trials so far, such as {"limits.hours": 2}.
            trust_record: go on with a record that was changed since it was written.
            yes: train without the GPU that the spec wants.
            verbose: show Ray's own output.

        Raises ConfigError.
        """
        request = Request(
            resume=self.run_dir, set=_assigned(sets), more_seeds=more_seeds, trust_record=trust_record, yes=yes
        )
        _drive(request, verbose)
        return self

    def extend(self, trials: int, *, yes: bool = False, verbose: bool = False) -> Run:
        """Search on with so many more trials, in this run. Returns this run.

        Raises ConfigError once a confirmation was declared on what the search had found by then: start the longer spec
        as a run of its own, `sweeper.run(run.spec, sets={"search.trials": 40})`, which takes over what is trained.
        """
        if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
            raise ConfigError(("trials",), f"{trials!r} should be a positive whole number")
        if self.spec.search.method == "arms":
            raise ConfigError(("trials",), "this search runs its arms, each on every search seed: add arms or seeds")
        total = (self.spec.search.trials or 0) + trials
        return self.resume(sets={run_folders.MORE: total}, yes=yes, verbose=verbose)


class Study(Asking):
    """A sweep for a launcher of your own: what `Asking` does, and its run."""

    @property
    def run(self) -> Run:
        """The run with its reports; closes the study."""
        return Run(self.close())


def run(
    spec: Spec,
    *,
    profile: str | None = None,
    sets: Mapping[str, Any] | None = None,
    storage: str | Path | None = None,
    again: bool = False,
    reuse: bool = True,
    reuse_seeds: bool = False,
    yes: bool = False,
    verbose: bool = False,
) -> Run:
    """Run a sweep here, as `python -m sweeper.run SPEC` does, until it has ended or is interrupted.

    Args:
        spec: a file, a tree such as {"name": "mine", "search": {"trials": 8}}, or the spec of a run that was loaded,
            which calls nobody and does not say where results go, unless `sets` do.
        profile: one of the spec's profiles.
        sets: changes by dotted path, such as {"config.steps": 200}.
        storage: where run folders lie: ./runs by default, or s3://… or gs://….
        again: train a spec that has finished once more; otherwise its run is returned.
        reuse: take over what an earlier run, or another trial of this one, has trained.
        reuse_seeds: confirm on seeds that earlier runs have used.
        yes: train without the GPU that the spec wants.
        verbose: show Ray's own output.

    Raises ConfigError, a ValueError of one line, for bad input; RuntimeError where Ray does not start.
    """
    with _refused():
        folder, _ = run_folders.here(None if storage is None else os.fspath(storage), None)
    request = Request(
        spec=_spec(spec, profile),
        profile=profile,
        set=_assigned(sets),
        storage=folder,
        again=again,
        no_reuse=not reuse,
        reuse_seeds=reuse_seeds,
        yes=yes,
    )
    return Run(_drive(request, verbose))


def load(run: str | Path, *, storage: str | Path | None = None, trust_record: bool = False) -> Run:
    """A run: by its folder, by the name of its folder in the storage, or the newest of a sweep's name.

    Args:
        run: such as `runs/toy-1a2b3c4d`, `toy-1a2b3c4d`, `toy`, or an address in an object store.
        storage: where run folders lie; ./runs by default.
        trust_record: read a record that was changed since it was written.

    Raises ConfigError.
    """
    with _refused():
        if isinstance(run, str) and object_store.is_address(run):
            _, folder = run_folders.here(None, run)
            assert folder is not None
            return Run(folder, trust_record)
        if (Path(run) / run_folders.SPEC).is_file():
            return Run(Path(run), trust_record)
        name, found = os.fspath(run), runs(storage)
        by_name = {_sweep(one.run_dir): one.run_dir for one in reversed(found)}  # the newest of a sweep
        by_name |= {one.run_dir.name: one.run_dir for one in found}
        if name not in by_name:
            where = Path("runs" if storage is None else storage)
            raise ValueError(f"{name}: there is no such run in {where}; {nearest(name, by_name)}")
        return Run(by_name[name], trust_record)


def runs(storage: str | Path | None = None) -> list[Run]:
    """The runs in a storage, ./runs by default: that in which something happened last is the first.

    Raises ConfigError for an address that cannot be reached.
    """
    with _refused():
        folder, _ = run_folders.here(None if storage is None else os.fspath(storage), None)
        folder = Path("runs") if folder is None else folder
        for name in object_store.names(folder):
            object_store.fetch(folder / name)
    found = [
        path.parent for path in folder.glob(f"*/{run_folders.SPEC}") if (path.parent / run_folders.JOURNAL).exists()
    ]
    return [Run(path) for path in sorted(found, key=status.touched, reverse=True)]


def study(
    spec: Spec | Run,
    *,
    profile: str | None = None,
    sets: Mapping[str, Any] | None = None,
    storage: str | Path | None = None,
    reuse_seeds: bool = False,
) -> Study:
    """A sweep for a launcher of your own, which asks what to train and tells what came out: see `Study`.

    Args:
        spec: as for `run`; or a run that a study began, to go on with it.
        profile: as for `run`, and so are the others.
        sets: changes by dotted path.
        storage: where run folders lie.
        reuse_seeds: confirm on seeds that earlier runs have used.

    Raises ConfigError.
    """
    with _refused():
        folder, _ = run_folders.here(None if storage is None else os.fspath(storage), None)
        if isinstance(spec, Run):
            request = Request(resume=spec.run_dir, set=_assigned(sets), storage=folder, yes=True)
        else:
            tree, changes = _spec(spec, profile), _assigned(sets)
            request = Request(
                spec=tree, profile=profile, set=changes, storage=folder, reuse_seeds=reuse_seeds, yes=True
            )
        cluster.isolate()
        return Study(request, say())


def say() -> Callable[[str], None]:
    """What prints a line for people here."""
    return notebook.say if notebook.here() else files.say


def _drive(request: Request, verbose: bool) -> Path:
    """Carry out what is asked for, in order; the run folder."""
    told = say()
    with _private(), files.temporary(), Interrupts(told, PENDING, ends=False) as signals:
        with _refused():
            cluster.isolate()
            run_folders.refuse_modules_here(request.resume)
            files.cache_root()
            files.at_home()
            admission = preflight.admission(request, told)
            run_dir = admission.run_folder(admission.answer())
            signals.hint = f"resume with: {run_folders.resume(run_dir)}"
        with run_folders.held(run_dir):
            with _refused():
                stages = Stages.opened(admission, run_dir, verbose=verbose, wait=0)
            with contextlib.closing(stages.journal):
                ended = stages.carry_out(signals)
        for line in last_lines(admission, stages, ended):
            told(line)
    return run_dir


@contextlib.contextmanager
def _refused() -> Iterator[None]:
    """Refusals as ConfigErrors of one line."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError((), " ".join(str(error).split())) from None


@contextlib.contextmanager
def _private() -> Iterator[None]:
    """Files are private for the length of a sweep; after that, the caller's umask holds again."""
    before = os.umask(0o077)
    try:
        files.private()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, about bars that nobody draws
            yield
    finally:
        os.umask(before)


def _spec(spec: Spec, profile: str | None) -> Path | Mapping[str, Any] | SweepSpec:
    if isinstance(spec, SweepSpec):
        if profile is not None:
            raise ConfigError(("profile",), "a spec that was loaded has its profile already: give its file")
        return spec
    if isinstance(spec, Mapping):
        try:
            return json.loads(json.dumps(spec, default=_plain))
        except (TypeError, RecursionError) as error:
            raise ConfigError((), f"the spec is not plain data: {error}") from None
    if isinstance(spec, str | os.PathLike):
        return Path(spec)
    raise ConfigError((), f"a spec is a file or a mapping, not a {type(spec).__name__}")


def _plain(value: Any) -> Any:
    """Paths as text, and NumPy's numbers as Python's."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if callable(getattr(value, "item", None)):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r:.60}; use numbers, texts, lists and mappings")


def _assigned(sets: Mapping[str, Any] | None) -> list[str]:
    """`PATH=VALUE` of each change."""
    if sets is not None and not isinstance(sets, Mapping):
        raise ConfigError(("sets",), 'is a mapping of dotted paths to values, such as {"config.steps": 200}')
    try:
        return [f"{path}={json.dumps(value, default=_plain)}" for path, value in (sets or {}).items()]
    except (TypeError, RecursionError) as error:
        raise ConfigError(("sets",), f"is not plain data: {error}") from None


def _sweep(run_dir: Path) -> str:
    """The name of the sweep whose run a folder holds."""
    return re.sub(r"-[0-9a-f]{8}(-\d+)?$", "", run_dir.name)
