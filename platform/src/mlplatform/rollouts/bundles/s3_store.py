"""The bundle store in a bucket, where KServe's storage initializer reads it too."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Final

from mlplatform.rollouts.bundles.store import StoredFile
from mlplatform.runtime.storage.objects import Objects

DIGEST: Final = "sha256"
"""Name under which a file's digest is noted with its object."""


class S3Store:
    """A `BundleStore` of objects.

    Args:
        uri: s3://bucket/prefix; the AWS SDK's variables give credentials and server.
    """

    def __init__(self, uri: str) -> None:
        self._uri, self._objects = uri, Objects(uri)

    @property
    def uri(self) -> str:
        return self._uri

    def find(self, bundle: str, name: str) -> StoredFile | None:
        found = self._objects.find(f"{bundle}/{name}")
        return None if found is None else StoredFile(found[0], found[1].get(DIGEST, ""))

    def open(self, bundle: str, name: str, start: int = 0) -> AbstractContextManager[IO[bytes]]:
        return self._objects.open(f"{bundle}/{name}", start=start)

    def put(self, bundle: str, path: Path, sha256: str) -> None:
        self._objects.put(f"{bundle}/{path.name}", path, {DIGEST: sha256})

    def bundles(self) -> list[str]:
        return self._objects.folders()
