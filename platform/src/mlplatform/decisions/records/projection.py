"""What is kept up to date with the log's records, in the transaction that makes them durable."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol


class ProjectedRecord(NamedTuple):
    """A record that is being written, as much of it as a projection needs; payload is JSON."""

    seq: int
    kind: str
    model: str
    event_ms: int
    payload: str | None


class Projection(Protocol):
    """State that is made of records, each once.

    Args:
        tables: DDL, idempotent, of the tables that it has in the log's database.
    """

    @property
    def tables(self) -> str: ...

    def follow(
        self, db: sqlite3.Connection, writer: str, before: int, records: Sequence[ProjectedRecord]
    ) -> None:
        """Take in records that a transaction writes; the writer's head is moved already.

        A projection that was not there for earlier records of any writer takes those in first.

        Args:
            before: the number of the writer's last record before these.

        Where it raises, its part of the transaction is rolled back, and the records are written.
        """
        ...


_SEQ, _KIND, _MODEL, _EVENT_MS, _PAYLOAD = 1, 2, 4, 5, -1


def committed(row: Sequence[Any]) -> ProjectedRecord:
    """A row of the table of records, in the order of `tables.STORED`."""
    return ProjectedRecord(row[_SEQ], row[_KIND], row[_MODEL], row[_EVENT_MS], row[_PAYLOAD])
