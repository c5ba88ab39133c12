"""sweeper: which tokens should a masked language model mask? Sweeps, verdicts, and the record of both."""

# pyright: reportUnsupportedDunderAll=false
import os
import sys

__version__ = "0.1.0"
__all__ = ["Budget", "ConfigError", "Pace", "Run", "Settings", "Study", "TrainContext", "Trainable"]  # noqa: F822
__all__ += ["__version__", "load", "run", "runs", "study"]  # noqa: F822 # their types are in __init__.pyi

_WHERE = {
    **dict.fromkeys(("Run", "Study", "load", "study"), "api"),
    **dict.fromkeys(("Budget", "Pace", "Settings", "TrainContext", "Trainable"), "trainable"),
    "ConfigError": "spec.errors",
}
_COMMANDS = ("run", "runs")  # modules behind `python -m sweeper.run` that can be called as well


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


class _Command(type(sys)):
    """A command's module, which is also the function of that name: `sweeper.run(spec)`, `sweeper.runs()`."""

    @property
    def __wrapped__(self) -> object:
        """The function: what `help` and a notebook show the arguments of."""
        from importlib import import_module

        return getattr(import_module("sweeper.api"), self.__name__.rpartition(".")[2])

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self.__wrapped__(*args, **kwargs)  # type: ignore[operator]


class _Package(type(sys)):
    """This package. A submodule that is a command becomes callable when Python puts it here, whoever imports it."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in _COMMANDS and type(value) is type(sys):
            value.__class__ = _Command  # type: ignore[assignment]
        super().__setattr__(name, value)


def __getattr__(name: str) -> object:
    """The Python API, and what the author of a trainable imports, only when it is asked for: both need a lot."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    if name in _COMMANDS:
        try:
            return import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
            return getattr(import_module(f"{__name__}.api"), name)
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)


sys.modules[__name__].__class__ = _Package
_leave_records()
