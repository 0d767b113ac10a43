"""The manifest of a backup: every file with its digest, and the state that the files hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from mlplatform.decisions.records.port import ManifestHead
from mlplatform.runtime.canonical import NOT_JSON, digest
from mlplatform.runtime.errors import Corrupt, Refused
from mlplatform.runtime.storage.objects import is_inside

NAME: Final = "manifest.json"
FORMAT: Final = 1


class File(msgspec.Struct, frozen=True):
    """One file of a backup; `name` is its path within the home folder, with slashes."""

    name: str
    bytes: int
    sha256: str


class JournalPosition(msgspec.Struct, frozen=True):
    """The position of the rollouts' journal, and the generation of each model's routes."""

    rows: int
    generations: Mapping[str, int]


class Manifest(msgspec.Struct, frozen=True):
    """Facts about a backup that a restore needs before it begins.

    Args:
        platform: release of the platform that took the backup.
        taken_ms: wall time at which the databases were read.
        home: path of the home folder.
        schemas: database → part → version; for MLflow and Prefect the version is Alembic's
            revision.
        log: head of the decision log: number and digest of the last segment and, for each writer,
            number and chain value of the last record. None if there is no log.
        anchor: the last head of the log that the journal holds; None if it holds none.
        spilled: file → bytes of the records that waited outside of the log.
        journal: position of the journal; None if there is none.
        servers: name of a setting → address of the server that it named, for data on servers.
    """

    format: int
    platform: str
    taken_ms: int
    home: str
    schemas: Mapping[str, Mapping[str, int | str]]
    log: ManifestHead | None
    anchor: ManifestHead | None
    spilled: Mapping[str, int]
    journal: JournalPosition | None
    servers: Mapping[str, str]
    files: Sequence[File]

    @property
    def bytes(self) -> int:
        return sum(file.bytes for file in self.files)


def encode(manifest: Manifest) -> bytes:
    """The stored form: indented JSON that ends with the digest of the rest."""
    fields: dict[str, Any] = msgspec.to_builtins(manifest)
    return msgspec.json.format(
        msgspec.json.encode({**fields, "digest": digest(fields)}, order="sorted"), indent=1
    )


def decode(data: bytes) -> Manifest:
    """Read a manifest from its stored form.

    Raises:
        Corrupt: the manifest does not match its digest, or can't be read.
        Refused: a newer release has written it.
    """
    try:
        fields = msgspec.json.decode(data, type=dict[str, Any])
        recorded = fields.pop("digest", None)
        if recorded != digest(fields):
            raise Corrupt(f"{NAME} was changed: it is not what its digest says")
        if fields.get("format") != FORMAT:
            raise Refused(
                f"{NAME} has format {fields.get('format')}, this release knows {FORMAT}:"
                " a newer release has written it"
            )
        manifest = msgspec.convert(fields, Manifest)
        if encode(manifest) != data:
            raise Corrupt(f"{NAME} was changed: it is not as it was written")
    except NOT_JSON as error:
        raise Corrupt(f"{NAME} can't be read") from error
    for file in manifest.files:
        if not is_inside(file.name):
            raise Corrupt(f"{NAME} names {file.name!r}, which is not a place in a home folder")
    return manifest
