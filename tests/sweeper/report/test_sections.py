"""What counts as best, and a report that reads well."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sweeper.journal.journal import Journal
from sweeper.journal.records import best, describe, settings
from sweeper.report.sections import Outcome, markdown, sections, shortfall, ui_address, ui_command
from sweeper.system.secrecy import redact
from tests.sweeper.samples import ask, audit, end, report, session, toy_spec, written


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return written(tmp_path, toy_spec())


def outcome(folder: Path, **changes: object) -> Outcome:
    return Outcome(**{"run_dir": folder, "tracking_uri": "sqlite:////s/mlflow.db", **changes})  # pyright: ignore[reportArgumentType]


def test_masks_that_were_not_divided_as_asked_are_said(tmp_path: Path) -> None:
    journal = written(tmp_path / "run", toy_spec())
    assert shortfall(journal.trials.values()) is None
    last = journal.trials["t0002"].rows[-1]
    journal.trials["t0002"].rows[-1] = replace(last, metrics={**last.metrics, "audit/short": 0.023})
    said = shortfall(journal.trials.values())
    assert said
    assert "1 of " in said
    assert "(t0002 2.3% of" in said
    assert f"**Caution:** {said}" in markdown(toy_spec(), journal, outcome(tmp_path))


def test_notes_and_tags_stand_in_the_head(journal: Journal, tmp_path: Path) -> None:
    spec = toy_spec(notes="Tried after the talk.\nSee *there*.\n\n# And then", tags={"paper": "fig 2", "draft": ""})
    head = markdown(spec, journal, outcome(tmp_path)).split("\n## ")[0]
    assert (
        "\n\nNotes: Tried after the talk. See \\*there\\*.\n\n\\# And then\n\nTags: `paper`: fig 2, `draft`\n" in head
    )
    assert markdown(toy_spec(), journal, outcome(tmp_path)).split("\n## ")[0] in head.replace(
        "\n\nNotes: Tried after the talk. See \\*there\\*.\n\n\\# And then\n\nTags: `paper`: fig 2, `draft`", ""
    )


def test_the_best_completed_and_of_equals_the_first(journal: Journal) -> None:
    spec = toy_spec()
    assert best(toy_spec(), journal.trials.values()) is journal.trials["t0002"]
    assert best(spec.model_copy(update={"objectives": ("val/unheard_of",)}), journal.trials.values()) is None
    for number, stage in ((6, "search"), (7, "confirm")):
        asked = ask(spec, number, 20, "baseline")
        journal.append(type(asked)(**{**vars(asked), "stage": stage}))
        journal.append(report(number, 20, 1.25 if stage == "search" else 0.5, 21))
        journal.append(end(number, "completed", 22))
    assert best(toy_spec(), reversed(journal.trials.values())) is journal.trials["t0002"]


def test_a_score_of_zero_is_a_score(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    for number, (arm, loss) in enumerate({"baseline": 0.0, "published": -0.5}.items()):
        journal.append(ask(toy_spec(), number, number, arm))
        journal.append(report(number, 20, loss, number))
        journal.append(end(number, "completed", number))
    assert best(toy_spec(), journal.trials.values()) is journal.trials["t0001"]
    assert "-0.5000" in markdown(toy_spec(), journal, outcome(tmp_path)).split("## Against the baseline")[1]


def test_a_trial_in_a_few_characters(journal: Journal) -> None:
    assert describe(journal.trials["t0001"].ask) == "published"
    assert settings(journal.trials["t0001"].ask) == "x=0.5 80/15/5"
    odd = ask(toy_spec(), 9, 0, x=0.123456)
    changed = type(odd)(**{**vars(odd), "params": {"masking.update_every": 120, "lr": 5e-4, "kind": "a"}})
    assert describe(changed) == "update_every=120 lr=0.0005 kind=a"
    assert describe(type(odd)(**{**vars(odd), "params": {}})) == "-"


def tables(text: str) -> dict[str, list[list[str]]]:
    """Section -> rows of cells of its table, and that every line of a table has the same length."""
    found: dict[str, list[list[str]]] = {}
    for section in text.split("\n## ")[1:]:
        lines = [line for line in section.splitlines() if line.startswith("|")]
        assert len({len(line) for line in lines}) <= 1
        rows = [[cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines]
        found[section.splitlines()[0]] = rows
    return found


def test_the_report(journal: Journal, tmp_path: Path) -> None:
    bundle = tmp_path / "bundles" / "t0002"
    bundle.mkdir(parents=True)
    (bundle / "metadata.json").write_text('{"data_fingerprint": "d1", "seed": 0}', "utf-8")
    text = markdown(toy_spec(), journal, outcome(tmp_path, bundle=bundle, interrupted=True))
    assert text.startswith("# toy\n\nWhere does the toy have its optimum?\n\n**Nothing is confirmed: no confirmation")
    assert "\n\n**Best of the search: `t0002`**" in text
    assert "exploration, not a result" in text
    for fact in ("torch 2.13.0", "abc123", "cpus 2", toy_spec().spec_hash, "* data_fingerprint: `d1`", "interrupted"):
        assert fact in text
    found = tables(text)
    heads, _, *rows = found["Search trials"]
    assert [row[0] for row in rows] == ["t0002", "t0000", "t0001", "t0003", "t0005", "t0004"]
    row = dict(zip(heads, rows[2], strict=True))
    assert row == {
        "trial": "t0001",
        "what": "published",
        "seed": "0",
        "x": "0.5",
        "shares (random/token/trigram) %": "80/15/5",
        "val/loss": "1.6000",
        "val/loss_mask": "2.5000",
        "val/unigram_mask": "3.5000",
        "step": "20",
        "masked %": "15.000",
        "state": "completed",
        "reason": "-",
    }
    assert rows[5][-1] == "RuntimeError: it broke / here and there"
    assert [row[0] + row[-1] for row in found["Against the baseline"][2:]] == ["t0002-0.2500", "t0001+0.1000"]
    audited = ["t0001", "published", "-", "15.000", "random 85, token 15", "5", "3", "-", "-", "0.25", "1.6000", "10"]
    assert found["Mask audit"][3] == audited
    assert f"--resume {tmp_path}" in text
    assert "mlflow server" in text


def test_the_report_says_what_the_trainable_says_of_its_data(journal: Journal, tmp_path: Path) -> None:
    told = {"notes": ["`<mask>` is the mask", "9 % become equal"], "warnings": ["much is unknown: more of it"]}
    journal.append(type(session())(**{**vars(session()), "facts": told}))
    found = sections(toy_spec(), journal, outcome(tmp_path))
    assert "**Caution:** much is unknown: more of it" in found[""].split("\n\n")
    assert "* data: `<mask>` is the mask\n* data: 9 % become equal\n" in found["What ran"] + "\n"


def test_pairs_are_made_under_the_same_seed(tmp_path: Path) -> None:
    spec = toy_spec(space={}, search={"method": "arms"}, seeds={"search": [1, 2]})
    journal = Journal(tmp_path / "j")
    losses = [
        ("baseline", 1, 1.0),
        ("baseline", 2, 2.0),
        ("published", 1, 1.5),
        ("published", 2, 1.5),
        ("published", 3, 0.1),
    ]
    for number, (arm, seed, loss) in enumerate(losses):
        asked = ask(spec, number, number, arm)
        journal.append(type(asked)(**{**vars(asked), "seed": seed}))
        journal.append(report(number, 20, loss, number))
        journal.append(end(number, "completed", number))
    rows = tables(markdown(spec, journal, outcome(tmp_path)))["Against the baseline"][2:]
    assert [(row[2], row[-1]) for row in rows] == [("1", "+0.5000"), ("2", "-0.5000")]


def test_a_trial_that_left_the_budget_stands_apart_and_is_never_best(tmp_path: Path) -> None:
    spec = toy_spec(space={}, search={"method": "arms"})
    journal = Journal(tmp_path / "j")
    more = {"train/predicted": 3e3, "audit/kind/word": 0.8, "audit/kind/number": 0.2}
    for number, (arm, loss, kept) in enumerate([("baseline", 1.5, 1.0), ("published", 0.5, 0.0)]):
        journal.append(ask(spec, number, number, arm))
        journal.append(report(number, 20, loss, number, audit(0.15) | more | {"audit/matched": kept}))
        journal.append(end(number, "completed", number))
    text = markdown(spec, journal, outcome(tmp_path))
    found = tables(text)
    assert "Best of the search: `t0000`" in text
    assert [row[0] for row in found["Mask audit"][2:]] == ["t0000"]
    assert found["Masked by kind %"][3][2:] == ["80.00", "20.00"]
    assert found["Budget not matched"][2][:3] == ["t0001", "published", "3,000"]
    assert "Only the baseline" in text


def test_reports_of_sweeps_that_came_to_little(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert "**No trial completed**" in markdown(toy_spec(), journal, outcome(tmp_path))
    journal.append(session(command="run --set tracking.uri=http://me:hunter2@host"))
    journal.append(ask(toy_spec(), 0, 1, "baseline"))
    text = markdown(toy_spec(), journal, outcome(tmp_path))
    assert "No run of the baseline completed" in text
    assert "hunter2" not in text
    assert "## Mask audit" not in text
    journal.append(report(0, 20, 1.0, 2, audit(0.0)))
    journal.append(end(0, "completed", 3))
    assert "Only the baseline, `baseline`, completed." in markdown(toy_spec(), journal, outcome(tmp_path))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("http://me:hunter2@host:5000/x", "http://***@host:5000/x"),
        ("postgresql+psycopg2://me:p@ss@host/db", "postgresql+psycopg2://***@host/db"),
        ("postgresql://me:pa/ss@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://me:p@s/s@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql+psycopg://host/db?user=me&password=p/ss", "postgresql+psycopg://host/db?user=me&password=***"),
        ("http://host:5000/#/experiments/1 by a@b", "http://host:5000/#/experiments/1 by a@b"),
        ("https://abcdef@host", "https://***@host"),
        ("sqlite:////runs/mlflow.db", "sqlite:////runs/mlflow.db"),
        ("run --set a.password=12345 --yes", "run --set a.password=*** --yes"),
        ("run --hub-token hf_abc --yes", "run --hub-token *** --yes"),
        ("HF_TOKEN=hf_abc run", "HF_TOKEN=*** run"),
        ("get http://host/?api_key=abc&x=1", "get http://host/?api_key=***&x=1"),
        ("run --set masking.shares.token=0.15 --yes", "run --set masking.shares.token=0.15 --yes"),
        ("run --set 'arms.a.masking.shares.token=0.15'", "run --set 'arms.a.masking.shares.token=0.15'"),
        ("run --set data.tokenizer=train:8192", "run --set data.tokenizer=train:8192"),
    ],
)
def test_secrets_are_left_out_and_shares_of_tokens_are_not(text: str, clean: str) -> None:
    assert redact(text) == clean


def test_how_to_open_the_curves() -> None:
    local = ui_command("sqlite:////a b/mlflow.db", Path("/a b"))
    assert "--port 5050" in local
    assert "--host 127.0.0.1" in local
    assert "--backend-store-uri 'sqlite:////a b/mlflow.db'" in local
    assert ui_command("http://me:pw@host:5000", Path("/a")) == "http://***@host:5000"
    assert ui_address("http://me:pw@host:5000/") == "http://***@host:5000"
    assert ui_address("sqlite:////a/mlflow.db") == "http://127.0.0.1:5050", "where that command serves it"


def test_it_needs_neither_ray_nor_mlflow_nor_optuna() -> None:
    code = "import sys; sys.modules.update(dict.fromkeys(['ray', 'mlflow', 'optuna', 'torch', 'rich'])); "
    subprocess.run(
        [
            sys.executable,
            "-c",
            code + "import sweeper.report.sections, sweeper.tracking.trial_runs, sweeper.journal.journal",
        ],
        check=True,
    )
