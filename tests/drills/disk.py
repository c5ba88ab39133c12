"""A disk that fills up while a sweep runs, in a small file system of its own: what is said, what is kept, going on.

Mounting one takes root. Once two trials have ended the disk is filled to the last byte, or with empty files until it
takes no more of them.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sweeper.journal.journal import Journal
from tests.drills import processes
from tests.drills.kill import LIMIT_S, MARK, MODES, Bench, Mode, Sweep, compared, undisturbed

MB = 320  # the plan asks for 200 to be free
INODES = 5000
CASES = {  # what lies on the full disk -> how the trials run
    "run folder and tracking store": MODES[0],
    "the trials' temporary folder": MODES[0],
    "no inodes for run folder and tracking store": MODES[0],
    "run folder, through Ray Train": Mode("1 worker", 1, 4, True, ()),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=len(CASES), help=f"of the {len(CASES)} cases, the first ones")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Each case: a sweep on a disk that fills up, then one that goes on with room."""
    from tests.trainables.tiny import write_corpus

    with tempfile.TemporaryDirectory(prefix="disk-") as name:
        bench = Bench(Path(name))
        write_corpus(bench.folder)
        rows = [_run(bench, case, mode) for case, mode in list(CASES.items())[: options.runs]]
    return {"held": all(row["held"] for row in rows), "rows": rows}


def _run(bench: Bench, case: str, mode: Mode) -> dict[str, Any]:
    whole = undisturbed(bench, mode)
    with _small_disk(bench.folder / f"disk-{[*CASES].index(case)}") as disk:
        on_disk = "temporary" not in case
        folder = disk / "work" if on_disk else disk.with_name("work")
        store = f"sqlite:///{folder}/mlflow.db"
        changes = {} if on_disk else {"TMPDIR": str(disk)}
        sweep = Sweep(bench, mode, folder, store, changes)
        driver = sweep.begin()
        processes.until(lambda: _ended(sweep) >= 2 or driver.poll() is not None, LIMIT_S, "two trials have ended", 0.02)
        (_crowd if "inodes" in case else _fill)(disk / "filler")
        begin = time.monotonic()
        status = driver.wait(LIMIT_S)
        took = time.monotonic() - begin
        told = sweep.told
        kept = [record.state for record in Journal(sweep.journal, read_only=True).trials.values()]
        subprocess.run(["rm", "-r", disk / "filler"], check=True)
        resumed = sweep.begin().wait(LIMIT_S)
        left = processes.clear(f"{MARK}={sweep.mark}", 15)
        faults = compared(whole, sweep.journal, store)
    errors = [line for line in told.splitlines() if line.startswith("error")]
    clear = status == 1 and len(errors) == 1 and "Traceback" not in told
    return {
        "held": clear and resumed == 0 and not any(faults.values()) and not left,
        "full": case,
        "trials": mode.name,
        "said": errors,
        "status": [status, resumed],
        "seconds_to_the_end": round(took, 1),
        "kept": kept,
        "tracebacks": told.count("Traceback"),
        **faults,
        "processes_left": left,
    }


@contextlib.contextmanager
def _small_disk(path: Path) -> Iterator[Path]:
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MB}m,nr_inodes={INODES}", "tmpfs", path], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", path], check=True)


def _fill(path: Path) -> None:
    """To the last byte."""
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def _crowd(path: Path) -> None:
    """To the last inode."""
    path.mkdir()
    with contextlib.suppress(OSError):
        for number in range(INODES):
            (path / str(number)).touch()


def _ended(sweep: Sweep) -> int:
    return sweep.journal.read_text("utf-8").count('"event": "end"') if sweep.journal.exists() else 0
