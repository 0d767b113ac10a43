"""Rows of a Delta table's version that no import has read yet, as batches of checked rows."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.columns import ExternalColumns, RowNumbers
from mlplatform.learning.features.external.delta_log import DeltaFile, DeltaSnapshot
from mlplatform.learning.features.external.files import StoredRows
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import Corrupt, InputInvalid
from mlplatform.runtime.storage.files import write_atomically

OPEN_FILES: Final = 200
"""Files that are open at a time."""


class ReadVersion(msgspec.Struct, frozen=True):
    """The last version of a Delta table whose rows are all in a view's table.

    Args:
        place: path or URI of the Delta table.
        table: the table's own id.
        files: identities of the version's files, and of those of earlier and later versions that
            were read in between.
        columns: the view's `row_digest` then.
        parts: identities of the view's parts then. A view that lacks one has lost rows.
    """

    place: str
    table: str
    version: int
    files: tuple[str, ...]
    columns: str
    parts: tuple[str, ...]


def read_version(columns: ExternalColumns, parts: ExternalParts, place: str) -> ReadVersion | None:
    """The note of an import of the Delta table at a place; None if there is none, if rows were lost
    since, or if the view has another key, or other times, than it had.

    Raises:
        Corrupt: the note is damaged.
    """
    path = _note(parts, place)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=ReadVersion)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        problem = f"{path}: {error}; remove it, and the next import reads all of the table"
        raise Corrupt(problem) from error
    is_whole = found.columns == columns.row_digest and parts.has_all(found.parts)
    return found if is_whole else None


def _note(parts: ExternalParts, place: str) -> Path:
    """A name without a dot: backups leave the file out, and a home that is put back from one reads
    all of the table once."""
    return parts.folder / f"delta-{hashlib.sha256(place.encode()).hexdigest()[:16]}"


class DeltaRows:
    """Rows of those files of a version that were not read before.

    Args:
        folder: a folder with these files.
        place: path or URI of the table, for messages.
        before: the version that was read last; None to read all files.
    """

    def __init__(
        self, snapshot: DeltaSnapshot, folder: Path, place: str, before: ReadVersion | None
    ) -> None:
        known = frozenset(_files(before, snapshot))
        self._reads_all = not known
        self.snapshot, self.place = snapshot, place
        self.files = tuple(file for file in snapshot.files if file.identity not in known)
        self._folder = folder

    @property
    def name(self) -> str:
        return f"{self.place} at version {self.snapshot.version}"

    @property
    def names(self) -> Sequence[str]:
        table = self.place.rsplit("/", 1)[-1]
        return [f"{table}/{file.shown}" for file in self.files]

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
        if columns.field.pseudonymous and any(key in file.partition for file in self.files):
            problem = f"it is partitioned by {key}, so that names of its files hold keys"
            raise InputInvalid(self.name, None, problem + "; copy it into a table that is not")
        for file in self.files:
            self._check(file)
        for start in range(0, len(self.files), OPEN_FILES):
            group = range(start, min(start + OPEN_FILES, len(self.files)))
            paths = [self._folder / self.files[number].name for number in group]
            with ParquetFiles(paths) as parquet:
                for place, number in enumerate(group):
                    yield from self._file(columns, parquet, place, number)

    def note_read(self, columns: ExternalColumns, parts: ExternalParts) -> None:
        found, version = self.snapshot, self.snapshot.version
        files = {file.identity for file in found.files}
        before = read_version(columns, parts, self.place)
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
        write_atomically(_note(parts, self.place), msgspec.json.encode(noted))

    def _check(self, file: DeltaFile) -> None:
        path = self._folder / file.name
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            problem = (
                f"its file {file.shown} is gone: VACUUM or somebody removed it; import a newer"
                " version, or put the file back"
            )
            raise InputInvalid(self.name, None, problem)
        if size != file.size_bytes:
            problem = f"its file {file.shown} has {size} bytes; its log says {file.size_bytes}"
            raise InputInvalid(self.name, None, problem)

    def _file(
        self, columns: ExternalColumns, parquet: ParquetFiles, place: int, number: int
    ) -> Iterator[StoredRows]:
        file, name = self.files[number], self.names[number]
        types, there = self._layout(columns, file, parquet.types(place))
        if not there:
            raise InputInvalid(name, None, "it has none of the view's columns")
        wanted = columns.found(types, name)
        row = 0
        for batch in parquet.batches(place, {there[one]: wanted[one] for one in there}):
            whole = _completed(batch, wanted, there, file.partition)
            numbers: RowNumbers = range(row, row + batch.num_rows)
            if file.kept is not None:
                mask = _mask(file.kept, row, batch.num_rows)
                whole, numbers = whole.filter(pa.array(mask)), row + np.flatnonzero(mask)
            row += batch.num_rows
            if whole.num_rows:
                yield StoredRows(columns.stored(whole, name, numbers), number, numbers)

    def _layout(
        self, columns: ExternalColumns, file: DeltaFile, found: Mapping[str, str]
    ) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Column → its type in the file, or in the table where the file lacks it; and column → its
        name in the file, of those that the file has. The case of letters is not told apart, as in
        Delta's own schemas."""
        alike = {name.lower(): name for name in found} | {name: name for name in found}
        there, types = dict[str, str](), dict[str, str]()
        for name in columns.kinds:
            types[name] = self.snapshot.types[name]
            physical = self.snapshot.physical[name]
            held = alike.get(physical, alike.get(physical.lower()))
            if held is not None and name not in file.partition:
                there[name], types[name] = held, found[held]
        return types, there


def _files(before: ReadVersion | None, snapshot: DeltaSnapshot) -> Collection[str]:
    """Identities of the files of a table that were read before."""
    return before.files if before is not None and before.table == snapshot.table else ()


def _mask(kept: NDArray[np.bool_], first: int, count: int) -> NDArray[np.bool_]:
    """Whether each of a file's rows from one on is kept."""
    known = kept[first : first + count]
    return np.concatenate([known, np.ones(count - len(known), np.bool_)])


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
