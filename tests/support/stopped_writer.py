"""A process that was stopped while it started an SQLite write-ahead log anew, with its locks.

As a script: `stopped_writer.py DATABASE`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mlplatform.runtime.storage.wal_readers import READ_MARKS, READ_MARKS_AT


@contextlib.contextmanager
def stopped_writer(database: Path) -> Iterator[None]:
    """Readers of the database are held up meanwhile."""
    process = subprocess.Popen(
        [sys.executable, __file__, str(database)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield
    finally:
        process.kill()
        process.communicate()


def _hold(database: str) -> None:
    # As walRestartLog of SQLite does, of which no process can be stopped in the middle by intent.
    index = os.open(f"{database}-shm", os.O_RDWR)
    fcntl.lockf(index, fcntl.LOCK_EX, READ_MARKS, READ_MARKS_AT)
    print("held", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _hold(sys.argv[1])
