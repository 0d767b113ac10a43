"""Opening a file that a person names: a plain one of bounded size, and none of the platform's
own."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlplatform.runtime.errors import InputInvalid, NotFound

MOST_SHOWN: Final = 80
_OF_THE_KERNEL: Final = (Path("/proc"), Path("/sys"), Path("/dev"))
_FLAGS: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Flags of opening: a pipe that nobody writes to does not block, and a link is not followed."""


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule for files that may be opened.

    Args:
        most_bytes: largest size of the file.
        closed: folders below which no file is opened.
        but: folders within them whose files are opened nevertheless.
        anyones: whether the file may belong to another user, or have a second name (hard link).
    """

    most_bytes: int
    closed: Sequence[Path] = ()
    but: Sequence[Path] = ()
    anyones: bool = False

    def allows(self, file: Path) -> bool:
        """Whether a file, with its links resolved, lies where it may be opened."""
        if _is_below(file, self.but):
            return True
        return not _is_below(file, (*self.closed, *_OF_THE_KERNEL))


def open_plain(path: Path, rule: Rule) -> int:
    """A descriptor to read the file itself, never a link's target; the caller closes it.

    Links among the folders above the file are followed; the folder that they lead to counts.

    Raises:
        NotFound: nothing with that name exists that this user may read.
        InputInvalid: the file is not a plain file, belongs to another owner, is too large, or lies
            in a folder from which no file is opened.
    """
    named = printable_name(path)
    try:
        file = path.parent.resolve(strict=True) / path.name
        if not rule.allows(file):
            raise InputInvalid(named, None, "files of this folder are not taken from a person")
        descriptor = os.open(file, _FLAGS)
    except (OSError, ValueError) as error:  # ValueError: a NUL in a name
        raise NotFound(f"no plain file that can be read at {named}") from error
    try:
        _check(descriptor, file, named, rule)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_plain(path: Path, rule: Rule) -> bytes:
    """The content of such a file.

    Raises:
        NotFound, InputInvalid: for the same reasons as in `open_plain`.
    """
    with os.fdopen(open_plain(path, rule), "rb") as file:
        content = file.read(rule.most_bytes + 1)
    if len(content) > rule.most_bytes:  # it has grown since `open_plain`
        raise InputInvalid(printable_name(path), None, f"more than {rule.most_bytes} bytes")
    return content


def printable_name(path: Path) -> str:
    """A file's name as text that a line or a record can hold."""
    name = ascii(path.name)[1:-1]
    return name if len(name) <= MOST_SHOWN else f"{name[:MOST_SHOWN]}..."


def _check(descriptor: int, file: Path, named: str, rule: Rule) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise InputInvalid(named, None, "it is not a plain file")
    place = _place(descriptor, file)
    if not rule.allows(place):  # a folder above has become a link
        raise InputInvalid(named, None, "files of this folder are not taken from a person")
    if not rule.anyones:
        if found.st_nlink > 1 and not _is_below(place, rule.but):
            raise InputInvalid(
                named, None, "it is a hard link, which has another name too; copy the file"
            )
        if found.st_uid not in (os.geteuid(), 0):
            raise InputInvalid(named, None, f"it is user {found.st_uid}'s; copy it as this user")
    if not 0 < found.st_size <= rule.most_bytes:
        wanted = f"wanted: 1 to {rule.most_bytes}"
        raise InputInvalid(named, None, f"it has {found.st_size} bytes; {wanted}")


def _place(descriptor: int, file: Path) -> Path:
    """The place of an open file: by the kernel on Linux, else by its name."""
    if sys.platform != "linux":
        return file
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _is_below(file: Path, folders: Sequence[Path]) -> bool:
    return any(file.is_relative_to(folder.resolve()) for folder in folders)
