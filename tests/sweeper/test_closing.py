"""A sweep's last lines name the report and what to type next, for each way in which a sweep can end."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from sweeper import closing, preflight, run
from sweeper.confirmation import fresh_seeds
from sweeper.journal import records, run_folders
from sweeper.journal.journal import Journal
from sweeper.preflight import Request
from sweeper.report.sections import Outcome
from sweeper.report.terminal import picture
from sweeper.spec.load import resolve
from sweeper.spec.spec import SweepSpec
from tests.sweeper import confirmed, in_process, samples


def told(folder: Path, spec: SweepSpec, journal: Journal, interrupted: bool = False) -> list[str]:
    outcome = Outcome(run_dir=folder, tracking_uri="x", interrupted=interrupted)
    best = records.best(spec, journal.trials.values())
    return closing.lines(Path("toy.yaml"), spec, journal, outcome, best)


def typed(line: str) -> list[str]:
    """The arguments of the command that a line ends with, which the command must take."""
    words = shlex.split(line[line.index("python -m sweeper.run ") :])[3:]
    run._parser().parse_args(words)
    return words


def test_a_search_alone_goes_on_with_a_confirmation(tmp_path: Path) -> None:
    spec = samples.toy_spec()
    lines = told(tmp_path, spec, samples.written(tmp_path, spec))
    assert lines[-2].startswith(f"report         {tmp_path / 'report.html'} ")
    assert lines[-1].startswith("next           nothing is confirmed")
    words = typed(lines[-1])
    seeds = "seeds.confirm=[101,102,103,104,105,106,107,108]"
    assert words == [str(tmp_path / "spec.yaml"), "--storage", str(tmp_path.parent), "--set", seeds]
    assert "best trial     t0002 (70/20/10 x 0.25): val/loss 1.2500 at step 20; exploration" in lines


def test_that_confirmation_is_of_the_same_trials_on_seeds_that_nobody_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever profile and `--set` it was begun with, and whatever the spec's file says now."""
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fresh_seeds, "spent", lambda uri, facts, own: {101, 103})
    tree = samples.toy_spec(search={"method": "arms"}, space={}, seeds={"search": [0, 102]}).model_dump(mode="json")
    given = {**tree, "profiles": {"small": {"config": {"steps": 40}}}}
    storage = tmp_path / "my runs"
    journal = in_process.sweep(resolve(given, "small", ["config.run_sd=0.5"]), storage)
    folder, said = journal.path.parent, list[str]()
    spec, journal = run_folders.opened(folder)  # as a resumed run has it
    args = run._parser().parse_args(typed(told(folder, spec, journal)[-1]))
    request = Request(spec=args.spec, profile=args.profile, set=args.set, storage=Path(args.storage))
    admitted = preflight.admission(request, said.append)
    assert admitted.spec.seeds.confirm == (104, 105, 106, 107, 108, 109, 110, 111)
    again = in_process.sweep(admitted.spec, admitted.storage)
    assert [one.reused_from for one in again.trials.values()] == [f"{folder.name}/{one}" for one in journal.trials]


def test_a_run_whose_sources_lie_elsewhere_is_not_started_again(tmp_path: Path) -> None:
    spec = samples.toy_spec()
    search = spec.search.model_copy(update={"sources": ("other-01234567@0123456789ab",)})
    spec, journal = spec.model_copy(update={"search": search}), samples.written(tmp_path / "run", spec)
    assert "--reproduce" in told(tmp_path / "run", spec, journal)[-1]
    (tmp_path / "other-01234567").mkdir()
    assert "seeds.confirm" in told(tmp_path / "run", spec, journal)[-1]


@pytest.mark.parametrize(
    ("effects", "arguments"),
    [({"t0005": -0.004}, ["--more-seeds"]), ({"published": 0.02}, ["--reproduce"])],
)
def test_after_a_verdict(tmp_path: Path, effects: dict[str, float], arguments: list[str]) -> None:
    spec = confirmed.spec(trials=8)
    lines = told(tmp_path, spec, confirmed.written(tmp_path, spec, effects))
    assert set(arguments) <= {*typed(lines[-1])}
    assert lines[0].startswith("verdict        Nothing is confirmed")


def test_an_interrupted_sweep_is_resumed(tmp_path: Path) -> None:
    spec = samples.toy_spec()
    lines = told(tmp_path, spec, samples.written(tmp_path, spec), interrupted=True)
    assert typed(lines[-1]) == ["--resume", str(tmp_path)]


def test_where_nothing_completed_status_says_why(tmp_path: Path) -> None:
    lines = told(tmp_path, samples.toy_spec(), Journal(tmp_path / "j"))
    assert lines[-1].endswith(f"python -m sweeper.status {tmp_path}")


def test_the_runs_of_a_confirmation_are_not_shown_among_those_of_the_search(tmp_path: Path) -> None:
    from rich.console import Console

    spec = confirmed.spec(trials=8)
    journal = confirmed.written(tmp_path, spec, {"published": 0.0})
    console = Console(width=120, record=True, file=(tmp_path / "out").open("w", encoding="utf-8"))
    console.print(picture(spec, journal, 24, 120, 60))
    lines = console.export_text().splitlines()
    assert sum(line.startswith("c00") for line in lines) == 16
    assert not any(line.startswith("t00") for line in lines)
    assert "best t0" in lines[-1]


def test_without_a_search_a_trial_of_the_confirmation_is_named(tmp_path: Path) -> None:
    """There is no best trial of a search, and nothing has failed."""
    spec = confirmed.spec(trials=8)
    journal = confirmed.written(tmp_path, spec, {"published": 0.02})
    outcome = Outcome(run_dir=tmp_path, tracking_uri="x", interrupted=False)
    words = typed(closing.next_step(spec, journal, outcome, None))
    assert words[:2] == ["--reproduce", str(tmp_path)]
    assert journal.trials[words[words.index("--trial") + 1]].state == "completed"
