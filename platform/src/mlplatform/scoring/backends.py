"""Which adapter stands behind each port that a request's path and the rest have in common.

A port is embedded unless the settings name its server. What is imported for a server is imported
only where one is named.
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
from mlplatform.learning.features.online import OnlineFeatures
from mlplatform.learning.features.windows.online import FeaturesWithWindows, WindowReads, Windows
from mlplatform.learning.features.windows.state import WindowProjection, begin
from mlplatform.model.definition import ModelDefinition
from mlplatform.model.features.views import FeatureView
from mlplatform.rollouts.drift.sql import SqlIncidents
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.rollouts.journal.sql import SqlRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.outbox.outbox import Outbox
from mlplatform.rollouts.outbox.positions import Positions
from mlplatform.rollouts.outbox.sqlite import SqlitePositions
from mlplatform.rollouts.serving.local import bundle_uri
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.settings import Settings
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.sqlite import BUSY_TIMEOUT_MS
from mlplatform.runtime.telemetry.export import Sender
from mlplatform.runtime.telemetry.otlp import OtlpSender
from mlplatform.runtime.telemetry.span_files import FileSender
from mlplatform.runtime.telemetry.spans import ProcessIdentity
from mlplatform.scoring.admission.sqlite import SqliteAdmission
from mlplatform.scoring.admission.store import Admission, Buckets, KeysAndBuckets

if TYPE_CHECKING:
    from mlplatform.learning.features.windows.projector import WindowProjector
    from mlplatform.learning.features.windows.redis import RedisWindows
    from mlplatform.scoring.admission.postgres import PostgresKeys

log = logging.getLogger(__name__)

GATEWAY_ANSWER_S = 2.0
"""A gateway that follows its routes gives up sooner than a pass: its lease must not run out."""

READ_S = 0.1
"""A read of features that takes longer comes too late for any request, and holds up others'."""

WRITE_S = 10.0
PROJECT_S = 1.0
"""Whether records were added to windows is asked again after that time; no request waits for it."""
ADMISSION_S = 1.0
"""Tokens and keys are asked for by threads of their own; what a process holds lasts that long."""


def rollouts(
    settings: Settings, clock: Clock | None = None, *, answer_s: float = 10.0
) -> SqlRollouts:
    """The journal of rollouts.

    Args:
        answer_s: how long to wait for each answer of a server.
    """
    if settings.postgres is None:
        return SqliteRollouts(settings.home.rollouts_db, clock)
    from mlplatform.rollouts.journal.postgres import PostgresRollouts

    return PostgresRollouts(settings.postgres, clock, answer_s=answer_s)


def incidents(settings: Settings) -> SqlIncidents:
    """Drift incidents, in the same database as the rollouts that answer them."""
    if settings.postgres is None:
        return SqliteIncidents(settings.home.rollouts_db)
    from mlplatform.rollouts.drift.postgres import PostgresIncidents

    return PostgresIncidents(settings.postgres)


def decision_log(
    settings: Settings,
    definitions: Iterable[ModelDefinition],
    *,
    lock_wait_ms: int = BUSY_TIMEOUT_MS,
) -> SqliteDecisionLog:
    """The home's log for who writes to it: as durable as the settings say, and followed by the
    windows of these models where they lie beside it.

    Args:
        definitions: of all models that answer here.
        lock_wait_ms: how long a write waits for another process's.
    """
    has_windows = settings.redis is None and any(d.windows for d in definitions)
    return SqliteDecisionLog(
        settings.home.decisions,
        durable=settings.durability == "disk",
        projection=WindowProjection() if has_windows else None,
        lock_wait_ms=lock_wait_ms,
    )


def outbox(settings: Settings) -> Outbox:
    """The journals of rollouts and incidents for receivers, and how far each has come."""
    return Outbox(rollouts(settings), incidents(settings), _positions(settings))


def _positions(settings: Settings) -> Positions:
    if settings.postgres is None:
        return SqlitePositions(settings.home.rollouts_db)
    from mlplatform.rollouts.outbox.postgres import PostgresPositions

    return PostgresPositions(settings.postgres)


def span_sender(settings: Settings, identity: ProcessIdentity) -> Sender:
    """Where a process's spans go."""
    if not settings.otlp_endpoint:
        return FileSender(settings.home.traces, identity)
    return OtlpSender(settings.otlp_endpoint, identity)


def online(settings: Settings, model: str, views: Sequence[FeatureView]) -> OnlineFeatures:
    """A model's online features for jobs, which may wait."""
    if settings.redis is None:
        return FeastSqlite(settings.home.online_db, project_name(model), views)
    from mlplatform.learning.features.feast_redis import FeastRedis

    return FeastRedis(settings.redis, project_name(model), views, answer_s=WRITE_S)


def online_for_requests(
    settings: Settings, definition: ModelDefinition, views: Sequence[FeatureView]
) -> OnlineFeatures:
    """A model's online features for requests, which may not wait, and its windows."""
    stored, windows = _stored(settings, definition.name, views), definition.windows
    if not windows:
        return stored
    database = settings.home.decisions / DATABASE
    if settings.redis is None:
        reads: Windows = WindowReads(database, definition.name, windows, definition.entities)
    else:
        from mlplatform.learning.features.windows.redis import RedisWindowReads

        store = shared_windows(settings.redis, definition, answer_s=READ_S)
        reads = RedisWindowReads(store, windows, definition.entities)
    return FeaturesWithWindows(stored, reads)


def _stored(settings: Settings, model: str, views: Sequence[FeatureView]) -> OnlineFeatures:
    if settings.redis is None:
        return FeastSqlite(settings.home.online_db, project_name(model), views, 0)
    from mlplatform.learning.features.feast_redis import FeastRedis

    return FeastRedis(settings.redis, project_name(model), views, answer_s=READ_S)


def shared_windows(
    address: Address, definition: ModelDefinition, *, answer_s: float = WRITE_S
) -> RedisWindows:
    """The state of a model's windows that gateways share on a server."""
    from mlplatform.learning.features.windows.redis import RedisWindows, state_of

    own = state_of(definition.windows, definition.entities)
    return RedisWindows(address, definition.name, own, answer_s=answer_s)


def window_projector(
    settings: Settings, writer: str, definitions: Sequence[ModelDefinition]
) -> WindowProjector | None:
    """What adds the records of this home's log to windows on a server; None where they lie beside
    the log, or no model has any."""
    if settings.redis is None or not definitions:
        return None
    from mlplatform.learning.features.windows.projector import WindowProjector

    address = settings.redis
    stores = [shared_windows(address, one, answer_s=PROJECT_S) for one in definitions]
    return WindowProjector(settings.home.decisions, writer, stores)


def begin_windows(settings: Settings, definitions: Iterable[ModelDefinition]) -> None:
    """Windows beside the log of models that know no request yet begin with none; an operator builds
    those of others, and all on a server: what other logs hold is not known here. Until then they
    are stale."""
    for definition in definitions:
        name = definition.name
        if settings.redis is not None:
            continue
        has_history = any(settings.home.offline(name).glob("parts/[0-9]*"))
        database = settings.home.decisions / DATABASE
        try:
            if begin(database, definition, has_history=has_history):
                continue
        except Unavailable as error:
            log.error("%s", error)
        log.error("windows of %s are stale: run `mlplatform history windows %s`", name, name)


def admission(settings: Settings) -> Admission:
    """Keys where the rollouts are, as a revoked one must stay so; the levels of buckets, which may
    be lost, where the features are.

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
    """The keys of applications and of people alone.

    Raises:
        Unavailable: their store can't be opened.
    """
    wait_ms = int(ADMISSION_S * 1000)
    return _keys(settings) or SqliteAdmission(settings.home.admission_db, busy_timeout_ms=wait_ms)


def _keys(settings: Settings) -> PostgresKeys | None:
    if settings.postgres is None:
        return None
    from mlplatform.scoring.admission.postgres import PostgresKeys

    return PostgresKeys(settings.postgres, answer_s=ADMISSION_S)


def _buckets(settings: Settings) -> Buckets | None:
    if settings.redis is None:
        return None
    from mlplatform.scoring.admission.redis import RedisBuckets

    return RedisBuckets(settings.redis, answer_s=ADMISSION_S)


def storage_uri(settings: Settings) -> Callable[[Path], str]:
    """How predictors name a bundle's folder of this home."""
    if settings.kserve is None:
        return lambda folder: bundle_uri(folder, settings.home.bundles)
    return settings.kserve.storage_uri


def scales(settings: Settings) -> bool:
    """Whether the number of a version's pods is left to an autoscaler, where its model asks."""
    return settings.kserve is not None and settings.kserve.prometheus is not None


def has_rollouts(settings: Settings) -> bool:
    """Whether there is a journal to read; asking makes none."""
    return settings.postgres is not None or settings.home.rollouts_db.exists()
