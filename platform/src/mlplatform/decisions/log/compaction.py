"""Small sealed files are merged into larger ones, so that a read's cost depends on records and not
on the number of seals."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlplatform.decisions.log import sealed_files, segments
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.files import sync
from mlplatform.runtime.units import DAY_MS

if TYPE_CHECKING:  # a gateway starts without pyarrow
    import pyarrow as pa

MOST_RECORDS: Final = 200_000
"""Most records that one seal merges; the rest waits for the next, so that no seal takes long."""
_FEWEST: Final = 8
_MOST_SPAN_MS: Final = 31 * DAY_MS
"""Longest span of event time in a merged file: payloads that go by age wait for the last one in
their file."""
_logger = logging.getLogger(__name__)


def groups(files: Sequence[SealedFile], most_rows: int) -> Iterator[list[SealedFile]]:
    """Adjacent files of one writer that are to be merged into one, of at most `most_rows` records.

    Files of at least half as many records stay. The others are merged once there are eight, or once
    the next file does not fit into the same one: so a record is written a few times at most.
    """
    group: list[SealedFile] = []
    for file in files:
        if group and not _fits(group, file, most_rows):
            is_full = file.first == group[-1].last + 1 and 2 * file.rows < most_rows
            if len(group) >= (2 if is_full else _FEWEST):
                yield group
            group = []
        if 2 * file.rows < most_rows:
            group.append(file)
    if len(group) >= _FEWEST:
        yield group


def merge(db: sqlite3.Connection, folder: Path, parts: Sequence[SealedFile]) -> Iterator[str]:
    """Replace several files by one. At each yield the process may safely be killed.

    The parts are checked against their digests first, and the new file against the parts. Their
    manifest entries stay, and verify the chain of the records in the new file. Damaged parts are
    left as they are.
    """
    try:
        table = records_of(folder, parts)
        path = sealed_files.merged(parts).path(folder)
        draft = path.with_suffix(".tmp")
        sha256 = segments.write_table(draft, table)
        yield "merged draft written"
        if not segments.read_table(draft).equals(table):
            raise Corrupt(f"{draft}: what was read back differs from what was written")
    except Corrupt as error:
        _logger.warning("sealed files were not merged: %s", error)
        return
    draft.replace(path)
    sync(path.parent)
    yield "merged file in place"
    with sqlite.transaction(db):
        sealed_files.replace(db, parts, sha256)
    yield "merged file listed"


def records_of(folder: Path, parts: Sequence[SealedFile]) -> pa.Table:
    """The records of files, joined in order.

    Raises:
        Corrupt: a file is missing, or it does not match its digest.
    """
    import pyarrow as pa

    tables = []
    for part in parts:
        path = part.path(folder)
        try:
            if segments.file_sha256(path) != part.sha256:
                raise Corrupt(f"{path} was changed; run `mlplatform log verify`")
            tables.append(segments.read_table(path))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise Corrupt(f"{path} cannot be read; run `mlplatform log verify`") from error
    return pa.concat_tables(tables).combine_chunks()


def _fits(group: Sequence[SealedFile], file: SealedFile, most_rows: int) -> bool:
    return (
        2 * file.rows < most_rows
        and file.first == group[-1].last + 1
        and sum(one.rows for one in group) + file.rows <= most_rows
        and _span_ms([*group, file]) <= _MOST_SPAN_MS
    )


def _span_ms(files: Sequence[SealedFile]) -> int:
    return max(file.to_ms for file in files) - min(file.from_ms for file in files)
