"""Pushes in PostgreSQL, where gateways of several homes share them."""

from __future__ import annotations

from mlplatform.learning.features.pushes.sql import (
    COLUMNS,
    GAPS,
    PART,
    REST,
    TOPICS_READ,
    SqlPushes,
)
from mlplatform.learning.features.pushes.table_holder import Holder
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import ANSWER_S, PostgresDatabase
from mlplatform.runtime.storage.sql import Schema

SCHEMA = Schema(
    PART,
    (
        (
            "CREATE TABLE pushes (number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            f" {COLUMNS.format(whole='BIGINT')})",
            *REST,
        ),
        (
            "CREATE TABLE table_holder (one INTEGER PRIMARY KEY, home TEXT NOT NULL,"
            " place TEXT NOT NULL, since_ms BIGINT NOT NULL)",
            TOPICS_READ,
        ),
        (GAPS,),
    ),
)


class PostgresPushes(SqlPushes):
    """Pushes on a server that any number of threads and processes share."""

    def __init__(self, address: Address, *, answer_s: float = ANSWER_S) -> None:
        super().__init__(PostgresDatabase(address, SCHEMA, answer_s=answer_s))
        self._address = address

    @property
    def place(self) -> str:
        address = self._address
        return f"PostgreSQL {address.host}:{address.port}/{address.name}"

    def hold(self, own: Holder, *, over: bool = False) -> Holder:
        """`SharedStore.hold`."""
        change = (
            "UPDATE SET home = excluded.home, place = excluded.place, since_ms = excluded.since_ms"
        )
        with self._database.write_transaction() as db:
            db.change(
                "INSERT INTO table_holder (one, home, place, since_ms)"
                " VALUES (1, :home, :place, :since_ms)"
                f" ON CONFLICT (one) DO {change if over else 'NOTHING'}",
                home=own.home,
                place=own.place,
                since_ms=own.since_ms,
            )
            ((home, place, since_ms),) = db.rows("SELECT home, place, since_ms FROM table_holder")
        return Holder(str(home), str(place), int(since_ms))
