"""What every backend of the incidents port promises."""

from __future__ import annotations

import multiprocessing
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError

from mlplatform.rollouts.drift import postgres as on_postgres
from mlplatform.rollouts.drift import sqlite as on_sqlite
from mlplatform.rollouts.drift.claims import renewal
from mlplatform.rollouts.drift.incidents import (
    FinishedIncident,
    HeldClaim,
    IncidentClaim,
    IncidentFinding,
    Incidents,
)
from mlplatform.rollouts.drift.postgres import PostgresIncidents
from mlplatform.rollouts.drift.sql import SqlIncidents
from mlplatform.rollouts.drift.sqlite import SqliteIncidents
from mlplatform.runtime.errors import NotFound, StaleFence
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import PostgresDatabase
from mlplatform.runtime.storage.sql import Database, Schema
from mlplatform.runtime.storage.sqlite import SqliteDatabase

FOUND = IncidentFinding("fraud", "drift", 5000, 3000, 1, {"reasons": ["amount moved"], "psi": 0.4})
Opener = Callable[[], Incidents]


def _open(where: Path | Address) -> SqlIncidents:
    return SqliteIncidents(where) if isinstance(where, Path) else PostgresIncidents(where)


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path | Address]:
    if request.param == "sqlite":
        yield tmp_path / "rollouts.db"
        return
    postgres = request.getfixturevalue("postgres")
    address = postgres.database()
    yield address
    postgres.drop(address)


@pytest.fixture
def opener(where: Path | Address) -> Opener:
    """Each call is another connection to the same incidents, as another process would have."""
    return partial(_open, where)


def test_an_incident_reads_back_as_it_was_opened(opener: Opener) -> None:
    opened = opener().open(FOUND, now_ms=1)
    assert opened.found == FOUND
    assert (opened.state, opened.claim, opened.answer) == ("open", 0, None)
    assert opener().list() == [opened]


def test_a_model_has_one_open_incident(opener: Opener) -> None:
    first = opener().open(FOUND, now_ms=1)
    again = opener().open(replace(FOUND, changed_ms=4000, evidence={}), now_ms=2)
    assert again == first
    other = opener().open(replace(FOUND, model="other"), now_ms=3)
    assert [i.id for i in opener().list()] == [first.id, other.id]
    assert opener().list("other") == [other]


def test_a_model_has_one_open_incident_of_each_kind(opener: Opener) -> None:
    drift = opener().open(FOUND, now_ms=1)
    fault = opener().open(replace(FOUND, kind="data fault"), now_ms=2)
    assert opener().open(replace(FOUND, kind="data fault", opened_ms=9), now_ms=3) == fault
    assert [i.id for i in opener().list()] == [drift.id, fault.id]
    assert fault.id == "fraud-data-fault-2"


def test_an_incident_that_ended_by_itself_keeps_when(opener: Opener) -> None:
    incidents = opener()
    first = incidents.open(FOUND, now_ms=1)
    for ended_ms in (7, 8):
        incidents.close(first.id, "the data is whole again", now_ms=2, ended_ms=ended_ms)
    second = incidents.open(FOUND, now_ms=3)
    incidents.close(second.id, "by hand", now_ms=4)
    assert [i.ended_ms for i in opener().list()] == [7, None]


def test_the_same_note_twice_is_one(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1)
    for note in ("wait", "wait", "wait longer"):
        incidents.note(incident.id, note, now_ms=2)
    (kept,) = opener().list()
    assert [(c.state, c.note) for c in kept.changes[1:]] == [
        ("open", "wait"),
        ("open", "wait longer"),
    ]
    with pytest.raises(NotFound):
        incidents.note("nobody", "wait", now_ms=3)


def test_after_closing_the_next_one_is_another(opener: Opener) -> None:
    incidents = opener()
    first = incidents.open(FOUND, now_ms=1)
    incidents.close(first.id, "version 2 took over", now_ms=2)
    second = incidents.open(FOUND, now_ms=3)
    assert second.id != first.id
    assert [i.id for i in incidents.list(closed=False)] == [second.id]
    assert [i.state for i in incidents.list()] == ["closed", "open"]


def test_one_of_two_gets_the_claim(opener: Opener) -> None:
    incident = opener().open(FOUND, now_ms=1).id
    assert opener().claim(incident, "a", until_ms=100, now_ms=10) == IncidentClaim(1, 100)
    assert opener().claim(incident, "b", until_ms=200, now_ms=99) == HeldClaim(1, "a", 100)


def test_a_claim_that_expired_can_be_taken_over(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    assert incidents.claim(incident, "b", until_ms=200, now_ms=100) == IncidentClaim(2, 200)
    with pytest.raises(StaleFence, match="its last claim is 2"):
        incidents.answer(incident, 1, version=2, note="", now_ms=101)


def test_an_expired_claim_that_nobody_took_may_still_answer(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    incidents.answer(incident, 1, version=2, note="registered", now_ms=500)
    assert incidents.list()[0].answer == 2


def test_what_is_answered_or_closed_cannot_be_claimed(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    incidents.answer(incident, 1, version=None, note="a gate failed", now_ms=20)
    assert incidents.claim(incident, "b", until_ms=900, now_ms=800) == FinishedIncident("answered")
    incidents.close(incident, "by hand", now_ms=30)
    assert incidents.claim(incident, "b", until_ms=900, now_ms=800) == FinishedIncident("closed")
    with pytest.raises(StaleFence, match="it is closed"):
        incidents.answer(incident, 1, version=3, note="", now_ms=40)


def test_an_answer_needs_a_claim(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    with pytest.raises(StaleFence, match="it is open"):
        incidents.answer(incident, 0, version=3, note="", now_ms=2)


def test_answering_or_closing_twice_changes_nothing(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    for now_ms in (20, 21):
        incidents.answer(incident, 1, version=2, note="registered", now_ms=now_ms)
    answered = incidents.list()
    assert len(answered[0].changes) == 3
    for resolution in ("first", "second"):
        incidents.close(incident, resolution, now_ms=30)
    assert incidents.list()[0].note == "first"


def test_the_journal_tells_every_change_in_order(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    incidents.claim(incident, "b", until_ms=300, now_ms=200)
    incidents.answer(incident, 2, version=7, note="version 7", now_ms=210)
    incidents.close(incident, "promoted", now_ms=220)
    changes = incidents.list()[0].changes
    assert [(c.number, c.at_ms, c.state, c.claim) for c in changes] == [
        (1, 1, "open", 0),
        (2, 10, "claimed", 1),
        (3, 200, "claimed", 2),
        (4, 210, "answered", 2),
        (5, 220, "closed", 2),
    ]
    assert [c.note for c in changes[-2:]] == ["version 7", "promoted"]


@pytest.mark.parametrize(
    "act",
    [
        lambda i: i.claim("fraud-drift-9", "a", until_ms=2, now_ms=1),
        lambda i: i.answer("fraud-drift-9", 1, version=None, note="", now_ms=1),
        lambda i: i.close("fraud-drift-9", "", now_ms=1),
    ],
    ids=["claim", "answer", "close"],
)
def test_an_unknown_incident_is_not_found(
    opener: Opener, act: Callable[[Incidents], object]
) -> None:
    with pytest.raises(NotFound, match="fraud-drift-9"):
        act(opener())


def test_the_sqlite_journal_refuses_to_be_rewritten(tmp_path: Path) -> None:
    SqliteIncidents(tmp_path / "rollouts.db").open(FOUND, now_ms=1)
    db = sqlite3.connect(tmp_path / "rollouts.db")
    for statement in ("UPDATE incident_changes SET note = ''", "DELETE FROM incident_changes"):
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            db.execute(statement)


@pytest.mark.postgres
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE incident_changes SET note = ''",
        "DELETE FROM incident_changes",
        "TRUNCATE incident_changes",
    ],
)
def test_the_postgres_journal_refuses_to_be_rewritten(postgres: Any, statement: str) -> None:
    address = postgres.database()
    incidents = PostgresIncidents(address)
    incidents.open(FOUND, now_ms=1)
    with pytest.raises(DatabaseError, match="only grows"):
        postgres.run(statement, address)
    postgres.drop(address)


def _race(where: Path | Address, name: str, start: object, results: object) -> None:
    incidents = _open(where)
    start.wait()  # type: ignore[attr-defined]
    outcome = incidents.claim("fraud-drift-1", name, until_ms=100, now_ms=10)
    results.put(isinstance(outcome, IncidentClaim))  # type: ignore[attr-defined]


def test_of_processes_that_race_one_wins(opener: Opener, where: Path | Address) -> None:
    opener().open(FOUND, now_ms=1)
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(4), context.Queue()
    racers = [context.Process(target=_race, args=(where, str(i), start, results)) for i in range(4)]
    for racer in racers:
        racer.start()
    won = [results.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert won.count(True) == 1


def test_changes_of_all_incidents_are_followed_in_the_order_in_which_they_were_made(
    where: Path | Address,
) -> None:
    incidents, other = _open(where), _open(where)
    assert (incidents.last_position(), incidents.facts(0, 10)) == (0, [])
    first = incidents.open(FOUND, now_ms=5)
    second = other.open(replace(FOUND, model="other"), now_ms=3)
    incidents.claim(first.id, "a", until_ms=100, now_ms=4)
    other.close(second.id, "steady", now_ms=2)
    found = incidents.facts(0, 10)
    assert [(f.position, f.incident, f.change.state) for f in found] == [
        (1, first.id, "open"),
        (2, second.id, "open"),
        (3, first.id, "claimed"),
        (4, second.id, "closed"),
    ]
    assert (found[0].model, found[0].kind, found[0].champion) == ("fraud", "drift", 1)
    assert [f.change for f in found if f.incident == first.id] == list(incidents.list()[0].changes)
    assert incidents.facts(1, 2) == found[1:3]
    incidents.note(first.id, "it waits", now_ms=50)
    assert incidents.facts(4, 10) == [], "a note is no news"
    assert incidents.last_position() == 5


def _of_the_first_release(where: Path | Address) -> Database:
    if isinstance(where, Path):
        return SqliteDatabase(where, Schema("incidents", on_sqlite.SCHEMA.steps[:1]))
    return PostgresDatabase(where, Schema("incidents", on_postgres.SCHEMA.steps[:1]))


def test_changes_of_an_earlier_release_are_numbered_by_their_time(where: Path | Address) -> None:
    earlier = _of_the_first_release(where)
    with earlier.write_transaction() as db:
        for name in ("b", "a"):
            db.change(
                "INSERT INTO incidents (id, model, kind, opened_ms, changed_ms, champion, evidence,"
                " state) VALUES (:id, :id, 'drift', 1, 1, 1, '{}', 'closed')",
                id=name,
            )
        changes = (("b", 1, 10, "open"), ("a", 1, 20, "open"), ("b", 2, 30, "closed"))
        for name, number, at_ms, state in changes:
            db.change(
                "INSERT INTO incident_changes VALUES (:id, :number, :at_ms, :state, 0, NULL, '')",
                id=name,
                number=number,
                at_ms=at_ms,
                state=state,
            )
    earlier.close()
    incidents = _open(where)
    found = [(f.position, f.incident, f.change.number) for f in incidents.facts(0, 10)]
    assert found == [(1, "b", 1), (2, "a", 1), (3, "b", 2)]
    opened = incidents.open(FOUND, now_ms=1)
    assert [f.incident for f in incidents.facts(3, 10)] == [opened.id]


def test_a_claim_is_prolonged_until_it_is_taken_over(opener: Opener) -> None:
    incidents = opener()
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=100, now_ms=10)
    incidents.prolong(incident, 1, until_ms=300)
    assert opener().claim(incident, "b", until_ms=400, now_ms=200) == HeldClaim(1, "a", 300)
    assert opener().claim(incident, "b", until_ms=400, now_ms=300) == IncidentClaim(2, 400)
    with pytest.raises(StaleFence, match="its last claim is 2"):
        incidents.prolong(incident, 1, until_ms=900)
    incidents.answer(incident, 2, version=None, note="the gates failed", now_ms=310)
    with pytest.raises(StaleFence, match="answered"):
        incidents.prolong(incident, 2, until_ms=900)
    with pytest.raises(NotFound):
        incidents.prolong("nobody", 1, until_ms=900)


def test_a_claim_holds_for_as_long_as_the_work_that_answers_it(opener: Opener) -> None:
    """Work of four times what a claim lasts; then nothing holds it."""
    incidents, lasts_s = opener(), 0.5
    incident = incidents.open(FOUND, now_ms=1).id
    incidents.claim(incident, "a", until_ms=0, now_ms=0)

    def now_ms() -> int:
        return time.time_ns() // 1_000_000

    with renewal(opener(), incident, 1, lasts_s=lasts_s, wall_ms=now_ms):
        ends_s = time.monotonic() + 4 * lasts_s
        while time.monotonic() < ends_s:
            found = incidents.claim(incident, "b", until_ms=now_ms() + 1000, now_ms=now_ms())
            assert isinstance(found, HeldClaim)
            time.sleep(0.05)
    time.sleep(lasts_s)
    assert isinstance(incidents.claim(incident, "b", until_ms=0, now_ms=now_ms()), IncidentClaim)
    with pytest.raises(StaleFence), renewal(opener(), incident, 1, lasts_s=1, wall_ms=now_ms):
        pytest.fail("it was taken over before")


def test_a_claim_is_prolonged_after_any_failure_of_the_database(tmp_path: Path) -> None:
    """As in a failover: a server that has become a replica refuses to write (SQLSTATE 25006)."""
    incidents = SqliteIncidents(tmp_path / "rollouts.db")
    incident = incidents.open(FOUND, now_ms=0).id
    prolonged: list[float] = []
    incidents.claim(incident, "a", until_ms=1, now_ms=0)

    def now_ms() -> int:
        prolonged.append(time.monotonic())
        if len(prolonged) == 2:
            raise DatabaseError({"C": "25006"})
        return time.time_ns() // 1_000_000

    with renewal(incidents, incident, 1, lasts_s=0.15, wall_ms=now_ms):
        ends_s = time.monotonic() + 10
        while len(prolonged) < 4 and time.monotonic() < ends_s:
            time.sleep(0.01)
    assert len(prolonged) >= 4
