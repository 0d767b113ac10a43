"""Whether a reader of an SQLite database in WAL mode would be held up, tested without reading.

A reader marks its place in the write-ahead log by a shared lock on one of four bytes of the wal
index. A writer that starts the log anew holds them alone, for microseconds; if it is stopped then
(a frozen container, a disk that hangs), readers sleep and try again for ten seconds, whatever their
busy timeout is.

Source: https://www.sqlite.org/walformat.html, section 2.3.1, and walTryBeginRead in SQLite's wal.c.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

READ_MARKS_AT = 124
READ_MARKS = 4
"""Number of tested read marks. The first of five belongs to readers of a fully checkpointed log; a
checkpoint holds it alone while it runs, and readers then take one of the others."""

_IS_LINUX = os.uname().sysname == "Linux"
_TYPE, _FLOCK = (0, "@hhqqi0q") if _IS_LINUX else (3, "@qqihh")
"""Format of `struct flock` here and on macOS, and the place of its type."""


class WalReaders:
    """The locks of other processes on the wal index of one database.

    Its file stays open for as long as the process lives: closing it would end the locks that SQLite
    itself has on it in this process (fcntl(2), Advisory record locking).
    """

    def __init__(self, database: Path) -> None:
        self._path = f"{database}-shm"
        self._file: int | None = None

    def are_held_up(self) -> bool:
        """Whether another process holds a read mark alone now; some 2 µs."""
        if self._file is None:
            try:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return False
        found = fcntl.fcntl(self._file, fcntl.F_GETLK, _WANTED)
        return bool(struct.unpack(_FLOCK, found)[_TYPE] != fcntl.F_UNLCK)


def _lock_request() -> bytes:
    if _IS_LINUX:
        return struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, READ_MARKS_AT, READ_MARKS, 0)
    return struct.pack(_FLOCK, READ_MARKS_AT, READ_MARKS, 0, fcntl.F_RDLCK, os.SEEK_SET)


_WANTED = _lock_request()
