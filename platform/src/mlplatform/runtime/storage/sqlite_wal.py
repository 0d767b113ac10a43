"""SQLite's write-ahead log: copied into the database beside its writers, and started anew in time.

SQLite syncs a database only in a checkpoint that ends while nobody writes. Under load that is the
one that a writer makes itself, once the log is long; it then waits until the pages of all
checkpoints before are on disk.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Literal, NamedTuple

AUTOCHECKPOINT_FRAMES: Final = 20_000
"""Frames of 4 KiB at which a writer makes a checkpoint itself."""
LOG_BYTES: Final = 4_096 * AUTOCHECKPOINT_FRAMES
"""Size to which a log is cut when it starts anew, if a reader has made it larger."""
RESTART_FRAMES: Final = AUTOCHECKPOINT_FRAMES // 2
"""Frames at which `copy` starts the log anew, before a writer has to."""
LEFT_FRAMES: Final = 2_000
"""Most frames for which writers are kept waiting."""
_READERS_MS: Final = 5
_SYNCED: dict[tuple[int, int], int] = {}
"""Device and inode of a database → a descriptor that stays open as long as the process. To close
any descriptor of a file would drop the process's locks on it, those of SQLite's connections too. A
database that was removed keeps its space until then."""


class WalCopy(NamedTuple):
    """The frames of the log, and those of them that are in the database. Both are -1 while another
    connection makes a checkpoint."""

    frames: int
    copied: int


def copy(db: sqlite3.Connection, path: Path, writers: AbstractContextManager[object]) -> None:
    """Copy the log into the database without blocking anybody. If the log is long, make it start
    anew; writers wait for its last few frames, some milliseconds at most.

    Args:
        db: a connection that nobody else uses.
        path: the database.
        writers: a lock that this process's writers take for each transaction.
    """
    if checkpoint(db).frames < RESTART_FRAMES:
        return
    # What was copied goes to disk, and what came meanwhile too, before writers wait
    sync_database(path)
    wal = checkpoint(db)
    sync_database(path)
    if wal.frames < 0 or wal.frames - wal.copied > LEFT_FRAMES:  # a reader needs the log as it is
        return
    (waits_ms,) = db.execute("PRAGMA busy_timeout").fetchone()
    db.execute(f"PRAGMA busy_timeout={_READERS_MS}")
    with writers:
        checkpoint(db, "RESTART")
    db.execute(f"PRAGMA busy_timeout={waits_ms}")


def checkpoint(db: sqlite3.Connection, mode: Literal["PASSIVE", "RESTART"] = "PASSIVE") -> WalCopy:
    """Copy frames into the database.

    Args:
        mode: PASSIVE keeps nobody waiting. RESTART holds the write lock, and waits for readers as
            long as `busy_timeout` says; the next transaction then starts the log anew.
    """
    _, frames, copied = db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return WalCopy(frames, copied)


def sync_database(path: Path) -> None:
    """Write the changed pages of a database's file to disk, beside its connections."""
    found = path.stat()
    at = (found.st_dev, found.st_ino)
    if at not in _SYNCED:
        _SYNCED[at] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(_SYNCED[at])
