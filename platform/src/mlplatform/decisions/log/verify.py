"""Whether the log is intact: every digest, chain, sealed file and head, one sentence a finding."""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final

from mlplatform.decisions.log import catalogue, erasure, file_checks, sealed_files, segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.log.file_checks import FileCheck
from mlplatform.decisions.log.sealed_files import SealedFile
from mlplatform.decisions.log.segments import Segment
from mlplatform.decisions.records import tables, unsealed_records
from mlplatform.decisions.records.port import (
    ManifestHead,
    NamedHead,
    VerifyReport,
    WriterHead,
)
from mlplatform.decisions.records.record import GENESIS
from mlplatform.decisions.records.retention import ExpiredRange
from mlplatform.runtime.errors import Corrupt

_FINDINGS: Final = 100
_BATCH_ROWS: Final = 10_000
_OLDER: Final = "the log is older than its anchor"
NOTHING: Final = ManifestHead(0, GENESIS.hex(), {})
"""The head of a log before anything was verified."""


@dataclass(frozen=True, slots=True)
class Verification:
    """The findings of a check, and the head of the log at that moment."""

    report: VerifyReport
    head: ManifestHead


def verify(
    db: sqlite3.Connection,
    folder: Path,
    anchor: ManifestHead | None,
    heads: Sequence[NamedHead] = (),
    *,
    since: ManifestHead = NOTHING,
    cores: int = 1,
) -> Verification:
    """Check the log; after a hundred findings the search ends.

    Manifest, rows and heads are of one moment. Files are checked afterwards, on several cores in
    processes of their own, so that the write-ahead log does not wait for them.

    Args:
        db: connection without an open transaction.
        heads: earlier ends of writers, through which their chains still have to go.
        since: head of the log at an earlier check that found nothing. Records that were sealed by
            then, and the check of the database file itself, are left out.
    """
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    walk = _Walk(db, folder, anchor, heads, since)
    findings: list[str] = []
    with sealed_files.hold_files(folder):
        try:
            db.execute("BEGIN")
            walk.check_database()
            db.execute("COMMIT")
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            walk.first.append(f"{tables.DATABASE} cannot be read on: {error}")
        with suppress(sqlite3.DatabaseError):  # damaged: reads work without it
            walk.is_catalogued = catalogue.is_whole(db, folder)
        findings.extend(islice(walk.findings(cores), _FINDINGS))
    if walk.misled:
        catalogue.forget(folder, walk.misled)
        sealed_files.begin(folder)
    if len(findings) == _FINDINGS:
        findings.append("the check stopped here: there may be more findings")
    report = VerifyReport(
        records=walk.records + sum(one.chain.records for one in walk.writers.values()),
        segments=len(walk.manifest),
        writers=len(walk.writers),
        findings=tuple(findings),
        erased=walk.erased,
    )
    return Verification(report, walk.head)


@dataclass(slots=True)
class _Writer:
    """The state of one writer's check.

    Args:
        chain: walk over the records that no file holds.
        rows: findings of that walk.
        ends: number of a record → chain there, for each new entry of the manifest that ends at the
            record.
    """

    chain: Chain
    files: list[SealedFile] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    ends: dict[int, bytes] = field(default_factory=dict)


class _Walk:
    def __init__(
        self,
        db: sqlite3.Connection,
        folder: Path,
        anchor: ManifestHead | None,
        heads: Sequence[NamedHead],
        since: ManifestHead,
    ) -> None:
        self.db = db
        self.folder = folder
        self.anchor = anchor
        self.heads = heads
        self.since = since
        self.first: list[str] = []
        self.manifest: list[Segment] = []
        self.writers: dict[str, _Writer] = {}
        self.head = NOTHING
        self.records = 0
        self.erased = 0
        self.misled: list[SealedFile] = []
        self.is_catalogued = False
        self.expired: Mapping[str, Sequence[ExpiredRange]] = {}

    def check_database(self) -> None:
        """Check everything in the database, as of one transaction."""
        if self.since is NOTHING:
            self.first += _database(self.db)
        # only ranges, so that covered payloads are counted and not collected
        with suppress(sqlite3.DatabaseError, UnicodeDecodeError, Corrupt):  # a finding names it
            self.expired = erasure.ranges_to_expire(self.folder)
        before = segments.manifest(self.db, after=self.since.count - 1, limit=1)
        self.manifest = segments.manifest(self.db, after=self.since.count)
        self.head = tables.head(self.db)
        self.first += _since(before, self.since)
        pruned, heads = tables.pruned_heads(self.db), {w.writer: w for w in tables.writers(self.db)}
        starts = {name: self._sealed_before(name) for name in heads}
        self.first += _manifest(self.manifest, self.since, {n: s[0] for n, s in starts.items()})
        for name in sorted({*heads, *_named_elsewhere(self.db, self.manifest)}):
            start = starts.get(name, (0, GENESIS))
            one = self.writers[name] = _Writer(self._chain(name, *start))
            one.ends = {start[0]: start[1]}
            one.ends |= {s.last: s.chain for s in self.manifest if s.writer == name}
            one.files = sealed_files.present(self.db, "writer = ? AND last > ?", name, start[0])
            last = max(one.ends)
            one.chain.continue_from(last, one.ends[last])
            seq, there = pruned.get(name, (0, GENESIS))
            if seq > one.chain.seq:
                one.chain.continue_from(seq, there)
            one.rows = list(islice(self._unsealed(one.chain), _FINDINGS))
            if name in heads:
                one.rows += one.chain.ends(heads[name].seq, heads[name].chain, "the writer's head")
            else:
                one.rows.append(f"writer {name} has records and no head")

    def findings(self, cores: int) -> Iterator[str]:
        yield from self.first
        checks = [check for name in self.writers for check in self._checks(name)]
        found = file_checks.file_findings(checks, cores)
        for name, one in self.writers.items():
            end = min(one.ends)
            for file in one.files:
                yield from _follows(file, end, one.ends)
                there = next(found)
                yield from there.findings
                self.records += there.records
                one.chain.marked |= there.marked
                one.chain.absent += there.absent
                one.chain.gone += there.gone
                if there.is_misled and self._is_listed(file):
                    self.misled.append(file)
                    yield file_checks.catalogue_problem(file)
                end = file.last
            if end < max(one.ends):
                yield f"records {end + 1} to {max(one.ends)} of writer {name} are in no file"
            yield from one.rows
        yield from self._absent_payloads()
        yield from _reached(self.since.writers, self)
        if self.anchor is not None:
            yield from _anchored(self.anchor, self)
        for noted in self.heads:
            yield from _reached({noted.writer: noted.head}, self, noted.basis_of)

    def _absent_payloads(self) -> Iterator[str]:
        """Findings for payloads that are missing without an erasure; counts the others."""
        self.erased = sum(one.chain.gone for one in self.writers.values())
        if not any(one.chain.absent for one in self.writers.values()):
            return
        # after the rest was checked: an erasure is on record before a payload is removed
        removal_records = _removal_records(self.folder)
        for name, one in self.writers.items():
            for absent in one.chain.absent:
                if removal_records.covers(name, absent):
                    self.erased += 1
                    continue
                what = f"record {absent.seq} of writer {name} (decision {absent.decision_id})"
                yield f"{what} has lost its payload, and no erasure is on record"

    def _is_listed(self, file: SealedFile) -> bool:
        """Whether the file is still listed. A file that was merged during its check has left the
        list and then the catalogue."""
        try:
            return bool(sealed_files.present(self.db, "file = ?", file.file))
        except sqlite3.DatabaseError:  # damaged: the finding counts
            return True

    def _checks(self, name: str) -> Iterator[FileCheck]:
        one = self.writers[name]
        named = {(s.first, s.last): s.sha256 for s in self.manifest if s.writer == name}
        numbers = sorted(one.ends)
        for file in one.files:
            within = numbers[bisect_left(numbers, file.first) : bisect_right(numbers, file.last)]
            yield FileCheck(
                self.folder,
                file,
                file.sha256 if file.apart else named.get((file.first, file.last), file.sha256),
                self._start(name, file),
                {seq: one.ends[seq] for seq in within},
                one.chain.marks,
                self.is_catalogued,
                self.expired.get(name, ()),
            )

    def _start(self, name: str, file: SealedFile) -> bytes | None:
        """The chain before the first record of a file, which may begin before the part to be
        checked."""
        known = self.writers[name].ends.get(file.first - 1)
        if known is not None or file.first == 1:
            return known or GENESIS
        query = "SELECT chain FROM segments WHERE writer = ? AND last = ?"
        row = self.db.execute(query, (name, file.first - 1)).fetchone()
        return None if row is None else row[0]

    def _sealed_before(self, writer: str) -> tuple[int, bytes]:
        """Number and chain where a writer's already checked files end."""
        query = (
            "SELECT last, chain FROM segments WHERE writer = ? AND number <= ?"
            " ORDER BY first DESC LIMIT 1"
        )
        row = self.db.execute(query, (writer, self.since.count)).fetchone()
        return (0, GENESIS) if row is None else (row[0], row[1])

    def _chain(self, writer: str, seq: int, chain: bytes) -> Chain:
        heads = [self.since.writers.get(writer)]
        heads += [] if self.anchor is None else [self.anchor.writers.get(writer)]
        heads += [noted.head for noted in self.heads if noted.writer == writer]
        marks = frozenset(head.seq for head in heads if head is not None and head.seq > seq)
        expired = self.expired.get(writer, ())
        return Chain(writer, seq, chain, marks=marks, expired=expired)

    def _unsealed(self, chain: Chain) -> Iterator[str]:
        while rows := tables.unsealed_rows(
            self.db, chain.writer, after=chain.seq, limit=_BATCH_ROWS, is_lenient=True
        ):
            before = chain.seq
            yield from chain.follow(rows)
            if chain.seq == before:
                return


def _removal_records(folder: Path) -> erasure.RemovalRecords:
    try:
        return erasure.removal_records(folder)
    except (sqlite3.DatabaseError, UnicodeDecodeError, Corrupt):  # a finding names it
        return erasure.RemovalRecords({}, {})


def _database(db: sqlite3.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check(10)"):
        if line != "ok":
            yield f"{tables.DATABASE} is damaged: {line}"


def _since(entries: Sequence[Segment], since: ManifestHead) -> Iterator[str]:
    if since.count and [entry.digest for entry in entries] != [since.digest]:
        yield f"manifest entry {since.count} is not the one that was verified before"


def _manifest(
    manifest: Sequence[Segment], since: ManifestHead, ends: Mapping[str, int]
) -> Iterator[str]:
    previous, ends = since.digest, dict(ends)
    for number, segment in enumerate(manifest, start=since.count + 1):
        where = f"manifest entry {segment.number} ({segment.name})"
        if segment.computed_digest() != segment.digest:
            yield f"{where} was changed: it is not what its digest says"
        elif segment.number != number or segment.previous != previous:
            yield f"{where} does not follow entry {number - 1}: an entry is missing or replaced"
        elif segment.first != ends.get(segment.writer, 0) + 1:
            yield f"{where} does not follow record {ends.get(segment.writer, 0)}"
        previous = segment.digest
        ends[segment.writer] = segment.last


def _follows(file: SealedFile, end: int, ends: Mapping[int, bytes]) -> Iterator[str]:
    if file.first > end + 1:
        yield f"records {end + 1} to {file.first - 1} of writer {file.writer} are in no file"
    elif file.first <= end and end not in (0, min(ends)):
        yield f"records {file.first} to {end} of writer {file.writer} are in two files"
    if file.last not in ends:
        yield f"sealed file {file.name} does not end where an entry of the manifest does"


def _named_elsewhere(db: sqlite3.Connection, manifest: Sequence[Segment]) -> set[str]:
    names = unsealed_records.writers(db)
    names += [segment.writer for segment in manifest]
    return {name for name in names if isinstance(name, str)}


def _anchored(anchor: ManifestHead, walk: _Walk) -> Iterator[str]:
    first = walk.since.count
    count = first + len(walk.manifest)
    if count < anchor.count:
        yield f"{_OLDER}: the manifest has {count} entries, the anchor {anchor.count}"
    elif anchor.count > first and walk.manifest[anchor.count - first - 1].digest != anchor.digest:
        yield f"manifest entry {anchor.count} is not the one that was anchored"
    yield from _reached(anchor.writers, walk)


def _reached(
    heads: Mapping[str, WriterHead], walk: _Walk, basis_of: str | None = None
) -> Iterator[str]:
    """Args: basis_of: what was based on these heads; None: they are the anchor's."""
    older, than = _OLDER, "the anchor at"
    what = "was anchored"
    if basis_of is not None:
        older, than = "the log lacks records", f"{basis_of} was based on it up to"
        what = f"{basis_of} was based on"
    for writer, head in sorted(heads.items()):
        one = walk.writers.get(writer)
        if head.seq == 0 or (one is not None and head.seq < min(one.ends)):
            continue
        if one is None or one.chain.seq < head.seq:
            last = 0 if one is None else one.chain.seq
            yield f"{older}: writer {writer} ends at record {last}, {than} {head.seq}"
            continue
        there = one.ends.get(head.seq) or one.chain.marked.get(head.seq)
        if there is None:
            yield f"record {head.seq} of writer {writer}, which {what}, is missing"
        elif there.hex() != head.chain:
            yield f"record {head.seq} of writer {writer} is not the one that {what}"
