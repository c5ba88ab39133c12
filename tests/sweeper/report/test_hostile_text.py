"""A stranger's text is text: in every name and value that a spec, a record or a trainable sets, in every output."""

from __future__ import annotations

import base64
import csv
import dataclasses
import gzip
import hashlib
import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from mlflow.utils import validation
from rich.console import Console

from sweeper import status
from sweeper.confirmation.task_verdicts import task_verdicts
from sweeper.confirmation.verdicts import Rule, verdicts
from sweeper.journal.events import Ask, End, Family, Over, Report, Session, Verdict
from sweeper.journal.journal import Journal, nested
from sweeper.journal.names import Names
from sweeper.plan import estimate as estimate_module
from sweeper.plan.estimate import estimated
from sweeper.report import printed, tables, terminal, write
from sweeper.report.sections import Outcome
from sweeper.report.summary import summary
from sweeper.spec.sections import Evaluate
from sweeper.spec.space import Choice, LogUniform
from sweeper.spec.spec import SweepSpec
from sweeper.system import files
from sweeper.system.markdown import code, plain, table, text
from sweeper.tracking import trial_runs
from tests.sweeper import strange
from tests.sweeper.samples import T0, toy_spec
from trainables.settings import config as bert
from trainables.training import bundle

PLAIN = "harmless"
HOSTILE = [
    '"><script>alert(1)</script><!--<img src=x onerror=alert(1)>',
    "\x1b[2J\x1b]0;title\x07\x9b31m abc\u202efdp.exe\u2028\u2029",
    "=cmd|' /C calc'!A0",
    "a|b | c `x` ``y` `",
    "one\ntwo\n\n# three\n\n* four\r\nfive",
    "[red]rich[/red] [link=http://example.org]x[/link]",
    "{x} {0.__class__} %{y} %{text} %s %(a)s %n ${jndi:ldap://example.org/a}",
    "\\input{/etc/passwd} $x$ ^ _ # & ~",
    "![x](http://example.org/x.png) [y](javascript:alert(1)) <http://example.org> *b* __c__ &lt; <a href='x'>z</a>",
    "[a\\",
    "very long " * 300,
]
LINES = [
    *HOSTILE,
    "# x",
    "- x",
    "+ x",
    "> x",
    "1. x",
    "2) x",
    "---",
    "===",
    "*",
    "~~~",
    "```",
    "a_b_c _d_",
    "x\\",
    "&#60;",
]
SEEDS = [101, 102, 103, 104, 105, 106, 107, 108]


def hostile_spec(evil: str) -> SweepSpec:
    """Past the checks of a spec, as a record is that somebody wrote: two arms, a space, two objectives, tasks."""
    spec = toy_spec(trainable="tests.sweeper.strange:train", space={}, search={"method": "arms"}, config={"note": evil})
    arms = {f"{evil} base": {"x": 0.5, f"note {evil}": evil}, f"{evil} other": {"x": 0.25, f"note {evil}": evil}}
    space: dict[str, Any] = {
        f"a {evil}": Choice((evil, f"{evil} 2", 3)),
        f"b {evil}": LogUniform(1.0, 10.0),
        "x": LogUniform(0.1, 1.0),
    }
    changes: dict[str, Any] = {
        "question": evil,
        "notes": evil.replace("\n\n", " "),
        "tags": {"one": evil},
        "arms": arms,
        "space": space,
        "profile": evil,
    }
    changes |= {"objectives": ("val/loss", f"{evil}/accuracy"), "data": {"corpus": evil, "tokenizer": evil}}
    return spec.model_copy(update={**changes, "evaluate": Evaluate(at="trials", tasks={evil: evil})})


def hostile_journal(folder: Path, spec: SweepSpec, evil: str) -> Journal:
    journal = Journal(folder / "journal.jsonl")
    facts = {key: [evil] for key in ("notes", "warnings", "judged")}
    facts |= {"scores": [f"{evil}/accuracy"], f"{evil}_fingerprint": evil}
    own = {"command": f"run {evil}", "versions": {evil: evil}, "machine": {evil: evil}, "git_commit": evil}
    journal.append(Session(**own, facts=facts, time=T0))
    labels = [*spec.arms, f"{evil} third"]
    runs = [("search", label, 0) for label in (*labels, None, None, None)]
    runs += [("confirm", label, seed) for seed in SEEDS for label in labels]
    losses: dict[str, dict[int, float | None]] = {label: {} for label in labels}
    for number, (stage, arm, seed) in enumerate(runs):
        if stage == "confirm" and number == 6:
            journal.append(Over(stage="search", reason=evil, time=T0 + 5))
            arms = {label: dict(spec.arms.get(label, {evil: evil})) for label in labels}
            journal.append(Family(look=1, baseline=labels[0], arms=arms, seeds=SEEDS, champion=labels[1], time=T0 + 6))
        trial, loss = f"t{number:04d}", 2 - 0.01 * labels.index(arm or labels[0]) + 0.001 * (number % 3)
        params = {f"a {evil}": evil, f"b {evil}": 2.0, "x": 0.5, f"d {evil}": {evil: 0.5, "rest": 0.5}, "e": [evil]}
        asked: dict[str, Any] = {"stage": stage, "arm": arm, "seed": seed, "number": number}
        settings = {"steps": 20, "note": evil, evil: evil}
        journal.append(Ask(trial=trial, config=settings, config_hash=evil, params=params, raw={}, time=T0 + 7, **asked))
        metrics = {"val/loss": loss, "test/loss": loss, f"{evil}/accuracy": 0.5, f"{evil}/untrained": 0.1, evil: 1.0}
        metrics |= {"audit/rate": 0.15, "audit/shares/random": 0.5, f"audit/shares/{evil}": 0.5, f"energy {evil}": 1.0}
        metrics |= {f"audit/{evil}/{evil}": 0.5, "audit/a": 1.0, "audit/a/b": 1.0, "audit/cut/deep": 0.1}
        for step in (10, 20):
            journal.append(Report(trial=trial, step=step, metrics=metrics, node=evil, time=T0 + 8 + step))
        state = "failed" if stage == "search" and number == 5 else "completed"
        journal.append(End(trial=trial, state=state, reason=evil, time=T0 + 40))
        if stage == "confirm":
            losses[str(arm)][seed] = loss
    journal.append(Verdict(data=_verdict(losses, labels, evil), time=T0 + 50))
    return journal


def _verdict(losses: dict[str, dict[int, float | None]], labels: list[str], evil: str) -> dict[str, Any]:
    found = verdicts(losses, labels[0], Rule(), look=1)
    confirmed = [(one.mean or 0.0, one.arm) for one in found.comparisons if one.verdict == "confirmed"]
    return {
        "look": 1,
        "metric": f"test/{evil}",
        "baseline": labels[0],
        "alpha": found.alpha,
        "rule": [evil],
        "worthwhile": 0.01,
        "margin": 0.0,
        "seeds": SEEDS,
        "fresh": True,
        "earlier": 0,
        "comparisons": [{**dataclasses.asdict(one), "notes": [evil]} for one in found.comparisons],
        "told": {one.arm: f"{one.label} {evil}" for one in found.comparisons},
        "documents": {one.arm: [-0.1, 0.1] for one in found.comparisons},
        "champion": min(confirmed)[1] if confirmed else None,
        "challenge": {"crowned": None, "said": evil},
        "unlearned": evil,
        "judged": [evil],
        "notes": [evil],
        "tasks": {
            "alpha": 0.05,
            "rule": [evil],
            "comparisons": [
                {**dataclasses.asdict(one), "verdict": evil, "why": evil, "alpha": 0.01 * (1 + number)}
                for number, one in enumerate(task_verdicts({f"{evil}/accuracy": losses}, labels[0], 0.05))
            ],
        },
    }


class Outputs:
    """All that people read of one hostile sweep."""

    def __init__(self, folder: Path, evil: str) -> None:
        folder.mkdir(parents=True)
        self.spec = hostile_spec(evil)
        self.journal = hostile_journal(folder, self.spec, evil)
        self.outcome = Outcome(run_dir=folder, tracking_uri="sqlite:////s/mlflow.db")
        importance = {f"a {evil}": 0.6, f"b {evil}": 0.4}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(strange, "said", evil)
            patch.setattr(write, "importance_of", lambda *_: importance)
            patch.setattr(printed, "files", lambda *_: ())  # test_printed.py draws them
            for path in write.write_all(self.spec, self.journal, self.outcome)[:-1]:
                setattr(self, path.name.replace(".", "_"), path.read_text("utf-8"))
            self.summary = summary(self.spec, self.journal, self.outcome)
            estimate = estimate_module.plan(self.spec, 1, estimated(self.spec, 1e9))
            told = {"notes": [evil], "warnings": [evil], "refused": [evil]}
            self.plan = estimate_module.shown(self.spec, dataclasses.replace(estimate, **told))

    report_md: str
    report_html: str
    results_csv: str
    table_tex: str
    setup_tex: str
    methods_tex: str


@pytest.fixture(scope="module")
def harmless(tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(tmp_path_factory.mktemp("harmless") / "run", PLAIN)


@pytest.fixture(params=HOSTILE, ids=range(len(HOSTILE)), scope="module")
def evil(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def outputs(evil: str, tmp_path_factory: pytest.TempPathFactory) -> Outputs:
    return Outputs(tmp_path_factory.mktemp("hostile") / "run", evil)


def steers(said: str) -> list[str]:
    """What in a text steers a terminal or turns the direction of writing."""
    return re.findall(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", said)


class Shape(HTMLParser):
    """The tags of a page with the names of their attributes, its scripts, and what it says."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.code: list[str] = []
        self.data: list[Any] = []
        self.said = self.policy = self._inside = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside = tag
        if tag == "script":
            (self.data if given else self.code).append("")
            self._inside = "json" if given else "js"
        if "http-equiv" in given:
            self.policy = str(given["content"])
        if tag != "code":  # what stands between two backticks is code
            self.tags.append((tag, *sorted(given)))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside in ("json", "js"):
            (self.data if self._inside == "json" else self.code)[-1] += data
        else:
            self.said += data


def strings(tree: Any) -> list[str]:
    if isinstance(tree, dict):
        return [each for key, value in tree.items() for each in (key, *strings(value))]
    if isinstance(tree, list):
        return [each for value in tree for each in strings(value)]
    return [tree] if isinstance(tree, str) else []


def test_the_markdown_is_built_as_that_of_a_harmless_record(outputs: Outputs, harmless: Outputs) -> None:
    assert not steers(outputs.report_md)
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    ours, theirs = (Shape(reader.render(one.report_md)) for one in (outputs, harmless))
    assert ours.tags == theirs.tags
    assert not {tag for tag, *_ in ours.tags} & {"a", "img", "script", "s", "em", "blockquote"}


def test_the_page_is_built_as_that_of_a_harmless_record(outputs: Outputs, harmless: Outputs) -> None:
    assert not steers(outputs.report_html)
    ours, theirs = Shape(outputs.report_html), Shape(harmless.report_html)
    assert ours.tags == theirs.tags
    assert not [name for _, *names in ours.tags for name in names if name.startswith("on") or name == "id"]
    assert len(ours.code) == 1
    assert len(ours.data) >= 8


def test_the_page_runs_its_own_scripts_alone(outputs: Outputs) -> None:
    found = Shape(outputs.report_html)
    packed = next(data for data in found.data if not data.startswith("{"))
    scripts = [*found.code, gzip.decompress(base64.b64decode(json.loads(packed))).decode()]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    assert not re.search("[\r\0]", "".join(scripts)), "a browser would change it, and hash it then"
    own = " ".join(f"'sha256-{digest}'" for digest in digests)
    rules = dict(rule.strip().split(" ", 1) for rule in found.policy.split(";"))
    assert rules["script-src"] == own
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"


def test_figures_spell_names_letter_by_letter(outputs: Outputs) -> None:
    for data in Shape(outputs.report_html).data:
        for said in strings(json.loads(data)):
            rest = re.sub(r"</?b>|<br>|<extra></extra>|%\{[xyzabc]:[+.\df]*\}|%\{(x|y|z|text)(:[+.\dfg]*)?\}", "", said)
            rest = re.sub(r"%\{[abc]:\.1f\} %", "", rest)
            assert not re.search(r"[<>]|%\{", rest), said[:200]
            assert not steers(said)


def test_no_cell_is_a_formula(outputs: Outputs) -> None:
    rows = list(csv.reader(io.StringIO(outputs.results_csv)))
    assert len(rows) == 1 + len(outputs.journal.trials)
    assert len({len(row) for row in rows}) == 1
    for cell in (cell for row in rows for cell in row):
        assert not re.match(r"\s*[=+\-@＝＋－＠\t\r\n]", cell) or re.fullmatch(r"[-+]?[\d.e+-]+", cell), cell
        assert not steers(cell)


@pytest.mark.parametrize("name", ["table_tex", "setup_tex", "methods_tex"])
def test_latex_is_escaped(outputs: Outputs, harmless: Outputs, name: str) -> None:
    def commands(tex: str) -> list[str]:
        return re.findall(r"\\(?:[A-Za-z]+|.|\n)|(?<!\\)[&$~^#]", tex)

    known = {"\\textbackslash", "\\textasciitilde", "\\textasciicircum", "\\textless", "\\textgreater", "\\textbar"}
    known |= {"\\otherletter", *(f"\\{char}" for char in "&%$#_{}")}
    ours, theirs = (getattr(one, name) for one in (outputs, harmless))
    assert not steers(ours)
    assert len(ours.splitlines()) == len(theirs.splitlines())
    ours, theirs = (tex.replace(tables.OTHER_LETTERS, "") for tex in (ours, theirs))
    left, expected = ([one for one in commands(tex) if one not in known] for tex in (ours, theirs))
    assert left == expected
    assert not re.search(r"\\\\\s*[\[*]", ours), "an argument of the row's end"
    bare = re.sub(r"\\[{}]", "", ours)
    assert bare.count("{") == bare.count("}")


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(outputs: Outputs) -> None:
    folder = outputs.outcome.run_dir
    inputs = "".join(f"\\input{{{name}}}" for name in ("methods", "setup", "table"))
    whole = (
        f"\\documentclass{{article}}\\usepackage{{booktabs}}\\begin{{document}}\\listoftables{inputs}\\end{{document}}"
    )
    (folder / "main.tex").write_text(whole, "utf-8")
    command = ["pdflatex", "-no-shell-escape", "-halt-on-error", "-interaction=nonstopmode", "main.tex"]
    for _ in range(2):  # the second time with the list of tables
        ran = subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8", errors="replace")
        assert ran.returncode == 0, ran.stdout[-2000:]


@pytest.mark.parametrize("width", [60, 400])
def test_the_table_on_a_terminal(outputs: Outputs, evil: str, width: int) -> None:
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    console.print(terminal.picture(outputs.spec, outputs.journal, 8, width, 60))
    file = console.file
    assert isinstance(file, io.StringIO)
    said = file.getvalue()
    assert not steers(said)
    if evil.startswith("[red]") and width > 60:
        assert evil[:20] in said
    shown = terminal.Live(outputs.spec, outputs.journal, 8, console=Console(file=(log := io.StringIO()), width=width))
    with shown:
        shown._cursor = 0
    assert not steers(log.getvalue())
    events = sum(isinstance(event, Ask | End | Over) for event in outputs.journal.events)
    assert len(log.getvalue().splitlines()) == events + 1, "a line each, and the sweep's own"


def test_lines_of_the_commands(outputs: Outputs, evil: str, capfd: pytest.CaptureFixture[str]) -> None:
    for line in outputs.plan:
        files.say(line)
    files.say(f"error: {evil}")
    said = capfd.readouterr().err
    assert not steers(said)
    assert len(said.splitlines()) == len(outputs.plan) + 1
    files.emit(json.dumps(outputs.summary))
    assert not steers(said := capfd.readouterr().out)
    assert json.loads(said)["trials"][0]["id"] == "t0000"
    names = Names(outputs.spec)
    trials = [status._trial(outputs.spec, record, False, names) for record in outputs.journal.trials.values()]
    found = {"name": "x", "state": "open", "driver": False, "run_dir": evil, "counts": {"failed": 1}, "total": 1}
    found |= {"best": evil, "silent_s": 1.0, "trials": trials, "resume": evil, "left_out": None, "doubts": [evil]}
    lines = status.lines({**found, "waiting": {"trials": 1, "why": evil}})
    files.emit("\n".join(lines))
    said = capfd.readouterr().out
    assert not steers(said)
    assert len(said.splitlines()) == len(lines) == 7 + len(trials)


def test_what_mlflow_is_told(outputs: Outputs, evil: str) -> None:
    session = next(event for event in outputs.journal.events if isinstance(event, Session))
    for record in outputs.journal.trials.values():
        for metric in record.rows[-1].metrics:
            validation._validate_metric_name(trial_runs.name(metric))
        child = trial_runs.TrialRun(record.ask, session)
        for key, value in child.params().items():
            validation._validate_param_name(trial_runs.name(key))
            assert len(value) <= trial_runs.MAX_PARAM
        assert all(len(tag) <= trial_runs.MAX_TAG for tag in trial_runs.cut_tags(child.tags()).values())
    note = MarkdownIt("commonmark", {"html": True}).render(trial_runs.note(evil))
    assert {tag for tag, *_ in Shape(note).tags} == {"p"}
    assert not steers(trial_runs.note(evil))


def test_the_model_card(evil: str) -> None:
    def card(word: str) -> str:
        config = bert.Config().model_copy(update={"data": bert.DataConfig().model_copy(update={"corpus": word})})
        metrics = {"step": 1, "val/loss": 1.0, "val/loss_mask": 1.0, "val/unigram_mask": 1.0}
        told = {"notes": [word], "warnings": [word]}
        known = {"architecture": "Compact BERT", "parameters": 1, "words": 1, "seed": 0}
        return bundle._card(config, {"metrics": metrics, **known, "data": told})

    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    ours, theirs = (Shape(reader.render(card(word))) for word in (evil, PLAIN))
    assert ours.tags == theirs.tags
    assert not steers(card(evil))


@pytest.mark.parametrize("given", LINES, ids=range(len(LINES)))
def test_markdown_says_what_was_given(given: str) -> None:
    """Not only harmless: the letters are all there."""
    line = files.one_line(given)
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    for made in (text(given), code(given)):
        said = Shape(reader.render(made)).said.strip("\n")
        assert said.replace("`", "") == line.replace("`", "")
    assert plain(text(given)).replace("`", "").replace("*", "") == line.replace("`", "").replace("*", "")
    said = Shape(reader.render(table(["head"], [[given]], left=()))).said.split("head")[1]
    assert said.strip("\n") == line[:200].strip()


def test_cells_keep_numbers_and_spell_formulas() -> None:
    kept = [1, -0.5, None, "-5", "+1e3", "t0001", "", True]
    assert [tables._cell(value) for value in kept] == kept
    assert tables._cell("=1+1") == "'=1+1"
    assert tables._cell(" -a") == "' -a"
    assert tables._cell("\t=1") == "'\t=1"


def test_metrics_below_metrics_are_told_apart() -> None:
    """Attack 5: a number that is called like a group."""
    metrics = {"audit/a/b": 1.0, "audit/a": 2.0, "audit/c/d/e": 3.0, "audit/c/d": 4.0, "audit/": 5.0, "other": 6.0}
    assert nested(metrics, "audit/") == {"a": 2.0, "a/b": 1.0, "c": {"d/e": 3.0, "d": 4.0}, "": 5.0}
