"""Owners of user ids that were given to a user beside their own, for containers and user
namespaces."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Final

FILE: Final = Path("/etc/subuid")
"""Source: subuid(5): `login or uid:first:count`, a line for each range."""


class SubordinateIds:
    """The ranges of a file, which is read again when it has changed.

    If a directory service assigns the ids (nsswitch.conf(5), `subid`), no file lists them.
    """

    def __init__(self, file: Path = FILE) -> None:
        self._file = file
        self._seen: tuple[int, int] | None = None
        self._ranges: tuple[tuple[range, int], ...] = ()

    def owner(self, uid: int) -> int:
        """The user to whom this id was given; the id itself if it was given to nobody."""
        try:
            found = self._file.stat()
            seen = (found.st_mtime_ns, found.st_size)
            if seen != self._seen:
                self._ranges, self._seen = _ranges(self._file.read_bytes()), seen
        except OSError:  # missing or not readable
            return uid
        return next((owner for ids, owner in self._ranges if uid in ids), uid)


def _ranges(data: bytes) -> tuple[tuple[range, int], ...]:
    lines = (line.split(":") for line in data.decode("utf-8", "replace").splitlines())
    found = []
    for line in lines:
        if len(line) != _FIELDS or (owner := _uid(line[0])) is None:
            continue
        first, count = (int(n) if n.isascii() and n.isdigit() else 0 for n in line[1:])
        found.append((range(first, first + count), owner))
    return tuple(found)


def _uid(name: str) -> int | None:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isascii() and name.isdigit() else None


_FIELDS: Final = 3
