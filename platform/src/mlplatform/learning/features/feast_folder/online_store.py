"""Feast's online stores with real-time windows beside what they store: for Feast's own processes.

A window is stored nowhere: it is counted from its tiles when it is read, as a gateway counts it for
a request of that moment. feature_store.yaml of a model that has windows names a class of this
module as the type of its store; nothing else imports it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig
from feast.infra.online_stores.sqlite import SqliteOnlineStore, SqliteOnlineStoreConfig
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel

from mlplatform.learning.features.feast_folder.registry import WINDOWS
from mlplatform.learning.features.windows.online import WindowReads, Windows
from mlplatform.learning.features.windows.redis import RedisWindowReads, RedisWindows, state_of
from mlplatform.model.windows.declaration import Window
from mlplatform.runtime.storage import addresses

ANSWER_S: Final = 5.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Row = tuple[datetime | None, dict[str, Any] | None]


class _WindowsBeside(OnlineStore):  # type: ignore[misc]  # Feast's classes are not typed
    """The part that both stores add; `config.online_store` says model, windows and keys."""

    _windows: Windows | None = None

    def online_read(
        self,
        config: Any,
        table: Any,
        entity_keys: Sequence[Any],
        requested_features: Sequence[str] | None = None,
    ) -> list[Row]:
        """The rows of entities, of windows with the moment at which they were counted.

        Raises:
            Unavailable: the state of windows can't be read.
        """
        if not _is_of_windows(table):
            rows: list[Row] = super().online_read(config, table, entity_keys, requested_features)
            return rows
        if self._windows is None:
            self._windows = self._reads(config.online_store)
        now_ms = time.time_ns() // 1_000_000
        (entity,) = table.entities
        return [_row(self._windows, table.name, entity, key, now_ms) for key in entity_keys]

    async def online_read_async(self, *arguments: Any, **named: Any) -> Any:
        table = named["table"] if "table" in named else arguments[1]
        if not _is_of_windows(table):
            return await super().online_read_async(*arguments, **named)
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    def _read_features_per_fv(self, config: Any, grouped_refs: Any, *arguments: Any) -> None:
        """Feast's store in Redis asks for all views in one pipeline, which has no windows."""
        stored, windows = _apart(grouped_refs)
        super()._read_features_per_fv(config, stored, *arguments)
        OnlineStore._read_features_per_fv(self, config, windows, *arguments)

    async def _read_features_per_fv_async(
        self, config: Any, grouped_refs: Any, *arguments: Any
    ) -> None:
        stored, windows = _apart(grouped_refs)
        await super()._read_features_per_fv_async(config, stored, *arguments)
        await OnlineStore._read_features_per_fv_async(self, config, windows, *arguments)

    def _reads(self, of: Any) -> Windows:
        raise NotImplementedError


class _DeclaredWindows(FeastConfigBaseModel):  # type: ignore[misc]
    """The windows of a model.

    Args:
        keys: entity → the request field that holds its key.
    """

    model: str
    windows: list[dict[str, Any]]
    keys: dict[str, str]


class WindowsSqliteOnlineStoreConfig(_DeclaredWindows, SqliteOnlineStoreConfig):  # type: ignore[misc]
    """The store in SQLite, and where the tiles are.

    Args:
        decisions: the database of the decision log, with the tiles beside it.
    """

    type: Literal[
        "mlplatform.learning.features.feast_folder.online_store.WindowsSqliteOnlineStore"
    ] = "mlplatform.learning.features.feast_folder.online_store.WindowsSqliteOnlineStore"
    decisions: str


class WindowsSqliteOnlineStore(_WindowsBeside, SqliteOnlineStore):  # type: ignore[misc]
    """Feast's store in SQLite, and windows of one home."""

    def _reads(self, of: WindowsSqliteOnlineStoreConfig) -> Windows:
        return WindowReads(Path(of.decisions), of.model, _declared(of), of.keys)


class WindowsRedisOnlineStoreConfig(_DeclaredWindows, RedisOnlineStoreConfig):  # type: ignore[misc]
    """The store in Redis, where the tiles are too.

    Args:
        server: its address as errors name it; Feast's own client is asked.
    """

    type: Literal[
        "mlplatform.learning.features.feast_folder.online_store.WindowsRedisOnlineStore"
    ] = "mlplatform.learning.features.feast_folder.online_store.WindowsRedisOnlineStore"
    server: str


class WindowsRedisOnlineStore(_WindowsBeside, RedisOnlineStore):  # type: ignore[misc]
    """Feast's store in Redis, and windows that gateways share there."""

    def _reads(self, of: WindowsRedisOnlineStoreConfig) -> Windows:
        address = addresses.redis("server", {"server": of.server})
        assert address is not None
        declared = _declared(of)
        state = state_of(declared, of.keys)
        client = self._get_client(of)
        store = RedisWindows(address, of.model, state, answer_s=ANSWER_S, redis=client)
        return RedisWindowReads(store, declared, of.keys)


def _is_of_windows(table: Any) -> bool:
    return bool(table.tags.get(WINDOWS))


def _apart(grouped_refs: Any) -> tuple[list[Any], list[Any]]:
    """Views that are stored, and windows."""
    found: tuple[list[Any], list[Any]] = ([], [])
    for one in grouped_refs:
        found[_is_of_windows(one[0])].append(one)
    return found


def _declared(of: _DeclaredWindows) -> list[Window]:
    return msgspec.convert(of.windows, list[Window])


def _row(reads: Windows, source: str, entity: str, key: Any, now_ms: int) -> Row:
    """The windows of one entity; nothing of those that are stale."""
    (value,) = key.entity_values
    row = reads.read({entity: getattr(value, value.WhichOneof("val"))}, now_ms)
    if source in row.stale:
        return None, None
    return _EPOCH + timedelta(milliseconds=now_ms), dict(_values(row.values))


def _values(values: Mapping[str, float | None]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        yield name, Value() if value is None else Value(double_val=value)
