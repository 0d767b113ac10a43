"""A request's windows: the port that serves them, and the state beside the decision log."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mlplatform.learning.features.online import OnlineFeatures, OnlineRow
from mlplatform.learning.features.windows.state import (
    MOST_BEHIND,
    SERIES_NUMBER,
    declaration,
    unpack,
)
from mlplatform.model.windows.declaration import Window, by_entity
from mlplatform.model.windows.ratios import ratios_of
from mlplatform.model.windows.tiles import Columns, Series, SeriesReader, new_columns, series_of
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.wal_readers import WalReaders

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

RECHECK_S: Final = 0.5
"""Seconds between two checks for a state that was missing, and for another file of that name."""
_POSITIONS: Final = (
    "SELECT -1, NULL, w.writer, coalesce(p.seq, 0), w.seq FROM writers w LEFT JOIN"
    " window_positions p ON p.model = ? AND p.writer = w.writer WHERE w.seq > 0"
)
_TILES: Final = (
    "SELECT series, tiles, NULL, NULL, NULL FROM window_tiles WHERE series = ? AND key = ?"
)


class Windows(Protocol):
    """The windows of one model's requests.

    Tiles and positions of a read are of one moment, and the positions of all reads have an order:
    of two positions, one includes all records of the other. So served values can be counted again
    from the records.

    Args:
        is_remote: whether every read waits for another process; then do not call it from an event
            loop.
    """

    is_remote: bool

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        """Every window at that time, from the present state.

        Windows whose state is not there, or far behind the log, are stale: they have no value.

        Args:
            keys: entity → its key.

        Raises:
            sqlite3.Error, Unavailable: the state can't be read.
        """
        ...

    def is_held_up(self) -> bool:
        """Whether a read would have to wait for another process now; costs next to nothing."""
        ...

    def close(self) -> None: ...


class WindowValues:
    """Computes the values of a model's windows from the tiles of each series.

    Args:
        keys: entity → the request field that holds its key.
    """

    def __init__(self, windows: Sequence[Window], keys: Mapping[str, str]) -> None:
        shared = series_of(windows, keys)
        entities = {window.entity: keys[window.entity] for window in windows}
        self.series: tuple[Series, ...] = tuple(series for series, _ in shared)
        self.entities: tuple[str, ...] = tuple(
            next(e for e, key in entities.items() if key == series.key) for series in self.series
        )
        """The entity of each series."""
        self._none = [new_columns(series) for series in self.series]
        self._readers = [SeriesReader(series, of) for series, of in shared]
        self._sources = [(s.name, s.entity) for s in by_entity(windows, keys)]
        self._ratios = ratios_of(windows)
        self._names = [w.name for w in windows]

    def row(
        self, tiles: Sequence[Columns | None], position: Mapping[str, int], event_ms: int
    ) -> OnlineRow:
        """The values of every window at a time.

        Args:
            tiles: the entity's tiles for each series; None where nothing is known of the entity.
        """
        values: dict[str, float | None] = {}
        known = set()
        for entity, reader, columns, none in zip(
            self.entities, self._readers, tiles, self._none, strict=True
        ):
            if columns is not None:
                known.add(entity)
            reader.fill(values, none if columns is None else columns, event_ms)
        for ratio in self._ratios:
            values[ratio.name] = ratio.of_values(values)
        times = {name: event_ms if entity in known else None for name, entity in self._sources}
        return OnlineRow(values, times, (), position)

    def stale(self) -> OnlineRow:
        """A row without values, for windows whose state is unknown."""
        names = [name for name, _ in self._sources]
        return OnlineRow(dict.fromkeys(self._names), dict.fromkeys(names), names)


class WindowReads:
    """`Windows` of the state beside the decision log of one home.

    A read is one statement, so that tiles and positions are of one moment, and waits for nobody.

    Args:
        database: the database of the decision log; it may not exist yet.
        keys: entity → the request field that holds its key.
    """

    is_remote = False

    def __init__(
        self, database: Path, model: str, windows: Sequence[Window], keys: Mapping[str, str]
    ) -> None:
        self._path = database
        self._model = model
        self._values = WindowValues(windows, keys)
        self._widths = [len(series.columns) for series in self._values.series]
        self._numbers: list[int] = []
        self._select = " UNION ALL ".join([_POSITIONS, *[_TILES] * len(self._widths)])
        self._db: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None
        self._readers = WalReaders(database)
        self._next_check_s = 0.0

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        db = self._connection()
        if not self._numbers:
            return self._values.stale()
        parameters: list[object] = [self._model]
        for number, entity in zip(self._numbers, self._values.entities, strict=True):
            parameters += (number, keys.get(entity))
        stored: dict[int, bytes] = {}
        position: dict[str, int] = {}
        behind = 0
        for number, tiles, writer, seq, head in db.execute(self._select, parameters):
            if number < 0:
                position[writer] = seq
                behind += head - seq
            else:
                stored[number] = tiles
        if behind > MOST_BEHIND:
            return self._values.stale()
        found = [
            None if number not in stored else unpack(stored[number], width)
            for number, width in zip(self._numbers, self._widths, strict=True)
        ]
        return self._values.row(found, position, event_ms)

    def is_held_up(self) -> bool:
        return self._readers.are_held_up()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _connection(self) -> sqlite3.Connection:
        """A connection to the file that has the database's name now; a writer has created its
        tables."""
        now_s = time.monotonic()
        if self._db is None or now_s >= self._next_check_s:
            self._next_check_s = now_s + RECHECK_S
            self._follow()
            if not self._numbers and self._db is not None:
                with suppress(sqlite3.OperationalError):  # nobody has made the tables yet
                    self._find(self._db)
        if self._db is None:
            raise Unavailable(f"{self._path} is not there")
        return self._db

    def _follow(self) -> None:
        try:
            found = os.stat(self._path)
        except OSError as error:
            raise Unavailable(f"{self._path} is gone or cannot be reached") from error
        if self._opened is None or not os.path.samestat(found, self._opened):
            db = sqlite3.connect(
                self._path, timeout=0, isolation_level=None, check_same_thread=False
            )
            self.close()
            self._db, self._opened, self._numbers = db, found, []
            self._readers = WalReaders(self._path)

    def _find(self, db: sqlite3.Connection) -> None:
        numbers = []
        for series in self._values.series:
            row = db.execute(SERIES_NUMBER, (self._model, declaration(series))).fetchone()
            if row is None:
                return
            numbers.append(row[0])
        self._numbers = numbers


class FeaturesWithWindows:
    """OnlineFeatures of a model with windows: its stored features and its windows."""

    def __init__(self, stored: OnlineFeatures, windows: Windows) -> None:
        self._stored = stored
        self._windows = windows
        self.is_remote = stored.is_remote or windows.is_remote

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        row, windows = self._stored.read(keys, event_ms), self._windows.read(keys, event_ms)
        stale: Collection[str] = {*row.stale, *windows.stale}
        return OnlineRow(
            row.values | windows.values, row.times | windows.times, stale, windows.position
        )

    def is_held_up(self) -> bool:
        return self._stored.is_held_up() or self._windows.is_held_up()

    def newest(self) -> Mapping[str, int | None]:
        return self._stored.newest()

    def write(self, view: str, rows: pa.Table) -> int:
        return self._stored.write(view, rows)

    def close(self) -> None:
        self._windows.close()
        self._stored.close()
