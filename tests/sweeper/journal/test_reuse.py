"""Trials that an earlier run completed are taken over; a run is resumed with a spec that moves none of its numbers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sweeper import preflight
from sweeper.confirmation import design
from sweeper.journal import checkpoints, provenance, reuse, run_folders
from sweeper.journal.events import Doubt, Session, Trust
from sweeper.journal.journal import Journal
from sweeper.preflight import Request
from sweeper.report.summary import trial_json
from sweeper.report.tables import cost
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from tests.sweeper import in_process
from tests.sweeper.samples import toy_spec

ARMS = {"baseline": {"x": 0.2}, "better": {"x": 0.6}, "other": {"x": 0.9}}
NOISY: dict[str, Any] = {"seed_sd": 0.1, "run_sd": 0.05}


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Journal]:
    """A sweep in one storage, each in a run folder of its own."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))

    def run(spec: SweepSpec, *, taken: bool = True, **more: Any) -> Journal:
        return in_process.sweep(spec, tmp_path / "runs", reuse=taken, **more)

    return run


def arms(**changes: Any) -> SweepSpec:
    given: dict[str, Any] = {"search": {"method": "arms"}, "space": {}, "arms": ARMS, "config": NOISY}
    return toy_spec(**(given | changes))


def rows(journal: Journal) -> dict[tuple[str | None, int, str], list[tuple[int, dict[str, float]]]]:
    """Every row of every trial, by what the trial is and not by its number."""
    return {
        (json.dumps(one.ask.params, sort_keys=True), one.ask.seed, one.ask.stage): [
            (row.step, row.metrics) for row in one.rows
        ]
        for one in journal.trials.values()
    }


def taken(journal: Journal) -> dict[str, str | None]:
    return {one.id: one.reused_from for one in journal.trials.values()}


def test_only_what_changed_is_trained(sweep: Callable[..., Journal]) -> None:
    first = sweep(arms())
    assert set(taken(first).values()) == {None}
    name = first.path.parent.name
    more = sweep(arms(arms={**ARMS, "new": {"x": 0.4}}))
    assert taken(more) == {"t0001": f"{name}/t0001", "t0002": f"{name}/t0002", "t0003": f"{name}/t0003", "t0004": None}
    clean = sweep(arms(arms={**ARMS, "new": {"x": 0.4}}), taken=False)
    assert rows(more) == rows(clean)
    assert set(taken(clean).values()) == {None}
    fewer = sweep(arms(arms={"baseline": ARMS["baseline"], "new": {"x": 0.4}}))
    assert None not in taken(fewer).values()
    other = sweep(arms(config={**NOISY, "run_sd": 0.06}))
    assert set(taken(other).values()) == {None}, "another constant is another run"


def test_what_is_taken_over_is_a_whole_trial(sweep: Callable[..., Journal]) -> None:
    spec = arms()
    first, second = sweep(spec), sweep(arms(name="again"))
    for one in second.trials.values():
        theirs = first.trials[one.id]
        assert one.state == "completed"
        assert one.reused_from == f"{first.path.parent.name}/{theirs.id}"
        assert one.end is not None
        assert one.end.checkpoint is not None
        stored = second.path.parent / one.end.checkpoint
        assert checkpoints.history(stored)[-1]["step"] == one.step == theirs.step
        mark = checkpoints.owner(spec.trainable, one.id, one.ask.seed, one.ask.config)
        expected = [({"step": row.step, **row.metrics}, row.checkpoint) for row in one.rows]
        assert checkpoints.newest(stored.parent, mark, expected) == (stored, [])
        assert trial_json(one, spec.objective, None)["start"] == {"from": one.reused_from, "step": one.step}
        assert trial_json(theirs, spec.objective, None)["start"] == {"from": None, "step": 0}
    spent = cost(spec, second)
    assert spent["steps trained"] == "0 of 60, 0%"
    assert spent["steps of earlier runs"] == "60, in 3 trials that did not train them again"
    assert "steps trained" not in cost(spec, first)


def test_a_longer_search_has_the_points_of_a_clean_one(sweep: Callable[..., Journal]) -> None:
    def spec(trials: int) -> SweepSpec:
        return toy_spec(search={"method": "tpe", "trials": trials}, config=NOISY, resources={"concurrency": 2})

    short, long = sweep(spec(5)), sweep(spec(8))
    clean = sweep(spec(8), taken=False)
    assert rows(long) == rows(clean)
    assert [one.ask.params for one in long.trials.values()] == [one.ask.params for one in clean.trials.values()]
    assert [bool(one) for one in taken(long).values()] == [True] * 5 + [False] * 3
    assert len(short.trials) == 5


@pytest.mark.parametrize("rule", [{"halving": {"first": 5, "reduction": 2}}, {"median": {"trials": 2, "first": 5}}])
def test_a_rule_sees_rows_that_are_taken_over(sweep: Callable[..., Journal], rule: Any) -> None:
    many = {f"arm{n}": {"x": n / 8} for n in range(8)}
    one_at_a_time = {"resources": {"concurrency": 1}, "arms": many}
    sweep(arms(**one_at_a_time))
    ruled, clean = (sweep(arms(**one_at_a_time, scheduler=rule), taken=given) for given in (True, False))
    assert [(one.state, one.step) for one in ruled.trials.values()] == [
        (one.state, one.step) for one in clean.trials.values()
    ]
    assert "stopped" in {one.state for one in ruled.trials.values()}
    assert rows(ruled) == rows(clean)


def test_a_confirmation_takes_over_what_was_confirmed_and_not_what_was_searched(sweep: Callable[..., Journal]) -> None:
    spec = arms(seeds={"search": [1], "confirm": [1_000, 1_001]})
    first = sweep(spec, confirm=True)
    second = sweep(arms(name="again", seeds={"search": [1_000], "confirm": [1_000_000, 1_001]}), confirm=True)
    came = {(one.ask.stage, one.ask.seed): one.reused_from for one in second.trials.values()}
    assert came["search", 1_000] is None, "a run of the confirmation reports the test part, one of the search must not"
    assert came["confirm", 1_000_000] is None
    assert str(came["confirm", 1_001]).startswith(f"{first.path.parent.name}/c")
    assert design.complete(spec, first)


def test_other_data_code_processor_or_libraries_share_nothing(
    sweep: Callable[..., Journal], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep(arms())
    assert set(taken(sweep(arms(name="data"), data_fingerprint="other")).values()) == {None}
    for name, patched in (("code", lambda *_: "other"), ("processor", lambda: "other"), ("versions", dict)):
        with monkeypatch.context() as patch:
            patch.setattr(provenance, name, patched)
            assert set(taken(sweep(arms(name=name))).values()) == {None}, name
    assert None not in taken(sweep(arms(name="same"))).values()


def test_a_run_from_elsewhere_or_a_damaged_one_gives_nothing(
    sweep: Callable[..., Journal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = sweep(arms())
    with monkeypatch.context() as patch:
        patch.setattr(run_folders, "began_here", lambda journal: False)
        assert set(taken(sweep(arms(name="stranger"))).values()) == {None}
    kept = first.path.parent / "trials/t0002/checkpoints/step-00000020/history.jsonl"
    kept.write_text(kept.read_text("utf-8").replace("1", "2"), "utf-8")  # before anything shares its file
    second = taken(sweep(arms(name="damaged")))
    assert [second["t0001"], second["t0003"]] == [f"{first.path.parent.name}/t0001", f"{first.path.parent.name}/t0003"]
    assert second["t0002"] is None


def test_data_without_a_fingerprint_are_not_taken_to_be_the_same(sweep: Callable[..., Journal]) -> None:
    sweep(arms())
    journal = sweep(arms(name="again"), data_fingerprint=None)
    assert None not in taken(journal).values() or set(taken(journal).values()) == {None}
    session = next(event for event in journal.events if isinstance(event, Session))
    bare = Session(**{**vars(session), "facts": {"trainable": session.facts["trainable"]}})
    assert reuse.place(bare) is None


@pytest.mark.parametrize("event", [Doubt(text="x"), Trust(line=1, faults=1, why="x", spec_hash="x")])
def test_a_record_that_was_doubted_or_trusted_gives_nothing(sweep: Callable[..., Journal], event: Any) -> None:
    first = sweep(arms())
    first.append(event if isinstance(event, Doubt) else Trust(**{**vars(event), "spec_hash": arms().spec_hash}))
    assert set(taken(sweep(arms(name="again"))).values()) == {None}


def test_seeds_that_nothing_has_used_are_trained(sweep: Callable[..., Journal]) -> None:
    """The tracking store may be another one, and then does not tell of runs that lie in this storage."""
    spec = arms(seeds={"search": [], "confirm": [11, 12]})
    first = sweep(spec, confirm=True)
    marked = sweep(arms(name="again", seeds={"search": [], "confirm": [11, 12]}), confirm=True)
    assert None not in taken(marked).values()
    other = arms(name="fresh", seeds={"search": [], "confirm": [11, 12]})
    journal = sweep(other, confirm=True, fresh=True)
    assert set(taken(journal).values()) == {None}
    assert rows(journal) == rows(first)


def test_a_trial_of_two_sessions_that_differ_has_no_key(sweep: Callable[..., Journal]) -> None:
    journal = sweep(arms())
    assert len(dict(reuse.keys(arms(), journal))) == 3
    session = next(event for event in journal.events if isinstance(event, Session))
    at = next(n for n, event in enumerate(journal.events) if getattr(event, "trial", "") == "t0002")
    journal.events.insert(at + 1, Session(**{**vars(session), "versions": {**session.versions, "torch": "0"}}))
    assert {record.id for _, record in reuse.keys(arms(), journal)} == {"t0001", "t0003"}


def test_files_are_shared_and_outlive_the_run_that_had_them(sweep: Callable[..., Journal], tmp_path: Path) -> None:
    first, second = sweep(arms()), sweep(arms(name="again"))
    theirs, ours = (one.path.parent / "trials/t0001/checkpoints/step-00000020/history.jsonl" for one in (first, second))
    assert os.path.samefile(theirs, ours)
    text = ours.read_text("utf-8")
    theirs.unlink()
    assert ours.read_text("utf-8") == text


def test_the_code_of_a_module_is_what_it_imports_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "mypackage"
    (package / "deep").mkdir(parents=True)
    sources = {
        "__init__.py": "",
        "mine.py": "from mypackage import near\nN = 'mypackage.named:Thing'\ndef go():\n    from .deep import far\n",
        "near.py": "import json\n",
        "named.py": "",
        "unused.py": "import mypackage.mine\n",
        "deep/__init__.py": "",
        "deep/far.py": "from ..near import x\n",
    }
    for name, text in sources.items():
        (package / name).write_text(text, "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = provenance.code("mypackage.mine")
    assert before == provenance.code("mypackage.mine")
    for name in sources:
        with monkeypatch.context():
            text = (package / name).read_text("utf-8")
            (package / name).write_text(text + "# other\n", "utf-8")
            assert (provenance.code("mypackage.mine") != before) == (name != "unused.py"), name
            (package / name).write_text(text, "utf-8")
    assert provenance.code("no_such_module.at_all") is None
    assert provenance.code("trainables.mlm") == provenance.code("trainables.mlm") is not None


def test_a_helper_beside_the_module_is_in_the_code_and_a_library_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mytrain_of_test.py").write_text("import numpy\nimport myhelper_of_test as h\n", "utf-8")
    (tmp_path / "myhelper_of_test.py").write_text("x = 1\n", "utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    before = provenance.code("mytrain_of_test")
    (tmp_path / "myhelper_of_test.py").write_text("x = 2\n", "utf-8")
    assert provenance.code("mytrain_of_test") != before
    assert not provenance._followed("numpy", "mytrain_of_test")
    assert not provenance._followed("json", "mytrain_of_test")


def test_what_a_source_of_the_catalogue_runs_is_in_the_code() -> None:
    """It is named in a text alone, and imported by that."""
    from trainables.settings.catalogue import SOURCES

    seen = "\n".join(Path(str(provenance._source(name))).name for name in _reached("trainables.mlm"))
    for entry in SOURCES.values():
        assert entry.made_by.partition(":")[0].rpartition(".")[2] + ".py" in seen
    assert "evaluate.py" not in seen.splitlines()


def _reached(module: str) -> set[str]:
    left, seen = [module], set[str]()
    while left:
        name = left.pop()
        path = provenance._source(name) if name.startswith("trainables") else None
        if name not in seen and path is not None:
            seen.add(name)
            left += provenance._imported(path.read_text("utf-8"), name, path.name == "__init__.py", "trainables")
    return seen


def test_a_run_may_go_on_with_more_trials_and_with_settings_that_move_no_number(tmp_path: Path) -> None:
    old = toy_spec(search={"method": "tpe", "trials": 6})
    free: list[dict[str, Any]] = [
        {"search": {"method": "tpe", "trials": 9}},
        {"limits": {"hours": 3}},
        {"tracking": {"uri": "http://127.0.0.1:5000"}},
        {"resources": {"concurrency": 3, "max_failures": 1}},
        {"reuse": {"trials": False}},
    ]
    for changes in free:
        assert run_folders.extends(old, toy_spec(**changes)), changes
    bound: list[dict[str, Any]] = [
        {"search": {"method": "tpe", "trials": 5}},
        {"search": {"method": "random", "trials": 9}},
        {"config": {"steps": 30}},
        {"seeds": {"search": [5]}},
        {"resources": {"cpus_per_worker": 2}},
        {"arms": {}},
    ]
    for changes in bound:
        assert not run_folders.extends(old, toy_spec(**changes)), changes


def test_an_extended_run_says_so_and_survives_a_crash_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (toy_spec(search={"method": "tpe", "trials": trials}) for trials in (6, 9))
    folder = run_folders.new(tmp_path, old)
    journal = Journal(folder / run_folders.JOURNAL)
    journal.born(old.spec_hash)
    with monkeypatch.context() as patch:
        patch.setattr(run_folders.files, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run_folders.extend(folder, journal, new)
    with pytest.raises(ValueError, match=r"spec\.yaml is not the one"):
        run_folders.opened(folder)
    run_folders.mend_spec(folder)
    spec, again = run_folders.opened(folder)
    assert (spec.spec_hash, spec.search.trials) == (new.spec_hash, 9)
    assert again.extended() is not None
    run_folders.mend_spec(folder)
    (folder / run_folders.SPEC).write_text(toy_spec(search={"method": "tpe", "trials": 12}).to_yaml(), "utf-8")
    run_folders.mend_spec(folder)
    assert run_folders.recorded(folder / run_folders.SPEC).search.trials == 12, "what people wrote is not replaced"
    with pytest.raises(ValueError, match=r"spec\.yaml is not the one"):
        run_folders.opened(folder)


def test_a_run_is_extended_in_place(sweep: Callable[..., Journal], tmp_path: Path) -> None:
    """By the command's own way up to Ray; the points are those of a run that was that long from the start."""

    def spec(trials: int, **changes: Any) -> SweepSpec:
        return toy_spec(
            search={"method": "tpe", "trials": trials}, config=NOISY, resources={"concurrency": 1}, **changes
        )

    journal, clean = sweep(spec(4)), sweep(spec(7), taken=False)
    journal.close()
    folder, lines = journal.path.parent, list[str]()

    def asked(*changes: str) -> Stages:
        request = Request(resume=folder, set=list(changes))
        admission = preflight.admission(request, lines.append)
        admission.prepare_info = {"data_fingerprint": "text"}
        assert admission.run_folder(None) == folder
        return Stages.opened(admission, folder, verbose=False, wait=0)

    stages = asked("search.trials=7")
    assert not stages.over
    in_process.go_on(stages.spec, folder, stages.journal, reuse=False)  # the clean run lies beside it
    assert rows(stages.journal) == rows(clean)
    assert [one.ask.params for one in stages.journal.trials.values()] == [
        one.ask.params for one in clean.trials.values()
    ]
    assert set(taken(stages.journal).values()) == {None}
    found = stages.journal.extended()
    assert found is not None
    assert found[1].changed == ["search.trials"]
    stages.journal.close()
    stages = asked("resources.max_failures=3", "limits.hours=9")
    assert stages.over
    stages.journal.close()
    assert run_folders.opened(folder)[0].resources.max_failures == 3
    for change, line in (
        ("config.steps=30", "it holds another run"),
        ("search.trials=6", "it holds another run"),
        ("arms.new={x: 0.5}", "arms.new"),
    ):
        with pytest.raises(ValueError, match=line):
            asked(change)


def test_a_run_with_a_declared_confirmation_is_not_extended(sweep: Callable[..., Journal]) -> None:
    changes = {"seeds": {"search": [1], "confirm": [2, 3]}, "confirm": {"best": 1}}
    spec = toy_spec(search={"method": "tpe", "trials": 3}, config=NOISY, resources={"concurrency": 1}, **changes)
    journal = sweep(spec, confirm=True)
    longer = toy_spec(search={"method": "tpe", "trials": 5}, config=NOISY, resources={"concurrency": 1}, **changes)
    assert run_folders.extends(spec, longer)
    with pytest.raises(ValueError, match=r"search\.trials: this run has declared its confirmation"):
        run_folders.refuse_extension(journal, spec, longer)
