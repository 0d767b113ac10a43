"""Wiring of one gateway process: its parts, made and connected as the settings say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mlplatform.decisions.log.commit import AsyncGroupCommit
from mlplatform.decisions.records.pseudonym import key_of
from mlplatform.decisions.spill.writer import SpillingLog, SpillPolicy
from mlplatform.learning.features.windows.projector import ProjectorThread
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, load_views
from mlplatform.model.folders import load_definition, model_folder, readable_names
from mlplatform.model.oip import Codec
from mlplatform.rollouts.serving.local import StatusStore
from mlplatform.rollouts.serving.names import cluster_url
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.http.ended_connections import EndedConnections
from mlplatform.runtime.http.server import Life
from mlplatform.runtime.telemetry.export import SpanExport
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.runtime.units import MIB
from mlplatform.scoring import wiring as scoring_wiring
from mlplatform.scoring.admission.jwks import IssuerKeys
from mlplatform.scoring.api import openapi
from mlplatform.scoring.api.app import Gateway
from mlplatform.scoring.api.grpc_server import GrpcListener
from mlplatform.scoring.api.probes import Health
from mlplatform.scoring.arms.exploration import Exploration
from mlplatform.scoring.arms.follow import RouteFollower
from mlplatform.scoring.arms.freshness import Freshness
from mlplatform.scoring.arms.live import LiveModel
from mlplatform.scoring.arms.processes import Processes
from mlplatform.scoring.arms.watermark import LatestEventTime
from mlplatform.scoring.explanations.explanations import Explanations
from mlplatform.scoring.explanations.process import ExplainerProcess
from mlplatform.scoring.gateway.admission import AdmissionServices, admission_services
from mlplatform.scoring.gateway.pushes import bodies, targets_by_view
from mlplatform.scoring.key_claims.shared_keys import SharedKeys
from mlplatform.scoring.labels.ownership import Ownership
from mlplatform.scoring.labels.voids import Voids
from mlplatform.scoring.predictor_client.predictor import ClientLimits, Predictor
from mlplatform.scoring.pushes.pushes import FeaturePushes
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
    recorder: Recorder
    ownership: Ownership
    windows: ProjectorThread | None
    shared_keys: SharedKeys | None


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
    shared = _shared(settings, name, supervised)
    live = {model: _live_model(model, shared) for model in readable_names()}
    shadow = _shadow(live, shared)
    models = {model: _scoring(live[model], shared, shadow) for model in live}
    follower = _follower(settings, live, shared)
    definitions = [model.definition for model in live.values()]
    admitting = _admission(settings, definitions, shared.metrics)
    health = Health(lambda: shared.recorder.alive, lambda: follower.ready)
    spans = _spans(settings, name, shared.metrics)
    traces = _traces(settings, definitions, spans, shared.metrics)
    port = settings.gateway_grpc_port
    ended = EndedConnections("gateway-grpc", Refusals(settings.home.audit))
    calls = GrpcListener(host, port, admitting.gate, models, health, shared.metrics, traces, ended)
    fresh = [scoring.freshness for scoring in models.values()]
    pushes, explanations = _pushes(settings, definitions, shared), _explanations(settings, shared)
    beside = (fresh, pushes, explanations)
    steps = _life(settings, shared, shadow, follower, admitting, spans, *beside)
    start, stop = _with_calls(*steps, calls) if settings.gateway_grpc_port else steps
    app = Gateway(
        admitting.gate,
        models,
        scoring_wiring.labels(
            shared.recorder,
            shared.answers,
            shared.clock,
            shared.times,
            shared.ownership,
            definitions,
        ),
        Voids(shared.recorder, shared.times, shared.clock, shared.ownership),
        explanations,
        AsyncAcceptor(
            *(models, shared.answers, shared.recorder, shared.clock, shared.key),
            shared=shared.shared_keys,
        ),
        pushes,
        shared.metrics,
        traces,
        openapi.documents(definitions, bodies(pushes)),
        lambda: shared.recorder.alive,
        lambda: follower.ready,
    )
    # Without a recorder every request would be refused; a new process can record again.
    life = Life(start, calls.begin_drain, stop, is_useful=lambda: shared.recorder.alive)
    return WiredGateway(app, life)


def _shared(settings: Settings, name: str, supervised: bool) -> _GatewayContext:
    home, metrics = settings.home, Metrics(readable_names())
    windowed = [d for d in map(load_definition, readable_names()) if d.windows]
    log = scoring_wiring.decision_log(settings, windowed, lock_wait_ms=LOG_LOCK_WAIT_MS)
    scoring_wiring.begin_windows(settings, windowed)
    watermark = LatestEventTime(log.latest_event_ms)
    clock = scoring_wiring.clock(settings, lambda: watermark.event_ms)
    windows = _windows(settings, name, windowed, metrics, clock)

    def on_committed(count: int) -> None:
        metrics.commit_records.observe(count)
        if windows is not None:
            windows.wake()

    log.find_all(())  # the first look-up reads all recent keys: not within a request
    spilling = SpillingLog(log, name, spill_policy(settings), on_committed)
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
        recorder=_recorder(name, spilling, times, watermark),
        ownership=scoring_wiring.ownership(settings, log, clock, key),
        windows=windows,
        shared_keys=_shared_keys(settings, metrics, clock),
    )


def _shared_keys(settings: Settings, metrics: Metrics, clock: Clock) -> SharedKeys | None:
    store, counted = scoring_wiring.claim_store(settings), metrics.key_claims
    if store is None:
        return None
    keys = SharedKeys(store, settings.key_claims, clock, lambda what: counted.labels(what).inc())
    metrics.watch_key_claims(lambda: keys.pipeline.waiting_later)
    return keys


def _windows(
    settings: Settings,
    name: str,
    windowed: Sequence[ModelDefinition],
    metrics: Metrics,
    clock: Clock,
) -> ProjectorThread | None:
    """The thread that adds this process's records to windows that gateways share."""
    projector = scoring_wiring.window_projector(settings, name, windowed, clock)
    if projector is None:
        return None
    metrics.watch_windows(projector.lags, clock.wall_ms)
    return ProjectorThread(projector)


def _admission(
    settings: Settings, definitions: Sequence[ModelDefinition], metrics: Metrics
) -> AdmissionServices:
    store, measured = scoring_wiring.admission(settings), metrics.admission
    issuer_keys = None
    if settings.oidc is not None:
        issuer_keys = IssuerKeys(settings.oidc, measured.issuer_keys_fetched)
    return admission_services(settings, store, issuer_keys, definitions, measured)


def _pushes(
    settings: Settings, definitions: Sequence[ModelDefinition], shared: _GatewayContext
) -> FeaturePushes:
    targets = scoring_wiring.push_targets(settings, definitions, shared.key)
    entry = scoring_wiring.push_entry(settings, targets, shared.clock.event_ms)
    return FeaturePushes(targets_by_view(targets), entry)


def _explanations(settings: Settings, shared: _GatewayContext) -> Explanations:
    process = ExplainerProcess(settings.home.decisions, settings.home.bundles)
    return Explanations(process, shared.ownership, settings.clock)


def _spans(settings: Settings, name: str, metrics: Metrics) -> SpanExport[AnsweredRequest]:
    """The export of this process's spans."""
    ends = metrics.traces
    sender = scoring_wiring.span_sender(settings, ProcessIdentity("gateway", name))
    return SpanExport(sender, build, lambda end, count: ends.labels(end).inc(count))


def _traces(
    settings: Settings,
    definitions: Sequence[ModelDefinition],
    spans: SpanExport[AnsweredRequest],
    metrics: Metrics,
) -> Traces:
    slo_s = {d.name: d.latency_slo_ms / 1000 for d in definitions}
    return Traces(spans, slo_s, settings.trace_share, metrics.show_trace)


def spill_policy(settings: Settings) -> SpillPolicy:
    """The policy of this installation and its models for records that the log does not accept."""
    definitions = (load_definition(model) for model in readable_names())
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


def _shadow(live: Mapping[str, LiveModel], shared: _GatewayContext) -> ShadowCopies:
    dropped = shared.metrics.shadow_dropped
    return ShadowCopies(
        shared.recorder,
        shared.clock,
        lambda model, why, count: dropped.labels(model, why).inc(count),
        lambda model: live[model].current.routes.generation,
    )


def _live_model(model: str, shared: _GatewayContext) -> LiveModel:
    home, cluster = shared.settings.home, shared.settings.kserve
    endpoint: Callable[[str], str | None] = StatusStore(home.serving).endpoint
    if cluster is not None and not shared.supervised:
        # By name: a gateway in a pod does not ask the API server, and has no right to.
        endpoint = partial(cluster_url, namespace=cluster.namespace)
    token = home.predictor_token.read_text if cluster is None else str

    def new_predictor(service: str, limits: ClientLimits, codec: Codec) -> Predictor:
        return Predictor(service, endpoint, token, limits, codec)

    return LiveModel(load_definition(model), _views(model), home.bundles, new_predictor)


def _scoring(live: LiveModel, shared: _GatewayContext, shadow: ShadowCopies) -> Scoring:
    model = live.definition.name
    return Scoring(
        live,
        scoring_wiring.online_for_requests(shared.settings, live.definition, _views(model)),
        shared.answers,
        shared.recorder,
        shadow,
        shared.times,
        shared.clock,
        shared.key,
        ModelMetrics(shared.metrics, model, live.definition.decision.alerts),
        _exploration(live.definition, shared.settings.gateways),
        shared.shared_keys,
    )


def _exploration(definition: ModelDefinition, processes: int) -> Exploration | None:
    policy = definition.exploration
    if policy is None:
        return None
    return Exploration(
        policy,
        model=definition.name,
        hides=definition.decision.hides_outcome,
        fields=tuple(definition.request),
        processes=processes,
    )


def _views(model: str) -> tuple[FeatureView, ...]:
    return load_views(model_folder(model))


def _follower(
    settings: Settings, live: Mapping[str, LiveModel], shared: _GatewayContext
) -> RouteFollower:
    generation = shared.metrics.generation
    return RouteFollower(
        shared.name,
        list(live.values()),
        lambda: scoring_wiring.rollouts(settings, answer_s=scoring_wiring.GATEWAY_ANSWER_S),
        lambda model, number: generation.labels(model).set(number),
        Processes(StatusStore(settings.home.serving).status),
    )


Step = Callable[[], Awaitable[None]]


def _life(
    settings: Settings,
    shared: _GatewayContext,
    shadow: ShadowCopies,
    follower: RouteFollower,
    admitting: AdmissionServices,
    spans: SpanExport[AnsweredRequest],
    fresh: Sequence[Freshness],
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
        await asyncio.gather(*(freshness.start() for freshness in fresh))
        await follower.start()
        await pushes.start()

    async def stop() -> None:
        await asyncio.gather(*(freshness.stop() for freshness in fresh))
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
