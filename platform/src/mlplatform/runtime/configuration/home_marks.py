"""Whether a folder is a home of this platform, or is free to become one.

Nothing of a folder that holds other files is changed: a wrong `MLPLATFORM_HOME` may name any.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import ConfigInvalid

FOLDERS: Final = ("secrets", "run", "logs")
"""Folders that every start makes before anything else, in this order."""
EMPTY_AT_FIRST: Final = (*FOLDERS, "bundles")
STORES: Final = ("rollouts.db", "admission.db", "decisions/decisions.db", "secrets/pseudonym.key")
"""Files of which a restored home has one, before its first start makes the folders."""
NO_CONTENT: Final = frozenset({".gitignore", ".restoring", "lost+found"})
"""Names that say nothing about whose a folder is; a new disk has the last one."""
MADE_AT_FIRST: Final = frozenset(
    (".gitignore", "secrets/pseudonym.key", "online.db", "online.db-shm", "online.db-wal")
)
"""Files that a command makes before it stores anything."""
_MOST_NAMED: Final = 3


def is_home(root: Path) -> bool:
    """Whether a folder is a home of this platform: of this release or of an earlier one."""
    if any((root / name).is_file() for name in STORES):
        return True
    return all((root / name).is_dir() for name in FOLDERS)


def strangers(root: Path) -> tuple[str, ...]:
    """Names in a folder that make it somebody else's; empty if it is a home, or free to become one.

    A folder is free if it is not there, holds nothing, or only what a start makes first. Folders on
    which a volume is mounted do not count.

    Raises:
        OSError: the folder can't be read.
    """
    try:
        names = sorted(name for name in os.listdir(root) if not _is_free(root, name))
    except FileNotFoundError:
        return ()
    # Looked for afterwards: another process may be making a home here, its folders first.
    return () if not names or is_home(root) else tuple(names)


def other_content(root: Path, variable: str) -> ConfigInvalid | None:
    """The error for a folder that holds other files; None if it is a home, or free to become one.

    Args:
        variable: the setting that names the folder.
    """
    try:
        there = strangers(root)
    except OSError as error:
        wanted = f"a folder that can be made and is yours ({error.strerror})"
        return ConfigInvalid(variable, str(root), wanted)
    if not there:
        return None
    named = ", ".join(there[:_MOST_NAMED])
    more = f" and {len(there) - _MOST_NAMED} more" if len(there) > _MOST_NAMED else ""
    wanted = (
        f"a home of this platform, or a new or empty folder; this one holds {named}{more}, and"
        " nothing in it was changed: name another folder"
    )
    return ConfigInvalid(variable, str(root), wanted)


def remove_unused(root: Path, *, keeps_root: bool) -> None:
    """Remove what a command made of a home in which it stored nothing; anything else stays.

    Args:
        keeps_root: whether the folder itself stays, because it was there before.
    """
    folders: list[Path] = []
    files: list[Path] = []
    for path in root.rglob("*"):
        (folders if _is_folder(path) else files).append(path)
    if not {str(path.relative_to(root)) for path in files} <= MADE_AT_FIRST:
        return
    for file in files:
        file.unlink(missing_ok=True)
    for folder in sorted(folders, reverse=True):  # what is within a folder comes before it
        folder.rmdir()
    if not keeps_root:
        root.rmdir()


def _is_free(root: Path, name: str) -> bool:
    path = root / name
    if name in NO_CONTENT or os.path.ismount(path):
        return True
    return name in EMPTY_AT_FIRST and _is_folder(path) and not any(path.iterdir())


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)
