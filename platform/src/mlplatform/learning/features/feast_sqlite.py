"""Online features in the SQLite layout of the Feast SDK, read and written without importing it.

The layout is one row per entity and feature, keyed by Feast's entity key (version 3), the value as
a `feast.types.Value` message. The Feast SDK reads rows that are written here, and this module reads
rows of the SDK; a contract test checks both.

Source: https://github.com/feast-dev/feast/blob/master/docs/specs/online_store_format.md and
feast/infra/online_stores/sqlite.py (0.67).
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlplatform.learning.features.feast_values import (
    cells,
    check_columns,
    decode,
    encode,
    entity_key_prefix,
    key_value,
)
from mlplatform.learning.features.online import (
    CREATED,
    EVENT_TIMESTAMP,
    FeatureRow,
    OnlineRow,
)
from mlplatform.model.features.views import FeatureView, view_named
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import (
    BUSY_TIMEOUT_MS,
    connect,
    transaction,
    vacuum,
)
from mlplatform.runtime.storage.wal_readers import WalReaders
from mlplatform.runtime.units import SECOND_US

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

FOLLOW_S = 0.5
_ROWS_AT_ONCE: Final = 10_000
"""Rows of a table whose values are in memory as objects of Python."""
NEWEST: Final = "mlplatform_newest"
_NEWEST_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {NEWEST} (project TEXT, view TEXT, event_s INTEGER NOT NULL,"
    " PRIMARY KEY (project, view));"
)
_NOTE: Final = (
    f"INSERT INTO {NEWEST} AS old (project, view, event_s) VALUES (?, ?, ?) ON CONFLICT(project,"
    " view) DO UPDATE SET event_s=excluded.event_s WHERE excluded.event_s > old.event_s"
)
"""Table of facts that Feast's tables do not hold, or only by reading them whole. Feast ignores
other tables."""

MARKS: Final = "mlplatform_marks"
_MARKS_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {MARKS} (project TEXT, view TEXT, mark TEXT NOT NULL,"
    " PRIMARY KEY (project, view));"
)
FENCES: Final = "mlplatform_fences"
_FENCES_TABLE: Final = (
    f"CREATE TABLE IF NOT EXISTS {FENCES} (project TEXT, view TEXT, fence TEXT NOT NULL,"
    " PRIMARY KEY (project, view));"
)

SCHEMA = Schema("online", ((),))
"""Migrations of the file. The tables of views are Feast's, and are created for whatever views there
are."""


class FeastSqlite:
    """OnlineFeatures in one SQLite file; readers never wait for the writer (WAL).

    Event times are whole seconds, which is all that Feast's layout keeps.

    Args:
        path: the file, which other models may share; created if it does not exist.
        project: Feast's project, the prefix of table names.
        busy_timeout_ms: how long to wait for a lock, in milliseconds; 0 for readers that must not
            wait.
        follow_s: how often, in seconds, a read checks that the open file is still the one at
            `path`. A file that was moved away gets no new rows.
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
            tables=_NEWEST_TABLE + _MARKS_TABLE + _FENCES_TABLE + "".join(map(self._ddl, views)),
            threads=True,
            busy_timeout_ms=busy_timeout_ms,
        )
        self._index_tables_with_row_ids()
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
        definition = view_named(view, self._views)
        newest_s = max(_seconds(rows, EVENT_TIMESTAMP), default=None)
        return self._stored_rows(definition, _entities(definition, rows), newest_s)

    def put(self, view: str, rows: Sequence[FeatureRow], *, fence: str | None = None) -> int:
        definition = view_named(view, self._views)
        newest_s = max((event_us // SECOND_US for _, event_us, _, _ in rows), default=None)
        with self._translated():
            self._follow()
            return self._stored_rows(
                definition, _pushed_entities(definition, rows), newest_s, fence
            )

    def fence(self, view: str) -> str:
        with self._translated():
            self._follow()
            return self._fence(view)

    def remove(self, view: str, keys: Collection[int | str]) -> int:
        """Remove rows. The file is written anew, while requests go on reading it."""
        definition = view_named(view, self._views)
        prefix = entity_key_prefix(definition.join_key)
        places = [(prefix + key_value(key),) for key in keys]
        table = self._table(definition)
        there = f"SELECT EXISTS (SELECT 1 FROM {table} WHERE entity_key=?)"
        with self._translated():
            self._follow()
            with transaction(self._db):
                self._db.execute(
                    f"INSERT OR REPLACE INTO {FENCES} (project, view, fence) VALUES (?, ?, ?)",
                    (self._project, view, secrets.token_hex(16)),
                )
                count = sum(int(self._db.execute(there, one).fetchone()[0]) for one in places)
                self._db.executemany(f"DELETE FROM {table} WHERE entity_key=?", places)
            vacuum(self._db)
        return count

    def mark(self, view: str) -> str | None:
        self._follow()
        return self._mark(view)

    def set_mark(self, view: str, before: str | None, mark: str) -> bool:
        self._follow()
        with transaction(self._db):
            if self._mark(view) != before:
                return False
            self._db.execute(
                f"INSERT OR REPLACE INTO {MARKS} (project, view, mark) VALUES (?, ?, ?)",
                (self._project, view, mark),
            )
        return True

    def newest(self) -> Mapping[str, int | None]:
        """Event time of each view's newest row, read on a connection of its own, so that reads of
        rows never wait."""
        address = f"{self._path.absolute().as_uri()}?mode=ro"
        with self._translated(), closing(sqlite3.connect(address, uri=True)) as db:
            times = dict(
                db.execute(f"SELECT view, event_s FROM {NEWEST} WHERE project=?", (self._project,))
            )
            return {
                name: _ms(times.get(name) or self._newest_row(db, view))
                for name, view in self._views.items()
            }

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"{self._path}: {error}") from error

    def _mark(self, view: str) -> str | None:
        found = self._db.execute(
            f"SELECT mark FROM {MARKS} WHERE project=? AND view=?", (self._project, view)
        ).fetchone()
        return None if found is None else str(found[0])

    def _fence(self, view: str) -> str:
        found = self._db.execute(
            f"SELECT fence FROM {FENCES} WHERE project=? AND view=?", (self._project, view)
        ).fetchone()
        return "" if found is None else str(found[0])

    def _stored_rows(
        self,
        view: FeatureView,
        entities: Iterator[_Entity],
        newest_s: int | None,
        fence: str | None = None,
    ) -> int:
        with transaction(self._db):
            if fence is not None and self._fence(view.name) != fence:
                raise StaleFence(f"rows of {view.name} were erased since these were read")
            changed = self._db.executemany(self._upsert(view), entities)
            if newest_s is not None:
                self._db.execute(_NOTE, (self._project, view.name, newest_s))
        return changed.rowcount // len(view.fields)

    def _newest_row(self, db: sqlite3.Connection, view: FeatureView) -> int | None:
        """The newest row of a file that an earlier release or Feast wrote, found by a search."""
        found: int | None = db.execute(f"SELECT max(event_ts) FROM {self._table(view)}").fetchone()[
            0
        ]
        return found

    def _follow(self) -> None:
        """Open the file that has the name now, if it is another one."""
        try:
            found = os.stat(self._path)
        except FileNotFoundError as error:
            raise Unavailable(f"{self._path} is gone") from error
        if not os.path.samestat(found, self._opened):
            # Not by `connect`, which may wait for a lock; a reader must not set up anything.
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
        """Feast's table, but without row ids: an entity's rows lie together and nothing is stored
        twice. Feast names only columns, so it reads and writes both kinds."""
        return (
            f"CREATE TABLE IF NOT EXISTS {self._table(view)} (entity_key BLOB, feature_name TEXT,"
            " value BLOB, value_text TEXT, vector_value BLOB, event_ts timestamp,"
            " created_ts timestamp, PRIMARY KEY(entity_key, feature_name)) WITHOUT ROWID;"
        )

    def _index_tables_with_row_ids(self) -> None:
        """Add an index to tables that Feast or an earlier release made. A read that finds all in
        the index takes half of the time of one that looks up each feature's row."""
        row_ids = "SELECT 1 FROM pragma_table_list(?) WHERE NOT wr"
        for view in self._views.values():
            if self._db.execute(row_ids, (f"{self._project}_{view.name}",)).fetchone():
                index = f'"{self._project}_{view.name}_read"'
                self._db.execute(
                    f"CREATE INDEX IF NOT EXISTS {index} ON {self._table(view)}"
                    " (entity_key, feature_name, value, event_ts)"
                )

    def _upsert(self, view: FeatureView) -> str:
        """Stores an `_Entity`: all of its features by one statement, which takes half of the time
        of one for each feature. Feast's `value_text` is for its search of documents only."""
        names = [f.name for f in view.fields]
        cells = [(name, f"?{place}") for place, name in enumerate(names, start=4)]
        # In the order of the table's key
        rows = ", ".join(f"(?1, '{name}', {value}, ?2, ?3)" for name, value in sorted(cells))
        return (
            f"INSERT INTO {self._table(view)} AS old"
            f" (entity_key, feature_name, value, event_ts, created_ts) VALUES {rows}"
            " ON CONFLICT(entity_key, feature_name) DO UPDATE SET"
            " value=excluded.value, value_text=NULL, event_ts=excluded.event_ts,"
            " created_ts=excluded.created_ts WHERE excluded.event_ts > old.event_ts OR"
            " (excluded.event_ts = old.event_ts"
            " AND excluded.created_ts >= ifnull(old.created_ts, excluded.created_ts))"
        )


_Entity = tuple[bytes | int | float, ...]
"""An entity's key, event time, time of creation, and the value of each feature."""


def _entities(view: FeatureView, rows: pa.Table) -> Iterator[_Entity]:
    """The entities of all rows, in the order of the table's key: a page of the file is then changed
    once."""
    check_columns(view, rows)
    prefix = entity_key_prefix(view.join_key)
    listed: list[Any] = rows.column(view.join_key).to_pylist()
    keys = [prefix + key_value(key) for key in listed]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for start in range(0, len(order), _ROWS_AT_ONCE):
        places = order[start : start + _ROWS_AT_ONCE]
        some = rows.take(places)
        times = _seconds(some, EVENT_TIMESTAMP), _created_s(some)
        columns = [[encode(value, f.dtype) for value in cells(some, f)] for f in view.fields]
        yield from zip(map(keys.__getitem__, places), *times, *columns, strict=True)


def _pushed_entities(view: FeatureView, rows: Sequence[FeatureRow]) -> Iterator[_Entity]:
    prefix = entity_key_prefix(view.join_key)
    kinds = [f.dtype for f in view.fields]
    for key, event_us, made_us, values in rows:
        encoded = map(encode, values, kinds)
        yield prefix + key_value(key), event_us // SECOND_US, _exact_s(made_us), *encoded


def _exact_s(micros: int) -> int | float:
    """Seconds, with a fraction if there is one, because pushed values may change within a
    second."""
    return micros / SECOND_US if micros % SECOND_US else micros // SECOND_US


def _created_s(rows: pa.Table) -> list[int | float]:
    import pyarrow as pa  # only writers of tables need it

    micros = rows.column(CREATED).cast(pa.timestamp("us"), safe=False).cast(pa.int64())
    return [_exact_s(made) for made in micros.to_pylist() if made is not None]


def _ms(event_s: int | None) -> int | None:
    return None if event_s is None else event_s * 1000


def _seconds(rows: pa.Table, name: str) -> list[int]:
    import pyarrow as pa

    seconds = rows.column(name).cast(pa.timestamp("s"), safe=False).cast(pa.int64())
    return [s for s in seconds.to_pylist() if s is not None]
