"""Compaction of an external view's parts: many are merged into one, without rows that have ended.
The rows that training joins and the online store holds stay the same."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import duckdb
import msgspec
import pyarrow.parquet as pq

from mlplatform.learning.features.external.point_in_time_join import RANK
from mlplatform.learning.features.external.table_import import GROUP_ROWS, database
from mlplatform.learning.features.external_parts import (
    ClientPushes,
    ExternalParts,
    Part,
    PartNote,
)
from mlplatform.learning.features.online import CREATED, EVENT_TIMESTAMP
from mlplatform.model.features.views import FeatureView, quote
from mlplatform.runtime.units import DAY_S

SMALL_ROWS: Final = 4_000_000
MOST_SMALL: Final = 16
"""Number of parts with fewer than `SMALL_ROWS` rows that are merged into one."""
DROPPED_SHARE: Final = 0.1
"""Least share of all rows that must have ended before all parts are written again."""
READ_S: Final = DAY_S
"""Longest time in seconds that a reader of merged parts may take."""


class CompactionResult(msgspec.Struct, frozen=True):
    """The result of a compaction.

    Args:
        merged: number of parts that were merged into one.
        dropped: number of rows that had ended and were left out.
    """

    merged: int = 0
    dropped: int = 0


def compact(view: FeatureView, parts: ExternalParts, *, horizon_ms: int | None) -> CompactionResult:
    """Merge small parts, and leave out rows that no request since the horizon can read.

    A row has ended if its values are older than the view's ttl at the horizon, and its entity has a
    newer row. If the process is killed at any point, the parts are as before or as after. A running
    import is not waited for.

    Args:
        horizon_ms: event time of the oldest request that training may still join; None keeps all
            rows.
    """
    if not parts.every() or parts.is_importing():
        return CompactionResult()
    with parts.building() as building, database(building) as db:
        parts.remove_replaced(time.time() - READ_S)
        served = parts.served_parts()
        if not served:
            return CompactionResult()
        ended = 0 if horizon_ms is None else _mark_ended(db, view, served, horizon_ms)
        total = sum(_rows(part) for part in served)
        if ended and ended >= DROPPED_SHARE * total:
            chosen = served
        else:
            chosen = [part for part in served if _rows(part) < SMALL_ROWS]
            if len(chosen) < MOST_SMALL:
                return CompactionResult()
            ended = 0
        draft = building / "part.parquet"
        _write(db, view, "rows_" if ended else _union(chosen), draft, ended=bool(ended))
        parts.add(draft, _note(parts, chosen))
        return CompactionResult(len(chosen), ended)


def _rows(part: Part) -> int:
    return int(pq.read_metadata(part.path).num_rows)


def _union(parts: Sequence[Part]) -> str:
    return f"({' UNION ALL BY NAME '.join(f'({part.rows_sql})' for part in parts)})"


def _mark_ended(
    db: duckdb.DuckDBPyConnection, view: FeatureView, parts: Sequence[Part], horizon_ms: int
) -> int:
    """Create the view `rows_` with a column `ended_`. Returns the number of rows that have
    ended."""
    key = quote(view.join_key)
    last = f"epoch_ms({horizon_ms - view.ttl_ms})"
    db.execute(
        f"CREATE VIEW rows_ AS SELECT *, {EVENT_TIMESTAMP} < {last} AND {RANK} < max({RANK}) OVER"
        f" (PARTITION BY {key}) AS ended_ FROM {_union(parts)}"
    )
    (count,) = db.execute("SELECT count(*) FROM rows_ WHERE ended_").fetchall()[0]
    return int(count)


def _write(
    db: duckdb.DuckDBPyConnection, view: FeatureView, rows: str, path: Path, *, ended: bool
) -> None:
    order = quote(view.join_key, EVENT_TIMESTAMP, CREATED)
    chosen = "SELECT * EXCLUDE (ended_) FROM rows_ WHERE NOT ended_" if ended else f"FROM {rows}"
    target = str(path).replace("'", "''")
    db.execute(
        f"COPY ({chosen} ORDER BY {order}) TO '{target}'"
        f" (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {GROUP_ROWS})"
    )


def _note(parts: ExternalParts, chosen: Sequence[Part]) -> PartNote:
    paths = {part.path for part in chosen}
    chosen_notes = [(path, note) for path, note in parts.parts_and_notes() if path in paths]
    notes = [note for _, note in chosen_notes]
    held = {note.identity(path.stem) for path, note in chosen_notes}
    # with the parts that these replaced earlier, which may still be there
    replaced = {path.stem for path in paths} | {name for note in notes for name in note.replaces}
    pushed: dict[str, ClientPushes] = {}
    for client, one in (pair for note in notes for pair in note.pushed.items()):
        before = pushed.get(client, ClientPushes(0, 0, one.first_ms, one.last_ms))
        pushed[client] = ClientPushes(
            pushes=before.pushes + one.pushes,
            rows=before.rows + one.rows,
            first_ms=min(before.first_ms, one.first_ms),
            last_ms=max(before.last_ms, one.last_ms),
        )
    return PartNote(
        taken_ms=min(note.taken_ms for note in notes),
        pushed=pushed,
        replaces=tuple(sorted(replaced)),
        held=tuple(sorted(held | {one for note in notes for one in note.held})),
    )
