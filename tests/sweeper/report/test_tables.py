"""results.csv has a row a run, table.tex is LaTeX, and hours are those in which trials were in work."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from sweeper.journal.events import Ask, End, Report, Session
from sweeper.journal.journal import Journal
from sweeper.report.tables import OTHER_LETTERS, cost, escape, results_csv, trial_hours, verdict_tex
from tests.sweeper import confirmed
from tests.sweeper.samples import ask, end, report, session, toy_spec, written


def test_a_row_a_configuration_and_seed(tmp_path: Path) -> None:
    spec = confirmed.spec(trials=8)
    journal = confirmed.written(tmp_path, spec, {"published": 0.0})
    rows = list(csv.DictReader(io.StringIO(results_csv(spec, journal))))
    assert len(rows) == 8 + 2 * len(confirmed.SEEDS)
    heads = ["stage", "trial", "candidate", "arm", "seed", "state", "steps", "seconds", "val/loss", "test/loss"]
    assert list(rows[0])[:10] == heads
    runs = [row for row in rows if row["stage"] == "confirm"]
    assert len({(row["config_hash"], row["seed"]) for row in runs}) == len(runs)
    assert {row["arm"] for row in runs} == {"baseline", "published"}
    record = journal.trials["c0002"]
    row = next(row for row in rows if row["trial"] == "c0002")
    assert float(row["test/loss"]) == record.rows[-1].metrics["test/loss"]
    assert float(row["val/loss"]) == record.rows[-1].metrics["val/loss"]
    assert (row["shares.token"], row["masked_share"], row["matched"]) == ("0.15", "0.15", "1")
    failed = next(row for row in rows if row["state"] == "failed")
    assert (failed["val/loss"], failed["steps"]) == ("", "0")


def test_the_verdicts_in_latex(tmp_path: Path) -> None:
    spec = confirmed.spec(trials=8)
    effects = {"t0005": -0.02, "published": 0.02}
    verdict = confirmed.written(tmp_path, spec, effects).verdict()
    assert verdict
    text = verdict_tex(
        {**verdict, "comparisons": [{**verdict["comparisons"][0], "arm": "a_b%"}, verdict["comparisons"][1]]}
    )
    rows = [line for line in text.splitlines() if line.endswith("\\\\")]
    assert len(rows) == 3
    assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {5}
    assert rows[1].startswith(r"a\_b\% & 8 & $-0.0")
    assert rows[2].endswith(r"& worse \\")
    assert text.count("\\begin{") == text.count("\\end{") == 2
    assert not re.search(r"(?<!\\)[#_]", text.replace(OTHER_LETTERS, ""))
    assert OTHER_LETTERS in text
    assert verdict_tex(None).startswith("%")


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("a_b", r"a\_b"),
        ("5 %", r"5 \%"),
        ("\\x{}", r"\textbackslash{}x\{\}"),
        ("a<b~c^d", r"a\textless{}b\textasciitilde{}c\textasciicircum{}d"),
    ],
)
def test_latex_is_escaped(text: str, clean: str) -> None:
    assert escape(text) == clean


def test_no_trial_works_between_sessions(tmp_path: Path) -> None:
    spec, journal = toy_spec(), Journal(tmp_path / "j")
    hour = 3600
    events: list[Session | Ask | Report | End] = [
        session(0),
        ask(spec, 0, 0, "baseline"),
        ask(spec, 1, hour, "published"),
        end(0, "completed", 2 * hour),  # two hours
        report(1, 10, 1.0, 3 * hour),  # two hours, then the driver was killed
        session(100 * hour),
        report(1, 20, 0.9, 101 * hour),
        end(1, "completed", 101 * hour),  # another one
    ]
    for event in events:
        assert journal.append(event)
    assert trial_hours(journal) == pytest.approx(5)
    facts = cost(spec, journal)
    assert (facts["wall clock"], facts["trials ran"]) == ("4.00 hours", "5.00 hours in all")
    assert facts["tokens read"] == "20"  # a toy's step is a token; the other trial never reported


def test_an_interrupted_trial_costs_what_it_ran(tmp_path: Path) -> None:
    spec, journal = toy_spec(), Journal(tmp_path / "j")
    for event in (session(0), ask(spec, 0, 0, "baseline"), end(0, "interrupted", 3600), session(7200)):
        journal.append(event)
    journal.append(end(0, "interrupted", 9000))
    assert trial_hours(journal) == pytest.approx(1)


def test_what_it_cost_and_why_trials_ended(tmp_path: Path) -> None:
    spec = toy_spec(resources={"gpus_per_worker": 1})
    journal = written(tmp_path, spec)
    facts = cost(spec, journal)
    assert facts["GPU-hours"] == "0.00"
    assert facts["trials, search"] == "3 completed, 1 stopped, 1 failed, 1 running"
    assert "1 × failed: RuntimeError: it broke | here and there" in facts["why trials ended early"]
    assert facts["energy"].startswith("not measured")
    journal.append(report(5, 20, 1.6, 13, {"gpu/energy_kwh": 0.25}))
    facts = cost(spec, journal)
    assert facts["gpu/energy_kwh"] == "0.25"
    assert "energy" not in facts
