"""The files that an Iceberg table's manifests name, read in a confined process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from mlplatform.learning.features.external import iceberg_work
from mlplatform.learning.features.external.iceberg_work import REPLY_BYTES
from mlplatform.learning.features.input_files import open_files
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.sandbox.limits import ProcessLimits
from mlplatform.runtime.sandbox.process import Sandbox, WorkRefused
from mlplatform.runtime.sandbox.protocol import Frame
from mlplatform.runtime.units import GIB

LIMITS: Final = ProcessLimits(memory_bytes=GIB, cpu_s=600)
REPLY_CPU_S: Final = 60.0
OPEN_FILES: Final = 200
"""Manifests that are open at a time."""
MOST_MANIFESTS: Final = 10_000
"""Most manifests of a snapshot."""
DATA: Final = 0
POSITION_DELETES: Final = 1
EQUALITY_DELETES: Final = 2
EXISTING: Final = 0
"""The status of a file that was there before its manifest."""


class Manifest(msgspec.Struct, frozen=True):
    """A file of a list of manifests.

    Args:
        path: as the list has it.
        length: its size in bytes.
        spec: the number of the partition spec of its files.
        content: 0 for files of rows, 1 for files of deleted rows.
        sequence: the sequence number of the commit that added it; 0 in tables of version 1.
        added, existing: how many of its entries the snapshot has; None if it is not told.
    """

    path: str
    length: int
    spec: int
    content: Literal[0, 1] = 0
    sequence: int = 0
    added: int | None = None
    existing: int | None = None

    @property
    def live(self) -> int | None:
        """How many of its entries are not of removed files; None if it is not told."""
        if self.added is None or self.existing is None:
            return None
        return self.added + self.existing


class Entry(msgspec.Struct, frozen=True):
    """A file of a manifest that the snapshot has.

    Args:
        status: 0 for a file that was there before the manifest, 1 for one that came with it.
        path: as the manifest has it.
        size: bytes.
        partition: id of a field of the partition spec → the value of all rows.
        sequence: of the commit that added the file; None for that of the manifest.
    """

    status: Literal[0, 1]
    path: str
    format: str
    size: int
    partition: Mapping[str, bool | int | str | None]
    content: Literal[0, 1, 2] = 0
    sequence: int | None = None


_Record = TypeVar("_Record", Manifest, Entry)


def manifests(path: Path) -> list[Manifest]:
    """The manifests of a list.

    Raises:
        InputInvalid: the file is damaged, or exceeds the limits; the message names it.
    """
    found = [one for _, one in islice(_records([path], "list", Manifest), MOST_MANIFESTS + 1)]
    if len(found) > MOST_MANIFESTS:
        problem = f"more than {MOST_MANIFESTS} manifests: merge them by rewrite_manifests"
        raise InputInvalid(path.name, None, problem)
    return found


def entries(paths: Sequence[Path]) -> Iterator[tuple[int, Entry]]:
    """The entries of manifests that are not of removed files, each with its manifest's place among
    the paths.

    Raises:
        InputInvalid: as `manifests` does.
    """
    for start in range(0, len(paths), OPEN_FILES):
        for place, entry in _records(paths[start : start + OPEN_FILES], "manifest", Entry):
            yield start + place, entry


def _records(
    paths: Sequence[Path], deed: str, kind: type[_Record]
) -> Iterator[tuple[int, _Record]]:
    decoder = msgspec.json.Decoder(kind)
    with ExitStack() as until:
        sandbox = Sandbox(iceberg_work.prepare, LIMITS, open_files(paths, until))
        until.callback(sandbox.close)
        for place, path in enumerate(paths):
            _ask(sandbox, path, {"deed": deed, "file": place})
            while (frame := _ask(sandbox, path, {"deed": "next"})).arrays:
                try:
                    found = decoder.decode_lines(frame.arrays[0].tobytes())
                except (msgspec.DecodeError, UnicodeDecodeError) as error:
                    problem = f"no readable Avro of an Iceberg table: {error}"
                    raise InputInvalid(path.name, None, problem) from error
                yield from ((place, one) for one in found)


def _ask(sandbox: Sandbox, path: Path, body: dict[str, Any]) -> Frame:
    try:
        return sandbox.ask(body, cpu_s=REPLY_CPU_S, reply_bytes=REPLY_BYTES)
    except WorkRefused as error:
        raise InputInvalid(path.name, None, str(error)) from None
