"""Incidents in PostgreSQL."""

from __future__ import annotations

from mlplatform.rollouts.drift.sql import PART, SqlIncidents
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import ANSWER_S, PostgresDatabase
from mlplatform.runtime.storage.sql import Schema

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE incidents (id TEXT PRIMARY KEY, model TEXT NOT NULL, kind TEXT NOT NULL,"
            " opened_ms BIGINT NOT NULL, changed_ms BIGINT NOT NULL, champion BIGINT NOT NULL,"
            " evidence TEXT NOT NULL, state TEXT NOT NULL CHECK"
            " (state IN ('open', 'claimed', 'answered', 'closed')),"
            " claim BIGINT NOT NULL DEFAULT 0, holder TEXT, until_ms BIGINT NOT NULL DEFAULT 0,"
            " answer BIGINT, seq BIGINT GENERATED ALWAYS AS IDENTITY)",
            "CREATE UNIQUE INDEX incidents_one_open ON incidents (model) WHERE state <> 'closed'",
            "CREATE TABLE incident_changes (incident TEXT NOT NULL REFERENCES incidents (id),"
            " number BIGINT NOT NULL, at_ms BIGINT NOT NULL, state TEXT NOT NULL,"
            " claim BIGINT NOT NULL, holder TEXT, note TEXT NOT NULL,"
            " PRIMARY KEY (incident, number))",
            "CREATE FUNCTION incident_changes_only_grow() RETURNS trigger LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'the journal of incidents only grows'; END $$",
            "CREATE TRIGGER incident_changes_stay BEFORE UPDATE OR DELETE OR TRUNCATE"
            " ON incident_changes FOR EACH STATEMENT EXECUTE FUNCTION incident_changes_only_grow()",
        ),
        (
            "CREATE TABLE incident_positions (position BIGINT PRIMARY KEY,"
            " incident TEXT NOT NULL, number BIGINT NOT NULL, UNIQUE (incident, number))",
            "INSERT INTO incident_positions SELECT row_number()"
            " OVER (ORDER BY at_ms, incident, number), incident, number FROM incident_changes",
            "DROP INDEX IF EXISTS incidents_one_open",
            "CREATE UNIQUE INDEX IF NOT EXISTS incidents_one_of_a_kind ON incidents (model, kind)"
            " WHERE state <> 'closed'",
            "CREATE TABLE IF NOT EXISTS incident_ends (incident TEXT PRIMARY KEY"
            " REFERENCES incidents (id), ended_ms BIGINT NOT NULL)",
        ),
    ),
)


class PostgresIncidents(SqlIncidents):
    """Incidents on a server that any number of threads and processes share."""

    order = "seq"

    def __init__(self, address: Address, *, answer_s: float = ANSWER_S) -> None:
        super().__init__(PostgresDatabase(address, SCHEMA, answer_s=answer_s))
