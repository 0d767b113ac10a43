"""Incidents in the rollouts' database: one open a model, a journal that only grows."""

from __future__ import annotations

import builtins
import json
import sqlite3
from pathlib import Path
from typing import Any

from mlplatform.canonical import canonical_json
from mlplatform.drift.incidents import (
    Change,
    Claimed,
    ClaimOutcome,
    Finding,
    Held,
    Incident,
    Over,
    State,
)
from mlplatform.errors import NotFound, StaleFence
from mlplatform.sqlite import connect, transaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS incidents (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    kind TEXT NOT NULL,
    opened_ms INTEGER NOT NULL,
    changed_ms INTEGER NOT NULL,
    champion INTEGER NOT NULL,
    evidence TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('open', 'claimed', 'answered', 'closed')),
    claim INTEGER NOT NULL DEFAULT 0,
    holder TEXT,
    until_ms INTEGER NOT NULL DEFAULT 0,
    answer INTEGER
) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS incidents_one_open ON incidents (model) WHERE state <> 'closed';
CREATE TABLE IF NOT EXISTS incident_changes (
    incident TEXT NOT NULL REFERENCES incidents (id),
    number INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    state TEXT NOT NULL,
    claim INTEGER NOT NULL,
    holder TEXT,
    note TEXT NOT NULL,
    PRIMARY KEY (incident, number)
) STRICT, WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS incident_changes_stay BEFORE UPDATE ON incident_changes
BEGIN SELECT RAISE(ABORT, 'the journal of incidents only grows'); END;
CREATE TRIGGER IF NOT EXISTS incident_changes_remain BEFORE DELETE ON incident_changes
BEGIN SELECT RAISE(ABORT, 'the journal of incidents only grows'); END;
"""


class SqliteIncidents:
    """Incidents in a SQLite file that any number of processes share; one object per thread."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path, schema=SCHEMA)
        self._db.row_factory = sqlite3.Row

    def open(self, found: Finding, *, now_ms: int) -> Incident:
        with transaction(self._db) as db:
            row = db.execute(
                "SELECT id FROM incidents WHERE model = ? AND state <> 'closed'", (found.model,)
            ).fetchone()
            if row is None:
                name = self._insert(found)
                self._journal(name, now_ms, f"{found.kind} of version {found.champion}")
            else:
                name = row["id"]
            return self._read(name)

    def claim(self, incident: str, holder: str, *, until_ms: int, now_ms: int) -> ClaimOutcome:
        with transaction(self._db) as db:
            swapped = db.execute(
                "UPDATE incidents SET state = 'claimed', claim = claim + 1, holder = ?,"
                " until_ms = ? WHERE id = ?"
                " AND (state = 'open' OR (state = 'claimed' AND until_ms <= ?))",
                (holder, until_ms, incident, now_ms),
            ).rowcount
            now = self._read(incident)
            if swapped:
                self._journal(incident, now_ms, f"claimed by {holder}")
                return Claimed(now.claim, until_ms)
            if now.state == "claimed":
                return Held(now.claim, now.holder or "", now.until_ms)
            return Over(now.state)

    def answer(
        self, incident: str, claim: int, *, version: int | None, note: str, now_ms: int
    ) -> None:
        with transaction(self._db) as db:
            now = self._read(incident)
            if (now.state, now.claim, now.answer) == ("answered", claim, version):
                return
            if now.state != "claimed" or now.claim != claim:
                raise StaleFence(
                    f"claim {claim} of incident {incident} is over: it is {now.state}, "
                    f"its last claim is {now.claim}"
                )
            db.execute(
                "UPDATE incidents SET state = 'answered', answer = ? WHERE id = ?",
                (version, incident),
            )
            self._journal(incident, now_ms, note)

    def close(self, incident: str, resolution: str, *, now_ms: int) -> None:
        with transaction(self._db) as db:
            if self._read(incident).state == "closed":
                return
            db.execute("UPDATE incidents SET state = 'closed' WHERE id = ?", (incident,))
            self._journal(incident, now_ms, resolution)

    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]:
        with transaction(self._db) as db:  # an incident and its journal of one moment
            rows = db.execute(
                "SELECT * FROM incidents WHERE (?1 IS NULL OR model = ?1)"
                " AND (?2 OR state <> 'closed') ORDER BY rowid",
                (model, closed),
            ).fetchall()
            return [self._incident(row) for row in rows]

    def shut(self) -> None:
        """Give the connection back."""
        self._db.close()

    def _insert(self, found: Finding) -> str:
        count = self._db.execute(
            "SELECT count(*) FROM incidents WHERE model = ?", (found.model,)
        ).fetchone()[0]
        name = f"{found.model}-{found.kind}-{count + 1}"
        self._db.execute(
            "INSERT INTO incidents (id, model, kind, opened_ms, changed_ms, champion, evidence,"
            " state) VALUES (?, ?, ?, ?, ?, ?, ?, 'open')",
            (
                name,
                found.model,
                found.kind,
                found.opened_ms,
                found.changed_ms,
                found.champion,
                canonical_json(found.evidence).decode(),
            ),
        )
        return name

    def _journal(self, incident: str, at_ms: int, note: str) -> None:
        """Append what the incident is now; within the transaction that made it so."""
        self._db.execute(
            "INSERT INTO incident_changes SELECT ?1, count(c.number) + 1, ?2, i.state, i.claim,"
            " i.holder, ?3 FROM incidents i LEFT JOIN incident_changes c ON c.incident = i.id"
            " WHERE i.id = ?1",
            (incident, at_ms, note),
        )

    def _read(self, incident: str) -> Incident:
        row = self._db.execute("SELECT * FROM incidents WHERE id = ?", (incident,)).fetchone()
        if row is None:
            raise NotFound(f"no incident {incident!r}")
        return self._incident(row)

    def _incident(self, row: sqlite3.Row) -> Incident:
        found = Finding(
            model=row["model"],
            kind=row["kind"],
            opened_ms=row["opened_ms"],
            changed_ms=row["changed_ms"],
            champion=row["champion"],
            evidence=_object(row["evidence"]),
        )
        return Incident(
            id=row["id"],
            found=found,
            state=_state(row["state"]),
            claim=row["claim"],
            holder=row["holder"],
            until_ms=row["until_ms"],
            answer=row["answer"],
            changes=tuple(self._changes(row["id"])),
        )

    def _changes(self, incident: str) -> builtins.list[Change]:
        rows = self._db.execute(
            "SELECT number, at_ms, state, claim, holder, note FROM incident_changes"
            " WHERE incident = ? ORDER BY number",
            (incident,),
        )
        return [Change(**{**dict(row), "state": _state(row["state"])}) for row in rows]


def _state(text: str) -> State:
    match text:
        case "open" | "claimed" | "answered" | "closed":
            return text
    raise ValueError(f"{text!r} is no state of an incident")


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
