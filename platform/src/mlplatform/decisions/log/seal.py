"""Moving records from SQLite to Parquet segments, one small harmless step after another."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlplatform.decisions.log import segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.record import GENESIS
from mlplatform.runtime.errors import Busy, Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.files import sync

_DELETE_ROWS = 500
_LOCK = "seal.lock"


@dataclass(frozen=True, slots=True)
class Limits:
    """A writer with fewer unsealed records than `minimum_rows` waits for more."""

    minimum_rows: int
    maximum_rows: int


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Be the only one that seals here; the lock dies with its process.

    Raises:
        Busy: another process is sealing.
    """
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise Busy(f"another process is sealing {folder}") from error
    finally:
        os.close(descriptor)


def steps(db: sqlite3.Connection, folder: Path, limits: Limits, *, now_ms: int) -> Iterator[str]:
    """Seal what has piled up; each yield is a moment at which being killed changes nothing.

    A file counts once the manifest lists it, and from then on the rows that it holds don't; what a
    killed run left of either is swept by the next one.

    Raises:
        Corrupt: a record to be sealed is not what its digest says.
    """
    _sweep_files(db, folder)
    yield "files swept"
    for name, last in tables.sealed(db).items():
        yield from _delete_rows(db, name, last)
    while _delete_keys(db, now_ms):
        yield "expired keys deleted"
    pruned = tables.pruned(db)
    for writer in tables.writers(db):
        if writer.writer in pruned:  # sealed in the log that has them from here
            continue
        yield from _seal_writer(db, folder, writer, limits)


def _seal_writer(
    db: sqlite3.Connection, folder: Path, writer: tables.Writer, limits: Limits
) -> Iterator[str]:
    name = writer.writer
    chain = _sealed_chain(db, name)
    while writer.seq - chain.seq >= max(limits.minimum_rows, 1):
        count = min(writer.seq - chain.seq, limits.maximum_rows)
        rows = tables.unsealed(db, name, after=chain.seq, limit=count)
        _check(chain, rows, count, writer)
        path = segments.path_of(folder, name, rows)
        draft = path.with_suffix(".tmp")
        try:
            sha256 = segments.write(draft, rows)
        except OSError:  # what a full disk cut takes room itself
            draft.unlink(missing_ok=True)
            raise
        yield "draft written"
        draft.replace(path)
        sync(path.parent)
        yield "file in place"
        with sqlite.transaction(db):
            segments.enter(db, name, rows, sha256=sha256)
        yield "manifest written"
        yield from _delete_rows(db, name, chain.seq)


def _sealed_chain(db: sqlite3.Connection, writer: str) -> Chain:
    row = db.execute(
        "SELECT last, chain FROM segments WHERE writer = ? ORDER BY last DESC LIMIT 1", (writer,)
    ).fetchone()
    seq, chain = row or (0, GENESIS)
    return Chain(writer, seq, chain)


def _check(chain: Chain, rows: list[tuple[Any, ...]], count: int, writer: tables.Writer) -> None:
    problem = next(chain.follow(rows), None)
    if problem is None and (len(rows) < count or chain.seq == writer.seq):
        problem = next(chain.ends(writer.seq, writer.chain, "the writer's head"), None)
    if problem is not None:
        raise Corrupt(f"{problem}; run `mlplatform log verify`")


def _delete_rows(db: sqlite3.Connection, writer: str, last: int) -> Iterator[str]:
    # in small bites: whoever appends meanwhile waits for one of them at most
    query = "SELECT seq FROM records WHERE writer = ? AND seq <= ? ORDER BY seq LIMIT ?"
    while bite := db.execute(query, (writer, last, _DELETE_ROWS)).fetchall():
        with sqlite.transaction(db):
            db.execute("DELETE FROM records WHERE writer = ? AND seq <= ?", (writer, bite[-1][0]))
        yield "sealed rows deleted"


def _delete_keys(db: sqlite3.Connection, now_ms: int) -> int:
    with sqlite.transaction(db):
        return tables.delete_keys(db, now_ms=now_ms, limit=_DELETE_ROWS)


def _sweep_files(db: sqlite3.Connection, folder: Path) -> None:
    listed = {s.path(folder) for s in segments.manifest(db)}
    for path in (folder / segments.SEGMENTS).glob("*/*"):
        if path not in listed:
            path.unlink()
