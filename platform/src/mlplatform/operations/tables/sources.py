"""The input of a batch as local files: of a folder, of a bucket one by one, or of a table."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol, assert_never

from mlplatform.learning.features.input_files import (
    CSV,
    MOST_FILE_BYTES,
    MOST_FILES,
    PARQUET,
    is_beside,
    refuse_others,
    refuse_tables,
    refuse_tables_in,
)
from mlplatform.model.definition import ModelDefinition
from mlplatform.operations.tables.conversion import Conversion
from mlplatform.operations.tables.input_files import check_columns, is_table
from mlplatform.operations.tables.locations import Input, ObjectPrefix, Table
from mlplatform.operations.tables.plan import InputFile
from mlplatform.operations.tables.postgres_table import export
from mlplatform.runtime.errors import InputInvalid, NotFound, Refused
from mlplatform.runtime.storage.objects import Objects
from mlplatform.runtime.units import MIB

COPIED_BYTES = MIB


class Source(Protocol):
    """The files of an input, in order."""

    @property
    def files(self) -> tuple[InputFile, ...]: ...

    def local_file(self, number: int) -> AbstractContextManager[Path]:
        """A local path of a file, for the duration of the block, with the content that its identity
        names.

        Raises:
            Refused: the file was changed since the batch began.
            Unavailable: the store of the file did not answer.
        """
        ...

    def later(self, number: int) -> Sequence[Path]:
        """Local paths of the files after a file, as far as they are here already."""
        ...

    def check(self, number: int) -> None:
        """
        Raises:
            Refused: a file was changed since the batch began.
        """
        ...


@contextmanager
def opened(
    source: Input,
    definition: ModelDefinition,
    columns: Mapping[str, str],
    staging: Path,
    conversion: Conversion | None = None,
) -> Iterator[Source]:
    """The input, with its columns checked; of a bucket, those of the first file.

    Args:
        columns: column of the request → column of the input, where the names differ.
        staging: a folder for copies from servers; it is created, and removed afterwards.
        conversion: what makes requests of tables with other columns.

    Raises:
        NotFound: there is no such file, folder, object or table.
        ConfigInvalid, InputInvalid: the input is not a table, or lacks a column of the request.
        Unavailable: the server does not answer.
    """
    staging.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        match source:
            case Path():
                yield _Folder(source, definition, columns, conversion)
            case ObjectPrefix():
                files = BucketFiles(source, staging)
                with files.local_file(0) as path:
                    check_columns([path], definition, columns, conversion)
                yield files
            case Table():
                yield _exported(source, definition, columns, staging, conversion)
            case _:
                assert_never(source)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


class _Folder:
    """Files on this machine."""

    def __init__(
        self,
        path: Path,
        definition: ModelDefinition,
        columns: Mapping[str, str],
        conversion: Conversion | None,
    ) -> None:
        self._paths = _tables(path)
        check_columns(self._paths, definition, columns, conversion)
        self._stats = [os.stat(one) for one in self._paths]
        self.files = tuple(
            InputFile(name=one.name, identity=f"sha256:{_sha256(one)}", size_bytes=stat.st_size)
            for one, stat in zip(self._paths, self._stats, strict=True)
        )

    @contextmanager
    def local_file(self, number: int) -> Iterator[Path]:
        self.check(number)
        yield self._paths[number]
        self.check(number)

    def later(self, number: int) -> Sequence[Path]:
        return self._paths[number + 1 :]

    def check(self, number: int) -> None:
        path, before = self._paths[number], self._stats[number]
        now = os.stat(path) if path.exists() else None
        if now is None or (now.st_size, now.st_mtime_ns, now.st_ino) != (
            before.st_size, before.st_mtime_ns, before.st_ino
        ):  # fmt: skip
            raise _changed(path.name)


class BucketFiles:
    """Objects of a bucket; each is downloaded when its turn comes and removed afterwards.

    Raises:
        InputInvalid: there is no table, a table is too large, there are too many tables, or they
            are files of a Delta or Iceberg table.
        Unavailable: the store does not answer.
    """

    def __init__(self, bucket: ObjectPrefix, staging: Path) -> None:
        self._objects, self._staging = Objects(bucket.uri), staging
        listed = self._objects.list_objects()
        refuse_tables_in([one.name for one in listed], bucket.uri)
        found = [one for one in listed if is_table(one.name)]
        # a name that ends with a slash is a folder to programs that show buckets as such
        names = [one.name for one in listed if not one.name.endswith("/")]
        others = [n for n in names if not is_table(n) and not any(map(is_beside, n.split("/")))]
        refuse_others(bucket.uri, others, (PARQUET, CSV))
        _check_count(len(found), bucket.uri)
        for one in found:
            if one.size_bytes > MOST_FILE_BYTES:
                problem = f"{one.size_bytes} bytes; wanted: {MOST_FILE_BYTES} or fewer"
                raise InputInvalid(one.name, None, problem)
        self._tags = [one.tag for one in found]
        self.files = tuple(
            InputFile(name=one.name, identity=f"etag:{one.tag}", size_bytes=one.size_bytes)
            for one in found
        )

    @contextmanager
    def local_file(self, number: int) -> Iterator[Path]:
        name = self.files[number].name
        path = self._staging / f"{number:05d}{PARQUET if name.endswith(PARQUET) else CSV}"
        listed = {one.name: one.tag for one in self._objects.list_objects()}
        if listed.get(name) != self._tags[number]:
            raise _changed(name)
        with self._objects.open(name, self._tags[number]) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, COPIED_BYTES)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)

    def later(self, number: int) -> Sequence[Path]:
        return ()  # each is downloaded in its turn

    def check(self, number: int) -> None:
        """Do nothing: a downloaded file does not change."""


class _ExportedTable:
    """A table as the file that was exported from it."""

    def __init__(self, path: Path, file: InputFile) -> None:
        self._path, self.files = path, (file,)

    @contextmanager
    def local_file(self, number: int) -> Iterator[Path]:
        yield self._path

    def later(self, number: int) -> Sequence[Path]:
        return ()

    def check(self, number: int) -> None:
        """Do nothing: an exported file does not change."""


def _exported(
    table: Table,
    definition: ModelDefinition,
    columns: Mapping[str, str],
    staging: Path,
    conversion: Conversion | None,
) -> _ExportedTable:
    path = staging / f"table{PARQUET}"
    identity = f"sha256:{export(table, definition, columns, path, conversion)}"
    file = InputFile(name=table.name, identity=identity, size_bytes=path.stat().st_size)
    return _ExportedTable(path, file)


def _tables(path: Path) -> Sequence[Path]:
    if path.is_file():
        if not is_table(path.name):
            raise InputInvalid(str(path), None, f"its name does not end with {PARQUET} or {CSV}")
        return [path]
    if not path.is_dir():
        raise NotFound(f"{path} is not a file or folder")
    refuse_tables(path)
    every = sorted(one for one in path.iterdir() if not is_beside(one.name))
    found = [one for one in every if one.is_file() and is_table(one.name)]
    rest = sorted({*every}.difference(found))
    others = [f"{one.name}/" if one.is_dir() else one.name for one in rest]
    refuse_others(str(path), others, (PARQUET, CSV))
    _check_count(len(found), str(path))
    return found


def _check_count(count: int, source: str) -> None:
    if not 0 < count <= MOST_FILES:
        problem = f"{count} {PARQUET} and {CSV} files; wanted: 1 to {MOST_FILES}"
        raise InputInvalid(source, None, problem)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _changed(name: str) -> Refused:
    return Refused(
        f"{name} was changed while it was read: start again (a batch: with another output), or undo"
        " the change; partitions that are finished are kept"
    )
