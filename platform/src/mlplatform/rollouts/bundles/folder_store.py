"""The bundle store in a folder that several machines mount."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mlplatform.rollouts.bundles.store import StoredFile
from mlplatform.runtime.errors import Unavailable
from mlplatform.runtime.storage.files import sync
from mlplatform.runtime.storage.large_files import copy, file_digest
from mlplatform.runtime.storage.readers import open_as


class FolderStore:
    """A `BundleStore` of files.

    Args:
        root: the folder, which an administrator made. A folder that is not mounted must not be
            taken for an empty store.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def uri(self) -> str:
        return str(self._root)

    def find(self, bundle: str, name: str) -> StoredFile | None:
        path = self._root / bundle / name
        with self._translated():
            try:
                return StoredFile(path.stat().st_size, file_digest(path))
            except (FileNotFoundError, NotADirectoryError):
                return None

    @contextmanager
    def open(self, bundle: str, name: str, start: int = 0) -> Iterator[IO[bytes]]:
        with self._translated():
            file = (self._root / bundle / name).open("rb")
            file.seek(start)
        with file:
            yield file

    def put(self, bundle: str, path: Path, sha256: str) -> None:
        folder = self._root / bundle
        draft = folder / f".{path.name}.{secrets.token_hex(4)}"
        with self._translated():
            folder.mkdir(exist_ok=True)
            open_as(self._root, folder)
            try:
                with path.open("rb", buffering=0) as source:
                    copied = copy(source.fileno(), draft, 0o600)
                if copied != sha256:
                    raise Unavailable(f"{path} was changed while it was copied")
                open_as(folder, draft)
                os.replace(draft, folder / path.name)
            finally:
                with suppress(OSError):
                    draft.unlink(missing_ok=True)
            sync(folder)

    def bundles(self) -> list[str]:
        with self._translated():
            return sorted(one.name for one in self._root.iterdir() if one.name[:1] != ".")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            if not self._root.is_dir():
                raise Unavailable(f"bundles in {self._root}: there is no such folder")
            yield
        except OSError as error:
            raise Unavailable(f"bundles in {self._root}: {error.strerror or error}") from error
