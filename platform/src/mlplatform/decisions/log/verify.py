"""Whether the log is whole: every digest, chain, segment file and head, one sentence a finding."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from mlplatform.decisions.log import segments
from mlplatform.decisions.log.chains import Chain
from mlplatform.decisions.log.segments import Segment
from mlplatform.decisions.records import tables
from mlplatform.decisions.records.port import ManifestHead, VerifyReport
from mlplatform.decisions.records.record import GENESIS

_FINDINGS: Final = 100
_BATCH_ROWS: Final = 10_000
_OLDER: Final = "the log is older than its anchor"


def verify(db: sqlite3.Connection, folder: Path, anchor: ManifestHead | None) -> VerifyReport:
    """Check the whole log; after a hundred findings the rest is not searched.

    Args:
        db: in a read transaction, so that manifest, rows and heads are of one moment.
    """
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    walk = _Walk(db, folder, anchor)
    findings: list[str] = []
    try:
        findings.extend(islice(walk.findings(), _FINDINGS))
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        findings.append(f"{tables.DATABASE} cannot be read on: {error}")
    if len(findings) == _FINDINGS:
        findings.append("the check stopped here: there may be more findings")
    chains = walk.chains.values()
    return VerifyReport(
        records=sum(c.records for c in chains),
        segments=len(walk.manifest),
        writers=len(chains),
        findings=tuple(findings),
    )


class _Walk:
    def __init__(self, db: sqlite3.Connection, folder: Path, anchor: ManifestHead | None) -> None:
        self.db = db
        self.folder = folder
        self.anchor = anchor
        self.manifest: list[Segment] = []
        self.pruned: dict[str, tuple[int, bytes]] = {}
        self.chains: dict[str, Chain] = {}

    def findings(self) -> Iterator[str]:
        yield from _database(self.db)
        self.manifest = segments.manifest(self.db)
        self.pruned = tables.pruned(self.db)
        yield from _manifest(self.manifest)
        writers = {w.writer: w for w in tables.writers(self.db)}
        for name in sorted({*writers, *_named_elsewhere(self.db, self.manifest)}):
            self.chains[name] = self._start(name)
            yield from self._records(self.chains[name])
            if name in writers:
                head = writers[name]
                yield from self.chains[name].ends(head.seq, head.chain, "the writer's head")
            else:
                yield f"writer {name} has records and no head"
        if self.anchor is not None:
            yield from _anchored(self.anchor, self.manifest, self.chains)

    def _start(self, writer: str) -> Chain:
        head = None if self.anchor is None else self.anchor.writers.get(writer)
        return Chain(writer, 0, GENESIS, anchored_seq=0 if head is None else head.seq)

    def _records(self, chain: Chain) -> Iterator[str]:
        for segment in self.manifest:
            if segment.writer == chain.writer:
                yield from self._segment(segment, chain)
                chain.jump(segment.last, segment.chain)
        seq, there = self.pruned.get(chain.writer, (0, GENESIS))
        if seq > chain.seq:
            chain.jump(seq, there)
        while rows := tables.unsealed(self.db, chain.writer, after=chain.seq, limit=_BATCH_ROWS):
            before = chain.seq
            yield from chain.follow(rows)
            if chain.seq == before:
                return

    def _segment(self, segment: Segment, chain: Chain) -> Iterator[str]:
        import pyarrow as pa

        what = f"records {segment.first} to {segment.last} of writer {segment.writer}"
        path = segment.path(self.folder)
        if not path.is_file():
            yield f"segment {segment.name} is missing: {what}"
            return
        if segments.file_sha256(path) != segment.sha256:
            yield f"segment {segment.name} was changed: it holds {what}"
        try:
            for rows in segments.records(path):
                yield from chain.follow(rows)
        except (pa.ArrowException, OSError, ValueError) as error:
            yield f"segment {segment.name} cannot be read after record {chain.seq}: {error}"
            return
        yield from chain.ends(segment.last, segment.chain, "the manifest")


def _database(db: sqlite3.Connection) -> Iterator[str]:
    for (line,) in db.execute("PRAGMA integrity_check(10)"):
        if line != "ok":
            yield f"{tables.DATABASE} is damaged: {line}"


def _manifest(manifest: list[Segment]) -> Iterator[str]:
    previous = GENESIS.hex()
    ends: dict[str, int] = {}
    for number, segment in enumerate(manifest, start=1):
        where = f"manifest entry {segment.number} ({segment.name})"
        if segment.computed_digest() != segment.digest:
            yield f"{where} was changed: it is not what its digest says"
        elif segment.number != number or segment.previous != previous:
            yield f"{where} does not follow entry {number - 1}: an entry is missing or replaced"
        elif segment.first != ends.get(segment.writer, 0) + 1:
            yield f"{where} does not follow record {ends.get(segment.writer, 0)}"
        previous = segment.digest
        ends[segment.writer] = segment.last


def _named_elsewhere(db: sqlite3.Connection, manifest: list[Segment]) -> set[str]:
    names = [name for (name,) in db.execute("SELECT DISTINCT writer FROM records")]
    names += [segment.writer for segment in manifest]
    return {name for name in names if isinstance(name, str)}


def _anchored(
    anchor: ManifestHead, manifest: list[Segment], chains: dict[str, Chain]
) -> Iterator[str]:
    if len(manifest) < anchor.count:
        yield f"{_OLDER}: the manifest has {len(manifest)} entries, the anchor {anchor.count}"
    elif anchor.count and manifest[anchor.count - 1].digest != anchor.digest:
        yield f"manifest entry {anchor.count} is not the one that was anchored"
    for writer, head in sorted(anchor.writers.items()):
        chain = chains.get(writer)
        if head.seq == 0:
            continue
        if chain is None or chain.seq < head.seq:
            last = 0 if chain is None else chain.seq
            yield f"{_OLDER}: writer {writer} ends at record {last}, the anchor at {head.seq}"
        elif chain.anchored is None:
            yield f"record {head.seq} of writer {writer}, which was anchored, is missing"
        elif chain.anchored.hex() != head.chain:
            yield f"record {head.seq} of writer {writer} is not the one that was anchored"
