"""A request's windows, read from the state beside the decision log, with its stored features."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.learning.features.online import OnlineFeatures, OnlineRow
from mlplatform.learning.features.windows.state import MOST_BEHIND, declaration, unpack
from mlplatform.model.windows.declaration import Window, by_entity
from mlplatform.model.windows.tiles import Reader, series_of
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.wal_readers import WalReaders

if TYPE_CHECKING:
    import pyarrow as pa

LOOK_AGAIN_S: Final = 0.5
"""So often it is looked for a state that was not there, and for another file of that name."""
_POSITIONS: Final = (
    "SELECT -1, NULL, w.writer, coalesce(p.seq, 0), w.seq FROM writers w LEFT JOIN"
    " window_positions p ON p.model = ? AND p.writer = w.writer WHERE w.seq > 0"
)
_TILES: Final = (
    "SELECT series, tiles, NULL, NULL, NULL FROM window_tiles WHERE series = ? AND key = ?"
)
_NUMBER: Final = "SELECT id FROM window_series WHERE model = ? AND declaration = ?"


class WindowReads:
    """The windows of one model's requests.

    A read is one statement, so that tiles and positions are of one moment, and waits for nobody.

    Args:
        database: the decision log's; it need not be there yet.
        keys: entity → the request field that holds its key.
    """

    def __init__(
        self, database: Path, model: str, windows: Sequence[Window], keys: Mapping[str, str]
    ) -> None:
        self._path = database
        self._model = model
        self._shared = series_of(windows, keys)
        entities = {window.entity: keys[window.entity] for window in windows}
        self._entity_of = [
            next(e for e, key in entities.items() if key == series.key)
            for series, _ in self._shared
        ]
        self._sources = [(s.name, s.entity) for s in by_entity(windows, keys)]
        self._readers_of = [(Reader(s, windows), len(s.columns)) for s, windows in self._shared]
        self._numbers: list[int] = []
        self._select = " UNION ALL ".join([_POSITIONS, *[_TILES] * len(self._shared)])
        self._db: sqlite3.Connection | None = None
        self._opened: os.stat_result | None = None
        self._readers = WalReaders(database)
        self._look_at_s = 0.0

    def read(self, keys: Mapping[str, int], event_ms: int) -> OnlineRow:
        """Every window at that time, of what the log holds now.

        Windows whose state is not there, or far behind the log, are stale: they have no value.

        Raises:
            sqlite3.Error, Unavailable: the log's database can't be read.
        """
        db = self._connection()
        if not self._numbers:
            return self._stale()
        parameters: list[object] = [self._model]
        for number, entity in zip(self._numbers, self._entity_of, strict=True):
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
            return self._stale()
        return self._row(stored, position, event_ms)

    def is_held_up(self) -> bool:
        return self._readers.are_held_up()

    def close(self) -> None:
        if self._db is not None:
            self._db.close()

    def _row(
        self, stored: Mapping[int, bytes], position: Mapping[str, int], event_ms: int
    ) -> OnlineRow:
        values: dict[str, float | None] = {}
        known = set()
        for number, entity, (reader, width) in zip(
            self._numbers, self._entity_of, self._readers_of, strict=True
        ):
            tiles = stored.get(number)
            columns = unpack(tiles or b"", width)
            if tiles is not None:
                known.add(entity)
            reader.fill(values, columns, event_ms)
        times = {name: event_ms if entity in known else None for name, entity in self._sources}
        return OnlineRow(values, times, (), position)

    def _stale(self) -> OnlineRow:
        values = {w.name: None for _, windows in self._shared for w in windows}
        names = [name for name, _ in self._sources]
        return OnlineRow(dict(values), dict.fromkeys(names), names)

    def _connection(self) -> sqlite3.Connection:
        """To the file that has the database's name now; a writer has set it up."""
        now_s = time.monotonic()
        if self._db is None or now_s >= self._look_at_s:
            self._look_at_s = now_s + LOOK_AGAIN_S
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
        for series, _ in self._shared:
            row = db.execute(_NUMBER, (self._model, declaration(series))).fetchone()
            if row is None:
                return
            numbers.append(row[0])
        self._numbers = numbers


class FeaturesWithWindows:
    """OnlineFeatures of a model that has windows: its stored features, and what the log holds."""

    def __init__(self, stored: OnlineFeatures, windows: WindowReads) -> None:
        self._stored = stored
        self._windows = windows
        self.is_remote = stored.is_remote

    def read(self, keys: Mapping[str, int], event_ms: int) -> OnlineRow:
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
