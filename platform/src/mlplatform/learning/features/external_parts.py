"""An external view's rows on disk: numbered Parquet files, each with a note of when it was served.

A file appears whole, by one rename. Its note is written once the online store has its rows, and
only then does training read it: what was not served yet was not known.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import is_held, sync, write_atomically

BUILDING: Final = ".building"
LOST: Final = "online-rows-lost"
"""Stands in the folder from when the online store was found without rows until it has them."""
_NUMBER: Final = "[0-9]" * 8


class PartNote(msgspec.Struct, frozen=True):
    """A part's note.

    Args:
        taken_ms: event time at which the online store had all of its rows.
    """

    taken_ms: int


class Part(msgspec.Struct, frozen=True):
    """A file of rows, ordered by key, event time and availability; no two have all three."""

    path: Path
    taken_ms: int


class ExternalParts:
    """The parts of one view.

    Args:
        folder: of `OfflineTable.external(view)`; made when the first rows come.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def served(self) -> list[Part]:
        """Those that the online store has had, in their order.

        Raises:
            Corrupt: a note is none.
        """
        return [
            Part(path, note.taken_ms)
            for path in self.every()
            if (note := self._note(path)) is not None
        ]

    def every(self) -> list[Path]:
        return sorted(self.folder.glob(f"{_NUMBER}.parquet"))

    def unserved(self) -> list[Path]:
        """What a killed import left before the online store had all of it."""
        return [path for path in self.every() if self._note(path) is None]

    def add(self, draft: Path) -> Path:
        """Make a whole file the next part, which is there or not there after a kill."""
        last = max((int(path.stem) for path in self.every()), default=-1)
        path = self.folder / f"{last + 1:08d}.parquet"
        sync(draft)
        os.rename(draft, path)
        sync(self.folder)
        return path

    def note(self, path: Path, taken_ms: int) -> None:
        """Say since when the online store has a part's rows."""
        write_atomically(path.with_suffix(".json"), msgspec.json.encode(PartNote(taken_ms)))

    def are_lost(self) -> bool:
        """Whether the online store was found without rows, and does not have all again."""
        return (self.folder / LOST).exists()

    def note_lost(self) -> None:
        write_atomically(self.folder / LOST, b"")

    def note_found(self) -> None:
        (self.folder / LOST).unlink(missing_ok=True)

    def is_importing(self) -> bool:
        """Whether an importer is at work now."""
        return is_held(self.folder / "lock")

    @contextmanager
    def building(self) -> Iterator[Path]:
        """An empty folder for what is not whole yet, gone afterwards; one importer at a time, and
        the kernel lets go of the lock when its holder dies."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            building = self.folder / BUILDING
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(mode=0o700)
            try:
                yield building
            finally:
                shutil.rmtree(building, ignore_errors=True)

    def _note(self, path: Path) -> PartNote | None:
        note = path.with_suffix(".json")
        try:
            return msgspec.json.decode(note.read_bytes(), type=PartNote)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise Corrupt(f"{note}: {error}; restore it from a backup (docs/backup.md)") from error
