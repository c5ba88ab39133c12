"""What the tracking store holds of one sweep, and taking it away: its runs, their artifacts, its model versions."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from sweeper.system.secrecy import redact
from sweeper.tracking import store, view
from sweeper.tracking import tags as tag
from sweeper.tracking.history import ALL

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Held:
    """Of one sweep. versions: of its model. champion: the version that has this alias, if it is one of them."""

    runs: list[Run]
    versions: list[str]
    champion: str | None


def held(uri: str, model: str, run: str) -> Held:
    """What a store holds of the sweep with this id; a store that does not exist holds nothing.

    Raises ValueError, in one line, if the store cannot be reached.
    """
    runs = store.found(uri, {tag.RUN_ID: run}, ALL)
    if not runs:
        return Held([], [], None)
    try:
        client = store.connection(uri)
        models = client.search_registered_models(f"name = '{model}'")
        token, versions = None, list[str]()
        while True:
            page = client.search_model_versions(f"name = '{model}'", max_results=200, page_token=token)
            versions += [str(one.version) for one in page if one.tags.get(tag.RUN_ID) == run]
            token = page.token
            if not token:
                break
    except Exception as error:  # a store or its server may raise anything
        raise ValueError(f"Cannot reach MLflow at {redact(uri)}: {store.line(error)}") from error
    crowned = next((str(one.aliases[store.CHAMPION]) for one in models if store.CHAMPION in one.aliases), None)
    return Held(runs, versions, crowned if crowned in versions else None)


def remove(uri: str, model: str, found: Held, artifacts: Path) -> None:
    """Delete versions and runs, the trials before the sweep, and the runs' files below `artifacts`, a folder of ours.

    Raises ValueError, in one line, where the store fails; the rest can then be deleted again.
    """
    if not found.runs:
        return
    try:
        client = store.connection(uri)
        for version in found.versions:
            client.delete_model_version(model, version)
        for run in sorted(found.runs, key=lambda one: one.data.tags.get(tag.KIND) == "sweep"):
            client.delete_run(run.info.run_id)
            with contextlib.suppress(Exception):  # a run without a view of its own
                client.delete_experiment_tag(run.info.experiment_id, view.PREFIX + run.info.run_id)
            if folder := _local(run, artifacts):
                shutil.rmtree(folder, ignore_errors=True)
    except Exception as error:
        raise ValueError(f"Cannot delete from MLflow at {redact(uri)}: {store.line(error)}") from error


def _local(run: Run, artifacts: Path) -> Path | None:
    """The folder of a run below the storage's artifacts; None for one that lies elsewhere, or behind a link."""
    address = urlsplit(str(run.info.artifact_uri))
    folder, root = Path(unquote(address.path)).parent, artifacts.resolve()
    inside = address.scheme == "file" and folder.name == run.info.run_id and root in folder.parents
    return folder if inside and folder.resolve() == folder and not artifacts.is_symlink() else None
