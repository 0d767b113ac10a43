"""PostgreSQL: one connection, made again when it breaks, with short waits."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pg8000.native
from pg8000.exceptions import DatabaseError, Error, InterfaceError

from mlplatform.runtime.errors import ServerUnavailable
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.sql import Schema, Session, migrate

ANSWER_S = 10.0
"""Seconds to wait for each answer, connecting included."""

LOCK_SHARE = 0.5
STATEMENT_SHARE = 0.8
"""Share of the time for an answer after which the server gives up, before the client, and says
why."""

IDLE_MS = 30_000
"""Milliseconds without a statement after which the server ends a transaction, because its client is
gone."""

_TRANSIENT = ("08", "53", "57", "58", "28", "40001", "40P01", "55P03")
"""Classes of errors about the server's present state and not about the statement: no connection, no
resources, a shutdown or a cancelled statement, a full disk; log-in rights; order of locks.

Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""


def connect(
    address: Address,
    purpose: str,
    password: str | None,
    *,
    answer_s: float = ANSWER_S,
    settings: Mapping[str, str] | None = None,
) -> pg8000.native.Connection:
    """A connection to the database of an address. The caller closes it and translates its errors.

    Args:
        purpose: the word after `mlplatform` in the server's list of connections.
        password: password of the address's user; None: the server asks for none.
        answer_s: seconds to wait for each answer, connecting included.
        settings: name → value of the server's settings for this connection.

    Raises:
        pg8000.exceptions.Error, OSError: the server refuses the connection or does not answer.
    """
    return pg8000.native.Connection(
        user=address.user,
        host=address.host,
        port=address.port,
        database=address.name,
        password=password,
        timeout=answer_s,
        ssl_context=tls_context(address),
        application_name=f"mlplatform {purpose}",
        startup_params=dict(settings or {}),
    )


def unavailable(address: Address, problem: object) -> ServerUnavailable:
    """The error that says that the server did not answer, or refused."""
    way = "look at the server, and at the setting that names it"
    return ServerUnavailable(f"PostgreSQL at {address}: {problem}", way)


class PostgresDatabase:
    """`sql.Database` on a PostgreSQL server; safe for threads and processes.

    Every method may raise Unavailable: within about `answer_s` an answer is there, or that. What a
    transaction came to whose commit got no answer is for the caller to look up.

    Args:
        answer_s: seconds to wait for the server in each step.
    """

    def __init__(self, address: Address, schema: Schema, *, answer_s: float = ANSWER_S) -> None:
        self._address = address
        self._schema = schema
        self._answer_s = answer_s
        self._turn = _lock_of(schema.part)
        self._lock = threading.RLock()
        self._connection: pg8000.native.Connection | None = None
        migrate(self, schema, self._version())

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        with self._lock, self._translated():
            first = self._connect()
            try:
                return _Session(first).rows(statement, **values)
            except (InterfaceError, OSError):
                # The connection may have broken long ago; a query can be repeated.
                self._drop()
            return _Session(self._connect()).rows(statement, **values)

    @contextmanager
    def read_transaction(self) -> Iterator[Session]:
        with self._in("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") as session:
            yield session

    @contextmanager
    def write_transaction(self) -> Iterator[Session]:
        with self._in("BEGIN") as session:
            session.rows("SELECT pg_advisory_xact_lock(:turn)", turn=self._turn)
            yield session

    def close(self) -> None:
        with self._lock:
            self._drop()

    @contextmanager
    def _in(self, begin: str) -> Iterator[Session]:
        with self._lock, self._translated():
            session = self._begun(begin)
            try:
                yield session
            except BaseException:
                self._roll_back()
                raise
            session.change("COMMIT")

    def _begun(self, begin: str) -> Session:
        session = _Session(self._connect())
        try:
            session.change(begin)
        except (InterfaceError, OSError):
            # The connection may have broken long ago, and nothing was sent on it yet.
            self._drop()
            session = _Session(self._connect())
            session.change(begin)
        return session

    def _roll_back(self) -> None:
        if self._connection is not None:
            try:
                self._connection.run("ROLLBACK")
            except (Error, OSError):
                self._drop()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError as error:
            fields = error.args[0] if error.args and isinstance(error.args[0], dict) else {}
            code = str(fields.get("C", ""))
            if not code.startswith(_TRANSIENT):
                raise
            if code.startswith(("08", "57P", "28")):
                self._drop()
            raise unavailable(self._address, f"{fields.get('M')} ({code})") from error
        except (InterfaceError, OSError) as error:
            self._drop()
            raise unavailable(self._address, error) from error

    def _connect(self) -> pg8000.native.Connection:
        if self._connection is None:
            self._connection = connect(
                self._address,
                self._schema.part,
                self._address.password(),
                answer_s=self._answer_s,
                settings=_limits(self._answer_s),
            )
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(Error, OSError):
                connection.close()

    def _version(self) -> int:
        there = self.rows("SELECT to_regclass('schema_versions') IS NOT NULL")
        if not there[0][0]:
            return 0
        found = self.rows(
            "SELECT version FROM schema_versions WHERE part = :part", part=self._schema.part
        )
        return int(found[0][0]) if found else 0


class _Session:
    def __init__(self, connection: pg8000.native.Connection) -> None:
        self._connection = connection

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        found: list[Sequence[Any]] | None = self._connection.run(statement, **values)
        return found or []

    def change(self, statement: str, **values: object) -> int:
        self._connection.run(statement, **values)
        return max(int(self._connection.row_count), 0)


def _limits(answer_s: float) -> dict[str, str]:
    return {
        "statement_timeout": str(int(answer_s * STATEMENT_SHARE * 1000)),
        "lock_timeout": str(int(answer_s * LOCK_SHARE * 1000)),
        "idle_in_transaction_session_timeout": str(IDLE_MS),
    }


def tls_context(address: Address) -> ssl.SSLContext | bool:
    """The value that pg8000 takes: False for a connection that is not encrypted."""
    if not address.tls:
        return False
    authority = None if address.authority is None else str(address.authority)
    context = ssl.create_default_context(cafile=authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _lock_of(part: str) -> int:
    """The number of the lock for writers of a part, within the database."""
    hashed = hashlib.blake2b(part.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "big", signed=True)
