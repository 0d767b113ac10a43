"""Fetching of one bundle into a draft folder: streamed, digested on the way, continued where an
earlier fetch was cut off."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Final

from mlplatform.model.bundle import BUNDLE_FILE, BundleCorrupt
from mlplatform.model.weights.data_files import (
    data_names,
    file_digests,
    link_file,
    name_problem,
)
from mlplatform.rollouts.bundles.store import WAY_OUT, BundleStore, Progress
from mlplatform.runtime.errors import NotFound, Unavailable
from mlplatform.runtime.storage.large_files import PIECE_BYTES, file_digest

TRIES: Final = 5
"""Attempts in a row that may end without a byte."""
PAUSE_S: Final = 0.5

log = logging.getLogger(__name__)


class BundleFetch:
    """The fetch of a bundle into a draft folder, which is kept if it is cut off.

    Args:
        beside: folder of bundles; files that one of them has already are not fetched.
        check_space: called before files are fetched, with their sizes and the bytes of them that
            are here; it raises if there is no room.
    """

    def __init__(
        self,
        store: BundleStore,
        bundle: str,
        draft: Path,
        beside: Path,
        check_space: Callable[[Mapping[str, int], Mapping[str, int]], None],
        progress: Progress,
    ) -> None:
        self._store, self._bundle = store, bundle
        self._draft, self._beside = draft, beside
        self._check_space, self._progress = check_space, progress
        self._done = self._total = 0

    def run(self) -> None:
        """Fetch every file that is missing.

        Raises:
            NotFound: the store lacks the bundle or a file of it; the message names it.
            BundleCorrupt: a file of the store was changed; the message names it and both digests.
            Unavailable: the store does not answer, or there is no room.
        """
        files = self._description()
        missing = {
            name: sha256
            for name, sha256 in files.items()
            if not self._is_here(name, sha256, is_data=name in data_names(files))
        }
        sizes = {name: self._size(name) for name in missing}
        here = {name: size for name in missing if (size := _bytes(self._part(name)))}
        self._check_space(sizes, here)
        self._done, self._total = 0, sum(sizes.values())
        for name, sha256 in sorted(missing.items()):
            self._file(name, sha256, sizes[name])

    def _description(self) -> dict[str, str]:
        """The digests of the bundle's files, by its `bundle.json`."""
        path = self._draft / BUNDLE_FILE
        if not (path.is_file() and file_digest(path) == self._bundle):
            size = self._size(BUNDLE_FILE)
            self._check_space({BUNDLE_FILE: size}, {})
            self._file(BUNDLE_FILE, self._bundle, size)
        files = file_digests(self._draft)
        wrong = [name for name in data_names(files) if name_problem(name)]
        if not files or wrong:
            problem = f"names files {wrong}" if wrong else "can't be read by this release"
            raise BundleCorrupt(f"{self._place(BUNDLE_FILE)} {problem}")
        return files

    def _is_here(self, name: str, sha256: str, *, is_data: bool) -> bool:
        path = self._draft / name
        if path.is_file():
            if file_digest(path) == sha256:
                return True
            path.unlink()
        return is_data and link_file(name, sha256, self._draft, self._beside)

    def _size(self, name: str) -> int:
        found = self._store.find(self._bundle, name)
        if found is None:
            raise NotFound(f"{self._place(name)} is not in the bundle store: {WAY_OUT}")
        return found.size

    def _file(self, name: str, sha256: str, size: int) -> None:
        """Fetch a file. One whose first part was here is fetched anew if its digest is wrong: a
        crash may have left anything there."""
        part = self._part(name)
        while True:
            begun = _bytes(part)
            if begun > size:
                part.unlink()
                begun = 0
            actual = self._stream(name, part, size)
            if actual == sha256:
                break
            part.unlink(missing_ok=True)
            self._done -= size
            if not begun:
                raise BundleCorrupt(
                    f"{self._place(name)} was changed: its SHA-256 is {actual}, not {sha256};"
                    f" {WAY_OUT}"
                )
        os.replace(part, self._draft / name)

    def _stream(self, name: str, part: Path, size: int) -> str:
        """Add what is missing to a file's first part; returns the digest of the whole."""
        hashed, have, left = hashlib.sha256(), 0, TRIES
        with part.open("a+b", buffering=0) as file:
            file.seek(0)
            while piece := file.read(PIECE_BYTES):
                hashed.update(piece)
                have += len(piece)
            self._tell(have)
            while have < size:
                try:
                    got = self._pieces(name, file, hashed, have, size)
                    problem: Exception | None = None
                except Unavailable as error:
                    got, problem = _bytes(part) - have, error
                have, left = have + got, TRIES if got else left - 1
                if problem is not None:
                    if not left:
                        raise problem
                    log.warning("%s is read on from byte %d: %s", self._place(name), have, problem)
                    time.sleep(PAUSE_S)
                elif have < size and not left:
                    raise Unavailable(f"{self._place(name)} ends at byte {have} of {size}")
            os.fsync(file.fileno())
        return hashed.hexdigest()

    def _pieces(self, name: str, file: IO[bytes], hashed: Any, have: int, size: int) -> int:
        """Copy pieces up to the end of what the store gives; returns the bytes copied."""
        got = 0
        with self._store.open(self._bundle, name, have) as source:
            while piece := source.read(min(PIECE_BYTES, size - have - got)):
                view = memoryview(piece)
                while view:
                    view = view[file.write(view) :]
                hashed.update(piece)
                got += len(piece)
                self._tell(len(piece))
        return got

    def _tell(self, count: int) -> None:
        self._done += count
        if self._total:
            self._progress(self._done, self._total)

    def _part(self, name: str) -> Path:
        return self._draft / f".{name}.part"

    def _place(self, name: str) -> str:
        return f"{self._store.uri.rstrip('/')}/{self._bundle}/{name}"


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
