"""State that is updated with the log's records, in the transaction that makes them durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class ProjectedRecord(NamedTuple):
    """The fields of a record being written that a projection needs; payload is JSON."""

    seq: int
    kind: str
    model: str
    event_ms: int
    payload: str | None


class Projection(Protocol):
    """State that is made from records, each counted once.

    Args:
        tables: idempotent DDL of the tables that the projection has in the log's database.
    """

    @property
    def tables(self) -> str: ...

    def follow(
        self, db: sqlite3.Connection, writer: str, before: int, records: Sequence[ProjectedRecord]
    ) -> None:
        """Update the state with records that a transaction writes; the writer's head is updated
        already.

        A projection that was absent for earlier records of any writer reads those first.

        Args:
            before: number of the writer's last record before `records`.

        If the method raises, its part of the transaction is rolled back, and the records are still
        written.
        """
        ...


_SEQ, _KIND, _MODEL, _EVENT_MS, _PAYLOAD = 1, 2, 4, 5, -1


def committed(row: Sequence[Any]) -> ProjectedRecord:
    """The record of a table row, whose columns are in the order of `record.STORED`."""
    return ProjectedRecord(row[_SEQ], row[_KIND], row[_MODEL], row[_EVENT_MS], row[_PAYLOAD])
