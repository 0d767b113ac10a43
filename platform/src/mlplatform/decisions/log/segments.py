"""Sealed ranges of the log: Parquet files, and the hash-chained manifest that lists them."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from mlplatform.decisions.log import sealed_form
from mlplatform.decisions.records.record import GENESIS, SCALARS, STORED, arrow_schema, arrow_table
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import open_private

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa
    import pyarrow.parquet as pq

SEGMENTS: Final = "segments"
_BATCH_ROWS = 8_192
_GROUP_ROWS: Final = 4_096
"""Rows of a row group; reading one record decodes its whole group."""
_UNIQUE: Final = frozenset(
    ("seq", "decision_id", "event_ms", "recorded_ms", "payload_digest", "chain", "payload")
) | {sealed_form.ID_BYTES}
"""Columns whose values hardly repeat, so that a dictionary would be larger than the values."""
_FIELDS: Final = (
    "number, writer, first, last, rows, from_ms, to_ms, chain, sha256, previous, digest"
)


@dataclass(frozen=True, slots=True)
class Segment:
    """An entry of the manifest: the range of a writer that one file held when it was sealed.

    Args:
        from_ms: earliest event time in the file; `to_ms` is the latest, inclusive.
        chain: the writer's chain after the last record of the file.
        sha256: digest of the file.
        previous: digest of the entry before this one; zeros for the first entry.
    """

    number: int
    writer: str
    first: int
    last: int
    rows: int
    from_ms: int
    to_ms: int
    chain: bytes
    sha256: str
    previous: str
    digest: str

    @property
    def name(self) -> str:
        return f"{self.writer}/{self.first:012d}-{self.last:012d}.parquet"

    def path(self, folder: Path) -> Path:
        return folder / SEGMENTS / self.name

    def computed_digest(self) -> str:
        """The value that `digest` must have: SHA-256 over every other field, in canonical JSON."""
        return digest(
            [
                self.number,
                self.writer,
                self.first,
                self.last,
                self.rows,
                self.from_ms,
                self.to_ms,
                self.chain.hex(),
                self.sha256,
                self.previous,
            ]
        )


def manifest(db: sqlite3.Connection, *, after: int = 0, limit: int = -1) -> list[Segment]:
    """The entries with larger numbers, in the order in which they were sealed."""
    query = f"SELECT {_FIELDS} FROM segments WHERE number > ? ORDER BY number LIMIT ?"
    return [Segment(*row) for row in db.execute(query, (after, limit))]


def enter(
    db: sqlite3.Connection, writer: str, rows: Sequence[Sequence[Any]], *, sha256: str
) -> Segment:
    """Add a file of these stored records to the manifest. A trigger of the table adds it to the
    files that hold the log, also if a process of an older release seals.

    Call in a transaction.
    """
    last = db.execute("SELECT number, digest FROM segments ORDER BY number DESC LIMIT 1").fetchone()
    number, previous = last or (0, GENESIS.hex())
    times = [row[_EVENT_MS] for row in rows]
    first, final = rows[0], rows[-1]
    bare = Segment(
        number=number + 1,
        writer=writer,
        first=first[_SEQ],
        last=final[_SEQ],
        rows=len(rows),
        from_ms=min(times),
        to_ms=max(times),
        chain=final[_CHAIN],
        sha256=sha256,
        previous=previous,
        digest="",
    )
    values = [getattr(bare, name) for name in _FIELDS.split(", ")]
    values[-1] = bare.computed_digest()
    db.execute(f"INSERT INTO segments ({_FIELDS}) VALUES ({','.join('?' * len(values))})", values)
    return Segment(*values)


def path_of(folder: Path, writer: str, rows: Sequence[Sequence[Any]]) -> Path:
    """The path of the file for these stored records."""
    name = f"{rows[0][_SEQ]:012d}-{rows[-1][_SEQ]:012d}.parquet"
    return folder / SEGMENTS / writer / name


def write(path: Path, rows: Sequence[Sequence[Any]]) -> str:
    """Write stored records to a Parquet file, which is on disk on return. Returns its SHA-256."""
    return write_table(path, sealed_form.sealed(arrow_table(rows, stored_schema())))


def write_table(path: Path, table: pa.Table) -> str:
    """Write records in the form of a sealed file to a Parquet file, which is on disk on return.
    Returns its SHA-256."""
    import pyarrow.parquet as pq

    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(path, "wb", opener=open_private) as file:
            pq.write_table(
                table,
                file,
                compression="zstd",
                use_dictionary=[  # type: ignore[arg-type]  # the stubs know no list
                    name for name in table.column_names if name not in _UNIQUE
                ],
                row_group_size=_GROUP_ROWS,
            )
            file.flush()
            os.fsync(file.fileno())
    except OSError:  # a file that a full disk cut takes space too
        path.unlink(missing_ok=True)
        raise
    return file_sha256(path)


def read_table(path: Path) -> pa.Table:
    """All records of a file, in the form of a sealed file.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: the file is missing or not readable.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return sealed_form.sealed(file.read())


def records(path: Path, after: int = 0) -> Iterator[list[tuple[Any, ...]]]:
    """The records of a file with larger numbers, in batches, in the form of SQLite's rows; None for
    a digest that the file does not hold.

    Raises:
        pyarrow.ArrowException, OSError, ValueError: the file is missing or not readable.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        groups = [n for n in range(file.num_row_groups) if _last(file.metadata, n) > after]
        for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups):
            if after:
                batch = batch.filter(pc.greater(batch.column("seq"), pa.scalar(after)))
            if found := list(sealed_form.rows(batch)):
                yield found


def stored(path: Path, after: int = 0) -> Iterator[list[tuple[Any, ...]]]:
    """The `records` with all digests, for callers that can't continue without the file.

    Raises:
        Corrupt: the file is missing or not readable.
    """
    import pyarrow as pa

    try:
        for found in records(path, after):
            yield [sealed_form.whole(row) for row in found]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Corrupt(f"segment {path} cannot be read; run `mlplatform log verify`") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stored_schema() -> pa.Schema:
    """The Arrow schema of stored records."""
    import pyarrow as pa

    fields = list(arrow_schema(SCALARS))
    fields += [pa.field(name, pa.binary(32)) for name in ("payload_digest", "digest", "chain")]
    return pa.schema([*fields, pa.field("payload", pa.string())])


def _last(metadata: pq.FileMetaData, group: int) -> int:
    """The last number in a row group; `sys.maxsize` if the file does not hold it."""
    statistics = metadata.row_group(group).column(_SEQ).statistics
    if statistics is None or not statistics.has_min_max:
        return sys.maxsize
    last: int | None = statistics.max
    return sys.maxsize if last is None else last


_SEQ: Final = STORED.index("seq")
_EVENT_MS: Final = STORED.index("event_ms")
_CHAIN: Final = STORED.index("chain")
