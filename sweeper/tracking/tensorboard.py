"""TensorBoard's event files: a folder for each trial, `RUN/tensorboard/TRIAL`, and its settings for the HParams tab.

Written by tensorboardX, which Ray Tune brings along: unlike torch's own writer it needs neither the package
`tensorboard` nor torch in the driver, and its files are the same.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from sweeper.system import files
from sweeper.tracking.trial_runs import note

if TYPE_CHECKING:
    from sweeper.journal.journal import TrialRecord
    from sweeper.spec.spec import SweepSpec

FOLDER = "tensorboard"


class EventFiles:
    """The event files of a run's trials: of each one file, whose name has the time of the trial's end."""

    PACKAGE: ClassVar[str] = "tensorboardX"

    def __init__(self, spec: SweepSpec, run_dir: Path) -> None:
        self._spec, self._run_dir = spec, run_dir

    def write(self, record: TrialRecord, title: str, params: dict[str, str]) -> None:
        """See `copies.Copier`."""
        assert record.end is not None
        folder = files.inside(self._run_dir, FOLDER, record.id)
        target = folder / f"events.out.tfevents.{record.end.time:.6f}.{record.id}"
        if target.exists():
            return
        content = self._content(record, title, params)
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("events.out.tfevents.*"):  # first: two files would show each point twice
            earlier.unlink()
        files.put(target, content)

    def _content(self, record: TrialRecord, title: str, params: dict[str, str]) -> bytes:
        from tensorboardX import FileWriter
        from tensorboardX.summary import hparams, scalar, text

        assert record.end is not None
        last = record.rows[-1].metrics if record.rows else {}
        results = {name: last[name] for name in self._spec.objectives if name in last}
        with TemporaryDirectory(prefix="sweeper-") as scratch:
            writer = FileWriter(scratch)
            for summary in hparams({path: _value(given) for path, given in params.items()}, results):
                writer.add_summary(summary, walltime=record.ask.time)
            writer.add_summary(text("trial", note(f"{title}: {record.end.state}")), walltime=record.end.time)
            for row in record.rows:
                for key, value in row.metrics.items():
                    writer.add_summary(scalar(key, value), global_step=row.step, walltime=row.time)
            writer.close()
            (made,) = Path(scratch).iterdir()
            return made.read_bytes()


def _value(text: str) -> str | float:
    """A setting as TensorBoard's parallel coordinates take it: a number where it is one."""
    try:
        return float(text)
    except ValueError:
        return text
