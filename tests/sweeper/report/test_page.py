"""The page stands alone, says the verdict first, and shows what the journal holds and nothing else."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.report import write
from sweeper.report.html.gallery import FEW_TRIALS
from sweeper.report.html.page import page
from sweeper.report.sections import Outcome
from sweeper.search import optuna_study
from sweeper.spec.spec import SweepSpec
from tests.sweeper import confirmed, samples
from tests.sweeper.samples import audit, end, report

MEGABYTES = 1_000_000


class Loads(HTMLParser):
    """Collects whatever a page would fetch, its headings in order and its text before the first figure."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.headings: list[str] = []
        self.lead = ""
        self._tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tags.append(tag)
        wanted = {"src", "srcset", "poster", "data", "background"} | ({"href"} if tag == "link" else set())
        self.fetched += [f"{tag} {key}={value}" for key, value in attrs if key in wanted]
        self.fetched += [str(value) for key, value in attrs if key == "style" and "url(" in str(value)]

    def handle_data(self, data: str) -> None:
        tag = self._tags[-1] if self._tags else ""
        if tag == "h2" and data.strip():
            self.headings.append(data.strip())
            self._tags.append("")
        if tag == "style" and ("url(" in data or "@import" in data):
            self.fetched.append(data)
        if tag not in ("style", "script") and not self.headings:
            self.lead += data


def read(text: str) -> Loads:
    parser = Loads()
    parser.feed(text)
    return parser


def shown(folder: Path, spec: SweepSpec, journal: Journal, importance: dict[str, float] | None = None) -> str:
    return page(spec, journal, Outcome(run_dir=folder, tracking_uri="sqlite:////s/mlflow.db"), importance or {})


@pytest.fixture(scope="module")
def won(tmp_path_factory: pytest.TempPathFactory) -> tuple[SweepSpec, Journal, Path]:
    folder, spec = tmp_path_factory.mktemp("won"), confirmed.spec()
    return spec, confirmed.written(folder, spec, {"t0005": -0.012, "published": 0.02, "t0009": -0.001}), folder


def test_it_loads_nothing_and_is_small(won: tuple[SweepSpec, Journal, Path]) -> None:
    spec, journal, folder = won
    text = shown(folder, spec, journal, {"x": 0.7, "y": 0.3})
    assert read(text).fetched == []
    assert "default-src 'none'" in text.split("<script")[0]
    assert text.count("<button") == text.count("<figure") > 8
    assert len(text.encode()) < 1.5 * MEGABYTES


def test_the_verdict_comes_first_and_the_sections_in_order(won: tuple[SweepSpec, Journal, Path]) -> None:
    spec, journal, folder = won
    found = read(shown(folder, spec, journal, {"x": 0.7, "y": 0.3}))
    assert found.headings == [
        "Paired differences",
        "Learning curves",
        "Mixture: shares",
        "Loss over each setting",
        "Importance of the settings",
        "All settings at once",
        "What was masked",
        "Mask budget",
        "Cost",
        "Setup",
        "How the verdict was reached",
        "Reproduce and extend",
        "What ran",
    ]
    lead = " ".join(found.lead.split())
    assert lead.index(spec.question) < lead.index("Confirmed: t0005") < lead.index("exploration")
    assert "published: worse" in lead


def test_a_null_is_said_as_plainly(tmp_path: Path) -> None:
    spec = confirmed.spec(trials=3)
    journal = confirmed.written(tmp_path, spec, {"published": 0.0})
    assert "Nothing is confirmed" in read(shown(tmp_path, spec, journal)).lead
    nothing = samples.written(tmp_path / "search", samples.toy_spec())
    text = shown(tmp_path, samples.toy_spec(), nothing)
    assert "Nothing is confirmed: no confirmation has run." in read(text).lead
    assert "Paired differences of the search" in read(text).headings
    assert "Exploration, not a result" in text


def test_few_trials_are_a_caution(won: tuple[SweepSpec, Journal, Path], tmp_path: Path) -> None:
    spec, journal, folder = won
    assert "Caution: only" not in shown(folder, spec, journal, {"x": 1.0})
    few = confirmed.spec(trials=8)
    text = shown(tmp_path, few, confirmed.written(tmp_path, few, {"published": 0.0}), {"x": 1.0})
    assert "Caution: only 7 trials" in text
    assert FEW_TRIALS == 20


def test_what_people_wrote_stays_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script> ![x](http://example.org/x.png)"
    spec = samples.toy_spec(
        question=evil, space={"x": {"uniform": [0, 1]}, "fail": {"choice": ["never", "nan"]}}, arms={}
    )
    journal = Journal(tmp_path / "j")
    for number in range(3):
        journal.append(samples.ask(spec, number, number, x=number / 3, fail="never"))
        journal.append(report(number, 20, 1.0 + number, number))
        journal.append(end(number, "failed" if number == 3 else "completed", number, evil))
    text = shown(tmp_path, spec, journal)
    assert "<script>alert" not in text
    assert read(text).fetched == []
    assert "&lt;script&gt;alert" in text


def test_what_left_the_budget_stands_apart(tmp_path: Path) -> None:
    spec = samples.toy_spec(space={}, search={"method": "arms"})
    journal = Journal(tmp_path / "j")
    for number, (arm, loss, kept) in enumerate([("baseline", 1.5, 1.0), ("published", 0.5, 0.0)]):
        journal.append(samples.ask(spec, number, number, arm))
        journal.append(report(number, 20, loss, number, audit(0.15) | {"audit/matched": kept}))
        journal.append(end(number, "completed", number))
    text = shown(tmp_path, spec, journal)
    found = read(text)
    assert "Budget not matched" in found.headings
    assert "Paired differences of the search" not in found.headings
    assert "1 trials kept the budget, 15.000 % of the positions predicted." in text
    curves = text.split('class="curves"')[1].split("<figcaption>")[0]
    assert "baseline" in curves
    assert "published" not in curves


def test_memory_is_drawn_where_both_vary(won: tuple[SweepSpec, Journal, Path], tmp_path: Path) -> None:
    space = {
        "masking.update_every": {"loguniform": [3, 120], "integer": True},
        "masking.ema_decay": {"uniform": [0, 1]},
    }
    spec = samples.toy_spec(trainable="trainables.mlm:train", space=space, arms={})
    journal = Journal(tmp_path / "j")
    for number in range(3):
        params = {"masking.update_every": 3 + number, "masking.ema_decay": number / 3}
        journal.append(samples.ask(spec, number, number, **params))
        journal.append(report(number, 20, 1.0 + number, number))
        journal.append(end(number, "completed", number))
    found = read(shown(tmp_path, spec, journal))
    assert "Memory: update_every × ema_decay" in found.headings
    spec, journal, folder = won
    assert "Memory" not in " ".join(read(shown(folder, spec, journal)).headings)


def test_many_trials_do_not_make_it_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda _file: None)
    for most in ("html.gallery.MOST_POINTS", "html.page.MOST_LINES", "html.curves.MOST_THIN"):
        monkeypatch.setattr(f"sweeper.report.{most}", 100)
    sizes = []
    for trials in (150, 250):
        spec = confirmed.spec(trials)
        text = shown(tmp_path, spec, confirmed.written(tmp_path / str(trials), spec, {"published": 0.0}))
        sizes.append(len(text.encode()))
        assert "The best 100 trials are shown" in text
    assert sizes[1] - sizes[0] < 20_000
    assert sizes[1] < 1.5 * MEGABYTES
    assert "more lines are in results.csv" in text


def test_all_is_made_from_the_folder_alone(tmp_path: Path) -> None:
    spec, folder = samples.toy_spec(space={}, search={"method": "arms"}), tmp_path
    journal = samples.written(folder, samples.toy_spec())
    (folder / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    outcome = Outcome(run_dir=folder, tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    told = write.write_all(spec, journal, outcome)
    assert [path.name for path in told] == [*run_folders.REPORTS, "figures"]
    assert {path.name for path in (folder / "figures").iterdir()} >= {"forest.svg", "forest.pdf", "curves.svg"}
    made = {path: path.read_bytes() for path in (*told[:-1], *(folder / "figures").iterdir())}
    for path in made:
        path.unlink()
    command = [sys.executable, "-m", "sweeper.report", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == [str(path.resolve()) for path in told]
    assert {path: path.read_bytes() for path in made} == made


@pytest.mark.parametrize(
    ("uri", "environment", "shown"),
    [
        (None, None, "--backend-store-uri sqlite:///{}/mlflow.db"),
        (None, "http://me:hunter2@environment:5000", "http://***@environment:5000"),
        ("http://spec:5000", "http://environment:5000", "http://spec:5000"),
    ],
)
def test_the_store_of_a_report_made_anew_is_the_one_that_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str | None, environment: str | None, shown: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if environment:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", environment)
    folder = tmp_path / "toy-01234567"
    samples.written(folder, samples.toy_spec()).close()
    spec = samples.toy_spec(space={}, search={"method": "arms"}, tracking={"uri": uri})
    (folder / "spec.yaml").write_text(spec.to_yaml(), "utf-8")
    assert write.main([str(folder)]) == 0
    for name in ("report.md", "report.html"):
        assert shown.format(tmp_path) in (folder / name).read_text("utf-8")


def test_importance_is_that_of_the_search(won: tuple[SweepSpec, Journal, Path], tmp_path: Path) -> None:
    spec, journal, folder = won
    write.write_all(spec, journal, Outcome(run_dir=folder, tracking_uri="sqlite:////s/mlflow.db"))
    assert "Importance of the settings" in read((folder / "report.html").read_text("utf-8")).headings
    assert optuna_study.importance(spec, Journal(tmp_path / "j")) == {}
    asked = samples.ask(spec, 0, 0, x=0.5, y=0.5, shares=samples.PUBLISHED)
    journal = Journal(tmp_path / "x")
    for number in range(40):
        x, y = (number * 7 % 40) / 40, (number * 11 % 40) / 40
        raw = {"x": x, "y": y, "shares/0": 0.5, "shares/1": number / 40}
        trial = f"t{number:04d}"
        journal.append(replace(asked, trial=trial, number=number, raw=raw))
        journal.append(report(number, 20, 1 + x, number))
        journal.append(end(number, "completed", number))
    found = optuna_study.importance(spec, journal)
    assert set(found) == {"x", "y", "shares"}
    assert sum(found.values()) == pytest.approx(1)
    assert found["x"] > 0.6


def test_a_folder_without_a_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write.main([str(tmp_path)]) == 2
    assert re.fullmatch(r"error: .*no journal\.jsonl\n", capsys.readouterr().err)


def test_it_needs_neither_ray_nor_mlflow_nor_optuna() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['ray', 'mlflow', 'optuna', 'torch', 'rich'])); "
    subprocess.run([sys.executable, "-c", code + "import sweeper.report.write, sweeper.report.html.page"], check=True)
