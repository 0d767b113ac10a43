"""Incidents in a database: one open a model and kind, a journal that only grows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar

from mlplatform.rollouts.drift.incidents import (
    Change,
    ClaimOutcome,
    FinishedIncident,
    HeldClaim,
    Incident,
    IncidentClaim,
    IncidentFact,
    IncidentFinding,
    State,
)
from mlplatform.runtime.canonical import canonical_json
from mlplatform.runtime.errors import NotFound, StaleFence
from mlplatform.runtime.storage.sql import Database, Session

PART = "incidents"


class SqlIncidents:
    """`Incidents` in a database; safe for threads and processes."""

    order: ClassVar[str]
    """Name of the column that grows with every incident."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, found: IncidentFinding, *, now_ms: int) -> Incident:
        with self._database.write_transaction() as db:
            rows = db.rows(
                "SELECT id FROM incidents WHERE model = :model AND kind = :kind"
                " AND state <> 'closed'",
                model=found.model,
                kind=found.kind,
            )
            if rows:
                return _read(db, rows[0][0])
            name = _insert(db, found)
            _journal(db, name, now_ms, f"{found.kind} of version {found.champion}")
            return _read(db, name)

    def claim(self, incident: str, holder: str, *, until_ms: int, now_ms: int) -> ClaimOutcome:
        with self._database.write_transaction() as db:
            swapped = db.change(
                "UPDATE incidents SET state = 'claimed', claim = claim + 1, holder = :holder,"
                " until_ms = :until_ms WHERE id = :incident"
                " AND (state = 'open' OR (state = 'claimed' AND until_ms <= :now_ms))",
                incident=incident,
                holder=holder,
                until_ms=until_ms,
                now_ms=now_ms,
            )
            now = _read(db, incident)
            if swapped:
                _journal(db, incident, now_ms, f"{holder} has asked for a retrain")
                return IncidentClaim(now.claim, until_ms)
            if now.state == "claimed":
                return HeldClaim(now.claim, now.holder or "", now.until_ms)
            return FinishedIncident(now.state)

    def prolong(self, incident: str, claim: int, *, until_ms: int) -> None:
        with self._database.write_transaction() as db:
            _require_claim(_read(db, incident), claim)
            db.change(
                "UPDATE incidents SET until_ms = :until_ms WHERE id = :incident",
                until_ms=until_ms,
                incident=incident,
            )

    def answer(
        self, incident: str, claim: int, *, version: int | None, note: str, now_ms: int
    ) -> None:
        with self._database.write_transaction() as db:
            now = _read(db, incident)
            if (now.state, now.claim, now.answer) == ("answered", claim, version):
                return
            _require_claim(now, claim)
            db.change(
                "UPDATE incidents SET state = 'answered', answer = :version WHERE id = :incident",
                version=version,
                incident=incident,
            )
            _journal(db, incident, now_ms, note)

    def close(
        self, incident: str, resolution: str, *, now_ms: int, ended_ms: int | None = None
    ) -> None:
        with self._database.write_transaction() as db:
            if _read(db, incident).state == "closed":
                return
            db.change("UPDATE incidents SET state = 'closed' WHERE id = :id", id=incident)
            if ended_ms is not None:
                db.change(
                    "INSERT INTO incident_ends VALUES (:id, :ended_ms)",
                    id=incident,
                    ended_ms=ended_ms,
                )
            _journal(db, incident, now_ms, resolution)

    def facts(self, after: int, most: int) -> list[IncidentFact]:
        rows = self._database.rows(
            "SELECT p.position, i.id, i.model, i.kind, i.champion,"
            " c.number, c.at_ms, c.state, c.claim, c.holder, c.note FROM incident_positions p"
            " JOIN incident_changes c ON c.incident = p.incident AND c.number = p.number"
            " JOIN incidents i ON i.id = p.incident"
            " LEFT JOIN incident_changes b ON b.incident = c.incident AND b.number = c.number - 1"
            " WHERE p.position > :after"  # a note alone is not an event
            " AND (b.number IS NULL OR b.state <> c.state OR b.claim <> c.claim)"
            " ORDER BY p.position LIMIT :most",
            after=after,
            most=most,
        )
        return [
            IncidentFact(position, incident, model, kind, champion, _change(changed))
            for position, incident, model, kind, champion, *changed in rows
        ]

    def last_position(self) -> int:
        query = "SELECT coalesce(max(position), 0) FROM incident_positions"
        return int(self._database.rows(query)[0][0])

    def note(self, incident: str, note: str, *, now_ms: int) -> None:
        with self._database.write_transaction() as db:
            if _read(db, incident).note != note:
                _journal(db, incident, now_ms, note)

    def list(self, model: str | None = None, *, closed: bool = True) -> list[Incident]:
        with self._database.read_transaction() as db:  # an incident and its journal at one moment
            rows = db.rows(
                "SELECT id FROM incidents WHERE (CAST(:model AS TEXT) IS NULL OR model = :model)"
                f" AND (:closed = 1 OR state <> 'closed') ORDER BY {self.order}",
                model=model,
                closed=int(closed),
            )
            return [_read(db, name) for (name,) in rows]


_FIELDS = (
    "model, kind, opened_ms, changed_ms, champion, evidence, state, claim, holder, until_ms, answer"
)


def _require_claim(now: Incident, claim: int) -> None:
    if now.state != "claimed" or now.claim != claim:
        raise StaleFence(
            f"claim {claim} of incident {now.id} is over: it is {now.state}, "
            f"its last claim is {now.claim}"
        )


def _insert(db: Session, found: IncidentFinding) -> str:
    ((count,),) = db.rows("SELECT count(*) FROM incidents WHERE model = :model", model=found.model)
    name = f"{found.model}-{found.kind.replace(' ', '-')}-{count + 1}"
    db.change(
        "INSERT INTO incidents (id, model, kind, opened_ms, changed_ms, champion, evidence, state)"
        " VALUES (:id, :model, :kind, :opened_ms, :changed_ms, :champion, :evidence, 'open')",
        id=name,
        model=found.model,
        kind=found.kind,
        opened_ms=found.opened_ms,
        changed_ms=found.changed_ms,
        champion=found.champion,
        evidence=canonical_json(found.evidence).decode(),
    )
    return name


def _journal(db: Session, incident: str, at_ms: int, note: str) -> None:
    """Append the incident's present state to its journal, within the transaction that changed
    it."""
    db.change(
        "INSERT INTO incident_changes SELECT i.id, (SELECT count(*) + 1 FROM incident_changes c"
        " WHERE c.incident = i.id), CAST(:at_ms AS BIGINT), i.state, i.claim, i.holder,"
        " CAST(:note AS TEXT) FROM incidents i WHERE i.id = :incident",
        incident=incident,
        at_ms=at_ms,
        note=note,
    )
    db.change(
        "INSERT INTO incident_positions SELECT coalesce(max(position), 0) + 1,"
        " CAST(:incident AS TEXT), (SELECT max(number) FROM incident_changes"
        " WHERE incident = CAST(:incident AS TEXT)) FROM incident_positions",
        incident=incident,
    )


def _read(db: Session, incident: str) -> Incident:
    rows = db.rows(f"SELECT {_FIELDS} FROM incidents WHERE id = :id", id=incident)
    if not rows:
        raise NotFound(f"no incident {incident!r}")
    ends = db.rows("SELECT ended_ms FROM incident_ends WHERE incident = :id", id=incident)
    return _incident(incident, rows[0], _changes(db, incident), ends[0][0] if ends else None)


def _incident(
    name: str, row: Sequence[Any], changes: tuple[Change, ...], ended_ms: int | None
) -> Incident:
    model, kind, opened_ms, changed_ms, champion, evidence, state, *claimed = row
    claim, holder, until_ms, answer = claimed
    return Incident(
        id=name,
        found=IncidentFinding(model, kind, opened_ms, changed_ms, champion, _object(evidence)),
        state=_state(state),
        claim=claim,
        holder=holder,
        until_ms=until_ms,
        answer=answer,
        changes=changes,
        ended_ms=ended_ms,
    )


def _changes(db: Session, incident: str) -> tuple[Change, ...]:
    rows = db.rows(
        "SELECT number, at_ms, state, claim, holder, note FROM incident_changes"
        " WHERE incident = :incident ORDER BY number",
        incident=incident,
    )
    return tuple(map(_change, rows))


def _change(row: Sequence[Any]) -> Change:
    number, at_ms, state, claim, holder, note = row
    return Change(number, at_ms, _state(state), claim, holder, note)


def _state(text: str) -> State:
    match text:
        case "open" | "claimed" | "answered" | "closed":
            return text
    raise ValueError(f"{text!r} is not a state of an incident")


def _object(text: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(text)
    return value
