"""Locks that decide which process may write idempotency keys where: into the log, or into its
spill.

Any number of processes write keys into the log at a time, as the log arbitrates them. A process
that spills a key must know that nobody writes that key anywhere else at this moment; so it waits
until no other process writes keys into the log, and keeps them from it until the key is spilled.

Byte 0 of the lock file is for a process that spills; each process has its own byte, which it
holds while it writes keys into the log. The locks are POSIX record locks: they belong to the
process, so that one thread may spill while another of the same process is stuck in the log, and
they die with it.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_FILE: Final = "keys.lock"
_RETRY_S: Final = 0.002
_EVERYTHING: Final = 0
"""Length of a range that reaches to the end of the file, wherever that is."""


class KeyLocks:
    """The locks of one process; one object a folder and process, as closing any drops them all."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
        self._descriptor = os.open(folder / _FILE, flags, 0o600)
        self._own = 1 + os.getpid()
        self._spilling = threading.Lock()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Held while keys are written into the log; waits while another process spills keys."""
        fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, self._own)
        try:
            yield
        finally:
            fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, self._own)

    @contextmanager
    def spilling(self, within_s: float) -> Iterator[bool]:
        """Held while keys are spilled. Yields False if other processes wrote keys into the log
        during all of `within_s`."""
        end_s = time.monotonic() + within_s
        with self._spilling:
            others = ((1, 0), (self._own - 1, 1), (_EVERYTHING, self._own + 1))
            held = [r for r in others if self._acquire(r, end_s)]
            try:
                yield len(held) == len(others)
            finally:
                for length, start in held:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_UN, length, start)

    def close(self) -> None:
        os.close(self._descriptor)

    def _acquire(self, where: tuple[int, int], end_s: float) -> bool:
        length, start = where
        while True:
            try:
                fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= end_s:
                    return False
                time.sleep(_RETRY_S)
            else:
                return True
