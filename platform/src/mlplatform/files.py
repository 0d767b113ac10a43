"""Small files that appear whole or not at all, readable by their owner alone."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from pathlib import Path
from typing import Final

DRAFT: Final = ".draft"
"""Ends the names of files that are not whole yet; nobody reads them."""
FORGOTTEN_S: Final = 60.0
"""A draft that nobody has touched for so long is of a process that was killed."""


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file's content in one step; its folder is made when missing."""
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
    """Make a file with that content; False, and nothing changed, where it already exists."""
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


def sweep_drafts(folder: Path, *, now_s: float | None = None) -> int:
    """Remove what killed processes left of files that they were writing, in all of a folder.

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
