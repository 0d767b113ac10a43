"""An Iceberg table that is damaged, hostile or of a kind that is not read here is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace
from pyiceberg.types import LongType, NestedField
from tests.support.external_world import Row, table
from tests.support.iceberg_tables import (
    Record,
    appended,
    by_values,
    current_list,
    data_files,
    loaded,
    manifests_of,
    metadata_files,
    rewrite_avro,
    rewrite_manifest,
    source_of,
    with_deletes,
    with_metadata,
)
from tests.support.lake_world import FIRST, MORE, LakeWorld

from mlplatform.learning.features.external import (
    iceberg_manifests,
)
from mlplatform.runtime.errors import InputInvalid

LAST: list[Row] = [(7, 0, 0, 1.0)]


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return LakeWorld(tmp_path, source_of)


def moved_to(path: str) -> Callable[[Path], None]:
    """Hostile metadata: a manifest names a file elsewhere."""

    def change(record: Record) -> None:
        record["data_file"]["file_path"] = path

    return lambda folder: rewrite_manifest(folder, change) and None


def listed_at(path: str) -> Callable[[Path], None]:
    return lambda folder: rewrite_avro(
        current_list(folder), lambda record: record.update(manifest_path=path)
    )


def told(**values: Any) -> Callable[[Path], None]:
    """Metadata that says something else."""
    changed = {name.replace("_", "-"): value for name, value in values.items()}
    return lambda folder: with_metadata(folder, lambda found: found.update(changed)) and None


def file_told(**values: Any) -> Callable[[Path], None]:
    return lambda folder: (
        rewrite_manifest(folder, lambda record: record["data_file"].update(values)) and None
    )


def snapshot_told(**values: Any) -> Callable[[Path], None]:
    changed = {name.replace("_", "-"): value for name, value in values.items()}

    def change(found: Record) -> None:
        found["snapshots"][-1].update(changed)

    return lambda folder: with_metadata(folder, change) and None


def cut(path: Callable[[Path], Path], bytes_left: int = -20) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = path(folder)
        file.write_bytes(file.read_bytes()[:bytes_left])

    return change


def cut_quietly(folder: Path) -> None:
    """A manifest without its last block, whose list has the size that it has now."""
    path = manifests_of(folder)[0]
    with path.open("rb") as file:
        content = file.read()
        reader = fastavro.block_reader(file.seek(0) or file)
        start = next(iter(reader)).offset
    path.write_bytes(content[:start])
    size = {"manifest_length": start}
    rewrite_avro(
        current_list(folder),
        lambda one: one.update(size) if one["manifest_path"].endswith(path.name) else None,
    )


def v3(**values: Any) -> Callable[[Path], None]:
    return told(format_version=3, **values)


def no_ids(folder: Path) -> None:
    (*_, file) = data_files(folder)
    pq.write_table(pq.ParquetFile(file).read().replace_schema_metadata(), file)
    plain = pq.read_table(file)
    bare = pa.schema([field.remove_metadata() for field in plain.schema])
    pq.write_table(plain.cast(bare), file)
    size = file.stat().st_size

    def sized(record: Record) -> None:
        if record["data_file"]["file_path"].endswith(file.name):
            record["data_file"]["file_size_in_bytes"] = size

    for manifest in manifests_of(folder):
        rewrite_avro(manifest, sized)
    lengths = {str(path): path.stat().st_size for path in manifests_of(folder)}
    rewrite_avro(
        current_list(folder),
        lambda one: one.update(
            manifest_length=lengths[one["manifest_path"].removeprefix("file://")]
        ),
    )


def of_another_type(folder: Path) -> None:
    with loaded(folder).update_schema() as schema:
        schema.delete_column("known_at")
    with loaded(folder).update_schema() as schema:
        schema.add_column("known_at", NestedField(99, "x", LongType()).field_type)


def with_bad_deletes(rows: pa.Table) -> Callable[[Path], None]:
    return lambda folder: with_deletes(folder, 1, rows)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "a file is gone": (lambda f: data_files(f)[0].unlink(), "0000.* is gone: expire_snapshots"),
    "a file is cut": (cut(lambda f: data_files(f)[0]), r"has \d+ bytes; its manifest says"),
    "a file is another": (
        lambda f: data_files(f)[0].write_bytes(bytes(data_files(f)[0].stat().st_size)) and None,
        "no readable Parquet",
    ),
    "a file is a link to nowhere": (
        lambda f: data_files(f)[0].unlink() or data_files(f)[0].symlink_to("/nowhere"),
        "is gone",
    ),
    "a manifest is gone": (lambda f: manifests_of(f)[0].unlink(), "m0.avro is gone"),
    "a manifest is cut": (cut(lambda f: manifests_of(f)[0]), r"has \d+ bytes; its list says"),
    "a manifest lacks a block": (cut_quietly, "m0.avro has 0 files; its list says 1"),
    "a manifest is another": (
        lambda f: manifests_of(f)[0].write_bytes(bytes(manifests_of(f)[0].stat().st_size)) and None,
        "no readable Avro",
    ),
    "a list is gone": (lambda f: current_list(f).unlink(), r"snap-.*avro is gone"),
    "a list is cut": (cut(current_list), "snap-.*no readable Avro"),
    "a list is cut in its head": (cut(current_list, 100), "snap-.*no readable Avro"),
    "a list is empty": (cut(current_list, 0), "snap-.*has 0 bytes"),
    "a list of numbers": (
        lambda f: fastavro.writer(current_list(f).open("wb"), {"type": "long"}, [1, 2]),
        "snap-.*no readable Avro",
    ),
    "a list without ids": (
        lambda f: fastavro.writer(
            current_list(f).open("wb"),
            {"type": "record", "name": "r", "fields": [{"name": "path", "type": "string"}]},
            [{"path": "x"}],
        ),
        "snap-.*missing required field `path`",
    ),
    "metadata are cut": (cut(lambda f: metadata_files(f)[-1]), "not the metadata of an Iceberg"),
    "metadata are a list": (
        lambda f: metadata_files(f)[-1].write_text("[]") and None,
        "not the metadata of an Iceberg",
    ),
    "metadata are deep": (
        lambda f: metadata_files(f)[-1].write_text("[" * 100_000) and None,
        "not the metadata of an Iceberg",
    ),
    "no such snapshot": (told(current_snapshot_id=5), "it has no snapshot 5"),
    "no such schema": (told(current_schema_id=5), "lacks schema 5"),
    "no list": (snapshot_told(manifest_list=None), "has no list of manifests"),
    "no spec": (
        told(partition_specs=[{"spec-id": 9, "fields": []}]),
        "0000.* is in a manifest of other files, or of no partition",
    ),
    "a password file": (moved_to("file:///etc/passwd"), "/etc/passwd lies outside of its folder"),
    "a password file by a way up": (
        lambda f: moved_to(f"file://{f}/../../../etc/passwd")(f),
        "passwd lies outside of its folder",
    ),
    "another bucket": (moved_to("s3://other/t/a.parquet"), "s3://other/t/a.parquet lies outside"),
    "a manifest elsewhere": (listed_at("/etc/passwd"), "/etc/passwd lies outside"),
    "a list elsewhere": (
        snapshot_told(manifest_list="file:///etc/passwd"),
        "/etc/passwd lies outside",
    ),
    "a list that is the password file of another root": (
        lambda f: told(location="/etc")(f) or snapshot_told(manifest_list="/etc/passwd")(f),
        "its file passwd is gone",
    ),
    "a name with an end in it": (
        lambda f: moved_to(f"file://{f}/data/a\0b.parquet")(f),
        "is gone",
    ),
    "too long a name": (
        lambda f: moved_to(f"file://{f}/data/{'x' * 256}")(f),
        "too long a name.* 255 bytes",
    ),
    "too long an entry": (
        lambda f: moved_to(f"file://{f}/data/{'x' * 70_000}")(f),
        r"entry 0 has \d+ bytes; the limit is 8192",
    ),
    "a huge size": (file_told(file_size_in_bytes=2**62), "its manifest says 4611686018427387904"),
    "a huge length": (
        lambda f: rewrite_avro(current_list(f), lambda one: one.update(manifest_length=2**62)),
        "its list says 4611686018427387904",
    ),
    "a huge count": (
        lambda f: rewrite_avro(current_list(f), lambda one: one.update(added_files_count=2**30)),
        "its list says 1073741824",
    ),
    "a format that is not read": (file_told(file_format="ORC"), "is ORC; wanted: PARQUET"),
    "a file of deletes among rows": (file_told(content=1), "in a manifest of other files"),
    "contents that are none": (file_told(content=7), "no readable Avro"),
    "a file that is listed twice": (
        lambda f: rewrite_avro(
            current_list(f),
            lambda one: one.update(
                manifest_path=f"file://{manifests_of(f)[0]}",
                manifest_length=manifests_of(f)[0].stat().st_size,
            ),
        ),
        "is listed twice",
    ),
    "version 3": (
        v3(**{"next-row-id": 5}),
        r"its format-version is 3 \(row lineage\), .*wanted: 1 or 2",
    ),
    "version 3 of a new type": (
        lambda f: with_metadata(
            f,
            lambda m: (
                m.update({"format-version": 3, "encryption-keys": [{}]})
                or m["schemas"][0]["fields"][3].update({"type": "variant", "initial-default": 1})
            ),
        ) and None,
        r"3 \(encryption, default values, the type variant\)",
    ),
    "version 9": (told(format_version=9), "its format-version is 9, which is not read"),
    "a column of another type": (of_another_type, "column known_at is int64"),
    "columns without ids": (no_ids, "no field ids, and the table has no property schema.name-map"),
    "a mapping that is none": (
        told(properties={"schema.name-mapping.default": "{}"}),
        "schema.name-mapping.default does not list names",
    ),
    "deletes without positions": (
        with_bad_deletes(by_values([1])),
        "no columns file_path and pos.*rewrite_data_files",
    ),
    "deletes without a path": (
        with_bad_deletes(
            pa.table({"file_path": pa.array([None], pa.string()), "pos": pa.array([1], pa.int64())})
        ),
        "file_path or pos is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_damaged_hostile_or_not_read_here_is_named_and_nothing_is_taken_in(
    world: LakeWorld, case: str
) -> None:
    damage, problem = DAMAGES[case]
    for rows in (FIRST, MORE, LAST):
        appended(world.table, table(rows))
    damage(world.table)
    with pytest.raises(InputInvalid, match=problem) as refused:
        world.take()
    assert len(str(refused.value)) < 1_500
    assert "root:" not in str(refused.value)
    assert world.rows() == []
    assert not list(world.parts.folder.glob("iceberg-*"))


def test_a_block_that_unpacks_to_more_than_memory_is_refused(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended(world.table, table(FIRST))
    few = replace(iceberg_manifests.LIMITS, memory_bytes=64 * 2**20)
    monkeypatch.setattr(iceberg_manifests, "LIMITS", few)
    path = f"file://{world.table}/data/{'x' * 200_000_000}"
    moved_to(path)(world.table)
    assert manifests_of(world.table)[0].stat().st_size < 2**20
    with pytest.raises(InputInvalid, match=r"m0.avro.*more than 64 MiB of memory"):
        world.take()
