"""API keys in PostgreSQL; a revoked key stays revoked, whatever else is lost."""

from __future__ import annotations

from mlplatform.runtime.errors import NotFound, Refused
from mlplatform.runtime.storage.addresses import Address
from mlplatform.runtime.storage.postgres import ANSWER_S, PostgresDatabase
from mlplatform.runtime.storage.sql import Schema, Session
from mlplatform.scoring.admission.clients import Key
from mlplatform.scoring.admission.key_rows import COLUMNS, key, row

SCHEMA = Schema(
    "keys",
    (
        (
            "CREATE TABLE keys (seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
            " id TEXT NOT NULL UNIQUE, digest TEXT NOT NULL UNIQUE, client TEXT NOT NULL,"
            " scopes TEXT NOT NULL, priority TEXT NOT NULL, rate_per_s DOUBLE PRECISION,"
            " burst BIGINT, created_ms BIGINT NOT NULL, expires_ms BIGINT, revoked_ms BIGINT)",
            "CREATE TABLE keys_version (version BIGINT NOT NULL)",
            "INSERT INTO keys_version VALUES (0)",
        ),
    ),
)
_ALL = f"SELECT {', '.join(COLUMNS)} FROM keys"


class PostgresKeys:
    """`Keys` on a server; safe for threads and processes.

    Args:
        answer_s: seconds to wait for the server in each step.
    """

    def __init__(self, address: Address, *, answer_s: float = ANSWER_S) -> None:
        self._database = PostgresDatabase(address, SCHEMA, answer_s=answer_s)

    def close(self) -> None:
        self._database.close()

    def add(self, added: Key) -> None:
        values = dict(zip(COLUMNS, row(added), strict=True))
        names = ", ".join(f":{name}" for name in COLUMNS)
        with self._database.write_transaction() as session:
            if not session.change(
                f"INSERT INTO keys ({', '.join(COLUMNS)}) VALUES ({names}) ON CONFLICT DO NOTHING",
                **values,
            ):
                raise Refused(f"a key {added.id} is there already")
            _raise_version(session)

    def revoke(self, name: str, now_ms: int) -> list[Key]:
        with self._database.write_transaction() as session:
            rows = session.rows(
                f"{_ALL} WHERE id = :name OR client = :name ORDER BY seq", name=name
            )
            if not rows:
                raise NotFound(
                    f"no key and no client is named {name!r}; `mlplatform keys list` has them all"
                )
            session.change(
                "UPDATE keys SET revoked_ms = :now_ms"
                " WHERE (id = :name OR client = :name) AND revoked_ms IS NULL",
                now_ms=now_ms,
                name=name,
            )
            _raise_version(session)
        return [found for found in (key(*r) for r in rows) if found.is_live(now_ms)]

    def all_keys(self) -> list[Key]:
        return [key(*found) for found in self._database.rows(f"{_ALL} ORDER BY seq")]

    def version(self) -> int:
        return int(self._database.rows("SELECT version FROM keys_version")[0][0])


def _raise_version(session: Session) -> None:
    session.change("UPDATE keys_version SET version = version + 1")
