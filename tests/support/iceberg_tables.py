"""Iceberg tables, written by pyiceberg and, where it does not write a thing, by hand in their
metadata and manifests."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.memory import InMemoryCatalog
from pyiceberg.table import StaticTable, Table
from pyiceberg.transforms import parse_transform
from tests.support import delta_tables

from mlplatform.learning.features.external import iceberg_table
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.files import TableSource
from mlplatform.learning.features.external.snapshot_rows import SnapshotRows, read_version
from mlplatform.learning.features.external_parts import ExternalParts
from mlplatform.learning.features.input_files import ICEBERG_METADATA, is_iceberg

Record = dict[str, Any]
PATH_ID, POSITION_ID = 2_147_483_546, 2_147_483_545
"""Ids of the columns of a file of deletes by position, which Iceberg reserves for them."""


@functools.cache
def catalog() -> Catalog:
    """The catalog of this process's tests, without a file."""
    found = InMemoryCatalog("tests", warehouse="file:///nowhere")
    found.create_namespace("bank")
    return found


def _identifier(folder: Path) -> str:
    return f"bank.t{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


def loaded(folder: Path) -> Table:
    """The table of a folder, as pyiceberg knows it."""
    return catalog().load_table(_identifier(folder))


def created(
    folder: Path, schema: pa.Schema, by: Sequence[tuple[str, str]] = (), **properties: str
) -> Table:
    """A table in a folder.

    Args:
        by: column and transform of each field of its partition spec.
        properties: `format_version` and others, with underscores for what Iceberg writes as a dash.
    """
    made = catalog().create_table(
        _identifier(folder), schema, location=f"file://{folder}",
        properties={name.replace("_", "-"): value for name, value in properties.items()},
    )  # fmt: skip
    if by:
        with made.update_spec() as spec:
            for place, (name, how) in enumerate(by):
                spec.add_field(name, parse_transform(how), f"{name}_{place}")
    return loaded(folder)


def appended(folder: Path, rows: pa.Table, by: Sequence[tuple[str, str]] = ()) -> Path:
    """The folder of a table to which these rows were added in a commit."""
    exists = catalog().table_exists(_identifier(folder))
    (loaded(folder) if exists else created(folder, rows.schema, by)).append(rows)
    return folder


def source_of(
    columns: ExternalColumns,
    path: Path,
    parts: ExternalParts,
    version: int | None = None,
    name: str | None = None,
) -> TableSource:
    """A table of any format.

    Args:
        name: of an Iceberg table's metadata file; None for the newest.
    """
    if not is_iceberg(path):
        return delta_tables.source_of(columns, path, parts, version)
    place, names = str(path), [one.name for one in (path / ICEBERG_METADATA).iterdir()]
    found = iceberg_table.snapshot(path, names, version, place, fetch=lambda _: None, name=name)
    return SnapshotRows(found, path, place, read_version(columns, parts, place, "iceberg"))


def metadata_files(folder: Path) -> list[Path]:
    """The table's metadata files, oldest first."""
    return sorted((folder / ICEBERG_METADATA).glob("*.metadata.json"))


def metadata_of(folder: Path) -> Record:
    found: Record = json.loads(metadata_files(folder)[-1].read_text())
    return found


def with_metadata(folder: Path, change: Callable[[Record], object]) -> Path:
    """A newer metadata file of the table, changed by hand."""
    last = metadata_files(folder)[-1]
    found = json.loads(last.read_text())
    change(found)
    number = int(last.name.split("-")[0]) + 1
    path = last.with_name(f"{number:05d}-{uuid.uuid4()}.metadata.json")
    path.write_text(json.dumps(found))
    return path


def read_by_pyiceberg(folder: Path) -> pa.Table:
    """The rows of the newest metadata file's current snapshot."""
    return StaticTable.from_metadata(f"file://{metadata_files(folder)[-1]}").scan().to_arrow()


def data_files(folder: Path) -> list[Path]:
    """The files of the current snapshot that pyiceberg reads, oldest first."""
    return [local(task.file.file_path) for task in loaded(folder).scan().plan_files()]


def local(uri: str) -> Path:
    return Path(uri.removeprefix("file://"))


def current_list(folder: Path) -> Path:
    """The list of manifests of the current snapshot."""
    found = metadata_of(folder)
    (one,) = (s for s in found["snapshots"] if s["snapshot-id"] == found["current-snapshot-id"])
    return local(one["manifest-list"])


def records_of(path: Path) -> list[Record]:
    with path.open("rb") as file:
        return list(fastavro.reader(file))


def manifests_of(folder: Path) -> list[Path]:
    return [local(one["manifest_path"]) for one in records_of(current_list(folder))]


def rewrite_avro(
    path: Path, change: Callable[[Record], object], target: Path | None = None, **options: Any
) -> None:
    """Change each record of a manifest or list of them.

    Args:
        target: where to write it; None for its own place.
    """
    with path.open("rb") as file:
        reader = fastavro.reader(file)
        schema, found = reader.writer_schema, list(reader)
        told = {k: v for k, v in reader.metadata.items() if not k.startswith("avro.")}
    for record in found:
        change(record)
    options = {"codec": "deflate", "metadata": told} | options
    with (target or path).open("wb") as file:
        fastavro.writer(file, schema, found, **options)


def rewrite_manifest(folder: Path, change: Callable[[Record], object], **options: Any) -> Path:
    """Change the entries of the current snapshot's first manifest, and its length in the list."""
    path = manifests_of(folder)[0]
    rewrite_avro(path, change, **options)

    def sized(record: Record) -> None:
        if record["manifest_path"].endswith(path.name):
            record["manifest_length"] = path.stat().st_size

    rewrite_avro(current_list(folder), sized)
    return path


def with_deletes(
    folder: Path,
    content: int,
    rows: pa.Table,
    *,
    sequence: int | None = None,
    of: Callable[[Record], bool] = lambda _: True,
) -> None:
    """A newer snapshot with a file of deletes, which pyiceberg reads and does not write.

    Args:
        content: 1 for deletes by position, 2 for those by values.
        sequence: of the file; None for that of the snapshot.
        of: which entry's partition the deletes are of.
    """
    path = folder / "data" / f"{uuid.uuid4()}-deletes.parquet"
    pq.write_table(rows, path)
    found = metadata_of(folder)
    number = found["last-sequence-number"] + 1
    listed, (manifest, *_) = current_list(folder), manifests_of(folder)
    (entry, *_) = [one for one in records_of(manifest) if of(one)]
    entry["data_file"] |= {
        "content": content, "file_path": f"file://{path}", "record_count": rows.num_rows,
        "file_size_in_bytes": path.stat().st_size, "split_offsets": None,
        "equality_ids": [1] if content == 2 else None,
        **{name: None for name in entry["data_file"] if re.search("counts|bounds|sizes", name)},
    }  # fmt: skip
    entry |= {"status": 1, "sequence_number": sequence, "file_sequence_number": None}
    written = manifest.with_name(f"{uuid.uuid4()}-deletes.avro")
    _write_one(manifest, written, entry, content="deletes")
    (told, *_) = records_of(listed)
    told |= {
        "manifest_path": f"file://{written}", "manifest_length": written.stat().st_size,
        "content": 1, "sequence_number": number, "min_sequence_number": sequence or number,
        "added_files_count": 1, "existing_files_count": 0, "deleted_files_count": 0,
    }  # fmt: skip
    fresh = listed.with_name(f"snap-{uuid.uuid4()}.avro")
    _write_one(listed, fresh, told, *records_of(listed))
    made = 7_000_000 + number

    def change(metadata: Record) -> None:
        metadata["snapshots"].append(
            {
                "snapshot-id": made, "sequence-number": number, "schema-id": 0,
                "parent-snapshot-id": metadata["current-snapshot-id"],
                "timestamp-ms": metadata["last-updated-ms"] + 1, "manifest-list": f"file://{fresh}",
                "summary": {"operation": "delete"},
            }
        )  # fmt: skip
        metadata["last-sequence-number"] = number
        metadata["last-updated-ms"] += 1
        metadata["current-snapshot-id"] = made
        metadata["refs"]["main"]["snapshot-id"] = made

    with_metadata(folder, change)


def _write_one(like: Path, target: Path, *records: Record, **told: str) -> None:
    with like.open("rb") as file:
        reader = fastavro.reader(file)
        schema = reader.writer_schema
        known = {k: v for k, v in reader.metadata.items() if not k.startswith("avro.")} | told
    with target.open("wb") as file:
        fastavro.writer(file, schema, records, codec="deflate", metadata=known)


def positions(rows: Sequence[tuple[Path, int]]) -> pa.Table:
    """The rows of a file of deletes by position."""
    fields = [
        pa.field("file_path", pa.string(), False, {"PARQUET:field_id": str(PATH_ID)}),
        pa.field("pos", pa.int64(), False, {"PARQUET:field_id": str(POSITION_ID)}),
    ]
    paths, numbers = [f"file://{path}" for path, _ in rows], [number for _, number in rows]
    return pa.table([pa.array(paths), pa.array(numbers, pa.int64())], pa.schema(fields))


def by_values(keys: Sequence[int]) -> pa.Table:
    """The rows of a file of deletes by values of the first column."""
    field = pa.field("customer_id", pa.int64(), False, {"PARQUET:field_id": "1"})
    return pa.table([pa.array(list(keys), pa.int64())], pa.schema([field]))
