"""The READMEs as they stand: their code blocks, links and tables.

Run: the Python blocks, in a copy of the two packages where they say so. Read as the program does: the YAML blocks, and
the arguments of our own commands, MLflow's server and Ray's job submission. No more than parsed by bash, with the files
that they name looked up: installation, docker, kubectl and sbatch, which need the network or a cluster
(tests/test_docker.py runs what docker/ holds as processes; .ci/run runs the installation). Links lead to files and
headings that are there, whatever README they stand in; the table of settings is the trainable's Config.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from pydantic import BaseModel

import sweeper
from sweeper import run
from sweeper.spec import layers
from sweeper.spec.load import load, resolve
from sweeper.system import yaml_reader
from sweeper.testing import TrainableContract
from sweeper.trainable import Trainable, TrainContext
from tests.suites import failing, names_of
from tests.trainables.tiny import write_corpus
from trainables.noise import StepNoise
from trainables.settings.config import Config
from trainables.settings.presets import MASKING, ORIGINS
from trainables.testing import PolicyContract, SourceContract
from trainables.toy import Config as ToyConfig

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", *sorted(ROOT.glob("[!.]*/README.md"))]
DOCUMENTS = [*READMES, ROOT / ".github" / "CONTRIBUTING.md"]
ROOMS = {"search_spaces", "sweeper", "trainables", "docker", "tests"}
MOST_LINES, WIDTH = 200, 120


class Block(NamedTuple):
    """language: after the backticks. text: what lies between them."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.parent.name if self.path.parent != ROOT else ''}README:{self.line}"


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def _blocks(path: Path) -> list[Block]:
    text = path.read_text("utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(path, text.count("\n", 0, one.start()) + 2, one[1], one[2]) for one in found]


BLOCKS = [block for path in READMES for block in _blocks(path)]
LATE, TRAIN, PAIRS, TOLD, OWN, MINE = blocks("python")


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    assert {path.parent.name for path in READMES} == {ROOT.name} | ROOMS
    assert {block.language for block in BLOCKS} == {"sh", "yaml", "python", "mermaid", "bibtex", ""}
    assert sum(path.read_text("utf-8").count("```") for path in READMES) == 2 * len(BLOCKS)


# Length, links and tables


def test_the_first_readme_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= MOST_LINES
    wide = [line for line in lines if len(line) > WIDTH]
    assert all("-c constraints.txt" in line for line in wide), "only the two commands of the installation may be wider"
    assert len(wide) <= 2


@pytest.mark.parametrize("path", READMES, ids=lambda path: path.parent.name)
def test_prose_is_narrow(path: Path) -> None:
    wide = [line for line in prose(path).splitlines() if len(line) > WIDTH and not line.startswith("|")]
    assert not wide


def prose(path: Path) -> str:
    """Without code blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def anchors(path: Path) -> set[str]:
    """Of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links(path: Path) -> list[str]:
    return [target for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)) if "://" not in target]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    assert links(path)
    for link in links(path):
        target, _, anchor = link.partition("#")
        there = (path.parent / target).resolve() if target else path
        assert there.exists(), link
        assert there.is_relative_to(ROOT), f"{link} leads out of the project"
        assert not anchor or anchor in anchors(there), link


def test_every_room_has_its_readme_and_the_first_one_names_it() -> None:
    linked = {link.partition("#")[0] for link in links(ROOT / "README.md")}
    assert {f"{room}/README.md" for room in ROOMS} <= linked


def named() -> list[tuple[str, Path]]:
    """Where the tables of rooms say what is: README, folder and file of each name in backquotes."""
    found = list[tuple[str, Path]]()
    for path in READMES:
        for row in re.findall(r"^\| `([a-z_/]+)/`(?:, `\w+/`)? \|(.+)$", path.read_text("utf-8"), re.MULTILINE):
            inside = path.parent if (path.parent / row[0]).is_dir() or path.parent == ROOT else ROOT
            folder = inside / row[0]
            found.append((str(path.parent.name), folder))
            for name in re.findall(r"`((?:\w+/)?\w+\.(?:py|yaml)|\w+/)`", row[1]):
                found.append((str(path.parent.name), folder / name))
    return found


def test_the_tables_of_rooms_name_what_is_there() -> None:
    """A name may lie in a room below, as in html/, or in tests/ where a row is of two folders."""
    assert len(named()) > 100
    lost = [
        f"{readme}: {path.relative_to(ROOT)}"
        for readme, path in named()
        if not path.exists() and not [*path.parent.glob(f"*/{path.name}")] and not (ROOT / "tests" / path.name).exists()
    ]
    assert not lost


def test_every_module_stands_in_the_table_of_its_package() -> None:
    for package in ("sweeper", "trainables"):
        text = (ROOT / package / "README.md").read_text("utf-8")
        modules = {path.name for path in (ROOT / package).rglob("*.py") if not path.name.startswith("__")}
        assert not sorted(name for name in modules if f"`{name}`" not in text)


def leaves(model: BaseModel | type[BaseModel], above: str = "") -> dict[str, Any]:
    """Dotted path -> default, of all settings below a model, or below a default that is one."""
    found = dict[str, Any]()
    fields = (model if isinstance(model, type) else type(model)).model_fields
    for name, field in fields.items():
        value = field.default if isinstance(model, type) else getattr(model, name)
        found |= leaves(value, f"{above}{name}.") if isinstance(value, BaseModel) else {above + name: value}
    return found


def test_the_table_of_settings_is_the_config() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text("utf-8")
    section = text.split("\n## Settings\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| `([^`]*)` \| (.+) \|$", section, re.MULTILINE)
    assert {path: yaml.safe_load(default) for path, default, _ in rows} == leaves(Config)
    assert len(rows) == len(leaves(Config))


def test_every_preset_stands_in_the_table_with_its_source_and_its_published_number() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text("utf-8").split("\n## Masking presets\n")[1]
    head, *rows = re.findall(r"^\| (.+) \|$", text.split("\n\n")[1], re.MULTILINE)
    assert head == "preset | rule | source | published number"
    listed = list[str]()
    for row in rows:
        first, rule, *said = row.removesuffix(" |").split(" | ")
        names = re.findall(r"`([^`]+)`", first)
        listed += names
        assert rule
        origins = [ORIGINS[name] for name in MASKING if name in names]
        of_row = [{getattr(one, which) for one in origins} - {""} for which in ("source", "number")]
        cells = [*said, ""] if len(said) == 1 else said
        assert [set(filter(None, cell.split("; "))) for cell in cells] == of_row, first
    assert sorted(listed) == sorted(MASKING) == sorted(ORIGINS)


def test_the_published_numbers_are_the_same_in_both_tables() -> None:
    text = (ROOT / "trainables" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `(published/[\w-]+)` \| [^|]+ \| ?([^|]*) \|", text, re.MULTILINE)
    assert len(rows) == 7
    assert [(name, number) for name, number in rows] == [(name, ORIGINS[name].number) for name, _ in rows]


def test_the_profiles_in_the_table_are_those_of_the_file() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text("utf-8").split("\n## Profiles\n")[1].split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+)`", text, re.MULTILINE)
    mix = yaml_reader.read(ROOT / "search_spaces" / "mix_ratios.yaml")
    assert listed == [*mix["profiles"]]
    assert f"`{mix['profile']}` (default)" in text


def test_the_table_of_questions_lists_every_file() -> None:
    text = (ROOT / "search_spaces" / "README.md").read_text("utf-8").split("\n## ")[0]
    listed = re.findall(r"^\| `(\w+\.yaml)`", text, re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in (ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", sorted((ROOT / "search_spaces").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_shipped_questions_load(path: Path) -> None:
    assert load(path).question


def test_the_toy_is_short_and_ends_with_a_verdict() -> None:
    """Runs that pause nowhere, pairs enough for a verdict, and an optimum that is the better arm's."""
    spec = load(ROOT / "search_spaces" / "toy.yaml")
    assert spec.trainable == "trainables.toy:train"
    assert len(spec.seeds.confirm) >= 6
    assert spec.total_trials + len(spec.arms) * len(spec.seeds.confirm) <= 30
    configs = {arm: ToyConfig.model_validate(spec.trainable_config(params)) for arm, params in spec.arms.items()}
    assert all(config.pause == 0 for config in configs.values())
    baseline, better, same = (configs[arm].optimum_distance for arm in ("baseline", "better", "same"))
    assert baseline - better == pytest.approx(0.04)
    assert same - baseline == pytest.approx(0.0004, abs=2e-6)


def test_the_citation_is_of_this_version() -> None:
    (cited,) = blocks("bibtex")
    assert f"version = {{{sweeper.__version__}}}" in cited.text
    assert "license = {Apache-2.0}" in cited.text


# Python


SOURCE_LINES = 10  # of Python at most, and the entry


def test_the_recipe_of_a_source_is_ten_lines_and_an_entry() -> None:
    assert LATE.path == ROOT / "README.md"
    lines = [line for line in LATE.text.splitlines() if line.strip()]
    assert lines[-1].startswith("Config = with_source(")
    assert len(lines) - 1 <= SOURCE_LINES


def test_the_recipe_of_a_source_trains_and_writes_its_card(tmp_path: Path) -> None:
    """A copy of the packages, the recipe as printed in a file beside the spec, and the two arms of 20 steps."""
    for package in ("sweeper", "trainables"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "late.py").write_text(LATE.text, "utf-8")
    config = {
        "steps": 20,
        "batch_size": 8,
        "data": {"corpus": f"files:{write_corpus(tmp_path)}", "tokenizer": "train:300", "block": 16, "held_out": 0.1},
        "model": {"hidden": 16, "layers": 1, "heads": 2, "intermediate": 32, "max_positions": 16},
        "masking": {"mask_warmup": 0},
    }
    arms = {"random": {"masking.preset": "random"}, "late": {"masking.shares": {"random": 0.8, "late": 0.2}}}
    spec = {"name": "late", "trainable": "late:train", "config": config, "arms": arms, "search": {"method": "arms"}}
    (tmp_path / "late.yaml").write_text(yaml.safe_dump(spec), "utf-8")
    code = """
import json, shutil, sys
from pathlib import Path
from sweeper.journal import provenance
from sweeper.spec.load import load
from sweeper.trainable import Trainable, TrainContext
from trainables.settings.config import Config as Plain

spec, own = load(Path("late.yaml")), Trainable.load("late:train")
kept = lambda arm: lambda row, checkpoint: shutil.move(checkpoint, Path(arm, str(row["step"])))
for arm, params in spec.arms.items():
    Path(arm).mkdir()
    own.train(own.config.model_validate(spec.trainable_config(params)), TrainContext(kept(arm), seed=3))
schedule = {"masking": {"mask_warmup": 0, "schedule": {"shares": [[0, {"late": 0.5}], [0.5, {"random": 1}]]}}}
told = {
    "dumps": [own.config().model_dump(mode="json"), Plain().model_dump(mode="json")],
    "schedule": own.config.model_validate(schedule).masking.shares_at(0, 10)["late"],
    "setup": own.setup(spec.settings(spec.arms["late"]), {})["masking"],
    "code": provenance.code("late"),
}
with Path("late.py").open("a") as file:
    file.write("#")
print(json.dumps({**told, "other code": provenance.code("late")}))
"""
    environment = {"PYTHONPATH": str(tmp_path), "SWEEPER_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["dumps"][0] == told["dumps"][1], "a source that nothing uses changes no hash"
    assert told["schedule"] == 0.5
    assert "80.0% at random, 20.0% towards the end of a row" in told["setup"]
    assert told["code"] != told["other code"], "the record knows which source it was"
    audits, cards = {}, {}
    for arm in arms:
        bundle = tmp_path / arm / "20" / "bundle"
        cards[arm] = " ".join((bundle / "README.md").read_text("utf-8").split())
        audits[arm] = json.loads((bundle / "metadata.json").read_text("utf-8"))["mask_audit"]
    assert "predicted: 80.0% at random, 20.0% towards the end of a row" in cards["late"]
    assert audits["late"]["audit/shares/late"] == pytest.approx(0.2, abs=0.02)
    assert audits["late"]["audit/rate"] == audits["random"]["audit/rate"]


def own_source() -> Any:
    """The class of the recipe, without what its module adds to the catalogue."""
    within = dict[str, Any]()
    exec(LATE.text.rpartition("Config = ")[0], within)
    return within["Late"]


def test_the_recipe_of_a_source_keeps_its_contract() -> None:
    assert failing(type("Own", (SourceContract,), {"source": own_source()})) == set()


def test_the_recipe_of_a_source_changes_what_is_masked() -> None:
    """Positions towards the end of a row come first: half of a row's quota lies in its last third."""
    source, row = own_source()(Config(), None, "cpu"), torch.zeros(200, 30, dtype=torch.int64)
    keys = source.priorities(row, StepNoise(1, 0, 0, (200, 30)), slice(0, 200))
    taken = keys.topk(5, dim=1).indices
    assert (taken >= 20).double().mean() > 0.5 > (taken < 10).double().mean() * 3


@pytest.mark.slow
def test_the_example_of_ask_and_tell_finds_the_optimum(tmp_path: Path) -> None:
    """The other one of its README, from a text to pairs, is tried in tests/sweeper/test_api.py."""
    assert PAIRS.path == TOLD.path == ROOT / "sweeper" / "README.md"
    (tmp_path / "script.py").write_text(TOLD.text, "utf-8")
    environment = {**os.environ, "SWEEPER_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["trial", "x", "val/loss"]
    assert [row[1] for row in rows[1:]] == [f"t{n:04d}" for n in range(1, 7)]


def test_the_suites_try_what_their_example_names(tmp_path: Path) -> None:
    """As a file of its own, away from the checkout; what is not there, as a GPU, is skipped."""
    assert MINE.path == OWN.path == ROOT / "trainables" / "README.md"  # OWN: tests/trainables/model/test_family.py
    (tmp_path / "test_mine.py").write_text(MINE.text, "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mine.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout
    counted = {word: int(number) for number, word in re.findall(r"(\d+) (passed|skipped)", done.stdout)}
    suites = (TrainableContract, SourceContract, PolicyContract)
    assert sum(counted.values()) == sum(len(names_of(suite)) for suite in suites)
    assert counted["skipped"] <= 5


def test_the_recipe_of_a_trainable_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With settings and two functions of one's own, as a module that a spec can name."""
    package = tmp_path / "my_package"
    package.mkdir()
    own = """
import json, tempfile
from pathlib import Path
from sweeper.trainable import TrainContext
from trainables.toy import Config

def one_step(config, seed):
    return config.x + seed

def rows_of(checkpoint):
    lines = (checkpoint / "history.jsonl").read_text("utf-8").splitlines() if checkpoint else []
    return [json.loads(line) for line in lines]

def folder_with(history):
    folder = Path(tempfile.mkdtemp())
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\\n" for row in history), "utf-8")
    (folder / "bundle").mkdir()
    return folder

"""
    (package / "my_module.py").write_text(own + TRAIN.text, "utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    trainable = Trainable.load("my_package.my_module:train")
    rows: list[tuple[Mapping[str, float], Path | None]] = []
    for rank in (0, 1):
        context = TrainContext(lambda row, folder: rows.append((row, folder)), seed=2, rank=rank, world_size=2)
        trainable.train(ToyConfig(x=0.5, steps=3), context)
    assert [row for row, _ in rows] == [{"step": step, "val/loss": 2.5} for step in (1, 2, 3)] * 2
    assert [bool(folder and (folder / "history.jsonl").exists()) for _, folder in rows] == [True] * 3 + [False] * 3
    given = {"trainable": "my_package.my_module:train", "config": {"steps": 3}, "has_test": False}
    assert failing(type("Own", (TrainableContract,), given)) == set()
    spec = {"name": "own", "space": {"x": {"uniform": [0, 1]}}, "search": {"method": "random", "trials": 2}}
    assert resolve({**spec, "trainable": "my_package.my_module:train"}).settings({"x": 0.25}).steps


# YAML: a whole spec, or parts to be laid over one

MINIMAL: dict[str, Any] = {
    "name": "minimal",
    "trainable": "trainables.mlm:train",
    "config": {"steps": 800},
    "space": {"masking.ema_decay": {"uniform": [0, 1]}},
    "search": {"method": "random", "trials": 2},
}


@pytest.mark.parametrize("block", blocks("yaml"), ids=str)
def test_yaml_is_a_spec_or_part_of_one(block: Block, tmp_path: Path) -> None:
    for document in block.text.split("---\n"):
        tree = yaml_reader.parse(document)
        if "name" not in tree:
            spec = resolve(layers.merge(MINIMAL, tree))
        else:
            (tmp_path / "spec.yaml").write_text(document, "utf-8")
            spec = load(tmp_path / "spec.yaml")
        said = spec.model_dump(mode="json").keys() | type(spec).model_fields.keys()
        assert tree.keys() <= said


# Shell

OPERATORS = {"&&", "||", ";", "|", "&"}
CHECKS = {"ruff": "ruff", "basedpyright": "basedpyright", "lint-imports": "import-linter"}
ELSEWHERE = {"docker", "kubectl", "openssl", "sbatch", "export", "python3"}


class Parsed(Exception):
    """A program's arguments are such as it takes."""


def commands(text: str) -> list[list[str]]:
    """The simple commands of a script, without assignments before them."""
    script = re.sub(r"\$\([^)]*\)", "made", text)
    found: list[list[str]] = []
    for line in script.splitlines():
        words, current = shlex.shlex(line, posix=True, punctuation_chars="&|;"), list[str]()
        words.whitespace_split, words.commenters = True, "#"
        for word in [*words, ";"]:
            if word in OPERATORS:
                found.append(current)
                current = []
            elif current or not re.match(r"\w+=", word):
                current.append(word)
    return [one for one in found if one]


def programs(words: list[str]) -> None:
    """Have the program read its arguments. Raises what it raises for wrong ones."""
    program, *rest = words
    if program.endswith("python") and rest[:1] == ["-m"]:
        return ours(rest[1], rest[2:])
    if program.endswith("pip"):
        return installed(rest)
    if Path(program).name in CHECKS:
        return checked(Path(program).name)
    if program == "bash":
        return subprocess.run(["bash", "-n", ROOT / rest[0]], check=True) and None
    if program.endswith("mlflow"):
        return server(rest)
    if program.endswith("ray"):
        return submitted(rest)
    assert program in ELSEWHERE, f"{program}: nothing here says how to try it"
    if program == "sbatch":
        at = next(i for i, word in enumerate(rest) if not word.startswith("--"))
        ours("sweeper.run", rest[at + 1 :])


def ours(module: str, arguments: list[str]) -> None:
    """One of our commands: arguments, and of a sweep the spec with its profile and settings."""
    if module == "pytest":
        return
    try:
        status = import_module(module).main(arguments)
    except Parsed as parsed:
        (args,) = parsed.args
        if module == "sweeper.run" and args.spec:
            load(ROOT / args.spec, args.profile, args.set)
    else:
        raise ValueError(f"{module} refuses {arguments}: exit status {status}")


def checked(program: str) -> None:
    """A linter that the extra dev brings."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert any(line.startswith(CHECKS[program]) for line in project["optional-dependencies"]["dev"])


def installed(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (extras,) = (re.findall(r"\w+", one) for one in arguments if one.startswith(".["))
    assert {*extras} <= project["optional-dependencies"].keys()
    assert (ROOT / arguments[arguments.index("-c") + 1]).is_file()


def server(arguments: list[str]) -> None:
    import mlflow.cli

    mlflow.cli.cli.commands[arguments[0]].make_context(arguments[0], arguments[1:])  # pyright: ignore[reportAttributeAccessIssue]


def submitted(arguments: list[str]) -> None:
    from ray.dashboard.modules.job.cli import submit

    assert arguments[:2] == ["job", "submit"]
    given = submit.make_context("submit", arguments[2:]).params
    json.loads(given["runtime_env_json"] or "{}")
    assert (ROOT / given["working_dir"]).is_dir()
    programs(list(given["entrypoint"]))


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our commands stop once they have read their arguments."""
    whole = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, *given: Any) -> Any:
        raise Parsed(whole(self, *given))

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_shell_is_what_its_programs_take(block: Block, reading: None) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    found = commands(block.text)
    assert found
    for words in found:
        programs(words)
    for name in re.findall(r"(?<![\w./$-])(?:docker|search_spaces|sweeper|trainables)/[\w./-]+\w", block.text):
        assert (ROOT / name).exists() or ":" in block.text[block.text.index(name) + len(name)][:1], name
    for target in re.findall(r"--target (\w+)", block.text):
        assert f" AS {target}\n" in (ROOT / "docker" / "Dockerfile").read_text("utf-8")


@pytest.mark.parametrize(
    "wrong",
    [
        "python -m sweeper.run search_spaces/mix_ratios.yaml --profil",
        "python -m sweeper.run search_spaces/mix_ratios.yaml --set config.masking.shares.tokn=1",
        "python -m trainables.evaluate runs/x --tasks zorro=x",
        "mlflow server --backend-store sqlite:///x.db",
        "ray job submit --adress x -- python -m sweeper.run search_spaces/mix_ratios.yaml",
        ".venv/bin/pip install -c constraints.txt -e '.[embeded]'",
        "bash .ci/run-nothing",
        "rm -rf x",
    ],
)
def test_a_wrong_command_would_be_noticed(wrong: str, reading: None) -> None:
    (words,) = commands(wrong)
    with pytest.raises((Exception, SystemExit)) as caught:
        programs(words)
    assert not isinstance(caught.value, Parsed)


def test_the_usage_names_every_option(reading: None) -> None:
    (usage,) = blocks("")
    assert usage.path == ROOT / "sweeper" / "README.md"
    parser: Callable[[], argparse.ArgumentParser] = run._parser
    known = {option for action in parser()._actions for option in action.option_strings} - {"-h", "--help", "--verbose"}
    assert {*re.findall(r"(?<![\w-])--?[a-z][\w-]*(?=[ \]])", usage.text)} - {"-m"} == known
    rows = re.findall(r"^\| (`-[^|]+`) \|", usage.path.read_text("utf-8"), re.MULTILINE)
    assert {*re.findall(r"(?<![\w-])--[a-z][\w-]*", " ".join(rows))} == known - {"-v"} | {"--verbose"}
