"""A decision log that an attacker with time has computed anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from mlplatform.decisions.log import segments
from mlplatform.decisions.records.record import STORED, link, record_digest


def with_values(row: tuple[Any, ...], **values: Any) -> tuple[Any, ...]:
    return tuple(values.get(name, old) for name, old in zip(STORED, row, strict=True))


def rewrite(folder: Path, writer: str, *, seq: int, score: float) -> None:
    """Change a sealed record and recompute all that follows, as an attacker with time would."""
    with closing(sqlite3.connect(folder / "decisions.db", isolation_level=None)) as db:
        manifest = segments.manifest(db)
        stored = [r for s in manifest for batch in segments.stored(s.path(folder)) for r in batch]
        stored[seq - 1] = with_values(stored[seq - 1], score=score)
        chain = bytes(32)
        for index, row in enumerate(stored):
            digest = record_digest(
                writer, index + 1, row[2:21], row[STORED.index("payload_digest")]
            )
            chain = link(chain, digest)
            stored[index] = with_values(row, digest=digest, chain=chain)
        db.execute("DELETE FROM segments")
        db.execute("DELETE FROM files")
        for segment in manifest:
            part = stored[segment.first - 1 : segment.last]
            sha256 = segments.write(segment.path(folder), part)
            segments.enter(db, writer, part, sha256=sha256)
        db.execute("UPDATE writers SET chain = ?", (chain,))
