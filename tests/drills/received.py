"""Run folders as a stranger would send them, made on the spot, each with the tracking store that it came from."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.drills.outage import ROOT

STORE, ARTIFACTS = "mlflow.db", "mlartifacts"
TOY: dict[str, Any] = {
    "name": "toy",
    "question": "Where does the toy have its optimum?",
    "trainable": "trainables.toy:train",
    "config": {"run_sd": 0.01},
    "space": {"x": {"uniform": [0, 1]}, "y": {"uniform": [0, 1]}},
    "arms": {"baseline": {"x": 0.5, "y": 0.5}, "published": {"x": 0.3, "y": 0.7}},
    "search": {"method": "tpe", "trials": 4},
    "seeds": {"search": [0], "confirm": [1, 2, 3]},
}


@dataclass(frozen=True)
class Seed:
    """A run to be changed. storage: where it was made, with its store; a copy of it is moved to where it is tried."""

    name: str
    storage: Path
    run: str

    def put(self, storage: Path, name: str | None = None) -> Path:
        """A copy of the run below another storage, with the store's paths made that storage's; the run folder."""
        storage.mkdir(parents=True, exist_ok=True)
        target = storage / (name or self.run)
        shutil.copytree(self.storage / self.run, target, symlinks=True)
        if (self.storage / STORE).exists():
            shutil.copyfile(self.storage / STORE, storage / STORE)
            _moved(storage / STORE, self.storage, storage)
        return target


def real(folder: Path, corpus: Path) -> list[Seed]:
    """Runs of the command itself, with Ray: minutes. Judged ones, an unfinished one, one of a module not to be had."""
    module = folder / "elsewhere" / "foreign.py"
    module.parent.mkdir(parents=True)
    module.write_text("from trainables.toy import *\nfrom trainables.toy import Config, train\n", "utf-8")
    short = {"search": {"method": "tpe", "trials": 2}, "seeds": {"search": [0]}}
    seeds = [
        _run(folder, "toy", TOY),
        _run(folder, "mlm", _mlm(corpus)),
        _run(folder, "foreign", {**TOY, **short, "name": "foreign", "trainable": "foreign:train"}, module.parent),
    ]
    return [*seeds, _unfinished(folder, seeds[0])]


def quick(folder: Path, corpus: Path | None) -> list[Seed]:
    """The same without Ray: a record of the toy's, with a bundle that is trained here where there is a corpus."""
    from tests.sweeper import confirmed
    from tests.trainables.tiny import config, run

    spec = confirmed.spec(6)
    judged = folder / "toy" / "runs" / f"{spec.name}-{spec.spec_hash[:8]}"
    confirmed.written(judged, spec, {"published": -0.02, "t0003": 0.01}).close()
    (judged / ".lock").touch()
    if corpus:
        _checkpoints(judged, spec, run(config(corpus, report_every=10), folder / "trained").checkpoint)
    seed = Seed("toy", judged.parent, judged.name)
    return [seed, Seed("mlm", judged.parent, judged.name), _unfinished(folder, seed)]


def _checkpoints(run_dir: Path, spec: Any, trained: Path) -> None:
    """A checkpoint of t0001, and a bundle: those of the trained one, sealed as the trial's."""
    from sweeper.journal import checkpoints

    copy = run_dir / "copy"
    shutil.copytree(trained, copy)
    bundle = next((path for path in (copy / "bundle", copy) if (path / "config.json").exists()), None)
    if bundle:
        shutil.copytree(bundle, run_dir / "bundles" / "t0001")
    checkpoints.store(run_dir / "trials" / "t0001" / "checkpoints", copy, 20, spec.spec_hash[:16])


def _mlm(corpus: Path) -> dict[str, Any]:
    from tests.trainables.tiny import config

    tree = config(corpus, report_every=10).model_dump(mode="json", exclude_defaults=True)
    return {
        "name": "mlm",
        "trainable": "trainables.mlm:train",
        "data": tree.pop("data"),
        "config": tree,
        "arms": {"baseline": {"masking.shares": {"random": 1, "token": 0, "trigram": 0}}, "mixed": {}},
        "search": {"method": "arms"},
        "seeds": {"search": [0], "confirm": [1, 2]},
    }


def _run(folder: Path, name: str, tree: dict[str, Any], path: Path | None = None) -> Seed:
    """path: of modules that the reader of the run will not have."""
    place = folder / name
    place.mkdir(parents=True)
    (place / "spec.yaml").write_text(json.dumps(tree), "utf-8")
    paths = os.pathsep.join(map(str, filter(None, (ROOT, path))))
    command = [sys.executable, "-m", "sweeper.run", "spec.yaml", "--storage", "runs", "--yes"]
    done = subprocess.run(
        command, cwd=place, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=600
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr[-2000:]}")
    made = next((place / "runs").glob("*/journal.jsonl")).parent
    return Seed(name, made.parent, made.name)


def _unfinished(folder: Path, whole: Seed) -> Seed:
    """The run as it was in mid-search, which is a journal that ends earlier; no store knows of it."""
    run_dir = folder / "unfinished" / "runs" / whole.run
    shutil.copytree(whole.storage / whole.run, run_dir, symlinks=True)
    lines = (run_dir / "journal.jsonl").read_bytes().splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if b'"event": "end"' in line or b'"event":"end"' in line)
    (run_dir / "journal.jsonl").write_bytes(b"".join(lines[: first + 2]))
    return Seed("unfinished", run_dir.parent, run_dir.name)


def _moved(store: Path, old: Path, new: Path) -> None:
    """MLflow notes where artifacts lie as they were created."""
    with closing(sqlite3.connect(store)) as database:
        for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
            database.execute(f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(new)))
        database.commit()
