"""Building the state of windows from everything known: imported history, then the log."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import starmap
from pathlib import Path
from typing import Any, Final

import numpy as np

from mlplatform.decisions.records.port import DecisionLog, RecordQuery
from mlplatform.decisions.records.projection import ProjectedRecord
from mlplatform.learning.features.offline import OfflineTable
from mlplatform.learning.features.windows.redis import RedisWindows
from mlplatform.learning.features.windows.sql import tiles_sql
from mlplatform.learning.features.windows.state import (
    TABLES,
    NumberedSeries,
    add,
    advance_to_log_end,
    behind,
    catch_up,
    register,
    registered_series,
    unpack,
)
from mlplatform.model.windows.tiles import Series, series_of
from mlplatform.runtime.errors import Busy
from mlplatform.runtime.storage import sqlite

ALL: Final = -1
"""A limit of SQLite that means no limit."""


def build(database: Path, offline: OfflineTable, log: DecisionLog) -> int:
    """Build the state anew beside the present one, which it replaces in one transaction.

    Gateways keep running: the tiles are made in a database of their own and copied from there.
    Records that came after the log was read are added in the transaction of the copy, and later
    records are followed.

    Args:
        database: the database of the decision log.

    Returns:
        How many series of tiles of entities it holds.

    Raises:
        Busy: the log was sealed between the reading and the transaction; try again.
    """
    definition = offline.definition
    shared = [series for series, _ in series_of(definition.windows, definition.entities)]
    position = _log_position(log)
    recorded = _records_of(log, definition.name, position)
    with (
        closing(_built_tiles(offline, shared, recorded)) as made,
        closing(sqlite.connect(database, tables=TABLES)) as db,
    ):
        with sqlite.transaction(db):
            _refuse_sealed(db, position)
            old = registered_series(db).get(definition.name, [])
            for writer, at, head in behind(db, definition.name):
                kept = [one for one in old if one.series not in shared]
                catch_up(db, definition.name, kept, writer, at, head, ALL)
            new = [NumberedSeries(register(db, definition.name, one), one) for one in shared]
            for place, (number, _) in enumerate(new):
                db.execute("DELETE FROM window_tiles WHERE series = ?", (number,))
                rows = made.execute(
                    "SELECT ?, key, tiles FROM window_tiles WHERE series = ?", (number, place)
                )
                db.executemany("INSERT INTO window_tiles VALUES (?, ?, ?)", rows)
            advance_to_log_end(db, definition.name, new, position)
        numbers = ", ".join(str(one.number) for one in new)
        query = f"SELECT count(*) FROM window_tiles WHERE series IN ({numbers})"
        return int(db.execute(query).fetchone()[0])


def build_shared(store: RedisWindows, offline: OfflineTable, log: DecisionLog) -> int:
    """Build the state of windows on a server that gateways share. Returns the number of series of
    tiles of entities.

    Each gateway adds what was recorded since the log was read, from its own log.

    Args:
        log: the log into which the logs of all gateways are replicated.
    """
    series, position = store.own.series, _log_position(log)
    recorded = _records_of(log, offline.definition.name, position)
    with closing(_built_tiles(offline, series, recorded)) as made:
        rows = made.execute("SELECT series, key, tiles FROM window_tiles")
        return store.build(
            position, ((n, key, unpack(t, len(series[n].columns))) for n, key, t in rows)
        )


def _log_position(log: DecisionLog) -> dict[str, int]:
    return {mark.writer: mark.seq for mark in log.watermarks() if mark.seq}


def _built_tiles(
    offline: OfflineTable, shared: Sequence[Series], recorded: Iterable[ProjectedRecord]
) -> sqlite3.Connection:
    """The tiles of series, under their places, in a database that lasts as long as its connection.

    It takes long: no gateway waits for it.
    """
    made = sqlite3.connect("", isolation_level=None)
    try:
        made.executescript(TABLES)
        with sqlite.transaction(made):
            for place, series in enumerate(shared):
                rows = ((place, key, tiles) for key, tiles in _history(offline, series))
                made.executemany("INSERT INTO window_tiles VALUES (?, ?, ?)", rows)
            add(
                made,
                offline.definition.name,
                [*starmap(NumberedSeries, enumerate(shared))],
                recorded,
            )
    except BaseException:
        made.close()
        raise
    return made


def _records_of(
    log: DecisionLog, model: str, position: Mapping[str, int]
) -> Iterator[ProjectedRecord]:
    columns = ("writer", "seq", "event_ms", "payload")
    records = log.read(RecordQuery(model=model, kinds=("decision",), columns=columns))
    for batch in records.to_batches(max_chunksize=10_000):
        for row in batch.to_pylist():
            if row["seq"] <= position.get(row["writer"], 0):
                yield ProjectedRecord(
                    row["seq"], "decision", model, row["event_ms"], row["payload"]
                )


def _refuse_sealed(db: sqlite3.Connection, position: Mapping[str, int]) -> None:
    for writer, last in db.execute("SELECT writer, max(last) FROM segments GROUP BY writer"):
        if last > position.get(writer, 0):
            raise Busy(f"the log of {writer} was sealed meanwhile; build the windows once more")


def _history(offline: OfflineTable, series: Series) -> Iterator[tuple[Any, bytes]]:
    """Key and tiles of every entity in that part of the history to which the windows reach back."""
    end_ms = offline.history_end_ms()
    if end_ms is None:
        return
    from_ms = end_ms - series.retained * series.tile_ms
    offline.db.register("window_history", offline.history(from_ms).to_arrow_table())
    table = offline.db.sql(tiles_sql(series, "window_history")).to_arrow_table()
    if not table.num_rows:
        return
    columns = np.stack([table[name].to_numpy() for name in series.columns]).astype("<i8")
    keys = table["key"].to_pylist()
    counts = table["tiles"].to_numpy()
    starts = np.flatnonzero(counts)
    for start in starts:
        end = start + counts[start]
        part = columns[:, start:end]
        kept = part[:, part[0] > part[0, -1] - series.retained]
        yield keys[start], kept.tobytes()
