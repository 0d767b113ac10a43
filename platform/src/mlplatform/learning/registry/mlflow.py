"""The registry in an MLflow tracking server, reached over HTTP."""

from __future__ import annotations

import functools
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.learning.registry.mlflow_errors import database_away
from mlplatform.learning.registry.versions import (
    FACTS_TAG,
    STATUS_TAG,
    VALIDATED,
    Rejection,
    Version,
    VersionFacts,
    read_version,
)
from mlplatform.model.bundle import appear, load_bundle
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.errors import NotFound, PlatformError, Refused, Unavailable

ARTIFACT = "bundle"
BUNDLE_TAG = "bundle"
REJECTED = "rejected"
MAXIMUM_VERSIONS = 1000

# Read by the client when it is imported or at each call; it has no other way to be told.
CLIENT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "0",
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0.5",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class MlflowRegistry:
    """Bundles as artifacts of runs, versions as model versions whose tags hold the facts.

    Creating one sets MLflow's environment variables in this process: its client takes the token,
    and no telemetry and no pickle, from nowhere else.

    Args:
        token: sent as a bearer token, where the server wants one.
    """

    def __init__(self, uri: str, token: str | None = None) -> None:
        self._uri = uri
        os.environ.update(CLIENT_ENVIRONMENT)
        if token is not None:
            os.environ["MLFLOW_TRACKING_TOKEN"] = token

    def register(self, folder: Path, facts: VersionFacts) -> Version | Rejection:
        bundle = load_bundle(folder, facts.bundle)
        validated = facts.validated and facts.report.get("passed") is True
        with self._translated():
            if not validated:
                run_id = self._run(bundle.model, folder, facts, REJECTED)
                return Rejection(bundle.model, facts.bundle, run_id, _reasons(facts))
            if known := self._same(bundle.model, facts.bundle):
                return known[0]
            self._ensure_model(bundle.model)
            run_id = self._run(bundle.model, folder, facts, VALIDATED)
            made = self._client.create_model_version(
                bundle.model,
                source=f"runs:/{run_id}/{ARTIFACT}",
                run_id=run_id,
                tags=_tags(facts, VALIDATED),
                await_creation_for=0,
            )
            return self._first(bundle.model, facts.bundle, int(made.version))

    def get(self, model: str, version: int) -> Version:
        with self._translated():
            found = _version(self._client.get_model_version(model, str(version)))
        if found is None:
            raise NotFound(f"version {version} of {model} was not registered by this platform")
        return found

    def versions(self, model: str) -> list[Version]:
        return self._search(f"name = '{_quotable(model)}'")

    def fetch(self, model: str, version: int, into: Path) -> Path:
        wanted = self.get(model, version)
        folder = into / wanted.digest
        if folder.is_dir():
            load_bundle(folder, wanted.digest)
            return folder
        into.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{wanted.digest[:8]}.", dir=into))
        try:
            self._download(wanted.run_id, draft)
            load_bundle(draft / ARTIFACT, wanted.digest)
            appear(draft / ARTIFACT, folder, wanted.digest)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        return folder

    def _download(self, run_id: str, into: Path) -> None:
        try:
            with self._translated():
                self._client.download_artifacts(run_id, ARTIFACT, str(into))
        except NotFound as error:
            # The version is there. MLflow calls a path wrong whatever kept it from the files.
            raise Unavailable(f"the artifacts of MLflow at {self._uri}") from error

    @functools.cached_property
    def _client(self) -> Any:
        from mlflow import MlflowClient

        _keep_plugins_out()
        return MlflowClient(self._uri, registry_uri=self._uri)

    def _run(self, model: str, folder: Path, facts: VersionFacts, status: str) -> str:
        """A finished run that holds the bundle and its report; one left by a killed call serves."""
        experiment = self._experiment(model)
        done = self._client.search_runs(
            [experiment],
            f"tags.{BUNDLE_TAG} = '{facts.bundle}' AND tags.{STATUS_TAG} = '{status}'"
            " AND attributes.status = 'FINISHED'",
            max_results=1,
        )
        if done:
            return str(done[0].info.run_id)
        run = self._client.create_run(
            experiment, run_name=f"{model}-{facts.bundle[:8]}", tags=_tags(facts, status)
        )
        run_id = str(run.info.run_id)
        for name, value in facts.metrics.items():
            self._client.log_metric(run_id, name, value)
        self._client.log_dict(run_id, facts.report, "gates.json")
        self._client.log_artifacts(run_id, str(folder), ARTIFACT)
        self._client.set_terminated(run_id)
        return run_id

    def _experiment(self, model: str) -> str:
        found = self._client.get_experiment_by_name(model)
        if found is None:
            with _already_there():
                self._client.create_experiment(model)
            found = self._client.get_experiment_by_name(model)
        return str(found.experiment_id)

    def _ensure_model(self, model: str) -> None:
        with _already_there():
            self._client.create_registered_model(model)

    def _same(self, model: str, digest: str) -> list[Version]:
        """Versions with this bundle, the lowest first."""
        found = self._search(f"name = '{_quotable(model)}' AND tags.{BUNDLE_TAG} = '{digest}'")
        return sorted(found, key=lambda v: v.version)

    def _first(self, model: str, digest: str, mine: int) -> Version:
        """The one version of this bundle: of two registered at once, the later one goes."""
        first = self._same(model, digest)[0]
        if first.version != mine:
            self._client.delete_model_version(model, str(mine))
        return first

    def _search(self, query: str) -> list[Version]:
        with self._translated():
            found = self._client.search_model_versions(query, max_results=MAXIMUM_VERSIONS)
        versions = [v for v in map(_version, found) if v is not None]
        return sorted(versions, key=lambda v: v.version, reverse=True)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from requests import RequestException

        try:
            yield
        except MlflowException as error:
            raise self._translation(error) from error
        except RequestException as error:
            raise Unavailable(f"MLflow at {self._uri} did not answer") from error

    def _translation(self, error: Any) -> PlatformError:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return NotFound("MLflow has no such model, version or run")
        if error.get_http_status_code() >= 500:
            return Unavailable(f"MLflow at {self._uri} did not answer")
        if database_away(error.error_code, error.message):
            return Unavailable(f"the database of MLflow at {self._uri}")
        return Refused(f"MLflow at {self._uri} refused the request")


@contextmanager
def _already_there() -> Iterator[None]:
    """Somebody else may create the same thing at the same time."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _tags(facts: VersionFacts, status: str) -> dict[str, str]:
    """The facts in one tag, and beside it those that a person looks for in MLflow's pages."""
    return {
        BUNDLE_TAG: facts.bundle,
        STATUS_TAG: status,
        FACTS_TAG: canonical_json(msgspec.to_builtins(facts)).decode(),
        "author": facts.author,
        "code_version": facts.code_version,
        "data_digest": facts.data_digest,
        "data_window_ms": f"{facts.data_from_ms} to {facts.data_to_ms}",
        "alert_band": f"{facts.alert_low:.5f} to {facts.alert_high:.5f}",
        "seed": str(facts.seed),
    }


def _version(found: Any) -> Version | None:
    return read_version(
        found.name,
        int(found.version),
        found.tags,
        run_id=found.run_id,
        created_at_ms=int(found.creation_timestamp),
    )


def _reasons(facts: VersionFacts) -> tuple[str, ...]:
    gates = facts.report.get("gates", [])
    return tuple(f"{g['name']}: {g['reason']}" for g in gates if g["verdict"] != "passed")


def _quotable(model: str) -> str:
    if "'" in model:
        raise NotFound(f"no model {model!r}")
    return model


def _keep_plugins_out() -> None:
    """Let nobody else's code add headers to our requests.

    MLflow imports what any installed package registers for that. Feast does: its import takes
    seconds, and it would send a pod's ServiceAccount token to the registry.
    """
    from mlflow.utils import plugins

    everything = plugins.get_entry_points
    plugins.get_entry_points = lambda group: []
    try:
        importlib.import_module("mlflow.tracking.request_header.registry")
    finally:
        plugins.get_entry_points = everything
