"""Delta tables, written by deltalake and, where it does not write a thing, by hand in their log."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import deltalake
import pyarrow as pa

from mlplatform.learning.features.external import delta_log
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import PlainFiles, TableSource
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows, read_version
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.input_files import DELTA_LOG, is_delta

Action = dict[str, Any]
Z85: Final = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"


def appended(folder: Path, rows: pa.Table, by: Sequence[str] = (), **options: Any) -> Path:
    """The folder of a table to which these rows were added in a commit."""
    options = {"mode": "append"} | options
    deltalake.write_deltalake(str(folder), rows, partition_by=list(by) or None, **options)
    return folder


def source_of(
    columns: ExternalColumns, path: Path, parts: ExternalParts, version: int | None = None
) -> TableSource:
    if not is_delta(path):
        return PlainFiles(path)
    place = str(path)
    found = delta_log.snapshot(path, version, place)
    return SnapshotRows(found, path, place, read_version(columns, parts, place, "delta"))


def commit_file(folder: Path, version: int) -> Path:
    return folder / DELTA_LOG / f"{version:020d}.json"


def actions_of(folder: Path, version: int) -> list[Action]:
    return [json.loads(line) for line in commit_file(folder, version).read_text().splitlines()]


def rewrite(folder: Path, version: int, change: Callable[[Action], None]) -> None:
    """Change the actions of a commit in the table's log."""
    actions = actions_of(folder, version)
    for action in actions:
        change(action)
    commit_file(folder, version).write_text("\n".join(map(json.dumps, actions)))


def needs(*features: str) -> Callable[[Action], None]:
    """A change that has the table need these features of a reader."""

    def change(action: Action) -> None:
        if "protocol" in action:  # times without a zone, as those of `external_world`, need one too
            needed = ["timestampNtz", *features]
            action["protocol"] = {
                "minReaderVersion": 3, "minWriterVersion": 7,
                "readerFeatures": needed, "writerFeatures": needed,
            }  # fmt: skip

    return change


def with_deleted(rows: Sequence[int]) -> Callable[[Action], None]:
    """A change that deletes these rows of the file that a commit adds, by a vector in the log.

    Source: the Delta protocol, "Deletion Vector Format"; the roaring bitmap's own, an array.
    """
    vector = _vector(rows)
    return with_vector(
        {
            "storageType": "i", "pathOrInlineDv": _z85(vector),
            "sizeInBytes": len(vector), "cardinality": len(rows),
        }
    )  # fmt: skip


def with_deleted_by(path: Path, rows: Sequence[int], kind: str = "p") -> Callable[[Action], None]:
    """A change that deletes these rows of the file that a commit adds, by a vector in a file that
    is written.

    Source: the Delta protocol, "Deletion Vector File Storage Format".
    """
    vector = _vector(rows)
    checked = struct.pack(">I", len(vector)) + vector + struct.pack(">I", zlib.crc32(vector))
    path.write_bytes(b"\x01" + checked)
    return with_vector(
        {
            "storageType": kind, "pathOrInlineDv": path.as_uri(), "offset": 1,
            "sizeInBytes": len(vector), "cardinality": len(rows),
        }
    )  # fmt: skip


def _vector(rows: Sequence[int]) -> bytes:
    bits = struct.pack("<IIHHI", 12346, 1, 0, len(rows) - 1, 16)
    bits += b"".join(struct.pack("<H", row) for row in rows)
    return struct.pack("<IQI", 1681511377, 1, 0) + bits


def with_vector(vector: Action) -> Callable[[Action], None]:
    """A change that gives the file that a commit adds this vector of deleted rows."""

    def change(action: Action) -> None:
        if "add" in action:
            action["add"]["deletionVector"] = vector

    return change


def _z85(content: bytes) -> str:
    text = ""
    for (value,) in struct.iter_unpack(">I", content + bytes(-len(content) % 4)):
        text += "".join(Z85[value // 85**place % 85] for place in (4, 3, 2, 1, 0))
    return text


def renamed(names: dict[str, str], mode: str = "name") -> Callable[[Action], None]:
    """A change that maps columns: name in the files → name in the table."""

    def change(action: Action) -> None:
        needs("columnMapping")(action)
        if "metaData" in action:
            metadata = action["metaData"]
            schema = json.loads(metadata["schemaString"])
            for number, field in enumerate(schema["fields"], 1):
                field["metadata"] = {
                    "delta.columnMapping.id": number,
                    "delta.columnMapping.physicalName": field["name"],
                }
                field["name"] = names.get(field["name"], field["name"])
            metadata["schemaString"] = json.dumps(schema)
            metadata["configuration"] |= {
                "delta.columnMapping.mode": mode,
                "delta.columnMapping.maxColumnId": str(len(schema["fields"])),
            }

    return change
