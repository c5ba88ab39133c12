"""Mutated specs, which are planned or refused in one line, and mutated checkpoints, which are refused or loaded right.

The specs are those of search_spaces/ and two of the tests. A checkpoint's trial is gone on with, to its end: it must
end as one that nothing happened to, whichever checkpoint it began at, as long as the journal is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import shutil
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sweeper.journal import checkpoints
from tests.drills.bitwise import cache

STEPS, EVERY, CUT = 20, 5, 15
NEWEST, OLDER = f"step-{CUT:08d}", f"step-{CUT - EVERY:08d}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=2000, help="mutated specs (2000)")
    parser.add_argument("--checkpoints", type=int, default=200, help="mutated checkpoints (200)")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Counts of both, and the first few faults."""
    specs, checked = _specs(options.runs, options.seed), _checkpoints(options.checkpoints, options.seed)
    return {"held": not (specs["faults"] or checked["faults"]), "specs": specs, "checkpoints": checked}


def _specs(count: int, seed: int) -> dict[str, Any]:
    import hypothesis
    from hypothesis import HealthCheck, Phase

    from sweeper.system import yaml_reader
    from tests.sweeper.mutations import idle_machine, mutated, planned
    from tests.sweeper.spec.test_spec import EXPLICIT, TOY

    real = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
    trees = (*(yaml_reader.read(path) for path in real), TOY, EXPLICIT)
    outcomes, faults = Counter(), []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, idle_machine():
        folder = Path(name) / "specs"
        folder.mkdir()

        @hypothesis.seed(seed)
        @hypothesis.settings(
            deadline=None,
            database=None,
            max_examples=count,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
        )
        @hypothesis.given(mutated(trees))
        def each(tree: dict[str, Any]) -> None:
            try:
                outcomes["planned" if planned(folder / "spec.yaml", tree) else "refused"] += 1
            except BaseException as error:
                outcomes["fault"] += 1
                faults.append(
                    {"tree": json.dumps(tree, default=str)[:2000], "error": traceback.format_exception(error)[-3:]}
                )

        each()
        left = sorted(path.name for path in Path(name).iterdir())
    if left != ["specs"]:
        faults.append({"tree": "", "error": [f"left behind: {left}"]})
    return {"mutated": sum(outcomes.values()), **outcomes, "from": len(trees), "faults": faults[:5]}


def _checkpoints(count: int, seed: int) -> dict[str, Any]:
    from tests.trainables.tiny import write_corpus

    table: dict[str, Counter[str]] = {}
    faults = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name, cache(Path(name)):
        trials = Trials(Path(name), write_corpus(Path(name)))
        for number in range(count):
            draw = random.Random(f"{seed} {number}")
            kind = list(MUTATIONS)[number % len(MUTATIONS)]
            outcome = trials.outcome(kind, draw)
            table.setdefault(kind, Counter())[outcome] += 1
            allowed = ("as before",) if kind == UNTOUCHED else ("as before", "older one", "from the beginning")
            if outcome not in allowed:
                faults.append({"number": number, "mutation": kind, "outcome": outcome})
    total = sum(table.values(), Counter())
    return {"mutated": count, **total, "by_mutation": {k: dict(v) for k, v in table.items()}, "faults": faults[:5]}


class Trials:
    """One trial run to its end, the same one cut off, and another of another seed, all of a tiny model."""

    def __init__(self, folder: Path, corpus: Path) -> None:
        from tests.trainables.tiny import config

        self.folder = folder
        self._config = config(corpus, steps=STEPS, report_every=EVERY).model_dump(mode="json")
        self.whole = self._run(folder / "whole")
        self.rows: list[checkpoints.ExpectedRow] = [(row, seal) for row, seal in self.whole if row["step"] <= CUT]
        self._run(folder / "cut", dies_after=CUT)
        self._run(folder / "other", dies_after=CUT, seed=1)
        self.weights = _weights(folder / "whole")

    def outcome(self, kind: str, draw: random.Random) -> str:
        """What became of the cut trial after a mutation: began where, ended how."""
        folder = self.folder / "mutated"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.folder / "cut", folder)
        MUTATIONS[kind](_home(folder), _home(self.folder / "other"), draw)
        steps: list[int] = []
        try:
            rows = self._run(folder, known=self.rows, steps=steps)
        except Exception as error:  # a trial that fails has no wrong number, but this one should go on
            return f"raised {type(error).__name__}: {str(error)[:200]}"
        if [row for row, _ in rows] != [row for row, _ in self.whole] or _weights(folder) != self.weights:
            return "wrong numbers"
        if steps[0] == EVERY:
            return "from the beginning"
        return "as before" if steps[0] == CUT else "older one"

    def _run(
        self, folder: Path, dies_after: int = STEPS, seed: int = 0, known: Any = (), steps: list[int] | None = None
    ) -> list[tuple[dict[str, Any], str | None]]:
        """The rows that the journal would have, each with its checkpoint's seal. steps: of the messages."""
        import pytest

        from sweeper.trials import trial

        rows: dict[int, tuple[dict[str, Any], str | None]] = {}

        def report(message: dict[str, Any]) -> None:
            for row in message["rows"]:
                rows[row["step"]] = (row, message["checkpoint"] if row is message["rows"][-1] else None)
            if steps is not None:
                steps.append(message["rows"][-1]["step"])
            if message["rows"][-1]["step"] >= dies_after and dies_after < STEPS:
                raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trial.tune, "report", report)
            with contextlib.suppress(KeyboardInterrupt):
                trial.run(self._task(folder, seed, known))
        return [rows[step] for step in sorted(rows)]

    def _task(self, folder: Path, seed: int, known: Any) -> dict[str, Any]:
        return {
            "id": "t0001",
            "seed": seed,
            "config": self._config,
            "expected": known,
            "test": False,
            "evaluate": {},
            "trainable": "trainables.mlm:train",
            "objective": "val/loss",
            "further": [],
            "workers": 0,
            "cpus_per_worker": 1,
            "gpus_per_worker": 0,
            "placement": "pack",
            "accelerator": None,
            "cwd": str(Path.cwd()),
            "remote": "",
            "run_dir": str(folder),
            "shared": False,
            "scratch": str(folder / "scratch"),
        }


def _home(folder: Path) -> Path:
    return folder / "trials" / "t0001" / "checkpoints"


def _weights(folder: Path) -> dict[str, bytes]:
    newest = _home(folder) / f"step-{STEPS:08d}"
    return {path.name: path.read_bytes() for path in sorted(newest.glob("*.safetensors"))}


Mutation = Callable[[Path, Path, random.Random], None]


def _any(draw: random.Random, folder: Path) -> Path:
    return draw.choice(sorted(path for path in folder.rglob("*") if path.is_file()))


def _flip(here: Path, other: Path, draw: random.Random) -> None:
    path = _any(draw, here / NEWEST)
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _truncate(here: Path, other: Path, draw: random.Random) -> None:
    path = _any(draw, here / NEWEST)
    path.write_bytes(path.read_bytes()[: draw.randrange(path.stat().st_size)])


def _flip_both(here: Path, other: Path, draw: random.Random) -> None:
    _flip(here, other, draw)
    path = _any(draw, here / OLDER)
    path.write_bytes(path.read_bytes() + b"\0")


def _delete(here: Path, other: Path, draw: random.Random) -> None:
    _any(draw, here / NEWEST).unlink()


def _add(here: Path, other: Path, draw: random.Random) -> None:
    name = draw.choice(["extra.safetensors", "model.safetensors.bak", "x/y.json", "pickle.pkl"])
    path = here / NEWEST / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(draw.randbytes(50))


def _swap(here: Path, other: Path, draw: random.Random) -> None:
    one, two = draw.sample(sorted(path for path in (here / NEWEST).rglob("*") if path.is_file()), 2)
    first = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(first)


def _from_older(here: Path, other: Path, draw: random.Random) -> None:
    path = _any(draw, here / NEWEST)
    shutil.copy(here / OLDER / path.relative_to(here / NEWEST), path)


def _from_other(here: Path, other: Path, draw: random.Random) -> None:
    path = _any(draw, here / NEWEST)
    shutil.copy(other / NEWEST / path.relative_to(here / NEWEST), path)


def _rename(here: Path, other: Path, draw: random.Random) -> None:
    (here / NEWEST).rename(here / f"step-{draw.choice([12, 16, 20, 99]):08d}")


def _older_as_newest(here: Path, other: Path, draw: random.Random) -> None:
    shutil.rmtree(here / NEWEST)
    shutil.copytree(here / OLDER, here / NEWEST)


def _whole_other(here: Path, other: Path, draw: random.Random) -> None:
    """Another trial's, and then with this one's owner in its manifest."""
    manifest = json.loads((here / NEWEST / checkpoints.MANIFEST).read_text("utf-8"))
    shutil.rmtree(here / NEWEST)
    shutil.copytree(other / NEWEST, here / NEWEST)
    if draw.random() < 0.7:
        _edit_manifest(here / NEWEST, lambda tree: tree.update(owner=manifest["owner"]))


def _manifest(here: Path, other: Path, draw: random.Random) -> None:
    def change(tree: dict[str, Any]) -> None:
        key = draw.choice(["step", "owner", "sha256", "name"])
        if key == "name":
            tree["sha256"].pop(draw.choice(sorted(tree["sha256"])))
        elif draw.random() < 0.4:
            del tree[key]
        else:
            tree[key] = draw.choice([None, 0, 20, "x", [], {}, {"../../x": "0"}, {"/etc/hostname": "0"}, -1, 1e9])

    _edit_manifest(here / NEWEST, change)


def _history(here: Path, other: Path, draw: random.Random) -> None:
    """A number in a row, with a manifest that agrees."""
    path = here / NEWEST / checkpoints.HISTORY
    rows = checkpoints.history(here / NEWEST)
    row = draw.choice(rows)
    key = draw.choice(sorted(row))
    row[key] = row[key] + draw.choice([1e-9, 1, -5])
    path.write_text(
        "".join(json.dumps(one) + "\n" for one in draw.choice([rows, rows[:-1], rows[1:], [*rows, rows[0]]])),
        "utf-8",
    )
    _agree(here / NEWEST, path)


def _weights_agreeing(here: Path, other: Path, draw: random.Random) -> None:
    """A bit of a tensor, with a manifest that agrees: only the journal's seal tells."""
    path = draw.choice(sorted((here / NEWEST).glob("*.safetensors")))
    data = bytearray(path.read_bytes())
    data[-1 - draw.randrange(min(64, len(data) // 2))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)
    _agree(here / NEWEST, path)


def _agree(folder: Path, path: Path) -> None:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    _edit_manifest(folder, lambda tree: tree["sha256"].update({str(path.relative_to(folder)): digest}))


def _edit_manifest(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / checkpoints.MANIFEST
    tree = json.loads(path.read_text("utf-8"))
    change(tree)
    path.write_text(json.dumps(tree), "utf-8")


UNTOUCHED = "none, to compare with"
MUTATIONS: dict[str, Mutation] = {
    UNTOUCHED: lambda here, other, draw: None,
    "a bit flipped": _flip,
    "cut short": _truncate,
    "both damaged": _flip_both,
    "a file gone": _delete,
    "a file more": _add,
    "two files swapped": _swap,
    "a file of the older one": _from_older,
    "a file of another trial": _from_other,
    "renamed to another step": _rename,
    "the older one in its place": _older_as_newest,
    "another trial's in its place": _whole_other,
    "manifest edited": _manifest,
    "history edited, manifest agreeing": _history,
    "weights edited, manifest agreeing": _weights_agreeing,
}
