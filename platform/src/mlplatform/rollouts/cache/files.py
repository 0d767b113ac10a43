"""Files that are computed from the decision log. One process at a time writes them, and each may be
deleted."""

from __future__ import annotations

import fcntl
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, TypeVar

from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage import sqlite

T = TypeVar("T")

PAGE_BYTES: Final = 8192
"""Size of a page of SQLite: the rows of a busy customer take a kilobyte or two."""
MOST_WAIT_S: Final = 600.0
"""Longest wait for another process that counts; a first count of many millions takes minutes."""


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Holds a folder's lock within the block, so that one process counts at a time; the kernel
    frees the lock when its holder dies."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    give_up_s = time.monotonic() + MOST_WAIT_S
    with (folder / "lock").open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_s:
                    raise Unavailable(
                        f"another process still counts in {folder}; try again in a minute"
                    ) from error
                time.sleep(0.05)
        yield


def file_of(folder: Path, name: str, generation: int, identity: str) -> Path:
    """The path of the file with this name and generation; files of earlier generations are deleted.

    Args:
        identity: text that stands for what the file stores, and how; it is part of the file's name.
    """

    def generation_of(file: Path) -> int:
        return int(file.name.split("-")[1])

    path = folder / f"{name}-{generation}-{identity}.db"
    if not path.exists() and folder.is_dir():
        for other in folder.glob(f"{name}-*.db"):
            if generation_of(other) <= generation:
                _remove(other)
    return path


def with_file(
    path: Path,
    tables: str,
    *,
    fits: Callable[[sqlite3.Connection], bool],
    work: Callable[[sqlite3.Connection], T],
) -> T:
    """The result of `work` on the file. A file that is damaged or does not fit is made again first.

    Args:
        fits: tells whether the file was computed from this log and reaches no further than the log.

    Raises:
        Unavailable: the file can't be read or written now, or it does not fit even when new.
    """
    for attempt in ("kept", "new"):
        try:
            with closing(sqlite.connect(path, tables=tables, page_bytes=PAGE_BYTES)) as db:
                if fits(db):
                    return work(db)
        except sqlite3.OperationalError as error:
            raise Unavailable(f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            if attempt == "new":
                raise Unavailable(f"{path} is damaged again: {error}") from error
        _remove(path)
    raise Unavailable(f"{path}: the decision log has lost records while it was counted")


def _remove(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
