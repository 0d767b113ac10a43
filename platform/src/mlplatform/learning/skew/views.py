"""Snapshots: the values that each decision should have read, computed again from records.

A snapshot's file names the log position at which it was made. So records that came later can be
told from records that it counted wrongly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.compile import snapshot_sql
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.learning.features.rows import LABEL_RANK
from mlplatform.learning.features.snapshots import SnapshotSources, declaration, snapshot_sources
from mlplatform.learning.skew.cells import Cell, LateInterval, Note, Outcome, nearly_equal
from mlplatform.learning.skew.decision_reads import DecisionReads, Key
from mlplatform.learning.skew.raw_records import keys_table
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.units import DAY_MS

Values = Mapping[str, float | None]
Rows = Mapping[Key, Values]
NOTHING: Final[Rows] = {}


def view_cells(
    db: duckdb.DuckDBPyConnection,
    views: Sequence[FeatureView],
    served: Sequence[DecisionReads],
    files: Mapping[str, Mapping[int, Path]],
    late_after_ms: int,
) -> Iterator[Cell]:
    """A cell for every feature of a view and every decision.

    Args:
        db: a database with the tables of `raw_records.gather`.
        files: view → midnight (epoch milliseconds) → file of its snapshot.
        late_after_ms: milliseconds after its midnight by which a snapshot should be served.
    """
    if not served:
        return
    made = _Snapshots(db)
    for view in views:
        wanted = sorted(_midnights(view, served, late_after_ms))
        of = {at_ms: made.of(view, at_ms, files[view.name].get(at_ms)) for at_ms in wanted}
        newest_ms: int | None = None
        for one in served:
            row_ms = one.times.get(view.name)
            newest_ms = row_ms if newest_ms is None else max(newest_ms, row_ms or newest_ms)
            yield from _compared(view, one, of, late_after_ms, newest_ms)


def _due_ms(one: DecisionReads, late_after_ms: int, row_ms: int | None) -> int:
    """The midnight whose snapshot a decision should have read; it may have read a newer one."""
    due_ms = (one.event_ms - late_after_ms) // DAY_MS * DAY_MS
    return max(due_ms, row_ms) if row_ms is not None and row_ms <= one.event_ms else due_ms


def _midnights(view: FeatureView, served: Iterable[DecisionReads], late_after_ms: int) -> set[int]:
    """The midnights whose snapshots decisions may have read, or should have read."""
    found: set[int] = set()
    for one in served:
        row_ms = one.times.get(view.name)
        due_ms = _due_ms(one, late_after_ms, row_ms)
        oldest_ms = -(-(one.event_ms - view.ttl_ms) // DAY_MS) * DAY_MS
        found.update(range(oldest_ms, due_ms + DAY_MS, DAY_MS))
        if row_ms is not None and row_ms % DAY_MS == 0:
            found.add(row_ms)
    return found


class _ExpectedSnapshot(NamedTuple):
    """One snapshot as it should be.

    Args:
        due: rows computed from every record before its midnight.
        known: rows computed from the records that its file names; None without a file, or if it
            names none.
        kept: rows in the file; None without a file.
    """

    due: Rows
    known: Rows | None
    kept: Rows | None
    sources: SnapshotSources | None


def _compared(
    view: FeatureView,
    one: DecisionReads,
    of: Mapping[int, _ExpectedSnapshot],
    late_after_ms: int,
    newest_ms: int | None,
) -> Iterator[Cell]:
    """The cells of a decision. One that found no row is judged by the newest snapshot that earlier
    decisions read, which shows whether there was a row then."""
    key = one.keys[view.entity]
    row_ms = one.times.get(view.name)
    due_ms = _due_ms(one, late_after_ms, row_ms)
    right = _newest(of, key, due_ms, one.event_ms - view.ttl_ms)
    if row_ms is None and newest_ms is not None and newest_ms < due_ms:
        then = _newest(of, key, newest_ms, one.event_ms - view.ttl_ms)
        row_ms = newest_ms if not then and one.gap(view.name) != "unavailable" else None
    source = of.get(row_ms) if row_ms is not None else None
    for field in view.fields:
        name = field.name
        expected = right.get(name)
        value = one.features.get(name)
        outcome: Outcome = "different"
        note: Note | None = None
        holds: LateInterval | None = None
        if one.features and name not in one.features:
            outcome, note = "missing", "unserved"
        elif nearly_equal(value, expected):
            outcome = "equal"
        elif (
            source is not None
            and row_ms is not None
            and nearly_equal(value, _recorded_value(source, key, name))
        ):
            outcome, holds = "late", _holds(one, source, row_ms, due_ms)
        elif value is None:
            outcome, note = "missing", one.gap(view.name)  # type: ignore[assignment]
        elif source is not None:
            note = _value_source(view, source, key, name, value)
        position = source.sources.position if source is not None and source.sources else None
        yield Cell(
            name, one.decision_id, one.event_ms, value, expected, outcome, position, holds, note
        )


def _newest(of: Mapping[int, _ExpectedSnapshot], key: Key, due_ms: int, oldest_ms: int) -> Values:
    """The row of the due snapshot, or of the newest one before it that has the entity and is still
    valid."""
    days = sorted(of)
    for at_ms in reversed(days[: bisect_right(days, due_ms)]):
        if at_ms < oldest_ms:
            break
        if key in of[at_ms].due:
            return of[at_ms].due[key]
    return {}


def _recorded_value(source: _ExpectedSnapshot, key: Key, name: str) -> float | None:
    rows = source.due if source.known is None else source.known
    return rows.get(key, {}).get(name)


def _holds(one: DecisionReads, source: _ExpectedSnapshot, row_ms: int, due_ms: int) -> LateInterval:
    """The interval of a snapshot of an earlier day, or of one that lacks records which came after
    it."""
    if row_ms < due_ms:
        return LateInterval(row_ms, row_ms, one.event_ms - row_ms - DAY_MS)
    return LateInterval(row_ms, None)


def _value_source(
    view: FeatureView, source: _ExpectedSnapshot, key: Key, name: str, value: float
) -> Note | None:
    """The holder of a value that the records do not give: the online store, the snapshot, or one by
    another definition."""
    if source.kept is None:
        return None
    if not nearly_equal(value, source.kept.get(key, {}).get(name)):
        return "store"
    field = next(f for f in view.fields if f.name == name)
    if source.sources is not None and source.sources.declared.get(name) != declaration(field):
        return "redefined"
    return "snapshot"


class _Snapshots:
    """Computes snapshots of the wanted entities again."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._db = db
        self._sources: dict[Path, SnapshotSources | None] = {}

    def of(self, view: FeatureView, at_ms: int, path: Path | None) -> _ExpectedSnapshot:
        sources = None if path is None else self._sources_of(path)
        due = self._rows(view, at_ms, None)
        kept = None if path is None else self._snapshot_rows(view, path)
        if sources is None:
            return _ExpectedSnapshot(due, None, kept, None)
        behind = self._differs(at_ms, sources.position)
        known = self._rows(view, at_ms, sources.position) if behind else due
        return _ExpectedSnapshot(due, known, kept, sources)

    def _sources_of(self, path: Path) -> SnapshotSources | None:
        if path not in self._sources:
            self._sources[path] = snapshot_sources(path)
        return self._sources[path]

    def _rows(self, view: FeatureView, at_ms: int, position: Mapping[str, int] | None) -> Rows:
        known = inside = "true"
        if position is not None:
            self._reach(position)
            known, inside = _is_within("_writer", "_seq"), _is_within("_writer", "seq")
        self._db.execute(
            "CREATE OR REPLACE VIEW requests AS SELECT * FROM events"
            f" WHERE {known} AND request_id NOT IN"
            f" (SELECT request_id FROM voids WHERE event_ms <= {at_ms} AND {inside});"
            "CREATE OR REPLACE VIEW known_labels AS SELECT request_id,"
            f" max_by(label, ({LABEL_RANK})) AS label FROM labels"
            f" WHERE label_time <= epoch_ms({at_ms}) AND {inside} GROUP BY request_id"
        )
        return self._by_key(view, snapshot_sql(view, at_ms=at_ms, available_ms=at_ms))

    def _snapshot_rows(self, view: FeatureView, path: Path) -> Rows:
        names = ", ".join(f'"{n}"' for n in self._stored_columns(view, path))
        quoted = str(path).replace("'", "''")
        return self._by_key(view, f"SELECT {names} FROM read_parquet('{quoted}')")

    def _stored_columns(self, view: FeatureView, path: Path) -> list[str]:
        columns = pq.read_schema(path).names
        return [n for n in (view.join_key, *view.feature_names) if n in columns]

    def _by_key(self, view: FeatureView, sql: str) -> Rows:
        found = self._db.sql(
            f"SELECT * FROM ({sql}) WHERE {view.join_key} IN"
            f" (SELECT key FROM {keys_table(view.join_key)})"
        ).to_arrow_table()
        kept = [n for n in found.column_names if n not in (EVENT_TIMESTAMP, CREATED)]
        rows: list[dict[str, Any]] = found.select(kept).to_pylist()
        return {row.pop(view.join_key): row for row in rows}

    def _differs(self, at_ms: int, position: Mapping[str, int]) -> bool:
        """Whether there are records from before a midnight that its snapshot lacked."""
        self._reach(position)
        at = f"epoch_ms({at_ms})"
        ((count,),) = self._db.execute(
            f"SELECT (SELECT count(*) FROM events WHERE event_time < {at} AND NOT"
            f" {_is_within('_writer', '_seq')}) + (SELECT count(*) FROM labels"
            f" WHERE label_time <= {at} AND NOT {_is_within('_writer', 'seq')})"
            " + (SELECT count(*) FROM voids"
            f" WHERE event_ms <= {at_ms} AND NOT {_is_within('_writer', 'seq')})"
        ).fetchall()
        return int(count) > 0

    def _reach(self, position: Mapping[str, int]) -> None:
        writers = pa.array(list(position), pa.string())
        ends = pa.array(list(position.values()), pa.int64())
        self._db.register("reached_", pa.table({"writer": writers, "upto": ends}))
        self._db.execute("CREATE OR REPLACE TABLE reached AS SELECT * FROM reached_")
        self._db.unregister("reached_")


def _is_within(writer: str, seq: str) -> str:
    """SQL that tells whether a record is within the position of `reached`; history always is."""
    upto = f"(SELECT max(r.upto) FROM reached r WHERE r.writer = {writer})"
    return f"({writer} IS NULL OR coalesce({seq} <= {upto}, false))"
