"""Readers of what is put into a folder: those who may read the folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_OWN_FOLDER: Final = 0o700
_OWN_FILE: Final = 0o600
_READERS: Final = 0o055
_READING: Final = 0o044
"""Permissions that a folder may grant to its group and to others (`_READERS`), and the part of them
for a file."""


def open_as(folder: Path, draft: Path) -> None:
    """Let those read a draft who may read the folder that it is put into."""
    readers = folder.stat().st_mode & _READERS
    for path in (draft, *draft.rglob("*")):
        path.chmod(_OWN_FOLDER | readers if path.is_dir() else _OWN_FILE | readers & _READING)
