"""Positions of receivers in the rollouts' SQLite file."""

from __future__ import annotations

from pathlib import Path

from mlplatform.rollouts.events.sql import PART, SqlPositions
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE IF NOT EXISTS receivers (receiver TEXT PRIMARY KEY,"
            " rollouts INTEGER NOT NULL, incidents INTEGER NOT NULL,"
            " token INTEGER NOT NULL DEFAULT 0, holder TEXT, until_ms INTEGER NOT NULL DEFAULT 0,"
            " declared INTEGER NOT NULL DEFAULT 1, delivered INTEGER NOT NULL DEFAULT 0,"
            " failed INTEGER NOT NULL DEFAULT 0, stopped TEXT NOT NULL DEFAULT '',"
            " failure TEXT NOT NULL DEFAULT '') STRICT",
        ),
    ),
)


class SqlitePositions(SqlPositions):
    """Positions in a SQLite file that any number of threads and processes share.

    Args:
        durable: recorded deliveries survive power loss too, so they are not sent again.
    """

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        super().__init__(SqliteDatabase(path, SCHEMA, durable=durable))
