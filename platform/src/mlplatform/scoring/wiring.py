"""Wiring that processes of scoring share with those above: adapters on a request's path.

A port is embedded unless the settings name its server. Code for a server is imported only if one is
named.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.decisions.records.tables import DATABASE
from mlplatform.learning.features.feast_sqlite import FeastSqlite
from mlplatform.learning.features.feast_values import project_name
from mlplatform.learning.features.online import OnlineFeatures, OnlineWriter
from mlplatform.learning.features.pushes.journal import Pushes
from mlplatform.learning.features.pushes.sqlite import SqlitePushes
from mlplatform.learning.features.pushes.table_holder import SharedStore
from mlplatform.learning.features.windows.online import FeaturesWithWindows, WindowReads, Windows
from mlplatform.learning.features.windows.projector import WindowProjector
from mlplatform.learning.features.windows.state import WindowProjection, begin, log_stale
from mlplatform.model.declarations import Declaration
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView, external
from mlplatform.rollouts.bundles.cache import BundleCache
from mlplatform.rollouts.bundles.folder_store import FolderStore
from mlplatform.rollouts.bundles.references import named_bundles
from mlplatform.rollouts.bundles.store import BundleStore, is_bucket
from mlplatform.rollouts.drift.sql import SqlIncidents
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.events.positions import Positions
from mlplatform.rollouts.events.sqlite import SqlitePositions
from mlplatform.rollouts.events.stream import JournalStream
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.serving.local import bundle_uri
from mlplatform.rollouts.serving.names import ServiceName
from mlplatform.runtime.clock import Clock, ReplayClock, SystemClock
from mlplatform.runtime.configuration.settings import Home, Settings
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.sqlite import BUSY_TIMEOUT_MS
from mlplatform.runtime.telemetry.export import TraceSender
from mlplatform.runtime.telemetry.otlp import OtlpSender
from mlplatform.runtime.telemetry.refusals import Refusals
from mlplatform.runtime.telemetry.span_files import FileSender
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.runtime.units import MIB
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform.scoring.admission.store import Admission, Buckets, KeysAndBuckets
from mlplatform.scoring.key_claims.port import ClaimStore
from mlplatform.scoring.labels.kinds import LabelKind
from mlplatform.scoring.labels.labels import Labels
from mlplatform.scoring.labels.ownership import Ownership, client_lookup
from mlplatform.scoring.pushes.pushes import PushEntry, PushTarget
from mlplatform.scoring.pushes.rows import RowsBody
from mlplatform.scoring.request.recording import KeptAnswers, Recorder
from mlplatform.scoring.request.times import EventTimes

if TYPE_CHECKING:  # imports the client of Redis
    from mlplatform.learning.features.windows.redis import RedisWindows
    from mlplatform.scoring.admission.postgres import PostgresKeys

log = logging.getLogger(__name__)

GATEWAY_ANSWER_S = 2.0
"""Seconds that a gateway waits for the journal's server: less than a pass does, because its lease
must not run out."""

READ_S = 0.1
"""Longest read of features in seconds. A longer one comes too late for any request, and holds up
others."""

WRITE_S = 10.0
PROJECT_S = 1.0
"""Seconds after which records are added to windows again; no request waits for it."""
CLAIM_S = 1.0
"""Seconds to wait for claims on keys; no request waits so long."""
ADMISSION_S = 1.0
"""Seconds to wait for tokens and keys. Threads of their own ask for them; what a process holds
lasts that long."""


def clock(settings: Settings, latest_ms: Callable[[], int | None], start_ms: int = 0) -> Clock:
    """The clock of an installation: of the system, or of the recorded traffic that is replayed.

    Args:
        latest_ms: returns the largest event time in the log, epoch milliseconds; None while it is
            empty.
        start_ms: event time before the first record of a replay.
    """
    if settings.clock == "system":
        return SystemClock()
    return ReplayClock(latest_ms, start_ms)


def rollouts(
    settings: Settings, clock: Clock | None = None, *, answer_s: float = 10.0
) -> SqlRollouts:
    """The journal of rollouts.

    Args:
        answer_s: seconds to wait for each answer of a server.
    """
    if settings.postgres is None:
        return SqliteRollouts(settings.home.rollouts_db, clock)
    # imports the client of PostgreSQL
    from mlplatform.rollouts.journal.postgres import PostgresRollouts

    return PostgresRollouts(settings.postgres, clock, answer_s=answer_s)


def journal_of(home: Home) -> SqlRollouts:
    """The journal of rollouts in a restored home, whatever the settings name."""
    return SqliteRollouts(home.rollouts_db)


def incidents(settings: Settings) -> SqlIncidents:
    """Drift incidents, in the database of the rollouts that answer them."""
    if settings.postgres is None:
        return SqliteIncidents(settings.home.rollouts_db)
    # imports the client of PostgreSQL
    from mlplatform.rollouts.drift.postgres import PostgresIncidents

    return PostgresIncidents(settings.postgres)


def has_log(settings: Settings) -> bool:
    """Whether the home has a decision log; asking creates none."""
    return (settings.home.decisions / DATABASE).is_file()


def log_of(home: Home) -> SqliteDecisionLog:
    """The home's log for code that reads it; code that writes opens `decision_log`."""
    return log_in(home.decisions)


def log_in(folder: Path) -> SqliteDecisionLog:
    """The log in a folder, for code that reads it and gets no settings."""
    return SqliteDecisionLog(folder)


def decision_log(
    settings: Settings,
    definitions: Iterable[ModelDefinition],
    *,
    lock_wait_ms: int = BUSY_TIMEOUT_MS,
) -> SqliteDecisionLog:
    """The home's log for code that writes to it: as durable as the settings say, and with these
    models' windows, where those lie beside the log.

    Args:
        definitions: definitions of all models that answer here.
        lock_wait_ms: milliseconds for which a write waits for a write of another process.
    """
    has_windows = settings.redis is None and any(d.windows for d in definitions)
    return SqliteDecisionLog(
        settings.home.decisions,
        durable=settings.durability == "disk",
        projection=WindowProjection() if has_windows else None,
        lock_wait_ms=lock_wait_ms,
    )


def journal_stream(settings: Settings) -> JournalStream:
    """The journals of rollouts and incidents for receivers, and how far each has come."""
    return JournalStream(rollouts(settings), incidents(settings), _positions(settings))


def _positions(settings: Settings) -> Positions:
    if settings.postgres is None:
        return SqlitePositions(settings.home.rollouts_db)
    # imports the client of PostgreSQL
    from mlplatform.rollouts.events.postgres import PostgresPositions

    return PostgresPositions(settings.postgres)


def span_sender(settings: Settings, identity: ProcessIdentity) -> TraceSender:
    """The sender of a process's spans."""
    if not settings.otlp_endpoint:
        return FileSender(settings.home.traces, identity)
    return OtlpSender(settings.otlp_endpoint, identity)


def online(settings: Settings, model: str, views: Sequence[FeatureView]) -> OnlineWriter:
    """A model's online features for code that writes them, and may wait."""
    if settings.redis is None:
        return FeastSqlite(settings.home.online_db, project_name(model), views)
    from mlplatform.learning.features.feast_redis import FeastRedis  # imports the client of Redis

    return FeastRedis(settings.redis, project_name(model), views, answer_s=WRITE_S)


def pushes(settings: Settings, *, answer_s: float = WRITE_S) -> Pushes:
    """Pushed values of external views, stored where the journal of rollouts is, so that gateways of
    other homes share them.

    Raises:
        Unavailable: their store can't be opened.
    """
    if settings.postgres is None:
        return SqlitePushes(settings.home.pushes_db, durable=settings.durability == "disk")
    # imports the client of PostgreSQL
    from mlplatform.learning.features.pushes.postgres import PostgresPushes

    return PostgresPushes(settings.postgres, answer_s=answer_s)


def shared_table_stores(settings: Settings) -> list[SharedStore]:
    """Stores behind external views that other homes may share.

    Raises:
        Unavailable: a store can't be opened.
    """
    found: list[SharedStore] = []
    if settings.postgres is not None:
        # imports the client of PostgreSQL
        from mlplatform.learning.features.pushes.postgres import PostgresPushes

        found.append(PostgresPushes(settings.postgres))
    if settings.redis is not None:
        # imports the client of Redis
        from mlplatform.learning.features.pushes.redis_holder import RedisHolder

        found.append(RedisHolder(settings.redis, answer_s=WRITE_S))
    return found


def push_targets(
    settings: Settings,
    declarations: Iterable[Declaration],
    pseudonym_key: bytes,
    former: Iterable[PushTarget] = (),
) -> list[PushTarget]:
    """Every external view of these models, with the online stores for its rows.

    Args:
        former: targets that are kept where the view and the field of its key are the same.
    """
    found, kept = [], {(one.model, one.view.name): one for one in former}
    for declaration in declarations:
        definition = declaration.definition
        for view in external(declaration.views):
            same = kept.get((definition.name, view.name))
            field = definition.request[view.join_key]
            if same is not None and (same.view, same.body.field) == (view, field):
                found.append(same)
                continue
            body = RowsBody(definition.name, view, field, pseudonym_key)
            store = online(settings, definition.name, [view])
            found.append(PushTarget(definition.name, view, body, store))
    return found


def push_entry(
    settings: Settings, targets: Sequence[PushTarget], event_ms: Callable[[], int]
) -> PushEntry:
    """The entry for pushed rows of these views."""
    return PushEntry(targets, lambda: pushes(settings, answer_s=GATEWAY_ANSWER_S), event_ms)


def has_pushes(settings: Settings) -> bool:
    """Whether there may be pushes; asking creates no file."""
    return settings.postgres is not None or settings.home.pushes_db.exists()


def online_for_requests(
    settings: Settings, definition: ModelDefinition, views: Sequence[FeatureView]
) -> OnlineFeatures:
    """A model's online features and windows for requests, which may not wait."""
    stored, windows = _feature_store(settings, definition.name, views), definition.windows
    if not windows:
        return stored
    database = settings.home.decisions / DATABASE
    if settings.redis is None:
        reads: Windows = WindowReads(database, definition.name, windows, definition.entities)
    else:
        # imports the client of Redis
        from mlplatform.learning.features.windows.redis import RedisWindowReads

        store = shared_windows(settings.redis, definition, answer_s=READ_S)
        reads = RedisWindowReads(store, windows, definition.entities)
    return FeaturesWithWindows(stored, reads)


def _feature_store(settings: Settings, model: str, views: Sequence[FeatureView]) -> OnlineFeatures:
    if settings.redis is None:
        return FeastSqlite(settings.home.online_db, project_name(model), views, 0)
    from mlplatform.learning.features.feast_redis import FeastRedis  # imports the client of Redis

    return FeastRedis(settings.redis, project_name(model), views, answer_s=READ_S)


def shared_windows(
    address: Address, definition: ModelDefinition, *, answer_s: float = WRITE_S
) -> RedisWindows:
    """The state of a model's windows on a server that gateways share."""
    # imports the client of Redis
    from mlplatform.learning.features.windows.redis import RedisWindows, state_of

    own = state_of(definition.windows, definition.entities)
    return RedisWindows(address, definition.name, own, answer_s=answer_s)


def window_projector(
    settings: Settings, writer: str, definitions: Sequence[ModelDefinition], clock: Clock
) -> WindowProjector | None:
    """The projector that adds the records of this home's log to windows on a server; None if
    windows lie beside the log."""
    if settings.redis is None:
        return None
    stores = projected_windows(settings.redis, definitions)
    return WindowProjector(settings.home.decisions, writer, stores, clock)


def projected_windows(
    address: Address, definitions: Iterable[ModelDefinition]
) -> list[RedisWindows]:
    """The windows on a server of these models, for a projector."""
    return [shared_windows(address, one, answer_s=PROJECT_S) for one in definitions if one.windows]


def begin_windows(settings: Settings, definitions: Iterable[ModelDefinition]) -> None:
    """Make the windows of models without requests, beside the log, start empty. An operator builds
    those of other models, and all windows on a server, because the content of other logs is not
    known here. Until then they are stale."""
    for definition in definitions:
        if settings.redis is not None:
            continue
        try:
            if has_window_state(settings, definition):
                continue
        except Unavailable as error:
            log.error("%s", error)
        log_stale(log, definition.name)


def has_window_state(settings: Settings, definition: ModelDefinition) -> bool:
    """Whether the state of all windows of a model is there. Beside the log, an empty one is made
    for a model without requests.

    Raises:
        Unavailable: their store does not answer.
    """
    if settings.redis is None:
        has_history = any(settings.home.offline(definition.name).glob("parts/[0-9]*"))
        return begin(settings.home.decisions / DATABASE, definition, has_history=has_history)
    store = shared_windows(settings.redis, definition, answer_s=PROJECT_S)
    try:
        return store.position(store.own) is not None
    finally:
        store.close()


def admission(settings: Settings) -> Admission:
    """Keys where the rollouts are, because a revoked key must stay revoked; levels of buckets,
    which may be lost, where the features are.

    Raises:
        Unavailable: a store can't be opened.
    """
    keys, buckets = _keys(settings), _buckets(settings)
    if keys is None or buckets is None:
        wait_ms = int(ADMISSION_S * 1000)
        embedded = SqliteAdmission(settings.home.admission_db, busy_timeout_ms=wait_ms)
        return KeysAndBuckets(keys or embedded, buckets or embedded)
    return KeysAndBuckets(keys, buckets)


def keys(settings: Settings) -> PostgresKeys | SqliteAdmission:
    """The keys of applications and people, without buckets.

    Raises:
        Unavailable: their store can't be opened.
    """
    wait_ms = int(ADMISSION_S * 1000)
    return _keys(settings) or SqliteAdmission(settings.home.admission_db, busy_timeout_ms=wait_ms)


def has_keys(settings: Settings) -> bool:
    """Whether there may be keys; asking creates no file."""
    return settings.postgres is not None or settings.home.admission_db.exists()


def _keys(settings: Settings) -> PostgresKeys | None:
    if settings.postgres is None:
        return None
    # imports the client of PostgreSQL
    from mlplatform.scoring.admission.postgres import PostgresKeys

    return PostgresKeys(settings.postgres, answer_s=ADMISSION_S)


def _buckets(settings: Settings) -> Buckets | None:
    if settings.redis is None:
        return None
    from mlplatform.scoring.admission.redis import RedisBuckets  # imports the client of Redis

    return RedisBuckets(settings.redis, answer_s=ADMISSION_S)


def claim_store(settings: Settings) -> ClaimStore | None:
    """The claims on idempotency keys that gateways of several homes share; None: this home's log
    arbitrates alone."""
    if settings.key_claims == "own" or settings.redis is None:
        return None
    from mlplatform.scoring.key_claims.redis import RedisClaims  # imports the client of Redis

    return RedisClaims(settings.redis, answer_s=CLAIM_S)


def ownership(settings: Settings, log: SqliteDecisionLog, clock: Clock, key: bytes) -> Ownership:
    """The rule on who may label and void decisions, by who asked for them.

    Args:
        key: the installation's key of pseudonyms.
    """
    lookup = client_lookup(log, settings.clock)
    return Ownership(lookup, clock, key, Refusals(settings.home.audit).keep)


def labels(
    recorder: Recorder,
    answers: KeptAnswers,
    clock: Clock,
    times: EventTimes,
    owned: Ownership,
    definitions: Iterable[ModelDefinition],
) -> Labels:
    """The labels of these models, from applications or analysts, recorded by this recorder."""
    kinds = {definition.name: LabelKind.of(definition) for definition in definitions}
    return Labels(recorder, answers, times, clock, owned, kinds)


def storage_uri(settings: Settings) -> Callable[[Path], str]:
    """Function that gives the URI by which predictors name a bundle's folder of this home, or a
    model repository of Triton, which is never in the bundle store."""
    cluster, store = settings.kserve, settings.bundle_store
    if cluster is None:
        return lambda folder: bundle_uri(folder, settings.home.bundles)
    if not is_bucket(store):
        return cluster.storage_uri

    def uri(folder: Path) -> str:
        if ServiceName.parse(folder.name) is not None:
            return cluster.storage_uri(folder)
        return f"{store.rstrip('/')}/{folder.name}"

    return uri


def bundle_store(settings: Settings) -> BundleStore | None:
    """The store of bundles; None if the folder of bundles has all there are."""
    if not settings.bundle_store:
        return None
    if not is_bucket(settings.bundle_store):
        return FolderStore(Path(settings.bundle_store))
    from mlplatform.rollouts.bundles.s3_store import S3Store  # imports the AWS SDK

    return S3Store(settings.bundle_store)


def bundle_cache(settings: Settings) -> BundleCache:
    """The bundles of this machine, in front of the store if there is one."""
    home = settings.home
    return BundleCache(
        home.bundles,
        bundle_store(settings),
        settings.bundle_cache_mib * MIB,
        lambda: named_bundles(
            home.serving, lambda: rollouts(settings) if has_rollouts(settings) else None
        ),
        settings.bundle_volume_mib * MIB,
    )


def scales(settings: Settings) -> bool:
    """Whether an autoscaler sets the number of a version's pods, if its model asks for one."""
    return settings.kserve is not None and settings.kserve.prometheus is not None


def has_rollouts(settings: Settings) -> bool:
    """Whether there is a journal to read; asking creates none."""
    return settings.postgres is not None or settings.home.rollouts_db.exists()
