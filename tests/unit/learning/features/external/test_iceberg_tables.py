"""Iceberg tables: a snapshot's rows and no others are imported, or the import is refused."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from pyiceberg.types import DoubleType, LongType
from tests.support.external_world import BUREAU, T_S, Row, fraud_like, table
from tests.support.iceberg_tables import (
    Record,
    appended,
    by_values,
    created,
    data_files,
    loaded,
    local,
    manifests_of,
    metadata_files,
    metadata_of,
    positions,
    read_by_pyiceberg,
    rewrite_manifest,
    source_of,
    with_deletes,
    with_metadata,
)
from tests.support.lake_world import FIRST, MORE, NOW_MS, LakeWorld, expected

from mlplatform.learning.features.external import (
    iceberg_deletes,
    iceberg_manifests,
    iceberg_metadata,
    iceberg_table,
    iceberg_work,
    snapshot_rows,
)
from mlplatform.learning.features.external.columns import ExternalColumns
from mlplatform.learning.features.external.iceberg_metadata import newest, path_in, plain_place
from mlplatform.learning.features.external.snapshot_rows import read_version
from mlplatform.learning.features.external.table_import import ImportReport
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import Corrupt, InputInvalid
from mlplatform.runtime.sandbox.protocol import Frame

LAST: list[Row] = [(7, 0, 0, 1.0)]


def world_of(folder: Path, view: FeatureView = BUREAU, **field: Any) -> LakeWorld:
    return LakeWorld(folder, source_of, view, **field)


@pytest.fixture
def world(tmp_path: Path) -> LakeWorld:
    return world_of(tmp_path)


def written_rows(folder: Path) -> list[tuple[Any, ...]]:
    """What pyiceberg reads, in the form of `LakeWorld.rows`."""
    found = read_by_pyiceberg(folder)
    times = [pc.cast(found[name], pa.int64()).to_pylist() for name in ("as_of", "known_at")]
    seconds = [[value // 10**6 - T_S for value in column] for column in times]
    values = [found[name].to_pylist() for name in BUREAU.feature_names]
    return sorted(zip(found["customer_id"].to_pylist(), *seconds, *values, strict=True), key=repr)


def story_of_appends(folder: Path) -> None:
    for rows in (FIRST, MORE, LAST):
        appended(folder, table(rows))


def story_of_an_overwrite(folder: Path) -> None:
    appended(folder, table([(8, 0, 0, 1.0)]))
    loaded(folder).overwrite(table(FIRST))


def story_of_a_delete(folder: Path) -> None:
    story_of_appends(folder)
    loaded(folder).delete("customer_id = 1")


def partitioned(*by: tuple[str, str]) -> Callable[[Path], None]:
    def story(folder: Path) -> None:
        appended(folder, table(FIRST), by=by)
        appended(folder, table(MORE))

    return story


def story_of_a_new_spec(folder: Path) -> None:
    partitioned(("as_of", "day"))(folder)
    with loaded(folder).update_spec() as spec:
        spec.remove_field("as_of_0")
        spec.add_identity("is_listed")
    appended(folder, table(LAST))


def story_of_a_renamed_column(folder: Path) -> None:
    appended(folder, table(FIRST).rename_columns({"bureau_score": "score"}))
    with loaded(folder).update_schema() as schema:
        schema.rename_column("score", "bureau_score")
    appended(folder, table(MORE))


def story_of_swapped_names(folder: Path) -> None:
    """Two columns that take each other's names: by names, values would be another column's."""
    swapped = {"as_of": "known_at", "known_at": "as_of"}
    appended(folder, table(FIRST).rename_columns(swapped))
    with loaded(folder).update_schema() as schema:
        schema.rename_column("as_of", "x")
    with loaded(folder).update_schema() as schema:
        schema.rename_column("known_at", "as_of")
    with loaded(folder).update_schema() as schema:
        schema.rename_column("x", "known_at")
    appended(folder, table(MORE).select(loaded(folder).schema().column_names))


def story_of_an_added_column(folder: Path) -> None:
    appended(folder, table(FIRST).drop_columns("is_listed"))
    with loaded(folder).update_schema() as schema:
        schema.union_by_name(table(FIRST).schema)
    appended(folder, table(MORE))


def story_of_a_column_made_anew(folder: Path) -> None:
    """A column of the name of one that was dropped is another column, and null in older files."""
    appended(folder, table(FIRST))
    with loaded(folder).update_schema() as schema:
        schema.delete_column("open_loans")
    with loaded(folder).update_schema() as schema:
        schema.union_by_name(table(FIRST).schema)
    appended(folder, table(MORE).select(loaded(folder).schema().column_names))


def story_of_promoted_columns(folder: Path) -> None:
    small = {
        "open_loans": table(FIRST)["open_loans"].cast(pa.int32()),
        "bureau_score": table(FIRST)["bureau_score"].cast(pa.float32()),
    }
    appended(folder, table(FIRST, **small))
    with loaded(folder).update_schema() as schema:
        schema.update_column("open_loans", LongType())
        schema.update_column("bureau_score", DoubleType())
    appended(folder, table(MORE))


def story_of_version_1(folder: Path) -> None:
    created(folder, table([]).schema, by=[("is_listed", "identity")], format_version="1")
    story_of_appends(folder)
    loaded(folder).delete("customer_id = 2")


def story_of_an_upgrade(folder: Path) -> None:
    created(folder, table([]).schema, format_version="1")
    appended(folder, table(FIRST))
    with loaded(folder).transaction() as change:
        change.upgrade_table_version(2)
    appended(folder, table(MORE))


def story_of_times_with_a_zone(folder: Path) -> None:
    zoned = [table(FIRST)[name].cast(pa.timestamp("us", "UTC")) for name in ("as_of", "known_at")]
    appended(folder, table(FIRST, as_of=zoned[0], known_at=zoned[1]), by=[("as_of", "hour")])


def story_of_deleted_rows(folder: Path) -> None:
    story_of_appends(folder)
    last, more, first = data_files(folder)
    with_deletes(folder, 1, positions([(first, 2), (first, 0), (more, 1), (first, 2)]))
    with_deletes(folder, 1, positions([(last, 0), (folder / "data" / "none.parquet", 0)]))


def story_of_files_without_ids(folder: Path) -> None:
    """Files of others that a table takes in are known by names, which a property maps."""
    created(folder, table([]).schema)
    (folder / "data").mkdir(exist_ok=True)
    pq.write_table(table(FIRST), folder / "data" / "theirs.parquet")
    loaded(folder).add_files([f"file://{folder}/data/theirs.parquet"])
    appended(folder, table(MORE))


STORIES: dict[str, tuple[Callable[[Path], None], int]] = {
    "appends": (story_of_appends, 6),
    "an overwrite": (story_of_an_overwrite, 3),
    "a delete": (story_of_a_delete, 4),
    "by identity": (partitioned(("is_listed", "identity")), 5),
    "by identity of a number and a time": (
        partitioned(("bureau_score", "identity"), ("as_of", "identity")),
        5,
    ),
    "by day": (partitioned(("as_of", "day")), 5),
    "by bucket and truncation": (
        partitioned(("customer_id", "bucket[4]"), ("open_loans", "truncate[10]")),
        5,
    ),
    "a new spec": (story_of_a_new_spec, 6),
    "a renamed column": (story_of_a_renamed_column, 5),
    "swapped names": (story_of_swapped_names, 5),
    "an added column": (story_of_an_added_column, 5),
    "a column made anew": (story_of_a_column_made_anew, 5),
    "promoted columns": (story_of_promoted_columns, 5),
    "version 1": (story_of_version_1, 5),
    "an upgrade": (story_of_an_upgrade, 5),
    "times with a zone": (story_of_times_with_a_zone, 3),
    "deleted rows": (story_of_deleted_rows, 2),
    "files without ids": (story_of_files_without_ids, 5),
}


@pytest.mark.parametrize("story", STORIES)
def test_the_rows_are_those_that_pyiceberg_reads(world: LakeWorld, story: str) -> None:
    tell, count = STORIES[story]
    tell(world.table)
    assert world.take().rows == count
    assert world.rows() == written_rows(world.table)
    assert world.take().rows == 0


def test_a_dropped_and_added_column_is_null_in_older_files(world: LakeWorld) -> None:
    story_of_a_column_made_anew(world.table)
    world.take()
    known = {row[:3]: row[4] for row in world.rows()}
    assert known == {row[:3]: None for row in FIRST} | {row[:3]: int(row[3] or 0) for row in MORE}


def test_an_import_reads_only_files_that_none_read_before(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    assert world.take() == ImportReport(rows=3, new=3, entities=3, resumed=0)
    appended(world.table, table(MORE))
    source = world.source()
    assert (len(source.snapshot.files), len(source.files)) == (2, 1)
    assert world.take() == ImportReport(rows=2, new=2, entities=2, resumed=0)
    assert world.take() == ImportReport(rows=0, new=0, entities=0, resumed=0)
    assert world.rows() == expected(FIRST + MORE)


def test_a_snapshot_is_read_as_it_was_and_then_the_current_one(world: LakeWorld) -> None:
    story_of_appends(world.table)
    first, second, third = [one.snapshot_id for one in loaded(world.table).snapshots()]
    assert world.take(version=second).rows == 5
    noted = read_version(world.columns, world.parts, str(world.table), "iceberg")
    assert noted is not None
    assert len(noted.files) == 2
    assert world.rows() == expected(FIRST + MORE)
    assert world.take(version=first).rows == 0
    source = world.source()
    assert source.snapshot.words.facts == {"snapshot": third}
    assert world.take() == ImportReport(rows=1, new=1, entities=1, resumed=0)
    assert world.take(version=first).rows == 0
    assert world.take().rows == 0


def test_a_snapshot_that_was_rolled_back_to_is_the_current_one(world: LakeWorld) -> None:
    story_of_appends(world.table)
    first = loaded(world.table).snapshots()[0].snapshot_id
    with_metadata(world.table, lambda found: found.update({"current-snapshot-id": first}))
    assert world.take().rows == 3
    assert world.rows() == expected(FIRST)


def test_an_old_snapshot_has_the_columns_that_it_had(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    first = loaded(world.table).snapshots()[0].snapshot_id
    with loaded(world.table).update_schema() as schema:
        schema.rename_column("bureau_score", "score")
    with pytest.raises(InputInvalid, match=r"there is no column bureau_score; it has .* score"):
        world.take()
    assert world.take(version=first).rows == 3
    assert world.rows() == expected(FIRST)


def test_rows_that_are_deleted_later_change_nothing_and_earlier_ones_are_not_read(
    world: LakeWorld,
) -> None:
    appended(world.table, table(FIRST))
    world.take()
    (file,) = data_files(world.table)
    with_deletes(world.table, 1, positions([(file, 1)]))
    assert world.take() == ImportReport(rows=2, new=0, entities=0, resumed=0)
    assert world.take().rows == 0
    assert world.rows() == expected(FIRST)
    other = world_of(world.folder / "other")
    other.table = world.table
    assert other.take().rows == 2
    assert other.rows() == expected([FIRST[0], FIRST[2]])


def test_deletes_by_position_are_of_older_files_alone(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    appended(world.table, table(MORE))
    more, first = data_files(world.table)
    with_deletes(world.table, 1, positions([(first, 0), (more, 0)]), sequence=1)
    assert world.take().rows == 4
    assert world.rows() == expected([*FIRST[1:], *MORE])


def test_deletes_by_position_go_beyond_the_first_batch(world: LakeWorld) -> None:
    count = 70_000
    appended(world.table, table([(key, 0, 0, 1.0) for key in range(count)]))
    (file,) = data_files(world.table)
    gone = [3, 65_535, 65_536, count - 1, count + 5]
    with_deletes(world.table, 1, positions([(file, row) for row in gone]))
    assert world.take().rows == count - 4
    assert not set(gone) & {row[0] for row in world.rows()}


def test_a_refused_row_has_its_number_in_a_file_of_which_rows_are_deleted(
    world: LakeWorld,
) -> None:
    appended(world.table, table([*FIRST[:2], (3, 5, 0, 1.0)]))
    (file,) = data_files(world.table)
    with_deletes(world.table, 1, positions([(file, 0)]))
    with pytest.raises(InputInvalid, match="row 2, counted from 0: as_of is after known_at"):
        world.take()
    with_deletes(world.table, 1, positions([(file, 2)]))
    assert world.take().rows == 1


def test_deletes_by_values_are_refused_where_they_delete_and_passed_over_where_not(
    world: LakeWorld,
) -> None:
    story_of_appends(world.table)
    with_deletes(world.table, 2, by_values([1]), sequence=1)
    assert world.take().rows == 6
    with_deletes(world.table, 2, by_values([1]), sequence=2)
    with pytest.raises(InputInvalid, match=r"equality deletes.*\(2 files\).*rewrite_data_files"):
        world.take()


def test_deletes_by_values_of_one_partition_leave_others_alone(world: LakeWorld) -> None:
    partitioned(("is_listed", "identity"))(world.table)

    def entry_is(listed: bool | None) -> Callable[[Record], bool]:
        return lambda entry: bool(entry["data_file"]["partition"]["is_listed_0"] is listed)

    loaded(world.table).delete("is_listed = true")
    appended(world.table, table([(9, 0, 0, 9.0)]))
    with_deletes(world.table, 2, by_values([9]), sequence=4, of=entry_is(True))
    assert world.take().rows == 5
    with_deletes(world.table, 2, by_values([9]), sequence=5, of=entry_is(True))
    with pytest.raises(InputInvalid, match="equality deletes"):
        world.take()


def test_a_table_without_a_snapshot_and_an_emptied_one_are_refused(world: LakeWorld) -> None:
    created(world.table, table([]).schema)
    with pytest.raises(InputInvalid, match=r"without a snapshot.*there is no row in it"):
        world.take()
    appended(world.table, table(FIRST))
    loaded(world.table).delete("customer_id > 0")
    with pytest.raises(InputInvalid, match=r"at snapshot \d+.*there is no row in it"):
        world.take()


def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    number = loaded(world.table).snapshots()[0].snapshot_id
    for far in (9, 2**63, 10**30):
        with pytest.raises(
            InputInvalid,
            match=rf"no snapshot {far}; the latest of 1 are: {number} of 20.*--version",
        ):
            world.take(version=far)


def test_a_table_that_was_moved_is_read_where_it_is(world: LakeWorld) -> None:
    story_of_deleted_rows(world.table)
    rows = written_rows(world.table)
    shutil.move(world.table, world.folder / "elsewhere")
    world.table = world.folder / "elsewhere"
    assert world.take().rows == 2
    assert world.rows() == rows


@pytest.mark.parametrize("name", ["{}.gz.metadata.json", "{}.metadata.json.gz"])
def test_compressed_metadata_is_read(world: LakeWorld, name: str) -> None:
    appended(world.table, table(FIRST))
    last = metadata_files(world.table)[-1]
    packed = last.with_name(name.format("00009-x"))
    packed.write_bytes(gzip.compress(last.read_bytes()))
    assert world.take().rows == 3
    packed.write_bytes(gzip.compress(last.read_bytes())[:-20])
    with pytest.raises(InputInvalid, match=r"00009-x.*it is cut, or unpacks to more"):
        world.take()
    packed.write_bytes(b"none")
    with pytest.raises(InputInvalid, match=r"00009-x.*no readable gzip"):
        world.take()


def test_metadata_that_unpacks_to_too_much_is_refused(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    appended(world.table, table(FIRST))
    last = metadata_files(world.table)[-1]
    monkeypatch.setattr(iceberg_metadata, "MOST_METADATA_BYTES", last.stat().st_size - 1)
    with pytest.raises(InputInvalid, match=r"\d+ bytes; the limit is \d+.*expire_snapshots"):
        world.take()
    last.with_name("00009-x.gz.metadata.json").write_bytes(gzip.compress(last.read_bytes()))
    with pytest.raises(InputInvalid, match="unpacks to more than"):
        world.take()


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["00000-a.metadata.json", "00010-b.metadata.json", "00002-c.metadata.json"], "00010-b"),
        (["v1.metadata.json", "v12.metadata.json", "v9.metadata.json", "version-hint.text"], "v12"),
        (["v1.gz.metadata.json", "v2.metadata.json.gz"], "v2"),
        (["snap-5-1.avro", "only.metadata.json"], "only"),
        (["99-x.metadata.json/a", "00001-b.metadata.json"], "00001-b"),
    ],
)
def test_the_newest_metadata_file_has_the_highest_number(names: list[str], wanted: str) -> None:
    assert newest(names, "bank").startswith(f"{wanted}.")


def test_two_newest_metadata_files_are_refused_unless_one_is_named(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    last = metadata_files(world.table)[-1]
    shutil.copy(last, last.with_name(f"{last.name.split('-')[0]}-zz.metadata.json"))
    with pytest.raises(InputInvalid, match=r"2 files in metadata may be the newest.*catalog names"):
        world.take()
    source = source_of(world.columns, world.table, world.parts, None, last.name)
    assert sum(batch.rows.num_rows for batch in source.rows(world.columns)) == 3


@pytest.mark.parametrize("how", ["identity", "truncate[1000]"])
def test_keys_that_are_pseudonymous_are_in_no_names_of_folders(tmp_path: Path, how: str) -> None:
    world = world_of(tmp_path)
    world.columns = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), NOW_MS)
    appended(world.table, table(FIRST), by=(("customer_id", how),))
    with pytest.raises(InputInvalid, match="it is partitioned by customer_id") as refused:
        world.take()
    assert "customer_id_0=" not in str(refused.value)


def test_a_pseudonymous_key_in_buckets_is_taken(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.columns = ExternalColumns.of(BUREAU, fraud_like(), bytes(32), NOW_MS)
    appended(world.table, table(FIRST), by=(("customer_id", "bucket[4]"),))
    assert world.take().rows == 3


@pytest.mark.parametrize("name", ["is_listed", "bureau_score", "open_loans", "as_of"])
def test_a_column_that_files_lack_has_the_value_of_their_partition(
    world: LakeWorld, name: str
) -> None:
    """As in a table that was made of folders of Hive, whose files lack the column."""
    appended(world.table, table(FIRST), by=((name, "identity"),))
    for file in data_files(world.table):
        pq.write_table(pq.ParquetFile(file).read().drop_columns(name), file)

    def sized(record: Record) -> None:
        file = record["data_file"]
        file["file_size_in_bytes"] = local(file["file_path"]).stat().st_size

    rewrite_manifest(world.table, sized)
    assert world.take().rows == 3
    assert world.rows() == expected(FIRST)


def test_a_note_that_is_damaged_is_named(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    world.take()
    (note,) = world.parts.folder.glob("iceberg-*")
    note.write_bytes(b"{")
    with pytest.raises(Corrupt, match=r"iceberg-.*remove it, and the next import reads all"):
        world.take()


def test_a_table_of_more_files_than_are_opened_at_a_time(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (snapshot_rows, iceberg_manifests, iceberg_deletes):
        monkeypatch.setattr(module, "OPEN_FILES", 2)
    for key in range(5):
        appended(world.table, table([(key, 0, 0, 1.0)]))
    for file in data_files(world.table)[:3]:
        with_deletes(world.table, 1, positions([(file, 0)]))
    assert world.take().rows == 2
    limits = {
        (iceberg_table, "MOST_TABLE_FILES"): "more than 2 files in snapshot.*rewrite_data_files",
        (iceberg_manifests, "MOST_MANIFESTS"): "snap-.*more than 2 manifests: .*rewrite_manif",
        (iceberg_deletes, "MOST_DELETED_ROWS"): "name more than 2 rows; .*rewrite_data_files",
    }
    for (module, name), problem in limits.items():
        with monkeypatch.context() as patch:
            patch.setattr(module, name, 2)
            with pytest.raises(InputInvalid, match=problem):
                world.take()


def test_entries_are_sent_in_several_replies(
    world: LakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iceberg_work, "REPLY_BYTES", 1_000)
    monkeypatch.setattr(iceberg_work, "MOST_RECORD_BYTES", 600)
    rows: list[Row] = [(key, 0, 0, float(key)) for key in range(9)]
    appended(world.table, table(rows), by=[("open_loans", "identity")])
    work = iceberg_work._Work([manifests_of(world.table)[0].open("rb")])
    work.handle(Frame({"deed": "manifest", "file": 0}))
    replies = []
    while (frame := work.handle(Frame({"deed": "next"}))).arrays:
        replies.append(frame.arrays[0].tobytes())
    told = [json.loads(line) for reply in replies for line in reply.splitlines()]
    assert len(replies) > 1
    assert sorted(one["partition"]["1000"] for one in told) == list(range(9))


@pytest.mark.parametrize("codec", ["null", "bzip2", "xz", "zstandard"])
def test_manifests_of_other_compressions(world: LakeWorld, codec: str) -> None:
    appended(world.table, table(FIRST))
    if codec == "zstandard":
        path = manifests_of(world.table)[0]
        content = path.read_bytes()
        at = content.index(b"deflate")
        path.write_bytes(content[:at] + b"zstdxyz" + content[at + 7 :])
        with pytest.raises(InputInvalid, match="compressed by zstdxyz; wanted: null, deflate"):
            world.take()
        return
    rewrite_manifest(world.table, lambda _: None, codec=codec)
    assert world.take().rows == 3


@pytest.mark.parametrize(
    ("uri", "root", "name"),
    [
        ("file:///lake/t/data/a.parquet", "/lake/t", "data/a.parquet"),
        ("file:/lake/t/data/a.parquet", "file:///lake/t/", "data/a.parquet"),
        ("/lake/t/data/d=a%2Fb/a.parquet", "/lake/t", "data/d=a%2Fb/a.parquet"),
        ("s3a://bank/t/a.parquet", "s3://bank/t", "a.parquet"),
        ("S3N://bank/t/a.parquet", "s3://bank/t", "a.parquet"),
        ("s3://bank/t/a.parquet", "s3://other/t", None),
        ("s3://other/t/a.parquet", "s3://bank/t", None),
        ("hdfs://n/t/a.parquet", "s3://bank/t", None),
        ("/etc/passwd", "/lake/t", None),
        ("/lake/t/../../etc/passwd", "/lake/t", None),
        ("/lake/tt/a.parquet", "/lake/t", None),
        ("/lake/t", "/lake/t", None),
        ("a.parquet", "/lake/t", None),
        ("/lake/t//etc/passwd", "/lake/t", None),
        ("http://host/lake/t/a.parquet", "/lake/t", None),
    ],
)
def test_a_file_is_below_its_tables_folder_or_refused(
    uri: str, root: str, name: str | None
) -> None:
    assert path_in(uri, [plain_place(root)]) == name


def test_a_snapshot_stays_as_it_was_while_writers_go_on(world: LakeWorld) -> None:
    appended(world.table, table(FIRST))
    source = world.source()
    appended(world.table, table(MORE))
    loaded(world.table).delete("customer_id = 1")
    found = [row for batch in source.rows(world.columns) for row in batch.rows.to_pylist()]
    assert sorted(row["customer_id"] for row in found) == [1, 2, 3]
    assert (
        metadata_of(world.table)["current-snapshot-id"] != source.snapshot.words.facts["snapshot"]
    )
