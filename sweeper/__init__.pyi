"""The public names, for type checkers. A stub, as no module of this package may seem to import the API above it."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

from sweeper import api as api
from sweeper.api import Run as Run
from sweeper.api import Study as Study
from sweeper.api import load as load
from sweeper.api import study as study
from sweeper.spec.errors import ConfigError as ConfigError
from sweeper.trainable import Budget as Budget
from sweeper.trainable import Pace as Pace
from sweeper.trainable import Settings as Settings
from sweeper.trainable import Trainable as Trainable
from sweeper.trainable import TrainContext as TrainContext

_P = ParamSpec("_P")
_R = TypeVar("_R")

class _Command(Generic[_P, _R]):
    def __init__(self, function: Callable[_P, _R]) -> None: ...
    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _R: ...
    def main(self, argv: Sequence[str] | None = None) -> int: ...
    def __getattr__(self, name: str) -> Any: ...

run = _Command(api.run)
runs = _Command(api.runs)
__version__: str

def in_record(folder: str) -> bool: ...
