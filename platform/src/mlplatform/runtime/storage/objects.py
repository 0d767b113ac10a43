"""Objects of an S3 bucket, as files below a prefix."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final, NamedTuple
from urllib.parse import urlsplit

from mlplatform.runtime.errors import Corrupt, ServerUnavailable

NO_SUCH: Final = 404
CONNECT_S: Final = 5.0
READ_S: Final = 20.0
"""Seconds for which a store may be silent before the SDK tries again; its own default, a minute of
each of five tries, has people wait for a store that is gone."""


class StoredObject(NamedTuple):
    """One object; its tag changes with its content."""

    name: str
    tag: str
    size_bytes: int


class Objects:
    """The objects below a prefix of a bucket, by the rest of their keys.

    Args:
        uri: s3://bucket/prefix; the AWS SDK's variables give credentials and server.
    """

    def __init__(self, uri: str) -> None:
        import boto3  # only where there is an object store
        from botocore.config import Config

        parts = urlsplit(uri)
        self._uri, self._bucket = uri, parts.netloc
        self._prefix = f"{parts.path.strip('/')}/" if parts.path.strip("/") else ""
        self._s3: Any = boto3.client(
            "s3", config=Config(connect_timeout=CONNECT_S, read_timeout=READ_S)
        )

    def list_objects(self) -> list[StoredObject]:
        """Every object, sorted by name."""
        with self._translated():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix
            )
            found = sorted(
                StoredObject(one["Key"].removeprefix(self._prefix), one["ETag"], one["Size"])
                for page in pages
                for one in page.get("Contents", ())
                if not one["Key"].endswith("/")
            )
        for name, _, _ in found:
            if not is_inside(name):
                raise Corrupt(f"{self._uri} has an object {name!r}, which has no place in a folder")
        return found

    def names(self) -> list[str]:
        """The names of all objects, sorted."""
        return [one.name for one in self.list_objects()]

    def find(self, name: str) -> tuple[int, dict[str, str]] | None:
        """The size of an object in bytes and what was noted with it; None if there is none."""
        from botocore.exceptions import ClientError  # only where there is an object store

        with self._translated():
            try:
                found = self._s3.head_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == NO_SUCH:
                    return None
                raise
        return found["ContentLength"], found["Metadata"]

    def folders(self) -> list[str]:
        """The first parts of names that have more than one, sorted."""
        with self._translated():
            pages = self._s3.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix, Delimiter="/"
            )
            found = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]
        return sorted(one.removeprefix(self._prefix).rstrip("/") for one in found)

    @contextmanager
    def open(self, name: str, tag: str | None = None, start: int = 0) -> Iterator[IO[bytes]]:
        """The content of an object.

        Args:
            tag: the tag that the object must have, or the call fails; None: any.
            start: the first byte to read, before the object's end.
        """
        condition = {} if tag is None else {"IfMatch": tag}
        if start:
            condition["Range"] = f"bytes={start}-"
        with self._translated():
            found = self._s3.get_object(Bucket=self._bucket, Key=self._prefix + name, **condition)
            with closing(found["Body"]) as body:
                yield body

    def put(self, name: str, path: Path, noted: Mapping[str, str] | None = None) -> None:
        """Create an object with a file's content, whole or not at all.

        Args:
            noted: what `find` gives with the object; names in small letters.
        """
        more = {"Metadata": dict(noted)} if noted else None
        with self._translated():
            self._s3.upload_file(str(path), self._bucket, self._prefix + name, ExtraArgs=more)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        from boto3.exceptions import S3UploadFailedError  # only where there is an object store
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError, S3UploadFailedError) as error:
            way = "look at the store, and at the AWS SDK's variables that give its address and keys"
            problem = f"the objects below {self._uri} can't be reached"
            raise ServerUnavailable(problem, way) from error


def is_inside(name: str) -> bool:
    """Whether a file's name leads only to places below the folder that it is joined to."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
