"""Snapshots of the databases and spills of a home folder at one moment, while other processes
write.

Data that refers to other data is read before that other data, which only grows. Prefect's runs,
online features, the offline table and the topics come before the log and the journal that they
follow. The journal comes before the log that it anchors, and the registry and the bundles come
last. If the journal changed before the log was read, the snapshot would show two moments; then
everything is read again. See docs/decisions/0035.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import quote

import msgspec

from mlplatform.decisions.log import sealed_files
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.port import ManifestHead
from mlplatform.decisions.spill import files
from mlplatform.operations.backup import servers
from mlplatform.operations.backup.manifest import JournalPosition
from mlplatform.operations.backup.servers import HeldDatabase
from mlplatform.rollouts.journal.sql import LAST_ANCHOR
from mlplatform.runtime.configuration.settings import Home
from mlplatform.runtime.errors import Busy, Corrupt, Unavailable
from mlplatform.runtime.storage.addresses import Address

TRIES: Final = 20
LOCK_WAIT_S: Final = 10.0
PAGES: Final = 4_096
"""Pages copied at a time; the copy reports its progress after each, several times a second."""

LOG: Final = f"decisions/{tables.DATABASE}"
JOURNAL: Final = "rollouts.db"
FIRST: Final = ("prefect/prefect.db", "online.db", "pushes.db")
SECOND: Final = ("topics.db", JOURNAL)
LAST: Final = ("mlflow/mlflow.db", "admission.db")
"""Databases copied last, each read and released at once: MLflow's writers wait for readers."""
SPILLS: Final = f"decisions/{files.FOLDER}"


@dataclass(frozen=True, slots=True)
class Spill:
    """An open spill: its content stays readable even if it is renamed or removed."""

    name: str
    descriptor: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of a home folder at one moment; readable while it is held.

    Args:
        held: name → database in a read transaction.
        offline: files of the offline tables; an existing file never changes.
        segments: files with the sealed records of the log; none is removed while the snapshot is
            held.
        postgres: database of the journal on a server; None if the journal is in the home folder.
        anchor: head of the log that the journal holds; None if it holds none.
    """

    held: Mapping[str, sqlite3.Connection]
    offline: tuple[str, ...]
    segments: tuple[str, ...]
    spills: tuple[Spill, ...]
    head: ManifestHead | None
    journal: JournalPosition | None
    anchor: ManifestHead | None
    postgres: HeldDatabase | None


@contextmanager
def held_snapshot(home: Home, postgres: Address | None = None) -> Iterator[Snapshot]:
    """Hold the state of a home folder, and of its journal if that is on a server.

    Raises:
        Busy: the rollouts changed at every try.
        Unavailable: a database is locked for long.
        Corrupt: a database is damaged.
    """
    for _ in range(TRIES):
        with ExitStack() as holding:
            found = _try_snapshot(home.root, postgres, holding)
            if found is not None:
                yield found
                return
    raise Busy("rollouts changed at each attempt to copy them; try again in a minute")


@contextmanager
def database_errors(path: Path) -> Iterator[None]:
    """Raises SQLite's errors on a database as the platform's own.

    Raises:
        Unavailable: the database is locked, or the file does not exist.
        Corrupt: the file is damaged, or is no database.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Unavailable(f"the database {path} can't be read") from error
    except sqlite3.ProgrammingError:
        raise
    except sqlite3.DatabaseError as error:
        raise Corrupt(f"the database {path} is damaged: {error}") from error


@contextmanager
def database_snapshot(path: Path) -> Iterator[sqlite3.Connection]:
    """Hold a read transaction: it sees the database as it is now, however long it lasts.

    Raises:
        Unavailable, Corrupt: see `database_errors`.
    """
    address = f"file:{quote(str(path))}?mode=ro"
    with (
        database_errors(path),
        closing(
            sqlite3.connect(address, uri=True, timeout=LOCK_WAIT_S, isolation_level=None)
        ) as db,
    ):
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        yield db


def schemas(db: sqlite3.Connection) -> dict[str, int | str]:
    """Part → schema version, as the database records them."""
    return _schemas(_Sqlite(db))


def postgres_schemas(database: HeldDatabase) -> dict[str, int | str]:
    """Part → schema version of a PostgreSQL database."""
    return _schemas(database)


def offline_files(root: Path) -> tuple[str, ...]:
    """Names of all complete files of the offline tables."""
    folder = root / "offline"
    found = (path.relative_to(root) for path in folder.rglob("*.*") if path.is_file())
    whole = (p for p in found if p.suffix != ".tmp" and not any(n.startswith(".") for n in p.parts))
    return tuple(sorted(path.as_posix() for path in whole))


def _try_snapshot(root: Path, postgres: Address | None, holding: ExitStack) -> Snapshot | None:
    """The snapshot; None if the journal changed while it was taken."""
    held: dict[str, sqlite3.Connection] = {}

    def hold(*names: str) -> None:
        for name in names:
            if (root / name).exists():
                held[name] = holding.enter_context(database_snapshot(root / name))

    hold(*FIRST)
    offline = offline_files(root)
    hold(*SECOND)
    server = None if postgres is None else holding.enter_context(servers.hold_database(postgres))
    before = _open_spills(root, holding)
    if (root / LOG).exists():
        holding.enter_context(sealed_files.hold_files((root / LOG).parent))
    hold(LOG)
    spills = _open_spills(root, holding, before)
    source: _ReadTransaction | None = server or (
        _Sqlite(held[JOURNAL]) if JOURNAL in held else None
    )
    with database_errors(root / JOURNAL):
        journal = None if source is None else _journal(source)
    log = held.get(LOG)
    if journal != _journal_now(root, postgres) or not _are_accounted_for(spills, log):
        return None
    return Snapshot(
        held=held,
        offline=offline,
        segments=() if log is None else sealed_files.names(log),
        spills=tuple(_spills(root, spills)),
        head=None if log is None else tables.head(log),
        journal=journal,
        anchor=None if source is None or journal is None else _anchor(source),
        postgres=server,
    )


class _ReadTransaction(Protocol):
    """A database in a read transaction, as a file or on a server."""

    def rows(self, statement: str) -> Sequence[Sequence[Any]]: ...

    def has(self, table: str) -> bool: ...


class _Sqlite:
    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def rows(self, statement: str) -> Sequence[Sequence[Any]]:
        return self._db.execute(statement).fetchall()

    def has(self, table: str) -> bool:
        return _has(self._db, table)


def _schemas(db: _ReadTransaction) -> dict[str, int | str]:
    found: dict[str, int | str] = {}
    if db.has("schema_versions"):
        rows = db.rows("SELECT part, version FROM schema_versions ORDER BY part")
        found.update((part, version) for part, version in rows)
    if db.has("alembic_version"):
        found.update(("alembic", row[0]) for row in db.rows("SELECT * FROM alembic_version"))
    return found


def _journal(db: _ReadTransaction) -> JournalPosition | None:
    if not db.has("journal"):
        return None
    ((rows,),) = db.rows("SELECT coalesce(max(seq), 0) FROM journal")
    generations = db.rows("SELECT model, generation FROM routes ORDER BY model")
    return JournalPosition(rows, {model: generation for model, generation in generations})


def _journal_now(root: Path, postgres: Address | None) -> JournalPosition | None:
    if postgres is not None:
        with servers.hold_database(postgres) as database:
            return _journal(database)
    if not (root / JOURNAL).exists():
        return None
    with database_snapshot(root / JOURNAL) as db:
        return _journal(_Sqlite(db))


def _anchor(db: _ReadTransaction) -> ManifestHead | None:
    rows = db.rows(LAST_ANCHOR)
    return msgspec.json.decode(rows[0][0], type=ManifestHead) if rows else None


OpenSpills = dict[int, tuple[str, int]]
"""Inode → last name and open descriptor of a spill."""


def _open_spills(root: Path, holding: ExitStack, known: OpenSpills | None = None) -> OpenSpills:
    """The known spills and those that exist now; a renamed spill appears under its new name."""
    found = dict(known or {})
    for path in sorted((root / SPILLS).glob(f"*{files.SUFFIX}")):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        inode = os.fstat(descriptor).st_ino
        if inode in found:
            os.close(descriptor)
            found[inode] = (path.name, found[inode][1])
        else:
            holding.callback(os.close, descriptor)
            found[inode] = (path.name, descriptor)
    return found


def _are_accounted_for(spills: OpenSpills, log: sqlite3.Connection | None) -> bool:
    """Whether the log's snapshot says of each spill how many of its records the log holds.

    A spill that is gone, and has no mark, was forgotten by the log or is not known to it yet.
    """
    marks = _marks(log)
    return all(
        os.fstat(descriptor).st_nlink or files.spill_id(descriptor) in marks
        for _, descriptor in spills.values()
    )


def _marks(log: sqlite3.Connection | None) -> dict[str, int]:
    if log is None or not _has(log, "spills"):
        return {}
    return dict(log.execute("SELECT spill, moved FROM spills"))


def _spills(root: Path, spills: OpenSpills) -> Iterator[Spill]:
    for name, descriptor in spills.values():
        size = os.fstat(descriptor).st_size
        if files.spill_id(descriptor) is not None:
            yield Spill(f"{SPILLS}/{name}", descriptor, size)


def _has(db: sqlite3.Connection, table: str) -> bool:
    query = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?"
    return bool(db.execute(query, (table,)).fetchone()[0])
