"""Tables of features as local files, copied from their source if needed."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, assert_never

import pyarrow as pa

from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.operations.tables.locations import Bucket, Input, Table
from mlplatform.operations.tables.postgres_table import ColumnSelection, arrow_types, export_columns
from mlplatform.operations.tables.sources import BucketFiles
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.units import GIB

MOST_BYTES: Final = 8 * GIB
"""Most bytes of a bucket's objects together: they lie on the disk of the home folder, which records
need too."""


@contextmanager
def local_input(
    source: Input, columns: ExternalColumns, staging: Path, progress: Callable[[str], None]
) -> Iterator[Path]:
    """A local file or folder with a view's table, for the duration of the block.

    Args:
        staging: a folder below which tables and objects from servers are copied for the duration of
            the block.

    Raises:
        NotFound: there is no such table.
        InputInvalid: a table lacks a column, has a column of another type, or is too large.
        Refused: an object was changed meanwhile.
        Unavailable: the server does not answer.
    """
    if isinstance(source, Path):
        yield source
        return
    folder = staging / f"features-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700, parents=True)
    try:
        match source:
            case Table():
                progress("copying the table")
                path = folder / f"{source.name}.parquet"
                export_columns(source, lambda kinds: _chosen(columns, kinds, source.name), path)
                yield path
            case Bucket():
                yield _copy(source, folder, progress)
            case _:
                assert_never(source)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _chosen(columns: ExternalColumns, kinds: Mapping[str, str], source: str) -> ColumnSelection:
    """The view's columns, sorted so that row numbers in messages are stable."""
    columns.found(arrow_types(kinds, pa.bool_()), source)
    wanted = list(columns.kinds)
    truths = [name for name in wanted if kinds[name] == "boolean"]
    return ColumnSelection(wanted, wanted, truths)


def _copy(bucket: Bucket, folder: Path, progress: Callable[[str], None]) -> Path:
    incoming, files = folder / "incoming", folder / "files"
    incoming.mkdir()
    files.mkdir()
    source = BucketFiles(bucket, incoming)
    total = sum(file.size_bytes for file in source.files)
    if total > MOST_BYTES:
        problem = f"{total} bytes in all; wanted: {MOST_BYTES} or fewer, a part at a time"
        raise InputInvalid(bucket.uri, None, problem)
    for number, file in enumerate(source.files):
        progress(f"copying {file.name}")
        with source.local_file(number) as path:
            # The files of a folder are read in the order of their names, and messages show the
            # names.
            path.rename(files / f"{number:05d}.{file.name.rsplit('/', 1)[-1]}")
    return files
