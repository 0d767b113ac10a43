"""The journal of rollouts in one SQLite file, which every gateway polls for its routes."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mlplatform.canonical import digest
from mlplatform.clock import Clock, SystemClock
from mlplatform.decisions.log import ManifestHead
from mlplatform.errors import NotFound, Refused, StaleFence
from mlplatform.rollout.journal import Fence, GatewayLease
from mlplatform.rollout.routes import Routes, no_routes
from mlplatform.rollout.state import RolloutState, fold, follow
from mlplatform.rollout.transitions import Answered, Opened, Transition, decode, encode
from mlplatform.sqlite import connect, transaction

GENESIS = "0" * 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS journal (
    seq INTEGER PRIMARY KEY, rollout_id TEXT, model TEXT, body TEXT NOT NULL, routes TEXT,
    fence INTEGER, digest TEXT NOT NULL) STRICT;
CREATE INDEX IF NOT EXISTS journal_of_rollout ON journal (rollout_id, seq);
CREATE TABLE IF NOT EXISTS rollouts (
    rollout_id TEXT PRIMARY KEY, model TEXT NOT NULL, opened INTEGER NOT NULL,
    phase TEXT NOT NULL, ramping INTEGER NOT NULL, finished INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX IF NOT EXISTS one_ramping ON rollouts (model) WHERE ramping = 1;
CREATE TABLE IF NOT EXISTS routes (
    model TEXT PRIMARY KEY, generation INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS passes (
    model TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT, ttl_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS gateways (
    gateway TEXT PRIMARY KEY, generations TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;
"""


class SqliteRollouts:
    """`Rollouts`, `Passes` and `Anchors` in one file; safe for threads and processes.

    Args:
        clock: whose wall time leases run by.
        durable: a commit survives power loss, not only a killed process.
    """

    def __init__(self, path: Path, clock: Clock | None = None, *, durable: bool = True) -> None:
        self._db = connect(path, schema=_SCHEMA, durable=durable, threads=True)
        self._lock = threading.Lock()
        self._clock = clock or SystemClock()
        self._cached: dict[str, Routes] = {}
        self._data_version = -1

    def close(self) -> None:
        self._db.close()

    def commit(
        self, transition: Transition, fence: Fence | None, routes: Routes | None = None
    ) -> RolloutState:
        with self._lock, transaction(self._db) as db:
            self._check_fence(db, transition, fence)
            before = self._state(db, transition.rollout_id)
            state = follow(before, transition)
            self._append(
                db,
                encode(transition).decode(),
                rollout_id=transition.rollout_id,
                model=transition.model,
                routes=routes,
                fence=fence,
            )
            _project(db, state)
            if routes is not None:
                _write_routes(db, routes)
            self._cached.clear()
        return state

    def read(self, rollout_id: str) -> tuple[Transition, ...]:
        with self._lock:
            found = _transitions(self._db, rollout_id)
        if not found:
            raise NotFound(f"no rollout {rollout_id!r}")
        return found

    def active(self, model: str | None = None, *, finished: bool = False) -> list[RolloutState]:
        with self._lock:
            rows = self._db.execute(
                "SELECT rollout_id FROM rollouts WHERE (?1 IS NULL OR model = ?1)"
                " AND (?2 OR NOT finished) ORDER BY opened",
                (model, finished),
            ).fetchall()
            return [fold(_transitions(self._db, rollout_id)) for (rollout_id,) in rows]

    def routes(self, model: str) -> Routes:
        with self._lock:
            (version,) = self._db.execute("PRAGMA data_version").fetchone()
            if version != self._data_version:
                self._cached.clear()
                self._data_version = version
            if model not in self._cached:
                self._cached[model] = _read_routes(self._db, model)
            return self._cached[model]

    def lease(self, gateway: str, generations: Mapping[str, int], ttl_s: float) -> None:
        expires_ms = self._clock.wall_ms() + int(ttl_s * 1000)
        with self._lock:
            self._db.execute(
                "INSERT INTO gateways VALUES (?, ?, ?) ON CONFLICT (gateway) DO UPDATE"
                " SET generations = excluded.generations, expires_ms = excluded.expires_ms",
                (gateway, msgspec.json.encode(generations).decode(), expires_ms),
            )

    def acquire(
        self, model: str, holder: str, ttl_s: float, *, steal: bool = False
    ) -> Fence | None:
        now_ms, ttl_ms = self._clock.wall_ms(), int(ttl_s * 1000)
        with self._lock, transaction(self._db) as db:
            row = db.execute(
                "SELECT token, holder, expires_ms FROM passes WHERE model = ?", (model,)
            ).fetchone()
            token, owner, expires_ms = row or (0, None, 0)
            if owner not in (None, holder) and expires_ms > now_ms and not steal:
                return None
            db.execute(
                "INSERT OR REPLACE INTO passes VALUES (?, ?, ?, ?, ?)",
                (model, token + 1, holder, ttl_ms, now_ms + ttl_ms),
            )
        return Fence(model, token + 1, holder)

    def release(self, fence: Fence) -> None:
        with self._lock:
            self._db.execute(
                "UPDATE passes SET holder = NULL, expires_ms = 0 WHERE model = ? AND token = ?",
                (fence.model, fence.token),
            )

    def gateways(self, model: str) -> list[GatewayLease]:
        with self._lock:
            rows = self._db.execute(
                "SELECT gateway, generations FROM gateways WHERE expires_ms > ? ORDER BY gateway",
                (self._clock.wall_ms(),),
            ).fetchall()
        return [GatewayLease(name, msgspec.json.decode(text).get(model)) for name, text in rows]

    def anchor(self, head: ManifestHead) -> None:
        body = msgspec.json.encode(head, order="sorted").decode()
        with self._lock, transaction(self._db) as db:
            last = _last_anchor(db)
            if last != body:
                self._append(db, body)

    def anchored(self) -> ManifestHead | None:
        with self._lock:
            body = _last_anchor(self._db)
        return None if body is None else msgspec.json.decode(body, type=ManifestHead)

    def verify(self) -> tuple[str, ...]:
        with self._lock:
            return tuple(_chain_findings(self._db) or _projection_findings(self._db))

    def _check_fence(
        self, db: sqlite3.Connection, transition: Transition, fence: Fence | None
    ) -> None:
        if fence is None:
            if not isinstance(transition, Opened | Answered):
                raise StaleFence(f"{type(transition).__name__} needs the lease of a pass")
            return
        if fence.model != transition.model:
            raise StaleFence(f"a lease of {fence.model} says nothing about {transition.model}")
        renewed = db.execute(
            "UPDATE passes SET expires_ms = ? + ttl_ms WHERE model = ? AND token = ?"
            " AND holder IS NOT NULL",
            (self._clock.wall_ms(), fence.model, fence.token),
        )
        if renewed.rowcount != 1:
            raise StaleFence(f"the lease of {fence.holder} on {fence.model} was taken over")

    def _state(self, db: sqlite3.Connection, rollout_id: str) -> RolloutState | None:
        transitions = _transitions(db, rollout_id)
        return fold(transitions) if transitions else None

    def _append(
        self,
        db: sqlite3.Connection,
        body: str,
        *,
        rollout_id: str | None = None,
        model: str | None = None,
        routes: Routes | None = None,
        fence: Fence | None = None,
    ) -> None:
        row = db.execute("SELECT seq, digest FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
        seq, chain = row or (0, GENESIS)
        routed = None if routes is None else _encode_routes(routes)
        token = None if fence is None else fence.token
        fields = (seq + 1, rollout_id, model, body, routed, token)
        db.execute(
            "INSERT INTO journal VALUES (?, ?, ?, ?, ?, ?, ?)", (*fields, _link(chain, fields))
        )


def _link(chain: str, fields: tuple[Any, ...]) -> str:
    return digest([chain, *fields])


def _encode_routes(routes: Routes) -> str:
    return msgspec.json.encode(routes, order="sorted").decode()


def _transitions(db: sqlite3.Connection, rollout_id: str) -> tuple[Transition, ...]:
    rows = db.execute("SELECT body FROM journal WHERE rollout_id = ? ORDER BY seq", (rollout_id,))
    return tuple(decode(body.encode()) for (body,) in rows)


def _project(db: sqlite3.Connection, state: RolloutState) -> None:
    busy = db.execute(
        "SELECT rollout_id FROM rollouts WHERE model = ? AND ramping AND rollout_id <> ?",
        (state.model, state.rollout_id),
    ).fetchone()
    if state.ramping and busy:
        raise Refused(f"rollout {busy[0]} of {state.model} is ramping; one at a time")
    db.execute(
        "INSERT INTO rollouts VALUES (?, ?, (SELECT max(seq) FROM journal), ?, ?, ?)"
        " ON CONFLICT (rollout_id) DO UPDATE SET phase = excluded.phase,"
        " ramping = excluded.ramping, finished = excluded.finished",
        (state.rollout_id, state.model, state.phase, state.ramping, state.finished),
    )


def _write_routes(db: sqlite3.Connection, routes: Routes) -> None:
    present = _read_routes(db, routes.model).generation
    if routes.generation != present + 1:
        raise StaleFence(
            f"routes of {routes.model} are at generation {present}; {routes.generation} refused"
        )
    db.execute(
        "INSERT OR REPLACE INTO routes VALUES (?, ?, ?)",
        (routes.model, routes.generation, _encode_routes(routes)),
    )


def _read_routes(db: sqlite3.Connection, model: str) -> Routes:
    row = db.execute("SELECT body FROM routes WHERE model = ?", (model,)).fetchone()
    return no_routes(model) if row is None else msgspec.json.decode(row[0], type=Routes)


def _last_anchor(db: sqlite3.Connection) -> str | None:
    row = db.execute(
        "SELECT body FROM journal WHERE rollout_id IS NULL ORDER BY seq DESC LIMIT 1"
    ).fetchone()
    return None if row is None else str(row[0])


def _chain_findings(db: sqlite3.Connection) -> list[str]:
    chain = GENESIS
    columns = "seq, rollout_id, model, body, routes, fence, digest"
    rows = db.execute(f"SELECT {columns} FROM journal ORDER BY seq")
    for expected, (*fields, stored) in enumerate(rows, start=1):
        if fields[0] != expected:
            return [f"journal row {expected} is missing"]
        chain = _link(chain, tuple(fields))
        if chain != stored:
            return [f"journal row {expected} was changed"]
    return []


def _projection_findings(db: sqlite3.Connection) -> list[str]:
    """A truncated tail leaves the chain whole; the tables beside it still show what was there."""
    findings = []
    for rollout_id, phase in db.execute("SELECT rollout_id, phase FROM rollouts"):
        transitions = _transitions(db, rollout_id)
        found = fold(transitions).phase if transitions else "absent"
        if found != phase:
            findings.append(f"rollout {rollout_id} is {phase}, its journal says {found}")
    for model, body in db.execute("SELECT model, body FROM routes"):
        row = db.execute(
            "SELECT routes FROM journal WHERE model = ? AND routes IS NOT NULL"
            " ORDER BY seq DESC LIMIT 1",
            (model,),
        ).fetchone()
        if row is None or row[0] != body:
            findings.append(f"the routes of {model} are not those that the journal wrote last")
    return findings
