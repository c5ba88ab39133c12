"""The page that people open: MLflow's table of a sweep's runs, with the columns that answer its question.

MLflow keeps the columns of a table in a saved view, which is a tag of the experiment; the address names the tag. Read
in the source of its page, release 3.17: an address without `workflowType` opens the empty page of traces, and one with
a filter of its own ignores the view.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

from sweeper.tracking import tags as tag
from sweeper.tracking.trial_runs import name

if TYPE_CHECKING:
    from sweeper.spec.spec import SweepSpec

PREFIX = "mlflow.sharedViewState."
KIND = {"mlflow.experimentKind": "custom_model_development"}  # runs, no traces
_MOST_COLUMNS = 40


def runs_of(parent: str) -> str:
    """MLflow's filter for a sweep's trials."""
    return f"tags.`{tag.PARENT}` = '{parent}'"


def saved(spec: SweepSpec, parent: str, title: str, varied: Iterable[str], at: int) -> tuple[str, str]:
    """The tag of a sweep's view: its key and its value.

    Args:
        parent: the id of the sweep's run.
        title: what people call the view.
        varied: the settings that differ between trials, as MLflow names them.
        at: ms since 1970.

    Rows come by their ids, not their scores: the confirmation's first, then the search's, and never ranked together. By
    their start, MLflow would fold them all under the sweep's run.
    """
    metrics = [name(objective) for objective in spec.objectives]
    if spec.compared:  # a verdict goes by the objective on the part `test`
        metrics.insert(0, name("test/" + spec.objective.partition("/")[2]))
    columns = [_column("params", "arm"), _column("params", "seed"), _column("tags", tag.STAGE)]
    columns += [_column("metrics", metric) for metric in metrics]
    columns += [_column("params", path) for path in varied]
    columns += [_column("tags", tag.VERDICT), _column("tags", tag.STATE), _column("attributes", "Dataset")]
    state = {
        "searchFilter": runs_of(parent),
        "orderByKey": _column("tags", tag.TRIAL),
        "orderByAsc": True,
        "selectedColumns": columns[:_MOST_COLUMNS],
    }
    view = {"name": title, "createdAt": at, "updatedAt": at, "state": json.dumps(state)}
    return PREFIX + parent, json.dumps(view)


def page(experiment: str, parent: str) -> str:
    """Where a server of the store shows this view, below its address."""
    query = urlencode({"workflowType": "machine_learning", "viewStateShareKey": parent})
    return f"/#/experiments/{quote(experiment)}/runs?{query}"


def _column(kind: str, key: str) -> str:
    return f"{kind}.`{key}`"
