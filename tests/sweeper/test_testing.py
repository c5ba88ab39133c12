"""The suite for trainables: what is shipped passes, and whatever breaks the contract fails the test that it should."""

from __future__ import annotations

import itertools
import json
import math
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import pytest
import torch
from pydantic import ConfigDict

from sweeper.testing import TrainableContract
from sweeper.trainable import Budget, TrainContext
from tests.suites import failing
from tests.trainables import tiny
from trainables import toy

Row = dict[str, float]
Train = Callable[[toy.Config, TrainContext], None]


class TestToy(TrainableContract):
    trainable = "trainables.toy:train"
    config: ClassVar = {"steps": 12, "report_every": 5, "seed_sd": 0.1, "run_sd": 0.1}
    reports = (5, 10, 12)
    tasks: ClassVar = {"toy": __file__, "toy/again": __file__}


class TestMlm(TrainableContract):
    trainable = "trainables.mlm:train"
    reports = (6, 12, 16)

    @pytest.fixture(autouse=True, scope="class")
    def _text(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        folder = tmp_path_factory.mktemp("mlm")
        torch.set_num_threads(1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SWEEPER_CACHE", str(folder / "cache"))
            small = {"steps": 16, "report_every": 6, "model": {"hidden": 16, "layers": 1, "intermediate": 32}}
            type(self).config = tiny.config(tiny.write_corpus(folder), **small).model_dump(mode="json")
            yield


def reporting(change: Callable[[Row, TrainContext], object]) -> Train:
    """The toy, with each row changed before it is reported, in the checkpoint's history, too."""

    def train(config: toy.Config, context: TrainContext) -> None:
        before = context.restore_from and context.restore_from / "history.jsonl"
        history = before.read_text("utf-8").splitlines() if before else []

        def report(row: Mapping[str, float], checkpoint: Path | None) -> None:
            row = dict(row)
            change(row, context)
            history.append(json.dumps(row))
            if checkpoint:
                (checkpoint / "history.jsonl").write_text("\n".join([*history, ""]), "utf-8")
            context.report(row, checkpoint)

        toy.train(config, replace(context, report=report))

    return train


def checkpointing(change: Callable[[Path | None], Path | None]) -> Train:
    """The toy, with each checkpoint changed before it is reported."""

    def train(config: toy.Config, context: TrainContext) -> None:
        toy.train(config, replace(context, report=lambda row, checkpoint: context.report(row, change(checkpoint))))

    return train


def unseeded(row: Row, _context: TrainContext) -> None:
    row["val/loss"] += random.SystemRandom().random()


def diverging(row: Row, _context: TrainContext) -> None:
    row["val/loss"] = math.nan if row["step"] == 5 else row["val/loss"]


def without_restoring(config: toy.Config, context: TrainContext) -> None:
    toy.train(config, replace(context, restore_from=None))


def forgetting(config: toy.Config, context: TrainContext) -> None:
    """A state that no checkpoint holds: how many rows this process has reported."""
    count = itertools.count()
    reporting(lambda row, _: row.update({"val/loss": row["val/loss"] + next(count)}))(config, context)


def once_more(config: toy.Config, context: TrainContext) -> None:
    """Restored behind its last report, it reports the last row again."""
    toy.train(config, context)
    if context.restore_from:
        (*_, last) = (context.restore_from / "history.jsonl").read_text("utf-8").splitlines()
        if json.loads(last)["step"] == config.steps:
            context.report(json.loads(last), Path(shutil.copytree(context.restore_from, tempfile.mkdtemp() + "/again")))


def ending_early(config: toy.Config, context: TrainContext) -> None:
    toy.train(config.model_copy(update={"steps": config.steps - 1}), context)


def only_the_last(config: toy.Config, context: TrainContext) -> None:
    toy.train(config.model_copy(update={"report_every": config.steps}), context)


def catching(config: toy.Config, context: TrainContext) -> None:
    def report(row: Mapping[str, float], checkpoint: Path | None) -> None:
        try:
            context.report(row, checkpoint)
        except Exception:
            return

    toy.train(config, replace(context, report=report))


def consuming(config: toy.Config, context: TrainContext) -> None:
    """Takes the checkpoint away that it was restored from."""
    toy.train(config, context)
    if context.restore_from:
        (context.restore_from / "history.jsonl").unlink()


def littering(config: toy.Config, context: TrainContext) -> None:
    tempfile.mkdtemp(prefix="log-")
    toy.train(config, context)


def on_every_rank(config: toy.Config, context: TrainContext) -> None:
    toy.train(config, replace(context, rank=0))


def always_tested(config: toy.Config, context: TrainContext) -> None:
    toy.train(config, replace(context, test=True))


def never_tested(config: toy.Config, context: TrainContext) -> None:
    toy.train(config, replace(context, test=False))


def empty_history(checkpoint: Path | None) -> Path | None:
    if checkpoint and not (checkpoint / "bundle").exists():
        (checkpoint / "history.jsonl").write_text("", "utf-8")
    return checkpoint


def without_bundle(checkpoint: Path | None) -> Path | None:
    if checkpoint and (checkpoint / "bundle").exists():
        shutil.rmtree(checkpoint / "bundle")
    return checkpoint


def with_link(checkpoint: Path | None) -> Path | None:
    if checkpoint:
        (checkpoint / "link").symlink_to("history.jsonl")
    return checkpoint


class Lax(toy.Config):
    model_config = ConfigDict(extra="ignore")


class Demanding(toy.Config):
    corpus: str


class Unrecorded(toy.Config):
    def model_dump_json(self, **_: Any) -> str:
        return "{}"


class LongWarmup(toy.Config):
    @property
    def warmup_steps(self) -> int:
        return self.steps + 1


class Infinite(toy.Config):
    @property
    def memory_bytes(self) -> Any:
        return float("inf")


class Budgeted(toy.Config):
    @property
    def budget(self) -> Budget:
        return Budget(100)


class Unmatched(toy.Config):
    @property
    def budget(self) -> Budget:
        return Budget(100, exact=False, way="rows")


def one_line_too_many(*_: Any) -> None:
    raise ValueError("not these settings,\nnor others")


facts = itertools.count()
REST = "restored_from_any_checkpoint_the_rest_is_the_same"
HISTORY = "every_checkpoint_holds_the_history_and_the_last_a_bundle"
ROWS = "rows_are_numbers_at_rising_steps_up_to_the_last"
TASKS = "check_tasks_names_the_metrics_and_refuses_what_cannot_be_scored"
TESTED = "test_metrics_are_in_the_last_row_if_asked_for"
SAME = "the_same_seed_gives_the_same_numbers"
BUDGET = "the_budget_is_what_a_run_predicts"
RANKS = "other_ranks_report_at_the_same_steps_without_a_checkpoint"
TELL = "the_settings_tell_what_a_run_takes"

BROKEN: dict[str, tuple[dict[str, Any], set[str]]] = {
    "draws without a seed": ({"train": reporting(unseeded)}, {SAME, REST, TESTED, TASKS}),
    "the seed does nothing": (
        {"train": lambda config, context: toy.train(config, replace(context, seed=1))},
        {"another_seed_gives_other_numbers"},
    ),
    "begins anew": ({"train": without_restoring}, {REST}),
    "shares steps and leaves nothing": (
        {"past": lambda config, step: {}},
        {"a_run_from_what_another_left_is_the_run_from_step_0"},
    ),
    "forgets a part of its state": ({"train": forgetting}, {REST}),
    "reports its last row again": ({"train": once_more}, {REST}),
    "takes its checkpoint away": ({"train": consuming}, {REST}),
    "ends a step early": ({"train": ending_early}, {ROWS}),
    "reports elsewhere": ({"train": only_the_last}, {ROWS}),
    "lacks the objective": ({"train": reporting(lambda row, _: row["step"] == 5 and row.pop("val/loss"))}, {ROWS}),
    "diverges": ({"train": reporting(diverging)}, {ROWS}),
    "catches what stops it": ({"train": catching}, {"what_report_raises_ends_the_run"}),
    "leaves files": ({"train": littering}, {"nothing_is_left_beside_the_checkpoints"}),
    "every rank writes": ({"train": on_every_rank}, {RANKS}),
    "shows test to the search": ({"train": always_tested}, {TESTED}),
    "has no test": ({"train": never_tested}, {TESTED}),
    "a history without rows": ({"train": checkpointing(empty_history)}, {HISTORY, REST}),
    "no bundle": ({"train": checkpointing(without_bundle)}, {HISTORY}),
    "a link in a checkpoint": ({"train": checkpointing(with_link)}, {HISTORY}),
    "takes unknown settings": ({"Config": Lax}, {"the_config_refuses_what_it_does_not_know"}),
    "loses settings in JSON": ({"Config": Unrecorded}, {"the_settings_survive_their_record"}),
    "a warm-up longer than the run": ({"Config": LongWarmup}, {TELL}),
    "memory without end": ({"Config": Infinite}, {TELL}),
    "another budget": (
        {"Config": Budgeted, "train": reporting(lambda row, _: row.update({"train/predicted": 99.0}))},
        {BUDGET},
    ),
    "a budget that is not exact": (
        {"Config": Unmatched, "train": reporting(lambda row, _: row.update({"audit/matched": 1.0}))},
        {BUDGET},
    ),
    "other facts each time": (
        {"prepare": lambda _: {"data_fingerprint": next(facts)}},
        {"prepare_gives_the_same_facts_twice"},
    ),
    "notes that are one text": ({"prepare": lambda _: {"notes": "one"}}, {"prepare_gives_the_same_facts_twice"}),
    "refuses its settings": ({"check": one_line_too_many}, {"check_accepts_these_settings"}),
    "cautions of two lines": ({"check": lambda *_: ["one\ntwo"]}, {"check_accepts_these_settings"}),
    "no time at all": ({"preparing": lambda _: -1.0}, {"preparing_tells_seconds"}),
    "a pace that is none": ({"probe": lambda *_: (0.0, 0.0)}, {"probe_tells_a_pace"}),
    "takes any task": ({"check_tasks": lambda _, tasks: dict.fromkeys(tasks, "")}, {TASKS}),
    "refuses tasks in two lines": ({"check_tasks": one_line_too_many}, {TASKS}),
    "an early loss of the end": ({"at_end": lambda: ["val/loss"]}, {"metrics_of_the_end_are_in_the_last_row_alone"}),
    "stuck without words": ({"stuck": lambda _: ""}, {"stuck_and_unlearned_answer_in_words_or_none"}),
    "unlearned of nothing": ({"unlearned": lambda _: "So."}, {"stuck_and_unlearned_answer_in_words_or_none"}),
    "a setup that is no text": (
        {"setup": lambda *_: {"corpus": 3}},
        {"setup_is_said_in_lines_and_the_same_twice"},
    ),
    "overrides params": (
        {"expand": lambda params: dict.fromkeys(params, 0)},
        {"expand_leaves_no_shorthand_and_overrides_nothing"},
    ),
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., type[TrainableContract]]:
    """The suite of TestToy for a module that is the toy but for some names."""

    def made(changes: Mapping[str, Any], **given: Any) -> type[TrainableContract]:
        module = ModuleType("broken")
        vars(module).update({**vars(toy), "__name__": "broken", **changes})
        monkeypatch.setitem(sys.modules, "broken", module)
        return suite("broken:train", **given)

    return made


def suite(trainable: str, **given: Any) -> type[TrainableContract]:
    """The suite of TestToy for another trainable."""
    own = {name: getattr(TestToy, name) for name in ("config", "reports", "tasks")}
    return type("Suite", (TrainableContract,), {**own, "trainable": trainable, **given})


ANEW = {"importing_it_imports_nothing_heavy"}  # in a process of its own, which has no module that a test makes


@pytest.mark.parametrize(("changes", "expected"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_contract_fails_its_test(broken: Any, changes: dict[str, Any], expected: set[str]) -> None:
    """And no other."""
    assert failing(broken(changes)) - ANEW == expected


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("the seed does nothing", {"seeds_differ": False}),
        ("every rank writes", {"several_ranks": False}),
        ("has no test", {"has_test": False}),
    ],
)
def test_what_a_trainable_does_not_promise_is_not_asked(broken: Any, name: str, given: dict[str, Any]) -> None:
    assert failing(broken(BROKEN[name][0], **given)) == ANEW


def test_what_the_suite_is_told_must_be_so(broken: Any) -> None:
    """Reports at other steps, an objective that no row has, tasks that are not scored, defaults that are missing."""
    assert failing(broken({}, reports=(4, 8, 12))) - ANEW == {ROWS}
    assert failing(broken({}, objective="val/accuracy")) - ANEW == {ROWS}
    assert failing(broken({}, tasks={"other": __file__})) - ANEW == {TASKS}
    demanding = {**TestToy.config, "corpus": "x"}
    assert failing(broken({"Config": Demanding}, config=demanding)) - ANEW == {"the_defaults_validate"}


def test_a_heavy_import_and_a_path_that_leads_nowhere_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "heavy.py").write_text("import torch\nfrom trainables.toy import *\n", "utf-8")
    assert failing(suite("heavy:train")) == ANEW
    assert "the_path_loads" in failing(suite("nowhere:train"))


def test_a_failure_says_where_the_numbers_part(broken: Any) -> None:
    told = broken({"train": forgetting})()
    with pytest.raises(AssertionError, match=r"checkpoint of step 5, the rest differs at step 10: val/loss [\d.]+ and"):
        told.test_restored_from_any_checkpoint_the_rest_is_the_same()
