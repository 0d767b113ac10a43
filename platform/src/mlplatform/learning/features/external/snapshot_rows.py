"""Rows of a Delta or Iceberg table's snapshot that no import has read yet, as checked batches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.columns import ExternalColumns, RowNumbers
from mlplatform.learning.features.external.files import StoredRows
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import Corrupt, InputInvalid
from mlplatform.runtime.storage.files import write_atomically

OPEN_FILES: Final = 200
"""Files that are open at a time."""
SHOWN: Final = 200
"""Characters of a name in messages."""
MOST_NAME_BYTES: Final = 1024
"""Most bytes of a file's path below the table's folder, as in S3."""
MOST_PART_BYTES: Final = 255
"""Most bytes of a folder's or file's own name, as file systems have it."""


class FileLayout(NamedTuple):
    """Where the view's columns of a file are.

    Args:
        types: column → its type in the file, or in the table where the file lacks it.
        there: column → its name in the file, of those that the file has.
    """

    types: Mapping[str, str]
    there: Mapping[str, str]


class SnapshotFile(Protocol):
    """A Parquet file of a snapshot."""

    @property
    def name(self) -> str:
        """The path below the table's folder."""
        ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def partition(self) -> Mapping[str, Any]:
        """Column → the value of all rows, as Arrow's scalar, where the file lacks the column."""
        ...

    @property
    def named(self) -> Collection[str]:
        """Columns whose values, or starts of them, are in names of folders."""
        ...

    @property
    def identity(self) -> str:
        """The identity of the rows that the snapshot has of it, among all of the table."""
        ...

    def kept(self, first: int, count: int) -> NDArray[np.bool_] | None:
        """Whether the snapshot has each of `count` rows from row `first` on; None if it has all."""
        ...


class SnapshotWords(NamedTuple):
    """The words for a snapshot in messages and answers.

    Args:
        format: `delta` or `iceberg`.
        shown: it, after the table's place.
        log: what names its files.
        gone: who may have removed a file, and what to do.
        facts: its number, by the format's word.
    """

    format: str
    shown: str
    log: str
    gone: str
    facts: Mapping[str, int]


class TableSnapshot(Protocol):
    """A state of a table: the files that hold its rows, oldest first."""

    @property
    def words(self) -> SnapshotWords: ...

    @property
    def table(self) -> str:
        """The table's own id; another one at the same place is another table."""
        ...

    @property
    def order(self) -> int:
        """A number that is greater for a later state of the table."""
        ...

    @property
    def types(self) -> Mapping[str, str]:
        """Column → its type in Arrow's terms."""
        ...

    @property
    def files(self) -> Sequence[SnapshotFile]: ...

    def layout(
        self, columns: Collection[str], file: int, parquet: ParquetFiles, place: int
    ) -> FileLayout:
        """Where these columns of a file are, which is `place` among the open ones.

        Raises:
            InputInvalid: the file is not readable, or does not say which column is which.
        """
        ...


class ReadVersion(msgspec.Struct, frozen=True):
    """The last snapshot of a Delta or Iceberg table whose rows are all in a view's table.

    Args:
        place: path or URI of the table.
        table: the table's own id.
        version: the snapshot's `order`.
        files: identities of the snapshot's files, and of those of earlier and later ones that were
            read in between.
        columns: the view's `row_digest` then.
        parts: identities of the view's parts then. A view that lacks one has lost rows.
    """

    place: str
    table: str
    version: int
    files: tuple[str, ...]
    columns: str
    parts: tuple[str, ...]


def read_version(
    columns: ExternalColumns, parts: ExternalParts, place: str, format_: str
) -> ReadVersion | None:
    """The note of an import of the table at a place; None if there is none, if rows were lost
    since, or if the view has another key, or other times, than it had.

    Args:
        format_: `delta` or `iceberg`.

    Raises:
        Corrupt: the note is damaged.
    """
    path = _note(parts, place, format_)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ReadVersion)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        problem = f"{path}: {error}; remove it, and the next import reads all of the table"
        raise Corrupt(problem) from error
    is_whole = found.columns == columns.row_digest and parts.has_all(found.parts)
    return found if is_whole else None


def _note(parts: ExternalParts, place: str, format_: str) -> Path:
    """A name without a dot: backups leave the file out, and a home that is put back from one reads
    all of the table once."""
    return parts.folder / f"{format_}-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


class SnapshotRows:
    """Rows of those files of a snapshot that were not read before.

    Args:
        folder: a folder with these files.
        place: path or URI of the table, for messages.
        before: the snapshot that was read last; None to read all files.
    """

    def __init__(
        self, snapshot: TableSnapshot, folder: Path, place: str, before: ReadVersion | None
    ) -> None:
        known = frozenset(_files(before, snapshot))
        self._reads_all = not known
        self.snapshot, self.place = snapshot, place
        self._numbers = tuple(
            number for number, file in enumerate(snapshot.files) if file.identity not in known
        )
        self.files = tuple(snapshot.files[number] for number in self._numbers)
        self._folder = folder

    @property
    def name(self) -> str:
        return f"{self.place} {self.snapshot.words.shown}"

    @property
    def names(self) -> Sequence[str]:
        table = self.place.rsplit("/", 1)[-1]
        return [f"{table}/{shown(file.name)}" for file in self.files]

    @property
    def may_be_empty(self) -> bool:
        return len(self.files) < len(self.snapshot.files)

    def unread(self, columns: ExternalColumns) -> list[str]:
        return [name for name in self.snapshot.types if name not in columns.kinds]

    def rows(self, columns: ExternalColumns) -> Iterator[StoredRows]:
        """
        Raises:
            InputInvalid: the table, a file or a row is wrong; the message names it, and what is
                wanted.
        """
        columns.found(self.snapshot.types, self.name)
        key = columns.view.join_key
        if columns.field.pseudonymous and any(key in file.named for file in self.files):
            problem = f"it is partitioned by {key}, so that names of its files hold keys"
            raise InputInvalid(self.name, None, problem + "; copy it into a table that is not")
        files, names = self.files, self.names
        for file in files:
            self._check(file)
        for start in range(0, len(files), OPEN_FILES):
            group = range(start, min(start + OPEN_FILES, len(files)))
            paths = [self._folder / files[number].name for number in group]
            with ParquetFiles(paths, casts=False) as parquet:
                for place, number in enumerate(group):
                    for batch, rows in self._file(columns, parquet, place, number, names[number]):
                        stored = columns.stored(batch, names[number], rows)
                        yield StoredRows(stored, number, rows)

    def note_read(self, columns: ExternalColumns, parts: ExternalParts) -> None:
        found, version = self.snapshot, self.snapshot.order
        files = {file.identity for file in found.files}
        before = read_version(columns, parts, self.place, found.words.format)
        known = _files(before, found)
        if not self._reads_all and not known:
            return  # what this import left out was lost meanwhile
        if before is not None and known and before.version > version:
            files, version = files.union(known), before.version
        noted = ReadVersion(
            place=self.place,
            table=found.table,
            version=version,
            files=tuple(sorted(files)),
            columns=columns.row_digest,
            parts=tuple(sorted(parts.identities())),
        )
        write_atomically(_note(parts, self.place, found.words.format), msgspec.json.encode(noted))

    def _check(self, file: SnapshotFile) -> None:
        path = self._folder / file.name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            problem = f"its file {shown(file.name)} is gone: {self.snapshot.words.gone}"
            raise InputInvalid(self.name, None, problem)
        if size != file.size_bytes:
            problem = (
                f"its file {shown(file.name)} has {size} bytes; its {self.snapshot.words.log} says"
                f" {file.size_bytes}"
            )
            raise InputInvalid(self.name, None, problem)

    def _file(
        self, columns: ExternalColumns, parquet: ParquetFiles, place: int, number: int, name: str
    ) -> Iterator[tuple[pa.RecordBatch, RowNumbers]]:
        """Batches of a file with all columns of the view, and the numbers of their rows."""
        file = self.files[number]
        found = self.snapshot.layout(columns.kinds, self._numbers[number], parquet, place)
        if not found.there:
            raise InputInvalid(name, None, "it has none of the view's columns")
        wanted = columns.found(found.types, name)
        row = 0
        for batch in parquet.batches(place, {found.there[one]: wanted[one] for one in found.there}):
            whole = _completed(batch, wanted, found.there, file.partition)
            numbers: RowNumbers = range(row, row + batch.num_rows)
            mask = file.kept(row, batch.num_rows)
            if mask is not None:
                whole, numbers = whole.filter(pa.array(mask)), row + np.flatnonzero(mask)
            row += batch.num_rows
            if whole.num_rows:
                yield whole, numbers


def refuse_long(name: str, source: str) -> None:
    """
    Args:
        name: a file's path below the table's folder.

    Raises:
        InputInvalid: no file system has a place for it.
    """
    sizes = [len(part.encode(errors="replace")) for part in name.split("/")]
    if max(sizes) > MOST_PART_BYTES or sum(sizes) + len(sizes) > MOST_NAME_BYTES:
        problem = (
            f"its file {name[:SHOWN]} has too long a name; the limits are {MOST_PART_BYTES} bytes"
            f" for a folder or a file, and {MOST_NAME_BYTES} in all: write its rows anew"
        )
        raise InputInvalid(source, None, problem)


def shown(name: str) -> str:
    """A file's name, cut, for messages."""
    return name[:SHOWN]


def _files(before: ReadVersion | None, snapshot: TableSnapshot) -> Collection[str]:
    """Identities of the files of a table that were read before."""
    return before.files if before is not None and before.table == snapshot.table else ()


def _completed(
    batch: pa.RecordBatch,
    wanted: Mapping[str, pa.DataType],
    there: Mapping[str, str],
    partition: Mapping[str, Any],
) -> pa.RecordBatch:
    """All columns of the view: those of the file, the partition's values, and null for those that
    the table was given after the file."""

    def values(name: str, kind: Any) -> pa.Array[Any]:
        if name in there:
            return batch.column(there[name])
        made: Any = pa.nulls(batch.num_rows, kind)
        if name in partition:
            made = pa.repeat(partition[name], batch.num_rows).cast(kind)
        found: pa.Array[Any] = made
        return found

    arrays = [values(name, kind) for name, kind in wanted.items()]
    return pa.RecordBatch.from_arrays(arrays, names=list(wanted))
