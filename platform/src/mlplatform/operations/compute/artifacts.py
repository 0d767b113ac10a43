"""Storage for inputs and outputs of a cluster's jobs: a bucket, or a folder in its place."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.fs as fs

from mlplatform.runtime.errors import Unavailable


class Artifacts:
    """Folders, each stored under a key.

    Args:
        uri: `s3://bucket[/prefix]`, with credentials as the AWS SDK finds them and, for another
            server, `?scheme=...&endpoint_override=host:port`; or `file:///folder`.
    """

    def __init__(self, uri: str) -> None:
        self._fs, self._root = fs.FileSystem.from_uri(uri)

    def put(self, folder: Path, key: str) -> None:
        """Write every file of a folder below the key, over any that exists.

        Raises:
            Unavailable: the store did not take a file; putting it again is safe.
        """
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            target = f"{self._root}/{key}/{path.relative_to(folder).as_posix()}"
            try:
                self._fs.create_dir(target.rsplit("/", 1)[0])
                with path.open("rb") as source, self._fs.open_output_stream(target) as sink:
                    shutil.copyfileobj(source, sink)
            except OSError as error:
                raise Unavailable(f"{target} could not be stored") from error

    def take(self, key: str, folder: Path) -> None:
        """Copy every file below the key into a folder, which is created.

        Raises:
            Unavailable: the store did not give a file.
        """
        folder.mkdir(mode=0o700, parents=True)
        root = f"{self._root}/{key}"
        try:
            for found in self._fs.get_file_info(fs.FileSelector(root, recursive=True)):
                if found.type == fs.FileType.File:
                    self._take_file(found.path, folder / found.path[len(root) :].lstrip("/"))
        except OSError as error:
            raise Unavailable(f"{root} could not be read") from error

    def _take_file(self, path: str, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        with self._fs.open_input_stream(path) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
