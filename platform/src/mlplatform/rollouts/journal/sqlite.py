"""The journal of rollouts in one SQLite file, which every gateway polls for its routes."""

from __future__ import annotations

from pathlib import Path

from mlplatform.rollouts.journal.sql import PART, SqlRollouts
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE IF NOT EXISTS journal (seq INTEGER PRIMARY KEY, rollout_id TEXT,"
            " model TEXT, body TEXT NOT NULL, routes TEXT, fence INTEGER,"
            " digest TEXT NOT NULL) STRICT",
            "CREATE INDEX IF NOT EXISTS journal_of_rollout ON journal (rollout_id, seq)",
            "CREATE TABLE IF NOT EXISTS rollouts (rollout_id TEXT PRIMARY KEY, model TEXT NOT NULL,"
            " opened INTEGER NOT NULL, phase TEXT NOT NULL, ramping INTEGER NOT NULL,"
            " finished INTEGER NOT NULL) STRICT",
            "CREATE UNIQUE INDEX IF NOT EXISTS one_ramping ON rollouts (model) WHERE ramping = 1",
            "CREATE TABLE IF NOT EXISTS routes (model TEXT PRIMARY KEY,"
            " generation INTEGER NOT NULL, body TEXT NOT NULL) STRICT",
            "CREATE TABLE IF NOT EXISTS passes (model TEXT PRIMARY KEY, token INTEGER NOT NULL,"
            " holder TEXT, ttl_ms INTEGER NOT NULL, expires_ms INTEGER NOT NULL) STRICT",
            "CREATE TABLE IF NOT EXISTS gateways (gateway TEXT PRIMARY KEY,"
            " generations TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT",
        ),
        (
            "CREATE TABLE IF NOT EXISTS stops (gateway TEXT PRIMARY KEY, stopped TEXT NOT NULL)"
            " STRICT",
        ),
    ),
)
"""The migrations of the tables. Files from before schema versions have the tables of the first step
already."""


class SqliteRollouts(SqlRollouts):
    """`Rollouts`, `Controls`, `Passes` and `Anchors` in one file; safe for threads and processes.

    Args:
        clock: clock whose wall time decides when leases end; None means the system clock.
        durable: a commit survives power loss, not only a killed process.
    """

    def __init__(self, path: Path, clock: Clock | None = None, *, durable: bool = True) -> None:
        super().__init__(SqliteDatabase(path, SCHEMA, durable=durable), clock)
