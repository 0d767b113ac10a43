"""Tables of features as local files, copied from their source if needed."""

from __future__ import annotations

import importlib.util
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, assert_never

import pyarrow as pa

from mlplatform.learning.features.external import delta_log, iceberg_table
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles, TableSource
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows, read_version
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.input_files import (
    DELTA_LOG,
    ICEBERG_METADATA,
    is_delta,
    is_iceberg,
    is_metadata_file,
)
from mlplatform.learning.training.packages import import_problems
from mlplatform.operations.tables.locations import Input, ObjectPrefix, Table
from mlplatform.operations.tables.postgres_table import ColumnSelection, arrow_types, export_columns
from mlplatform.operations.tables.sources import COPIED_BYTES, BucketFiles
from mlplatform.runtime.errors import ConfigInvalid, InputInvalid
from mlplatform.runtime.storage.objects import Objects, StoredObject
from mlplatform.runtime.units import GIB

MOST_BYTES: Final = 8 * GIB
"""Most bytes of a bucket's objects together: they lie on the disk of the home folder, which records
need too."""


@dataclass(frozen=True, slots=True)
class TableRequest:
    """A table to import.

    Args:
        version: of a Delta table, or the id of an Iceberg table's snapshot; None for the newest.
        parts: the view's parts, which know what was read of such a table before.
        staging: a folder below which tables and objects from servers are copied for the duration of
            the import.
    """

    source: Input
    version: int | None
    columns: ExternalColumns
    parts: ExternalParts
    staging: Path


@contextmanager
def table_source(request: TableRequest, progress: Callable[[str], None]) -> Iterator[TableSource]:
    """A view's table with local files, for the duration of the block.

    Raises:
        NotFound: there is no such table.
        ConfigInvalid: a version of what is no Delta or Iceberg table was asked for, or what reads
            Delta is not installed.
        InputInvalid: a table lacks a column, has a column of another type, is damaged, or is too
            large.
        Refused: an object was changed meanwhile.
        Unavailable: the server does not answer.
    """
    source, columns = request.source, request.columns
    has_log = _is_delta(source)
    iceberg = None if has_log else _iceberg(source)
    if request.version is not None and not has_log and iceberg is None:
        wanted = (
            f"no version: {_text(source)} is not a Delta or Iceberg table, it has no {DELTA_LOG}"
            f" and no *.metadata.json in {ICEBERG_METADATA}"
        )
        raise ConfigInvalid("--version", str(request.version), wanted)
    if isinstance(source, Path):
        if iceberg is not None:
            yield _local_iceberg(iceberg, request)
        else:
            yield _delta(source, request, source) if has_log else PlainFiles(source)
        return
    folder = request.staging / f"features-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        match source:
            case Table():
                progress("copying the table")
                path = folder / f"{source.name}.parquet"
                export_columns(source, lambda kinds: _chosen(columns, kinds, source.name), path)
                yield PlainFiles(path)
            case ObjectPrefix() if has_log:
                yield _copied_delta(source, request, folder, progress)
            case ObjectPrefix() if iceberg is not None:
                yield _copied_iceberg(iceberg, request, folder, progress)
            case ObjectPrefix():
                yield PlainFiles(_copy(source, folder, progress))
            case _:
                assert_never(source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_delta(source: Input) -> bool:
    match source:
        case Path():
            return is_delta(source)
        case ObjectPrefix():
            return bool(Objects(f"{source.uri}/{DELTA_LOG}").names())
        case Table():
            return False
        case _:
            assert_never(source)


@dataclass(frozen=True, slots=True)
class _Iceberg:
    """An Iceberg table.

    Args:
        place: its folder's path or URI.
        name: of its metadata file, if that was given; None for the newest.
    """

    place: str
    name: str | None


def _iceberg(source: Input) -> _Iceberg | None:
    match source:
        case Table():
            return None
        case Path() | ObjectPrefix():
            text = _text(source)
            folder, _, name = text.rpartition("/")
            if is_metadata_file(text) and folder.endswith(f"/{ICEBERG_METADATA}"):
                return _Iceberg(folder.removesuffix(f"/{ICEBERG_METADATA}"), name)
            if isinstance(source, Path):
                return _Iceberg(text, None) if is_iceberg(source) else None
            names = Objects(f"{source.uri}/{ICEBERG_METADATA}").names()
            found = any(is_metadata_file(one) and "/" not in one for one in names)
            return _Iceberg(text, None) if found else None
        case _:
            assert_never(source)


def _text(source: Input) -> str:
    match source:
        case Path():
            return str(source)
        case ObjectPrefix():
            return source.uri
        case Table():
            return source.name
        case _:
            assert_never(source)


def _delta(source: Path | ObjectPrefix, request: TableRequest, folder: Path) -> SnapshotRows:
    """The table with its log in a folder."""
    with import_problems("a Delta table: import", "docs/features.md"):
        if importlib.util.find_spec("deltalake") is None:
            raise ModuleNotFoundError(name="deltalake")
    place = _text(source)
    is_copy = isinstance(source, ObjectPrefix)
    found = delta_log.snapshot(folder, request.version, place, is_copy=is_copy)
    return SnapshotRows(
        found, folder, place, read_version(request.columns, request.parts, place, "delta")
    )


def _copied_delta(
    bucket: ObjectPrefix, request: TableRequest, folder: Path, progress: Callable[[str], None]
) -> SnapshotRows:
    """The table with copies of its log, as far as the version needs it, and of the files that were
    not read before. Writers never change an object of a Delta table."""
    objects = Objects(bucket.uri)
    listed = {one.name: one for one in objects.list_objects()}
    start = f"{DELTA_LOG}/"
    log = [name.removeprefix(start) for name in listed if name.startswith(start)]
    delta_log.check_version(log, request.version, bucket.uri)
    needed = [start + name for name in delta_log.log_files(log, request.version)]
    deleted = [name for name in listed if delta_log.is_deletion_vector(name)]
    progress("copying the log")
    _download(objects, [listed[name] for name in (*needed, *deleted)], folder, bucket)
    table = _delta(bucket, request, folder)
    names = [file.name for file in table.files]
    progress(f"copying {len(names)} files")
    _download(objects, [listed[name] for name in names if name in listed], folder, bucket)
    return table


def _local_iceberg(table: _Iceberg, request: TableRequest) -> SnapshotRows:
    folder = Path(table.place)
    metadata = folder / ICEBERG_METADATA
    names = [one.name for one in metadata.iterdir()] if metadata.is_dir() else []
    return _iceberg_rows(table, request, folder, names, lambda _: None)


def _copied_iceberg(
    table: _Iceberg, request: TableRequest, folder: Path, progress: Callable[[str], None]
) -> SnapshotRows:
    """The table with copies of its metadata, of the manifests and delete files that the snapshot
    needs, and of the files that were not read before. Writers never change an object of an Iceberg
    table."""
    objects, bucket = Objects(table.place), ObjectPrefix(table.place)
    listed = {one.name: one for one in objects.list_objects()}
    start = f"{ICEBERG_METADATA}/"
    names = [name.removeprefix(start) for name in listed if name.startswith(start)]

    def fetch(wanted: Sequence[str]) -> None:
        _download(objects, [listed[name] for name in wanted if name in listed], folder, bucket)

    progress("copying the manifests")
    rows = _iceberg_rows(table, request, folder, names, fetch)
    progress(f"copying {len(rows.files)} files")
    fetch([file.name for file in rows.files])
    return rows


def _iceberg_rows(
    table: _Iceberg,
    request: TableRequest,
    folder: Path,
    names: Sequence[str],
    fetch: Callable[[Sequence[str]], None],
) -> SnapshotRows:
    found = iceberg_table.snapshot(
        folder, names, request.version, table.place, fetch=fetch, name=table.name
    )
    before = read_version(request.columns, request.parts, table.place, found.words.format)
    return SnapshotRows(found, folder, table.place, before)


def _download(
    objects: Objects, chosen: Sequence[StoredObject], folder: Path, bucket: ObjectPrefix
) -> None:
    _check_total(sum(one.size_bytes for one in chosen), bucket)
    for one in chosen:
        path = folder / one.name
        path.parent.mkdir(parents=True, exist_ok=True)
        with objects.open(one.name, one.tag) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, COPIED_BYTES)


def _check_total(total: int, bucket: ObjectPrefix) -> None:
    if total > MOST_BYTES:
        problem = f"{total} bytes in all; wanted: {MOST_BYTES} or fewer, a part at a time"
        raise InputInvalid(bucket.uri, None, problem)


def _chosen(columns: ExternalColumns, kinds: Mapping[str, str], source: str) -> ColumnSelection:
    """The view's columns, sorted so that row numbers in messages are stable."""
    columns.found(arrow_types(kinds, pa.bool_()), source)
    wanted = list(columns.kinds)
    truths = [name for name in wanted if kinds[name] == "boolean"]
    return ColumnSelection(wanted, wanted, truths)


def _copy(bucket: ObjectPrefix, folder: Path, progress: Callable[[str], None]) -> Path:
    incoming, files = folder / "incoming", folder / "files"
    incoming.mkdir()
    files.mkdir()
    source = BucketFiles(bucket, incoming)
    _check_total(sum(file.size_bytes for file in source.files), bucket)
    for number, file in enumerate(source.files):
        progress(f"copying {file.name}")
        with source.local_file(number) as path:
            # The files of a folder are read in the order of their names, and messages show the
            # names.
            path.rename(files / f"{number:05d}.{file.name.rsplit('/', 1)[-1]}")
    return files
