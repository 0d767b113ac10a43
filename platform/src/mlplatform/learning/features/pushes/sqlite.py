"""Pushes in a SQLite file of the home folder."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path

from mlplatform.decisions.topics.messages import DroppedRange
from mlplatform.learning.features.pushes.gaps import StreamGap
from mlplatform.learning.features.pushes.journal import (
    DurablePush,
    KeptPush,
    Place,
    Push,
    ReusedKey,
)
from mlplatform.learning.features.pushes.sql import (
    COLUMNS,
    GAPS,
    PART,
    REST,
    TOPICS_READ,
    SqlPushes,
)
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE IF NOT EXISTS pushes (number INTEGER PRIMARY KEY AUTOINCREMENT,"
            f" {COLUMNS.format(whole='INTEGER')}) STRICT",
            *REST,
        ),
        (TOPICS_READ,),
        (GAPS,),
    ),
)


class SqlitePushes(SqlPushes):
    """Pushes in a file that any number of threads and processes share.

    Args:
        durable: whether a confirmed push survives a power failure, and not only a killed process.
    """

    def __init__(self, path: Path, *, durable: bool) -> None:
        self._path = path
        with self._translated():
            self._file = SqliteDatabase(path, SCHEMA, durable=durable)
            super().__init__(self._file)

    def add(self, pushes: Sequence[Push], now_ms: int) -> Sequence[DurablePush] | ReusedKey:
        with self._translated():
            return super().add(pushes, now_ms)

    def add_read(self, push: Push, places: Sequence[Place], now_ms: int) -> KeptPush | None:
        with self._translated():
            return super().add_read(push, places, now_ms)

    def begin_reading(self, model: str, view: str, places: Sequence[Place]) -> None:
        with self._translated():
            super().begin_reading(model, view, places)

    def topics_read(self, model: str, view: str) -> Mapping[tuple[str, int], str]:
        with self._translated():
            return super().topics_read(model, view)

    def add_gaps(
        self,
        model: str,
        view: str,
        dropped: Sequence[DroppedRange],
        topic_ids: Mapping[str, str],
        found_ms: int,
    ) -> Sequence[StreamGap]:
        with self._translated():
            return super().add_gaps(model, view, dropped, topic_ids, found_ms)

    def gaps(self, model: str, view: str) -> Sequence[StreamGap]:
        with self._translated():
            return super().gaps(model, view)

    def mark_served(self, number: int, at_ms: int) -> None:
        with self._translated():
            super().mark_served(number, at_ms)

    def waiting(
        self, model: str, view: str, *, after: int = 0, most: int, unserved: bool = False
    ) -> Sequence[KeptPush]:
        with self._translated():
            return super().waiting(model, view, after=after, most=most, unserved=unserved)

    def last(self, model: str, view: str) -> int:
        with self._translated():
            return super().last(model, view)

    def mark_taken(self, model: str, view: str, numbers: Sequence[int], now_ms: int) -> None:
        with self._translated():
            super().mark_taken(model, view, numbers, now_ms)

    def erase(self, model: str, view: str, keys: Set[int | str]) -> int:
        """Erase rows. The file is written anew, because rows that training's table has left copies
        in it."""
        with self._translated():
            count = super().erase(model, view, keys)
            self._file.vacuum()
        return count

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise Unavailable(f"pushed features in {self._path}: {error}") from error
