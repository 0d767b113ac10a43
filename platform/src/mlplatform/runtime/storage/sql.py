"""The common part of SQLite and PostgreSQL: sessions, transactions, and schemas with versions.

Statements that are run over both name their values (`:model`), keep truth as 0 or 1, and cast a
value that may be NULL.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from mlplatform.runtime.errors import Refused

_VERSIONS = (
    "CREATE TABLE IF NOT EXISTS schema_versions (part TEXT PRIMARY KEY, version BIGINT NOT NULL)"
)


class Session(Protocol):
    """One connection inside a transaction."""

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        """The rows of a query."""
        ...

    def change(self, statement: str, **values: object) -> int:
        """Run a statement. Returns the number of rows that it changed."""
        ...


class Writable(Protocol):
    """A store that runs write transactions."""

    def write_transaction(self) -> AbstractContextManager[Session]:
        """A transaction that waits for other writers of the same part.

        It is committed at the end of the block, and rolled back if the block raises.
        """
        ...


class Database(Writable, Protocol):
    """A database that any number of threads and processes share."""

    def rows(self, statement: str, **values: object) -> list[Sequence[Any]]:
        """The rows of one query, outside of any transaction."""
        ...

    def read_transaction(self) -> AbstractContextManager[Session]:
        """A transaction for several queries that see the state of one moment."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of one part, as the steps that led to them.

    A step is never changed once it was released: what comes later is appended.

    Args:
        part: the part's name in `schema_versions`; the parts of one database are independent.
        steps: statements that lead from one version to the next; the version is their position.
    """

    part: str
    steps: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        return len(self.steps)


NEWER: Final = (
    "a newer release has written it; run that release, or restore a backup from before it into an"
    " empty home (`mlplatform restore`)"
)
"""What is wrong with state that this release does not know, and the way out."""


def migrate(database: Writable, schema: Schema, present: int) -> None:
    """Bring a part to this release's version.

    Args:
        present: the version that was found without a lock; 0 if there was none.

    Raises:
        Refused: a newer release has written the database.
    """
    if present < schema.version:
        with database.write_transaction() as session:
            session.change(_VERSIONS)
            present = _version(session, schema.part)
            for step in schema.steps[present:]:
                for statement in step:
                    session.change(statement)
            session.change(
                "INSERT INTO schema_versions VALUES (:part, :version) ON CONFLICT (part) DO UPDATE"
                " SET version = excluded.version WHERE schema_versions.version < excluded.version",
                part=schema.part,
                version=schema.version,
            )
    if present > schema.version:
        raise Refused(
            f"{schema.part} is at schema version {present}, this release knows {schema.version}: "
            f"{NEWER}"
        )


def _version(session: Session, part: str) -> int:
    rows = session.rows("SELECT version FROM schema_versions WHERE part = :part", part=part)
    return int(rows[0][0]) if rows else 0
