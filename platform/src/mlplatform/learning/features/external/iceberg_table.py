"""A snapshot of an Iceberg table as the files that hold its rows, by its metadata and manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.iceberg_deletes import (
    LiveFile,
    deleted_rows,
    refuse_equality,
)
from mlplatform.learning.features.external.iceberg_manifests import (
    DATA,
    EQUALITY_DELETES,
    EXISTING,
    POSITION_DELETES,
    Entry,
    Manifest,
    entries,
    manifests,
)
from mlplatform.learning.features.external.iceberg_metadata import (
    NAME_MAPPING,
    Column,
    Metadata,
    Snapshot,
    chosen,
    columns_at,
    metadata,
    names_mapped,
    newest,
    path_in,
    plain_place,
    specs,
)
from mlplatform.learning.features.external.snapshot_rows import (
    SHOWN,
    FileLayout,
    SnapshotWords,
    refuse_long,
)
from mlplatform.learning.features.input_files import ICEBERG_METADATA
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import InputInvalid

MOST_TABLE_FILES: Final = 100_000
"""Most files of a snapshot: each takes about a kilobyte of memory."""
_GONE: Final = (
    "expire_snapshots, remove_orphan_files or somebody removed it; import the current snapshot, or"
    " put the file back"
)
_STORED: Final[Mapping[str, pa.DataType]] = {
    "boolean": pa.bool_(), "int": pa.int32(), "long": pa.int64(), "float": pa.float32(),
    "double": pa.float64(), "string": pa.string(), "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us"),
}  # fmt: skip

Fetch = Callable[[Sequence[str]], None]
"""Copies files of the table, by their paths below its folder, to where they are read; those that
are not there are left out."""


@dataclass(frozen=True, slots=True, eq=False)
class IcebergFile:
    """A Parquet file of a snapshot.

    Args:
        name: its path below the table's folder.
        partition: column → the value of all rows, where the file lacks the column.
        named: columns whose values, or starts of them, are in names of folders.
        deleted: the numbers of the rows that delete files take away, in order.
    """

    name: str
    size_bytes: int
    partition: Mapping[str, Any]
    named: Collection[str]
    deleted: NDArray[np.int64] | None = None

    @property
    def identity(self) -> str:
        """The identity of these rows among all of the table: a file never changes, but the rows
        that are deleted from it do."""
        if self.deleted is None:
            return self.name
        return f"{self.name}#{hashlib.sha256(self.deleted.tobytes()).hexdigest()[:16]}"

    def kept(self, first: int, count: int) -> NDArray[np.bool_] | None:
        """Whether the snapshot has each of `count` rows from row `first` on; None if it has all."""
        if self.deleted is None:
            return None
        start, end = np.searchsorted(self.deleted, [first, first + count])
        mask = np.ones(count, np.bool_)
        mask[self.deleted[start:end] - first] = False
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class IcebergSnapshot:
    """A snapshot of a table.

    Args:
        table: the table's own id; another one at the same place is another table.
        number: the snapshot's id; None for a table without a snapshot.
        order: when it was made, in ms.
        columns: column → its id and type.
        mapped: column of a file without ids → id; None if the table does not say it.
        files: oldest first.
    """

    table: str
    number: int | None
    order: int
    columns: Mapping[str, Column]
    mapped: Mapping[str, int] | None
    files: tuple[IcebergFile, ...]

    @property
    def words(self) -> SnapshotWords:
        return SnapshotWords(
            format="iceberg",
            shown="without a snapshot" if self.number is None else f"at snapshot {self.number}",
            log="manifest",
            gone=_GONE,
            facts={} if self.number is None else {"snapshot": self.number},
        )

    @property
    def types(self) -> Mapping[str, str]:
        return {name: column.arrow for name, column in self.columns.items()}

    def layout(
        self, columns: Collection[str], file: int, parquet: ParquetFiles, place: int
    ) -> FileLayout:
        """Where these columns of a file are, by field ids."""
        found, ids = parquet.types(place), parquet.field_ids(place)
        if not ids:
            if self.mapped is None:
                problem = (
                    f"its columns have no field ids, and the table has no property {NAME_MAPPING};"
                    " have the table's engine set it"
                )
                raise InputInvalid(self.files[file].name[:SHOWN], None, problem)
            ids = {self.mapped[name]: name for name in found if name in self.mapped}
        there, types = dict[str, str](), dict[str, str]()
        for name in columns:
            column = self.columns[name]
            types[name] = column.arrow
            if (held := ids.get(column.id)) is not None:
                there[name], types[name] = held, found[held]
        return FileLayout(types, there)


def snapshot(
    folder: Path,
    names: Iterable[str],
    version: int | None,
    source: str,
    *,
    fetch: Fetch,
    name: str | None = None,
) -> IcebergSnapshot:
    """A snapshot of the table in a folder.

    Args:
        names: of files in the table's folder of metadata.
        version: the snapshot's id; None for the current one.
        source: the table's place.
        fetch: copies files into the folder, if they are elsewhere.
        name: of the metadata file to read; None for the newest.

    Raises:
        InputInvalid: a file is damaged, gone or lies elsewhere, there is no such snapshot, or the
            table needs what is not read here; the message says what.
    """
    chosen_name = name or newest(names, source)
    found = metadata(_fetched(folder, f"{ICEBERG_METADATA}/{chosen_name}", source, fetch))
    one = chosen(found, version, source)
    columns = columns_at(found, None if version is None else one, source)
    reader = _Reader(folder, found, columns, source, fetch)
    return IcebergSnapshot(
        table=found.table,
        number=None if one is None else one.snapshot_id,
        order=0 if one is None else one.timestamp_ms,
        columns=columns,
        mapped=names_mapped(found, source),
        files=() if one is None else reader.files(one),
    )


def _fetched(folder: Path, name: str, source: str, fetch: Fetch) -> Path:
    fetch([name])
    path = folder / name
    if not path.is_file():
        raise InputInvalid(source, None, f"its file {name[:SHOWN]} is gone: {_GONE}")
    return path


class _Reader:
    """The files of a table's snapshots."""

    def __init__(
        self,
        folder: Path,
        found: Metadata,
        columns: Mapping[str, Column],
        source: str,
        fetch: Fetch,
    ) -> None:
        self._folder, self._source, self._fetch = folder, source, fetch
        self._roots = [plain_place(found.location), plain_place(source)]
        self._specs = specs(found)
        names = {column.id: name for name, column in columns.items()}
        self._made_of = {
            number: [(names[one.source_id], one) for one in fields if one.source_id in names]
            for number, fields in self._specs.items()
        }
        """Number of a partition spec → its fields that are made of a column, with the column."""
        self._columns = columns

    def files(self, one: Snapshot) -> tuple[IcebergFile, ...]:
        live = self._live(one)
        data = sorted(live[DATA], key=lambda file: (file.sequence, file.name))
        self._refuse_twice(data)
        unpartitioned = {number for number, fields in self._specs.items() if not fields}
        refuse_equality(live[EQUALITY_DELETES], data, unpartitioned, self._source)
        deletes = live[POSITION_DELETES]
        self._fetch([file.name for file in deletes])
        for file in deletes:
            self._check_size(file.name, file.size_bytes, "manifest")
        deleted = deleted_rows(self._folder, deletes, data, self._inside, self._source)
        return tuple(
            IcebergFile(
                name=file.name,
                size_bytes=file.size_bytes,
                partition=self._values(file),
                named=self._named(file),
                deleted=deleted.get(place),
            )
            for place, file in enumerate(data)
        )

    def _refuse_twice(self, data: Sequence[LiveFile]) -> None:
        seen = set[str]()
        for file in data:
            if file.name in seen:
                problem = (
                    f"its file {file.name[:SHOWN]} is listed twice; have the table's engine write"
                    " its rows anew (rewrite_data_files)"
                )
                raise InputInvalid(self._source, None, problem)
            seen.add(file.name)

    def _live(self, one: Snapshot) -> dict[int, list[LiveFile]]:
        """Content → the files of a snapshot that have it."""
        listed = self._manifests(one)
        found: dict[int, list[LiveFile]] = {DATA: [], POSITION_DELETES: [], EQUALITY_DELETES: []}
        counts = [0] * len(listed)
        paths = [self._folder / self._name(manifest.path) for manifest in listed]
        for number, (place, entry) in enumerate(entries(paths)):
            if number >= MOST_TABLE_FILES:
                problem = (
                    f"more than {MOST_TABLE_FILES} files in snapshot {one.snapshot_id}: merge them"
                    " by rewrite_data_files"
                )
                raise InputInvalid(self._source, None, problem)
            counts[place] += 1
            found[entry.content].append(self._file(entry, listed[place]))
        for manifest, count in zip(listed, counts, strict=True):
            live = manifest.live
            if live is not None and live != count:
                problem = (
                    f"its manifest {self._name(manifest.path)[:SHOWN]} has {count} files; its list"
                    f" says {live}: restore it from a backup, or import another snapshot"
                )
                raise InputInvalid(self._source, None, problem)
        return found

    def _manifests(self, one: Snapshot) -> list[Manifest]:
        """The manifests of a snapshot, which lie in the folder."""
        if one.manifest_list is None:
            problem = (
                f"snapshot {one.snapshot_id} has no list of manifests, which the first writers of"
                " Iceberg left out; have the table's engine write a newer snapshot"
            )
            raise InputInvalid(self._source, None, problem)
        listed = manifests(self._at(self._name(one.manifest_list)))
        names = [self._name(manifest.path) for manifest in listed]
        self._fetch(names)
        for name, manifest in zip(names, listed, strict=True):
            self._check_size(name, manifest.length, "list")
        return listed

    def _file(self, entry: Entry, manifest: Manifest) -> LiveFile:
        name = self._name(entry.path)
        is_data = manifest.content == DATA
        if is_data != (entry.content == DATA) or manifest.spec not in self._specs:
            misplaced = (
                f"its file {name[:SHOWN]} is in a manifest of other files, or of no partition;"
                " import another snapshot"
            )
            raise InputInvalid(self._source, None, misplaced)
        if entry.format.upper() != "PARQUET":
            other = (
                f"its file {name[:SHOWN]} is {entry.format[:20]}; wanted: PARQUET. Have the table's"
                " engine rewrite it: write.format.default and write.delete.format.default are"
                " parquet, then rewrite_data_files"
            )
            raise InputInvalid(self._source, None, other)
        if entry.sequence is None and entry.status == EXISTING and manifest.sequence > 0:
            without = f"its file {name[:SHOWN]} has no sequence number; import another snapshot"
            raise InputInvalid(self._source, None, without)
        inherited = 0 if entry.status == EXISTING else manifest.sequence
        return LiveFile(
            name=name,
            size_bytes=entry.size,
            spec=manifest.spec,
            partition=entry.partition,
            sequence=inherited if entry.sequence is None else entry.sequence,
        )

    def _at(self, name: str) -> Path:
        return _fetched(self._folder, name, self._source, self._fetch)

    def _inside(self, uri: str) -> str | None:
        return path_in(uri, self._roots)

    def _name(self, uri: str) -> str:
        """A file's path below the table's folder."""
        name = self._inside(uri)
        if name is None:
            problem = (
                f"its file {uri[:SHOWN]} lies outside of its folder {self._roots[0][:SHOWN]}, as"
                " those of write.data.path and of a migrated table may; have the table's engine"
                " write its rows anew below the folder"
            )
            raise InputInvalid(self._source, None, problem)
        refuse_long(name, self._source)
        return name

    def _check_size(self, name: str, size_bytes: int, by: str) -> None:
        path = self._folder / name
        if not path.is_file():
            raise InputInvalid(self._source, None, f"its file {name[:SHOWN]} is gone: {_GONE}")
        if (size := path.stat().st_size) != size_bytes:
            problem = f"its file {name[:SHOWN]} has {size} bytes; its {by} says {size_bytes}"
            raise InputInvalid(self._source, None, problem)

    def _values(self, file: LiveFile) -> Mapping[str, Any]:
        """Column → the value of all rows of a file that is partitioned by the column itself."""
        found = {}
        for name, field in self._made_of[file.spec]:
            kind = _STORED.get(str(self._columns[name].type))
            if field.transform == "identity" and kind is not None:
                value = file.partition.get(str(field.field_id))
                found[name] = self._scalar(value, kind, name)
        return found

    def _scalar(self, value: bool | int | str | None, kind: pa.DataType, name: str) -> Any:
        try:
            if pa.types.is_floating(kind) and isinstance(value, str):
                return pa.scalar(float.fromhex(value), kind)
            return pa.scalar(value, kind)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            problem = f"column {name} has a partition value that is no {kind}: {error}"
            raise InputInvalid(self._source, None, problem) from error

    def _named(self, file: LiveFile) -> Collection[str]:
        return {
            name
            for name, field in self._made_of[file.spec]
            if field.transform == "identity" or field.transform.startswith("truncate")
        }
