"""Positions of receivers in the database of the journals."""

from __future__ import annotations

from collections.abc import Iterable

from mlplatform.rollouts.events.positions import Attempt, Claim, Position, Progress
from mlplatform.runtime.errors import NotFound, StaleFence
from mlplatform.runtime.storage.sql import Database, Session

PART = "outbox"  # the name in databases of earlier releases
MOST_FAILURE = 300


class SqlPositions:
    """`Positions` in a database; safe for threads and processes."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        self._database.close()

    def declare(self, receivers: Iterable[str], start: Position) -> None:
        with self._database.write_transaction() as db:
            db.change("UPDATE receivers SET declared = 0")
            for receiver in receivers:
                db.change(
                    "INSERT INTO receivers (receiver, rollouts, incidents)"
                    " VALUES (:receiver, :rollouts, :incidents)"
                    " ON CONFLICT (receiver) DO UPDATE SET declared = 1",
                    receiver=receiver,
                    rollouts=start.rollouts,
                    incidents=start.incidents,
                )

    def take(self, receiver: str, holder: str, *, until_ms: int, now_ms: int) -> Claim | None:
        with self._database.write_transaction() as db:
            taken = db.change(
                "UPDATE receivers SET token = token + 1, holder = CAST(:holder AS TEXT),"
                " until_ms = :until_ms WHERE receiver = :receiver AND stopped = ''"
                " AND (holder = :holder OR until_ms <= :now_ms)",
                receiver=receiver,
                holder=holder,
                until_ms=until_ms,
                now_ms=now_ms,
            )
            found = _progress(db, receiver)
            return Claim(receiver, found.token, found.at) if taken else None

    def record(self, claim: Claim, at: Position, attempt: Attempt | None, *, until_ms: int) -> None:
        failure = "" if attempt is None else attempt.failure
        with self._database.write_transaction() as db:
            changed = db.change(
                "UPDATE receivers SET rollouts = :rollouts, incidents = :incidents,"
                " until_ms = :until_ms, delivered = delivered + CAST(:taken AS BIGINT),"
                " failed = failed + CAST(:failed AS BIGINT),"
                " failure = CASE WHEN :kept = 1 THEN failure ELSE CAST(:failure AS TEXT) END,"
                " stopped = CAST(:stopped AS TEXT)"
                " WHERE receiver = :receiver AND token = :token",
                receiver=claim.receiver,
                token=claim.token,
                rollouts=at.rollouts,
                incidents=at.incidents,
                until_ms=until_ms,
                taken=int(attempt is not None and not failure),
                failed=int(bool(failure)),
                kept=int(attempt is None),
                failure=failure[:MOST_FAILURE],
                stopped=failure[:MOST_FAILURE] if attempt is not None and attempt.gone else "",
            )
        if not changed:
            raise StaleFence(f"receiver {claim.receiver} was taken over, or moved")

    def move(self, receiver: str, at: Position | None) -> None:
        with self._database.write_transaction() as db:
            found = _progress(db, receiver)
            to = at or found.at
            db.change(
                "UPDATE receivers SET rollouts = :rollouts, incidents = :incidents,"
                " token = token + 1, until_ms = 0, stopped = '', failure = ''"
                " WHERE receiver = :receiver",
                receiver=receiver,
                rollouts=to.rollouts,
                incidents=to.incidents,
            )

    def list(self) -> list[Progress]:
        return [_progress_of(*row) for row in self._database.rows(f"{_ALL} ORDER BY receiver")]


_ALL = (
    "SELECT receiver, rollouts, incidents, token, declared, delivered, failed, stopped, failure"
    " FROM receivers"
)


def _progress(db: Session, receiver: str) -> Progress:
    rows = db.rows(f"{_ALL} WHERE receiver = :receiver", receiver=receiver)
    if not rows:
        raise NotFound(f"no receiver {receiver!r} is known: `mlplatform events receivers`")
    return _progress_of(*rows[0])


def _progress_of(
    receiver: str,
    rollouts: int,
    incidents: int,
    token: int,
    declared: int,
    delivered: int,
    failed: int,
    stopped: str,
    failure: str,
) -> Progress:
    at = Position(rollouts, incidents)
    return Progress(receiver, at, token, declared == 1, delivered, failed, stopped, failure)
