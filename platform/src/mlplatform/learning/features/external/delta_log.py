"""A version of a Delta table as the files that hold its rows, by the log of the table."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mlplatform.learning.features.external.delta_vectors import vector_outside
from mlplatform.learning.features.external.snapshot_rows import (
    SHOWN,
    FileLayout,
    SnapshotWords,
    refuse_long,
)
from mlplatform.learning.features.input_files import DELTA_LOG
from mlplatform.learning.features.parquet_files import ParquetFiles
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.storage.objects import is_inside

READER_FEATURES: Final = frozenset(
    {
        *("columnMapping", "deletionVectors", "timestampNtz", "typeWidening"),
        *("typeWidening-preview", "v2Checkpoint", "vacuumProtocolCheck"),
    }
)
"""Features of the Delta protocol that are read here; a table that demands more of its readers is
refused."""
MOST_TABLE_FILES: Final = 100_000
"""Most files of a version: each takes about a kilobyte of memory."""
SIDECARS: Final = "_sidecars"
"""The folder of files that checkpoints of the second kind name, in that of the log."""
_VECTORS: Final = "deletionVectors"
_PHYSICAL: Final = "delta.columnMapping.physicalName"
_MODE: Final = "delta.columnMapping.mode"
_VECTOR: Final = re.compile(r"(?:.*/)?deletion_vector_[^/]*\.bin")
_COMMIT: Final = re.compile(r"(\d{20})\.json")
_CHECKPOINT: Final = re.compile(
    r"(\d{20})\.checkpoint(?:\.(\d{10})\.(\d{10})|\..+)?\.(?:parquet|json)"
)


@dataclass(frozen=True, slots=True, eq=False)
class DeltaFile:
    """A Parquet file of a table's version.

    Args:
        name: its path below the table's folder.
        partition: column of the table → the value of all rows, which the file does not hold.
        mask: for each row of the file whether the version has it; None if it has all. Rows beyond
            its end are kept.
    """

    name: str
    size_bytes: int
    partition: Mapping[str, Any]
    mask: NDArray[np.bool_] | None = None

    @property
    def named(self) -> Collection[str]:
        return self.partition.keys()

    @property
    def identity(self) -> str:
        """The identity of these rows among all of the table: a file never changes, but the rows
        that are deleted from it do."""
        if self.mask is None:
            return self.name
        return f"{self.name}#{hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()[:16]}"

    def kept(self, first: int, count: int) -> NDArray[np.bool_] | None:
        """Whether the version has each of `count` rows from row `first` on; None if it has all."""
        if self.mask is None:
            return None
        known = self.mask[first : first + count]
        return np.concatenate([known, np.ones(count - len(known), np.bool_)])


@dataclass(frozen=True, slots=True, eq=False)
class DeltaSnapshot:
    """A version of a table.

    Args:
        table: the table's own id; another one at the same place is another table.
        types: column → its type in Arrow's terms.
        physical: column → its name in the files.
        files: oldest first.
    """

    table: str
    version: int
    types: Mapping[str, str]
    physical: Mapping[str, str]
    files: tuple[DeltaFile, ...]

    @property
    def order(self) -> int:
        return self.version

    @property
    def words(self) -> SnapshotWords:
        return SnapshotWords(
            format="delta",
            shown=f"at version {self.version}",
            log="log",
            gone="VACUUM or somebody removed it; import a newer version, or put the file back",
            facts={"version": self.version},
        )

    def layout(
        self, columns: Collection[str], file: int, parquet: ParquetFiles, place: int
    ) -> FileLayout:
        """Where these columns of a file are. The case of letters is not told apart, as in Delta's
        own schemas."""
        found, partition = parquet.types(place), self.files[file].partition
        alike = {name.lower(): name for name in found} | {name: name for name in found}
        there, types = dict[str, str](), dict[str, str]()
        for name in columns:
            types[name] = self.types[name]
            physical = self.physical[name]
            held = alike.get(physical, alike.get(physical.lower()))
            if held is not None and name not in partition:
                there[name], types[name] = held, found[held]
        return FileLayout(types, there)


def is_deletion_vector(name: str) -> bool:
    """Whether a file of a table says which rows of others are deleted, by its name."""
    return _VECTOR.fullmatch(name) is not None


def snapshot(
    folder: Path, version: int | None, source: str, *, is_copy: bool = False
) -> DeltaSnapshot:
    """A version of the table in a folder; `deltalake` must be installed.

    Args:
        is_copy: whether the folder has copies from elsewhere, so that no absolute path is in it.
        version: None for the newest.
        source: the table's place, for messages.

    Raises:
        InputInvalid: the log is damaged or lacks a part, there is no such version, or the table
            needs what is not read here; the message says what.
    """
    import deltalake  # only where there is a Delta table: it has a lock of its own
    from deltalake.exceptions import DeltaError

    check_version(_log_names(folder), version, source)
    try:
        table = deltalake.DeltaTable(str(folder), version=version)
        _refuse_unknown(table, source)
        _refuse_cut(folder, table.version(), source)
        _refuse_vectors(table, folder, source, is_copy=is_copy)
        return _snapshot(table, source)
    except (DeltaError, OverflowError) as error:
        which = "" if version is None else f" at version {version}"
        first = (str(error).splitlines() or ["an error without words"])[0]
        problem = (
            f"its log ({DELTA_LOG}) is not readable{which}: {first[:300]}; restore the log, or"
            " give a version that is there by --version"
        )
        raise InputInvalid(source, None, problem) from error


def check_version(names: Iterable[str], version: int | None, source: str) -> None:
    """Check before a table is opened that its log has a version: the library looks for one that is
    beyond the newest at every number in between.

    Args:
        names: paths below the folder of the log.
        version: None for the newest.

    Raises:
        InputInvalid: neither a commit nor a checkpoint has that number.
    """
    found = (_COMMIT.fullmatch(name) or _CHECKPOINT.fullmatch(name) for name in names)
    numbers = {int(one[1]) for one in found if one is not None}
    if version is not None and numbers and version not in numbers:
        problem = (
            f"its log has no version {version}: the oldest is {min(numbers)}, the newest is"
            f" {max(numbers)}; give one that is there by --version, or none for the newest"
        )
        raise InputInvalid(source, None, problem)


def log_files(names: Iterable[str], version: int | None) -> list[str]:
    """The files of a log that a version needs: the newest whole checkpoint up to it, with the files
    beside the log that such a checkpoint may name, and the commits after it.

    Args:
        names: paths below the folder of the log.
        version: None for the newest.
    """
    commits, checkpoints = dict[int, str](), dict[int, list[str]]()
    parts, beside = dict[int, int](), list[str]()
    for name in names:
        if found := _COMMIT.fullmatch(name):
            commits[int(found[1])] = name
        elif found := _CHECKPOINT.fullmatch(name):
            checkpoints.setdefault(int(found[1]), []).append(name)
            parts[int(found[1])] = int(found[3] or 1)
        elif name.startswith(f"{SIDECARS}/"):
            beside.append(name)
    last = max([*commits, *checkpoints], default=0) if version is None else version
    whole = [n for n, files in checkpoints.items() if n <= last and len(files) >= parts[n]]
    start = max(whole, default=-1)
    after = [name for number, name in commits.items() if start <= number <= last]
    return sorted([*checkpoints.get(start, []), *beside, *after])


def _refuse_unknown(table: Any, source: str) -> None:
    """Raise for what the library may know and this reader does not."""
    needed: Collection[str] = table.protocol().reader_features or ()
    if unknown := sorted(set(needed) - READER_FEATURES):
        problem = (
            f"it needs {', '.join(unknown)}, which is not read here; wanted: at most"
            f" {', '.join(sorted(READER_FEATURES))}. Export it as Parquet, or copy it into a table"
            " without that"
        )
        raise InputInvalid(source, None, problem)
    mode = table.metadata().configuration.get(_MODE, "none")
    if mode not in ("none", "name"):
        problem = f"{_MODE} is {mode}; wanted: name or none. Copy it into a table of that mode"
        raise InputInvalid(source, None, problem)


def _refuse_cut(folder: Path, version: int, source: str) -> None:
    """Raise for a commit without a line, which a full disk leaves: the library takes it as a commit
    that changed nothing."""
    for name in log_files(_log_names(folder), version):
        path = folder / DELTA_LOG / name
        with path.open("rb") as file:
            is_empty = all(not line.strip() for line in file)
        if is_empty:
            problem = f"{DELTA_LOG}/{name} is empty: its commit is lost; restore it from a backup"
            raise InputInvalid(source, None, problem)


def _refuse_vectors(table: Any, folder: Path, source: str, *, is_copy: bool) -> None:
    """Raise for a vector of deleted rows that lies elsewhere, which the library would read, or that
    the protocol does not tell of, which it would pass over."""
    names = log_files(_log_names(folder), table.version())
    logs = [folder / DELTA_LOG / name for name in names]
    if not _has_vectors(table):
        if vector_outside(logs, None) is not None:
            problem = (
                f"its log has deletion vectors, and its protocol lacks {_VECTORS}, so that other"
                f" readers see the deleted rows; have its writer add {_VECTORS} to the protocol, or"
                " write the files anew"
            )
            raise InputInvalid(source, None, problem)
        return
    folders = [] if is_copy else sorted({str(folder.absolute()), str(folder.resolve())})
    found = vector_outside(logs, folders)
    if found is not None:
        problem = (
            f"its deletion vector {found[:SHOWN]} lies outside of its folder, or is named by an"
            " absolute path in a bucket, as those of a shallow clone are; make a deep clone of it"
        )
        raise InputInvalid(source, None, problem)


def _has_vectors(table: Any) -> bool:
    return _VECTORS in (table.protocol().reader_features or ())


def _log_names(folder: Path) -> list[str]:
    log = folder / DELTA_LOG
    beside = (log / SIDECARS).iterdir() if (log / SIDECARS).is_dir() else ()
    return [one.relative_to(log).as_posix() for one in (*log.iterdir(), *beside)]


def _snapshot(table: Any, source: str) -> DeltaSnapshot:
    actions: Any = pa.table(table.get_add_actions(flatten=False))
    if actions.num_rows > MOST_TABLE_FILES:
        problem = (
            f"{actions.num_rows} files in version {table.version()}; the limit is"
            f" {MOST_TABLE_FILES}: merge them by OPTIMIZE"
        )
        raise InputInvalid(source, None, problem)
    actions = actions.sort_by([("modification_time", "ascending"), ("path", "ascending")])
    names = [_name(path, source) for path in actions.column("path").to_pylist()]
    values = _partitions(actions, table.metadata().partition_columns)
    kept = _kept(table, names)
    schema = pa.schema(table.schema().to_arrow())
    return DeltaSnapshot(
        table=str(table.metadata().id),
        version=table.version(),
        types={field.name: str(field.type) for field in schema},
        physical={f.name: f.metadata.get(_PHYSICAL, f.name) for f in table.schema().fields},
        files=tuple(
            DeltaFile(name, size, partition, kept.get(name))
            for name, size, partition in zip(
                names, actions.column("size_bytes").to_pylist(), values, strict=True
            )
        ),
    )


def _name(path: str, source: str) -> str:
    """A file's path below the table's folder, from a log, which holds it as an encoded URI."""
    name = unquote(path)
    if urlsplit(path).scheme or not is_inside(name):
        problem = (
            f"its file {name[:SHOWN]} lies outside of its folder, as those of a shallow clone do;"
            " make a deep clone of it, or import the table that has the file"
        )
        raise InputInvalid(source, None, problem)
    refuse_long(name, source)
    return name


def _partitions(actions: Any, columns: Collection[str]) -> list[Mapping[str, Any]]:
    """The values of the partition columns of each file, as Arrow's scalars."""
    if not columns:
        return [{}] * actions.num_rows
    struct = actions.column("partition").combine_chunks()
    found = {name: struct.field(name) for name in columns}
    return [{name: found[name][row] for name in columns} for row in range(actions.num_rows)]


def _kept(table: Any, names: Collection[str]) -> dict[str, NDArray[np.bool_]]:
    """File → which of its rows are not deleted, for those files from which rows are."""
    if not _has_vectors(table):
        return {}
    kept, there = dict[str, NDArray[np.bool_]](), frozenset(names)
    vectors: Any = pa.RecordBatchReader.from_stream(table.deletion_vectors())
    for batch in vectors:
        for uri, mask in zip(*batch.columns, strict=True):
            path = unquote(urlsplit(uri.as_py()).path)
            name = next(end for end in _ends(path) if end in there)
            kept[name] = mask.values.to_numpy(zero_copy_only=False)
    return kept


def _ends(path: str) -> list[str]:
    """The ends of a path that begin at one of its folders, the longest first."""
    parts = path.split("/")
    return ["/".join(parts[place:]) for place in range(len(parts))]
