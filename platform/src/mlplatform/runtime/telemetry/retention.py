"""How much of logs and traces a machine keeps: the only home of these numbers.

They bound sizes, so that no disk fills up. For how many days logs are kept where a log server keeps
them is that server's configuration.
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.runtime.storage.files import DRAFT, locked, open_private
from mlplatform.runtime.units import MIB


@dataclass(frozen=True, slots=True)
class Retention:
    """The files that one process keeps: a full one becomes .1, that one .2, and the last is
    removed.

    Args:
        file_bytes: size from which on a file is full.
        files: number of files, including the one that is written.
    """

    file_bytes: int
    files: int


LOGS: Final = Retention(5 * MIB, 4)
TRACES: Final = Retention(16 * MIB, 4)
"""Retention of traces. A trace of one decision has some 2.5 KB: 64 MiB hold the last 25,000. A
process has two files: one for rare traces, and one for those of which there are many alike."""

DEBUG_SHARE: Final = 0.1
"""Share of the requested debug lines that is written; those of one decision are written or left out
together."""


def is_full(path: Path, retention: Retention) -> bool:
    """Whether a file is to be rotated; a missing file is not."""
    with suppress(FileNotFoundError):
        return path.stat().st_size >= retention.file_bytes
    return False


def rotate(path: Path, retention: Retention) -> None:
    """Make room for a new file if this one is full; it becomes the youngest of the old ones.

    Any number of processes may write to the file. If another one is making room in this folder,
    nothing is done: the next write checks again.
    """
    with locked(path.parent) as is_ours:  # no process waits for a stopped one
        if not is_ours or not is_full(path, retention):
            return
        _age(path, retention)
        path.replace(_old(path, 1))


def rotate_in_place(path: Path, retention: Retention) -> None:
    """Rotate a file that its writer keeps open for appending: it is copied and emptied.

    What is written between the last look at it and its end, microseconds, is lost.

    Raises:
        OSError: there is no room for the copy; every file is as it was.
    """
    draft = path.with_name(f".{path.name}{DRAFT}")
    try:
        with path.open("rb") as source, open(draft, "wb", opener=open_private) as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()  # before the original is cut
            _age(path, retention)
            draft.replace(_old(path, 1))
            while rest := source.read():
                copy.write(rest)
                copy.flush()
            with path.open("r+b") as emptied:
                emptied.truncate(0)
    finally:
        draft.unlink(missing_ok=True)


def _age(path: Path, retention: Retention) -> None:
    for number in range(retention.files - 1, 1, -1):
        younger = _old(path, number - 1)
        if younger.exists():
            younger.replace(_old(path, number))


def _old(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
