"""Removal of records that another log has."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

from mlplatform.decisions.records import kept_keys, tables, unsealed_records
from mlplatform.decisions.records.sqlite_errors import Translation
from mlplatform.runtime.storage import sqlite

BITE_ROWS: Final = 500


def prune(folder: Path, writer: str, *, seq: int, chain: bytes, before_ms: int, now_ms: int) -> int:
    """Drop a writer's oldest records that another log has, and expired keys. Returns the number of
    records dropped.

    The chain continues from the end of the dropped records, so that the rest can be verified. If
    the other log's chain differs from this one's, nothing is dropped, because it has other records.

    Args:
        seq: number of the last record that the other log has; `chain` is the chain there.
        before_ms: wall time. The first record that was recorded at this time or later, and all
            records after it, stay.
        now_ms: wall time against which the life of idempotency keys is checked.
    """
    path = folder / tables.DATABASE
    dropped = 0
    with Translation(path), closing(sqlite.connect(path)) as db:
        for _ in kept_keys.expire(db, now_ms):
            pass
        known = unsealed_records.select(db, ("chain",), writer, after=seq - 1, last=seq)
        if known != [(chain,)]:
            return 0
        # In small steps: a gateway that appends waits for one step at most.
        while True:
            with sqlite.transaction(db):
                columns = ("seq", "chain", "recorded_ms")
                bite = unsealed_records.select(db, columns, writer, last=seq, limit=BITE_ROWS)
                old = list(_old(bite, before_ms))
                if not old:
                    return dropped
                tables.move_pruned(db, writer, *old[-1])
            dropped += len(old)


def _old(bite: Sequence[tuple[int, bytes, int]], before_ms: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for seq, chain, recorded_ms in bite:
        if recorded_ms >= before_ms:
            break
        found.append((seq, chain))
    return found
