"""The port of the bundle store, and how a bundle gets into it.

A bundle lies below its digest, under the names of its files. `bundle.json` is put last: a bundle is
there once its `bundle.json` is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final, NamedTuple, Protocol

from mlplatform.model.bundle import BUNDLE_FILE, BundleCorrupt, load_bundle
from mlplatform.model.weights.data_files import names_of
from mlplatform.runtime.canonical import digest
from mlplatform.runtime.storage.large_files import PIECE_BYTES

WAY_OUT: Final = "`mlplatform models store MODEL --check` puts it there again"

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the bytes done so far and the bytes of all."""


class StoredFile(NamedTuple):
    """A file of the store; its digest is that of the content that was put."""

    size: int
    sha256: str


class BundleStore(Protocol):
    """Files of bundles, by digest of the bundle and name of the file. Every method may be repeated.

    Raises:
        Unavailable: the store did not answer; from any method.
    """

    @property
    def uri(self) -> str:
        """The place of the store, for people."""
        ...

    def find(self, bundle: str, name: str) -> StoredFile | None:
        """The file under a name; None if there is none."""
        ...

    def open(self, bundle: str, name: str, start: int = 0) -> AbstractContextManager[IO[bytes]]:
        """The content of a file from a byte on that it has."""
        ...

    def put(self, bundle: str, path: Path, sha256: str) -> None:
        """Store a file under its own name, whole or not at all, in place of what is there."""
        ...

    def bundles(self) -> list[str]:
        """Digests of all bundles, sorted; of some only a part may be there."""
        ...


def is_bucket(place: str) -> bool:
    """Whether a place of bundles is a bucket, and not a folder."""
    return place.startswith("s3://")


def quiet(done: int, total: int) -> None:
    """A `Progress` that tells nobody."""


def is_complete(store: BundleStore, bundle: str) -> bool:
    """Whether the store has the whole of a bundle, as far as it was put there."""
    found = store.find(bundle, BUNDLE_FILE)
    return found is not None and found.sha256 == bundle


def stored_files(store: BundleStore, bundle: str) -> list[str]:
    """Names of the files of a complete bundle, by its `bundle.json`, which comes last.

    Raises:
        BundleCorrupt: its `bundle.json` was changed.
    """
    with store.open(bundle, BUNDLE_FILE) as source:
        text = source.read()
    if (found := digest(text)) != bundle:
        place = f"{store.uri.rstrip('/')}/{bundle}/{BUNDLE_FILE}"
        raise BundleCorrupt(f"{place} was changed: its SHA-256 is {found}, not {bundle}; {WAY_OUT}")
    return [*sorted(names_of(text)), BUNDLE_FILE]


def put_bundle(
    store: BundleStore,
    folder: Path,
    bundle: str,
    progress: Progress = quiet,
    *,
    reads: bool = False,
) -> list[str]:
    """Put a bundle into the store. Returns the names of the files that were put; none if all were
    there.

    A call that was cut off is continued by the next, with the file at which it was.

    Args:
        reads: whether what is there is read: a file with other content is replaced. If not, a
            bundle that is complete is left alone.

    Raises:
        BundleCorrupt: the folder is not that bundle.
        Unavailable: the store did not take a file.
    """
    if not reads and is_complete(store, bundle):
        return []
    files = {**load_bundle(folder, bundle).files, BUNDLE_FILE: bundle}
    sizes = {name: (folder / name).stat().st_size for name in files}
    total, done, put = sum(sizes.values()), 0, list[str]()
    for name in [*sorted(files.keys() - {BUNDLE_FILE}), BUNDLE_FILE]:
        wanted = StoredFile(sizes[name], files[name])
        found = store.find(bundle, name)
        if found != wanted or (reads and not is_intact(store, bundle, name, wanted)):
            store.put(bundle, folder / name, wanted.sha256)
            put.append(name)
        done += wanted.size
        progress(done, total)
    if put:
        log.info("bundle %s was put into %s: %s", bundle, store.uri, ", ".join(put))
    return put


def is_intact(store: BundleStore, bundle: str, name: str, wanted: StoredFile) -> bool:
    """Whether the bytes under a name, all of which are read, are those that were put."""
    hashed, size = hashlib.sha256(), 0
    if wanted.size:
        with store.open(bundle, name) as source:
            while piece := source.read(PIECE_BYTES):
                hashed.update(piece)
                size += len(piece)
    return StoredFile(size, hashed.hexdigest()) == wanted
