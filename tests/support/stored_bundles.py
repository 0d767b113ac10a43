"""Bundles with weights beside their graph, stores of them, and machines that fetch from these.

As a script, a machine in a process of its own: `stored_bundles.py FOLDER STORE DIGEST PAUSE_S`.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

import msgspec
import numpy as np

from mlplatform.model.bundle import MODEL_FILE, load_bundle, write_bundle
from mlplatform.model.weights.data_files import DataFile
from mlplatform.rollouts.bundles.cache import BundleCache
from mlplatform.rollouts.bundles.folder_store import FolderStore
from mlplatform.rollouts.bundles.s3_store import S3Store
from mlplatform.rollouts.bundles.store import BundleStore, StoredFile, is_bucket
from support.onnx_bundles import sigmoid_bundle

WEIGHTS: Final = "weights.bin"


def weighty_bundle(bundles: Path, size: int, seed: int = 0) -> str:
    """Write a bundle with so many bytes of weights into a folder of bundles; returns its digest."""
    bundles.mkdir(parents=True, exist_ok=True)
    plain, weights = bundles / f".plain-{seed}", bundles / f".{seed}" / WEIGHTS
    weights.parent.mkdir()
    sigmoid_bundle(plain)
    rng = np.random.default_rng(seed)
    with weights.open("wb") as file:
        for start in range(0, size, 1 << 24):
            file.write(rng.bytes(min(1 << 24, size - start)))
    with weights.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    bundle = load_bundle(plain)
    bundle = msgspec.structs.replace(bundle, files={**bundle.files, WEIGHTS: sha256})
    data = (DataFile(weights, size, sha256, is_own=True),)
    write_bundle(bundle, (plain / MODEL_FILE).read_bytes(), bundles / bundle.digest, data=data)
    return bundle.digest


def store_at(place: str) -> BundleStore:
    return S3Store(place) if is_bucket(place) else FolderStore(Path(place))


class WatchedStore:
    """A `BundleStore` that counts what is read and put.

    Args:
        on_piece: called before each piece that is read.
        on_put: called with the name of each file before it is put.
    """

    def __init__(
        self,
        store: BundleStore,
        on_piece: Callable[[], None] = lambda: None,
        on_put: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._store, self._on_piece, self._on_put = store, on_piece, on_put
        self.read_bytes = 0
        self.put_names: list[str] = []

    @property
    def uri(self) -> str:
        return self._store.uri

    def find(self, bundle: str, name: str) -> StoredFile | None:
        return self._store.find(bundle, name)

    @contextmanager
    def open(self, bundle: str, name: str, start: int = 0) -> Iterator[IO[bytes]]:
        with self._store.open(bundle, name, start) as source:
            yield _CountingFile(self, source)  # type: ignore[misc]

    def put(self, bundle: str, path: Path, sha256: str) -> None:
        self._on_put(path.name)
        self._store.put(bundle, path, sha256)
        self.put_names.append(path.name)

    def bundles(self) -> list[str]:
        return self._store.bundles()

    def before_piece(self) -> None:
        self._on_piece()


class _CountingFile:
    def __init__(self, store: WatchedStore, source: IO[bytes]) -> None:
        self._store, self._source = store, source

    def read(self, size: int = -1) -> Any:
        self._store.before_piece()
        piece = self._source.read(size)
        self._store.read_bytes += len(piece)
        return piece


def main(folder: str, place: str, bundle: str, pause_s: str) -> None:
    """Fetch a bundle in small pieces, with a pause before each; print the bytes that were read."""
    store = WatchedStore(store_at(place), lambda: time.sleep(float(pause_s)))
    BundleCache(Path(folder), store).get(bundle)
    print(store.read_bytes)


if __name__ == "__main__":
    main(*sys.argv[1:])
