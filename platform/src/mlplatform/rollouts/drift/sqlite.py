"""Incidents in the rollouts' SQLite file."""

from __future__ import annotations

from pathlib import Path

from mlplatform.rollouts.drift.sql import PART, SqlIncidents
from mlplatform.runtime.storage.sql import Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE IF NOT EXISTS incidents (id TEXT PRIMARY KEY, model TEXT NOT NULL,"
            " kind TEXT NOT NULL, opened_ms INTEGER NOT NULL, changed_ms INTEGER NOT NULL,"
            " champion INTEGER NOT NULL, evidence TEXT NOT NULL, state TEXT NOT NULL CHECK"
            " (state IN ('open', 'claimed', 'answered', 'closed')),"
            " claim INTEGER NOT NULL DEFAULT 0, holder TEXT, until_ms INTEGER NOT NULL DEFAULT 0,"
            " answer INTEGER) STRICT",
            "CREATE UNIQUE INDEX IF NOT EXISTS incidents_one_open ON incidents (model)"
            " WHERE state <> 'closed'",
            "CREATE TABLE IF NOT EXISTS incident_changes"
            " (incident TEXT NOT NULL REFERENCES incidents (id), number INTEGER NOT NULL,"
            " at_ms INTEGER NOT NULL, state TEXT NOT NULL, claim INTEGER NOT NULL, holder TEXT,"
            " note TEXT NOT NULL, PRIMARY KEY (incident, number)) STRICT, WITHOUT ROWID",
            "CREATE TRIGGER IF NOT EXISTS incident_changes_stay BEFORE UPDATE ON incident_changes"
            " BEGIN SELECT RAISE(ABORT, 'the journal of incidents only grows'); END",
            "CREATE TRIGGER IF NOT EXISTS incident_changes_remain BEFORE DELETE"
            " ON incident_changes"
            " BEGIN SELECT RAISE(ABORT, 'the journal of incidents only grows'); END",
        ),
        (
            "CREATE TABLE IF NOT EXISTS incident_positions (position INTEGER PRIMARY KEY,"
            " incident TEXT NOT NULL, number INTEGER NOT NULL, UNIQUE (incident, number)) STRICT",
            "INSERT OR IGNORE INTO incident_positions SELECT row_number()"
            " OVER (ORDER BY at_ms, incident, number), incident, number FROM incident_changes",
            "DROP INDEX IF EXISTS incidents_one_open",
            "CREATE UNIQUE INDEX IF NOT EXISTS incidents_one_of_a_kind ON incidents (model, kind)"
            " WHERE state <> 'closed'",
            "CREATE TABLE IF NOT EXISTS incident_ends (incident TEXT PRIMARY KEY"
            " REFERENCES incidents (id), ended_ms INTEGER NOT NULL) STRICT",
        ),
    ),
)
"""The migrations of the tables. Files from before schema versions have the tables of the first step
already."""


class SqliteIncidents(SqlIncidents):
    """Incidents in a SQLite file that any number of threads and processes share."""

    order = "rowid"

    def __init__(self, path: Path) -> None:
        super().__init__(SqliteDatabase(path, SCHEMA))
