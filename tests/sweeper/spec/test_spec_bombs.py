"""Attacks 10 and 24: specs made to take for ever, trainables that are none, and readers that go away."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sweeper import run, status
from sweeper.spec.errors import SpecError
from sweeper.spec.load import load, resolve
from sweeper.system import yaml_reader
from sweeper.trainable import Trainable
from tests.sweeper.samples import toy_spec

SECONDS = 5.0
ROOT = Path(__file__).parents[3]
ARMS: dict[str, Any] = {"method": "arms"}
TEXTS = {
    "aliases": ("a: &a [x, x]\nb: &b [*a, *a]\nname: [*b, *b]\n", "anchors and aliases (& and *) are not allowed"),
    "depth": ("name: " + "[" * 100, "nested deeper than 24 levels"),
    "depth by indents": ("\n".join(" " * n + "k:" for n in range(100)), "nested deeper than 24 levels"),
    "size": ("name: x\nquestion: " + "x" * 2**20, "is larger than 1024 KiB"),
    "nodes": ("name: [" + "a," * 60_000 + "a]", "more than 50,000 keys and values"),
    "an integer of many digits": ("name: x\nseeds: {search: [1" + "0" * 10_000 + "]}", "is too large"),
    "1e999": ("name: x\nconfirm: {sd: 1e999}", "the number 1e999 is too large"),
}
CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "arms": (
        {"arms": {f"a{n}": {"x": n / 1e5} for n in range(10_000)}, "search": ARMS},
        "arms: 10,000 are too many: use at most 2,000",
    ),
    "seeds": ({"seeds": {"confirm": [*range(1, 40_000)]}}, "seeds.confirm: 39,999 are too many: use at most 10,000"),
    "a seed twice": ({"seeds": {"confirm": [*range(1, 9_999), 9_998]}}, "duplicate seed 9998"),
    "arms on seeds": (
        {"arms": {f"a{n}": {"x": n / 1e5} for n in range(200)}, "search": ARMS, "seeds": {"search": [*range(600)]}},
        "seeds.search: all arms on all seeds make 120,000 trials; 100,000 at most",
    ),
    "looks": (
        {"confirm": {"until": "decided"}, "seeds": {"confirm": [*range(1, 5_000)]}},
        "confirm.looks: 1249 looks, one every 4 pairs, are too many; list at most 20",
    ),
    "looks by name": (
        {"confirm": {"until": "decided", "looks": [*range(6, 50)]}, "seeds": {"confirm": [*range(1, 51)]}},
        "confirm.looks: 44 are too many: use at most 20",
    ),
    "choices": ({"space": {"x": {"choice": [n / 1e5 for n in range(20_000)]}}, "arms": {}}, "1,000 at most"),
    "parts": ({"space": {"shares": {"simplex": {f"p{n}": 0 for n in range(5_000)}}}, "arms": {}}, "100 at most"),
    "a grid": (
        {"space": {"x": {"choice": [n / 1e3 for n in range(999)]}, "y": {"randint": [0, 2**62]}}, "arms": {}}
        | {"search": {"method": "grid"}},
        "2000 at most",
    ),
    "a space": (
        {"space": {f"p{n}": {"uniform": [0, 1]} for n in range(10_000)}, "arms": {}},
        "space: its domains have 20,000 bounds and choices; at most 5,000 can be checked",
    ),
}
SETS = {
    "a path of many levels": ("config." + ".".join("a" * 5_000) + "=1", "is nested deeper than 24 levels"),
    "lists of many levels": ("config.x=" + "[" * 5_000, "nested deeper than 24 levels"),
    "mappings of many levels": ("config.x=" + "{a: " * 5_000, "nested deeper than 24 levels"),
    "an alias": ("config.x=[&a x, *a]", "anchors and aliases"),
    "many digits": ("config.x=" + "9" * 10_000, "is too large"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_attack_10_a_file_that_is_a_bomb_is_one_line_soon(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, told = TEXTS[what]
    (tmp_path / "spec.yaml").write_text(text, "utf-8")
    begin = time.process_time()
    assert status.main([str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert time.process_time() - begin < SECONDS
    if what != "nodes":  # once is enough
        assert run.main([str(tmp_path / "spec.yaml")]) == 2
        assert capsys.readouterr().err == said


@pytest.mark.parametrize("what", CHANGES)
def test_attack_10_a_spec_that_nobody_could_run_is_one_line_soon(what: str) -> None:
    changes, told = CHANGES[what]
    begin = time.process_time()
    with pytest.raises(SpecError) as error:
        toy_spec(**changes)
    assert told in str(error.value)
    assert time.process_time() - begin < SECONDS


@pytest.mark.parametrize("what", SETS)
def test_attack_24_a_set_of_many_levels_is_one_line(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, told = SETS[what]
    assert run.main([str(ROOT / "search_spaces" / "mix_ratios.yaml"), "--set", text]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_many_sets_are_laid_over_each_other_soon() -> None:
    begin = time.process_time()
    tree = {"name": "x", "trainable": "trainables.toy:train", "arms": {"a": {}, "b": {"y": 1.0}}, "search": ARMS}
    assert resolve(tree, sets=[f"config.x=0.{n}" for n in range(2_000)]).config["x"] == 0.1999
    assert time.process_time() - begin < SECONDS


def test_the_largest_grid_can_be_read_again(tmp_path: Path) -> None:
    space = {
        "x": {"choice": [n / 1e3 for n in range(50)]},
        "y": {"choice": [0.25, 0.5]},
        "effect": {"choice": [n / 100 for n in range(20)]},
    }
    whole = toy_spec(space=space, arms={}, search={"method": "grid"})
    assert len(whole.arms) == 2_000
    (tmp_path / "spec.yaml").write_text(whole.to_yaml(), "utf-8")
    assert yaml_reader.read(tmp_path / "spec.yaml")["arms"].keys() == whole.arms.keys()


BROKEN = {
    "exit": ("raise SystemExit(0)", "importing 'broken:train' raised SystemExit: 0"),
    "an error": ("1 / 0", "importing 'broken:train' raised ZeroDivisionError: division by zero"),
    "lines": ("raise RuntimeError('a\\nb')", "importing 'broken:train' raised RuntimeError: a b"),
    "syntax": ("train(", "importing 'broken:train' raised SyntaxError"),
    "what is asked for": (
        "def __getattr__(name):\n    raise SystemExit(0)",
        "looking into 'broken:train' raised SystemExit: 0",
    ),
    "not callable": ("from trainables.toy import Config\ntrain = 3", "'train' of 'broken' must be a function, not int"),
    "no Config": ("def train(): ...", "'broken' must have 'train' and 'Config'"),
    "no model": ("def train(): ...\nclass Config: ...", "the Config of 'broken:train' is not a pydantic model"),
    "a hook": (
        "from trainables.toy import Config, train\nprepare = {}",
        "'prepare' of 'broken' must be a function, not dict",
    ),
    "a hook of none": (
        "from trainables.toy import Config, train\nprepare = None",
        "'prepare' of 'broken' must be a function, not NoneType",
    ),
    "settings": (
        "from pydantic import model_validator\nfrom trainables import toy\nfrom trainables.toy import train\n"
        "class Config(toy.Config):\n"
        "    @model_validator(mode='after')\n"
        "    def ends(self): raise SystemExit(0)",
        "the Config of broken:train raised SystemExit: 0",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
@pytest.mark.parametrize("flag", ["--yes", "--dry-run"])
def test_attack_24_a_trainable_that_is_none_is_one_line(
    what: str, flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = BROKEN[what]
    (tmp_path / "broken.py").write_text(code, "utf-8")
    (tmp_path / "x.yaml").write_text(
        "{name: x, trainable: 'broken:train', arms: {a: {}}, search: {method: arms}}", "utf-8"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    assert run.main(["x.yaml", flag]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.startswith("error: x.yaml: trainable: ")
    assert said.count("\n") == 1
    monkeypatch.delitem(sys.modules, "broken", raising=False)


def test_an_interrupt_while_a_trainable_is_imported_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "slowly.py").write_text("raise KeyboardInterrupt", "utf-8")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(KeyboardInterrupt):
        Trainable.load("slowly:train")


PIPES = """
import sys
from sweeper.system import files
files.standard_streams()
print("much " * 100_000)
print("more", file=sys.stderr)
files.emit("and more")
print("the last, unflushed", end="")
"""


@pytest.mark.parametrize("closed", ["stdout", "stderr", "both"])
def test_attack_24_a_reader_that_goes_is_no_error(closed: str) -> None:
    read, write = os.pipe()
    os.close(read)
    out, errors = (write if closed in (name, "both") else subprocess.PIPE for name in ("stdout", "stderr"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PIPES]
    done = subprocess.run(command, env=environment, stdout=out, stderr=errors, text=True, check=False)
    os.close(write)
    assert done.returncode == 0
    assert done.stderr in (None, "more\n")
    assert done.stdout is None or done.stdout.endswith("and more\nthe last, unflushed")


def test_a_spec_that_is_a_pipe_or_a_device_is_not_read_for_ever() -> None:
    with pytest.raises(SpecError, match="is larger than 1024 KiB"):
        load("/dev/zero")
