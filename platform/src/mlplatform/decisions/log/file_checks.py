"""Whether sealed files hold the records that the manifest names, each file by itself."""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlplatform.decisions.log import catalogue, segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.records.retention import AbsentPayload, ExpiredRange

_A_CORE: Final = 4
"""Least number of files for which processes are started; fewer are checked in this process, because
another takes a second to start."""
_CHUNK: Final = 8


@dataclass(frozen=True, slots=True)
class FileCheck:
    """A file, with the values that it must match.

    Args:
        sha256: digest that the file must have: the manifest's, or the file list's for a merged or
            rewritten file.
        start: chain before the first record of the file; None if no entry of the manifest ends
            there.
        ends: number of a record → chain there, for the entries of the manifest that end in this
            file.
        marks: numbers of further records whose chain the check returns.
        is_catalogued: the catalogue claims an entry for every file.
        expired: ranges in which payloads of the file's writer were removed because of their age.
    """

    folder: Path
    file: SealedFile
    sha256: str
    start: bytes | None
    ends: Mapping[int, bytes]
    marks: frozenset[int]
    is_catalogued: bool
    expired: Sequence[ExpiredRange] = ()


@dataclass(slots=True)
class FileFinding:
    """The findings about a file.

    Args:
        gone: number of records whose payload was removed because of its age.
        absent: other records without a payload.
        is_misled: the catalogue's entry for the file is missing or wrong. If the file is still
            listed, `catalogue_problem` has the finding.
    """

    findings: list[str] = field(default_factory=list)
    records: int = 0
    marked: Mapping[int, bytes] = field(default_factory=dict)
    is_misled: bool = False
    gone: int = 0
    absent: Sequence[AbsentPayload] = ()


def file_findings(checks: Sequence[FileCheck], cores: int) -> Iterator[FileFinding]:
    """The finding of each check, in their order."""
    if cores <= 1 or len(checks) < _A_CORE:
        yield from map(check, checks)
        return
    pool = ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(check, checks, chunksize=_CHUNK)
    finally:
        pool.shutdown(cancel_futures=True)


def check(to_check: FileCheck) -> FileFinding:
    """Check a file by reading it from beginning to end."""
    import pyarrow as pa  # a gateway starts without pyarrow

    file, found = to_check.file, FileFinding()
    path = file.path(to_check.folder)
    what = _range(file)
    if not path.is_file():
        found.findings.append(f"segment {file.name} is missing: {what}")
        return found
    if segments.file_sha256(path) != to_check.sha256:
        found.findings.append(f"segment {file.name} was changed: it holds {what}")
    if to_check.start is None:
        found.findings.append(
            f"segment {file.name} does not begin where an entry of the manifest does"
        )
    marks = to_check.marks | to_check.ends.keys()
    start = to_check.start or bytes(32)
    chain = Chain(file.writer, file.first - 1, start, marks=marks, expired=to_check.expired)
    try:
        for rows in segments.records(path):
            found.findings += chain.follow(rows)
        found.is_misled = _is_misled(to_check)
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = f"segment {file.name} cannot be read after record {chain.seq}: {error}"
        found.findings.append(problem)
        return found
    finally:
        found.records, found.marked = chain.records, dict(chain.marked)
        found.gone, found.absent = chain.gone, chain.absent
    found.findings += _ends(to_check, chain)
    return found


def catalogue_problem(file: SealedFile) -> str:
    """The finding for a file whose catalogue entry is wrong."""
    return (
        f"the catalogue was wrong about segment {file.name}: it is made again; until now reads may"
        f" have missed some of {_range(file)}"
    )


def _range(file: SealedFile) -> str:
    return f"records {file.first} to {file.last} of writer {file.writer}"


def _ends(to_check: FileCheck, chain: Chain) -> Iterator[str]:
    for seq, there in sorted(to_check.ends.items()):
        if seq == to_check.file.last:
            yield from chain.ends(seq, there, "the manifest")
        elif chain.marked.get(seq, there) != there:
            yield f"record {seq} of writer {chain.writer} is not the one that the manifest names"


def _is_misled(to_check: FileCheck) -> bool:
    try:
        entry = catalogue.entry_of(to_check.folder, to_check.file)
    except sqlite3.DatabaseError:  # the next seal finds the damage and makes a new one
        return False
    if entry is None:
        return to_check.is_catalogued
    return entry != catalogue.contents_of(to_check.file.path(to_check.folder))
