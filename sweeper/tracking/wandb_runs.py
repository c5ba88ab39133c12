"""Runs of Weights & Biases, offline by default: `wandb sync RUN/wandb/offline-run-*` sends them when people want it.

`WANDB_MODE` in the environment decides otherwise; no spec and no record can. Only a trial that has ended for good is
written, since an offline run cannot be taken up again.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sweeper.system import files

if TYPE_CHECKING:
    from sweeper.journal.journal import TrialRecord
    from sweeper.spec.spec import SweepSpec

FOLDER, WRITTEN = "wandb", "sweeper-written"


class WandbRuns:
    """The runs of a sweep: a project named like the sweep, a group for each run folder."""

    PACKAGE: ClassVar[str] = "wandb"

    def __init__(self, spec: SweepSpec, run_dir: Path) -> None:
        self._spec, self._run_dir = spec, run_dir

    def write(self, record: TrialRecord, title: str, params: dict[str, str]) -> None:
        """See `copies.Copier`."""
        written = files.inside(self._run_dir, FOLDER, WRITTEN, record.id)
        if record.open or written.exists():
            return
        wandb = import_module(self.PACKAGE)
        written.parent.mkdir(parents=True, exist_ok=True)
        quiet = wandb.Settings(
            silent=True,
            console="off",
            symlink=False,  # a run folder holds no links
            disable_git=True,
            disable_code=True,
            x_disable_meta=True,  # the command line may hold secrets
            x_disable_stats=True,
        )
        run = wandb.init(
            project=self._spec.name,
            group=self._run_dir.name,
            job_type=record.ask.stage,
            name=title,
            notes=self._spec.question,
            config=params,
            dir=str(self._run_dir),
            mode=_mode(),
            reinit="create_new",
            settings=quiet,
        )
        for row in record.rows:
            run.log(row.metrics, step=row.step)
        run.summary["state"] = record.state
        run.finish(exit_code=int(record.state == "failed"))
        files.put(written, "")


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "offline"
