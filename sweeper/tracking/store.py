"""The tracking store: where it lies, what it holds, and single calls to it.

A call is tried once and raises what mlflow raises: the tracker tries again, and queries give one line.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from sweeper.journal import run_folders
from sweeper.journal.journal import Journal
from sweeper.system import files
from sweeper.system.secrecy import redact
from sweeper.tracking import tags as tag
from sweeper.tracking.trial_runs import cut, cut_tags, milliseconds, name, settings, utc

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

    from sweeper.spec.spec import SweepSpec

CHAMPION = "champion"
_DATASET_NAME, _DIGEST = 100, 36  # characters
# One short attempt for each call: the tracker retries, while mlflow's own retries take minutes. Nothing on stdout.
_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # we report a failed call in a line of our own
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def identity(journal: Journal, run_dir: Path) -> dict[str, str]:
    """The tags that name this run's own runs in a store; none before it has any.

    By its id, whatever its folder is called; a run that an earlier version began has none, and is named by its folder.
    """
    if journal.run:
        return {tag.RUN_ID: journal.run}
    return named(journal, run_dir) if journal.events else {}


def named(journal: Journal, run_dir: Path) -> dict[str, str]:
    """For people: the run's folder, and when it began."""
    return {tag.RUN: run_dir.name, tag.BEGUN: utc(journal.events[0].time)}


def store_uri(spec: SweepSpec, storage: Path) -> str:
    """The tracking store: the spec's, else that of MLFLOW_TRACKING_URI, else a SQLite file in the storage folder."""
    return spec.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI") or sqlite_uri(storage.resolve() / "mlflow.db")


def refuse_store(spec: SweepSpec, run_dir: Path | None, trust: bool, storage: Path | None = None) -> None:
    """Raises ValueError, in one line, where a record that came from elsewhere says where results are to be sent.

    Args:
        spec: of the record.
        run_dir: of the record; None for a spec that was read from one, which may be anybody's.
        trust: read a record that was changed since it was written.
        storage: where the run is to lie; None for the record's own.
    """
    own = storage or (run_dir.resolve().parent if run_dir else None)
    uri, ours = spec.tracking.uri, own and sqlite_uri(own / "mlflow.db")
    if uri in (None, os.environ.get("MLFLOW_TRACKING_URI"), ours):
        return
    run = Journal(run_dir / run_folders.JOURNAL, read_only=True, trust=trust).run if run_dir else None
    if not (run and (files.cache_root() / run_folders.BEGUN / run).exists()):
        raise ValueError(
            f"{run_dir or 'spec'}: its record sends results to {redact(str(uri))}, and nothing shows that the run was "
            "begun here: set MLFLOW_TRACKING_URI, or tracking.uri, to that address to send them there"
        )


def sqlite_uri(path: Path) -> str:
    """The address of a SQLite file, quoted as SQLAlchemy reads it: `%2F`, `?` and `#` may be part of a name.

    If there is something to quote it names the driver, or else MLflow makes a folder with the quoted name.
    """
    quoted = quote(str(path))
    return f"sqlite:///{quoted}" if quoted == str(path) else f"sqlite+pysqlite:///{quoted}"


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other store."""
    found = re.match(r"sqlite(?:\+\w+)?:///([^?]+)", uri)
    return Path(unquote(found[1])) if found else None


def found(uri: str, tags: Mapping[str, str], most: int) -> list[Run]:
    """The runs with these tags in all experiments of a store, the newest first, about `most` of them.

    Empty if the SQLite file does not exist. Raises ValueError, in one line, if the store cannot be reached.
    """
    if _new(uri):
        return []
    configure()
    try:
        client = connection(uri)
        experiments = [one.experiment_id for one in client.search_experiments()]
        return runs(client, experiments, tags, "DESC", most)
    except Exception as error:  # a store or its server may raise anything
        raise ValueError(f"Cannot reach MLflow at {redact(uri)}: {line(error)}") from error


def champion(uri: str, model: str) -> dict[str, str] | None:
    """The tags of the version `champion` of a model, if there is one. Raises ValueError as `found`."""
    if _new(uri):
        return None
    configure()
    try:
        client = connection(uri)
        aliases = [entry.aliases for entry in client.search_registered_models(f"name = '{model}'")]
        if not any(CHAMPION in entry for entry in aliases):
            return None
        return dict(client.get_model_version_by_alias(model, CHAMPION).tags)
    except Exception as error:  # a store or its server may raise anything
        raise ValueError(f"Cannot reach MLflow at {redact(uri)}: {line(error)}") from error


def configure() -> None:
    """Set MLflow's variables that nobody has set; before mlflow is imported."""
    for setting, value in _SETTINGS.items():
        os.environ.setdefault(setting, value)


def connection(uri: str) -> MlflowClient:
    """A client of the store; importing mlflow takes seconds, and so does making a new SQLite file."""
    from mlflow import MlflowClient

    if path := _new(uri):
        _make(path)
    return MlflowClient(tracking_uri=uri)


def _new(uri: str) -> Path | None:
    """The file of a SQLite store that does not exist yet."""
    path = sqlite_file(uri)
    return path if path and not path.exists() else None


def _make(path: Path) -> None:
    """Make a SQLite file aside and move it into place: killed in the middle, mlflow leaves a file it cannot open.

    If two processes do so at once, the first one's stays.
    """
    from mlflow import MlflowClient

    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent, ignore_cleanup_errors=True) as folder:
        aside = Path(folder, path.name)
        MlflowClient(tracking_uri=sqlite_uri(aside)).search_experiments(max_results=1)
        aside.chmod(files.mode())  # SQLite gives the group no write access
        try:
            os.link(aside, path)
        except FileExistsError:
            pass
        except OSError:  # a file system without links
            os.rename(aside, path)


def experiment(client: MlflowClient, title: str, uri: str, storage: Path, tags: Mapping[str, str]) -> str:
    """The id of the experiment of that name. A server decides itself where artifacts go; a database does not.

    tags: of a new one.
    """
    existing = client.get_experiment_by_name(title)
    if existing is None:
        local = re.match(r"(sqlite|postgresql|mysql|mssql)\b", uri)
        place = (storage.resolve() / "mlartifacts").as_uri() if local else None
        return client.create_experiment(title, place, dict(tags))
    if existing.lifecycle_stage == "deleted":
        client.restore_experiment(existing.experiment_id)
    return str(existing.experiment_id)


def runs(
    client: MlflowClient, experiments: list[str], tags: Mapping[str, str], order: str, most: float = float("inf")
) -> list[Run]:
    """Runs by their tags, page by page, in the order of their start."""
    text = " and ".join(f"tags.`{key}` = {_quoted(value)}" for key, value in tags.items() if _quoted(value))
    listed: list[Run] = []
    token = None
    while len(listed) < most:
        page = client.search_runs(
            experiments, text, max_results=1000, order_by=[f"attributes.start_time {order}"], page_token=token
        )
        listed += [run for run in page if tags.items() <= run.data.tags.items()]
        token = page.token
        if not token:
            break
    return listed


def _quoted(value: str) -> str | None:
    """A value quoted for MLflow's filter, which has no escape; None if it has both quotes: then we compare it here."""
    return next((f"{sign}{value}{sign}" for sign in ("'", '"') if sign not in value), None)


def log(
    client: MlflowClient,
    run_id: str | None,
    *,
    metrics: Mapping[tuple[str, int, float], float] | None = None,
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Send all in one call. metrics: (key, step, time in s) -> value; sent twice they are stored once."""
    from mlflow.entities import Metric, Param, RunTag

    client.log_batch(
        str(run_id),
        [Metric(name(key), value, milliseconds(at), step) for (key, step, at), value in (metrics or {}).items()],
        [Param(name(key), value) for key, value in (params or {}).items()],
        [RunTag(key, value) for key, value in cut_tags(tags or {}).items()],
    )


def inputs(client: MlflowClient, run_id: str | None, data: Mapping[str, Any], fingerprint: str) -> None:
    """Say which data a run read. data: that section of the spec. fingerprint: of the data as prepared.

    MLflow's column of datasets shows the name and the start of the fingerprint. Sent twice it is stored once.
    """
    from mlflow.entities import Dataset, DatasetInput, InputTag

    shown = settings(data)
    title = next((shown[key] for key in ("corpus", "dataset", "name", "path") if shown.get(key)), "data")
    held = Dataset(
        name=cut(Path(redact(title)).name or "data", _DATASET_NAME),
        digest=fingerprint[:_DIGEST],
        source_type="sweeper",
        source=redact(json.dumps(shown)),
        profile=json.dumps({tag.DATA: fingerprint}),
    )
    client.log_inputs(str(run_id), [DatasetInput(held, [InputTag("mlflow.data.context", "training")])])


def unless_there(create: Callable[[], object]) -> None:
    """Create something, unless it exists already."""
    try:
        create()
    except Exception as error:
        if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
            raise


def refuses(error: Exception) -> bool:
    """Whether the store refused for good, and not just for now."""
    status = getattr(error, "get_http_status_code", None)
    return status is not None and status() in (400, 404, 409)


def line(error: Exception) -> str:
    """An error in one line without secrets."""
    return cut(" ".join(redact(f"{type(error).__name__}: {error}").split()), 200)
