"""An external view's rows on disk: numbered Parquet files, each with a note of when it was served.

A file appears whole, by one rename. Its note is written once the online store has its rows, and
training reads it only then: rows that were not served yet were not known.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.storage.files import is_held, sync, write_atomically

TAKEN: Final = "taken_"
BUILDING: Final = ".building"
"""Folder of incomplete files in a folder of complete ones."""
MARK: Final = "online-mark"
"""File with the mark of the online store that had the rows of all parts."""
_NUMBER: Final = "[0-9]" * 8


class ClientPushes(msgspec.Struct, frozen=True):
    """A client's pushes in a part: how many, how many rows, and from when to when."""

    pushes: int
    rows: int
    first_ms: int
    last_ms: int


class PartNote(msgspec.Struct, frozen=True, omit_defaults=True):
    """The note of a part.

    Args:
        taken_ms: event time at which the online store had all rows of the part. For a part of
            pushes, the time of the first push; each of its rows counts from its own availability
            time.
        pushed: client → the pushes whose rows the part holds; empty for an import.
        replaces: names of the parts that were merged into this one, whose `taken_ms` each row has
            in the column `TAKEN`. They no longer count and are removed later.
        digest: SHA-256 of the part's file when its rows were served, which an erasure leaves as it
            is; empty in notes that have none.
        held: identities of the parts in `replaces`, whose rows are here.
    """

    taken_ms: int
    pushed: Mapping[str, ClientPushes] = {}
    replaces: tuple[str, ...] = ()
    digest: str = ""
    held: tuple[str, ...] = ()

    def identity(self, name: str) -> str:
        """The digest, or the part's name where its note has none."""
        return self.digest or name


class Part(msgspec.Struct, frozen=True):
    """A file of rows, ordered by key, event time and availability; no two rows have the same
    three."""

    path: Path
    taken_ms: int
    is_merged: bool = False

    @property
    def rows_sql(self) -> str:
        """SQL of the part's rows, with the column `TAKEN`."""
        path = str(self.path).replace("'", "''")
        column = "" if self.is_merged else f", epoch_ms({self.taken_ms}) AS {TAKEN}"
        return f"SELECT *{column} FROM '{path}'"


class ExternalParts:
    """The parts of one view.

    Args:
        folder: the folder `OfflineTable.external(view)`, created with the first rows.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def served_parts(self) -> list[Part]:
        """The parts that the online store has had, in order.

        Raises:
            Corrupt: a note can't be read as a note.
        """
        return [
            Part(path, note.taken_ms, bool(note.replaces))
            for path in self.every()
            if (note := self._note(path)) is not None
        ]

    def every(self) -> list[Path]:
        """All parts except replaced ones, in order."""
        there = self.files()
        notes = (self._note(path) for path in there)
        gone = {name for note in notes if note is not None for name in note.replaces}
        return [path for path in there if path.stem not in gone]

    def remove_replaced(self, before_s: float) -> int:
        """Remove parts that were replaced before a wall time in epoch seconds, whose readers have
        ended by then. Returns their number."""
        count = 0
        for path in self.files():
            note = self._note(path)
            if note is None or path.stat().st_mtime >= before_s:
                continue
            for name in note.replaces:
                old = self.folder / f"{name}.parquet"
                count += old.exists()
                old.unlink(missing_ok=True)
                old.with_suffix(".json").unlink(missing_ok=True)
        return count

    def files(self) -> list[Path]:
        """All parts, including replaced ones that are not removed yet."""
        return sorted(self.folder.glob(f"{_NUMBER}.parquet"))

    def unserved_parts(self) -> list[Path]:
        """Parts that a killed import left before the online store had all of their rows."""
        return [path for path in self.every() if self._note(path) is None]

    def add(self, draft: Path, note: PartNote | None = None) -> Path:
        """Make a complete file the next part, by one rename.

        Args:
            note: the note of rows that the online store already has; None if it does not have them
                yet.
        """
        last = max((int(path.stem) for path in self.files()), default=-1)
        path = self.folder / f"{last + 1:08d}.parquet"
        sync(draft)
        if note is None:  # a killed process left the note's part unfinished
            path.with_suffix(".json").unlink(missing_ok=True)
        else:
            whole = msgspec.structs.replace(note, digest=_digest(draft))
            write_atomically(path.with_suffix(".json"), msgspec.json.encode(whole))
        os.rename(draft, path)
        sync(self.folder)
        return path

    def notes(self) -> list[PartNote]:
        """Notes of all parts that the online store has had, in order.

        Raises:
            Corrupt: a note can't be read as a note.
        """
        return [note for _, note in self.parts_and_notes()]

    def parts_and_notes(self) -> list[tuple[Path, PartNote]]:
        """All parts that the online store has had, each with its note."""
        every = self.every()
        return [(path, note) for path in every if (note := self._note(path)) is not None]

    def note(self, path: Path, taken_ms: int) -> None:
        """Record since when the online store has a part's rows."""
        note = PartNote(taken_ms, digest=_digest(path))
        write_atomically(path.with_suffix(".json"), msgspec.json.encode(note))

    def identities(self) -> frozenset[str]:
        """Identities of all parts that the online store has had."""
        return frozenset(note.identity(path.stem) for path, note in self.parts_and_notes())

    def has_all(self, identities: Iterable[str]) -> bool:
        """Whether parts that were here at another time are here, or were merged into others."""
        merged = {one for note in self.notes() for one in note.held}
        return self.identities() | merged >= set(identities)

    def mark(self) -> str | None:
        """The mark of the online store when it had the rows of all parts; None if it never had."""
        try:
            return (self.folder / MARK).read_text()
        except FileNotFoundError:
            return None

    def note_mark(self, mark: str) -> None:
        write_atomically(self.folder / MARK, mark.encode())

    def is_importing(self) -> bool:
        """Whether an import is running now."""
        return is_held(self.folder / "lock")

    @contextmanager
    def building(self) -> Iterator[Path]:
        """An empty folder for incomplete files, removed at the end of the block. One import at a
        time has it; the kernel frees the lock when its holder dies."""
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


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
