"""Writes of small status files, repeated until the disk takes them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from mlplatform.runtime.storage.files import write_atomically
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class RetriedWrites:
    """Holds the newest content of each file until the disk has room for it; a full disk raises
    nothing.

    For one thread, which calls `retry` from time to time.
    """

    def __init__(self, write: Callable[[Path, bytes], None] = write_atomically) -> None:
        self._write = write
        self._waiting: dict[Path, bytes] = {}

    @property
    def waiting(self) -> frozenset[Path]:
        """The files whose newest content is not on disk yet."""
        return frozenset(self._waiting)

    def put(self, path: Path, data: bytes) -> None:
        """Write the file's new content now, or later if the disk refuses it."""
        if self._is_written(path, data):
            self._waiting.pop(path, None)
        else:
            self._waiting[path] = data

    def retry(self) -> None:
        """Write all waiting content that the disk takes now."""
        if not self._waiting:
            return
        self._waiting = {
            path: data for path, data in self._waiting.items() if not self._is_written(path, data)
        }
        if not self._waiting:
            log.warning("there is room again: every file that waited is written")

    def _is_written(self, path: Path, data: bytes) -> bool:
        try:
            self._write(path, data)
        except OSError as error:
            log.warning("a file waits until it can be written: %s: %s", path, error.strerror)
            return False
        return True
