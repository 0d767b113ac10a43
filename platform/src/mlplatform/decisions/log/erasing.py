"""Taking payloads out of the log once their erasure is on record, in steps that may be repeated.

The record of an erasure comes first (`erasure_acts`): from then on it is carried to its end by this
process or by the next seal, wherever a process dies. What is done is kept in the database; where
that is lost, all of it is done again, which changes nothing.
"""

from __future__ import annotations

import logging
import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.log import merging, reader, sealed, segments
from mlplatform.decisions.log.sealed import SealedFile
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.erasures import WRITERS, Erasure, erasure_of, numbers_of
from mlplatform.decisions.records.port import Span
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS erasures_done (writer TEXT PRIMARY KEY, seq INTEGER NOT NULL)
STRICT, WITHOUT ROWID
"""
_DONE: Final = "INSERT OR REPLACE INTO erasures_done VALUES (?, ?)"
CHECK: Final = "run `mlplatform log verify`"
_BITE_ROWS: Final = 200
_BITE_KEYS: Final = 500
_CHECKPOINT_WAIT_MS: Final = 2_000
"""Writers wait as long as this does for readers to end."""
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pending:
    """What is on record and may not be carried out yet.

    Args:
        numbers: by writer, the records whose payload goes, in order.
        decisions: ids, whose kept answers go.
        reached: by writer of erasures, its last record that is done once all of these are.
    """

    numbers: Mapping[str, Sequence[int]]
    decisions: Set[str]
    reached: Mapping[str, int]


def pending(db: sqlite3.Connection, folder: Path) -> Pending | None:
    """What is to be carried out; None where all is. Costs little where nothing is new.

    An erasure of records that come from a log elsewhere, and have not come yet, waits for them.

    Raises:
        Corrupt: an erasure record is not what was logged.
    """
    heads = {w.writer: w.seq for w in tables.writers(db)}
    done = _done(db)
    new = {w for w, seq in heads.items() if w.startswith(WRITERS) and seq > done.get(w, 0)}
    if not new:
        return None
    after = {w: done.get(w, 0) if w in new else seq for w, seq in heads.items()}
    ready: list[Erasure] = []
    decisions, reached, waiting = set[str](), dict[str, int](), set[str]()
    for writer, seq, decision_id, erasure in _recorded(folder, after):
        last = {of: max(numbers, default=0) for of, numbers in erasure.records.items()}
        if writer in waiting or any(last[of] > heads.get(of, 0) for of in last):
            waiting.add(writer)
            continue
        ready.append(erasure)
        decisions.add(decision_id)
        reached[writer] = seq
    numbers = {of: sorted(held) for of, held in numbers_of(ready).items()}
    return Pending(numbers, decisions, reached) if ready else None


def erased(folder: Path) -> dict[str, set[int]]:
    """By writer, the numbers of the records whose erasure is on record.

    Raises:
        Corrupt: an erasure record is not what was logged.
    """
    return numbers_of(erasure for *_, erasure in _recorded(folder, {}))


def steps(db: sqlite3.Connection, folder: Path) -> Iterator[str]:
    """Carry out what is pending; each yield is a moment at which being killed is safe.

    Call with the lock of `seal`. Whatever is left (a damaged file, a file that is being read, a
    write-ahead log that is being read) stays pending: the next call goes on.
    """
    todo = pending(db, folder)
    if todo is None:
        return
    sealed.begin(folder)
    is_done = True
    for file in sealed.present(db):
        numbers = todo.numbers.get(file.writer, ())
        held = numbers[bisect_left(numbers, file.first) : bisect_right(numbers, file.last)]
        if held:
            try:
                yield from _rewrite(db, folder, file, held)
            except Corrupt as error:
                _logger.error("payloads are not erased yet: %s", error)
                is_done = False
    if not sealed.sweep(db, folder):
        _logger.warning("payloads are not erased yet: files of %s are being read", folder)
        return
    yield "files with erased payloads removed"
    db.execute("PRAGMA secure_delete=ON")
    yield from _rows(db, todo.numbers)
    yield from _keys(db, todo.decisions)
    _close_writers(db)
    # first without: as long as somebody reads, each rewriting would make the log of writes longer
    if not is_done or not _emptied(db):
        return
    db.execute("VACUUM")  # pages of rows that were sealed or deleted before hold what they held
    yield "database written anew"
    if not _emptied(db):
        return
    yield "write-ahead log emptied"
    with sqlite.transaction(db):
        db.execute(_TABLE)
        db.executemany(_DONE, todo.reached.items())
    yield "erasures done"


def _recorded(folder: Path, after: Mapping[str, int]) -> Iterator[tuple[str, int, str, Erasure]]:
    """Writer, number, decision and content of each erasure record, by writer and number."""
    import pyarrow as pa

    columns = ("writer", "seq", "decision_id", "payload")
    span = Span(kinds=("erasure",), after=after, columns=columns)
    try:
        with closing(sqlite.connect(folder / tables.DATABASE)) as db:
            found = reader.read(db, folder, span)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"a sealed file of {folder} cannot be read; {CHECK}") from error
    for row in found.to_pylist():
        yield row["writer"], row["seq"], row["decision_id"], erasure_of(row["payload"])


def _rewrite(
    db: sqlite3.Connection, folder: Path, file: SealedFile, numbers: Sequence[int]
) -> Iterator[str]:
    """Put a file without these payloads in the place of one; all else of it stays as it is."""
    table = merging.records_of(folder, [file])
    without = _without(table, numbers)
    if without is None:
        return
    path = sealed.merged([file]).path(folder)
    draft = path.with_suffix(".tmp")
    sha256 = segments.write_table(draft, without)
    yield "draft without payloads written"
    if not segments.read_table(draft).equals(without):
        raise Corrupt(f"{draft} does not read as it was written")
    draft.replace(path)
    sync(path.parent)
    yield "file without payloads in place"
    with sqlite.transaction(db):
        sealed.replace(db, [file], sha256)
    yield "file without payloads listed"


def _without(table: pa.Table, numbers: Sequence[int]) -> pa.Table | None:
    """The records without the payloads of these; None where none of these has one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    payloads = table.column("payload")
    goes = pc.is_in(table.column("seq"), value_set=pa.array(numbers, pa.int64()))
    if not pc.any(pc.and_(goes, pc.is_valid(payloads))).as_py():
        return None
    place = table.schema.get_field_index("payload")
    left = pc.if_else(goes, pa.scalar(None, pa.string()), payloads)
    return table.set_column(place, table.schema.field(place), left).combine_chunks()


def _rows(db: sqlite3.Connection, numbers: Mapping[str, Sequence[int]]) -> Iterator[str]:
    for writer, held in sorted(numbers.items()):
        for start in range(0, len(held), _BITE_ROWS):
            bite = held[start : start + _BITE_ROWS]
            with sqlite.transaction(db):
                db.execute(
                    "UPDATE records SET payload = NULL WHERE writer = ? AND payload IS NOT NULL"
                    f" AND seq IN ({','.join('?' * len(bite))})",
                    (writer, *bite),
                )
            yield "payloads of rows erased"


def _keys(db: sqlite3.Connection, decisions: Set[str]) -> Iterator[str]:
    """Answers that are kept for retries; a retry after that is a request of its own."""
    query = "SELECT rowid, decision_id FROM idempotency"
    found = [row for row in db.execute(query) if row[1] in decisions]
    for start in range(0, len(found), _BITE_KEYS):
        bite = found[start : start + _BITE_KEYS]
        with sqlite.transaction(db):
            # another key may have the number of one that has been removed
            db.executemany("DELETE FROM idempotency WHERE rowid = ? AND decision_id = ?", bite)
        yield "kept answers erased"


def _close_writers(db: sqlite3.Connection) -> None:
    """Nobody waits for what a writer of erasures may still say, whether or not it was killed."""
    elsewhere = tables.replicated(db)
    names = [w.writer for w in tables.writers(db) if w.writer.startswith(WRITERS) and not w.closed]
    with sqlite.transaction(db):
        for name in names:
            if name not in elsewhere:
                db.execute("UPDATE writers SET closed = 1 WHERE writer = ?", (name,))


def _emptied(db: sqlite3.Connection) -> bool:
    """Whether the write-ahead log holds nothing any more; false while somebody reads it."""
    db.execute(f"PRAGMA busy_timeout={_CHECKPOINT_WAIT_MS}")
    (is_busy, _, _) = db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    db.execute(f"PRAGMA busy_timeout={sqlite.BUSY_TIMEOUT_MS}")
    return not is_busy


def _done(db: sqlite3.Connection) -> dict[str, int]:
    known = "SELECT 1 FROM sqlite_schema WHERE name = 'erasures_done'"
    if db.execute(known).fetchone() is None:
        return {}
    return dict(db.execute("SELECT writer, seq FROM erasures_done").fetchall())
