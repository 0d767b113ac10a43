"""The metadata file of an Iceberg table: its snapshots, schemas and partition specs."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from mlplatform.learning.features.input_files import ICEBERG_METADATA, is_metadata_file
from mlplatform.runtime.errors import InputInvalid
from mlplatform.runtime.storage.objects import is_inside
from mlplatform.runtime.times import iso_second_text
from mlplatform.runtime.units import MIB

MOST_METADATA_BYTES: Final = 64 * MIB
"""Most bytes of a metadata file, and of what a compressed one unpacks to."""
VERSIONS: Final = (1, 2)
"""Versions of the format that are read; a table of another one is refused."""
SHOWN_SNAPSHOTS: Final = 5
NAME_MAPPING: Final = "schema.name-mapping.default"
_NUMBER: Final = re.compile(r"v?(\d+)[-.].*")
_GZIP: Final = 16 + zlib.MAX_WBITS
_ARROW: Final = {
    "boolean": "bool", "int": "int32", "long": "int64", "float": "float", "double": "double",
    "string": "string", "timestamp": "timestamp[us]", "timestamptz": "timestamp[us, tz=UTC]",
    "date": "date32[day]",
}  # fmt: skip
_NEW_TYPES: Final = (
    *("unknown", "variant", "geometry", "geography", "timestamp_ns", "timestamptz_ns"),
)


class Column(msgspec.Struct, frozen=True, rename="kebab"):
    """A column of a schema; its type is a text, or an object for one of columns within columns."""

    id: int
    name: str
    type: Any
    initial_default: Any = None

    @property
    def arrow(self) -> str:
        """The type in Arrow's terms; one that no view takes by Iceberg's name."""
        if isinstance(self.type, str):
            return _ARROW.get(self.type, self.type)
        kind = self.type.get("type") if isinstance(self.type, dict) else None
        return str(kind or "a type without a name")


class Schema(msgspec.Struct, frozen=True, rename="kebab"):
    fields: tuple[Column, ...]
    schema_id: int = 0


class PartitionField(msgspec.Struct, frozen=True, rename="kebab"):
    """A field of a partition spec; version 1 may give it no id of its own."""

    transform: str
    source_id: int = -1
    field_id: int = -1
    source_ids: tuple[int, ...] = ()


class PartitionSpec(msgspec.Struct, frozen=True, rename="kebab"):
    spec_id: int
    fields: tuple[PartitionField, ...]


class Snapshot(msgspec.Struct, frozen=True, rename="kebab"):
    snapshot_id: int
    timestamp_ms: int
    manifest_list: str | None = None
    schema_id: int | None = None


class Metadata(msgspec.Struct, frozen=True, rename="kebab"):
    """A metadata file; version 1 may have one schema and one spec, each without a list of them."""

    format_version: int
    location: str
    table_uuid: str = ""
    schema: Schema | None = None
    schemas: tuple[Schema, ...] = ()
    current_schema_id: int = 0
    partition_spec: tuple[PartitionField, ...] = ()
    partition_specs: tuple[PartitionSpec, ...] = ()
    current_snapshot_id: int | None = None
    snapshots: tuple[Snapshot, ...] = ()
    properties: Mapping[str, str] = {}
    next_row_id: int | None = None
    encryption_keys: tuple[Any, ...] = ()

    @property
    def table(self) -> str:
        """The table's own id; its place, where version 1 gives it none."""
        return self.table_uuid or self.location


def newest(names: Iterable[str], source: str) -> str:
    """The newest metadata file, by the number in its name.

    Args:
        names: of files in the table's folder of metadata.
        source: the table's place, for messages.

    Raises:
        InputInvalid: several files have the highest number, or none has one.
    """
    found = dict[int, list[str]]()
    for name in names:
        if is_metadata_file(name) and "/" not in name:
            number = _NUMBER.fullmatch(name)
            found.setdefault(int(number[1]) if number else -1, []).append(name)
    last = sorted(found[max(found)])
    if len(last) > 1:
        problem = (
            f"{len(last)} files in {ICEBERG_METADATA} may be the newest ({last[0]}, {last[1]}): a"
            " commit failed, or two catalogs write the table; give the file that its catalog names,"
            f" {source}/{ICEBERG_METADATA}/NAME"
        )
        raise InputInvalid(source, None, problem)
    return last[0]


def metadata(path: Path) -> Metadata:
    """
    Raises:
        InputInvalid: the file is damaged or too large, or it says that the table needs what is not
            read here; the message names the file.
    """
    size = path.stat().st_size
    if size > MOST_METADATA_BYTES:
        problem = (
            f"{size} bytes; the limit is {MOST_METADATA_BYTES}: have the table's engine forget old"
            " snapshots (expire_snapshots)"
        )
        raise InputInvalid(path.name, None, problem)
    content = path.read_bytes()
    if ".gz" in path.name:
        content = _unpacked(content, path.name)
    try:
        found = msgspec.json.decode(content, type=Metadata)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        problem = f"not the metadata of an Iceberg table: {error}; give an earlier metadata file"
        raise InputInvalid(path.name, None, problem) from error
    if found.format_version not in VERSIONS:
        problem = (
            f"its format-version is {found.format_version}{_features(found)}, which is not read"
            f" here; wanted: {' or '.join(map(str, VERSIONS))}. Export it as Parquet, or copy it"
            " into a table of version 2"
        )
        raise InputInvalid(path.name, None, problem)
    return found


def _unpacked(content: bytes, name: str) -> bytes:
    unpacking = zlib.decompressobj(_GZIP)
    try:
        found = unpacking.decompress(content, MOST_METADATA_BYTES)
    except zlib.error as error:
        raise InputInvalid(name, None, "no readable gzip; give an earlier metadata file") from error
    if not unpacking.eof:
        problem = (
            f"it is cut, or unpacks to more than {MOST_METADATA_BYTES} bytes; give an earlier"
            " metadata file"
        )
        raise InputInvalid(name, None, problem)
    return found


def _features(found: Metadata) -> str:
    """The features of a later version that a metadata file shows, in brackets; deletion vectors are
    shown by manifests alone."""
    columns = [column for schema in found.schemas for column in schema.fields]
    fields = [field for spec in found.partition_specs for field in spec.fields]
    types = sorted({one for c in columns for one in _NEW_TYPES if c.arrow.split("(")[0] == one})
    named = {
        "row lineage": found.next_row_id is not None,
        "encryption": bool(found.encryption_keys),
        "default values": any(column.initial_default is not None for column in columns),
        "transforms of several columns": any(field.source_ids for field in fields),
        f"the type {', '.join(types)}": bool(types),
    }
    shown = [name for name, is_there in named.items() if is_there]
    return f" ({', '.join(shown)})" if shown else ""


def chosen(found: Metadata, version: int | None, source: str) -> Snapshot | None:
    """The snapshot of an id, or the current one; None if the table has none yet.

    Raises:
        InputInvalid: there is no such snapshot.
    """
    current = found.current_snapshot_id
    wanted = version if version is not None else current
    if wanted is None or (version is None and wanted == -1):
        return None
    for one in found.snapshots:
        if one.snapshot_id == wanted:
            return one
    latest = sorted(found.snapshots, key=lambda one: one.timestamp_ms)[-SHOWN_SNAPSHOTS:]
    named = ", ".join(f"{one.snapshot_id} of {_moment(one)}" for one in reversed(latest))
    problem = (
        f"it has no snapshot {wanted}; the latest of {len(found.snapshots)} are: {named or 'none'};"
        " give one that is there by --version, or none for the current one"
    )
    raise InputInvalid(source, None, problem)


def _moment(one: Snapshot) -> str:
    try:
        return iso_second_text(one.timestamp_ms)
    except (OverflowError, ValueError, OSError):
        return f"{one.timestamp_ms} ms"


def columns_at(found: Metadata, one: Snapshot | None, source: str) -> Mapping[str, Column]:
    """Column → what it is, in a snapshot's own schema; None for the table's current one.

    Raises:
        InputInvalid: the metadata lacks the schema.
    """
    number = found.current_schema_id if one is None or one.schema_id is None else one.schema_id
    for schema in found.schemas:
        if schema.schema_id == number:
            return {column.name: column for column in schema.fields}
    if found.schema is None or found.schemas:
        problem = f"its metadata lacks schema {number}; give an earlier metadata file"
        raise InputInvalid(source, None, problem)
    return {column.name: column for column in found.schema.fields}


def specs(found: Metadata) -> Mapping[int, Sequence[PartitionField]]:
    """Number of each partition spec → its fields."""
    if found.partition_specs:
        return {spec.spec_id: spec.fields for spec in found.partition_specs}
    numbered = enumerate(found.partition_spec, 1000)
    fields = [
        msgspec.structs.replace(one, field_id=number if one.field_id < 0 else one.field_id)
        for number, one in numbered
    ]
    return {0: fields}


class _ColumnNames(msgspec.Struct, rename="kebab"):
    names: tuple[str, ...]
    field_id: int | None = None


def names_mapped(found: Metadata, source: str) -> Mapping[str, int] | None:
    """Column of a file without field ids → id; None if the table does not say it.

    Raises:
        InputInvalid: the table's property is damaged.

    Source: the Iceberg specification, "Name Mapping Serialization".
    """
    text = found.properties.get(NAME_MAPPING)
    if text is None:
        return None
    try:
        mapped = msgspec.json.decode(text, type=list[_ColumnNames])
    except msgspec.DecodeError as error:
        problem = f"its property {NAME_MAPPING} does not list names with ids: {error}"
        raise InputInvalid(source, None, problem) from error
    return {name: one.field_id for one in mapped if one.field_id is not None for name in one.names}


def path_in(uri: str, roots: Sequence[str]) -> str | None:
    """A file's path below the table's folder; None if it lies elsewhere.

    Args:
        uri: as metadata and manifests have it; no part of it is encoded.
        roots: places of the folder, as `plain_place` gives them.
    """
    place = plain_place(uri)
    for root in roots:
        name = place.removeprefix(f"{root}/")
        if name != place and is_inside(name):
            return name
    return None


def plain_place(uri: str) -> str:
    """A place, as one text for all ways in which engines write it: s3a and s3n are s3, and a local
    path has no scheme."""
    found = re.fullmatch(r"([A-Za-z][A-Za-z0-9+.-]*):(/.*)", uri, re.DOTALL)
    if found is None:
        return uri.rstrip("/")
    scheme, rest = found[1].lower(), found[2]
    if scheme == "file":
        return f"/{rest.lstrip('/')}".rstrip("/")
    scheme = "s3" if scheme in ("s3a", "s3n") else scheme
    return f"{scheme}:{rest}".rstrip("/")
