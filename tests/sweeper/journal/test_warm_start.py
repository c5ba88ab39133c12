"""`search.from`: completed trials of other runs are what a sampler knows from the start, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from sweeper import preflight
from sweeper.confirmation import design
from sweeper.journal import records, run_folders, warm_start
from sweeper.journal.events import Doubt, WarmStart
from sweeper.journal.journal import Journal
from sweeper.preflight import Admission, Request
from sweeper.report.methods import methods
from sweeper.report.sections import Outcome, markdown
from sweeper.report.setup import setup
from sweeper.report.summary import summary
from sweeper.search import optuna_search
from sweeper.spec.sections import Seeds
from sweeper.spec.spec import SweepSpec
from sweeper.stages import Stages
from tests.sweeper import in_process
from tests.sweeper.samples import ask, toy_spec

Run = Callable[..., Journal]


def spec(method: str = "tpe", trials: int = 8, seed: int = 0, *sources: str, **changes: Any) -> SweepSpec:
    search = {"method": method, "trials": trials} | ({"from": list(sources)} if sources else {})
    given: dict[str, Any] = {"space": {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}}}
    given |= {"arms": {"baseline": {"x": 0.9, "y": 0.1}}, "config": {"seed_sd": 0.5}}
    return toy_spec(**(given | {"search": search, "seeds": {"search": [seed]}} | changes))


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "runs"


def asked(storage: Path, one: SweepSpec, resume: Path | None = None, newest: bool = False) -> Admission:
    """A spec as the command line asks for it. newest: with `--resume` alone."""
    path = storage.parent / "asked.yaml"
    path.write_text(one.to_yaml(), "utf-8")
    given, resume = None if resume else path, run_folders.NEWEST if newest else resume
    return preflight.admission(Request(spec=given, storage=storage, resume=resume, yes=True), lambda line: None)


def warm(storage: Path, one: SweepSpec, stop_after: float = float("inf")) -> Journal:
    """A run of a spec with sources, in process."""
    admitted = asked(storage, one)
    admitted.prepare_info = {"data_fingerprint": "text"}
    run_dir = admitted.run_folder(None)
    stages = Stages.opened(admitted, run_dir, verbose=False, wait=0)
    in_process.go_on(stages.spec, run_dir, stages.journal, stop_after=stop_after)
    return stages.journal


def refused(storage: Path, one: SweepSpec) -> str:
    with pytest.raises(ValueError, match=r"search\.from: ") as error:
        asked(storage, one)
    assert "\n" not in str(error.value)
    return str(error.value)


def params(journal: Journal) -> list[dict[str, Any]]:
    return [record.ask.params for record in journal.trials.values()]


@pytest.mark.parametrize("method", ["tpe", "gp"])
def test_the_sampler_goes_on_from_what_another_run_saw(storage: Path, method: str) -> None:
    source = in_process.sweep(spec("random", 12, 5, name="source"), storage)
    cold = in_process.sweep(spec(method, 8), storage, reuse=False)
    found = warm(storage, spec(method, 8, 0, "source"))
    (start,) = found.warm_starts()
    assert (start.source, len(start.trials), start.outside) == (source.path.parent.name, 12, 0)
    assert [one["params"] for one in start.trials] == params(source)
    assert params(found)[0] == params(cold)[0] == {"x": 0.9, "y": 0.1}
    assert params(found)[1:4] != params(cold)[1:4], "no point is drawn at random any more"
    distance = [
        fmean((one["x"] - 0.3) ** 2 + (one["y"] - 0.7) ** 2 for one in params(each)[1:4]) for each in (found, cold)
    ]
    assert distance[0] < distance[1] / 2


def test_what_is_known_is_no_trial_of_this_run(storage: Path) -> None:
    in_process.sweep(spec("tpe", 25, 5, name="source", config={"seed_sd": 0}), storage)
    one = spec("tpe", 3, 0, "source", config={"seed_sd": 0})
    found = warm(storage, one)
    best = min(value for start in found.warm_starts() for each in start.trials for value in each["values"])
    mine = records.best(one, found.trials.values())
    assert mine is not None
    assert (mine.score("val/loss") or 0) > best
    assert list(found.trials) == ["t0001", "t0002", "t0003"]
    outcome = Outcome(run_dir=found.path.parent, tracking_uri="sqlite:///x.db")
    told = summary(one, found, outcome)
    assert [each["id"] for each in told["trials"]] == list(found.trials)
    name = found.warm_starts()[0].source
    assert told["warm_start"] == [{"run": name, "trials": 25, "outside": 0}]
    assert f"the sampler knew 25 trials of {name} (seed 5), told as differences to the baseline" in markdown(
        one, found, outcome
    )


def test_losses_are_told_at_the_level_of_this_runs_baseline(storage: Path) -> None:
    source = in_process.sweep(spec("random", 6, 5, name="source"), storage)
    found = warm(storage, spec("tpe", 3, 0, "source"))
    starts, losses = found.warm_starts(), [one.score("val/loss") or 0 for one in source.trials.values()]
    assert [values for _, values in warm_start.told(starts, None)] == [[loss] for loss in losses]
    own = found.trials["t0001"].score("val/loss") or 0
    told = [values[0] for _, values in warm_start.told(starts, [own])]
    assert told == pytest.approx([loss - losses[0] + own for loss in losses])
    arms = {f"a{number}": each for number, each in enumerate(params(source))}
    same = in_process.sweep(spec("arms", 6, 0, arms=arms, space={}, name="same"), storage)
    scores = [one.score("val/loss") for one in same.trials.values()]
    assert told == pytest.approx(scores), "what these points score on this run's seed"


def test_a_source_without_the_baseline_is_told_as_observed(storage: Path) -> None:
    source = in_process.sweep(spec("random", 4, 5, name="source", arms={}), storage)
    found = warm(storage, spec("tpe", 3, 0, "source"))
    starts = found.warm_starts()
    assert [values for _, values in warm_start.told(starts, [3.0])] == [
        [one.score("val/loss")] for one in source.trials.values()
    ]
    assert warm_start.words(starts) == [f"4 trials of {source.path.parent.name} (seed 5), told as observed"]


def test_points_are_the_same_when_a_run_is_resumed_without_its_source(storage: Path) -> None:
    source = in_process.sweep(spec("random", 6, 5, name="source"), storage)
    one = spec("tpe", 8, 0, source.path.parent.name)
    whole = warm(storage, one)
    cut = warm(storage, one, stop_after=3)
    cut.close()
    shutil.rmtree(source.path.parent)
    assert "search.from: " in refused(storage, one)
    run_dir = cut.path.parent
    admitted = asked(storage, one, resume=run_dir)
    assert admitted.run_to_resume == run_dir
    admitted.prepare_info = {"data_fingerprint": "text"}
    stages = Stages.opened(admitted, run_dir, verbose=False, wait=0)
    in_process.go_on(stages.spec, run_dir, stages.journal)
    assert params(stages.journal) == params(whole)
    assert len(stages.journal.warm_starts()) == 1


@pytest.mark.parametrize("gone", [True, False])
def test_the_newest_run_of_a_spec_is_resumed_whatever_became_of_its_source(storage: Path, gone: bool) -> None:
    source = in_process.sweep(spec("random", 4, 5, name="source"), storage)
    one, folder = spec("tpe", 3, 0, source.path.parent.name), source.path.parent
    run_dir = warm(storage, one, stop_after=2).path.parent
    if gone:
        folder.rename(storage.parent / "elsewhere")
    else:
        in_process.go_on(spec("random", 8, 5, name="source"), folder, source)
        assert asked(storage, one).spec.spec_hash != run_folders.own_hash(run_dir), "it tells more now"
    admitted = asked(storage, one, newest=True)
    assert admitted.run_to_resume == run_dir
    pinned = admitted.spec.search.sources[0]
    other = f"{pinned[:-1]}{'1' if pinned.endswith('0') else '0'}"  # somebody names another digest
    elsewhere = one.model_copy(update={"search": one.search.model_copy(update={"sources": (other,)})})
    with pytest.raises(ValueError, match=r"search\.from: "):
        asked(storage, elsewhere, newest=True)


def test_a_run_that_was_killed_between_two_sources_gets_the_second(storage: Path) -> None:
    for name, seed in (("one", 5), ("two", 6)):
        in_process.sweep(spec("random", 4, seed, name=name), storage)
    admitted = asked(storage, spec("tpe", 4, 0, "one", "two"))
    admitted.prepare_info, both = {"data_fingerprint": "text"}, admitted.warm
    run_dir = admitted.run_folder(None)
    admitted.warm = both[:1]
    Stages.opened(admitted, run_dir, verbose=False, wait=0).journal.close()
    again = asked(storage, admitted.spec, resume=run_dir)
    journal = Stages.opened(again, run_dir, verbose=False, wait=0).journal
    assert [start.trials for start in journal.warm_starts()] == [start.trials for start in both]
    half = Journal(storage / "half.jsonl")
    half.append(both[0])
    with pytest.raises(ValueError, match="the record does not have what the other runs told"):
        optuna_search.StudySearch(admitted.spec, half, 1, storage / "log", 1)


def test_seeds_that_steered_the_search_confirm_nothing(storage: Path) -> None:
    """Also where the store does not have the other run: here there is none at all."""
    in_process.sweep(spec("random", 4, 5, name="source"), storage)
    seeds = {"search": [0], "confirm": [5, 7, 8]}
    found = spec("tpe", 3, 0, "source", seeds=seeds, confirm={"best": 1})
    admitted = asked(storage, found)
    for facts in ({}, {"data_fingerprint": "text"}):
        admitted.prepare_info = dict(facts)
        (line,) = [line for lines in admitted.refusals() for line in lines if "seeds" in line]
        assert "asked.yaml: seeds.confirm: runs of search.from used 5, and what they tell steers the search" in line
    journal = warm(storage, found.model_copy(update={"seeds": Seeds(search=(0,), confirm=(7, 8, 9))}))
    assert design.declared(
        found.model_copy(update={"seeds": Seeds(search=(0,), confirm=(7, 8))}), journal, fresh=True, earlier=0
    ).fresh
    family = design.declared(found, journal, fresh=True, earlier=0)
    assert not family.fresh, "as --reuse-seeds has it"
    journal.append(replace(family, seeds=[1, 2]))
    low = found.model_copy(update={"seeds": Seeds(search=(0,), confirm=(1, 2))})
    assert design.further(low, journal, 2, set()).seeds == [6, 7]


def test_the_hash_is_that_of_what_is_told(storage: Path) -> None:
    source = in_process.sweep(spec("random", 6, 5, name="source"), storage)
    name = source.path.parent.name
    by_name, by_folder, by_path = (
        asked(storage, spec("tpe", 3, 0, each)).spec for each in ("source", name, str(source.path.parent))
    )
    assert by_name == by_folder == by_path
    (pin,) = by_name.search.sources
    assert pin.startswith(f"{name}@")
    assert by_name.spec_hash != spec("tpe", 3).spec_hash
    moved = storage / "moved"
    shutil.copytree(source.path.parent, moved)
    assert asked(storage, spec("tpe", 3, 0, "moved")).spec.spec_hash == by_name.spec_hash
    shutil.rmtree(moved)
    in_process.sweep(spec("random", 7, 5, name="source"), storage)
    assert "2 runs have this name: take one of " in refused(storage, spec("tpe", 3, 0, "source"))
    longer = next(path.name for path in storage.iterdir() if path.name.startswith("source-") and path.name != name)
    assert asked(storage, spec("tpe", 3, 0, longer)).spec.spec_hash != by_name.spec_hash
    assert asked(storage, spec("tpe", 3, 0, pin)).spec == by_name
    assert "it tells something else than when it was named" in refused(
        storage, spec("tpe", 3, 0, f"{longer}@{pin.rpartition('@')[2]}")
    )


def test_a_run_of_another_question_is_refused_in_a_line_that_says_why(storage: Path) -> None:
    in_process.sweep(spec("random", 3, 5, name="steps", config={"steps": 40, "seed_sd": 0.5}), storage)
    in_process.sweep(spec("random", 3, 5, name="failed", config={"fail": "nan", "seed_sd": 0.5}), storage)
    doubted = in_process.sweep(spec("random", 3, 5, name="doubted"), storage)
    doubted.append(Doubt(text="something"))
    foreign = in_process.sweep(spec("random", 3, 5, name="foreign"), storage)
    (storage.parent / "cache" / "begun" / f"{foreign.run}.born").unlink()
    whole = in_process.sweep(spec("random", 3, 5, name="changed"), storage)
    whole.path.write_bytes(whole.path.read_bytes().replace(b'"seed": 5', b'"seed": 6'))
    for name, why in {
        "steps": "it is no run of this question: steps is 40 there, 20 here",
        "failed": "no trial of its search has completed",
        "doubted": "its record is in doubt, so nothing is taken from it",
        "foreign": "this user did not begin it on this machine",
        "changed": "journal line ",
        "nothing": f"{storage} has no such run; ",
        "../runs/nothing": "nothing is no run folder: it has no spec.yaml",
    }.items():
        assert f"search.from: {name}: " in (line := refused(storage, spec("tpe", 3, 0, name)))
        assert why in line
    both = refused(storage, spec("tpe", 3, 0, "steps", "doubted"))
    assert both.count("search.from: ") == 2


def test_other_data_is_refused(storage: Path) -> None:
    in_process.sweep(spec("random", 3, 5, name="source"), storage, data_fingerprint="other")
    admitted = asked(storage, spec("tpe", 3, 0, "source"))
    admitted.prepare_info = {"data_fingerprint": "text"}
    (line,) = [line for lines in admitted.refusals() for line in lines]
    assert "it had other data (data_fingerprint was other, is text)" in line
    with pytest.raises(ValueError, match="it had other data"):
        admitted.run_folder(None)


def test_points_outside_the_space_are_left_out_and_counted(storage: Path) -> None:
    source = in_process.sweep(spec("random", 12, 5, name="source"), storage)
    narrow = spec("tpe", 3, 0, "source", space={"x": {"uniform": [0.5, 1]}, "y": {"uniform": [0, 1]}})
    (start,) = asked(storage, narrow).warm
    inside = [one for one in params(source) if one["x"] >= 0.5]
    assert [one["params"] for one in start.trials] == inside
    assert start.outside == 12 - len(inside) > 0
    assert warm_start.words([start])[0].endswith(f"; {start.outside} more are no points of this space")
    one_path = spec("tpe", 3, 0, "source", space={"x": {"uniform": [0, 1]}}, arms={}, config={"seed_sd": 0.5, "y": 0.1})
    (start,) = asked(storage, one_path).warm
    assert [one["params"] for one in start.trials] == [{"x": 0.9}], "the one whose y is that of config"
    wider = in_process.sweep(spec("random", 3, 5, name="one", space={"x": {"uniform": [0, 1]}}, arms={}), storage)
    (start,) = asked(storage, spec("tpe", 3, 0, "one")).warm
    assert [one["params"] for one in start.trials] == [{**one, "y": 0.5} for one in params(wider)]


def test_arms_on_several_seeds_are_told_each_against_its_own_baseline(storage: Path) -> None:
    given = {"baseline": {"x": 0.9, "y": 0.1}, "near": {"x": 0.3, "y": 0.6}}
    in_process.sweep(spec("arms", 6, arms=given, space={}, seeds={"search": [5, 6, 7]}, name="arms"), storage)
    (start,) = asked(storage, spec("tpe", 3, 0, "arms")).warm
    values = [value[0] for _, value in warm_start.told([start], [2.0])]
    assert values == pytest.approx([2.0, values[1]] * 3)


def test_a_source_that_lacks_the_baseline_on_one_seed_is_said_to_be_told_both_ways(storage: Path) -> None:
    """A paper says of each loss how it was told, and on which seeds: they steered the search."""
    given = {"baseline": {"x": 0.9, "y": 0.1}, "near": {"x": 0.3, "y": 0.6}}
    in_process.sweep(
        spec("arms", 4, arms=given, space={}, seeds={"search": [5, 6]}, name="arms"), storage, stop_after=3
    )
    one = spec("tpe", 3, 0, "arms")
    found = warm(storage, one)
    (start,) = found.warm_starts()
    (line,) = warm_start.words([start])
    lost = replace(
        start, trials=[{**each, "baseline": each["baseline"] if each["seed"] == 5 else None} for each in start.trials]
    )
    (mixed,) = warm_start.words([lost])
    assert line == f"3 trials of {start.source} (seeds 5, 6), told as differences to the baseline"
    assert mixed.endswith("told 2 as differences to the baseline and 1 as observed")
    assert f"From its first point on the sampler knew {line}; these are no trials of this sweep." in methods(one, found)
    assert setup(one, found)["sampler knew"] == line


def test_the_sampler_sees_no_more_than_it_can(storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna_search, "MEMORY", 5)
    seen = []
    told = optuna_search.StudySearch._history

    def history(self: Any, settled: Any, most: int) -> Any:
        seen.append((most, found := told(self, settled, most)))
        return found

    monkeypatch.setattr(optuna_search.StudySearch, "_history", history)
    in_process.sweep(spec("random", 6, 5, name="source"), storage)
    warm(storage, spec("tpe", 8, 0, "source"))
    assert [len(found) for _, found in seen[-7:]] == [4, 3, 2, 1, 0, 0, 0]


def test_a_search_whose_record_lacks_what_was_told_does_not_start(storage: Path) -> None:
    with pytest.raises(ValueError, match=r"search\.from: the record does not have what the other runs told"):
        in_process.sweep(spec("tpe", 3, 0, "source"), storage)


def test_a_record_is_read_as_strictly_as_the_rest(tmp_path: Path) -> None:
    known: Any = {"trial": "t0001", "seed": 1, "params": {"x": 0.5}, "values": [1.0], "baseline": None}
    one = WarmStart(source="source", run="0123456789abcdef", trials=[known], outside=0)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(one)
    assert Journal(journal.path, read_only=True).warm_starts() == [one]
    bad: dict[str, Any]
    for bad in (
        {"source": "a/b"},
        {"run": "x"},
        {"trials": []},
        {"trials": [{**known, "values": [float("nan")]}]},
        {"trials": [{**known, "more": 1}]},
        {"trials": [{**known, "trial": "../x"}]},
    ):
        with pytest.raises(ValueError, match=r"^(its|Out)"):
            journal.append(replace(one, **bad))
    given = spec("tpe", 3, 0, "source")
    for params, values in (({"steps": 5}, [1.0]), ({"x": 7.0}, [1.0]), ({"x": 0.5}, [1.0, 2.0])):
        (tmp_path / str(params)).mkdir(exist_ok=True)
        told = Journal(tmp_path / str(params) / "journal.jsonl")
        told.append(replace(one, trials=[{**known, "params": params, "values": values}]))
        with pytest.raises(ValueError, match=r"does not fit this spec|lies outside"):
            optuna_search.StudySearch(given, told, 1, tmp_path / "log", 1)
    journal.append(ask(given, 0, 1, "baseline"))
    with pytest.raises(ValueError, match="comes after a trial"):
        journal.append(one)


def test_a_plan_says_what_the_sampler_knows(storage: Path) -> None:
    from sweeper.plan.estimate import plan, shown
    from sweeper.trainable import Pace

    in_process.sweep(spec("random", 4, 5, name="source"), storage)
    admitted = asked(storage, spec("tpe", 3, 0, "source"))
    made = replace(plan(admitted.spec, 1, Pace(0.1, 0.0)), warm=warm_start.words(admitted.warm))
    (line,) = [line for line in shown(admitted.spec, made) if "warm start" in line]
    assert line.startswith("  warm start  4 trials of source-")
    assert run_folders.new(storage, admitted.spec).name.endswith(admitted.spec.spec_hash[:8])
