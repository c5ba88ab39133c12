"""What people see: the table at two widths, plain lines in a log, and never an error into the sweep."""

from __future__ import annotations

import dataclasses
import io
import time
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.journal.journal import Journal
from sweeper.report import terminal as terminal_module
from sweeper.report.terminal import Live, Progress, Screen, picture, speed
from tests.sweeper.samples import T0, ask, end, report, session, toy_spec, written


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(terminal_module.time, "time", lambda: T0 + 13)
    return written(tmp_path, toy_spec())


def painted(journal: Journal, width: int, height: int = 30) -> list[str]:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(picture(toy_spec(), journal, 8, width, height))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert all(len(line) <= width for line in lines)
    return lines


def test_the_table_at_160_columns(journal: Journal) -> None:
    lines = painted(journal, 160)
    assert lines[0].split() == ["shares", "step"]
    heads = ["trial", "arm", "x", "random/token/trigram", "of", "20", "steps/s", "val/loss", "state", "why"]
    assert lines[1].split() == heads
    assert lines[3].split() == ["t0000", "baseline", "0.500", "100/0/0", "20", "10", "1.5000", "completed"]
    assert lines[6].split() == ["t0003", "0.125", "70/20/10", "10", "10", "1.1000", "stopped", "rung", "10"]
    assert lines[7].endswith("failed     RuntimeError: it broke | here and there")
    assert lines[8].split() == ["t0005", "0.750", "70/20/10", "10", "10", "1.7000", "running"]
    assert lines[-1] == (
        "5 of 8 trials ended: 3 completed, 1 stopped, 1 failed; 1 running; 69 %, about 5 s left; "
        "best t0002, val/loss 1.2500"
    )


def test_the_table_at_80_columns_keeps_every_setting(journal: Journal) -> None:
    lines = painted(journal, 80)
    assert lines[1].split() == ["trial", "arm", "x", "shares", "of", "20", "steps/s", "val/loss", "state"]
    assert lines[4].split() == ["t0001", "published", "0.500", "80/15/5", "20", "10", "1.6000", "completed"]
    assert lines[7].split() == ["t0004", "0.500", "70/20/10", "0", "failed"]
    assert not any("…" in line for line in lines)


def test_a_narrow_terminal_leaves_columns_out_and_then_joins_the_settings(journal: Journal) -> None:
    assert painted(journal, 64)[1].split() == ["trial", "arm", "x", "shares", "of", "20", "val/loss", "state"]
    lines = painted(journal, 54)
    assert lines[1].split() == ["trial", "arm", "settings", "of", "20", "val/loss", "state"]
    assert lines[5].startswith("t0002             x=0.25")
    assert lines[5].endswith("…     20    1.2500  completed")


def test_settings_are_told_apart_and_seeds_shown_where_there_are_several(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    first = ask(toy_spec(), 0, 1, "baseline")
    params = {"a.decay_rate": 0.25, "b.decay_rate": 1.0, "c.kind": "slow"}
    journal.append(dataclasses.replace(first, params=params, config={**first.config, "steps": 1200}))
    journal.append(dataclasses.replace(first, trial="t0001", params={}, seed=7))
    lines = painted(journal, 100)
    assert lines[0].split() == ["a", "b"]
    assert lines[1].split() == [
        "trial",
        "arm",
        "decay_rate",
        "decay_rate",
        "kind",
        "seed",
        "step",
        *lines[1].split()[7:],
    ]
    assert lines[3].split() == ["t0000", "baseline", "0.25", "1", "slow", "0", "0/1,200", "starting"]
    assert lines[4].split() == ["t0001", "baseline", "-", "-", "-", "7", "0/20", "starting"]


def test_the_points_of_a_column_stand_below_each_other_unless_sizes_differ() -> None:
    columns = {(0.5, 0.0524, 1.0): ["0.500", "0.052", "1.000"], (2.0, 1.0): ["2", "1"], (0.5, 0.002): ["0.5", "0.002"]}
    for values, cells in columns.items():
        assert [terminal_module._value(value, terminal_module._decimals(values)) for value in values] == cells


def test_a_low_terminal_shows_what_runs_the_best_and_the_latest(journal: Journal) -> None:
    lines = painted(journal, 100, height=10)
    assert [line.split()[0] for line in lines[3:6]] == ["t0002", "t0004", "t0005"]
    assert "3 more trials are not shown" in lines


def test_before_anything_has_begun(tmp_path: Path) -> None:
    assert painted(Journal(tmp_path / "j"), 80) == ["0 of 8 trials ended; 0 %"]


def test_speed_counts_this_session_and_not_the_start_up(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(session(0))
    journal.append(ask(toy_spec(), 0, 10, "baseline"))
    record = journal.trials["t0000"]
    assert speed(record, T0) is None
    journal.append(report(0, 10, 1.0, 20))
    assert speed(record, T0) == pytest.approx(1.0)
    journal.append(report(0, 30, 1.0, 24))
    assert speed(record, T0) == pytest.approx(5.0)
    assert speed(record, T0 + 1000) is None
    journal.append(report(0, 40, 1.0, 1001))
    assert speed(record, T0 + 1000) is None
    journal.append(report(0, 42, 1.0, 1002))
    assert speed(record, T0 + 1000) == pytest.approx(2.0)


def test_the_time_left_is_reckoned_from_this_session(tmp_path: Path) -> None:
    spec = toy_spec()
    journal = Journal(tmp_path / "j")
    journal.append(ask(spec, 0, 0, "baseline"))
    journal.append(report(0, 20, 1.0, 900))
    journal.append(end(0, "completed", 900))
    journal.append(ask(spec, 1, 1000, "published"))
    records = list(journal.trials.values())
    begun = Progress.of(records, 4, T0 + 1000, T0 + 1010)
    assert (begun.done, begun.seconds_left) == (0.25, None)
    journal.append(report(1, 10, 1.0, 1010))
    half = Progress.of(records, 4, T0 + 1000, T0 + 1010)
    assert half.done == pytest.approx(0.375)
    assert half.seconds_left == pytest.approx(50)
    late = Progress.of(records, 4, T0 + 960, T0 + 1010)
    assert late.seconds_left == half.seconds_left, "Ray took 40 s to start, which says nothing of the trials"
    journal.append(end(1, "stopped", 1011))
    assert Progress.of(records, 2, T0 + 1000, T0 + 1012).done == 1


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "5 s"), (300, "5 min"), (7200, "2.0 h")])
def test_durations(seconds: float, text: str) -> None:
    assert terminal_module._duration(seconds) == text


def test_a_log_gets_plain_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "PAINT_S", 0.02)
    monkeypatch.setattr(terminal_module, "LINE_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    journal = written(tmp_path, toy_spec())
    console = Console(file=file, force_terminal=False, width=40)
    with Live(toy_spec(), journal, 8, console=console) as shown:
        shown.say("a [bold]remark[/bold] that is longer than the forty columns of this console")
        journal.append(end(5, "completed", 13))
        journal.append(ask(toy_spec(), 6, 14, "baseline"))
        journal.append(end(6, "failed", 15, "ValueError: no"))
    lines = file.getvalue().splitlines()
    assert lines[:2] == [
        "toy: 8 trials, 6 of them started",
        "a [bold]remark[/bold] that is longer than the forty columns of this console",
    ]
    told = [line for line in lines if line.startswith("t0")]
    assert told == [
        "t0005 completed at step 10, val/loss 1.7000",
        "t0006 starts: baseline, seed 0",
        "t0006 failed at step 0: ValueError: no",
    ]
    assert lines[-1].startswith("7 of 8 trials ended: 4 completed, 1 stopped, 2 failed; 88 %")
    assert "\x1b" not in file.getvalue()


def test_stderr_that_is_no_terminal_is_none_whatever_the_environment_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Live(toy_spec(), Journal(tmp_path / "j"), 8):
        pass
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[0] == "toy: 8 trials"
    assert "\x1b" not in err


def test_on_a_terminal_lines_go_above_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "PAINT_S", 0.02)
    monkeypatch.setenv("TERM", "xterm")
    file = io.StringIO()
    journal = Journal(tmp_path / "j")
    console = Console(file=file, force_terminal=True, width=120, height=30, legacy_windows=False)
    begin = time.monotonic()
    with Live(toy_spec(), journal, 8, console=console) as shown:
        assert "toy: 8 trials" in file.getvalue()
        assert time.monotonic() - begin < 1
        journal.append(session())
        journal.append(ask(toy_spec(), 0, 1, "published"))
        journal.append(end(0, "failed", 2, "ValueError: no"))
        while "t0000 failed" not in file.getvalue() and time.monotonic() - begin < 30:
            time.sleep(0.02)
        shown.say("a remark")
    text = file.getvalue()
    assert text.index("t0000 failed at step 0: ValueError: no") < text.index("a remark")
    last = text[text.index("a remark") :]
    assert "published" in last
    assert "1 of 8 trials ended: 1 failed" in last
    assert text.count("t0000 failed at step 0") == 1
    assert text.endswith("\x1b[?25h")


def test_nothing_that_goes_wrong_here_reaches_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    def fail(*_: object) -> None:
        raise RuntimeError("a fault in the painting")

    monkeypatch.setattr(terminal_module, "PAINT_S", 0.01)
    monkeypatch.setattr(terminal_module, "picture", fail)
    for terminal in (False, True):
        journal = written(tmp_path / str(terminal), toy_spec())
        with Live(toy_spec(), journal, 8, console=Screen(file=Broken(), force_terminal=terminal)) as shown:
            shown.say("lost")
            journal.append(end(5, "completed", 13))
            time.sleep(0.05)
        shown._thread.join(10)
        assert not shown._thread.is_alive()


def test_an_error_of_the_sweep_passes_through(tmp_path: Path) -> None:
    shown = Live(toy_spec(), Journal(tmp_path / "j"), 8, console=Console(file=io.StringIO()))
    with pytest.raises(ZeroDivisionError), shown:
        raise ZeroDivisionError
    assert not shown._thread.is_alive()
    assert shown._thread.daemon


def test_painting_takes_a_small_share_of_a_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal_module, "PAINT_S", 0.001)
    shown = Live(toy_spec(), Journal(tmp_path / "journal.jsonl"), 6, console=Console(file=io.StringIO()))
    spent: list[float] = []

    def paint() -> None:
        begin = time.thread_time()
        while time.thread_time() - begin < 0.01:
            pass
        spent.append(time.thread_time() - begin)

    monkeypatch.setattr(shown, "_paint", paint)
    begin = time.monotonic()
    with shown:
        time.sleep(1.2)
    assert 1 < len(spent) < 6
    assert sum(spent) < 0.1 * (time.monotonic() - begin)
