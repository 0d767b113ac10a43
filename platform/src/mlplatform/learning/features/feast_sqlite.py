"""Online features in the SQLite layout of the Feast SDK, read and written without importing it.

The layout is one row per entity and feature, keyed by Feast's entity key (version 3), the value as
a `feast.types.Value` message. The Feast SDK reads what is written here and the other way round; a
contract test holds both.

Source: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md and
feast/infra/online_stores/sqlite.py (0.67).
"""

from __future__ import annotations

import math
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlplatform.learning.features.feast_values import (
    cells,
    checked,
    decode,
    encode,
    entity_key_prefix,
    key_value,
)
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP, OnlineRow
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import NotFound, Unavailable
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import BUSY_TIMEOUT_MS, connect, transaction
from mlplatform.runtime.storage.wal_readers import WalReaders

if TYPE_CHECKING:
    import pyarrow as pa

FOLLOW_S = 0.5
NEWEST: Final = "mlplatform_newest"
_NEWEST_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {NEWEST} (project TEXT, view TEXT, event_s INTEGER NOT NULL,"
    " PRIMARY KEY (project, view));"
)
_NOTE: Final = (
    f"INSERT INTO {NEWEST} AS old (project, view, event_s) VALUES (?, ?, ?) ON CONFLICT(project,"
    " view) DO UPDATE SET event_s=excluded.event_s WHERE excluded.event_s > old.event_s"
)
"""What Feast's tables do not tell without being read whole. Feast minds no other table."""

SCHEMA = Schema("online", ((),))
"""The tables are Feast's, one a view, and made for whatever views there are."""


class FeastSqlite:
    """OnlineFeatures in one SQLite file; readers never wait for the writer (WAL).

    Event times are whole seconds, which is all that Feast's layout keeps.

    Args:
        path: the file, shared with other models; made if need be.
        project: Feast's project, the prefix of table names.
        busy_timeout_ms: how long to wait for a lock; 0 for readers that may not wait.
        follow_s: how often a read looks whether the file is still the one that was opened. One
            that was moved away would be served for ever, by nobody brought up to date.
    """

    is_remote = False

    def __init__(
        self,
        path: Path,
        project: str,
        views: Sequence[FeatureView],
        busy_timeout_ms: int = BUSY_TIMEOUT_MS,
        follow_s: float = FOLLOW_S,
    ) -> None:
        self._path = path
        self._busy_timeout_s = busy_timeout_ms / 1000
        self._follow_s = follow_s
        self._follow_at_s = 0.0
        self._views = {v.name: v for v in views}
        self._project = project
        self._db = connect(
            path,
            schema=SCHEMA,
            tables=_NEWEST_TABLE + "".join(map(self._ddl, views)),
            threads=True,
            busy_timeout_ms=busy_timeout_ms,
        )
        self._opened = os.stat(path)
        self._readers = WalReaders(path)
        self._missing: dict[str, float | None] = {f: None for v in views for f in v.feature_names}
        self._times: dict[str, int | None] = {v.name: None for v in views}
        self._ttl_ms = [v.ttl_ms for v in views]
        self._names = [v.name for v in views]
        self._keys = [(v.entity, entity_key_prefix(v.join_key)) for v in views]
        one_view = "SELECT {}, feature_name, value, event_ts FROM {} WHERE entity_key=?"
        self._select = " UNION ALL ".join(
            one_view.format(n, self._table(v)) for n, v in enumerate(views)
        )

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        now_s = time.monotonic()
        if now_s >= self._follow_at_s:
            self._follow()
            self._follow_at_s = now_s + self._follow_s
        values, times = self._missing.copy(), self._times.copy()
        stale: set[str] = set()
        parameters = [
            prefix + key_value(keys[entity]) if entity in keys else None
            for entity, prefix in self._keys
        ]
        rows = self._db.execute(self._select, parameters) if self._select else ()
        oldest_s = [(event_ms - ttl_ms) / 1000 for ttl_ms in self._ttl_ms]
        names = self._names
        for position, name, value, event_s in rows:
            if event_s < oldest_s[position]:
                stale.add(names[position])
            elif name in values:
                values[name] = decode(value, name)
                times[names[position]] = event_s * 1000
        return OnlineRow(values, times, stale)

    def is_held_up(self) -> bool:
        return self._readers.are_held_up()

    def write(self, view: str, rows: pa.Table) -> int:
        if view not in self._views:
            raise NotFound(f"no view {view!r}; there are: {', '.join(self._views)}")
        definition = self._views[view]
        newest_s = max(_seconds(rows, EVENT_TIMESTAMP), default=None)
        with transaction(self._db):
            changed = self._db.executemany(self._upsert(definition), _cells(definition, rows))
            if newest_s is not None:
                self._db.execute(_NOTE, (self._project, view, newest_s))
        return changed.rowcount // len(definition.fields)

    def newest(self) -> Mapping[str, int | None]:
        """By a connection of its own: who reads rows waits for nothing here."""
        try:
            with closing(
                sqlite3.connect(f"{self._path.absolute().as_uri()}?mode=ro", uri=True)
            ) as db:
                told = dict(
                    db.execute(
                        f"SELECT view, event_s FROM {NEWEST} WHERE project=?", (self._project,)
                    )
                )
                return {
                    name: _ms(told.get(name) or self._newest_row(db, view))
                    for name, view in self._views.items()
                }
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path}: {error}") from error

    def close(self) -> None:
        self._db.close()

    def _newest_row(self, db: sqlite3.Connection, view: FeatureView) -> int | None:
        """Of a file whose rows were written by an earlier release, or by Feast: looked for."""
        found: int | None = db.execute(f"SELECT max(event_ts) FROM {self._table(view)}").fetchone()[
            0
        ]
        return found

    def _follow(self) -> None:
        """Read from whatever has the file's name now."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            raise Unavailable(f"{self._path} is gone") from error
        if not os.path.samestat(found, self._opened):
            # Not by `connect`: that may wait for a lock, and nothing is to be set up by a reader.
            db = sqlite3.connect(
                self._path,
                timeout=self._busy_timeout_s,
                isolation_level=None,
                check_same_thread=False,
            )
            self._db.close()
            self._db, self._opened, self._readers = db, found, WalReaders(self._path)

    def _table(self, view: FeatureView) -> str:
        return f'"{self._project}_{view.name}"'

    def _ddl(self, view: FeatureView) -> str:
        """Feast's table, and an index of ours: a read that finds all in it, in one place for each
        entity, takes half the time of one that looks for each feature's row. Feast minds no index.
        """
        table = self._table(view)
        index = f'"{self._project}_{view.name}_read"'
        return (
            f"CREATE TABLE IF NOT EXISTS {table} (entity_key BLOB, feature_name TEXT, value BLOB,"
            " value_text TEXT, vector_value BLOB, event_ts timestamp, created_ts timestamp,"
            " PRIMARY KEY(entity_key, feature_name));"
            f"CREATE INDEX IF NOT EXISTS {index} ON {table}"
            " (entity_key, feature_name, value, event_ts);"
        )

    def _upsert(self, view: FeatureView) -> str:
        return (
            f"INSERT INTO {self._table(view)} AS old"
            " (entity_key, feature_name, value, value_text, event_ts, created_ts)"
            " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT(entity_key, feature_name) DO UPDATE SET"
            " value=excluded.value, value_text=excluded.value_text, event_ts=excluded.event_ts,"
            " created_ts=excluded.created_ts WHERE excluded.event_ts > old.event_ts OR"
            " (excluded.event_ts = old.event_ts"
            " AND excluded.created_ts >= ifnull(old.created_ts, excluded.created_ts))"
        )


Cell = tuple[bytes, str, bytes, str | None, int, int]


def _cells(view: FeatureView, rows: pa.Table) -> Iterator[Cell]:
    checked(view, rows)
    prefix = entity_key_prefix(view.join_key)
    listed: list[Any] = rows.column(view.join_key).to_pylist()
    keys = [prefix + key_value(key) for key in listed]
    event_s, created_s = _seconds(rows, EVENT_TIMESTAMP), _seconds(rows, CREATED)
    for field in view.fields:
        values = cells(rows, field)
        for key, value, event, created in zip(keys, values, event_s, created_s, strict=True):
            text = None if value is None or math.isnan(value) else str(value)
            yield key, field.name, encode(value, field.dtype), text, event, created


def _ms(event_s: int | None) -> int | None:
    return None if event_s is None else event_s * 1000


def _seconds(rows: pa.Table, name: str) -> list[int]:
    import pyarrow as pa

    seconds = rows.column(name).cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    return [s for s in seconds.to_pylist() if s is not None]
