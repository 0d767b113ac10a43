"""The journal of rollouts in a database: one transaction for journal, fence and routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from mlplatform.decisions.records.port import ManifestHead
from mlplatform.model.routes import Routes, no_routes
from mlplatform.rollouts.journal.admission import check_opening, check_routes, one_at_a_time
from mlplatform.rollouts.journal.controls import (
    Control,
    ControlState,
    VariantsStarted,
    apply_control,
    check_may_move,
    controlled_routes,
    decode_control,
    encode_control,
    fold_controls,
)
from mlplatform.rollouts.journal.journal import NOTHING, Fence, GatewayLease, JournalFact
from mlplatform.rollouts.journal.state import RolloutState, admit, fold
from mlplatform.rollouts.journal.transitions import (
    Answered,
    Opened,
    RolledBack,
    Transition,
    decode,
    encode,
)
from mlplatform.rollouts.journal.variants import check_start
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.clock import Clock, SystemClock
from mlplatform.runtime.errors import NotFound, Refused, StaleFence
from mlplatform.runtime.storage.sql import Database, Session

PART = "rollouts"
GENESIS = "0" * 64


class SqlRollouts:
    """`Rollouts`, `Controls`, `JournalFacts`, `Passes` and `Anchors` in a database.

    Safe for threads and processes.

    Args:
        clock: clock whose wall time decides when leases end; None means the system clock.
    """

    def __init__(self, database: Database, clock: Clock | None = None) -> None:
        self._database = database
        self._clock = clock or SystemClock()

    def close(self) -> None:
        self._database.close()

    def commit(
        self, transition: Transition, fence: Fence | None, routes: Routes | None = None
    ) -> RolloutState:
        with self._database.write_transaction() as db:
            self._check_fence(db, transition, fence)
            present = _routes_of(transition.model, db.rows(_ROUTES, model=transition.model))
            if routes is not None:
                _check_generation(present, routes)
            check_may_move(transition, present, routes)
            before = _transitions(db, transition.rollout_id)
            state = admit(fold(before) if before else None, transition)
            reads_others = isinstance(transition, Opened | RolledBack)
            others = _states(db, transition.model, finished=True) if reads_others else []
            if isinstance(transition, Opened):
                check_opening(transition, others, present)
            check_routes(state, transition, present, routes, others)
            _append(
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
        return state

    def control(self, fact: Control, fence: Fence, routes: Routes) -> ControlState:
        with self._database.write_transaction() as db:
            if fence.model != fact.model or not self._renew_lease(db, fence):
                raise StaleFence(f"{fence.holder} has no lease of {fact.model}")
            present = _routes_of(fact.model, db.rows(_ROUTES, model=fact.model))
            _check_generation(present, routes)
            before = fold_controls(_controls(db, fact.model))
            state = apply_control(before, fact)
            if isinstance(fact, VariantsStarted):
                check_start(fact, _states(db, fact.model, finished=True), before, present)
            if routes != controlled_routes(fact, present):
                raise Refused(f"other routes follow from {type(fact).__name__} of {fact.model}")
            body = encode_control(fact).decode()
            _append(db, body, model=fact.model, routes=routes, fence=fence)
            _write_routes(db, routes)
        return state

    def controls(self, model: str) -> tuple[Control, ...]:
        with self._database.read_transaction() as db:
            return _controls(db, model)

    def read(self, rollout_id: str) -> tuple[Transition, ...]:
        with self._database.read_transaction() as db:
            found = _transitions(db, rollout_id)
        if not found:
            raise NotFound(
                f"no rollout {rollout_id!r}; `mlplatform rollouts list --all` has every one"
            )
        return found

    def active(self, model: str | None = None, *, finished: bool = False) -> list[RolloutState]:
        with self._database.read_transaction() as db:
            return _states(db, model, finished=finished)

    def list_rollouts(self) -> list[tuple[str, str]]:
        """Id and model of every rollout, newest first, without reading their journals."""
        rows = self._database.rows("SELECT rollout_id, model FROM rollouts ORDER BY opened DESC")
        return [(rollout_id, model) for rollout_id, model in rows]

    def of_version(self, model: str, version: int) -> tuple[tuple[Transition, ...], ...]:
        """The journals of the rollouts of a version, the oldest first. Of other rollouts only the
        first transition is read."""
        with self._database.read_transaction() as db:
            rows = db.rows(
                "SELECT rollouts.rollout_id, journal.body FROM rollouts JOIN journal"
                " ON journal.seq = rollouts.opened WHERE rollouts.model = :model"
                " ORDER BY rollouts.opened",
                model=model,
            )
            opened = ((name, decode(body.encode())) for name, body in rows)
            return tuple(
                _transitions(db, name)
                for name, fact in opened
                if isinstance(fact, Opened) and fact.challenger.version == version
            )

    def facts(self, after: int, most: int) -> list[JournalFact]:
        rows = self._database.rows(
            "SELECT seq, digest, body, rollout_id FROM journal WHERE seq > :after"
            " AND model IS NOT NULL ORDER BY seq LIMIT :most",
            after=after,
            most=most,
        )
        return [
            JournalFact(seq, chain, (decode_control if rollout is None else decode)(body.encode()))
            for seq, chain, body, rollout in rows
        ]

    def last_position(self) -> int:
        return int(self._database.rows("SELECT coalesce(max(seq), 0) FROM journal")[0][0])

    def routes(self, model: str) -> Routes:
        return _routes_of(model, self._database.rows(_ROUTES, model=model))

    def lease(
        self,
        gateway: str,
        generations: Mapping[str, int],
        ttl_s: float,
        stopped: Mapping[str, str] = NOTHING,
    ) -> None:
        with self._database.write_transaction() as db:
            db.change(
                "INSERT INTO gateways VALUES (:gateway, :generations, :expires_ms)"
                " ON CONFLICT (gateway) DO UPDATE SET generations = excluded.generations,"
                " expires_ms = excluded.expires_ms",
                gateway=gateway,
                generations=msgspec.json.encode(generations).decode(),
                expires_ms=self._clock.wall_ms() + int(ttl_s * 1000),
            )
            db.change(
                "INSERT INTO stops VALUES (:gateway, :stopped)"
                " ON CONFLICT (gateway) DO UPDATE SET stopped = excluded.stopped",
                gateway=gateway,
                stopped=msgspec.json.encode(dict(stopped)).decode(),
            )

    def acquire(
        self, model: str, holder: str, ttl_s: float, *, steal: bool = False
    ) -> Fence | None:
        now_ms, ttl_ms = self._clock.wall_ms(), int(ttl_s * 1000)
        with self._database.write_transaction() as db:
            rows = db.rows(
                "SELECT token, holder, expires_ms FROM passes WHERE model = :model", model=model
            )
            token, owner, expires_ms = rows[0] if rows else (0, None, 0)
            if owner not in (None, holder) and expires_ms > now_ms and not steal:
                return None
            db.change(
                "INSERT INTO passes VALUES (:model, :token, :holder, :ttl_ms, :expires_ms)"
                " ON CONFLICT (model) DO UPDATE SET token = excluded.token,"
                " holder = excluded.holder, ttl_ms = excluded.ttl_ms,"
                " expires_ms = excluded.expires_ms",
                model=model,
                token=token + 1,
                holder=holder,
                ttl_ms=ttl_ms,
                expires_ms=now_ms + ttl_ms,
            )
        return Fence(model, token + 1, holder)

    def renew(self, fence: Fence) -> bool:
        with self._database.write_transaction() as db:
            return self._renew_lease(db, fence)

    def release(self, fence: Fence) -> None:
        with self._database.write_transaction() as db:
            db.change(
                "UPDATE passes SET holder = NULL, expires_ms = 0"
                " WHERE model = :model AND token = :token",
                model=fence.model,
                token=fence.token,
            )

    def gateways(self, model: str) -> list[GatewayLease]:
        rows = self._database.rows(
            "SELECT g.gateway, g.generations, COALESCE(s.stopped, '{}') FROM gateways g"
            " LEFT JOIN stops s ON s.gateway = g.gateway"
            " WHERE g.expires_ms > :now_ms ORDER BY g.gateway",
            now_ms=self._clock.wall_ms(),
        )
        read = msgspec.json.decode
        return [GatewayLease(name, read(text).get(model), read(why)) for name, text, why in rows]

    def anchor(self, head: ManifestHead) -> None:
        body = msgspec.json.encode(head, order="sorted").decode()
        with self._database.write_transaction() as db:
            if _last_anchor(db.rows(LAST_ANCHOR)) != body:
                _append(db, body)

    def last_anchor(self) -> ManifestHead | None:
        body = _last_anchor(self._database.rows(LAST_ANCHOR))
        return None if body is None else msgspec.json.decode(body, type=ManifestHead)

    def verify(self) -> tuple[str, ...]:
        with self._database.read_transaction() as db:
            return tuple(_chain_findings(db) or _projection_findings(db))

    def _check_fence(self, db: Session, transition: Transition, fence: Fence | None) -> None:
        if fence is None:
            if not isinstance(transition, Opened | Answered):
                raise StaleFence(f"{type(transition).__name__} needs the lease of a pass")
            return
        if fence.model != transition.model:
            raise StaleFence(f"a lease of {fence.model} says nothing about {transition.model}")
        if not self._renew_lease(db, fence):
            raise StaleFence(f"the lease of {fence.holder} on {fence.model} was taken over")

    def _renew_lease(self, db: Session, fence: Fence) -> bool:
        changed = db.change(
            "UPDATE passes SET expires_ms = CAST(:now_ms AS BIGINT) + ttl_ms"
            " WHERE model = :model AND token = :token AND holder IS NOT NULL",
            now_ms=self._clock.wall_ms(),
            model=fence.model,
            token=fence.token,
        )
        return changed == 1


_ROUTES = "SELECT body FROM routes WHERE model = :model"
LAST_ANCHOR = (
    "SELECT body FROM journal WHERE rollout_id IS NULL AND model IS NULL ORDER BY seq DESC LIMIT 1"
)
_COLUMNS = ("seq", "rollout_id", "model", "body", "routes", "fence", "digest")


def _append(
    db: Session,
    body: str,
    *,
    rollout_id: str | None = None,
    model: str | None = None,
    routes: Routes | None = None,
    fence: Fence | None = None,
) -> None:
    rows = db.rows("SELECT seq, digest FROM journal ORDER BY seq DESC LIMIT 1")
    seq, chain = rows[0] if rows else (0, GENESIS)
    routed = None if routes is None else _encode_routes(routes)
    token = None if fence is None else fence.token
    fields = (seq + 1, rollout_id, model, body, routed, token)
    values = dict(zip(_COLUMNS, (*fields, _link(chain, fields)), strict=True))
    db.change(
        "INSERT INTO journal VALUES (:seq, :rollout_id, :model, :body, :routes, :fence, :digest)",
        **values,
    )


def _link(chain: str, fields: tuple[Any, ...]) -> str:
    return digest([chain, *fields])


def _encode_routes(routes: Routes) -> str:
    return msgspec.json.encode(routes, order="sorted").decode()


def _transitions(db: Session, rollout_id: str) -> tuple[Transition, ...]:
    rows = db.rows(
        "SELECT body FROM journal WHERE rollout_id = :rollout_id ORDER BY seq",
        rollout_id=rollout_id,
    )
    return tuple(decode(body.encode()) for (body,) in rows)


def _controls(db: Session, model: str) -> tuple[Control, ...]:
    rows = db.rows(
        "SELECT body FROM journal WHERE rollout_id IS NULL AND model = :model ORDER BY seq",
        model=model,
    )
    return tuple(decode_control(body.encode()) for (body,) in rows)


def _project(db: Session, state: RolloutState) -> None:
    busy = db.rows(
        "SELECT rollout_id FROM rollouts WHERE model = :model AND ramping = 1"
        " AND rollout_id <> :rollout_id",
        model=state.model,
        rollout_id=state.rollout_id,
    )
    if state.ramping and busy:
        raise one_at_a_time(str(busy[0][0]), state.model)
    db.change(
        "INSERT INTO rollouts VALUES (:rollout_id, :model, (SELECT max(seq) FROM journal),"
        " :phase, :ramping, :finished) ON CONFLICT (rollout_id) DO UPDATE"
        " SET phase = excluded.phase, ramping = excluded.ramping, finished = excluded.finished",
        rollout_id=state.rollout_id,
        model=state.model,
        phase=state.phase,
        ramping=int(state.ramping),
        finished=int(state.finished),
    )


def _check_generation(present: Routes, routes: Routes) -> None:
    if routes.generation != present.generation + 1:
        raise StaleFence(
            f"routes of {routes.model} are at generation {present.generation};"
            f" {routes.generation} refused"
        )


def _write_routes(db: Session, routes: Routes) -> None:
    db.change(
        "INSERT INTO routes VALUES (:model, :generation, :body) ON CONFLICT (model) DO UPDATE"
        " SET generation = excluded.generation, body = excluded.body",
        model=routes.model,
        generation=routes.generation,
        body=_encode_routes(routes),
    )


def _states(db: Session, model: str | None, *, finished: bool) -> list[RolloutState]:
    rows = db.rows(
        "SELECT rollout_id FROM rollouts WHERE (CAST(:model AS TEXT) IS NULL"
        " OR model = :model) AND finished <= :most ORDER BY opened",
        model=model,
        most=int(finished),
    )
    return [fold(_transitions(db, rollout_id)) for (rollout_id,) in rows]


def _routes_of(model: str, rows: list[Sequence[Any]]) -> Routes:
    return msgspec.json.decode(rows[0][0], type=Routes) if rows else no_routes(model)


def _last_anchor(rows: list[Sequence[Any]]) -> str | None:
    return str(rows[0][0]) if rows else None


def _chain_findings(db: Session) -> list[str]:
    chain = GENESIS
    rows = db.rows(f"SELECT {', '.join(_COLUMNS)} FROM journal ORDER BY seq")
    for expected, (*fields, stored) in enumerate(rows, start=1):
        if fields[0] != expected:
            return [f"journal row {expected} is missing"]
        chain = _link(chain, tuple(fields))
        if chain != stored:
            return [f"journal row {expected} was changed"]
    return []


def _projection_findings(db: Session) -> list[str]:
    """Differences between the journal and the tables computed from it. They show a truncated
    journal, whose chain is still intact."""
    findings = []
    for rollout_id, phase in db.rows("SELECT rollout_id, phase FROM rollouts ORDER BY opened"):
        transitions = _transitions(db, rollout_id)
        try:
            found = fold(transitions).phase if transitions else "absent"
        except Refused as error:
            findings.append(f"rollout {rollout_id} is {phase}, its journal can't be: {error}")
            continue
        if found != phase:
            findings.append(f"rollout {rollout_id} is {phase}, its journal says {found}")
    for model, body in db.rows("SELECT model, body FROM routes ORDER BY model"):
        rows = db.rows(
            "SELECT routes FROM journal WHERE model = :model AND routes IS NOT NULL"
            " ORDER BY seq DESC LIMIT 1",
            model=model,
        )
        if not rows or rows[0][0] != body:
            findings.append(f"the routes of {model} are not those that the journal wrote last")
    return findings
