"""The catalogue: what each sealed file holds, so that a read opens only the files that it needs.

The catalogue is computed from the files and can be made again. Every read opens a file that has no
entry, or whose entry names another digest; so a lost or damaged catalogue only costs time. A
complete catalogue holds the token that the log gave its list of files at the last change.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.log.sealed_files import FIELDS, SealedFile, present
from mlplatform.decisions.log.sealed_form import id_columns, with_ids
from mlplatform.decisions.log.segments import SEGMENTS
from mlplatform.decisions.records.port import RecordQuery
from mlplatform.decisions.records.record import KINDS
from mlplatform.runtime.storage import sqlite

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

DATABASE: Final = "catalogue-2.db"
"""File name of the database. The number is the form of the entries; another form has a file of its
own."""
_FORMER: Final = ("catalogue-1.db", "catalogue-1.db-wal", "catalogue-1.db-shm")
"""Files of earlier forms, which are removed."""
COLUMNS: Final = ("kind", "model", "generation", "rollout_id", "unit", "decision_id")
"""The columns from which an entry is made."""
ID_LENGTH: Final = 32
"""Number of digits of an id that are looked up: as many as the id of its trace has."""
_LISTED: Final = ("kind", "model", "generation", "rollout_id")
_MOST_LISTED: Final = 64
_MOST_ROWS: Final = 8_192
_PRINT_BYTES: Final = 3
_MOST_KEYS: Final = 500
"""Most ids that are looked up for a query between two times: half a millisecond each. More ids are
searched for in all files of that time."""
_BITE_FILES: Final = 100
_TABLES: Final = """
CREATE TABLE IF NOT EXISTS entries (
    file INTEGER PRIMARY KEY,
    sha256 TEXT NOT NULL,
    rows INTEGER NOT NULL,
    kind TEXT,
    model TEXT,
    generation TEXT,
    rollout_id TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS prints (
    piece INTEGER NOT NULL,
    file INTEGER NOT NULL,
    prints BLOB NOT NULL,
    PRIMARY KEY (piece, file)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS whole (token BLOB NOT NULL) STRICT;
"""
_EVERY_FILE: Final = "files f LEFT JOIN catalogue.entries e"
_IS_WHOLE: Final = """
SELECT count(*) FROM catalogue.whole JOIN files_token USING (token)
"""


@dataclass(frozen=True, slots=True)
class Contents:
    """The content of a catalogue entry.

    Args:
        values: for each column of `_LISTED`, its distinct values as JSON strings, separated by
            commas. None means more than `_MOST_LISTED` values: the file may hold any value.
        prints: number of a piece → three bytes of the digest of each id and unit in the piece,
            sorted. A digest determines its piece. A lookup reads one piece of each file, and the
            same piece of all files lies together in the database.
    """

    values: tuple[str | None, ...]
    prints: Mapping[int, bytes]


def contents(table: pa.Table) -> Contents:
    """The contents of records that have at least `COLUMNS`."""
    import pyarrow.compute as pc

    values = tuple(_listed(pc.unique(table.column(name)).to_pylist()) for name in _LISTED)
    decision_ids = map(str, table.column("decision_id").to_pylist())
    keys = {decision_id[:ID_LENGTH] for decision_id in decision_ids}
    keys |= set(map(_unit_key, pc.unique(table.column("unit")).drop_null().to_pylist()))
    prints: dict[int, list[bytes]] = {}
    for piece, shape in (place(one, few=len(table) <= _MOST_ROWS) for one in keys):
        prints.setdefault(piece, []).append(shape)
    return Contents(values, {piece: b"".join(sorted(p)) for piece, p in sorted(prints.items())})


def contents_of(path: Path) -> Contents:
    """The contents of a sealed file.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: the file is missing or not readable.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return contents(with_ids(file.read(id_columns(COLUMNS))))


def files_of_query(db: sqlite3.Connection, query: RecordQuery) -> list[SealedFile]:
    """The files that may hold records of the query, ordered by writer and number.

    Args:
        db: database of the log; its catalogue is attached if there is one.
    """
    conditions, values = _bounds(query)
    try:
        found, more = _contained(db, query)
        if not found:
            return present(db, " AND ".join(conditions), *values)
        (is_whole,) = db.execute(_IS_WHOLE).fetchone()
        statement = (
            f"SELECT {', '.join(f'f.{name}' for name in FIELDS.split(', '))}"
            f" FROM {'catalogue.entries e JOIN files f' if is_whole else _EVERY_FILE}"
            " ON e.file = f.file AND e.sha256 = f.sha256"
            f" WHERE {' AND '.join(conditions)}"
            f" AND ({'' if is_whole else 'e.file IS NULL OR '}{' AND '.join(found)})"
        )
        files = [SealedFile(*row) for row in db.execute(statement, (*values, *more))]
    except sqlite3.DatabaseError:  # missing or damaged: the next seal makes it again
        return present(db, " AND ".join(conditions), *values)
    return sorted(files, key=lambda file: (file.writer, file.first))


def attach(db: sqlite3.Connection, folder: Path) -> None:
    """Attach the catalogue to a connection, if there is one."""
    if exists(folder):
        with suppress(sqlite3.DatabaseError):  # damaged: `files_of_query` does without
            db.execute("ATTACH ? AS catalogue", (str(folder / SEGMENTS / DATABASE),))


def renew(db: sqlite3.Connection, folder: Path, most_files: int) -> Iterator[str]:
    """Add entries for at most `most_files` files that have none of their digest, and drop those of
    files that are gone.

    Raises:
        sqlite3.DatabaseError: the catalogue is damaged; the caller must `discard` it.
    """
    for name in _FORMER:
        (folder / SEGMENTS / name).unlink(missing_ok=True)
    files = present(db)
    (token,) = db.execute("SELECT token FROM files_token").fetchone()
    with _opened(folder) as catalogue:
        entries = catalogue.execute("SELECT file, sha256, rows FROM entries").fetchall()
        known = {file: sha256 for file, sha256, _ in entries}
        there = {one.file for one in files}
        with sqlite.transaction(catalogue):
            # in the transaction of the entries, because a reader with the earlier list of files may
            # need them
            catalogue.execute("DELETE FROM whole")
            for file, _, rows in entries:
                if file not in there:
                    _remove(catalogue, file, rows)
        yield "entries of replaced files dropped"
        new = [one for one in files if known.get(one.file) != one.sha256]
        entered = 0
        for start in range(0, min(len(new), most_files), _BITE_FILES):
            bite = new[start : start + _BITE_FILES]
            found = [(one, _readable(one.path(folder))) for one in bite]
            with sqlite.transaction(catalogue):
                for one, held in found:
                    if held is not None:
                        _enter(catalogue, one, held)
                        entered += 1
            yield "files catalogued"
        if entered == len(new):
            with sqlite.transaction(catalogue):
                catalogue.execute("INSERT INTO whole VALUES (?)", (token,))
            yield "catalogue whole"


def is_whole(db: sqlite3.Connection, folder: Path) -> bool:
    """Whether every file has an entry of its digest, and there are no other entries.

    Raises:
        sqlite3.DatabaseError: the catalogue is damaged; the caller must `discard` it.
    """
    if not exists(folder):
        return False
    (token,) = db.execute("SELECT token FROM files_token").fetchone()
    with _opened(folder) as catalogue:
        return catalogue.execute("SELECT token FROM whole").fetchall() == [(token,)]


def exists(folder: Path) -> bool:
    """Whether there is a catalogue, whatever it contains."""
    return (folder / SEGMENTS / DATABASE).exists()


def entry_of(folder: Path, file: SealedFile) -> Contents | None:
    """The entry of a file; None if there is none of its digest.

    Raises:
        sqlite3.DatabaseError: the catalogue is damaged.
    """
    if not exists(folder):
        return None
    pieces = _pieces(file.rows)
    with closing(sqlite.connect(folder / SEGMENTS / DATABASE)) as db:
        statement = f"SELECT {', '.join(_LISTED)} FROM entries WHERE file = ? AND sha256 = ?"
        row = db.execute(statement, (file.file, file.sha256)).fetchone()
        statement = (
            f"SELECT piece, prints FROM prints WHERE piece IN ({','.join(map(str, pieces))})"
            " AND file = ? ORDER BY piece"
        )
        return None if row is None else Contents(row, dict(db.execute(statement, (file.file,))))


def forget(folder: Path, files: Sequence[SealedFile]) -> None:
    """Drop the entries of these files: every read opens them until the next seal has added them
    again."""
    with _opened(folder) as db, sqlite.transaction(db):
        db.execute("DELETE FROM whole")
        for file in files:
            _remove(db, file.file, file.rows)


def discard(folder: Path) -> None:
    """Remove the catalogue: readers open every file until the next seal has made it again."""
    for name in ("", "-wal", "-shm"):
        (folder / SEGMENTS / f"{DATABASE}{name}").unlink(missing_ok=True)


def _bounds(query: RecordQuery) -> tuple[list[str], list[object]]:
    conditions, values = ["true"], list[object]()
    if query.after:
        cases = " ".join(["WHEN ? THEN ?"] * len(query.after))
        conditions.append(f"last > CASE writer {cases} ELSE 0 END")
        values += [part for pair in query.after.items() for part in pair]
    if query.from_ms is not None:
        conditions.append("to_ms >= ?")
        values.append(query.from_ms)
    if query.to_ms is not None:
        conditions.append("from_ms < ?")
        values.append(query.to_ms)
    return conditions, values


def _contained(db: sqlite3.Connection, query: RecordQuery) -> tuple[list[str], list[object]]:
    conditions, values = list[str](), list[object]()
    wanted: dict[str, Sequence[object]] = {
        name: [value]
        for name in ("model", "generation", "rollout_id")
        if (value := getattr(query, name)) is not None
    }
    if query.kinds != KINDS:
        wanted["kind"] = query.kinds
    for name, any_of in wanted.items():
        holds = " OR ".join([f"e.{name} IS NULL", *[f"instr(e.{name}, ?) > 0"] * len(any_of)])
        conditions.append(f"({holds})")
        values += [json.dumps(str(value)) for value in any_of]
    for keys in _keys(query):
        files = sorted({file for one in keys for file in _holding(db, one)})
        conditions.append("e.file IN (SELECT value FROM json_each(?))")
        values.append(json.dumps(files))
    return conditions, values


def _keys(query: RecordQuery) -> Iterator[Sequence[str]]:
    """Keys of which a file has to hold one, for each of the query's conditions on keys."""
    if query.unit is not None:
        yield [_unit_key(query.unit)]
    ids = query.decision_ids if query.decision_id is None else [query.decision_id]
    starts = query.decision_id_starts
    if query.decision_id is None and starts is not None and len(starts) >= ID_LENGTH:
        ids = [starts]
    is_bounded = query.from_ms is not None and query.to_ms is not None
    if ids is not None and not (is_bounded and len(ids) > _MOST_KEYS):
        yield [one[:ID_LENGTH] for one in ids]


def _unit_key(unit: int | None) -> str:
    return f"unit {unit}"


def _holding(db: sqlite3.Connection, key: str) -> Iterator[int]:
    places = [place(key, few=few) for few in (True, False)]
    statement = (
        "SELECT file FROM catalogue.prints"
        f" WHERE piece IN ({', '.join(str(piece) for piece, _ in places)}) AND instr(prints, ?) > 0"
    )
    return (file for (file,) in db.execute(statement, (places[0][1],)))


def _pieces(rows: int) -> range:
    return range(16, 32) if rows <= _MOST_ROWS else range(256, 512)


def place(key: str, *, few: bool) -> tuple[int, bytes]:
    """The piece in which a key of a file lies, and what stands for the key there.

    Args:
        few: whether the file has few records, and so few pieces.
    """
    digest = hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
    piece = 16 + (digest[0] >> 4) if few else 256 + digest[0]
    return piece, digest[1 : 1 + _PRINT_BYTES]


def _listed(values: Sequence[object]) -> str | None:
    there = [value for value in values if value is not None]
    if len(there) > _MOST_LISTED:
        return None
    return ",".join(sorted(json.dumps(str(value)) for value in there))


def _readable(path: Path) -> Contents | None:
    import pyarrow as pa

    try:
        return contents_of(path)
    except (pa.ArrowException, OSError, ValueError):  # reads and verify report it
        return None


def _enter(db: sqlite3.Connection, file: SealedFile, found: Contents) -> None:
    _remove(db, file.file, file.rows)
    values = (file.file, file.sha256, file.rows, *found.values)
    db.execute(f"INSERT INTO entries VALUES ({','.join('?' * len(values))})", values)
    rows = [(piece, file.file, prints) for piece, prints in found.prints.items()]
    db.executemany("INSERT INTO prints VALUES (?, ?, ?)", rows)


def _remove(db: sqlite3.Connection, file: int, rows: int) -> None:
    db.execute("DELETE FROM entries WHERE file = ?", (file,))
    pieces = ((piece, file) for piece in _pieces(rows))
    db.executemany("DELETE FROM prints WHERE piece = ? AND file = ?", pieces)


@contextmanager
def _opened(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite.connect(folder / SEGMENTS / DATABASE, tables=_TABLES)) as db:
        yield db
