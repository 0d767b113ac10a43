"""Log lines on a disk that may be full: only whole ones, and no error for those that it refuses."""

from __future__ import annotations

import errno
import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any


class WholeLines:
    """A text stream without a buffer over a descriptor.

    With a buffer, the rest of a line that had no room is written later, in front of another line.
    Here a line is cut if the disk is full, and the next one begins on a line of its own.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_cut = False

    def write(self, text: str) -> int:
        """Write all of the text.

        Raises:
            OSError: the text was not written, or only a part of it.
        """
        data = text.encode(errors="backslashreplace")
        if self._is_cut:
            data = b"\n" + data
        written = os.write(self._descriptor, data)
        self._is_cut = written < len(data)
        if self._is_cut:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(text)

    def flush(self) -> None:
        """Do nothing, because no text waits."""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return os.lseek(self._descriptor, offset, whence)

    def tell(self) -> int:
        return os.lseek(self._descriptor, 0, os.SEEK_CUR)

    def close(self) -> None:
        os.close(self._descriptor)


class LineHandler(logging.StreamHandler[WholeLines]):
    """Writes to standard error as it is open now.

    Raises:
        OSError: standard error has no descriptor.
    """

    def __init__(self) -> None:
        super().__init__(WholeLines(sys.stderr.fileno()))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


class LineFileHandler(RotatingFileHandler):
    """A handler of a file. Unlike its base, it prints no traceback for each line that a full disk
    refuses."""

    def __init__(self, path: Path, *, file_bytes: int, files: int) -> None:
        super().__init__(path, maxBytes=file_bytes, backupCount=files - 1, encoding="utf-8")

    def _open(self) -> Any:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return WholeLines(os.open(self.baseFilename, flags, 0o600))

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
