"""Bundles in MLflow's model registry: a version of the model named like the sweep, and its alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sweeper.journal.records import fingerprints
from sweeper.tracking import bundle_model, store
from sweeper.tracking import tags as tag
from sweeper.tracking.artifacts import Artifacts
from sweeper.tracking.trial_runs import cut_tags, note, utc

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from sweeper.journal.journal import TrialRecord
    from sweeper.spec.spec import SweepSpec

ALIAS = "candidate"


@dataclass(frozen=True)
class Registry:
    """Where a sweep's bundles are registered. identity: the sweep's tags. artifacts: what stores files."""

    client: MlflowClient
    spec: SweepSpec
    artifacts: Artifacts
    identity: Mapping[str, str]

    def register(
        self,
        bundle: Path,
        trial: TrialRecord,
        run_id: str,
        *,
        seconds: float,
        alias: str = ALIAS,
        more: Mapping[str, str] | None = None,
    ) -> str | None:
        """Log the bundle with the trial's run and make it the version `alias` of the model named like the sweep.

        Args:
            bundle: its folder.
            trial: the one that left it.
            run_id: that trial's run in MLflow.
            seconds: that storing it may take.
            alias: what the version is called from now on.
            more: further tags of the version.

        Returns the version, None if the bundle cannot be stored. A run is registered once: a second call finds the
        version and moves the alias to it.
        """
        client, model, further = self.client, self.spec.name, cut_tags(more or {})
        versions = [found for found in client.search_model_versions(f"run_id = '{run_id}'") if found.name == model]
        if versions:
            version = str(max(int(found.version) for found in versions))
            for key, value in further.items():
                client.set_model_version_tag(model, version, key, value)
        else:
            if not self._stored(bundle, trial, run_id, seconds):
                return None
            store.unless_there(lambda: client.create_registered_model(model, description=note(self.spec.question)))
            tags = {
                **self.identity,
                tag.TRIAL: trial.id,
                tag.SCORE: repr(trial.score(self.spec.objective)),
                tag.SPEC_HASH: self.spec.spec_hash,
                tag.CONFIG_HASH: trial.ask.config_hash,
                **fingerprints(bundle),
                **further,
            }
            source = f"runs:/{run_id}/{bundle_model.FOLDER}"
            version = str(client.create_model_version(model, source, run_id, tags=tags, await_creation_for=0).version)
        client.set_registered_model_alias(model, alias, version)
        return version

    def _stored(self, bundle: Path, trial: TrialRecord, run_id: str, seconds: float) -> bool:
        """Whether the bundle's files are in the store, with the one by which MLflow's commands load them."""
        folder, client = bundle_model.FOLDER, self.client
        described = bundle_model.description(run_id, utc(trial.end.time if trial.end else trial.ask.time))
        send = partial(client.log_artifacts, run_id, str(bundle), folder)
        told = partial(client.log_text, run_id, described, f"{folder}/{bundle_model.FILE}")
        return self.artifacts.put(client, send, seconds, source=bundle) and self.artifacts.put(client, told)
