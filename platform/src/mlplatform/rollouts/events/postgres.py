"""Positions of receivers in PostgreSQL."""

from __future__ import annotations

from mlplatform.rollouts.events.sql import PART, SqlPositions
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import ANSWER_S, PostgresDatabase
from mlplatform.runtime.storage.sql import Schema

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE receivers (receiver TEXT PRIMARY KEY,"
            " rollouts BIGINT NOT NULL, incidents BIGINT NOT NULL,"
            " token BIGINT NOT NULL DEFAULT 0, holder TEXT, until_ms BIGINT NOT NULL DEFAULT 0,"
            " declared INTEGER NOT NULL DEFAULT 1, delivered BIGINT NOT NULL DEFAULT 0,"
            " failed BIGINT NOT NULL DEFAULT 0, stopped TEXT NOT NULL DEFAULT '',"
            " failure TEXT NOT NULL DEFAULT '')",
        ),
    ),
)


class PostgresPositions(SqlPositions):
    """Positions on a server that any number of threads and processes share."""

    def __init__(self, address: Address, *, answer_s: float = ANSWER_S) -> None:
        super().__init__(PostgresDatabase(address, SCHEMA, answer_s=answer_s))
