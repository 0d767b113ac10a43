"""Storage of a batch's results: a folder or a bucket in which every file is whole."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

from mlplatform.operations.tables.locations import ObjectPrefix, Output
from mlplatform.runtime.errors import Busy, ConfigInvalid, Refused
from mlplatform.runtime.storage.files import DRAFT, sync
from mlplatform.runtime.storage.objects import Objects

PLAN: Final = "_plan.json"
MANIFEST: Final = "_manifest.json"
DONE: Final = "_done"
"""Folder with a file for each finished partition; readers of Parquet skip names that begin with
_."""
LOCK: Final = "_lock"


class Results(Protocol):
    """Files by name; each appears whole, by one rename or as one object."""

    def sizes(self) -> dict[str, int]:
        """Name → bytes of each whole file, including those in subfolders."""
        ...

    def read(self, name: str) -> bytes: ...

    def put(self, name: str, path: Path) -> None:
        """Store a finished file; the source is moved or no longer needed."""
        ...

    def write(self, name: str, content: bytes) -> None: ...

    def sha256(self, name: str) -> str | None:
        """The digest of the stored file; None if reading it again costs too much."""
        ...

    @property
    def drafts(self) -> Path:
        """The folder for unfinished files; call only after the plan is written."""
        ...


@contextmanager
def opened(output: Output) -> Iterator[Results]:
    """
    Raises:
        ConfigInvalid: no folder can be made or written there.
        Refused: the output holds files that no batch wrote; nothing was changed.
        Busy: another batch writes there now. For a bucket this is not known; two batches of the
            same plan write the same files.
        Unavailable: the bucket does not answer.
    """
    if isinstance(output, ObjectPrefix):
        with tempfile.TemporaryDirectory(prefix="batch.") as drafts:
            results = _BucketResults(output, Path(drafts))
            _refuse_others(results.sizes(), output.uri)
            yield results
        return
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_others(os.listdir(output), str(output))
        opened_lock = (output / LOCK).open("a")
    except OSError as error:
        wanted = f"a folder that this user can write into ({error.strerror})"
        raise ConfigInvalid("--output", str(output), wanted) from error
    with opened_lock as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Busy(f"another batch writes into {output} now") from error
        yield _FolderResults(output)


def _refuse_others(names: Iterable[str], where: str) -> None:
    there = {name for name in names if not name.endswith(DRAFT)} - {LOCK}
    if there and PLAN not in there:
        held = f"{where} holds {min(there)}, which no batch wrote"
        raise Refused(f"{held}; name an empty folder for --output")


class _FolderResults:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @cached_property
    def drafts(self) -> Path:
        folder = self._folder / "_drafts"
        folder.mkdir(mode=0o700, exist_ok=True)
        for left in folder.iterdir():  # files of a killed run: we hold the lock
            left.unlink()
        return folder

    def sizes(self) -> dict[str, int]:
        return {
            path.relative_to(self._folder).as_posix(): path.stat().st_size
            for path in self._folder.rglob("*")
            if path.is_file() and not path.name.endswith(DRAFT)
        }

    def read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def put(self, name: str, path: Path) -> None:
        target = self._folder / name
        target.parent.mkdir(mode=0o700, exist_ok=True)
        sync(path)
        os.replace(path, target)
        sync(target.parent)

    def write(self, name: str, content: bytes) -> None:
        draft = self._folder / f".{name.replace('/', '.')}{DRAFT}"
        draft.write_bytes(content)
        self.put(name, draft)

    def sha256(self, name: str) -> str | None:
        with (self._folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


class _BucketResults:
    def __init__(self, bucket: ObjectPrefix, drafts: Path) -> None:
        self._objects, self.drafts = Objects(bucket.uri), drafts

    def sizes(self) -> dict[str, int]:
        return {one.name: one.size_bytes for one in self._objects.list_objects()}

    def read(self, name: str) -> bytes:
        with self._objects.open(name) as file:
            return file.read()

    def put(self, name: str, path: Path) -> None:
        self._objects.put(name, path)
        path.unlink()

    def write(self, name: str, content: bytes) -> None:
        draft = self.drafts / "written"
        draft.write_bytes(content)
        self.put(name, draft)

    def sha256(self, name: str) -> str | None:
        return None
