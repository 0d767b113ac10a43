"""What every port on PostgreSQL does when the server is away, slow or refuses, or is of another
age."""

from __future__ import annotations

import dataclasses
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers.instances import behind, postgres_address
from tests.servers.proxy import Proxy

from mlplatform.rollouts.journal.postgres import SCHEMA, PostgresRollouts
from mlplatform.rollouts.journal.sqlite import SqliteRollouts
from mlplatform.rollouts.journal.transitions import Opened
from mlplatform.runtime.errors import ConfigInvalid, Refused, Unavailable
from mlplatform.runtime.storage import addresses
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import PostgresDatabase
from mlplatform.runtime.storage.sql import Schema
from rollout_world import arm

ANSWER_S = 0.8
SLACK_S = 1.5
"""A shared machine's; what is bounded is one answer's time, or two where it is asked again."""

OPENED = Opened(
    rollout_id="fraud-v2-1", model="fraud", event_ms=1, wall_ms=2, actor="a", reason="b",
    challenger=arm(2), author="ann", alert_low=0.0, alert_high=0.1, bootstrap=True,
    approval="none",
)  # fmt: skip


@pytest.fixture
def address(postgres: Any) -> Iterator[Address]:
    made = postgres.database()
    yield made
    postgres.drop(made)


@pytest.fixture
def proxy(postgres: Any) -> Iterator[Proxy]:
    with Proxy(postgres.address.port) as made:
        yield made


def unavailable_within(limit_s: float, ask: Callable[[], object]) -> None:
    """A backend of a server that was killed answers until it notices, for moments."""
    began_s = time.monotonic()

    def asked_until_it_fails() -> None:
        while time.monotonic() - began_s < limit_s:
            ask()

    with pytest.raises(Unavailable):
        asked_until_it_fails()
    assert time.monotonic() - began_s < limit_s + SLACK_S


def own(postgres: Any) -> Any:
    if postgres.server is None:
        pytest.skip("the server that POSTGRES_URL names is not ours to stop")
    return postgres.server


@pytest.mark.postgres
def test_a_server_that_was_killed_is_found_again_and_has_what_was_committed(
    postgres: Any, address: Address
) -> None:
    server = own(postgres)
    rollouts = PostgresRollouts(address, answer_s=ANSWER_S)
    rollouts.commit(OPENED, None)
    server.kill()
    unavailable_within(ANSWER_S, lambda: rollouts.routes("fraud"))
    unavailable_within(ANSWER_S, lambda: rollouts.acquire("fraud", "pass", 60))
    server.start()
    assert rollouts.read("fraud-v2-1") == (OPENED,)
    assert rollouts.acquire("fraud", "pass", 60) is not None
    assert rollouts.verify() == ()
    rollouts.close()


@pytest.mark.postgres
def test_a_connection_that_broke_while_idle_costs_no_caller_an_error(
    postgres: Any, address: Address
) -> None:
    rollouts = PostgresRollouts(address)
    for ask in (lambda: rollouts.routes("fraud"), lambda: rollouts.lease("g", {}, 10)):
        postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name LIKE 'mlplatform%'",
            address,
        )
        ask()
    rollouts.close()


@pytest.mark.postgres
@pytest.mark.parametrize("outage", ["refuse", "hang"])
def test_an_outage_in_the_middle_is_unavailable_in_time_and_over_when_it_is_over(
    address: Address, proxy: Proxy, outage: str
) -> None:
    rollouts = PostgresRollouts(behind(proxy, address), answer_s=ANSWER_S)
    rollouts.commit(OPENED, None)
    getattr(proxy, outage)()
    unavailable_within(2 * ANSWER_S, lambda: rollouts.routes("fraud"))
    unavailable_within(ANSWER_S, lambda: rollouts.acquire("fraud", "pass", 60))
    unavailable_within(ANSWER_S, lambda: PostgresRollouts(behind(proxy, address), answer_s=0.5))
    proxy.forward()
    assert rollouts.read("fraud-v2-1") == (OPENED,)
    rollouts.close()


@pytest.mark.postgres
def test_an_outage_inside_a_transaction_leaves_nothing_of_it(
    postgres: Any, address: Address, proxy: Proxy
) -> None:
    schema = Schema("things", (("CREATE TABLE things (name TEXT)",),))
    database = PostgresDatabase(behind(proxy, address), schema, answer_s=ANSWER_S)

    def broken() -> None:
        with database.write_transaction() as session:
            session.change("INSERT INTO things VALUES ('half')")
            proxy.hang()
            session.change("INSERT INTO things VALUES ('whole')")

    unavailable_within(2 * ANSWER_S, broken)
    proxy.refuse()
    proxy.forward()
    assert database.rows("SELECT name FROM things") == []
    with database.write_transaction() as session:
        session.change("INSERT INTO things VALUES ('next')")
    assert postgres.run("SELECT name FROM things", address) == [["next"]]
    database.close()


@pytest.mark.postgres
def test_who_waits_too_long_for_a_turn_is_told_and_may_ask_again(address: Address) -> None:
    schema = Schema("things", (("CREATE TABLE things (name TEXT)",),))
    slow, other = (PostgresDatabase(address, schema, answer_s=s) for s in (10.0, ANSWER_S))
    with slow.write_transaction() as session:
        session.change("INSERT INTO things VALUES ('first')")
        unavailable_within(ANSWER_S, lambda: other.write_transaction().__enter__())
        assert other.rows("SELECT name FROM things") == []
    with other.write_transaction() as session:
        session.change("INSERT INTO things VALUES ('second')")
    assert [r[0] for r in other.rows("SELECT name FROM things")] == ["first", "second"]
    for database in (slow, other):
        database.close()


@pytest.mark.postgres
def test_writers_at_once_take_turns(address: Address) -> None:
    schema = Schema("count", (("CREATE TABLE count (n BIGINT)", "INSERT INTO count VALUES (0)"),))

    def add() -> None:
        database = PostgresDatabase(address, schema)
        for _ in range(20):
            with database.write_transaction() as session:
                ((present,),) = session.rows("SELECT n FROM count")
                session.change("UPDATE count SET n = :n", n=present + 1)
        database.close()

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database = PostgresDatabase(address, schema)
    assert database.rows("SELECT n FROM count")[0][0] == 80
    database.close()


@pytest.mark.postgres
def test_a_wrong_password_is_refused_and_a_new_one_needs_no_restart(
    postgres: Any, address: Address, tmp_path: Path
) -> None:
    file = tmp_path / "password"
    file.write_text("wrong")
    wrong = dataclasses.replace(address, password_file=file)
    with pytest.raises(Unavailable, match="28P01"):
        PostgresRollouts(wrong)
    file.write_text(address.password() or "")
    rollouts = PostgresRollouts(wrong)
    file.unlink()
    assert rollouts.routes("fraud").generation == 0
    with pytest.raises(Unavailable, match=str(file)):
        PostgresRollouts(wrong)
    rollouts.close()


@pytest.mark.postgres
def test_traffic_is_encrypted_to_a_server_that_proves_itself(
    postgres: Any, address: Address, tmp_path: Path
) -> None:
    server = own(postgres)
    database = PostgresDatabase(address, SCHEMA)
    ssl = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"
    assert database.rows(ssl)[0][0] is True
    database.close()
    plain = postgres_address(server.port, server.password_file, None)
    database = PostgresDatabase(dataclasses.replace(plain, name=address.name), SCHEMA)
    assert database.rows(ssl)[0][0] is False
    database.close()
    stranger = dataclasses.replace(address, authority=None)
    with pytest.raises(Unavailable, match="certificate"):
        PostgresRollouts(stranger)
    elsewhere = dataclasses.replace(address, host="127.0.0.2")
    with pytest.raises(Unavailable):
        PostgresRollouts(elsewhere, answer_s=ANSWER_S)


@pytest.mark.postgres
def test_no_password_is_in_what_an_error_says(postgres: Any, address: Address) -> None:
    away = dataclasses.replace(address, port=1)
    with pytest.raises(Unavailable) as caught:
        PostgresRollouts(away, answer_s=ANSWER_S)
    assert (address.password() or "") not in f"{caught.value} {caught.value.__cause__} {away!r}"


THINGS = ("CREATE TABLE things (name TEXT)",)
COLOURS = ("ALTER TABLE things ADD COLUMN colour TEXT NOT NULL DEFAULT 'grey'",)


@pytest.mark.postgres
def test_a_schema_goes_forward_in_place_and_never_back(address: Address) -> None:
    before, after = Schema("things", (THINGS,)), Schema("things", (THINGS, COLOURS))
    old = PostgresDatabase(address, before)
    with old.write_transaction() as session:
        session.change("INSERT INTO things VALUES ('chair')")
    new = PostgresDatabase(address, after)
    assert [list(row) for row in new.rows("SELECT * FROM things")] == [["chair", "grey"]]
    with (
        old.write_transaction() as session
    ):  # the release before goes on while the next one is there
        session.change("INSERT INTO things (name) VALUES ('table')")
    with pytest.raises(Refused, match="newer release"):
        PostgresDatabase(address, before)
    for database in (old, new):
        database.close()


RELEASE_0_1 = """
CREATE TABLE journal (
    seq INTEGER PRIMARY KEY, rollout_id TEXT, model TEXT, body TEXT NOT NULL, routes TEXT,
    fence INTEGER, digest TEXT NOT NULL) STRICT;
CREATE INDEX journal_of_rollout ON journal (rollout_id, seq);
CREATE TABLE rollouts (
    rollout_id TEXT PRIMARY KEY, model TEXT NOT NULL, opened INTEGER NOT NULL,
    phase TEXT NOT NULL, ramping INTEGER NOT NULL, finished INTEGER NOT NULL) STRICT;
CREATE UNIQUE INDEX one_ramping ON rollouts (model) WHERE ramping = 1;
CREATE TABLE routes (
    model TEXT PRIMARY KEY, generation INTEGER NOT NULL, body TEXT NOT NULL) STRICT;
CREATE TABLE passes (
    model TEXT PRIMARY KEY, token INTEGER NOT NULL, holder TEXT, ttl_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL) STRICT;
CREATE TABLE gateways (
    gateway TEXT PRIMARY KEY, generations TEXT NOT NULL, expires_ms INTEGER NOT NULL) STRICT;
"""
"""As the release before schema versions made it; every row below is one that it wrote."""


def test_a_journal_of_before_there_were_versions_is_taken_over_whole(tmp_path: Path) -> None:
    made = SqliteRollouts(tmp_path / "now.db")
    made.commit(OPENED, None)
    fence = made.acquire("fraud", "pass", 60)
    made.close()
    old = sqlite3.connect(tmp_path / "old.db")
    old.executescript(RELEASE_0_1)
    old.execute("ATTACH ? AS now", (str(tmp_path / "now.db"),))
    for table in ("journal", "rollouts", "routes", "passes", "gateways"):
        old.execute(f"INSERT INTO main.{table} SELECT * FROM now.{table}")
    old.commit()
    old.close()
    found = SqliteRollouts(tmp_path / "old.db")
    assert found.read("fraud-v2-1") == (OPENED,)
    assert found.verify() == ()
    again = found.acquire("fraud", "pass", 60)
    assert fence is not None
    assert again is not None
    assert again.token == fence.token + 1
    found.close()


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("postgresql://u:secret@db/p", "_PASSWORD_FILE"),
        ("postgresql://u@db/p?sslmode=require", "verify-full"),
        ("postgresql://u@db/p?sslmode=prefer", "verify-full"),
        ("postgresql://u@db/p?options=x", "sslmode"),
        ("postgresql://u@db:port/p", "a port"),
        ("postgresql://db/p", "user@host"),
        ("postgresql://u@db", "user@host"),
        ("mysql://u@db/p", "postgresql"),
        ("postgresql://u:secret@[db/p", "postgresql"),
    ],
)
def test_a_wrong_address_is_refused_without_saying_a_secret(url: str, wanted: str) -> None:
    with pytest.raises(ConfigInvalid, match=wanted) as caught:
        addresses.postgres("MLPLATFORM_POSTGRES", {"MLPLATFORM_POSTGRES": url})
    assert "secret" not in str(caught.value)


def test_an_address_reads_back_from_its_variables(tmp_path: Path) -> None:
    given = {
        "P": "postgresql://u@db.example/p?sslrootcert=/ca.pem",
        "P_PASSWORD_FILE": str(tmp_path / "password"),
    }
    found = addresses.postgres("P", given)
    assert found is not None
    assert (found.host, found.port, found.name, found.tls) == ("db.example", 5432, "p", True)
    assert addresses.postgres("P", addresses.variables("P", found)) == found
    assert addresses.postgres("P", {}) is None
