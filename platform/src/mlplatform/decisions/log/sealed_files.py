"""The Parquet files that hold the sealed records at present, and the locks that keep a file while
it is read."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.decisions.log.segments import SEGMENTS, Segment, manifest
from mlplatform.decisions.records.tables import DATABASE, change_files_token
from mlplatform.runtime.storage.files import locked, sync

FIELDS: Final = "file, writer, first, last, rows, from_ms, to_ms, sha256, apart"
_LOCK: Final = "readers.lock"
_UNFINISHED: Final = "unfinished"


@dataclass(frozen=True, slots=True)
class SealedFile:
    """A file with a range of one writer's records: one segment as it was sealed, or several merged.

    Args:
        file: unique number of the file.
        sha256: digest of the file.
        apart: 0 for a segment as it was sealed. Other files were merged, or written again without
            some payloads; the number counts the versions. They lie beside the folders of the
            writers, because the previous release, which may still run, deletes unknown files in
            those folders.
    """

    file: int
    writer: str
    first: int
    last: int
    rows: int
    from_ms: int
    to_ms: int
    sha256: str
    apart: int = 0

    @property
    def name(self) -> str:
        between = "." if self.apart else "/"
        again = f".{self.apart}" if self.apart > 1 else ""
        return f"{self.writer}{between}{self.first:012d}-{self.last:012d}{again}.parquet"

    def path(self, folder: Path) -> Path:
        return folder / SEGMENTS / self.name


def present(
    db: sqlite3.Connection, where: str = "true", *values: object, limit: int = -1
) -> list[SealedFile]:
    """The files that hold the sealed records, ordered by writer and number.

    Args:
        where: SQL condition over the columns `FIELDS`; `values` are its parameters.
    """
    query = f"SELECT {FIELDS} FROM files WHERE {where} ORDER BY writer, first LIMIT ?"
    return [SealedFile(*row) for row in db.execute(query, (*values, limit))]


def names(db: sqlite3.Connection) -> tuple[str, ...]:
    """The names of those files, also in a log that no release with merged files has opened yet."""
    known = "SELECT 1 FROM sqlite_schema WHERE name = 'files'"
    found: list[SealedFile] | list[Segment]
    found = present(db) if db.execute(known).fetchone() else manifest(db)
    return tuple(one.name for one in found)


def merged(parts: Sequence[SealedFile], sha256: str = "") -> SealedFile:
    """The file that replaces one or several adjacent ones; it has no number yet."""
    first, last = parts[0], parts[-1]
    apart = 1 if len(parts) > 1 else first.apart + 1
    rows = sum(part.rows for part in parts)
    times = min(part.from_ms for part in parts), max(part.to_ms for part in parts)
    return SealedFile(0, first.writer, first.first, last.last, rows, *times, sha256, apart)


def replace(db: sqlite3.Connection, parts: Sequence[SealedFile], sha256: str) -> int:
    """Replace one or several adjacent files of a writer by one. Returns the new file's number.

    Call in a transaction.
    """
    db.executemany("DELETE FROM files WHERE file = ?", [(part.file,) for part in parts])
    _, *fields = FIELDS.split(", ")
    one = merged(parts, sha256)
    values = [getattr(one, name) for name in fields]
    statement = f"INSERT INTO files ({', '.join(fields)}) VALUES ({','.join('?' * len(fields))})"
    number = db.execute(statement, values).lastrowid
    assert number is not None
    change_files_token(db)
    return number


@contextmanager
def hold_files(folder: Path) -> Iterator[None]:
    """Keeps every file that is listed within the block until its end, merged files included.

    It first waits while replaced files are being removed, which takes milliseconds.
    """
    descriptor = os.open(folder / _LOCK, os.O_CREAT | os.O_RDONLY, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def begin(folder: Path) -> None:
    """Mark that files are about to change: until `finish`, the next seal looks at all of them."""
    (folder / SEGMENTS).mkdir(mode=0o700, parents=True, exist_ok=True)
    (folder / SEGMENTS / _UNFINISHED).touch(mode=0o600)


def is_unfinished(folder: Path) -> bool:
    """Whether a seal may have left files, or entries of the catalogue that are to be made."""
    return (folder / SEGMENTS / _UNFINISHED).exists()


def finish(folder: Path) -> None:
    """Mark that nothing is left to do."""
    (folder / SEGMENTS / _UNFINISHED).unlink(missing_ok=True)


def sweep(db: sqlite3.Connection, folder: Path) -> bool:
    """Remove the files that are not listed, unless a process reads. Returns whether none is left.

    A commit may be in memory only (`durability: process`). So the new list is on disk before files
    go; otherwise a machine that stops then would start with a list of files that are gone.
    """
    listed = {one.path(folder) for one in present(db)}
    within, merged_ones = (folder / SEGMENTS).glob("*/*"), (folder / SEGMENTS).glob("*.*")
    found = [*within, *(path for path in merged_ones if path.suffix in (".parquet", ".tmp"))]
    strangers = [path for path in found if path not in listed and not path.is_dir()]
    if not strangers:
        return True
    with locked(folder / _LOCK) as is_unread:
        if is_unread:
            with suppress(FileNotFoundError):  # then the synced database holds everything
                sync(folder / f"{DATABASE}-wal")
            for path in strangers:
                path.unlink()
        return is_unread
