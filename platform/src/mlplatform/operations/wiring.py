"""Wiring of flows, commands, the page and the demo: makes their adapters, with `compute.wiring`.

A gateway has a wiring of its own, `scoring.gateway.wiring`; `scoring.wiring` makes what both use.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.replication.replica_log import ReplicaLog
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.intake import take_pushed
from mlplatform.learning.features.pushes.journal import Pushes
from mlplatform.learning.features.pushes.table_holder import Holder, hold_tables, home_id
from mlplatform.learning.registry.mlflow import MlflowRegistry
from mlplatform.learning.training_sets.port import TrainingJoin
from mlplatform.model.bundle import load_bundle
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, external, load_views
from mlplatform.model.folders import load_definition, model_folder, model_names, readable_names
from mlplatform.model.routes import Arm
from mlplatform.operations.compute import wiring as compute_wiring
from mlplatform.operations.compute.jobs import Jobs
from mlplatform.operations.prefect_client.approvals import PrefectApprovals
from mlplatform.operations.prefect_client.prefect import ANSWER_S, TRIES, PrefectApi
from mlplatform.operations.prefect_client.run_trace import running_traceparent
from mlplatform.rollouts.bundles.cache import BundleCache
from mlplatform.rollouts.drift.sql import SqlIncidents
from mlplatform.rollouts.events.stream import JournalStream
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.passes.ports import Ports, RawRoutes
from mlplatform.rollouts.serving.local import LocalPlane
from mlplatform.rollouts.serving.plane import ServingPlane
from mlplatform.runtime.clock import Clock, SystemClock
from mlplatform.runtime.configuration import settings as settings_module
from mlplatform.runtime.configuration.declarations import PREFIX
from mlplatform.runtime.configuration.kinds import Profile
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import MissingHere, NotFound
from mlplatform.runtime.processes import last_settings
from mlplatform.runtime.processes.credentials import mlflow_token, prefect_login
from mlplatform.runtime.telemetry import logs
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.request.recording import KeptAnswers, Recorder
from mlplatform.scoring.request.times import EventTimes

if TYPE_CHECKING:  # import the clients of Redis, Kubernetes and PostgreSQL
    from mlplatform.learning.features.windows.redis import RedisWindows
    from mlplatform.rollouts.kubernetes.api import KubernetesApi
    from mlplatform.scoring.admission.postgres import PostgresKeys


_ENTERED: Final[list[Settings]] = []
"""The settings that a process was started with; empty in a command, which loads its own."""


def enter(loaded: Settings) -> None:
    """Make the settings that a process was started with those of `settings` and `platform`, for
    code that takes none: Prefect calls a flow with its parameters alone."""
    forget()
    _ENTERED.append(loaded)


def forget() -> None:
    """Forget settings and platform of this process; the next use loads them anew."""
    _ENTERED.clear()
    settings.cache_clear()
    platform.cache_clear()
    existing_platform.cache_clear()


@functools.cache
def settings() -> Settings:
    """The settings of this process, loaded once: those that it was started with (`enter`), or a
    command's, from its environment, completed by those of the platform that runs in its home.

    Raises:
        SettingsInvalid: several variables are wrong; the message names each.
        ConfigInvalid: a variable is wrong, or for the reasons given in `last_settings.for_command`.
    """
    if _ENTERED:
        return _ENTERED[0]
    return settings_module.load(last_settings.for_command(os.environ))


def settings_to_start(profile: Profile | None) -> Settings:
    """The settings of a platform that is to start, from the environment, completed by ports,
    profile and clock of the home's last start.

    Args:
        profile: the profile to use instead of the environment's, also for children; None: no
            change.
    """
    if profile is not None:
        os.environ[f"{PREFIX}PROFILE"] = profile
        forget()  # settings read earlier lack the profile
    return settings_module.load(last_settings.for_start(os.environ))


@functools.cache
def platform() -> Platform:
    """The platform of this process's settings; its home is created with mode 0700."""
    # Prefect sends our log records to its API, but we must set their level.
    logs.set_level(settings().log_level)
    settings().home.create()
    return Platform(settings())


@contextmanager
def first_platform() -> Iterator[Platform]:
    """`platform()` for a command that may make its home; if it fails, `Home.created` applies."""
    with settings().home.created():
        yield platform()


def opened_platform() -> Platform:
    """`existing_platform()`, but a store that is not there yet is made."""
    existing_platform()
    return platform()


@functools.cache
def existing_platform() -> Platform:
    """The platform of this process's settings, for commands about one that there is: neither its
    home nor a store in it is made.

    Raises:
        NotFound: the home is not one yet, and the settings name no server of a platform elsewhere.
        ConfigInvalid: a file, or a folder of other files, is where the home would be.
    """
    found = settings()
    logs.set_level(found.log_level)
    if found.home.is_made:
        found.home.create()  # it is there, and nobody else's
    elif not found.is_elsewhere:
        raise found.home.absence()
    return Platform(found, creates=False)


@dataclass(frozen=True)
class Platform:
    """All ports with their adapters, each built on first use.

    Args:
        creates: whether a store that is not there yet is made; if not, its use raises NotFound.
    """

    settings: Settings
    creates: bool = True

    def definition(self, model: str) -> ModelDefinition:
        return load_definition(model)

    def views(self, model: str) -> tuple[FeatureView, ...]:
        return load_views(model_folder(model))

    def offline(self, model: str) -> OfflineTable:
        return OfflineTable(self.settings.home.offline(model), load_definition(model))

    def project_offline(self, model: str) -> OfflineTable:
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
        if not views or not scoring_wiring.has_pushes(self.settings):
            return offline
        key, clock_ms = self.pseudonym_key(), self.clock.event_ms
        with closing(self.online(model)) as online:
            for view in views:
                columns = ExternalColumns.of(view, offline.definition, key, clock_ms())
                parts = offline.external(view.name)
                take_pushed(self.pushes, columns, model, parts, online, clock_ms)
        return offline

    def hold_tables(self, *, over: bool = False) -> list[str]:
        """Claim the tables of external views for this home, if other homes may share their servers;
        returns the places of these servers.

        Args:
            over: whether to take them from another home that holds them.

        Raises:
            Refused: another home holds them; the message names it.
            Unavailable: a server does not answer.
        """
        if stores := scoring_wiring.shared_table_stores(self.settings):
            root = self.settings.home.root.absolute()
            place = f"{socket.gethostname()}:{root}"
            own = Holder(home_id(self.settings.home.offline("")), place, SystemClock().wall_ms())
            hold_tables(stores, own, over=over)
        return [store.place for store in stores]

    def online(self, model: str, views: Sequence[FeatureView] | None = None) -> OnlineWriter:
        """The model's online features.

        Args:
            views: some of the model's views; None: all of them.
        """
        some = self.views(model) if views is None else views
        return scoring_wiring.online(self.settings, model, some)

    def shared_windows(self, model: str) -> RedisWindows | None:
        """The state of the model's windows on a server; None if windows lie beside the log."""
        address = self.settings.redis
        if address is None:
            return None
        return scoring_wiring.shared_windows(address, load_definition(model))

    def pseudonym_key(self) -> bytes:
        return key_of(self.settings.home, creates=self.creates)

    @functools.cached_property
    def clock(self) -> Clock:
        replayed = self.settings.clock == "replay"
        start_ms = self._history_end() if replayed else 0
        return scoring_wiring.clock(self.settings, self._recorded_until, start_ms)

    @functools.cached_property
    def log(self) -> SqliteDecisionLog:
        home = self.settings.home
        self._need(scoring_wiring.has_log(self.settings), "decision log", home.decisions)
        return scoring_wiring.log_of(home)

    def opened_log(self, *, makes: bool = False) -> SqliteDecisionLog:
        """The log for code that records labels, opened as by gateways: with their durability,
        followed by the same windows.

        Args:
            makes: whether a log is made where there is none.

        Raises:
            NotFound: there is no log yet.
        """
        if not makes and not scoring_wiring.has_log(self.settings):
            raise MissingHere("decision log", self.settings.home.decisions)
        return scoring_wiring.decision_log(self.settings, map(load_definition, readable_names()))

    def labels(self, model: str, log: SqliteDecisionLog, recorder: Recorder) -> Labels:
        """The labels of a model, for analysts, in a log that `opened_log` gave."""
        settings, clock = self.settings, self.clock
        return scoring_wiring.labels(
            recorder,
            KeptAnswers(log),
            clock,
            EventTimes(settings.clock, clock.event_ms),
            scoring_wiring.ownership(settings, log, clock, self.pseudonym_key()),
            [load_definition(model)],
        )

    @functools.cached_property
    def rollouts(self) -> SqlRollouts:
        self._need_journal()
        return scoring_wiring.rollouts(self.settings)

    @functools.cached_property
    def keys(self) -> PostgresKeys | SqliteAdmission:
        self._need(scoring_wiring.has_keys(self.settings), "key", self.settings.home.root)
        return scoring_wiring.keys(self.settings)

    @functools.cached_property
    def pushes(self) -> Pushes:
        has_pushes = scoring_wiring.has_pushes(self.settings)
        self._need(has_pushes, "pushed value", self.settings.home.root)
        return scoring_wiring.pushes(self.settings)

    @functools.cached_property
    def refusals(self) -> Refusals:
        return Refusals(self.settings.home.audit)

    @functools.cached_property
    def stream(self) -> JournalStream:
        self._need_journal()
        return scoring_wiring.journal_stream(self.settings)

    @functools.cached_property
    def incidents(self) -> SqlIncidents:
        self._need_journal()
        return scoring_wiring.incidents(self.settings)

    @functools.cached_property
    def plane(self) -> ServingPlane:
        return serving_plane(self.settings)

    @functools.cached_property
    def jobs(self) -> Jobs:
        return compute_wiring.jobs(self.settings, kubernetes_api)

    @functools.cached_property
    def training_join(self) -> TrainingJoin:
        """The join of a retrain's training sets, by the engine that the settings name."""
        return compute_wiring.training_join(self.settings.training_engine)

    @functools.cached_property
    def prefect(self) -> PrefectApi:
        return prefect_api(self.settings)

    @functools.cached_property
    def registry(self) -> MlflowRegistry:
        settings = self.settings
        page_url = "" if settings.is_elsewhere and not settings.servers.page else settings.page_url
        return MlflowRegistry(settings.mlflow_url, mlflow_token(settings), page_url)

    @functools.cached_property
    def bundles(self) -> BundleCache:
        return scoring_wiring.bundle_cache(self.settings)

    def bundle(self, model: str, arm: Arm) -> Path:
        """The local folder of an arm's checked bundle; if it is missing, it is fetched from the
        bundle store, or from the registry where there is no store or the store lacks it.

        Raises:
            Unavailable: the bundle is not here, and its source does not answer.
            Corrupt: the bundle that is here, or the store's, does not match its digest.
        """
        folder = self.settings.home.bundles / arm.bundle
        try:
            self.bundles.get(arm.bundle)
        except NotFound:
            self.registry.fetch(model, arm.version, self.settings.home.bundles)
        load_bundle(folder, arm.bundle)
        return folder

    def ports(self, model: str) -> Ports:
        """The ports that a pass over the rollouts of a model uses."""
        return Ports(
            rollouts=self.rollouts,
            controls=self.rollouts,
            passes=self.rollouts,
            anchors=self.rollouts,
            plane=self.plane,
            versions=_Versions(self),
            log=self.log,
            approvals=PrefectApprovals(self.prefect, model, self.clock),
            clock=self.clock,
            bundles=self.settings.home.bundles,
            counted=self.settings.home.counted,
            storage_uri=scoring_wiring.storage_uri(self.settings),
            repositories=None if self.settings.kserve is None else self.settings.home.bundles,
            scales=scoring_wiring.scales(self.settings),
            raw=raw_routes(self.settings),
            replicas=None if self.settings.kserve is None else self.settings.kserve.replicas,
        )

    def traceparent(self) -> str:
        """The traceparent of the running flow or task; empty if there is none."""
        return running_traceparent()

    def _need_journal(self) -> None:
        is_there = scoring_wiring.has_rollouts(self.settings)
        self._need(is_there, "journal of rollouts", self.settings.home.root)

    def _need(self, is_there: bool, what: str, folder: Path) -> None:
        if not (self.creates or is_there):
            raise MissingHere(what, folder)

    def _recorded_until(self) -> int | None:
        if not (self.creates or scoring_wiring.has_log(self.settings)):
            return None
        times = [mark.event_ms for mark in self.log.watermarks() if mark.event_ms is not None]
        return max(times, default=None)

    def _history_end(self) -> int:
        ends = (self.offline(name).history_end_ms() for name in model_names())
        return max((end for end in ends if end is not None), default=0)


def journal_of(home: Home) -> SqlRollouts:
    """The journal of rollouts in a home folder, whatever the settings name."""
    return scoring_wiring.journal_of(home)


def log_of(home: Home) -> SqliteDecisionLog:
    """The decision log of a home folder, for code that reads it."""
    return scoring_wiring.log_of(home)


def replica_log(home: Home) -> ReplicaLog:
    """The log of a home that replicates those of other gateways."""
    return ReplicaLog(home.decisions)


def kubernetes_api(kubeconfig: str | None = None, context: str | None = None) -> KubernetesApi:
    """A client of a cluster's API: in a pod of its own cluster, elsewhere of kubectl's.

    Args:
        kubeconfig: the file to read; None: kubectl's own.
        context: the context in the file; None: the current one.

    Raises:
        ConfigInvalid: no cluster can be found.
    """
    from mlplatform.rollouts.kubernetes.api import KubernetesApi  # imports the Kubernetes client

    return KubernetesApi.connect(kubeconfig, context)


def prefect_api(settings: Settings, timeout_s: float = ANSWER_S, tries: int = TRIES) -> PrefectApi:
    """A client of this platform's Prefect server; its calls raise `Unavailable` if the server is on
    this machine and was never started."""
    credentials = settings.servers.prefect_auth
    return PrefectApi(
        settings.prefect_url,
        timeout_s,
        tries=tries,
        auth=lambda: credentials or prefect_login(settings),
        traceparent=running_traceparent,
    )


def serving_plane(settings: Settings, *, by_address: bool = False) -> ServingPlane:
    """The plane that serves versions; no request's path makes it, or imports Kubernetes' client.

    Args:
        by_address: whether a cluster's services are reached by addresses instead of cluster names.

    Raises:
        ConfigInvalid: no cluster can be found, where one is asked for.
    """
    if settings.kserve is None:
        return LocalPlane(settings.home.serving)
    from mlplatform.rollouts.serving.kserve import KServePlane  # imports the Kubernetes client

    return KServePlane(
        kubernetes_api(),
        settings.kserve.namespace,
        by_address=by_address,
        prometheus_url=settings.kserve.prometheus,
        bundles=settings.home.bundles,
        fetch=scoring_wiring.bundle_cache(settings).get,
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
    from mlplatform.rollouts.serving.httproute import HttpRoutes  # imports the Kubernetes client

    return HttpRoutes(kubernetes_api(), settings.kserve.namespace, settings.entrance)


class _Versions:
    """`rollouts.passes.ports.Versions`: bundles from this machine first, and in the store before
    anything is to run them; aliases in MLflow."""

    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def fetch(self, model: str, version: int, into: Path) -> Path:
        folder = self._platform.bundle(model, Arm(version, into.name, into.name))
        self._platform.bundles.put(into.name)
        return folder

    def set_alias(self, model: str, alias: str, version: int) -> None:
        self._platform.registry.show(model, alias, version)
