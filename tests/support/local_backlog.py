"""How much of a local topic a group has not read, asked from outside of it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def backlog(path: Path, topic: str, group: str) -> int:
    with closing(sqlite3.connect(path)) as db:
        (row,) = db.execute(
            "SELECT sum(p.next_offset - max(p.first_offset, coalesce(o.next_offset, 0)))"
            " FROM partitions p LEFT JOIN offsets o ON o.grp = ? AND o.topic = p.topic"
            " AND o.partition = p.partition WHERE p.topic = ?",
            (group, topic),
        ).fetchone()
    return int(row or 0)
