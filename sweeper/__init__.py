"""sweeper: which tokens should a masked language model mask? Sweeps, verdicts, and the record of both."""

import os
import sys

__version__ = "0.1.0"
__all__ = ["Budget", "Pace", "Settings", "TrainContext", "Trainable", "__version__"]

TYPE_CHECKING = False  # not from typing: nothing may be imported before `_leave_records`
if TYPE_CHECKING:
    from sweeper.trainable import Budget, Pace, Settings, Trainable, TrainContext


def _leave_records() -> None:
    """Look for no modules in the current folder where that is a run's, which may be a stranger's.

    `python -m` puts the current folder first. Nor do those commands look there that only read a record. Here, before
    any other import; what has the name of this package itself, Python has found by then: `python -P` looks nowhere.
    """
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:
        return
    record = bool({"sweeper.status", "sweeper.report"} & {*sys.orig_argv[1:4]}) or in_record(here)
    if record and os.path.dirname(os.path.dirname(os.path.realpath(__file__))) != here:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry) != here]


def in_record(folder: str) -> bool:
    """Whether a folder has a journal, or lies below one that has a journal and a spec."""
    above = folder
    while os.path.dirname(above) != above:
        if os.path.exists(os.path.join(above, "journal.jsonl")):
            return above == folder or os.path.exists(os.path.join(above, "spec.yaml"))
        above = os.path.dirname(above)
    return False


def __getattr__(name: str) -> object:
    """What the author of a trainable imports, only when it is asked for, as it needs pydantic."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sweeper import trainable

    return getattr(trainable, name)


_leave_records()
