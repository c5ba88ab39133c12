"""Limits that end a running sweep: what counts, in order, and how it goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeper.closing import lines
from sweeper.confirmation import design
from sweeper.journal import limits
from sweeper.journal.events import Ask, End, Event, Extend, Family, Report, Verdict
from sweeper.journal.hours import Hours
from sweeper.journal.journal import Journal
from sweeper.journal.limits import Limits, Reached
from sweeper.report.rows import trials
from sweeper.report.sections import Outcome
from sweeper.report.tables import cost
from sweeper.search import optuna_search, searchers
from sweeper.spec.spec import SweepSpec
from sweeper.trials import tuner
from tests.sweeper import in_process, samples
from tests.sweeper.journal.test_journal import SAID
from tests.sweeper.samples import T0, ask, toy_spec

HOUR = 3600.0


def spec(**changes: Any) -> SweepSpec:
    return toy_spec(**({"space": {"x": {"uniform": [0, 1]}}, "arms": {}} | changes))


def journal(folder: Path, *events: Event) -> Journal:
    found = Journal(folder / "journal.jsonl")
    for event in events:
        found.append(event)
    return found


def asked(number: int, at: float, refused: bool = False) -> Ask:
    one = ask(toy_spec(), number, at, x=0.5)
    return replace(one, config_hash="", config={}) if refused else one


def ended(number: int, at: float, state: Any = "completed") -> End:
    return End(trial=f"t{number:04d}", state=state, reason="RuntimeError: of this kind", time=T0 + at)


def test_hours_are_those_of_all_sessions_without_what_lies_between(tmp_path: Path) -> None:
    found = journal(tmp_path, samples.session(0), asked(0, 10), ended(0, HOUR), samples.session(100 * HOUR))
    clock = [T0 + 100 * HOUR]
    one = Limits(spec(limits={"hours": 2}), found, lambda: clock[0])
    assert one.hours == pytest.approx(1.0)
    assert one.reached() is None
    clock[0] += HOUR - 1
    assert one.reached() is None
    clock[0] += 1
    assert one.reached() == "limits.hours: the sweep has run for 2 hours, the limit is 2"
    assert Limits(spec(), found, lambda: clock[0]).reached() is None


def test_what_a_resumed_driver_writes_before_its_session_is_of_no_session(tmp_path: Path) -> None:
    """A day before: an Extend for a raised limit, and the Family of --more-seeds."""
    found = journal(tmp_path, samples.session(0), asked(0, 0), asked(1, 0), ended(0, HOUR, "interrupted"))
    for event in (
        Extend(changed=["limits.hours"], spec_hash="x", spec="", time=T0 + 48 * HOUR),
        Family(look=1, baseline="a", arms={"a": {}}, seeds=[1], time=T0 + 48 * HOUR),
        Verdict(data=SAID, time=T0 + 48 * HOUR),
    ):
        found.append(event)
    used = Limits(spec(), found, lambda: T0).ended()
    assert (used.hours, used.trial_hours) == (1.0, 2.0)
    found.append(samples.session(48 * HOUR))
    limit = {"limits": {"hours": 2, "gpu_hours": 3}, "resources": {"gpus_per_worker": 1}}
    assert Limits(spec(**limit), found, lambda: T0 + 48 * HOUR).reached() is None
    shown = cost(spec(), found)
    assert (shown["wall clock"], shown["trials ran"]) == ("1.00 hours", "2.00 hours in all")
    assert [row["seconds"] for row in trials(spec(), found)] == [HOUR, HOUR]


def test_trials_that_wait_for_a_place_hold_no_gpu(tmp_path: Path) -> None:
    found = journal(tmp_path, samples.session(0), *(asked(number, 0) for number in range(3)))
    found.append(replace(samples.session(10 * HOUR), machine={"concurrency": 3, "slots": 1}))
    one = Limits(spec(), found, lambda: T0 + 11 * HOUR)
    assert one.trial_hours == pytest.approx(1)
    found.append(ended(0, 11 * HOUR))
    found.append(ended(1, 13 * HOUR))
    assert Hours(found).by_trial() == {"t0000": HOUR, "t0001": 2 * HOUR, "t0002": 0.0}
    assert Limits(spec(), found, lambda: T0 + 14 * HOUR).trial_hours == pytest.approx(1 + 2 + 1)


def test_before_the_first_session_nothing_is_used(tmp_path: Path) -> None:
    assert Limits(spec(limits={"hours": 1e-9}), journal(tmp_path), lambda: T0).reached() is None


def test_gpu_hours_are_those_of_trials_times_the_gpus_that_each_holds(tmp_path: Path) -> None:
    found = journal(
        tmp_path,
        samples.session(0),
        asked(0, 0),
        asked(1, HOUR),
        ended(0, 2 * HOUR),
        ended(1, 2 * HOUR, "interrupted"),  # and tried again
        Report(trial="t0001", step=5, metrics={"val/loss": 1.0}, time=T0 + 3 * HOUR),
        replace(samples.session(50 * HOUR), machine={"concurrency": 1, "slots": 1}),  # t0001 goes on
    )
    one = Limits(spec(), found, lambda: T0 + 51 * HOUR)
    assert one.trial_hours == pytest.approx(2 + 2 + 1)
    two = {"workers": 2, "gpus_per_worker": 0.5}
    assert Limits(spec(limits={"gpu_hours": 5}), found, lambda: T0 + 51 * HOUR).reached() is None, "there are no GPUs"
    held = Limits(spec(limits={"gpu_hours": 5}, resources=two), found, lambda: T0 + 51 * HOUR)
    assert held.reached() == "limits.gpu_hours: the trials have used 5 GPU-hours, the limit is 5"
    found.append(ended(1, 52 * HOUR))
    assert held.trial_hours == pytest.approx(2 + 2 + 2)


@pytest.mark.parametrize(
    ("states", "reached"),
    [
        (["failed", "failed"], False),
        (["failed", "failed", "failed"], True),
        (["failed", "completed", "failed", "failed"], False),
        (["failed", "failed", "stopped", "failed"], False),
        (["failed", "refused", "failed", "failed"], True),
        (["refused", "refused", "refused"], False),
        (["failed", "failed", None, "failed"], False),
        (["failed", "interrupted", "failed", "failed"], False),
    ],
)
@pytest.mark.parametrize("backwards", [False, True])
def test_failures_in_a_row_are_told_by_number(
    tmp_path: Path, states: list[str | None], reached: bool, backwards: bool
) -> None:
    found = journal(tmp_path, samples.session(0))
    for number, state in enumerate(states):
        found.append(asked(number, 1, refused=state == "refused"))
    one = Limits(spec(limits={"failures": 3}), found, lambda: T0)
    seen: list[str | None] = []
    for number, state in sorted(enumerate(states), reverse=backwards):
        if state:
            found.append(ended(number, 2, "failed" if state == "refused" else state))
            seen.append(one.reached())
    assert bool(seen[-1]) == reached
    if reached:
        assert seen[-1] is not None
        assert seen[-1].startswith("limits.failures: 3 trials failed in a row, the last, t000")
        assert seen[-1].endswith(": RuntimeError: of this kind")
    found.append(samples.session(3))
    assert one.reached() is None, "a session counts anew"


def test_stages_count_apart(tmp_path: Path) -> None:
    found = journal(tmp_path, samples.session(0), asked(0, 1), replace(asked(1, 1), stage="confirm"))
    one = Limits(spec(limits={"failures": 2}), found, lambda: T0)
    found.append(ended(0, 2, "failed"))
    found.append(ended(1, 2, "failed"))
    assert one.reached() is None


def test_a_search_that_keeps_failing_ends_and_goes_on(tmp_path: Path) -> None:
    one = spec(config={"fail": "raise"}, search={"method": "random", "trials": 8}, limits={"failures": 3})
    found = in_process.sweep(one, tmp_path)
    assert [record.state for record in found.trials.values()] == ["failed"] * 3
    assert not design.searched(one, found)
    in_process.go_on(one, found.path.parent, found)
    assert len(found.trials) == 6
    free = spec(config={"fail": "raise"}, search={"method": "random", "trials": 8})
    in_process.go_on(free, found.path.parent, found)
    assert design.searched(free, found)
    whole = in_process.sweep(free, tmp_path / "whole")
    assert [r.ask.params for r in whole.trials.values()] == [r.ask.params for r in found.trials.values()]


def test_a_confirmation_that_is_cut_off_has_no_verdict(tmp_path: Path) -> None:
    one = spec(
        arms={"baseline": {"x": 0.9}, "bad": {"x": 0.5, "fail": "raise"}},
        space={},
        search={"method": "arms"},
        seeds={"search": [], "confirm": [*range(1, 9)]},
        limits={"failures": 2},
    )
    found = in_process.sweep(one, tmp_path, confirm=True)
    failed = [record for record in found.trials.values() if record.state == "failed"]
    assert len(failed) == 2
    assert not design.complete(one, found)
    assert not design.finished(one, found)
    assert found.verdict() is None


def test_hours_end_what_runs_and_leave_it_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Tune's loop does: it asks between two events, and what is raised ends it."""
    one = spec(limits={"hours": 1})
    found = journal(tmp_path, samples.session(0), asked(0, 1))
    log, calls = tmp_path / "log", searchers.Calls(stopped=Limits(one, found, lambda: T0 + HOUR).reached)
    search = optuna_search.StudySearch(one, found, 1, log, 1, calls)
    assert search.remaining == 0
    assert search.suggest("") == searchers.Searcher.FINISHED
    watch = tuner._Watch(one.resources, lambda line: None, lambda identity: None, calls.stopped)
    with pytest.raises(Reached, match=r"limits\.hours: the sweep has run for 1 hours"):
        watch.on_step_begin(0, [])

    class Loop:
        def fit(self) -> None:
            watch.on_step_begin(0, [])

    monkeypatch.setattr(tuner, "_tuner", lambda *_: Loop())
    fresh = optuna_search.StudySearch(one, found, 1, log, 1)
    tuner._stage(one, tmp_path, found, fresh, tuner.JournalScheduler(found, tmp_path), print)
    (record,) = found.trials.values()
    assert record.open
    assert record.end is not None
    assert (record.end.reason or "").startswith("limits.hours: ")


def test_a_run_that_has_used_its_hours_is_refused_before_ray_starts(tmp_path: Path) -> None:
    found = journal(tmp_path, samples.session(0), asked(0, 1), ended(0, HOUR, "interrupted"))
    with pytest.raises(
        ValueError, match=r"limits\.hours: the sweep has run for 1 hours, the limit is 0\.5; resume with"
    ):
        limits.refuse_used_up(spec(limits={"hours": 0.5}), found)
    limits.refuse_used_up(spec(limits={"hours": 1.5}), found)
    for number in (1, 2):
        found.append(asked(number, HOUR))
        found.append(ended(number, HOUR, "failed"))
    limits.refuse_used_up(spec(limits={"failures": 2}), found)


def test_people_are_told_how_to_go_on(tmp_path: Path) -> None:
    outcome = Outcome(run_dir=tmp_path / "run", tracking_uri="sqlite:///x.db", interrupted=True)
    command = f"python -m sweeper.run --resume {tmp_path / 'run'}"

    def last(line: str | None, **given: Any) -> list[str]:
        journal = Journal(tmp_path / "journal.jsonl", read_only=True)
        told = lines(Path("x.yaml"), spec(limits=given), journal, outcome, None, None, line)
        return [one.removeprefix("next           ") for one in told if not one.startswith("report ")][-2:]

    line = "limits.gpu_hours: the trials have used 3 GPU-hours, the limit is 3"
    assert last(line, gpu_hours=3) == [
        f"stopped by {line}",
        f"resume with a higher limit: {command} --set limits.gpu_hours=6",
    ]
    line = "limits.failures: 2 trials failed in a row, the last, t0002: why"
    assert last(line, failures=2)[1] == f"mend what fails, then resume with: {command} (failures are counted anew)"
    assert last(None)[1] == f"interrupted; resume with: {command}"


def test_limits_are_no_part_of_what_a_run_is(tmp_path: Path) -> None:
    from sweeper.journal import run_folders

    assert "\n  failures:" not in spec().to_yaml()
    assert run_folders.extends(spec(limits={"failures": 2}), spec(limits={"failures": 5, "hours": 2}))
