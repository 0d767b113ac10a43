"""Small files that appear whole or not at all, readable by their owner alone."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

DRAFT: Final = ".draft"
"""Suffix of files that are not complete yet, which nobody reads."""
FORGOTTEN_S: Final = 60.0
"""Seconds after which an untouched draft belongs to a process that was killed."""


def open_private(path: str, flags: int) -> int:
    """An opener for `open`: a file that it makes is readable by its owner alone."""
    return os.open(path, flags, 0o600)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step; its folder is created if it is missing."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(DRAFT, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(draft, path)
    except BaseException:
        Path(draft).unlink(missing_ok=True)
        raise


def create_atomically(path: Path, data: bytes) -> bool:
    """Create a file with that content. Returns False, and changes nothing, if the file exists."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, draft = tempfile.mkstemp(DRAFT, f".{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        Path(draft).unlink(missing_ok=True)
    return True


def sync(path: Path) -> None:
    """Write what is buffered of a file, or of a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_lines(path: Path, lines: bytes) -> int:
    """Add whole lines to a file with any number of writers. Returns its new length in bytes.

    They begin on a line of their own, even if a full disk has cut the last one.

    Raises:
        OSError: not all of them are in the file.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            lines = b"\n" + lines
        if os.write(descriptor, lines) < len(lines):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Holds the lock of a folder, or of a file that is made for it, unless another process does;
    gives whether it is held here. The kernel frees it when its process dies."""
    made = 0 if path.is_dir() else os.O_CREAT
    descriptor = os.open(path, made | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def is_held(lock: Path) -> bool:
    """Whether a process holds the lock of this file."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def sweep_drafts(folder: Path, *, now_s: float | None = None) -> int:
    """Remove drafts that killed processes left in a folder and below it. Returns their number.

    Returns how many there were; none where there is no such folder.
    """
    before_s = (time.time() if now_s is None else now_s) - FORGOTTEN_S
    removed = 0
    for draft in folder.rglob(f".*{DRAFT}"):
        with contextlib.suppress(FileNotFoundError):
            if draft.lstat().st_mtime < before_s:
                draft.unlink()
                removed += 1
    return removed
