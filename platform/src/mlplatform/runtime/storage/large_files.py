"""Files of any size: written, copied and digested in pieces, with one piece in memory."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Final

from mlplatform.runtime.units import MIB

PIECE_BYTES: Final = 4 * MIB
REMEMBERED_FROM_BYTES: Final = 64 * MIB
SETTLED_S: Final = 2.0
"""Resolution of a file system's clock in seconds: a file that has just changed could change again
without a new time."""
MOST_REMEMBERED: Final = 1024

_State = tuple[int, int, int, int, int]
_remembered: dict[_State, str] = {}
_lock = threading.Lock()


def file_digest(path: Path) -> str:
    """SHA-256, hexadecimal, of a file's content.

    A large file is read again only if it has changed since this process read it: another device,
    number, size, time of modification or of change.

    Raises:
        OSError: the file can't be read.
    """
    with path.open("rb", buffering=0) as file:
        state = _state(file.fileno())
        with _lock:
            found = _remembered.get(state)
        if found is not None:
            return found
        found = hashlib.file_digest(file, "sha256").hexdigest()
        if _state(file.fileno()) == state and _is_settled(state):
            _remember(state, found)
    return found


def copy(source: int, target: Path, mode: int) -> str:
    """Copy an open file to a new one, which is on the disk afterwards; returns its SHA-256.

    Args:
        source: descriptor that is read from its present position.

    Raises:
        OSError: the source can't be read or the copy can't be written; an incomplete copy stays.
    """
    hashed = hashlib.sha256()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        while piece := os.read(source, PIECE_BYTES):
            hashed.update(piece)
            view = memoryview(piece)
            while view:
                view = view[file.write(view) :]
        os.fsync(file.fileno())
    return hashed.hexdigest()


def write_new(path: Path, data: bytes) -> None:
    """Create a file with that content for its owner alone; it is on the disk on return.

    Raises:
        FileExistsError: something with that name exists.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _state(descriptor: int) -> _State:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_settled(state: _State) -> bool:
    _, _, size, modified_ns, changed_ns = state
    age_s = time.time() - max(modified_ns, changed_ns) / 1e9
    return size >= REMEMBERED_FROM_BYTES and age_s > SETTLED_S


def _remember(state: _State, found: str) -> None:
    with _lock:
        if len(_remembered) >= MOST_REMEMBERED:
            _remembered.clear()
        _remembered[state] = found
