"""The free space on a folder's disk, and the errors that mean a full one."""

from __future__ import annotations

import errno
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.runtime.units import KIB

LOW_SHARE: Final = 0.05
"""Share of the disk; with less free, `status`, the page and an alert report it."""
FULL_BYTES: Final = 64 * KIB
"""Free bytes; with less, files of the usual sizes can't be written."""
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class DiskSpace:
    """The disk that holds a folder.

    Args:
        free_bytes: bytes that this user can still write.
        size_bytes: bytes of the whole disk; 0 if the system does not report it.
    """

    free_bytes: int
    size_bytes: int

    @property
    def wanted_bytes(self) -> float:
        """Free bytes below which the disk is low; 0 where its size is not known."""
        return LOW_SHARE * self.size_bytes

    @property
    def is_low(self) -> bool:
        return self.free_bytes < self.wanted_bytes

    @property
    def is_full(self) -> bool:
        return self.size_bytes > 0 and self.free_bytes < FULL_BYTES

    def warning(self, folder: Path) -> str:
        """A sentence on what a person must know and do; empty while there is space."""
        if not self.is_low:
            return ""
        state = "is full" if self.is_full else "is nearly full"
        goes_on = "; what stopped goes on by itself" if self.is_full else ""
        unit, of, digits = (1e9, "GB", 1) if self.size_bytes >= 1e10 else (1e6, "MB", 0)
        wanted = f"{self.wanted_bytes / unit:,.{digits}f} {of} ({LOW_SHARE:.0%})"
        return (
            f"the disk of {folder} {state}: {self.free_bytes / unit:,.{digits}f} of"
            f" {self.size_bytes / unit:,.0f} {of} are free; wanted: {wanted}; make room"
            f" there{goes_on}"
        )


def disk_space(folder: Path) -> DiskSpace:
    """The present space on a folder's disk.

    Raises:
        OSError: the folder does not exist.
    """
    found = shutil.disk_usage(folder)
    return DiskSpace(found.free, found.total)


def says_full(error: BaseException | None) -> bool:
    """Whether an error, or its cause, means a disk, a quota or a file without space."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
