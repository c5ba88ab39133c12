"""A suite that tries the contract of trainable.py on a trainable of your own. Subclass it in a test file:

    class TestMine(TrainableContract):
        trainable = "my_package.my_module:train"
        config = {"steps": 12}

pytest then runs every test below, in its own process and on one rank. A run of the given settings is made about ten
times, so keep it to a few seconds and to three reports or more. pytest itself is not imported: the suite comes with
the installed package, and only its tests need pytest.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar
from unittest import SkipTest

from pydantic import BaseModel, ValidationError

from sweeper.trainable import Budget, Pace, Settings, Trainable, TrainContext

__all__ = ["TrainableContract"]

Row = dict[str, float]

LARGEST = 1e300  # a metric beyond it counts as diverged
HEAVY = ("torch", "tensorflow", "jax", "transformers", "ray")
LINES = ("notes", "warnings", "judged")  # among the facts, for people


class Stopped(Exception):
    """Raised out of `context.report`, as the sweep stops a run."""


@dataclass(frozen=True)
class Run:
    """What one run reported. beside: what it left in the temporary or the current folder. ended: not by `Stopped`."""

    rows: list[Row] = field(default_factory=list)
    checkpoints: list[Path | None] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    ended: bool = True

    @property
    def steps(self) -> list[float]:
        return [row["step"] for row in self.rows]


class TrainableContract:
    """The promises of a trainable, one test each.

    trainable: as a spec names it. config: settings of a short run, as a spec's `config` has them. objective: a metric
    that every row must have. seeds: two of them. seeds_differ: False for a trainable whose numbers are the same under
    every seed. reports: the steps at which this config reports; None asks only that they rise to `config.steps`.
    tasks: what a spec's `evaluate` may name. has_test: False for a trainable without a part that no search sees.
    several_ranks: False for a trainable that runs on one worker only.
    """

    trainable: ClassVar[str]
    config: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    objective: ClassVar[str] = "val/loss"
    seeds: ClassVar[tuple[int, int]] = (1, 2)
    seeds_differ: ClassVar[bool] = True
    reports: ClassVar[Sequence[int] | None] = None
    tasks: ClassVar[Mapping[str, str]] = MappingProxyType({})
    has_test: ClassVar[bool] = True
    several_ranks: ClassVar[bool] = True

    _runs: ClassVar[dict[tuple[int, bool], Run]] = {}
    _folder: ClassVar[tempfile.TemporaryDirectory[str] | None] = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls._runs, cls._folder = {}, None

    @classmethod
    def teardown_class(cls) -> None:
        """pytest calls this after the last test: what the runs left goes."""
        cls._runs.clear()
        if cls._folder:
            cls._folder.cleanup()
            cls._folder = None

    # The module and its settings

    def test_the_path_loads(self) -> None:
        assert self._loaded().name == self.trainable

    def test_importing_it_imports_nothing_heavy(self) -> None:
        """The driver imports the module to read its Config."""
        code = (
            f"import sys; sys.path[:] = {sys.path!r}; from sweeper.trainable import Trainable; "
            f"Trainable.load({self.trainable!r}); print(*[name for name in {HEAVY} if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
        assert done.returncode == 0, f"{self.trainable} does not load in a new process: {done.stderr}"
        heavy = done.stdout.split()
        assert not heavy, f"importing {self.trainable} imports {', '.join(heavy)}: import it inside the functions"

    def test_the_config_refuses_what_it_does_not_know(self) -> None:
        """Else a misspelt setting in a spec would pass, and the run would be another than the spec says."""
        strange = {**self.config, "no_such_setting": 1}
        with _refused("a setting that does not exist", "give its model_config extra='forbid'"):
            self._loaded().config.model_validate_json(json.dumps(strange), strict=True)

    def test_the_defaults_validate(self) -> None:
        self._loaded().config.model_validate_json("{}", strict=True)

    def test_the_settings_survive_their_record(self) -> None:
        """A record holds them as JSON, from which trials and a resumed sweep read them."""
        settings = self._settings()
        again = type(settings).model_validate_json(settings.model_dump_json(), strict=True)
        assert again == settings, f"settings read back from JSON differ: {again} for {settings}"

    def test_the_settings_tell_what_a_run_takes(self) -> None:
        settings = self._settings()
        missing = [name for name in _members(Settings) if not hasattr(settings, name)]
        assert not missing, f"Config has no {', '.join(missing)}"
        assert settings.steps >= 1, f"steps is {settings.steps}"
        assert 0 <= settings.warmup_steps <= settings.steps, f"warmup_steps is {settings.warmup_steps}"
        for name in ("steps", "warmup_steps", "tokens_per_step", "checkpoint_bytes", "memory_bytes"):
            assert type(getattr(settings, name)) is int, f"{name} is {getattr(settings, name)!r}: it must be an int"
        for name in ("tokens_per_step", "flops_per_step", "validation_flops", "checkpoint_bytes", "memory_bytes"):
            value = getattr(settings, name)
            assert math.isfinite(value), f"{name} is {value}"
            assert value >= 0, f"{name} is {value}"

    def test_the_budget_is_what_a_run_predicts(self) -> None:
        budget = getattr(self._settings(), "budget", None)
        if budget is None:
            raise SkipTest("Config has no budget")
        assert isinstance(budget, Budget), f"Config.budget is {budget!r}: it must be a sweeper.trainable.Budget"
        assert budget.predicted > 0, f"Config.budget predicts {budget.predicted} positions"
        last = self._whole().rows[-1]
        if budget.exact and "train/predicted" in last:
            assert last["train/predicted"] == budget.predicted, (
                f"Config.budget says {budget.predicted} positions, the run predicted {last['train/predicted']:g}"
            )
        if "audit/matched" in last:
            assert bool(last["audit/matched"]) == budget.exact, (
                f"Config.budget.exact is {budget.exact}, audit/matched is {last['audit/matched']:g}"
            )

    # What may stand beside `train`

    def test_expand_leaves_no_shorthand_and_overrides_nothing(self) -> None:
        expand, given = self._loaded().expand, _leaves(self.config)
        params = dict(given)
        found = expand(params)
        assert params == given, "expand changed the params that it was given"
        assert expand(found) == found, "expand of what it expanded differs from it"
        lost = {path for path in found.keys() & given.keys() if found[path] != given[path]}
        assert not lost, f"expand overrides {', '.join(sorted(lost))}, which the params set themselves"

    def test_prepare_gives_the_same_facts_twice(self) -> None:
        settings, prepare = self._settings(), self._loaded().prepare
        one, two = prepare(settings), prepare(settings)
        assert one == two, f"prepare gave other facts the second time: {_departing(one, two)}"
        json.dumps(one)  # they are kept in the record
        for key in LINES:
            _lines(one.get(key, ()), f"the fact {key!r}")

    def test_check_accepts_these_settings(self) -> None:
        settings, trainable = self._settings(), self._loaded()
        _lines(trainable.check(settings, trainable.prepare(settings)) or (), "what check returns")

    def test_preparing_tells_seconds(self) -> None:
        seconds = self._loaded().preparing(self._settings())
        assert 0 <= seconds < math.inf, f"preparing says {seconds} s"

    def test_probe_tells_a_pace(self) -> None:
        probe = self._loaded().probe
        if probe is None:
            raise SkipTest("there is no probe")
        pace = probe(self._settings(), "cpu", 1)
        assert isinstance(pace, Pace), f"probe returns {pace!r}: it must be a sweeper.trainable.Pace"
        assert 0 <= pace.step < math.inf, f"a step takes {pace.step} s"
        assert 0 <= pace.reports < math.inf, f"the validations of a run take {pace.reports} s"

    def test_check_tasks_names_the_metrics_and_refuses_what_cannot_be_scored(self) -> None:
        trainable, settings = self._loaded(), self._settings()
        if trainable.check_tasks is None:
            raise SkipTest("there is no check_tasks")
        trainable.prepare(settings)
        with _refused("a task that does not exist", "raise ValueError, in one line", ValueError):
            trainable.check_tasks(settings, {"no_such_task": os.devnull + "/nowhere"})
        metrics = trainable.check_tasks(settings, self.tasks)
        if self.tasks:
            last = self._trained(self.seeds[0], evaluate=self.tasks).rows[-1]
            missing = sorted(metrics.keys() - last.keys())
            assert not missing, f"check_tasks promises {', '.join(missing)}: the last row lacks them"
            plain = self._whole().rows[-1]
            _bits_equal(
                [{key: last.get(key, math.nan) for key in plain}], [plain], "scoring tasks changed other metrics"
            )

    def test_metrics_of_the_end_are_in_the_last_row_alone(self) -> None:
        names, rows = {*self._loaded().at_end()}, self._whole().rows
        early = sorted({name for row in rows[:-1] for name in names & row.keys()})
        assert not early, f"at_end names {', '.join(early)}, which a row before the last has, too"
        assert self.objective not in names, f"at_end names {self.objective}: it cannot be an objective"

    def test_stuck_and_unlearned_answer_in_words_or_none(self) -> None:
        trainable, last = self._loaded(), self._whole().rows[-1]
        for name, tells in (("stuck", trainable.stuck), ("unlearned", trainable.unlearned)):
            if tells is None:
                continue
            given = dict(last)
            said = tells(given)
            assert given == last, f"{name} changed the metrics that it was given"
            assert said is None or (isinstance(said, str) and said.strip()), f"{name} returns {said!r}"
            _lines([said] if said else [], f"what {name} returns")
            assert tells(last) == said, f"{name} does not answer the same twice"
        said = trainable.unlearned({})
        assert said is None, f"unlearned says {said!r} of metrics that do not tell"

    def test_setup_is_said_in_lines_and_the_same_twice(self) -> None:
        trainable, config = self._loaded(), self._settings()
        facts = trainable.prepare(config)
        one, two = (dict(trainable.setup(config, facts)) for _ in range(2))
        assert one == two, f"setup says another thing the second time: {_departing(one, two)}"
        _lines([*one, *one.values()], "what setup returns")

    # A run

    def test_rows_are_numbers_at_rising_steps_up_to_the_last(self) -> None:
        run, whole = self._whole(), self._settings().steps
        assert run.rows, "the run reported nothing"
        assert all(one < two for one, two in zip([0, *run.steps], run.steps, strict=False)), (
            f"steps must rise from 1: {run.steps}"
        )
        assert run.steps[-1] == whole, f"the last report is of step {run.steps[-1]}, and config.steps is {whole}"
        if self.reports is not None:
            assert run.steps == [*self.reports], f"reports came at {run.steps} and should at {[*self.reports]}"
        for row in run.rows:
            assert self.objective in row, f"the row of step {row['step']} has no {self.objective}: every row needs it"
            wrong = {key: value for key, value in row.items() if not abs(value) < LARGEST}  # nor NaN
            assert not wrong, f"the row of step {row['step']} has {wrong}"

    def test_every_checkpoint_holds_the_history_and_the_last_a_bundle(self) -> None:
        run = self._whole()
        for at, checkpoint in enumerate(run.checkpoints):
            assert checkpoint is not None, f"rank 0 reported step {run.rows[at]['step']} without a checkpoint"
            assert checkpoint.is_dir(), "a checkpoint must be a folder"
            links = [path.name for path in checkpoint.rglob("*") if path.is_symlink()]
            assert not links, f"a checkpoint holds links, which the sweep refuses: {links}"
            lines = (checkpoint / "history.jsonl").read_text("utf-8").splitlines()
            _bits_equal([_row(json.loads(line)) for line in lines], run.rows[: at + 1], "history.jsonl is not the rows")
        assert isinstance(run.checkpoints[-1], Path)
        assert (run.checkpoints[-1] / "bundle").is_dir(), "the last checkpoint has no bundle/ folder"

    def test_the_same_seed_gives_the_same_numbers(self) -> None:
        again = self._trained(self.seeds[0])
        _bits_equal(again.rows, self._whole().rows, "a second run of the same seed differs")

    def test_another_seed_gives_other_numbers(self) -> None:
        if not self.seeds_differ:
            raise SkipTest("seeds_differ is False")
        one, other = self._whole(), self._trained(self.seeds[1])
        assert one.steps == other.steps, f"seeds report at other steps: {one.steps} and {other.steps}"
        assert _bits(one.rows) != _bits(other.rows), f"seeds {self.seeds} gave the same numbers"

    def test_restored_from_any_checkpoint_the_rest_is_the_same(self) -> None:
        """From the last one, too, after which nothing is left to report: a run may be stopped just behind it."""
        run = self._whole()
        for at, checkpoint in enumerate(run.checkpoints):
            if checkpoint is None:
                continue
            before, said = _contents(checkpoint), f"restored from the checkpoint of step {run.rows[at]['step']}"
            rest = self._trained(self.seeds[0], restore_from=checkpoint)
            assert _contents(checkpoint) == before, f"{said}, the run changed that checkpoint"
            _bits_equal(rest.rows, run.rows[at + 1 :], f"{said}, the rest differs")
            if rest.checkpoints and isinstance(last := rest.checkpoints[-1], Path):
                lines = (last / "history.jsonl").read_text("utf-8").splitlines()
                _bits_equal([_row(json.loads(line)) for line in lines], run.rows, f"{said}, history.jsonl differs")

    def test_a_run_from_what_another_left_is_the_run_from_step_0(self) -> None:
        """Where `past` shares steps. Here the other is the same run; in a sweep, one with the same past."""
        past, settings = self._loaded().past, self._settings()
        steps = [step for step in (settings.warmup_steps, 1) if past and past(settings, step) is not None]
        if not steps:
            raise SkipTest("there is no past, or it shares no step")
        whole, left = self._whole(), list[int]()
        with tempfile.TemporaryDirectory(prefix="contract-") as place:

            def leave(step: int, folder: Path) -> None:
                shutil.move(folder, Path(place, "trunk"))
                left.append(step)

            leaving = self._trained(self.seeds[0], leave_at=frozenset(steps[:1]), leave=leave)
            assert left == steps[:1], f"past shares step {steps[0]}, and the run left its state at {left}"
            _bits_equal(leaving.rows, whole.rows, "leaving a state changed the run")
            fork = self._trained(self.seeds[0], fork_from=Path(place, "trunk"))
            _bits_equal(fork.rows, whole.rows, f"the run that starts at step {left[0]} differs")

    def test_what_report_raises_ends_the_run(self) -> None:
        """So a sweep stops a run; caught, it would train on in vain."""
        run = self._trained(self.seeds[0], stop_after=1)
        assert not run.ended, "the run caught what report raised"
        assert len(run.rows) == 1, f"the run was stopped at its first report and reported again, at {run.steps[1:]}"

    def test_nothing_is_left_beside_the_checkpoints(self) -> None:
        beside = self._whole().beside
        assert not beside, f"the run left {', '.join(beside)}: put files into the checkpoint, or take them away"

    def test_test_metrics_are_in_the_last_row_if_asked_for(self) -> None:
        plain = self._whole()
        unasked = any(key.startswith("test/") for row in plain.rows for key in row)
        assert not unasked, "there are test/ metrics without context.test"
        if not self.has_test:
            raise SkipTest("has_test is False")
        tested = self._whole(test=True)
        hidden = [{key for key in row if key.startswith("test/")} for row in tested.rows]
        assert not any(hidden[:-1]), "a row before the last has test/ metrics, which no search may see"
        assert hidden[-1], "with context.test the last row has no test/ metric"
        shown = [{key: value for key, value in row.items() if not key.startswith("test/")} for row in tested.rows]
        _bits_equal(shown, plain.rows, "context.test changed other metrics")
        documents = (tested.checkpoints[-1] or Path()) / "bundle" / "analysis" / "documents.json"
        if documents.exists():
            found = json.loads(documents.read_text("utf-8"))
            loss, predictions = len(found["loss"]), len(found["predictions"])
            assert loss == predictions, f"documents.json has {loss} losses and {predictions} predictions"

    def test_other_ranks_report_at_the_same_steps_without_a_checkpoint(self) -> None:
        """As the second of two ranks; the other one has nothing to add to a sum."""
        if not self.several_ranks:
            raise SkipTest("several_ranks is False")
        run = self._trained(self.seeds[0], rank=1, world_size=2)
        assert run.steps == self._whole().steps, f"rank 1 reported at {run.steps}, rank 0 at {self._whole().steps}"
        assert not any(run.checkpoints), "rank 1 reported a checkpoint: only rank 0 may"

    # Runs

    def _loaded(self) -> Trainable:
        return Trainable.load(self.trainable)

    def _settings(self) -> Any:
        """As the sweep reads them: through JSON, strictly."""
        settings = self._loaded().config.model_validate_json(json.dumps(dict(self.config)), strict=True)
        assert isinstance(settings, BaseModel)
        return settings

    def _whole(self, test: bool = False) -> Run:
        """A run of the full length on the first seed, made once and read by many tests."""
        key = (self.seeds[0], test)
        if key not in self._runs:
            self._runs[key] = self._trained(self.seeds[0], test=test)
        return self._runs[key]

    def _trained(self, seed: int, stop_after: int | None = None, **context: Any) -> Run:
        """Train here. stop_after: of how many reports the last raises `Stopped`."""
        rows, checkpoints, ended = list[Row](), list[Path | None](), True
        with self._scratch() as (store, scratch):
            here = {path.name for path in Path.cwd().iterdir()}

            def report(metrics: Mapping[str, float], checkpoint: Path | None) -> None:
                kept = None
                if checkpoint is not None:  # the receiver owns it, so it is not where the run left it
                    kept = Path(shutil.move(checkpoint, store / f"{len(rows):04d}"))
                rows.append(_row(metrics))
                checkpoints.append(kept)
                if len(rows) == stop_after:
                    raise Stopped

            try:
                self._loaded().train(self._settings(), TrainContext(report, seed, **context))
            except Stopped:
                ended = False
            left = {path.name for path in Path.cwd().iterdir()} - here
            beside = sorted(
                {path.name for path in scratch.iterdir()} | {one for one in left if not one.startswith(".")}
            )
        return Run(rows, checkpoints, sorted(beside), ended)

    @contextlib.contextmanager
    def _scratch(self) -> Iterator[tuple[Path, Path]]:
        """A folder for what is kept, and one that is the temporary folder meanwhile."""
        cls = type(self)
        if cls._folder is None:
            cls._folder = tempfile.TemporaryDirectory(prefix="contract-")
            self._loaded().prepare(self._settings())  # as a sweep does before its first run
        place = Path(tempfile.mkdtemp(dir=cls._folder.name))
        store, scratch = place / "kept", place / "tmp"
        store.mkdir()
        scratch.mkdir()
        before, named = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
        try:
            yield store, scratch
        finally:
            tempfile.tempdir = before
            if named is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = named


def _members(protocol: type) -> list[str]:
    return [name for name in vars(protocol) if not name.startswith("_")]


def _row(metrics: Mapping[str, float]) -> Row:
    """As the sweep keeps it."""
    assert "step" in metrics, f"a row without step: {', '.join(metrics)}"
    return {**{key: float(value) for key, value in metrics.items()}, "step": int(metrics["step"])}


def _bits(rows: Sequence[Row]) -> str:
    return json.dumps(rows, sort_keys=True)


def _bits_equal(found: Sequence[Row], expected: Sequence[Row], said: str) -> None:
    if _bits(found) == _bits(expected):
        return
    steps = [row["step"] for row in found], [row["step"] for row in expected]
    assert steps[0] == steps[1], f"{said}: rows of steps {steps[0]} for {steps[1]}"
    first = next(pair for pair in zip(found, expected, strict=True) if _bits(pair[:1]) != _bits(pair[1:]))
    raise AssertionError(f"{said} at step {first[0]['step']}: {_departing(*first)}")


def _departing(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Where two mappings differ, in a line."""
    keys = sorted(key for key in one.keys() | other.keys() if repr(one.get(key)) != repr(other.get(key)))
    return "; ".join(f"{key} {one.get(key)!r:.80} and {other.get(key)!r:.80}" for key in keys)


def _lines(said: Any, what: str) -> None:
    """Lines of text, in a list or tuple."""
    assert isinstance(said, Sequence), f"{what} is {type(said).__name__}: it must be a list of lines"
    assert not isinstance(said, str), f"{what} is one text: it must be a list of lines"
    wrong = [line for line in said if not isinstance(line, str) or "\n" in line]
    assert not wrong, f"{what} has {wrong}: each must be one line of text"


@contextlib.contextmanager
def _refused(what: str, advice: str, error: type[Exception] = ValidationError) -> Iterator[None]:
    """Expect a refusal in it; one that is no ValidationError in one line."""
    said = None
    try:
        yield
    except error as refusal:
        said = str(refusal)
    assert said is not None, f"{what} is not refused: {advice}"
    assert error is ValidationError or "\n" not in said, f"the refusal of {what} is not one line: {said}"


def _leaves(tree: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Dotted path -> value."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {above + key: value}
    return found


def _contents(folder: Path) -> dict[str, str]:
    """File -> hash."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}
