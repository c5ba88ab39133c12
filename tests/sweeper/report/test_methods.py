"""The setup and the methods paragraph say what the record holds, and nothing that it lacks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.confirmation import conclusion, design
from sweeper.journal import recorded
from sweeper.journal.events import Doubt, Family, Verdict
from sweeper.journal.journal import Journal
from sweeper.report.methods import methods
from sweeper.report.sections import Outcome, markdown
from sweeper.report.setup import VARIES, setup, tex
from tests.sweeper import confirmed
from tests.sweeper.in_process import sweep
from tests.sweeper.samples import ask, end, report, session, toy_spec, written
from trainables import mlm

FACTS = {
    "parts": {part: {"documents": 10, "words": 1234, "unknown": 0.005} for part in ("train", "val", "test")},
    "vocabulary": 500,
}


def test_the_setup_says_what_a_bert_was_trained_on() -> None:
    config = mlm.Config.model_validate({"model": {"hidden": 32, "heads": 2}, "data": {"tokenizer": "train:500"}})
    said = mlm.setup(config, FACTS)
    assert said["documents"] == "10 train, 10 val, 10 test"
    assert said["words"] == "1,234 train, 1,234 val, 1,234 test"
    assert said["unknown tokens"].startswith("0.5 % of train")
    assert said["tokenizer"].endswith("500 entries")
    assert said["model"].endswith(f"{config.parameters(500) / 1e6:.2f} M parameters")
    assert "learning rate 0.0005" in said["optimiser"]
    assert "15% of the positions" in said["masking"]
    bare = mlm.setup(config, {})
    assert not {"documents", "words", "unknown tokens"} & bare.keys()
    assert "M parameters" not in bare["model"]


def test_a_setup_and_a_paragraph_say_which_weights_a_run_began_with(tmp_path: Path) -> None:
    """Else a paper says of training that went on from a bundle that it began from scratch."""
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "metadata.json").write_text('{"step": 4000}', "utf-8")
    spec = toy_spec(
        trainable="trainables.mlm:train",
        space={},
        arms={"baseline": {}, "wide": {"model.hidden": 512}},
        search={"method": "arms"},
    )

    def said(**config: Any) -> tuple[dict[str, str], str]:
        begun = spec.model_copy(update={"config": config})
        journal = Journal(tmp_path / f"{len(config)}.jsonl")
        journal.append(replace(session(), facts=recorded.trainable_facts(begun, FACTS)))
        return setup(begun, journal), methods(begun, journal)

    rows, paragraph = said(init_from={"bundle": str(bundle), "weights": "ab" * 32})
    assert rows["began with"].startswith(
        f"the weights of {bundle} (SHA-256 {'ab' * 32}), after 4,000 steps of their own"
    )
    assert rows["steps"] == "10,000"
    assert f"Each run began with {rows['began with']}." in paragraph
    rows, paragraph = said()
    assert rows["began with"] == "weights drawn from its seed"
    assert "Each run began with weights drawn from its seed." in paragraph


@pytest.mark.parametrize("embedding", ["plain", "nhot"])
def test_the_parameters_are_those_of_the_model(embedding: str) -> None:
    from trainables.model.bert import CompactBert

    config = mlm.Config.model_validate({"model": {"hidden": 32, "heads": 2, "layers": 3, "embedding": embedding}})
    listed = [[token] for token in range(70)] if embedding == "nhot" else None
    model = CompactBert(config.model, 70, 0, listed)
    assert sum(parameter.numel() for parameter in model.parameters()) == config.parameters(70)


def test_what_trials_vary_is_the_baselines_alone(tmp_path: Path) -> None:
    spec = toy_spec(
        trainable="trainables.mlm:train",
        space={"optimiser.lr": {"loguniform": [1e-4, 1e-2]}},
        arms={"baseline": {"optimiser.lr": 1e-3}},
    )
    noted = recorded.trainable_facts(spec, FACTS)
    assert noted[recorded.FACT][recorded.VARIED] == ["optimiser"]
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(replace(session(), facts={**FACTS, **noted, "data_fingerprint": "d1"}))
    said = setup(spec, journal)
    assert said["optimiser"].startswith("AdamW, learning rate 0.001")
    assert said["optimiser"].endswith(f"({VARIES})")
    assert VARIES not in said["model"]
    assert (said["steps"], said["data fingerprint"]) == ("10,000", "d1")
    assert said["tokens a run"] == f"{10_000 * 64 * 128:,}"
    assert said["versions"] == "ray 2.60.0, torch 2.13.0"
    assert tex(spec, journal).count("\\begin{") == tex(spec, journal).count("\\end{") == 2


def test_a_record_that_tells_little_has_a_short_setup(tmp_path: Path) -> None:
    said = setup(toy_spec(), written(tmp_path, toy_spec()))
    assert said["search"] == "6 trials, 1 seed (0)"
    assert said["hardware"] == "2 CPUs"
    assert not {"steps", "corpus", "model", "confirmation"} & said.keys()
    assert setup(toy_spec(), Journal(tmp_path / "none")) == {"objective": "val/loss"}


def test_a_run_whose_results_were_told_says_so_and_not_where_it_was_asked_for(tmp_path: Path) -> None:
    """Machine, hours, versions and commit of the process that asks are not those of the training."""
    journal = written(tmp_path, spec := toy_spec())
    trained = setup(spec, journal)
    assert {"hardware", "wall clock", "trials ran", "GPU-hours", "versions", "code"} <= trained.keys()
    assert "run with sweeper at commit abc123 on Ray 2.60.0, PyTorch 2.13.0." in methods(spec, journal)
    journal.append(Doubt(text=recorded.TOLD))
    said, paragraph = setup(spec, journal), methods(spec, journal)
    assert said == {"training": recorded.TOLD, **{key: said[key] for key in ("objective", "search")}}
    assert recorded.TOLD in tex(spec, journal)
    assert "Trials were chosen and judged, but not trained, with sweeper at commit abc123." in paragraph
    assert paragraph.endswith(f"Caution: {recorded.TOLD}")


@pytest.mark.parametrize("facts", [{"trainable": 3}, {"trainable": {"setup": [1]}}, {"trainable": {"setup": {"a": 3}}}])
def test_a_setup_that_nobody_writes_does_no_harm(tmp_path: Path, facts: dict[str, Any]) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(replace(session(), facts=facts))
    assert setup(toy_spec(), journal)["objective"] == "val/loss"


def test_a_search_and_its_confirmation(tmp_path: Path) -> None:
    spec = confirmed.spec()
    journal = confirmed.written(tmp_path, spec, {"t0005": -0.012, "published": 0.02})
    journal.append(replace(session(9500), facts={"data_fingerprint": "d1"}))
    said = methods(spec, journal)
    for part in (
        "24 configurations, of which the first 2 were given (baseline, published) were tried, each once with seed 0",
        "a multivariate tree-structured Parzen estimator",
        "21 of 24 trials of the search completed (3 failed)",
        "The 2 configurations with the lowest val/loss in the search (t0005 (84/11/5 x 0.31 y 0.73), published)",
        "each trained to full length on 8 seeds (101 to 108) that the search did not use, nor any earlier run",
        "Holm's method for 2 comparisons at a level of 0.05",
        "lies within ±0.01 nats",
    ):
        assert part in said, part
    assert not {"look", "futility", "taken over"} & {*said.split()}
    assert "No confirmation" not in said


def test_seeds_are_called_fresh_only_where_that_was_asked(tmp_path: Path) -> None:
    """No data fingerprint, no earlier run on these data that anybody could find."""
    spec = confirmed.spec()
    said = methods(spec, confirmed.written(tmp_path, spec, {"t0005": -0.012}))
    assert "any earlier run on record" not in said
    assert "whether earlier runs used them was not checked, as the trainable names no data" in said


def test_without_a_search_nothing_is_said_of_what_it_used(tmp_path: Path) -> None:
    arms = {"plain": {"x": 0.5}, "better": {"x": 0.3}}
    seeds = {"search": [], "confirm": list(range(101, 109))}
    spec = toy_spec(space={}, arms=arms, seeds=seeds, search={"method": "arms"})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(replace(session(), facts={"data_fingerprint": "d1"}))
    journal.append(design.declared(spec, journal, fresh=True, earlier=0))
    said = methods(spec, journal)
    assert "on 8 seeds (101 to 108), unused by any earlier run on record on these data." in said
    assert "on a part of the data that training never read, are to be tested" in said
    outcome = Outcome(run_dir=tmp_path, tracking_uri="sqlite:////s/mlflow.db")
    assert "There was no search. Runs of the confirmation: none started." in markdown(spec, journal, outcome)


def test_a_search_without_a_result_says_why_nothing_follows(tmp_path: Path) -> None:
    spec = toy_spec(seeds={"search": [0], "confirm": list(range(101, 109))}, search={"method": "tpe", "trials": 2})
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(ask(spec, 0, 0, "baseline"))
    assert "(it has not begun)" in methods(spec, journal)
    journal.append(end(0, "failed", 1, "RuntimeError: it broke"))
    journal.append(ask(spec, 1, 2, "published"))
    journal.append(end(1, "failed", 3, "RuntimeError: it broke"))
    said = methods(spec, journal)
    assert "There is no confirmation on fresh seeds (no trial of the search completed)" in said


def test_a_search_alone_is_no_result(tmp_path: Path) -> None:
    said = methods(toy_spec(), written(tmp_path, toy_spec()))
    assert "There is no confirmation on fresh seeds (the spec declares none), so nothing here is a result." in said
    assert "Holm" not in said


def test_arms_without_a_search_with_looks_and_seeds_that_are_not_fresh(tmp_path: Path) -> None:
    seeds = {"search": [], "confirm": list(range(101, 109))}
    arms = {"plain": {"x": 0.5}, "better": {"x": 0.3}, "same": {"x": 0.501}}
    confirm = {"until": "decided", "looks": [6, 8], "margin": 0.001}
    given: dict[str, Any] = {"space": {}, "search": {"method": "arms"}, "config": {"run_sd": 0.004}}
    spec = toy_spec(arms=arms, seeds=seeds, confirm=confirm, **given)
    journal = sweep(spec, tmp_path, confirm=True)
    said = methods(spec, journal)
    assert "There was no search: the 3 arms (plain, better, same) went straight to the confirmation." in said
    assert "the baseline, plain, are each to be trained to full length on up to 6 seeds (101 to 106)" in said
    assert "not all of them are fresh" in said
    assert "on a part of the data that training never read" in said
    assert "lower than the baseline's by more than 0.001 nats" in said
    assert "Looks after 6, 8 pairs were declared before the first run" in said
    assert "an O'Brien-Fleming spending function" in said
    assert "0 of 2 looks were taken" in said
    assert "The confirmation has no verdict yet." in said
    journal.append(Verdict(data=conclusion.conclude(spec, journal, journal.path.parent).to_dict()))
    second = {**vars(journal.families()[0]), "look": 2, "seeds": [107, 108]}
    journal.append(Family(**second))  # before its first run, as the driver does: a limit may end the sweep here
    said = methods(spec, journal)
    assert "the baseline, plain, were then each trained to full length on up to 6 seeds (101 to 106)" in said
    assert "1 of 2 looks was taken" in said
    assert said.count("107") == 1
    assert "Look 2, which adds 2 seeds (107, 108), has no verdict yet." in said


def test_racing_a_grid_and_a_further_look(tmp_path: Path) -> None:
    spec = toy_spec(
        space={"x": {"choice": [0.1, 0.2, 0.3, 0.5]}},
        arms={"plain": {"x": 0.5}},
        search={"method": "grid"},
        seeds={"search": [1], "confirm": list(range(101, 109))},
        confirm={"racing": True, "best": 2},
    )
    journal = Journal(tmp_path / "journal.jsonl")
    for number, arm in enumerate(spec.arms):
        journal.append(ask(spec, number, number, arm))
        journal.append(report(number, 20, 1.0 + number / 10, number))
        journal.append(end(number, "completed", number))
    first = design.declared(spec, journal, fresh=True, earlier=0)
    journal.append(first)
    said = methods(spec, journal)
    assert (
        "Each of 4 declared configurations (the grid of x (one of 0.1, 0.2, 0.3, 0.5) and the spec's own arms)" in said
    )
    assert "The 2 configurations with the lowest mean val/loss in the search" in said
    assert (
        "After 4 seeds, candidates whose interval excludes the wanted improvement are to be dropped for futility."
        in said
    )
    assert "further look" not in said
    journal.append(Family(**{**vars(first), "look": 2, "seeds": [201, 202]}))
    said = methods(spec, journal)
    assert "1 further look was asked for after results had been seen, on 2 more seeds and at a level of 0.025" in said


def test_a_space_is_said_with_its_conditions(tmp_path: Path) -> None:
    """Without them it reads as a full product, and the sampler as another one."""
    spec = toy_spec(
        space={"x": {"uniform": [0, 1]}, "steps": {"choice": [20, 30]}}, conditions={"x": {"steps": 30}}, arms={}
    )
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(ask(spec, 0, 0, steps=20))
    said = methods(spec, journal)
    assert "by a grouped multivariate tree-structured Parzen estimator (Optuna) over" in said
    assert f"x ({spec.space['x'].words()}, only where steps is 30), steps (one of 20, 30)" in said


def test_halving_is_said_with_its_rungs(tmp_path: Path) -> None:
    spec = toy_spec(scheduler="halving")
    said = methods(spec, written(tmp_path, spec))
    assert f"stopped trials at steps {', '.join(map(str, spec.rungs))}; the baseline was never stopped" in said
    assert "(1 stopped, 1 failed, 1 running)" in said
