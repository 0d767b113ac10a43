"""Adapters for flows, commands, the page and the demo: their composition root.

A gateway has one of its own, `scoring.gateway.composition`; what both choose is in
`scoring.backends`.
"""

from __future__ import annotations

import functools
import os
import socket
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.intake import take_pushed
from mlplatform.learning.features.pushes.journal import Pushes
from mlplatform.learning.features.pushes.table_holder import Holder, hold_tables, home_id
from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, external, load_views
from mlplatform.model.folders import load_definition, model_folder, model_names
from mlplatform.model.routes import Arm
from mlplatform.operations.compute.jobs import Jobs
from mlplatform.operations.compute.local import LocalJobs
from mlplatform.operations.compute.private_pool import PrivatePool
from mlplatform.operations.prefect_client.approvals import PrefectApprovals
from mlplatform.operations.prefect_client.prefect import PrefectApi
from mlplatform.rollouts.drift.sql import SqlIncidents
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.passes.ports import Ports, RawRoutes
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.clock import Clock, SystemClock
from mlplatform.runtime.configuration import settings as settings_module
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.kinds import Profile
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import NotFound, Unavailable
from mlplatform.runtime.processes import last_settings
from mlplatform.runtime.telemetry import logs
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring import backends
from mlplatform.scoring.admission.store import Keys


@functools.cache
def settings() -> Settings:
    """The settings of this process, from its environment, completed by those of the platform that
    runs in its home."""
    return last_settings.command_settings()


def settings_to_start(profile: Profile | None) -> Settings:
    """The settings of a platform that is to start, from the environment, completed by ports,
    profile and clock of the home's last start.

    Args:
        profile: the profile to use instead of the environment's, also for children; None: no
            change.
    """
    if profile is not None:
        os.environ[f"{PREFIX}PROFILE"] = profile
        settings.cache_clear()  # settings read earlier lack the profile
    return settings_module.load(last_settings.for_start(os.environ))


@functools.cache
def platform() -> Platform:
    """The platform of this process's settings; its home is created with mode 0700."""
    # Prefect sends our log records to its API, but we must set their level.
    logs.set_level(settings().log_level)
    settings().home.create()
    return Platform(settings())


def api_key(settings: Settings) -> str:
    """The first API key of this installation.

    Raises:
        NotFound: the gateway has never started here.
    """
    if not settings.home.api_key.exists():
        raise NotFound(f"{settings.home.api_key} is not there yet: `mlplatform up` makes it")
    return settings.home.api_key.read_text().strip()


@dataclass(frozen=True)
class Platform:
    """All ports with their adapters, each built on first use."""

    settings: Settings

    def definition(self, model: str) -> ModelDefinition:
        return load_definition(model)

    def views(self, model: str) -> tuple[FeatureView, ...]:
        return load_views(model_folder(model))

    def offline(self, model: str) -> OfflineTable:
        return OfflineTable(self.settings.home.offline(model), load_definition(model))

    def projected(self, model: str) -> OfflineTable:
        """The model's offline table, up to date with the log and with pushed rows.

        Raises:
            Unavailable: for the same reasons as in `with_pushes`.
        """
        offline = self.with_pushes(model)
        offline.project(self.log)
        return offline

    def with_pushes(self, model: str) -> OfflineTable:
        """The model's offline table with all pushed rows of external views.

        Raises:
            Unavailable: pushes are on a server that does not answer, or pushes wait and the online
                store does not answer.
            Refused: for the same reason as in `hold_tables`.
        """
        offline = self.offline(model)
        views = external(self.views(model))
        if views:
            self.hold_tables()
        if not views or not backends.has_pushes(self.settings):
            return offline
        key, clock_ms = self.pseudonym_key(), self.clock.event_ms
        with closing(self.online(model)) as online:
            for view in views:
                columns = ExternalColumns.of(view, offline.definition, key, clock_ms())
                parts = offline.external(view.name)
                take_pushed(self.pushes, columns, model, parts, online, clock_ms)
        return offline

    def hold_tables(self, *, over: bool = False) -> None:
        """Claim the tables of external views for this home, if other homes may share their servers.

        Args:
            over: whether to take them from another home that holds them.

        Raises:
            Refused: another home holds them; the message names it.
            Unavailable: a server does not answer.
        """
        if stores := backends.shared_table_stores(self.settings):
            root = self.settings.home.root.absolute()
            place = f"{socket.gethostname()}:{root}"
            own = Holder(home_id(self.settings.home.offline("")), place, SystemClock().wall_ms())
            hold_tables(stores, own, over=over)

    def online(self, model: str) -> OnlineWriter:
        return backends.online(self.settings, model, self.views(model))

    def pseudonym_key(self) -> bytes:
        return key_of(self.settings.home)

    @functools.cached_property
    def clock(self) -> Clock:
        replayed = self.settings.clock == "replay"
        start_ms = self._history_end() if replayed else 0
        return backends.clock(self.settings, self._recorded_until, start_ms)

    @functools.cached_property
    def log(self) -> SqliteDecisionLog:
        return backends.log_of(self.settings.home)

    @functools.cached_property
    def rollouts(self) -> SqlRollouts:
        return backends.rollouts(self.settings)

    @functools.cached_property
    def keys(self) -> Keys:
        return backends.keys(self.settings)

    @functools.cached_property
    def pushes(self) -> Pushes:
        return backends.pushes(self.settings)

    @functools.cached_property
    def refusals(self) -> Refusals:
        return Refusals(self.settings.home.audit)

    @functools.cached_property
    def incidents(self) -> SqlIncidents:
        return backends.incidents(self.settings)

    @functools.cached_property
    def plane(self) -> ServingPlane:
        return serving_plane(self.settings)

    @functools.cached_property
    def jobs(self) -> Jobs:
        argo = self.settings.argo
        if argo is None and self.settings.job_processes == 0:
            return PrivatePool(Path(tempfile.mkdtemp(prefix="jobs.")))
        if argo is None:
            return LocalJobs(self.settings.home.jobs)
        from mlplatform.operations.compute.argo import ArgoJobs  # imports the Kubernetes client
        from mlplatform.operations.compute.artifacts import Artifacts
        from mlplatform.rollouts.kubernetes.api import KubernetesApi

        api, artifacts = KubernetesApi.connect(), Artifacts(argo.artifacts)
        return ArgoJobs(api, argo.namespace, artifacts, self.settings.home.jobs)

    @functools.cached_property
    def prefect(self) -> PrefectApi:
        return prefect_api(self.settings)

    @functools.cached_property
    def registry(self) -> MlflowRegistry:
        return MlflowRegistry(self.settings.mlflow_url, self.mlflow_token())

    def bundle(self, model: str, arm: Arm) -> Path:
        """The local folder of an arm's checked bundle; it is fetched from the registry if it is
        missing.

        Raises:
            Unavailable: the bundle is not here, and the registry does not answer.
            BundleCorrupt: the bundle that is here does not match its digest.
        """
        folder = self.settings.home.bundles / arm.bundle
        if not folder.is_dir():
            self.registry.fetch(model, arm.version, self.settings.home.bundles)
        load_bundle(folder, arm.bundle)
        return folder

    def ports(self, model: str) -> Ports:
        """The ports that a pass over the rollouts of a model uses."""
        return Ports(
            rollouts=self.rollouts,
            passes=self.rollouts,
            anchors=self.rollouts,
            plane=self.plane,
            versions=_Versions(self),
            log=self.log,
            approvals=PrefectApprovals(self.prefect, model, self.clock),
            clock=self.clock,
            bundles=self.settings.home.bundles,
            counted=self.settings.home.counted,
            storage_uri=backends.storage_uri(self.settings),
            repositories=None if self.settings.kserve is None else self.settings.home.bundles,
            scales=backends.scales(self.settings),
            raw=raw_routes(self.settings),
            replicas=None if self.settings.kserve is None else self.settings.kserve.replicas,
        )

    def traceparent(self) -> str:
        """The traceparent of the running flow or task; empty if there is none."""
        return _current_traceparent()

    def mlflow_token(self) -> str:
        """MLflow's token of this start.

        Raises:
            Unavailable: the platform is not running.
        """
        try:
            return self.settings.mlflow_token_file.read_text().strip()
        except FileNotFoundError:
            raise Unavailable("the platform has not started MLflow: `mlplatform up`") from None

    def _recorded_until(self) -> int | None:
        times = [mark.event_ms for mark in self.log.watermarks() if mark.event_ms is not None]
        return max(times, default=None)

    def _history_end(self) -> int:
        ends = (self.offline(name).history_end_ms() for name in model_names())
        return max((end for end in ends if end is not None), default=0)


def prefect_api(settings: Settings) -> PrefectApi:
    """A client of this platform's Prefect server.

    Its calls raise `Unavailable` if the server is on this machine and was never started.
    """
    credentials = settings.servers.prefect_auth
    return PrefectApi(
        settings.prefect_url,
        auth=lambda: credentials or _operator(settings.home),
        traceparent=_current_traceparent,
    )


def _operator(home: Home) -> str:
    """Name and token with which the owner of the home folder passes Prefect's gate."""
    try:
        return f"operator:{home.prefect_token.read_text().strip()}"
    except FileNotFoundError:
        raise Unavailable("the platform has not started Prefect: `mlplatform up`") from None


def serving_plane(settings: Settings, *, by_address: bool = False) -> ServingPlane:
    """The plane that serves versions. It is not among `backends`, so that no request's path imports
    the Kubernetes client.

    Args:
        by_address: whether a cluster's services are reached by addresses instead of cluster names.

    Raises:
        ConfigInvalid: no cluster can be found, where one is asked for.
    """
    if settings.kserve is None:
        return LocalPlane(settings.home.serving)
    from mlplatform.rollouts.kubernetes.api import KubernetesApi  # imports the Kubernetes client
    from mlplatform.rollouts.serving.kserve import KServePlane

    return KServePlane(
        KubernetesApi.connect(),
        settings.kserve.namespace,
        by_address=by_address,
        prometheus_url=settings.kserve.prometheus,
        bundles=settings.home.bundles,
    )


def followed_plane(settings: Settings) -> ServingPlane | None:
    """The plane whose services this machine's supervisor follows; None if the supervisor starts
    them itself.

    Raises:
        ConfigInvalid: no cluster can be found, where one is asked for.
    """
    return None if settings.kserve is None else serving_plane(settings, by_address=True)


def raw_routes(settings: Settings) -> RawRoutes | None:
    """The routes of raw callers; None if there are none."""
    if settings.kserve is None or settings.entrance is None:
        return None
    from mlplatform.rollouts.kubernetes.api import KubernetesApi  # imports the Kubernetes client
    from mlplatform.rollouts.serving.httproute import HttpRoutes

    return HttpRoutes(KubernetesApi.connect(), settings.kserve.namespace, settings.entrance)


class _Versions:
    """`rollouts.passes.ports.Versions`: bundles from this machine first, aliases in MLflow."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def fetch(self, model: str, version: int, into: Path) -> Path:
        return self._platform.bundle(model, Arm(version, into.name, into.name))

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._platform.registry.show(model, alias, version)


def _current_traceparent() -> str:
    """The traceparent of the running flow or task; empty in a command that imports no
    OpenTelemetry."""
    if "opentelemetry.sdk.trace" not in sys.modules:
        return ""
    from mlplatform.runtime.telemetry.flow_spans import current_traceparent  # imports OpenTelemetry

    return current_traceparent()
