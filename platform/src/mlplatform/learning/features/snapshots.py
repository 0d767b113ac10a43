"""Snapshots at the end of a day: computed from the offline table, stored as Parquet, served
online."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.learning.features.compile import reach_ms, snapshot_sql
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.online import OnlineFeatures
from mlplatform.learning.features.rows import LABEL_RANK
from mlplatform.model.features.views import FeatureField, FeatureView
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.errors import InputInvalid, Refused
from mlplatform.runtime.storage.files import DRAFT, sweep_drafts
from mlplatform.runtime.times import day_text
from mlplatform.runtime.units import DAY_MS

SOURCES_KEY: Final = b"mlplatform.made_of"
"""Key of the metadata in a snapshot's file that says what it was made from."""


class SnapshotSources(msgspec.Struct, frozen=True):
    """The sources of a snapshot.

    Args:
        position: per writer of the log, the number of the last record that was included; history
            always is.
        declared: feature → its declaration at that time.
    """

    position: dict[str, int]
    declared: dict[str, str]


@dataclass(frozen=True, slots=True)
class MaterializationCounts:
    """Rows of each view's snapshot, and how many the online store took as its newest."""

    at_ms: int
    rows: Mapping[str, int]
    online: Mapping[str, int]


def snapshot(
    offline: OfflineTable, view: FeatureView, at_ms: int, available_ms: int | None = None
) -> pa.Table:
    """The view's features at a UTC midnight, one row an entity, ordered by key.

    Nothing that happened, and no label or void that arrived, later than `at_ms` changes it.

    Args:
        available_ms: event time from which on the rows can be read; None means `at_ms`.

    Raises:
        InputInvalid: `at_ms` is not a midnight, or the rows would be available before it.
    """
    available = at_ms if available_ms is None else available_ms
    _check_times(at_ms, available)
    _load(offline, [view], [at_ms])
    return _compute(offline, view, at_ms, available)


def materialize(
    offline: OfflineTable,
    views: Sequence[FeatureView],
    at_ms: int,
    online: OnlineFeatures,
    available_ms: int,
) -> MaterializationCounts:
    """Write the snapshot of a day to the offline folder and to the online store.

    The offline table must hold everything before `at_ms`: project the log first. A snapshot that
    exists is kept as it is, so a run that repeats a killed one only completes the online store.

    Raises:
        InputInvalid: `at_ms` is not a midnight, or `available_ms` is before it.
        Refused: a later snapshot exists and this one does not; rows that come late would make
            training read what serving never could.
    """
    _check_times(at_ms, available_ms)
    missing = _missing_views(offline, views, at_ms)
    if missing:
        position = _load(offline, missing, [at_ms])
        for view in missing:
            _write(offline, view, at_ms, available_ms, position)
    tables = {v.name: _snapshot_rows(offline, v, at_ms) for v in views}
    return MaterializationCounts(
        at_ms,
        rows={name: table.num_rows for name, table in tables.items()},
        online={name: online.write(name, table) for name, table in tables.items()},
    )


def backfill(
    offline: OfflineTable,
    views: Sequence[FeatureView],
    midnights_ms: Iterable[int],
    online: OnlineFeatures,
) -> MaterializationCounts:
    """Write the snapshots of these midnights, each as if it had been available at once, and serve
    the last one.

    For history, whose requests were not served from here. The offline table is read once. Where
    every file is there, the last one is served too.

    Raises:
        InputInvalid: the list is empty, or a time in it is not a midnight.
        Refused: for the same reason as in `materialize`.
    """
    days = sorted(set(midnights_ms))
    for at_ms in days:
        _check_times(at_ms, at_ms)
    if not days:
        raise InputInvalid("backfill", None, "there is no day to fill")
    position = _load(offline, views, days)
    for at_ms in days[:-1]:
        for view in _missing_views(offline, views, at_ms):
            _write(offline, view, at_ms, at_ms, position)
    last_ms = days[-1]
    missing = _missing_views(offline, views, last_ms)
    for view in missing:
        _check_not_late(snapshot_path(offline, view, last_ms))
        online.write(view.name, _compute(offline, view, last_ms, last_ms))
    for view in missing:
        _write(offline, view, last_ms, last_ms, position)
    return materialize(offline, views, last_ms, online, last_ms)


def snapshot_days(offline: OfflineTable, view: FeatureView) -> tuple[int, ...]:
    """The midnights of which the view has a snapshot, in order."""
    names = sorted(path.stem for path in offline.snapshot_folder(view.name).glob("*.parquet"))
    days = (datetime.strptime(name, "%Y-%m-%d").replace(tzinfo=UTC) for name in names)
    return tuple(int(day.timestamp()) * 1000 for day in days)


def forget_after(offline: OfflineTable, views: Sequence[FeatureView], at_ms: int) -> None:
    """Remove the snapshots of later midnights.

    Called when history is added, because these snapshots were made without it. No request was
    answered from them.
    """
    for view in views:
        for midnight_ms in snapshot_days(offline, view):
            if midnight_ms > at_ms:
                snapshot_path(offline, view, midnight_ms).unlink()


def snapshot_path(offline: OfflineTable, view: FeatureView, at_ms: int) -> Path:
    return offline.snapshot_folder(view.name) / f"{day_text(at_ms)}.parquet"


def snapshot_files(offline: OfflineTable, view: FeatureView) -> dict[int, Path]:
    """The files of a view's snapshots by their midnight."""
    return {at_ms: snapshot_path(offline, view, at_ms) for at_ms in snapshot_days(offline, view)}


def snapshot_sources(path: Path) -> SnapshotSources | None:
    """The sources of a snapshot by its file; None if the file does not say, as of earlier
    releases."""
    metadata = (pq.read_schema(path).metadata or {}).get(SOURCES_KEY)
    try:
        return None if metadata is None else msgspec.json.decode(metadata, type=SnapshotSources)
    except NOT_JSON:
        return None


def declaration(field: FeatureField) -> str:
    """Everything that decides the values of a computed feature, in words."""
    of = "requests" if field.column is None else field.column
    delay = f", {field.delay_days} days before" if field.delay_days else ""
    return f"{field.aggregate} of {of} over {field.window_days} days{delay}"


def _missing_views(
    offline: OfflineTable, views: Sequence[FeatureView], at_ms: int
) -> list[FeatureView]:
    return [v for v in views if not snapshot_path(offline, v, at_ms).exists()]


def _load(
    offline: OfflineTable, views: Sequence[FeatureView], days: Sequence[int]
) -> Mapping[str, int]:
    """Read the sources of snapshots of these days into temporary tables of the connection. Returns
    the position of the log that they represent."""
    position: Mapping[str, int] | None = None
    while position != (position := offline.position()):  # another process may have projected
        _read(offline, views, days)
    return position


def _read(offline: OfflineTable, views: Sequence[FeatureView], days: Sequence[int]) -> None:
    reaches = [reach_ms(v, d) for v in views for d in (days[0], days[-1])]
    first_ms, last_ms = min(r[0] for r in reaches), max(r[1] for r in reaches)
    offline.requests(first_ms, last_ms, as_of_ms=days[0]).create_view("reached", replace=True)
    offline.voids(days[-1]).create_view("voids", replace=True)
    offline.decisions().create_view("decided", replace=True)
    offline.label_records(days[-1]).create_view("incoming", replace=True)
    offline.db.execute(
        "CREATE OR REPLACE TEMP TABLE arrived AS SELECT *, lead(label_time)"
        f" OVER (PARTITION BY request_id ORDER BY {LABEL_RANK}) AS replaced_time"
        " FROM incoming WHERE request_id IN (SELECT request_id FROM reached)"
    )


def _compute(offline: OfflineTable, view: FeatureView, at_ms: int, available_ms: int) -> pa.Table:
    at = f"epoch_ms({int(at_ms)})"
    # A view, so that memory is that of the entities, and one day's sums are those of a backfill
    offline.db.execute(
        "CREATE OR REPLACE TEMP VIEW requests AS SELECT reached.*,"
        " coalesce(NOT explored, false) AS _stopped"
        " FROM reached LEFT JOIN decided USING (request_id)"
        f" ANTI JOIN (SELECT request_id FROM voids WHERE event_time <= {at}) USING (request_id)"
    )
    offline.db.execute(
        "CREATE OR REPLACE TEMP VIEW known_labels AS SELECT request_id, label FROM arrived"
        f" WHERE label_time <= {at} AND (replaced_time IS NULL OR replaced_time > {at})"
    )
    sql = snapshot_sql(view, at_ms=at_ms, available_ms=available_ms)
    table: pa.Table = offline.db.sql(sql).to_arrow_table()
    return table


def _snapshot_rows(offline: OfflineTable, view: FeatureView, at_ms: int) -> pa.Table:
    """The rows of a snapshot, with null for features that were declared after it was made."""
    rows = pq.read_table(snapshot_path(offline, view, at_ms))
    for name in view.feature_names:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, pa.float64()))
    return rows


def _check_times(at_ms: int, available_ms: int) -> None:
    if at_ms % DAY_MS:
        raise InputInvalid("snapshot", None, f"at_ms is {at_ms}; wanted: a UTC midnight")
    if available_ms < at_ms:
        raise InputInvalid("snapshot", None, "available_ms is before at_ms")


def _write(
    offline: OfflineTable,
    view: FeatureView,
    at_ms: int,
    available_ms: int,
    position: Mapping[str, int],
) -> None:
    path = snapshot_path(offline, view, at_ms)
    _check_not_late(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    sweep_drafts(path.parent)
    draft = path.with_name(f".{path.name}.{os.getpid()}{DRAFT}")
    try:
        sources = SnapshotSources(dict(position), {f.name: declaration(f) for f in view.fields})
        rows = _compute(offline, view, at_ms, available_ms)
        encoded = msgspec.json.encode(sources, order="sorted")
        rows = rows.replace_schema_metadata({SOURCES_KEY: encoded})
        pq.write_table(rows, draft)
        with contextlib.suppress(FileExistsError):  # another run was first; its rows count
            os.link(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def _check_not_late(path: Path) -> None:
    later = [f.stem for f in path.parent.glob("*.parquet") if f.stem > path.stem]
    if later:
        raise Refused(f"snapshot {path.stem} is older than the snapshot of {max(later)}")
