"""Wiring of one gateway process: its parts, made and connected as the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.learning.features.windows.projector import ProjectorThread
from mlplatform.learning.features.windows.state import WindowProjection
from mlplatform.model.declarations import Declaration, Declarations
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.model.oip import Codec
from mlplatform.rollouts.bundles.background import BackgroundFetches
from mlplatform.rollouts.serving.local import StatusStore
from mlplatform.rollouts.serving.names import cluster_url
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.server import Life
from mlplatform.runtime.telemetry.export import SpanExport
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.runtime.units import MIB
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.admission.gate import AdmissionGate
from mlplatform.scoring.admission.jwks import IssuerKeys
from mlplatform.scoring.api import openapi
from mlplatform.scoring.api.app import Gateway
from mlplatform.scoring.api.grpc_server import GrpcListener
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.arms.exploration import exploration_of
from mlplatform.scoring.arms.follow import RouteFollower
from mlplatform.scoring.arms.live import LiveModel
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.arms.watermark import LatestEventTime
from mlplatform.scoring.explanations.explanations import Explanations
from mlplatform.scoring.explanations.process import ExplainerProcess
from mlplatform.scoring.gateway.admission import (
    AdmissionServices,
    admission_services,
    model_limits,
)
from mlplatform.scoring.gateway.model_folders import ModelFolders, ServedModels
from mlplatform.scoring.gateway.pushes import bodies, targets_by_view
from mlplatform.scoring.key_claims.shared_keys import SharedKeys
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from mlplatform.scoring.pushes.pushes import FeaturePushes
from mlplatform.scoring.rankings.scoring import RankingScoring
from mlplatform.scoring.request.deferred_requests import AsyncAcceptor
from mlplatform.scoring.request.metrics import Metrics, ModelMetrics
from mlplatform.scoring.request.recording import KeptAnswers, Recorder
from mlplatform.scoring.request.scoring import Scoring
from mlplatform.scoring.request.shadow import ShadowCopies
from mlplatform.scoring.request.spans import AnsweredRequest, Traces, build
from mlplatform.scoring.request.times import EventTimes

MAX_COMMIT = 256
COMMIT_WAIT_MS = 2.0
"""Longest wait in milliseconds of a busy gateway's records for others to be committed with. A
record alone costs nearly three times one of eight. Without this wait, a gateway could not keep up
with evenly spaced requests at rates that it sustains for requests in groups."""
LOG_LOCK_WAIT_MS = 20
"""Longest wait in milliseconds for commits of other processes before records are spilled: requests
that wait for them have deadlines."""
SHADOW_DRAIN_S = 2.0


@dataclass(frozen=True, slots=True)
class WiredGateway:
    """A gateway, with the steps at its start and at its end."""

    app: Gateway
    life: Life


@dataclass(frozen=True, slots=True)
class _GatewayContext:
    """The parts that all models of one gateway process share.

    Args:
        name: name of the process, as writer of the decision log and holder of a lease on the
            routes.
        supervised: whether a supervisor on this machine knows where predictors listen.
    """

    name: str
    settings: Settings
    supervised: bool
    key: bytes
    answers: KeptAnswers
    watermark: LatestEventTime
    clock: Clock
    times: EventTimes
    metrics: Metrics
    log: SqliteDecisionLog
    spilling: SpillingLog
    recorder: Recorder
    ownership: Ownership
    windows: ProjectorThread | None
    shared_keys: SharedKeys | None
    fetches: BackgroundFetches


def wire_gateway(
    settings: Settings, name: str, host: str = "127.0.0.1", *, supervised: bool = False
) -> WiredGateway:
    """The gateway process of that name, which no other living process may have.

    Args:
        host: the address on which gRPC listens.
        supervised: whether a supervisor on this machine knows where a cluster's predictors listen;
            otherwise they are reached by the cluster's names.
    """
    settings.home.create()
    declarations = Declarations()
    shared = _shared(settings, name, supervised, declarations)
    models = ServedModels()
    shadow = _shadow(models, shared)
    admitting = _admission(settings, shared.metrics)
    spans = _spans(settings, name, shared.metrics)
    traces = Traces(spans, {}, settings.trace_share, shared.metrics.show_trace)
    entry = scoring_wiring.push_entry(settings, (), shared.clock.event_ms)
    pushes = FeaturePushes({}, entry, lambda: declarations.refused_views)
    explanations = _explanations(settings, shared)
    app = Gateway(
        admitting.gate,
        Voids(shared.recorder, shared.times, shared.clock, shared.ownership),
        explanations,
        pushes,
        shared.metrics,
        traces,
        lambda: shared.recorder.alive,
        lambda: follower.ready,
        lambda: tuple(folders.complaints()),
    )
    publication = _Publication(shared, app, admitting.gate, traces, pushes)
    folders = ModelFolders(
        declarations,
        models,
        lambda declaration, former: _scoring(declaration, former, shared, shadow),
        publication.prepared,
    )
    shared.metrics.watch_folders(lambda: folders.problems)
    follower = RouteFollower(
        shared.name,
        models.lives,
        lambda: scoring_wiring.rollouts(settings, answer_s=scoring_wiring.GATEWAY_ANSWER_S),
        lambda model, number: shared.metrics.generation.labels(model).set(number),
        Processes(StatusStore(settings.home.serving).status),
        folders.poll,
    )
    health = Health(lambda: shared.recorder.alive, lambda: follower.ready)
    port = settings.gateway_grpc_port
    ended = EndedConnections("gateway-grpc", Refusals(settings.home.audit))
    calls = GrpcListener(host, port, admitting.gate, models, health, shared.metrics, traces, ended)
    run = _life(settings, shared, shadow, follower, admitting, spans, folders, pushes, explanations)
    start, stop = _with_calls(*run, calls) if settings.gateway_grpc_port else run
    # Without a recorder every request would be refused; a new process can record again.
    life = Life(start, calls.begin_drain, stop, is_useful=lambda: shared.recorder.alive)
    return WiredGateway(app, life)


def _shared(
    settings: Settings, name: str, supervised: bool, declarations: Declarations
) -> _GatewayContext:
    home, metrics = settings.home, Metrics()
    windowed = _windowed(one.definition for one in declarations.present.values())
    log = scoring_wiring.decision_log(settings, windowed, lock_wait_ms=LOG_LOCK_WAIT_MS)
    watermark = LatestEventTime(log.latest_event_ms)
    clock = scoring_wiring.clock(settings, lambda: watermark.event_ms)
    windows = _windows(settings, name, metrics, clock)

    def on_committed(count: int) -> None:
        metrics.commit_records.observe(count)
        if windows is not None:
            windows.wake()

    log.find_all(())  # the first look-up reads all recent keys: not within a request
    spilling = SpillingLog(log, name, spill_policy(settings, ()), on_committed)
    metrics.watch_log(spilling.counts)
    times = EventTimes(settings.clock, clock.event_ms)
    key = key_of(home)
    return _GatewayContext(
        name=name,
        settings=settings,
        supervised=supervised,
        key=key,
        answers=KeptAnswers(spilling),
        watermark=watermark,
        clock=clock,
        times=times,
        metrics=metrics,
        log=log,
        spilling=spilling,
        recorder=_recorder(name, spilling, times, watermark),
        ownership=scoring_wiring.ownership(settings, log, clock, key),
        windows=windows,
        shared_keys=_shared_keys(settings, metrics, clock),
        fetches=BackgroundFetches(scoring_wiring.bundle_cache(settings)),
    )


def _shared_keys(settings: Settings, metrics: Metrics, clock: Clock) -> SharedKeys | None:
    store, counted = scoring_wiring.claim_store(settings), metrics.key_claims
    if store is None:
        return None
    keys = SharedKeys(store, settings.key_claims, clock, lambda what: counted.labels(what).inc())
    metrics.watch_key_claims(lambda: keys.pipeline.waiting_later)
    return keys


def _windows(
    settings: Settings, name: str, metrics: Metrics, clock: Clock
) -> ProjectorThread | None:
    """The thread that adds this process's records to windows that gateways share."""
    projector = scoring_wiring.window_projector(settings, name, (), clock)
    if projector is None:
        return None
    metrics.watch_windows(projector.lags, clock.wall_ms)
    return ProjectorThread(projector)


def _admission(settings: Settings, metrics: Metrics) -> AdmissionServices:
    store, measured = scoring_wiring.admission(settings), metrics.admission
    issuer_keys = None
    if settings.oidc is not None:
        issuer_keys = IssuerKeys(settings.oidc, measured.issuer_keys_fetched)
    return admission_services(settings, store, issuer_keys, measured)


def _explanations(settings: Settings, shared: _GatewayContext) -> Explanations:
    process = ExplainerProcess(settings.home.decisions, settings.home.bundles)
    return Explanations(process, shared.ownership, settings.clock)


def _spans(settings: Settings, name: str, metrics: Metrics) -> SpanExport[AnsweredRequest]:
    """The export of this process's spans."""
    ends = metrics.traces
    sender = scoring_wiring.span_sender(settings, ProcessIdentity("gateway", name))
    return SpanExport(sender, build, lambda end, count: ends.labels(end).inc(count))


def spill_policy(settings: Settings, definitions: Iterable[ModelDefinition]) -> SpillPolicy:
    """The policy of this installation and its models for records that the log does not accept."""
    return SpillPolicy(
        maximum_bytes=settings.spill_max_mib * MIB,
        answer_unlogged=frozenset(
            d.name for d in definitions if d.when_unrecordable == "answer_unlogged"
        ),
        durable=settings.durability == "disk",
    )


def _recorder(
    name: str, log: SpillingLog, times: EventTimes, watermark: LatestEventTime
) -> Recorder:
    def open_commit(expected: Callable[[], int]) -> AsyncGroupCommit:
        return AsyncGroupCommit(
            *(log, name, MAX_COMMIT, COMMIT_WAIT_MS),
            reached_ms=times.passed_ms,
            relief=log,
            expected=expected,
        )

    return Recorder(open_commit, watermark.advance)


def _shadow(models: ServedModels, shared: _GatewayContext) -> ShadowCopies:
    dropped = shared.metrics.shadow_dropped
    return ShadowCopies(
        shared.recorder,
        shared.clock,
        lambda model, why, count: dropped.labels(model, why).inc(count),
        models.generation,
    )


def _live_model(
    declaration: Declaration, former: LiveModel | None, shared: _GatewayContext
) -> LiveModel:
    home, cluster = shared.settings.home, shared.settings.kserve
    endpoint: Callable[[str], str | None] = StatusStore(home.serving).endpoint
    if cluster is not None and not shared.supervised:
        # By name: a gateway in a pod does not ask the API server, and has no right to.
        endpoint = partial(cluster_url, namespace=cluster.namespace)
    token = home.predictor_token.read_text if cluster is None else str

    def new_predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
        return Predictor(service, endpoint, token, limits, codec)

    declared, need = (declaration.definition, declaration.views), shared.fetches.need
    return LiveModel(*declared, home.bundles, new_predictor, former, need)


def _scoring(
    declaration: Declaration,
    former: Scoring | None,
    shared: _GatewayContext,
    shadow: ShadowCopies,
) -> Scoring:
    definition, views = declaration.definition, declaration.views
    live = _live_model(declaration, None if former is None else former.live, shared)
    _check_windows(shared.settings, former, definition)
    if former is not None and _reads(former.definition, former.live.views) == _reads(
        definition, views
    ):
        store = former.features.store
    else:
        store = scoring_wiring.online_for_requests(shared.settings, definition, views)
    kind = Scoring if definition.ranking is None else RankingScoring
    scoring = kind(
        live,
        store,
        shared.answers,
        shared.recorder,
        shadow,
        shared.times,
        shared.clock,
        shared.key,
        ModelMetrics(shared.metrics, definition.name, definition.decision.alerts),
        exploration_of(definition, shared.settings.gateways),
        shared.shared_keys,
    )
    if former is not None:
        scoring.succeed(former)
    return scoring


def _check_windows(settings: Settings, former: Scoring | None, definition: ModelDefinition) -> None:
    """Raises unless arms that read windows have them by this declaration too.

    Raises:
        Unavailable: a window has no state yet; without it, all windows would be stale.
    """
    if former is None or former.definition.windows == definition.windows:
        return
    names = {window.name for window in former.definition.windows}
    arms = former.live.current.targets.values()
    has_readers = any(names.intersection(arm.plan.features) for arm in arms)
    if has_readers and not scoring_wiring.has_window_state(settings, definition):
        name = definition.name
        raise Unavailable(
            f"a new window has no state yet: `mlplatform history windows {name}` builds it"
        )


def _reads(definition: ModelDefinition, views: Sequence[FeatureView]) -> object:
    """The parts of a declaration that the online store of a model depends on."""
    return views, definition.windows, definition.entities


def _windowed(definitions: Iterable[ModelDefinition]) -> list[ModelDefinition]:
    return [definition for definition in definitions if definition.windows]


def _labels(shared: _GatewayContext, definitions: Iterable[ModelDefinition]) -> Labels:
    parts = shared.recorder, shared.answers, shared.clock, shared.times, shared.ownership
    return scoring_wiring.labels(*parts, definitions)


def _acceptor(
    shared: _GatewayContext, models: Mapping[str, Scoring], accepted: Collection[str]
) -> AsyncAcceptor:
    parts = models, shared.answers, shared.recorder, shared.clock, shared.key
    return AsyncAcceptor(*parts, shared=shared.shared_keys, accepted=accepted)


class _Publication:
    """The parts of a gateway that depend on all of its models together."""

    def __init__(
        self,
        shared: _GatewayContext,
        app: Gateway,
        gate: AdmissionGate,
        traces: Traces,
        pushes: FeaturePushes,
    ) -> None:
        self._shared = shared
        self._app, self._gate, self._traces, self._pushes = app, gate, traces, pushes
        self._accepted: set[str] = set()
        self._windows: object = ()

    def prepared(self, models: Mapping[str, Scoring]) -> Callable[[], None]:
        """Returns the function that puts these models into place, on the event loop.

        Raises:
            Unavailable: a store does not answer.
        """
        shared, app = self._shared, self._app
        definitions = [one.definition for one in models.values()]
        declarations = [Declaration(one.definition, one.live.views) for one in models.values()]
        self._accepted |= {one.name for one in definitions if one.takes_async}
        former = [one for group in self._pushes.targets.values() for one in group]
        targets = scoring_wiring.push_targets(shared.settings, declarations, shared.key, former)
        by_view = targets_by_view(targets)
        endpoints = app.endpoints(
            models,
            _labels(shared, definitions),
            _acceptor(shared, models, frozenset(self._accepted)),
            openapi.documents(definitions, bodies(by_view)),
        )
        self._project(_windowed(definitions))

        def apply() -> None:
            shared.metrics.know(models)
            shared.spilling.policy = spill_policy(shared.settings, definitions)
            self._gate.limit_models(model_limits(definitions))
            self._traces.expect({d.name: d.latency_slo_ms / 1000 for d in definitions})
            self._pushes.use(by_view)
            app.use(models, endpoints)

        return apply

    def _project(self, windowed: Sequence[ModelDefinition]) -> None:
        """Have the records of this process added to the windows of these models."""
        shared, settings = self._shared, self._shared.settings
        present = [(d.name, d.windows, d.entities) for d in windowed]
        if present == self._windows:
            return
        if shared.windows is not None and settings.redis is not None:
            shared.windows.use(scoring_wiring.projected_windows(settings.redis, windowed))
        elif windowed:
            scoring_wiring.begin_windows(settings, windowed)
            shared.log.projection = shared.log.projection or WindowProjection()
        self._windows = present


Step = Callable[[], Awaitable[None]]


def _life(
    settings: Settings,
    shared: _GatewayContext,
    shadow: ShadowCopies,
    follower: RouteFollower,
    admitting: AdmissionServices,
    spans: SpanExport[AnsweredRequest],
    folders: ModelFolders,
    pushes: FeaturePushes,
    explanations: Explanations,
) -> tuple[Step, Step]:
    """The steps when the server starts, and when it has finished its last request."""

    async def start() -> None:
        spans.start()
        if shared.windows is not None:
            shared.windows.start()
        shared.recorder.start(lambda: admitting.gate.in_flight)
        if shared.shared_keys is not None:
            shared.shared_keys.start(shared.recorder.append)
        shadow.start()
        await admitting.start()
        if settings.clock == "replay":
            shared.watermark.start()
        await folders.start()
        await follower.start()
        await pushes.start()

    async def stop() -> None:
        await folders.stop()
        await shared.watermark.stop()
        await follower.stop()
        await pushes.stop()
        await explanations.stop()
        await shadow.stop(within_s=SHADOW_DRAIN_S)
        if shared.shared_keys is not None:
            await shared.shared_keys.stop()
        await shared.recorder.stop()
        if shared.windows is not None:
            await asyncio.to_thread(shared.windows.stop)
        await admitting.stop()
        await asyncio.to_thread(spans.stop)

    return start, stop


def _with_calls(start: Step, stop: Step, calls: GrpcListener) -> tuple[Step, Step]:
    """The steps with gRPC, which listens once everything else runs, and ends first."""

    async def start_all() -> None:
        await start()
        await calls.start()

    async def stop_all() -> None:
        await calls.stop()
        await stop()

    return start_all, stop_all
