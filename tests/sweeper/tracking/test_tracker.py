"""MLflow tells what the journal tells, once, whatever fails in between."""

from __future__ import annotations

import copy
import shlex
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.utils.file_utils import local_file_uri_to_path

from sweeper.confirmation import fresh_seeds
from sweeper.journal.events import Verdict
from sweeper.journal.journal import Journal
from sweeper.journal.names import Names
from sweeper.journal.records import best
from sweeper.report.sections import ui_command
from sweeper.spec.spec import SweepSpec
from sweeper.tracking import shared_settings, store
from sweeper.tracking import tags as tag
from sweeper.tracking import tracker as tracker_module
from sweeper.tracking.store import store_uri
from sweeper.tracking.tracker import Tracker
from tests.sweeper import confirmed
from tests.sweeper.samples import T0, ask, audit, end, report, session, toy_spec, written
from trainables import toy


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a name that means something else where it is not quoted."""
    folder = tmp_path_factory.mktemp("storage") / "feature%2Fx what?now#größe"
    folder.mkdir()
    return folder


@pytest.fixture(scope="module")
def client(storage: Path) -> MlflowClient:
    """The one real store of this module: a new database takes seconds."""
    return MlflowClient(tracking_uri=store.sqlite_uri(storage / "mlflow.db"))


def track(journal: Journal, run_dir: Path, uri: str, **options: Any) -> tuple[Tracker, list[str]]:
    said: list[str] = []
    tracker = Tracker(journal, toy_spec(run_dir.parent.name), run_dir, uri, say=said.append, **options)
    tracker.start()
    return tracker, said


def children(client: MlflowClient, parent: str | None) -> dict[str, Any]:
    """trial id -> run; fails if a trial has two."""
    experiment = client.get_run(str(parent)).info.experiment_id
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len({run.data.tags["sweeper.trial"] for run in runs}) == len(runs)
    return {run.data.tags["sweeper.trial"]: run for run in runs}


def test_tags_that_mlflow_refuses_hold_up_nothing(storage: Path, client: MlflowClient, tmp_path: Path) -> None:
    spec = toy_spec("refused").model_copy(update={"tags": {"paper/": "fig 2"}})  # as no spec may have it
    run_dir, said = storage / "refused-01234567", list[str]()
    run_dir.mkdir()
    journal = written(tmp_path / "source", spec)
    tracker = Tracker(journal, spec, run_dir, store_uri(spec, storage), say=said.append)
    tracker.start()
    assert tracker.close("completed", None, None, drain_s=60) == 0
    assert len(said) == 1
    assert said[0].startswith("MLflow refuses the spec's tags: ")
    assert client.get_run(str(tracker.parent_run_id)).info.status == "FINISHED"


def test_a_sweep_in_mlflow(
    storage: Path,
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(toy, "stuck", lambda metrics: "stayed there" if metrics["val/loss"] in (1.6, 1.1) else None)
    monkeypatch.setattr(toy, "unlearned", lambda metrics: "They learned nothing.", raising=False)
    calls = ["https://example.org/a-hook-that-nobody-else-may-know"]
    spec = toy_spec("whole", notes="Look\n\n*again*", tags={"paper": "fig 2"}, on_event=calls)
    run_dir = storage / "whole-01234567"
    run_dir.mkdir()
    journal = Journal(run_dir / "journal.jsonl")
    said: list[str] = []
    tags = {"data": "d1", tag.DATA: "f" * 64}
    tracker = Tracker(journal, spec, run_dir, store_uri(spec, storage), tags=tags, say=said.append)
    tracker.start()
    source = written(tmp_path / "source", spec)
    for event in source.events:
        journal.append(event)
    (run_dir / "report.md").write_text("# whole\n", "utf-8")
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "metadata.json").write_text('{"data_fingerprint": "d1", "seed": 0}', "utf-8")
    found, caution = best(spec, journal.trials.values()), {tag.CAUTION: "They learned nothing."}
    assert tracker.close("interrupted", found, bundle, drain_s=60) == 0
    assert said == []

    parent = client.get_run(str(tracker.parent_run_id))
    assert (parent.info.run_name, parent.info.status) == (run_dir.name, "KILLED")
    assert {"sweeper.kind": "sweep", "sweeper.best": "t0002", "data": "d1"}.items() <= parent.data.tags.items()
    assert parent.data.tags["paper"] == "fig 2"
    assert "\n\n**Notes.** Look\n\n\\*again\\*\n\n" in parent.data.tags["mlflow.note.content"]
    kept = Path(client.download_artifacts(parent.info.run_id, "spec.yaml", str(tmp_path))).read_text("utf-8")
    assert "Look" in kept
    assert "a-hook" not in kept
    assert parent.data.metrics == {"best/val/loss": 1.25}
    assert {item.path for item in client.list_artifacts(parent.info.run_id)} == {"spec.yaml", "report.md"}
    assert str(parent.info.artifact_uri).startswith((storage / "mlartifacts").as_uri())
    assert [path.name for path in storage.parent.iterdir()] == [storage.name]
    assert {"mlflow.db", "mlartifacts"} <= {path.name for path in storage.iterdir()}

    runs = children(client, tracker.parent_run_id)
    assert {trial: run.info.run_id for trial, run in runs.items()} == tracker.run_ids
    ended = {trial: (run.info.status, run.data.tags["sweeper.state"]) for trial, run in runs.items()}
    assert ended == {
        "t0000": ("FINISHED", "completed"),
        "t0001": ("FINISHED", "completed"),
        "t0002": ("FINISHED", "completed"),
        "t0003": ("FINISHED", "stopped"),
        "t0004": ("FAILED", "failed"),
        "t0005": ("KILLED", "interrupted"),
    }
    run = runs["t0002"]
    assert run.data.params == {
        "arm": "none",
        "seed": "0",
        "x": "0.25",
        "shares.random": "0.7",
        "shares.token": "0.2",
        "shares.trigram": "0.1",
    }, "what is the same for all trials is no parameter"
    common = shared_settings.from_tags(parent.data.tags)
    assert common["steps"] == "20"
    whole = shared_settings.of_all(spec, journal.trials["t0002"].ask.params)
    assert shared_settings.whole(run.data.params, common) == {"arm": "none", "seed": "0", **whole}
    assert run.info.run_name == "70/20/10 x 0.25, seed 0"
    assert f"`python -m sweeper.run --reproduce '{run_dir}' --trial t0002`" in run.data.tags["mlflow.note.content"]
    assert "Completed: `val/loss` 1.2500 at step 20." in run.data.tags["mlflow.note.content"]
    assert parent.inputs is not None
    (data,) = parent.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("data", "f" * 36)
    described = parent.data.tags["mlflow.note.content"]
    assert "**Verdict.** No verdict yet." in described
    assert "**Caution.** They learned nothing." in described
    experiment = client.get_experiment(parent.info.experiment_id)
    assert tracker.page.endswith(f"viewStateShareKey={parent.info.run_id}")
    assert f"mlflow.sharedViewState.{parent.info.run_id}" in experiment.tags
    assert {
        "sweeper.kind": "trial",
        "data": "d1",
        "mlflow.source.git.commit": "abc123",
    }.items() <= run.data.tags.items()
    assert run.data.tags["sweeper.spec_hash"] == spec.spec_hash
    assert run.data.tags["sweeper.config_hash"] == journal.trials["t0002"].ask.config_hash
    assert audit(0.2).items() <= run.data.metrics.items()
    curve = [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, "val/loss")]
    assert curve == [(10, 1.2, int(T0 + 8) * 1000), (20, 1.25, int(T0 + 9) * 1000)]
    assert run.info.end_time == int(T0 + 9) * 1000
    assert "it broke" in runs["t0004"].data.tags["sweeper.reason"]
    stuck = {trial: run.data.tags[tag.STUCK] for trial, run in runs.items() if tag.STUCK in run.data.tags}
    assert stuck == {"t0001": "stayed there"}, "one that was stopped early is not told of"

    version = client.get_model_version_by_alias("whole", "candidate")
    assert (version.run_id, version.source) == (run.info.run_id, f"runs:/{run.info.run_id}/bundle")
    assert {"data_fingerprint": "d1", "sweeper.score": "1.25", **caution}.items() <= version.tags.items()
    stored = {item.path for item in client.list_artifacts(run.info.run_id, "bundle")}
    assert stored == {"bundle/metadata.json", "bundle/MLmodel"}
    assert [path.name for path in bundle.iterdir()] == ["metadata.json"], "the run's own folder stays as it is"
    assert caution.items() <= client.get_run(str(tracker.parent_run_id)).data.tags.items()
    assert list(tmp_path.glob("ml*")) == []
    assert capfd.readouterr() == ("", "")


def test_a_resumed_sweep_goes_on_with_its_runs(storage: Path, client: MlflowClient, tmp_path: Path) -> None:
    spec, run_dir = toy_spec("resumed"), storage / "resumed-01234567"
    journal = written(run_dir, spec)
    uri = store_uri(spec, storage)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "model").write_text("weights", "utf-8")
    found = best(spec, journal.trials.values())

    first = Tracker(journal, spec, run_dir, uri)
    first.start()
    assert first.close("interrupted", found, bundle, drain_s=60) == 0
    journal.close()

    journal = Journal(run_dir / "journal.jsonl")
    journal.append(session(100, command="python -m sweeper.run toy.yaml --resume"))
    second = Tracker(journal, spec, run_dir, uri)
    second.start()
    journal.append(report(5, 20, 1.3, 101))
    deadline = time.monotonic() + 30
    while len(client.get_metric_history(first.run_ids["t0005"], "val/loss")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert client.get_run(first.run_ids["t0005"]).info.status == "RUNNING"
    journal.append(end(5, "completed", 102))
    journal.append(ask(spec, 6, 103, x=0.3, shares={"random": 0.8, "token": 0.2, "trigram": 0.0}))
    journal.append(report(6, 20, 1.0, 104))
    journal.append(end(6, "completed", 105))
    assert second.close("completed", journal.trials["t0006"], bundle, drain_s=60) == 0

    assert second.parent_run_id == first.parent_run_id
    assert first.run_ids.items() <= second.run_ids.items()
    assert client.get_run(str(first.parent_run_id)).info.status == "FINISHED"
    runs = children(client, first.parent_run_id)
    assert len(runs) == 7
    resumed = runs["t0005"]
    assert (resumed.info.status, resumed.data.tags["sweeper.reason"]) == ("FINISHED", "")
    assert [m.step for m in client.get_metric_history(resumed.info.run_id, "val/loss")] == [10, 20]

    third = Tracker(journal, spec, run_dir, uri)
    third.start()
    assert third.close("completed", journal.trials["t0006"], bundle, drain_s=60) == 0
    versions = {int(v.version): v.run_id for v in client.search_model_versions("name = 'resumed'")}
    assert versions == {1: first.run_ids["t0002"], 2: second.run_ids["t0006"]}
    assert str(client.get_model_version_by_alias("resumed", "candidate").version) == "2"
    local = mlflow.MlflowClient(uri).download_artifacts(second.run_ids["t0006"], "bundle/model", str(tmp_path))
    assert Path(local).read_text("utf-8") == "weights"


def test_two_folders_of_one_name_are_two_sweeps(storage: Path, client: MlflowClient, tmp_path: Path) -> None:
    spec = toy_spec("twins")
    parents = set()
    for number in range(2):
        journal = Journal(tmp_path / f"{number}.jsonl")
        journal.append(session(number))
        tracker = Tracker(journal, spec, storage / "twins-01234567", store_uri(spec, storage))
        tracker.start()
        assert tracker.close("failed", None, None, drain_s=60) == 0
        parents.add(tracker.parent_run_id)
    assert len(parents) == 2


def test_odd_names_and_long_values_arrive(storage: Path, client: MlflowClient) -> None:
    spec, run_dir = toy_spec("odd"), storage / "odd-01234567"
    run_dir.mkdir()
    journal = Journal(run_dir / "journal.jsonl")
    journal.append(session(command="run --set tracking.uri=http://me:hunter2@host"))
    asked = ask(spec, 0, 1, "baseline")
    asked.config.update({"long": "x" * 7000, "empty": {}, "none": None} | {f"k{i}": i for i in range(250)})
    journal.append(asked)
    many = {f"m/{i}": float(i) for i in range(450)}
    for step in range(1, 6):
        journal.append(report(0, step, 1.0, step + 1, many | {"top@5": 0.5}))
    journal.append(end(0, "failed", 9, "y" * 9000))
    tracker = Tracker(journal, spec, run_dir, store_uri(spec, storage))
    tracker.start()
    assert tracker.close("failed", None, None, drain_s=60) == 0
    run = client.get_run(tracker.run_ids["t0000"])
    assert len(run.data.params["long"]) == 6000
    assert (run.data.params["empty"], run.data.params["none"], run.data.params["k249"]) == ("{}", "null", "249")
    assert (len(run.data.metrics), run.data.metrics["top_5"]) == (452, 0.5)
    assert len(client.get_metric_history(run.info.run_id, "m/449")) == 5
    assert "hunter2" not in str(run.data.tags) + str(client.get_run(str(tracker.parent_run_id)).data.tags)


def test_the_store_keeps_what_is_sent_twice_once(client: MlflowClient) -> None:
    run_id = client.create_run("0").info.run_id
    for _ in range(2):
        client.log_batch(run_id, [Metric("loss", 1.5, 1000, 1), Metric("loss", 1.25, 2000, 2)])
    assert [m.value for m in client.get_metric_history(run_id, "loss")] == [1.5, 1.25]


@pytest.mark.parametrize("hung", [False, True], ids=["refused", "silent"])
def test_a_server_that_is_away_costs_no_more_than_its_bound(tmp_path: Path, hung: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not hung:
            server.close()
        journal = written(tmp_path / "sweeps" / "toy-0", toy_spec())
        begin = time.monotonic()
        tracker, said = track(journal, tmp_path / "sweeps" / "toy-0", f"http://me:hunter2@127.0.0.1:{port}")
        assert time.monotonic() - begin < 0.5
        assert tracker.close("completed", None, None, drain_s=1.5) == 20
        assert time.monotonic() - begin < 3
        assert "lacks 20 events" in said[-1]
        assert "hunter2" not in " ".join(said)


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(toy_spec(), tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://a:1")
    assert store_uri(toy_spec(), tmp_path) == "http://a:1"
    assert store_uri(toy_spec(tracking={"uri": "http://b:2"}), tmp_path) == "http://b:2"


ODD = [
    "feature%2Fx",
    "100%",
    "what?now",
    "x?mode=ro",
    "a#b",
    "a b",
    "größe कुल",
    "u:p@h",
    "q'u\"o",
    "a&b=c;d+e",
    "~",
    "*",
]


@pytest.mark.parametrize("name", ODD)
def test_a_storage_folder_of_any_name_holds_its_own_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / name
    folder.mkdir()
    uri = store_uri(toy_spec(), folder)
    assert store.sqlite_file(uri) == folder / "mlflow.db"
    engine = sqlalchemy.create_engine(uri)
    with engine.begin() as connection:
        connection.exec_driver_sql("create table here (x int)")
    engine.dispose()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.db")] == [Path(name, "mlflow.db")]
    shown = shlex.split(ui_command(uri, folder))
    assert sqlalchemy.make_url(shown[shown.index("--backend-store-uri") + 1]).database == str(folder / "mlflow.db")
    assert local_file_uri_to_path(shown[-1]) == str(folder / "mlartifacts")


class Refused(Exception):
    def get_http_status_code(self) -> int:
        return 400


PLACE = "s3://me:hunter2@bucket/theirs"


class Store:
    """An MLflow in memory. The call number `breaks` raises ConnectionError, before or after it took effect.

    place: what raises when an artifact is stored, as a bucket without keys does.
    """

    def __init__(self, breaks: int | None = None, took_effect: bool = False, refuse: str | None = None) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.artifacts: dict[tuple[str, str], int] = {}
        self.versions: list[tuple[str, str]] = []
        self.version_tags: dict[tuple[str, str], str] = {}
        self.aliases: dict[str, str] = {}
        self.views: dict[str, str] = {}
        self.order: list[int] = []
        self.calls, self.breaks, self.took_effect, self.refuse = 0, breaks, took_effect, refuse
        self.down = False
        self.place: Callable[[], object] = lambda: None

    def call(self, effect: Callable[[], Any]) -> Any:
        self.calls += 1
        broken = self.down or self.calls - 1 == self.breaks
        if broken and not self.took_effect:
            raise ConnectionError("away")
        result = effect()
        if broken:
            raise ConnectionError("away")
        return result

    def get_experiment_by_name(self, name: str) -> Any:
        found = SimpleNamespace(experiment_id="1", lifecycle_stage="active", artifact_location=PLACE)
        return self.call(lambda: found)

    def create_run(self, experiment: str, start_time: int, tags: dict[str, str], run_name: str) -> Any:
        def effect() -> Any:
            run_id = f"r{len(self.runs)}"
            self.runs[run_id] = {"tags": dict(tags), "params": {}, "metrics": set(), "status": "RUNNING"}
            self.runs[run_id]["inputs"] = set[tuple[str, str]]()
            return self._run(run_id)

        return self.call(effect)

    def _run(self, run_id: str) -> Any:
        run = self.runs[run_id]
        info = SimpleNamespace(run_id=run_id, status=run["status"])
        return SimpleNamespace(info=info, data=SimpleNamespace(tags=dict(run["tags"]), params=dict(run["params"])))

    def search_runs(self, experiments: list[str], text: str, **_: Any) -> Any:
        def effect() -> Any:
            wanted = [term.split("` = '") for term in text.replace("tags.`", "").removesuffix("'").split("' and ")]
            found = [r for r, run in self.runs.items() if all(run["tags"].get(k) == v for k, v in wanted)]
            return Page(map(self._run, found))

        return self.call(effect)

    def log_batch(self, run_id: str, metrics: list[Any], params: list[Any], tags: list[Any]) -> None:
        def effect() -> None:
            run = self.runs[run_id]
            if run["tags"].get("sweeper.trial") == self.refuse and self.refuse:
                raise Refused("no such run")
            for param in params:
                assert run["params"].setdefault(param.key, param.value) == param.value
            self.order += [m.step for m in metrics if (m.key, m.step, m.timestamp, m.value) not in run["metrics"]]
            run["metrics"] |= {(m.key, m.step, m.timestamp, m.value) for m in metrics}
            run["tags"] |= {one.key: one.value for one in tags}

        self.call(effect)

    def update_run(self, run_id: str, status: str) -> None:
        self.call(lambda: self.runs[run_id].update(status=status))

    def set_terminated(self, run_id: str, status: str, end_time: int | None = None) -> None:
        self.call(lambda: self.runs[run_id].update(status=status))

    def delete_tag(self, run_id: str, key: str) -> None:
        self.call(lambda: self.runs[run_id]["tags"].pop(key))

    def set_experiment_tag(self, experiment: str, key: str, value: str) -> None:
        self.call(lambda: self.views.update({key: value}))

    def log_inputs(self, run_id: str, datasets: list[Any]) -> None:
        held = {(one.dataset.name, one.dataset.digest) for one in datasets}
        self.call(lambda: self.runs[run_id]["inputs"].update(held))

    def log_text(self, run_id: str, text: str, path: str) -> None:
        self.place()
        self.call(lambda: self.artifacts.update({(run_id, path): len(text)}))

    def log_artifacts(self, run_id: str, folder: str, path: str) -> None:
        self.place()
        self.call(lambda: self.artifacts.update({(run_id, path): 1}))

    def log_artifact(self, run_id: str, path: str) -> None:
        self.place()
        self.call(lambda: self.artifacts.update({(run_id, Path(path).name): 1}))

    def search_model_versions(self, text: str) -> Any:
        wanted = text.split("'")[1]
        versions = enumerate(self.versions, 1)
        return self.call(lambda: [SimpleNamespace(name=n, version=i) for i, (n, run) in versions if run == wanted])

    def create_registered_model(self, name: str, description: str) -> None:
        self.call(lambda: None)

    def create_model_version(self, name: str, source: str, run_id: str, tags: dict[str, str], **_: Any) -> Any:
        def effect() -> Any:
            self.versions.append((name, run_id))
            self.version_tags |= {(str(len(self.versions)), key): value for key, value in tags.items()}
            return SimpleNamespace(version=len(self.versions))

        return self.call(effect)

    def set_model_version_tag(self, name: str, version: str, key: str, value: str) -> None:
        self.call(lambda: self.version_tags.update({(version, key): value}))

    def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
        self.call(lambda: self.aliases.update({alias: version}))

    def picture(self) -> dict[str, Any]:
        """All that people see, under the trials' names."""
        names = {run_id: run["tags"].get("sweeper.trial", "sweep") for run_id, run in self.runs.items()}
        runs = copy.deepcopy(self.runs)
        for run in runs.values():
            run["tags"]["mlflow.parentRunId"] = names.get(run["tags"].get("mlflow.parentRunId", ""), "")
        assert len(set(names.values())) == len(names)
        return {
            "runs": {names[run_id]: run for run_id, run in runs.items()},
            "artifacts": {(names[run_id], path) for run_id, path in self.artifacts},
            "versions": [(name, names[run_id]) for name, run_id in self.versions],
            "version_tags": self.version_tags,
            "aliases": self.aliases,
        }


class Page(list):  # pyright: ignore[reportMissingTypeArgument]
    token = None


@pytest.fixture
def follow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """Bring a journal into a store and close; returns what is left. By killing: the pass that fails is the last."""
    monkeypatch.setattr(tracker_module, "POLL_S", 0.0)
    (tmp_path / "bundle").mkdir()

    def run(journal: Journal, store: Store, kill: bool = False, drain_s: float = 10.0) -> int:
        monkeypatch.setattr(tracker_module.store, "connection", lambda uri: store)
        tracker = Tracker(journal, toy_spec(), tmp_path, "http://fake", say=lambda line: None)
        found = best(toy_spec(), journal.trials.values())
        if kill:
            closing = tracker_module._Close("completed", found, tmp_path / "bundle", 0.0)
            with pytest.raises(ConnectionError):
                tracker._pass(closing)
            return -1
        tracker.start()
        return tracker.close("completed", found, tmp_path / "bundle", drain_s)

    return run


@pytest.mark.parametrize("took_effect", [False, True], ids=["lost", "unanswered"])
@pytest.mark.parametrize("kill", [False, True], ids=["retried", "killed"])
def test_whichever_call_fails_the_store_ends_up_the_same(
    follow: Callable[..., int], tmp_path: Path, took_effect: bool, kill: bool
) -> None:
    journal = written(tmp_path / "run", toy_spec())
    undisturbed = Store()
    assert follow(journal, undisturbed) == 0
    assert undisturbed.calls > 30
    for breaks in range(undisturbed.calls):
        store = Store(breaks, took_effect)
        if kill:
            follow(journal, store, kill=True)
        assert follow(journal, store) == 0, breaks
        assert store.picture() == undisturbed.picture(), breaks


def test_an_outage_delays_and_loses_nothing(
    follow: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    store = Store()
    store.down = True
    said: list[str] = []
    monkeypatch.setattr(tracker_module.store, "connection", lambda uri: store)
    tracker = Tracker(journal, toy_spec(), tmp_path, "http://fake", say=said.append)
    tracker.start()
    journal.append(session())
    journal.append(ask(toy_spec(), 0, 1, "baseline"))
    begin = time.monotonic()
    for step in range(1, 31):
        journal.append(report(0, step, 1 / step, step))
    assert time.monotonic() - begin < 5
    while store.calls < 3:
        time.sleep(0.01)
    store.down = False
    journal.append(end(0, "completed", 31))
    assert tracker.close("completed", journal.trials["t0000"], None) == 0
    assert [line.split(":")[0] for line in said] == ["Cannot reach MLflow at http", "MLflow answers again"]
    assert store.order == [*range(1, 31), 30]


def test_a_run_that_the_store_refuses_does_not_hold_up_the_others(follow: Callable[..., int], tmp_path: Path) -> None:
    journal = written(tmp_path / "run", toy_spec())
    store = Store(refuse="t0001")
    assert follow(journal, store) == 4
    runs = store.picture()["runs"]
    assert runs["t0001"]["status"] == "RUNNING"
    assert runs["t0002"]["status"] == runs["sweep"]["status"] == "FINISHED"


def test_a_new_sqlite_file_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs" / "mlflow.db"

    def killed(tracking_uri: str) -> None:
        Path(tracking_uri.removeprefix("sqlite:///")).write_text("half", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mlflow, "MlflowClient", killed)
        with pytest.raises(KeyboardInterrupt):
            store.connection(f"sqlite:///{path}")
    assert not path.exists()
    assert [found.name for found in store.connection(f"sqlite:///{path}").search_experiments()] == ["Default"]
    assert [found.name for found in path.parent.iterdir()] == ["mlflow.db"]


def test_parameters_travel_with_the_first_report_or_after_a_while_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, spec, held = Journal(tmp_path / "journal.jsonl"), toy_spec(), Store()
    monkeypatch.setattr(tracker_module.store, "connection", lambda uri: held)
    tracker = Tracker(journal, spec, tmp_path, "http://fake")
    journal.append(session())
    for number in (0, 1):
        journal.append(ask(spec, number, 1, "baseline"))
    tracker._pass(None)
    runs = held.picture()["runs"]
    assert [runs[name]["params"] for name in ("t0000", "t0001")] == [{}, {}]
    before = held.calls
    journal.append(report(0, 1, 0.5, 2))
    tracker._pass(None)
    assert held.calls == before + 1
    runs = held.picture()["runs"]
    assert runs["t0000"]["params"]["arm"] == "baseline"
    assert runs["t0000"]["metrics"]
    assert not runs["t0001"]["params"]
    monkeypatch.setattr(tracker_module, "PATIENCE_S", 0.0)
    tracker._pass(None)
    assert held.picture()["runs"]["t0001"]["params"]["arm"] == "baseline"
    before = held.calls
    tracker._pass(None)
    assert held.calls == before


def test_a_run_of_the_confirmation_has_its_data_its_verdict_and_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, held, journal = toy_spec(data={}), Store(), Journal(tmp_path / "journal.jsonl")
    monkeypatch.setattr(tracker_module.store, "connection", lambda uri: held)
    journal.append(session())
    for number, arm in enumerate(("baseline", "published")):
        asked = replace(ask(spec, number, 1, arm), stage="confirm", seed=7)
        first = replace(report(number, 20, 1.5, 2), start={"trial": "t0000", "step": 10} if number else None)
        for event in (asked, first, end(number, "completed", 3)):
            journal.append(event)
    one = {"arm": "published", "mean": -0.5, "interval": [-0.7, -0.3], "adjusted": 0.02, "n": 8}
    said = {"look": 1, "comparisons": [one], "told": {"published": "confirmed"}, "champion": "published"}
    said |= {"metric": "test/loss", "baseline": "baseline", "alpha": 0.05, "seeds": [7], "fresh": True}
    journal.events.append(Verdict(data=said, time=T0 + 4))
    journal.digests.append("0" * 32)
    for _ in range(2):
        tracker = Tracker(journal, spec, tmp_path, "http://fake", tags={tag.DATA: "f" * 64})
        tracker.start()
        assert tracker.close("completed", None, None) == 0
    runs = held.picture()["runs"]
    assert runs["t0001"]["tags"]["sweeper.verdict"] == "confirmed"
    assert "sweeper.verdict" not in runs["t0000"]["tags"]
    began = {key: text for key, text in runs["t0001"]["tags"].items() if key.startswith("sweeper.fork")}
    assert began == {"sweeper.forked_from": "t0000", "sweeper.fork_step": "10"}
    assert not [key for key in runs["t0000"]["tags"] if key.startswith("sweeper.fork")]
    assert runs["t0001"]["inputs"] == runs["sweep"]["inputs"] == {("data", "f" * 36)}
    figures = {key: value for key, step, _, value in runs["sweep"]["metrics"] if step == 1}
    assert figures["verdict/published/difference"] == -0.5
    assert "**Verdict.** **Confirmed: `published`**" in runs["sweep"]["tags"]["mlflow.note.content"]


@pytest.mark.parametrize("status", ["completed", "interrupted"])
def test_whoever_closes_the_verdict_and_its_caution_stand_in_the_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: str
) -> None:
    """Also a driver that ends by an error, and a run that is moved: both close with nothing but where it stands."""
    spec, held = confirmed.spec(8), Store()
    journal = confirmed.written(tmp_path, spec, {"t0005": -0.02})
    said = {**(journal.verdict() or {}), "unlearned": "The baseline learned nothing."}
    journal.append(Verdict(data=said))
    monkeypatch.setattr(tracker_module.store, "connection", lambda uri: held)
    tracker = Tracker(journal, spec, tmp_path, "http://fake")
    tracker.start()
    assert tracker.close(status, None, None) == 0
    sweep = held.picture()["runs"]["sweep"]["tags"]
    name = Names(spec, (one.ask for one in journal.trials.values())).name("t0005")
    assert len(name) > len("t0005")
    assert f"**Verdict.** **Confirmed: `t0005` ({name})**" in sweep["mlflow.note.content"]
    assert "**Caution.** The baseline learned nothing." in sweep["mlflow.note.content"]
    assert sweep[tag.CAUTION] == "The baseline learned nothing."


def born(folder: Path, spec: SweepSpec) -> Journal:
    """A sweep of this version, with an id, on which two trials have ended."""
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.jsonl")
    journal.born(spec.spec_hash)
    for event in (session(), ask(spec, 0, 1, "baseline"), report(0, 10, 2.0, 2), end(0, "completed", 3)):
        journal.append(event)
    return journal


def test_a_renamed_run_goes_on_as_itself_and_a_copy_that_is_behind_does_not(
    storage: Path, client: MlflowClient
) -> None:
    place = storage / "identity"
    uri, spec, said = store_uri(toy_spec(), storage), toy_spec(place.name), list[str]()
    first = place / 'it\'s "named"'  # a quote once broke tracking for good
    journal = born(first, spec)
    tracker, told = track(journal, first, uri)
    assert (tracker.close("interrupted", None, None, 60), told) == (0, [])
    journal.close()
    moved, behind = first.rename(place / "another name"), place / "a copy"
    shutil.copytree(moved, behind)

    again = Journal(moved / "journal.jsonl")
    fresh_seeds.refuse_stale(again, uri, moved, said.append)
    for event in (ask(spec, 1, 5, "published"), report(1, 10, 1.9, 6), end(1, "completed", 7)):
        again.append(event)
    second, told = track(again, moved, uri)
    assert (second.close("completed", None, None, 60), told) == (0, [])
    assert second.parent_run_id == tracker.parent_run_id
    assert set(children(client, second.parent_run_id)) == {"t0000", "t0001"}
    fresh_seeds.refuse_stale(again, uri, moved, said.append)

    copied = Journal(behind / "journal.jsonl")
    with pytest.raises(ValueError, match=r"a copy: the tracking store has events of run [0-9a-f]{16} .*--fork"):
        fresh_seeds.refuse_stale(copied, uri, behind, said.append)
    copied.fork()
    fresh_seeds.refuse_stale(copied, uri, behind, said.append)
    third, told = track(copied, behind, uri)
    assert (third.close("interrupted", None, None, 60), told) == (0, [])
    assert third.parent_run_id != tracker.parent_run_id
    assert set(children(client, third.parent_run_id)) == {"t0000"}
    assert said == []


def test_a_store_that_is_away_is_said_and_an_object_stores_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    said: list[str] = []
    journal = born(tmp_path / "run", toy_spec())

    def away(*_: object) -> list[object]:
        raise ValueError("MLflow is away")

    monkeypatch.setattr(store, "found", away)
    fresh_seeds.refuse_stale(journal, "x", tmp_path / "run", said.append)
    newer = SimpleNamespace(data=SimpleNamespace(tags={tag.DIGEST: "0" * 32}))
    monkeypatch.setattr(store, "found", lambda *_: [newer])
    monkeypatch.setattr(fresh_seeds.object_store, "of", lambda _: "s3://…")
    fresh_seeds.refuse_stale(journal, "x", tmp_path / "run", said.append)
    assert [line.partition(";")[0] for line in said] == [
        "MLflow is away",
        "run: the tracking store has events that were lost with the machine that ran it",
    ]
