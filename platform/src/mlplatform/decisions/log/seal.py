"""Moving records from SQLite to Parquet segments, one small harmless step after another."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mlplatform.decisions.log import catalogue, compaction, erasure, sealed_files, segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.records import kept_keys, tables, unsealed_records
from mlplatform.runtime.errors import Busy, Corrupt
from mlplatform.runtime.storage import sqlite
from mlplatform.runtime.storage.files import locked, sync

_DELETE_ROWS = 100
_CATALOGUED_FILES = 2_000
_FREE_PAGES = 4_096
"""Free pages that a seal leaves for the records until the next seal: 16 MiB."""
_LOCK = "seal.lock"
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SealLimits:
    """The limits of a seal. A writer with fewer unsealed records than `minimum_rows` waits for
    more."""

    minimum_rows: int
    maximum_rows: int


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the lock by which one process seals here; the lock dies with its process.

    Raises:
        Busy: another process is sealing.
    """
    with locked(folder / _LOCK) as is_alone:
        if not is_alone:
            raise Busy(f"another process is sealing {folder}")
        yield


def steps(
    db: sqlite3.Connection, folder: Path, limits: SealLimits, *, now_ms: int
) -> Iterator[str]:
    """Seal the records that have piled up. At each yield the process may be killed without effect.

    A file counts once the manifest lists it; from then on the rows that it holds no longer count.
    The next run removes files and rows that a killed run left. If nothing is new and nothing is
    left to do, the cost is a few queries, however many segments there are.

    Raises:
        Corrupt: a record to be sealed does not match its digest.
    """
    try:
        yield from erasure.steps(db, folder, compaction.MOST_RECORDS)
    except (Corrupt, sqlite3.OperationalError) as error:  # sealing continues
        _logger.error("payloads of %s are not erased yet: %s", folder, error)
    if not catalogue.exists(folder) or sealed_files.is_unfinished(folder):
        sealed_files.begin(folder)
        sealed_files.sweep(db, folder)
        yield "files swept"
    for name, last in tables.sealed_numbers(db).items():
        yield from _delete_rows(db, name, last)
    yield from kept_keys.expire(db, now_ms)
    pruned = tables.pruned_heads(db)
    for writer in tables.writers(db):
        if writer.writer in pruned:  # the log that has the records from here seals them
            continue
        yield from _seal_writer(db, folder, writer, limits)
    if sealed_files.is_unfinished(folder):
        yield from _tidy(db, folder, limits)
    has_more = True
    while has_more:
        with sqlite.throttled():
            has_more = sqlite.shrink(db, keep_pages=_FREE_PAGES)
        if has_more:
            yield "free pages given back"


def _tidy(db: sqlite3.Connection, folder: Path, limits: SealLimits) -> Iterator[str]:
    """Merge small files, add entries to the catalogue, and remove replaced files."""
    records, is_done = 0, True
    by_writer = groupby(sealed_files.present(db), key=lambda file: file.writer)
    for parts in (
        g for _, files in by_writer for g in compaction.groups([*files], limits.maximum_rows)
    ):
        is_done = records < compaction.MOST_RECORDS
        if not is_done:
            break
        records += sum(part.rows for part in parts)
        yield from compaction.merge(db, folder, parts)
    try:
        yield from catalogue.renew(db, folder, _CATALOGUED_FILES)
        is_done &= catalogue.is_whole(db, folder)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        _logger.warning("the catalogue of %s was damaged and is made again: %s", folder, error)
        catalogue.discard(folder)
        return
    is_done &= sealed_files.sweep(db, folder)
    yield "replaced files swept"
    if is_done:
        sealed_files.finish(folder)


def _seal_writer(
    db: sqlite3.Connection, folder: Path, writer: tables.Writer, limits: SealLimits
) -> Iterator[str]:
    name = writer.writer
    chain = Chain(name, *tables.sealed_end(db, name))
    while writer.seq - chain.seq >= max(limits.minimum_rows, 1):
        count = min(writer.seq - chain.seq, limits.maximum_rows)
        rows = tables.unsealed_rows(db, name, after=chain.seq, limit=count, is_lenient=True)
        _check(chain, rows, count, writer)
        sealed_files.begin(folder)
        path = segments.path_of(folder, name, rows)
        draft = path.with_suffix(".tmp")
        sha256 = segments.write(draft, rows)
        yield "draft written"
        draft.replace(path)
        sync(path.parent)
        yield "file in place"
        with sqlite.transaction(db):
            segments.enter(db, name, rows, sha256=sha256)
        yield "manifest written"
        yield from _delete_rows(db, name, chain.seq)


def _check(chain: Chain, rows: list[tuple[Any, ...]], count: int, writer: tables.Writer) -> None:
    problem = next(chain.follow(rows), None)
    if problem is None and (len(rows) < count or chain.seq == writer.seq):
        problem = next(chain.ends(writer.seq, writer.chain, "the writer's head"), None)
    if problem is not None:
        raise Corrupt(f"{problem}; run `mlplatform log verify`")


def _delete_rows(db: sqlite3.Connection, writer: str, last: int) -> Iterator[str]:
    # in small steps: a process that appends waits for one step at most
    while bite := unsealed_records.select(db, ("seq",), writer, last=last, limit=_DELETE_ROWS):
        with sqlite.throttled(), sqlite.transaction(db):
            unsealed_records.delete(db, writer, bite[-1][0])
        yield "sealed rows deleted"
