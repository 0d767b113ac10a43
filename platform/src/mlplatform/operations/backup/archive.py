"""Forms of a backup: a folder, or one tar file. Either appears whole or not at all."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

from mlplatform.operations.backup.manifest import NAME, File
from mlplatform.runtime.errors import Corrupt, NotFound, Refused, Unavailable
from mlplatform.runtime.storage.files import sync
from mlplatform.runtime.units import MIB

TAR: Final = ".tar"
CHUNK_BYTES: Final = MIB
Progress = Callable[[str, int], None]
"""Callback with a file's name and the number of bytes copied since the last call."""


class ArchiveWriter(Protocol):
    """A backup that is being written."""

    def add(self, name: str, source: IO[bytes], progress: Progress) -> File:
        """Add a file with the content of `source` from its position to its end."""
        ...

    def write(self, name: str, make: Callable[[Path], None]) -> File:
        """Put in a file that is made under a path, which is given."""
        ...


class ArchiveReader(Protocol):
    """A backup that is being read."""

    def names(self) -> set[str]:
        """Names of all files, including the manifest."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file of the backup for reading."""
        ...


@contextmanager
def writing(target: Path) -> Iterator[ArchiveWriter]:
    """Write a backup: it appears under its name, synced to disk, when the block ends without an
    error, and else not at all.

    Args:
        target: a path that ends in `.tar` for one file; otherwise a folder.

    Raises:
        Refused: the path exists.
        Unavailable: the disk is full or can't be written.
    """
    if target.exists() or target.is_symlink():
        raise Refused(f"{target} is there already, and no backup is overwritten")
    if not target.parent.is_dir():
        raise NotFound(f"the folder {target.parent} is not there")
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            with _written(draft, is_tar=target.suffix == TAR) as writer:
                yield writer
            _appear(draft / TAR if target.suffix == TAR else draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    except OSError as error:
        raise Unavailable(f"no backup at {target}: {error.strerror or error}") from error


@contextmanager
def reading(path: Path) -> Iterator[ArchiveReader]:
    """Open the backup at a path, a folder or a tar file, for reading.

    Raises:
        NotFound: there is no backup.
        Corrupt: the file is not a tar file.
    """
    if path.is_dir():
        yield _FolderReader(path)
    elif path.is_file():
        try:
            tar = tarfile.open(path, "r:")  # noqa: SIM115
        except tarfile.TarError as error:
            raise Corrupt(f"{path} is not a backup: {error}") from error
        with tar:
            yield _TarReader(tar)
    else:
        raise NotFound(
            f"there is no backup at {path}; wanted: a folder or .tar that `mlplatform backup` wrote"
        )


def copy(source: IO[bytes], target: IO[bytes], progress: Callable[[int], None]) -> tuple[int, str]:
    """Copy to the end; how many bytes that was, and their SHA-256."""
    sha256, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK_BYTES):
        target.write(chunk)
        sha256.update(chunk)
        size += len(chunk)
        progress(len(chunk))
    return size, sha256.hexdigest()


def new_file(path: Path) -> IO[bytes]:
    """Create a file with mode 0600 and open it for writing; fails if it exists."""
    private_folder(path.parent)
    return os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb")


def private_folder(path: Path) -> None:
    """Create a folder and its missing parents with mode 0700."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)


def sync_folders(root: Path) -> None:
    """Sync the entries of a folder and of all folders below it to disk."""
    for folder, _, _ in os.walk(root):
        sync(Path(folder))


@contextmanager
def _written(draft: Path, *, is_tar: bool) -> Iterator[ArchiveWriter]:
    if not is_tar:
        yield _FolderWriter(draft)
        return
    with new_file(draft / TAR) as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
            yield _TarWriter(tar, draft)
        file.flush()
        os.fsync(file.fileno())


def _appear(draft: Path, target: Path) -> None:
    if draft.is_dir():
        sync_folders(draft)
    if target.exists():
        raise Refused(f"{target} was created during the backup; no backup is overwritten")
    os.rename(draft, target)
    sync(target.parent)


class _FolderWriter:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, name: str, source: IO[bytes], progress: Progress) -> File:
        with new_file(self._folder / name) as file:
            size, sha256 = copy(source, file, lambda count: progress(name, count))
            file.flush()
            os.fsync(file.fileno())
        return File(name, size, sha256)

    def write(self, name: str, make: Callable[[Path], None]) -> File:
        path = self._folder / name
        new_file(path).close()
        make(path)
        sync(path)
        with path.open("rb") as file:
            return File(name, path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())


class _TarWriter:
    def __init__(self, tar: tarfile.TarFile, folder: Path) -> None:
        self._tar = tar
        self._folder = folder

    def add(self, name: str, source: IO[bytes], progress: Progress) -> File:
        # Through a file: a tar needs each size first, and the source may still grow.
        def make(path: Path) -> None:
            with path.open("wb") as file:
                copy(source, file, lambda count: progress(name, count))

        return self.write(name, make)

    def write(self, name: str, make: Callable[[Path], None]) -> File:
        path = self._folder / "made"
        new_file(path).close()
        make(path)
        info = tarfile.TarInfo(name)
        info.size, info.mode = path.stat().st_size, 0o600
        with path.open("rb") as file:
            read = _HashingReader(file)
            self._tar.addfile(info, read)
        path.unlink()
        return File(name, info.size, read.sha256.hexdigest())


class _HashingReader:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.sha256.update(data)
        return data


class _FolderReader:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> set[str]:
        return {
            path.relative_to(self._folder).as_posix()
            for path in self._folder.rglob("*")
            if path.is_symlink() or not path.is_dir()
        }

    def open(self, name: str) -> IO[bytes]:
        return (self._folder / name).open("rb")


class _TarReader:
    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar

    def names(self) -> set[str]:
        try:
            return set(self._tar.getnames())
        except tarfile.TarError as error:
            raise Corrupt(f"the tar file is damaged: {error}") from error

    def open(self, name: str) -> IO[bytes]:
        found = self._tar.extractfile(name)
        if found is None:
            raise Corrupt(f"{NAME} lists no file {name}")
        return found
