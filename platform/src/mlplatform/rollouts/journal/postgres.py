"""The journal of rollouts in PostgreSQL, which every gateway polls for its routes."""

from __future__ import annotations

from mlplatform.rollouts.journal.sql import PART, SqlRollouts
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import ANSWER_S, PostgresDatabase
from mlplatform.runtime.storage.sql import Schema

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE journal (seq BIGINT PRIMARY KEY, rollout_id TEXT, model TEXT,"
            " body TEXT NOT NULL, routes TEXT, fence BIGINT, digest TEXT NOT NULL)",
            "CREATE INDEX journal_of_rollout ON journal (rollout_id, seq)",
            "CREATE TABLE rollouts (rollout_id TEXT PRIMARY KEY, model TEXT NOT NULL,"
            " opened BIGINT NOT NULL, phase TEXT NOT NULL, ramping INTEGER NOT NULL,"
            " finished INTEGER NOT NULL)",
            "CREATE UNIQUE INDEX one_ramping ON rollouts (model) WHERE ramping = 1",
            "CREATE TABLE routes (model TEXT PRIMARY KEY, generation BIGINT NOT NULL,"
            " body TEXT NOT NULL)",
            "CREATE TABLE passes (model TEXT PRIMARY KEY, token BIGINT NOT NULL, holder TEXT,"
            " ttl_ms BIGINT NOT NULL, expires_ms BIGINT NOT NULL)",
            "CREATE TABLE gateways (gateway TEXT PRIMARY KEY, generations TEXT NOT NULL,"
            " expires_ms BIGINT NOT NULL)",
        ),
        ("CREATE TABLE stops (gateway TEXT PRIMARY KEY, stopped TEXT NOT NULL)",),
    ),
)


class PostgresRollouts(SqlRollouts):
    """`Rollouts`, `Controls`, `Passes` and `Anchors`; safe for threads and processes.

    Args:
        clock: clock whose wall time decides when leases end; None means the system clock.
        answer_s: seconds for which each step waits for the server.
    """

    def __init__(
        self, address: Address, clock: Clock | None = None, *, answer_s: float = ANSWER_S
    ) -> None:
        super().__init__(PostgresDatabase(address, SCHEMA, answer_s=answer_s), clock)
